"""A task file's mistakes are found when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import tasks
from eval.errors import UserError
from eval.numbers import metrics
from eval.running.local import make_cell

MINE = {"version": 1, "kind": "classification", "dataset": "mine", "metric": "top1", "protocols": ["linear"]}


def read(folder: Path, **changes: object) -> tasks.Task:
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (MINE | changes).items()))
    return tasks.get(str(path))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocols": ["linear", "knnn"]}, r"task 'mine': unknown protocol 'knnn' \(did you mean knn"),
        ({"protocols": ["voc-fpn-tiny"]}, "the protocol voc-fpn-tiny is not for classification"),
        ({"protocols": []}, "lists no protocols"),
        ({"metric": "accuracy"}, r"unknown metric 'accuracy' \(known: mean_per_class, top1, top5"),
        ({"metric": "box_ap"}, "unknown metric 'box_ap'"),
        ({"metric": "mean_per_clas"}, "did you mean mean_per_class"),
        ({"kind": "detection"}, "unknown metric 'top1'"),
        ({"kind": "clasification"}, "unknown kind 'clasification' .did you mean classification"),
    ],
)
def test_a_typo_is_told_with_the_known_name(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    assert read(tmp_path).protocols == ("linear",)
    with pytest.raises(UserError, match=told) as caught:
        read(tmp_path, **changes)
    assert caught.value.code == 2


def test_a_protocol_of_ones_own_is_listed_by_its_path(tmp_path: Path) -> None:
    how = tmp_path / "five.yaml"
    how.write_text("{version: 1, kind: knn, source: mine, params: {k: [5], temperature: 0.07, refit: false}}")
    task = read(tmp_path, protocols=[str(how)])
    assert make_cell("any", str(tmp_path / "mine.yaml"), task.protocols[0], {}, 0).protocol.name == "five"


def test_the_metrics_of_tasks_are_those_that_are_computed() -> None:
    assert {*tasks.KINDS["classification"], *tasks.KINDS["multilabel"]} == set(metrics.METRICS)
