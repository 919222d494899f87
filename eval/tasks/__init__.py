"""Tasks: a data set, what is predicted, and the metric. A task is data: one of the YAML files here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import protocols
from ..definitions import Catalog
from ..detection.options import options_of
from ..errors import UserError, unknown

_BOXES, _MASKS = (
    tuple(f"{kind}_{name}" for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"))
    for kind in ("box", "mask")
)
KINDS = {  # with the metrics that can be the task's own
    "classification": ("top1", "top5", "mean_per_class"),
    "multilabel": ("map11", "map11_ericsson2021", "map_area"),
    "detection": _BOXES,
    "instance_segmentation": (*_BOXES, *_MASKS),
}
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
        protocols: The protocols that apply, the default first; a file of one's own stands there as its path.
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
        self._is_known("kind", self.kind, KINDS)
        self._is_known("metric", self.metric, KINDS[self.kind])
        if not self.protocols:
            raise UserError(f"task '{self.name}' lists no protocols", remedy="`mast list protocols`", code=2)
        for name in self.protocols:
            if name.endswith((".yaml", ".yml")):
                continue
            self._is_known("protocol", name, protocols.names())
            if (protocols.get(name).kind == "detection") != (KINDS[self.kind][0] in _BOXES):
                raise UserError(
                    f"task '{self.name}': the protocol {name} is not for {self.kind}",
                    remedy="see `mast list protocols`",
                    code=2,
                )

    def _is_known(self, what: str, name: str, known: Iterable[str]) -> None:
        if name not in known:
            error = unknown(what, name, known)
            raise UserError(f"task '{self.name}': {error.message}", remedy=error.remedy, code=2)


def resolve(task: str, protocol: str, overrides: Mapping[str, Any]) -> tuple[Task, protocols.Protocol]:
    """A task and a protocol by name, the protocol with its overrides (but for detection, which applies them itself).

    Raises:
        UserError: If one does not exist, the task does not list the protocol, or an override does not fit it.
    """
    what, how = get(task), protocols.get(protocol)
    if how.name not in what.protocols and protocol not in what.protocols:
        raise UserError(
            f"the task {what.name} does not list the protocol '{how.name}'",
            remedy=unknown("protocol", how.name, what.protocols).remedy,
            code=2,
        )
    if how.kind != "detection":
        return what, how.override(overrides)
    options_of(overrides)
    return what, how


_catalog = Catalog("task", Path(__file__).parent, Task)
names = _catalog.names
get = _catalog.get
