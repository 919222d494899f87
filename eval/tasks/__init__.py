"""Tasks: a data set, what is predicted, and the metric. A task is data: one of the YAML files here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import protocols
from ..definitions import Catalog
from ..errors import UserError, unknown
from .kinds import KINDS

__all__ = ["KINDS", "Task", "get", "names", "resolve"]


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        name: Its name.
        version: Raised whenever its numbers change.
        kind: One of `KINDS`.
        dataset: Name of the data set, or its folder under the data root.
        metric: The number to report, such as top1, mean_per_class, map11, box_ap, mask_ap.
        default: The protocol that is run where none is named, or its file; that of the kind when empty.
        excludes: Protocols that are for such tasks but not for this one.
        label: The column to predict, where the data set is a CSV manifest.
        derived: Steps that make another data set of it: ``development``, or a factor (`datasets.factors`).
        description: One line.
    """

    name: str
    version: int
    kind: str
    dataset: str
    metric: str
    default: str = ""
    excludes: tuple[str, ...] = ()
    label: str | None = None
    derived: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "excludes", tuple(self.excludes))
        object.__setattr__(self, "derived", tuple(self.derived))
        self._is_known("kind", self.kind, KINDS)
        self._is_known("metric", self.metric, KINDS[self.kind].metrics)
        object.__setattr__(self, "default", self.default or KINDS[self.kind].default)
        for name in self.excludes:
            self._is_known("protocol", name, protocols.names())
        if not self.default.endswith((".yaml", ".yml")):
            self._is_known("protocol", self.default, protocols.names())
        self.check(protocols.get(self.default))

    def _is_known(self, what: str, name: str, known: Iterable[str]) -> None:
        if name not in known:
            error = unknown(what, name, known)
            raise UserError(f"task '{self.name}': {error.message}", remedy=error.remedy, code=2)

    def check(self, protocol: protocols.Protocol) -> None:
        """Whether a protocol applies to it.

        Raises:
            UserError: If it is for other tasks, or this task excludes it; the message says which.
        """
        if protocol.name in self.excludes:
            raise UserError(
                f"the task {self.name} excludes the protocol '{protocol.name}'",
                remedy=f"its own is {self.default}; `mast list protocols` shows all",
                code=2,
            )
        if not protocol.serves(self.name, self.kind):
            meant = ", ".join(protocol.tasks or protocol.code.tasks)
            raise UserError(
                f"the protocol {protocol.name} is for {meant}, and the task {self.name} is {self.kind}",
                remedy=f"its own is {self.default}; `mast list protocols` shows all",
                code=2,
            )

    @cached_property
    def protocols(self) -> tuple[str, ...]:
        """Names of the package's protocols that apply to it, the default first."""
        known = (name for name in protocols.names() if name not in self.excludes)
        found = [name for name in known if protocols.get(name).serves(self.name, self.kind)]
        return tuple(dict.fromkeys([self.default, *found]))

    def open(self, data_root: Path) -> Any:
        """Its data: lists and labels are read and checked, images are not decoded yet.

        Returns:
            An `ImageDataset`, or a `DetectionData` for detection; both have ``manifest`` and ``counts``.
        """
        return KINDS[self.kind].open(self, data_root)


def resolve(task: str, protocol: str, overrides: Mapping[str, Any]) -> tuple[Task, protocols.Protocol]:
    """A task and a protocol by name, the protocol with its overrides.

    Raises:
        UserError: If one does not exist, they do not fit each other, or an override does not fit.
    """
    what, how = get(task), protocols.get(protocol)
    what.check(how)
    return what, how.override(overrides)


_catalog = Catalog("task", Path(__file__).parent, Task)
names = _catalog.names


def get(name: str) -> Task:
    """The task of that name, of that YAML file, or of the data at a place.

    A place is ``folder:DIR`` or ``csv:FILE`` (classes), ``coco:DIR`` or ``voc:DIR`` (boxes), ``seg:DIR`` (masks) or
    ``depth:DIR``.

    Raises:
        UserError: If there is none; the message suggests the nearest name.
    """
    if name.startswith(("folder:", "csv:")):
        return Task(name, 1, "classification", name, "top1", description="a folder of the user's")
    if name.startswith(("coco:", "voc:")):
        return Task(name, 1, "detection", name, "box_ap", description="pictures and boxes of the user's")
    if name.startswith("seg:"):
        return Task(name, 1, "segmentation", name, "miou", description="pictures and masks of the user's")
    if name.startswith("depth:"):
        return Task(name, 1, "depth", name, "delta1", description="pictures and depths of the user's")
    return _catalog.get(name)
