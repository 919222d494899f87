"""Comparisons: one test for each kind of outcome, corrections for their number, ranks, and what could be detected.

Every test gives an interval and a p value from one and the same statistic: the interval leaves out zero exactly where
the p value lies below one minus its level. ``docs/statistics.md`` says which method was chosen and why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # loads its rooms when they are first used

from . import pool
from .intervals import Array, Interval, NoInterval, check_level

MIN_SEEDS = 3
Part = tuple[Array | float, Array | float]  # a variance and its degrees of freedom
TWO_SEEDS = "two evaluation seeds say too little of others"


@dataclass(frozen=True)
class Paired:
    """Two checkpoints on the same examples, episodes or seeds.

    Attributes:
        difference: Of the first over the second.
        interval: For that difference; its kind says what varies.
        p_value: Two-sided, from the statistic that the interval inverts; None where there is no interval.
        wins: Number of entries where the first is better; None where entries have no value of their own.
        losses: Number of entries where the second is better.
        detectable: The smallest true difference that the test would have found in four of five cases.
    """

    difference: float
    interval: Interval | NoInterval
    p_value: float | None
    wins: int | None = None
    losses: int | None = None
    detectable: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero."""
        return isinstance(self.interval, Interval) and (self.interval.low > 0 or self.interval.high < 0)

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The ends of the interval; None without one."""
        return (
            (self.interval.low, self.interval.high) if isinstance(self.interval, Interval) else (None, None)
        )


def paired(a: Sequence[float] | Array, b: Sequence[float] | Array, *, level: float = 0.95) -> Paired:
    """Compare two checkpoints entry by entry: `proportions` where all values are 0 or 1, else `means`.

    Args:
        a: (N,) values of one checkpoint.
        b: (N,) values of the other, in the same order.
        level: Confidence level.

    Raises:
        ValueError: If the two differ in length or hold fewer than two values.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(f"paired values of shapes {first.shape} and {second.shape}: need the same N >= 2")
    delta = first - second
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        return proportions(int((delta > 0).sum()), int((delta < 0).sum()), len(delta), level)
    return means(delta, level)


def proportions(wins: int, losses: int, trials: int, level: float = 0.95) -> Paired:
    """The difference of two proportions over the same examples: McNemar's score test and Tango's interval.

    Tango 1998 inverts the score test of the difference; at zero it is McNemar's chi square without correction, so
    that interval and p value always decide alike.

    Args:
        wins: Examples that only the first has right.
        losses: Examples that only the second has right.
        trials: All examples.
        level: Confidence level.
    """
    check_level(level)
    if min(wins, losses) < 0 or trials < 1 or wins + losses > trials:
        raise ValueError(f"{wins} wins and {losses} losses out of {trials}")
    z = float(scipy.stats.norm.ppf(0.5 + level / 2))
    difference = (wins - losses) / trials
    high = _tango_upper(wins, losses, trials, z)
    low = -_tango_upper(losses, wins, trials, z)
    discordant = (wins + losses) / trials
    return Paired(
        difference,
        Interval(low, high, "tango-paired", level),
        mcnemar(wins, losses),
        wins,
        losses,
        detectable_proportions(discordant, trials, level),
    )


def _tango_upper(wins: int, losses: int, trials: int, z: float) -> float:
    """The largest difference that the score test does not reject."""

    def beyond(difference: float) -> float:
        # The share of losses that is likeliest under this difference, Tango 1998, equation 5.
        b = -wins - losses + (2 * trials - wins + losses) * difference
        c = -losses * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 8 * trials * c, 0.0)) - b) / (4 * trials)
        variance = trials * (2 * share + difference * (1 - difference))
        return trials * difference - wins + losses - z * math.sqrt(max(variance, 0.0))

    value = (wins - losses) / trials
    if wins == trials:
        return 1.0
    # Just above the value, since without any variance there the value itself is a root, and not the limit.
    return float(scipy.optimize.brentq(beyond, value + 1e-9, 1.0, xtol=1e-12))


