"""Plan, skip what is done, run, record, go on: a failed cell is recorded and stops no other.

A run's folder holds its result, ``records/``, ``outcomes/`` and ``passports/``, and what an interrupted run goes on
from, ``pretrain/``, ``features/`` and ``work/``.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mast.config import load_recipe
from mast.console import bar
from mast.errors import Interrupted
from mast.files import atomic_write, canonical_json
from mast.train import PUBLISHED, pretrain

from .. import checkpoints, detection, tasks
from ..checkpoints import Loaded, Passport
from ..errors import UserError
from ..results import records
from ..results.records import (
    CheckpointEntry,
    DataEntry,
    Failure,
    Outcomes,
    ProtocolEntry,
    Record,
    TaskEntry,
    run_id,
)
from ..results.render import percent
from ..suites import Arm, Suite
from .cell import Cell, Measured, Progress, manifest, measure
from .environment import describe


@dataclass(frozen=True)
class Source:
    """Where a checkpoint of a plan comes from.

    Attributes:
        name: Its name in records and tables.
        ref: What `eval.checkpoints.load` takes; empty for an arm.
        arm: What to pretrain.
        like: Name of the checkpoint whose preprocessing this one takes over.
        options: ``layout``, ``arch`` and ``trust_pickle`` for the loader.
    """

    name: str
    ref: str = ""
    arm: Arm | None = None
    like: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Checkpoints and the cells to run on them, in order; ``name`` is that of the record file."""

    name: str
    sources: tuple[Source, ...]
    cells: tuple[Cell, ...]

    def of(self, source: Source) -> list[Cell]:
        """The cells of one checkpoint."""
        return [cell for cell in self.cells if cell.checkpoint == source.name]


