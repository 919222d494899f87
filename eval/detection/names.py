"""The detection data sets that have a name, from ``datasets.yaml``; needs no Detectron2."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..definitions import build, read_yaml


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


@cache
def table() -> Table:
    """The data sets that tasks may name."""
    path = Path(__file__).with_name("datasets.yaml")
    return build(Table, read_yaml(path), where=str(path))
