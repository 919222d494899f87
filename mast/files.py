"""Files that are written whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from .errors import Unwritable

PUBLISHED: Final = "backbone.safetensors"  # what pretraining leaves in its folder
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))


def unwritable(error: BaseException, folder: Path) -> Unwritable | None:
    """The error of a folder that takes nothing more, where that is what an error comes from; None for others.

    Args:
        error: What was raised. A library may have raised another error over the disk's, as torch's writer does.
        folder: The folder that was written to.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return Unwritable(
                f"{folder}: cannot be written to: {seen.strerror}",
                remedy="make room, or free it for writing; the same command goes on from here",
            )
        seen = seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise one error that names the folder where what is written inside finds the disk full.

    Raises:
        Unwritable: Then.
    """
    try:
        yield
    except Exception as error:
        if (full := unwritable(error, folder)) is not None:
            raise full from error
        raise


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error.

    A crash, a full disk or an exception leaves the old file, or none, and never half of a new one.

    Args:
        path: The file to write; its folder is created.
        mode: ``"w"`` for UTF-8 text or ``"wb"`` for bytes.

    Yields:
        The open temporary file.

    Raises:
        Unwritable: If the disk is full.
    """
    target = Path(path)
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with _replacing(target, handle, name, mode) as file:
            yield file


@contextlib.contextmanager
def _replacing(target: Path, handle: int, name: str, mode: str) -> Iterator[IO[Any]]:
    """The open temporary file, which takes the target's place at the end, or goes."""
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def sweep(folder: str | os.PathLike[str], *, older_than: float = 3600.0) -> None:
    """Delete what killed processes left of files that `atomic_write` had begun in a folder.

    Args:
        folder: The folder; those in it are left alone.
        older_than: Seconds since the last write. Younger ones may still be written to.
    """
    for path in Path(folder).glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > older_than:
                path.unlink()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys stand in it once; Python's reader would take the last of several.

    Raises:
        ValueError: If one stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key '{twice}' stands twice in one object")
    return found