@dataclass
class Summary:
    """How many cells were run, were done before, and failed; ``errors`` counts the cells of each message."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)


def plan(suite: Suite) -> Plan:
    """Resolve a suite's names.

    Raises:
        UserError: For a task, protocol or parameter that does not exist, or a protocol that does not apply.
    """
    sources = [Source(arm.name, arm=arm) for arm in suite.pretrain]
    sources += [Source(item.name, ref=item.ref, like=item.like) for item in suite.checkpoints]
    for arm in suite.pretrain:
        load_recipe(arm.recipe, arm.overrides)
    found = [
        make_cell(source.name, task, protocol, block.overrides, seed)
        for source in sources
        for block in suite.cells
        if not block.checkpoints or source.name in block.checkpoints
        for task in block.tasks
        for protocol in block.protocols
        for seed in block.seeds
    ]
    return Plan(suite.name, tuple(sources), tuple(found))


def make_cell(checkpoint: str, task: str, protocol: str, overrides: dict[str, Any], seed: int) -> Cell:
    """A cell from names.

    Raises:
        UserError: As `plan`.
    """
    what, how = tasks.resolve(task, protocol, overrides)
    return Cell(checkpoint, what, how, dict(overrides), seed)


class Runner:
    """Runs a plan in a folder.

    Args:
        todo: The plan.
        data_root: Where data sets lie.
        out: The run's folder.
        progress: Tell what is going on, on standard error.
    """

    def __init__(self, todo: Plan, *, data_root: Path, out: Path, progress: bool = True) -> None:
        self.plan = todo
        self.data_root = data_root
        self.out = out
        self.progress = progress
        self.file = out / "records" / f"{todo.name}.jsonl"
        self.costs = Costs()
        self.completed: set[str] = set()
        self.passports: dict[str, Passport] = {}
        self.timed: dict[tuple[str, str, str], float] = {}

    def run(self) -> Summary:
        """Run every cell that is not done.

        Raises:
            UserError: If a folder cannot be used. What goes wrong in a cell is recorded instead.
            Interrupted: If pretraining was asked to stop; the same call goes on from there.
        """
        summary = Summary()
        with claim(self.out, self.data_root):
            self._recall()
            for number, source in enumerate(self.plan.sources):
                if cells := self.plan.of(source):
                    self._run_source(source, cells, self.plan.sources[number + 1 :], summary)
        return summary

    def preview(self) -> list[dict[str, Any]]:
        """What `run` would do, without doing it.

        Returns:
            For each cell ``checkpoint``, ``task``, ``protocol``, ``seed``, ``state`` (``done``, ``to run``, or why
            it would fail) and ``seconds``: from comparable records in this folder, for detection else from a few
            timed iterations, else None.
        """
        self._recall()
        found = []
        for source in self.plan.sources:
            state = ""
            try:
                checkpoint = self._known(source)
            except UserError as error:
                checkpoint, state = None, str(error)
            for cell in self.plan.of(source):
                outlook = state or self._state(cell, checkpoint)
                seconds = self.costs.of(cell)
                if (
                    seconds is None
                    and outlook == "to run"
                    and checkpoint
                    and cell.protocol.kind == "detection"
                ):
                    seconds = self._timed(source, cell)
                found.append(
                    {
                        "checkpoint": cell.checkpoint,
                        "task": cell.task.name,
                        "protocol": f"{cell.protocol.name} v{cell.protocol.version}",
                        "seed": cell.seed,
                        "state": outlook,
                        "seconds": seconds,
                    }
                )
        return found

    def _timed(self, source: Source, cell: Cell) -> float:
        """Seconds of a detection cell by some iterations of it; cells of one kind on one architecture share them."""
        ref = str(self._published(source.arm)) if source.arm else source.ref
        loaded = checkpoints.load(ref, **source.options)
        key = (loaded.passport.arch, cell.task.name, canonical_json([_protocol(cell).model_dump()]))
        if key not in self.timed:
            told = detection.forecast(
                loaded, cell.task, cell.protocol, data_root=self.data_root, overrides=cell.overrides
            )
            self.timed[key] = told["train_seconds"] + told["test_seconds"]
        return self.timed[key]

    # -- one checkpoint ---------------------------------------------------------------------------------------

    def _run_source(
        self, source: Source, cells: list[Cell], later: Sequence[Source], summary: Summary
    ) -> None:
        waiting = [cell for other in later for cell in self.plan.of(other)]
        arms = [other.arm for other in later if other.arm and not self._published(other.arm).is_file()]
        try:
            loaded = self._load(source)
        except Interrupted:
            raise
        except Exception as error:
            self._say(f"{source.name}: {one_line(error)}")
            for cell in cells:
                self._failed(cell, _nothing_known(source), error, now(), 0.0, summary)
            return
        checkpoint = describe_checkpoint(loaded.passport)
        for number, cell in enumerate(cells):
            began, clock = now(), time.monotonic()
            try:
                record = self._run_cell(cell, loaded, checkpoint, began, clock)
            except Exception as error:
                self._say(f"{cell}: failed: {one_line(error)}")
                self._failed(cell, checkpoint, error, began, time.monotonic() - clock, summary)
                continue
            if record is None:
                summary.skipped += 1
                self._say(f"{cell}: done before")
                continue
            summary.done += 1
            left = self.costs.left([*cells[number + 1 :], *waiting], len(arms))
            self._say(f"{cell}: {_headline(record)} in {duration(record.seconds)}{left}")

    def _run_cell(
        self, cell: Cell, loaded: Loaded, checkpoint: CheckpointEntry, began: str, clock: float
    ) -> Record | None:
        """Measure and record a cell, or None if it is done."""
        digest, _ = manifest(cell, self.data_root)
        key = _run_id(cell, checkpoint, digest)
        if key in self.completed:
            return None
        work = self.out / "work" / key[:16]
        with live(str(cell), self.progress) as progress:
            measured = measure(
                cell, loaded, data_root=self.data_root, out=self.out, work=work, progress=progress
            )
        record = Record(
            run_id=key,
            status="completed",
            checkpoint=checkpoint,
            task=_task(cell),
            protocol=_protocol(cell),
            seed=cell.seed,
            data=DataEntry(manifest=digest, counts=measured.counts),
            metrics=measured.metrics,
            selected=plain(measured.selected),
            certificate=plain(measured.certificate),
            warnings=list(measured.warnings),
            outcomes=_keep(self.out, measured),
            environment=describe(),
            started=began,
            seconds=round(max(time.monotonic() - clock, measured.seconds), 3),
        )
        records.append(self.file, record)
        for warning in record.warnings:
            self._say(f"{cell}: warning: {warning}")
        self.completed.add(key)
        self.costs.learn([record])
        return record

    def _failed(
        self,
        cell: Cell,
        checkpoint: CheckpointEntry,
        error: Exception,
        began: str,
        seconds: float,
        summary: Summary,
    ) -> None:
        """Record why a cell has no result."""
        summary.failed += 1
        summary.errors[one_line(error)] = summary.errors.get(one_line(error), 0) + 1
        records.append(
            self.file,
            Record(
                run_id=_run_id(cell, checkpoint, None),
                status="failed",
                error=failure(error),
                checkpoint=checkpoint,
                task=_task(cell),
                protocol=_protocol(cell),
                seed=cell.seed,
                data=DataEntry(manifest=None),
                environment=describe(),
                started=began,
                seconds=round(seconds, 3),
            ),
        )

    def _load(self, source: Source) -> Loaded:
        """Get a checkpoint, pretraining it if it is an arm, and keep its passport beside the records."""
        ref = source.ref
        if source.arm:
            recipe, clock = load_recipe(source.arm.recipe, source.arm.overrides), time.monotonic()
            fresh = not self._published(source.arm).parent.is_dir()
            self._say(f"{source.name}: pretraining ({source.arm.recipe} {' '.join(source.arm.overrides)})")
            folder = self._published(source.arm).parent
            ref = str(pretrain(recipe, folder, data_root=self.data_root, progress=self.progress))
            if fresh:
                self.costs.pretraining.append(time.monotonic() - clock)
        loaded = checkpoints.load(ref, **source.options)
        loaded = replace(loaded, passport=self._adapt(source, loaded.passport))
        write_passport(self.out, loaded.passport)
        for warning in loaded.passport.warnings:
            self._say(f"{source.name}: warning: {warning}")
        return loaded

    def _adapt(self, source: Source, passport: Passport) -> Passport:
        """A passport under its name in the plan, with the preprocessing it is to take over."""
        changes: dict[str, Any] = {"name": source.name, "source": Path(passport.source).name}
        if source.like:
            if source.like not in self.passports:
                raise UserError(f"{source.name} takes over the preprocessing of {source.like}, which failed")
            other = self.passports[source.like]
            changes |= {
                "normalization": other.normalization,
                "input_size": other.input_size,
                "interpolation": other.interpolation,
            }
        self.passports[source.name] = replace(passport, **changes)
        return self.passports[source.name]

    def _published(self, arm: Arm) -> Path:
        """Where the backbone of an arm lies once it is pretrained."""
        return self.out / "pretrain" / arm.name / PUBLISHED

    # -- what is known already --------------------------------------------------------------------------------

    def _recall(self) -> None:
        if self.file.is_file():
            book = records.read([self.file])
            for problem in book.problems:
                self._say(problem)
            self.costs.learn(book.records)
            self.completed = {record.run_id for record in book.counting()}

    def _known(self, source: Source) -> CheckpointEntry | None:
        """A checkpoint as records describe it, or None if it has still to be pretrained."""
        ref = source.ref
        if source.arm:
            if not (path := self._published(source.arm)).is_file():
                folder = self.data_root / load_recipe(source.arm.recipe, source.arm.overrides).data.folder
                if self.data_root.is_dir() and not folder.exists():
                    raise UserError(f"data missing or broken: no images to pretrain on at {folder}")
                return None
            ref = str(path)
        elif source.like and source.like not in self.passports:
            return None
        return describe_checkpoint(self._adapt(source, checkpoints.inspect(ref, **source.options)))

    def _state(self, cell: Cell, checkpoint: CheckpointEntry | None) -> str:
        if not self.data_root.is_dir():  # embedded data that a run would write
            return "to run"
        try:
            digest, _ = manifest(cell, self.data_root)
        except UserError as error:
            return f"data missing or broken: {error}"
        done = checkpoint is not None and _run_id(cell, checkpoint, digest) in self.completed
        return "done" if done else "to run"

    def _say(self, line: str) -> None:
        if self.progress:
            print(line, file=sys.stderr, flush=True)


class Costs:
    """What cells took, to say what others will take."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], list[float]] = {}
        self.pretraining: list[float] = []

    def learn(self, done: Iterable[Record]) -> None:
        """Take in completed records."""
        for record in done:
            if record.status == "completed":
                how = f"{record.protocol.name} v{record.protocol.version}"
                for key in ((how, record.task.name), (how,)):
                    self.known.setdefault(key, []).append(record.seconds)

    def of(self, cell: Cell) -> float | None:
        """Seconds of a cell: the median of its task's under its protocol, or of all under its protocol."""
        how = f"{cell.protocol.name} v{cell.protocol.version}"
        seconds = self.known.get((how, cell.task.name)) or self.known.get((how,))
        return statistics.median(seconds) if seconds else None

    def left(self, cells: Iterable[Cell], arms: int) -> str:
        """How long cells and arms will take, as the end of a line; empty if nothing is left."""
        found = [self.of(cell) for cell in cells]
        known = sum(seconds for seconds in found if seconds is not None)
        if arms and self.pretraining:
            known, arms = known + arms * statistics.median(self.pretraining), 0
        if not found and not arms:
            return ""
        more = " or more" if arms or None in found else ""
        return f"; {counted(len(found), 'cell')} left, about {duration(known)}{more}"


