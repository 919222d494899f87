"""How a command line is read, before any verb runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.cli import entry as cli
from eval.cli.list import KINDS
from eval.errors import UserError
from eval.running import request
from mast import config, yaml


@pytest.mark.parametrize(
    "line",
    [
        "pretrain demo a=1 b.c=2 --data-root D --out O",
        "pretrain demo a=1 --data-root D b.c=2 --out O",
        "pretrain demo --data-root D --out O a=1 b.c=2",
        "pretrain --data-root D --out O demo a=1 b.c=2",
        "pretrain --data-root D demo --out O a=1 --quiet b.c=2",
    ],
)
def test_overrides_stand_anywhere(line: str) -> None:
    parsed = cli.parse(line.split())
    assert (parsed.recipe, parsed.overrides) == ("demo", ["a=1", "b.c=2"])
    assert (parsed.data_root, parsed.out) == (Path("D"), Path("O"))


def test_folders_stand_anywhere() -> None:
    assert cli.parse(["table", "a", "--format", "md", "b"]).places == [Path("a"), Path("b")]
    assert cli.parse(["compare", "a", "--pair", "x", "y", "b"]).places == [Path("a"), Path("b")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "pretrain demo --out O --epochs=1 a=1",
            r"unrecognized arguments: --epochs=1 \(see `mast pretrain --",
        ),
        ("inspect a b=1", r"unrecognized arguments: b=1 \(see `mast inspect --help`"),
        ("doctor --quik", r"unrecognized arguments: --quik \(see `mast doctor --help`"),
    ],
)
def test_what_a_verb_does_not_know_is_an_error(line: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        cli.parse(line.split())
    assert caught.value.code == 2


def test_a_list_may_be_given_in_parts() -> None:
    line = "eval --checkpoint a --checkpoint b c --task x --task y --set k=1 --set l=2 --seeds 1 --seeds 2"
    parsed = cli.parse([*line.split(), "--out", "O"])
    assert parsed.checkpoint == ["a", "b", "c"]
    assert parsed.task == ["x", "y"]
    assert parsed.set == ["k=1", "l=2"]
    assert parsed.seeds == [1, 2]
    assert cli.parse(["eval", "--checkpoint", "a", "--task", "x", "--out", "O"]).set == []


ODD = (
    "...",
    "~",
    "\u200b",
    "\u00a0",
    "\u202e",
    "-",
    "x" * 240,
    "\u6f22" * 80,
    "\U00010400" * 60,
    "a\u0301" * 60,
    "$(x)",
)


@pytest.mark.parametrize("stem", ODD, ids=map(ascii, ODD))
def test_any_file_has_a_name_for_tables_and_files(stem: str, tmp_path: Path) -> None:
    file = tmp_path / f"{stem}.safetensors"
    file.touch()
    (name,) = request._named(request.Request((str(file),), ()))
    assert name
    assert not name.startswith((".", "-"))
    (tmp_path / f".{name}-{'0' * 12}.json.12345678.tmp").touch()


def test_names_that_no_file_could_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 101
    line = [
        "eval",
        f"--checkpoint={name}=random:resnet18",
        "--task=cifar10",
        f"--out={tmp_path}/out",
        "--data-root=.",
    ]
    assert cli.main(line) == 2
    assert "longer than 100 bytes" in capsys.readouterr().err
    (tmp_path / "\udcff.pth").touch()
    assert cli.main(["inspect", str(tmp_path / "\udcff.pth")]) == 2
    assert "the name is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--task cifar10 --protocol knn --set k=foo", "parameter k of protocol knn cannot be 'foo'"),
        ("--task cifar10 --protocol knn --set k", "--set k: not of the form key=value"),
        ("--task voc0712 --set batch=big", "detection option batch='big' is not int"),
    ],
)
def test_a_wrong_value_is_told_before_any_work(
    options: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"eval --checkpoint a=x {options} --data-root {tmp_path} --out {tmp_path}/out"
    assert cli.main(line.split()) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert told in said
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"")
    lines = {
        "eval --checkpoint a=net.pth --task cifr10 --data-root . --out out": "unknown task 'cifr10'",
        "eval --checkpoint a=net.pth --task cifar10 --protocol knnn --data-root . --out out": "'knnn'",
        "eval --checkpoint a=net.pth --task cifar10 --protocol knn --set k=a --data-root . --out out": "'a'",
        "eval --checkpoint a=net.pth --task cifar10 --data-root none --out out": "none: no such folder",
        "eval --checkpoint a=nit.pth --task cifar10 --data-root . --out out": "nit.pth: neither a file nor",
        "run mnii --data-root . --out out": "unknown suite 'mnii'",
        "run mini --data-root none --out out": "none: no such folder",
    }
    program = (
        "import sys; from eval.cli.entry import main; codes = [main(line.split()) for line in sys.argv[1:]]\n"
    )
    program += "print(set(codes), 'torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, *lines], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "{2} False\n"
    for said, told in zip(done.stderr.splitlines(), lines.values(), strict=True):
        assert told in said


def test_a_dry_run_counts_apart_what_cannot_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "--checkpoint", "random:resnet10-c8-half", "--protocol", "knn", "--dry-run"]
    command += ["--data-root", str(tmp_path), "--out", str(tmp_path / "out"), "--task"]
    assert cli.main([*command, "cifar10"]) == 0
    *_, cell, whole, stuck = capsys.readouterr().out.splitlines()
    assert "cifar10  knn v1  seed 0  data missing or broken: " in cell
    assert whole == "1 cell, 0 to run: nothing."
    assert stuck == "1 cell cannot run; the reason stands beside each."
    assert cli.main([*command, "cifar10", "stl10"]) == 0
    assert "2 cells, 0 to run: nothing." in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_lists_fit_a_terminal_of_80_columns(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert cli.main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    headings = [line for line in lines if line.endswith(":") and " " not in line]
    assert bool(headings) == (kind == "checkpoints")
    names = [line.split()[0] for line in lines if line[:1] != " " and line not in headings]
    assert names == [row["name"] for row in rows]
    said = "".join("".join(lines).split())
    for row in rows:  # nothing is cut off
        assert "".join(row["description"].split()) in said


def test_a_list_is_filtered_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "protocols", "dino's", "KNN", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names == ["knn-dino-k10", "knn-dino-k100", "knn-dino-k20", "knn-dino-k200"]
    assert cli.main(["list", "tasks", "nosuchword"]) == 1
    assert "no tasks with nosuchword (`mast list tasks` shows all)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "augmentations"])
def test_a_list_does_not_import_torch(kind: str) -> None:
    program = f"import sys; from eval.cli.entry import main; main(['list', '{kind}']); print('torch' in sys.modules)"
    root = Path(cli.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("name", ["demo", "imagenet-r50-mast5-100ep"])
def test_a_recipe_is_shown_with_everything_that_it_leaves_unsaid(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["recipe", "show", name, "epochs=3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == config.load_recipe(name, ["epochs=3"]).model_dump(mode="json")
    assert cli.main(["recipe", "show", name, "epochs=3"]) == 0
    assert yaml.parse(capsys.readouterr().out, "shown") == shown
    assert cli.main(["recipe", "show", name[:-1]]) == 2
    assert f"did you mean {name}" in capsys.readouterr().err
    assert cli.main(["recipe", "show", name, "epoch=3"]) == 2
    assert "did you mean epochs" in capsys.readouterr().err


def test_an_own_recipe_needs_no_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = config.load_recipe("demo").model_dump(mode="json", exclude={"source"})
    (tmp_path / "own.yaml").write_text(json.dumps({**recipe, "name": "own"}))
    assert cli.main(["recipe", "show", str(tmp_path / "own.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "own"
