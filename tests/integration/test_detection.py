"""Whole detection runs on embedded scenes: from weights to metrics, through interruptions and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="needs Detectron2: python -m eval.doctor.install")

from detectron2.modeling import GeneralizedRCNN
from test_detection_overfit import NETWORKS, of_timm

from eval import checkpoints, detection, protocols, scenes, suites, tasks
from eval.checkpoints.facts import ASSUMED
from eval.detection import run_cell
from eval.detection.result import PREDICTIONS, RESULT
from eval.errors import UserError
from eval.running.local import Runner
from eval.running.plan import plan

ARCH = "resnet10-c8-half"
TOUCHED = ("log.txt", "run.json", ".lock")  # by every call
QUICK = {"iterations": 8, "SOLVER.CHECKPOINT_PERIOD": 3, "SOLVER.IMS_PER_BATCH": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, size="test")
    return folder


def run(
    root: Path, work: Path, *, task: str = "scenes-voc", protocol: str = "voc-fpn-tiny", **options: Any
) -> Any:
    checkpoint = options.pop("checkpoint", f"random:{ARCH}@0")
    what, how = tasks.resolve(task, protocol, {**QUICK, **options.pop("overrides", {})})
    seed = options.pop("seed", 0)
    return detection.run(
        checkpoints.load(checkpoint) if isinstance(checkpoint, str) else checkpoint,
        what,
        how,
        how.code.data(what.open(root), how.settings, seed),
        seed=seed,
        work_dir=work,
        **options,
    )


def weights(work: Path) -> dict[str, torch.Tensor]:
    content = torch.load(work / "checkpoint.pth", weights_only=True)
    return dict(content["model"])


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run that nothing disturbs."""
    work = tmp_path_factory.mktemp("whole")
    return run(root, work), work


def test_a_run_has_everything_that_a_record_needs(whole: tuple[Any, Path]) -> None:
    result, work = whole
    names = {f"box_{name}{how}" for name in ("ap", "ap50", "ap75") for how in ("", "_area")}
    assert set(result.metrics) == names == set(result.intervals)
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert len(result.per_image) == result.counts["test_images"] == 8
    assert len(result.losses) == 8
    certificate = result.certificate
    assert max(certificate["feature_difference"]["float64"].values()) <= 1e-9
    assert certificate["training"]["freeze"] == "nothing"
    assert certificate["backbone_keys"] == len(checkpoints.load(f"random:{ARCH}@0").backbone.state_dict())
    assert "BASE_LR: 0.02" in result.config
    json.dumps(certificate, allow_nan=False)
    for name in ("config.yaml", RESULT, PREDICTIONS, "checkpoint.pth", "log.txt", "train.jsonl"):
        assert (work / name).is_file(), name


def test_kept_predictions_give_the_same_numbers(whole: tuple[Any, Path], root: Path) -> None:
    result, _ = whole
    kept = json.loads(json.dumps({"classes": result.classes, "images": result.per_image}))
    again = detection.Gallery(tasks.get("scenes-voc").open(root)).evaluate(kept)
    assert again.metrics == result.metrics
    assert again.per_class == result.per_class
    assert str(root) not in result.config


def test_a_finished_run_is_returned_at_once(whole: tuple[Any, Path], root: Path) -> None:
    result, work = whole
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir() if path.name not in TOUCHED}
    began = time.monotonic()
    again = run(root, work, overrides={"device": "cpu", "workers": 0})
    assert time.monotonic() - began < 3
    assert again == result
    assert before == {
        path.name: path.stat().st_mtime_ns for path in work.iterdir() if path.name not in TOUCHED
    }


@pytest.mark.parametrize("stop", [5, 8])
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    whole: tuple[Any, Path], root: Path, tmp_path: Path, stop: int
) -> None:
    expected, expected_work = whole

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == ("train" if stop < total else "test") and done == min(stop, 3 if stop >= total else stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, progress=interrupt)
    assert not (tmp_path / RESULT).exists()
    seen = []
    result = run(root, tmp_path, progress=lambda stage, done, total: seen.append((stage, done)))
    assert seen[0] == (("train", 4) if stop == 5 else ("test", 1))  # went on, and not from the beginning
    assert result.losses == expected.losses
    ours, theirs = weights(tmp_path), weights(expected_work)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert result.per_image == expected.per_image
    assert result.metrics == expected.metrics


