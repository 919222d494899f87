"""How much of the gap between two papers is protocol: every version of one on a checkpoint and a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import protocols
from ..errors import UserError
from ..features.matrices import Array, Features
from ..numbers.intervals import Interval, NoInterval
from ..protocols import Labelled, Measured, Protocol
from ..protocols.frozen import score
from ..tasks import Task
from .cell import measure as run_cell
from .opened import OpenData
from .plan import Cell

if TYPE_CHECKING:
    from ..checkpoints import Loaded


@dataclass(frozen=True)
class Row:
    """One protocol's number on the shared features.

    Attributes:
        protocol: Its name and version.
        metric: What the number is.
        value: The number, a fraction.
        interval: Over the test examples or images of the pool, or why there is none.
        delta: Difference to the first row with that metric.
        selected: What was chosen.
        warnings: What the protocol warned of.
    """

    protocol: str
    metric: str
    value: float
    interval: Interval | NoInterval
    delta: float
    selected: dict[str, Any]
    warnings: tuple[str, ...]


SMOKE = "a smoke test"  # in the warnings of a limited run


def versions(task: Task, family: str) -> list[Protocol]:
    """The protocols that apply to a task and whose kind belongs to a family, such as ``linear`` or ``knn``.

    One that reads a feature of its own is none of them: it would be another feature that moves the number.
    """
    return [
        protocol
        for protocol in map(protocols.get, task.protocols)
        if protocol.code.family == family and protocol.settings.extraction.pooling == "average"
    ]


def measure(
    loaded: Loaded,
    task: Task,
    chosen: Sequence[Protocol],
    *,
    data_root: Path,
    store: Path,
    seed: int = 0,
    limit: int | None = None,
    titles: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Run protocols on one checkpoint and one data set, each with its own way from images to features.

    Args:
        loaded: The checkpoint.
        task: What is measured.
        chosen: The protocols, overrides applied; the first is the one that others are compared with.
        data_root: Where data sets lie.
        store: The feature store.
        seed: Seed of whatever is random in a protocol.
        limit: Use at most so many examples of each split: a smoke test, which each row's warnings say.
        titles: What to call each; name and version when empty.
        progress: Told the name of each protocol before it runs.

    Raises:
        UserError: If there is nothing to compare, or a protocol is not for this task.
    """
    if not chosen:
        raise UserError(f"no protocol to compare on {task.name}", remedy="name some of its protocols", code=2)
    for protocol in chosen:
        task.check(protocol)
    smoke = () if limit is None else (f"{SMOKE}: at most {limit} examples of each split were used",)
    opened = OpenData(data_root, limit)
    rows: list[Row] = []
    for place, protocol in enumerate(chosen):
        progress(protocol.name)
        cell = Cell(loaded.passport.name, task, protocol, {}, seed)
        work = store.parent / "work" / f"delta-{protocol.name}"
        measured = run_cell(cell, loaded, opened.of(cell), store=store, work=work)
        row = _row(rows, protocol, cell.metric, measured)
        row = replace(row, warnings=(*row.warnings, *smoke))
        rows.append(replace(row, protocol=titles[place]) if titles else row)
    return rows


def _row(before: Sequence[Row], protocol: Protocol, metric: str, measured: Measured) -> Row:
    found = measured.metrics[metric]
    base = next((row.value for row in before if row.metric == metric), found.value)
    kept = {key: item for key, item in measured.selected.items() if key not in ("grid", "value")}
    title = f"{protocol.name} v{protocol.version}"
    delta = found.value - base
    return Row(title, metric, found.value, found.interval, delta, kept, measured.warnings)


def compare(
    chosen: Sequence[Protocol],
    train: Labelled,
    val: Labelled,
    test: tuple[Features, Array],
    *,
    metric: str,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Run protocols on the same features.

    Args:
        chosen: The protocols, overrides applied; the first is the one that others are compared with.
        train: Features and labels of train.
        val: Features and labels of val.
        test: Features and labels of test; a protocol sees the features once it has chosen, the labels never.
        metric: The task's metric; a protocol whose definition replaces it is reported with its own.
        seed: Seed of whatever is random in a protocol.
        progress: Told the name of each protocol before it runs.
    """
    rows: list[Row] = []
    features, labels = test
    for protocol in chosen:
        progress(protocol.name)
        name = protocol.metric_for(metric)
        fitted = protocols.fit(protocol, train, val, seed=seed, metric=name)
        rows.append(_row(rows, protocol, name, score(fitted, features, labels, name)))
    return rows


def render(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows in per cent, and the spread that protocol alone makes."""
    lines = ["| protocol | metric | value | 95% interval | difference |", "|---|---|---|---|---|"]
    for row in rows:
        ends = row.interval
        span = "-" if isinstance(ends, NoInterval) else f"{100 * ends.low:.1f} to {100 * ends.high:.1f}"
        delta = f"{100 * row.delta:+.2f}"
        lines.append(f"| {row.protocol} | {row.metric} | {100 * row.value:.2f} | {span} | {delta} |")
    for metric in dict.fromkeys(row.metric for row in rows):
        values = [row.value for row in rows if row.metric == metric]
        if len(values) > 1:
            lines.append(
                f"\nProtocol alone moves {metric} by {100 * (max(values) - min(values)):.2f} points here."
            )
    lines += [
        f"\n{line}" for line in dict.fromkeys(line for row in rows for line in row.warnings if SMOKE in line)
    ]
    return "\n".join(lines) + "\n"
