"""The detection data sets that have a name, from ``datasets.yaml``, and those named by their place.

Needs no Detectron2.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..definitions import build, read_yaml
from ..errors import UserError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Named(_Strict):
    """A detection data set.

    Attributes:
        layout: ``voc`` or ``coco``.
        classes: The 20 of Pascal VOC, or those that the annotations name, sorted.
        train: Folder and split of each part of the training set.
        test: The same of the test set.
        embedded: True for the generated scenes, which carry SCENES.json; False for real data, which must not.
        shots: Training objects of each class to keep.
        fraction: Share of the training images to keep.
        counts: Images of the official splits.
    """

    layout: Literal["voc", "coco"]
    classes: Literal["voc", "found"]
    train: Annotated[list[tuple[str, str]], Field(min_length=1)]
    test: Annotated[list[tuple[str, str]], Field(min_length=1)]
    embedded: bool | None = None
    shots: Annotated[int, Field(ge=1)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    counts: dict[Literal["train_images", "test_images"], int] | None = None


class Table(_Strict):
    """The file.

    Attributes:
        folders: Where a folder may lie under the data root, in the order in which it is looked for.
        sources: What to download for a folder, and from whom.
        datasets: The data sets by name.
    """

    folders: dict[str, list[str]]
    sources: dict[str, str] = {}
    datasets: dict[str, Named]


PLACES = {
    "coco": "coco:DIR, or coco:TRAIN.json,TEST.json,IMAGES, or coco:TEST.json,IMAGES to measure on alone",
    "voc": "voc:DIR, or voc:DIR,TRAIN,TEST with the names of two of its lists, or voc:DIR,TEST to measure on alone",
}
"""What may stand before a colon in place of a name, and what it means."""


def is_place(name: str) -> bool:
    """Whether a name says where the data lie."""
    return name.partition(":")[0] in PLACES and ":" in name


def place(name: str) -> Named:
    """The data set at a place: a folder in its official layout, annotation files, or lists of VOC.

    Where one file or list is named, it is both splits, and `eval.detection.data.prepare` lets nobody train on it.

    Args:
        name: As `PLACES` has it. Without ``IMAGES`` the pictures lie beside their annotation file.

    Raises:
        UserError: If nothing follows the colon.
    """
    kind, _, rest = name.partition(":")
    layout: Literal["voc", "coco"] = "voc" if kind == "voc" else "coco"
    if not rest.strip():
        raise UserError(f"{name}: names no place", remedy=PLACES[kind], code=2)
    files = re.fullmatch(r"(.+\.json),(.+\.json)(?:,(.+))?", rest, re.IGNORECASE)
    file = re.fullmatch(r"(.+\.json)(?:,(.+))?", rest, re.IGNORECASE)
    lists = re.fullmatch(r"(.+),([^,/\\]+),([^,/\\]+)", rest)
    one = None if Path(rest).is_dir() else re.fullmatch(r"(.+),([^,/\\]+)", rest)
    if layout == "coco" and files:
        parts = [(files[3] or str(Path(file).parent), file) for file in (files[1], files[2])]
    elif layout == "coco" and file:
        parts = [(file[2] or str(Path(file[1]).parent), file[1])] * 2
    elif layout == "coco":
        parts = [(rest, "train2017"), (rest, "val2017")]
    elif lists:
        parts = [(lists[1], lists[2]), (lists[1], lists[3])]
    elif one:
        parts = [(one[1], one[2])] * 2
    else:
        parts = [(rest, "trainval"), (rest, "test")]
    return Named(layout=layout, classes="found", train=[parts[0]], test=[parts[1]])


@cache
def table() -> Table:
    """The data sets that tasks may name."""
    path = Path(__file__).with_name("datasets.yaml")
    return build(Table, read_yaml(path), where=str(path))
