"""Tables written down: for a terminal, as Markdown, CSV, LaTeX and HTML. Equal tables give equal bytes."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from markupsafe import Markup

from ..errors import unknown
from . import escape, pages
from .parts import Cell, Column, Row, Section
from .standing import Summary
from .tables import Spread, Table

DASH: Final = "–"
TIE: Final = "≈"
DETECTABLE: Final = "detectable"
ACROSS: Final = 6  # checkpoints beside one another on a terminal
IN_TABULAR: Final = 40  # columns of one tabular; TeX has no lengths for a few hundred
RANKS: Final = (
    "Rank: the mean over tasks of the rank by value, with the range that the tests leave it (95 %, all rows and "
    "tasks together)."
)
LEGEND: Final = (
    f"Values in percent. {DASH}: not measured; such a row has no mean and no rank. Bold: the highest value of a "
    f"column. {TIE}: not told from it by paired tests on the same examples, with Holm's correction within the "
    "column; neither mark where nothing is told apart. Rows that do not pair are told apart only where their "
    "intervals lie apart, and never by intervals over episodes of one pool. Random controls and published numbers "
    "are not ranked. "
    f"{RANKS} "
    "Detectable: the smallest difference that the test would have found in four of five cases, the median over "
    "pairs. None of this covers another pretraining seed: `mast compare` pairs methods over seeds."
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
    """A cell as text.

    Attributes:
        value: In percent.
        rest: Intervals and the number of seeds.
        source: Number of its footnote.
        mark: Whether it is the best of its column, or ties with it.
    """

    value: str
    rest: str
    source: int | None
    mark: Literal["best", "tie", ""]


@dataclass(frozen=True)
class Line:
    """A row as text; mean and rank are a dash where a cell is missing."""

    label: str
    control: bool
    cells: list[Shown | None]
    summary: list[str]
    cite: str = ""


def lines(table: Table, section: Section) -> list[Line]:
    """A section as text, a line for each row; mean and rank follow the columns if `has_summary`."""
    summary, found = table.standings.summary(section), []
    marks: dict[tuple[Row, Column], Literal["best", "tie", ""]] = {}
    for column in section.columns:
        for number, row in enumerate(table.standings.of(section, column).leaders):
            marks[row, column] = "tie" if number else "best"
    sources = {source: number for number, source in enumerate(table.sources, start=1)}
    for row in section.rows:
        cells = [
            _shown(section.cells.get((row, column)), sources, marks.get((row, column), ""), table.spread)
            for column in section.columns
        ]
        ends = _ends(summary.get(row, Summary(math.nan))) if has_summary(section) else []
        found.append(Line(row.label, row.control, cells, ends, row.cite))
    return found


def _ends(of: Summary) -> list[str]:
    mean = DASH if math.isnan(of.mean) else percent(of.mean)
    if of.rank is None:
        return [mean, DASH]
    return [mean, f"{of.rank:.1f} [{of.low:.1f}, {of.high:.1f}]"]


def detectable(table: Table, section: Section) -> list[str]:
    """What each column could have shown, in points; empty where nothing pairs in any of them."""
    found = [table.standings.of(section, column).detectable for column in section.columns]
    if all(value is None for value in found):
        return []
    ends = ["", ""] if has_summary(section) else []
    return [*(DASH if value is None else percent(value) for value in found), *ends]


def notes(table: Table, section: Section) -> list[str]:
    """Sentences under a section: its intervals, what pairs over what, and what does not and why."""
    units: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for column in section.columns:
        found = table.standings.of(section, column)
        if found.unit:
            units.setdefault(found.unit, []).append(column.label)
        for reason, rows in found.unpaired.items():
            if len(found.rows) > 1:
                some = "" if len(rows) == len(found.rows) else f" for {', '.join(row.label for row in rows)}"
                reasons.setdefault(reason, []).append(f"{column.label}{some}")
    paired = "; ".join(f"{unit} ({', '.join(columns)})" for unit, columns in units.items())
    return [
        *filter(None, [intervals(section)]),
        *([f"Paired over {paired}."] if paired else []),
        *(f"Not paired: {', '.join(columns)} ({reason})." for reason, columns in reasons.items()),
        *filter(None, [repeated(section)]),
    ]


def repeated(section: Section) -> str:
    """One sentence on seeds that a table counts once, where there are some."""
    more = {column for (_, column), cell in section.cells.items() if len(cell.records) > cell.seeds}
    columns = [column.label for column in section.columns if column in more]
    every = len(columns) == len(section.columns)
    where = "" if every else f" ({', '.join(columns)})"
    return f"Seeds with the same outcomes are one result{where}." if columns else ""


def has_summary(section: Section) -> bool:
    """Whether a section has a mean and ranks: with one column there is nothing to average."""
    return len(section.headline) > 1


def heads(section: Section) -> list[str]:
    """What stands over the columns and over mean and rank."""
    return [
        *(column.label for column in section.columns),
        *(["mean", "rank"] if has_summary(section) else []),
    ]


def _shown(
    cell: Cell | None, sources: Mapping[str, int], mark: Literal["best", "tie", ""], spread: Spread
) -> Shown | None:
    if cell is None:
        return None
    rest = []
    if cell.low is not None and cell.high is not None:
        rest.append(_spread(cell.low, cell.high, spread))
    if cell.over_seeds is not None:
        ends = _spread(cell.over_seeds.low, cell.over_seeds.high, spread)
        rest.append(f"seeds {ends} n={cell.seeds}" if ends else "")
    return Shown(percent(cell.value), " ".join(filter(None, rest)), sources.get(cell.source or ""), mark)


def _spread(low: float, high: float, spread: Spread) -> str:
    if spread == "interval":
        return f"[{percent(low)}, {percent(high)}]"
    return f"± {percent((high - low) / 2)}" if spread == "plus-minus" else ""


def intervals(section: Section) -> str:
    """One sentence on a section's intervals: level and kind, and the columns where kinds differ; or why none."""
    kinds: dict[str, dict[Column, None]] = {}
    for (_, column), cell in section.cells.items():
        if cell.interval is not None:
            kind = (
                f"{100 * cell.level:g} % {cell.interval.replace('-', ' ')}"
                if cell.level is not None
                else cell.interval
            )
            kinds.setdefault(kind, {})[column] = None
    parts = [
        kind + (f" ({', '.join(column.label for column in where)})" if len(kinds) > 1 else "")
        for kind, where in kinds.items()
    ]
    return f"Intervals: {'; '.join(parts)}." if parts else ""


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
    notes_ = [*map(intervals, table.sections), *map(repeated, table.sections)]
    below = dict.fromkeys(filter(None, notes_))
    ranks = [RANKS] if any(map(has_summary, table.sections)) else []
    return "\n".join(["\n\n".join(parts), *map(escape.line, (*below, *ranks, *_failed(table)))]) + "\n"


