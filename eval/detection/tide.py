"""Why a detector misses average precision: TIDE's types of error, each with the precision that it costs.

Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors" (arXiv:2008.08115), section 2.
Values agree with the authors' tidecv 1.0.1, but for two things that are COCO's here: a class without any object
does not count (tidecv counts it as 0), and tied detections keep one order, before a fix and after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode
from pycocotools import mask as runs

from ..numbers.intervals import resample_counts
from .average_precision import COCO_POINTS, Floats, Matches, precisions
from .data import DetectionData
from .evaluate import Prediction

TYPES: Final = ("classification", "localisation", "both", "duplicate", "background", "missed")
SUMS: Final = ("false_positive", "false_negative")
HIT, OFF = "hit", 0.1  # an overlap up to OFF is background
MOST: Final = 100  # detections of an image that count, the best ones
RESAMPLES: Final = 1000
_CHUNK = 50  # resamples held at a time

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Judged:
    """The detections of one image, best first, and its objects that count; P detections, G objects.

    Attributes:
        order: ``(P,)`` place of each detection in what was given.
        category: ``(P,)`` what it says.
        score: ``(P,)``.
        kind: ``(P,)`` ``hit`` or one of `TYPES` but for ``missed``.
        ignored: ``(P,)`` it is no hit and lies in a crowd, so that it counts for nothing.
        mended: ``(P,)`` the class in which a fix makes a hit of it; -1 where a fix takes it away.
        truth: ``(G,)`` classes of the objects.
        found: ``(G,)`` whether a hit found it.
        missed: ``(G,)`` whether no detection would find it, were it mended.
        takes: ``(P,)`` the place of the object that it takes where classes play no part; -1 for none.
    """

    order: Ints
    category: Ints
    score: Floats
    kind: Words
    ignored: Bools
    mended: Ints
    truth: Ints
    found: Bools
    missed: Bools
    takes: Ints


def judge(
    found: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    *,
    threshold: float = 0.5,
    masks: bool = False,
) -> Judged:
    """Say of each detection of an image what it is.

    In TIDE's order: too far from an object of its class (overlap from 0.1 to the threshold), on an object of
    another class, on an object that a better detection has, on nothing (overlap up to 0.1); the rest is off in both
    place and class.

    Args:
        found: ``category``, ``score``, ``bbox`` (x, y, width, height) and with masks ``segmentation`` (run lengths).
        objects: ``category``, ``bbox``, with masks ``segmentation``, and ``ignored`` for crowds and difficult ones.
        threshold: Overlap from which a detection finds an object, in (0.1, 1].
        masks: Whether masks overlap instead of boxes.
    """
    shape = "segmentation" if masks else "bbox"
    score = np.array([each["score"] for each in found], dtype=np.float64)
    order = np.argsort(-score, kind="stable")[:MOST]
    found = [found[place] for place in order]
    crowds = [each for each in objects if each["ignored"]]
    objects = [each for each in objects if not each["ignored"]]
    category = np.array([each["category"] for each in found], dtype=np.int64)
    truth = np.array([each["category"] for each in objects], dtype=np.int64)
    overlap = _overlaps(found, objects, shape, crowd=False)
    same = category[:, None] == truth[None]
    holder = _greedy(overlap * same, threshold)
    inside = _overlaps(found, crowds, shape, crowd=True) > threshold
    inside &= category[:, None] == np.array([each["category"] for each in crowds], dtype=np.int64)[None]
    kind, mended = np.full(len(found), HIT, dtype="<U14"), np.full(len(found), -1)
    reachable = np.zeros(len(objects), dtype=bool)
    has = holder >= 0
    for place in range(len(found)):
        if place in holder:
            continue
        kind[place], target = _type(overlap[place], same[place], has, threshold)
        # Of several that could be mended to one object the best is; the others are taken away.
        if target is not None and not has[target] and not reachable[target]:
            reachable[target] = True
            mended[place] = truth[target]
    over = _greedy(overlap, threshold)
    takes = np.full(len(found), -1)
    takes[over[over >= 0]] = np.flatnonzero(over >= 0)
    return Judged(
        order=order,
        category=category,
        score=score[order],
        kind=kind,
        ignored=(kind != HIT) & inside.any(axis=1),
        mended=mended,
        truth=truth,
        found=has,
        missed=~has & ~reachable,
        takes=takes,
    )


def _overlaps(
    found: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], shape: str, *, crowd: bool
) -> Floats:
    """``(P, G)`` intersections over unions; over the detection's own area for crowds."""
    if not found or not objects:
        return np.zeros((len(found), len(objects)))
    sides = [[each[shape] for each in side] for side in (found, objects)]
    return np.asarray(runs.iou(*sides, [crowd] * len(objects)), dtype=np.float64)


