"""Is a checkpoint above random weights? Every trained row against the best random control of its column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import UserError
from ..numbers import tests
from . import escape, evidence
from .parts import Column, Row, Section
from .standing import LEVEL, paired_evidence, span
from .tables import Table

HEADS: Final = ("checkpoint", "above", "not above: difference in points, p")
NOTE: Final = (
    "Each trained checkpoint against the best random control of a column, by the column's paired test, p values "
    "corrected by Holm's method over the checkpoints of the column (5 %). Where the two do not pair, their "
    "intervals have to lie apart."
)


@dataclass(frozen=True)
class Against:
    """One trained checkpoint against the best random control of one column.

    Attributes:
        row, column, control: Which.
        difference: Of the checkpoint over the control, a fraction.
        paired: Whether the two pair.
        p_value: Then the one of their test, corrected over the checkpoints of the column; None where equal outcomes
            leave nothing to test.
        above: Whether it is surely higher.
    """

    row: Row
    column: Column
    control: Row
    difference: float
    paired: bool
    p_value: float | None
    above: bool


def against(table: Table, section: Section) -> Iterator[Against]:
    """All trained checkpoints of a section, column by column; nothing where no control was measured."""
    for column in section.headline:
        cells = {row: section.cells[row, column] for row in section.rows if (row, column) in section.cells}
        controls = [row for row in cells if row.control]
        trained = [row for row in cells if not row.control and not row.published]
        if not controls or not trained:
            continue
        best = max(controls, key=lambda row: cells[row].value)
        kept, _ = paired_evidence(
            {row: cells[row] for row in (best, *trained)}, column, table.standings.witness
        )
        tested = evidence.compare(list(kept.values())) if best in kept else None
        p_values = dict[Row, float]()
        if tested is not None:
            at = list(kept).index(best)
            found = {
                row: float(tested.p_values[number, at]) for number, row in enumerate(kept) if row != best
            }
            known = {row: p for row, p in found.items() if not np.isnan(p)}
            p_values = dict(zip(known, tests.holm(list(known.values())), strict=True))
        for row in trained:
            difference, p_value = cells[row].value - cells[best].value, p_values.get(row)
            paired = tested is not None and row in kept
            if paired:
                above = p_value is not None and p_value < 1 - LEVEL and difference > 0
            else:
                above = span(cells[row])[0] > span(cells[best])[1]
            yield Against(row, column, best, difference, paired, p_value, above)


def grid(table: Table, section: Section) -> list[list[str]]:
    """A line for each trained checkpoint: in how many columns it is above, and what the others say."""
    lines: dict[Row, list[Against]] = {}
    for item in against(table, section):
        lines.setdefault(item.row, []).append(item)
    return [
        [
            row.label,
            f"{sum(item.above for item in items)} of {len(items)}",
            "; ".join(_open(item) for item in items if not item.above),
        ]
        for row, items in lines.items()
    ]


def _open(item: Against) -> str:
    p_value = "no test" if item.p_value is None else f"p {item.p_value:.3f}"
    told = f"{item.column.label} {100 * item.difference:+.1f}"
    return f"{told}, {p_value if item.paired else 'not paired'}"


def sections(table: Table) -> list[tuple[Section, list[list[str]]]]:
    """The sections that have controls, with their grids."""
    found = [(section, grid(table, section)) for section in table.sections]
    return [(section, rows) for section, rows in found if rows]


def markdown(table: Table) -> str:
    """All sections that have controls, and how to read them.

    Raises:
        UserError: If none has.
    """
    parts = []
    for section, rows in sections(table):
        lines = ["| " + " | ".join(map(escape.markdown, line)) + " |" for line in (HEADS, *rows)]
        parts.append(
            "\n".join([f"### {escape.markdown(section.title)}", "", lines[0], "|:--|--:|:--|", *lines[1:]])
        )
    if not parts:
        raise UserError(
            "no trained checkpoint stands beside a random control",
            remedy="measure one on the same tasks, such as --checkpoint random:resnet50@0",
        )
    return "\n\n".join([*parts, NOTE]) + "\n"
