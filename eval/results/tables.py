"""Tables from records and published numbers, and from nothing else.

A table has one section for each protocol version with its parameters, so versions never share a column. A cell
that was not measured is absent, and a row that lacks one has no mean and no rank. `render` writes tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from mast.files import canonical_json

from ..numbers import intervals
from . import escape, published, records
from .parts import Cell, Column, Heading, Row, Section
from .published import Published, SameAs
from .records import Book, CheckpointEntry, Metric, ProtocolEntry, Record
from .standing import Standings

# Metrics shown beside a task's own, where a record has them.
Spread = Literal["interval", "plus-minus", "none"]
BESIDE: Final = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")


@dataclass(frozen=True)
class Table:
    """Sections, what a reader has to know beside them, and the records they are from.

    Attributes:
        title: The heading.
        sections: One for each protocol version with its parameters, then one for each publication.
        failures: Cells that failed, one line each.
        sources: Of published numbers, in the order of their footnotes.
        book: The records.
        absent: What published numbers are the same as, and was not measured.
        spread: How a cell shows its interval: as ``[low, high]``, as half its width, or not at all.
        one: Whether Markdown and LaTeX put all sections into one grid.
    """

    title: str
    sections: list[Section]
    failures: list[str]
    sources: list[str]
    book: Book
    absent: list[SameAs]
    spread: Spread = "interval"
    one: bool = False

    @cached_property
    def standings(self) -> Standings:
        """Who is ahead in each column; outcomes are read when a column is asked for."""
        return Standings(self.book)


def read(places: Sequence[Path], *, more: Iterable[Path] = (), title: str = "Results") -> Table:
    """Read records, and the published numbers beside them, into a table.

    Args:
        places: Folders of runs, or record files.
        more: More files of published numbers.
        title: The table's heading.
    """
    quoted = published.read([*published.files(places), *more])
    return build(records.read(places), quoted, title=title)


def build(book: Book, quoted: Iterable[Published] = (), *, title: str = "Results") -> Table:
    """Arrange records and published numbers into a table.

    Rows, columns and sections stand in the order in which they were first tried, failures included, whatever the
    order of the records.

    Args:
        book: The records; the latest completed one of each run counts.
        quoted: What `published.read` gives.
        title: The table's heading.
    """
    sections = _measured(book)
    quoted = list(quoted)
    unplaced = [item for item in quoted if not _stand_in_measured(item, sections)]
    sections += _publications(quoted)
    cited = (cell.source for section in sections for cell in section.cells.values())
    sources = list(dict.fromkeys(source for source in cited if source))
    same = [item.same_as for item in unplaced if item.same_as]
    return Table(title, sections, _failures(book), sources, book, list(dict.fromkeys(same)))


def _failures(book: Book) -> list[str]:
    """A line for each checkpoint and error; cells that ended with the same one share it."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in book.failures():
        if record.error is not None:
            told = f"{record.error.type}: {record.error.message}"
            found.setdefault((record.checkpoint.name, told), []).append(record)
    lines = []
    for (name, told), cells in found.items():
        tasks = sorted({record.task.name for record in cells})
        protocols = sorted({str(protocol_heading(record.protocol)) for record in cells})
        seeds = sorted({record.seed for record in cells})
        whole = len(tasks) * len(protocols) * len(seeds) == len(cells)
        where = [
            ", ".join(tasks),
            ", ".join(protocols),
            f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}",
            *([] if whole else [f"{len(cells)} cells of these"]),
        ]
        lines.append(
            escape.line(f"{name}, {'; '.join(where) if len(cells) > 1 else ', '.join(where)}: {told}")
        )
    return lines


def protocol_heading(how: ProtocolEntry) -> Heading:
    """A protocol with its version and what was overridden."""
    overrides = ", ".join(f"{key}={_plain(value)}" for key, value in sorted(how.overrides.items()))
    return Heading(f"{how.name} v{how.version}", overrides)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


# ----------------------------------------------------------------------------------------------------- measured


