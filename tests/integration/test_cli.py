"""The command line as a user meets it: exit codes, one-line errors, a small suite from end to end."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from eval import scenes
from eval.cli import entry as cli
from eval.cli.list import KINDS

TINY = """
name: tiny
title: A tiny run
description: for tests
pretrain:
  - {name: mast5, recipe: demo, overrides: [epochs=1, batch_size=32, "expander=[32,32]", arch=resnet10-c8-half,
     method=mast, uncertainty=true, views.single_fraction=0.5]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: mast5}
cells:
  - {tasks: [scenes-shape, scenes-colour], protocols: [knn], overrides: {k: [5, 10]}}
  - {tasks: [scenes-colour], protocols: [fewshot], overrides: {queries: 2, shots: 2, way: 3, episodes: 20}}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    scenes.write(folder, size="test")
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, data: Path, suite: Path) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert cli.main(["run", str(suite), "--data-root", str(data), "--out", str(folder), "--quiet"]) == 0
    return folder


def test_help_answers_at_once() -> None:
    """In CPU time, which other load on the machine does not stretch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "eval.cli", "--help"], env=environment, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([verb, "--help"])
        assert stopped.value.code == 0
        assert f"example:\n  mast {verb}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(re.search(rf"\n    {verb}\s", said) for verb in cli.VERBS)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["tabel", "x"], 2, "unknown verb 'tabel' (did you mean table?)"),
        (["list", "task"], 2, "did you mean tasks?"),
        (["list"], 2, "see `mast list --help`"),
        (["run", "mni", "--out", "{tmp}/out"], 2, "unknown suite 'mni' (did you mean mini?)"),
        (["run", "mini", "--out", "{tmp}/out"], 2, "needs --data-root"),
        (["run", "mini", "--out", "{tmp}/out", "--data-root", "{tmp}/none"], 2, "{tmp}/none: no such folder"),
        (
            ["run", "mini", "--out", "{tmp}/file/out", "--data-root", "{tmp}"],
            2,
            "{tmp}/file/out: cannot be written",
        ),
        (
            ["eval", "--checkpoint", "a=x", "--task", "cifr10", "--data-root", "{tmp}", "--out", "{tmp}/out"],
            2,
            "cifar10",
        ),
        (
            [
                "eval",
                "--checkpoint",
                "{tmp}/file",
                "{tmp}/file",
                "--task",
                "cifar10",
                "--data-root",
                "{tmp}",
                "--out",
                "o",
            ],
            2,
            "NAME",
        ),
        (["table", "{tmp}/none"], 2, "{tmp}/none: no such file or folder"),
        (["table", "{tmp}"], 1, "no records"),
        (["report", "{tmp}", "--out", "{tmp}/r.html"], 1, "no records"),
        (["report", "{tmp}", "--out", "{tmp}/file/r.html"], 2, "{tmp}/file/r.html: cannot be written"),
        (["table", "{tmp}", "--out", "{tmp}/file/t.md"], 2, "{tmp}/file/t.md: cannot be written"),
        (["analyze", "{tmp}", "--out", "{tmp}/file"], 2, "cannot be written"),
        (["inspect", "{tmp}/file"], 1, "{tmp}/file"),
        (["inspect", "random:resnet19"], 2, "resnet"),
        (["pretrain", "dmo", "--out", "{tmp}/out"], 2, "did you mean demo?"),
        (["pretrain", "demo", "epoch=1", "--out", "{tmp}/out"], 2, "did you mean epochs?"),
        (["pretrain", "demo", "--data-root", "{tmp}", "--out", "{tmp}/out"], 1, "{tmp}/scenes/train"),
        (["data", "verify", "cifar10", "--data-root", "{tmp}"], 1, "{tmp}/cifar10"),
        (["analyze", "{tmp}", "--out", "{tmp}/out"], 1, "no pretraining run"),
    ],
)
def test_wrong_use_is_one_line_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    (tmp_path / "file").write_text("not a checkpoint")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main([part.replace("{tmp}", str(tmp_path)) for part in arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("mast: error: ")
    assert told.replace("{tmp}", str(tmp_path)) in lines[0]
    left = [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "out"]
    assert left == []


def test_a_run_ends_with_a_table_and_the_files_to_open(
    out: Path, data: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(suite), "--data-root", str(data), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "6 done before" in said.out
    assert said.err.count("done before") == 6
    for word in (
        "mast5",
        "random",
        "scenes-colour top1",
        "knn v1 (k=[5,10])",
        "fewshot v1",
        "Intervals: 95 % wilson.",
    ):
        assert word in said.out
    for name in ("report.html", "tables/table.md", "tables/table.csv"):
        assert str(out / name) in said.out
        assert (out / name).is_file()


def test_a_dry_run_changes_nothing(
    out: Path, data: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(suite), "--data-root", str(data), "--dry-run", "--out"]
    assert cli.main([*command, str(tmp_path / "new")]) == 0
    assert "6 cells, 6 to run" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert cli.main([*command, str(out), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert [cell["state"] for cell in cells] == ["done"] * 6
    assert all(cell["seconds"] > 0 for cell in cells)


def test_a_table_is_checked_against_the_records(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("md", "csv", "tex", "html", "text"):
        path = tmp_path / f"table.{form}"
        assert cli.main(["table", str(out), "--format", form, "--out", str(path)]) == 0
        assert cli.main(["table", str(out), "--format", form, "--check", str(path)]) == 0
        path.write_text(path.read_text().replace("scenes-colour", "scenes-color"))
        capsys.readouterr()
        assert cli.main(["table", str(out), "--format", form, "--check", str(path)]) == 1
        said = capsys.readouterr()
        assert "scenes-color" in said.out
        assert "is not what the records give" in said.err


def test_eval_measures_a_file_beside_a_control(
    out: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = out / "pretrain" / "mast5" / "backbone.safetensors"
    command = ["eval", "--checkpoint", "random:resnet10-c8-half", str(weights), "--task", "scenes-shape"]
    command += [
        "--protocol",
        "knn",
        "--set",
        "k=[5]",
        "--data-root",
        str(data),
        "--out",
        str(tmp_path / "eval"),
    ]
    assert cli.main([*command, "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2
    lines = [json.loads(line) for line in (tmp_path / "eval/records/eval.jsonl").read_text().splitlines()]
    assert [line["checkpoint"]["name"] for line in lines] == ["mast5", "random-resnet10-c8-half"]
    assert {line["checkpoint"]["preprocessing"]["input_size"] for line in lines} == {32}
    assert lines[0]["protocol"]["overrides"] == {"k": [5]}


def test_eval_compares_with_the_checkpoints_that_come_with_it(
    out: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = out / "pretrain" / "mast5" / "backbone.safetensors"
    command = ["eval", "--checkpoint", f"mine={weights}", "--against", "vicreg-imagenette96", "--quiet"]
    command += ["--task", "scenes-shape", "--protocol", "knn", "--set", "k=[5]"]
    assert cli.main([*command, "--data-root", str(data), "--out", str(tmp_path / "eval")]) == 0
    said = capsys.readouterr().out
    assert "| mine - vicreg-imagenette96 |" in said
    assert "paired over test examples or episodes" in said


def test_a_truncated_checkpoint_fails_its_cells_in_one_line(
    out: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = out / "pretrain" / "mast5" / "backbone.safetensors"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(whole.read_bytes()[:1000])
    command = [
        "eval",
        "--checkpoint",
        str(broken),
        "--task",
        "scenes-shape",
        "scenes-colour",
        "--protocol",
        "knn",
    ]
    assert cli.main([*command, "--data-root", str(data), "--out", str(tmp_path / "eval"), "--quiet"]) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert str(broken) in line
    assert line.endswith("[2 cells]")
    assert not (tmp_path / "eval" / "report.html").exists()


def test_masks_are_analyzed(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", str(out / "pretrain" / "mast5"), "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["crop", "flip", "color", "gray", "blur"]
    assert all(Path(path).stat().st_size > 0 for path in found["files"])


def test_a_passport_for_people_and_machines(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(out / "pretrain" / "mast5" / "backbone.safetensors")
    assert cli.main(["inspect", weights, "--json"]) == 0
    passport = json.loads(capsys.readouterr().out)
    assert passport["arch"] == "resnet10-c8-half"
    assert cli.main(["inspect", weights]) == 0
    assert passport["sha256"] in capsys.readouterr().out


def test_a_conversion_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.pth"
    file.write_bytes(b"precious")
    assert cli.main(["convert", str(file), "--to", "torchvision", str(file)]) == 2
    assert "mine.pth exists" in capsys.readouterr().err
    assert file.read_bytes() == b"precious"


def test_data_is_verified(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["data", "verify", "scenes", "--data-root", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"train": 120, "val": 40, "test": 60}
    train, test = tmp_path / "twice" / "train" / "a", tmp_path / "twice" / "test" / "a"
    picture = next((data / "scenes" / "train").rglob("*.jpg")).read_bytes()
    for folder, names in ((train, "12345"), (test, "6")):
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.jpg").write_bytes(picture if name in "16" else picture[: 300 + int(name)])
    others = sorted((data / "scenes" / "train").rglob("*.jpg"))[1:7]
    for split, some in (
        ("train", others[:5]),
        ("test", others[5:]),
    ):  # one class alone is an error of its own
        (tmp_path / "twice" / split / "b").mkdir()
        for other in some:
            shutil.copy(other, tmp_path / "twice" / split / "b")
    assert cli.main(["data", "verify", "twice", "--data-root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{train / '2.jpg'}: cannot be decoded" in said
    assert "the same image in train" in said or "the same image in val" in said


@pytest.mark.parametrize("kind", KINDS)
def test_everything_with_a_name_is_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["name"] and row["description"] for row in rows)


@pytest.mark.parametrize("kind", ["box", "missing", "corrupt"])
def test_bad_detection_data_is_named_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    if kind == "box":
        task, protocol = "scenes-voc", "voc-fpn-tiny"
        bad = sorted((copy / "VOC2007" / "Annotations").glob("*.xml"))[0]
        bad.write_text(re.sub(r"<xmax>\d+</xmax>", "<xmax>9999</xmax>", bad.read_text(), count=1))
    else:
        task, protocol = "scenes-coco", "coco-fpn-tiny"
        bad = sorted((copy / "coco" / "val2017").glob("*.jpg"))[0]
        if kind == "missing":
            bad.unlink()
        else:
            bad.write_bytes(bad.read_bytes()[:100])
    command = ["eval", "--checkpoint", "random:resnet10-c8-half", "--task", task, "--protocol", protocol]
    assert cli.main([*command, "--data-root", str(copy), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert bad.name in line
    assert line.startswith("mast: error: ")
    assert not (tmp_path / "out" / "work").exists()
