"""A run opens a data set once, and a cell's own part is drawn from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval import datasets, scenes, tasks
from eval.datasets import base, torchvision_sets
from eval.running import opened
from eval.running.opened import OpenData
from eval.running.plan import make_cell
from eval.tasks import kinds


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each data set was opened; every one holds 10 examples."""
    found: Counter[str] = Counter()

    def load(name: str, root: Path, **options: Any) -> Any:
        found[name] += 1
        return SimpleNamespace(counts={"test": 10}, manifest=name, check=lambda: None)

    monkeypatch.setattr("eval.datasets.load", load)
    return found


def test_cells_share_what_is_open(times: Counter[str], tmp_path: Path) -> None:
    data = OpenData(tmp_path)
    cells = [
        make_cell("any", task, protocol, {}, seed)
        for task in ("cifar10", "stl10")
        for protocol in ("knn", "linear", "fewshot")
        for seed in (0, 1)
    ]
    assert len({id(data.of(cell)) for cell in cells}) == 2
    assert times == {"cifar10": 1, "stl10": 1}
    assert data.whole(tasks.get("scenes-shape")) is not data.whole(tasks.get("scenes-colour"))
    assert times["scenes"] == 2  # another column to predict is other data


def test_the_longest_unused_is_let_go(
    times: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "LIMIT", 20)
    data = OpenData(tmp_path)
    for name in ("cifar10", "stl10", "cifar10", "dtd", "cifar10", "stl10"):
        data.whole(tasks.get(name))
    assert times == {"cifar10": 1, "dtd": 1, "stl10": 2}


def test_a_failure_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that are mended while a run goes on are found."""
    data, answers = OpenData(tmp_path), [ValueError("broken"), SimpleNamespace(counts={}, check=lambda: None)]

    def load(name: str, root: Path, **options: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("eval.datasets.load", load)
    task = tasks.get("cifar10")
    with pytest.raises(ValueError, match="broken"):
        data.whole(task)
    assert data.whole(task).counts == {}


def test_every_kind_of_task_can_be_opened() -> None:
    assert all(callable(kind.open) for kind in kinds.KINDS.values())


SCENES = ("scenes-shape", "scenes-seg", "scenes-voc", "scenes-coco")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("data")
    scenes.write(found, size="test")
    return found


def reading(data: Any) -> Any:
    """What is read first in test, whatever the kind."""
    if not hasattr(data, "splits"):
        return np.array([repr(entry) for entry in data.test.dicts[:3]])
    split = data.splits["test"]
    return split.read(0) if hasattr(split, "read") else np.asarray(split.pool.read(int(split.rows[0])))


@pytest.mark.parametrize("limit", [None, 6])
@pytest.mark.parametrize("name", SCENES)
def test_another_process_reads_the_same_and_hashes_nothing(
    root: Path, tmp_path: Path, name: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, task = OpenData(root, limit), OpenData(root, limit), tasks.get(name)
    cell = make_cell("any", name, tasks.get(name).default or "knn", {}, 0)
    before = here.of(cell)
    manifest = before.manifest
    here.hand(task, tmp_path / "handed")
    monkeypatch.setattr(base, "_sha256", None)
    monkeypatch.setattr(type(task), "open", None)
    after = there.of(cell, tmp_path / "handed")
    assert after is not before
    assert (after.manifest, after.counts, after.warnings) == (manifest, before.counts, before.warnings)
    np.testing.assert_array_equal(reading(after), reading(before))
    assert there.whole(task) is there.whole(task)


def test_images_in_memory_and_derived_ones_can_be_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    splits = {
        part: torchvision_sets._array_split("made", part, tmp_path, images + add, np.arange(20) % 2)
        for part, add in (("train", np.uint8(0)), ("val", np.uint8(1)), ("test", np.uint8(2)))
    }
    made = datasets.ImageDataset("made", ("a", "b"), splits)
    turned = datasets.factors.factor(made, "rotation")
    for data in (made, made.limited(6), turned):
        monkeypatch.setattr("eval.datasets.load", lambda *_, data=data, **__: data)
        here = OpenData(tmp_path)
        here.hand(tasks.get("cifar10"), tmp_path / "handed")
        found = OpenData(tmp_path).whole(tasks.get("cifar10"), tmp_path / "handed")
        assert found.manifest == data.manifest
        np.testing.assert_array_equal(reading(found), reading(data))
        assert found.splits["test"].pool.contents == data.splits["test"].pool.contents
