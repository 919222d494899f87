"""The runner: done cells are skipped, failures stop nothing, a killed run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval import datasets, suites
from eval.errors import UserError
from eval.results import records, tables
from eval.results.records import Record
from eval.running import local
from eval.running.costs import Costs, duration
from eval.running.local import Runner
from eval.running.plan import plan
from eval.running.recording import failure, plain

SUITE = """
name: small
description: for tests
pretrain:
  - {name: arm, recipe: demo, overrides: [epochs=1, batch_size=16, "expander=[16,16]", arch=resnet10-c8-half,
     data.folder=shades/train, views.size=16, data.store_size=16]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: arm}
cells:
  - {tasks: [TASK], protocols: [knn], overrides: {k: [1, 3]}}
  - {tasks: [TASK], protocols: [linear], overrides: {penalties: [-2, 2, 3]}}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of grey squares, in class folders."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 16), ("test", 6)):
        for shade in (40, 120, 200):
            folder = tmp_path / "data" / "shades" / split / str(shade)
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(rng.normal(shade, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "shades.yaml"
    path.write_text("version: 1\nkind: classification\ndataset: shades\nmetric: mean_per_class\n")
    return path


@pytest.fixture
def make_runner(tmp_path: Path, data: Path, task: Path) -> Callable[..., Runner]:
    def make(text: str = SUITE) -> Runner:
        path = tmp_path / "small.yaml"
        path.write_text(text.replace("TASK", str(task)))
        return Runner(plan(suites.load(path)), data_root=data, out=tmp_path / "out", progress=False)

    return make


def test_a_preview_says_whose_data_are_missing(make_runner: Callable[..., Runner], data: Path) -> None:
    (data / "shades" / "test").rename(data / "elsewhere")
    states = {cell["state"] for cell in make_runner().preview() if cell["work"] == "cell"}
    assert len(states) == 1
    assert states.pop().startswith(f"data missing or broken: {data}/shades: the split 'test' is missing")
    (data / "elsewhere").rename(data / "shades" / "test")
    text = SUITE.replace("shades/train", "nowhere/train")
    told = [cell["state"] for cell in make_runner(text).preview()]
    assert told[0] == f"data missing or broken: no images to pretrain on at {data}/nowhere/train"
    assert told == [told[0], told[0], "to run", "to run"]


def test_cells_are_run_once_and_recorded_whole(make_runner: Callable[..., Runner]) -> None:
    first = make_runner()
    assert [cell["state"] for cell in first.preview()] == ["to run"] * 5  # the arm and four cells
    summary = first.run()
    assert (summary.done, summary.skipped, summary.failed) == (4, 0, 0)
    assert make_runner().run().skipped == 4
    assert [cell["state"] for cell in make_runner().preview()] == ["done"] * 4

    book = records.read([first.folder.root])
    assert len(book.records) == 4
    for record in book.records:
        metric = record.metrics["mean_per_class"]
        assert metric.interval == "wilson-per-class"
        assert metric.low is not None
        assert metric.low <= metric.value <= metric.high
        assert record.metrics["top1"].interval == "wilson"
        assert record.data.counts == {"train": 39, "val": 9, "test": 18}
        assert record.selected["split"] == "val"
        assert record.environment["packages"]["torch"]
        correct = book.outcomes(record)["correct"]
        assert correct.mean() == pytest.approx(record.metrics["top1"].value)
    arm, control = book.records[0].checkpoint, book.records[-1].checkpoint
    assert (arm.method, arm.pretraining["recipe"], arm.pretraining["epochs"]) == ("vicreg", "demo", 1)
    assert arm.trained is not None
    assert control.trained is False
    assert control.preprocessing == arm.preprocessing  # the control sees what the arm sees
    assert control.normalization == arm.normalization
    assert (first.folder.root / "passports" / f"arm-{arm.key[:12]}.json").is_file()


def test_the_same_weights_under_a_second_name_take_the_number_and_have_a_row(
    make_runner: Callable[..., Runner],
) -> None:
    make_runner().run()
    line = next(line for line in SUITE.splitlines() if "name: random" in line)
    text = SUITE.replace(line, f"{line}\n{line.replace('name: random', 'name: copy')}")
    summary = make_runner(text).run()
    assert (summary.done, summary.copied, summary.skipped, summary.failed) == (0, 2, 4, 0)
    again = make_runner(text).run()
    assert (again.done, again.skipped, again.failed) == (0, 6, 0)

    book = records.read([make_runner().folder.root])
    by_name = {
        name: {r.run_id: r for r in book.counting() if r.checkpoint.name == name}
        for name in ("random", "copy")
    }
    assert by_name["random"].keys() == by_name["copy"].keys()
    for key, record in by_name["copy"].items():
        assert record.metrics == by_name["random"][key].metrics
        assert record.outcomes == by_name["random"][key].outcomes
    for section in tables.build(book).sections:
        assert {row.label for row in section.rows} == {"arm", "random", "copy"}


def test_no_path_of_this_machine_stands_in_a_record(make_runner: Callable[..., Runner], data: Path) -> None:
    runner = make_runner()
    runner.run()
    for path in [runner.folder.records, *(runner.folder.root / "passports").glob("*.json")]:
        # The task's own path is its name here, because the test gives a task by its file.
        assert str(data) not in path.read_text(), path


def test_a_failure_is_recorded_and_stops_nothing(make_runner: Callable[..., Runner]) -> None:
    text = SUITE.replace('ref: "random:resnet10-c8-half@0", like: arm', "ref: nowhere.pth")
    summary = make_runner(text).run()
    assert (summary.done, summary.failed) == (2, 2)
    (message,) = summary.errors
    assert "nowhere.pth" in message
    runner = make_runner(text)
    book = records.read([runner.folder.records])
    assert {record.error.message for record in book.failures() if record.error} == {message}
    assert (runner.run().skipped, len(records.read([runner.folder.records]).records)) == (2, 6)
    # Mended, the cells run and the failures are answered; the lines stay.
    assert make_runner().run().done == 2
    assert records.read([runner.folder.records]).failures() == []


def test_a_corrupt_image_fails_its_cells_with_its_name(
    make_runner: Callable[..., Runner], data: Path
) -> None:
    broken = data / "shades" / "test" / "40" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    summary = make_runner().run()
    assert (summary.done, summary.failed) == (0, 4)
    assert all(str(broken) in message for message in summary.errors)


def test_a_run_opens_a_data_set_once(
    make_runner: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = datasets.load

    def counting(name: str, *arguments: Any, **options: Any) -> Any:
        opened.append(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(datasets, "load", counting)
    assert make_runner().run().done == 4
    assert opened == ["shades"]


def test_other_data_is_another_run(make_runner: Callable[..., Runner], data: Path) -> None:
    make_runner().run()
    (data / "shades" / "test" / "40" / "0.png").unlink()
    assert make_runner().run().done == 4


def test_folders_are_looked_at_before_any_work(tmp_path: Path, make_runner: Callable[..., Runner]) -> None:
    runner = make_runner()
    runner.data_root = tmp_path / "nowhere"
    with pytest.raises(UserError, match="nowhere"):
        runner.run()
    runner = make_runner()
    runner.folder.root.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written to"):
        runner.run()


def test_a_killed_run_goes_on_and_runs_nothing_twice(
    tmp_path: Path, make_runner: Callable[..., Runner], data: Path
) -> None:
    runner = make_runner()
    command = [
        sys.executable,
        "-m",
        "eval.cli",
        "run",
        str(tmp_path / "small.yaml"),
        "--data-root",
        str(data),
    ]
    process = subprocess.Popen(
        [*command, "--out", str(runner.folder.root), "--quiet"], stdout=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not runner.folder.records.is_file() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = [record.run_id for record in records.read([runner.folder.records]).records]
    assert before
    summary = make_runner().run()
    assert summary.skipped == len(set(before))
    assert summary.done == 4 - len(set(before))
    assert len(records.read([runner.folder.records]).records) == 4


def test_one_process_writes_to_a_folder(make_runner: Callable[..., Runner]) -> None:
    runner = make_runner()
    runner.folder.root.mkdir()
    code = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(runner.folder.root / ".lock")], stdout=subprocess.PIPE
    )
    try:
        assert held.stdout is not None
        held.stdout.readline()
        with pytest.raises(UserError, match="another process"):
            runner.run()
    finally:
        held.kill()
        held.wait()


def test_costs_are_told_from_like_cells(
    make_runner: Callable[..., Runner], make_record: Callable[..., Record]
) -> None:
    runner = make_runner()
    knn, linear = runner.plan.cells[:2]
    costs = Costs()
    assert costs.of(knn) is None
    costs.learn([make_record(protocol="knn", task="other", seconds=s) for s in (1.0, 3.0, 100.0)])
    assert costs.of(knn) == 3.0  # the median of the protocol
    costs.learn([make_record(protocol="knn", task="shades", seconds=7.0)])
    assert costs.of(knn) == 7.0  # of the task itself
    costs.learn([make_record(protocol="linear", status="failed", seconds=9.0)])
    assert costs.of(linear) is None
    assert costs.left([knn, knn], arms=0) == "; 2 cells left, about 14 s"
    assert costs.left([knn, linear], arms=0).endswith("or more")
    assert costs.left([], arms=0) == ""


def test_a_failure_says_where_without_the_paths_of_this_machine() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        kept = failure(error)
    assert (kept.type, kept.message) == ("ValueError", "two lines")
    assert kept.traceback
    assert not any(line.startswith("/") for line in kept.traceback)


def test_plain_values_are_json() -> None:
    value = {1: (np.float32(0.5), np.arange(2)), "nan": float("nan"), "inf": np.inf, "flag": np.bool_(True)}
    assert plain(value) == {"1": [0.5, [0, 1]], "nan": None, "inf": None, "flag": True}


def test_durations_for_people() -> None:
    assert [duration(seconds) for seconds in (0.25, 42.0, 600.0, 7200.0)] == [
        "0.2 s",
        "42 s",
        "10 min",
        "2.0 h",
    ]


def test_a_stage_that_counts_epochs_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Bar:
        def __init__(self, total: int, desc: str, **_: Any) -> None:
            self.n, self.total, self.told = 0, total, [desc]
            made.append(self)

        def set_description(self, desc: str, refresh: bool = True) -> None:
            self.told.append(desc)

        def update(self, more: int) -> None:
            self.n += more

        def close(self) -> None:
            pass

    monkeypatch.setattr(local, "bar", Bar)
    with local.live("mine", True) as update:
        for step in range(1, 5):
            update(f"fine-tuning, epoch {(step + 1) // 2} of 2", step, 4)
        update("features", 3, 9)
    assert [(each.n, each.total, each.told[-1]) for each in made] == [
        (4, 4, "mine: fine-tuning, epoch 2 of 2"),
        (3, 9, "mine: features"),
    ]
