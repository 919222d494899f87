"""What the page's script needs beside the tables: p values of all pairs, and where each cell comes from.

It is embedded compressed, and unpacked by the browser when a reader first asks for it.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Hashable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mast.files import canonical_json

from .parts import Cell, Section
from .records import Record
from .standing import LEVEL, Standing
from .tables import Table

STEPS: Final = 20  # of a p value's decimal logarithm in one byte
NO_TEST: Final = 255


class _Shared:
    """Values that many records share, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[Hashable, int] = {}

    def place(self, key: Hashable, value: Any) -> int:
        if key not in self._known:
            self._known[key] = len(self.values)
            self.values.append(value)
        return self._known[key]


def packed(table: Table) -> str:
    """The data as base64 of gzip of JSON; equal tables give equal text."""
    shared = {name: _Shared() for name in ("checkpoint", "protocol", "data", "environment")}
    sections = [_section(table, section, shared) for section in table.sections]
    value = {"sections": sections} | {name: of.values for name, of in shared.items()}
    return base64.b64encode(gzip.compress(canonical_json(value).encode(), mtime=0)).decode()


def _section(table: Table, section: Section, shared: dict[str, _Shared]) -> dict[str, Any]:
    places = {row: number for number, row in enumerate(section.rows)}
    tests = []
    for column in section.columns:
        standing = table.standings.of(section, column)
        tests.append([[places[row] for row in standing.rows], levels(standing)])
    return {
        "tests": tests,
        **({"curves": _curves(section)} if section.curves else {}),
        "cells": [
            [_cell(section.cells.get((row, column)), shared) for column in section.columns]
            for row in section.rows
        ],
    }


def _curves(section: Section) -> list[dict[str, Any]]:
    """For each task and metric: sizes, labelled images, and by checkpoint values with their interval in percent."""
    found = []
    for (task, metric), columns in section.curves.items():
        lines = [
            {
                "label": row.label,
                "control": row.control,
                "points": [_point(section.cells.get((row, c))) for c in columns],
            }
            for row in section.rows
        ]
        found.append(
            {
                "name": f"{section.title}: {task} {metric}",
                "sizes": [column.size for column in columns],
                "labels": [section.labels(column) for column in columns],
                "lines": lines,
            }
        )
    return found


def _point(cell: Cell | None) -> list[float] | None:
    """Value, low and high in percent; the interval is over draws where there are several."""
    if cell is None:
        return None
    low, high = (cell.over_seeds.low, cell.over_seeds.high) if cell.over_seeds else cell.span
    return [round(100 * value, 2) for value in (cell.value, max(0.0, low), min(1.0, high))]


def levels(standing: Standing) -> str:
    """Corrected p values of all pairs, as base64 of a byte each, row by row above the diagonal.

    A byte is -20 times the decimal logarithm, rounded down but never across the level of 5 %; 255 is no test.
    """
    p_values = standing.adjusted[np.triu_indices(len(standing.rows), 1)]
    edge = int(np.floor(-STEPS * np.log10(1 - LEVEL)))
    with np.errstate(invalid="ignore"):
        found = np.floor(-STEPS * np.log10(np.clip(p_values, 1e-12, 1.0)))
        found = np.where(p_values < 1 - LEVEL, np.maximum(found, edge + 1), np.minimum(found, edge))
    found = np.where(np.isnan(p_values), NO_TEST, found)
    content: npt.NDArray[np.uint8] = found.astype(np.uint8)
    return base64.b64encode(content.tobytes()).decode()


def _cell(cell: Cell | None, shared: dict[str, _Shared]) -> Any:
    if cell is None:
        return None
    return cell.source if cell.source else [_record(record, shared) for record in cell.records]


def _record(record: Record, shared: dict[str, _Shared]) -> list[Any]:
    entry, how = record.checkpoint, record.protocol
    about = {
        "name": entry.name,
        "weights SHA-256": entry.weights_sha256,
        "architecture": entry.arch,
        "method": entry.method,
        "input": entry.preprocessing,
        "normalization": entry.normalization,
        "pretraining": entry.pretraining,
    }
    protocol = {
        "protocol": f"{how.name} v{how.version}",
        "parameters": how.params,
        "overrides": how.overrides,
    }
    data = {"manifest SHA-256": record.data.manifest, "examples": record.data.counts}
    return [
        record.run_id[:16],
        record.seed,
        record.started,
        record.seconds,
        shared["checkpoint"].place((entry.name, entry.identity), about),
        shared["protocol"].place((how.identity, how.asked_for), protocol),
        shared["data"].place((record.data.manifest, record.task.name), data),
        shared["environment"].place(id(record.environment), record.environment),
        command(record),
        record.warnings,
    ]


def command(record: Record) -> str:
    """The command that measures a cell again, where the checkpoint and the data lie at hand."""
    how = record.protocol
    overrides = "".join(f" '{key}={_plain(value)}'" for key, value in sorted(how.overrides.items()))
    return (
        f"mast eval --checkpoint {record.checkpoint.name}=FILE --task {record.task.name} --protocol {how.name}"
        + (f" --set{overrides}" if overrides else "")
        + f" --seeds {record.seed} --data-root DATA --out OUT"
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
