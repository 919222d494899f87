"""From what is kept of every example to the interval of a metric: once for new cells and for records read again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from . import depth, intervals, metrics, pool, segmentation
from .intervals import Array, Interval, NoInterval

RESAMPLES: Final = 1000
HITS: Final = {"top1": "correct", "top5": "among5"}


def interval(metric: str, value: float, arrays: Mapping[str, Array]) -> Interval | NoInterval | None:
    """The interval that fits a metric.

    Args:
        metric: Its name.
        value: What was measured.
        arrays: ``correct``, ``among5`` (N,) bool, ``labels`` (N,) int, ``confidence`` (N,); ``scores`` and ``labels``
            (N, C); ``episodes`` (E,) and ``contributions`` (2, images); ``confusions`` (K, 4) and ``shape`` (2,), see
            `segmentation.sums`; or ``depth`` (images, 5), see `depth.of_image`.

    Returns:
        None if the arrays do not tell.
    """
    if (key := HITS.get(metric, "")) in arrays:
        return intervals.wilson(int(arrays[key].sum()), len(arrays[key]))
    if metric == "mean_per_class" and {"correct", "labels"} <= arrays.keys():
        return intervals.mean_per_class(arrays["correct"], arrays["labels"])
    if metric == "ece" and {"correct", "confidence"} <= arrays.keys():
        return intervals.calibration(arrays["confidence"].astype(np.float64), arrays["correct"])
    if metric.startswith("map11"):
        return intervals.ELEVEN_POINTS
    if metric in metrics.METRICS and "scores" in arrays:
        labels = arrays["labels"]
        drawn = resampled(metric, arrays["scores"], labels)
        return intervals.average_precision(value, drawn, (labels > 0).sum(0))
    if metric == "top1" and "contributions" in arrays:
        return pool.interval(arrays["contributions"], arrays["episodes"])
    if metric in segmentation.METRICS and "confusions" in arrays:
        drawn, lacking = of_masks(metric, arrays)
        return intervals.over_images(value, drawn, int(arrays["shape"][0]), lacking)
    if metric in depth.SHARES and "depth" in arrays:
        return intervals.mean_share(arrays["depth"][:, depth.NAMES.index(metric)].astype(np.float64))
    return None


def of_masks(metric: str, arrays: Mapping[str, Array]) -> tuple[Array, float]:
    """A metric of segmentation on resamples of the test images, always the same ones.

    Args:
        metric: A key of `segmentation.METRICS`.
        arrays: ``confusions`` and ``shape``.

    Returns:
        (1000,) values, and what their variance lacks where few images hold a class.
    """
    images, classes = arrays["shape"].tolist()
    sums = segmentation.sums(arrays["confusions"], images, classes)
    drawn = segmentation.METRICS[metric](sums.weighted(_counts(images, RESAMPLES, 0)))
    return drawn, segmentation.lacking(metric, sums)


def resampled(metric: str, scores: Array, labels: Array) -> Array:
    """(1000,) a metric on resamples of the examples, always the same ones: two checkpoints pair on them.

    Args:
        metric: A key of `metrics.METRICS`.
        scores: (N, C).
        labels: (N, C).
    """
    step = max(1, 4_000_000 // len(labels))  # resamples held at a time
    exact = scores.astype(np.float64)
    drawn = [
        metrics.resampled(metric, exact, labels, _counts(len(labels), min(step, RESAMPLES - at), at))
        for at in range(0, RESAMPLES, step)
    ]
    found: Array = np.concatenate(drawn)
    return found


@lru_cache(maxsize=1)  # cells on the same data come one after another
def _counts(num_examples: int, resamples: int, seed: int) -> Array:
    counts = intervals.resample_counts(num_examples, resamples, seed)
    counts.flags.writeable = False
    return counts
