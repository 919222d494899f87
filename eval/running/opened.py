"""Data that a run has opened: each set once, whatever cells use it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

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

    def whole(self, task: Task) -> Any:
        """A task's data, opened now or before.

        Raises:
            UserError: If they are missing or broken.
        """
        key = (task.kind, task.dataset, task.label, task.derived)
        if key not in self._open:
            data = task.open(self.data_root)
            self._open[key] = data if self.limit is None else data.limited(self.limit)
        self._open.move_to_end(key)
        while len(self._open) > 1 and sum(map(_size, self._open.values())) > LIMIT:
            self._open.popitem(last=False)
        return self._open[key]

    def of(self, cell: Cell) -> Any:
        """The part of a task's data that a cell uses."""
        return cell.protocol.code.data(self.whole(cell.task), cell.protocol.settings, cell.seed)


def _size(data: Any) -> int:
    return sum(data.counts.values())
