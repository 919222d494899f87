"""What features tell without labels: ranks, the decay of their spectrum, and how alike two sets of features are.

All of it is computed in float64. ``docs/labelfree.md`` says what these numbers do and do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy  # loads its rooms when they are first used

from .intervals import Array, Interval, NoInterval

EPSILON: Final = 1e-7  # added to each share, as RankMe does for float32 features
DELTA: Final = (
    1e-4  # added to the diagonal of the covariance within images, LiDAR's "small positive constant"
)
FIRST, LAST = 4, 100  # ranks of the eigenvalues to which the authors of alpha-ReQ fit their line
FEWEST: Final = 10  # eigenvalues below which no line is fitted
_ROWS: Final = 8192  # rows turned to float64 at a time
_NOISE: Final = 1e-12  # eigenvalues below this share of the largest are rounding


class Undefined(ValueError):
    """A measure does not exist for these features; the message is the reason, after "none: "."""


@dataclass(frozen=True)
class Moments:
    """All that ranks and spectra need of features.

    Attributes:
        count: N, the number of images.
        mean: (D,) their mean.
        gram: (D, D) the sum of outer products, not centred.
    """

    count: int
    mean: npt.NDArray[np.float64]
    gram: npt.NDArray[np.float64]

    @cached_property
    def covariance(self) -> npt.NDArray[np.float64]:
        """(D, D), with the divisor N."""
        return self.gram / self.count - np.outer(self.mean, self.mean)

    @property
    def constant(self) -> bool:
        """Whether all images have the same feature, but for rounding."""
        return bool(np.trace(self.covariance) <= _NOISE * float(self.mean @ self.mean))

    @cached_property
    def spectrum(self) -> npt.NDArray[np.float64]:
        """(D,) eigenvalues of the covariance matrix, the largest first, none below zero."""
        return _eigenvalues(self.covariance)


def _eigenvalues(matrix: Array) -> npt.NDArray[np.float64]:
    found = scipy.linalg.eigh(matrix, eigvals_only=True)[::-1]
    positive: npt.NDArray[np.float64] = np.maximum(found, 0.0)
    return positive


def _blocks(features: Array) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(features), _ROWS):
        yield np.asarray(features[start : start + _ROWS], dtype=np.float64)


def moments(features: Array) -> Moments:
    """Go once over features (N, D)."""
    width = features.shape[1]
    total, gram = np.zeros(width), np.zeros((width, width))
    for block in _blocks(features):
        total += block.sum(0)
        gram += block.T @ block
    return Moments(len(features), total / len(features), gram)


def _exponential_entropy(values: Array, epsilon: float) -> float:
    """exp(-sum p log p) of the shares of values, to each of which ``epsilon`` is added."""
    total = float(values.sum())
    if not total > 0:
        raise Undefined("the features are zero for every image")
    shares = values / total + epsilon
    shares = shares[shares > 0]  # 0 log 0 is 0
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rankme(of: Moments, epsilon: float = EPSILON) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885, Eq. 1): smooth rank of the feature matrix, not centred.

    Args:
        of: The features' moments. Singular values of (N, D) are roots of the eigenvalues of the Gram matrix.
        epsilon: Added to each singular value's share.

    Returns:
        About 1 to min(N, D).

    Raises:
        Undefined: If all features are zero.
    """
    singular = np.sqrt(_eigenvalues(of.gram))[: of.count]
    return _exponential_entropy(singular, epsilon)


def effective_rank(of: Moments) -> float:
    """Effective rank (Roy and Vetterli 2007, Def. 1) of the features' covariance matrix.

    Its singular values are its eigenvalues, so a direction counts by its variance; in `rankme` it counts by its
    standard deviation, and the mean is a direction too.

    Returns:
        1 to D.

    Raises:
        Undefined: If all images have the same feature.
    """
    if of.constant:
        raise Undefined("all images have the same feature")
    return _exponential_entropy(of.spectrum, 0.0)


@dataclass(frozen=True)
class PowerLaw:
    """A line through a spectrum in log-log scale.

    Attributes:
        alpha: The eigenvalue of rank j falls as j to the power of minus alpha.
        first, last: The ranks that it was fitted to.
    """

    alpha: float
    first: int
    last: int


