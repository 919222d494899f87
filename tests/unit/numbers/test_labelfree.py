"""Measures without labels against closed forms, the authors' formulas written out, and planted data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from eval.numbers import labelfree
from eval.numbers.intervals import Interval, NoInterval
from eval.numbers.labelfree import Undefined, moments


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _orthonormal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(_rng(seed).normal(size=(rows, columns)))[0]


def _with_spectrum(values: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, D) centred features whose covariance matrix has exactly these eigenvalues."""
    left = _rng(seed).normal(size=(count, len(values)))
    left = np.linalg.qr(left - left.mean(0))[0]  # orthonormal columns of mean zero
    return left * np.sqrt(count * values) @ _orthonormal(len(values), len(values), seed + 1).T


# ------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("rank", [1, 7, 32])
def test_equal_directions_count_exactly(rank: int) -> None:
    values = np.zeros(32)
    values[:rank] = 3.0
    of = moments(_with_spectrum(values, 200))
    assert labelfree.effective_rank(of) == pytest.approx(rank, rel=1e-9)
    assert labelfree.rankme(of, epsilon=0.0) == pytest.approx(rank, rel=1e-4)  # roots of rounding are 1e-8
    assert labelfree.rankme(of) == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize("rank", [5, 40])
def test_isotropic_gaussian_of_a_rank(rank: int) -> None:
    features = _rng().normal(size=(40_000, rank)) @ _orthonormal(64, rank).T
    of = moments(features.astype(np.float32))
    assert labelfree.effective_rank(of) == pytest.approx(rank, rel=2e-3)
    assert labelfree.rankme(of) == pytest.approx(rank, rel=2e-3)


@pytest.mark.parametrize("alpha", [0.4, 1.0, 2.5])
def test_power_law_gives_its_exponent(alpha: float) -> None:
    of = moments(_with_spectrum(np.arange(1, 129.0) ** -alpha, 400))
    found = labelfree.alpha_req(of)
    assert found.alpha == pytest.approx(alpha, rel=1e-8)
    assert (found.first, found.last) == (4, 100)
    sampled = moments(_rng().normal(size=(50_000, 128)) * np.arange(1, 129.0) ** (-alpha / 2))
    assert labelfree.alpha_req(sampled).alpha == pytest.approx(alpha, abs=0.02)


def test_lidar_counts_the_directions_in_which_images_differ() -> None:
    """Images differ alike in 6 directions; views add noise that is alike in all 16: LiDAR is 6, RankMe is not."""
    rng = _rng()
    centres = np.zeros((800, 16))
    centres[:, :6] = _with_spectrum(np.ones(6), 800)
    noise = 0.5 * rng.normal(size=(800, 40, 16))
    noise -= noise.mean(1, keepdims=True)
    views = centres[:, None] + noise
    assert labelfree.lidar(views, epsilon=0.0) == pytest.approx(6, rel=1e-3)
    assert labelfree.lidar(views) == pytest.approx(6, rel=1e-3)
    assert labelfree.rankme(moments(views.reshape(-1, 16))) > 10


def test_lidar_discounts_what_views_change() -> None:
    """Two directions of equal spread between images, one much noisier within: its share falls by the noise."""
    centres = _with_spectrum(np.ones(2), 500)
    centres = centres @ np.linalg.svd(centres, full_matrices=False)[2].T  # along the axes
    steps = np.array([[1.0, 3.0], [-1.0, -3.0]])  # two views: variance 1 and 9
    steps = np.stack([steps, steps * [1, -1]])[np.arange(500) % 2]  # no covariance within
    found = labelfree.lidar(centres[:, None] + steps, delta=0.0, epsilon=0.0)
    shares = np.array([1.0, 1 / 9]) / (10 / 9)
    assert found == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_cka_knows_equal_rotated_and_scaled_features_and_others() -> None:
    features = _rng().normal(size=(500, 12))
    moved = 3 * features @ _orthonormal(12, 12) + 100
    assert labelfree.cka(features, features) == pytest.approx(1, rel=1e-12)
    assert labelfree.cka(features, moved) == pytest.approx(1, rel=1e-9)
    assert labelfree.cka(features, moved * np.arange(1, 13)) < 0.9
    left = _with_spectrum(np.ones(10), 500)  # ten orthogonal columns of mean zero
    basis = np.linalg.svd(left, full_matrices=False)[0]
    assert labelfree.cka(basis[:, :4], basis[:, 4:]) == pytest.approx(0, abs=1e-20)
    # Half of each side's four equal directions is shared: 2 / (sqrt(4) sqrt(4)).
    assert labelfree.cka(basis[:, :4], basis[:, 2:6]) == pytest.approx(0.5, rel=1e-9)


