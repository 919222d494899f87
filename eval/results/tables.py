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
from typing import Any, Final

import numpy as np

from mast.files import canonical_json

from ..numbers import intervals
from . import published, records
from .published import Published
from .records import Book, CheckpointEntry, Metric, ProtocolEntry, Record

# Metrics shown beside a task's own, where a record has them.
BESIDE: Final = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")


@dataclass(frozen=True)
class Heading:
    """What stands over a section.

    Attributes:
        name: Such as ``linear v1``, or ``Published: vicreg-table1``.
        overrides: What was overridden, such as ``epochs=10``.
        note: What tells it from another section of the same name and overrides.
    """

    name: str
    overrides: str = ""
    note: str = ""

    def __str__(self) -> str:
        overrides = f" ({self.overrides})" if self.overrides else ""
        return f"{self.name}{overrides}" + (f" [{self.note}]" if self.note else "")


@dataclass(frozen=True)
class Row:
    """Who: one checkpoint, or one method and backbone of a publication.

    Attributes:
        name: The checkpoint's name.
        identity: Of a checkpoint, a hash of its weights with their preprocessing.
        label: The name, with the start of a hash where a name stands for several weights.
        control: Whether its weights are random on purpose.
        published: Whether it stands for published numbers and was not measured here.
    """

    name: str
    identity: str
    label: str
    control: bool = False
    published: bool = False


@dataclass(frozen=True)
class Column:
    """What: one metric of one version of a task on one state of its data; a publication names task and metric only.

    Attributes:
        task, version, manifest, metric: As in records.
        headline: Whether it is the task's own metric, which counts for mean and rank.
        note: What tells it from another column of the same task and metric.
    """

    task: str
    version: int | None
    manifest: str | None
    metric: str
    headline: bool
    note: str = ""

    @property
    def label(self) -> str:
        """Such as ``cifar10 top1``."""
        return f"{self.task} {self.metric}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Cell:
    """A fraction with its interval and the records it is from, one a seed; or with its source if it was published."""

    value: float
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    level: float | None = None
    records: tuple[Record, ...] = ()
    source: str | None = None

    @property
    def seeds(self) -> int:
        """Over how many seeds it is."""
        return max(1, len(self.records))

    @property
    def span(self) -> tuple[float, float]:
        """The ends of its interval; without one, the value is both."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high


@dataclass(frozen=True)
class Section:
    """All results under one protocol version and one set of parameters; or those of one publication.

    Attributes:
        heading: What stands over it.
        rows: Measured ones first.
        columns: In the order of the tasks.
        cells: What was not measured is absent.
    """

    heading: Heading
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: dict[tuple[Row, Column], Cell]

    @property
    def title(self) -> str:
        """The heading as text, such as ``linear v1 (epochs=10)``."""
        return str(self.heading)

    @cached_property
    def headline(self) -> list[Column]:
        """The columns that count for mean and rank."""
        return [column for column in self.columns if column.headline]

    def summary(self) -> dict[Row, tuple[float, int, int]]:
        """Mean over the headline columns and ranks by it, for the rows that miss none of them.

        Returns:
            By row, the mean as a fraction and the best and worst rank (1 is best) that the intervals leave the
            row: it is surely behind another only where the whole interval of its mean lies below the other's. The
            ends of a mean's interval are the means of the ends, which holds however the columns depend on each
            other; a value without an interval counts as exact. Empty where there are fewer than two headline
            columns, which leave nothing to average.
        """
        if len(self.headline) < 2:
            return {}
        whole = {
            row: [self.cells[row, column] for column in self.headline]
            for row in self.rows
            if all((row, column) in self.cells for column in self.headline)
        }
        if not whole:
            return {}
        means = np.mean([[cell.value for cell in cells] for cells in whole.values()], axis=1)
        lows, highs = np.mean([[cell.span for cell in cells] for cells in whole.values()], axis=1).T
        surely_better = len(whole) - np.searchsorted(np.sort(lows), highs, side="right")
        surely_worse = np.searchsorted(np.sort(highs), lows, side="left")
        best, worst = 1 + surely_better, len(whole) - surely_worse
        return {
            row: (float(mean), int(first), int(last))
            for row, mean, first, last in zip(whole, means, best, worst, strict=True)
        }

    def leaders(self, column: Column) -> frozenset[Row]:
        """The rows that intervals do not tell from the highest value of a column; empty where that is all of them."""
        cells = {row: self.cells[row, column] for row in self.rows if (row, column) in self.cells}
        floor = max(cells.values(), key=lambda cell: cell.value).span[0]
        found = frozenset(row for row, cell in cells.items() if shown(cell.span[1]) >= shown(floor))
        return frozenset() if len(found) == len(cells) else found


@dataclass(frozen=True)
class Table:
    """Sections, what a reader has to know beside them, and the records they are from."""

    title: str
    sections: list[Section]
    failures: list[str]
    sources: list[str]
    book: Book


def shown(value: float) -> float:
    """A fraction as percent with the one decimal that tables show."""
    return round(100 * value, 1)


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

    Rows and columns stand in the order in which they were first tried, failures included, whatever the order of
    the records.

    Args:
        book: The records; the latest completed one of each run counts.
        quoted: What `published.read` gives.
        title: The table's heading.
    """
    sections = _measured(book)
    quoted = list(quoted)
    for item in quoted:
        _stand_in_measured(item, sections)
    sections += _publications(quoted)
    failures = [
        f"{record.checkpoint.name}, {record.task.name}, {protocol_heading(record.protocol)}, "
        f"seed {record.seed}: {record.error.type}: {record.error.message}"
        for record in book.failures()
        if record.error is not None
    ]
    cited = (cell.source for section in sections for cell in section.cells.values())
    return Table(title, sections, failures, list(dict.fromkeys(source for source in cited if source)), book)


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
            for key in (("checkpoint", record.checkpoint.name), ("task", asked, record.task.name)):
                if record.started < self._seen.get(key, "~"):  # after every date
                    self._seen[key] = record.started

    def checkpoint(self, name: str) -> str:
        return self._seen["checkpoint", name]

    def task(self, how: ProtocolEntry, name: str) -> str:
        return self._seen["task", how.asked_for, name]


