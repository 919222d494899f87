"""Results as they are kept: one JSON line per checkpoint x task x protocol x seed, and files of outcomes.

A record file is append-only. Every line is kept, failures included; of the lines that share a run id the
latest completed one counts. The schema is written down key by key in ``docs/records.md``; `Record` is its
code.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from filelock import FileLock
from msgspec import Meta, Raw

from mast.files import atomic_write, canonical_json, writing

from ..errors import UserError

SCHEMA: Final = 1
_MANY: Final = 16 << 20  # bytes of record files, about 7,000 records
NO_INTERVAL: Final = "none: "  # before the reason, as `numbers.intervals.NoInterval.kind` has it

BESIDE: Final = ("features", "measures", "pretrain", "work")  # folders of a run that hold no records

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Meta(min_length=1)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a record. msgspec checks types, patterns and ranges when a line is read or written."""


class CheckpointEntry(_Part, frozen=True, dict=True):
    """Which weights were measured, and how images are prepared for them."""

    name: Text
    sha256: Sha256 | None
    weights_sha256: Sha256 | None
    arch: Text | None
    layout: Text | None
    trained: bool | None
    normalization: dict[str, Any] | None
    method: Text | None
    preprocessing: dict[str, Any] = {}
    pretraining: dict[str, Any] = {}

    @cached_property
    def identity(self) -> str:
        """What decides the numbers, as canonical JSON. Until the weights are known the name stands in."""
        if self.weights_sha256 is None:
            return canonical_json({"name": self.name})
        return canonical_json(
            {
                "weights_sha256": self.weights_sha256,
                "arch": self.arch,
                "normalization": self.normalization,
                "preprocessing": self.preprocessing,
            }
        )

    @cached_property
    def key(self) -> str:
        """SHA-256 of `identity`, a short form for labels."""
        return hashlib.sha256(self.identity.encode()).hexdigest()


class TaskEntry(_Part, frozen=True, dict=True):
    """Which data and which headline metric."""

    name: Text
    version: int
    metric: Text

    @cached_property
    def identity(self) -> str:
        """What decides the numbers, as canonical JSON."""
        return canonical_json({"name": self.name, "version": self.version})


class ProtocolEntry(_Part, frozen=True, dict=True):
    """How the task was run: a versioned recipe, what was overridden, and the resulting parameters."""

    name: Text
    version: int
    overrides: dict[str, Any] = {}
    params: dict[str, Any] = {}

    @cached_property
    def identity(self) -> str:
        """What decides the numbers, as canonical JSON."""
        return canonical_json({"name": self.name, "version": self.version, "params": self.params})

    @cached_property
    def key(self) -> str:
        """SHA-256 over name, version and parameters: records share a section of a table if they share it."""
        return hashlib.sha256(canonical_json([self.name, self.version, self.params]).encode()).hexdigest()

    @cached_property
    def asked_for(self) -> str:
        """What was asked for on the command line or in a suite, as canonical JSON."""
        return canonical_json([self.name, self.overrides])


class DataEntry(_Part, frozen=True):
    """Which images: the data set's manifest hash and how many examples were used of each split."""

    manifest: Sha256 | None
    counts: dict[str, int] = {}


class Metric(_Part, frozen=True, gc=False):
    """A fraction with its interval; ``interval`` names its kind.

    Without an interval the ends and the level are null, and ``interval`` says why after `NO_INTERVAL`; it is null too
    in records that are older than the reasons.
    """

    value: Annotated[float, Meta(le=1.0)]
    low: float | None = None
    high: float | None = None
    interval: Text | None = None
    level: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if not math.isfinite(self.value):
            raise ValueError(f"value {self.value} is not finite")
        if low is None or high is None:
            reason = self.interval is None or self.interval.startswith(NO_INTERVAL)
            if low is not None or high is not None or self.level is not None or not reason:
                raise ValueError("low, high, interval and level go together")
        elif self.interval is None or self.level is None or self.interval.startswith(NO_INTERVAL):
            raise ValueError("low, high, interval and level go together")
        elif not low <= high:
            raise ValueError(f"low {low} lies above high {high}")


