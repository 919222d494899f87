"""What cells took, to say what others will take; and durations and counts for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from ..results.records import Record
from .plan import Cell


class Costs:
    """What cells took, to say what others will take."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], list[float]] = {}
        self._medians: dict[tuple[str, ...], tuple[int, float]] = {}  # with the number of seconds they are of
        self.pretraining: list[float] = []

    def learn(self, done: Iterable[Record]) -> None:
        """Take in completed records."""
        for record in done:
            if record.status == "completed":
                how = f"{record.protocol.name} v{record.protocol.version}"
                for key in ((how, record.task.name), (how,)):
                    self.known.setdefault(key, []).append(record.seconds)

    def of(self, cell: Cell) -> float | None:
        """Seconds of a cell: the median of its task's under its protocol, or of all under its protocol."""
        how = f"{cell.protocol.name} v{cell.protocol.version}"
        key = (how, cell.task.name) if (how, cell.task.name) in self.known else (how,)
        seconds = self.known.get(key)
        if not seconds:
            return None
        if self._medians.get(key, (0, 0.0))[0] < len(seconds):
            self._medians[key] = len(seconds), statistics.median(seconds)
        return self._medians[key][1]

    def left(self, cells: Iterable[Cell], arms: int, slots: int = 1) -> str:
        """How long cells and arms will take, ``slots`` at a time, as the end of a line; empty if none is left."""
        found = [self.of(cell) for cell in cells]
        known = sum(seconds for seconds in found if seconds is not None)
        if arms and self.pretraining:
            known, arms = known + arms * statistics.median(self.pretraining), 0
        if not found and not arms:
            return ""
        more = " or more" if arms or None in found else ""
        return f"; {counted(len(found), 'cell')} left, about {duration(known / slots)}{more}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 cell", "2 cells"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
