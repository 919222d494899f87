"""Vision transformers told from the shapes of their tensors, built by timm."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .timm_networks import Transformer

_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
_DEPTHS = {1024: 24, 1280: 32}
HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}
"""What a user means who names a size; methods differ, and their layouts say so."""
NAME = re.compile(r"vit_(tiny|small|base|large|huge|w\d+)_patch(\d+)(?:_reg(\d+))?(?:_d(\d+))?(_rope)?")


def infer(shapes: Mapping[str, tuple[int, ...]], rope: str = "") -> str:
    """Name a ViT from its shapes, such as ``vit_small_patch16`` or ``vit_base_patch14_reg4``.

    A depth other than the usual (12; 24 for large, 32 for huge) is appended as ``_d6``; rotary positions, which only
    a layout or settings tell, as ``_rope``.
    """
    kernel = shapes["patch_embed.proj.weight"]
    if len(kernel) != 4 or kernel[1] != 3 or kernel[2] != kernel[3]:
        raise UserError(
            f"the patch embedding has the shape {kernel}",
            remedy="only square patches of RGB images are supported",
        )
    if "pos_embed" not in shapes and not rope:
        raise UserError(
            "a transformer without absolute positions, and nothing says of which kind",
            remedy="lay the model's config.json beside the file, or name the network: --arch or --layout",
        )
    dim, patch, depth = kernel[0], kernel[2], depth_of(shapes)
    name = f"vit_{_SIZES.get(dim, f'w{dim}')}_patch{patch}"
    registers = shapes.get("reg_token", (1, 0, dim))[1]
    return (
        name
        + (f"_reg{registers}" if registers else "")
        + ("" if depth == _usual(dim) else f"_d{depth}")
        + ("_rope" if rope else "")
    )


def depth_of(keys: Iterable[str]) -> int:
    """The number of blocks that keys name."""
    blocks = [re.match(r"blocks\.(\d{1,3})\.", key) for key in keys]
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)


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
    match = NAME.fullmatch(arch)
    if match is None:
        raise UserError(
            f"unknown architecture '{arch}'",
            remedy="write vit_small_patch16, vit_base_patch14_reg4, ...",
            code=2,
        )
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    size, patch, registers, depth, _ = match.groups()
    dim = int(size[1:]) if size.startswith("w") else {name: dim for dim, name in _SIZES.items()}[size]
    known = bool(shapes)
    tokens = shapes.get("pos_embed", (1, 197, dim))[1]
    grid = max(math.isqrt(tokens), 1)
    hidden = shapes.get("blocks.0.mlp.fc1.weight", (4 * dim,))[0]
    gated = (
        hidden == 2 * shapes.get("blocks.0.mlp.fc2.weight", (dim, hidden))[1]
    )  # SwiGLU, both halves at once
    prefix = int("cls_token" in shapes or not known) + int(registers or 0)
    network = VisionTransformer(
        img_size=grid * int(patch),
        patch_size=int(patch),
        embed_dim=dim,
        depth=int(depth or _usual(dim)),
        num_heads=heads_of(options, dim, int(depth or _usual(dim)))
        or 1,  # the keys and shapes are the same for any
        mlp_ratio=(hidden + 0.5) / dim,
        mlp_layer=SwiGLUPacked if gated else Mlp,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes or not known,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
        num_classes=0,
        class_token="cls_token" in shapes or not known,
        global_pool="map" if "attn_pool.latent" in shapes else "token" if prefix else "avg",
        init_values=1.0 if "blocks.0.ls1.gamma" in shapes else None,
        reg_tokens=int(registers or 0),
        no_embed_class=bool(registers) or tokens == grid**2,
        pre_norm="norm_pre.weight" in shapes,
        final_norm="norm.weight" in shapes or not known,
        fc_norm="fc_norm.weight" in shapes,
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=float(options.get("eps", EPS))),
        act_layer=nn.SiLU if gated else _activation(options.get("activation", "gelu")),
    )
    positions = options.get("positions")
    if registers and tokens == grid**2 + 1:  # DINOv2: the class token has a position, the registers have none
        network.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, dim), std=0.02))
        positions = (positions or {}).get("registers", positions or {})
    return ViT(network, arch, grid, positions)


def build_rotary(arch: str, shapes: Mapping[str, tuple[int, ...]], options: Mapping[str, Any]) -> Transformer:
    """Build a ViT whose blocks turn queries and keys by their place, as DINOv3's (timm's Eva).

    Args:
        arch: A name as `infer` gives it.
        shapes: Shapes of its weights, under timm's names.
        options: ``heads``; ``eps``; ``activation``; ``rope``, the kind of rotary positions: ``dinov3``.

    Returns:
        The network; its frequencies, ``rope.periods``, are one of its tensors where the file has them.
    """
    from timm.models.eva import Eva

    match = NAME.fullmatch(arch)
    assert match is not None
    size, patch, registers, depth, _ = match.groups()
    dim = int(size[1:]) if size.startswith("w") else {name: dim for dim, name in _SIZES.items()}[size]
    gated = "blocks.0.mlp.fc1_g.weight" in shapes
    hidden = shapes.get("blocks.0.mlp.fc1_g.weight" if gated else "blocks.0.mlp.fc1.weight", (4 * dim,))[0]
    usual = "silu" if gated else "gelu"
    if (activation := options.get("activation", usual)) != usual:
        raise UserError(f"a {arch} with the activation {activation}", remedy=f"its kind has {usual}")
    network = Eva(
        patch_size=int(patch),
        embed_dim=dim,
        depth=int(depth or _usual(dim)),
        num_heads=heads_of(options, dim, int(depth or _usual(dim))) or 1,
        mlp_ratio=(hidden + 0.5) / dim,
        swiglu_mlp=gated,
        swiglu_align_to=1,  # two matrices, of just that width
        qkv_bias="blocks.0.attn.q_bias" in shapes,
        init_values=1.0 if "blocks.0.gamma_1" in shapes else None,
        num_reg_tokens=int(registers or 0),
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type=options["rope"],
        rope_temperature=100.0,
        rope_rotate_half=True,
        use_fc_norm=False,
        global_pool="token",
        num_classes=0,
        dynamic_img_size=True,
        norm_layer=partial(nn.LayerNorm, eps=float(options.get("eps", 1e-5))),
    )
    if "rope.periods" in shapes:  # else they follow from the head's width
        network.rope.register_buffer("periods", network.rope.periods, persistent=True)
    return Transformer(network, arch)


EPS = 1e-6
"""Of the normalisation layers of timm's and all methods' ViTs; Hugging Face's have 1e-12."""


