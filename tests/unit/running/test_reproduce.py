"""``mast reproduce``: with nothing, with a part and with everything at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eval import datasets, features, protocols, suites, tasks
from eval.checkpoints import load, references, registry
from eval.cli import entry as cli
from eval.results import published
from eval.running.plan import plan

SUITES = ("vicreg-table1", "vicreg-table2", "ericsson2021", "augself-stl10", "mast", "peers-mini")
REF = "random:resnet10-c8-half@0"
SUITE = """
name: small
title: A small suite
description: for tests
scenes: test
published: [PUBLISHED]
checkpoints:
  - {name: ours, ref: "REF", published: ours resnet10-c8-half}
cells:
  - {tasks: [scenes-shape], protocols: [knn-dino-k20]}
  - {tasks: [scenes-shape], protocols: [knn-dino-k20], overrides: {k: [5]}}
"""


def neighbours(data: Path, store: Path) -> float:
    """DINO's 20-NN written out with numpy."""
    found, loaded = datasets.load("scenes", data, label="shape"), load(REF)
    rows, labels = {}, {}
    for name, split in found.splits.items():
        how = {"store": store, "resize": 1.142857, "interpolation": "bicubic"}
        made = np.asarray(features.extract(loaded.backbone, loaded.passport, split, **how))  # type: ignore[arg-type]
        rows[name] = made / np.linalg.norm(made, axis=1, keepdims=True)
        labels[name] = split.labels
    bank = np.concatenate([rows["train"], rows["val"]])
    classes = np.concatenate([labels["train"], labels["val"]])
    right = 0
    for query, label in zip(rows["test"], labels["test"], strict=True):
        near = bank @ query
        first = np.argsort(-near)[:20]
        votes = np.bincount(classes[first], np.exp(near[first] / 0.07), found.num_classes)
        right += int(votes.argmax() == label)
    return right / len(labels["test"])


@pytest.fixture(scope="module")
def scenes_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from eval import scenes

    folder = tmp_path_factory.mktemp("data")
    scenes.write(folder, size="test")
    return folder


@pytest.fixture
def suite(tmp_path: Path, scenes_data: Path) -> Path:
    numbers, value = tmp_path / "numbers.csv", 100 * neighbours(scenes_data, tmp_path / "store")
    numbers.write_text(
        "method,backbone,task,metric,value,source,same_as,cite,tolerance\n"
        f"ours,resnet10-c8-half,shape,top1,{value:.3f},numpy on the same images,"
        "scenes-shape knn-dino-k20 v2 top1,,0.7\n"
    )
    path = tmp_path / "small.yaml"
    path.write_text(SUITE.replace("PUBLISHED", str(numbers)).replace("REF", REF))
    return path