def mcnemar(wins: int, losses: int, kind: Literal["score", "exact", "mid-p"] = "score") -> float:
    """Two-sided p value of McNemar's test, which looks at the examples that only one of two has right.

    "score" is the chi square without correction, which `proportions` inverts; "exact" the binomial test, never too
    small but rarely near its level; "mid-p" counts half of what was seen (Fagerland, Lydersen and Laake 2013).
    """
    number = wins + losses
    if number == 0:
        return 1.0
    if kind == "score":
        return float(2 * scipy.stats.norm.sf(abs(wins - losses) / math.sqrt(number)))
    tail = 2 * float(scipy.stats.binom.cdf(min(wins, losses), number, 0.5))
    if kind == "mid-p":
        tail -= float(scipy.stats.binom.pmf(min(wins, losses), number, 0.5))
    elif kind != "exact":
        raise ValueError(f"kind is '{kind}', it can be 'score', 'exact' or 'mid-p'")
    return min(1.0, tail)


def means(
    differences: Sequence[float] | Array,
    level: float = 0.95,
    *,
    size: float | None = None,
    unseen: float = 0.0,
) -> Paired:
    """The mean of differences over examples, episodes or pretraining seeds: Student's paired t.

    Without any spread, as when every difference is the same, there is no interval: a few equal differences do not
    show that all others would be equal.

    Args:
        differences: (N,) of the first over the second.
        level: Confidence level.
        size: One more than the degrees of freedom, where the values do not weigh alike; see `metrics.class_size`.
        unseen: Variance to add that the examples do not show, see `metrics.unseen_in_classes`.
    """
    check_level(level)
    data = np.asarray(differences, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"paired means need at least two differences, got {data.shape}")
    mean, number = float(data.mean()), len(data)
    wins, losses = int((data > 0).sum()), int((data < 0).sum())
    sd = float(data.std(ddof=1))
    if sd <= 1e-12 * max(1.0, abs(mean)):
        reason = NoInterval(f"all {number} differences are the same")
        return Paired(mean, reason, None, wins, losses)
    df = (number if size is None else size) - 1
    return _student(mean, math.sqrt(sd**2 / number + unseen), df, "paired-t", level, wins, losses)


def _student(
    difference: float,
    error: float,
    df: float,
    kind: str,
    level: float,
    wins: int | None = None,
    losses: int | None = None,
) -> Paired:
    half = float(scipy.stats.t.ppf(0.5 + level / 2, df)) * error
    p_value = float(2 * scipy.stats.t.sf(abs(difference) / error, df))
    interval = Interval(difference - half, difference + half, kind, level)
    return Paired(difference, interval, p_value, wins, losses, detectable(error, df, level))


def resampled(
    differences: Sequence[float],
    drawn: Array,
    size: float = math.inf,
    lacking: float = 1.0,
    unseen: float = 0.0,
    *,
    kind: str,
    level: float = 0.95,
) -> Paired:
    """The difference of two statistics whose resamples are paired: Student's t of the bootstrap's standard error.

    Args:
        differences: (S,) of the first over the second on all examples, one for each evaluation seed; with several,
            examples and seeds vary, as in `crossed`. Two say too little.
        drawn: (S, R) differences on the same resamples of both, or (R,) for one seed; a resample that is undefined
            (NaN) for a seed is left out.
        size: Of what varies, one more than the degrees of freedom; for average precision see `intervals.few`.
        lacking: What the bootstrap's variance is to be multiplied with.
        unseen: Variance to add that resamples cannot show.
        kind: What to call the interval.
        level: Confidence level.
    """
    check_level(level)
    defined = np.atleast_2d(np.asarray(drawn, dtype=np.float64))
    defined = defined[:, ~np.isnan(defined).any(0)]
    if defined.shape[1] < 2:
        raise ValueError("fewer than two resamples have a defined value")
    difference = float(np.mean(differences))
    if 1 < len(differences) < MIN_SEEDS:
        return Paired(difference, NoInterval(TWO_SEEDS), None)
    df = max(size - 1, 1.0)
    over_seeds = float(np.var(differences, ddof=1)) / len(differences) if len(differences) > 1 else 0.0
    if math.sqrt(float(defined.mean(0).var(ddof=1)) + over_seeds) <= 1e-12:
        return Paired(difference, NoInterval("the difference is the same on every resample"), None)
    over_examples, noise = (float(part) * lacking for part in shared_and_noise(defined))
    if len(differences) == 1:
        return _student(difference, math.sqrt(over_examples + unseen), df, kind, level)
    parts = (over_examples + unseen, df), seeds_alone(over_seeds, noise, len(differences))
    return _crossed(difference, parts, kind, level)


