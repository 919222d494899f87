"""Data sets: names, splits and manifests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..catalog import build, read_yaml
from ..errors import UserError
from .base import ImageDataset, Labels, Pool, Split, carve, decode
from .readers import LAYOUTS, any_layout

__all__ = ["ImageDataset", "Known", "Labels", "Pool", "Split", "carve", "decode", "known", "load"]


@dataclass(frozen=True)
class Known:
    """A data set that has a name.

    Attributes:
        folder: Where it lies under the data root.
        layout: Which reader reads it.
        source: What to download, and from whom.
    """

    folder: str
    layout: str
    source: str


@cache
def known() -> dict[str, Known]:
    """The data sets with a name."""
    path = Path(__file__).parent / "known.yaml"
    return {name: build(Known, value, where=f"{path}, {name}") for name, value in read_yaml(path).items()}


def load(name: str, data_root: str | Path, *, label: str | None = None) -> ImageDataset:
    """Read a data set's lists and labels; images are decoded later.

    Args:
        name: A known name, or a folder (or CSV file) under the data root with class folders or labels.csv.
        data_root: Where the data sets lie.
        label: The column to predict, for a CSV manifest.

    Returns:
        The data set with train, val and test; a missing val is 20% of train, stratified.

    Raises:
        UserError: If it is not there or its layout is broken; the message names the file and the remedy.
    """
    data_root = Path(data_root)
    if not data_root.is_dir():
        raise UserError(f"{data_root}: the data folder does not exist", remedy="give --data-root", code=2)
    entry = known().get(name)
    root = data_root / (entry.folder if entry else name)
    if not root.exists():
        if entry:
            raise UserError(f"{root}: the data set '{name}' is missing", remedy=f"put there: {entry.source}")
        found = sorted(path.name for path in data_root.iterdir() if not path.name.startswith("."))
        raise UserError(
            f"{root}: the data set '{name}' is missing",
            remedy=f"{data_root} holds {', '.join(found) or 'nothing'}",
        )
    return (LAYOUTS[entry.layout] if entry else any_layout)(name, root, label)
