"""Intervals. What varies is always named: examples, images, episodes, or seeds.

Every interval here covers what the same measurement gives on average over other test sets of the same size (or over
other seeds, where seeds are what varies). For shares of right answers that is the population's value too; average
precision and calibration error are biased on few examples, so there the two differ. ``docs/statistics.md`` says
which method was chosen and what simulation showed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        kind: How it was made: "wilson", "t", "bootstrap", "normal", ...
        level: Its confidence level in (0, 1).
    """

    low: float
    high: float
    kind: str
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"an interval from {self.low} to {self.high}")


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
    low, high = _wilson(successes / trials, trials, float(scipy.stats.norm.ppf(0.5 + level / 2)))
    return Interval(low, high, "wilson", level)


PRIOR_EVENTS = 2.0  # rare events that the binomial guess of the variance is worth, see `effective`


def effective(
    value: float, variance: float, size: float, kind: str, level: float = 0.95
) -> Interval | NoInterval:
    """Wilson's interval with an effective number of examples, for a value in [0, 1] that is no plain proportion.

    A proportion over ``size`` independent examples has the variance v (1 - v) / size. The ratio of the given variance
    to it is the design effect (Kish 1965); Wilson's interval is taken for size / design effect examples (Korn and
    Graubard 1998 do the same with Clopper and Pearson's). Near 0 and 1 an estimated variance rests on a handful of
    events and may be zero by luck. So the design effect is shrunk towards 1 by two pseudo events; without any event
    the interval is Wilson's for ``size`` examples, never one of zero width.

    Args:
        value: The statistic of all examples.
        variance: Its estimated variance, for example over bootstrap resamples.
        size: How many independent examples it would be a proportion of: all of them for accuracy, positives for
            average precision.
        kind: What to call the interval.
        level: Confidence level.
    """
    check_level(level)
    if not 0 <= value <= 1 or variance < 0 or size <= 0:
        raise ValueError(f"value {value} in [0, 1], variance {variance} >= 0 and size {size} > 0 are needed")
    binomial = value * (1 - value) / size
    events = size * min(value, 1 - value)
    ratio = variance / binomial if binomial > 0 else 1.0
    number = size * (events + PRIOR_EVENTS) / (events * ratio + PRIOR_EVENTS)
    low, high = _wilson(value, number, float(scipy.stats.norm.ppf(0.5 + level / 2)))
    return Interval(low, high, kind, level)


def _wilson(rate: float, trials: float, z: float) -> tuple[float, float]:
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The ends are 0 and 1 exactly where no or all trials succeed; rounding must not move them.
    return 0.0 if rate == 0 else float(centre - half), 1.0 if rate == 1 else float(centre + half)


def mean_per_class(hits: Array, labels: Array, level: float = 0.95) -> Interval | NoInterval:
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


@cache
def _t_quantile(probability: float, degrees: int) -> Any:
    """Student's quantile; a table asks for the same one in thousands of cells."""
    return scipy.stats.t.ppf(probability, degrees)


def t_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Student's interval for the mean over independent repetitions, such as pretraining seeds.

    Raises:
        ValueError: With fewer than two values: one run has no spread.
    """
    check_level(level)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"a t interval needs at least two values, got {data.size}")
    half = float(_t_quantile(0.5 + level / 2, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return Interval(float(data.mean()) - half, float(data.mean()) + half, "t", level)


def normal_legacy(values: Sequence[float] | Array) -> Interval:
    """mean +- 1.96 sd / sqrt(n) with the population sd, as few-shot papers print it.

    Over episodes drawn from one pool it describes more episodes of this pool, not new images or seeds.
    """
    data = np.asarray(values, dtype=np.float64)
    half = 1.96 * float(data.std()) / np.sqrt(len(data))
    return Interval(float(data.mean()) - half, float(data.mean()) + half, "normal-1.96-episodes", 0.95)


def episodes(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Student's interval over few-shot episodes; its kind says that episodes of one pool are what varies."""
    interval = t_interval(values, level)
    return Interval(interval.low, interval.high, "t-episodes-of-this-pool", level)


def resample_counts(num_examples: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """(resamples, N) counts of each example in bootstrap resamples."""
    generator = np.random.default_rng(seed)
    share = np.full(num_examples, 1 / num_examples)
    return generator.multinomial(num_examples, share, size=resamples).astype(np.float64)


def percentile(values: Array, level: float = 0.95, kind: str = "bootstrap") -> Interval:
    """The central share ``level`` of resampled values; undefined resamples (NaN) are left out."""
    check_level(level)
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        raise ValueError("no resample has a defined value")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), kind, level)


def around(estimate: float, values: Array, level: float = 0.95) -> Interval:
    """``estimate`` and a normal quantile of the resampled values' standard deviation on either side, within [0, 1].

    For average precision: a resample repeats examples, which raises it, so that percentiles of resampled values
    may leave the estimate itself out where there are few examples. Undefined resamples (NaN) are left out.

    Args:
        estimate: Of all examples.
        values: (R,) of resamples.
        level: Confidence level.
    """
    check_level(level)
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if len(defined) < 2:
        raise ValueError("fewer than two resamples have a defined value")
    half = float(scipy.stats.norm.ppf((1 + level) / 2) * defined.std(ddof=1))
    return Interval(max(0.0, estimate - half), min(1.0, estimate + half), "bootstrap-se", level)


def bootstrap(
    values: Sequence[float] | Array,
    statistic: Callable[[Array], float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over the first axis (Efron 1979).

    Args:
        values: (N, ...) one entry an example.
        statistic: Of an array like ``values``; the mean when None.
        level: Confidence level.
        resamples: Number of resamples.
        seed: Seed of the resampling, so that a table is the same twice.
    """
    data = np.asarray(values)
    if not len(data):
        raise ValueError("no values to resample")
    if statistic is None:
        means = np.empty(resamples)
        generator = np.random.default_rng(seed)
        for index in range(resamples):
            means[index] = data[generator.integers(len(data), size=len(data))].mean()
        return percentile(means, level)
    generator = np.random.default_rng(seed)
    drawn = [statistic(data[generator.integers(len(data), size=len(data))]) for _ in range(resamples)]
    return percentile(np.asarray(drawn), level)
