"""A full disk ends a run with one line; nothing half-written is left, and the same run goes on afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import room
from PIL import Image

from eval import suites
from eval.features.store import Entry
from eval.results import records
from eval.running.local import Runner
from eval.running.plan import plan
from mast.checkpoint import save_state
from mast.errors import Unwritable
from mast.files import atomic_write, unwritable

SUITE = """
name: small
description: for tests
checkpoints:
  - {name: one, ref: "random:resnet10-c8-half@0"}
  - {name: two, ref: "random:resnet10-c8-half@1"}
cells:
  - {tasks: [TASK], protocols: [knn], overrides: {k: [1, 3]}}
"""


@pytest.fixture
def make_runner(tmp_path: Path) -> Callable[[], Runner]:
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("test", 3)):
        for shade in (40, 200):
            folder = tmp_path / "data/shades" / split / str(shade)
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(rng.normal(shade, 25, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    task, suite = tmp_path / "shades.yaml", tmp_path / "small.yaml"
    task.write_text("version: 1\nkind: classification\ndataset: shades\nmetric: top1\n")
    suite.write_text(SUITE.replace("TASK", str(task)))

    def make() -> Runner:
        todo = plan(suites.load(suite))
        return Runner(todo, data_root=tmp_path / "data", out=tmp_path / "out", progress=False)

    return make


def files(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")
    )


@pytest.mark.parametrize("size", [0, 64, 512, 1200])
def test_a_full_disk_ends_the_run_once_and_the_same_run_goes_on(
    size: int, make_runner: Callable[[], Runner], tmp_path: Path
) -> None:
    with (
        room(size),
        pytest.raises(Unwritable, match=r"out\S*: cannot be written to: .*the same command goes on"),
    ):
        make_runner().run()
    out = tmp_path / "out"
    assert not [name for name in files(out) if name.endswith(".tmp")]
    kept = records.read([out]).records if list(out.rglob("*.jsonl")) and (out / "records").is_dir() else []
    assert [record.status for record in kept] in ([], ["completed"])  # no cell failed
    summary = make_runner().run()
    assert (summary.failed, summary.done + summary.skipped) == (0, 2)
    assert not records.read([out]).problems


def test_a_record_that_does_not_fit_leaves_nothing(make_runner: Callable[[], Runner]) -> None:
    runner = make_runner()
    runner.run()
    path = runner.folder.records
    before, record = path.read_bytes(), records.read([path]).records[0]
    with room(len(before) + 100), pytest.raises(Unwritable, match="records: cannot be written to"):
        records.append(path, record)
    assert path.read_bytes() == before


def test_every_writer_names_the_folder_and_leaves_no_half(tmp_path: Path) -> None:
    state = {f"layer{index}": torch.randn(10_000) for index in range(8)}

    def text() -> None:
        with atomic_write(tmp_path / "a/table.md") as file:
            file.write("x" * 100_000)

    def store() -> None:
        entry = Entry(tmp_path / "a/store", {"weights": "0"}, 400)
        entry.begin()
        for start in range(0, 400, 100):
            entry.append(start, np.ones((100, 50), dtype=np.float32))

    for write in (text, lambda: save_state(tmp_path / "a/state.pt", state), store):
        with room(50_000), pytest.raises(Unwritable, match=f"{tmp_path}/a.*: cannot be written to"):
            write()
    assert files(tmp_path / "a") == ["features.bin", "meta.json", "shards.jsonl"]
    entry = Entry(tmp_path / "a/store", {"weights": "0"}, 400)
    assert entry.begin() == 200  # whole shards are kept


def test_the_cause_is_found_below_other_errors() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    over = RuntimeError("unexpected pos 477440 vs 477334")  # as torch's writer raises while it ends
    over.__context__ = full
    assert "No space left" in str(unwritable(over, Path("out")))
    assert unwritable(OSError(errno.EACCES, "Permission denied"), Path("out")) is None
