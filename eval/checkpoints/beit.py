"""BEiT and data2vec, whose blocks add a number for every distance of two patches, told from shapes, built by timm."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from ..errors import UserError
from .timm_networks import Transformer
from .vit import depth_of, heads_of

Shapes = Mapping[str, tuple[int, ...]]
NAME = re.compile(r"beit_w(\d+)_patch(\d+)_d(\d+)")
_TABLE = re.compile(r"(rel_pos_bias|blocks\.0\.attn)\.relative_position_bias_table")


def infer(shapes: Shapes) -> str:
    """Name the network by channels, patch and depth, such as ``beit_w768_patch16_d12``."""
    kernel = shapes["patch_embed.proj.weight"]
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise UserError(
            f"the patch embedding has the shape {kernel}",
            remedy="only square patches of RGB images are supported",
        )
    return f"beit_w{kernel[0]}_patch{kernel[2]}_d{depth_of(shapes)}"


def build(arch: str, shapes: Shapes, options: Mapping[str, Any]) -> Transformer:
    """Build a BEiT, which takes images of the one size that its positions are for.

    Args:
        arch: A name as `infer` gives it.
        shapes: Shapes of its weights, under timm's names.
        options: ``heads``; ``eps`` of the normalisation layers; ``activation``.

    Raises:
        UserError: If the name, the activation or the positions are those of another network.
    """
    from timm.models.beit import Beit

    match = NAME.fullmatch(arch)
    if match is None or arch != infer(shapes):
        raise UserError(f"the tensors are a {infer(shapes)}, not a {arch}", remedy="leave --arch out", code=2)
    if (activation := options.get("activation", "gelu")) != "gelu":
        raise UserError(f"a {arch} with the activation {activation}", remedy="its kind has gelu")
    dim, patch, depth = map(int, match.groups())
    tables = [shape for name, shape in shapes.items() if _TABLE.fullmatch(name)]
    heads = heads_of(options, dim, depth) or 1
    if any(table[1] != heads for table in tables):
        raise UserError(
            f"positions for {tables[0][1]} heads in a network of {heads}", remedy="leave --heads out", code=2
        )
    if tables:  # (2 side - 1)^2 distances, and three of the class token
        side = (math.isqrt(max(tables[0][0] - 3, 1)) + 1) // 2
    elif "pos_embed" in shapes:
        side = math.isqrt(max(shapes["pos_embed"][1] - 1, 1))
    else:
        raise UserError(f"a {arch} without any positions", remedy="it is another network")
    network: Any = Beit(
        img_size=side * patch,
        patch_size=patch,
        num_classes=0,
        global_pool="avg" if "fc_norm.weight" in shapes else "token",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        qkv_bias="blocks.0.attn.q_bias" in shapes,
        mlp_ratio=(shapes.get("blocks.0.mlp.fc1.weight", (4 * dim,))[0] + 0.5) / dim,
        norm_layer=partial(nn.LayerNorm, eps=float(options.get("eps", 1e-12))),
        init_values=1.0 if "blocks.0.gamma_1" in shapes else None,
        use_abs_pos_emb="pos_embed" in shapes,
        use_rel_pos_bias="blocks.0.attn.relative_position_bias_table" in shapes,
        use_shared_rel_pos_bias="rel_pos_bias.relative_position_bias_table" in shapes,
        use_fc_norm="fc_norm.weight" in shapes,
    )
    if not {"norm.weight", "norm.bias", "fc_norm.weight", "fc_norm.bias"} & shapes.keys():
        network.norm = (
            nn.Identity()
        )  # Data2VecVisionModel, whose last norm is part of a pooling it does without
    return Transformer(network, arch)


def heads_by_table(shapes: Shapes) -> int | None:
    """The number of heads, which a table of positions has a column for; None where there is no table."""
    return next(
        (shape[1] for name, shape in shapes.items() if _TABLE.fullmatch(name) and len(shape) == 2), None
    )
