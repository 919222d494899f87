"""From scores and labels to numbers with their intervals, and to what is kept of every example."""

from __future__ import annotations

import numpy as np

from ..numbers import intervals, kept, metrics
from .base import Array, Estimate


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
    arrays = outcomes(scores, labels, probabilities)
    values = {name: metrics.METRICS[name](scores, labels) for name in dict.fromkeys(names)}
    if probabilities is not None and labels.ndim == 1:
        values["ece"] = metrics.ece(probabilities, labels)
    missing = intervals.NoInterval("no method is known")
    return {name: Estimate(v, kept.interval(name, v, arrays) or missing) for name, v in values.items()}


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