def lines(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((out / "reproduction" / "reproduction.json").read_text())[
        "lines"
    ]
    return found


def test_the_protocol_reproduces_and_a_changed_one_differs(
    suite: Path, scenes_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", str(suite), "--data-root", str(scenes_data), "--out", str(out), "--quiet"]
    assert cli.main([*command, "--dry-run"]) == 0
    assert not out.exists()
    assert "2 not run" in capsys.readouterr().out
    assert cli.main(command) == 1
    first, second = lines(out)
    assert (first["verdict"], first["delta"]) == ("reproduced", [])
    assert (second["verdict"], second["delta"]) == ("differs", ["k=[5]"])
    assert "1 reproduced, 1 differ." in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<section id="reproduction">' in page
    assert "verdict-differs" in page
    # Interrupted after the first cell: the same command measures the second, and the first stays as it was.
    records = out / "records" / "small.jsonl"
    kept = records.read_text().splitlines(keepends=True)
    records.write_text(kept[0])
    assert cli.main(command) == 1
    again = records.read_text().splitlines(keepends=True)
    assert (len(again), again[0]) == (2, kept[0])
    assert [line["verdict"] for line in lines(out)] == ["reproduced", "differs"]


def test_features_in_bf16_are_told_beside_the_published_number(
    suite: Path, scenes_data: Path, tmp_path: Path
) -> None:
    text = suite.read_text().replace("published: ours", "options: {precision: bf16}, published: ours")
    suite.write_text(text)
    command = [
        "reproduce",
        str(suite),
        "--data-root",
        str(scenes_data),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert cli.main(command) in (0, 1)
    first, second = lines(tmp_path / "out")
    assert first["delta"] == ["features in bf16"]
    assert set(second["delta"]) == {"k=[5]", "features in bf16"}  # type: ignore[call-overload]


def test_with_a_part_of_the_data_that_part_is_run(suite: Path, scenes_data: Path, tmp_path: Path) -> None:
    changed = "{tasks: [scenes-shape], protocols: [knn-dino-k20], overrides: {k: [5]}}"
    assert changed in suite.read_text()
    suite.write_text(suite.read_text().replace(changed, "{tasks: [cifar100], protocols: [knn-dino-k20]}"))
    out = tmp_path / "out"
    command = ["reproduce", str(suite), "--data-root", str(scenes_data), "--out", str(out), "--quiet"]
    assert cli.main(command) == 3
    first, second = lines(out)
    assert first["verdict"] == "reproduced"
    assert (second["verdict"], second["why"]) == ("not run", "missing: data cifar100")
    assert len((out / "records" / "small.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", SUITES)
def test_with_nothing_at_hand_it_says_what_is_missing_and_trains_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAST_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert cli.main(["reproduce", name, "--out", str(out), "--quiet"]) == 3
    told = capsys.readouterr().out
    assert "Not at hand:" in told
    assert {line["verdict"] for line in lines(out)} == {"not run"}
    assert [path.name for path in out.iterdir()] == ["reproduction"]
    assert not (tmp_path / "cache").exists()
    if name in ("vicreg-table1", "mast"):
        assert "non-commercial research" in told
    if name == "vicreg-table1":
        assert "licence CC-BY-NC 4.0" in told


def test_weights_that_cannot_be_had_are_told_with_their_place(
    scenes_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAST_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "hand.yaml"
    path.write_text(
        "name: hand\ndescription: x\ncheckpoints: [{name: insdis, ref: insdis}, {name: gone, ref: /no/such.pth},\n"
        '  {name: random, ref: "random:resnet50@0", like: insdis}]\n'
        "cells: [{tasks: [scenes-shape], protocols: [knn]}]\n"
    )
    out = tmp_path / "out"
    assert (
        cli.main(["reproduce", str(path), "--data-root", str(scenes_data), "--out", str(out), "--quiet"]) == 3
    )
    needs = json.loads((out / "reproduction" / "reproduction.json").read_text())["needs"]
    assert [(need["what"], need["cells"]) for need in needs] == [
        ("weights insdis", 2),
        ("weights /no/such.pth", 1),
    ]
    assert needs[0]["where"] == f"by hand from {registry.get('insdis').page}"
    target = tmp_path / "cache" / "insdis"
    target.mkdir(parents=True)
    (target / "InsDis.pth").touch()
    assert references.at_hand("insdis")
    assert not references.at_hand("moco-v2-800ep")
    shutil.rmtree(target)
    assert not references.at_hand("insdis")


@pytest.mark.parametrize("name", suites.names())
def test_every_published_column_of_a_suite_exists(name: str) -> None:
    """A number's ``same_as`` that names no task, protocol or version of this project could never be reproduced."""
    suite = suites.load(name)
    for item in published.read(published.committed(suite.published)):
        if item.same_as is not None:
            task, how = tasks.get(item.same_as.task), protocols.get(item.same_as.protocol)
            task.check(how)
            assert how.version == item.same_as.version
    for choice in published.read_chosen(published.committed(suite.chosen)):
        tasks.get(choice.task).check(protocols.get(choice.protocol))
        assert protocols.get(choice.protocol).version == choice.version


@pytest.mark.parametrize("name", [name for name in SUITES if name not in ("augself-stl10",)])
def test_suites_of_publications_have_cells_for_their_numbers(name: str) -> None:
    suite = suites.load(name)
    cells = {(cell.task.name, cell.protocol.name) for cell in plan(suite).cells}
    numbers = published.read(published.committed(suite.published))
    assert [item for item in numbers if item.same_as and (item.same_as.task, item.same_as.protocol) in cells]
