"""One row of a table against another, column by column: above by an interval, below, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..numbers.intervals import NoInterval
from . import evidence
from .evidence import Witness
from .parts import Cell, Column
from .tables import Table


class Side(Enum):
    """Where the first row stands."""

    ABOVE = "above"
    BELOW = "below"
    OPEN = "not told apart"
    UNKNOWN = "no interval"


@dataclass(frozen=True)
class Margins:
    """The first row against the second in every headline column that both have.

    Attributes:
        first, second: Names of the rows.
        sides: For each column, such as ``linear v2: cifar10 top1``, where the first stands.
    """

    first: str
    second: str
    sides: dict[str, Side]

    def at(self, side: Side) -> list[str]:
        """The columns where it stands there."""
        return [column for column, found in self.sides.items() if found is side]

    def lines(self) -> list[str]:
        """In words for a reader."""
        known = len(self.sides) - len(self.at(Side.UNKNOWN))
        told = [f"{self.first} against {self.second}: above in {len(self.at(Side.ABOVE))} of {known} rows"]
        told += [
            f"  {side.value}: {', '.join(self.at(side))}"
            for side in (Side.BELOW, Side.OPEN, Side.UNKNOWN)
            if self.at(side)
        ]
        return told


def margins(table: Table, first: str, second: str) -> Margins:
    """Compare two checkpoints of a table by name.

    Where the two pair (the same test examples or few-shot pool), the interval of their difference decides, 95 % and
    by itself; elsewhere, whether their own intervals lie apart.

    Args:
        table: What `tables.build` gives.
        first: A row's name, such as a pretraining arm.
        second: A row's name, such as a random control.
    """
    witness = Witness(table.book)
    sides = {}
    for section in table.sections:
        rows = [next((row for row in section.rows if row.name == name), None) for name in (first, second)]
        if rows[0] is None or rows[1] is None:
            continue
        for column in section.headline:
            cells = [section.cells.get((row, column)) for row in rows if row is not None]
            if cells[0] is not None and cells[1] is not None:
                short = f"{section.heading.name}: {column.label}"
                name = f"{section.title}: {column.label}" if short in sides else short
                sides[name] = _side(cells[0], cells[1], column, witness)
    return Margins(first, second, sides)


def _side(first: Cell, second: Cell, column: Column, witness: Witness) -> Side:
    paired = evidence.gain(first, second, column.metric, witness)
    if paired is not None and not isinstance(paired.interval, NoInterval):
        low, high = paired.interval.low, paired.interval.high
    elif first.low is None or first.high is None or second.low is None or second.high is None:
        return Side.UNKNOWN
    else:
        low, high = first.low - second.high, first.high - second.low
    return Side.ABOVE if low > 0 else Side.BELOW if high < 0 else Side.OPEN
