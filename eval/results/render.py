"""Tables written down: for a terminal, as Markdown, CSV, LaTeX and HTML. Equal tables give equal bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from ..errors import unknown
from . import pages
from .tables import Cell, Column, Section, Table

DASH: Final = "–"
ACROSS: Final = 6  # checkpoints beside one another on a terminal
RANKS: Final = (
    "Ranks go by the mean; a row has every rank that its interval leaves it. The ends of a mean's interval are the "
    "means of the ends, and a value without an interval counts as exact."
)
LEGEND: Final = (
    f"Values in percent. {DASH}: not measured, and such a row has no mean and no rank. Bold: the highest value of a "
    "column and all whose intervals overlap with its interval; nothing where that is the whole column. "
    f"{RANKS} "
    "Overlap is cautious: `mast compare` compares checkpoints on the same examples, or over pretraining seeds."
)


def render(table: Table, form: str) -> str:
    """A table as text of one of `FORMS`.

    Raises:
        UserError: For an unknown form.
    """
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    return FORMS[form](table)


def percent(value: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * value:.1f}"


@dataclass(frozen=True)
class Shown:
    """A cell as text; ``best`` marks a leader of its column, ``source`` numbers its footnote."""

    value: str
    rest: str
    source: int | None
    best: bool


@dataclass(frozen=True)
class Line:
    """A row as text; mean and rank are a dash where a cell is missing."""

    label: str
    control: bool
    cells: list[Shown | None]
    summary: list[str]


def lines(table: Table, section: Section) -> list[Line]:
    """A section as text, a line for each row; mean and rank follow the columns if `has_summary`."""
    summary, found = section.summary(), []
    best = {column: section.leaders(column) for column in section.columns}
    for row in section.rows:
        cells = [
            _shown(table, section.cells.get((row, column)), row in best[column]) for column in section.columns
        ]
        ends = [DASH, DASH] if has_summary(section) else []
        if row in summary:
            mean, first, last = summary[row]
            ends = [percent(mean), str(first) if first == last else f"{first}-{last}"]
        found.append(Line(row.label, row.control, cells, ends))
    return found


def has_summary(section: Section) -> bool:
    """Whether a section has a mean and ranks: with one column there is nothing to average."""
    return len(section.headline) > 1


def heads(section: Section) -> list[str]:
    """What stands over the columns and over mean and rank."""
    return [
        *(column.label for column in section.columns),
        *(["mean", "rank"] if has_summary(section) else []),
    ]


def _shown(table: Table, cell: Cell | None, best: bool) -> Shown | None:
    if cell is None:
        return None
    rest = [] if cell.low is None or cell.high is None else [f"[{percent(cell.low)}, {percent(cell.high)}]"]
    if cell.seeds > 1:
        rest.append(f"n={cell.seeds}")
    source = table.sources.index(cell.source) + 1 if cell.source else None
    return Shown(percent(cell.value), " ".join(rest), source, best)


def intervals(section: Section) -> str:
    """One sentence on a section's intervals: level and kind, and the columns where kinds differ."""
    kinds: dict[str, dict[Column, None]] = {}
    for (_, column), cell in section.cells.items():
        if cell.interval is not None and cell.level is not None:
            kinds.setdefault(f"{100 * cell.level:g} % {cell.interval}", {})[column] = None
    parts = [
        kind + (f" ({', '.join(column.label for column in where)})" if len(kinds) > 1 else "")
        for kind, where in kinds.items()
    ]
    return f"Intervals: {'; '.join(parts).replace('-', ' ')}." if parts else ""


def _failed(table: Table) -> list[str]:
    return [f"Failed: {failure}" for failure in table.failures]


def text(table: Table) -> str:
    """Tasks down, checkpoints across, for a terminal; more than `ACROSS` checkpoints stand in parts."""
    told = [
        (section, {row.label: [*map(_in_text, row.cells), *row.summary] for row in lines(table, section)})
        for section in table.sections
    ]
    labels = list(dict.fromkeys(label for _, rows in told for label in rows))
    parts = [_part(told, labels[at : at + ACROSS]) for at in range(0, len(labels), ACROSS)]
    notes = dict.fromkeys(filter(None, map(intervals, table.sections)))
    ranks = [RANKS] if any(map(has_summary, table.sections)) else []
    return "\n".join(["\n\n".join(parts), *notes, *ranks, *_failed(table)]) + "\n"


