"""Metrics of semantic segmentation, from confusion matrices: pure functions on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
IGNORED = -1  # in a mask: counts for nothing


def confusion(truth: Array, predicted: Array, num_classes: int) -> npt.NDArray[np.int64]:
    """Pixels by true and predicted class.

    Args:
        truth: (H, W) integers, a class or `IGNORED`.
        predicted: (H, W) integers, a class.
        num_classes: C.

    Returns:
        (C, C), rows the truth; ignored pixels are in no cell.

    Raises:
        ValueError: If the shapes differ or a value is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a mask of {truth.shape} and a prediction of {predicted.shape}")
    counted = truth != IGNORED
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, values in (("mask", rows), ("prediction", columns)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"the {name} has values from {values.min()} to {values.max()}, C is {num_classes}"
            )
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def ious(matrices: Array) -> npt.NDArray[np.float64]:
    """Intersection over union of every class (Everingham et al. 2010), NaN for one that the truth does not have.

    Args:
        matrices: (..., C, C) confusion matrices.

    Returns:
        (..., C).
    """
    hits = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    truth, found = matrices.sum(-1), matrices.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, hits / (truth + found - hits), np.nan)


def miou(matrices: Array) -> npt.NDArray[np.float64]:
    """Mean IoU over the classes that the truth has: (..., C, C) -> (...), NaN without any."""
    return _mean(ious(matrices))


def mean_accuracy(matrices: Array) -> npt.NDArray[np.float64]:
    """Mean over classes of the share of their pixels that was found: (..., C, C) -> (...)."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    truth = matrices.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _mean(np.where(truth > 0, hits / truth, np.nan))


def pixel_accuracy(matrices: Array) -> npt.NDArray[np.float64]:
    """Share of pixels that is right: (..., C, C) -> (...)."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1).sum(-1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(hits / matrices.sum((-2, -1)), dtype=np.float64)


def _mean(values: Array) -> npt.NDArray[np.float64]:
    defined = ~np.isnan(values)
    count = defined.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, np.where(defined, values, 0.0).sum(-1) / count, np.nan)


METRICS = {"miou": miou, "mean_accuracy": mean_accuracy, "pixel_accuracy": pixel_accuracy}


def resampled(matrices: Array, counts: Array) -> npt.NDArray[np.float64]:
    """Confusion matrices of bootstrap resamples of the images.

    Args:
        matrices: (N, C, C), one an image.
        counts: (R, N), how often each image is in each resample.

    Returns:
        (R, C, C).
    """
    flat = matrices.reshape(len(matrices), -1).astype(np.float64)
    return (counts @ flat).reshape(len(counts), *matrices.shape[1:])
