"""Kept detections give their numbers again, and the pictures show where a detector fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as rle

from eval import tasks
from eval.detection import Gallery
from eval.detection.pictures import mistakes
from eval.numbers.intervals import ELEVEN_POINTS

SQUARE, ELSEWHERE = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


def entry(*categories: int) -> dict[str, Any]:
    corners = {"bbox": [10, 10, 30, 30], "bbox_mode": BoxMode.XYXY_ABS}
    return {"annotations": [{"category_id": category, **corners} for category in categories]}


def found(box: list[float], category: int = 0, score: float = 0.9) -> dict[str, Any]:
    return {"category": category, "bbox": box, "score": score}


@pytest.mark.parametrize(
    ("objects", "detections", "wrong"),
    [
        ((0,), [found(SQUARE)], 0),
        ((0,), [], 1),
        ((), [found(SQUARE)], 1),
        ((0,), [found(ELSEWHERE)], 2),
        ((0,), [found(SQUARE, category=1)], 2),
        ((0,), [found(SQUARE), found(SQUARE, score=0.5)], 1),
        ((0, 0), [found(SQUARE), found(SQUARE)], 0),
        ((0,), [found(SQUARE), found(ELSEWHERE, score=0.1)], 0),
    ],
)
def test_mistakes_are_misses_and_false_alarms(
    objects: tuple[int, ...], detections: list[dict[str, Any]], wrong: int
) -> None:
    assert mistakes(entry(*objects), detections, 0.3) == wrong


def test_crowds_are_no_misses() -> None:
    crowd = entry(0)
    crowd["annotations"][0]["iscrowd"] = 1
    assert mistakes(crowd, [], 0.3) == 0


def truth(gallery: Gallery, *, without: int | None = None) -> dict[str, Any]:
    """An outcome whose detections are the objects themselves; one image is left empty."""
    images = []
    for place, about in enumerate(gallery.data.test.dicts):
        detections = []
        for annotation in about["annotations"]:
            box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYWH_ABS)
            detection = {"category": annotation["category_id"], "bbox": box, "score": 0.9}
            if gallery.masks:
                mask = annotation["segmentation"]
                if isinstance(mask, list):
                    mask = rle.merge(rle.frPyObjects(mask, about["height"], about["width"]))
                detection["segmentation"] = {**mask, "counts": _text(mask["counts"])}
            if not annotation.get("iscrowd", 0):
                detections.append(detection)
        images.append({"image_id": about["image_id"], "detections": [] if place == without else detections})
    return {"classes": list(gallery.data.classes), "images": images}


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


@pytest.mark.parametrize("task", ["scenes-voc", "scenes-coco"])
def test_numbers_come_back_and_failures_come_first(task: str, scenes_root: Path) -> None:
    gallery, other = (Gallery(tasks.get(name).open(scenes_root).drawn()) for name in (task, "scenes-voc"))
    metric = "mask_ap50" if gallery.masks else "box_ap50"
    whole, lacking = truth(gallery), truth(gallery, without=3)
    assert gallery.evaluate(whole).metrics[metric] == pytest.approx(1.0)  # after the other was prepared too
    assert gallery.evaluate(lacking).metrics[metric] < 1.0
    found = gallery.compare(lacking, whole, metric)
    assert 0 < found.difference == pytest.approx(1 - gallery.evaluate(lacking).metrics[metric])
    if gallery.masks:
        low, high = found.ends
        assert low is not None
        assert high is not None
        assert low <= found.difference <= high
    else:  # VOC 2007 reads precision at eleven recalls
        assert found.interval == ELEVEN_POINTS
    worst = gallery.failures(lacking, 1)[0]
    assert not worst.found
    assert worst.truth
    shown = gallery.spread(whole, 3)
    assert len(shown) == 3
    assert all(len(picture.found) == len(picture.truth) for picture in shown)
    assert all((found.mask is not None) == gallery.masks for picture in shown for found in picture.found)
    assert all(picture.image.dtype == np.uint8 and max(picture.image.shape) <= 240 for picture in shown)
    with pytest.raises(ValueError, match="other test images or classes"):
        other.evaluate({**whole, "images": whole["images"][1:]})
