"""A task file's mistakes are found when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import protocols, tasks
from eval.errors import UserError
from eval.numbers import metrics
from eval.running.plan import make_cell

MINE = {"version": 1, "kind": "classification", "dataset": "mine", "metric": "top1"}


def read(folder: Path, **changes: object) -> tasks.Task:
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (MINE | changes).items()))
    return tasks.get(str(path))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"default": "knnn"}, r"task 'mine': unknown protocol 'knnn' \(did you mean knn"),
        ({"default": "voc-fpn-tiny"}, "voc-fpn-tiny is for detection, and the task mine is classification"),
        ({"excludes": ["knnn"]}, r"task 'mine': unknown protocol 'knnn' \(did you mean knn"),
        ({"excludes": ["linear"]}, "the task mine excludes the protocol 'linear'"),
        ({"protocols": ["linear"]}, "unknown key 'protocols'"),
        ({"metric": "accuracy"}, r"unknown metric 'accuracy' \(known: mean_per_class, top1, top5"),
        ({"metric": "box_ap"}, "unknown metric 'box_ap'"),
        ({"metric": "mean_per_clas"}, "did you mean mean_per_class"),
        ({"kind": "detection"}, "unknown metric 'top1'"),
        ({"kind": "clasification"}, "unknown kind 'clasification' .did you mean classification"),
    ],
)
def test_a_typo_is_told_with_the_known_name(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    assert read(tmp_path).default == "linear"
    with pytest.raises(UserError, match=told) as caught:
        read(tmp_path, **changes)
    assert caught.value.code == 2


def test_a_protocol_of_ones_own_is_the_default_by_its_path(tmp_path: Path) -> None:
    how = tmp_path / "five.yaml"
    how.write_text("{version: 1, kind: knn, source: mine, params: {k: [5], temperature: 0.07, refit: false}}")
    task = read(tmp_path, default=str(how))
    assert make_cell("any", str(tmp_path / "mine.yaml"), task.default, {}, 0).protocol.name == "five"
    assert task.protocols[0] == str(how)


def test_a_protocol_says_which_tasks_it_is_for(tmp_path: Path) -> None:
    assert "knn" in tasks.get("voc07-cls").protocols
    assert "knn-dino-k20" not in tasks.get("voc07-cls").protocols  # of one label an image
    assert "linear-places205-vicreg" in tasks.get("places205").protocols
    with pytest.raises(UserError, match="linear-places205-vicreg is for places205, and the task cifar10"):
        make_cell("any", "cifar10", "linear-places205-vicreg", {}, 0)
    task = read(tmp_path, excludes=["knn"])
    assert "knn" not in task.protocols
    with pytest.raises(UserError, match="excludes the protocol 'knn'"):
        make_cell("any", str(tmp_path / "mine.yaml"), "knn", {}, 0)


def test_what_protocols_are_for_exists() -> None:
    known = {*tasks.KINDS, *tasks.names()}
    for protocol in map(protocols.get, protocols.names()):
        assert set(protocol.tasks) <= known
        assert set(protocol.code.tasks) <= set(tasks.KINDS)
        assert any(protocol.name in tasks.get(name).protocols for name in tasks.names())


def test_the_metrics_of_tasks_are_those_that_are_computed() -> None:
    own = {*tasks.KINDS["classification"].metrics, *tasks.KINDS["multilabel"].metrics}
    assert own == set(metrics.METRICS)


@pytest.mark.parametrize(
    ("name", "metric", "protocol"),
    [("coco:mine", "box_ap", "coco-fpn-1x"), ("voc:mine", "box_ap50", "voc-fpn-ericsson2021")],
)
def test_a_folder_of_boxes_is_a_task(name: str, metric: str, protocol: str) -> None:
    task = tasks.get(name)
    assert (task.kind, task.dataset, task.metric, task.default) == ("detection", name, metric, protocol)
    assert make_cell("x", name, "coco-fpn-tiny", {}, 0).task == task