def _measured(book: Book) -> list[Section]:
    first, counting = _First(book), book.counting()
    rows = _rows([record.checkpoint for record in counting])
    parts: dict[str, list[Record]] = {}
    for record in counting:
        parts.setdefault(record.protocol.identity, []).append(record)
    how = {identity: min((r.protocol for r in part), key=_order) for identity, part in parts.items()}
    headings = [protocol_heading(how[identity]) for identity in parts]
    times = Counter(headings)
    return [
        _section(
            replace(heading, note=f"parameters {how[identity].key[:8]}") if times[heading] > 1 else heading,
            parts[identity],
            rows,
            first,
        )
        for identity, heading in zip(parts, headings, strict=True)
    ]


def _order(how: ProtocolEntry) -> tuple[str, int, str, str]:
    return how.name, how.version, how.asked_for, how.key


def _rows(checkpoints: Iterable[CheckpointEntry]) -> dict[tuple[str, str], Row]:
    """By name and identity; a label has hashes where a name stands for several weights or preprocessings.

    Where checkpoints were measured at different input sizes, each label has its size: sizes alone move numbers.
    """
    distinct = {(entry.name, entry.identity): entry for entry in checkpoints}
    names = Counter(name for name, _ in distinct)
    weights = Counter((entry.name, entry.weights_sha256) for entry in distinct.values())
    sizes = {entry.preprocessing.get("input_size") for entry in distinct.values()}
    rows = {}
    for key, entry in distinct.items():
        label = entry.name
        if len(sizes) > 1:
            label += f" ({entry.preprocessing.get('input_size', 'unknown')} px)"
        if names[entry.name] > 1:
            label += f" {(entry.weights_sha256 or '')[:8]}"
        if weights[entry.name, entry.weights_sha256] > 1:
            label += f" prepared {entry.key[:8]}"
        rows[key] = Row(entry.name, entry.key, label, control=entry.trained is False)
    return rows


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
    how = part[0].protocol
    order = sorted(
        headlines,
        key=lambda key: (
            *(first.task(how, key[0]), *key[:3]),
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
            (rows[key], column): _over_seeds(found[key][place], column.metric)
            for key in shown_rows
            for place, column in columns.items()
            if place in found[key]
        },
    )


def _over_seeds(part: Sequence[Record], name: str) -> Cell:
    """One cell from its seeds: the only one as it is, or the mean with an interval over seeds."""
    metrics: list[Metric] = [record.metrics[name] for record in part]
    if len(part) == 1:
        (one,) = metrics
        return Cell(one.value, one.low, one.high, one.interval, one.level, tuple(part))
    ordered = sorted(part, key=lambda record: record.seed)
    values = [record.metrics[name].value for record in ordered]
    spread = intervals.t_interval(values)
    mean = sum(values) / len(values)
    return Cell(mean, spread.low, spread.high, f"{spread.kind} over seeds", spread.level, tuple(ordered))


# ---------------------------------------------------------------------------------------------------- published


def _quoted_row(item: Published) -> Row:
    label = f"{item.method} {item.backbone}"
    return Row(label, "", label, published=True)


def _stand_in_measured(item: Published, sections: list[Section]) -> None:
    """Put a published number into the measured column that it says it is the same as."""
    if (same := item.same_as) is None:
        return
    for number, section in enumerate(sections):
        for column in section.columns:
            here = section.heading.name, section.heading.overrides, column.task, column.metric
            if here == (f"{same.protocol} v{same.version}", "", same.task, same.metric):
                row = _quoted_row(item)
                cells = section.cells | {(row, column): Cell(item.value, source=item.source)}
                rows = section.rows if row in section.rows else [*section.rows, row]
                sections[number] = section = replace(section, rows=rows, cells=cells)


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