def test_seeds_differ_and_masks_are_measured(whole: tuple[Any, Path], root: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, task="scenes-coco", protocol="coco-fpn-tiny", seed=1)
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50", "box_ar100", "mask_ar1"} <= set(result.metrics)
    assert all("segmentation" in d for image in result.per_image for d in image["detections"])
    assert result.losses[0] != whole[0].losses[0]


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("vit_small_patch14_reg4_dinov2", "coco-vitdet"),
        ("vit_small_patch14_reg4_dinov2", "coco-vit-frozen-pyramid"),
        ("convnext_atto", "coco-convnext-fpn"),
    ],
)
def test_networks_of_timm_run_and_go_on_where_they_stopped(
    root: Path, tmp_path: Path, name: str, protocol: str
) -> None:
    """Blocks that are skipped by chance included; frozen tensors are the file's, bit by bit, after training."""

    def go(work: Path, **options: Any) -> Any:
        changes = {"tiny": True, "MODEL.NETWORK.DROP_PATH": 0.3, "iterations": 6}
        return run(
            root,
            work,
            task="scenes-coco",
            protocol=protocol,
            checkpoint=str(file),
            overrides=changes,
            **options,
        )

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    file = of_timm(tmp_path / "network", name, **NETWORKS[name])
    whole = go(tmp_path / "whole")
    if protocol == "coco-vitdet":
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "broken", progress=interrupt)
        assert go(tmp_path / "broken").losses == whole.losses
        ours, theirs = weights(tmp_path / "broken"), weights(tmp_path / "whole")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    told = whole.certificate["backbone"]
    frozen = protocol == "coco-vit-frozen-pyramid"
    assert (told["frozen"], whole.certificate["frozen_unchanged"] > 0) == (frozen, frozen)
    vit = "vit" in protocol
    assert told["pyramid"].startswith("simple feature pyramid" if vit else "feature pyramid over four stages")
    assert max(whole.certificate["feature_difference"]["float32"].values()) < 1e-4


@pytest.mark.parametrize("protocol", ["voc-c4-tiny", "voc-fpn-tiny-frozen"])
def test_other_forms_run(root: Path, tmp_path: Path, protocol: str) -> None:
    result = run(root, tmp_path, protocol=protocol, overrides={"TEST.PRECISE_BN.ENABLED": True})
    assert "box_ap50" in result.metrics
    frozen = protocol.endswith("frozen")
    assert (result.certificate["frozen_unchanged"] > 0) == frozen
    if frozen:
        state = checkpoints.load(f"random:{ARCH}@0").backbone.state_dict()
        trained = weights(tmp_path)
        assert torch.equal(trained["backbone.bottom_up.res5.0.conv1.weight"], state["layer4.0.conv1.weight"])


def test_another_run_in_the_same_folder_is_refused(
    whole: tuple[Any, Path], root: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"holds another run .it differs in config, seed"):
        run(root, whole[1], seed=7)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, progress=interrupt)
    with pytest.raises(UserError, match=r"holds another run .it differs in config, protocol"):
        run(root, tmp_path, overrides={"iterations": 9})
    (tmp_path / "checkpoint.pth").write_bytes((tmp_path / "checkpoint.pth").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoint\.pth is damaged.*delete it"):
        run(root, tmp_path)


def test_a_damaged_result_is_named(whole: tuple[Any, Path], root: Path, tmp_path: Path) -> None:
    for name in (RESULT, PREDICTIONS, "config.yaml"):
        (tmp_path / name).write_bytes((whole[1] / name).read_bytes())
    (tmp_path / PREDICTIONS).write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match="is damaged"):
        run(root, tmp_path)


def test_bad_checkpoints_are_refused_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    loaded = checkpoints.load(f"random:{ARCH}@0")
    passport = loaded.passport
    unknown = replace(passport, provenance={"normalization": ASSUMED})
    with pytest.raises(UserError, match="does not say how images were normalised"):
        run(root, tmp_path / "a", checkpoint=SimpleNamespace(backbone=loaded.backbone, passport=unknown))
    vit = SimpleNamespace(backbone=torch.nn.Identity(), passport=passport)
    with pytest.raises(UserError, match="has no feature maps"):
        run(root, tmp_path / "b", checkpoint=vit)
    for folder in ("a", "b"):
        assert not (tmp_path / folder / "checkpoint.pth").exists()


def test_a_loss_that_leaves_the_numbers_is_said_plainly(root: Path, tmp_path: Path) -> None:
    wild = {"SOLVER.BASE_LR": 1e30, "SOLVER.WARMUP_ITERS": 0, "SOLVER.CLIP_GRADIENTS.ENABLED": False}
    with pytest.raises(UserError, match=r"training diverged.*lower SOLVER\.BASE_LR"):
        run(root, tmp_path, overrides=wild)


def test_measuring_on_the_way_changes_nothing(whole: tuple[Any, Path], root: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, overrides={"TEST.EVAL_PERIOD": 4})
    assert result.losses == whole[0].losses
    assert result.metrics == whole[0].metrics
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert any("test/box_ap50" in line for line in lines)


