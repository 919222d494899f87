"""`--include`: the user's own definitions by name, of every kind, and what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import protocols, scenes, suites, tasks
from eval.checkpoints import layouts
from eval.cli import entry as cli
from eval.definitions import included
from eval.results import records

OWN = {
    "tasks/hues.yaml": (
        "{version: 1, kind: classification, dataset: scenes, label: colour, metric: top1, default: near}"
    ),
    "protocols/near.yaml": "{version: 1, kind: knn, source: us, params: {k: [3], temperature: 0.07, refit: false}}",
    "suites/ours.yaml": (
        "{name: ours, description: ours, checkpoints: [{name: any, ref: 'random:resnet10-c8-half'}],"
        " cells: [{tasks: [hues], protocols: [near]}]}"
    ),
    "layouts/mine.yaml": "{title: Mine, source: here, at: [state_dict], prefix: backbone., marks: ['head']}",
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in OWN.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text, encoding="utf-8")
    return tmp_path / "own"


def test_all_kinds_have_names_while_included_and_none_after(own: Path) -> None:
    with included([own]):
        assert tasks.get("hues").default == "near"
        assert "near" in tasks.get("cifar10").protocols
        assert protocols.get("near").params["k"] == [3]
        assert "ours" in suites.names()
        assert layouts.get("mine").prefix == "backbone."
    assert "hues" not in tasks.names()
    assert "near" not in protocols.names()
    assert "near" not in tasks.get("cifar10").protocols
    assert "ours" not in suites.names()
    assert "mine" not in layouts.table()


def test_a_suite_of_ones_own_runs_by_its_name(own: Path, tmp_path: Path) -> None:
    scenes.write(tmp_path / "data", size="test")
    command = [
        "run",
        "ours",
        "--data-root",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert cli.main(command) == 2  # not without --include
    assert cli.main([*command, "--include", str(own), "--json"]) == 0
    (record,) = records.read([tmp_path / "out"]).counting()
    assert (record.task.name, record.protocol.name) == ("hues", "near")


@pytest.mark.parametrize("kind", ["tasks", "protocols", "suites", "layouts"])
def test_lists_show_them(own: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = {"tasks": "hues", "protocols": "near", "suites": "ours", "layouts": "mine"}[kind]
    assert cli.main(["list", kind, "--include", str(own), "--json"]) == 0
    assert name in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert cli.main(["list", kind, "--json"]) == 0
    assert name not in {row["name"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("none", "none: no such folder"),
        ("empty", "empty: holds none of the folders tasks, protocols, suites, layouts"),
    ],
)
def test_a_wrong_folder(tmp_path: Path, folder: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["list", "tasks", "--include", str(tmp_path / folder)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"),
    [("tasks", "cifar10"), ("protocols", "knn"), ("suites", "mini"), ("layouts", "torchvision")],
)
def test_a_name_that_exists_already(
    own: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = (own / kind).iterdir()
    file.rename(own / kind / f"{name}.yaml")
    assert cli.main(["list", kind, "--include", str(own)]) == 2
    assert f"{name}.yaml" in (said := capsys.readouterr().err)
    assert "rename one" in said


@pytest.mark.parametrize("kind", ["tasks", "protocols", "suites", "layouts"])
def test_a_broken_file_is_named(own: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = (own / kind).iterdir()
    file.write_text("{title: [", encoding="utf-8")
    assert cli.main(["list", kind, "--include", str(own)]) == 2
    assert str(file) in capsys.readouterr().err
