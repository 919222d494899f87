"""Results as they are kept: one JSON line per checkpoint x task x protocol x seed, and files of outcomes.

A record file is append-only. Every line is kept, failures included; of the lines that share a run id the
latest completed one counts. The schema is written down key by key in ``docs/records.md``; `Record` is its
code.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mast.files import atomic_write, canonical_json

from ..errors import UserError

SCHEMA: Final = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class CheckpointEntry(_Part):
    """Which weights were measured, and how images are prepared for them."""

    name: Text
    sha256: Sha256 | None
    weights_sha256: Sha256 | None
    arch: Text | None
    layout: Text | None
    trained: bool | None
    normalization: dict[str, Any] | None
    method: Text | None
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    pretraining: dict[str, Any] = Field(default_factory=dict)


class TaskEntry(_Part):
    """Which data and which headline metric."""

    name: Text
    version: int
    metric: Text


class ProtocolEntry(_Part):
    """How the task was run: a versioned recipe, what was overridden, and the resulting parameters."""

    name: Text
    version: int
    overrides: dict[str, Any] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)


class DataEntry(_Part):
    """Which images: the data set's manifest hash and how many examples were used of each split."""

    manifest: Sha256 | None
    counts: dict[str, int] = Field(default_factory=dict)


class Metric(_Part):
    """A fraction with its interval; ``interval`` names the kind, and is null where there is none."""

    value: float = Field(le=1.0)
    low: float | None = None
    high: float | None = None
    interval: Text | None = None
    level: float | None = Field(default=None, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _whole_interval(self) -> Self:
        parts = (self.low, self.high, self.interval, self.level)
        if any(part is None for part in parts) != all(part is None for part in parts):
            raise ValueError("low, high, interval and level go together")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}")
        return self


class Outcomes(_Part):
    """Where the outcomes file lies, relative to the folder that holds ``outcomes/``, and its hash."""

    path: Text
    sha256: Sha256


class Failure(_Part):
    """Why a cell has no result."""

    type: Text
    message: str
    traceback: list[str] = Field(default_factory=list)


class Record(_Part):
    """One line of a record file, schema 1."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    run_id: Sha256
    status: Literal["completed", "failed"]
    error: Failure | None = None
    checkpoint: CheckpointEntry
    task: TaskEntry
    protocol: ProtocolEntry
    seed: int = Field(ge=0)
    data: DataEntry
    metrics: dict[str, Metric] = Field(default_factory=dict)
    selected: dict[str, Any] = Field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    warnings: list[str] = Field(default_factory=list)
    outcomes: Outcomes | None = None
    environment: dict[str, Any]
    started: Text
    seconds: float = Field(ge=0.0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.status == "failed":
            if self.error is None:
                raise ValueError("a failed record says why in 'error'")
            return self
        if self.error is not None:
            raise ValueError("a completed record has no 'error'")
        if self.task.metric not in self.metrics:
            raise ValueError(f"metrics lack the task's metric '{self.task.metric}'")
        if self.checkpoint.weights_sha256 is None or self.data.manifest is None:
            raise ValueError("a completed record knows its weights and its data")
        if self.run_id != run_id(self.checkpoint, self.task, self.protocol, self.data.manifest, self.seed):
            raise ValueError("run_id does not fit the checkpoint, task, protocol, data and seed beside it")
        return self

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, in the order of the schema."""
        return self.model_dump(mode="json", by_alias=True)


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
    weights: dict[str, Any] = {"name": checkpoint.name}
    if checkpoint.weights_sha256 is not None:
        weights = {
            "weights_sha256": checkpoint.weights_sha256,
            "arch": checkpoint.arch,
            "normalization": checkpoint.normalization,
            "preprocessing": checkpoint.preprocessing,
        }
    identity = {
        "checkpoint": weights,
        "task": {"name": task.name, "version": task.version},
        "protocol": {"name": protocol.name, "version": protocol.version, "params": protocol.params},
        "manifest": manifest,
        "seed": seed,
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def parse(value: dict[str, Any]) -> Record:
    """Check a record against its schema; every schema ever written is read here.

    Raises:
        ValueError: With the keys that are wrong.
    """
    schema = value.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}; this program reads schema {SCHEMA}: use a newer version")
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        wrong = ((".".join(map(str, item["loc"])) or "record", item["msg"]) for item in error.errors())
        found = "; ".join(f"{key}: {message}" for key, message in wrong)
        raise ValueError(found) from error


