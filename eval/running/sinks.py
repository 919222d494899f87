"""Results of cells in other programs too: a run of theirs for each checkpoint, a number for each metric."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mast.sinks import Place, Sinks, check

from ..results.records import CheckpointEntry, Record


class CellSinks:
    """Hands each completed record on, as soon as it is written.

    Args:
        names: Of `mast.sinks.NAMES`.
        folder: The run's folder.

    Raises:
        UserError: If a library is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        check(names)
        self._names, self._folder = names, folder
        self._open: dict[str, Sinks] = {}

    def add(self, record: Record) -> None:
        """Metrics as ``task/protocol/metric``, with the ends of their intervals; the step is the evaluation seed."""
        if not self._names or record.status != "completed":
            return
        how = record.protocol
        overrides = "".join(f" {key}={value}" for key, value in sorted(how.overrides.items()))
        above = f"{record.task.name}/{how.name} v{how.version}{overrides}"
        values = {}
        for name, metric in record.metrics.items():
            values[f"{above}/{name}"] = metric.value
            for end in ("low", "high"):
                if (number := getattr(metric, end)) is not None:
                    values[f"{above}/{name}_{end}"] = number
        self._of(record.checkpoint).add(values, record.seed)

    def close(self) -> None:
        """End the runs of all checkpoints."""
        while self._open:
            self._open.popitem()[1].close()

    def _of(self, entry: CheckpointEntry) -> Sinks:
        part = (
            f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', entry.name).strip('.-')}-{(entry.weights_sha256 or '')[:12]}"
        )
        if part not in self._open:
            facts = {
                "checkpoint": entry.name,
                "weights_sha256": entry.weights_sha256,
                "arch": entry.arch,
                "method": entry.method,
                "preprocessing": entry.preprocessing,
                "pretraining": entry.pretraining,
            }
            self._open[part] = Sinks(self._names, Place(self._folder, entry.name, facts, part=part))
        return self._open[part]
