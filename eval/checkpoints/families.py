"""Architectures: told from tensor shapes, built empty, and the list of keys that each must be given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mast.model import Arch, Backbone, parse_arch

from ..errors import UserError

_DEPTHS = (10, 18, 34, 50, 101, 152)
Shapes = Mapping[str, tuple[int, ...]]


def infer(shapes: Shapes, *, stem: str = "", options: Mapping[str, Any] | None = None) -> str:
    """Name the architecture that tensors of these names and shapes belong to.

    Args:
        shapes: Under torchvision's or timm's names.
        stem: What the layout says about a 3x3 first convolution.
        options: The layout's other hints.

    Raises:
        UserError: If no supported architecture has such tensors, or if several have.
    """
    if "conv1.weight" in shapes and any(key.startswith("layer1.0.conv1") for key in shapes):
        return _infer_resnet(shapes, stem)
    raise UserError(
        "the tensors belong to no supported architecture (ResNet, ViT, MobileNetV2): first keys "
        + ", ".join(sorted(shapes)[:3]),
        remedy="see docs/checkpoints.md for what is supported",
    )


def _infer_resnet(shapes: Shapes, stem: str) -> str:
    channels, inputs, *kernel = shapes["conv1.weight"] if len(shapes["conv1.weight"]) == 4 else (0, 0, 0, 0)
    if inputs != 3:
        raise UserError(
            f"the first convolution takes {inputs} channels",
            remedy="only networks on RGB images are supported",
        )
    counts = [_blocks(shapes, stage) for stage in range(1, 5)]
    bottleneck = "layer1.0.conv3.weight" in shapes
    candidates = [
        depth for depth in _DEPTHS if (parse_arch(f"resnet{depth}").block == "bottleneck") == bottleneck
    ]
    depth = min(
        candidates,
        key=lambda d: sum(abs(a - b) for a, b in zip(parse_arch(f"resnet{d}").layers, counts, strict=True)),
    )
    width, base = (channels // 64, 64) if channels % 64 == 0 and channels else (1, channels)
    inner = shapes.get("layer1.0.conv1.weight", (channels,))[0]
    if inner != channels:
        raise UserError(
            f"a ResNet whose stem has {channels} channels and whose first block {inner}: a Wide ResNet or ResNeXt",
            remedy="only ResNets that are widened everywhere (w2, w4) are supported",
        )
    if any(
        key.startswith("layer1.0.") and len(s) == 4 and "conv2" in key and s[0] != s[1]
        for key, s in shapes.items()
    ):
        raise UserError("grouped convolutions: a ResNeXt", remedy="only plain ResNets are supported")
    if kernel == [7, 7]:
        stem = "imagenet"
    elif kernel == [3, 3] and not stem:
        name = Arch(depth, width, base).name
        raise UserError(
            f"the first convolution is 3x3: {name}-cifar (stride 1, padding 1), {name}-cifar2 (stride 1, padding 2) "
            f"and {name}-half (stride 2) all fit and differ in what they compute",
            remedy="say which with --arch",
            code=2,
        )
    return Arch(depth, width, base, stem).name  # type: ignore[arg-type]


def _blocks(shapes: Shapes, stage: int) -> int:
    found = [re.match(rf"layer{stage}\.(\d+)\.", key) for key in shapes]
    return 1 + max((int(match[1]) for match in found if match and len(match[1]) < 4), default=-1)


def build(arch: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a backbone without allocating its weights.

    Args:
        arch: A name that `infer` gives or a user does.
        options: ``stride_in_1x1`` moves the stride of bottlenecks.

    Returns:
        A module with ``features`` and ``feature_maps`` whose tensors are on the ``meta`` device.
    """
    options = options or {}
    try:
        parsed = parse_arch(arch)
    except ValueError as error:
        raise UserError(str(error), remedy="see docs/checkpoints.md", code=2) from error
    with torch.device("meta"):
        backbone = Backbone(parsed)
    if options.get("stride_in_1x1"):
        for stage in (2, 3, 4):
            block: Any = backbone.get_submodule(f"layer{stage}.0")
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return backbone


def target(backbone: nn.Module) -> nn.Module:
    """The module whose state dict has the names that layouts map to."""
    return backbone


def expected(backbone: nn.Module) -> dict[str, Tensor]:
    """Names and (meta) tensors that a backbone must be given."""
    return target(backbone).state_dict()
