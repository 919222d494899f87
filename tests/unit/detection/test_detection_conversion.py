"""The checkpoint's backbone arrives in the detector whole, computes the same, and freezes as the name says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from conftest import lived_in, make_detector, registered

from eval.checkpoints import Normalization
from eval.detection import backbone as modules
from eval.detection.certify import certify_features, certify_rest, certify_training, frozen_keys
from eval.detection.convert import backbone_keys, load_backbone, original, rename
from eval.errors import UserError

FPN, C4 = "voc-fpn-ericsson2021", "voc0712-c4-moco"
ARCHS = [
    "resnet18",
    "resnet34-c8",
    "resnet50-c8",
    "resnet10w2-c8",
    "resnet18-c16-half",
    "resnet18-c16-cifar",
    "resnet18-c16-cifar2",
    "resnet50-c8-cifar",
]


def passport(**changes: Any) -> Any:
    return SimpleNamespace(normalization=Normalization(**changes), stride_in_1x1=False)


@pytest.mark.parametrize("protocol", [FPN, C4])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_stage_computes_what_the_checkpoint_computes(protocol: str, arch: str) -> None:
    source = lived_in(arch)
    model, cfg = make_detector(protocol, arch)
    conversion = load_backbone(model, source.state_dict())
    differences = certify_features(model, source, passport(), cfg)
    assert set(differences["float64"]) == {"res2", "res3", "res4", "res5"}
    assert max(differences["float64"].values()) <= 1e-9
    assert max(differences["float32"].values()) <= 1e-4
    # Every tensor of the backbone has a place, but for the counters that a frozen BatchNorm does not have.
    assert {*conversion.mapped.values(), *conversion.dropped} == set(source.state_dict())


@pytest.mark.parametrize(("name", "protocol"), [("resnet18", FPN), ("resnet50", FPN), ("resnet50", C4)])
def test_against_torchvision_itself(name: str, protocol: str) -> None:
    reference = getattr(torchvision.models, name)(weights=None)
    source = lived_in(name)
    reference.load_state_dict(source.state_dict(), strict=False)
    model, _ = make_detector(protocol, name)
    load_backbone(model, source.state_dict())
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    reference, model = reference.double().eval(), model.double().eval()
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    found = modules.feature_maps(model, images)
    for stage in range(1, 5):
        x = getattr(reference, f"layer{stage}")(x)
        assert (x - found[f"res{stage + 1}"]).abs().max() <= 1e-9 * x.abs().max()


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": "BGR"},
        {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        {"mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0), "range": "0..255", "channels": "BGR"},
    ],
)
def test_pixels_follow_the_passport(changes: dict[str, Any]) -> None:
    source = lived_in("resnet10-c8-half")
    model, cfg = make_detector(FPN, "resnet10-c8-half", normalization=Normalization(**changes))
    load_backbone(model, source.state_dict())
    certify_features(model, source, passport(**changes), cfg)
    with pytest.raises(UserError, match="res2 of the detector differs"):
        certify_features(model, source, passport(), cfg)  # ImageNet's constants, RGB: not what cfg says


def test_stride_in_1x1_reaches_the_blocks() -> None:
    model, _ = make_detector(FPN, "resnet50-c8", MODEL__RESNETS__STRIDE_IN_1X1=True)
    block = model.backbone.bottom_up.res3[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_a_wrong_conversion_is_refused() -> None:
    source = lived_in("resnet10-c8-half")
    model, cfg = make_detector(C4, "resnet10-c8-half")
    load_backbone(model, source.state_dict())
    model.roi_heads.res5[0].conv1.norm.running_mean += 0.1
    with pytest.raises(UserError, match="res5 of the detector differs"):
        certify_features(model, source, passport(), cfg)


@pytest.mark.parametrize("protocol", [FPN, C4])
def test_new_modules_are_exactly_the_declared_ones(protocol: str) -> None:
    source = lived_in("resnet10-c8-half")
    model, _ = make_detector(protocol, "resnet10-c8-half")
    conversion = load_backbone(model, source.state_dict())
    assert set(conversion.new) | set(conversion.mapped) == set(model.state_dict())
    tops = {key.rsplit(".", 2)[0].split("_")[0] for key in conversion.new}
    if protocol == C4:
        assert {key for key in conversion.new if "res5" in key} == {
            f"roi_heads.res5.norm.{name}"
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        }
        assert not any(key.startswith("backbone.") for key in conversion.new)
    else:
        assert {key for key in conversion.new if key.startswith("backbone.")} == {
            key
            for key in model.state_dict()
            if key.startswith(("backbone.fpn_lateral", "backbone.fpn_output"))
        }
    assert tops


@pytest.mark.parametrize("protocol", [FPN, C4])
@pytest.mark.parametrize("key", ["layer4.0.conv1.weight", "bn1.running_var", "layer2.0.downsample.1.bias"])
def test_incomplete_weights_are_refused_and_nothing_is_loaded(protocol: str, key: str) -> None:
    state = lived_in("resnet10-c8-half").state_dict()
    del state[key]
    model, _ = make_detector(protocol, "resnet10-c8-half")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=rf"lacks {key}"):
        load_backbone(model, state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_strangers_and_other_shapes_are_refused() -> None:
    model, _ = make_detector(FPN, "resnet10-c8-half")
    state = lived_in("resnet10-c8-half").state_dict()
    with pytest.raises(UserError, match=r"no place in the detector for fc\.weight"):
        load_backbone(model, {**state, "fc.weight": torch.zeros(2, 2)})
    with pytest.raises(UserError, match=r"conv1\.weight is \(16, 3, 3, 3\), expected \(8, 3, 3, 3\)"):
        load_backbone(model, {**state, "conv1.weight": torch.zeros(16, 3, 3, 3)})


def test_renaming_can_be_undone() -> None:
    for arch in ("resnet18-c8", "resnet50-c8"):
        for key in lived_in(arch).state_dict():
            assert original(rename(key)) == key


@pytest.mark.parametrize(
    "arch", ["resnet10-c8", "resnet10-c8-half", "resnet10-c8-cifar", "resnet10-c8-cifar2"]
)
def test_a_pyramid_has_the_same_levels_over_every_stem(arch: str) -> None:
    model, _ = make_detector(FPN, arch)
    shapes = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    assert shapes == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    maps = model.backbone(torch.rand(1, 3, 128, 96))
    for name, stride in shapes.items():
        assert maps[name].shape[-2:] == (-(-128 // stride), -(-96 // stride))


@pytest.mark.parametrize(
    ("protocol", "freeze", "stages"),
    [
        (FPN, "nothing", ()),
        (FPN, "res2", ("stem", "res2")),
        (FPN, "res4", ("stem", "res2", "res3", "res4")),
        (FPN, "all", ("stem", "res2", "res3", "res4", "res5")),
        (C4, "res4", ("stem", "res2", "res3", "res4")),
        (C4, "all", ("stem", "res2", "res3", "res4", "res5")),
    ],
)
def test_what_is_frozen_rests_and_what_is_not_moves(
    protocol: str, freeze: str, stages: tuple[str, ...], scenes_root: Any, tmp_path: Any
) -> None:
    registered("scenes-voc", scenes_root, tmp_path)
    source = lived_in("resnet10-c8-half")
    options: dict[str, Any] = {"classes": 20, "MODEL__RESNETS__NORM": "BN"}
    model, cfg = make_detector(protocol, "resnet10-c8-half", freeze=freeze, **options)
    conversion = load_backbone(model, source.state_dict())
    expected = {place for key, place in backbone_keys(model).items() if rename(key).split(".")[0] in stages}
    assert frozen_keys(model, freeze) == expected
    report = certify_training(model, cfg, freeze)
    assert report["frozen_tensors"] == len(expected)
    assert (report["moving_statistics"] > 0) == (freeze != "all" or protocol == C4)
    assert certify_rest(model, source.state_dict(), conversion, freeze) == len(expected)
    if stages:
        key = next(iter(sorted(k for k in expected if k.endswith("conv1.weight"))))
        dict(model.named_parameters())[key].requires_grad_(True)
        with pytest.raises(UserError, match="although frozen"):
            certify_training(model, cfg, freeze)
        model.state_dict()[key].add_(1e-3)
        with pytest.raises(UserError, match="was frozen and has changed"):
            certify_rest(model, source.state_dict(), conversion, freeze)


def test_frozen_batchnorm_rests_while_its_convolutions_train(scenes_root: Any, tmp_path: Any) -> None:
    registered("scenes-voc", scenes_root, tmp_path)
    model, cfg = make_detector(FPN, "resnet10-c8-half", classes=20, MODEL__RESNETS__NORM="FrozenBN")
    load_backbone(model, lived_in("resnet10-c8-half").state_dict())
    frozen = frozen_keys(model, "nothing")
    assert frozen
    assert all(".norm." in key for key in frozen)
    assert certify_training(model, cfg, "nothing")["moving_statistics"] == 0


def test_norms_that_cannot_take_batchnorm_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.RESNETS\.NORM=GN cannot take"):
        make_detector(FPN, "resnet10-c8-half", MODEL__RESNETS__NORM="GN")
