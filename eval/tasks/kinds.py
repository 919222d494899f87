"""Kinds of tasks: which metrics a task of a kind may have, and how its data are opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from . import Task


class Opened(Protocol):
    """What every opened data set tells: the hash that stands for it in run ids, and how many examples it has."""

    @property
    def manifest(self) -> str:
        """SHA-256 over everything that decides a number."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each part."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of a number should know of the data."""


@dataclass(frozen=True)
class TaskKind:
    """A kind of task.

    Attributes:
        metrics: Those that can be the task's own.
        open: From a task and the data root to its data; lists and labels are read, images are not.
        default: The protocol that is run where none is named and the task names none.
    """

    metrics: tuple[str, ...]
    open: Callable[[Task, Path], Any]
    default: str


def _images(task: Task, data_root: Path) -> Opened:
    from .. import datasets

    found = datasets.load(task.dataset, data_root, label=task.label, derived=task.derived)
    found.check()
    return found


def _pixels(task: Task, data_root: Path) -> Opened:
    from ..datasets import segmentation

    return segmentation.load(task.dataset, data_root)


def _distances(task: Task, data_root: Path) -> Opened:
    from ..datasets import depth

    return depth.load(task.dataset, data_root)


def _boxes(task: Task, data_root: Path) -> Opened:
    from .. import detection

    return detection.prepare(task.dataset, data_root, masks=False)


def _masks(task: Task, data_root: Path) -> Opened:
    from .. import detection

    return detection.prepare(task.dataset, data_root, masks=True)


_BOX, _MASK = (
    tuple(f"{kind}_{name}" for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"))
    for kind in ("box", "mask")
)
KINDS = {
    "classification": TaskKind(("top1", "top5", "mean_per_class"), _images, "linear"),
    "multilabel": TaskKind(
        ("map11", "map11_ericsson2021", "map11_devkit", "map_area", "map_area_vissl"), _images, "linear"
    ),
    "detection": TaskKind(_BOX, _boxes, "coco-fpn-1x"),
    "instance_segmentation": TaskKind((*_BOX, *_MASK), _masks, "coco-fpn-1x"),
    "segmentation": TaskKind(("miou", "mean_accuracy", "pixel_accuracy"), _pixels, "seg-linear"),
    "depth": TaskKind(("delta1", "delta2", "delta3"), _distances, "depth-linear"),
}
