"""From scores and labels to numbers with their intervals, and to what is kept of every example."""

from __future__ import annotations

import functools

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
        found["ece"] = Estimate(metrics.ece(probabilities, labels))
    return found


def estimate(name: str, scores: Array, labels: Array) -> Estimate:
    """One metric: with Wilson's interval for a share of hits, else with a bootstrap."""
    value = metrics.METRICS[name](scores, labels)
    if name in ("top1", "top5"):
        return Estimate(value, intervals.wilson(round(value * len(labels)), len(labels)))
    return Estimate(value, bootstrap(name, value, scores, labels))


def bootstrap(name: str, value: float, scores: Array, labels: Array) -> intervals.Interval:
    """Bootstrap over test examples, always with the same resamples: of percentiles, for AP of its standard error."""
    step = max(1, 4_000_000 // len(labels))  # resamples held at a time
    drawn = [
        metrics.resampled(name, scores, labels, _drawn(len(labels), min(step, RESAMPLES - at), at))
        for at in range(0, RESAMPLES, step)
    ]
    values = np.concatenate(drawn)
    return intervals.percentile(values) if labels.ndim == 1 else intervals.around(value, values)


@functools.lru_cache(maxsize=1)  # cells on the same data come one after another
def _drawn(num_examples: int, resamples: int, seed: int) -> Array:
    counts = intervals.resample_counts(num_examples, resamples, seed)
    counts.flags.writeable = False
    return counts


def outcomes(scores: Array, labels: Array) -> dict[str, Array]:
    """What is kept of every example, for paired tests."""
    if labels.ndim == 1:
        return {
            "correct": metrics.correct(scores, labels),
            "predicted": scores.argmax(1).astype(np.int32),
            "labels": labels.astype(np.int32),
        }
    return {"scores": scores.astype(np.float32), "labels": labels.astype(np.int8)}