def _part(told: Sequence[tuple[Section, dict[str, list[str]]]], labels: list[str]) -> str:
    """Some checkpoints, with the sections that have one of them."""
    grid = [["", *map(escape.line, labels)]]
    for section, rows in told:
        if any(label in rows for label in labels):
            grid.append([escape.line(section.title)])
            grid += [
                [f"  {escape.line(head)}", *(rows[label][at] if label in rows else DASH for label in labels)]
                for at, head in enumerate(heads(section))
            ]
    widths = [max(len(line[at]) for line in grid if len(line) > 1) for at in range(len(labels) + 1)]
    body = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in grid]
    rule = "-" * max(map(len, body))
    return "\n".join([body[0], rule, *body[1:], rule])


def _in_text(shown: Shown | None) -> str:
    return DASH if shown is None else f"{shown.value} {shown.rest}".rstrip()


def _blocks(table: Table) -> list[list[Section]]:
    """What shares a grid: every section has its own, or all measured ones share one."""
    if not table.one:
        return [[section] for section in table.sections]
    return [block for block in (table.sections,) if block]


def _across(table: Table, block: Sequence[Section]) -> list[tuple[Line, list[Line | None]]]:
    """Each row of a block, with its line in each of the sections."""
    found = [{line.label: line for line in lines(table, section)} for section in block]
    first = {label: line for lines_ in reversed(found) for label, line in lines_.items()}
    order = dict.fromkeys(label for lines_ in found for label in lines_)
    return [(first[label], [lines_.get(label) for lines_ in found]) for label in order]


