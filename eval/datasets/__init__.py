"""Data sets: names, splits and manifests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mast.images import decode

from ..definitions import build, read_yaml
from ..errors import UserError, unknown
from .base import ImageDataset, Labels, Pool, Split, carve
from .factors import derive
from .folders import LAYOUTS, any_layout
from .lists import listed

__all__ = [
    "ImageDataset",
    "Known",
    "Labels",
    "Place",
    "Pool",
    "Split",
    "carve",
    "decode",
    "download",
    "known",
    "listed",
    "load",
    "official_counts",
]


class Known(BaseModel):
    """A data set that has a name.

    Attributes:
        folder: Where it lies under the data root.
        layout: Which reader reads it.
        source: What to download, and from whom.
        terms: What its publisher asks of those who download it, where that is known to bind them.
        options: Of the reader.
        counts: Images of the official splits; val cut from train counts as train.
        classes: Their number, where it is official.
        otherwise: Another entry, read when the folder is missing.
        download: torchvision's class that downloads it, where its layout is not read through that class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    layout: Literal["folders", "voc", "torchvision", "unsplit", "imagenet", "cub200", "listed"]
    source: str
    terms: str = ""
    options: dict[str, Any] = {}
    counts: dict[Literal["train", "val", "test"], int] = {}
    classes: int = 0
    otherwise: str = ""
    download: str = ""

    @property
    def downloads(self) -> str:
        """torchvision's class with a working download for it, or nothing."""
        kind = self.download or str(self.options.get("class", ""))
        return "" if kind == "StanfordCars" else kind  # its server is gone


KINDS = {"folder": "folder:DIR, with class folders or splits in it", "csv": "csv:FILE, a line an image"}
"""What may stand before a colon in place of a name, and what it means."""


@cache
def known() -> dict[str, Known]:
    """The data sets with a name."""
    path = Path(__file__).parent / "known.yaml"
    return {name: build(Known, value, where=f"{path}, {name}") for name, value in read_yaml(path).items()}


def _entry(name: str, data_root: Path) -> Known | None:
    entry = known().get(name)
    if entry and entry.otherwise and not (data_root / entry.folder).exists():
        other = known()[entry.otherwise]
        return other if (data_root / other.folder).exists() else entry
    return entry


@dataclass(frozen=True)
class Place:
    """A data set named by where it lies: ``folder:DIR`` or ``csv:FILE``, with ``,test=val`` or ``,label=COLUMN``.

    Attributes:
        path: The folder or file.
        test: Which split is tested on.
        label: The column to predict.
    """

    path: Path
    test: str = "test"
    label: str | None = None

    @classmethod
    def read(cls, name: str) -> Place | None:
        """The place that a name gives, or None for another name.

        Raises:
            UserError: If an option is unknown or has a value that does not exist.
        """
        kind, colon, rest = name.partition(":")
        if kind not in KINDS or not colon:
            return None
        path, *given = re.split(r",(?=[a-z]+=)", rest)
        options = dict(item.split("=", 1) for item in given)
        for key in options:
            if key not in ("test", "label"):
                wrong = unknown("option", key, ("test", "label"))
                raise UserError(f"{name}: {wrong.message}", remedy=wrong.remedy, code=2)
        if options.get("test", "test") not in ("test", "val"):
            raise UserError(f"{name}: test={options['test']}", remedy="test=val, or leave it out", code=2)
        if not path:
            raise UserError(f"{name}: names no place", remedy=f"{kind}:PATH", code=2)
        return cls(Path(path).expanduser(), options.get("test", "test"), options.get("label"))


def load(
    name: str, data_root: str | Path, *, label: str | None = None, derived: Sequence[str] = ()
) -> ImageDataset:
    """Read a data set's lists and labels; images are decoded later.

    Args:
        name: A known name; a folder (or CSV file) under the data root with class folders or labels.csv; or
            ``folder:DIR`` or ``csv:FILE``, see `Place`.
        data_root: Where the data sets lie.
        label: The column to predict, for a CSV manifest.
        derived: Steps that make another data set of it, see `derived.derive`.

    Returns:
        The data set with train, val and test; a missing val is 20% of train, stratified.

    Raises:
        UserError: If it is not there or its layout is broken; the message names the file and the remedy.
    """
    place = Place.read(name)
    found = _at(name, place, label, Path(data_root)) if place else _read(name, Path(data_root), label)
    return derive(found, derived)