def heads_of(options: Mapping[str, Any], dim: int, depth: int) -> int | None:
    """The number of heads that a layout or another source states for a width, or None.

    Args:
        options: ``heads`` is a number, or a dict by width as text, or by width and depth where one width has several
            networks: ``768x8``; ``head_dim`` the channels of each head.
        dim: Channels of a token.
        depth: Number of blocks.

    Raises:
        UserError: If the width is no multiple of it.
    """
    heads = options.get("heads")
    if isinstance(heads, Mapping):
        heads = heads.get(f"{dim}x{depth}", heads.get(str(dim)))
    if heads is None and "head_dim" in options and dim % options["head_dim"] == 0:
        heads = dim // options["head_dim"]
    if heads is not None and dim % heads:
        raise UserError(
            f"{heads} heads do not divide {dim} channels", remedy="say the right number: --heads N", code=2
        )
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


def shapes_of_timm(network: Any) -> dict[str, int]:
    """What one of timm's vision transformers says of its shapes, by the keys of `facts.SHAPES`."""
    return {
        "blocks": len(network.blocks),
        "width": int(network.embed_dim),
        "patch": int(network.patch_embed.patch_size[0]),
    }


def of_timm(network: Any) -> dict[str, Any] | None:
    """What one of timm's plain vision transformers computes beyond its keys and shapes.

    Args:
        network: As timm builds it.

    Returns:
        ``heads``, ``activation`` and ``eps``; None where it is another network than `build` makes.
    """
    from timm.layers import Mlp
    from timm.models.vision_transformer import Attention, Block, VisionTransformer

    if type(network) is not VisionTransformer:
        return None
    block: Any = network.blocks[0]
    plain = (
        network.global_pool in ("token", "")
        and network.num_prefix_tokens == 1
        and isinstance(network.norm_pre, nn.Identity)
        and type(block) is Block
        and type(block.attn) is Attention
        and isinstance(block.attn.q_norm, nn.Identity)
        and block.attn.qkv.bias is not None
        and type(block.mlp) is Mlp
    )
    act = block.mlp.act if plain else None
    kinds = {
        "QuickGELU": "quick_gelu",
        "ReLU": "relu",
        "SiLU": "silu",
        "GELUTanh": "gelu_tanh",
        "GELU": "gelu",
    }
    activation = kinds.get(type(act).__name__)
    if activation is None:
        return None
    if getattr(act, "approximate", "none") == "tanh":
        activation = "gelu_tanh"
    options = {"heads": int(block.attn.num_heads), "activation": activation, "eps": float(block.norm1.eps)}
    return options if _told_by_shapes(network, options) else None


def _told_by_shapes(network: Any, options: Mapping[str, Any]) -> bool:
    """Whether `build` makes the same keys and shapes of a network's shapes, and of its grid a square."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    grid = network.patch_embed.grid_size
    try:
        ours = build(infer(shapes), shapes, options)
    except UserError:
        return False
    found = {name: tuple(tensor.shape) for name, tensor in ours.network.state_dict().items()}
    return found == shapes and tuple(grid) == (ours.grid, ours.grid)


class ViT(Transformer):
    """A timm VisionTransformer whose positions are resized as its authors do."""

    def __init__(self, network: Any, arch: str, grid: int, positions: Mapping[str, Any] | None) -> None:
        super().__init__(network, arch)
        self.grid = grid
        self.positions = positions
        if positions is not None:
            network._pos_embed = self._with_positions

    def _with_positions(self, patches: Tensor) -> Tensor:
        """What timm's ``_pos_embed`` does, with the method's own resizing: ``(B, h, w, D) -> (B, T, D)``."""
        net: Any = self.network
        height, width = patches.shape[1:3]
        skip = net.pos_embed.shape[1] - self.grid**2
        start, grid = net.pos_embed[:, :skip], net.pos_embed[:, skip:]
        if (height, width) != (self.grid, self.grid):
            grid = self._resize(grid, height, width)
        x = patches.flatten(1, 2) + grid
        prefix = [] if net.cls_token is None else [net.cls_token + start if skip else net.cls_token]
        if net.reg_token is not None:
            prefix.append(net.reg_token)
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
