"""Records for other programs: one flat row for each record, as CSV or Parquet, and cards for the Hugging Face Hub."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mast.files import atomic_write, canonical_json

from ..errors import UserError, unknown
from . import escape
from .parts import Cell, Column, Row, Section
from .records import SCHEMA, Book, Record
from .tables import Table

if TYPE_CHECKING:
    import pyarrow as pa

TEXT, WHOLE, NUMBER, TRUTH, JSON = "text", "whole number", "number", "true or false", "JSON"


@dataclass(frozen=True)
class Field:
    """A column that every export has; ``docs/export.md`` lists them.

    Attributes:
        name: Its heading.
        kind: `TEXT`, `WHOLE`, `NUMBER`, `TRUTH` or `JSON`, which is text too.
        of: Its value; None where a record has none.
    """

    name: str
    kind: str
    of: Callable[[Record], Any]


def _headline(part: str) -> Callable[[Record], Any]:
    return lambda record: (
        getattr(record.metrics[record.task.metric], part) if record.status == "completed" else None
    )


FIELDS: Final = (
    Field("run_id", TEXT, lambda r: r.run_id),
    Field("status", TEXT, lambda r: r.status),
    Field("checkpoint", TEXT, lambda r: r.checkpoint.name),
    Field("checkpoint_sha256", TEXT, lambda r: r.checkpoint.sha256),
    Field("weights_sha256", TEXT, lambda r: r.checkpoint.weights_sha256),
    Field("arch", TEXT, lambda r: r.checkpoint.arch),
    Field("layout", TEXT, lambda r: r.checkpoint.layout),
    Field("trained", TRUTH, lambda r: r.checkpoint.trained),
    Field("method", TEXT, lambda r: r.checkpoint.method),
    Field("normalization", JSON, lambda r: r.checkpoint.normalization),
    Field("preprocessing", JSON, lambda r: r.checkpoint.preprocessing),
    Field("pretraining", JSON, lambda r: r.checkpoint.pretraining),
    Field("task", TEXT, lambda r: r.task.name),
    Field("task_version", WHOLE, lambda r: r.task.version),
    Field("protocol", TEXT, lambda r: r.protocol.name),
    Field("protocol_version", WHOLE, lambda r: r.protocol.version),
    Field("overrides", JSON, lambda r: r.protocol.overrides),
    Field("params", JSON, lambda r: r.protocol.params),
    Field("seed", WHOLE, lambda r: r.seed),
    Field("manifest", TEXT, lambda r: r.data.manifest),
    Field("examples", JSON, lambda r: r.data.counts),
    Field("metric", TEXT, lambda r: r.task.metric),
    Field("value", NUMBER, _headline("value")),
    Field("low", NUMBER, _headline("low")),
    Field("high", NUMBER, _headline("high")),
    Field("interval", TEXT, _headline("interval")),
    Field("level", NUMBER, _headline("level")),
    Field("selected", JSON, lambda r: r.selected),
    Field("certificate", JSON, lambda r: r.certificate),
    Field("warnings", JSON, lambda r: r.warnings),
    Field("error_type", TEXT, lambda r: r.error.type if r.error else None),
    Field("error_message", TEXT, lambda r: r.error.message if r.error else None),
    Field("outcomes", TEXT, lambda r: r.outcomes.path if r.outcomes else None),
    Field("environment", JSON, lambda r: r.environment),
    Field("started", TEXT, lambda r: r.started),
    Field("seconds", NUMBER, lambda r: r.seconds),
)
PARTS: Final = {
    "": ("value", NUMBER),
    "_low": ("low", NUMBER),
    "_high": ("high", NUMBER),
    "_interval": ("interval", TEXT),
}
"""What each further metric has, by the end of its column's heading ``metric_<name>``."""


def columns(book: Book) -> dict[str, str]:
    """The columns of a book's export with their kinds: `FIELDS`, ``counts``, and four for each metric, by name."""
    metrics = sorted({name for record in book.records for name in record.metrics})
    found = {field.name: field.kind for field in FIELDS} | {"counts": TRUTH}
    return found | {f"metric_{name}{end}": kind for name in metrics for end, (_, kind) in PARTS.items()}


def rows(book: Book) -> Iterator[dict[str, Any]]:
    """A row for each record, in reading order; what a record does not have is absent.

    ``counts`` is true for the records that tables are made of: the latest completed one of each run id.
    """
    counting = {id(record) for record in book.counting()}
    for record in book.records:
        row = {}
        for field in FIELDS:
            value = field.of(record)
            row[field.name] = canonical_json(value) if field.kind == JSON and value is not None else value
        row["counts"] = id(record) in counting
        for name, metric in record.metrics.items():
            row |= {f"metric_{name}{end}": getattr(metric, part) for end, (part, _) in PARTS.items()}
        yield row


def comma_separated(book: Book) -> str:
    """All records as CSV. Text that a spreadsheet would compute gets an apostrophe in front; null is empty."""
    heads = columns(book)
    buffer = io.StringIO()
    written = csv.DictWriter(buffer, [escape.csv_text(head) for head in heads], lineterminator="\n")
    written.writeheader()
    for row in rows(book):
        written.writerow({escape.csv_text(name): _plain(value) for name, value in row.items()})
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return escape.csv_text(value) if isinstance(value, str) else value