def _at(name: str, place: Place, label: str | None, data_root: Path) -> ImageDataset:
    """What lies at a place: a relative one is looked for here, then under the data root."""
    wants = "file" if name.startswith("csv:") else "folder"
    tried = list(dict.fromkeys((place.path, data_root / place.path)))
    there = [path for path in tried if (path.is_file() if wants == "file" else path.is_dir())]
    if not there:
        looked = " and ".join(map(str, tried))
        raise UserError(f"{looked}: no such {wants}", remedy=f"{KINDS[name.partition(':')[0]]}", code=2)
    if len(there) > 1 and not there[0].samefile(there[1]):
        raise UserError(
            f"{name}: both {there[0]} and {there[1]} are there", remedy="write the whole path", code=2
        )
    return any_layout(name, there[0], place.label or label, test=place.test)


def _read(name: str, data_root: Path, label: str | None) -> ImageDataset:
    if not data_root.is_dir():
        raise UserError(f"{data_root}: the data folder does not exist", remedy="give --data-root", code=2)
    entry = _entry(name, data_root)
    root = data_root / (entry.folder if entry else name)
    if entry and not root.exists() and (data_root / name).exists():
        entry, root = None, data_root / name  # a folder of the user's that bears a known name
    if not root.exists():
        if entry:
            remedy = f"put there: {entry.source}"
            if known().get(entry.otherwise, entry).downloads:
                remedy = f"`mast data download {name}`, or {remedy}"
            raise UserError(f"{root}: the data set '{name}' is missing", remedy=remedy)
        found = sorted(path.name for path in data_root.iterdir() if not path.name.startswith("."))
        held = ", ".join(found) or "nothing"
        raise UserError(f"{root}: the data set '{name}' is missing", remedy=f"{data_root} holds {held}")
    if entry is None:
        return any_layout(name, root, label)
    if entry.layout in LAYOUTS:
        return LAYOUTS[entry.layout](name, root, label)
    from .torchvision_sets import ARCHIVES, torchvision_classes

    if entry.layout == "torchvision":
        return torchvision_classes(name, data_root, entry.options)
    return ARCHIVES[entry.layout](name, root, entry.options)


def official_counts(name: str, data_root: str | Path, dataset: ImageDataset) -> list[str] | None:
    """How a data set's classes and splits differ from the official ones; val cut from train counts as train.

    Returns:
        One sentence for a wrong number of classes and for each split of the wrong size; None where no official
        sizes are known.
    """
    entry = _entry(name, Path(data_root))
    if entry is None or not entry.counts or not (Path(data_root) / entry.folder).exists():
        return None
    found = dataset.counts
    if "val" not in entry.counts:
        found["train"] += found.pop("val")
    wrong = [
        f"{name} {split}: {found[split]} images, officially {count}"
        for split, count in entry.counts.items()
        if found[split] != count
    ]
    if dataset.num_classes != entry.classes:
        wrong.insert(0, f"{name}: the number of classes is {dataset.num_classes}, officially {entry.classes}")
    return wrong


def download(name: str, data_root: str | Path) -> ImageDataset:
    """Download a data set through torchvision, where it can, and read it.

    Raises:
        UserError: If torchvision has no download for it; the message says where to get it.
    """
    entry = known().get(name)
    if entry is None:
        raise unknown("data set", name, known())
    entry, root = known().get(entry.otherwise, entry), Path(data_root)
    if not entry.downloads:
        raise UserError(
            f"'{name}' has no automatic download", remedy=f"get it by hand: {entry.source}", code=2
        )
    from .torchvision_sets import fetch, torchvision_classes

    if not entry.download:
        return torchvision_classes(name, root, entry.options, download=True)
    fetch(entry.download, root)
    return load(name, root)
