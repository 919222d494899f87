"""A folder in which work goes on: one process at a time writes to it, and what lies there belongs to one run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mast.files import atomic_write, canonical_json

from .errors import UserError

IDENTITY = "run.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder`` this process's own for a while; it is made where it is missing.

    Raises:
        UserError: If it cannot be written to, or another process holds it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder}: another process is writing to it", remedy="wait, or give another folder (--out)"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{folder}: cannot be written to: {reason}", remedy="give a writable folder (--out)", code=2
        ) from error
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, identity: Mapping[str, Any], *, keeps: Sequence[str]) -> None:
    """Write down which run a folder belongs to, so that no other run goes on from what lies there.

    Args:
        folder: The run's folder.
        identity: Everything that decides the run's numbers, as JSON has it.
        keeps: Patterns of the files that only this run may use; where none is there, the folder is free.

    Raises:
        UserError: If the folder holds such files of another run; the message names the keys that differ.
    """
    path = folder / IDENTITY
    mine = json.loads(canonical_json(dict(identity)))
    if path.is_file() and any(found for pattern in keeps for found in folder.glob(pattern)):
        held = json.loads(path.read_text(encoding="utf-8"))
        if held != mine:
            differing = sorted(key for key in mine if held.get(key) != mine[key])
            raise UserError(
                f"{folder} holds another run (it differs in {', '.join(differing)})",
                remedy="give every run its own folder, or delete this one",
                code=2,
            )
    with atomic_write(path) as file:
        file.write(canonical_json(mine))
