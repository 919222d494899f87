"""Comparisons: paired tests, corrections for their number, and how far ranks move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from .intervals import Array, Interval, percentile, t_interval


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
