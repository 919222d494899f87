"""What checkpoints were when a run last read them: a run that has nothing left to do need not read them again."""

from __future__ import annotations

import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

import mast
from mast.files import atomic_write, canonical_json

from .. import checkpoints
from ..checkpoints.settings import BESIDE
from ..results.records import CheckpointEntry
from .plan import Source
from .recording import plain

RANDOM = "random:"


class Known:
    """Entries by reference and all that decides them: files by path, size and time, and the code that reads them.

    A name that something else resolves (a registry, a hub) is not kept.

    Args:
        path: The file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, source: Source, ref: str, like: CheckpointEntry | None) -> CheckpointEntry | None:
        """A checkpoint as it was when it was last read, or None if it may be another one now.

        Args:
            source: The checkpoint in its plan.
            ref: What `eval.checkpoints.load` takes.
            like: The entry of the one whose preprocessing it takes over.
        """
        key = _key(source, ref, like)
        found = self._read().get(key) if key else None
        return msgspec.convert(found, CheckpointEntry) if found else None

    def keep(self, source: Source, ref: str, like: CheckpointEntry | None, entry: CheckpointEntry) -> None:
        """Write down what a checkpoint is."""
        if key := _key(source, ref, like):
            with atomic_write(self._path) as file:
                json.dump(self._read() | {key: msgspec.to_builtins(entry)}, file, indent=1)

    def _read(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {}
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError:
            return {}  # as good as none: checkpoints are read anew
        return found


def _key(source: Source, ref: str, like: CheckpointEntry | None) -> str:
    """Everything that decides an entry; empty where that is not known without reading the checkpoint."""
    if source.like and like is None:
        return ""
    if ref.startswith(RANDOM):
        stamp: Any = importlib.metadata.version("torch")
    elif (path := Path(ref).expanduser()).is_file():
        beside = (path.parent / name for name in BESIDE)
        stamp = [_file(item) for item in (path, *beside) if item.is_file()]
    else:
        return ""
    taken_over = like.key if like else ""
    return canonical_json([source.name, ref, plain(source.options), stamp, taken_over, _code()])


@cache
def _code() -> list[list[Any]]:
    """The sources that read checkpoints."""
    folders = (Path(mast.__file__).parent, Path(checkpoints.__file__).parent)
    return [_file(path) for folder in folders for path in sorted(folder.glob("*.py"))]


def _file(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
