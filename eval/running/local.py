"""The runner: plan, skip what is done, hand jobs to an engine, record, go on.

A failed cell is recorded and stops no other. Records stand in the order of the plan, whoever does the jobs and
in whatever order they end; this process alone writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mast.console import bar
from mast.errors import Interrupted, Unwritable, printable

from .. import checkpoints
from ..checkpoints import Passport
from ..errors import UserError
from ..features.budget import evict
from ..protocols.base import Progress
from ..results import records
from ..results.records import CheckpointEntry, Failure, Record
from ..suites import Arm
from .cell import context
from .costs import Costs, counted, duration
from .engines import Engine, Inline, Processes, default_jobs, free_memory, threads
from .folder import RunFolder, claim
from .job import Job, Measuring, Pretrained, Pretraining, Result, Worker, failed
from .known import Known
from .opened import OpenData
from .plan import Cell, Plan, Source
from .recording import (
    adapted,
    describe_checkpoint,
    failure,
    headline,
    nothing_known,
    now,
    one_line,
    protocol_entry,
    run_id,
    seen,
)
from .sinks import CellSinks

if TYPE_CHECKING:
    from . import forecast


@dataclass
class Summary:
    """How many cells were run, were done before, and failed.

    Attributes:
        done: Those that were measured in this call.
        copied: Those that took the number of the same weights under another name.
        skipped: Those that were done before.
        failed: Those that failed.
        errors: How many cells each message is about.
    """

    done: int = 0
    copied: int = 0
    skipped: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass
class _Slot:
    """A cell's place in the order of records.

    Attributes:
        cell: The cell.
        job: What a worker needs, once its checkpoint and its data are known.
        record: Its record, once there is one.
        over: Nothing is left to be done.
        copied: Its record is that of the same weights under another name.
    """

    cell: Cell
    job: Measuring | None = None
    record: Record | None = None
    over: bool = False
    copied: bool = False


@dataclass
class _Ready:
    """A checkpoint that cells can be run on, as `eval.checkpoints.load` takes it."""

    ref: str
    passport: Passport
    entry: CheckpointEntry


class Runner:
    """Runs a plan in a folder.

    Args:
        todo: The plan.
        data_root: Where data sets lie.
        out: The run's folder.
        progress: Tell what is going on, on standard error.
        jobs: How many cells at a time, in processes of their own where they are several; as many as fit when None.
        engine: Who does the jobs in place of this machine's processes.
        features: The feature store, where it is not the folder's own.
        features_gb: How large the store may get; beyond that the longest unused features go.
        log: Other programs that get curves and results too, see `mast.sinks`.
    """

    def __init__(
        self,
        todo: Plan,
        *,
        data_root: Path,
        out: Path,
        progress: bool = True,
        jobs: int | None = 1,
        engine: Engine | None = None,
        features: Path | None = None,
        features_gb: float | None = None,
        log: Sequence[str] = (),
    ) -> None:
        self.plan = todo
        self.data_root = data_root
        self.folder = RunFolder(out, todo.name, features)
        self.progress = progress
        self.opened = OpenData(data_root, todo.limit)
        self.worker = Worker(self.opened)
        self.engine: Engine = engine or self._local(jobs)
        self.features_gb = features_gb
        self.log = tuple(log)
        self.sinks = CellSinks(self.log, out)
        self.costs = Costs()
        self.known = Known(self.folder.known)
        self.completed: dict[str, dict[str, Record]] = {}  # by run id, then by the checkpoint's name
        self.told: set[str] = set()
        self.ran: list[str] = []  # run ids of this plan's cells that have a result, done now or before
        self.passports: dict[str, Passport] = {}
        self.timed: dict[tuple[str, str, str], float | None] = {}
        self._ready: dict[str, _Ready | None] = {}  # by source; None where it cannot be had
        self._pretrained: set[str] = set()
        self._extracted: set[tuple[Any, ...] | None] = {None}
        self.trials: dict[str, float | None] = {}

    def run(self) -> Summary:
        """Run every cell that is not done.

        Raises:
            UserError: If a folder cannot be used, the disk is full, or a worker process dies. What goes wrong in a
                cell is recorded.
            Interrupted: If pretraining was asked to stop; the same call goes on from there.
        """
        summary = Summary()
        with claim(self.folder.root, self.data_root):
            self._recall()
            try:
                with closing(self.sinks), self.engine:
                    self._drive(summary)
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died",
                    remedy="was the memory used up? The same command with fewer --jobs goes on from here",
                ) from error
        return summary

    def _local(self, jobs: int | None) -> Engine:
        """This machine's engine for so many jobs at a time."""
        number = jobs or default_jobs(self.plan)
        if number == 1:
            return Inline(self.worker, lambda title: live(title, self.progress), self.progress)
        return Processes(number, self.opened, memory=None if jobs else free_memory())

    def preview(self) -> list[dict[str, Any]]:
        """What `run` would do, without doing it.

        Returns:
            For each checkpoint to pretrain and each cell ``work`` (``pretraining`` or ``cell``), ``checkpoint``,
            ``task``, ``protocol``, ``seed``, ``state`` (``done``, ``to run``, or why it would fail) and ``seconds``:
            from comparable records in this folder, else, where the protocol's kind can tell, from a little of the
            work, timed; else None. ``features``: seconds of extraction that this cell is the first to need, from
            some images, timed; None where a record's seconds contain it. ``bytes``: of maps that this cell is the
            first to write; None for cells that write none or have a result.
        """
        self._recall()
        from . import forecast

        extraction = forecast.Features(self.folder.features)
        found: list[dict[str, Any]] = []
        for source in self.plan.sources:
            state = ""
            try:
                checkpoint = self._known(source)
            except UserError as error:
                checkpoint, state = None, str(error)
            if source.arm and checkpoint is None and not state and self.plan.of(source):
                found.append(self._pretraining(source, source.arm))
            for cell in self.plan.of(source):
                outlook = state or self._state(cell, checkpoint)
                seconds, known = self.costs.of(cell), checkpoint is not None
                features = maps = None
                try:  # what cannot be tried would fail
                    if seconds is None and outlook == "to run":
                        seconds = self._timed(source, cell, extraction, known=known)
                        features = self._features(source, cell, extraction, known=known)
                    if outlook == "to run":
                        maps = self._disk(source, cell, extraction, known)
                except UserError as error:
                    outlook = str(error)
                found.append(
                    {
                        "work": "cell",
                        "checkpoint": cell.checkpoint,
                        "task": cell.task.name,
                        "protocol": f"{cell.protocol.name} v{cell.protocol.version}",
                        "seed": cell.seed,
                        "state": outlook,
                        "seconds": seconds,
                        "features": features,
                        "bytes": maps,
                    }
                )
        return found

    def _pretraining(self, source: Source, arm: Arm) -> dict[str, Any]:
        """What `preview` says of a checkpoint that has to be pretrained; equal recipes share a trial."""
        from mast.config import load_recipe
        from mast.sources import place

        from . import forecast

        recipe = load_recipe(arm.recipe, arm.overrides, self.plan.limit)
        key = recipe.model_copy(update={"seed": 0}).model_dump_json()
        if key not in self.trials:
            there = place(self.data_root, recipe.data.folder).exists()
            self.trials[key] = forecast.pretraining(recipe, self.data_root) if there else None
        return {
            "work": "pretraining",
            "checkpoint": source.name,
            "task": None,
            "protocol": arm.recipe,
            "seed": recipe.seed,
            "state": "to run",
            "seconds": self.trials[key],
            "features": None,
            "bytes": None,
        }

    def _features(
        self, source: Source, cell: Cell, extraction: forecast.Features, *, known: bool
    ) -> float | None:
        """Seconds of extraction that a cell is the first to need."""
        if cell.protocol.code.images or not self.data_root.is_dir():
            return None
        ref, options, size = self._reference(source, known=known)
        data, how = self.opened.of(cell), cell.protocol.settings.extraction
        return extraction.seconds(source.name, ref, options, data, how, size)

    def _disk(self, source: Source, cell: Cell, extraction: forecast.Features, known: bool) -> int | None:
        """Bytes of maps that a cell is the first to write."""
        disk = cell.protocol.code.disk
        if disk is None or not cell.protocol.settings.writes_maps or not self.data_root.is_dir():
            return None
        loaded = extraction.loaded(source.name, *self._reference(source, known=known))
        data, work = self.opened.of(cell), self.folder.work("forecast")
        there = context(cell, loaded, data, store=self.folder.features, work=work)
        return extraction.bytes(source.name, disk, there) or None

    def _reference(self, source: Source, *, known: bool) -> tuple[str, dict[str, Any], int | None]:
        """What `eval.checkpoints.load` takes, and the input size; of a checkpoint to be pretrained random weights."""
        from mast.config import load_recipe

        ref, options, size = source.ref, source.options, None
        if source.arm and known:
            ref = str(self.folder.published(source.arm))
        elif source.arm:
            recipe = load_recipe(source.arm.recipe, source.arm.overrides)
            ref, size = f"random:{recipe.arch}", recipe.views.size
        elif source.like and source.like in self.passports:
            size = self.passports[source.like].input_size
        elif source.like:  # of a checkpoint that has still to be pretrained
            like = next(other for other in self.plan.sources if other.name == source.like)
            size = load_recipe(like.arm.recipe, like.arm.overrides).views.size if like.arm else None
        return ref, options, size

    def _timed(
        self, source: Source, cell: Cell, extraction: forecast.Features, *, known: bool
    ) -> float | None:
        """Seconds of a cell by a trial, where its kind allows one; equal cells on one architecture share it."""
        from . import forecast

        code = cell.protocol.code
        trial = code.forecast if code.images else forecast.fitting
        if trial is None or (code.images and not known) or not self.data_root.is_dir():
            return None
        loaded = extraction.loaded(source.name, *self._reference(source, known=known))
        key = (loaded.passport.arch, cell.task.name, protocol_entry(cell).identity)
        if key not in self.timed:
            data, work = self.opened.of(cell), self.folder.work("forecast")
            self.timed[key] = trial(context(cell, loaded, data, store=self.folder.features, work=work))
        return self.timed[key]

    # -- the run ----------------------------------------------------------------------------------------------

    def _drive(self, summary: Summary) -> None:
        """Keep the engine busy until every slot is over."""
        self._slots = {
            source.name: [_Slot(cell) for cell in self.plan.of(source)] for source in self.plan.sources
        }
        slots = [slot for mine in self._slots.values() for slot in mine]
        running: dict[Future[Result], tuple[Job, _Slot | None]] = {}
        for source in self.plan.sources:
            self._done_before(source, summary)
        if any(not slot.over for slot in slots):
            self.engine.warm()
            if isinstance(self.engine, Processes):
                share = counted(threads(self.engine.slots), "thread")
                self._say(f"{self.engine.slots} cells at a time, {share} each; --jobs says otherwise")
        written = 0
        while True:
            while len(running) < self.engine.slots + self.engine.ahead:
                job, slot = self._next([job for job, _ in running.values()], summary)
                written = self._write(slots, written, summary)
                if job is None or (running and not self.engine.room(job)):
                    break
                running[self.engine.submit(job)] = (job, slot)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, slot = running.pop(future)
                self._take(job, slot, future)
            written = self._write(slots, written, summary)

    def _next(self, running: list[Job], summary: Summary) -> tuple[Job | None, _Slot | None]:
        """The next job in the plan's order that need not wait for one that is running."""
        busy = {job.run_id for job in running if isinstance(job, Measuring)}
        # Cells on the same features wait while the first of them extracts: the rest then only read.
        extracting = {_features(job) for job in running if isinstance(job, Measuring)} - self._extracted
        arms = {job.arm.name for job in running if isinstance(job, Pretraining)}
        for source in self.plan.sources:
            waiting = self._waiting(source)
            if not waiting and not self._liked(source):
                continue
            if source.name not in self._ready:
                if source.like and source.like not in self._ready:
                    continue
                if source.arm and source.name not in self._pretrained:
                    if source.name in arms:
                        continue
                    overrides = " ".join(source.arm.overrides)
                    self._say(f"{source.name}: pretraining ({source.arm.recipe} {overrides})")
                    return self._arm(source.arm), None
                self._prepare(source, waiting)
            for slot in waiting:
                if slot.over or (slot.job is None and not self._plan(source, slot, summary)):
                    continue
                job = slot.job
                if (
                    job
                    and slot.record is None
                    and job.run_id not in busy
                    and _features(job) not in extracting
                ):
                    return job, slot
        return None, None

    def _arm(self, arm: Arm) -> Pretraining:
        return Pretraining(arm, self.data_root, self.folder, self.plan.limit, log=self.log)

    def _waiting(self, source: Source) -> list[_Slot]:
        return [slot for slot in self._slots[source.name] if not slot.over]

    def _liked(self, source: Source) -> bool:
        """Whether a checkpoint with cells to run still has to take over this one's preprocessing."""
        if source.name in self._ready:
            return False
        return any(self._waiting(other) for other in self.plan.sources if other.like == source.name)

    def _prepare(self, source: Source, waiting: list[_Slot]) -> None:
        """Load a checkpoint and keep its passport beside the records; if that fails, its cells fail."""
        ref = self._ref(source)
        try:
            loaded = checkpoints.load(ref, **source.options)
            loaded.passport.refuse_guesses()
            loaded = replace(loaded, passport=self._adapt(source, loaded.passport))
            self.folder.keep_passport(loaded.passport)
            if "features" in source.options and any(
                not slot.cell.protocol.settings.reads_choice for slot in waiting
            ):  # their records know the checkpoint without the choice
                rest = {key: value for key, value in source.options.items() if key != "features"}
                plain = checkpoints.inspect(ref, **rest)
                self.folder.keep_passport(adapted(source, plain, self.passports))
        except Unwritable:
            raise
        except Exception as error:
            self._lost(source, waiting, failure(error), one_line(error))
            return
        self.worker.hold(ref, source.options, loaded)
        for warning in loaded.passport.warnings:
            self._say(f"{source.name}: warning: {warning}")
        entry = describe_checkpoint(loaded.passport)
        self._ready[source.name] = _Ready(ref, loaded.passport, entry)
        self.known.keep(source, ref, self._entry_of(source.like), entry)

    def _ref(self, source: Source) -> str:
        """What `eval.checkpoints.load` takes."""
        return str(self.folder.published(source.arm)) if source.arm else source.ref

    def _entry_of(self, name: str) -> CheckpointEntry | None:
        """A checkpoint of the plan by its name, as far as it is known without reading it again."""
        if not name:
            return None
        if ready := self._ready.get(name):
            return ready.entry
        source = next(other for other in self.plan.sources if other.name == name)
        return self.known.of(source, self._ref(source), self._entry_of(source.like))

    def _done_before(self, source: Source, summary: Summary) -> None:
        """Skip the cells of a checkpoint if all are done, which can be told without loading it."""
        entry = self._entry_of(source.name)
        if entry is None or not self.completed:
            return
        waiting = self._waiting(source)
        try:
            keys = [run_id(slot.cell, entry, self._open(slot.cell).manifest) for slot in waiting]
        except UserError:
            return  # told by the cell whose data are missing or broken, when its turn comes
        if set(keys) <= self.completed.keys():
            for slot, key in zip(waiting, keys, strict=True):
                self._skip(slot, key, entry, summary)

    def _skip(self, slot: _Slot, key: str, entry: CheckpointEntry, summary: Summary) -> None:
        """Pass over a cell whose number is known; under another name, it gets a record under this one too."""
        known = self.completed[key]
        self.ran.append(key)
        slot.over = True
        if entry.name in known:
            summary.skipped += 1
            self._say(f"{slot.cell}: done before")
            return
        other, record = next(iter(known.items()))
        slot.copied = True
        slot.record = known[entry.name] = msgspec.structs.replace(record, checkpoint=seen(slot.cell, entry))
        self._say(f"{slot.cell}: the same weights as {other}, whose number it takes")

    def _done(self, record: Record) -> None:
        self.completed.setdefault(record.run_id, {})[record.checkpoint.name] = record

    def _lost(self, source: Source, waiting: list[_Slot], error: Failure, told: str) -> None:
        """A checkpoint cannot be had: all its cells have failed."""
        self._ready[source.name] = None
        self._say(told if told.startswith(f"{source.name}: ") else f"{source.name}: {told}")
        for slot in waiting:
            slot.record = failed(slot.cell, nothing_known(source), error, began=now())
            slot.over = True

    def _plan(self, source: Source, slot: _Slot, summary: Summary) -> bool:
        """Find out whether a cell has to be run; False if it is over already."""
        ready = self._ready[source.name]
        if ready is None:
            return False
        began = now()
        try:
            data = self._open(slot.cell)
        except Exception as error:
            self._say(f"{slot.cell}: failed: {one_line(error)}")
            slot.record, slot.over = failed(slot.cell, ready.entry, failure(error), began=began), True
            return False
        key = run_id(slot.cell, ready.entry, data.manifest)
        if key in self.completed:
            self._skip(slot, key, ready.entry, summary)
            return False
        if self._turned_up(slot, key):
            return False
        slot.job = Measuring(
            cell=slot.cell,
            run_id=key,
            manifest=data.manifest,
            examples=sum(data.counts.values()),
            ref=ready.ref,
            options=source.options,
            passport=ready.passport,
            entry=ready.entry,
            data_root=self.data_root,
            folder=self.folder,
            limit=self.plan.limit,
            caveats=(*data.warnings, *self._smoke()),
        )
        return True

    def _take(self, job: Job, slot: _Slot | None, future: Future[Result]) -> None:
        """Take in what came of a job."""
        try:
            result = future.result()
        except (Interrupted, Unwritable, BrokenProcessPool):
            raise
        except Exception as error:  # the engine lost the job: a node died more often than it tries again
            began = now()
            result = (
                Pretrained(error=failure(error), told=one_line(error))
                if isinstance(job, Pretraining)
                else failed(job.cell, job.entry, failure(error), began=began)
            )
        if isinstance(result, Pretrained):
            assert isinstance(job, Pretraining)
            self._pretrained.add(job.arm.name)
            if result.seconds is not None:
                self.costs.pretraining.append(result.seconds)
            if result.error:
                source = next(item for item in self.plan.sources if item.arm == job.arm)
                self._lost(source, self._waiting(source), result.error, result.told)
            return
        assert slot is not None
        assert isinstance(job, Measuring)
        slot.record, slot.over = result, True
        where = self.engine.where(future)
        place = f" on {where}" if where else ""
        if result.error:
            self._say(f"{slot.cell}: failed{place}: {_told(result.error)}")
            return
        self._extracted.add(_features(job))
        if self.features_gb is not None:
            evict(self.folder.features, self.features_gb)
        self._done(result)
        self.ran.append(result.run_id)
        self.costs.learn([result])
        ahead = [item.cell for other in self.plan.sources for item in self._waiting(other)]
        names = {cell.checkpoint for cell in ahead}
        arms = [
            other
            for other in self.plan.sources
            if other.arm
            and other.name in names - self._pretrained
            and not self.folder.published(other.arm).is_file()
        ]
        left = self.costs.left(ahead, len(arms), self.engine.slots)
        number = f"{headline(result)}{_size(slot.cell, result)}"
        self._say(f"{slot.cell}: {number} in {duration(result.seconds)}{place}{left}")
        for warning in result.warnings:
            if warning not in self.told:
                self._say(f"{slot.cell}: warning: {warning}")

    def _write(self, slots: list[_Slot], written: int, summary: Summary) -> int:
        """Append the records whose turn it is; what ended before its turn is kept beside the cell's work.

        Returns:
            How many slots from the first on are dealt with.
        """
        while written < len(slots) and slots[written].over:
            record = slots[written].record
            if record is not None:
                records.append(self.folder.records, record)
                self.sinks.add(record)
                self.folder.early(record.run_id).unlink(missing_ok=True)
                if slots[written].copied:
                    summary.copied += 1
                elif record.error is None:
                    summary.done += 1
                else:
                    summary.failed += 1
                    told = _told(record.error)
                    summary.errors[told] = summary.errors.get(told, 0) + 1
            written += 1
        for slot in slots[written:]:
            record = slot.record
            if record and record.status == "completed" and not self.folder.early(record.run_id).is_file():
                records.append(self.folder.early(record.run_id), record)
        return written

    def _turned_up(self, slot: _Slot, key: str) -> bool:
        """Take the record of a cell that ended before its turn in a run that was interrupted."""
        path = self.folder.early(key)
        kept = records.read([path]).counting() if path.is_file() else []
        found = [record for record in kept if record.checkpoint.name == slot.cell.checkpoint]
        if not found:
            return False
        slot.record, slot.over = found[-1], True
        self._done(found[-1])
        self.ran.append(key)
        self._say(f"{slot.cell}: done before")
        return True

    def _adapt(self, source: Source, passport: Passport) -> Passport:
        """A passport under its name in the plan, with the preprocessing it is to take over."""
        self.passports[source.name] = adapted(source, passport, self.passports)
        return self.passports[source.name]

    # -- what is known already --------------------------------------------------------------------------------

    def _smoke(self) -> list[str]:
        limit = self.plan.limit
        return [] if limit is None else [f"a smoke test: at most {limit} examples of each split were used"]

    def _recall(self) -> None:
        if self.folder.records.is_file():
            book = records.read([self.folder.records])
            for problem in book.problems:
                self._say(problem)
            self.costs.learn(book.records)
            for record in book.counting():
                self._done(record)

    def _known(self, source: Source) -> CheckpointEntry | None:
        """A checkpoint as records describe it, or None if it has still to be pretrained."""
        from mast.config import load_recipe
        from mast.sources import place

        ref = source.ref
        if source.arm:
            if not (path := self.folder.published(source.arm)).is_file():
                recipe = load_recipe(source.arm.recipe, source.arm.overrides)
                folder = place(self.data_root, recipe.data.folder)
                if self.data_root.is_dir() and not folder.exists():
                    raise UserError(f"data missing or broken: no images to pretrain on at {folder}")
                return None
            ref = str(path)
        elif source.like and source.like not in self.passports:
            return None
        passport = checkpoints.inspect(ref, **source.options)
        passport.refuse_guesses()
        return describe_checkpoint(self._adapt(source, passport))

    def _state(self, cell: Cell, checkpoint: CheckpointEntry | None) -> str:
        if not self.data_root.is_dir():  # embedded data that a run would write
            return "to run"
        try:
            digest = self._open(cell).manifest
        except UserError as error:
            return f"data missing or broken: {error}"
        done = checkpoint is not None and run_id(cell, checkpoint, digest) in self.completed
        return "done" if done else "to run"

    def _open(self, cell: Cell) -> Any:
        """A cell's data; what is odd about a data set is told when it is first opened."""
        data = self.opened.of(cell)
        for warning in data.warnings:
            if warning not in self.told:
                self.told.add(warning)
                self._say(f"warning: {warning}")
        return data

    def _say(self, line: str) -> None:
        if self.progress:
            print(printable(line), file=sys.stderr, flush=True)


