"""Test images with what was found in them and what is there, ready to be drawn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as rle

from .. import tasks
from .data import prepare

Box = tuple[float, float, float, float]


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


def pick(
    task: str, data_root: Path, outcome: dict[str, Any], *, count: int, side: int, score: float
) -> list[Picture]:
    """Test images spread evenly over the split, the same ones for every checkpoint.

    Args:
        task: Name of a detection task.
        data_root: Where its images lie.
        outcome: What a record keeps: ``classes`` and, for each test image, ``image_id`` and ``detections``.
        count: How many images.
        side: Longest side of the pictures in pixels; larger images are reduced.
        score: Detections below it are left out.
    """
    about = tasks.get(task)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(
            about.dataset, data_root, masks=about.kind == "instance_segmentation", work_dir=Path(folder)
        )
    images = {str(entry["image_id"]): entry["detections"] for entry in outcome["images"]}
    dicts = data.test.dicts
    places = np.linspace(0, len(dicts) - 1, min(count, len(dicts))).round().astype(int)
    return [
        _picture(dicts[place], images.get(str(dicts[place]["image_id"]), []), outcome["classes"], side, score)
        for place in dict.fromkeys(places.tolist())
    ]


def _picture(
    entry: dict[str, Any], detections: list[dict[str, Any]], classes: list[str], side: int, score: float
) -> Picture:
    with Image.open(entry["file_name"]) as opened:
        image = opened.convert("RGB")
    scale = min(1.0, side / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    found = []
    for detection in detections:
        if detection["score"] < score:
            continue
        left, top, width, height = (value * scale for value in detection["bbox"])
        mask = None
        if detection.get("segmentation"):
            whole = Image.fromarray(rle.decode(detection["segmentation"]) * np.uint8(255))
            mask = np.asarray(whole.resize(size)) > 127
        found.append(
            Found(
                classes[detection["category"]],
                detection["score"],
                (left, top, left + width, top + height),
                mask,
            )
        )
    truth = [
        BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        for annotation in entry["annotations"]
        if not annotation.get("iscrowd", 0)
    ]
    boxes: list[Box] = [(a * scale, b * scale, c * scale, d * scale) for a, b, c, d in truth]
    return Picture(np.asarray(image.resize(size)), found, boxes)