def arrow() -> None:
    """Find out whether Parquet can be written, before any work.

    Raises:
        UserError: If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Parquet needs pyarrow, which is not installed",
            remedy="pip install 'mast-transfer[parquet]', or export csv",
            code=2,
        ) from error


def parquet(book: Book, path: Path) -> None:
    """Write all records as Parquet; names stay as they are, JSON is text.

    Raises:
        UserError: If pyarrow is not installed.
        Unwritable: If the disk is full.
    """
    arrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[str, pa.DataType] = {
        TEXT: pa.string(),
        JSON: pa.string(),
        WHOLE: pa.int64(),
        NUMBER: pa.float64(),
        TRUTH: pa.bool_(),
    }
    told = {"mast-record-schema": str(SCHEMA)}
    schema = pa.schema([(name, types[kind]) for name, kind in columns(book).items()], metadata=told)
    table = pa.Table.from_pylist(list(rows(book)), schema=schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    with atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


# ---------------------------------------------------------------------------------------------------------- hub

# The Hub's names for kinds of tasks (https://huggingface.co/tasks), by ours.
HUB_TASKS: Final = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
    "depth": "depth-estimation",
    "detection": "object-detection",
    "instance_segmentation": "image-segmentation",
}
HUB_METRICS: Final = {"top1": "accuracy"}  # https://huggingface.co/metrics; others keep our names


def cards(table: Table, wanted: Sequence[str] = ()) -> dict[str, str]:
    """A card for each measured checkpoint: metadata in the Hub's model-index form, and a section with the results.

    Args:
        table: Of the records.
        wanted: Names of checkpoints; all when empty.

    Returns:
        Names of files, made of the checkpoints' labels, and their Markdown.

    Raises:
        UserError: If nothing was measured, or a wanted checkpoint was not.
    """
    found: dict[Row, list[tuple[Section, Column, Cell]]] = {}
    for section in table.sections:
        for (row, column), cell in section.cells.items():
            if cell.records and not row.published:
                found.setdefault(row, []).append((section, column, cell))
    known = {name for row in found for name in (row.name, row.label)}
    if not known:
        raise UserError("no completed record", remedy="name the --out folder of a run")
    for name in wanted:
        if name not in known:
            raise unknown("checkpoint", name, known)
    if wanted:
        found = {row: cells for row, cells in found.items() if {row.name, row.label} & set(wanted)}
    texts: dict[str, str] = {}
    for row, cells in found.items():
        stem = re.sub(r"[^\w.-]+", "-", row.label).strip("-.") or "checkpoint"
        name = f"{stem}.md" if f"{stem}.md" not in texts else f"{stem}-{row.identity[:8]}.md"
        texts[name] = card(row, cells)
    return texts


def card(row: Row, cells: list[tuple[Section, Column, Cell]]) -> str:
    """The card of one checkpoint.

    Args:
        row: The checkpoint.
        cells: Its results: sections, columns and cells.
    """
    import yaml

    front = yaml.safe_dump(
        {"model-index": [{"name": row.label, "results": _results(cells)}]},
        sort_keys=False,
        allow_unicode=True,
        width=110,
    )
    return f"---\n{front}---\n\n{_section(row, cells)}"


def _results(cells: list[tuple[Section, Column, Cell]]) -> list[dict[str, Any]]:
    """The ``results`` of a model-index: one for each task on one state of its data, with its metrics."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for section, column, cell in cells:
        record = cell.records[0]
        manifest = record.data.manifest or ""
        result = found.setdefault(
            (record.task.name, manifest),
            {
                "task": {"type": _hub_task(record.task.metric), "name": record.task.name},
                "dataset": {
                    "name": record.task.name,
                    "type": record.task.name,
                    "split": "test",
                    "args": {"manifest": manifest, "task_version": record.task.version},
                },
                "metrics": [],
            },
        )
        args: dict[str, Any] = {
            "protocol": section.title,
            "seeds": sorted(each.seed for each in cell.records),
            "run_ids": [each.run_id for each in cell.records],
        }
        if cell.low is not None and cell.high is not None:
            args["interval"] = [round(cell.low, 6), round(cell.high, 6)]
            args["interval_kind"] = cell.interval
        result["metrics"].append(
            {
                "type": HUB_METRICS.get(column.metric, column.metric),
                "value": round(cell.value, 6),
                "name": f"{column.metric}, {section.title}",
                "args": args,
            }
        )
    return list(found.values())


def _hub_task(metric: str) -> str:
    from ..tasks import KINDS

    kind = next((name for name, kind in KINDS.items() if metric in kind.metrics), "classification")
    return HUB_TASKS[kind]


def _section(row: Row, cells: list[tuple[Section, Column, Cell]]) -> str:
    entry, environment = cells[0][2].records[0].checkpoint, cells[0][2].records[0].environment
    lines = [
        "## Transfer evaluation",
        "",
        "Backbone frozen or fine-tuned as the protocol says. Values in percent, with 95 % intervals where one holds.",
        "",
        "| task | protocol | metric | value | interval | seeds |",
        "|:--|:--|:--|--:|:--|--:|",
    ]
    for section, column, cell in cells:
        ends = "–"
        if cell.low is not None and cell.high is not None:
            ends = f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}] ({escape.markdown(cell.interval or '')})"
        told = (column.task, section.title, column.metric + (f" ({column.note})" if column.note else ""))
        texts = [*map(escape.markdown, told), f"{100 * cell.value:.1f}", ends, str(len(cell.records))]
        lines.append(f"| {' | '.join(texts)} |")
    data = dict.fromkeys((column.task, cell.records[0].data.manifest or "") for _, column, cell in cells)
    version = str(environment.get("mast") or environment.get("versions", {}).get("mast") or "")
    lines += [
        "",
        f"- weights: SHA-256 `{entry.weights_sha256}`, architecture {escape.markdown(entry.arch or 'not known')}"
        + (", random weights as a control" if row.control else ""),
        *(f"- data of {escape.markdown(task)}: manifest SHA-256 `{manifest}`" for task, manifest in data),
        f"- measured with mast-transfer {escape.markdown(version)}; `mast eval` measures the same again",
    ]
    return "\n".join(lines) + "\n"
