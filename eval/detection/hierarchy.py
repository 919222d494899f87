"""Networks with stages (ConvNeXt, Swin) as detectors' backbones, under Detectron2's feature pyramid.

Frozen, any network with maps at strides of 4 to 32 pixels is taken, ResNets and EfficientNets included.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..errors import UserError, unknown
from . import networks
from .backbone import PoolLevels
from .networks import LoadedBackbone, Network

MAPS = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""The maps' names and strides in pixels."""


def stages(network: Any) -> list[nn.Module]:
    """The four stages of one of timm's networks, each with its ``blocks``; none where it has no such stages."""
    for name in ("stages", "layers"):
        found = list(getattr(network, name, ()))
        if len(found) == len(MAPS) and all(hasattr(stage, "blocks") for stage in found):
            return found
    return []


def describe(backbone: Any, *, frozen: bool = False) -> Network:
    """What a checkpoint's network is, of which maps at four strides are wanted.

    Args:
        backbone: A backbone of the loader's.
        frozen: Whether nothing of it will train. If not, its stages have to be known, for their learning rates.

    Raises:
        UserError: If it has no such maps or takes images of one size; if it is to train, also if it has no four
            stages, or has BatchNorm, whose statistics a few images spoil.
    """
    network: Any = getattr(backbone, "network", None)
    found = stages(network)
    if not found and not frozen:
        raise UserError(
            "this protocol is for ConvNeXt, Swin and other networks with four stages, and the checkpoint is none",
            remedy="ResNets and vision transformers have their own protocols, coco-frozen-fpn takes every network "
            "with maps",
            code=2,
        )
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules())
    if normed and not frozen:
        raise UserError(
            f"{backbone.arch} has BatchNorm, whose statistics would follow a few images",
            remedy="this protocol takes networks with LayerNorm; coco-frozen-fpn leaves the statistics alone",
            code=2,
        )
    networks.refuse_one_size(backbone)
    return Network(
        kind="maps",
        name=str(getattr(backbone.arch, "name", backbone.arch)),
        channels=_channels(backbone),
        depths=tuple(len(stage.blocks) for stage in found),  # type: ignore[arg-type]
    )


def _channels(backbone: Any) -> tuple[int, ...]:
    """Of res2 to res5, by a look at them.

    Raises:
        UserError: If the backbone has no such maps.
    """
    side = math.lcm(MAPS["res5"], getattr(backbone, "multiple", 1))
    parameter = next(backbone.parameters())
    trains = backbone.training
    with torch.no_grad():
        maps = backbone.eval().feature_maps(parameter.new_zeros(1, 3, side, side))
    backbone.train(trains)
    return tuple(int(maps[name].shape[1]) for name in MAPS)


class MapsBackbone(LoadedBackbone):
    """res2 to res5 of a network; with ``MODEL.NETWORK.OUT_NORM`` each through a new norm.

    Args:
        inner: A backbone of the loader's, which is this module's own from here on.
        cfg: Reads ``MODEL.NETWORK``.
    """

    def __init__(self, inner: Any, cfg: CfgNode) -> None:
        found = stages(getattr(inner, "network", None))
        dropped: dict[str, str] = {}
        if found:
            everything = set(inner.state_dict())
            inner.network.prune_intermediate_layers(list(range(len(MAPS))), prune_norm=True, prune_head=True)
            dropped = dict.fromkeys(
                everything - set(inner.state_dict()), "the stages' maps do not pass through it"
            )
        super().__init__(inner, cfg, dropped)
        if not self.frozen:  # such a network has stages, see `describe`; frozen it skips and keeps nothing
            blocks: list[nn.Module] = [block for stage in found for block in stage.blocks]  # type: ignore[union-attr]
            networks.set_drop_path(blocks, cfg.MODEL.NETWORK.DROP_PATH)
            if cfg.MODEL.NETWORK.CHECKPOINTING:
                inner.network.set_grad_checkpointing(True)
        channels = dict(zip(MAPS, cfg.MODEL.NETWORK.CHANNELS, strict=True))
        normalised = channels if _normalises(cfg) else {}
        self.norms = nn.ModuleDict({name: LayerNorm2d(size) for name, size in normalised.items()})
        self._out_features = list(MAPS)
        self._out_feature_channels = channels
        self._out_feature_strides = dict(MAPS)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The network's own maps: ``(B, 3, H, W)`` to ``{"res2": (B, C, H / 4, W / 4), ...}``."""
        with self.computing(images):
            found: dict[str, Tensor] = self.inner.feature_maps(images)
        return {name: value.to(images.dtype) for name, value in found.items()}

    def forward(self, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps, computed or given from the store, normalised where the config says so."""
        return {
            name: self.norms[name](value) if name in self.norms else value
            for name, value in (x if isinstance(x, dict) else self.maps(x)).items()
        }


def _normalises(cfg: CfgNode) -> bool:
    if cfg.MODEL.NETWORK.OUT_NORM not in ("", "LN"):
        raise unknown("MODEL.NETWORK.OUT_NORM", cfg.MODEL.NETWORK.OUT_NORM, ["", "LN"])
    return bool(cfg.MODEL.NETWORK.OUT_NORM)


@BACKBONE_REGISTRY.register()
def build_mast_hierarchy_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The network of `networks.given` under a feature pyramid p2..p6.

    Images are padded to a multiple of 32, or of what fills the network's shifted windows.
    """
    bottom_up = MapsBackbone(networks.take(), cfg)
    pyramid = FPN(
        bottom_up=bottom_up,
        in_features=list(MAPS),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=PoolLevels(int(math.log2(MAPS["res5"]))),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        square_pad=cfg.INPUT.SQUARE,
    )
    pyramid._size_divisibility = math.lcm(MAPS["res5"], getattr(bottom_up.inner, "multiple", 1))
    return pyramid