def _part(told: Sequence[tuple[Section, dict[str, list[str]]]], labels: list[str]) -> str:
    """Some checkpoints, with the sections that have one of them."""
    grid = [["", *labels]]
    for section, rows in told:
        if any(label in rows for label in labels):
            grid.append([section.title])
            grid += [
                [f"  {head}", *(rows[label][at] if label in rows else DASH for label in labels)]
                for at, head in enumerate(heads(section))
            ]
    widths = [max(len(line[at]) for line in grid if len(line) > 1) for at in range(len(labels) + 1)]
    body = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in grid]
    rule = "-" * max(map(len, body))
    return "\n".join([body[0], rule, *body[1:], rule])


def _in_text(shown: Shown | None) -> str:
    return DASH if shown is None else f"{shown.value} {shown.rest}".rstrip()


def markdown(table: Table) -> str:
    """Markdown with a heading and a table for each section, and footnotes for sources."""
    out = [f"# {table.title}", ""]
    for section in table.sections:
        columns = heads(section)
        out += [
            f"## {section.title}",
            "",
            "| | " + " | ".join(columns) + " |",
            "|:--" + "|--:" * len(columns) + "|",
        ]
        for row in lines(table, section):
            label = row.label.replace("|", "\\|") + (" (random control)" if row.control else "")
            out.append("| " + " | ".join([label, *map(_in_markdown, row.cells), *row.summary]) + " |")
        out += ["", *([intervals(section), ""] if intervals(section) else [])]
    out += [LEGEND, "", *(f"- {failure}" for failure in _failed(table)), *([""] if table.failures else [])]
    out += [f"[^{number}]: {source}" for number, source in enumerate(table.sources, start=1)]
    return "\n".join(out).rstrip() + "\n"


def _in_markdown(shown: Shown | None) -> str:
    if shown is None:
        return DASH
    value = f"**{shown.value}**" if shown.best else shown.value
    mark = f"[^{shown.source}]" if shown.source else ""
    return f"{value}{mark} {shown.rest}".rstrip()


def comma_separated(table: Table) -> str:
    """CSV, one line a cell, values as fractions; a cell that was not measured has an empty value."""
    file = io.StringIO()
    out = csv.writer(file, lineterminator="\n")
    out.writerow(
        ["section", "checkpoint", "column", "value", "low", "high", "interval", "level", "seeds", "source"]
    )
    for section in table.sections:
        for row in section.rows:
            for column in section.columns:
                cell = section.cells.get((row, column))
                values: list[object] = [""] * 7
                if cell is not None:
                    numbers = [
                        "" if number is None else f"{number:.6g}"
                        for number in (cell.value, cell.low, cell.high, cell.level)
                    ]
                    values = [*numbers[:3], cell.interval, numbers[3], cell.seeds, cell.source]
                out.writerow([section.title, row.label, column.label, *values])
    return file.getvalue()


def latex(table: Table) -> str:
    """LaTeX: a ``tabular`` for each section, with booktabs' rules."""
    out = [f"% {table.title}. Needs the package booktabs."]
    for section in table.sections:
        columns = heads(section)
        out += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
        out += [" & ".join(map(_tex, [section.title, *columns])) + " \\\\", "\\midrule"]
        for row in lines(table, section):
            label = _tex(row.label) + (" (random control)" if row.control else "")
            out.append(" & ".join([label, *map(_in_latex, row.cells), *map(_tex, row.summary)]) + " \\\\")
        out += ["\\bottomrule", "\\end{tabular}", f"% {intervals(section)}".rstrip(), ""]
    out += [f"% {line}" for line in _failed(table)]
    out += [f"$^{{{number}}}${_tex(source)}\\\\" for number, source in enumerate(table.sources, start=1)]
    return "\n".join(out).rstrip() + "\n"


def _tex(value: str) -> str:
    for sign in "&%$#_{}":
        value = value.replace(sign, "\\" + sign)
    return value.replace(DASH, "--")


def _in_latex(shown: Shown | None) -> str:
    if shown is None:
        return "--"
    value = f"\\textbf{{{shown.value}}}" if shown.best else shown.value
    mark = f"$^{{{shown.source}}}$" if shown.source else ""
    return f"{value}{mark} {{\\scriptsize {shown.rest}}}" if shown.rest else value + mark


def fragment(table: Table, *, heading: int = 2) -> Markup:
    """An HTML fragment: a heading and a table for each section, then failures and sources.

    Args:
        table: The table.
        heading: Level of the headings.
    """
    return pages.render(
        "table.html",
        table=table,
        heading=heading,
        legend=LEGEND,
        dash=DASH,
        lines=lines,
        has_summary=has_summary,
        intervals=intervals,
    )


FORMS: Final[dict[str, Callable[[Table], str]]] = {
    "text": text,
    "md": markdown,
    "csv": comma_separated,
    "tex": latex,
    "html": fragment,
}