# ---------------------------------------------------------------------------------- the formulas, written out


def _entropy(values: list[float], epsilon: float) -> float:
    total, entropy = sum(values), 0.0
    for value in values:
        share = value / total + epsilon
        entropy -= share * math.log(share)
    return math.exp(entropy)


@pytest.fixture
def features() -> np.ndarray:
    """Features as networks give them: above zero, of unequal spread, correlated, in float32."""
    rng = _rng(3)
    mixed = rng.normal(size=(300, 20)) * np.arange(1, 21.0) ** -0.7 @ rng.normal(size=(20, 20))
    return np.maximum(mixed + 0.3, 0).astype(np.float32)


def test_rankme_by_its_formula(features: np.ndarray) -> None:
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    assert labelfree.rankme(moments(features)) == pytest.approx(_entropy(list(singular), 1e-7), rel=1e-9)
    few = features[:8]  # fewer images than dimensions have as many singular values as images
    singular = np.linalg.svd(few.astype(np.float64), compute_uv=False)
    assert labelfree.rankme(moments(few)) == pytest.approx(_entropy(list(singular), 1e-7), rel=1e-9)


def test_effective_rank_by_its_formula(features: np.ndarray) -> None:
    exact = features.astype(np.float64)
    covariance = np.zeros((20, 20))
    mean = sum(exact) / len(exact)
    for row in exact:
        covariance += np.outer(row - mean, row - mean) / len(exact)
    singular = np.linalg.svd(covariance, compute_uv=False)
    assert labelfree.effective_rank(moments(features)) == pytest.approx(_entropy(list(singular), 0), rel=1e-9)


def test_alpha_by_the_weighted_normal_equations(features: np.ndarray) -> None:
    values = np.linalg.eigvalsh(np.cov(features.T.astype(np.float64), bias=True))[::-1]
    found = labelfree.alpha_req(moments(features))
    assert (found.first, found.last) == (4, 20)  # there are no more
    a = b = c = d = e = 0.0
    for rank in range(4, 21):
        weight, x, y = 1 / rank, -math.log(rank), math.log(values[rank - 1])
        a, b, c = a + weight * x * x, b + weight * x, c + weight
        d, e = d + weight * x * y, e + weight * y
    slope, _ = np.linalg.solve([[a, b], [b, c]], [d, e])
    assert found.alpha == pytest.approx(slope, rel=1e-9)


def test_lidar_by_its_formula() -> None:
    rng = _rng(5)
    views = rng.normal(size=(30, 1, 6)) * np.arange(1, 7) + rng.normal(size=(30, 5, 6)) @ rng.normal(
        size=(6, 6)
    )
    mean, own = np.zeros(6), []
    for image in views:
        own.append(sum(image) / 5)
        mean += own[-1] / 30
    between, within = np.zeros((6, 6)), np.zeros((6, 6))
    for image, centre in zip(views, own, strict=True):
        between += np.outer(centre - mean, centre - mean) / 30
        for view in image:
            within += np.outer(view - centre, view - centre) / 150
    within += 1e-4 * np.eye(6)
    root = scipy.linalg.inv(scipy.linalg.sqrtm(within))
    values = np.linalg.eigvalsh(root @ between @ root)
    assert labelfree.lidar(views) == pytest.approx(_entropy(list(values), 1e-7), rel=1e-9)
    assert labelfree.lidar(iter(views.astype(np.float32))) == pytest.approx(labelfree.lidar(views), rel=1e-5)