class Outcomes(_Part, frozen=True, gc=False):
    """Where the outcomes file lies, relative to the folder that holds ``outcomes/``, and its hash."""

    path: Text
    sha256: Sha256

    @property
    def of_detection(self) -> bool:
        """Whether it holds detections instead of arrays."""
        return self.path.endswith(".json.gz")


class Failure(_Part, frozen=True):
    """Why a cell has no result."""

    type: Text
    message: str
    traceback: list[str] = []


class Record(_Part, frozen=True, kw_only=True):
    """One line of a record file, schema 1."""

    schema: Literal[1] = SCHEMA
    run_id: Sha256
    status: Literal["completed", "failed"]
    error: Failure | None = None
    checkpoint: CheckpointEntry
    task: TaskEntry
    protocol: ProtocolEntry
    seed: Annotated[int, Meta(ge=0)]
    data: DataEntry
    metrics: dict[str, Metric] = {}
    selected: dict[str, Any] = {}
    certificate: dict[str, Any] | None = None
    warnings: list[str] = []
    outcomes: Outcomes | None = None
    environment: dict[str, Any]
    started: Text
    seconds: Annotated[float, Meta(ge=0.0)]

    def __post_init__(self) -> None:
        if self.status == "failed":
            if self.error is None:
                raise ValueError("a failed record says why in 'error'")
            return
        if self.error is not None:
            raise ValueError("a completed record has no 'error'")
        if self.task.metric not in self.metrics:
            raise ValueError(f"metrics lack the task's metric '{self.task.metric}'")
        if self.checkpoint.weights_sha256 is None or self.data.manifest is None:
            raise ValueError("a completed record knows its weights and its data")
        if self.run_id != run_id(self.checkpoint, self.task, self.protocol, self.data.manifest, self.seed):
            raise ValueError("run_id does not fit the checkpoint, task, protocol, data and seed beside it")

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, in the order of the schema."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def run_id(
    checkpoint: CheckpointEntry, task: TaskEntry, protocol: ProtocolEntry, manifest: str | None, seed: int
) -> str:
    """Name a run by everything that decides its numbers, and by nothing else.

    Two runs share an id exactly when they share the weights with their preprocessing, the task, the protocol
    with its resolved parameters, the data and the seed. Hardware, library versions and names of files stay
    out. Before the weights are known (a checkpoint that cannot be read) its name stands in for them.

    Returns:
        A SHA-256 in hexadecimal, taken over canonical JSON.
    """
    # Canonical JSON put together from parts that keep theirs, since records share them.
    data = f'"{manifest}"' if manifest else "null"
    whole = (
        f'{{"checkpoint":{checkpoint.identity},"manifest":{data},"protocol":{protocol.identity},'
        f'"seed":{seed},"task":{task.identity}}}'
    )
    return hashlib.sha256(whole.encode()).hexdigest()


# Parts that many lines share: each distinct one is decoded once, and all records hold the same object.
_SHARED: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    name: msgspec.json.Decoder(of)
    for name, of in {
        "checkpoint": CheckpointEntry,
        "task": TaskEntry,
        "protocol": ProtocolEntry,
        "data": DataEntry,
        "environment": dict[str, Any],
    }.items()
}
_LINE: Final = msgspec.json.Decoder(
    msgspec.defstruct(
        "Line",
        [
            (item.name, Raw if item.name in _SHARED else item.type)
            if item.required
            else (
                item.name,
                item.type,
                item.default_factory() if item.default is msgspec.NODEFAULT else item.default,
            )
            for item in msgspec.structs.fields(Record)
        ],
        forbid_unknown_fields=True,
        kw_only=True,
    )
)


class MissingOutcomes(UserError):
    """A record's outcomes file is not there."""


class Torn(ValueError):
    """A line that is not whole JSON, such as a killed process leaves."""


