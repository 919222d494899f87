"""Maps of many images through the store: written shard by shard and read in batches, with memory and disk measured.

    python benchmarks/maps.py --images 100000 --grid 14 --dim 64
    python benchmarks/maps.py --images 100000 --grid 32 --dim 16

The features are made up. Memory is the peak of this process (VmHWM) above what it takes before the first row; the
bound is a shard, a batch and their copies, whatever the number of images. ``--dim`` makes the run fit the disk: bytes
go with it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from eval.features import maps
from eval.features.store import Entry
from eval.features.views import Views


def resident(what: str) -> int:
    """Bytes of this process that are in memory now (``VmRSS``) or were at most (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) << 10
    raise SystemExit("/proc/self/status has no " + what)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--grid", type=int, default=14, help="cells on a side")
    parser.add_argument("--dim", type=int, default=384, help="channels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reads", type=int, default=1000, help="batches read in random order")
    parser.add_argument("--out", type=Path, help="where the store lies; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.out) as folder:
        stream(given, Path(folder))


def stream(given: argparse.Namespace, store: Path) -> None:
    shape = (given.grid, given.grid, given.dim)
    noise = (
        np.random.default_rng(0).integers(0, 1 << 16, shape, dtype=np.uint16) & 0x3FFF
    )  # finite in bfloat16
    plan = Views("squash", 16 * given.grid).plan(np.full((given.images, 2), 300))
    need = maps.budget(given.images, shape, store, 10_000, "made-up maps")
    row = need // given.images
    bound = 3 * maps.SHARD + 8 * given.batch * row + (64 << 20)
    print(f"disk stated {need / 1e9:.2f} GB; memory bound {bound / 1e6:.0f} MB above the start")
    entry = Entry(store, {"layer": "made up"}, given.images, "<u2")
    torch.zeros(1).float()
    before = resident("VmRSS")
    clock = time.monotonic()
    with entry.lock():
        maps.fill_entry(
            entry, lambda index: noise + np.uint16(index & 63), lambda batch, first: batch, given.batch, 0
        )
    written = time.monotonic() - clock
    size = entry.data.stat().st_size
    print(f"written {size / 1e9:.2f} GB in {written:.0f} s, {size / 1e6 / written:.0f} MB/s")
    clock = time.monotonic()
    assert entry.whole()
    print(f"hashes of all shards checked in {time.monotonic() - clock:.0f} s")
    found = maps.Maps(entry, plan, shape)
    generator = np.random.default_rng(1)
    clock, rows = time.monotonic(), 0
    for _ in range(given.reads):
        rows += len(found.read(generator.integers(0, given.images, given.batch)))
    seconds = time.monotonic() - clock
    print(f"read {rows:,} random rows in {seconds:.1f} s, {rows * row / 1e6 / seconds:.0f} MB/s")
    peak = resident("VmHWM") - before
    print(f"memory {peak / 1e6:.0f} MB at most above the start")
    if size != need:
        raise SystemExit(f"{size} bytes on disk, stated were {need}")
    if peak > bound:
        raise SystemExit(f"{peak} bytes of memory, the bound is {bound}")


if __name__ == "__main__":
    main()
