"""What a record keeps of detections, read again: pictures of them, their failures, and their numbers."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from PIL import Image
from pycocotools import mask as rle

from mast.images import decode

from ..numbers.tests import Paired
from .data import DetectionData, register
from .evaluate import Evaluation, evaluate
from .intervals import paired

Box = tuple[float, float, float, float]
Outcome = dict[str, Any]  # what a record keeps: classes and, for each test image, image_id and detections
SIDE, SCORE = 240, 0.3


@dataclass(frozen=True)
class Found:
    """A detection: ``box`` is (left, top, right, bottom) in pixels, ``mask`` ``(H, W)`` bool or None."""

    label: str
    score: float
    box: Box
    mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Picture:
    """An image ``(H, W, 3)`` in bytes, its detections, and the boxes of the objects in it."""

    image: npt.NDArray[np.uint8]
    found: list[Found]
    truth: list[Box]


class Gallery:
    """The test split of a detection data set, against which kept detections are held.

    Args:
        data: The data set, as ``tasks.get(name).open(data_root)`` gives it.
        side: Longest side of the pictures in pixels; larger images are reduced.
        score: Detections below it do not count as failures and are not drawn, but for the best ones, as many as
            there are objects.
    """

    def __init__(self, data: DetectionData, *, side: int = SIDE, score: float = SCORE) -> None:
        self.data, self.side, self.score = data, side, score
        self.masks = data.masks
        # As long as the data: a completed annotation file lies there.
        self._folder = tempfile.TemporaryDirectory()

    def fits(self, outcome: Outcome) -> bool:
        """Whether kept detections are of this test split and its classes."""
        known = sorted(str(entry["image_id"]) for entry in self.data.test.dicts)
        kept = sorted(str(entry["image_id"]) for entry in outcome["images"])
        return kept == known and list(outcome["classes"]) == list(self.data.classes)

    def evaluate(self, outcome: Outcome) -> Evaluation:
        """The numbers of kept detections, computed anew.

        Raises:
            ValueError: If they are not of this test split.
        """
        if not self.fits(outcome):
            raise ValueError("these detections are of other test images or classes")
        known = {str(entry["image_id"]): entry["image_id"] for entry in self.data.test.dicts}
        register(self.data, Path(self._folder.name))
        predictions = [{**entry, "image_id": known[str(entry["image_id"])]} for entry in outcome["images"]]
        return evaluate(predictions, self.data, masks=self.masks)

    def compare(self, first: Outcome, second: Outcome, metric: str) -> Paired:
        """How much better the second is, by a bootstrap over test images that both see alike; see `paired`."""
        return paired(self.evaluate(first).curves[metric], self.evaluate(second).curves[metric])

    def spread(self, outcome: Outcome, count: int) -> list[Picture]:
        """Test images spread evenly over the split, the same ones for every checkpoint."""
        dicts = self.data.test.dicts
        places = np.linspace(0, len(dicts) - 1, min(count, len(dicts))).round().astype(int)
        return self.pictures(dict.fromkeys(places.tolist()), outcome)

    def failures(self, outcome: Outcome, count: int) -> list[Picture]:
        """The test images with the most failures: objects that are missed, and detections that find none."""
        images = {str(entry["image_id"]): entry["detections"] for entry in outcome["images"]}
        wrong = [
            mistakes(entry, images.get(str(entry["image_id"]), []), self.score)
            for entry in self.data.test.dicts
        ]
        worst = sorted(range(len(wrong)), key=lambda place: -wrong[place])
        return self.pictures(worst[:count], outcome)

    def pictures(self, places: Iterable[int], outcome: Outcome) -> list[Picture]:
        """Test images by their places; a detection's ``label``, where it has one, stands for its class."""
        images = {str(entry["image_id"]): entry["detections"] for entry in outcome["images"]}
        entries = [self.data.test.dicts[place] for place in places]
        return [
            _picture(entry, images.get(str(entry["image_id"]), []), outcome["classes"], self.side, self.score)
            for entry in entries
        ]


def mistakes(entry: dict[str, Any], detections: Sequence[dict[str, Any]], score: float) -> int:
    """How often a detector is wrong about an image: objects missed and detections without an object of their own.

    Matched at an overlap of 0.5 by class, best detection first, each object once; crowds count for nothing.

    Args:
        entry: Detectron2's dataset dict.
        detections: ``category``, ``bbox`` (x, y, width, height in pixels) and ``score`` of each.
        score: Detections below it do not count.
    """
    wrong = 0
    objects = [a for a in entry["annotations"] if not a.get("iscrowd", 0)]
    counted = [d for d in detections if d["score"] >= score]
    for category in Counter(item.get("category", item.get("category_id")) for item in [*objects, *counted]):
        truth = [a for a in objects if a["category_id"] == category]
        found = sorted((d for d in counted if d["category"] == category), key=lambda d: -d["score"])
        overlap = pairwise_iou(
            Boxes([_corners(d["bbox"], BoxMode.XYWH_ABS) for d in found]),
            Boxes([_corners(a["bbox"], a["bbox_mode"]) for a in truth]),
        )
        hits = 0
        for row in overlap if truth else []:
            best = int(torch.argmax(row))
            if row[best] >= 0.5:
                hits += 1
                overlap[:, best] = 0.0
        wrong += len(truth) + len(found) - 2 * hits
    return wrong


def _corners(box: Sequence[float], mode: BoxMode) -> list[float]:
    return list(BoxMode.convert([float(value) for value in box], mode, BoxMode.XYXY_ABS))


def _picture(
    entry: dict[str, Any], detections: list[dict[str, Any]], classes: list[str], side: int, score: float
) -> Picture:
    image = decode(Path(entry["file_name"]), upright=True)
    scale = min(1.0, side / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    objects = [annotation for annotation in entry["annotations"] if not annotation.get("iscrowd", 0)]
    best = sorted(detections, key=lambda detection: -detection["score"])
    drawn = [item for rank, item in enumerate(best) if item["score"] >= score or rank < len(objects)]
    found = []
    for detection in drawn:
        left, top, width, height = (value * scale for value in detection["bbox"])
        mask = None
        if detection.get("segmentation"):
            whole = Image.fromarray(rle.decode(detection["segmentation"]) * np.uint8(255))
            mask = np.asarray(whole.resize(size)) > 127
        found.append(
            Found(
                detection.get("label", classes[detection["category"]]),
                detection["score"],
                (left, top, left + width, top + height),
                mask,
            )
        )
    truth = [_corners(annotation["bbox"], annotation["bbox_mode"]) for annotation in objects]
    boxes: list[Box] = [(a * scale, b * scale, c * scale, d * scale) for a, b, c, d in truth]
    return Picture(np.asarray(image.resize(size)), found, boxes)
