"""The feature store on disk: what is there, whether it is whole, and adding to it.

    <store>/<key[:2]>/<key>/meta.json       what the key is made of
    <store>/<key[:2]>/<key>/shards.jsonl    a line a finished shard: rows and the SHA-256 of their bytes
    <store>/<key[:2]>/<key>/features.bin    (N, D) float32, little-endian; for maps (N, h, w, C) bfloat16

The key covers the weights, the preprocessing, the images' content, the kind of feature and the precision.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mast.files import atomic_write, canonical_json, writing

from ..errors import UserError

SHARD = 4096  # rows between two points from which an interrupted extraction goes on
_verified: dict[Path, tuple[int, int]] = {}  # entry's folder -> size and time of its file when last verified


@dataclass(frozen=True)
class _Shard:
    """Rows ``start`` to ``stop`` and the hash of their bytes."""

    start: int
    stop: int
    sha256: str


class Entry:
    """One folder of the store: the features of one pool of images.

    Args:
        store: Root folder of the store.
        identity: What decides the features; its hash is the key.
        rows: Images in the pool.
        dtype: Of the numbers on disk, as numpy writes it.
    """

    def __init__(self, store: Path, identity: dict[str, Any], rows: int, dtype: str = "<f4") -> None:
        self.identity = identity
        self.rows = rows
        self.dtype = np.dtype(dtype)
        self.key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:40]
        self.folder = store / self.key[:2] / self.key
        self.data = self.folder / "features.bin"
        self.shards = self.folder / "shards.jsonl"
        self.meta = self.folder / "meta.json"

    def lock(self) -> FileLock:
        """One process at a time works on an entry; a second one waits and then reads.

        Raises:
            UserError: If the folder cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be created: {error.strerror}", remedy="choose another folder"
            ) from error
        return FileLock(self.folder / "lock")

    def dim(self) -> int | None:
        """Numbers in a row, or None before the first shard."""
        shape = self.shape()
        return None if shape is None else math.prod(shape)

    def shape(self) -> tuple[int, ...] | None:
        """Shape of a row, (D,) for features, or None before the first shard."""
        if not self.meta.is_file():
            return None
        try:
            told = json.loads(self.meta.read_text(encoding="utf-8"))
            return tuple(int(side) for side in told.get("shape", [told["dim"]]))
        except (ValueError, KeyError, TypeError):
            return None  # an unreadable header is as good as none: the entry is extracted anew

    def finished(self) -> int:
        """Rows whose shards are on disk and unchanged, counted from the first."""
        return sum(shard.stop - shard.start for shard in self._good())

    def whole(self) -> bool:
        """Whether all rows are there; a file is hashed once in a process unless it changes."""
        dim = self.dim()
        if dim is None or not self.data.is_file():
            return False
        status = self.data.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if _verified.get(self.folder) != stamp:
            if self.finished() != self.rows:
                return False
            _verified[self.folder] = stamp
        return True

    def begin(self) -> int:
        """Get ready to go on after the last good shard, whose end is returned; what follows it is forgotten."""
        good = self._good()
        with atomic_write(self.shards) as file:
            file.writelines(canonical_json(asdict(shard)) + "\n" for shard in good)
        if not good:
            self.data.write_bytes(b"")
        return good[-1].stop if good else 0

    def append(self, start: int, rows: npt.NDArray[Any]) -> None:
        """Write a shard and then its line, so that a line always stands for bytes that are on the disk.

        Args:
            start: Place of the first row.
            rows: (n, D) float32, or (n, ...) of the entry's type.
        """
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        dim = math.prod(rows.shape[1:])
        if self.dim() is None:
            told = {**self.identity, "dim": dim, "rows": self.rows}
            if rows.ndim > 2:
                told["shape"] = list(rows.shape[1:])
            with atomic_write(self.meta) as file:
                file.write(canonical_json(told))
        with writing(self.folder):
            with self.data.open("r+b") as data:
                data.seek(start * dim * self.dtype.itemsize)
                data.write(rows.data)
                data.truncate()
                data.flush()
                os.fsync(data.fileno())
            shard = _Shard(start, start + len(rows), hashlib.sha256(rows.data).hexdigest())
            with self.shards.open("a", encoding="utf-8") as lines:
                lines.write(canonical_json(asdict(shard)) + "\n")

    @cached_property
    def stream(self) -> tuple[int, tuple[int, ...]]:
        """The data, open for reading, with a row's shape: both last even if `budget.evict` deletes the entry."""
        descriptor = os.open(self.data, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor, self.shape() or ()

    def read(self) -> npt.NDArray[np.float32]:
        """All rows, (N, D) float32, memory-mapped and read-only."""
        return np.memmap(self.data, dtype="<f4", mode="r", shape=(self.rows, self.dim() or 0))

    def _good(self) -> list[_Shard]:
        """The shards that are on disk and unchanged, from the first row on without a gap."""
        dim, good = self.dim(), []
        width = (dim or 0) * self.dtype.itemsize
        if dim is None or not (self.shards.is_file() and self.data.is_file()):
            return []
        size, done = self.data.stat().st_size, 0
        with self.data.open("rb") as data:
            for line in self.shards.read_text(encoding="utf-8").splitlines():
                try:
                    shard = _Shard(**json.loads(line))
                except (ValueError, TypeError):
                    break  # a line that an interruption cut short
                if shard.start != done or shard.stop * width > size:
                    break
                data.seek(shard.start * width)
                content = data.read((shard.stop - shard.start) * width)
                if hashlib.sha256(content).hexdigest() != shard.sha256:
                    break
                good.append(shard)
                done = shard.stop
        return good
