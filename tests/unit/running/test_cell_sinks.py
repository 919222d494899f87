"""Results of cells in other programs: each completed record once, under its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import scenes
from eval.cli import entry as cli
from eval.results import records
from eval.results.records import Record
from eval.running.sinks import CellSinks
from mast import sinks
from mast.sinks import Place

Told = list[tuple[str, str, dict[str, float], int]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What a sink was told: the run, its part, numbers and step; and that it ended."""
    found: Told = []

    class Kept:
        def __init__(self, place: Place) -> None:
            self.place = place
            found.append((place.run, "opened", {}, 0))

        def add(self, values: dict[str, float], step: int) -> None:
            found.append((self.place.run, self.place.part, dict(values), step))

        def close(self) -> None:
            found.append((self.place.run, "closed", {}, 0))

    monkeypatch.setitem(sinks._SINKS, "wandb", ("json", Kept))
    return found


def test_numbers_with_the_ends_of_their_intervals(
    tmp_path: Path, make_record: Callable[..., Record], told: Told
) -> None:
    cells = CellSinks(["wandb"], tmp_path)
    cells.add(make_record(name="a/../b", overrides={"k": [5]}, seed=3, beside={"top5": 0.75}))
    cells.add(make_record(name="a/../b", status="failed"))
    cells.close()
    above = "cifar10/linear v1 k=[5]"
    numbers = {
        f"{above}/top1": 0.5,
        f"{above}/top1_low": 0.45,
        f"{above}/top1_high": 0.55,
        f"{above}/top5": 0.75,
    }
    part = "a-..-b-aaaaaaaaaaaa"
    assert told == [
        ("a/../b", "opened", {}, 0),
        ("a/../b", part, numbers, 3),
        ("a/../b", "closed", {}, 0),
    ]


def test_a_run_hands_on_what_it_records_and_nothing_twice(
    tmp_path: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    scenes.write(data, size="test")
    command = ["eval", "--checkpoint", "random:resnet10-c8-half@0", "random:resnet10-c8-half@1"]
    command += ["--task", "scenes-shape", "--protocol", "knn", "--set", "k=[5]", "--quiet"]
    command += ["--data-root", str(data), "--out", str(out), "--log", "wandb"]
    assert cli.main(command) == 0
    sent = {(run, step): values for run, _, values, step in told if values}
    book = records.read([out])
    assert len(sent) == len(book.records) == 2
    for record in book.records:
        values = sent[record.checkpoint.name, record.seed]
        (name,) = [name for name in values if name.endswith("/top1")]
        assert values[name] == record.metrics["top1"].value
    assert [run for run, what, *_ in told if what == "closed"]
    told.clear()
    assert cli.main(command) == 0  # everything is done
    assert told == []


def test_tensorboard_has_a_folder_for_each_checkpoint(
    tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    cells = CellSinks(["tensorboard"], tmp_path)
    for seed in (0, 1):
        cells.add(make_record(name="one", value=0.5 + seed / 4, interval=None, seed=seed))
    cells.add(make_record(name="two", weights="b", interval=None))
    cells.close()
    folders = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert folders == ["one-aaaaaaaaaaaa", "two-bbbbbbbbbbbb"]
    found = event.EventAccumulator(str(tmp_path / "tensorboard" / folders[0]))
    found.Reload()
    assert [(s.step, s.value) for s in found.Scalars("cifar10/linear v1/top1")] == [(0, 0.5), (1, 0.75)]


def test_a_missing_library_is_told_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    command: list[Any] = [
        "eval",
        "--checkpoint",
        "random:resnet10-c8-half",
        "--task",
        "cifar10",
        "--log",
        "mlflow",
    ]
    assert cli.main([*command, "--data-root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "mlflow is not installed" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
