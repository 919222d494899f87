"""A table as somebody wants to print it: which rows and columns, in which order, under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeVar

from ..errors import UserError, unknown
from .parts import Column, Section
from .tables import Table

Item = TypeVar("Item")


def select(
    table: Table,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    sections: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Table:
    """Keep some rows, columns and sections, in the order given, and show them under other names.

    Marks and ranks are those among the rows that are kept.

    Args:
        table: The whole table.
        rows: Labels of rows, or patterns with ``*``; all when empty.
        columns: Tasks, or tasks with a metric (``cifar10 top1``), or patterns; all when empty.
        sections: Protocols with their version (``linear v2``), or patterns; all when empty.
        names: For labels of rows and columns, and tasks, what is shown instead.

    Raises:
        UserError: If one of the names is not in the table.
    """
    shown = dict(names or {})
    labels = {row.label for section in table.sections for row in section.rows}
    tasks = {text for section in table.sections for column in section.columns for text in _texts(column)}
    titles = {text for section in table.sections for text in (section.title, section.heading.name)}
    for kind, wanted, known in (
        ("row", rows, labels),
        ("column", columns, tasks),
        ("section", sections, titles),
        ("name to change", list(shown), labels | tasks | titles),
    ):
        for name in wanted:
            if not any(fnmatchcase(text, name) for text in known):
                raise unknown(kind, name, known)
    kept = _pick(table.sections, sections, lambda section: (section.title, section.heading.name))
    found = [_section(section, rows, columns, shown) for section in kept]
    found = [section for section in found if section.rows and section.columns]
    cited = {cell.source for section in found for cell in section.cells.values()}
    return replace(table, sections=found, sources=[source for source in table.sources if source in cited])


def _section(
    section: Section, rows: Sequence[str], columns: Sequence[str], names: Mapping[str, str]
) -> Section:
    kept_rows = {
        row: replace(row, label=names.get(row.label, row.label))
        for row in _pick(section.rows, rows, lambda row: (row.label,))
    }
    kept_columns = {
        column: replace(column, shown=_shown(column, names))
        for column in _pick(section.columns, columns, _texts)
    }
    cells = {
        (kept_rows[row], kept_columns[column]): cell
        for (row, column), cell in section.cells.items()
        if row in kept_rows and column in kept_columns
    }
    filled = {row for row, _ in cells}
    return Section(
        replace(section.heading, shown=names.get(section.title, names.get(section.heading.name, ""))),
        [row for row in kept_rows.values() if row in filled],
        list(kept_columns.values()),
        cells,
    )


def _pick(items: Sequence[Item], wanted: Sequence[str], texts: Callable[[Item], Sequence[str]]) -> list[Item]:
    """The items that one of the patterns fits, in the order of the patterns; all without any."""
    if not wanted:
        return list(items)
    fitting = (item for name in wanted for item in items if any(fnmatchcase(t, name) for t in texts(item)))
    return list({id(item): item for item in fitting}.values())


def _texts(column: Column) -> tuple[str, ...]:
    return column.task, f"{column.task} {column.metric}", column.label


def _shown(column: Column, names: Mapping[str, str]) -> str:
    for text in (column.label, f"{column.task} {column.metric}", column.task):
        if text in names:
            return names[text]
    return ""


def parse_names(given: Sequence[str]) -> dict[str, str]:
    """Display names from ``NAME=SHOWN``.

    Raises:
        UserError: For text of another form.
    """
    names = {}
    for text in given:
        name, sign, shown = text.partition("=")
        if not sign or not name or not shown:
            raise UserError(f"--name {text}", remedy="write NAME=SHOWN", code=2)
        names[name] = shown
    return names
