"""Every pair of several checkpoints at once, by the tests of `tests`: what a column of a table needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # loads its rooms when first used; the special functions in a tenth of the time of scipy.stats

from . import pool
from .intervals import Array
from .tests import MIN_SEEDS, half_width, holm, p_crossed, parted, seeds_alone

SAME = 1e-12  # a standard error up to here is rounding: two do not differ, as in `tests`


@dataclass(frozen=True)
class Pairs:
    """All pairs of R checkpoints.

    Attributes:
        differences: (R, R) of the row over the column.
        p_values: (R, R), two-sided; NaN where there is no test.
        detectable: (R, R) smallest true differences found in four of five cases; NaN where there is none.
    """

    differences: Array
    p_values: Array
    detectable: Array

    def adjusted(self) -> Array:
        """(R, R) p values after Holm's correction for the number of pairs."""
        found = np.full(self.p_values.shape, np.nan)
        upper = np.triu(~np.isnan(self.p_values), 1)
        found[upper] = holm(list(self.p_values[upper])) if upper.any() else []
        return np.where(np.isnan(found), found.T, found)


def proportions(right: Array, *, power: float = 0.8, level: float = 0.95) -> Pairs:
    """McNemar's score test of each pair, as `tests.proportions`; Connor's detectable difference (Connor 1987).

    Args:
        right: (R, N) whether each checkpoint is right about each example.
        power: Of the detectable differences.
        level: Of the intervals that the p values belong to.
    """
    hits = right.astype(np.float64)
    number = hits.shape[1]
    wins = hits @ (1 - hits).T
    total = wins + wins.T
    with np.errstate(invalid="ignore", divide="ignore"):
        score = np.where(total > 0, np.abs(wins - wins.T) / np.sqrt(total), 0.0)
    z, beta = scipy.special.ndtri(0.5 + level / 2), scipy.special.ndtri(power)
    # sqrt(n) d = z sqrt(q) + beta sqrt(q - d^2), solved for d; q is the share that only one of two has right.
    share = total / number
    a, b, c = number + beta**2, -2 * z * np.sqrt(number * share), (z**2 - beta**2) * share
    found = (-b + np.sqrt(np.maximum(b**2 - 4 * a * c, 0.0))) / (2 * a)
    detectable = np.where((total > 0) & (found <= share), found, np.nan)
    return Pairs((wins - wins.T) / number, 2 * scipy.special.ndtr(-score), detectable)


def means(
    values: Array,
    seeds: Array | None = None,
    *,
    size: float | None = None,
    unseen: Array | float = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> Pairs:
    """Student's paired t of each pair over examples, as `tests.means`; with several seeds, as `tests.crossed`.

    Args:
        values: (R, N) contributions of the examples, whose mean is the metric; with several seeds (S, R, N).
        seeds: (S, R) the metric for each seed, S >= 2; None for one seed.
        size: One more than the degrees of freedom over examples, where they do not weigh alike.
        unseen: (R, R) variances to add that the examples do not show, see `metrics.unseen_in_classes`.
        power: Of the detectable differences.
        level: Of the intervals that the p values belong to.
    """
    number = values.shape[-1]
    df = (number if size is None else size) - 1.0
    if seeds is None:
        error = np.sqrt(_variance(values) / number)
        error = np.where(error > SAME, np.sqrt(error**2 + unseen), error)
        return _student(_differences(values.mean(1)), error, df, power, level)
    return _crossed(values, seeds, 1 / number, unseen, df, _differences(values.mean((0, 2))), power, level)


def resampled(
    values: Array,
    drawn: Array,
    size: float = np.inf,
    lacking: float = 1.0,
    *,
    power: float = 0.8,
    level: float = 0.95,
) -> Pairs:
    """Student's t of the bootstrap's standard error of each pair, as `tests.resampled`.

    Args:
        values: (S, R) the metric of all examples for each of S seeds; with several, examples and seeds vary.
        drawn: (S, R, B) on the same B resamples; those that are undefined (NaN) anywhere are left out for all.
        size: Of what varies, one more than the degrees of freedom.
        lacking: What the bootstrap's variance is to be multiplied with.
        power: Of the detectable differences.
        level: Of the intervals that the p values belong to.
    """
    defined = drawn[..., ~np.isnan(drawn).any((0, 1))]
    df, differences = max(size - 1.0, 1.0), _differences(values.mean(0))
    if len(values) == 1:
        return _student(differences, np.sqrt(_variance(defined[0]) * lacking), df, power, level)
    return _crossed(defined, values, lacking, 0.0, df, differences, power, level)


def pooled(
    values: Array, contributed: Array, episodes: Array, *, power: float = 0.8, level: float = 0.95
) -> Pairs:
    """Few-shot accuracies on the same episodes, over the images of their pool, as `tests.pooled`.

    Args:
        values: (R,) the mean accuracies.
        contributed: (R, 2, N) what each image contributes, see `pool.contributions`.
        episodes: (R, E) accuracies.
        power: Of the detectable differences.
        level: Of the intervals that the p values belong to.
    """
    exact = np.asarray(contributed, dtype=np.float64)
    deltas = (one - exact for one in exact)  # (R, 2, N) each
    images = np.stack([pool.of_images(delta[:, 0] * delta[:, 1]) for delta in deltas])
    error = np.sqrt(images + _variance(episodes) / episodes.shape[1])
    df = contributed.shape[2] - 1.0
    return _student(_differences(values), error, df, power, level)


def _variance(values: Array) -> Array:
    """(R, R) variances of the differences of rows."""
    centred = values - values.mean(1, keepdims=True)
    gram = centred @ centred.T / (values.shape[1] - 1)
    own = np.diag(gram)
    variance: Array = np.maximum(own[:, None] + own[None, :] - 2 * gram, 0.0)
    variance[variance <= 1e-12 * np.maximum(own[:, None], own[None, :])] = 0.0  # equal rows, but for rounding
    return variance


def _differences(values: Array) -> Array:
    difference: Array = values[:, None] - values[None, :]
    return difference


def _crossed(
    values: Array,
    seeds: Array,
    scale: float,
    unseen: Array | float,
    df: float,
    differences: Array,
    power: float,
    level: float,
) -> Pairs:
    """All pairs as `tests.crossed`; the variances of ``values`` over examples are multiplied by ``scale``."""
    number = len(seeds)
    whole = _variance(values.mean(0)) * scale
    single = np.mean([_variance(one) for one in values], axis=0) * scale
    shared, noise = parted(whole, single, number)
    over_seeds = _variance(seeds.T) / number
    varies = np.sqrt(whole + over_seeds) > SAME
    if number < MIN_SEEDS or not varies.any():
        nothing = np.full(varies.shape, np.nan)
        return Pairs(differences, nothing, nothing)
    parts = (np.where(varies, shared + unseen, 1.0), df), seeds_alone(over_seeds, noise, number)
    least = half_width((1 - level) / 2, parts) + half_width(1 - power, parts)
    p_values = p_crossed(differences, parts)
    return Pairs(differences, np.where(varies, p_values, np.nan), np.where(varies, least, np.nan))


def _student(differences: Array, error: Array, df: Array | float, power: float, level: float) -> Pairs:
    varies = error > SAME
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = np.where(varies, 2 * scipy.special.stdtr(df, -np.abs(differences) / error), np.nan)
        # The two quantiles' sum is what the noncentral t gives, but for a per mille from ten degrees of freedom on.
        quantiles = scipy.special.stdtrit(df, 0.5 + level / 2) + scipy.special.stdtrit(df, power)
        detectable = np.where(varies, quantiles * error, np.nan)
    return Pairs(differences, p_values, detectable)
