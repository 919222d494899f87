"""Vision transformers under ViTDet's simple feature pyramid (arXiv 2203.16527).

Two forms, ``MODEL.VIT.FORM``:

- ``network``: the checkpoint's own forward pass to its patch tokens after the last norm. Class and register tokens
  stay, positions are resized as the checkpoint's authors do.
- ``vitdet``: what Detectron2's ViT computes: no class token, no last norm, positions resized by its own rule. Its
  relative positions, which start at zero, are ``MODEL.VIT.REL_POS``.

In both, blocks between the global ones may attend within windows, ``MODEL.VIT.WINDOW``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.utils import get_abs_pos
from detectron2.modeling.backbone.vit import Attention
from torch import Tensor, nn

from ..errors import UserError, unknown
from . import networks
from .networks import LoadedBackbone, Network

STRIDE = 16
"""Pixels from one token to the next, whatever the patch: the image is made smaller or larger for it."""
FORMS = ("network", "vitdet")


def add_keys(cfg: CfgNode) -> None:
    """Add the keys that Detectron2's defaults lack."""
    cfg.MODEL.VIT = CfgNode()
    cfg.MODEL.VIT.FORM = "network"  # or vitdet
    cfg.MODEL.VIT.WINDOW = (
        14  # side of the windows of attention, in patches; 0: every block sees the whole image
    )
    cfg.MODEL.VIT.GLOBAL_BLOCKS = 4  # blocks, evenly spread, that see the whole image
    cfg.MODEL.VIT.REL_POS = False


def describe(backbone: Any) -> Network:
    """What a checkpoint's vision transformer is.

    Args:
        backbone: A backbone of the loader's.

    Raises:
        UserError: If it is no vision transformer, or one for images of one size.
    """
    network: Any = getattr(backbone, "network", None)
    if not all(hasattr(network, part) for part in ("blocks", "patch_embed", "num_prefix_tokens")):
        raise UserError(
            "this protocol is for vision transformers, and the checkpoint is none",
            remedy="ResNets and networks with stages have their own protocols: `mast list protocols`",
            code=2,
        )
    networks.refuse_one_size(backbone)
    return Network(
        kind="tokens",
        name=backbone.arch,
        channels=(int(network.embed_dim),),
        depths=(len(network.blocks),),
        patch=int(network.patch_embed.patch_size[0]),
        prefix=int(network.num_prefix_tokens),
    )


def grid_of(network: Any) -> int:
    """The side, in patches, of the square that a network has positions for."""
    return int(network.patch_embed.grid_size[0])


def settle(cfg: CfgNode) -> None:
    """Leave out what a frozen network cannot learn: windows, and relative positions."""
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        cfg.MODEL.VIT.REL_POS, cfg.MODEL.VIT.WINDOW = False, 0