def _greedy(overlap: Floats, threshold: float) -> Ints:
    """For each object the detection that takes it, -1 for none: best first, each the free object it overlaps most."""
    left = overlap.copy()
    holder = np.full(overlap.shape[1], -1)
    for place in range(len(left) if left.shape[1] else 0):
        best = int(np.argmax(left[place]))
        if left[place, best] >= threshold:
            holder[best] = place
            left[:, best] = 0
    return holder


def _type(overlap: Floats, same: Bools, has: Bools, threshold: float) -> tuple[str, int | None]:
    """The type of an error, and the object that it would have found; ``(G,)`` arrays of one detection."""
    if not len(overlap):
        return "background", None
    own, other, held = overlap * same, overlap * ~same, overlap * (same & has)
    if OFF <= own.max() <= threshold:
        return "localisation", int(own.argmax())
    if other.max() >= threshold:
        return "classification", int(other.argmax())
    if held.max() >= threshold:
        return "duplicate", None
    return ("background" if overlap.max() <= OFF else "both"), None


@dataclass(frozen=True)
class Errors:
    """All judged images of a test split.

    Attributes:
        classes: Names.
        images: In the order of the test split.
        threshold: As `judge` has it.
        masks: Whether masks were judged.
    """

    classes: tuple[str, ...]
    images: list[Judged]
    threshold: float
    masks: bool

    @property
    def counts(self) -> dict[str, int]:
        """How many errors of each type there are; detections in crowds do not count."""
        kinds = np.concatenate([image.kind[~image.ignored] for image in self.images])
        found = {name: int((kinds == name).sum()) for name in TYPES[:-1]}
        return found | {"missed": sum(int(image.missed.sum()) for image in self.images)}

    def confusion(self, score: float) -> Ints:
        """``(K + 1, K + 1)``: objects of a class (row) on which lies a detection of a class (column).

        Each detection takes the free object that it overlaps most, whatever its class, best first. The last row
        counts detections on no object, the last column objects without a detection.

        Args:
            score: Detections below it are left out.
        """
        size = len(self.classes)
        table = np.zeros((size + 1, size + 1), dtype=np.int64)
        for image in self.images:
            # Best first: what is left out could take nothing from what stays.
            stays = (image.score >= score) & ~(image.ignored & (image.takes < 0))
            row = np.where(image.takes >= 0, image.truth[image.takes] if len(image.truth) else size, size)
            np.add.at(table, (row[stays], image.category[stays]), 1)
            seen = np.zeros(len(image.truth), dtype=bool)
            seen[image.takes[stays & (image.takes >= 0)]] = True
            table[:, size] += np.bincount(image.truth[~seen], minlength=size + 1)
        return table

    def worst(self, score: float) -> list[tuple[int, int]]:
        """Places of the images with an error and how many each has, the most first.

        Args:
            score: Detections below it do not count.
        """
        wrong = [
            int(((image.kind != HIT) & ~image.ignored & (image.score >= score)).sum() + image.missed.sum())
            for image in self.images
        ]
        places = sorted(range(len(wrong)), key=lambda place: -wrong[place])
        return [(place, wrong[place]) for place in places if wrong[place]]

    def values(self, weights: Floats) -> dict[str, Floats]:
        """``ap`` at the threshold, and for each of `TYPES` and `SUMS` how much it would gain without these errors.

        Args:
            weights: ``(R, I)`` how often each image counts.

        Returns:
            Name -> ``(R,)`` in 0..1, NaN where no class has an object. ``false_positive``: all wrong detections
            gone; ``false_negative``: all objects gone that were not found.
        """
        image = np.repeat(np.arange(len(self.images)), [len(each.kind) for each in self.images])
        category, score, kind, ignored, mended = (
            np.concatenate([getattr(each, name) for each in self.images])
            for name in ("category", "score", "kind", "ignored", "mended")
        )
        best = np.argsort(-score, kind="stable")
        image, category, kind = image[best], category[best], kind[best]
        ignored, mended, hit = ignored[best], mended[best], kind == HIT
        every, found = self._objects("truth"), self._objects("found")

        def precision(says: Ints, right: Bools, keeps: Bools, objects: Ints = every) -> Floats:
            return self._precision(weights, (image[keeps], says[keeps], right[keeps]), objects, every)

        base = precision(category, hit, ~ignored)
        fixed = {}
        for name in TYPES[:-1]:
            wrong = kind == name
            turned = wrong & (mended >= 0)
            keeps = np.where(wrong, turned, ~ignored)
            fixed[name] = precision(np.where(turned, mended, category), hit | turned, keeps)
        fixed["missed"] = precision(category, hit, ~ignored, every - self._objects("missed"))
        fixed["false_positive"] = precision(category, hit, hit)
        fixed["false_negative"] = precision(category, hit, ~ignored, found)
        return {"ap": base} | {name: fixed[name] - base for name in (*TYPES, *SUMS)}

    def _objects(self, which: str) -> Ints:
        """``(K, I)`` objects of each class in each image: all, those found, or those missed."""
        counted = np.zeros((len(self.classes), len(self.images)), dtype=np.int64)
        for place, image in enumerate(self.images):
            chosen = np.ones(len(image.truth), dtype=bool) if which == "truth" else getattr(image, which)
            np.add.at(counted[:, place], image.truth[chosen], 1)
        return counted

    def _precision(
        self, weights: Floats, detections: tuple[Ints, Ints, Bools], objects: Ints, every: Ints
    ) -> Floats:
        """Mean average precision.

        As in tidecv, a class of which a fix leaves no object has a precision of 0 if it leaves detections, and does
        not count if it leaves none either. Where it leaves no class nothing is wrong any more: 1.

        Args:
            weights: ``(R, I)``.
            detections: Image, class and whether it is a hit, of each, best first.
            objects: ``(K, I)`` the objects that are to be found.
            every: ``(K, I)`` all objects; classes without any are left out.

        Returns:
            ``(R,)`` in 0..1; NaN where there is no object.
        """
        image, category, hit = detections
        matches = []
        for number, positives in enumerate(objects):
            here = np.flatnonzero(category == number)
            matches.append(Matches(image[here], hit[None, here], np.zeros((1, len(here)), bool), positives))
        found = precisions(matches, (0,), COCO_POINTS, weights)[:, :, 0]  # (R, K)
        said = np.stack([weights[:, each.image].sum(axis=1) for each in matches], axis=1)
        found[np.isnan(found) & (said > 0)] = 0.0
        there = weights @ every.T > 0
        found[~there] = np.nan
        count = (~np.isnan(found)).sum(axis=1)
        mean = np.where(count > 0, np.nansum(found, axis=1) / np.maximum(count, 1), 1.0)
        return np.where(there.any(axis=1), mean, np.nan)

    def resampled(self, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Floats]:
        """`values` on resampled test sets; two checkpoints with one seed see the same ones, which pairs them."""
        weights = resample_counts(len(self.images), resamples, seed)
        parts = [self.values(weights[start : start + _CHUNK]) for start in range(0, resamples, _CHUNK)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def shares(values: Mapping[str, Floats]) -> dict[str, Floats]:
    """Each type's part of what all of `TYPES` cost together, in 0..1; NaN where nothing is wrong."""
    total = sum(values[name] for name in TYPES)
    return {
        name: np.divide(values[name], total, out=np.full_like(total, np.nan), where=total > 0)
        for name in TYPES
    }


def find(
    predictions: Sequence[Prediction],
    data: DetectionData,
    *,
    threshold: float = 0.5,
    masks: bool = False,
) -> Errors:
    """The errors of predictions on a test split.

    Args:
        predictions: As `eval.detection.evaluate.evaluate` takes them.
        data: The data set. VOC's difficult objects and COCO's crowds are ignored.
        threshold: As `judge` has it.
        masks: Whether masks overlap instead of boxes.
    """
    found = {str(entry["image_id"]): entry["detections"] for entry in predictions}
    images = [
        judge(
            found.get(str(entry["image_id"]), []),
            truth_of(entry, data, masks),
            threshold=threshold,
            masks=masks,
        )
        for entry in data.test.dicts
    ]
    return Errors(data.classes, images, threshold, masks)


def truth_of(entry: Mapping[str, Any], data: DetectionData, masks: bool) -> list[dict[str, Any]]:
    """What is in a test image, as `judge` takes it."""
    difficult = [each.difficult for each in (data.test.objects or {}).get(str(entry["image_id"]), ())]
    return [
        {
            "category": each["category_id"],
            "bbox": BoxMode.convert(
                [float(v) for v in each["bbox"]], BoxMode(each["bbox_mode"]), BoxMode.XYWH_ABS
            ),
            "ignored": bool(each.get("iscrowd", 0)) or (bool(difficult) and difficult[place]),
            **({"segmentation": _runs(each["segmentation"], entry)} if masks else {}),
        }
        for place, each in enumerate(entry["annotations"])
    ]


def _runs(segmentation: Any, entry: Mapping[str, Any]) -> Any:
    """Compressed run lengths of polygons or of run lengths."""
    if isinstance(segmentation, list):
        return runs.merge(runs.frPyObjects(segmentation, entry["height"], entry["width"]))
    if isinstance(segmentation["counts"], list):
        return runs.frPyObjects(segmentation, entry["height"], entry["width"])
    return segmentation
