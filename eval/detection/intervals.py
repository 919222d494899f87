"""Intervals and paired tests for detection metrics by resampling test images (the images are the clusters)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..numbers import tests
from ..numbers.intervals import (
    ELEVEN_POINTS,
    Interval,
    NoInterval,
    average_precision,
    few,
    resample_counts,
)
from ..numbers.tests import Paired
from .average_precision import VOC_POINTS, Curve, Floats, Recall, precisions

RESAMPLES = 1000
KIND = "wilson-bootstrap over test images"
PAIRED = "paired-bootstrap over test images"
_CHUNK = 50  # resamples held at a time


def resampled(
    curves: Mapping[str, Curve | Recall], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Floats]:
    """Metrics on resampled test sets.

    Args:
        curves: What `evaluate` kept, of one set of predictions.
        resamples: How many test sets to draw, each as large as the real one, with replacement.
        seed: Draws them; two checkpoints with one seed see the same test sets, which pairs them.

    Returns:
        Metric -> ``(resamples,)`` in 0..1, NaN for a test set on which the metric is not defined.
    """
    if not curves:
        return {}
    images = next(iter(curves.values())).positives.shape[1]
    weights = resample_counts(images, resamples, seed)
    parts: dict[str, list[Floats]] = {name: [] for name in curves}
    for start in range(0, resamples, _CHUNK):
        chunk = weights[start : start + _CHUNK]
        done: dict[tuple[int, int], Floats] = {}  # AP, AP50 and AP75 are read from the same matches
        for name, curve in curves.items():
            if isinstance(curve, Recall):
                parts[name].append(curve.values(chunk))
                continue
            key = (id(curve.classes), len(curve.points))
            if key not in done:
                every = tuple(range(len(curve.classes[0].hit)))
                done[key] = precisions(curve.classes, every, curve.points, chunk)
            parts[name].append(curve.mean(done[key][:, :, list(curve.ious)]))
    return {name: np.concatenate(values) for name, values in parts.items()}


def intervals(
    curves: Mapping[str, Curve | Recall], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | NoInterval]:
    """An interval for every metric, as `eval.numbers.intervals.average_precision` has it.

    What counts as a positive of a class is an image that holds it: objects of one image are found or missed together.
    By eleven points there is none.
    """
    smooth = {name: curve for name, curve in curves.items() if not _jumps(curve)}
    drawn = resampled(smooth, resamples=resamples, seed=seed)
    return {
        name: ELEVEN_POINTS
        if _jumps(curve)
        else average_precision(curve.value(), drawn[name], _holding(curve), KIND, level)
        for name, curve in curves.items()
    }


def paired(
    first: Curve | Recall,
    second: Curve | Recall,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """How much better the second is than the first on the same resampled test sets; see `tests.resampled`.

    Args:
        first: A metric of one checkpoint.
        second: The same metric of another, on the same test images.

    Raises:
        ValueError: If the two were not measured on the same objects, or are not defined.
    """
    difference = second.value() - first.value()
    if not np.array_equal(first.positives, second.positives) or math.isnan(difference):
        raise ValueError(
            "the two metrics were not measured on the same test images, or are not defined there"
        )
    if _jumps(first):
        return Paired(difference, ELEVEN_POINTS, None)
    a, b = (
        resampled({"metric": curve}, resamples=resamples, seed=seed)["metric"] for curve in (first, second)
    )
    size, lacking = few(_holding(first))
    unseen = sum(curve.unseen() for curve in (first, second) if isinstance(curve, Curve))
    return tests.resampled([difference], b - a, size, lacking, unseen, kind=PAIRED, level=level)


def _jumps(curve: Curve | Recall) -> bool:
    return isinstance(curve, Curve) and len(curve.points) == len(VOC_POINTS)


def _holding(curve: Curve | Recall) -> Floats:
    """(K,) how many images hold each class."""
    return np.asarray((curve.positives > 0).sum(axis=1), dtype=np.float64)
