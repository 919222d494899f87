"""A feature store of a limited size: the longest unused features go, whatever run extracted them."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

GB = 10**9
PARTS = ("shards.jsonl", "features.bin", "meta.json")  # in this order: what is left is seen as not extracted


def evict(store: Path, limit_gb: float) -> int:
    """Delete the longest unused features until the store is within a limit.

    What somebody extracts or looks up at this moment stays. Deleted features that a cell still reads stay on the
    disk until it has ended, as files that are open do. An entry's folder and lock stay, since others may wait for it.

    Args:
        store: The store.
        limit_gb: Its size at most, in units of 10**9 bytes.

    Returns:
        How many bytes were deleted.
    """
    entries = []
    for data in store.glob("*/*/features.bin"):
        try:
            entries.append((data.with_name("lock").stat().st_mtime, data.stat().st_size, data.parent))
        except FileNotFoundError:
            continue  # another run deleted it
    excess = sum(size for _, size, _ in entries) - limit_gb * GB
    freed = 0
    for _, size, folder in sorted(entries):
        if freed >= excess:
            break
        try:
            with FileLock(folder / "lock", timeout=0):
                for name in PARTS:
                    (folder / name).unlink(missing_ok=True)
        except Timeout:
            continue
        freed += size
    return freed
