"""Several cells at a time: the same records in the same order, and no interruption loses or doubles one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import suites
from eval.errors import UserError
from eval.results import records
from eval.results.records import Record
from eval.running.local import Runner
from eval.running.plan import Plan, plan

SUITE = """
name: grid
description: for tests
pretrain:
  - {name: arm, recipe: demo, overrides: [epochs=1, batch_size=16, "expander=[16,16]", arch=resnet10-c8-half,
     data.folder=shades/train, views.size=16, data.store_size=16]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: arm}
  - {name: lost, ref: nowhere.pth}
cells:
  - {tasks: [TASK], protocols: [knn, ridge], overrides: {}, seeds: [0, 1]}
  - {tasks: [TASK], protocols: [linear], overrides: {penalties: [-2, 2, 3]}}
"""
CELLS = 15


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with three classes of grey squares, and the suite beside it."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for split, number in (("train", 16), ("test", 6)):
        for shade in (40, 120, 200):
            folder = root / "data" / "shades" / split / str(shade)
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(rng.normal(shade, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    task = root / "shades.yaml"
    task.write_text("version: 1\nkind: classification\ndataset: shades\nmetric: mean_per_class\n")
    (root / "grid.yaml").write_text(SUITE.replace("TASK", str(task)))
    return root


def grid(place: Path) -> Plan:
    return plan(suites.load(place / "grid.yaml"))


def written(out: Path) -> list[Record]:
    return records.read([out / "records" / "grid.jsonl"]).records


def numbers(found: list[Record]) -> list[dict[str, Any]]:
    """Records without what differs from run to run."""
    whole = [record.to_json() for record in found]
    for record in whole:
        for key in ("started", "seconds", "environment"):
            del record[key]
    return whole


@pytest.fixture(scope="module")
def one_by_one(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The records of the engine that does one job after another, on one thread like a worker of several."""
    out, threads = tmp_path_factory.mktemp("one") / "out", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Runner(grid(place), data_root=place / "data", out=out, progress=False).run()
    finally:
        torch.set_num_threads(threads)
    return written(out)


def test_two_processes_give_the_same_records_in_the_same_order(
    place: Path, tmp_path: Path, one_by_one: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runner = Runner(grid(place), data_root=place / "data", out=tmp_path / "out", progress=False, jobs=2)
    summary = runner.run()
    assert (summary.done, summary.failed) == (CELLS - 5, 5)  # the checkpoint that is not there has five cells
    assert numbers(written(tmp_path / "out")) == numbers(one_by_one)
    again = Runner(grid(place), data_root=place / "data", out=tmp_path / "out", progress=False, jobs=2).run()
    assert (again.done, again.skipped) == (0, CELLS - 5)
    assert not list((tmp_path / "out" / "work").rglob("early.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_loses_and_doubles_nothing(
    place: Path, tmp_path: Path, one_by_one: list[Record], number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "eval.cli", "run", str(place / "grid.yaml"), "--jobs", "2", "--quiet"]
    command += ["--data-root", str(place / "data"), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file, end = out / "records" / "grid.jsonl", time.monotonic() + 120
    while not file.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None
    workers = children(process.pid)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -number)
    end = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [worker for worker in workers if alive(worker)]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 1
    found = written(out)
    assert numbers([record for record in found if record.status == "completed"]) == numbers(
        [record for record in one_by_one if record.status == "completed"]
    )


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


def test_a_cell_that_ended_before_its_turn_is_not_run_again(
    place: Path, tmp_path: Path, one_by_one: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(grid(place), data_root=place / "data", out=tmp_path / "out", progress=False)
    early = next(record for record in one_by_one if record.checkpoint.name == "random")
    path = runner.folder.early(early.run_id)
    records.append(path, early)
    runner.run()
    same = next(record for record in written(tmp_path / "out") if record.run_id == early.run_id)
    assert same.started == early.started
    assert same.seconds == early.seconds
    assert not path.exists()


def test_a_dead_worker_is_told(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runner = Runner(grid(place), data_root=place / "data", out=tmp_path / "out", progress=False, jobs=2)
    taken = runner._take

    def take(*arguments: Any) -> None:
        taken(*arguments)
        for child in children(os.getpid()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)

    monkeypatch.setattr(runner, "_take", take)
    with pytest.raises(UserError, match="a worker process died"):
        runner.run()


def test_parts_are_whole_checkpoints_and_together_the_plan(place: Path) -> None:
    todo = grid(place)
    parts = [todo.part(number, 2) for number in (1, 2)]
    assert [{cell.checkpoint for cell in part.cells} for part in parts] == [{"arm", "random"}, {"lost"}]
    assert sorted(map(str, todo.cells)) == sorted(str(cell) for part in parts for cell in part.cells)
    assert todo.part(3, 3).cells == ()
    assert {cell.checkpoint for cell in todo.only(["random"]).cells} == {"random"}
    with pytest.raises(UserError, match="did you mean random"):
        todo.only(["randm"])


def test_a_part_pretrains_only_what_it_needs(place: Path, tmp_path: Path) -> None:
    Runner(grid(place).only(["lost"]), data_root=place / "data", out=tmp_path / "a", progress=False).run()
    assert not (tmp_path / "a" / "pretrain").exists()
    controls = Runner(
        grid(place).only(["random"]), data_root=place / "data", out=tmp_path / "b", progress=False
    )
    assert controls.run().done == 5
    assert (tmp_path / "b" / "pretrain" / "arm").is_dir()  # for its preprocessing
