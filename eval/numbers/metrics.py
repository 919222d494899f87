"""Metrics of classification, pure functions on arrays. All are fractions in [0, 1]; higher is better but for ECE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _check(scores: Array, labels: Array) -> None:
    if scores.ndim != 2 or len(scores) != len(labels):
        raise ValueError(f"scores {scores.shape} do not fit labels {labels.shape}: need (N, C) and N labels")
    if not len(labels):
        raise ValueError("no examples to measure")
    if not np.isfinite(scores).all():
        raise ValueError("the scores hold NaN or infinities")


def correct(scores: Array, labels: Array) -> npt.NDArray[np.bool_]:
    """Whether the largest score is the label's; a tie goes to the lower class index, as argmax does.

    Args:
        scores: (N, C) float.
        labels: (N,) int in [0, C).

    Returns:
        (N,) bool.
    """
    _check(scores, labels)
    result: npt.NDArray[np.bool_] = scores.argmax(1) == labels
    return result


def top1(scores: Array, labels: Array) -> float:
    """Share of examples whose largest score is the label's.

    >>> top1(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    0.5
    """
    return float(correct(scores, labels).mean())


def among(scores: Array, labels: Array, k: int) -> npt.NDArray[np.bool_]:
    """(N,) whether the label is among the ``k`` largest scores.

    Equal scores are counted against the label where the other class has the lower index, as in `correct`.
    """
    _check(scores, labels)
    own = np.take_along_axis(scores, labels[:, None], 1)
    ties = (scores == own) & (np.arange(scores.shape[1]) < labels[:, None])
    result: npt.NDArray[np.bool_] = ((scores > own) | ties).sum(1) < k
    return result


def topk(scores: Array, labels: Array, k: int = 5) -> float:
    """Share of examples whose label is `among` the ``k`` largest scores; with k >= C it is 1."""
    return float(among(scores, labels, k).mean())


def top5(scores: Array, labels: Array) -> float:
    """`topk` with k = 5."""
    return topk(scores, labels, 5)


def mean_per_class(scores: Array, labels: Array) -> float:
    """Mean over the classes that occur in ``labels`` of the accuracy within the class.

    >>> mean_per_class(np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1]))
    0.5
    """
    hits = correct(scores, labels)
    return float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))


def class_contributions(hits: Array, labels: Array) -> npt.NDArray[np.float64]:
    """What each example adds to the mean over classes: its mean is the metric, its spread that within classes.

    The sizes of the classes are given, so that only examples of one class are exchangeable. Classes of a single
    example are taken together, since one example has no spread.

    Args:
        hits: (N,) 1 where an example is right, else 0.
        labels: (N,) its class.

    Returns:
        (N,), to be treated as independent values.
    """
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    accuracy = np.bincount(place, hits) / count
    _, stratum, size = np.unique(
        np.where(count[place] == 1, -1, place), return_inverse=True, return_counts=True
    )
    centre = (np.bincount(stratum, hits) / size)[stratum]
    unbiased = np.sqrt(size / np.maximum(size - 1, 1))[stratum]
    weight = len(place) / (len(count) * count[place])
    found: npt.NDArray[np.float64] = float(accuracy.mean()) + weight * (hits - centre) * unbiased
    return found


def class_size(labels: Array) -> float:
    """How many values of equal weight say as much of the spread of `class_contributions`, for a t test.

    Satterthwaite's degrees of freedom plus one, where the variance within all classes is the same; small classes
    weigh more than their number. Classes of a single example are taken together.

    Args:
        labels: (N,) class of every example.
    """
    _, count = np.unique(labels, return_counts=True)
    weights, sizes = 1 / count[count > 1], count[count > 1].astype(np.float64)
    if single := int((count == 1).sum()):
        weights, sizes = np.append(weights, single), np.append(sizes, max(single, 2))
    return float(weights.sum() ** 2 / (weights**2 / (sizes - 1)).sum()) + 1


def unseen_in_classes(contributed: Array, labels: Array) -> npt.NDArray[np.float64]:
    """Variance of differences of means over classes that the examples do not show, for all pairs of R checkpoints.

    Where two agree on all examples of a class, its differences have no variance, though other examples would have
    some. If the class is small an example of it weighs much, so that most of the variance may be missing. A quarter
    of an example on which the two disagree is added, of the class among them whose examples weigh most.

    Args:
        contributed: (R, N) `class_contributions`.
        labels: (N,) class of every example.

    Returns:
        (R, R).
    """
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    stratum = np.where(count[place] == 1, -1, place)
    order = np.argsort(stratum, kind="stable")
    _, starts = np.unique(stratum[order], return_index=True)
    unseen = (1 / (len(count) * count[place[order[starts]]])) ** 2 / 4  # of each class
    values = contributed[:, order]
    found = np.zeros((len(values),) * 2)
    for row, one in enumerate(values):
        delta = one - values  # (R, N)
        spread = np.maximum.reduceat(delta, starts, axis=1) - np.minimum.reduceat(delta, starts, axis=1)
        found[row] = np.where(spread < 1e-9, unseen, 0.0).max(1)
    return found


def _precision_recall(
    scores: Array, positive: Array, weights: Array | None = None, ties: str = "together"
) -> tuple[Array, Array]:
    """Precision and recall at every threshold that adds a positive, descending; with weights (..., N), one a row.

    At all others recall stays and precision falls.
    """
    if ties not in ("together", "devkit", "vissl"):
        raise ValueError(f"ties is '{ties}', it can be 'together', 'devkit' or 'vissl'")
    # VISSL reverses numpy's ascending order, which is another order of equal scores than a descending one.
    order = np.argsort(scores)[::-1] if ties == "vissl" else np.argsort(-scores, kind="stable")
    found = np.flatnonzero(positive[order])
    last = found
    if ties == "together":  # the last of all that have the same score
        last = np.searchsorted(-scores[order], -scores[order][found], side="right") - 1
    weight = np.ones(len(scores)) if weights is None else weights[..., order]
    seen = np.cumsum(weight, axis=-1)[..., last]
    # All positives down to that threshold, also those that come after this one with the same score.
    hits = np.cumsum(weight[..., found], axis=-1)[..., np.searchsorted(found, last, side="right") - 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / hits[..., -1:]
        precision = np.where(seen > 0, hits / seen, 0.0)
    return precision, recall


def _interpolated(scores: Array, positive: Array, weights: Array | None, ties: str) -> tuple[Array, Array]:
    """Precision made non-increasing in recall, and recall."""
    precision, recall = _precision_recall(scores, positive, weights, ties)
    return np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1], recall


def average_precision(
    scores: Array,
    labels: Array,
    *,
    points: int | None = None,
    difficult: str = "drop",
    start: float = 0.0,
    ties: str = "together",
    weights: Array | None = None,
) -> Array:
    """Average precision of one class.

    Args:
        scores: (N,) float.
        labels: (N,) with 1 present, 0 absent, -1 present but difficult.
        points: 11 for VOC2007's mean of the interpolated precision at recalls 0, 0.1, ..., 1; None for the area
            under the interpolated curve (VISSL's `get_precision_recall`, VOC2010 on).
        difficult: "drop" leaves difficult examples out (VISSL, the devkit); "negative" counts them as absent
            (ssl-transfer).
        start: Precision at recall 0 at least; matters with ``points`` only.
        ties: Equal scores share one threshold ("together"), which no order of the examples can move; or come one by
            one, in the order of the examples ("devkit", VOC's Matlab code) or as VISSL's code sorts them ("vissl").
        weights: (..., N) weights of the examples, for resampling.

    Returns:
        A scalar array, or (...,) with weights; NaN where there is no positive.
    """
    if difficult == "drop":
        keep = labels >= 0
        scores, labels = scores[keep], labels[keep]
        weights = None if weights is None else weights[..., keep]
    elif difficult != "negative":
        raise ValueError(f"difficult is '{difficult}', it can be 'drop' or 'negative'")
    if not (labels > 0).any():
        return np.full(() if weights is None else weights.shape[:-1], np.nan)
    precision, recall = _interpolated(scores, (labels > 0).astype(np.float64), weights, ties)
    none = np.isnan(recall[..., -1])
    if points is None:
        steps = np.diff(recall, axis=-1, prepend=0.0)
        return np.where(none, np.nan, np.nansum(steps * precision, axis=-1))
    # The interpolated precision at recall t is that of the first point whose recall reaches t.
    total = np.zeros(recall.shape[:-1])
    for threshold in np.linspace(0, 1, points):
        reached = recall >= threshold
        first = np.take_along_axis(precision, reached.argmax(-1)[..., None], -1)[..., 0]
        total += np.where(reached.any(-1), np.maximum(first, start if threshold == 0 else 0.0), 0.0)
    return np.where(none, np.nan, total / points)


def _mean_ap(scores: Array, labels: Array, **options: Any) -> float:
    _check(scores, labels)
    if labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} must have the shape of the scores {scores.shape}")
    values = [average_precision(scores[:, c], labels[:, c], **options) for c in range(scores.shape[1])]
    if np.isnan(values).all():
        raise ValueError("no class has a positive example")
    return float(np.nanmean(values))


def map11(scores: Array, labels: Array) -> float:
    """11-point mean average precision (VOC2007), difficult examples dropped, classes without positives left out."""
    return _mean_ap(scores, labels, **_AP_OPTIONS["map11"])


def map11_ericsson2021(scores: Array, labels: Array) -> float:
    """`map11` as ssl-transfer computes it: difficult examples count as negatives, and precision at recall 0 is 1.

    The latter comes from scikit-learn's `precision_recall_curve`, which appends the point (recall 0, precision 1).
    """
    return _mean_ap(scores, labels, **_AP_OPTIONS["map11_ericsson2021"])


def map11_devkit(scores: Array, labels: Array) -> float:
    """`map11` with equal scores one by one, as VOC2007's development kit has them."""
    return _mean_ap(scores, labels, **_AP_OPTIONS["map11_devkit"])


def map_area(scores: Array, labels: Array) -> float:
    """Mean average precision as the area under the interpolated curve, difficult examples dropped."""
    return _mean_ap(scores, labels)


def map_area_vissl(scores: Array, labels: Array) -> float:
    """`map_area` with equal scores one by one, in the order of VISSL's `get_precision_recall`."""
    return _mean_ap(scores, labels, **_AP_OPTIONS["map_area_vissl"])


def softmax(scores: Array) -> npt.NDArray[np.float64]:
    """(N, C) probabilities from logits."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    result: npt.NDArray[np.float64] = shifted / shifted.sum(1, keepdims=True)
    return result


def ece(probabilities: Array, labels: Array, *, bins: int = 15) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal-width bins, weighted by their counts.

    Guo et al. 2017, equation 5; bins are (l, u]. Lower is better.

    Args:
        probabilities: (N, C), rows summing to 1.
        labels: (N,) int.
        bins: Number of bins of confidence.
    """
    hits = correct(probabilities, labels)
    confidence = probabilities.max(1)
    if confidence.max() > 1 + 1e-6 or probabilities.min() < -1e-6:
        raise ValueError("probabilities lie outside [0, 1]; pass them through softmax first")
    return float(calibration_error(confidence, hits, bins=bins))


def calibration_bins(confidence: Array, bins: int = 15) -> npt.NDArray[np.int64]:
    """(N,) the bin (l, u] of each confidence."""
    found: npt.NDArray[np.int64] = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return found


def calibration_error(
    confidence: Array, hits: Array, *, bins: int = 15, weights: Array | None = None
) -> Array:
    """`ece` from what outcomes keep.

    Args:
        confidence: (N,) of the class that is thought right.
        hits: (N,) whether it is.
        bins: Number of bins of confidence.
        weights: (R, N) weights of the examples, for resampling.

    Returns:
        A scalar array, or (R,) with weights.
    """
    weight = np.ones((1, len(hits))) if weights is None else weights
    member = calibration_bins(confidence, bins)[:, None] == np.arange(bins)
    gaps = weight @ (member * (np.asarray(hits, dtype=np.float64) - confidence)[:, None])  # (R, bins)
    found: Array = np.abs(gaps).sum(1) / weight.sum(1)
    return found[0] if weights is None else found


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "top1": top1,
    "top5": top5,
    "mean_per_class": mean_per_class,
    "map11": map11,
    "map11_ericsson2021": map11_ericsson2021,
    "map11_devkit": map11_devkit,
    "map_area": map_area,
    "map_area_vissl": map_area_vissl,
}
_AP_OPTIONS: dict[str, dict[str, Any]] = {
    "map11": {"points": 11},
    "map11_ericsson2021": {"points": 11, "difficult": "negative", "start": 1.0},
    "map11_devkit": {"points": 11, "ties": "devkit"},
    "map_area": {},
    "map_area_vissl": {"ties": "vissl"},
}


def resampled(name: str, scores: Array, labels: Array, weights: Array) -> npt.NDArray[np.float64]:
    """A metric under example weights, for the bootstrap.

    Args:
        name: A key of `METRICS`.
        scores: (N, C).
        labels: (N,) or (N, C).
        weights: (R, N) counts of each example in each of R resamples.

    Returns:
        (R,); NaN where a resample leaves the metric undefined.
    """
    if name in ("top1", "top5"):
        hits = among(scores, labels, 1 if name == "top1" else 5)
        total: npt.NDArray[np.float64] = (weights @ hits) / weights.sum(1)
        return total
    if name == "mean_per_class":
        hits = correct(scores, labels).astype(np.float64)
        member = labels[:, None] == np.unique(labels)  # (N, classes that occur)
        with np.errstate(invalid="ignore"):
            accuracy = (weights @ (member * hits[:, None])) / (weights @ member)
        result: npt.NDArray[np.float64] = np.nanmean(accuracy, axis=1)
        return result
    if name not in METRICS:
        raise ValueError(f"unknown metric '{name}': known {', '.join(METRICS)}")
    columns = [
        average_precision(scores[:, c], labels[:, c], weights=weights, **_AP_OPTIONS[name])
        for c in range(scores.shape[1])
    ]
    occurs = np.array([column for column in columns if not np.isnan(column).all()])
    defined = ~np.isnan(occurs)
    with np.errstate(invalid="ignore"):
        mean: npt.NDArray[np.float64] = np.where(defined, occurs, 0.0).sum(0) / defined.sum(0)
    return mean
