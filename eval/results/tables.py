"""Tables from records and published numbers, and from nothing else.

A table has one section for each protocol version with its parameters, so versions never share a column. A cell
that was not measured is absent, and a row that lacks one has no mean and no rank. `render` writes tables.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mast.files import canonical_json

from ..errors import UserError
from ..numbers import intervals
from .records import Book, Record

# Metrics shown beside a task's own, where a record has them.
BESIDE: Final = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
PUBLISHED: Final = ["method", "backbone", "task", "metric", "value", "source", "same_as"]
# What makes a cell: records that agree in all of these differ in their seed alone.
CELL: Final = ["section", "title", "row", "label", "control", "column", "task", "metric", "headline"]


@dataclass(frozen=True)
class Cell:
    """A fraction with its interval, over how many seeds it is, and its source if it was not measured here."""

    value: float
    low: float | None
    high: float | None
    interval: str | None
    level: float | None
    seeds: int
    source: str | None

    @property
    def span(self) -> tuple[float, float]:
        """The ends of its interval; without one, the value is both."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high


@dataclass(frozen=True)
class Section:
    """All results under one protocol version and one set of parameters.

    Attributes:
        key: What `section_key` gives for its records.
        title: Such as ``linear v1 (epochs=10)``.
        rows: Row keys and their labels, measured ones first.
        columns: Column keys and their labels, such as ``cifar10 top1``.
        headline: The columns that count for mean and rank.
        controls: Keys of rows whose weights are random on purpose.
        cells: By row and column key; what was not measured is absent.
    """

    key: str
    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    headline: list[str]
    controls: frozenset[str]
    cells: dict[tuple[str, str], Cell]

    def summary(self) -> dict[str, tuple[float, int, int]]:
        """Mean over the headline columns and ranks by it, for the rows that miss none of them.

        Returns:
            By row key, the mean as a fraction and the best and worst rank (1 is best) that the intervals leave the
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
        spans = {row: np.mean([cell.span for cell in cells], axis=0) for row, cells in whole.items()}
        return {
            row: (
                float(np.mean([cell.value for cell in cells])),
                1 + sum(low > spans[row][1] for low, _ in spans.values()),
                len(spans) - sum(high < spans[row][0] for _, high in spans.values()),
            )
            for row, cells in whole.items()
        }

    def leaders(self, column: str) -> frozenset[str]:
        """The rows that intervals do not tell from the highest value of a column; empty where that is all of them."""
        cells = {row: cell for (row, where), cell in self.cells.items() if where == column}
        floor = max(cells.values(), key=lambda cell: cell.value).span[0]
        found = frozenset(row for row, cell in cells.items() if shown(cell.span[1]) >= shown(floor))
        return frozenset() if len(found) == len(cells) else found


@dataclass(frozen=True)
class Table:
    """Sections, and what a reader has to know beside them."""

    title: str
    sections: list[Section]
    failures: list[str]
    sources: list[str]


def shown(value: float) -> float:
    """A fraction as percent with the one decimal that tables show."""
    return round(100 * value, 1)


def build(book: Book, published: pd.DataFrame | None = None, *, title: str = "Results") -> Table:
    """Arrange records and published numbers into a table.

    Args:
        book: The records; the latest completed one of each run counts.
        published: What `read_published` returns.
        title: The table's heading.
    """
    cells = _measured(book)
    if published is not None and len(published):
        quoted = _quoted(published, cells)
        cells = pd.concat([cells, quoted], ignore_index=True) if len(cells) else quoted
    sections = [_section(part) for _, part in cells.groupby("section", sort=False)] if len(cells) else []
    titles = [section.title for section in sections]
    keys = dict.fromkeys(cells.get("section", []))
    for number, (heading, key) in enumerate(zip(titles, keys, strict=True)):
        if titles.count(heading) > 1:  # one version with other parameters: its definition was changed
            sections[number] = replace(sections[number], title=f"{heading} [parameters {key[:8]}]")
    failures = [
        f"{record.checkpoint.name}, {record.task.name}, {protocol_title(record)}, "
        f"seed {record.seed}: {record.error.type}: {record.error.message}"
        for record in book.failures()
        if record.error is not None
    ]
    cited = (cell.source for section in sections for cell in section.cells.values())
    return Table(title, sections, failures, list(dict.fromkeys(source for source in cited if source)))


def read_published(paths: Iterable[Path]) -> pd.DataFrame:
    """Read published numbers: CSV files with the columns of `PUBLISHED`, values in percent.

    Every number stands in a section named after its file. ``same_as`` names the column of this project that measures
    the same by the very same protocol (task, protocol, version, metric: ``coco coco-fpn-1x-vicreg v1 mask_ap``); the
    number then stands there as well. It is empty where the recipe was another one.

    Returns:
        The lines with ``value`` as a fraction, and the ``file`` each is from.

    Raises:
        UserError: For a file with other columns, a value outside 0 to 100, or a number without a source.
    """
    frames = [pd.DataFrame(columns=[*PUBLISHED, "file"])]
    for path in paths:
        try:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a file of published numbers: {error}") from error
        if list(frame.columns) != PUBLISHED:
            raise UserError(
                f"{path}: has the columns {','.join(frame.columns)}", remedy=f"it needs {','.join(PUBLISHED)}"
            )
        frame["value"] = pd.to_numeric(frame["value"], errors="coerce") / 100
        for number, (value, source) in enumerate(zip(frame["value"], frame["source"], strict=True), start=2):
            if not 0 <= value <= 1 or not source.strip():
                raise UserError(f"{path}:{number}: a number needs a value from 0 to 100 and a source")
        frames.append(frame.assign(file=path.stem))
    return pd.concat([frame.astype(object) for frame in frames], ignore_index=True)


def _measured(book: Book) -> pd.DataFrame:
    records = book.counting()
    names = _labels(records)
    entries = []
    for record in records:
        for name in dict.fromkeys((record.task.metric, *BESIDE)):
            if (metric := record.metrics.get(name)) is None:
                continue
            entries.append(
                {
                    "section": section_key(record),
                    "title": protocol_title(record),
                    "row": row_key(record),
                    "label": names[row_key(record)],
                    "control": record.checkpoint.trained is False,
                    "column": column_key(record, name),
                    "task": record.task.name,
                    "metric": name,
                    "headline": name == record.task.metric,
                    **metric.model_dump(),
                }
            )
    if not entries:
        return pd.DataFrame()
    groups = pd.DataFrame(entries, dtype=object).groupby(CELL, sort=False)
    cells = [dict(zip(CELL, key, strict=True)) | _over_seeds(part) for key, part in groups]
    return pd.DataFrame(cells, dtype=object)


def _over_seeds(part: pd.DataFrame) -> dict[str, Any]:
    """One cell from its seeds: the only one as it is, or the mean with an interval over seeds."""
    names = ["value", "low", "high", "interval", "level"]
    found = part[names].astype(object).where(part[names].notna(), None).values.tolist()
    if len(found) == 1:
        return dict(zip(names, found[0], strict=True)) | {"seeds": 1, "source": None}
    values = [float(line[0]) for line in found]
    spread = intervals.t_interval(values)
    whole = [sum(values) / len(values), spread.low, spread.high, f"{spread.kind} over seeds", spread.level]
    return dict(zip(names, whole, strict=True)) | {"seeds": len(values), "source": None}


def _quoted(published: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Published numbers as cells: in their own section, and in the measured column they are the same as."""
    names: dict[str, list[dict[str, Any]]] = {}
    if len(measured):
        columns = measured[["section", "title", "column", "headline", "task", "metric"]].drop_duplicates()
        for column in columns.to_dict("records"):
            key = f"{column['task']} {column['title']} {column['metric']}"
            names.setdefault(key, []).append({str(name): value for name, value in column.items()})
    rows = []
    for item in published.to_dict("records"):
        own: dict[str, Any] = {
            "row": f"published {item['method']} {item['backbone']}",
            "label": f"{item['method']} {item['backbone']}",
            "control": False,
            "value": item["value"],
            "source": item["source"],
            **dict.fromkeys(("low", "high", "interval", "level"), None),
            "seeds": 1,
        }
        place: dict[str, Any] = {
            "section": f"published {item['file']}",
            "title": f"Published: {item['file']}",
            "column": canonical_json([item["task"], None, None, item["metric"]]),
            "headline": False,
            "task": item["task"],
            "metric": item["metric"],
        }
        rows += [own | where for where in [*names.get(item["same_as"], []), place]]
    return pd.DataFrame(rows, dtype=object)


