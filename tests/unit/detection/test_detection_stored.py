"""Detectors on stored maps: the same data and the same losses as with the network in the loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import lived_in, make_config, registered
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from timm.models.convnext import ConvNeXt

from eval import checkpoints
from eval.checkpoints.timm_networks import Hierarchy
from eval.detection import networks
from eval.detection.certify import ROUNDING, certify_stored, certify_training
from eval.detection.convert import load_backbone
from eval.detection.stored import Rows, Store, StoredMapper, without_pixels
from eval.detection.train import seed_everything, train_loader
from eval.errors import UserError
from eval.features import maps as maps_of

RESNET = "resnet10-c8-half"
VIT = "vit_w64_patch16_d4"
CONVNEXT = "small convnext"
NAME = "coco-frozen-store-tiny"


class Made(SimpleNamespace):
    """A filled detector ``model``, its ``cfg``, and its ``store`` of maps."""


def made(root: Path, work: Path, arch: str = RESNET, protocol: str = NAME, **options: Any) -> Made:
    data = registered("scenes-coco", root, work, masks=True)
    backbone: Any
    if arch == CONVNEXT:
        torch.manual_seed(0)
        backbone = Hierarchy(ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64), num_classes=0), arch).eval()
    else:
        backbone = lived_in(arch) if arch == RESNET else checkpoints.load(f"random:{arch}@0").backbone
    of = arch if arch == RESNET else backbone
    cfg = make_config(protocol, of, classes=len(data.classes), masks=True, device="cpu", **options)
    torch.manual_seed(0)
    with networks.given(backbone):
        model = build_model(cfg)
    load_backbone(model, backbone.state_dict())
    passport: Any = SimpleNamespace(weights_sha256="a" * 64, network={})
    return Made(model=model, cfg=cfg, store=Store(model, cfg, passport, work / "features"), root=root)


@pytest.fixture(
    scope="module",
    params=[(RESNET, NAME), (VIT, "coco-vit-frozen-store"), (CONVNEXT, "coco-stages-frozen-store")],
    ids=lambda pair: pair[1],
)
def filled(request: Any, scenes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A detector whose maps are stored."""
    arch, protocol = request.param
    found = made(scenes_root, tmp_path_factory.mktemp("stored"), arch, protocol)
    found.store.fill(lambda *_: None)
    return found


@pytest.fixture
def again(filled: Made, tmp_path: Path) -> Made:
    """The same, and the catalogs of Detectron2 as it needs them, whatever other tests have entered since."""
    registered("scenes-coco", filled.root, tmp_path, masks=True)
    return filled


def losses(model: Any, batch: Any) -> dict[str, float]:
    seed_everything(3)  # the same anchors and proposals are sampled
    with EventStorage():
        return {name: value.item() for name, value in model.train()(batch).items()}


def batches(cfg: Any, mapper: Any = None) -> Iterator[Any]:
    return islice(train_loader(cfg, start=0, mapper=mapper), 6)


def test_losses_are_those_of_the_network_in_the_loop(again: Made) -> None:
    """To float tolerance where the maps are not rounded; rounded to bfloat16, to its tolerance."""
    pixels = next(batches(again.cfg))
    expected = losses(again.model, pixels)
    exact = losses(again.model, without_pixels(again.model, pixels, rounded=False))
    assert exact == pytest.approx(expected, rel=1e-6)
    assert {"loss_mask", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} == set(exact)
    rounded = losses(again.model, without_pixels(again.model, pixels))
    stored = losses(again.model, next(batches(again.cfg, again.store.mappers()["train"])))
    assert stored == pytest.approx(rounded, rel=1e-3)
    assert stored == pytest.approx(expected, rel=0.05, abs=0.01)


