"""Plain vision transformers as detectors' backbones, by Detectron2's own modules (ViTDet, arXiv 2203.16527).

Detectron2 has ViTDet in its lazy configs alone. What is registered here builds the same modules from keys like those
that every other protocol uses (`add_keys`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from ..errors import UserError

PATCH = 16
NAME = "build_mast_vit_backbone"


@dataclass(frozen=True)
class VitArch:
    """What Detectron2's ViT needs to know of a checkpoint's.

    Attributes:
        name: Such as ``vit_base_patch16``.
        dim: Channels of a token.
        depth: Blocks.
        heads: Heads of attention.
        eps: Of the normalisation layers.
        grid: Side of the grid of positions.
        class_position: Whether the class token has a position of its own, which is left out.
    """

    name: str
    dim: int
    depth: int
    heads: int
    eps: float
    grid: int
    class_position: bool


def add_keys(cfg: CfgNode) -> None:
    """Add the keys that Detectron2's defaults lack."""
    cfg.MODEL.VIT = CfgNode()
    cfg.MODEL.VIT.DIM, cfg.MODEL.VIT.DEPTH, cfg.MODEL.VIT.HEADS = 768, 12, 12
    cfg.MODEL.VIT.EPS = 1e-6
    cfg.MODEL.VIT.GRID = 14  # positions of the checkpoint are GRID x GRID
    cfg.MODEL.VIT.CLASS_POSITION = True
    cfg.MODEL.VIT.WINDOW = 14  # side of the windows of attention, in patches
    cfg.MODEL.VIT.GLOBAL_BLOCKS = 4  # blocks, evenly spread, that see the whole image
    cfg.MODEL.VIT.REL_POS = True
    cfg.MODEL.VIT.DROP_PATH = 0.1
    cfg.INPUT.LSJ = 0  # side of the square that large-scale jitter cuts out; 0: Detectron2's resizing
    cfg.SOLVER.OPTIMIZER = "SGD"  # or AdamW
    cfg.SOLVER.LAYER_DECAY = 1.0  # of the learning rate from block to block, towards the patches


def describe(backbone: Any) -> VitArch:
    """What a checkpoint's ViT is.

    Args:
        backbone: A `eval.checkpoints.vit.ViT`.

    Raises:
        UserError: If Detectron2's ViT lacks something that this one has.
    """
    network = getattr(backbone, "network", None)
    if network is None or not hasattr(network, "blocks"):
        raise UserError(
            "this protocol is for vision transformers, and the checkpoint is none",
            remedy="take one of the protocols for ResNets: `mast list protocols`",
            code=2,
        )
    patch = network.patch_embed.patch_size[0]
    block = network.blocks[0]
    lacking = {
        f"patches of {patch} pixels": patch != PATCH,
        "register tokens": network.reg_token is not None,
        "layer scale": not isinstance(block.ls1, nn.Identity),
        "a norm of queries and keys": not isinstance(block.attn.q_norm, nn.Identity),
    }
    if found := [name for name, is_so in lacking.items() if is_so]:
        raise UserError(
            f"{backbone.arch} has {' and '.join(found)}, which Detectron2's ViT has not",
            remedy="ViTDet takes plain ViTs with patches of 16 pixels",
            code=2,
        )
    return VitArch(
        name=backbone.arch,
        dim=int(network.embed_dim),
        depth=len(network.blocks),
        heads=int(block.attn.num_heads),
        eps=float(block.norm1.eps),
        grid=int(backbone.grid),
        class_position=network.pos_embed.shape[1] != backbone.grid**2,
    )


def set_arch(cfg: CfgNode, arch: VitArch) -> None:
    """Write an architecture into ``MODEL.VIT``.

    Raises:
        UserError: If the protocol freezes a part of the backbone: a transformer has no stages.
    """
    vit = cfg.MODEL.VIT
    vit.DIM, vit.DEPTH, vit.HEADS, vit.EPS = arch.dim, arch.depth, arch.heads, arch.eps
    vit.GRID, vit.CLASS_POSITION = arch.grid, arch.class_position
    if cfg.MODEL.BACKBONE.FREEZE_AT not in (0, 5):
        raise UserError(
            "a vision transformer has no stages to freeze", remedy="freeze all of it or nothing", code=2
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        vit.REL_POS, vit.DROP_PATH = False, 0.0


def global_blocks(depth: int, count: int) -> list[int]:
    """Which blocks see the whole image: the last of each of ``count`` equal parts.

    >>> global_blocks(12, 4), global_blocks(24, 4), global_blocks(2, 4)
    ([2, 5, 8, 11], [5, 11, 17, 23], [0, 1])
    """
    count = min(count, depth)
    return [depth * (part + 1) // count - 1 for part in range(count)]


@BACKBONE_REGISTRY.register()
def build_mast_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """ViTDet's backbone: Detectron2's ViT under its simple pyramid p2..p6."""
    vit = cfg.MODEL.VIT
    side = cfg.INPUT.LSJ or cfg.INPUT.MAX_SIZE_TEST
    everywhere = global_blocks(vit.DEPTH, vit.GLOBAL_BLOCKS)
    network = ViT(
        img_size=side,
        patch_size=PATCH,
        in_chans=input_shape.channels,
        embed_dim=vit.DIM,
        depth=vit.DEPTH,
        num_heads=vit.HEADS,
        drop_path_rate=vit.DROP_PATH,
        norm_layer=partial(nn.LayerNorm, eps=vit.EPS),
        use_rel_pos=vit.REL_POS,
        window_size=vit.WINDOW,
        window_block_indexes=[i for i in range(vit.DEPTH) if i not in everywhere],
        pretrain_img_size=vit.GRID * PATCH,
        pretrain_use_cls_token=vit.CLASS_POSITION,
    )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        network.requires_grad_(False)
    return SimpleFeaturePyramid(
        net=network,
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm=cfg.MODEL.FPN.NORM,
        square_pad=side,
    )


@torch.no_grad()
def patch_tokens(backbone: Any, images: Tensor) -> Tensor:
    """What the checkpoint's blocks make of the patches alone: without class token, before the last norm.

    Detectron2's ViT has neither, so this is what it can be held against.

    Args:
        backbone: A `eval.checkpoints.vit.ViT`.
        images: ``(B, 3, H, W)``, normalised, of the size that the checkpoint has positions for.

    Returns:
        ``(B, D, H / 16, W / 16)``.
    """
    network = backbone.network
    tokens = network.patch_embed(images).flatten(1, 2) + network.pos_embed[:, -(backbone.grid**2) :]
    tokens = network.blocks(tokens)
    side = math.isqrt(tokens.shape[1])
    return torch.as_tensor(tokens.transpose(1, 2).unflatten(2, (side, side)))


@torch.no_grad()
def detector_tokens(model: nn.Module, images: Tensor) -> Tensor:
    """The same of a detector's ViT, with attention over the whole image in every block.

    Args:
        model: A detector, which is changed: give a copy.
        images: As for `patch_tokens`.
    """
    network: Any = model.backbone.net  # type: ignore[union-attr]
    for block in network.blocks:
        block.window_size = 0
        block.attn.use_rel_pos = False  # zero before training, and of the windows' sizes
    return torch.as_tensor(network(images)["last_feat"])
