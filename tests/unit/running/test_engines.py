"""Several cells at a time: the same records in the same order, and no interruption loses or doubles one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch
from PIL import Image

from eval import checkpoints, suites
from eval.errors import UserError
from eval.results import records
from eval.results.records import Record
from eval.running import engines
from eval.running.job import Result
from eval.running.local import Runner
from eval.running.opened import OpenData
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
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs ignore it, and so would what the tests start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    file, end = out / "records" / "grid.jsonl", time.monotonic() + 120
    while not file.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None
    workers = workers_of(process.pid)
    assert len(workers) == 2
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


def workers_of(pid: int) -> list[int]:
    """The workers of a command, which the server that it started has forked."""
    servers = [
        child for child in children(pid) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [worker for server in servers for worker in children(server)]


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


def test_workers_share_the_cores_and_see_this_process_s_surroundings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A forked worker has its threads, of numpy too, and the variables and the import path of the one that asked."""
    monkeypatch.setenv("MAST_TEST_WORD", "set after the server began")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit('a file of the folder that a command is run in')")
    with engines.Processes(2, OpenData(tmp_path)) as pool:
        pool.warm()
        asked = pool._started()
        found = asked.submit(os.getenv, "MAST_TEST_WORD").result()
        share = asked.submit(torch.get_num_threads).result()
        numpy_s = [item["num_threads"] for item in asked.submit(threadpoolctl.threadpool_info).result()]
        asked_for = asked.submit(os.getenv, "PYTHONSAFEPATH").result()
    assert found == "set after the server began"
    assert share == engines.threads(2)
    assert set(numpy_s) == {share}
    assert asked_for == os.environ.get("PYTHONSAFEPATH")


def test_what_workers_import_beforehand_asks_for_no_gpu() -> None:
    """A process that is forked from one that has asked cannot use a GPU."""
    program = (
        "import importlib, sys, torch\n"
        "def asked(*_, **__): raise SystemExit('a GPU was asked for')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = asked\n"
        "from eval.running.engines import PRELOADED\n"
        "for name in PRELOADED: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_as_many_jobs_as_fit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = grid(place)
    monkeypatch.setattr(engines, "cores", lambda: 3)
    monkeypatch.setattr(engines, "_gpus", lambda: 0)
    monkeypatch.setattr(engines, "free_memory", lambda: 100 * engines.BASE)
    assert engines.default_jobs(todo) == 1  # it pretrains, with all cores
    frozen = replace(todo, cells=tuple(cell for cell in todo.cells if cell.checkpoint != "arm"))
    assert len(frozen.cells) == 10
    assert engines.default_jobs(frozen) == 2  # a third worker is not worth its start
    assert engines.default_jobs(replace(frozen, cells=frozen.cells * 2)) == 3
    monkeypatch.setattr(engines, "free_memory", lambda: int(2.5 * engines.BASE))
    assert engines.default_jobs(replace(frozen, cells=frozen.cells * 2)) == 2
    monkeypatch.setattr(engines, "_gpus", lambda: 4)
    assert engines.default_jobs(todo) == 4


def test_jobs_wait_where_memory_would_not_hold_them(place: Path, tmp_path: Path) -> None:
    runner = Runner(grid(place).only(["random"]), data_root=place / "data", out=tmp_path, progress=False)
    seen: list[int] = []

    class Tight(engines.Inline):
        slots, ahead = 3, 0

        def room(self, job: engines.Job) -> bool:
            return pool.room(job)

        def submit(self, job: engines.Job) -> Future[Result]:
            future: Future[Result] = Future()
            pool._taken[future] = engines.memory_of(job)
            seen.append(sum(not other.done() for other in pool._taken))
            threading.Timer(0.05, lambda: future.set_result(runner.worker.do(job, engines.unseen))).start()
            return future

    pool = engines.Processes(3, OpenData(Path()), memory=int(1.5 * engines.BASE))
    runner.engine = Tight(runner.worker, engines.unseen, progress=False)
    assert runner.run().done == 5
    assert set(seen) == {1}


def test_a_run_with_nothing_to_do_loads_no_checkpoint(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again() -> tuple[int, int]:
        todo = grid(place).only(["arm", "random"])
        summary = Runner(todo, data_root=place / "data", out=tmp_path / "out", progress=False).run()
        return summary.done, summary.skipped

    assert again() == (10, 0)
    loads: list[str] = []
    load = checkpoints.load

    def counted(ref: str, **options: Any) -> Any:
        loads.append(ref)
        return load(ref, **options)

    monkeypatch.setattr(checkpoints, "load", counted)
    assert again() == (0, 10)
    assert not loads
    published = tmp_path / "out" / "pretrain" / "arm" / "backbone.safetensors"
    os.utime(published)
    assert again() == (0, 10)
    assert loads[0] == str(published)  # it may be another file now


def test_a_dead_worker_is_told(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runner = Runner(grid(place), data_root=place / "data", out=tmp_path / "out", progress=False, jobs=2)
    taken = runner._take

    def take(*arguments: Any) -> None:
        taken(*arguments)
        for worker in workers_of(os.getpid()):
            os.kill(worker, signal.SIGKILL)

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