def pooled(
    difference: float,
    contributed: Array,
    episodes: Array,
    *,
    kind: str = "t-pool-images",
    level: float = 0.95,
) -> Paired:
    """The difference of two few-shot accuracies on the same episodes, over the images of their pool.

    Args:
        difference: Of the first over the second.
        contributed: (2, N) differences of what each image contributes, see `pool.contributions`.
        episodes: (E,) differences of the episodes' accuracies.
        kind: What to call the interval.
        level: Confidence level.
    """
    check_level(level)
    wins, losses = int((episodes > 0).sum()), int((episodes < 0).sum())
    error = math.sqrt(pool.variance(contributed, episodes))
    if error <= 1e-12:
        return Paired(difference, NoInterval("no episode differs"), None, wins, losses)
    return _student(difference, error, contributed.shape[1] - 1, kind, level, wins, losses)


def crossed(
    differences: Array,
    seeds: Sequence[float] | Array,
    level: float = 0.95,
    *,
    size: float | None = None,
    unseen: float = 0.0,
) -> Paired:
    """The mean difference over examples and evaluation seeds, both of which vary.

    The variance of a mean over both has three parts: of examples, of seeds, and noise that is in neither alone. What
    seeds differ by holds the noise too, so it is taken out of the variance over examples. The squares of Student's
    half widths of the two are added (Zou and Donner 2008), since a sum of variances with Satterthwaite's degrees of
    freedom covers less. Two seeds may agree by luck, so that there is an interval from three on.

    Args:
        differences: (S, N) of each example with each seed, S >= 2.
        seeds: (S,) of each seed the metric's difference.
        level: Confidence level.
        size, unseen: As of `means`.
    """
    check_level(level)
    examples, runs = np.asarray(differences, dtype=np.float64), np.asarray(seeds, dtype=np.float64)
    mean, number = examples.mean(0), examples.shape[1]
    wins, losses = int((mean > 0).sum()), int((mean < 0).sum())
    over_seeds = float(runs.var(ddof=1)) / len(runs)
    varies = math.sqrt(float(mean.var(ddof=1)) / number + over_seeds) > 1e-12
    if not varies or len(runs) < MIN_SEEDS:
        reason = NoInterval(TWO_SEEDS if varies else "nothing varies")
        return Paired(float(mean.mean()), reason, None, wins, losses)
    over_examples, noise = (float(part) / number for part in shared_and_noise(examples))
    df = (number if size is None else size) - 1
    parts = (over_examples + unseen, df), seeds_alone(over_seeds, noise, len(runs))
    return _crossed(float(mean.mean()), parts, "t-examples-and-seeds", level, wins, losses)


def shared_and_noise(values: Array) -> tuple[Array, Array]:
    """What examples (or resamples) have in common in all seeds, and noise, as variances of the mean over S seeds.

    A single seed's values vary by both, their mean over seeds by the first and an S-th of the noise.

    Args:
        values: (S, ..., N). With one seed all counts as common.

    Returns:
        Two of (...), each at least 0.
    """
    whole = values.mean(0).var(axis=-1, ddof=1)
    if len(values) == 1:
        return whole, np.zeros_like(whole)
    return parted(whole, values.var(axis=-1, ddof=1).mean(0), len(values))


