"""Vision transformers through timm, an optional extra."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .backbone import Spatial, check_layers
from .facts import Unusable

_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
_DEPTHS = {1024: 24, 1280: 32}
HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
"""What a user means who names a size; methods differ, and their layouts say so."""
_NAME = re.compile(r"vit_(tiny|small|base|large|huge|w\d+)_patch(\d+)(?:_reg(\d+))?(?:_d(\d+))?")


def infer(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name a ViT from its shapes, such as ``vit_small_patch16`` or ``vit_base_patch14_reg4``.

    A depth other than the usual (12; 24 for large, 32 for huge) is appended as ``_d6``.
    """
    kernel = shapes["patch_embed.proj.weight"]
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise UserError(
            f"the patch embedding has the shape {kernel}",
            remedy="only square patches of RGB images are supported",
        )
    if "cls_token" not in shapes or "pos_embed" not in shapes:
        raise UserError(
            "a transformer without class token or absolute positions (a Swin or a ViT with average pooling)",
            remedy="supported are ViTs with both",
        )
    dim, patch = kernel[0], kernel[2]
    blocks = [re.match(r"blocks\.(\d{1,3})\.", key) for key in shapes]
    depth = 1 + max((int(match[1]) for match in blocks if match), default=-1)
    name = f"vit_{_SIZES.get(dim, f'w{dim}')}_patch{patch}"
    registers = shapes.get("reg_token", (1, 0, dim))[1]
    return name + (f"_reg{registers}" if registers else "") + ("" if depth == _usual(dim) else f"_d{depth}")


def _usual(dim: int) -> int:
    return _DEPTHS.get(dim, 12)


def build(arch: str, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> ViT:
    """Build a ViT.

    Args:
        arch: A name as `infer` gives it.
        shapes: Shapes of its weights: the grid of positions, the layer scale.
        options: ``heads``; ``activation``, GELU's exact form if absent; ``eps`` of the normalisation layers;
            ``positions``, how positions are resized to another image size: timm's way if absent, else
            ``F.interpolate`` with DINO's ``offset`` and ``antialias`` (``registers`` overrides both where there
            are registers).
    """
    match = _NAME.fullmatch(arch)
    if match is None:
        raise UserError(
            f"unknown architecture '{arch}'",
            remedy="write vit_small_patch16, vit_base_patch14_reg4, ...",
            code=2,
        )
    vision_transformer = _timm()
    size, patch, registers, depth = match.groups()
    dim = int(size[1:]) if size.startswith("w") else {name: dim for dim, name in _SIZES.items()}[size]
    tokens = shapes.get("pos_embed", (1, 197, dim))[1]
    grid = max(math.isqrt(tokens), 1)
    network = vision_transformer(
        img_size=grid * int(patch),
        patch_size=int(patch),
        embed_dim=dim,
        depth=int(depth or _usual(dim)),
        num_heads=heads_of(options, dim) or 1,  # the keys and shapes are the same for any
        mlp_ratio=shapes.get("blocks.0.mlp.fc1.weight", (4 * dim,))[0] / dim,
        num_classes=0,
        init_values=1.0 if "blocks.0.ls1.gamma" in shapes else None,
        reg_tokens=int(registers or 0),
        no_embed_class=bool(registers),
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=float(options.get("eps", EPS))),
        act_layer=_activation(options.get("activation", "gelu")),
    )
    positions = options.get("positions")
    if registers and tokens == grid**2 + 1:  # DINOv2: the class token has a position, the registers have none
        network.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, dim), std=0.02))
        positions = (positions or {}).get("registers", positions or {})
    return ViT(network, arch, grid, positions)


EPS = 1e-6
"""Of the normalisation layers of timm's and all methods' ViTs; Hugging Face's have 1e-12."""


def heads_of(options: Mapping[str, Any], dim: int) -> int | None:
    """The number of heads that a layout or another source states for a width, or None.

    Args:
        options: ``heads`` is a number, or a dict by width as text; ``head_dim`` the channels of each head.
        dim: Channels of a token.

    Raises:
        UserError: If the width is no multiple of it.
    """
    heads = options.get("heads")
    if isinstance(heads, Mapping):
        heads = heads.get(str(dim))
    if heads is None and "head_dim" in options and dim % options["head_dim"] == 0:
        heads = dim // options["head_dim"]
    if heads is not None and dim % heads:
        raise UserError(f"{heads} heads do not divide {dim} channels", remedy="check --heads", code=2)
    return None if heads is None else int(heads)


def _activation(name: str) -> Any:
    if name == "quick_gelu":
        from timm.layers import QuickGELU

        return QuickGELU
    known = {
        "gelu": nn.GELU,
        "gelu_tanh": partial(nn.GELU, approximate="tanh"),
        "relu": nn.ReLU,
        "silu": nn.SiLU,
    }
    if name not in known:
        raise UserError(
            f"unknown activation '{name}'", remedy=f"known: {', '.join([*known, 'quick_gelu'])}", code=2
        )
    return known[name]


