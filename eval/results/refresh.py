"""Intervals of records computed anew, by today's methods, from what the records kept of every example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock

from mast.files import atomic_write, canonical_json

from ..errors import UserError
from ..numbers import kept
from ..numbers.intervals import Interval, NoInterval
from . import records
from .records import Book, Metric, MissingOutcomes, Record

Spans = dict[str, Interval | NoInterval]


@dataclass
class Refreshed:
    """What was done.

    Attributes:
        changed: Metrics that have another interval now, by what was and what is.
        same: Metrics whose interval was that already.
        left: Metrics that keep an older one, by reason.
    """

    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    same: int = 0
    left: Counter[str] = field(default_factory=Counter)


def refresh(places: Sequence[Path], data_root: Path | None = None) -> Refreshed:
    """Rewrite the intervals in record files; values, run ids and all else stay byte for byte.

    Where the outcomes do not tell an interval, the old one stays, under the name of its method. One of zero width
    says nothing and gives way to the reason.

    Args:
        places: Folders of runs, or record files.
        data_root: Where the images of detection tasks lie: kept detections are measured against them again.

    Raises:
        UserError: If an outcomes file was altered.
    """
    done, galleries = Refreshed(), _Galleries(data_root)
    for path in [path for place in places for path in records.record_files(place)]:
        with FileLock(path.with_name(f".{path.name}.lock")):
            book, lines = records.read([path]), []
            reader = records.Reader()
            for line in path.read_bytes().split(b"\n"):
                try:
                    record = reader.read(line) if line.strip() else None
                except records.Torn:
                    record = None
                if record is None or record.status == "failed":
                    lines.append(line)
                    continue
                new = _anew(record, book, galleries, done)
                lines.append(line if new == record.metrics else _line(record, new))
            content = b"\n".join(lines)
            if content != path.read_bytes():
                with atomic_write(path, "wb") as file:
                    file.write(content)
    return done


def _line(record: Record, metrics: dict[str, Metric]) -> bytes:
    return canonical_json(msgspec.structs.replace(record, metrics=metrics).to_json()).encode()


def _anew(record: Record, book: Book, galleries: _Galleries, done: Refreshed) -> dict[str, Metric]:
    found = _spans(record, book, galleries)
    new = {}
    for name, old in record.metrics.items():
        span = found.get(name) if isinstance(found, dict) else None
        if span is None and old.low is not None and old.low == old.high:
            span = NoInterval("the one that was recorded had no width")
        if span is None:
            done.left[found if isinstance(found, str) else "the outcomes do not tell it"] += 1
            new[name] = old
            continue
        new[name] = _metric(old.value, span)
        if new[name] == old:
            done.same += 1
        else:
            done.changed[old.interval or "nothing", new[name].interval or ""] += 1
    return new


def _metric(value: float, span: Interval | NoInterval) -> Metric:
    if isinstance(span, NoInterval):
        return Metric(value, interval=span.kind)
    return Metric(value, float(span.low), float(span.high), span.kind, span.level)


def _spans(record: Record, book: Book, galleries: _Galleries) -> Spans | str:
    """The intervals of a record that its outcomes tell, or why they tell none."""
    if record.outcomes is None:
        return "the records keep no outcomes"
    try:
        outcome = book.outcomes(record)
    except MissingOutcomes:
        return "the outcomes files are not there"
    if record.outcomes.of_detection:
        return galleries.spans(record, outcome)
    found = {name: kept.interval(name, old.value, outcome) for name, old in record.metrics.items()}
    return {name: span for name, span in found.items() if span is not None}


class _Galleries:
    """Test splits of detection tasks, each opened once."""

    def __init__(self, data_root: Path | None) -> None:
        self._root = data_root
        self._known: dict[str, Any] = {}

    def spans(self, record: Record, outcome: Any) -> Spans | str:
        if self._root is None:
            return "detections need the data (--data-root)"
        from .. import tasks
        from ..detection import Gallery
        from ..detection.intervals import intervals

        task = record.task.name
        if task not in self._known:
            try:
                self._known[task] = Gallery(tasks.get(task).open(self._root).drawn())
            except UserError as error:
                self._known[task] = f"{task}: {error}"
        gallery = self._known[task]
        if isinstance(gallery, str):
            return gallery
        if not gallery.fits(outcome):
            return f"{task}: measured on other test images than {self._root} has"
        found = gallery.evaluate(outcome)
        moved = [n for n, m in record.metrics.items() if abs(found.metrics.get(n, 2.0) - m.value) > 1e-6]
        if moved:
            return f"{task}: the kept detections give another {moved[0]} than was recorded"
        return dict(intervals(found.curves))
