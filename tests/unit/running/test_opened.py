"""A run opens a data set once, and a cell's own part is drawn from it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eval import tasks
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
