"""The passports that lie beside records, checked before anything is drawn from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .records import CheckpointEntry, Record

_LARGEST = 16 << 20  # bytes; a history of a thousand epochs is a hundredth of it


def file_name(checkpoint: CheckpointEntry) -> str:
    """What a passport is kept as: its weights may be measured with several ways of preparing images."""
    return f"{checkpoint.name}-{checkpoint.key[:12]}.json"


def _kept(folder: Path, checkpoint: CheckpointEntry) -> Path:
    """Where a passport lies; folders of before named it by its weights alone."""
    path = folder / file_name(checkpoint)
    return (
        path
        if path.is_file()
        else folder / f"{checkpoint.name}-{(checkpoint.weights_sha256 or '')[:12]}.json"
    )


def read(places: Sequence[Path], records: Iterable[Record]) -> tuple[list[dict[str, Any]], list[str]]:
    """The passports of the records' checkpoints, in the records' order.

    Args:
        places: Folders with a folder ``passports``; the first that has one of a checkpoint gives it.
        records: Of the checkpoints.

    Returns:
        The whole ones, and a line for each damaged one, which is left out.
    """
    checkpoints = {record.checkpoint.name + record.checkpoint.key: record.checkpoint for record in records}
    paths: dict[Path, CheckpointEntry] = {}
    for checkpoint in checkpoints.values():
        kept = (_kept(place / "passports", checkpoint) for place in places)
        if (path := next(filter(Path.is_file, kept), None)) is not None:
            paths.setdefault(path, checkpoint)
    found, problems = [], []
    for path, checkpoint in paths.items():
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError(f"larger than {_LARGEST:,} bytes")
            passport = json.loads(path.read_text(encoding="utf-8"))
            check(passport)
            _of(passport, checkpoint)
        except (OSError, ValueError, RecursionError) as error:
            told = " ".join(str(error).split())[:120]
            problems.append(f"{path.name}: a damaged passport, which is left out: {told}")
        else:
            found.append(passport)
    return found, problems


def check(passport: Any) -> None:
    """Hold what the report reads to its form.

    Args:
        passport: What a file holds. Of its keys ``name`` must be there; ``extra`` may hold a ``history``, a list
            with an epoch's numbers by name in each place, ``epoch`` among them.

    Raises:
        ValueError: If it has another form.
    """
    if not isinstance(passport, dict) or not isinstance(passport.get("name"), str):
        raise ValueError("no mapping with a name")
    if _depth(passport, 32) > 32:
        raise ValueError("nested more than 32 deep")
    extra = passport.get("extra", {})
    if not isinstance(extra, dict):
        raise ValueError("extra is no mapping")
    history = extra.get("history") or []
    if not isinstance(history, list):
        raise ValueError("its history is no list")
    for line in history:
        if not isinstance(line, dict) or "epoch" not in line:
            raise ValueError("a line of its history has no epoch")
        if not all(_is_number(value) for value in line.values()):
            raise ValueError("a line of its history holds something that is no finite number")
    masks = {name for name in history[-1] if name.startswith("mask_")} if history else set()
    if any(not masks <= set(line) for line in history):
        raise ValueError("a line of its history lacks a mask")


def _of(passport: dict[str, Any], checkpoint: CheckpointEntry) -> None:
    """Raise ValueError for the passport of other weights than those that were measured."""
    weights = passport.get("weights_sha256")
    others = checkpoint.weights_sha256 is not None and weights not in (None, checkpoint.weights_sha256)
    if passport["name"] != checkpoint.name or others:
        raise ValueError("it is of another checkpoint")


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53
    return whole or (isinstance(value, float) and math.isfinite(value))


def _depth(value: Any, limit: int) -> int:
    """How deep lists and mappings lie within each other, no further than a limit."""
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    else:
        return 0
    return 1 if limit < 0 else 1 + max((_depth(item, limit - 1) for item in inner), default=0)
