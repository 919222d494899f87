"""Data that a run has opened: each set once, whatever cells use it."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

from mast.files import writing

from ..tasks import Task
from .plan import Cell

LIMIT = 4_000_000  # examples whose lists and labels are kept at a time: three times ImageNet


class OpenData:
    """Opens the data of tasks under a data root and keeps them open; the longest unused goes when they get many.

    Args:
        data_root: Where data sets lie.
        limit: Use at most so many examples of each split, for a smoke test; all when None.
    """

    def __init__(self, data_root: Path, limit: int | None = None) -> None:
        self.data_root = data_root
        self.limit = limit
        self._open: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def whole(self, task: Task, handed: Path | None = None) -> Any:
        """A task's data, opened now or before.

        Args:
            task: The task.
            handed: The file of another process that has opened them, see `hand`.

        Raises:
            UserError: If they are missing or broken.
        """
        key = key_of(task)
        if key not in self._open:
            self._open[key] = self._read(task) if handed is None else pickle.loads(handed.read_bytes())
        self._open.move_to_end(key)
        while len(self._open) > 1 and sum(map(_size, self._open.values())) > LIMIT:
            self._open.popitem(last=False)
        return self._open[key]

    def of(self, cell: Cell, handed: Path | None = None) -> Any:
        """The part of a task's data that a cell uses; arguments as of `whole`."""
        return cell.protocol.code.data(self.whole(cell.task, handed), cell.protocol.settings, cell.seed)

    def hand(self, task: Task, path: Path) -> None:
        """Write a task's data, with every hash that is known of them, for a process that trusts this one."""
        with writing(path.parent), path.open("wb") as file:
            pickle.dump(self.whole(task), file, pickle.HIGHEST_PROTOCOL)

    def _read(self, task: Task) -> Any:
        data = task.open(self.data_root)
        return data if self.limit is None else data.limited(self.limit)


def key_of(task: Task) -> tuple[Any, ...]:
    """Tasks with the same key read the same data."""
    return (task.kind, task.dataset, task.label, task.derived)


def _size(data: Any) -> int:
    return sum(data.counts.values())
