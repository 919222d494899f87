"""An installed wheel is whole: built, put into an environment of its own and used from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from eval import scenes

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
name: tiny
description: for tests
checkpoints:
  - {name: mast5, ref: mast5-imagenette96}
  - {name: random, ref: "random:resnet10-c8-half@0", like: mast5}
cells:
  - {tasks: [scenes-colour], protocols: [knn], overrides: {k: [5, 10]}}
"""
Mast = Callable[..., str]


def build(source: Path, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def mast(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Mast:
    """The command of a fresh environment that holds the wheel, and sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder / "venv")}))
    # A path file is not searched for path files in its turn: an editable install of this tree stays outside.
    (inside / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "MAST_REVISION"}
    }

    def run(*arguments: str | Path) -> str:
        command = [str(folder / "venv" / "bin" / "mast"), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import eval, mast; print(eval.__file__); print(mast.__file__)"
    imported = subprocess.run(
        [python, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert all(Path(line).is_relative_to(inside) for line in imported.stdout.split())
    return run


def _inside(name: str, moved: dict[str, str]) -> str:
    for folder, place in moved.items():
        name = name.replace(folder, place, 1) if name.startswith(folder) else name
    return name


def test_every_file_of_the_packages_is_in_it(wheel: Path) -> None:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    packages = ["mast", "eval", "pretrained", "results/published"]
    listed = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    moved = {"pretrained/": "eval/pretrained/", "results/published/": "eval/published/"}
    expected = {_inside(name, moved) for name in files}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == expected | {"mast/REVISION"}


def test_what_there_is_by_name(mast: Mast) -> None:
    for kind, name in (
        ("checkpoints", "mast5-imagenette96"),
        ("recipes", "imagenette96-mini"),
        ("suites", "mini"),
        ("tasks", "scenes-colour"),
        ("protocols", "linear"),
    ):
        assert name in {row["name"] for row in json.loads(mast("list", kind, "--json"))}


def test_a_shipped_checkpoint_and_a_file_are_read(mast: Mast, tmp_path: Path) -> None:
    mast("convert", "mast5-imagenette96", "--to", "torchvision", tmp_path / "backbone.pth")
    shipped = json.loads(mast("inspect", "mast5-imagenette96", "--json"))
    copy = json.loads(mast("inspect", tmp_path / "backbone.pth", "--arch", shipped["arch"], "--json"))
    assert shipped["mapped"] == copy["mapped"] > 0


def test_cells_are_measured_and_name_the_revision(mast: Mast, wheel: Path, tmp_path: Path) -> None:
    scenes.write(tmp_path / "data", size="test")
    suite = tmp_path / "tiny.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    where = ("--data-root", tmp_path / "data", "--out", tmp_path / "out", "--quiet")
    mast("run", suite, *where)
    mast("eval", "--checkpoint", "mast5-imagenette96", "--task", "scenes-shape", "--protocol", "knn", *where)
    lines = [
        json.loads(line)
        for path in (tmp_path / "out" / "records").glob("*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    ]
    assert [line["status"] for line in lines] == ["completed"] * 3
    revision = zipfile.ZipFile(wheel).read("mast/REVISION").decode().strip()
    assert {line["environment"]["git"] for line in lines} == {revision}
    assert "scenes-colour" in mast("table", tmp_path / "out", "--format", "md")


def test_the_container_is_built_from_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """What .dockerignore lets in is all that a wheel is made of."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        source, target = ROOT / name, tmp_path / "context" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    made = build(tmp_path / "context", tmp_path / "wheel")
    assert set(zipfile.ZipFile(made).namelist()) == set(zipfile.ZipFile(wheel).namelist())