class _First:
    """When things were first tried."""

    def __init__(self, book: Book) -> None:
        self._seen: dict[tuple[str, ...], str] = {}
        for record in book.records:
            asked = record.protocol.asked_for
            for key in (
                ("checkpoint", record.checkpoint.name),
                ("protocol", asked),
                ("task", asked, record.task.name),
            ):
                if record.started < self._seen.get(key, "~"):  # after every date
                    self._seen[key] = record.started

    def checkpoint(self, name: str) -> str:
        return self._seen["checkpoint", name]

    def protocol(self, how: ProtocolEntry) -> str:
        return self._seen["protocol", how.asked_for]

    def task(self, asked: Iterable[str], name: str) -> str:
        """Under a protocol, whatever the words in which it was asked for."""
        return min(self._seen[key] for how in asked if (key := ("task", how, name)) in self._seen)


def _measured(book: Book) -> list[Section]:
    first, counting = _First(book), book.counting()
    rows = _rows([record.checkpoint for record in counting])
    parts: dict[str, list[Record]] = {}
    sized: dict[str, list[Record]] = {}
    for record in counting:
        if size_of(record) in ("", ALL):
            parts.setdefault(record.protocol.identity, []).append(record)
        else:
            sized.setdefault(_family(record.protocol), []).append(record)
    how = {identity: min((r.protocol for r in part), key=_order) for identity, part in parts.items()}
    order = sorted(parts, key=lambda identity: (first.protocol(how[identity]), *_order(how[identity])))
    headings = [protocol_heading(how[identity]) for identity in order]
    times = Counter(headings)
    plain = [
        _section(
            replace(heading, note=f"parameters {how[identity].key[:8]}") if times[heading] > 1 else heading,
            parts[identity],
            rows,
            first,
        )
        for identity, heading in zip(order, headings, strict=True)
    ]
    return plain + _curves(sized, parts, rows, first)


# ------------------------------------------------------------------------------------------------------- curves

ALL: Final = "all"


def size_of(record: Record) -> str:
    """How many labels a record had: what ``shots`` says, ``all`` without it; empty for few-shot episodes."""
    if "episodes" in record.data.counts:
        return ""
    return str(record.protocol.overrides.get("shots", ALL))


def _family(how: ProtocolEntry) -> str:
    """A protocol whatever its number of labels."""
    params = {key: value for key, value in how.params.items() if key != "shots"}
    if isinstance(inner := params.get("overrides"), dict):  # a detector's
        params["overrides"] = {key: value for key, value in inner.items() if key != "shots"}
        params = {key: value for key, value in params.items() if value != {}}
    return canonical_json([how.name, how.version, params])


def _curves(
    sized: dict[str, list[Record]],
    parts: dict[str, list[Record]],
    rows: dict[tuple[str, str], Row],
    first: _First,
) -> list[Section]:
    """A section for each protocol that was given parts of the labels, a column for each size."""
    whole: dict[str, list[Record]] = {}
    for part in parts.values():
        whole.setdefault(_family(part[0].protocol), []).extend(part)
    sections = []
    for family, records_ in sized.items():
        tasks = {(record.task.name, record.task.version) for record in records_}
        full = [
            record
            for record in whole.get(family, ())
            if (record.task.name, record.task.version) in tasks and size_of(record) == ALL
        ]
        how = records_[0].protocol
        kept = {key: value for key, value in how.overrides.items() if key != "shots"}
        heading = replace(
            protocol_heading(ProtocolEntry(name=how.name, version=how.version, overrides=kept)),
            note="by labels",
        )
        sections.append(_curve(heading, [*records_, *full], rows, first))
    return sections