class Reader:
    """Reads lines of record files. Equal parts of what it has read are one object."""

    def __init__(self) -> None:
        self._known: dict[str, dict[bytes, Any]] = {name: {} for name in _SHARED}

    def read(self, line: bytes) -> Record:
        """Check a line against the schema; every schema ever written is read here.

        Raises:
            Torn: If the line is not whole JSON.
            ValueError: With the key that is wrong.
        """
        try:
            values = msgspec.structs.asdict(_LINE.decode(line))
            for name, known in self._known.items():
                part = bytes(values[name])
                if part not in known:
                    known[part] = _decode(name, part)
                values[name] = known[part]
            return Record(**values)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        except msgspec.DecodeError as error:
            try:
                value = json.loads(line)
            except ValueError:  # also bytes that are not UTF-8
                raise Torn("not whole JSON") from error
            raise ValueError(_wrong(value, error)) from error


def _decode(name: str, part: bytes) -> Any:
    try:
        return _SHARED[name].decode(part)
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`$", f"`{name}")) from error


def _wrong(value: Any, error: Exception) -> str:
    """What is wrong with a line, in words that name its key."""
    if isinstance(value, dict) and value.get("schema") != SCHEMA:
        return f"schema {value.get('schema')!r}; this program reads schema {SCHEMA}: use a newer version"
    if "$.metrics[...]" in str(error):  # msgspec does not say which
        for name, metric in value["metrics"].items():
            try:
                msgspec.convert(metric, Metric)
            except msgspec.ValidationError as found:
                return f"{found} of metrics.{name}".replace("`$.", f"`metrics.{name}.")
    return str(error).replace("`$.", "`")


def append(path: Path, record: Record) -> None:
    """Add one line to a record file, under a lock and flushed to the disk.

    A line that a killed process left unfinished stays as it is; the new record starts on a line of its own. Of a
    record that finds the disk full, nothing is left.

    Raises:
        Unwritable: If the disk is full.
        ValueError: If the record is not of the schema; nothing is written.
    """
    line = canonical_json(record.to_json()).encode()
    Reader().read(line)
    append_line(path, line)


def append_line(path: Path, line: bytes) -> None:
    """Add a line as `append` does, whatever it holds.

    Raises:
        Unwritable: If the disk is full.
    """
    line += b"\n"
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")), open(path, "a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


@dataclass
class Book:
    """Records that were read together.

    Attributes:
        records: Every whole record, in reading order.
        problems: One sentence for every line that is not a whole record.
        roots: Folders that hold an ``outcomes`` folder, to look outcomes up in.
        files: The files that were read, with their number of lines.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    files: dict[Path, int] = field(default_factory=dict)

    def counting(self) -> list[Record]:
        """The latest completed record of every run, in the order of their starts, whatever that of the files.

        The same weights under two names are one run id, and a record for each name.
        """
        latest: dict[tuple[str, str], Record] = {}
        for record in self.records:
            if record.status == "completed":
                known = latest.get(key := (record.run_id, record.checkpoint.name))
                if known is None or record.started >= known.started:
                    latest[key] = record
        return sorted(latest.values(), key=_when)

    def failures(self) -> list[Record]:
        """The latest failure of every cell that has no completed record.

        What was asked for makes a cell here, names with overrides and seed, not the run id: what fails early fails
        before weights and data are known, and may succeed under a later version of its task or protocol.
        """
        failed: dict[tuple[object, ...], Record] = {}
        for record in self.records:
            if record.status == "failed":
                known = failed.get(cell := _cell(record))
                if known is None or record.started >= known.started:
                    failed[cell] = record
        if failed:
            for record in self.records:
                if record.status == "completed":
                    failed.pop(_cell(record), None)
        return sorted(failed.values(), key=_when)

    def metrics(self, task: str, protocol: str, version: int) -> set[str]:
        """The metrics that were measured on a task by a version of a protocol."""
        return {
            name
            for record in self.records
            if (record.task.name, record.protocol.name, record.protocol.version) == (task, protocol, version)
            for name in record.metrics
        }

    def outcomes(self, record: Record) -> Any:
        """Read a record's outcomes file and check its hash.

        Returns:
            A dict of arrays for ``.npz``, the decoded value for ``.json.gz``.

        Raises:
            MissingOutcomes: If the file is absent.
            UserError: If the record has none, or the file was altered.
        """
        path = self.outcomes_file(record)
        return read_outcomes(path, path.name.partition(".")[0])

    def outcomes_file(self, record: Record) -> Path:
        """Where a record's outcomes file lies.

        Raises:
            MissingOutcomes: If it is not there.
            UserError: If the record has none.
        """
        cell = f"{record.checkpoint.name} on {record.task.name}"
        if record.outcomes is None:
            raise UserError(f"{cell}: the record has no outcomes file")
        for root in self.roots:
            if (path := root / record.outcomes.path).is_file():
                return path
        raise MissingOutcomes(
            f"{cell}: the outcomes file {record.outcomes.path} is missing",
            remedy=f"looked in {', '.join(map(str, self.roots))}; copy it there or run the cell again",
        )


def _when(record: Record) -> tuple[str, str, str]:
    return record.started, record.run_id, record.checkpoint.name


def _cell(record: Record) -> tuple[object, ...]:
    return record.checkpoint.name, record.task.name, record.protocol.asked_for, record.seed


def record_files(place: Path) -> list[Path]:
    """The record files of a folder (in its ``records/`` folder if it has one), or the file itself.

    What else a run's folder holds, such as stored features, is no record, also where nothing was recorded yet.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder", remedy="name the --out folder of a run", code=2)
    folder = place / "records" if (place / "records").is_dir() else place
    found = sorted(folder.rglob("*.jsonl"))
    return [path for path in found if path.relative_to(folder).parts[0] not in BESIDE]


