"""The feature store on disk: what is there, whether it is whole, and adding to it.

    <store>/<key[:2]>/<key>/meta.json       what the key is made of
    <store>/<key[:2]>/<key>/shards.jsonl    a line a finished shard: rows and the SHA-256 of their bytes
    <store>/<key[:2]>/<key>/features.bin    (N, D) float32, little-endian

The key covers the weights, the preprocessing, the images' content, the kind of feature and the precision.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from mast.files import atomic_write, canonical_json

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
    """

    def __init__(self, store: Path, identity: dict[str, Any], rows: int) -> None:
        self.identity = identity
        self.rows = rows
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
        """D, or None before the first shard."""
        if not self.meta.is_file():
            return None
        try:
            return int(json.loads(self.meta.read_text(encoding="utf-8"))["dim"])
        except (ValueError, KeyError):
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

    def append(self, start: int, rows: npt.NDArray[np.float32]) -> None:
        """Write a shard and then its line, so that a line always stands for bytes that are on the disk.

        Args:
            start: Place of the first row.
            rows: (n, D) float32.
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        if self.dim() is None:
            with atomic_write(self.meta) as file:
                file.write(canonical_json({**self.identity, "dim": rows.shape[1], "rows": self.rows}))
        with self.data.open("r+b") as data:
            data.seek(start * rows.shape[1] * 4)
            data.write(rows.data)
            data.truncate()
            data.flush()
            os.fsync(data.fileno())
        shard = _Shard(start, start + len(rows), hashlib.sha256(rows.data).hexdigest())
        with self.shards.open("a", encoding="utf-8") as lines:
            lines.write(canonical_json(asdict(shard)) + "\n")

    def read(self) -> npt.NDArray[np.float32]:
        """All rows, (N, D) float32, memory-mapped and read-only."""
        return np.memmap(self.data, dtype="<f4", mode="r", shape=(self.rows, self.dim() or 0))

    def _good(self) -> list[_Shard]:
        """The shards that are on disk and unchanged, from the first row on without a gap."""
        dim, good = self.dim(), []
        if dim is None or not (self.shards.is_file() and self.data.is_file()):
            return []
        size, done = self.data.stat().st_size, 0
        with self.data.open("rb") as data:
            for line in self.shards.read_text(encoding="utf-8").splitlines():
                try:
                    shard = _Shard(**json.loads(line))
                except (ValueError, TypeError):
                    break  # a line that an interruption cut short
                if shard.start != done or shard.stop * dim * 4 > size:
                    break
                data.seek(shard.start * dim * 4)
                content = data.read((shard.stop - shard.start) * dim * 4)
                if hashlib.sha256(content).hexdigest() != shard.sha256:
                    break
                good.append(shard)
                done = shard.stop
        return good
