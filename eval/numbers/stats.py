"""Intervals and comparisons. What varies is always named: examples, episodes, or seeds; they are never mixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must lie in (0, 1)")
    return level


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion over independent examples (Wilson 1927).

    >>> wilson(8, 10).low  # doctest: +ELLIPSIS
    0.490...
    """
    _level(level)
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes out of {trials}")
    z = float(scipy.stats.norm.ppf(0.5 + level / 2))
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The ends are 0 and 1 exactly where no or all trials succeed; rounding must not move them.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Interval(low, high, "wilson", level)


def t_interval(values: Sequence[float] | Array, level: float = 0.95) -> Interval:
    """Student's interval for the mean over independent repetitions, such as pretraining seeds.

    Raises:
        ValueError: With fewer than two values: one run has no spread.
    """
    _level(level)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) < 2:
        raise ValueError(f"a t interval needs at least two values, got {data.size}")
    half = float(scipy.stats.t.ppf(0.5 + level / 2, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
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
    _level(level)
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
    _level(level)
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


@dataclass(frozen=True)
class Paired:
    """Two checkpoints on the same examples or episodes.

    Attributes:
        difference: Mean of a - b.
        interval: For that difference, over what the values are over.
        p_value: Two-sided: exact McNemar for 0/1 values, else a t test of the differences.
        wins: Number of entries where a is better.
        losses: Number of entries where b is better.
    """

    difference: float
    interval: Interval
    p_value: float
    wins: int
    losses: int


def paired(a: Sequence[float] | Array, b: Sequence[float] | Array, *, level: float = 0.95) -> Paired:
    """Compare two checkpoints on the same examples (0/1 correctness) or episodes (accuracies).

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
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    base = t_interval(delta, level)
    interval = Interval(base.low, base.high, "paired-t", level)
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        p_value = float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    elif delta.std() == 0:
        p_value = 1.0 if delta[0] == 0 else 0.0
    else:
        p_value = float(scipy.stats.ttest_1samp(delta, 0.0).pvalue)
    return Paired(float(delta.mean()), interval, p_value, wins, losses)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm 1979), in the given order."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    steps = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def rank_intervals(
    values: Mapping[str, Array], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """How far the rank of each checkpoint moves when the examples are redrawn; 1 is the highest mean.

    Args:
        values: For each checkpoint (N,) values on the same examples or episodes.
        level: Confidence level.
        resamples: Number of resamples.
        seed: Seed of the resampling; all checkpoints see the same resamples.
    """
    names = list(values)
    table = np.stack([np.asarray(values[name], dtype=np.float64) for name in names])  # (checkpoints, N)
    generator = np.random.default_rng(seed)
    ranks = np.empty((resamples, len(names)))
    for index in range(resamples):
        means = table[:, generator.integers(table.shape[1], size=table.shape[1])].mean(1)
        ranks[index] = scipy.stats.rankdata(-means, method="average")
    return {name: percentile(ranks[:, i], level, "bootstrap-rank") for i, name in enumerate(names)}


def seed_ranks(
    values: Mapping[str, Sequence[float]], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """`rank_intervals` where pretraining seeds are redrawn, independently for each method."""
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(values)))
    for column, runs in enumerate(values.values()):
        data = np.asarray(runs, dtype=np.float64)
        means[:, column] = data[generator.integers(len(data), size=(resamples, len(data)))].mean(1)
    ranks = scipy.stats.rankdata(-means, axis=1, method="average")
    return {name: percentile(ranks[:, i], level, "bootstrap-rank-seeds") for i, name in enumerate(values)}
