"""What an engine hands to a worker, and what the worker does with it.

A worker is this process, another one or one on another machine; a job says all that it needs to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mast.errors import Interrupted, Unwritable
from mast.files import unwritable

from .. import checkpoints
from ..checkpoints import Passport
from ..definitions import in_use, included
from ..errors import UserError
from ..protocols.base import Progress
from ..results.records import CheckpointEntry, DataEntry, Failure, Record
from ..suites import Arm
from .cell import measure
from .environment import describe
from .folder import RunFolder
from .opened import OpenData
from .plan import Cell
from .recording import failure, keep, metric, now, one_line, plain, protocol_entry, run_id, seen, task_entry

if TYPE_CHECKING:
    from ..checkpoints import Loaded

Live = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Pretraining:
    """An arm to pretrain, or to find pretrained.

    Attributes:
        arm: The arm.
        data_root: Where its images lie.
        folder: Where it is pretrained.
        limit: As of the plan.
        included: Folders of the user's own definitions.
        log: Other programs that get its curves too.
    """

    arm: Arm
    data_root: Path
    folder: RunFolder
    limit: int | None = None
    included: tuple[Path, ...] = field(default_factory=in_use)
    log: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.arm.name}: pretraining"


@dataclass(frozen=True)
class Measuring:
    """A cell to measure.

    Attributes:
        cell: The cell.
        run_id: Its run id.
        manifest: The hash of its data, as the run's plan has it.
        examples: How many examples the data have.
        ref: The checkpoint, as `eval.checkpoints.load` takes it, with ``options``.
        passport: Its passport under its name in the plan.
        entry: The checkpoint as records have it.
        data_root: Where data sets lie.
        folder: The run's folder.
        limit: As of the plan.
        caveats: What a reader of the number should know of the data.
        included: Folders of the user's own definitions.
    """

    cell: Cell
    run_id: str
    manifest: str
    examples: int
    ref: str
    options: dict[str, Any] = field(repr=False)
    passport: Passport = field(repr=False)
    entry: CheckpointEntry = field(repr=False)
    data_root: Path
    folder: RunFolder
    limit: int | None = None
    caveats: tuple[str, ...] = ()
    included: tuple[Path, ...] = field(default_factory=in_use)

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Pretrained:
    """What came of a `Pretraining`: the seconds of a new one, and why there is no backbone where there is none."""

    seconds: float | None = None
    error: Failure | None = None
    told: str = ""


Job = Pretraining | Measuring
Result = Pretrained | Record


class Worker:
    """Does jobs one after another; keeps what it opened and the checkpoint that it loaded last.

    Args:
        opened: The open data, if somebody has opened data before.
    """

    def __init__(self, opened: OpenData | None = None) -> None:
        self._opened = opened
        self._loaded: tuple[Any, Loaded] | None = None

    def do(self, job: Job, live: Live, progress: bool = False, handed: Path | None = None) -> Result:
        """Do a job. What goes wrong in it becomes its result.

        Args:
            job: The job.
            live: Shows how a cell gets on.
            progress: Show how pretraining gets on.
            handed: The job's data as another process of this machine has opened them, see `OpenData.hand`.

        Raises:
            Interrupted: If pretraining was asked to stop.
            Unwritable: If the run's folder or the store takes nothing more, which is no job's fault.
        """
        with included(job.included):
            if isinstance(job, Pretraining):
                return self._pretrain(job, progress)
            return self._measure(job, live, handed)

    def hold(self, ref: str, options: dict[str, Any], loaded: Loaded) -> None:
        """Take over a checkpoint that has just been loaded."""
        self._loaded = ((ref, sorted(options.items())), loaded)

    def _pretrain(self, job: Pretraining, progress: bool) -> Pretrained:
        from mast.config import load_recipe
        from mast.train import pretrain

        folder, clock = job.folder.published(job.arm).parent, time.monotonic()
        fresh = not folder.is_dir()
        try:
            recipe = load_recipe(job.arm.recipe, job.arm.overrides, job.limit)
            pretrain(recipe, folder, data_root=job.data_root, progress=progress, log=job.log)
        except (Interrupted, Unwritable):
            raise
        except Exception as error:
            _end_if_full(error, job.folder)
            return Pretrained(error=failure(error), told=one_line(error))
        return Pretrained(time.monotonic() - clock if fresh else None)

    def _measure(self, job: Measuring, live: Live, handed: Path | None) -> Record:
        began, clock = now(), time.monotonic()
        try:
            data = self._open(job, handed)
            store, work = job.folder.features, job.folder.work(job.run_id)
            with live(str(job.cell)) as progress:
                loaded = replace(self._load(job), passport=job.passport)
                measured = measure(job.cell, loaded, data, store=store, work=work, progress=progress)
            outcomes = keep(job.folder.root, measured)
        except Unwritable:
            raise
        except Exception as error:
            _end_if_full(error, job.folder)
            seconds = time.monotonic() - clock
            return failed(job.cell, job.entry, failure(error), began=began, seconds=seconds)
        return Record(
            run_id=job.run_id,
            status="completed",
            checkpoint=seen(job.cell, job.entry),
            task=task_entry(job.cell),
            protocol=protocol_entry(job.cell),
            seed=job.cell.seed,
            data=DataEntry(manifest=job.manifest, counts=measured.counts),
            metrics={name: metric(estimate) for name, estimate in measured.metrics.items()},
            selected=plain(measured.selected),
            certificate=plain(measured.certificate),
            warnings=list(dict.fromkeys([*job.caveats, *measured.warnings])),
            outcomes=outcomes,
            environment=describe(),
            started=began,
            seconds=round(max(time.monotonic() - clock, measured.seconds), 3),
        )

    def _open(self, job: Measuring, handed: Path | None) -> Any:
        if self._opened is None or (self._opened.data_root, self._opened.limit) != (job.data_root, job.limit):
            self._opened = OpenData(job.data_root, job.limit)
        data = self._opened.of(job.cell, handed)
        if data.manifest != job.manifest:
            raise UserError(
                f"{job.data_root}: the data of {job.cell.task.name} are not those that the run began with",
                remedy="give every node the same data, and do not change them while a run goes on",
            )
        return data

    def _load(self, job: Measuring) -> Loaded:
        key = (job.ref, sorted(job.options.items()))
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two at a time are not needed
            self._loaded = (key, checkpoints.load(job.ref, **job.options))
        return self._loaded[1]


def _end_if_full(error: Exception, folder: RunFolder) -> None:
    """Raise where a job failed for want of room: every other job would fail like it."""
    if (full := unwritable(error, folder.root)) is not None:
        raise full from error


def failed(
    cell: Cell, checkpoint: CheckpointEntry, error: Failure, *, began: str, seconds: float = 0.0
) -> Record:
    """The record of a cell that has no result."""
    return Record(
        run_id=run_id(cell, checkpoint, None),
        status="failed",
        error=error,
        checkpoint=seen(cell, checkpoint),
        task=task_entry(cell),
        protocol=protocol_entry(cell),
        seed=cell.seed,
        data=DataEntry(manifest=None),
        environment=describe(),
        started=began,
        seconds=round(seconds, 3),
    )