def parted(whole: Array, single: Array, seeds: int) -> tuple[Array, Array]:
    """`shared_and_noise` of the variance of the mean over seeds and the mean of each seed's variance."""
    noise = np.maximum(single - whole, 0.0) / (seeds - 1)
    return np.maximum(whole - noise, 0.0), noise


def seeds_alone(variance: Array | float, noise: Array | float, seeds: int) -> Part:
    """The variance over seeds with its degrees of freedom.

    Seeds that agree by luck show less than the noise that must be in them; the variance is taken as no less than
    noise alone gives in 39 of 40 cases.
    """
    least = scipy.special.chdtri(seeds - 1, 0.975) / (seeds - 1)
    return np.maximum(variance, noise * least), seeds - 1.0


def half_width(tail: Array | float, parts: Sequence[Part]) -> Array:
    """Half width of the two-sided interval that leaves out ``tail`` on each side: squares of Student's, added."""
    half: Array = np.sqrt(sum(variance * scipy.special.stdtrit(df, tail) ** 2 for variance, df in parts))
    return half


def p_crossed(differences: Array | float, parts: Sequence[Part]) -> Array:
    """The p value at which the interval of `half_width` touches zero; 0 where it lies below 1e-130."""
    from scipy.optimize.elementwise import find_root

    given = np.broadcast_arrays(np.abs(differences), *(item for part in parts for item in part))

    def lacking(log_p: Array | float, distance: Array, *items: Array) -> Array:
        return half_width(np.exp(log_p) / 2, list(zip(items[::2], items[1::2], strict=True))) - distance

    least = math.log(1e-130)  # further out Student's t of one degree of freedom, squared, would not be finite
    found = find_root(lacking, (least, 0.0), args=tuple(given))
    return np.where(lacking(least, *given) < 0, 0.0, np.exp(found.x))


def _crossed(
    difference: float,
    parts: Sequence[Part],
    kind: str,
    level: float,
    wins: int | None = None,
    losses: int | None = None,
) -> Paired:
    half = float(half_width((1 - level) / 2, parts))
    interval = Interval(difference - half, difference + half, kind, level)
    p_value = float(p_crossed(difference, parts))
    return Paired(difference, interval, p_value, wins, losses, half + float(half_width(0.2, parts)))


def detectable(error: float, df: float = math.inf, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a test with this standard error finds with the given probability.

    For the mean over seeds ``df`` is their number minus one, and the power is that of the noncentral t.
    """
    check_level(level)
    if math.isinf(df):
        return float(scipy.stats.norm.ppf(0.5 + level / 2) + scipy.stats.norm.ppf(power)) * error
    critical = float(scipy.stats.t.ppf(0.5 + level / 2, df))

    def lacking(shift: float) -> float:
        return float(scipy.stats.nct.sf(critical, df, shift)) - power

    return float(scipy.optimize.brentq(lacking, 0.0, 2 * critical + 10)) * error


def detectable_proportions(
    discordant: float, trials: int, level: float = 0.95, power: float = 0.8
) -> float | None:
    """The smallest true difference of two paired proportions that McNemar's test finds (Connor 1987).

    Args:
        discordant: Share of the examples that only one of the two has right.
        trials: Number of examples.
        level: Confidence level of the test's interval.
        power: Probability of finding it.

    Returns:
        A difference in [0, 1]; None where even all discordant examples on one side would not be enough.
    """
    check_level(level)
    z = float(scipy.stats.norm.ppf(0.5 + level / 2))
    beta = float(scipy.stats.norm.ppf(power))

    def lacking(difference: float) -> float:
        spread = math.sqrt(max(discordant - difference**2, 0.0))
        return math.sqrt(trials) * difference - z * math.sqrt(discordant) - beta * spread

    if lacking(discordant) <= 0:
        return None
    return float(scipy.optimize.brentq(lacking, 0.0, discordant))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the given order: no false find at all with their level."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]
