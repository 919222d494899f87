"""A plan: which checkpoints meet which tasks under which protocols, all names resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import protocols, tasks
from ..errors import UserError, unknown
from ..protocols import Protocol
from ..suites import Arm, Suite
from ..tasks import Task

ALL = "all"  # the size of a curve that has all labels


@dataclass(frozen=True)
class Cell:
    """A planned unit of work.

    Attributes:
        checkpoint: Its name in the plan.
        task: The task.
        protocol: The protocol, overrides applied.
        overrides: What was overridden.
        seed: Evaluation seed.
    """

    checkpoint: str
    task: Task
    protocol: Protocol
    overrides: dict[str, Any]
    seed: int

    def __str__(self) -> str:
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.checkpoint} · {self.task.name} · {self.protocol.name} v{self.protocol.version}{seed}"

    @property
    def metric(self) -> str:
        """The metric that stands in tables."""
        return self.protocol.metric_for(self.task.metric)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint of a plan comes from.

    Attributes:
        name: Its name in records and tables.
        ref: What `eval.checkpoints.load` takes; empty for an arm.
        arm: What to pretrain.
        like: Name of the checkpoint whose preprocessing this one takes over.
        options: what `eval.checkpoints.load` takes besides the reference.
    """

    name: str
    ref: str = ""
    arm: Arm | None = None
    like: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Checkpoints and the cells to run on them, in order.

    Attributes:
        name: That of the record file.
        sources: The checkpoints.
        cells: What to run.
        limit: Use at most so many examples of each split, and train for a short time: a smoke test.
        notes: What a user should know of it before it runs.
    """

    name: str
    sources: tuple[Source, ...]
    cells: tuple[Cell, ...]
    limit: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a precision that a protocol would not compute in.

        Raises:
            UserError: For the first such cell.
        """
        reduced = {
            source.name for source in self.sources if source.options.get("precision", "fp32") != "fp32"
        }
        for cell in self.cells:
            code = cell.protocol.code
            if cell.checkpoint in reduced and code.images and not code.precision:
                raise UserError(
                    f"{cell.protocol.name} computes with the network itself, in float32, and {cell.checkpoint} is "
                    "asked for in another precision",
                    remedy=f"run {cell.protocol.name} without --precision",
                    code=2,
                )

    def of(self, source: Source) -> list[Cell]:
        """The cells of one checkpoint."""
        return [cell for cell in self.cells if cell.checkpoint == source.name]

    def only(self, names: Sequence[str]) -> Plan:
        """The cells of some checkpoints.

        Raises:
            UserError: For a checkpoint that the plan does not have.
        """
        known = [source.name for source in self.sources]
        for name in names:
            if name not in known:
                raise unknown("checkpoint of this run", name, known)
        return replace(self, cells=tuple(cell for cell in self.cells if cell.checkpoint in names))

    def part(self, number: int, parts: int) -> Plan:
        """Every ``parts``-th checkpoint with all its cells, from the ``number``-th (from 1) on.

        A checkpoint goes with the one whose preprocessing it takes over, so that no part waits for another.
        """
        source_of = {source.name: source for source in self.sources}

        def first(name: str) -> str:
            return first(source_of[name].like) if source_of[name].like else name

        leaders = [source.name for source in self.sources if not source.like]
        mine = set(leaders[number - 1 :: parts])
        return self.only([source.name for source in self.sources if first(source.name) in mine])


def plan(suite: Suite, limit: int | None = None) -> Plan:
    """Resolve a suite's names.

    Args:
        suite: The suite.
        limit: As for `Plan`.

    Raises:
        UserError: For a task, protocol or parameter that does not exist, or a protocol that does not apply.
    """
    sources = [Source(arm.name, arm=arm) for arm in suite.pretrain]
    sources += [
        Source(item.name, ref=item.ref, like=item.like, options=item.options.given)
        for item in suite.checkpoints
    ]
    if suite.pretrain:
        from mast.config import load_recipe
    for arm in suite.pretrain:
        load_recipe(arm.recipe, arm.overrides, limit)
    found = [
        cell
        for source in sources
        for block in suite.cells
        if not block.checkpoints or source.name in block.checkpoints
        for task in block.tasks
        for protocol in block.protocols
        for cell in make_cells(
            source.name, task, protocol, block.overrides, block.draws, shots=block.shots, limit=limit
        )
    ]
    return Plan(suite.name, tuple(sources), tuple(found), limit)


def make_cells(
    checkpoint: str,
    task: str,
    protocol: str,
    overrides: dict[str, Any],
    seeds: Sequence[int],
    *,
    shots: Sequence[int | str] = (),
    limit: int | None = None,
) -> list[Cell]:
    """The cells of several seeds, and of several sizes where ``shots`` has some.

    With ``all`` labels nothing is drawn. On frozen features one seed is enough for it then; training on images is
    random, and has all seeds.

    Raises:
        UserError: As `plan`.
    """
    found = []
    for size in shots or [ALL]:
        changes = overrides if size == ALL else overrides | {"shots": size}
        cells = [make_cell(checkpoint, task, protocol, changes, seed, limit) for seed in seeds]
        frozen = not cells[0].protocol.code.images
        found += cells[:1] if shots and size == ALL and frozen else cells
    return found


def make_cell(
    checkpoint: str, task: str, protocol: str, overrides: dict[str, Any], seed: int, limit: int | None = None
) -> Cell:
    """A cell from names; ``limit`` as for `Plan`.

    Raises:
        UserError: As `plan`.
    """
    short = {} if limit is None else protocols.get(protocol).settings.smoke(limit)
    changes = short | dict(overrides)
    what, how = tasks.resolve(task, protocol, changes)
    return Cell(checkpoint, what, how, changes, seed)
