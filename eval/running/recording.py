"""From a cell and what was measured to its record, and from a passport or an error to their parts of one."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mast.errors import public

from ..checkpoints import Passport
from ..errors import UserError
from ..numbers.intervals import NoInterval
from ..protocols import Estimate, Measured
from ..results import records
from ..results.records import (
    CheckpointEntry,
    Failure,
    Metric,
    Outcomes,
    ProtocolEntry,
    Record,
    TaskEntry,
)
from ..results.render import percent
from .plan import Cell, Source


def adapted(source: Source, passport: Passport, others: Mapping[str, Passport]) -> Passport:
    """A passport under its name in the plan, with the preprocessing it is to take over.

    Args:
        source: Where its checkpoint comes from.
        passport: As it was loaded.
        others: The plan's passports by name, as far as they are known.

    Raises:
        UserError: If it takes over that of a checkpoint that is not among them.
    """
    changes: dict[str, Any] = {"name": source.name, "source": Path(passport.source).name}
    if source.like:
        if source.like not in others:
            raise UserError(f"{source.name} takes over the preprocessing of {source.like}, which failed")
        other = others[source.like]
        changes |= {
            "normalization": other.normalization,
            "input_size": other.input_size,
            "interpolation": other.interpolation,
            "provenance": passport.provenance
            | dict.fromkeys(("normalization", "input_size", "interpolation"), f"as {source.like}'s"),
        }
    return replace(passport, **changes)


def describe_checkpoint(passport: Passport) -> CheckpointEntry:
    """The part of a passport that stands in every record."""
    extra = passport.extra
    recipe = extra.get("recipe")
    name = recipe.get("name") if isinstance(recipe, dict) else recipe
    about = {"recipe": name} | {key: extra.get(key) for key in ("seed", "epochs", "data", "git")}
    return CheckpointEntry(
        name=passport.name,
        sha256=passport.sha256,
        weights_sha256=passport.weights_sha256,
        arch=passport.arch,
        layout=passport.layout,
        trained=passport.trained,
        normalization=plain(passport.normalization.to_json()),
        method=extra.get("method"),
        preprocessing={
            "input_size": passport.input_size,
            "interpolation": passport.interpolation,
            "stride_in_1x1": passport.stride_in_1x1,
            **passport.network,
            **({} if passport.precision == "float32" else {"precision": passport.precision}),
        },
        pretraining=plain({key: value for key, value in about.items() if value is not None}),
    )


def nothing_known(source: Source) -> CheckpointEntry:
    """A checkpoint that could not be loaded."""
    names = ("sha256", "weights_sha256", "arch", "layout", "trained", "normalization", "method")
    nothing: dict[str, Any] = dict.fromkeys(names)
    return CheckpointEntry(name=source.name, **nothing)


def task_entry(cell: Cell) -> TaskEntry:
    """The task as a record has it."""
    return TaskEntry(name=cell.task.name, version=cell.task.version, metric=cell.metric)


def protocol_entry(cell: Cell) -> ProtocolEntry:
    """The protocol as a record has it: what was overridden, and every parameter that decides a number."""
    how = cell.protocol
    return ProtocolEntry(
        name=how.name, version=how.version, overrides=plain(cell.overrides), params=plain(how.params)
    )


def seen(cell: Cell, checkpoint: CheckpointEntry) -> CheckpointEntry:
    """The checkpoint as a cell's record has it: without a choice of feature that its protocol does not read."""
    if cell.protocol.settings.reads_choice or "pooling" not in checkpoint.preprocessing:
        return checkpoint
    kept = {name: value for name, value in checkpoint.preprocessing.items() if name != "pooling"}
    return msgspec.structs.replace(checkpoint, preprocessing=kept)


def run_id(cell: Cell, checkpoint: CheckpointEntry, digest: str | None) -> str:
    """The cell's run id; ``digest`` is the hash of its data."""
    checkpoint = seen(cell, checkpoint)
    return records.run_id(checkpoint, task_entry(cell), protocol_entry(cell), digest, cell.seed)


def metric(estimate: Estimate) -> Metric:
    """A number as a record has it: plain Python's, whatever library computed it."""
    interval = estimate.interval
    if isinstance(interval, NoInterval):
        return Metric(value=float(estimate.value), interval=interval.kind)
    return Metric(
        value=float(estimate.value),
        low=float(interval.low),
        high=float(interval.high),
        interval=interval.kind,
        level=interval.level,
    )


def keep(out: Path, measured: Measured) -> Outcomes | None:
    """Write the outcomes file, where a cell has outcomes."""
    if measured.arrays:
        return records.write_arrays(out, **measured.arrays)
    return records.write_json(out, plain(measured.detections)) if measured.detections else None


def headline(record: Record) -> str:
    """The task's metric of a record with its interval, for people."""
    found = record.metrics[record.task.metric]
    ends = (
        "" if found.low is None or found.high is None else f" [{percent(found.low)}, {percent(found.high)}]"
    )
    return f"{record.task.metric} {percent(found.value)}{ends}"


def failure(error: Exception) -> Failure:
    """An error for a record: where it was raised in our code, without this machine's paths and without passwords."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [
        f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}" for frame in frames
    ]
    return Failure(
        type=type(error).__name__,
        message=public(" ".join(str(error).split())),
        traceback=[] if isinstance(error, UserError) else where[-4:],
    )


def one_line(error: Exception) -> str:
    """An error's message on one line; its type says more where it is not meant for users."""
    text = public(" ".join(str(error).split()))
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def plain(value: Any) -> Any:
    """Values as JSON has them: no arrays, tuples or numpy scalars, and null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
