"""Closer looks at checkpoints, for the page's script: training, masks, what they read of factors, detection errors.

Each view is there only where there is something to look at. All of them are embedded compressed in one piece, which
the browser unpacks when a reader first opens one.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mast.errors import UserError

from .records import Book, Record
from .tables import Table

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..detection import Gallery
    from .diagnosis import Diagnosis, Estimate

MOST: Final = 12  # detectors or runs in one view
WORST: Final = 4  # images with the most errors, for each detector
PICTURES: Final = 16  # of one view of detections, so that a page stays small
SIDE: Final = 240  # longest side in pixels of a picture
QUALITY: Final = 75  # of its JPEG
SCORE: Final = 0.3  # detections below it are neither drawn nor counted for an image
DIGITS: Final = 4  # of what is embedded


def training(passports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """By checkpoint the numbers of each epoch of pretraining, as its passport carries them."""
    found = {}
    for passport in passports:
        history = passport.get("extra", {}).get("history")
        if history:
            names = dict.fromkeys(name for line in history for name in line)
            found[passport["name"]] = {name: [_short(line.get(name)) for line in history] for name in names}
    return found


def masks(place: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The masks of each MAST pretraining run in a folder.

    Args:
        place: A folder; runs lie in it or up to two levels below, such as ``pretrain/mast5``.

    Returns:
        For each run ``name``, ``augmentations``, ``open`` (the mean of each mask), ``kept`` (dimensions above one
        half, of ``dimensions``) and ``correlation`` of closed parts (None where a mask is constant); and a line for
        each run that cannot be read.
    """
    states = [path for depth in ("", "*/", "*/*/") for path in sorted(place.glob(f"{depth}state.pt"))]
    runs = [path.parent for path in states if _method(path.parent) == "mast"]
    if not runs:
        return [], []
    from mast import analysis  # with torch

    found, problems = [], []
    for run in runs[:MOST]:
        try:
            one = analysis.read_masks(run)
        except UserError as error:
            problems.append(f"masks of {run.name}: {error}")
            continue
        # 1 - m correlates as m does.
        found.append(
            {
                "name": run.name,
                "augmentations": list(one.names),
                "open": [_short(value) for value in one.mass],
                "kept": one.kept.tolist(),
                "dimensions": one.masks.shape[1],
                "correlation": [[_short(value) for value in row] for row in one.correlation],
            }
        )
    return found, problems


def _method(run: Path) -> Any:
    try:
        return json.loads((run / "recipe.json").read_text(encoding="utf-8")).get("method")
    except (OSError, ValueError, AttributeError):  # no recipe of ours
        return None


def profile(table: Table) -> list[dict[str, Any]]:
    """The columns that ask what was done to an image, by section.

    Returns:
        For each section that has two of them ``section`` and ``columns``: place, what it asks, of which data set, and
        what guessing reaches, in percent.
    """
    from .. import tasks
    from ..datasets.factors import FACTORS

    known, found = set(tasks.names()), []
    for number, section in enumerate(table.sections):
        columns = []
        for place, column in enumerate(section.columns):
            task = tasks.get(column.task) if column.headline and column.task in known else None
            factor = next((step for step in getattr(task, "derived", ()) if step in FACTORS), None)
            if task is not None and factor is not None:
                columns.append([place, factor, task.dataset, round(100 / len(FACTORS[factor][0]), 1)])
        if len(columns) > 1:
            found.append({"section": number, "columns": columns})
    return found