def _curve(
    heading: Heading, part: Sequence[Record], rows: dict[tuple[str, str], Row], first: _First
) -> Section:
    """The columns are sizes, the smallest first; a draw of detection has a manifest of its own, one a seed."""
    manifests: dict[tuple[str, int, str, int], set[str]] = {}
    for record in part:
        key = record.task.name, record.task.version, size_of(record), record.seed
        manifests.setdefault(key, set()).add(record.data.manifest or "")
    cells: dict[Row, dict[Column, list[Record]]] = {}
    for record in part:
        task, size = record.task, size_of(record)
        same = len(manifests[task.name, task.version, size, record.seed]) == 1
        manifest = "" if same else record.data.manifest or ""
        row = rows[record.checkpoint.name, record.checkpoint.identity]
        for metric in dict.fromkeys([task.metric, *(name for name in BESIDE if name in record.metrics)]):
            note = _said_size(size) + ("" if same else f", data {manifest[:8]}")
            about = task.name, task.version, manifest, metric
            column = Column(*about, headline=False, note=note, size=size)
            cells.setdefault(row, {}).setdefault(column, []).append(record)
    found = {
        (row, column): over_seeds(records_, column.metric)
        for row, mine in cells.items()
        for column, records_ in mine.items()
    }
    section = Section(heading, list(cells), list(dict.fromkeys(column for _, column in found)), found)
    asked = {record.protocol.asked_for for record in part}
    order = sorted(
        section.columns,
        key=lambda column: (
            first.task(asked, column.task),
            column.task,
            BESIDE.index(column.metric) if column.metric in BESIDE else -1,
            column.metric,
            section.labels(column),
            column.note,
        ),
    )
    shown = sorted(cells, key=lambda row: (first.checkpoint(row.name), row.name, row.identity))
    return Section(heading, shown, order, found)


def _said_size(size: str) -> str:
    return "all labels" if size == ALL else size if size.endswith("%") else f"{size} a class"


def _order(how: ProtocolEntry) -> tuple[str, int, str, str]:
    return how.name, how.version, how.asked_for, how.key


def _rows(checkpoints: Iterable[CheckpointEntry]) -> dict[tuple[str, str], Row]:
    """By name and identity; a label has hashes where a name stands for several weights or preprocessings.

    Where checkpoints were measured at different input sizes, each label has its size: sizes alone move numbers.
    A feature other than the network's usual one, and a precision other than float32, stand in the label too.
    """
    distinct = {(entry.name, entry.identity): entry for entry in checkpoints}
    names = Counter((entry.name, _feature(entry)) for entry in distinct.values())
    weights = Counter((entry.name, entry.weights_sha256, _feature(entry)) for entry in distinct.values())
    sizes = {entry.preprocessing.get("input_size") for entry in distinct.values()}
    rows = {}
    for key, entry in distinct.items():
        label = escape.line(entry.name)
        if len(sizes) > 1:
            label += f" ({entry.preprocessing.get('input_size', 'unknown')} px)"
        if _feature(entry):
            label += f" ({escape.line(_feature(entry))})"
        if names[entry.name, _feature(entry)] > 1:
            label += f" {(entry.weights_sha256 or '')[:8]}"
        if weights[entry.name, entry.weights_sha256, _feature(entry)] > 1:
            label += f" prepared {entry.key[:8]}"
        rows[key] = Row(entry.name, entry.key, label, control=entry.trained is False)
    return rows


def _feature(entry: CheckpointEntry) -> str:
    """What of a feature is chosen by name: what is read off the network, and the precision that it is computed in."""
    chosen = (entry.preprocessing.get(name) for name in ("pooling", "precision"))
    return ", ".join(str(value) for value in chosen if value)


def _section(
    heading: Heading, part: Sequence[Record], rows: dict[tuple[str, str], Row], first: _First
) -> Section:
    found: dict[tuple[str, str], dict[tuple[str, int, str, str], list[Record]]] = {}
    headlines = dict[tuple[str, int, str, str], bool]()
    for record in part:
        cells = found.setdefault((record.checkpoint.name, record.checkpoint.identity), {})
        task, manifest = record.task, record.data.manifest or ""
        cells.setdefault((task.name, task.version, manifest, task.metric), []).append(record)
        headlines[task.name, task.version, manifest, task.metric] = True
        for metric in BESIDE:
            if metric in record.metrics and metric != task.metric:
                cells.setdefault((task.name, task.version, manifest, metric), []).append(record)
                headlines.setdefault((task.name, task.version, manifest, metric), False)
    asked = {record.protocol.asked_for for record in part}
    order = sorted(
        headlines,
        key=lambda key: (
            *(first.task(asked, key[0]), *key[:3]),
            0 if headlines[key] else 1 + BESIDE.index(key[3]),
        ),
    )
    labels = Counter((task, metric) for task, _, _, metric in order)
    columns = {
        key: Column(
            *key,
            headline=headlines[key],
            note=f"task v{key[1]}, data {key[2][:8]}" if labels[key[0], key[3]] > 1 else "",
        )
        for key in order
    }
    shown_rows = sorted(found, key=lambda key: (first.checkpoint(key[0]), *key))
    return Section(
        heading,
        [rows[key] for key in shown_rows],
        list(columns.values()),
        {
            (rows[key], column): over_seeds(found[key][place], column.metric)
            for key in shown_rows
            for place, column in columns.items()
            if place in found[key]
        },
    )


