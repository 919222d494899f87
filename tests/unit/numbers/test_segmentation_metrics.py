"""Metrics of segmentation against hand calculations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, jaccard_score

from eval.numbers import segmentation
from eval.numbers.segmentation import IGNORED, Sums, ious, mean_accuracy, miou, pixel_accuracy

confusion = segmentation.confusion


def sums_of(truth: np.ndarray, predicted: np.ndarray, number: int) -> Sums:
    return Sums.of(confusion(truth, predicted, number))


def test_the_truth_fed_back_is_perfect() -> None:
    truth = np.random.default_rng(0).integers(0, 4, (20, 30))
    matrix = sums_of(truth, truth, 5)
    assert miou(matrix) == mean_accuracy(matrix) == pixel_accuracy(matrix) == 1.0
    assert np.isnan(ious(matrix)[4])  # a class that is nowhere counts for nothing


def test_a_square_shifted_by_one_pixel() -> None:
    truth = np.zeros((10, 10), dtype=int)
    truth[2:6, 2:6] = 1
    shifted = np.roll(truth, 1, axis=1)
    matrix = sums_of(truth, shifted, 2)
    # 12 of 16 pixels overlap; 20 in the union. Background: 80 of 88.
    assert ious(matrix) == pytest.approx([80 / 88, 12 / 20])
    assert miou(matrix) == pytest.approx((80 / 88 + 12 / 20) / 2)
    assert mean_accuracy(matrix) == pytest.approx((80 / 84 + 12 / 16) / 2)
    assert pixel_accuracy(matrix) == pytest.approx(92 / 100)


def test_ignored_pixels_never_count() -> None:
    generator = np.random.default_rng(1)
    truth, predicted = generator.integers(0, 3, (2, 15, 15))
    masked = truth.copy()
    masked[:, :5] = IGNORED
    assert np.array_equal(confusion(masked, predicted, 3), confusion(truth[:, 5:], predicted[:, 5:], 3))
    assert confusion(np.full((4, 4), IGNORED), np.zeros((4, 4)), 3).sum() == 0
    assert np.isnan(miou(sums_of(np.full((4, 4), IGNORED), np.zeros((4, 4)), 3)))


def test_against_scikit_learn() -> None:
    generator = np.random.default_rng(2)
    truth, predicted = generator.integers(0, 6, (2, 500))
    matrix = confusion(truth[None], predicted[None], 6)
    assert np.array_equal(matrix, confusion_matrix(truth, predicted))
    matrix = Sums.of(matrix)
    assert miou(matrix) == pytest.approx(jaccard_score(truth, predicted, average="macro"))
    assert mean_accuracy(matrix) == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_a_predicted_class_that_the_truth_lacks_hurts_others_alone() -> None:
    matrix = sums_of(np.array([[0, 0, 1]]), np.array([[0, 2, 1]]), 3)
    assert ious(matrix)[:2] == pytest.approx([0.5, 1.0])
    assert miou(matrix) == pytest.approx(0.75)


def test_resamples_are_sums_of_images_and_kept_confusions_give_the_matrices_back() -> None:
    generator = np.random.default_rng(3)
    matrices = generator.integers(0, 9, (4, 3, 3))
    kept = [[i, *place, matrices[i][tuple(place)]] for i in range(4) for place in np.argwhere(matrices[i])]
    sums = segmentation.sums(np.array(kept), 4, 3)
    found = sums.weighted(np.array([[1, 1, 1, 1], [0, 2, 0, 2]]))
    for row, expected in enumerate((matrices.sum(0), 2 * (matrices[1] + matrices[3]))):
        of = Sums.of(expected)
        for part in ("hits", "truth", "found"):
            assert np.array_equal(getattr(found, part)[row], getattr(of, part))
    assert miou(found).shape == (2,)
    assert miou(sums.total()) == pytest.approx(miou(Sums.of(matrices.sum(0))))


@pytest.mark.parametrize(
    ("truth", "predicted"), [([[0, 3]], [[0, 1]]), ([[0, 1]], [[0, -1]]), ([[0]], [[0, 1]])]
)
def test_values_that_are_no_class_are_refused(truth: list[list[int]], predicted: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"values from|a mask of"):
        confusion(np.array(truth), np.array(predicted), 3)
