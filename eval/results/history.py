"""Looking into records: what there is, what differs between two runs and whether it moved the number; and merging."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from mast.files import atomic_write, canonical_json

from ..errors import UserError
from . import measures, records
from .records import Book, Record

Part = Literal["weights", "preprocessing", "task", "protocol", "data", "seed", "software", "hardware", "time"]
# Of these a run id is made; the rest should move no number.
DECIDES: tuple[Part, ...] = ("weights", "preprocessing", "task", "protocol", "data", "seed")
HARDWARE = ("platform", "processor", "cores", "threads", "device")


@dataclass(frozen=True)
class Change:
    """One thing that differs between two runs.

    Attributes:
        part: What it belongs to.
        key: Its place in the record.
        first, second: As text; "absent" where one lacks it.
    """

    part: Part
    key: str
    first: str
    second: str

    @property
    def decides(self) -> bool:
        """Whether it is part of the run id, so that it may move the number."""
        return self.part in DECIDES


@dataclass(frozen=True)
class Difference:
    """Two runs beside one another.

    Attributes:
        first, second: The records.
        changes: What differs in how they were made.
        metrics: For each metric that both have, its two values.
        same_outcomes: Whether every example came out the same; None if one keeps no outcomes.
    """

    first: Record
    second: Record
    changes: Sequence[Change]
    metrics: Mapping[str, tuple[float, float]]
    same_outcomes: bool | None

    @property
    def moved(self) -> bool:
        """Whether the task's own metric differs."""
        one, other = self.first.task.metric, self.second.task.metric
        return one != other or len(set(self.metrics.get(one, ()))) > 1

    def verdict(self) -> str:
        """One sentence on whether the number moved, and what can be the reason."""
        if self.first.status != "completed" or self.second.status != "completed":
            return "One of them failed, so there are no two numbers."
        causes = list(dict.fromkeys(change.part for change in self.changes if change.decides))
        if causes:
            said = "The number moved" if self.moved else "The number is the same"
            return f"{said}; what may move it differs: {', '.join(causes)}."
        others = list(dict.fromkeys(change.part for change in self.changes if change.part != "time"))
        beside = f", though these differ: {', '.join(others)}" if others else ""
        if not self.moved:
            return f"The number is the same{beside}."
        reason = f": {', '.join(others)}" if others else "; nothing else is recorded"
        return f"The number moved although all that should decide it is the same. What differs{reason}."


def rows(book: Book) -> list[dict[str, Any]]:
    """The runs that count and the failures that stand, for a listing."""
    return [
        {
            "run_id": record.run_id,
            "status": record.status,
            "checkpoint": record.checkpoint.name,
            "task": f"{record.task.name} v{record.task.version}",
            "protocol": f"{record.protocol.name} v{record.protocol.version}",
            "overrides": record.protocol.overrides,
            "seed": record.seed,
            "metric": record.task.metric,
            "value": record.metrics[record.task.metric].value if record.status == "completed" else None,
            "error": record.error.message if record.error else None,
            "started": record.started,
        }
        for record in [*book.counting(), *book.failures()]
    ]


def find(book: Book, prefix: str) -> list[Record]:
    """All records of one run, oldest first.

    Args:
        book: The records.
        prefix: The first characters of its run id.

    Raises:
        UserError: If no run has it, or several do.
    """
    found = {record.run_id for record in book.records if record.run_id.startswith(prefix)}
    if len(found) != 1:
        some = f"{len(found)} runs begin" if found else "no run begins"
        raise UserError(f"{some} with '{prefix}'", remedy="see `mast records list` for run ids", code=2)
    (run_id,) = found
    return sorted((r for r in book.records if r.run_id == run_id), key=lambda record: record.started)


def compare(first: Record, second: Record) -> Difference:
    """What differs between two records, and whether it moved the numbers."""
    ours, theirs = _parts(first), _parts(second)
    changes = [
        Change(part, key, ours.get((part, key), "absent"), theirs.get((part, key), "absent"))
        for part, key in dict.fromkeys((*ours, *theirs))
        if ours.get((part, key)) != theirs.get((part, key))
    ]
    shared = {
        name: (metric.value, second.metrics[name].value)
        for name, metric in first.metrics.items()
        if name in second.metrics
    }
    kept = first.outcomes, second.outcomes
    same = None if kept[0] is None or kept[1] is None else kept[0].sha256 == kept[1].sha256
    return Difference(first, second, changes, shared, same)