@contextmanager
def claim(out: Path, data_root: Path) -> Iterator[None]:
    """Make ``out`` this process's folder for the time of a run, before any work is done.

    Raises:
        UserError: If a folder is missing, is not writable, or another process writes to it.
    """
    if not data_root.is_dir():
        raise UserError(
            f"{data_root}: no such folder", remedy="give the folder of data sets as --data-root", code=2
        )
    lock = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{out}: another process is writing to it", remedy="wait, or give another --out"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{out}: cannot be written to: {reason}", remedy="give a writable --out", code=2
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def live(title: str, on: bool) -> Iterator[Progress]:
    """A function that shows progress within a cell, one bar for each stage."""
    shown: list[tuple[str, Any]] = []

    def update(stage: str, done: int, total: int) -> None:
        if not shown or shown[-1][0] != stage:
            close()
            delay = 1.0 if sys.stderr.isatty() else 10.0  # a stage that takes no longer shows no bar
            shown.append(
                (stage, bar(total=total, desc=f"{title}: {stage}", leave=False, delay=delay, disable=not on))
            )
        shown[-1][1].update(done - shown[-1][1].n)

    def close() -> None:
        while shown:
            shown.pop()[1].close()

    try:
        yield update
    finally:
        close()


def embedded(folder: Path, size: str, *, progress: bool = True) -> None:
    """Write the embedded scenes, where they are not there yet."""
    from .. import scenes

    with live("embedded data", progress) as update:
        scenes.write(folder, size=size, progress=lambda done, total: update("pictures", done, total))


