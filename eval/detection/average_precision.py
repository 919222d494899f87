"""Average precision from matched detections, for any weighting of the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Recalls at which precision is read: COCO's 101 and VOC 2007's 11, with the floats that their authors' code has.
COCO_POINTS = np.linspace(0.0, 1.00, int(np.round((1.00 - 0.0) / 0.01)) + 1, endpoint=True)
VOC_POINTS = np.arange(0.0, 1.1, 0.1)
AREA: Floats = np.empty(0)  # VOC since 2010: no points, the area itself


@dataclass
class Matches:
    """Detections of one class, best first, and the objects that they could have found.

    Attributes:
        image: ``(n,)`` place of each detection's image among the test images.
        hit: ``(T, n)`` whether it finds an object, at each of T overlap thresholds.
        ignored: ``(T, n)`` whether it counts for nothing (crowd, difficult, of another size).
        positives: ``(I,)`` objects of the class in each test image that count.
    """

    image: npt.NDArray[np.int64]
    hit: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    positives: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, positives: npt.NDArray[np.int64], thresholds: int) -> Matches:
        """No detection at all."""
        nothing = np.zeros((thresholds, 0), dtype=bool)
        return cls(np.zeros(0, dtype=np.int64), nothing, nothing, positives)


@dataclass
class Recall:
    """A mean of recalls over classes and thresholds, as COCO's average recall.

    Attributes:
        hits: ``(K, T, I)`` objects of each class found in each test image at each of T overlap thresholds.
        positives: ``(K, I)`` objects that count.
    """

    hits: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]

    def value(self) -> float:
        """The metric, in 0..1; NaN if no class has an object."""
        return float(self.values(np.ones((1, self.positives.shape[1])))[0])

    def values(self, weights: Floats) -> Floats:
        """The metric when every image counts as often as its weight says; see `Curve.values`."""
        total = weights @ self.positives.T  # (R, K)
        found = np.einsum("ri,kti->rkt", weights, self.hits, optimize=True).mean(axis=2)
        defined = total > 0
        recalls = np.where(defined, found / np.maximum(total, 1), 0.0).sum(axis=1)
        count = defined.sum(axis=1)
        return _fraction(recalls, count)


@dataclass
class Curve:
    """A mean of average precisions over classes and thresholds.

    Attributes:
        classes: The matches of each class.
        ious: Which of their thresholds are averaged.
        points: Recalls at which precision is read; empty for the area under the curve of best precisions.
    """

    classes: list[Matches]
    ious: tuple[int, ...]
    points: Floats

    @property
    def positives(self) -> npt.NDArray[np.int64]:
        """``(K, I)`` objects of each class in each test image that count."""
        return np.stack([matches.positives for matches in self.classes])

    def value(self) -> float:
        """The metric, in 0..1; NaN if no class has an object."""
        images = len(self.classes[0].positives)
        return float(self.values(np.ones((1, images)))[0])

    def values(self, weights: Floats) -> Floats:
        """The metric when every image counts as often as its weight says.

        Args:
            weights: ``(R, I)``, each >= 0; a bootstrap's counts, or all ones.

        Returns:
            ``(R,)`` in 0..1; classes without a counted object are left out of a mean, NaN if there is none.
        """
        return self.mean(precisions(self.classes, self.ious, self.points, weights))

    def unseen(self) -> float:
        """Variance of the metric over test sets that no resample of this one can show.

        Where every object of a class is found, all resamples reach recall 1; another test set may have an object that
        is missed, and loses all that is read at the last point. By 1,000 objects that is ten times the object's own
        share, which the resamples' variance allows for. Nothing tells how likely it is, so the most uncertain case is
        taken, that it is as likely as not: a quarter of the loss squared.
        """
        variance, defined = 0.0, 0
        for matches in self.classes:
            objects = int(matches.positives.sum())
            if not objects:
                continue
            defined += 1
            if not len(self.points):
                continue
            before = np.searchsorted(self.points, (objects - 1) / objects, side="right") / len(self.points)
            share = max(1 - before - 1 / objects, 0.0)
            lost = 0.0
            for t in self.ious:
                counted = ~matches.ignored[t]
                hits = np.flatnonzero(matches.hit[t] & counted)
                if len(hits) == objects:
                    lost += share * objects / int(counted[: hits[-1] + 1].sum())
            variance += (lost / len(self.ious)) ** 2 / 4
        return variance / max(defined, 1) ** 2

    def mean(self, by_class: Floats) -> Floats:
        """Mean over classes and thresholds of ``(R, K, T)`` with NaN where a class has no object: ``(R,)``."""
        defined = ~np.isnan(by_class[:, :, 0])  # (R, K)
        count = defined.sum(axis=1)
        total = np.where(defined, np.nan_to_num(by_class).mean(axis=2), 0.0).sum(axis=1)
        return _fraction(total, count)


def _fraction(total: Floats, count: npt.NDArray[np.int64]) -> Floats:
    """A mean of fractions from their sum, NaN of none; sums of many shares of 1 end above it by a rounding."""
    return np.asarray(np.where(count > 0, np.minimum(total / np.maximum(count, 1), 1.0), np.nan))


def precisions(classes: list[Matches], ious: tuple[int, ...], points: Floats, weights: Floats) -> Floats:
    """Average precision of every class at every threshold, under every weighting of the images.

    Precision is read at each of ``points`` as the best that any later detection reaches. Recall only moves at a
    hit and the best precision is reached at one, so hits are all that is looked at.

    Args:
        classes: K classes.
        ious: Which thresholds.
        points: Recalls to read precision at; none for the area under the curve.
        weights: ``(R, I)`` weights of the images.

    Returns:
        ``(R, K, len(ious))`` in 0..1; NaN where a class has no counted object.
    """
    found = np.full((len(weights), len(classes), len(ious)), np.nan)
    for k, matches in enumerate(classes):
        positives = weights @ matches.positives  # (R,)
        at_image = weights[:, matches.image]  # (R, n)
        counted, seen = None, at_image
        for column, t in enumerate(ious):
            if counted is None or (counted == matches.ignored[t]).any():
                counted = ~matches.ignored[t]  # the same at most thresholds, if not at all
                seen = np.cumsum(at_image * counted, axis=1)  # (R, n)
            hits = np.flatnonzero(matches.hit[t] & counted)
            true = np.cumsum(at_image[:, hits], axis=1)  # (R, hits)
            precision = true / np.maximum(seen[:, hits], np.spacing(1))
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = true / np.maximum(positives, 1)[:, None]
            if len(points):  # the share of points between each hit's recall and the one's before
                reached = np.searchsorted(points, recall, side="right") / len(points)
            else:
                reached = recall
            newly = np.diff(reached, axis=1, prepend=0)
            found[:, k, column] = np.where(positives > 0, (best * newly).sum(axis=1), np.nan)
    return found