def _parts(record: Record) -> dict[tuple[Part, str], str]:
    """Everything about a run but its results, flat and as text."""
    entry, environment = record.checkpoint, record.environment
    hardware = {key: value for key, value in environment.items() if key in HARDWARE}
    software = {key: value for key, value in environment.items() if key not in HARDWARE}
    parts: dict[Part, Any] = {
        "weights": {"name": entry.name, "weights_sha256": entry.weights_sha256, "arch": entry.arch},
        "preprocessing": {"normalization": entry.normalization} | entry.preprocessing,
        "task": {"name": record.task.name, "version": record.task.version, "metric": record.task.metric},
        "protocol": {"name": record.protocol.name, "version": record.protocol.version}
        | record.protocol.params,
        "data": {"manifest": record.data.manifest} | record.data.counts,
        "seed": {"seed": record.seed},
        "software": software,
        "hardware": hardware,
        "time": {"started": record.started, "seconds": record.seconds},
    }
    return {
        (part, key): value if isinstance(value, str) else canonical_json(value)
        for part, values in parts.items()
        for key, value in _flat(values)
    }


def _flat(values: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    return msgspec.json.schema(Record)


@dataclass(frozen=True)
class Merged:
    """What a merge took in: lines, those that were there already, and outcomes files."""

    lines: int
    known: int
    outcomes: int


def merge(places: Sequence[Path], out: Path) -> Merged:
    """Bring folders of runs together, such as those of several machines; each line and file once.

    Merging again, or folders that hold each other's records, adds nothing. Files of records keep their names.

    Args:
        places: Folders of runs, or record files.
        out: The folder to write; what it holds stays.

    Raises:
        UserError: If two folders have different files of one name where content should be the same.
    """
    there = records.read([out]) if out.is_dir() else Book()
    seen = {_digest(record) for record in there.records}
    lines = known = outcomes = 0
    for place in places:
        for path in records.record_files(place):
            book = records.read([path])
            for record in book.records:
                digest = _digest(record)
                if digest in seen:
                    known += 1
                    continue
                if record.outcomes is not None:
                    outcomes += _bring(book, record, out)
                records.append(out / "records" / path.name, record)
                seen.add(digest)
                lines += 1
        _measures(place, out)
        for kind in ("passports", "published"):
            _copy(place / kind, out / kind)
    return Merged(lines, known, outcomes)


def _digest(record: Record) -> str:
    return hashlib.sha256(canonical_json(record.to_json()).encode()).hexdigest()


def _bring(book: Book, record: Record, out: Path) -> int:
    """Copy a record's outcomes, after its hash was checked; it is the name, so that equal files are one."""
    if record.outcomes is None or (target := out / record.outcomes.path).is_file():
        return 0
    content = book.outcomes_file(record).read_bytes()
    if hashlib.sha256(content).hexdigest() != record.outcomes.sha256:
        raise UserError(f"{record.outcomes.path}: altered since the record was written")
    with atomic_write(target, "wb") as file:
        file.write(content)
    return 1


def _measures(place: Path, out: Path) -> None:
    """Add the measures without labels that ``out`` lacks."""
    there = {canonical_json(msgspec.to_builtins(line)) for line in measures.read([out])}
    for line in measures.read([place]):
        if canonical_json(msgspec.to_builtins(line)) not in there:
            measures.append(out / measures.FOLDER / "measures.jsonl", line)


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        copy = target / path.name
        if not copy.exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif copy.read_bytes() != path.read_bytes() and _content(copy) != _content(path):
            raise UserError(f"{copy} differs from {path}", remedy="rename one of them")


def _content(path: Path) -> Any:
    """A passport without the name of the file it was read from, which differs between machines."""
    if path.suffix != ".json":
        return path.read_bytes()
    value = json.loads(path.read_text(encoding="utf-8"))
    return {key: item for key, item in value.items() if key != "source"} if isinstance(value, dict) else value