def of_timm(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's vision transformer of a name computes beyond its keys and shapes.

    Args:
        name: timm's name without the tag of its weights.
        arguments: What its constructor is given besides.

    Returns:
        ``heads``, ``activation`` and ``eps``; instead of ``activation`` an `Unusable` where the network or its
        feature is another one than this project builds. Nothing if timm does not know the name.
    """
    timm = importlib.import_module("timm")
    transformer = _timm()
    if not timm.is_model(name):
        return {}
    try:
        with torch.device("meta"):
            network = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except Exception as error:  # timm's constructors raise errors of every kind for arguments of odd types
        told = " ".join(str(error).split())[:100]
        return {
            "activation": Unusable(
                f"timm does not build {name} with its model_args: {told}", "check the file"
            )
        }
    attention = getattr(getattr(network, "blocks", [None])[0], "attn", None)
    if type(network) is not transformer or attention is None:
        return {
            "activation": Unusable(f"timm's {name} is no plain vision transformer", "it is not supported")
        }
    block = network.blocks[0]
    lacking = {
        "a mean over patches as its feature": network.global_pool not in ("token", ""),
        "a norm before the blocks": not isinstance(network.norm_pre, nn.Identity),
        "a norm of queries and keys": not isinstance(attention.q_norm, nn.Identity),
        "no bias of queries and keys": attention.qkv.bias is None,
        "another kind of block": type(block).__name__ != "Block" or type(attention).__name__ != "Attention",
    }
    if found := [what for what, so in lacking.items() if so]:
        return {"activation": Unusable(f"timm's {name} has {' and '.join(found)}", "it is not supported")}
    act = block.mlp.act
    kinds = {"QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu", "GELUTanh": "gelu_tanh"}
    tanh = getattr(act, "approximate", "none") == "tanh"
    activation: Any = "gelu_tanh" if tanh else kinds.get(type(act).__name__, "gelu")
    if activation == "gelu" and type(act).__name__ != "GELU":
        activation = Unusable(f"timm's {name} has the activation {type(act).__name__}", "it is not supported")
    return {"heads": int(attention.num_heads), "activation": activation, "eps": float(block.norm1.eps)}


def _timm() -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer


class ViT(nn.Module):
    """A timm VisionTransformer as a backbone: its feature is the class token after the last normalisation."""

    def __init__(self, network: Any, arch: str, grid: int, positions: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.network = network
        self.arch = arch
        self.grid = grid
        self.positions = positions
        self.feature_dim = int(network.embed_dim)
        if positions is not None:
            network._pos_embed = self._with_positions

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last normalisation: ``(B, 3, H, W) -> (B, T, D)``, the class token first.

        Raises:
            UserError: If the images' sides are no multiples of the patch.
        """
        self._check(images)
        out: Tensor = self.network.forward_features(images)
        return out

    def spatial(self, images: Tensor, last: int = 1) -> list[Spatial]:
        """Patch and class tokens of the last blocks, see `eval.checkpoints.spatial`."""
        self._check(images)
        check_layers(last, len(self.network.blocks))
        found = self.network.forward_intermediates(
            images,
            indices=last,
            norm=True,
            return_prefix_tokens=True,
            output_dict=True,
            intermediates_only=True,
        )
        maps = found["image_intermediates"]
        prefixes = found.get("image_intermediates_prefix", [None] * len(maps))
        stride = self.network.patch_embed.patch_size[0]
        return [
            Spatial(map, stride, prefix[:, 0] if prefix is not None else None)
            for map, prefix in zip(maps, prefixes, strict=True)
        ]

    def _check(self, images: Tensor) -> None:
        patch = self.network.patch_embed.patch_size[0]
        if images.shape[-1] % patch or images.shape[-2] % patch:
            raise UserError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels for patches of {patch}",
                remedy=f"use a multiple of {patch}",
                code=2,
            )

    def _with_positions(self, patches: Tensor) -> Tensor:
        """What timm's ``_pos_embed`` does, with the method's own resizing: ``(B, h, w, D) -> (B, T, D)``."""
        net: Any = self.network
        height, width = patches.shape[1:3]
        skip = net.pos_embed.shape[1] - self.grid**2
        start, grid = net.pos_embed[:, :skip], net.pos_embed[:, skip:]
        if (height, width) != (self.grid, self.grid):
            grid = self._resize(grid, height, width)
        x = patches.flatten(1, 2) + grid
        cls = net.cls_token + start if skip else net.cls_token
        prefix = [cls] if net.reg_token is None else [cls, net.reg_token]
        return torch.cat([token.expand(len(x), -1, -1) for token in prefix] + [x], dim=1)

    def _resize(self, grid: Tensor, height: int, width: int) -> Tensor:
        positions = self.positions or {}
        offset, antialias = float(positions.get("offset", 0)), bool(positions.get("antialias", False))
        square = grid.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        if offset:
            scale = ((height + offset) / self.grid, (width + offset) / self.grid)
            resized = F.interpolate(square, scale_factor=scale, mode="bicubic", antialias=antialias)
        else:
            resized = F.interpolate(square, size=(height, width), mode="bicubic", antialias=antialias)
        return resized.permute(0, 2, 3, 1).reshape(1, height * width, -1)

    def features(self, images: Tensor) -> Tensor:
        """The class token: ``(B, 3, H, W) -> (B, D)``."""
        return self.tokens(images)[:, 0]

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """A ViT has no pyramid of maps.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.arch} has no feature maps at strides 4, 8, 16 and 32",
            remedy="detection needs a ResNet; a ViT serves the protocols on frozen features",
            code=2,
        )

    def forward(self, images: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(images)
