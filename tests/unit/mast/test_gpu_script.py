"""The script for GPUs that are lent for minutes: what it unpacks and plans, and that it stops when told."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from eval import suites
from mast.config import load_recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def archives(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("archives")
    for name in ("cifar10", "caltech101_20"):
        with tarfile.open(folder / f"{name}.tar", "w") as file:
            file.add(data_root / "images", f"{name}/train")
    return folder


def _call(archives, out, *more):
    program = ROOT / "benchmarks" / "gpu_subspaces.py"
    command = [sys.executable, program, "--data", archives, "--out", out, "--seconds", "0", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_it_plans_pairs_seed_after_seed_and_stops(archives, tmp_path):
    more = ["--pretrain-on", "cifar10", "--size", "32", "--seeds", "3", "4", "--override", "batch_size=64"]
    called = _call(archives, tmp_path, *more)
    assert called.returncode == 0, called.stderr
    assert "the same command goes on from here" in called.stdout
    suite = suites.load(tmp_path / "suite.yaml")
    assert [arm.name for arm in suite.pretrain] == [
        f"{name}-{seed}" for seed in (3, 4) for name in ("vicreg", "mast5", "no-sensitivity")
    ]
    recipes = [load_recipe(arm.recipe, arm.overrides) for arm in suite.pretrain[:3]]
    assert [recipe.method for recipe in recipes] == ["vicreg", "mast", "mast"]
    assert [recipe.weights.prediction > 0 for recipe in recipes] == [False, True, False]
    for recipe in recipes:
        assert (recipe.arch, recipe.views.size, recipe.epochs, recipe.batch_size) == ("resnet18", 32, 100, 64)
        assert recipe.data.folder == "cifar10/train"
        assert recipe.seed == 3
    assert {task for block in suite.cells for task in block.tasks} == {
        *("cifar10", "caltech101_20"),
        *(f"caltech101_20-{factor}" for factor in ("hue", "rotation", "scale", "position", "blur")),
    }
    unpacked = tmp_path / "data" / "cifar10" / "train" / "a" / "0.jpg"
    unpacked.unlink()
    assert _call(archives, tmp_path, *more).returncode == 0
    assert not unpacked.exists(), "a finished archive is not unpacked again"


def test_images_that_are_missing_are_an_error(archives, tmp_path):
    called = _call(archives, tmp_path, "--pretrain-on", "imagenette_96")
    assert called.returncode == 2
    assert "holds no imagenette_96.tar" in called.stderr