def test_a_forecast_times_a_few_iterations(root: Path) -> None:
    loaded = checkpoints.load(f"random:{ARCH}@0")
    task, protocol = tasks.resolve("scenes-voc", "voc-fpn-tiny", QUICK)
    found = detection.forecast(loaded, task, protocol, task.open(root), iterations=1)
    assert found["iterations"] == 8
    assert 0 < found["seconds_per_iteration"] * 8 == pytest.approx(found["train_seconds"])
    assert 0 < found["test_seconds"] == pytest.approx(8 * found["seconds_per_test_image"])


def test_a_forecast_of_slow_iterations_times_one_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full schedule on a processor takes minutes an iteration, and nobody waits for four of them."""
    loaded = checkpoints.load(f"random:{ARCH}@0")
    task, protocol = tasks.resolve("scenes-voc", "voc-fpn-tiny", QUICK)
    monkeypatch.setattr(run_cell, "PATIENCE", 0.0)
    seen = list[int]()

    def watched(model: GeneralizedRCNN, batch: list[dict[str, Any]]) -> Any:
        seen.append(len(batch))
        return forward(model, batch)

    forward = GeneralizedRCNN.forward
    monkeypatch.setattr(GeneralizedRCNN, "forward", watched)
    found = detection.forecast(loaded, task, protocol, task.open(root))
    assert seen == [1, 1, 1, 1]  # two in training, two of the test split
    assert found["iterations"] == 8
    assert found["train_seconds"] > 0


def test_the_dry_run_tells_the_cost_of_detection(root: Path, tmp_path: Path) -> None:
    def preview(**more: object) -> list[dict[str, Any]]:
        cell = {"tasks": ["scenes-voc"], "protocols": ["voc-fpn-tiny"], "overrides": {**QUICK, **more}}
        text = {
            "name": "one",
            "description": "for tests",
            "checkpoints": [{"name": "random", "ref": f"random:{ARCH}@0"}],
            "cells": [cell],
        }
        path = tmp_path / "one.yaml"
        path.write_text(json.dumps(text))
        return Runner(plan(suites.load(path)), data_root=root, out=tmp_path / "out", progress=False).preview()

    (cell,) = preview()
    assert cell["state"] == "to run"
    assert cell["seconds"] > 0


STORED = {**QUICK, "iterations": 5, "SOLVER.CHECKPOINT_PERIOD": 2}


@pytest.fixture(scope="module")
def stored(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run on stored maps that nothing disturbs, with boxes and masks; its store lies beside it."""
    work = tmp_path_factory.mktemp("stored")
    options = {"task": "scenes-coco", "protocol": "coco-frozen-store-tiny", "overrides": STORED}
    return run(root, work, store=work / "features", **options), work


def test_stored_maps_train_as_the_network_in_the_loop_does(
    stored: tuple[Any, Path], root: Path, tmp_path: Path
) -> None:
    result, work = stored
    assert {"box_ap", "mask_ap"} <= set(result.metrics) == set(result.intervals)
    assert len(result.per_image) == result.counts["test_images"] == 8
    assert max(result.certificate["stored"]["difference"].values()) < 0.005
    assert result.certificate["frozen_unchanged"] == result.certificate["backbone_keys"]
    options = {"task": "scenes-coco", "protocol": "coco-frozen-store-tiny"}
    loop = run(root, tmp_path, overrides={**STORED, "INPUT.STORED": False}, **options)
    assert "stored" not in loop.certificate
    assert result.losses[0] == pytest.approx(loop.losses[0], rel=0.01)  # maps are rounded to bfloat16
    assert result.losses == pytest.approx(loop.losses, rel=0.1)
    begun, other = weights(work), weights(tmp_path)
    assert begun.keys() == other.keys()


def test_a_run_on_stored_maps_goes_on_where_it_was_stopped(
    stored: tuple[Any, Path], root: Path, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "train" and done == 4:
            raise KeyboardInterrupt

    result, work = stored
    options = {"task": "scenes-coco", "protocol": "coco-frozen-store-tiny", "overrides": STORED}
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, store=work / "features", progress=stop, **options)
    again = run(root, tmp_path, store=work / "features", **options)
    assert again.losses == result.losses
    for name, value in weights(work).items():
        assert torch.equal(value, weights(tmp_path)[name]), name
    assert again.metrics == result.metrics


