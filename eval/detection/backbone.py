"""Detectron2 modules for every ResNet that `mast.model.Arch` describes, built from Detectron2's own keys.

Detectron2's `build_resnet_backbone` knows one stem and one width for basic blocks, and its `Res5ROIHeads` one
kind of block. What is registered here reads the same keys and two more (`add_keys`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import Tensor, nn

from mast.model import Arch

from ..errors import UserError

LAYERS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
NORMS = ("BN", "SyncBN", "FrozenBN")
FINEST_STRIDE = 4  # of the pyramid; its levels are p2..p6 whatever the stem
COARSEST_LEVEL = 6


def add_keys(cfg: CfgNode) -> None:
    """Add the keys that Detectron2's defaults lack."""
    cfg.MODEL.RESNETS.STEM = "imagenet"  # or cifar, cifar2, half: mast.model.Arch.stem
    cfg.MODEL.ROI_HEADS.RES5_EXTRA_NORM = False  # MoCo's norm after res5 in C4 heads


def set_arch(cfg: CfgNode, arch: Arch, *, stride_in_1x1: bool) -> None:
    """Write an architecture into Detectron2's ``MODEL.RESNETS`` and ``MODEL.FPN`` keys.

    A pyramid is fed by the stages with a stride of 4 or more, so that its levels keep their meaning under stems
    that shrink the image less; `PoolLevels` supplies the coarse levels that such a backbone does not reach.

    Args:
        cfg: A config that still has the base config's ``MODEL.BACKBONE.NAME``.
        arch: The checkpoint's architecture.
        stride_in_1x1: Whether bottleneck blocks stride in their first convolution.
    """
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH = arch.depth
    resnets.STEM = arch.stem
    resnets.STEM_OUT_CHANNELS = arch.stem_channels
    resnets.WIDTH_PER_GROUP = arch.stem_channels
    resnets.RES2_OUT_CHANNELS = arch.stage_channels[0]
    resnets.STRIDE_IN_1X1 = stride_in_1x1
    if cfg.MODEL.FPN.IN_FEATURES:
        stages = [f"res{i}" for i, stride in enumerate(arch.strides, start=2) if stride >= FINEST_STRIDE]
        resnets.OUT_FEATURES = stages
        cfg.MODEL.FPN.IN_FEATURES = stages
        cfg.MODEL.BACKBONE.NAME = "build_mast_fpn_backbone"
    else:
        resnets.OUT_FEATURES = ["res4"]
        cfg.MODEL.BACKBONE.NAME = "build_mast_backbone"
        cfg.MODEL.ROI_HEADS.NAME = "MastRes5ROIHeads"


