"""Results as pandas data frames, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from mast.files import canonical_json

from .compare import Comparison
from .records import Record

COLUMNS = (
    "checkpoint",
    "method",
    "trained",
    "arch",
    "input_size",
    "task",
    "task_version",
    "protocol",
    "protocol_version",
    "overrides",
    "seed",
    "metric",
    "headline",
    "value",
    "low",
    "high",
    "interval",
    "seconds",
    "started",
    "run_id",
)


def of_records(found: Iterable[Record]) -> pd.DataFrame:
    """One row for each metric of each completed record, with `COLUMNS`; ``overrides`` is canonical JSON."""
    rows = [
        (
            record.checkpoint.name,
            record.checkpoint.method,
            record.checkpoint.trained,
            record.checkpoint.arch,
            record.checkpoint.preprocessing.get("input_size"),
            record.task.name,
            record.task.version,
            record.protocol.name,
            record.protocol.version,
            canonical_json(record.protocol.overrides),
            record.seed,
            name,
            name == record.task.metric,
            metric.value,
            metric.low,
            metric.high,
            metric.interval,
            record.seconds,
            record.started,
            record.run_id,
        )
        for record in found
        if record.status == "completed"
        for name, metric in record.metrics.items()
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def of_measurements(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Rows by column name, in the order of `COLUMNS`; what a row does not have is missing."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


def of_comparison(comparison: Comparison) -> pd.DataFrame:
    """One row for each line and pair; values are fractions."""
    rows = [
        {
            "task": line.task,
            "tasks": line.tasks,
            "protocol": str(line.protocol),
            "metric": line.metric,
            "first": pair[0],
            "second": pair[1],
            "mean_first": float(np.mean(list(line.values[pair[0]].values()))),
            "mean_second": float(np.mean(list(line.values[pair[1]].values()))),
            "difference": result.difference,
            "low": result.ends[0],
            "high": result.ends[1],
            "p": result.p_value,
            "over": comparison.units[pair],
        }
        for line in comparison.lines
        for pair, result in line.results.items()
    ]
    return pd.DataFrame(rows)