def alpha_req(of: Moments, first: int = FIRST, last: int = LAST) -> PowerLaw:
    """alpha-ReQ (Agrawal et al. 2022, arXiv 2202.05808): how fast the eigenvalues of the covariance matrix fall.

    The paper fits a line in log-log scale; which ranks, and that each weighs 1/rank (Stringer et al. 2019), stands in
    its authors' code.

    Args:
        of: The features' moments.
        first, last: Ranks to fit to, from 1, both included. Fewer where eigenvalues are zero.

    Raises:
        Undefined: If fewer than `FEWEST` eigenvalues above zero are in the range.
    """
    spectrum = of.spectrum
    last = min(last, int((spectrum > _NOISE * max(float(spectrum[0]), 1e-300)).sum()))
    if last - first + 1 < FEWEST:
        raise Undefined(f"fewer than {FEWEST} eigenvalues above zero from rank {first} on")
    ranks = np.arange(first, last + 1)
    weights = 1 / ranks
    x, y = np.log(ranks), np.log(spectrum[ranks - 1])
    x, y = x - np.average(x, weights=weights), y - np.average(y, weights=weights)
    return PowerLaw(float(-(weights * x * y).sum() / (weights * x * x).sum()), first, last)


def lidar(views: Iterable[Array], delta: float = DELTA, epsilon: float = EPSILON) -> float:
    """LiDAR (Thilak et al. 2024, arXiv 2312.04000): rank of the linear discriminant that tells images apart by views.

    Args:
        views: For each image (Q, D), the features of its Q augmented views.
        delta: Added to the diagonal of the covariance within images.
        epsilon: Added to each eigenvalue's share.

    Returns:
        About 1 to D, and not above the number of images less one.

    Raises:
        Undefined: If all images have the same mean feature.
        ValueError: If an image has fewer than two views.
    """
    means, count = [], 0
    within: npt.NDArray[np.float64] | None = None
    for image in views:
        block = np.asarray(image, dtype=np.float64)
        if len(block) < 2:
            raise ValueError("LiDAR needs two views of each image or more")
        mean = block.mean(0)
        block = block - mean
        within = block.T @ block if within is None else within + block.T @ block
        means.append(mean)
        count += len(block)
    if within is None or len(means) < 2:
        raise Undefined("there are fewer than two images")
    centres = np.stack(means)
    centres -= centres.mean(0)
    if not centres.any():
        raise Undefined("all images have the same mean feature")
    between = centres.T @ centres / len(centres)
    within = within / count + delta * np.eye(len(within))
    # The eigenvalues of within^(-1/2) between within^(-1/2) are those of this pair.
    found = scipy.linalg.eigh(between, within, eigvals_only=True)
    return _exponential_entropy(np.maximum(found, 0.0), epsilon)


def cka(first: Array, second: Array) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414, Eqs. 3 and 4) of the same images.

    Args:
        first: (N, D).
        second: (N, E).

    Returns:
        0 to 1. Rotating or scaling a side does not change it. It is biased upwards where N is not much larger than D.

    Raises:
        Undefined: If all images have the same feature on one side.
        ValueError: If the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} images on one side and {len(second)} on the other")
    own = [moments(side) for side in (first, second)]
    for side in own:
        if side.constant:
            raise Undefined("all images have the same feature")
    cross = sum(
        (a - own[0].mean).T @ (b - own[1].mean) for a, b in zip(_blocks(first), _blocks(second), strict=True)
    )
    sizes = math.prod(float(np.linalg.norm(side.covariance)) * side.count for side in own)
    return float(np.square(cross).sum()) / sizes


@dataclass(frozen=True)
class Correlation:
    """How the order of two lists agrees.

    Attributes:
        rho: Spearman's rank correlation, -1 to 1.
        interval: For it.
        count: Pairs of values.
    """

    rho: float
    interval: Interval | NoInterval
    count: int


def rank_correlation(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95) -> Correlation:
    """Spearman's rank correlation with Bonett and Wright's interval (2000, doi 10.1007/BF02294183).

    Args:
        first, second: (n,) values of the same things, n at least 5.
        level: Of the interval.

    Raises:
        Undefined: If there are fewer than five pairs, or all values of one side are equal.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(x) < 5:
        raise Undefined(f"{len(x)} checkpoints are fewer than five")
    if len(np.unique(x)) < 2 or len(np.unique(y)) < 2:
        raise Undefined("all values are equal")
    rho = float(scipy.stats.spearmanr(x, y).statistic)
    interval: Interval | NoInterval
    if abs(rho) > 1 - 1e-12:
        interval = NoInterval("the two orders agree completely")
        return Correlation(math.copysign(1.0, rho), interval, len(x))
    reach = scipy.stats.norm.ppf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    low, high = (math.tanh(math.atanh(rho) + sign * reach) for sign in (-1, 1))
    return Correlation(rho, Interval(low, high, "bonett-wright", level), len(x))
