"""ConvNeXt and Swin told from the shapes of their tensors under timm's names, built by timm."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import UserError
from .timm_networks import Hierarchy

Shapes = Mapping[str, tuple[int, ...]]

_CONVNEXT = {
    (40, (2, 2, 6, 2)): "atto",
    (48, (2, 2, 6, 2)): "femto",
    (64, (2, 2, 6, 2)): "pico",
    (80, (2, 2, 8, 2)): "nano",
    (96, (3, 3, 9, 3)): "tiny",
    (96, (3, 3, 27, 3)): "small",
    (128, (3, 3, 27, 3)): "base",
    (192, (3, 3, 27, 3)): "large",
    (256, (3, 3, 27, 3)): "xlarge",
    (352, (3, 3, 27, 3)): "huge",
}
_SWIN = {
    (96, (2, 2, 6, 2)): "tiny",
    (96, (2, 2, 18, 2)): "small",
    (128, (2, 2, 18, 2)): "base",
    (192, (2, 2, 18, 2)): "large",
}


def is_convnext(shapes: Shapes) -> bool:
    """Whether tensors are a ConvNeXt's."""
    return "stem.0.weight" in shapes and "stages.0.blocks.0.conv_dw.weight" in shapes


def is_swin(shapes: Shapes) -> bool:
    """Whether tensors are a Swin transformer's (version 1)."""
    return "layers.0.blocks.0.attn.relative_position_bias_table" in shapes


def infer(shapes: Shapes) -> str:
    """Name the network, such as ``convnext_tiny`` or ``swin_tiny_window7``; unusual ones by channels and depths.

    Raises:
        UserError: If it has not four stages.
    """
    if is_convnext(shapes):
        version = "convnextv2" if "stages.0.blocks.0.mlp.grn.weight" in shapes else "convnext"
        return f"{version}_{_size(_widths(shapes), _depths(shapes, 'stages'), _CONVNEXT)}"
    first = shapes["layers.0.blocks.0.norm1.weight"][0]
    widths = tuple(first * 2**stage for stage in range(4))
    return f"swin_{_size(widths, _depths(shapes, 'layers'), _SWIN)}_window{_window(shapes, 0)}"


def build(shapes: Shapes, options: Mapping[str, Any], arch: str) -> Hierarchy:
    """Build a ConvNeXt or Swin.

    Args:
        shapes: Shapes of its weights, under timm's names.
        options: ``eps`` of the normalisation layers, ``final_eps`` of ConvNeXt's last one, ``activation``.
        arch: Its name here.

    Raises:
        UserError: If the options or the name ask for another network.
    """
    from timm.models.convnext import ConvNeXt
    from timm.models.swin_transformer import SwinTransformer
    from torch import nn

    if arch != infer(shapes):
        raise UserError(f"the tensors are a {infer(shapes)}, not a {arch}", remedy="leave --arch out", code=2)
    if (activation := options.get("activation", "gelu")) != "gelu":
        raise UserError(f"a {arch} with the activation {activation}", remedy="only GELU is supported")
    network: Any
    if is_convnext(shapes):
        blocks = [f"stages.{stage}.blocks.0" for stage in range(4)]
        network = ConvNeXt(
            depths=_depths(shapes, "stages"),
            dims=_widths(shapes),
            kernel_sizes=tuple(shapes[f"{block}.conv_dw.weight"][-1] for block in blocks),
            patch_size=shapes["stem.0.weight"][-1],
            ls_init_value=1.0 if f"{blocks[0]}.gamma" in shapes else None,
            use_grn=f"{blocks[0]}.mlp.grn.weight" in shapes,
            conv_mlp=len(shapes.get(f"{blocks[0]}.mlp.fc1.weight", ())) == 4,
            norm_eps=float(options.get("eps", 1e-6)),
            num_classes=0,
        )
        network.head.norm.eps = float(options.get("final_eps", network.head.norm.eps))
        return Hierarchy(network, arch)
    tables = [f"layers.{stage}.blocks.0.attn.relative_position_bias_table" for stage in range(4)]
    width = shapes["layers.0.blocks.0.norm1.weight"][0]
    network = SwinTransformer(
        img_size=32
        * _window(shapes, 3),  # where the last stage is one window, which is as large as it can be
        patch_size=shapes["patch_embed.proj.weight"][-1],
        embed_dim=width,
        depths=_depths(shapes, "layers"),
        num_heads=tuple(shapes[table][1] for table in tables),
        window_size=_window(shapes, 0),
        mlp_ratio=(shapes["layers.0.blocks.0.mlp.fc1.weight"][0] + 0.05) / width,
        qkv_bias="layers.0.blocks.0.attn.qkv.bias" in shapes,
        norm_layer=partial(nn.LayerNorm, eps=float(options.get("eps", 1e-5))),
        dynamic_img_size=True,
        num_classes=0,
    )
    shifted = [
        network.patch_embed.patch_size[0] * 2**stage * max(layer.blocks[-1].window_size)
        for stage, layer in enumerate(network.layers)
        if any(any(block.shift_size) for block in layer.blocks)
    ]
    return Hierarchy(network, arch, multiple=math.lcm(*shifted))


def _widths(shapes: Shapes) -> tuple[int, ...]:
    return tuple(shapes.get(f"stages.{s}.blocks.0.conv_dw.weight", (0,))[0] for s in range(4))


def _depths(shapes: Shapes, stages: str) -> tuple[int, ...]:
    counts = []
    for stage in range(4):
        found = [re.match(rf"{stages}\.{stage}\.blocks\.(\d{{1,3}})\.", key) for key in shapes]
        counts.append(1 + max((int(match[1]) for match in found if match), default=-1))
    if 0 in counts:
        raise UserError(f"stages of {counts} blocks", remedy="four stages are needed")
    return tuple(counts)


def _window(shapes: Shapes, stage: int) -> int:
    """Side of a window, from the number of distances that its bias table has a row for: ``(2 w - 1) ** 2``."""
    table = shapes.get(f"layers.{stage}.blocks.0.attn.relative_position_bias_table", (1, 1))
    return (math.isqrt(table[0]) + 1) // 2


def _size(widths: tuple[int, ...], depths: tuple[int, ...], usual: Mapping[Any, str]) -> str:
    if name := usual.get((widths[0], depths)):
        return name
    return "_".join(f"{width}x{depth}" for width, depth in zip(widths, depths, strict=True))
