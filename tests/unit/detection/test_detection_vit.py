"""ViTs under Detectron2's simple pyramid: the same blocks, the schedule of ViTDet, and what it cannot take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_config, make_detector, registered

from eval import checkpoints
from eval.checkpoints import Normalization
from eval.detection import vit
from eval.detection.certify import certify_features, certify_rest, certify_training, frozen_keys
from eval.detection.convert import load_backbone
from eval.detection.train import build_optimizer
from eval.errors import UserError

ARCH = "vit_w64_patch16_d4"


def lived_in(arch: str = ARCH) -> Any:
    """A ViT whose every tensor is something else: biases, norms and positions start as zeros and ones."""
    backbone = checkpoints.load(f"random:{arch}@0").backbone
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone


def passport(**changes: Any) -> Any:
    return SimpleNamespace(normalization=Normalization(**changes))


def test_the_config_is_what_vitdet_publishes() -> None:
    arch = vit.VitArch("vit_base_patch16", 768, 12, 12, 1e-6, 14, True)
    cfg = make_config("coco-vitdet-b", arch, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == ("AdamW", 1e-4, 0.1)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.IMS_PER_BATCH) == (184375, (163889, 177546), 64)
    assert (cfg.SOLVER.LAYER_DECAY, cfg.MODEL.VIT.DROP_PATH, cfg.INPUT.LSJ) == (0.7, 0.1, 1024)
    large = make_config("coco-vitdet-l", arch, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (large.SOLVER.LAYER_DECAY, large.MODEL.VIT.DROP_PATH) == (0.8, 0.4)
    assert vit.global_blocks(12, 4) == [2, 5, 8, 11]
    assert vit.global_blocks(24, 4) == [5, 11, 17, 23]


@pytest.mark.parametrize("changes", [{}, {"channels": "BGR", "range": "0..255"}])
def test_the_detector_computes_what_the_checkpoint_computes(changes: dict[str, Any]) -> None:
    source = lived_in()
    norm = Normalization(**changes)
    model, cfg = make_detector("coco-vitdet-b", vit.describe(source), masks=True, normalization=norm)
    conversion = load_backbone(model, source.state_dict())
    assert conversion.kind == "vit"
    assert set(conversion.dropped) == {"network.cls_token", "network.norm.weight", "network.norm.bias"}
    assert len(conversion.mapped) == len(source.state_dict()) - 3
    found = certify_features(model, source, passport(**changes), cfg)
    assert 0 < found["float32"]["tokens"] < 1e-4
    assert found["float64"]["tokens"] < 1e-9
    with torch.no_grad():
        model.state_dict()["backbone.net.blocks.2.mlp.fc2.bias"].add_(1.0)
    with pytest.raises(UserError, match="tokens of the detector differs"):
        certify_features(model, source, passport(**changes), cfg)


@pytest.mark.parametrize("key", ["network.pos_embed", "network.blocks.3.attn.qkv.bias"])
def test_incomplete_weights_are_refused(key: str) -> None:
    source = lived_in()
    model, _ = make_detector("coco-vitdet-b", vit.describe(source))
    state = {name: value for name, value in source.state_dict().items() if name != key}
    with pytest.raises(UserError, match=f"lacks {key}"):
        load_backbone(model, state)


@pytest.mark.parametrize("freeze", ["nothing", "all"])
def test_what_is_frozen_rests(freeze: str, scenes_root: Any, tmp_path: Any) -> None:
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    source = lived_in()
    options: dict[str, Any] = {"classes": len(found.classes), "masks": True, "freeze": freeze}
    model, cfg = make_detector("coco-vitdet-b", vit.describe(source), **options)
    conversion = load_backbone(model, source.state_dict())
    report = certify_training(model, cfg, freeze)
    assert report["frozen_tensors"] == (len(conversion.mapped) if freeze == "all" else 0)
    assert certify_rest(model, source.state_dict(), conversion, freeze) == report["frozen_tensors"]
    assert len(frozen_keys(model, freeze)) == report["frozen_tensors"]


def test_learning_rates_fall_towards_the_patches() -> None:
    model, cfg = make_detector("coco-vitdet-b", vit.describe(lived_in()))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[parameter]: group
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    rate = cfg.SOLVER.BASE_LR
    assert groups["roi_heads.box_predictor.cls_score.weight"]["lr"] == pytest.approx(rate)
    assert groups["backbone.net.blocks.3.mlp.fc1.weight"]["lr"] == pytest.approx(rate * 0.7)
    assert groups["backbone.net.patch_embed.proj.weight"]["lr"] == pytest.approx(rate * 0.7**5)
    assert groups["backbone.net.pos_embed"]["weight_decay"] == 0
    assert groups["backbone.net.blocks.0.norm1.weight"]["weight_decay"] == 0
    assert groups["backbone.net.blocks.0.mlp.fc1.weight"]["weight_decay"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arch", "message"),
    [("vit_w64_patch14_d2", "patches of 14 pixels"), ("vit_w64_patch16_reg4_d2", "register tokens")],
)
def test_what_detectron2_lacks_is_refused(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        vit.describe(checkpoints.load(f"random:{arch}@0").backbone)


def test_a_transformer_has_no_stages() -> None:
    with pytest.raises(UserError, match="no stages to freeze"):
        make_config("coco-vitdet-b", vit.describe(lived_in()), freeze="res4")
    with pytest.raises(UserError, match="for vision transformers"):
        vit.describe(checkpoints.load("random:resnet10-c8-half@0").backbone)