def write_passport(out: Path, passport: Passport) -> None:
    """Keep a passport under the name and the hash that records know it by."""
    path = out / "passports" / f"{passport.name}-{passport.weights_sha256[:12]}.json"
    with atomic_write(path) as file:
        json.dump(plain(passport.to_json()), file, indent=1, sort_keys=True)
        file.write("\n")


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
        normalization=plain(passport.normalization),
        method=extra.get("method"),
        preprocessing={
            "input_size": passport.input_size,
            "interpolation": passport.interpolation,
            "stride_in_1x1": passport.stride_in_1x1,
        },
        pretraining=plain({key: value for key, value in about.items() if value is not None}),
    )


def _nothing_known(source: Source) -> CheckpointEntry:
    names = ("sha256", "weights_sha256", "arch", "layout", "trained", "normalization", "method")
    nothing: dict[str, Any] = dict.fromkeys(names)
    return CheckpointEntry(name=source.name, **nothing)


def _task(cell: Cell) -> TaskEntry:
    return TaskEntry(name=cell.task.name, version=cell.task.version, metric=cell.metric)


def _protocol(cell: Cell) -> ProtocolEntry:
    how = cell.protocol
    return ProtocolEntry(
        name=how.name, version=how.version, overrides=plain(cell.overrides), params=plain(cell.params)
    )


def _run_id(cell: Cell, checkpoint: CheckpointEntry, digest: str | None) -> str:
    return run_id(checkpoint, _task(cell), _protocol(cell), digest, cell.seed)


def _keep(out: Path, measured: Measured) -> Outcomes | None:
    if measured.arrays:
        return records.write_arrays(out, **measured.arrays)
    return records.write_json(out, plain(measured.detections)) if measured.detections else None


def _headline(record: Record) -> str:
    metric = record.metrics[record.task.metric]
    ends = (
        ""
        if metric.low is None or metric.high is None
        else f" [{percent(metric.low)}, {percent(metric.high)}]"
    )
    return f"{record.task.metric} {percent(metric.value)}{ends}"


def failure(error: Exception) -> Failure:
    """An error for a record: where it was raised in our code, without the paths of this machine."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [
        f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}" for frame in frames
    ]
    return Failure(
        type=type(error).__name__,
        message=" ".join(str(error).split()),
        traceback=[] if isinstance(error, UserError) else where[-4:],
    )


def one_line(error: Exception) -> str:
    """An error's message on one line; its type says more where it is not meant for users."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 cell", "2 cells"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


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
