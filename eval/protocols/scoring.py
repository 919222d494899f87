"""From scores and labels to numbers with their intervals, and to what is kept of every example."""

from __future__ import annotations

import numpy as np

from ..numbers import intervals, metrics
from .base import Array, Estimate

RESAMPLES = 1000


def estimates(
    metric: str, scores: Array, labels: Array, probabilities: Array | None = None
) -> dict[str, Estimate]:
    """The metric first, then what else the scores tell.

    Args:
        metric: The metric that stands in tables.
        scores: (N, C), higher for the class that is thought right.
        labels: (N,) or (N, C).
        probabilities: (N, C) for the expected calibration error, where the protocol has them.
    """
    names = [metric]
    if labels.ndim == 1:
        names += ["top1", "mean_per_class", *(["top5"] if scores.shape[1] > 5 else [])]
    found = {name: estimate(name, scores, labels) for name in dict.fromkeys(names)}
    if probabilities is not None:
        confidence, hits = probabilities.max(1), metrics.correct(probabilities, labels)
        found["ece"] = Estimate(metrics.ece(probabilities, labels), intervals.calibration(confidence, hits))
    return found


def estimate(name: str, scores: Array, labels: Array) -> Estimate:
    """One metric with the interval that fits it."""
    value = metrics.METRICS[name](scores, labels)
    if name in ("top1", "top5"):
        return Estimate(value, intervals.wilson(round(value * len(labels)), len(labels)))
    if name == "mean_per_class":
        return Estimate(value, intervals.mean_per_class(metrics.correct(scores, labels), labels))
    positives = (labels > 0).sum(0)
    return Estimate(value, intervals.average_precision(value, resampled(name, scores, labels), positives))


def resampled(name: str, scores: Array, labels: Array) -> Array:
    """(1000,) the metric on resamples of the test examples, always the same ones."""
    step = max(1, 4_000_000 // len(labels))  # resamples held at a time
    drawn = [
        metrics.resampled(
            name, scores, labels, intervals.resample_counts(len(labels), min(step, RESAMPLES - at), at)
        )
        for at in range(0, RESAMPLES, step)
    ]
    found: Array = np.concatenate(drawn)
    return found


def outcomes(scores: Array, labels: Array, probabilities: Array | None = None) -> dict[str, Array]:
    """What is kept of every example, for paired tests."""
    if labels.ndim == 1:
        found: dict[str, Array] = {
            "correct": metrics.correct(scores, labels),
            "predicted": scores.argmax(1).astype(np.int32),
            "labels": labels.astype(np.int32),
        }
        if scores.shape[1] > 5:
            found["among5"] = metrics.among(scores, labels, 5)
        if probabilities is not None:
            found["confidence"] = probabilities.max(1).astype(np.float32)
        return found
    return {"scores": scores.astype(np.float32), "labels": labels.astype(np.int8)}
