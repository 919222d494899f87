"""What the page's script needs beside the tables: p values of all pairs, and where each cell comes from.

It is embedded compressed, and unpacked by the browser when a reader first asks for it.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Hashable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mast.files import canonical_json

from .parts import Cell, Section
from .records import CheckpointEntry, ProtocolEntry, Record
from .standing import LEVEL, Standing
from .tables import Table

STEPS: Final = 20  # of a p value's decimal logarithm in one byte
NO_TEST: Final = 255


class _Shared:
    """Values that many records share, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._known: dict[Hashable, int] = {}

    def place(self, key: Hashable, value: Callable[[], Any]) -> int:
        """Where the value of a key stands; it is asked for once."""
        at = self._known.get(key)
        if at is None:
            at = self._known[key] = len(self.values)
            self.values.append(value())
        return at


class _Told:
    """Where cells come from: a column for each fact of a record, a line for each record."""

    def __init__(self) -> None:
        self.shared = {
            name: _Shared() for name in ("checkpoint", "protocol", "data", "environment", "warnings")
        }
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("run", "seed", "started", "seconds", *self.shared)
        }
        self._places: dict[int, int] = {}

    def place(self, record: Record) -> int:
        """Where a record's line stands; metrics of one record share it."""
        at = self._places.get(id(record))
        if at is None:
            at = self._places[id(record)] = len(self._places)
            self._add(record)
        return at

    def _add(self, record: Record) -> None:
        entry, how = record.checkpoint, record.protocol
        shared = self.shared
        values = {
            "run": record.run_id[:12],
            "seed": record.seed,
            "started": record.started,
            "seconds": round(record.seconds, 2),
            "checkpoint": shared["checkpoint"].place(
                (entry.name, entry.identity), lambda: _checkpoint(entry)
            ),
            "protocol": shared["protocol"].place((how.identity, how.asked_for), lambda: _protocol(how)),
            "data": shared["data"].place((record.data.manifest, record.task.name), lambda: _data(record)),
            "environment": shared["environment"].place(id(record.environment), lambda: record.environment),
            "warnings": shared["warnings"].place(tuple(record.warnings), lambda: record.warnings),
        }
        for name, column in self.columns.items():
            column.append(values[name])


def packed(table: Table) -> str:
    """The data as base64 of gzip of JSON; equal tables give equal text."""
    told = _Told()
    sections = [_section(table, section, told) for section in table.sections]
    value = {"sections": sections, "records": told.columns}
    value |= {name: of.values for name, of in told.shared.items()}
    return compressed(value)


def compressed(value: Any) -> str:
    """Plain values as base64 of gzip of JSON; equal values give equal text."""
    return base64.b64encode(gzip.compress(canonical_json(value).encode(), 6, mtime=0)).decode()


def _section(table: Table, section: Section, told: _Told) -> dict[str, Any]:
    places = {row: number for number, row in enumerate(section.rows)}
    tests = []
    for column in section.columns:
        standing = table.standings.of(section, column)
        tests.append([[places[row] for row in standing.rows], levels(standing)])
    return {
        "tests": tests,
        **({"curves": _curves(section)} if section.curves else {}),
        "cells": [
            [_cell(section.cells.get((row, column)), told) for column in section.columns]
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


def _cell(cell: Cell | None, told: _Told) -> Any:
    """Nothing, where a number was published, or the lines of its records."""
    if cell is None:
        return None
    return cell.source or [told.place(record) for record in cell.records]


def _checkpoint(entry: CheckpointEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "weights SHA-256": entry.weights_sha256,
        "architecture": entry.arch,
        "method": entry.method,
        "input": entry.preprocessing,
        "normalization": entry.normalization,
        "pretraining": entry.pretraining,
    }


def _protocol(how: ProtocolEntry) -> dict[str, Any]:
    overrides = "".join(f" '{key}={_plain(value)}'" for key, value in sorted(how.overrides.items()))
    return {
        "protocol": f"{how.name} v{how.version}",
        "parameters": how.params,
        "overrides": how.overrides,
        "options": f"--protocol {how.name}" + (f" --set{overrides}" if overrides else ""),
    }


def _data(record: Record) -> dict[str, Any]:
    return {
        "task": record.task.name,
        "manifest SHA-256": record.data.manifest,
        "examples": record.data.counts,
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