def global_blocks(depth: int, count: int) -> list[int]:
    """Which blocks see the whole image: the last of each of ``count`` equal parts.

    >>> global_blocks(12, 4), global_blocks(24, 4), global_blocks(2, 4)
    ([2, 5, 8, 11], [5, 11, 17, 23], [0, 1])
    """
    count = min(count, depth)
    return [depth * (part + 1) // count - 1 for part in range(count)]


class GridAttention(nn.Module):
    """A block's attention on a plane of patches, inside windows or over all of it.

    Each window sees a copy of the class and register tokens; what its copies become is averaged over the windows.
    Windows at the right and lower edge are filled up with zeros, as in ViTDet.

    Args:
        attention: The block's own, on tokens ``(B, T, D)``, or Detectron2's on planes ``(B, H, W, D)``.
        window: Side of the windows in patches; 0 for the whole plane.
        prefix: Class and register tokens, which come first.

    Attributes:
        grid: Height and width of the plane in patches, which the backbone sets before each pass.
    """

    def __init__(self, attention: nn.Module, window: int, prefix: int) -> None:
        super().__init__()
        self.attention = attention
        self.window = window
        self.prefix = prefix
        self.grid = (0, 0)

    def forward(self, x: Tensor, rope: Tensor | None = None, **options: Any) -> Tensor:
        """``(B, T, D) -> (B, T, D)``; ``rope`` ``(..., H W, R)`` holds the sines and cosines of each place."""
        if rope is not None:
            options["rope"] = rope
        if not self.window:
            return self._attend(x, self.grid, options)
        (height, width), batch, channels = self.grid, len(x), x.shape[-1]
        side = min(self.window, height), min(self.window, width)
        first, patches = x[:, : self.prefix], x[:, self.prefix :].reshape(batch, *self.grid, channels)
        windows, (rows, columns) = _split(patches, side)
        count = rows * columns
        if rope is not None:  # what is turned meets tokens that are not, so each window keeps its own places
            planes, _ = _split(rope.reshape(-1, *self.grid, rope.shape[-1]), side)
            planes = planes.reshape(-1, count, *planes.shape[1:])  # (heads or 1, N, h w, R)
            options["rope"] = planes.transpose(0, 1).repeat(batch, 1, 1, 1)
        out = self._attend(torch.cat([first.repeat_interleave(count, dim=0), windows], dim=1), side, options)
        first = out[:, : self.prefix].reshape(batch, count, self.prefix, channels).mean(dim=1)
        patches = out[:, self.prefix :].reshape(batch, rows, columns, *side, channels).transpose(2, 3)
        patches = patches.reshape(batch, rows * side[0], columns * side[1], channels)[:, :height, :width]
        return torch.cat([first, patches.flatten(1, 2)], dim=1)

    def _attend(self, x: Tensor, grid: tuple[int, int], options: dict[str, Any]) -> Tensor:
        if isinstance(self.attention, Attention):
            return torch.as_tensor(self.attention(x.reshape(len(x), *grid, x.shape[-1])).flatten(1, 2))
        return torch.as_tensor(self.attention(x, **options))


def _split(planes: Tensor, side: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Windows of planes ``(B, H, W, C)``, ``(B N, h w, C)``, and how many rows and columns of them there are."""
    batch, height, width, channels = planes.shape
    rows, columns = math.ceil(height / side[0]), math.ceil(width / side[1])
    padded = F.pad(planes, (0, 0, 0, columns * side[1] - width, 0, rows * side[0] - height))
    windows = padded.view(batch, rows, side[0], columns, side[1], channels).transpose(2, 3)
    return windows.reshape(batch * rows * columns, side[0] * side[1], channels), (rows, columns)


class VitBackbone(LoadedBackbone):
    """The patch tokens of a vision transformer as one map with a stride of 16 pixels, ``last_feat``.

    Args:
        inner: A backbone of the loader's, which is this module's own from here on.
        cfg: Reads ``MODEL.VIT``, ``MODEL.NETWORK`` and the sides of images.

    Raises:
        UserError: If the form asked for lacks something that the network has.
    """

    def __init__(self, inner: Any, cfg: CfgNode) -> None:
        network, settings = inner.network, cfg.MODEL.VIT
        if settings.FORM not in FORMS:
            raise unknown("MODEL.VIT.FORM", settings.FORM, FORMS)
        everything = set(inner.state_dict())
        prefix = int(network.num_prefix_tokens)
        network.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
        dropped = dict.fromkeys(everything - set(inner.state_dict()), "patch tokens do not pass through it")
        if settings.FORM == "vitdet":
            _refuse_for_vitdet(inner)
            dropped |= {
                "network.cls_token": "ViTDet has no class token",
                "network.norm.weight": "ViTDet reads the last block before the norm",
                "network.norm.bias": "ViTDet reads the last block before the norm",
            }
            network.cls_token, network.norm = None, nn.Identity()
            prefix = 0
        super().__init__(inner, cfg, dropped)
        self.form, self.prefix = settings.FORM, prefix
        self.patch = int(network.patch_embed.patch_size[0])
        blocks = list(network.blocks)
        networks.set_drop_path(blocks, cfg.MODEL.NETWORK.DROP_PATH)
        everywhere = global_blocks(len(blocks), settings.GLOBAL_BLOCKS)
        plane = (cfg.INPUT.LSJ or cfg.INPUT.MAX_SIZE_TEST) // STRIDE
        for index, block in enumerate(blocks):
            window = 0 if index in everywhere else settings.WINDOW
            attention = block.attn
            if window and any("relative_position" in name for name, _ in attention.named_parameters()):
                raise UserError(
                    f"{inner.arch} has tables of relative positions for the whole image",
                    remedy="set MODEL.VIT.WINDOW=0",
                    code=2,
                )
            if settings.REL_POS:
                attention = _with_relative_positions(attention, window or plane)
            if window or settings.REL_POS:
                block.attn = GridAttention(attention, window, self.prefix)
        if cfg.MODEL.NETWORK.CHECKPOINTING:
            network.set_grad_checkpointing(True)
            if isinstance(network.blocks, nn.Sequential):  # which is also run as a whole
                network.blocks = networks.Checkpointed(*blocks)
        self._out_features = ["last_feat"]
        self._out_feature_channels = {"last_feat": int(network.embed_dim)}
        self._out_feature_strides = {"last_feat": STRIDE}

    def resized(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` at the size at which patches lie 16 pixels of the original apart.

        Raises:
            UserError: If 16 does not divide the sides.
        """
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise UserError(
                f"images of {height}x{width} pixels for tokens {STRIDE} pixels apart",
                remedy=f"pad them to a multiple of {STRIDE}, as the detector does",
                code=2,
            )
        if self.patch == STRIDE:
            return images
        size = [side // STRIDE * self.patch for side in (height, width)]
        return F.interpolate(images, size=size, mode="bilinear", antialias=True)

    def forward(self, x: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` to ``{"last_feat": (B, D, H / 16, W / 16)}``; what comes from the store passes through."""
        if isinstance(x, dict):
            return x
        grid = (x.shape[-2] // STRIDE, x.shape[-1] // STRIDE)
        images = self.resized(x)
        for module in self.inner.modules():
            if isinstance(module, GridAttention):
                module.grid = grid
        with self.computing(images):
            tokens = self._as_vitdet(images) if self.form == "vitdet" else self.inner.tokens(images)
        patches = tokens[:, self.prefix :].transpose(1, 2).unflatten(2, grid)
        return {"last_feat": patches.to(x.dtype)}

    def _as_vitdet(self, images: Tensor) -> Tensor:
        network: Any = self.inner.network
        x = network.patch_embed(images)  # (B, h, w, D)
        marked = network.pos_embed.shape[1] != grid_of(network) ** 2  # the class token has a position too
        x = x + get_abs_pos(network.pos_embed, marked, x.shape[1:3])
        return torch.as_tensor(network.blocks(x.flatten(1, 2)))


def _refuse_for_vitdet(inner: Any) -> None:
    network = inner.network
    block = network.blocks[0]
    positions = getattr(network, "pos_embed", None)
    norm = getattr(block.attn, "q_norm", None)
    lacking = {
        "register tokens": getattr(network, "reg_token", None) is not None,
        "no absolute positions": positions is None or getattr(network, "rope", None) is not None,
        "a norm of queries and keys": not isinstance(norm, nn.Identity | None),
        "a norm before the blocks": not isinstance(network.norm_pre, nn.Identity),
        "another attention than ViT's": not hasattr(block.attn, "qkv"),
    }
    if found := [name for name, is_so in lacking.items() if is_so]:
        raise UserError(
            f"{inner.arch} has {' and '.join(found)}, which ViTDet's own network has not",
            remedy="coco-vitdet takes it",
            code=2,
        )


def _with_relative_positions(attention: Any, side: int) -> nn.Module:
    """Detectron2's attention with a block's own weights, for planes of a side in patches."""
    wide = attention.qkv.in_features
    relative = Attention(
        wide,
        num_heads=attention.num_heads,
        qkv_bias=attention.qkv.bias is not None,
        use_rel_pos=True,
        input_size=(side, side),
    )
    relative.qkv, relative.proj = attention.qkv, attention.proj
    return relative.to(attention.qkv.weight)


class Pyramid(SimpleFeaturePyramid):
    """Detectron2's, which pads images to squares alone; this one to multiples of its coarsest stride as well."""

    @property
    def size_divisibility(self) -> int:
        """What the sides of images are padded to a multiple of, in pixels."""
        return int(self._size_divisibility)


@BACKBONE_REGISTRY.register()
def build_mast_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Pyramid:
    """The vision transformer of `networks.given` under ViTDet's simple pyramid p2..p6."""
    return Pyramid(
        net=VitBackbone(networks.take(), cfg),
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm=cfg.MODEL.FPN.NORM,
        square_pad=cfg.INPUT.LSJ or cfg.INPUT.SQUARE,
    )


@torch.no_grad()
def expected_tokens(net: VitBackbone, backbone: Any, images: Tensor) -> Tensor:
    """What the checkpoint's own backbone makes of the patches, to hold the detector's against.

    Args:
        net: The detector's, for its form and its resizing of images.
        backbone: The checkpoint's backbone.
        images: ``(B, 3, H, W)``, normalised; in the form ``vitdet`` of the size of the checkpoint's positions.

    Returns:
        ``(B, D, H / 16, W / 16)``; in the form ``vitdet`` without class token, before the last norm.
    """
    grid = (images.shape[-2] // STRIDE, images.shape[-1] // STRIDE)
    images = net.resized(images)
    network = backbone.network
    if net.form == "vitdet":
        tokens = network.patch_embed(images).flatten(1, 2) + network.pos_embed[:, -(grid_of(network) ** 2) :]
        tokens = network.blocks(tokens)
    else:
        tokens = backbone.tokens(images)[:, network.num_prefix_tokens :]
    return torch.as_tensor(tokens.transpose(1, 2).unflatten(2, grid))


@torch.no_grad()
def detector_tokens(net: VitBackbone, images: Tensor) -> Tensor:
    """The same of a detector's, with attention over the whole image in every block.

    Args:
        net: The detector's, which is changed: give a copy.
        images: As for `expected_tokens`.
    """
    for module in net.modules():
        if isinstance(module, GridAttention):
            module.window = 0
            if isinstance(module.attention, Attention):
                module.attention.use_rel_pos = False  # zero before training, and of the windows' sizes
    return net(images)["last_feat"]
