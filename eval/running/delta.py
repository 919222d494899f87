"""How much of the gap between two papers is protocol: every version of a protocol on one set of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import features, protocols
from ..errors import UserError
from ..features.matrices import Array, Features
from ..numbers import intervals
from ..protocols import Labelled, Protocol
from ..protocols.frozen import score
from ..tasks import Task

if TYPE_CHECKING:
    from ..checkpoints import Loaded


@dataclass(frozen=True)
class Row:
    """One protocol's number on the shared features.

    Attributes:
        protocol: Its name and version.
        metric: What the number is.
        value: The number, a fraction.
        interval: Over the test examples, Wilson's for accuracy, else bootstrap.
        delta: Difference to the first row with that metric; None where the metric differs.
        selected: What was chosen.
        warnings: What the protocol warned of.
    """

    protocol: str
    metric: str
    value: float
    interval: intervals.Interval
    delta: float | None
    selected: dict[str, Any]
    warnings: tuple[str, ...]


def versions(task: Task, family: str) -> list[Protocol]:
    """The protocols that apply to a task and whose kind belongs to a family, such as ``linear`` or ``knn``."""
    return [protocol for protocol in map(protocols.get, task.protocols) if protocol.code.family == family]


def measure(
    loaded: Loaded,
    task: Task,
    chosen: Sequence[Protocol],
    *,
    data_root: Path,
    store: Path,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """`compare` on a checkpoint's features of a task's images.

    Args:
        loaded: The checkpoint.
        task: What is measured.
        chosen: The protocols, of kinds on frozen features, and all with the same way from image to input.
        data_root: Where data sets lie.
        store: The feature store.
        seed: As `compare`.
        progress: As `compare`.

    Raises:
        UserError: If there is nothing to compare, or two protocols want different features.
    """
    if not chosen:
        raise UserError(f"no protocol to compare on {task.name}", remedy="name some of its protocols", code=2)
    for protocol in chosen:
        if protocol.settings.extraction != chosen[0].settings.extraction:
            raise UserError(
                f"{protocol.name} and {chosen[0].name} do not see the same input, so their features differ",
                remedy="compare them as columns of a table",
                code=2,
            )
    dataset = task.open(data_root)
    found = {
        name: features.extract(
            loaded.backbone,  # type: ignore[arg-type]
            loaded.passport,
            split,
            store=store,
            **chosen[0].settings.extraction.options(),
        )
        for name, split in dataset.splits.items()
    }
    train, val = (
        Labelled(found[name], dataset.splits[name].labels, dataset.num_classes) for name in ("train", "val")
    )
    test = np.asarray(found["test"]), dataset.splits["test"].labels
    return compare(chosen, train, val, test, metric=task.metric, seed=seed, progress=progress)


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
        found = score(fitted, features, labels, name).metrics[name]
        assert found.interval is not None
        base = next((row.value for row in rows if row.metric == name), found.value)
        kept = {key: item for key, item in fitted.selected.items() if key not in ("grid", "value")}
        title = f"{protocol.name} v{protocol.version}"
        rows.append(Row(title, name, found.value, found.interval, found.value - base, kept, fitted.warnings))
    return rows


def render(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows in per cent, and the spread that protocol alone makes."""
    lines = ["| protocol | metric | value | 95% interval | difference |", "|---|---|---|---|---|"]
    for row in rows:
        span = f"{100 * row.interval.low:.1f} to {100 * row.interval.high:.1f}"
        delta = "-" if row.delta is None else f"{100 * row.delta:+.2f}"
        lines.append(f"| {row.protocol} | {row.metric} | {100 * row.value:.2f} | {span} | {delta} |")
    for metric in dict.fromkeys(row.metric for row in rows):
        values = [row.value for row in rows if row.metric == metric]
        if len(values) > 1:
            lines.append(
                f"\nProtocol alone moves {metric} by {100 * (max(values) - min(values)):.2f} points here."
            )
    return "\n".join(lines) + "\n"
