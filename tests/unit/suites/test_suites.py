"""Suites are read strictly: what is misspelt, given twice or missing is an error that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import suites
from eval.errors import UserError
from eval.running.plan import plan

GOOD = """
name: two
description: for tests
checkpoints:
  - {name: a, ref: "random:resnet10-c8@0"}
  - {name: b, ref: "random:resnet10-c8@1", like: a}
cells:
  - {tasks: [cifar10], protocols: [linear, knn], seeds: [0, 1]}
  - {tasks: [scenes-shape], protocols: [knn], overrides: {k: [5]}, checkpoints: [b]}
"""


def read(tmp_path: Path, text: str) -> suites.Suite:
    path = tmp_path / "two.yaml"
    path.write_text(text)
    return suites.load(path)


def test_a_plan_holds_every_cell_grouped_by_checkpoint(tmp_path: Path) -> None:
    todo = plan(read(tmp_path, GOOD))
    assert [source.name for source in todo.sources] == ["a", "b"]
    assert [str(cell) for cell in todo.cells] == [
        "a · cifar10 · linear v2",
        "a · cifar10 · linear v2 seed 1",
        "a · cifar10 · knn v1",
        "a · cifar10 · knn v1 seed 1",
        "b · cifar10 · linear v2",
        "b · cifar10 · linear v2 seed 1",
        "b · cifar10 · knn v1",
        "b · cifar10 · knn v1 seed 1",
        "b · scenes-shape · knn v1",
    ]
    assert todo.cells[-1].protocol.params["k"] == [5]
    assert todo.cells[2].protocol.params["k"] != [5]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("description:", "descripton:", "did you mean description?"),
        ("protocols: [linear", "protocol: [linear", "did you mean protocols?"),
        ("name: two", "name: two\nname: three", "stands twice"),
        ("name: two", "name: a/b", "name"),
        ("like: a", "like: c", "unknown earlier checkpoint 'c'"),
        ("name: b", "name: a", "given twice"),
        ("checkpoints: [b]", "checkpoints: [bb]", "did you mean b?"),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("cells:", "cell:", "did you mean cells?"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert told in str(caught.value)
    assert str(tmp_path / "two.yaml") in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[cifar10]", "[cifar1O]", "did you mean cifar10"),
        ("[linear, knn]", "[liner]", "did you mean linear"),
        (
            "[linear, knn]",
            "[voc-fpn-tiny]",
            "voc-fpn-tiny is for detection, and the task cifar10 is classification",
        ),
        ("k: [5]", "kk: [5]", "did you mean k?"),
    ],
)
def test_names_are_resolved_before_any_work(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(read(tmp_path, GOOD.replace(old, new, 1)))
    assert told in str(caught.value)


def test_an_unknown_suite_names_the_near_one() -> None:
    with pytest.raises(UserError, match="did you mean demo"):
        suites.load("dmo")


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_of_the_package_resolves(name: str) -> None:
    suite = suites.load(name)
    assert suite.name == name
    assert plan(suite).cells
