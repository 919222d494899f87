"""The backbone is torchvision's; masks and heads start where they should."""

import math

import pytest
import torch
import torchvision

from mast.model import Arch, Expander, SubspaceMasks, VarianceHead, build_backbone, parse_arch


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_backbone_is_torchvisions(name):
    ours = build_backbone(name, seed=0).eval()
    theirs = getattr(torchvision.models, name)()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50w2", "resnet10-c16-half", "resnet18-cifar", "resnet18-c32-cifar2"]
)
def test_names_channels_and_strides(name):
    arch = parse_arch(name)
    assert arch.name == name
    backbone = build_backbone(arch, seed=0).eval()
    with torch.no_grad():
        maps = backbone.feature_maps(torch.randn(1, 3, 64, 64))
    assert tuple(m.shape[1] for m in maps.values()) == arch.stage_channels
    side = 66 if arch.stem == "cifar2" else 64  # padding 2 grows the stem's map by two cells
    for stride, feature_map in zip(arch.strides, maps.values(), strict=True):
        assert feature_map.shape[2] == math.ceil(side / stride)


@pytest.mark.parametrize("name", ["resnet19", "vit", "resnet18-huge", "resnet50W2", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="expected resnet"):
        parse_arch(name)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(1)
    want = torch.rand(1)
    torch.manual_seed(1)
    first, second = build_backbone("resnet10-c16-half", seed=5), build_backbone("resnet10-c16-half", seed=5)
    assert torch.rand(1) == want
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_expander_is_vicregs():
    layers = [type(layer).__name__ for layer in Expander(4, (8, 8, 6))]
    assert layers == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert Expander(4, (8, 6))[-1].bias is None


def test_masks_start_open_and_stay_in_range():
    masks = SubspaceMasks(["a", "b"], 1000, start=0.9, spread=0.1)
    assert masks.masks().mean().item() == pytest.approx(0.9, abs=0.01)
    torch.testing.assert_close(masks.log_masks().exp(), masks.masks())
    with torch.no_grad():
        masks.logits.fill_(-200.0)
    assert torch.isfinite(masks.log_masks()).all()


@pytest.mark.parametrize("layout", ["own-closed", "own-open"])
def test_masks_start_with_disjoint_blocks(layout):
    masks = SubspaceMasks(["a", "b", "c"], 100, spread=0.0, layout=layout, block=0.2, closed=0.05).masks()
    for k in range(3):
        own = torch.zeros(100, dtype=torch.bool)
        own[20 * k : 20 * (k + 1)] = True
        blocks = torch.arange(100) < 60
        closed = own if layout == "own-closed" else blocks & ~own
        torch.testing.assert_close(masks[k], torch.where(closed, 0.05, 0.9))


def test_variance_head_starts_indifferent():
    v = VarianceHead(4, 6)(torch.randn(3, 4))
    assert torch.equal(v, v[:1, :1].expand(3, 6))
    assert (v > 0).all()


def test_arch_is_hashable_data():
    assert Arch(18) == parse_arch("resnet18")
    assert len({Arch(18), parse_arch("resnet18")}) == 1
