"""A feature store of a limited size."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

from eval.features.budget import GB, evict


def entry(store: Path, key: str, size: int, used: float) -> Path:
    folder = store / key[:2] / key
    folder.mkdir(parents=True)
    (folder / "features.bin").write_bytes(bytes(size))
    for name in ("meta.json", "shards.jsonl", "lock"):
        (folder / name).write_text("")
    os.utime(folder / "lock", (used, used))
    return folder


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    old, middle, new = (entry(tmp_path, key, 1000, used) for key, used in (("aa", 1), ("bb", 2), ("cc", 3)))
    assert evict(tmp_path, 3000 / GB) == 0
    assert evict(tmp_path, 1500 / GB) == 2000
    assert [sorted(path.name for path in folder.iterdir()) for folder in (old, middle)] == [
        ["lock"],
        ["lock"],
    ]
    assert (new / "features.bin").is_file()


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    old, new = entry(tmp_path, "aa", 1000, 1), entry(tmp_path, "bb", 1000, 2)
    with FileLock(old / "lock"):
        assert evict(tmp_path, 1000 / GB) == 1000
    assert (old / "features.bin").is_file()
    assert not (new / "features.bin").exists()


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert evict(tmp_path / "nowhere", 1.0) == 0