def append(path: Path, record: Record) -> None:
    """Add one line to a record file, under a lock and flushed to the disk.

    A line that a killed process left unfinished stays as it is; the new record starts on a line of its own.
    """
    line = canonical_json(parse(record.to_json()).to_json()).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")), open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


@dataclass
class Book:
    """Records that were read together.

    Attributes:
        records: Every whole record, in reading order.
        problems: One sentence for every line that is not a whole record.
        roots: Folders that hold an ``outcomes`` folder, to look outcomes up in.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)

    def counting(self) -> list[Record]:
        """The latest completed record of every run id, in order of first appearance."""
        latest: dict[str, Record] = {}
        for record in self.records:
            if record.status == "completed":
                known = latest.get(record.run_id)
                if known is None or record.started >= known.started:
                    latest[record.run_id] = record
        return list(latest.values())

    def failures(self) -> list[Record]:
        """The latest failure of every cell that has no completed record.

        What was asked for makes a cell here, names with overrides and seed, not the run id: what fails early fails
        before weights and data are known, and may succeed under a later version of its task or protocol.
        """
        done = {_cell(record) for record in self.records if record.status == "completed"}
        failed = {_cell(record): record for record in self.records if record.status == "failed"}
        return [record for cell, record in failed.items() if cell not in done]

    def outcomes(self, record: Record) -> Any:
        """Read a record's outcomes file and check its hash.

        Returns:
            A dict of arrays for ``.npz``, the decoded value for ``.json.gz``.

        Raises:
            UserError: If the record has none, or the file is absent or altered.
        """
        cell = f"{record.checkpoint.name} on {record.task.name}"
        if record.outcomes is None:
            raise UserError(f"{cell}: the record has no outcomes file")
        for root in self.roots:
            if (path := root / record.outcomes.path).is_file():
                return read_outcomes(path, record.outcomes.sha256)
        raise UserError(
            f"{cell}: the outcomes file {record.outcomes.path} is missing",
            remedy=f"looked in {', '.join(map(str, self.roots))}; copy it there or run the cell again",
        )


def _cell(record: Record) -> tuple[object, ...]:
    overrides = canonical_json(record.protocol.overrides)
    return record.checkpoint.name, record.task.name, record.protocol.name, overrides, record.seed


def record_files(place: Path) -> list[Path]:
    """The record files of a folder (in its ``records/`` folder if it has one), or the file itself."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UserError(f"{place}: no such file or folder", remedy="name the --out folder of a run", code=2)
    folder = place / "records" if (place / "records").is_dir() else place
    return sorted(folder.rglob("*.jsonl"))


def read(places: Iterable[Path]) -> Book:
    """Read record files.

    A line that is not whole JSON is what a killed process leaves: it is skipped and told in ``problems``.

    Args:
        places: Record files, or folders as in `record_files`.

    Raises:
        UserError: If a line is JSON but no record of a known schema, naming file, line and keys.
    """
    book = Book()
    for place in places:
        for path in record_files(place):
            _read_file(path, book)
            for root in path.parents[:3]:
                if (root / "outcomes").is_dir() and root not in book.roots:
                    book.roots.append(root)
    return book


def _read_file(path: Path, book: Book) -> None:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:  # also bytes that are not UTF-8
            book.problems.append(f"{path}:{number}: not a whole record, left out (was a process killed?)")
            continue
        try:
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            book.records.append(parse(value))
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: not a valid record: {error}", remedy="mend or remove that line"
            ) from error


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
