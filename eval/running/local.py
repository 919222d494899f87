"""The engine of one machine: plan, skip what is done, run, record, go on.

A failed cell is recorded and stops no other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mast.config import load_recipe
from mast.console import bar
from mast.errors import Interrupted
from mast.train import pretrain

from .. import checkpoints
from ..checkpoints import Loaded, Passport
from ..errors import UserError
from ..protocols.base import Progress
from ..results import records
from ..results.records import CheckpointEntry, DataEntry, Record
from ..suites import Arm
from . import forecast
from .cell import context, measure
from .costs import Costs, duration
from .environment import describe
from .folder import RunFolder, claim
from .opened import OpenData
from .plan import Cell, Plan, Source
from .recording import (
    describe_checkpoint,
    failure,
    headline,
    keep,
    metric,
    nothing_known,
    now,
    one_line,
    plain,
    protocol_entry,
    run_id,
    task_entry,
)


@dataclass
class Summary:
    """How many cells were run, were done before, and failed; ``errors`` counts the cells of each message."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)


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
        self.folder = RunFolder(out, todo.name)
        self.progress = progress
        self.opened = OpenData(data_root, todo.limit)
        self.costs = Costs()
        self.completed: set[str] = set()
        self.told: set[str] = set()
        self.ran: list[str] = []  # run ids of this plan's cells that have a result, done now or before
        self.passports: dict[str, Passport] = {}
        self.timed: dict[tuple[str, str, str], float] = {}
        self.trials: dict[str, float | None] = {}

    def run(self) -> Summary:
        """Run every cell that is not done.

        Raises:
            UserError: If a folder cannot be used. What goes wrong in a cell is recorded instead.
            Interrupted: If pretraining was asked to stop; the same call goes on from there.
        """
        summary = Summary()
        with claim(self.folder.root, self.data_root):
            self._recall()
            for number, source in enumerate(self.plan.sources):
                if cells := self.plan.of(source):
                    self._run_source(source, cells, self.plan.sources[number + 1 :], summary)
        return summary

    def preview(self) -> list[dict[str, Any]]:
        """What `run` would do, without doing it.

        Returns:
            For each checkpoint to pretrain and each cell ``work`` (``pretraining`` or ``cell``), ``checkpoint``,
            ``task``, ``protocol``, ``seed``, ``state`` (``done``, ``to run``, or why it would fail) and ``seconds``:
            from comparable records in this folder, else, where the protocol's kind can tell, from a little of the
            work, timed; else None. ``features``: seconds of extraction that this cell is the first to need, from
            some images, timed; None where a record's seconds contain it.
        """
        self._recall()
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
                seconds = self.costs.of(cell)
                features = None
                if seconds is None and outlook == "to run":
                    seconds = self._timed(source, cell) if checkpoint else None
                    features = self._features(source, cell, extraction, known=checkpoint is not None)
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
                    }
                )
        return found

    def _pretraining(self, source: Source, arm: Arm) -> dict[str, Any]:
        """What `preview` says of a checkpoint that has to be pretrained; equal recipes share a trial."""
        recipe = load_recipe(arm.recipe, arm.overrides, self.plan.limit)
        key = recipe.model_copy(update={"seed": 0}).model_dump_json()
        if key not in self.trials:
            there = (self.data_root / recipe.data.folder).exists()
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
        }

    def _features(
        self, source: Source, cell: Cell, extraction: forecast.Features, *, known: bool
    ) -> float | None:
        """Seconds of extraction that a cell is the first to need."""
        if cell.protocol.code.images or not self.data_root.is_dir():
            return None
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
        data, how = self.opened.of(cell), cell.protocol.settings.extraction
        return extraction.seconds(source.name, ref, options, data, how, size)

    def _timed(self, source: Source, cell: Cell) -> float | None:
        """Seconds of a cell by a trial, where its kind offers one; equal cells on one architecture share it."""
        trial = cell.protocol.code.forecast
        if trial is None:
            return None
        ref = str(self.folder.published(source.arm)) if source.arm else source.ref
        loaded = checkpoints.load(ref, **source.options)
        key = (loaded.passport.arch, cell.task.name, protocol_entry(cell).identity)
        if key not in self.timed:
            data, work = self.opened.of(cell), self.folder.work("forecast")
            self.timed[key] = trial(context(cell, loaded, data, store=self.folder.features, work=work))
        return self.timed[key]

    # -- one checkpoint ---------------------------------------------------------------------------------------

    def _run_source(
        self, source: Source, cells: list[Cell], later: Sequence[Source], summary: Summary
    ) -> None:
        waiting = [cell for other in later for cell in self.plan.of(other)]
        arms = [other.arm for other in later if other.arm and not self.folder.published(other.arm).is_file()]
        try:
            loaded = self._load(source)
        except Interrupted:
            raise
        except Exception as error:
            self._say(f"{source.name}: {one_line(error)}")
            for cell in cells:
                self._failed(cell, nothing_known(source), error, now(), 0.0, summary)
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
            self._say(f"{cell}: {headline(record)}{_size(cell, record)} in {duration(record.seconds)}{left}")

    def _run_cell(
        self, cell: Cell, loaded: Loaded, checkpoint: CheckpointEntry, began: str, clock: float
    ) -> Record | None:
        """Measure and record a cell, or None if it is done."""
        data = self._open(cell)
        key = run_id(cell, checkpoint, data.manifest)
        if key in self.completed:
            self.ran.append(key)
            return None
        store, work = self.folder.features, self.folder.work(key)
        with live(str(cell), self.progress) as progress:
            measured = measure(cell, loaded, data, store=store, work=work, progress=progress)
        record = Record(
            run_id=key,
            status="completed",
            checkpoint=checkpoint,
            task=task_entry(cell),
            protocol=protocol_entry(cell),
            seed=cell.seed,
            data=DataEntry(manifest=data.manifest, counts=measured.counts),
            metrics={name: metric(estimate) for name, estimate in measured.metrics.items()},
            selected=plain(measured.selected),
            certificate=plain(measured.certificate),
            warnings=list(dict.fromkeys([*data.warnings, *measured.warnings, *self._smoke()])),
            outcomes=keep(self.folder.root, measured),
            environment=describe(),
            started=began,
            seconds=round(max(time.monotonic() - clock, measured.seconds), 3),
        )
        records.append(self.folder.records, record)
        for warning in record.warnings:
            if warning not in data.warnings:
                self._say(f"{cell}: warning: {warning}")
        self.completed.add(key)
        self.ran.append(key)
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
            self.folder.records,
            Record(
                run_id=run_id(cell, checkpoint, None),
                status="failed",
                error=failure(error),
                checkpoint=checkpoint,
                task=task_entry(cell),
                protocol=protocol_entry(cell),
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
            recipe = load_recipe(source.arm.recipe, source.arm.overrides, self.plan.limit)
            clock = time.monotonic()
            fresh = not self.folder.published(source.arm).parent.is_dir()
            self._say(f"{source.name}: pretraining ({source.arm.recipe} {' '.join(source.arm.overrides)})")
            folder = self.folder.published(source.arm).parent
            ref = str(pretrain(recipe, folder, data_root=self.data_root, progress=self.progress))
            if fresh:
                self.costs.pretraining.append(time.monotonic() - clock)
        loaded = checkpoints.load(ref, **source.options)
        loaded.passport.refuse_guesses()
        loaded = replace(loaded, passport=self._adapt(source, loaded.passport))
        self.folder.keep_passport(loaded.passport)
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
                "provenance": passport.provenance
                | dict.fromkeys(("normalization", "input_size", "interpolation"), f"as {source.like}'s"),
            }
        self.passports[source.name] = replace(passport, **changes)
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
            self.completed = {record.run_id for record in book.counting()}

    def _known(self, source: Source) -> CheckpointEntry | None:
        """A checkpoint as records describe it, or None if it has still to be pretrained."""
        ref = source.ref
        if source.arm:
            if not (path := self.folder.published(source.arm)).is_file():
                folder = self.data_root / load_recipe(source.arm.recipe, source.arm.overrides).data.folder
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
            print(line, file=sys.stderr, flush=True)


def _size(cell: Cell, record: Record) -> str:
    """The side of the images that the network saw; a detector's protocol has sizes of its own."""
    if cell.task.kind not in ("classification", "multilabel"):
        return ""
    side = cell.protocol.settings.extraction.image_size or record.checkpoint.preprocessing["input_size"]
    return f" at {side} px"


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
