"""Tables written down: for a terminal, as Markdown, CSV, LaTeX and HTML. Equal tables give equal bytes."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import unknown
from .tables import Cell, Section, Table

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


def lines(table: Table, section: Section) -> tuple[list[str], list[Line]]:
    """A section as text: its headings, without the one over the labels, and a line for each row."""
    summary, found = section.summary(), []
    best = {column: section.leaders(column) for column in section.columns}
    for row, label in section.rows.items():
        cells = [
            _shown(table, section.cells.get((row, column)), row in best[column]) for column in section.columns
        ]
        ends = [DASH, DASH] if len(section.headline) > 1 else []
        if row in summary:
            mean, first, last = summary[row]
            ends = [percent(mean), str(first) if first == last else f"{first}-{last}"]
        found.append(Line(label, row in section.controls, cells, ends))
    return [*section.columns.values(), *(["mean", "rank"] if len(section.headline) > 1 else [])], found


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
    kinds: dict[str, list[str]] = {}
    for (_, column), cell in section.cells.items():
        if cell.interval is not None and cell.level is not None:
            where = kinds.setdefault(f"{100 * cell.level:g} % {cell.interval}", [])
            if section.columns[column] not in where:
                where.append(section.columns[column])
    parts = [kind + (f" ({', '.join(where)})" if len(kinds) > 1 else "") for kind, where in kinds.items()]
    return f"Intervals: {'; '.join(parts).replace('-', ' ')}." if parts else ""


def _failed(table: Table) -> list[str]:
    return [f"Failed: {failure}" for failure in table.failures]


def text(table: Table) -> str:
    """Tasks down, checkpoints across, for a terminal; more than `ACROSS` checkpoints stand in parts."""
    heads = list(dict.fromkeys(label for section in table.sections for label in section.rows.values()))
    parts = [_part(table, heads[at : at + ACROSS]) for at in range(0, len(heads), ACROSS)]
    notes = dict.fromkeys(filter(None, map(intervals, table.sections)))
    ranks = [RANKS] if any(len(section.headline) > 1 for section in table.sections) else []
    return "\n".join(["\n\n".join(parts), *notes, *ranks, *_failed(table)]) + "\n"


def _part(table: Table, heads: list[str]) -> str:
    """Some checkpoints, with the sections that have one of them."""
    grid = [["", *heads]]
    for section in table.sections:
        columns, rows = lines(table, section)
        across = {row.label: [*map(_in_text, row.cells), *row.summary] for row in rows}
        if not any(head in across for head in heads):
            continue
        grid.append([section.title])
        grid += [
            [f"  {column}", *(across[head][at] if head in across else DASH for head in heads)]
            for at, column in enumerate(columns)
        ]
    widths = [max(len(line[at]) for line in grid if len(line) > 1) for at in range(len(heads) + 1)]
    body = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in grid]
    rule = "-" * max(map(len, body))
    return "\n".join([body[0], rule, *body[1:], rule])


def _in_text(shown: Shown | None) -> str:
    return DASH if shown is None else f"{shown.value} {shown.rest}".rstrip()


def markdown(table: Table) -> str:
    """Markdown with a heading and a table for each section, and footnotes for sources."""
    out = [f"# {table.title}", ""]
    for section in table.sections:
        columns, rows = lines(table, section)
        out += [
            f"## {section.title}",
            "",
            "| | " + " | ".join(columns) + " |",
            "|:--" + "|--:" * len(columns) + "|",
        ]
        for row in rows:
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
        for row, label in section.rows.items():
            for column, head in section.columns.items():
                cell = section.cells.get((row, column))
                values: list[object] = [""] * 7
                if cell is not None:
                    numbers = [
                        "" if number is None else f"{number:.6g}"
                        for number in (cell.value, cell.low, cell.high, cell.level)
                    ]
                    values = [*numbers[:3], cell.interval, numbers[3], cell.seeds, cell.source]
                out.writerow([section.title, label, head, *values])
    return file.getvalue()


def latex(table: Table) -> str:
    """LaTeX: a ``tabular`` for each section, with booktabs' rules."""
    out = [f"% {table.title}. Needs the package booktabs."]
    for section in table.sections:
        columns, rows = lines(table, section)
        out += [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\toprule"]
        out += [" & ".join(map(_tex, [section.title, *columns])) + " \\\\", "\\midrule"]
        for row in rows:
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


def fragment(table: Table, *, heading: int = 2) -> str:
    """An HTML fragment: a heading and a table for each section, then failures and sources.

    Args:
        table: The table.
        heading: Level of the headings.
    """
    out = []
    for number, section in enumerate(table.sections):
        columns, rows = lines(table, section)
        heads = "".join(f'<th scope="col">{_words(column)}</th>' for column in columns)
        out += [
            f'<h{heading} id="table-{number}">{html.escape(section.title)}</h{heading}>',
            f"<p><small>{html.escape(intervals(section))}</small></p>" if intervals(section) else "",
            f'<div class="scroll" role="region" tabindex="0" aria-labelledby="table-{number}">',
            f'<table aria-labelledby="table-{number}">',
            f'<thead><tr><th scope="col">checkpoint</th>{heads}</tr></thead><tbody>',
        ]
        for row in rows:
            note = " <small>random control</small>" if row.control else ""
            cells = "".join(map(_in_html, row.cells)) + "".join(f"<td>{end}</td>" for end in row.summary)
            out.append(f'<tr><th scope="row">{html.escape(row.label)}{note}</th>{cells}</tr>')
        out.append("</tbody></table></div>")
    out.append(f"<p><small>{html.escape(LEGEND)}</small></p>")
    if table.failures:
        items = "".join(f"<li>{html.escape(failure)}</li>" for failure in table.failures)
        out.append(f"<h{heading}>Cells that failed</h{heading}><ul>{items}</ul>")
    if table.sources:
        items = "".join(
            f'<li id="source-{number}">{html.escape(source)}</li>'
            for number, source in enumerate(table.sources, start=1)
        )
        out.append(f"<h{heading}>Sources of published numbers</h{heading}><ol>{items}</ol>")
    return "\n".join(filter(None, out)) + "\n"


def _words(column: str) -> str:
    task, _, metric = column.partition(" ")
    return f"{html.escape(task)} <small>{html.escape(metric)}</small>"


def _in_html(shown: Shown | None) -> str:
    if shown is None:
        return f'<td class="none">{DASH}</td>'
    value = f"<strong>{shown.value}</strong>" if shown.best else shown.value
    mark = f'<sup><a href="#source-{shown.source}">{shown.source}</a></sup>' if shown.source else ""
    return f"<td>{value}{mark}" + (f" <small>{shown.rest}</small>" if shown.rest else "") + "</td>"


FORMS: Final[dict[str, Callable[[Table], str]]] = {
    "text": text,
    "md": markdown,
    "csv": comma_separated,
    "tex": latex,
    "html": fragment,
}