def read(places: Iterable[Path]) -> Book:
    """Read record files.

    A line that is not whole JSON is what a killed process leaves: it is skipped and told in ``problems``.

    Args:
        places: Record files, or folders as in `record_files`.

    Raises:
        UserError: If a line is JSON but no record of a known schema, naming file, line and keys.
    """
    book, reader = Book(), Reader()
    files = [path for place in places for path in record_files(place)]
    with _no_collection(many=sum(path.stat().st_size for path in files) > _MANY):
        for path in files:
            _read_file(path, reader, book)
            for root in path.parents[:3]:
                if (root / "outcomes").is_dir() and root not in book.roots:
                    book.roots.append(root)
    return book


@contextlib.contextmanager
def _no_collection(*, many: bool) -> Iterator[None]:
    """Keep the garbage collector from walking over all records again and again.

    Args:
        many: Keep it from that afterwards too. Records hold no cycles: they go when nobody holds them any more.
    """
    enabled = gc.isenabled()
    if many:
        gc.collect()  # what is garbage now would be kept as well
    gc.disable()
    try:
        yield
    finally:
        if many:
            gc.freeze()
        if enabled:
            gc.enable()


def _read_file(path: Path, reader: Reader, book: Book) -> None:
    number = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                book.records.append(reader.read(line))
            except Torn:
                book.problems.append(f"{path}:{number}: not a whole record, left out (was a process killed?)")
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: not a valid record: {error}", remedy="mend or remove that line"
                ) from error
    book.files[path] = number


def write_arrays(root: Path, **arrays: np.ndarray[Any, Any]) -> Outcomes:
    """Write outcomes of a classification cell, named by their content: equal arrays give the same file.

    Args:
        root: The folder that holds ``outcomes/``.
        **arrays: For example ``correct`` (N,) bool and ``predicted`` (N,) int, or ``episodes`` (E,) float.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return _store(root, buffer.getvalue(), ".npz")


def write_json(root: Path, value: Any) -> Outcomes:
    """Write outcomes that are no arrays, such as detections of each image."""
    return _store(root, gzip.compress(canonical_json(value).encode(), mtime=0), ".json.gz")


def _store(root: Path, content: bytes, suffix: str) -> Outcomes:
    digest = hashlib.sha256(content).hexdigest()
    path = root / "outcomes" / f"{digest}{suffix}"
    if not path.exists():
        with atomic_write(path, "wb") as file:
            file.write(content)
    return Outcomes(path=f"outcomes/{path.name}", sha256=digest)


def read_outcomes(path: Path, sha256: str) -> Any:
    """Read an outcomes file whose hash is known; see `Book.outcomes`."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path}: altered since the record was written", remedy="restore it or run the cell again"
        )
    if path.name.endswith(".json.gz"):
        return json.loads(gzip.decompress(content))
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