def _detectable(table: Table, block: Sequence[Section]) -> list[str]:
    found = [detectable(table, section) for section in block]
    if not any(found):
        return []
    return [
        value
        for section, part in zip(block, found, strict=True)
        for value in part or [DASH] * len(section.columns) + ["", ""] * has_summary(section)
    ]


def _told(
    block: Sequence[Section], row: Sequence[Line | None], cell: Callable[[Shown | None], str]
) -> list[str]:
    """A row's cells, means and ranks as text, a dash where a section lacks the row."""
    return [
        text
        for section, line in zip(block, row, strict=True)
        for text in ([*map(cell, line.cells), *line.summary] if line else [cell(None)] * len(heads(section)))
    ]


def markdown(table: Table) -> str:
    """Markdown with a heading and a table for each section, and footnotes for sources."""
    tell = escape.markdown
    out = [f"# {tell(table.title)}", ""]
    for block in _blocks(table):
        columns = [
            (f"{section.title}: " if table.one else "") + head for section in block for head in heads(section)
        ]
        out += [] if table.one else [f"## {tell(block[0].title)}", ""]
        out += ["| | " + " | ".join(map(tell, columns)) + " |", "|:--" + "|--:" * len(columns) + "|"]
        for line, row in _across(table, block):
            label = tell(line.label) + (" (random control)" if line.control else "")
            out.append("| " + " | ".join([label, *_told(block, row, _in_markdown)]) + " |")
        if found := _detectable(table, block):
            out.append("| " + " | ".join([f"*{DETECTABLE}*", *found]) + " |")
        out.append("")
        for note in _notes(table, block):
            out += [tell(note), ""]
    out += [LEGEND, ""]
    out += [*(f"- {tell(failure)}" for failure in _failed(table)), *([""] if table.failures else [])]
    out += [f"[^{number}]: {tell(source)}" for number, source in enumerate(table.sources, start=1)]
    return "\n".join(out).rstrip() + "\n"


def _notes(table: Table, block: Sequence[Section]) -> list[str]:
    """The notes of a block; what several sections share says which."""
    return [
        (f"{section.title}: {note[0].lower()}{note[1:]}" if len(block) > 1 else note)
        for section in block
        for note in notes(table, section)
    ]


def _in_markdown(shown: Shown | None) -> str:
    if shown is None:
        return DASH
    value = {"best": f"**{shown.value}**", "tie": f"{shown.value}{TIE}", "": shown.value}[shown.mark]
    mark = f"[^{shown.source}]" if shown.source else ""
    return f"{value}{mark} {shown.rest}".rstrip()


CSV: Final = (
    *("section", "checkpoint", "column", "value", "low", "high", "interval", "level"),
    *("seeds", "seeds_low", "seeds_high", "mark", "source"),
)


def comma_separated(table: Table) -> str:
    """CSV, one line a cell, values as fractions; a cell that was not measured has an empty value.

    Means and ranks follow a row's cells, with the columns ``mean`` and ``rank``.
    """
    file = io.StringIO()
    out = csv.DictWriter(file, CSV, restval="", lineterminator="\n")
    out.writeheader()
    for section in table.sections:
        summary = table.standings.summary(section)
        shown = {line.label: line for line in lines(table, section)}
        for row in section.rows:
            place = {
                "section": escape.csv_text(section.title),
                "checkpoint": escape.csv_text(row.label),
            }
            for column, told in zip(section.columns, shown[row.label].cells, strict=True):
                cell = section.cells.get((row, column))
                line = place | {"column": escape.csv_text(column.label)}
                if cell is not None and told is not None:
                    line |= _numbers(value=cell.value, low=cell.low, high=cell.high, level=cell.level)
                    line |= {"interval": cell.interval or "", "mark": told.mark}
                    line |= {"seeds": str(cell.seeds) if cell.seeds else ""}
                    line |= {"source": escape.csv_text(cell.source or "")}
                    if cell.over_seeds is not None:
                        line |= _numbers(seeds_low=cell.over_seeds.low, seeds_high=cell.over_seeds.high)
                out.writerow(line)
            if has_summary(section):
                of = summary.get(row)
                mean = _numbers(value=of.mean) if of else {}
                rank = _numbers(value=of.rank, low=of.low, high=of.high) if of else {}
                out.writerow(place | {"column": "mean"} | mean)
                out.writerow(place | {"column": "rank"} | rank)
    return file.getvalue()