class SmallStem(CNNBlockBase):
    """A 3x3 stem without pooling: ``cifar`` (stride 1), ``half`` (stride 2), ``cifar2`` (stride 1, padding 2)."""

    def __init__(self, kind: str, out_channels: int, norm: str) -> None:
        stride = 2 if kind == "half" else 1
        super().__init__(3, out_channels, stride)
        self.conv1 = Conv2d(
            3,
            out_channels,
            kernel_size=3,
            stride=stride,
            padding=2 if kind == "cifar2" else 1,
            bias=False,
            norm=get_norm(norm, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W) -> (B, C, H / stride, W / stride)``; ``cifar2`` adds two rows and two columns."""
        return F.relu_(self.conv1(x))


class MastResNet(ResNet):
    """Detectron2's ResNet, with maps cut to the image's size.

    Only a ``cifar2`` stem makes larger maps than the image calls for; a pyramid cannot add maps whose sizes do
    not double. The stages themselves see the uncut maps, so every value stays what the checkpoint computes.
    """

    def forward(self, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` to the maps named in ``OUT_FEATURES``, each ``(B, C, ceil(H / s), ceil(W / s))``.

        Maps that come from the store pass through.
        """
        if isinstance(x, dict):
            return x
        height, width = x.shape[-2:]
        maps: dict[str, Tensor] = super().forward(x)
        return {
            name: value[..., : math.ceil(height / stride), : math.ceil(width / stride)]
            for name, value in maps.items()
            if (stride := self._out_feature_strides[name])
        }


class PoolLevels(nn.Module):
    """Coarser pyramid levels by taking every second cell, as Detectron2's ``LastLevelMaxPool`` makes p6.

    Args:
        last: The coarsest level that the backbone feeds, such as 5.
    """

    def __init__(self, last: int) -> None:
        super().__init__()
        self.in_feature = f"p{last}"
        self.num_levels = COARSEST_LEVEL - last

    def forward(self, x: Tensor) -> list[Tensor]:
        """Level ``last`` ``(B, C, h, w)`` to the levels above it, each half as large as the one before."""
        levels = []
        for _ in range(self.num_levels):
            x = F.max_pool2d(x, kernel_size=1, stride=2, padding=0)
            levels.append(x)
        return levels


def check_keys(cfg: CfgNode) -> None:
    """Refuse what these modules do not do.

    Raises:
        UserError: For another norm than BatchNorm's forms, and for convolutions that no checkpoint here has.
    """
    resnets = cfg.MODEL.RESNETS
    basic = resnets.DEPTH < 50
    if resnets.NORM not in NORMS:
        raise UserError(
            f"MODEL.RESNETS.NORM={resnets.NORM} cannot take a checkpoint's BatchNorm weights",
            remedy=f"use one of {', '.join(NORMS)}",
            code=2,
        )
    if any(resnets.DEFORM_ON_PER_STAGE) or (
        basic and (resnets.NUM_GROUPS != 1 or resnets.RES5_DILATION != 1)
    ):
        raise UserError(
            "MODEL.RESNETS asks for deformable convolutions, or for groups or dilation in basic blocks",
            remedy="no checkpoint read here has those; leave DEFORM_ON_PER_STAGE, NUM_GROUPS, RES5_DILATION alone",
            code=2,
        )


def build_stage(cfg: CfgNode, index: int) -> list[CNNBlockBase]:
    """The blocks of one stage.

    Args:
        cfg: Reads ``MODEL.RESNETS``: DEPTH, NORM, STRIDE_IN_1X1, NUM_GROUPS, WIDTH_PER_GROUP, RES2_OUT_CHANNELS,
            STEM_OUT_CHANNELS, RES5_DILATION.
        index: 0 for res2 to 3 for res5.
    """
    check_keys(cfg)
    resnets = cfg.MODEL.RESNETS
    basic = resnets.DEPTH < 50
    outputs = resnets.RES2_OUT_CHANNELS * 2**index
    dilation = resnets.RES5_DILATION if index == 3 else 1
    stride = 1 if index == 0 or dilation == 2 else 2
    layers = LAYERS[resnets.DEPTH][index]
    options: dict[str, Any] = {"norm": resnets.NORM, "stride_per_block": [stride] + [1] * (layers - 1)}
    if not basic:
        options["bottleneck_channels"] = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**index
        options["stride_in_1x1"] = resnets.STRIDE_IN_1X1
        options["num_groups"] = resnets.NUM_GROUPS
        options["dilation"] = dilation
    return ResNet.make_stage(
        BasicBlock if basic else BottleneckBlock,
        layers,
        in_channels=resnets.STEM_OUT_CHANNELS if index == 0 else outputs // 2,
        out_channels=outputs,
        **options,
    )


@BACKBONE_REGISTRY.register()
def build_mast_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MastResNet:
    """A ResNet with the outputs of ``MODEL.RESNETS.OUT_FEATURES``, frozen up to ``MODEL.BACKBONE.FREEZE_AT``."""
    check_keys(cfg)
    resnets = cfg.MODEL.RESNETS
    if resnets.STEM == "imagenet":
        stem: CNNBlockBase = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    else:
        stem = SmallStem(resnets.STEM, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    last = max(int(name[3:]) for name in resnets.OUT_FEATURES)
    stages = [build_stage(cfg, index) for index in range(last - 1)]
    return MastResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_mast_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid p2..p6 over `build_mast_backbone`."""
    bottom_up = build_mast_backbone(cfg, input_shape)
    features = cfg.MODEL.FPN.IN_FEATURES
    last = int(math.log2(bottom_up.output_shape()[features[-1]].stride))
    return FPN(
        bottom_up=bottom_up,
        in_features=features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=PoolLevels(last),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        square_pad=cfg.INPUT.SQUARE,
    )


@ROI_HEADS_REGISTRY.register()
class MastRes5ROIHeads(Res5ROIHeads):
    """C4 heads whose res5 is the checkpoint's: basic or bottleneck, any width.

    Two keys act here that do not in Detectron2's class: ``MODEL.ROI_HEADS.RES5_EXTRA_NORM`` adds MoCo's norm
    after res5, and ``MODEL.BACKBONE.FREEZE_AT`` of 5 freezes this res5 too.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        blocks = build_stage(cfg, 3)
        if cfg.MODEL.BACKBONE.FREEZE_AT >= 5:
            for block in blocks:
                block.freeze()
        res5 = nn.Sequential(*blocks)
        channels = int(blocks[-1].out_channels)
        if cfg.MODEL.ROI_HEADS.RES5_EXTRA_NORM:
            res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels


@torch.no_grad()
def feature_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """res2..res5 of a detector, uncut and wherever they live.

    Args:
        model: A detector with a `MastResNet`, bare or under a pyramid; in C4 models res5 is ``roi_heads.res5``.
        images: ``(B, 3, H, W)``, normalised.

    Returns:
        ``{"res2": (B, C2, H / s2, W / s2), ..., "res5": ...}``, comparable to `mast.model.Backbone.feature_maps`.
    """
    backbone: Any = model.backbone
    resnet = backbone.bottom_up if hasattr(backbone, "bottom_up") else backbone
    x = resnet.stem(images)
    maps = {}
    for name, stage in zip(resnet.stage_names, resnet.stages, strict=True):
        x = stage(x)
        maps[name] = x
    if "res5" not in maps:
        heads: Any = model.roi_heads
        for name, block in heads.res5.named_children():
            x = block(x) if name != "norm" else x
        maps["res5"] = x
    return maps
