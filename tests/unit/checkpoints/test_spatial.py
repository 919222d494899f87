"""Maps and tokens of any backbone: laid out as the image is, at the stated stride, the same as the features'."""

from __future__ import annotations

import copy

import pytest
import torch

from eval.checkpoints import load, spatial
from eval.errors import UserError

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_a_vits_patch_tokens_lie_as_the_patches_do() -> None:
    backbone = load("random:vit_w64_patch16_reg4_d3@0").backbone
    (last,) = spatial(backbone, IMAGES)
    assert last.map.shape == (2, 64, 4, 6)
    assert last.stride == 16
    tokens = backbone.tokens(IMAGES)  # the class token, four registers, then patches row by row
    assert torch.equal(last.cls, tokens[:, 0])
    assert torch.equal(last.cls, backbone.features(IMAGES))
    assert torch.equal(last.map[:, :, 2, 5], tokens[:, 5 + 2 * 6 + 5])


def test_the_last_blocks_of_a_vit_come_in_order() -> None:
    backbone = load("random:vit_w64_patch16_d3@0").backbone
    found = spatial(backbone, IMAGES, last=3)
    shorter = copy.deepcopy(backbone)
    del shorter.network.blocks[2]
    assert torch.equal(found[1].map, spatial(shorter, IMAGES)[0].map)
    assert torch.equal(found[2].map, spatial(backbone, IMAGES)[0].map)


@pytest.mark.parametrize(
    ("ref", "channels", "strides"),
    [
        ("random:resnet18-c8@0", (8, 16, 32, 64), (4, 8, 16, 32)),
        ("random:resnet18-c8-half@0", (8, 16, 32, 64), (2, 4, 8, 16)),
        ("random:mobilenet_v2@0", (24, 32, 96, 1280), (4, 8, 16, 32)),
    ],
)
def test_stages_of_a_convolutional_network(
    ref: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    backbone = load(ref).backbone
    found = spatial(backbone, IMAGES, last=4)
    assert tuple(layer.map.shape[1] for layer in found) == channels
    assert tuple(layer.stride for layer in found) == strides
    assert all(layer.map.shape[2:] == (64 // layer.stride, 96 // layer.stride) for layer in found)
    assert all(layer.cls is None for layer in found)
    assert torch.equal(found[-1].map, spatial(backbone, IMAGES)[0].map)
    torch.testing.assert_close(found[-1].map.mean((2, 3)), backbone.features(IMAGES))


def test_gradients_flow() -> None:
    backbone = load("random:vit_w64_patch16_d2@0").backbone.requires_grad_()
    spatial(backbone, IMAGES)[0].map.sum().backward()
    assert backbone.network.patch_embed.proj.weight.grad.abs().sum() > 0


def test_more_layers_than_there_are() -> None:
    with pytest.raises(UserError, match="the last 5 layers of a network of 3"):
        spatial(load("random:vit_w64_patch16_d3@0").backbone, IMAGES, last=5)
    with pytest.raises(UserError, match="the last 5 layers of a network of 4"):
        spatial(load("random:resnet18-c8@0").backbone, IMAGES, last=5)
