"""Depth: metrics by hand, the head and loss by the authors' formulas, and a set that a linear layer can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from eval import checkpoints, protocols, tasks
from eval.errors import UserError
from eval.numbers import kept
from eval.numbers.depth import NAMES, of_image
from eval.numbers.intervals import Interval, NoInterval
from eval.protocols import depthlinear
from eval.results.evidence import _evidence
from eval.running.cell import measure
from eval.running.plan import Cell


def test_metrics_by_hand() -> None:
    truth = np.array([[2.0, 2.0, 4.0, 0.0]])
    found = np.array([[2.0, 3.0, 2.0, 9.0]])
    # Ratios 1, 1.5 and 2: below 1.25 one, below 1.5625 two, below 1.953 two.
    values = dict(zip(NAMES, of_image(truth, found, truth > 0), strict=True))
    assert values["delta1"] == pytest.approx(1 / 3)
    assert values["delta2"] == values["delta3"] == pytest.approx(2 / 3)
    assert values["abs_rel"] == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert values["rmse"] == pytest.approx(np.sqrt((0 + 1 + 4) / 3))
    perfect = of_image(truth, np.where(truth > 0, truth, 1), truth > 0)
    assert perfect.tolist() == [1, 1, 1, 0, 0]
    assert np.isnan(of_image(truth, found, truth > 9)).all()


def test_no_interval_has_no_width() -> None:
    """Twenty images that are all alike, and all perfect: other images need not be."""
    found = depthlinear.numbers(np.array([[1.0, 1.0, 1.0, 0.1, 0.5]] * 20), {"test": 20})
    span = found.metrics["delta1"].interval
    assert isinstance(span, Interval)
    assert (span.kind, span.high) == ("wilson-images", 1.0)
    assert span.low < 0.95
    assert found.certificate is not None
    assert found.certificate["rmse"] == {
        "value": 0.5, "interval": "none: all images have the same error", "unit": "m"
    }  # fmt: skip
    assert kept.interval("delta1", 1.0, found.arrays) == span


def test_means_over_images_and_errors_with_their_unit() -> None:
    table = np.array([[0.5, 0.6, 0.7, 0.2, 1.5], [0.7, 0.8, 0.9, 0.1, 0.5], [np.nan] * 5])
    found = depthlinear.numbers(table, {"test": 3})
    assert found.metrics["delta1"].value == pytest.approx(0.6)
    assert found.metrics["delta1"].interval == NoInterval("2 test images say too little, 20 are needed")
    assert found.certificate is not None
    assert found.certificate["rmse"]["value"] == pytest.approx(1.0)
    assert found.certificate["rmse"]["unit"] == "m"
    assert found.certificate["rmse"]["low"] < 1.0 < found.certificate["rmse"]["high"]
    assert found.warnings == ("1 test images have no valid depth and are left out",)
    evidence = _evidence(found.arrays, "delta1", 0.6)
    assert not isinstance(evidence, str)
    assert (evidence.kind, evidence.values.tolist()) == ("means", [0.5, 0.7])
    with pytest.raises(UserError, match="1 test images have a valid depth"):
        depthlinear.numbers(table[1:], {})


def test_the_head_is_adabins_linear_norm() -> None:
    """`DepthBaseDecodeHead.depth_pred` with classify, UD and linear; `BNHead` enlarges before the layer."""
    how = protocols.get("depth-linear").settings
    layer = torch.nn.Conv2d(6, how.bins, 1)
    maps = torch.randn(2, 6, 3, 4)
    feat = F.interpolate(maps, (12, 16), mode="bilinear", align_corners=False)
    logit = torch.relu(layer(feat)) + 0.1
    logit = logit / logit.sum(dim=1, keepdim=True)
    bins = torch.linspace(0.001, 10, 256)
    assert torch.allclose(
        depthlinear.depths(layer, maps, how), torch.einsum("ikmn,k->imn", logit, bins)[:, None]
    )


@pytest.mark.parametrize("warm", [True, False])
def test_the_loss_is_sigloss(warm: bool) -> None:
    found, truth = torch.rand(2, 1, 4, 4) + 0.5, torch.rand(2, 4, 4) + 0.5
    truth[0, :2] = 0
    valid = truth > 0
    g = torch.log(found[:, 0][valid] + 0.001) - torch.log(truth[valid] + 0.001)
    expected = torch.sqrt(0.15 * g.mean() ** 2) if warm else torch.sqrt(torch.var(g) + 0.15 * g.mean() ** 2)
    assert torch.allclose(depthlinear.loss_of(found, truth, warm), expected)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    how = protocols.get("depth-linear").settings
    assert depthlinear.rate(how, 0) == pytest.approx(how.lr * 0.001)
    assert depthlinear.rate(how, how.warmup) == pytest.approx(how.lr * 0.75)  # a third of the cosine
    assert depthlinear.rate(how, how.iterations - 1) < 1e-8


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose brightness is their depth: 1 m black to 5 m white."""
    folder = tmp_path_factory.mktemp("planes")
    for split, count in (("train", 12), ("test", 4)):
        for index in range(count):
            generator = np.random.default_rng(100 * (split == "test") + index)
            coarse = np.kron(generator.random((3, 3)), np.ones((16, 16)))
            for what, values in (
                ("images", coarse[..., None].repeat(3, 2) * 255),
                ("depth", 1000 + 4000 * coarse),
            ):
                ending, kind = ("jpg", np.uint8) if what == "images" else ("png", np.uint16)
                (folder / what / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(kind)).save(folder / what / split / f"{index}.{ending}")
    return folder


def test_depth_that_brightness_tells_is_learnt(planes: Path, tmp_path: Path) -> None:
    loaded = checkpoints.load("random:resnet10-c8-half")
    task = tasks.get(f"depth:{planes}")
    data = task.open(Path())
    found = {}
    for iterations in (1, 300):
        changes = {"extraction.image_size": 48, "layers": "res2", "iterations": iterations, "lr": 0.02}
        changes |= {"bins": 16, "upsample": 1, "batch_size": 4}
        protocol = protocols.get("depth-linear-tiny").override(changes)
        task.check(protocol)
        cell = Cell(loaded.passport.name, task, protocol, changes, 0)
        found[iterations] = measure(cell, loaded, data, store=tmp_path / "store", work=tmp_path / "work")
    before, after = (found[i].metrics["delta1"].value for i in (1, 300))
    assert after > 0.7 > before
    assert found[300].certificate["rmse"]["value"] < found[1].certificate["rmse"]["value"]
    again = measure(cell, loaded, data, store=tmp_path / "store", work=tmp_path / "work")
    assert again.metrics == found[300].metrics


def test_the_class_token_stands_beside_every_cell() -> None:
    from eval.features.maps import dense

    backbone = checkpoints.load("random:resnet10-c8-half").backbone
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found = dense(backbone, images, "last+cls")
        last = dense(backbone, images, "last")
    channels = last.shape[1]
    assert torch.equal(found[:, :channels], last)
    assert torch.equal(found[:, channels:, 1, 2], last.mean((2, 3)))
