"""Files of every family in detectors; networks with stages: new norms, learning rates as ConvNeXt's authors have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_config, make_detector, registered
from detectron2.data import build_detection_test_loader
from timm.models.convnext import ConvNeXt
from torch import nn

from eval import checkpoints
from eval.checkpoints import Normalization
from eval.checkpoints.timm_networks import Hierarchy
from eval.detection import hierarchy, vit
from eval.detection.certify import certify_features, certify_rest, certify_training, described
from eval.detection.convert import load_backbone, loaded_network
from eval.detection.train import build_mapper, build_optimizer
from eval.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
from family_sources import FAMILIES

PASSPORT: Any = SimpleNamespace(normalization=Normalization())


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The backbone of a family's file, and the library's network that the file is of."""
    folder = tmp_path_factory.mktemp("families")
    done: dict[str, Any] = {}

    def loaded(name: str) -> Any:
        if name not in done:
            torch.manual_seed(0)
            written = FAMILIES[name](folder / f"{name}.pth")
            done[name] = checkpoints.load(str(written.path), **written.options).backbone, written
        return done[name]

    return loaded


@pytest.mark.parametrize("name", FAMILIES)
def test_files_of_every_family_in_a_detector(name: str, load: Callable[[str], Any]) -> None:
    """The detector's tokens or maps are those of the network that wrote the file, by the library's own code."""
    backbone, written = load(name)
    if "beit" in name or "radio" in name:
        with pytest.raises(UserError, match="images of 64x64 pixels and no others"):
            vit.describe(backbone)
        return
    protocol = "coco-frozen-fpn" if isinstance(backbone, Hierarchy) else "coco-vit-frozen-pyramid"
    protocols = [protocol]
    if protocol == "coco-frozen-fpn":
        if any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()):
            with pytest.raises(UserError, match=r"BatchNorm|four stages"):
                hierarchy.describe(backbone)
        else:
            protocols.append("coco-convnext-fpn")
    for protocol in protocols:
        model, cfg = make_detector(protocol, backbone)
        load_backbone(model, backbone.state_dict())
        found = certify_features(model, backbone, PASSPORT, cfg)
        assert max(found["float64"].values()) < 1e-9
        net: Any = loaded_network(model)
        patch = 16 if isinstance(backbone, Hierarchy) else net.patch
        height, width = (size // patch * 16 for size in written.sizes)
        images = torch.randn(1, 3, height, width)
        with torch.no_grad():
            if isinstance(backbone, Hierarchy):
                network = written.network
                strides = [stage["reduction"] for stage in network.feature_info]
                places = [strides.index(stride) for stride in (4, 8, 16, 32)]
                expected = network.forward_intermediates(images, indices=places, intermediates_only=True)
                ours = list(net.train().maps(images).values())
            else:
                shown = net.resized(images)
                network = written.sized(*shown.shape[-2:])
                tokens = network.forward_features(shown)[:, network.num_prefix_tokens :]
                expected = [tokens.transpose(1, 2).unflatten(2, (height // 16, width // 16))]
                ours = [net(images)["last_feat"]]
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert (one - other).abs().max() < 1e-4 * other.abs().max()


def rates(model: Any, cfg: Any) -> dict[str, Any]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: group
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }


def test_the_config_is_what_convnext_publishes(load: Callable[[str], Any]) -> None:
    cfg = make_config(
        "coco-convnext-fpn", load("convnext_authors")[0], tiny=False, SOLVER__AMP__ENABLED=False
    )
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.LAYER_DECAY) == (1e-4, 0.05, 0.95)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.WARMUP_ITERS) == (16, 500)
    epoch = 7330  # 117,266 images with objects, 16 at once
    assert (cfg.SOLVER.MAX_ITER, *cfg.SOLVER.STEPS) == (36 * epoch, 27 * epoch, 33 * epoch)
    assert (cfg.MODEL.NETWORK.DROP_PATH, cfg.MODEL.NETWORK.OUT_NORM) == (0.4, "LN")
    assert (cfg.INPUT.MIN_SIZE_TRAIN[0], cfg.INPUT.MIN_SIZE_TRAIN[-1], cfg.INPUT.MAX_SIZE_TRAIN) == (
        480,
        800,
        1333,
    )
    swin = make_config("coco-swin-fpn", load("swin_authors")[0], tiny=False)
    assert (swin.SOLVER.LAYER_DECAY, swin.MODEL.NETWORK.DROP_PATH, swin.SOLVER.WARMUP_ITERS) == (
        1.0,
        0.2,
        1000,
    )


def test_learning_rates_of_a_convnext() -> None:
    """The layers of the authors' tiny network, counted by hand from their rule, at a decay of 0.95."""
    torch.manual_seed(0)
    tiny = Hierarchy(ConvNeXt(depths=(3, 3, 9, 3), dims=(8, 16, 32, 64), num_classes=0), "convnext_tiny")
    model, cfg = make_detector("coco-convnext-fpn", tiny)
    load_backbone(model, tiny.state_dict())
    groups = rates(model, cfg)
    inside = "backbone.bottom_up.inner.network."
    for place, layer in {
        f"{inside}stem.0.weight": 0,
        f"{inside}stages.0.blocks.2.conv_dw.weight": 1,
        f"{inside}stages.1.downsample.1.weight": 2,
        f"{inside}stages.1.blocks.0.mlp.fc1.weight": 2,
        f"{inside}stages.2.downsample.1.weight": 3,
        f"{inside}stages.2.blocks.2.mlp.fc1.weight": 3,
        f"{inside}stages.2.blocks.3.mlp.fc1.weight": 4,
        f"{inside}stages.2.blocks.8.mlp.fc1.weight": 5,
        f"{inside}stages.3.downsample.1.weight": 6,
        f"{inside}stages.3.blocks.0.mlp.fc1.weight": 6,
        "backbone.bottom_up.norms.res2.weight": 7,
        "backbone.fpn_lateral2.weight": 7,
        "roi_heads.box_predictor.cls_score.weight": 7,
    }.items():
        assert groups[place]["lr"] == pytest.approx(cfg.SOLVER.BASE_LR * 0.95 ** (7 - layer)), place
    for name, parameter in model.named_parameters():
        decays = 0.05 if parameter.ndim > 1 else 0.0
        assert groups[name]["weight_decay"] == pytest.approx(decays), name


def test_tables_of_relative_positions_do_not_decay(load: Callable[[str], Any]) -> None:
    backbone, _ = load("swin_authors")
    model, cfg = make_detector("coco-swin-fpn", backbone)
    groups = rates(model, cfg)
    inside = "backbone.bottom_up.inner.network.layers.0.blocks.0."
    assert groups[f"{inside}attn.relative_position_bias_table"]["weight_decay"] == 0
    assert groups[f"{inside}attn.qkv.bias"]["weight_decay"] == pytest.approx(0.05)
    assert groups["backbone.bottom_up.norms.res3.weight"]["weight_decay"] == 0
    assert {group["lr"] for group in groups.values()} == {cfg.SOLVER.BASE_LR}


@pytest.mark.parametrize("freeze", ["nothing", "all"])
@pytest.mark.parametrize("name", ["convnext_authors", "convnextv2", "swin_authors"])
def test_what_is_frozen_rests(
    name: str, freeze: str, load: Callable[[str], Any], scenes_root: Any, tmp_path: Any
) -> None:
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    backbone, _ = load(name)
    model, cfg = make_detector(
        "coco-convnext-fpn", backbone, classes=len(found.classes), masks=True, freeze=freeze
    )
    conversion = load_backbone(model, backbone.state_dict())
    told = described(model, cfg)
    assert (told["pyramid"], told["frozen"]) == ("feature pyramid over four stages", freeze == "all")
    assert set(conversion.dropped.values()) == {"the stages' maps do not pass through it"}
    report = certify_training(model, cfg, freeze)
    assert report["frozen_tensors"] == (len(conversion.mapped) if freeze == "all" else 0)
    assert certify_rest(model, backbone.state_dict(), conversion, freeze) == report["frozen_tensors"]


@pytest.mark.parametrize("name", ["random:mobilenet_v2@0", "random:resnet18-c8@0", "timm-efficientnet_b0"])
def test_networks_with_batchnorm_rest_with_their_statistics(
    name: str, load: Callable[[str], Any], scenes_root: Any, tmp_path: Any
) -> None:
    """Frozen, they are taken: the detector's maps are the checkpoint's while it trains, and nothing moves."""
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    backbone = checkpoints.load(name).backbone if name.startswith("random:") else load(name)[0]
    model, cfg = make_detector("coco-frozen-fpn", backbone, classes=len(found.classes), masks=True)
    conversion = load_backbone(model, backbone.state_dict())
    assert conversion.dropped == {}
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        theirs, ours = backbone.feature_maps(images), loaded_network(model.train()).maps(images)
    assert list(ours) == ["res2", "res3", "res4", "res5"]
    assert all(torch.equal(ours[place], theirs[place]) for place in theirs)
    report = certify_training(model, cfg, "all")
    assert report["frozen_tensors"] == len(conversion.mapped) == len(backbone.state_dict())
    assert report["moving_statistics"] == 0
    assert certify_rest(model, backbone.state_dict(), conversion, "all") == report["frozen_tensors"]
    assert described(model, cfg)["frozen"]


def test_a_wrong_map_is_found(load: Callable[[str], Any]) -> None:
    backbone, _ = load("convnextv2")
    model, cfg = make_detector("coco-convnext-fpn", backbone)
    conversion = load_backbone(model, backbone.state_dict())
    key = next(
        key for key, name in conversion.mapped.items() if name.endswith("stages.2.blocks.0.mlp.grn.weight")
    )
    with torch.no_grad():
        model.state_dict()[key][:5].add_(1.0)
    with pytest.raises(UserError, match="res4 of the detector differs"):
        certify_features(model, backbone, PASSPORT, cfg)
    state = {name: value for name, value in backbone.state_dict().items() if "stem.0.bias" not in name}
    with pytest.raises(UserError, match=r"lacks network\.stem\.0\.bias"):
        load_backbone(model, state)


def test_bfloat16_and_checkpointing(load: Callable[[str], Any]) -> None:
    backbone, _ = load("convnext_authors")
    images = torch.randn(1, 3, 64, 64)
    maps = {}
    for option in ("", "BFLOAT16", "CHECKPOINTING"):
        more = {f"MODEL__NETWORK__{option}": True} if option else {}
        model, _ = make_detector("coco-convnext-fpn", backbone, **more)
        load_backbone(model, backbone.state_dict())
        net: Any = loaded_network(model)
        found = net.train().maps(images)
        sum(value.sum() for value in found.values()).backward()
        assert all(parameter.grad is not None for parameter in net.inner.parameters())
        maps[option] = found["res5"].detach()
    assert torch.equal(maps[""], maps["CHECKPOINTING"])
    difference = (maps[""] - maps["BFLOAT16"]).abs().max() / maps[""].abs().max()
    assert maps["BFLOAT16"].dtype == torch.float32
    assert 0 < difference < 0.05


def test_images_are_padded_to_what_fills_the_windows(
    load: Callable[[str], Any], scenes_root: Any, tmp_path: Any
) -> None:
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    for name, multiple in (("convnext_authors", 32), ("esvit_swin", None)):
        backbone, _ = load(name)
        model, cfg = make_detector(
            "coco-convnext-fpn", backbone, classes=len(found.classes), masks=True, INPUT__MIN_SIZE_TEST=100
        )
        wanted = multiple or backbone.multiple
        assert model.backbone.size_divisibility % wanted == 0
        image = next(iter(build_detection_test_loader(cfg, "test")))
        tensor = model.preprocess_image(image).tensor
        assert tensor.shape[-2] % wanted == tensor.shape[-1] % wanted == 0
        with torch.no_grad():
            assert len(model.eval()(image)) == 1


def test_half_of_the_images_are_cut_as_detrs(
    load: Callable[[str], Any], scenes_root: Any, tmp_path: Any
) -> None:
    registered("scenes-coco", scenes_root, tmp_path, masks=True)
    cfg = make_config("coco-convnext-fpn", load("convnext_authors")[0], masks=True, INPUT__DETR_CROP=True)
    names = [type(step).__name__ for step in build_mapper(cfg).augmentations.augs]
    assert names == ["RandomFlip", "RandomApply", "ResizeShortestEdge"]


def test_other_networks_are_refused() -> None:
    for name in ("random:vit_w64_patch16_d2@0", "random:resnet10-c8-half@0"):
        with pytest.raises(UserError, match="four stages"):
            hierarchy.describe(checkpoints.load(name).backbone)
    with pytest.raises(UserError, match="no feature maps"):
        hierarchy.describe(checkpoints.load("random:vit_w64_patch16_d2@0").backbone, frozen=True)
    small = Hierarchy(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=0), "small")
    with pytest.raises(UserError, match="OUT_NORM"):
        make_detector("coco-convnext-fpn", small, MODEL__NETWORK__OUT_NORM="BN")
