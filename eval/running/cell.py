"""One cell: a checkpoint on a task under a protocol with a seed, from its opened data to its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import features
from ..device import device
from ..features.matrices import Features
from ..protocols.base import Context, Extraction, Measured, Progress, silent
from .plan import Cell

if TYPE_CHECKING:
    from ..checkpoints import Loaded


def measure(
    cell: Cell, loaded: Loaded, data: Any, *, store: Path, work: Path, progress: Progress = silent
) -> Measured:
    """Run one cell.

    Args:
        cell: What to run.
        loaded: The checkpoint.
        data: The cell's data, opened.
        store: The feature store.
        work: A folder of this cell's own, for what can be resumed.
        progress: Called with what is being done, how much of it is done, and of how much.
    """
    measured = cell.protocol.code.measure(
        context(cell, loaded, data, store=store, work=work, progress=progress)
    )
    if cell.protocol.unverified:
        measured.warnings += (f"the protocol is not verified: {cell.protocol.unverified}",)
    return measured


def context(
    cell: Cell, loaded: Loaded, data: Any, *, store: Path, work: Path, progress: Progress = silent
) -> Context:
    """What the kind of a cell's protocol is given; arguments as for `measure`."""

    def extract(split: str, extraction: Extraction) -> Features:
        loaded.backbone.to(device())
        return features.extract(
            loaded.backbone,
            loaded.passport,
            data.splits[split],
            store=store,
            progress=lambda done, total: progress(f"features of {cell.task.dataset} {split}", done, total),
            **extraction.options(),
        )

    return Context(
        task=cell.task,
        protocol=cell.protocol,
        metric=cell.metric,
        seed=cell.seed,
        data=data,
        loaded=loaded,
        extract=extract,
        work=work,
        device=device(),
        progress=progress,
        store=store,
    )
