"""Tasks: a data set, what is predicted, and the metric. A task is data: one of the YAML files here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..catalog import Catalog
from ..errors import UserError

KINDS = ("classification", "multilabel", "detection", "instance_segmentation")
__all__ = ["KINDS", "Task", "get", "names"]


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        name: Its name.
        version: Raised whenever its numbers change.
        kind: One of `KINDS`.
        dataset: Name of the data set, or its folder under the data root.
        metric: The number to report, such as top1, mean_per_class, map11, box_ap, mask_ap.
        protocols: The protocols that apply.
        label: The column to predict, where the data set is a CSV manifest.
        derived: Steps that make another data set of it: ``development``, or a factor (`datasets.derived`).
        description: One line.
    """

    name: str
    version: int
    kind: str
    dataset: str
    metric: str
    protocols: tuple[str, ...]
    label: str | None = None
    derived: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocols", tuple(self.protocols))
        object.__setattr__(self, "derived", tuple(self.derived))
        if self.kind not in KINDS:
            raise UserError(
                f"task '{self.name}' is of kind '{self.kind}'", remedy=f"known: {', '.join(KINDS)}", code=2
            )


_catalog = Catalog("task", Path(__file__).parent, Task)
names = _catalog.names
get = _catalog.get
