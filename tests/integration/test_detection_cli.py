"""Detection through the command line: wrong input is one line before any training, a kill costs nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="needs Detectron2: python -m eval.doctor.install")

from eval import scenes
from eval.cli import entry as cli
from eval.results import records
from mast.model import build_backbone

ARCH = "resnet10-c8-half"
QUICK = ["iterations=6", "SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.IMS_PER_BATCH=2", "device=cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, size="test")
    return folder


def evaluate(data: Path, out: Path, checkpoint: str, *, task: str = "scenes-voc") -> int:
    protocol = "coco-fpn-tiny" if "coco" in task else "voc-fpn-tiny"
    return cli.main(
        [
            "eval",
            "--checkpoint",
            checkpoint,
            "--task",
            task,
            "--protocol",
            protocol,
            "--data-root",
            str(data),
            "--out",
            str(out),
            "--quiet",
            "--set",
            *QUICK,
        ]
    )


def trained(out: Path) -> list[Path]:
    return [*out.rglob("checkpoint.pth"), *out.rglob("train.jsonl")]


def annotations(root: Path, change: Callable[[dict[str, Any]], object], *splits: str) -> None:
    for split in splits or ("train2017", "val2017"):
        path = root / "coco" / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def outside(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"] = [100.0, 100.0, 500.0, 20.0]


def other_class(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "unheard-of"


@pytest.mark.parametrize(
    ("change", "splits", "message"),
    [
        (outside, ("train2017",), r"instances_train2017\.json.*is not inside"),
        (other_class, ("val2017",), r"instances_val2017\.json.*(classes|categories)"),
        (lambda content: content["annotations"].clear(), ("train2017",), r"instances_train2017\.json.*no "),
    ],
    ids=["box-outside", "class-list", "no-annotations"],
)
def test_a_bad_file_is_one_line(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    splits: tuple[str, ...],
    message: str,
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    annotations(copy, change, *splits)
    assert evaluate(copy, tmp_path / "out", f"random:{ARCH}", task="scenes-coco") in (1, 2)
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "error" in text]
    assert re.search(message, line), line
    assert not trained(tmp_path / "out")


def failure(out: Path) -> records.Record:
    (record,) = records.read([out]).failures()
    return record


def test_unknown_normalisation_is_refused(root: Path, tmp_path: Path) -> None:
    """A bare state dict does not say how its images were normalised; naming its layout does."""
    path = tmp_path / "bare.pth"
    torch.save(build_backbone("resnet18-c8", seed=0).state_dict(), path)
    assert evaluate(root, tmp_path / "out", str(path)) != 0
    error = failure(tmp_path / "out").error
    assert error is not None
    assert "does not say how images were normalised" in error.message
    assert not trained(tmp_path / "out")


def test_a_backbone_without_feature_maps_is_refused(root: Path, tmp_path: Path) -> None:
    assert evaluate(root, tmp_path / "out", "random:vit_w64_patch16_d2") != 0
    error = failure(tmp_path / "out").error
    assert error is not None
    assert "has no feature maps that voc-fpn-tiny can use" in error.message
    assert not trained(tmp_path / "out")


SUITE = """
name: two
description: A cell that fails before one that does not.
checkpoints:
  - {{name: vit, ref: "random:vit_w64_patch16_d2@0"}}
  - {{name: small, ref: "random:{arch}@0"}}
cells:
  - {{tasks: [scenes-voc], protocols: [voc-fpn-tiny], overrides: {overrides}}}
"""


@pytest.mark.slow
def test_a_killed_suite_goes_on_and_a_failed_cell_stops_nothing(root: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second cell; the same command ends with an undisturbed run's record."""
    suite = tmp_path / "two.yaml"
    overrides = {"iterations": 8, "SOLVER.CHECKPOINT_PERIOD": 2, "SOLVER.IMS_PER_BATCH": 2, "device": "cpu"}
    suite.write_text(SUITE.format(arch=ARCH, overrides=json.dumps(overrides)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out: str) -> list[str]:
        program = [sys.executable, "-m", "eval.cli", "run", str(suite), "--data-root", str(root)]
        return [*program, "--out", str(tmp_path / out), "--quiet"]

    child = subprocess.Popen(command("killed"), env=environment)
    while child.poll() is None and not list((tmp_path / "killed").rglob("checkpoint.pth")):
        try:
            child.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not list(records.read([tmp_path / "killed"]).counting())
    for out in ("killed", "whole"):
        assert subprocess.run(command(out), env=environment, check=False).returncode == 1  # one cell failed
    books = {out: records.read([tmp_path / out]) for out in ("killed", "whole")}
    for book in books.values():
        assert [record.checkpoint.name for record in book.counting()] == ["small"]
        assert {record.checkpoint.name for record in book.failures()} == {"vit"}
    (resumed,), (undisturbed,) = (book.counting() for book in books.values())
    assert resumed.metrics == undisturbed.metrics
    assert resumed.outcomes == undisturbed.outcomes