def test_too_large_a_store_and_none_are_refused_before_training(root: Path, tmp_path: Path) -> None:
    options = {"task": "scenes-coco", "protocol": "coco-frozen-store-tiny"}
    with pytest.raises(UserError, match="reads maps from a feature store, and there is none"):
        run(root, tmp_path / "a", overrides=STORED, **options)
    large = {**STORED, "maps_gb": 0}
    with pytest.raises(UserError, match=r"maps for the detector: 32 rows of .*, allowed are 0"):
        run(root, tmp_path / "b", overrides=large, store=tmp_path / "features", **options)
    assert not list(tmp_path.glob("features/*/*/features.bin"))
    assert not (tmp_path / "b" / "checkpoint.pth").exists()


def test_the_dry_run_tells_the_bytes_that_are_written(root: Path, tmp_path: Path) -> None:
    """Of a detector and of two dense protocols, which share the maps of test images."""
    text = {
        "name": "one",
        "description": "for tests",
        "checkpoints": [{"name": "random", "ref": f"random:{ARCH}@0"}],
        "cells": [
            {"tasks": ["scenes-coco"], "protocols": ["coco-frozen-store-tiny"], "overrides": STORED},
            {"tasks": ["scenes-coco"], "protocols": ["coco-fpn-tiny"], "overrides": QUICK},
            {"tasks": ["scenes-seg"], "protocols": ["seg-knn-tiny"], "overrides": {"memory": 100}},
            {"tasks": ["scenes-seg"], "protocols": ["seg-linear-tiny"], "overrides": {"iterations": 1}},
        ],
    }
    path = tmp_path / "one.yaml"
    path.write_text(json.dumps(text))
    todo, out = plan(suites.load(path)), tmp_path / "out"
    told = [row["bytes"] for row in Runner(todo, data_root=root, out=out, progress=False).preview()]
    assert [bool(number) for number in told] == [True, False, True, False]
    only = replace(todo, cells=[cell for cell in todo.cells if cell.protocol.name != "coco-fpn-tiny"])
    Runner(only, data_root=root, out=out, progress=False).run()
    written = [file.stat().st_size for file in out.glob("features/*/*/features.bin")]
    assert sum(written) == sum(number or 0 for number in told)
    assert [row["bytes"] for row in Runner(todo, data_root=root, out=out, progress=False).preview()] == [
        None
    ] * 4


def test_where_detection_runs_is_no_part_of_what_it_is() -> None:
    protocol = protocols.get("voc-fpn-tiny")
    plain = protocol.override(QUICK)
    assert protocol.override({**QUICK, "device": "cpu", "workers": 3}).params == plain.params
    assert protocol.override({**QUICK, "batch": 2}).params != plain.params
    assert plain.runtime == {"device": "cpu"}
    with pytest.raises(UserError, match="workers of protocol voc-fpn-tiny cannot be 'many'"):
        protocol.override({"workers": "many"})


@pytest.mark.slow
def test_two_processes_share_every_batch(root: Path, tmp_path: Path) -> None:
    """FrozenBN and no clipping by process: the mean gradient of two halves is the gradient of the whole."""
    options = {"MODEL.RESNETS.NORM": "FrozenBN", "iterations": 2}
    alone = run(root, tmp_path / "one", overrides=options)
    shared = run(root, tmp_path / "two", overrides={**options, "processes": 2})
    assert len(shared.losses) == 2
    assert shared.losses[0] == pytest.approx(alone.losses[0], rel=0.2)  # other proposals are sampled
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    key = "backbone.bottom_up.res5.0.conv1.weight"
    before = checkpoints.load(f"random:{ARCH}@0").backbone.state_dict()["layer4.0.conv1.weight"]
    assert not torch.equal(ours[key], before)
    assert "2 processes" in shared.certificate["normalisation_layers"]
    with pytest.raises(UserError, match="a batch of 2 cannot be shared by 3 processes"):
        run(root, tmp_path / "three", overrides={**options, "processes": 3})


CHILD = """
import sys, json
from pathlib import Path
from eval import checkpoints, detection, tasks
root, work, overrides = sys.argv[1:]
task, protocol = tasks.resolve("scenes-voc", "voc-fpn-tiny", json.loads(overrides))
detection.run(
    checkpoints.load("random:{arch}@0"), task, protocol, task.open(Path(root)), seed=0, work_dir=Path(work),
    progress=lambda stage, done, total: print(stage, done, flush=True),
)
"""


@pytest.mark.slow
def test_killed_for_real(whole: tuple[Any, Path], root: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of training, in another process; the next one ends with the same weights."""
    command = [sys.executable, "-c", CHILD.format(arch=ARCH), str(root), str(tmp_path), json.dumps(QUICK)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout
    for line in child.stdout:
        if line.startswith("train 5"):
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    result = run(root, tmp_path)
    assert result.losses == whole[0].losses
    theirs = weights(whole[1])
    assert all(torch.equal(value, theirs[key]) for key, value in weights(tmp_path).items())