def test_cka_by_hsic_of_gram_matrices(features: np.ndarray) -> None:
    """Kornblith et al.'s Eq. 3 with K = X X^T and L = Y Y^T, centred by H."""
    first = features.astype(np.float64)
    second = first[:, ::2] ** 2 + 0.1 * _rng(9).normal(size=(300, 10))
    centring = np.eye(300) - 1 / 300

    def hsic(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.trace(x @ x.T @ centring @ y @ y.T @ centring)) / 299**2

    expected = hsic(first, second) / math.sqrt(hsic(first, first) * hsic(second, second))
    assert labelfree.cka(first, second) == pytest.approx(expected, rel=1e-9)
    assert 0.1 < expected < 0.95


def test_many_rows_are_the_same_as_one_block(features: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = moments(features), labelfree.cka(features, features[:, :5])
    monkeypatch.setattr(labelfree, "_ROWS", 77)
    parts = moments(features), labelfree.cka(features, features[:, :5])
    np.testing.assert_allclose(parts[0].gram, whole[0].gram, rtol=1e-12)
    assert parts[1] == pytest.approx(whole[1], rel=1e-12)


# ------------------------------------------------------------------------------------------------- nothing there


def test_collapsed_features_have_a_reason_and_no_number() -> None:
    same = moments(np.full((50, 16), 2.5, dtype=np.float32))
    assert labelfree.rankme(same) == pytest.approx(1, abs=1e-4)  # one direction, the mean
    with pytest.raises(Undefined, match="the same feature"):
        labelfree.effective_rank(same)
    with pytest.raises(Undefined, match="eigenvalues above zero"):
        labelfree.alpha_req(same)
    with pytest.raises(Undefined, match="zero for every image"):
        labelfree.rankme(moments(np.zeros((50, 16))))
    with pytest.raises(Undefined, match="the same feature"):
        labelfree.cka(np.ones((50, 3)), _rng().normal(size=(50, 3)))
    with pytest.raises(Undefined, match="the same mean feature"):
        labelfree.lidar(np.tile(_rng().normal(size=(1, 4, 3)), (9, 1, 1)))
    with pytest.raises(ValueError, match="two views"):
        labelfree.lidar(np.ones((5, 1, 3)))


# --------------------------------------------------------------------------------------------------- correlation


def test_rank_correlation_by_its_formula() -> None:
    x = [3.0, 1.0, 4.0, 1.5, 5.0, 9.0, 2.0]
    y = [2.0, 1.0, 3.5, 3.0, 4.0, 8.0, 6.0]
    found = labelfree.rank_correlation(x, y)
    differences = scipy.stats.rankdata(x) - scipy.stats.rankdata(y)
    rho = 1 - 6 * (differences**2).sum() / (7 * 48)
    assert found.rho == pytest.approx(rho, rel=1e-12)
    reach = 1.959963984540054 * math.sqrt((1 + rho**2 / 2) / 4)
    assert isinstance(found.interval, Interval)
    assert found.interval.low == pytest.approx(math.tanh(math.atanh(rho) - reach), rel=1e-9)
    assert found.interval.high == pytest.approx(math.tanh(math.atanh(rho) + reach), rel=1e-9)


def test_the_interval_covers_the_population(subtests: pytest.Subtests) -> None:
    """Of a bivariate normal with correlation r the population's rank correlation is 6/pi asin(r/2)."""
    rng = _rng(11)
    for r in (0.0, 0.7):
        true = 6 / math.pi * math.asin(r / 2)
        for n in (6, 12, 30):
            hits = 0
            for _ in range(1000):
                x = rng.normal(size=n)
                y = r * x + math.sqrt(1 - r * r) * rng.normal(size=n)
                interval = labelfree.rank_correlation(x, y).interval
                hits += isinstance(interval, NoInterval) or interval.low <= true <= interval.high
            with subtests.test(r=r, n=n):
                assert 0.92 <= hits / 1000 <= 0.995


def test_what_has_no_correlation_or_no_interval() -> None:
    with pytest.raises(Undefined, match="fewer than five"):
        labelfree.rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])
    with pytest.raises(Undefined, match="equal"):
        labelfree.rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])
    found = labelfree.rank_correlation(range(6), [-1, -2, -3, -4, -5, -9])
    assert found.rho == -1
    assert isinstance(found.interval, NoInterval)