def _section(part: pd.DataFrame) -> Section:
    part = part.astype(object).where(part.notna(), None)
    columns = {
        column: f"{task} {metric}" for column, task, metric in part[["column", "task", "metric"]].values
    }
    for column, label in list(columns.items()):
        if sum(f"{task} {metric}" == label for task, _, _, metric in map(json.loads, columns)) > 1:
            _, version, manifest, _ = json.loads(column)
            columns[column] = f"{label} (task v{version}, data {manifest[:8]})"
    names = [item.name for item in fields(Cell)]
    keys = zip(part["row"], part["column"], strict=True)
    return Section(
        key=str(part["section"].iloc[0]),
        title=str(part["title"].iloc[0]),
        rows=dict(zip(part["row"], part["label"], strict=True)),
        columns=columns,
        headline=list(dict.fromkeys(part.loc[part["headline"].astype(bool), "column"])),
        controls=frozenset(part.loc[part["control"].astype(bool), "row"]),
        cells={key: Cell(*values) for key, values in zip(keys, part[names].values.tolist(), strict=True)},
    )


def section_key(record: Record) -> str:
    """What makes a section: a protocol with its version and parameters."""
    how = record.protocol
    return hashlib.sha256(canonical_json([how.name, how.version, how.params]).encode()).hexdigest()


def row_key(record: Record) -> str:
    """What makes a row: a name and the weights behind it."""
    return f"{record.checkpoint.name} {record.checkpoint.weights_sha256}"


def column_key(record: Record, metric: str) -> str:
    """What makes a column of a section: task with version, data and metric."""
    return canonical_json([record.task.name, record.task.version, record.data.manifest, metric])


def protocol_title(record: Record) -> str:
    """A protocol with its version and what was overridden."""
    how = record.protocol
    overrides = ", ".join(f"{key}={_plain(value)}" for key, value in sorted(how.overrides.items()))
    return f"{how.name} v{how.version}" + (f" ({overrides})" if overrides else "")


def _labels(records: list[Record]) -> dict[str, str]:
    """Row labels: the checkpoint's name, with the start of the weights' hash where a name has several."""
    weights = {row_key(record): record.checkpoint.name for record in records}
    names = list(weights.values())
    return {
        key: f"{name} {key.split()[-1][:8]}" if names.count(name) > 1 else name
        for key, name in weights.items()
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