def test_gradients_are_those_of_the_network_in_the_loop(again: Made) -> None:
    pixels = next(batches(again.cfg))
    found = []
    for batch in (pixels, without_pixels(again.model, pixels, rounded=False)):
        again.model.train().zero_grad()
        seed_everything(3)
        with EventStorage():
            sum(again.model(batch).values()).backward()
        found.append({k: p.grad.clone() for k, p in again.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert not any(re.search(r"inner|bottom_up\.(res|stem)", key) for key in found[0])
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-4, atol=1e-6)


def test_the_same_images_come_in_the_same_order_mirrored_alike(again: Made) -> None:
    """Over six batches some images are mirrored and some are not, and boxes and masks go with them."""
    mirrored = set()
    mapper = again.store.mappers()["train"]
    seen = mapper.rows.read

    def read(file: str, mirror: bool) -> Any:
        mirrored.add(mirror)
        return seen(file, mirror)

    mapper.rows = SimpleNamespace(read=read)
    for pixels, stored in zip(batches(again.cfg), batches(again.cfg, mapper), strict=True):
        for theirs, ours in zip(pixels, stored, strict=True):
            assert ours["image_id"] == theirs["image_id"]
            assert ours["size"] == tuple(theirs["image"].shape[-2:])
            for name in ("gt_boxes", "gt_masks"):
                expected, found = theirs["instances"].get(name).tensor, ours["instances"].get(name).tensor
                assert torch.equal(found, expected)
        expected = without_pixels(again.model, pixels)
        for theirs, ours in zip(expected, stored, strict=True):
            for name, value in theirs["maps"].items():
                step = value.float().abs().max() * ROUNDING  # the batch's sums may round the other way
                assert (ours["maps"][name].float() - value.float()).abs().max() <= step
    assert mirrored == {False, True}


def test_predictions_are_those_of_the_network_in_the_loop(again: Made) -> None:
    from detectron2.data import build_detection_test_loader

    loaders = [
        build_detection_test_loader(again.cfg, "test", mapper=mapper)
        for mapper in (None, again.store.mappers()["test"])
    ]
    again.model.eval()
    with torch.no_grad():
        for pixels, stored in islice(zip(*loaders, strict=True), 3):
            exact = again.model(without_pixels(again.model, pixels, rounded=False))[0]["instances"]
            expected = again.model(pixels)[0]["instances"]
            assert len(exact) == len(expected)
            torch.testing.assert_close(exact.pred_boxes.tensor, expected.pred_boxes.tensor)
            assert again.model(stored)[0]["instances"].image_size == expected.image_size


def test_the_certificate_holds_the_store_against_the_network(again: Made) -> None:
    mapper = again.store.mappers()["train"]
    told = certify_stored(again.model, again.cfg, mapper)
    assert set(told["difference"]) == set(again.store.rows["train"].shapes)
    assert all(0 < value <= ROUNDING for value in told["difference"].values())
    assert told["loss"]["from_store"] == pytest.approx(told["loss"]["in_loop"], rel=0.05)
    assert certify_training(again.model, again.cfg, "all", mapper)["moving_statistics"] == 0


def test_maps_of_another_image_are_found_out(again: Made) -> None:
    rows = again.store.rows["train"]
    turned = Rows(
        rows.split, rows.files[1:] + rows.files[:1], rows.sizes, rows.mirrored, rows.entry, rows.shapes
    )
    with pytest.raises(UserError, match="from the store differs from the network's"):
        certify_stored(again.model, again.cfg, StoredMapper(again.cfg, turned, is_train=True))


def test_bytes_are_told_before_and_are_what_is_written(scenes_root: Path, tmp_path: Path) -> None:
    found = made(scenes_root, tmp_path)
    told = found.store.lacking()
    train, test = (found.store.rows[name].entry for name in ("train", "test"))
    # At strides of 4, 8 and 16 maps have 32, 16 and 8 cells a side with 16, 32 and 64 channels, two bytes each; of
    # training images there are two copies.
    row = 2 * (32 * 32 * 16 + 16 * 16 * 32 + 8 * 8 * 64)
    images = {name: len(found.store.rows[name].files) for name in ("train", "test")}
    assert told == {train.key: 2 * images["train"] * row, test.key: images["test"] * row}
    found.store.fill(lambda *_: None)
    assert {entry.key: entry.data.stat().st_size for entry in (train, test)} == told
    assert found.store.lacking() == {}


def test_a_store_that_is_too_large_is_refused_before_anything_is_computed(
    scenes_root: Path, tmp_path: Path
) -> None:
    found = made(scenes_root, tmp_path)
    with pytest.raises(UserError, match=r"maps for the detector: .* take .* GB, allowed are 1e-05"):
        found.store.check(1e-5)
    assert not list(tmp_path.glob("features/*/*/features.bin"))


def test_an_interrupted_extraction_goes_on(
    scenes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps_of, "SHARD", 1)  # a shard a batch
    whole = made(scenes_root, tmp_path / "whole", **{"INPUT.RANDOM_FLIP": "none"})
    whole.store.fill(lambda *_: None)
    found = made(scenes_root, tmp_path / "broken", **{"INPUT.RANDOM_FLIP": "none"})

    def stop(what: str, done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.store.fill(stop)
    calls = []
    found.store.fill(lambda what, done, total: calls.append((what[:13], done)))
    assert calls[0] == ("maps of train", 12)  # the first eight were there
    for name in ("train", "test"):
        assert (
            whole.store.rows[name].entry.data.read_bytes() == found.store.rows[name].entry.data.read_bytes()
        )


@pytest.mark.parametrize(
    ("protocol", "options", "words"),
    [
        (NAME, {"INPUT.SQUARE": 0}, "INPUT.SQUARE is 0"),
        (NAME, {"freeze": "res4"}, "a part of the backbone trains"),
        (NAME, {"INPUT.CROP.ENABLED": True}, "images are cut"),
        (NAME, {"INPUT.RANDOM_FLIP": "vertical"}, "INPUT.RANDOM_FLIP is vertical"),
        ("voc-c4-tiny", {"freeze": "all", "INPUT.STORED": True, "INPUT.SQUARE": 128}, "has no pyramid"),
    ],
)
def test_what_stored_maps_cannot_give_is_refused(protocol: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_config(protocol, RESNET, **options)


def test_in_the_loop_every_image_has_the_same_size_too() -> None:
    cfg = make_config(NAME, RESNET, **{"INPUT.STORED": False, "INPUT.SQUARE": 96})
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert cfg.INPUT.MIN_SIZE_TRAIN == (96,)
    assert cfg.INPUT.MAX_SIZE_TRAIN == cfg.INPUT.MIN_SIZE_TEST == cfg.INPUT.MAX_SIZE_TEST == 96
    assert build_model(cfg).backbone.padding_constraints["square_size"] == 96
