"""Intervals. What varies is always named: examples, images, episodes, or seeds.

Every interval here covers what the same measurement gives on average over other test sets of the same size (or over
other seeds, where seeds are what varies). For shares of right answers that is the population's value too; average
precision and calibration error are biased on few examples, so there the two differ. ``docs/statistics.md`` says
which method was chosen and what simulation showed of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its rooms when first used; the special functions in a tenth of the time of scipy.stats

from .metrics import calibration_bins

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        kind: How it was made, in words with hyphens: "wilson", "t", "wilson-bootstrap", ...
        level: Its confidence level in (0, 1).
    """

    low: float
    high: float
    kind: str
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}")


NO_INTERVAL = "none: "


@dataclass(frozen=True)
class NoInterval:
    """No interval can be trusted here.

    Attributes:
        reason: Why, in words that follow "no interval because".
    """

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("a missing interval says why")

    @property
    def kind(self) -> str:
        """What stands in a record in the place of an interval's kind."""
        return f"{NO_INTERVAL}{self.reason}"


def check_level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must lie in (0, 1)")
    return level


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion over independent examples (Wilson 1927).

    >>> wilson(8, 10).low  # doctest: +ELLIPSIS
    0.490...
    """
    check_level(level)
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes out of {trials}")
    low, high = _wilson(successes / trials, trials, float(scipy.special.ndtri(0.5 + level / 2)))
    return Interval(low, high, "wilson", level)


# Kinds over few-shot episodes of one pool: they say nothing of other images, so nothing is decided by them.
EPISODE_KINDS = ("t-episodes-of-this-pool", "normal-1.96-episodes")
# That all drawn episodes are alike, such as all right, does not show that all others would be.
SAME_EPISODES = NoInterval("all episodes have the same accuracy")


def effective(
    value: float,
    variance: float,
    size: float,
    kind: str,
    level: float = 0.95,
    *,
    prior: float = 1.0,
    events: float = 2.0,
    seen: float | None = None,
) -> Interval:
    """Wilson's interval with an effective number of examples, for a value in [0, 1] that is no plain proportion.

    A proportion over ``size`` independent examples has the variance v (1 - v) / size. The ratio of the given variance
    to it is the design effect (Kish 1965); Wilson's interval is taken for size / design effect examples (Korn and
    Graubard 1998 do the same with Clopper and Pearson's). Near 0 and 1 an estimated variance rests on a handful of
    events and may be zero by luck. So the design effect is shrunk towards ``prior`` by a few pseudo events; without
    any event the interval is Wilson's for size / prior examples, never one of zero width.

    Args:
        value: The statistic of all examples.
        variance: Its estimated variance, for example over bootstrap resamples.
        size: How many independent examples it would be a proportion of: all of them for accuracy, positives for
            average precision.
        kind: What to call the interval.
        level: Confidence level.
        prior: Design effect that is expected where nothing is known.
        events: How many rare events, right or wrong answers, the prior is worth.
        seen: How many there were; without it the share of ``size`` that is right or wrong, whichever is less.
    """
    check_level(level)
    value = min(max(value, 0.0), 1.0) if -1e-9 < value < 1 + 1e-9 else value  # rounding of a mean
    if not 0 <= value <= 1 or variance < 0 or size <= 0:
        raise ValueError(f"value {value} in [0, 1], variance {variance} >= 0 and size {size} > 0 are needed")
    binomial = value * (1 - value) / size
    seen = size * min(value, 1 - value) if seen is None else seen
    ratio = variance / binomial if binomial > 0 else prior
    number = size * (seen + events) / (seen * ratio + events * prior)
    low, high = _wilson(value, number, float(scipy.special.ndtri(0.5 + level / 2)))
    return Interval(low, high, kind, level)


def _wilson(rate: float, trials: float, z: float) -> tuple[float, float]:
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The ends are 0 and 1 exactly where no or all trials succeed; rounding must not move them.
    return 0.0 if rate == 0 else float(centre - half), 1.0 if rate == 1 else float(centre + half)


def mean_per_class(hits: Array, labels: Array, level: float = 0.95) -> Interval:
    """Interval for the mean over classes of the accuracy within the class, `effective` with its variance.

    The number of examples of each class is taken as given. The variance within a class of one example is that of the
    mean over classes.

    Args:
        hits: (N,) whether each example is right.
        labels: (N,) its class.
        level: Confidence level.
    """
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    accuracy = np.bincount(place, np.asarray(hits, dtype=np.float64)) / count
    value = float(accuracy.mean())
    within = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    within = np.where(count > 1, within, value * (1 - value))
    classes = len(count)
    size = classes**2 / float((1 / count).sum())
    return effective(value, float(within.sum()) / classes**2, size, "wilson-per-class", level)


MIN_POSITIVES = 3


def few(positives: Array) -> tuple[float, float]:
    """How much a mean of average precisions rests on: its size for `effective`, and what its variance lacks.

    A bootstrap's variance is too small by about the share 1 / P where a class has P positives; it is doubled at most.

    Args:
        positives: (C,) of each class, for detection the images that hold it; classes without any are left out.

    Returns:
        The size C^2 / sum(1 / P), and the factor P / (P - 1) of the harmonic mean P.
    """
    counts = np.asarray(positives, dtype=np.float64)
    counts = counts[counts > 0]
    if not len(counts):
        raise ValueError("no class has a positive")
    size = len(counts) ** 2 / float((1 / counts).sum())
    mean = max(size / len(counts), 2.0)
    return size, mean / (mean - 1)


def average_precision(
    value: float, drawn: Array, positives: Array, kind: str = "wilson-bootstrap", level: float = 0.95
) -> Interval | NoInterval:
    """Interval for average precision, of one class or the mean over classes, from resamples of the examples.

    `effective` with the bootstrap's variance, for as many examples as there are positives (Boyd, Eng and Page 2013
    take the binomial with that number), and half the binomial variance where nothing is known.

    Args:
        value: Of all examples.
        drawn: (R,) of resamples; undefined ones (NaN) are left out.
        positives: (C,) positives of each class; for detection the images that hold the class.
        kind: What to call the interval.
        level: Confidence level.
    """
    defined = np.asarray(drawn, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    total = int(np.sum(positives))
    if total < MIN_POSITIVES or len(defined) < 2:
        return NoInterval(f"{total} positives say too little, {MIN_POSITIVES} are needed")
    size, lacking = few(positives)
    variance = float(defined.var(ddof=1)) * lacking
    return effective(value, variance, size, kind, level, prior=0.5, events=1.0)


# The metric jumps where the recall of a class passes one of the points; a bootstrap that saw no jump knows of none.
ELEVEN_POINTS = NoInterval(
    "average precision by eleven points jumps, no method held in simulation, see that by area"
)

MIN_IMAGES = 20


def of_shares(value: float, variance: float, images: int, kind: str, level: float = 0.95) -> Interval:
    """`effective` where an image is no right or wrong answer, but has a share.

    Shares y of what is rare, seen in n images, say as much as (sum y)^2 / sum y^2 rare events (Kish 1965): as many as
    there are images where all have the same share, and as many as are wrong where each is right or wrong.
    """
    rare = min(max(value, 0.0), max(1 - value, 0.0))
    seen = images * rare**2 / (rare**2 + images * variance) if rare > 0 else 0.0
    return effective(value, variance, images, kind, level, events=1.0, seen=seen)


def over_images(
    value: float, drawn: Array, images: int, lacking: float = 1.0, level: float = 0.95
) -> Interval | NoInterval:
    """Interval for a metric of all pixels of a test set, such as mean IoU: `effective` with images as clusters.

    Args:
        value: Of all images.
        drawn: (R,) of resamples of the images; undefined ones (NaN) are left out.
        images: How many there are.
        lacking: What the bootstrap's variance is to be multiplied with, see `few`.
        level: Confidence level.
    """
    defined = np.asarray(drawn, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if images < MIN_IMAGES or len(defined) < 2:
        return NoInterval(f"{images} test images say too little, {MIN_IMAGES} are needed")
    variance, kind = float(defined.var(ddof=1)) * lacking, "wilson-bootstrap over test images"
    return of_shares(value, variance, images, kind, level)


def mean_share(values: Array, level: float = 0.95) -> Interval | NoInterval:
    """Interval for the mean over images of a share in [0, 1], such as depth's delta1: `effective` with its variance.

    Near 0 and 1 Student's covers too little, and nothing where all images have the same share.

    Args:
        values: (N,) of each image.
        level: Confidence level.
    """
    images = len(values)
    if images < MIN_IMAGES:
        return NoInterval(f"{images} test images say too little, {MIN_IMAGES} are needed")
    variance = float(np.var(values, ddof=1)) / images
    return of_shares(float(np.mean(values)), variance, images, "wilson-images", level)


MIN_COST_IMAGES = 100


def cost(value: float, drawn: Array, images: int, level: float = 0.95) -> Interval | NoInterval:
    """Interval for what a type of error costs a detector, or its share: small, skewed, and never below zero.

    On the scale of the logarithm, Student's t with the bootstrap's standard deviation, made larger where that is not
    small beside the value.

    Args:
        value: Of all images.
        drawn: (R,) of resamples of the images.
        images: How many there are.
        level: Confidence level.
    """
    check_level(level)
    if images < MIN_COST_IMAGES:
        return NoInterval(f"{images} test images say too little, {MIN_COST_IMAGES} are needed")
    error = float(np.std(drawn, ddof=1)) * math.sqrt(images / (images - 1))
    if value <= 0 or error <= 1e-12:
        return NoInterval("nothing was lost, or as much on every resample")
    spread = error / value
    # Few images have a rare error, and of as few the deviation is known badly itself.
    reach = float(_t_quantile(0.5 + level / 2, images - 1)) * spread * math.sqrt(1 + spread**2)
    factor = math.exp(min(reach, 700.0))  # the largest that is a float
    return Interval(value / factor, min(1.0, value * factor), "log-bootstrap over test images", level)


MIN_CALIBRATION = 100
_CALIBRATION_DRAWS = 2000


def calibration(
    confidence: Array, hits: Array, *, bins: int = 15, level: float = 0.95
) -> Interval | NoInterval:
    """Interval for the expected calibration error, see `metrics.ece`; on the scale of its logarithm.

    The gaps of the bins are close to normal; redrawn from that, with their covariance, they give the error's standard
    deviation as a bootstrap would. The expected error of a test set of this size is covered, which lies above that of
    the population: each bin adds its noise.

    Args:
        confidence: (N,) of the class that is thought right.
        hits: (N,) whether it is.
        bins: Number of bins of confidence.
        level: Confidence level.
    """
    check_level(level)
    number = len(hits)
    if number < MIN_CALIBRATION:
        return NoInterval(f"{number} examples in {bins} bins are mostly noise, {MIN_CALIBRATION} are needed")
    gap = np.asarray(hits, dtype=np.float64) - confidence
    index = calibration_bins(confidence, bins)
    mean = np.bincount(index, gap, bins) / number
    square = np.bincount(index, gap**2, bins) / number
    covariance = (np.diag(square) - np.outer(mean, mean)) / number
    value = float(np.abs(mean).sum())
    if value <= 1e-12:
        return NoInterval("the error is zero in every bin")
    draws = np.random.default_rng(0).normal(size=(_CALIBRATION_DRAWS, bins))
    values, vectors = np.linalg.eigh(covariance)
    error = float(np.abs(mean + draws @ (vectors * np.sqrt(np.maximum(values, 0.0))).T).sum(1).std(ddof=1))
    factor = float(np.exp(scipy.stats.norm.ppf(0.5 + level / 2) * error / value))
    return Interval(value / factor, min(1.0, value * factor), "log-bins", level)


@cache
def _t_quantile(probability: float, degrees: int) -> Any:
    """Student's quantile; a table asks for the same one in thousands of cells."""
    return scipy.special.stdtrit(degrees, probability)