def _numbers(**found: float | None) -> dict[str, str]:
    return {name: "" if number is None else f"{number:.6g}" for name, number in found.items()}


def latex(table: Table) -> str:
    """LaTeX: a ``tabular`` for each section, or one for all, no wider than the text, with its notes below."""
    tell = escape.latex
    out = [
        f"% {escape.line(table.title)}. Needs the packages booktabs and graphicx.",
        r"\providecommand{\fit}[1]{\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{#1}}",
    ]
    for block in _blocks(table):
        count = sum(len(heads(section)) for section in block)
        for start in range(0, count, IN_TABULAR):
            out += _tabular(table, block, slice(start, min(count, start + IN_TABULAR)))
        out += [rf"\par{{\footnotesize {tell(note)}\par}}" for note in _notes(table, block)]
        out.append("")
    legend = re.sub("`([^`]+)`", r"\\texttt{\1}", tell(LEGEND))
    out.append(rf"\par{{\footnotesize {legend}\par}}")
    out += [f"% {escape.line(failed)}" for failed in _failed(table)]
    out += [
        rf"\par{{\footnotesize $^{{{number}}}${tell(source)}\par}}"
        for number, source in enumerate(table.sources, start=1)
    ]
    text = "\n".join(out).rstrip() + "\n"
    beyond = {sign for sign in text if ord(sign) > escape.LATIN and unicodedata.category(sign)[0] in "LMS"}
    if beyond:
        known = f"% pdfLaTeX may not know {' '.join(sorted(beyond))}"
        text = f"{known}: show other names (--name), or use LuaLaTeX with a font that has them.\n{text}"
    return text


def _tabular(table: Table, block: Sequence[Section], part: slice) -> list[str]:
    """Some columns of a block, with all its rows."""
    tell = escape.latex
    columns = [head for section in block for head in heads(section)][part]
    out = [r"\noindent\fit{%", f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    out += _groups(block, part) if table.one else []
    corner = "" if table.one else tell(block[0].title)
    out += [" & ".join([corner, *map(tell, columns)]) + r" \\", r"\midrule"]
    for line, row in _across(table, block):
        label = tell(line.label) + (" (random control)" if line.control else "")
        label += rf"~\cite{{{line.cite}}}" if line.cite else ""
        told = _told(block, row, partial(_in_latex, cited=bool(line.cite)))[part]
        out.append(" & ".join([label, *(text.replace(DASH, "--") for text in told)]) + r" \\")
    if found := _detectable(table, block):
        out += [r"\midrule", " & ".join([rf"\emph{{{DETECTABLE}}}", *map(tell, found[part])]) + r" \\"]
    return [*out, r"\bottomrule", r"\end{tabular}}"]


def _groups(block: Sequence[Section], part: slice) -> list[str]:
    """The protocols over their columns, of which a part is shown."""
    over = [section.title for section in block for _ in heads(section)][part]
    shown = [(title, len(list(columns))) for title, columns in itertools.groupby(over)]
    widths = [width for _, width in shown]
    titles = [rf"\multicolumn{{{width}}}{{c}}{{{escape.latex(title)}}}" for title, width in shown]
    ends = np.cumsum(widths) + 1
    rules = [rf"\cmidrule(lr){{{end - width + 1}-{end}}}" for end, width in zip(ends, widths, strict=True)]
    return [" & ".join(["", *titles]) + r" \\", "".join(rules)]


def _in_latex(shown: Shown | None, cited: bool = False) -> str:
    if shown is None:
        return "--"
    value = {"best": rf"\textbf{{{shown.value}}}", "tie": rf"{shown.value}$^\approx$", "": shown.value}
    mark = f"$^{{{shown.source}}}$" if shown.source and not cited else ""
    rest = escape.latex(shown.rest)
    return f"{value[shown.mark]}{mark} {{\\scriptsize {rest}}}" if rest else value[shown.mark] + mark


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
        tie=TIE,
        name_of_detectable=DETECTABLE,
        lines=lines,
        has_summary=has_summary,
        detectable=detectable,
        notes=notes,
    )


FORMS: Final[dict[str, Callable[[Table], str]]] = {
    "text": text,
    "md": markdown,
    "csv": comma_separated,
    "tex": latex,
    "html": fragment,
}
