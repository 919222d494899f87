"""ViTs as detectors' backbones: the checkpoint's own forward pass, Detectron2's ViTDet, freezing, learning rates."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import make_config, make_detector, registered
from detectron2.data import build_detection_test_loader
from detectron2.modeling import SimpleFeaturePyramid, ViT, build_model, get_vit_lr_decay_rate
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.utils.events import EventStorage
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from eval import checkpoints
from eval.checkpoints import Normalization
from eval.checkpoints.vit import ViT as Loaded
from eval.detection import networks, run_cell, vit
from eval.detection.certify import (
    certify_features,
    certify_rest,
    certify_training,
    described,
    frozen_keys,
)
from eval.detection.convert import load_backbone, loaded_network
from eval.detection.train import Trainer, build_optimizer, seed_everything, train_loader
from eval.errors import UserError

ARCH = "vit_w64_patch16_d4"
REGISTERS = "vit_w64_patch14_reg4_d4"  # DINOv2's form: a class token with a position, registers without
SMALL = {"embed_dim": 64, "depth": 4, "num_heads": 2, "num_classes": 0, "dynamic_img_size": True}


def stirred(backbone: Any) -> Any:
    """A network whose every tensor is something else: biases, norms and positions start as zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone.requires_grad_(False).eval()


def lived_in(arch: str = ARCH) -> Any:
    return stirred(checkpoints.load(f"random:{arch}@0").backbone)


