"""Confidence intervals for average precision by resampling test images (the images are the clusters)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..numbers.intervals import around, percentile, resample_counts
from .average_precision import Curve, Floats, precisions

RESAMPLES = 1000
KIND = "bootstrap-se over test images"
PAIRED = "paired bootstrap over test images"
_CHUNK = 50  # resamples held at a time


def resampled(curves: Mapping[str, Curve], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Floats]:
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
    images = len(next(iter(curves.values())).classes[0].positives)
    weights = resample_counts(images, resamples, seed)
    parts: dict[str, list[Floats]] = {name: [] for name in curves}
    for start in range(0, resamples, _CHUNK):
        done: dict[tuple[int, int], Floats] = {}  # AP, AP50 and AP75 are read from the same matches
        for name, curve in curves.items():
            key = (id(curve.classes), len(curve.points))
            if key not in done:
                every = tuple(range(len(curve.classes[0].hit)))
                chunk = weights[start : start + _CHUNK]
                done[key] = precisions(curve.classes, every, curve.points, chunk)
            parts[name].append(curve.mean(done[key][:, :, list(curve.ious)]))
    return {name: np.concatenate(values) for name, values in parts.items()}


def intervals(
    curves: Mapping[str, Curve], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, float | str]]:
    """The value of every metric and its bootstrap standard error on either side, see `eval.numbers.intervals.around`.

    Returns:
        Metric -> ``{"low", "high", "kind", "level"}``, bounds in 0..1, as `eval.numbers.intervals.Interval` has them.
    """
    drawn = resampled(curves, resamples=resamples, seed=seed)
    found: dict[str, dict[str, float | str]] = {}
    for name, values in drawn.items():
        interval = around(curves[name].value(), values, level)
        found[name] = {"low": interval.low, "high": interval.high, "kind": KIND, "level": level}
    return found


def paired(
    first: Curve, second: Curve, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, float | str]:
    """How much better the second is than the first on the same resampled test sets.

    Args:
        first: A metric of one checkpoint.
        second: The same metric of another, on the same test images.

    Returns:
        ``{"difference", "low", "high", "kind", "level", "resamples"}``; differences in -1..1.

    Raises:
        ValueError: If the two were not measured on the same objects, or are not defined.
    """
    same = len(first.classes) == len(second.classes) and all(
        np.array_equal(a.positives, b.positives) for a, b in zip(first.classes, second.classes, strict=True)
    )
    difference = second.value() - first.value()
    if not same or math.isnan(difference):
        raise ValueError(
            "the two metrics were not measured on the same test images, or are not defined there"
        )
    a, b = (
        resampled({"metric": curve}, resamples=resamples, seed=seed)["metric"] for curve in (first, second)
    )
    interval = percentile(b - a, level, PAIRED)
    return {
        "difference": difference,
        "low": interval.low,
        "high": interval.high,
        "kind": PAIRED,
        "level": level,
        "resamples": resamples,
    }
