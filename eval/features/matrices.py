"""Feature matrices too large to copy: rows of arrays on disk, one after the other, read block by block."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
COPY = 1 << 30  # bytes up to which rows are simply copied into memory
BLOCK = 64 << 20  # bytes read at a time


def _forget(array: Any) -> None:
    """Let go of the pages of a large memory-mapped file, which else count as memory of this process."""
    held = getattr(array, "_mmap", None)
    if held is not None and len(held) > COPY and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)


class Rows:
    """A matrix made of rows of others, which stay where they are, on disk.

    It has a shape, a length, and gives copies of the rows asked for; ``np.asarray`` reads all of it.

    Args:
        parts: Pairs of a matrix (N_i, D) and the rows to take, None for all.
    """

    def __init__(self, parts: Sequence[tuple[Array | Rows, npt.NDArray[np.int64] | None]]) -> None:
        self.parts = list(parts)
        lengths = [len(array) if rows is None else len(rows) for array, rows in self.parts]
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.shape: tuple[int, int] = (int(self.starts[-1]), self.parts[0][0].shape[1])
        self.ndim = 2
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Array) -> Array:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        result = np.empty((len(index), self.shape[1]), dtype=self.dtype)
        place = np.searchsorted(self.starts, index, side="right") - 1
        for number, (array, rows) in enumerate(self.parts):
            here = place == number
            if here.any():
                local = index[here] - self.starts[number]
                result[here] = array[local if rows is None else rows[local]]
                _forget(array)
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


Features = Array | Rows


def take(array: Features, rows: npt.NDArray[np.int64]) -> Features:
    """Some rows: a copy where it is small, a view of the disk where it is not."""
    small = len(rows) * array.shape[1] * 4 <= COPY
    return array[rows] if small else Rows([(array, rows)])


def stack(arrays: Sequence[Features]) -> Features:
    """Matrices one after the other, copied where that is small; a single one is returned as it is."""
    if len(arrays) == 1:
        return arrays[0]
    if sum(len(array) * array.shape[1] * 4 for array in arrays) <= COPY:
        return np.concatenate([np.asarray(array) for array in arrays])
    return Rows([(array, None) for array in arrays])


def blocks(array: Features, size: int | None = None) -> Iterator[tuple[slice, Array]]:
    """Consecutive rows, about `BLOCK` bytes at a time, with where they stand."""
    size = size or max(1, BLOCK // (4 * array.shape[1]))
    for start in range(0, len(array), size):
        span = slice(start, min(start + size, len(array)))
        yield span, np.asarray(array[span])
        _forget(array)