def _features(job: Measuring) -> tuple[Any, ...] | None:
    """What stands for the features that a cell reads; None if it reads none."""
    cell, kind = job.cell, job.cell.protocol.code
    if kind.images:
        return None
    extraction = tuple(sorted(cell.protocol.settings.extraction.options().items()))
    return (cell.checkpoint, cell.task.dataset, cell.task.derived, extraction)


def _told(error: Failure) -> str:
    """A failure on one line; its type says more where the message is not meant for users."""
    return error.message if error.type == UserError.__name__ else f"{error.type}: {error.message}"


def _size(cell: Cell, record: Record) -> str:
    """The side of the images that the network saw; a detector's protocol has sizes of its own."""
    if cell.task.kind not in ("classification", "multilabel", "segmentation", "depth"):
        return ""
    side = cell.protocol.settings.extraction.image_size or record.checkpoint.preprocessing["input_size"]
    return f" at {side} px"


@contextmanager
def live(title: str, on: bool) -> Iterator[Progress]:
    """A function that shows progress within a cell, one bar for each stage: what stands before its first comma."""
    shown: list[tuple[tuple[str, int], Any]] = []

    def update(stage: str, done: int, total: int) -> None:
        kind, told = (stage.partition(",")[0], total), f"{title}: {stage}"
        if not shown or shown[-1][0] != kind:
            close()
            delay = 1.0 if sys.stderr.isatty() else 10.0  # a stage that takes no longer shows no bar
            shown.append((kind, bar(total=total, desc=told, leave=False, delay=delay, disable=not on)))
        shown[-1][1].set_description(told, refresh=False)
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
