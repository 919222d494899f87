"""Metrics against hand-computed values and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from eval.numbers import metrics


def test_top1_and_topk_by_hand() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    labels = np.array([0, 0, 0])
    assert metrics.top1(scores, labels) == pytest.approx(1 / 3)
    assert metrics.topk(scores, labels, 2) == pytest.approx(2 / 3)
    assert metrics.top5(scores, labels) == 1.0


def test_ties_go_to_the_lower_class() -> None:
    scores = np.zeros((2, 3))
    assert metrics.top1(scores, np.array([0, 1])) == 0.5
    assert metrics.topk(scores, np.array([1, 2]), 2) == 0.5


def test_mean_per_class_weighs_classes_alike() -> None:
    scores = np.eye(2)[[0, 0, 0, 0]]
    # Class 0: 3 of 3; class 1: 0 of 1.
    assert metrics.mean_per_class(scores, np.array([0, 0, 0, 1])) == 0.5


def ap11_of_ssl_transfer(truth: np.ndarray, scores: np.ndarray) -> float:
    """The definition written out: the largest precision at recall of at least t, over eleven t."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    points = [np.max(precision[recall >= t]) if (recall >= t).any() else 0.0 for t in np.linspace(0, 1, 11)]
    return float(np.mean(points))


def area_of_vissl(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under the interpolated curve, one point an example, written out as a loop (distinct scores)."""
    order = np.argsort(-scores)
    hits = np.cumsum(truth[order])
    precision = hits / np.arange(1, len(truth) + 1)
    recall = hits / truth.sum()
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    area, before = 0.0, 0.0
    for p, r in zip(precision, recall, strict=True):
        area += (r - before) * p
        before = r
    return area


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_its_definitions(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = (generator.random(60) < 0.3).astype(float)
    scores = generator.normal(size=60) + truth
    assert metrics.average_precision(scores, truth) == pytest.approx(area_of_vissl(truth, scores), abs=1e-12)
    # Coarse scores make ties, which share a threshold.
    coarse = np.round(scores)
    for values in (scores, coarse):
        found = metrics.average_precision(values, truth, points=11, start=1.0)
        assert found == pytest.approx(ap11_of_ssl_transfer(truth, values), abs=1e-12)


def test_ties_one_by_one_are_a_matter_of_order() -> None:
    """Three equal scores, one of them of a positive: first, it gives 1; last, 1/3; together, 1/3."""
    scores, first = np.full(3, 0.5), np.array([1.0, 0.0, 0.0])
    assert metrics.average_precision(scores, first) == pytest.approx(1 / 3)
    assert metrics.average_precision(scores, first, ties="devkit") == pytest.approx(1)
    assert metrics.average_precision(scores, first[::-1], ties="devkit") == pytest.approx(1 / 3)
    # Few equal values keep their order in numpy's sort, which VISSL turns round.
    assert metrics.average_precision(scores, first, ties="vissl") == pytest.approx(1 / 3)
    assert metrics.average_precision(scores, first[::-1], ties="vissl") == pytest.approx(1)
    with pytest.raises(ValueError, match="ties is 'some'"):
        metrics.average_precision(scores, first, ties="some")
    # Without ties all three are one.
    scores, labels = (
        np.random.default_rng(0).normal(size=(50, 3)),
        np.random.default_rng(1).integers(0, 2, (50, 3)),
    )
    assert metrics.map_area(scores, labels) == metrics.map_area_vissl(scores, labels)
    assert metrics.map11(scores, labels) == metrics.map11_devkit(scores, labels)


def test_difficult_examples() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    labels = np.array([-1.0, 1.0, 0.0, 1.0])
    # Dropped: ranks +, -, + : precision 1, then 2/3 : interpolated area (1 + 2/3) / 2.
    assert metrics.average_precision(scores, labels) == pytest.approx(5 / 6)
    # Negative: ranks -, +, -, + : precision 1/2 at both recalls.
    assert metrics.average_precision(scores, labels, difficult="negative") == pytest.approx(0.5)


def test_map_leaves_out_classes_without_positives() -> None:
    scores = np.array([[0.9, 0.1], [0.1, 0.9]])
    labels = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert metrics.map11(scores, labels) == 1.0
    with pytest.raises(ValueError, match="no class"):
        metrics.map11(scores, np.zeros((2, 2)))


def test_perfect_and_worst_ranking() -> None:
    labels = np.array([[1.0], [1.0], [0.0], [0.0]])
    assert metrics.map_area(np.array([[4.0], [3.0], [2.0], [1.0]]), labels) == 1.0
    # Positives last: precision 1/3 then 1/2, interpolated 1/2 at both.
    assert metrics.map_area(np.array([[1.0], [2.0], [3.0], [4.0]]), labels) == pytest.approx(0.5)


def test_ece_by_hand() -> None:
    # Two at confidence 0.9, one right: |0.5 - 0.9|; two at 0.6, both right: |1 - 0.6|.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert metrics.ece(probabilities, np.array([0, 1, 0, 0]), bins=10) == pytest.approx(0.4)
    assert metrics.ece(np.eye(2)[[0, 1]], np.array([0, 1])) == 0.0
    with pytest.raises(ValueError, match="softmax"):
        metrics.ece(probabilities * 3, np.array([0, 1, 0, 0]))


@pytest.mark.parametrize(
    "name",
    [
        "top1",
        "top5",
        "mean_per_class",
        "map11",
        "map11_ericsson2021",
        "map_area",
        "map11_devkit",
        "map_area_vissl",
    ],
)
def test_resampling_is_the_metric_of_the_resampled_examples(name: str) -> None:
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(40, 7))
    multi = name.startswith("map")
    labels = generator.integers(-1, 2, (40, 7)).astype(float) if multi else generator.integers(7, size=40)
    chosen = generator.integers(40, size=(3, 40))
    weights = np.stack([np.bincount(row, minlength=40) for row in chosen]).astype(float)
    expected = [metrics.METRICS[name](scores[row], labels[row]) for row in chosen]
    np.testing.assert_allclose(metrics.resampled(name, scores, labels, weights), expected, atol=1e-12)


def test_metrics_do_not_depend_on_order_or_scale() -> None:
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=(30, 4)), generator.integers(4, size=30)
    order = generator.permutation(30)
    for name in ("top1", "top5", "mean_per_class"):
        metric = metrics.METRICS[name]
        assert metric(scores, labels) == pytest.approx(metric(scores[order] * 7 + 1, labels[order]))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), "do not fit"),
        (np.zeros((0, 2)), np.zeros(0, int), "no examples"),
        (np.full((1, 2), np.nan), np.zeros(1, int), "NaN"),
    ],
)
def test_nonsense_is_refused(scores: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.top1(scores, labels)
