"""Metrics of semantic segmentation, from confusion matrices: pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .intervals import few

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


@dataclass(frozen=True)
class Sums:
    """What every metric of segmentation is made of.

    Attributes:
        hits: (..., C) pixels of each class that were found.
        truth: (..., C) pixels that have the class.
        found: (..., C) pixels that were said to have it.
    """

    hits: Array
    truth: Array
    found: Array

    @classmethod
    def of(cls, matrices: Array) -> Sums:
        """Those of confusion matrices (..., C, C), rows the truth."""
        return cls(np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2))

    def total(self) -> Sums:
        """Those of all images together: (N, C) to (C,)."""
        return Sums(self.hits.sum(0), self.truth.sum(0), self.found.sum(0))

    def weighted(self, counts: Array) -> Sums:
        """Those of resamples of the images: (N, C), with (R, N) how often each image is in each, to (R, C)."""
        return Sums(*(counts @ part.astype(np.float64) for part in (self.hits, self.truth, self.found)))


def sums(confusions: Array, images: int, num_classes: int) -> Sums:
    """Sums of every image, (N, C), from confusions as they are kept.

    Args:
        confusions: (K, 4) image, true class, predicted class, pixels.
        images: N.
        num_classes: C.
    """
    image, true, predicted, pixels = confusions.T.astype(np.int64)
    hits, truth, found = np.zeros((3, images, num_classes), dtype=np.int64)
    np.add.at(truth, (image, true), pixels)
    np.add.at(found, (image, predicted), pixels)
    right = true == predicted
    hits[image[right], true[right]] = pixels[right]
    return Sums(hits, truth, found)


def ious(parts: Sums) -> npt.NDArray[np.float64]:
    """Intersection over union of every class (Everingham et al. 2010), (..., C); NaN for one that the truth lacks."""
    return _share(parts.hits, parts.truth + parts.found - parts.hits, parts.truth)


def miou(parts: Sums) -> npt.NDArray[np.float64]:
    """Mean IoU over the classes that the truth has: (..., C) -> (...), NaN without any."""
    return _mean(ious(parts))


def mean_accuracy(parts: Sums) -> npt.NDArray[np.float64]:
    """Mean over classes of the share of their pixels that was found: (..., C) -> (...)."""
    return _mean(_share(parts.hits, parts.truth, parts.truth))


def pixel_accuracy(parts: Sums) -> npt.NDArray[np.float64]:
    """Share of pixels that is right: (..., C) -> (...)."""
    truth = parts.truth.sum(-1)
    return _share(parts.hits.sum(-1), truth, truth)


def _share(hits: Array, of: Array, defined: Array) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(defined > 0, hits / of, np.nan)


def _mean(values: Array) -> npt.NDArray[np.float64]:
    defined = ~np.isnan(values)
    count = defined.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, np.where(defined, values, 0.0).sum(-1) / count, np.nan)


METRICS = {"miou": miou, "mean_accuracy": mean_accuracy, "pixel_accuracy": pixel_accuracy}


def lacking(metric: str, parts: Sums) -> float:
    """What a bootstrap's variance over images is to be multiplied with, see `intervals.few`.

    A mean over classes rests on the images that hold each class, the share of all pixels on all images.

    Args:
        metric: A key of `METRICS`.
        parts: Of every image, (N, C).
    """
    if metric == "pixel_accuracy":
        return few(np.array([len(parts.truth)]))[1]
    return few((parts.truth > 0).sum(0))[1]