def errors(book: Book, data_root: Path) -> list[dict[str, Any]]:
    """What is wrong with the detections that records keep, by task and protocol.

    Args:
        book: The records.
        data_root: Where the test images lie; detections of other images are left out.

    Returns:
        For each task under each protocol ``name``, ``types`` of error, ``detectors`` (``label``; for each type what
        it costs with its interval, its share and its count), ``pairs`` (for each two the differences), ``images``
        (the worst ones of each) and ``boxes`` in them.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in book.counting():
        if record.outcomes is not None and record.outcomes.of_detection:
            groups.setdefault((record.task.name, record.protocol.asked_for), []).append(record)
    galleries: dict[str, Gallery | str] = {}
    found = []
    for (task, _), records in groups.items():
        if task not in galleries:
            galleries[task] = gallery(task, data_root, side=SIDE, score=SCORE)
        shown = galleries[task]
        if not isinstance(shown, str) and (one := _errors(task, records, shown, book)):
            found.append(one)
    return found


def gallery(task: str, data_root: Path, *, side: int, score: float) -> Gallery | str:
    """The test images of a task with detections, or why they are not at hand.

    Args:
        task: A name, or a place such as ``coco:DIR``; what a task file of the user's says is known to a run alone.
        data_root: Where the images lie.
        side: Longest side of a picture in pixels.
        score: Detections below it are not drawn.

    Raises:
        UserError: If the data of a named task are not there.
    """
    from .. import tasks

    named = task in tasks.names()
    if not named and ":" not in task:
        return "this task is a file of your own; give its folder as --include"
    try:
        opened = tasks.get(task).open(data_root)
    except UserError as error:
        if named:
            raise
        return error.message
    from ..detection import Gallery  # with libraries that only detections need

    return Gallery(opened.drawn(), side=side, score=score)


def _errors(task: str, records: Sequence[Record], gallery: Gallery, book: Book) -> dict[str, Any] | None:
    from ..detection import tide
    from . import diagnosis

    detectors: list[tuple[str, Diagnosis]] = []
    for record in sorted(records, key=lambda one: (one.started, one.checkpoint.name, one.seed)):
        if len(detectors) == MOST:
            break
        outcome = book.outcomes(record)
        if gallery.fits(outcome):
            label = f"{record.checkpoint.name}, seed {record.seed}"
            source = diagnosis.of_outcome(label, outcome, gallery)
            detectors.append((label, diagnosis.diagnose(source, threshold=0.5, masks=False)))
    if not detectors:
        return None
    names = ("ap", *tide.TYPES, *tide.SUMS)
    how = records[0].protocol
    worst = [[place for place, _ in one.errors.worst(SCORE)[:WORST]] for _, one in detectors]
    # The worst one of each detector first, then the second ones.
    ordered = [each[rank] for rank in range(WORST) for each in worst if rank < len(each)]
    places = list(dict.fromkeys(ordered))[:PICTURES]
    return {
        "name": f"{task}, {how.name} v{how.version}",
        "types": list(names),
        "detectors": [{"label": label, "values": _values(one, names)} for label, one in detectors],
        "pairs": {
            f"{i} {j}": [_ends(diagnosis.gain(one, name, other)) for name in names]
            for (i, (_, one)), (j, (_, other)) in combinations(enumerate(detectors), 2)
        },
        "images": [_image(gallery, place) for place in places],
        "boxes": [[_boxes(one, place) for place in places] for _, one in detectors],
    }


def _values(one: Diagnosis, names: Sequence[str]) -> list[list[Any]]:
    """For each type of error: cost, low and high; its share; its count."""
    from . import diagnosis

    counts = one.errors.counts
    return [
        [*_ends(diagnosis.gain(one, name)), _percent(one.shares.get(name)), counts.get(name)]
        for name in names
    ]


def _ends(found: Estimate) -> list[float | None]:
    return [_percent(found.value), _percent(found.low), _percent(found.high)]


def _image(gallery: Gallery, place: int) -> dict[str, Any]:
    (picture,) = gallery.pictures([place], {"classes": [], "images": []})
    height, width = picture.image.shape[:2]
    return {
        "name": Path(gallery.data.test.dicts[place]["file_name"]).name,
        "width": width,
        "height": height,
        "jpeg": base64.b64encode(_jpeg(picture.image)).decode(),
        "truth": [[round(value, 1) for value in box] for box in picture.truth],
    }


def _jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _boxes(one: Diagnosis, place: int) -> list[list[Any]]:
    """Left, top, right and bottom as a share of the image's sides; class, score and type of error; best first."""
    judged, entry = one.errors.images[place], one.source.data.test.dicts[place]
    given: Sequence[dict[str, Any]] = next(
        (each["detections"] for each in one.source.predictions if each["image_id"] == entry["image_id"]), []
    )
    found = []
    for number, kind, ignored in zip(judged.order, judged.kind, judged.ignored, strict=True):
        detection = given[number]
        if detection["score"] >= SCORE and not ignored:
            left, top, width, height = detection["bbox"]
            x, y = float(entry["width"]), float(entry["height"])
            box = [left / x, top / y, (left + width) / x, (top + height) / y]
            name = one.errors.classes[detection["category"]]
            found.append([*(round(value, 4) for value in box), name, round(detection["score"], 2), str(kind)])
    return found


def _short(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.{DIGITS}g}")


def _percent(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(100 * value, 2)