class Plain(nn.Module):
    """What the loader puts around a network of timm's, in its smallest form."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.arch = network, type(network).__name__

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.network.forward_features(images)
        return out


def of_timm(name: str) -> Any:
    """Networks that the harness's names have not: layer scale, gated MLPs, rotary positions, no class token."""
    torch.manual_seed(0)
    if name == "dinov2 giant's form":
        from timm.layers import SwiGLUPacked

        options = {"init_values": 1e-5, "reg_tokens": 4, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
        return stirred(Plain(VisionTransformer(56, 14, mlp_ratio=4, **options, **SMALL)))
    if name in ("dinov3's form", "turns of each head and block"):
        kind = "dinov3" if name == "dinov3's form" else "mixed"
        rotary = {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_type": kind}
        more = {"num_reg_tokens": 4, "init_values": 1e-5, "rope_rotate_half": kind == "dinov3"}
        return stirred(Plain(Eva(64, 16, **rotary, **more, **SMALL)))
    assert name == "i-jepa's form"
    options = {"class_token": False, "global_pool": "avg", "qk_norm": True}
    return stirred(Plain(VisionTransformer(64, 16, **options, **SMALL)))


FORMS = ["dinov2 giant's form", "dinov3's form", "i-jepa's form"]


def passport(**changes: Any) -> Any:
    return SimpleNamespace(normalization=Normalization(**changes))


def test_the_config_is_what_vitdet_publishes() -> None:
    base = lived_in()
    cfg = make_config("coco-vitdet-b", base, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == ("AdamW", 1e-4, 0.1)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.IMS_PER_BATCH) == (184375, (163889, 177546), 64)
    assert (cfg.SOLVER.LAYER_DECAY, cfg.MODEL.NETWORK.DROP_PATH, cfg.INPUT.LSJ) == (0.7, 0.1, 1024)
    assert (cfg.MODEL.VIT.FORM, cfg.MODEL.VIT.REL_POS, cfg.MODEL.VIT.WINDOW) == ("vitdet", True, 14)
    large = make_config("coco-vitdet-l", base, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (large.SOLVER.LAYER_DECAY, large.MODEL.NETWORK.DROP_PATH) == (0.8, 0.4)
    ours = make_config("coco-vitdet", base, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (ours.MODEL.VIT.FORM, ours.MODEL.VIT.REL_POS, ours.SOLVER.LAYER_DECAY) == ("network", False, 0.7)
    frozen = make_config("coco-vit-frozen-pyramid", base, tiny=False, SOLVER__AMP__ENABLED=False)
    assert (frozen.MODEL.VIT.WINDOW, frozen.MODEL.NETWORK.DROP_PATH) == (0, 0.0)
    assert vit.global_blocks(12, 4) == [2, 5, 8, 11]
    assert vit.global_blocks(24, 4) == [5, 11, 17, 23]


def theirs(cfg: Any, source: Any) -> Any:
    """Detectron2's own ViT and pyramid with the same settings."""
    net = ViT(
        img_size=cfg.INPUT.LSJ,
        patch_size=16,
        embed_dim=64,
        depth=4,
        num_heads=1,
        drop_path_rate=0.0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=cfg.MODEL.VIT.WINDOW,
        window_block_indexes=[i for i in range(4) if i not in vit.global_blocks(4, 2)],
        pretrain_img_size=source.grid * 16,
    )
    levels = (4.0, 2.0, 1.0, 0.5)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return SimpleFeaturePyramid(net, "last_feat", channels, levels, LastLevelMaxPool(), "LN", cfg.INPUT.LSJ)


def test_features_losses_and_gradients_are_detectron2s(scenes_root: Any, tmp_path: Any) -> None:
    """Windows, relative positions that are not zero, resized positions: all as Detectron2's ViT has them."""
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    source = lived_in()
    options = {
        "MODEL__VIT__GLOBAL_BLOCKS": 2,
        "MODEL__NETWORK__DROP_PATH": 0.0,
        "INPUT__LSJ": 96,
        "INPUT__MAX_SIZE_TEST": 96,
    }
    model, cfg = make_detector(
        "coco-vitdet-b", source, classes=len(found.classes), masks=True, MODEL__VIT__WINDOW=4, **options
    )
    load_backbone(model, source.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name or "simfp" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    other = copy.deepcopy(model)
    other.backbone = theirs(cfg, source)
    state = {
        key.replace("backbone.net.inner.network.", "backbone.net.").replace(
            ".attn.attention.", ".attn."
        ): value
        for key, value in model.state_dict().items()
    }
    other.load_state_dict(state, strict=True)
    batch = next(iter(train_loader(cfg, start=0)))
    losses, gradients = [], []
    for detector in (model, other):
        seed_everything(0)
        with EventStorage():
            loss = detector.train()(batch)
        sum(loss.values()).backward()
        losses.append({name: value.item() for name, value in loss.items()})
        net = detector.backbone.net
        blocks = net.inner.network.blocks if hasattr(net, "inner") else net.blocks
        gradients.append(blocks[0].attn.qkv.weight.grad if net is other.backbone.net else None)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 5
    ours = model.backbone.net.inner.network.blocks[0].attn.attention.qkv.weight.grad
    torch.testing.assert_close(ours, gradients[1], rtol=1e-3, atol=1e-5)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        for name, value in other.eval().backbone(images).items():
            torch.testing.assert_close(model.eval().backbone(images)[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"channels": "BGR", "range": "0..255"}])
@pytest.mark.parametrize(("protocol", "arch"), [("coco-vitdet-b", ARCH), ("coco-vitdet", REGISTERS)])
def test_the_detector_computes_what_the_checkpoint_computes(
    protocol: str, arch: str, changes: dict[str, Any]
) -> None:
    source = lived_in(arch)
    norm = Normalization(**changes)
    model, cfg = make_detector(protocol, source, masks=True, normalization=norm)
    conversion = load_backbone(model, source.state_dict())
    assert conversion.kind == "vit"
    left_out = {"network.cls_token", "network.norm.weight", "network.norm.bias"}
    assert set(conversion.dropped) == (left_out if protocol == "coco-vitdet-b" else set())
    assert len(conversion.mapped) == len(source.state_dict()) - len(conversion.dropped)
    found = certify_features(model, source, passport(**changes), cfg)
    assert found["float32"]["tokens"] < 1e-4
    assert found["float64"]["tokens"] < 1e-9
    key = next(key for key, name in conversion.mapped.items() if name == "network.blocks.2.mlp.fc2.bias")
    with torch.no_grad():
        model.state_dict()[key][::2].add_(1.0)  # the next norm would take a shift of all channels out again
    with pytest.raises(UserError, match="tokens of the detector differs"):
        certify_features(model, source, passport(**changes), cfg)


def test_another_way_to_resize_positions_is_found() -> None:
    """DINOv2's files are resized by its authors' rule; timm's is another, and at another size it shows."""
    source = lived_in()
    network = copy.deepcopy(source.network)
    authors = Loaded(network, ARCH, source.grid, {"offset": 0.1})
    timms = source
    model, cfg = make_detector("coco-vitdet", timms)
    load_backbone(model, timms.state_dict())
    certify_features(model, timms, passport(), cfg)
    with pytest.raises(UserError, match="tokens of the detector differs"):
        certify_features(model, authors, passport(), cfg)


@pytest.mark.parametrize("form", FORMS)
def test_networks_of_every_form(form: str) -> None:
    """Held against the library's own forward pass on the same normalised image, without this project's code."""
    source = of_timm(form)
    model, cfg = make_detector("coco-vit-frozen-pyramid", source)
    load_backbone(model, source.state_dict())
    assert certify_features(model, source, passport(), cfg)["float64"]["tokens"] < 1e-9
    net: Any = loaded_network(model)
    patch, prefix = net.patch, source.network.num_prefix_tokens
    images = torch.randn(1, 3, 64, 96)
    seen = (
        images
        if patch == 16
        else nn.functional.interpolate(images, (56, 84), mode="bilinear", antialias=True)
    )
    expected = source.network.forward_features(seen)[:, prefix:].transpose(1, 2).reshape(1, 64, 4, 6)
    torch.testing.assert_close(net(images)["last_feat"], expected, rtol=1e-4, atol=1e-5)
    told = described(model, cfg)
    assert (told["frozen"], told["patch_pixels"], told["windows"]) == (True, patch, 0)
    assert told["tokens"] == (f"patches and {prefix} class or register tokens" if prefix else "patches")
    assert told["levels"] == ["p2", "p3", "p4", "p5", "p6"]


@pytest.mark.parametrize("form", [*FORMS, "plain"])
def test_a_window_sees_nothing_of_the_others(form: str) -> None:
    """Without global blocks and prefix tokens' messages, a change in one corner stays in its window."""
    source = lived_in() if form == "plain" else of_timm(form)
    protocol = "coco-vitdet-b" if form == "plain" else "coco-vitdet"
    options = {"MODEL__VIT__GLOBAL_BLOCKS": 1, "MODEL__VIT__WINDOW": 4}
    model, _ = make_detector(protocol, source, **options)
    net: Any = loaded_network(model)
    net.eval()
    for module in net.modules():
        if isinstance(module, vit.GridAttention):
            assert module.window in (0, 4)
    block = net.inner.network.blocks[0].attn
    assert isinstance(block, vit.GridAttention)
    block.grid = (6, 8)  # windows of 4: two rows, the second half filled up
    tokens = torch.randn(1, net.prefix + 48, 64)
    rope = source.network.rope.get_embed(shape=[6, 8]) if form == "dinov3's form" else None
    changed = tokens.clone()
    changed[:, net.prefix] += 1.0
    with torch.no_grad():
        difference = (block(tokens, rope=rope) - block(changed, rope=rope))[:, net.prefix :]
    touched = difference.abs().sum(-1).reshape(6, 8) > 0
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[:4, :4] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("form", [*FORMS, "turns of each head and block"])
def test_a_window_over_everything_is_no_window(form: str) -> None:
    source = of_timm(form)
    model, _ = make_detector("coco-vitdet", source, MODEL__VIT__WINDOW=64)
    net: Any = loaded_network(model)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        windowed = net.eval()(images)["last_feat"]
        torch.testing.assert_close(windowed, vit.detector_tokens(net, images), rtol=1e-4, atol=1e-5)


def test_rotary_windows_keep_their_places() -> None:
    """Class and register tokens are not turned, so a window is no copy of the one in the corner."""
    source = of_timm("dinov3's form")
    model, _ = make_detector("coco-vitdet", source, MODEL__VIT__WINDOW=4)
    block: Any = loaded_network(model).inner.network.blocks[0].attn  # type: ignore[union-attr]
    plane = source.network.rope.get_embed(shape=[8, 8])
    block.grid = (8, 8)
    tokens = torch.randn(1, 5 + 64, 64)
    with torch.no_grad():
        found = block(tokens, rope=plane)[:, 5:].reshape(8, 8, 64)
        last = tokens[:, 5:].reshape(8, 8, 64)[4:, 4:].reshape(1, 16, 64)
        own = plane.reshape(8, 8, -1)[4:, 4:].reshape(16, -1)  # its own places, not the corner's
        expected = block.attention(torch.cat([tokens[:, :5], last], 1), rope=own)[:, 5:].reshape(4, 4, 64)
    torch.testing.assert_close(found[4:, 4:], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["network.pos_embed", "network.blocks.3.attn.qkv.bias", "network.reg_token"])
def test_incomplete_weights_are_refused(key: str) -> None:
    source = lived_in(REGISTERS)
    model, _ = make_detector("coco-vitdet", source)
    state = {name: value for name, value in source.state_dict().items() if name != key}
    with pytest.raises(UserError, match=f"lacks {key}"):
        load_backbone(model, state)
    with pytest.raises(UserError, match=r"no place in the detector for network\.other"):
        load_backbone(model, {**source.state_dict(), "network.other": torch.zeros(1)})


@pytest.mark.parametrize(
    ("protocol", "arch"),
    [("coco-vitdet-b", ARCH), ("coco-vitdet", REGISTERS), ("coco-vit-frozen-pyramid", REGISTERS)],
)
def test_what_is_frozen_rests(protocol: str, arch: str, scenes_root: Any, tmp_path: Any) -> None:
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    source = lived_in(arch)
    model, cfg = make_detector(protocol, source, classes=len(found.classes), masks=True)
    conversion = load_backbone(model, source.state_dict())
    freeze = "all" if "frozen" in protocol else "nothing"
    report = certify_training(model, cfg, freeze)
    assert report["frozen_tensors"] == (len(conversion.mapped) if freeze == "all" else 0)
    assert certify_rest(model, source.state_dict(), conversion, freeze) == report["frozen_tensors"]
    assert len(frozen_keys(model, freeze)) == report["frozen_tensors"]
    if freeze == "all":
        optimizer = build_optimizer(cfg, model)
        batch = next(iter(train_loader(cfg, start=0)))
        for _ in range(2):
            with EventStorage():
                optimizer.zero_grad()
                sum(model.train()(batch).values()).backward()
                optimizer.step()
        assert certify_rest(model, source.state_dict(), conversion, freeze) == len(conversion.mapped)
        assert not any(module.training for module in loaded_network(model).inner.modules())  # type: ignore[union-attr]
        key = next(key for key, name in conversion.mapped.items() if name == "network.reg_token")
        model.state_dict()[key].view(-1)[0] += 1e-6
        with pytest.raises(UserError, match="was frozen and has changed"):
            certify_rest(model, source.state_dict(), conversion, freeze)


def rates(model: Any, cfg: Any) -> dict[str, Any]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: group
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }


def test_learning_rates_fall_towards_the_patches() -> None:
    """As Detectron2's rule, which knows no class token, has them for every other parameter."""
    source = lived_in("vit_w64_patch16_reg4_d4")
    model, cfg = make_detector("coco-vitdet", source)
    groups = rates(model, cfg)
    inside = "backbone.net.inner.network."
    for name, group in groups.items():
        if not name.endswith(("cls_token", "reg_token")):
            share = get_vit_lr_decay_rate(name, lr_decay_rate=0.7, num_layers=4)
            assert group["lr"] == pytest.approx(cfg.SOLVER.BASE_LR * share), name
    assert groups[f"{inside}reg_token"]["lr"] == groups[f"{inside}patch_embed.proj.weight"]["lr"]
    assert groups[f"{inside}blocks.0.mlp.fc1.weight"]["weight_decay"] == pytest.approx(0.1)
    for still in ("pos_embed", "reg_token", "cls_token", "blocks.0.norm1.weight"):
        assert groups[f"{inside}{still}"]["weight_decay"] == 0
    with pytest.raises(UserError, match="NO_DECAY"):
        build_optimizer(make_config("coco-vitdet", source, SOLVER__NO_DECAY="biases"), model)


def test_drop_path_rises_with_depth() -> None:
    model, _ = make_detector("coco-vitdet", lived_in(), MODEL__NETWORK__DROP_PATH=0.3)
    blocks = loaded_network(model).inner.network.blocks  # type: ignore[union-attr]
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )
    assert [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )
    with pytest.raises(UserError, match="cannot be skipped"):
        networks.set_drop_path([nn.Linear(2, 2)], 0.1)


@pytest.mark.parametrize("option", ["BFLOAT16", "CHECKPOINTING"])
@pytest.mark.parametrize("form", ["dinov2 giant's form", "dinov3's form"])
def test_cheaper_ways_to_train(form: str, option: str) -> None:
    """Checkpointing changes no bit; bfloat16 is near, hands over float32, and reaches the whole gradient."""
    source = of_timm(form)
    gradients, maps = [], []
    images = torch.randn(1, 3, 64, 64)
    for on in (False, True):
        model, _ = make_detector(
            "coco-vitdet", source, **{f"MODEL__NETWORK__{option}": on, "MODEL__NETWORK__DROP_PATH": 0.0}
        )
        net: Any = loaded_network(model)
        found = net.train()(images)["last_feat"]
        assert found.dtype == torch.float32
        found.square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())
        maps.append(found.detach())
        gradients.append(net.inner.network.patch_embed.proj.weight.grad)
    if option == "CHECKPOINTING":
        assert torch.equal(*maps)
        torch.testing.assert_close(*gradients)
    else:
        assert not torch.equal(*maps)
        assert (maps[0] - maps[1]).abs().max() < 0.05 * maps[0].abs().max()


def test_images_of_any_size_are_padded(scenes_root: Any, tmp_path: Any) -> None:
    """The detector pads to a multiple of 32; the network alone refuses what 16 does not divide."""
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    source = lived_in(REGISTERS)
    options: dict[str, Any] = {"classes": len(found.classes), "masks": True}
    model, cfg = make_detector("coco-vitdet", source, INPUT__MIN_SIZE_TEST=100, **options)
    model.eval()
    image = next(iter(build_detection_test_loader(cfg, "test")))
    assert image[0]["image"].shape[-2] % 32 or image[0]["image"].shape[-1] % 32
    with torch.no_grad():
        maps = model.backbone(model.preprocess_image(image).tensor)
        assert [maps[level].shape[-1] for level in ("p2", "p3", "p4")] == [
            maps["p5"].shape[-1] * 2**n for n in (3, 2, 1)
        ]
        assert model(image)[0]["instances"].image_size == (image[0]["height"], image[0]["width"])
    with pytest.raises(UserError, match="100x96 pixels for tokens 16 pixels apart"):
        loaded_network(model)(torch.zeros(1, 3, 100, 96))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("vit_w64_patch16_reg4_d2", "register tokens"),
        ("dinov3's form", "register tokens and no absolute positions"),
        ("i-jepa's form", "a norm of queries and keys"),
    ],
)
def test_what_vitdets_own_network_lacks_is_refused(network: str, message: str) -> None:
    source = of_timm(network) if "form" in network else lived_in(network)
    with pytest.raises(UserError, match=message):
        make_detector("coco-vitdet-b", source)


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match="no part of its own to freeze"):
        make_config("coco-vitdet", lived_in(), freeze="res4")
    with pytest.raises(UserError, match="do not fit the square of 128"):
        make_config("coco-vitdet-b", lived_in(), INPUT__MAX_SIZE_TEST=160)
    with pytest.raises(UserError, match="none was given"):
        build_model(make_config("coco-vitdet", lived_in()))
    with pytest.raises(UserError, match="for vision transformers"):
        vit.describe(checkpoints.load("random:resnet10-c8-half@0").backbone)
    with pytest.raises(UserError, match=r"MODEL\.VIT\.FORM"):
        make_detector("coco-vitdet", lived_in(), MODEL__VIT__FORM="mine")


def test_a_plain_vit_of_timms_in_vitdets_form() -> None:
    """Without the attributes that this project's own ViT has beside the network."""
    torch.manual_seed(0)
    source = stirred(Plain(VisionTransformer(64, 16, init_values=1e-5, **SMALL)))
    model, cfg = make_detector("coco-vitdet-b", source)
    load_backbone(model, source.state_dict())
    assert certify_features(model, source, passport(), cfg)["float64"]["tokens"] < 1e-9


def test_a_trainer_takes_the_loaded_network(scenes_root: Any, tmp_path: Any) -> None:
    """The whole way of a run, without `networks.given` in the test's own hands."""
    found = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    loaded = checkpoints.load(f"random:{REGISTERS}@0")
    cfg = make_config("coco-vitdet", loaded.backbone, classes=len(found.classes), masks=True, iterations=1)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path)
    trainer, conversion = run_cell._trainer(loaded, cfg, lambda *_: None, lambda *_: {})
    assert isinstance(trainer, Trainer)
    assert len(conversion.mapped) == len(loaded.backbone.state_dict())