def over_seeds(part: Sequence[Record], name: str) -> Cell:
    """One cell from its seeds. If all have the same outcomes, as of a deterministic protocol, they are one result."""
    ordered = tuple(sorted(part, key=lambda record: record.seed))
    metrics: list[Metric] = [record.metrics[name] for record in ordered]
    if len({_result(record) for record in ordered}) == 1:
        one = metrics[0]
        return Cell(one.value, one.low, one.high, one.interval, one.level, records=ordered, seeds=1)
    values = [metric.value for metric in metrics]
    mean = sum(values) / len(values)
    lows = [metric.low for metric in metrics if metric.low is not None]
    highs = [metric.high for metric in metrics if metric.high is not None]
    spread = _within(intervals.t_interval(values), min(values))
    about: dict[str, Any] = {"over_seeds": spread, "records": ordered, "seeds": len(metrics)}
    if len(lows) < len(metrics):
        kind = next((metric.interval for metric in metrics if metric.low is None), None)
        return Cell(mean, interval=kind, **about)
    if len({(metric.interval, metric.level) for metric in metrics}) > 1:
        return Cell(mean, **about)
    ends = sum(lows) / len(lows), sum(highs) / len(highs)
    return Cell(mean, *ends, metrics[0].interval, metrics[0].level, **about)


def _within(spread: intervals.Interval, least: float) -> intervals.Interval:
    """A mean over seeds without what no value can be: above 1, or below 0 for what is never negative."""
    return replace(spread, low=max(spread.low, 0.0) if least >= 0 else spread.low, high=min(spread.high, 1.0))


def _result(record: Record) -> object:
    """What makes a result of its own: outcomes, or where none are kept all metrics."""
    if record.outcomes is not None:
        return record.outcomes.sha256
    return tuple([metric.value for metric in record.metrics.values()])


def _quoted_row(item: Published) -> Row:
    label = f"{item.method} {item.backbone}"
    return Row(label, "", label, published=True, cite=item.cite)


def _stand_in_measured(item: Published, sections: list[Section]) -> bool:
    """Put a published number into the measured column that it says it is the same as; or tell that there is none."""
    if (same := item.same_as) is None:
        return False
    placed = False
    for number, section in enumerate(sections):
        for column in section.columns:
            here = section.heading.name, section.heading.overrides, column.task, column.metric
            if here == (f"{same.protocol} v{same.version}", "", same.task, same.metric):
                row = _quoted_row(item)
                cells = section.cells | {(row, column): Cell(item.value, source=item.source)}
                rows = section.rows if row in section.rows else [*section.rows, row]
                sections[number] = section = replace(section, rows=rows, cells=cells)
                placed = True
    return placed


def _publications(quoted: Iterable[Published]) -> list[Section]:
    files: dict[str, list[Published]] = {}
    for item in quoted:
        files.setdefault(item.file, []).append(item)
    sections = []
    for file, items in files.items():
        cells = {
            (_quoted_row(item), Column(item.task, None, None, item.metric, headline=False)): Cell(
                item.value, source=item.source
            )
            for item in items
        }
        rows = list(dict.fromkeys(row for row, _ in cells))
        columns = list(dict.fromkeys(column for _, column in cells))
        sections.append(Section(Heading(f"Published: {file}"), rows, columns, cells))
    return sections