def t_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Student's interval for the mean over independent repetitions, such as pretraining seeds.

    Raises:
        ValueError: With fewer than two values: one run has no spread.
    """
    check_level(level)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"a t interval needs at least two values, got {data.size}")
    # As data.mean() and data.std(ddof=1), bit for bit, at a quarter of the time: a table asks in thousands of cells.
    mean = float(np.add.reduce(data)) / len(data)
    off = data - mean
    deviation = math.sqrt(float(np.add.reduce(off * off)) / (len(data) - 1))
    half = float(_t_quantile(0.5 + level / 2, len(data) - 1)) * deviation / math.sqrt(len(data))
    return Interval(mean - half, mean + half, "t", level)


def normal_legacy(values: Sequence[float] | Array) -> Interval | NoInterval:
    """mean +- 1.96 sd / sqrt(n) with the population sd, as few-shot papers print it.

    Over episodes drawn from one pool it describes more episodes of this pool, not new images or seeds.
    """
    data = np.asarray(values, dtype=np.float64)
    if not np.ptp(data):
        return SAME_EPISODES
    half = 1.96 * float(data.std()) / np.sqrt(len(data))
    return Interval(float(data.mean()) - half, float(data.mean()) + half, "normal-1.96-episodes", 0.95)


def episodes(values: Sequence[float] | Array, level: float = 0.95) -> Interval | NoInterval:
    """Student's interval over few-shot episodes; its kind says that episodes of one pool are what varies."""
    interval = t_interval(values, level)
    if not np.ptp(values):
        return SAME_EPISODES
    return Interval(interval.low, interval.high, "t-episodes-of-this-pool", level)


def resample_counts(num_examples: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """(resamples, N) counts of each example in bootstrap resamples."""
    generator = np.random.default_rng(seed)
    share = np.full(num_examples, 1 / num_examples)
    return generator.multinomial(num_examples, share, size=resamples).astype(np.float64)
