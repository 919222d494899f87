"""Predictions of any detector, in COCO's results format, against COCO or VOC ground truth, for ``mast score``."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mast.files import once

from ..datasets.coco import check_run_lengths, key_of
from ..datasets.values import TOLERANCE, Tally, number, whole
from ..errors import UserError, unknown
from ..numbers.intervals import Interval, NoInterval
from .data import DetectionData, prepare, register
from .evaluate import Prediction, evaluate
from .intervals import intervals

SLACK = 0.1  # share of a picture's side that a detector's box may reach beyond it without a word


@dataclass(frozen=True)
class Scores:
    """What a file of predictions is worth.

    Attributes:
        data: The ground truth.
        predictions: How many detections were read.
        metrics: Fractions in 0..1, as `eval.detection.evaluate.evaluate` names them.
        intervals: Metric -> its interval over test images, or why there is none.
    """

    data: DetectionData
    predictions: int
    metrics: dict[str, float]
    intervals: dict[str, Interval | NoInterval]


def score(file: Path, name: str, data_root: Path) -> Scores:
    """Score a file of predictions on the test split of a data set.

    Args:
        file: A JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``, for masks with
            ``"segmentation"`` as run lengths. For VOC ``image_id`` is an image's name, ``category_id`` counts the
            classes from 1 in the order in which they are listed; ``"category"``, a class's name, may stand in its
            place. Boxes are in pixels from 0.
        name: A detection data set, ``voc:<folder>`` or ``coco:<folder>``.
        data_root: Where it lies.

    Raises:
        UserError: For ground truth or predictions with no one right reading, naming the entry and what to do.
    """
    data, predictions, masks = load(file, name, data_root)
    with tempfile.TemporaryDirectory() as work:
        register(data, Path(work))
        found = evaluate(predictions, data, masks=masks)
    number = sum(len(entry["detections"]) for entry in predictions)
    return Scores(data, number, found.metrics, intervals(found.curves))


def load(file: Path, name: str, data_root: Path) -> tuple[DetectionData, list[Prediction], bool]:
    """The ground truth, the predictions of a file, and whether they are masks; arguments and errors as of `score`."""
    entries = _read(file)
    masks = any("segmentation" in entry for entry in entries)
    data = prepare(name, data_root, masks=masks, train=False)
    predictions = read_predictions(entries, data, file)
    return replace(data, warnings=[*data.warnings, *_odd(predictions, data, file)]), predictions, masks


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is not readable JSON: {error}", remedy="write COCO's results format"
        ) from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}", remedy="name a file", code=2) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} is not a list of detections", remedy="write COCO's results format")
    return entries


def read_predictions(
    entries: Sequence[Mapping[str, Any]], data: DetectionData, file: Path
) -> list[Prediction]:
    """Detections by test image, as `evaluate` takes them.

    Args:
        entries: As `score` describes them.
        data: The ground truth.
        file: What to name in errors.

    Raises:
        UserError: If an entry is of no known image or class, or its numbers are none.
    """
    sizes = {entry["image_id"]: (entry["width"], entry["height"]) for entry in data.test.dicts}
    images = {name: name for name in sizes} if data.test.image_ids is None else data.test.image_ids
    if data.layout == "voc":
        numbers = {index + 1: index for index in range(len(data.classes))}
    else:
        numbers = dict(data.test.dicts[0]["category_ids"])
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for place, entry in enumerate(entries, start=1):
        where = f"{file}, detection {place}"
        given = entry.get("image_id")
        image = images.get(str(given) if data.layout == "voc" else key_of(given))
        if image not in sizes:
            raise UserError(f"{where}: image {given!r} is not in the test split", remedy="use its image ids")
        detection: dict[str, Any] = {"category": _category(where, entry, numbers, data)}
        box = [number(value) for value in entry["bbox"]] if isinstance(entry.get("bbox"), list) else []
        confidence = number(entry.get("score"))
        if confidence is None:
            raise UserError(f"{where}: score is {entry.get('score')!r}", remedy="give a finite number")
        detection["score"] = confidence
        if "segmentation" in entry:
            detection["segmentation"] = _mask(where, entry["segmentation"], sizes[image])
            if not box:
                box = _around(detection["segmentation"])
        if len(box) != 4 or None in box or min(value for value in box[2:] if value is not None) < 0:
            raise UserError(f"{where}: bbox is {entry.get('bbox')!r}", remedy="give x, y, width, height")
        detection["bbox"] = box
        found[image].append(detection)
    short = next(
        (image for image, each in found.items() if len({"segmentation" in d for d in each}) > 1), None
    )
    if short is not None:
        raise UserError(
            f"{file}: some detections of image {short} have masks, some not", remedy="give all a mask"
        )
    return [{"image_id": image, "detections": found[image]} for image in sizes]


def _odd(predictions: Sequence[Prediction], data: DetectionData, file: Path) -> list[str]:
    """What is odd about boxes that a number can be had from.

    Raises:
        UserError: If all of them lie within one pixel: they are shares of the pictures' sides.
    """
    tally, reach = Tally(), 0.0
    sizes = {entry["image_id"]: (entry["width"], entry["height"]) for entry in data.test.dicts}
    for entry in predictions:
        seen = set[tuple[float, ...]]()
        width, height = sizes[entry["image_id"]]
        for found in entry["detections"]:
            x, y, w, h = found["bbox"]
            reach = max(reach, x + w, y + h)
            if x + w > width + SLACK * width + TOLERANCE or y + h > height + SLACK * height + TOLERANCE:
                what = "boxes reach far beyond their pictures; bbox is x, y, width, height in pixels"
                tally.add(what, f"image {entry['image_id']}: {found['bbox']}")
            mark = (found["category"], x, y, w, h)
            if mark in seen:
                tally.add("detections stand twice, with the same box and class", f"image {entry['image_id']}")
            seen.add(mark)
    if reach <= 1 and any(entry["detections"] for entry in predictions):
        raise UserError(
            f"{file}: no box reaches beyond one pixel, as if they were shares of the pictures' sides",
            remedy="write x, y, width and height in pixels",
        )
    return tally.lines(file)


def _category(where: str, entry: Mapping[str, Any], numbers: Mapping[int, int], data: DetectionData) -> int:
    if "category_id" not in entry and isinstance(entry.get("category"), str):
        if entry["category"] not in data.classes:
            wrong = unknown("class", entry["category"], data.classes)
            raise UserError(f"{where}: {wrong.message}", remedy=wrong.remedy)
        return data.classes.index(entry["category"])
    known = whole(entry.get("category_id"))
    if known is None or known not in numbers:
        raise UserError(
            f"{where}: category {entry.get('category_id')!r} is not known",
            remedy=f"known: {', '.join(f'{n} {data.classes[i]}' for n, i in list(numbers.items())[:6])}, ...",
        )
    return numbers[known]


def _mask(where: str, given: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Compressed run lengths of a mask that was given as run lengths."""
    from pycocotools import mask

    if not isinstance(given, dict):
        raise UserError(f"{where}: the mask is not run lengths", remedy='give {"size", "counts"}')
    check_run_lengths(where, given, size)
    if isinstance(given["counts"], list):
        packed = mask.frPyObjects({"size": list(given["size"]), "counts": given["counts"]}, size[1], size[0])
        return {"size": [size[1], size[0]], "counts": packed["counts"].decode("ascii")}
    return {"size": [size[1], size[0]], "counts": given["counts"]}


def _around(runs: Mapping[str, Any]) -> list[float | None]:
    from pycocotools import mask

    return [float(value) for value in mask.toBbox({**runs, "counts": runs["counts"].encode("ascii")})]


def render(scores: Scores) -> str:
    """A Markdown table of the metrics in percent, with their intervals."""
    lines = ["| metric | value | 95 % interval |", "|:--|--:|--:|"]
    for name, value in scores.metrics.items():
        span = scores.intervals[name]
        ends = (
            span.reason if isinstance(span, NoInterval) else f"[{100 * span.low:.1f}, {100 * span.high:.1f}]"
        )
        lines.append(f"| {name} | {100 * value:.1f} | {ends} |")
    counts = scores.data.counts
    lines += [
        "",
        f"{scores.predictions} detections on {counts['test_images']} images with {counts['test_instances']} objects "
        f"of {len(scores.data.classes)} classes. Intervals: over test images.",
    ]
    return "\n".join(lines) + "\n"
