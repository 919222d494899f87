"""Intervals. What varies is always named: examples, episodes, or seeds; they are never mixed."""

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
    z = float(scipy.stats.norm.ppf(0.5 + level / 2))
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # The ends are 0 and 1 exactly where no or all trials succeed; rounding must not move them.
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == trials else float(centre + half)
    return Interval(low, high, "wilson", level)


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
