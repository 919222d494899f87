"""What vision transformers and networks with stages share as backbones of Detectron2: keys, freezing, learning rates.

The detector holds a copy of the very network that the checkpoint loader built, so that registers, layer scale, rotary
positions and whatever else a library's network has work here without being written again. Detectron2 builds its
models from a config alone; `given` hands the loaded network to the builders in `vit` and `hierarchy`.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from detectron2.config import CfgNode
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError

VIT = "build_mast_vit_backbone"
HIERARCHY = "build_mast_hierarchy_fpn_backbone"
_GIVEN: ContextVar[Any] = ContextVar("given")
_TOKENS = ("pos_embed", "cls_token", "reg_token")  # before the first block
_NO_DECAY = (*_TOKENS, "gamma", "gamma_1", "gamma_2", "relative_position_bias_table")


@dataclass(frozen=True)
class Network:
    """What a config says of a network that the loader built.

    Attributes:
        kind: ``tokens`` of a vision transformer, or ``maps`` of a network with stages.
        name: The passport's name of the architecture.
        channels: Of a token, or of res2 to res5.
        depths: Blocks, or blocks of each stage.
        patch: Side of a patch in pixels; 0 for a network with stages.
        prefix: Class and register tokens.
    """

    kind: Literal["tokens", "maps"]
    name: str
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    patch: int = 0
    prefix: int = 0


def add_keys(cfg: CfgNode) -> None:
    """Add the keys that Detectron2's defaults lack."""
    cfg.MODEL.NETWORK = CfgNode()
    cfg.MODEL.NETWORK.ARCH = ""  # this and the next four are the checkpoint's
    cfg.MODEL.NETWORK.CHANNELS = ()
    cfg.MODEL.NETWORK.DEPTHS = ()
    cfg.MODEL.NETWORK.PATCH = 0
    cfg.MODEL.NETWORK.PREFIX_TOKENS = 0
    cfg.MODEL.NETWORK.DROP_PATH = 0.0  # of the last block; the others' rise to it from 0
    cfg.MODEL.NETWORK.BFLOAT16 = False  # inside the network; its maps are handed over in float32
    cfg.MODEL.NETWORK.CHECKPOINTING = (
        False  # compute each block once more in the backward pass, to save memory
    )
    cfg.MODEL.NETWORK.OUT_NORM = ""  # "LN": a new norm on each map of a network with stages
    cfg.INPUT.LSJ = 0  # side of the square that large-scale jitter cuts out; 0: Detectron2's resizing
    cfg.INPUT.DETR_CROP = False  # half of the images are cut before they are resized
    cfg.SOLVER.OPTIMIZER = "SGD"  # or AdamW
    cfg.SOLVER.LAYER_DECAY = 1.0  # of the learning rate from layer to layer, towards the pixels
    cfg.SOLVER.NO_DECAY = (
        "norms"  # what has no weight decay; or "vectors": biases and all else of one dimension
    )


def is_network(cfg: CfgNode) -> bool:
    """Whether a config's backbone is a network that the loader built, and not a ResNet of Detectron2's."""
    return cfg.MODEL.BACKBONE.NAME in (VIT, HIERARCHY)


def set_network(cfg: CfgNode, network: Network) -> None:
    """Write a network into ``MODEL.NETWORK``.

    Raises:
        UserError: If the protocol freezes a part of the backbone.
    """
    node = cfg.MODEL.NETWORK
    node.ARCH, node.CHANNELS, node.DEPTHS = network.name, network.channels, network.depths
    node.PATCH, node.PREFIX_TOKENS = network.patch, network.prefix
    if cfg.MODEL.BACKBONE.FREEZE_AT not in (0, 5):
        raise UserError(
            f"{network.name} has no part of its own to freeze", remedy="freeze all of it or nothing", code=2
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        node.DROP_PATH = 0.0


def refuse_one_size(backbone: Any) -> None:
    """Refuse a network for images of one size: a detector shows it many.

    Raises:
        UserError: If it is one.
    """
    embed = getattr(getattr(backbone, "network", None), "patch_embed", None)
    if getattr(embed, "strict_img_size", False):
        sides = "x".join(map(str, embed.img_size))  # type: ignore[union-attr]
        raise UserError(
            f"{backbone.arch} takes images of {sides} pixels and no others, and a detector shows it many sizes",
            remedy="take a network whose positions can be resized",
            code=2,
        )


@contextlib.contextmanager
def given(backbone: Any) -> Iterator[None]:
    """Whatever is built inside takes this backbone of the loader's, if its config asks for one.

    Args:
        backbone: An `eval.checkpoints` backbone; builders copy it.
    """
    token = _GIVEN.set(backbone)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def take() -> Any:
    """A copy of the backbone that `given` gave.

    Raises:
        UserError: If a config that asks for one is built without: Detectron2 alone cannot rebuild the network.
    """
    backbone = _GIVEN.get(None)
    if backbone is None:
        raise UserError(
            "this config's backbone is a checkpoint's own network, and none was given",
            remedy="build the model inside eval.detection.networks.given(backbone)",
        )
    return copy.deepcopy(backbone)


class LoadedBackbone(Backbone):
    """Detectron2's interface around a backbone of the loader's.

    Args:
        inner: The backbone, which is this module's own from here on.
        cfg: Reads ``MODEL.NETWORK`` and ``MODEL.BACKBONE.FREEZE_AT``.
        dropped: Tensors that `inner` had and the detector leaves out, with the reason.

    Attributes:
        frozen: Whether it rests: no gradient, and evaluation mode whatever the detector does.
    """

    def __init__(self, inner: Any, cfg: CfgNode, dropped: dict[str, str]) -> None:
        super().__init__()
        self.inner = inner
        self.dropped = dropped
        self.frozen = bool(cfg.MODEL.BACKBONE.FREEZE_AT)
        self.bfloat16 = bool(cfg.MODEL.NETWORK.BFLOAT16)
        inner.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> LoadedBackbone:
        """Switch to training mode; a frozen network stays as it is evaluated."""
        super().train(mode)
        if self.frozen:
            self.inner.eval()
        return self

    @contextlib.contextmanager
    def computing(self, images: Tensor) -> Iterator[None]:
        """Inside, nothing frozen keeps activations, and ``MODEL.NETWORK.BFLOAT16`` acts."""
        with contextlib.ExitStack() as stack:
            if self.frozen:
                stack.enter_context(torch.no_grad())
            if self.bfloat16:
                stack.enter_context(torch.autocast(images.device.type, torch.bfloat16))
            yield


class Checkpointed(nn.Sequential):
    """Blocks whose activations are computed again in the backward pass and not kept."""

    def forward(self, x: Tensor) -> Tensor:
        """The blocks one after the other."""
        for block in self:
            x = checkpoint(block, x, use_reentrant=False)
        return x


def set_drop_path(blocks: Sequence[nn.Module], rate: float) -> None:
    """Stochastic depth (arXiv 1603.09382), from 0 in the first block to ``rate`` in the last.

    Raises:
        UserError: If a block has no place for it.
    """
    from timm.layers import DropPath

    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        names = [name for name in ("drop_path", "drop_path1", "drop_path2") if hasattr(block, name)]
        if rate and not names:
            raise UserError(
                f"a {type(block).__name__} of this network cannot be skipped in training",
                remedy="set MODEL.NETWORK.DROP_PATH=0",
                code=2,
            )
        for name in names:
            setattr(block, name, DropPath(share) if share else nn.Identity())


def layer_of(name: str, depths: Sequence[int]) -> int:
    """The layer, for the decay of learning rates, that a detector's parameter belongs to.

    A transformer counts its blocks (as Detectron2's `get_vit_lr_decay_rate`, which knows no class or register
    tokens). A network with stages counts as ConvNeXt's authors do: one layer for each of the first two stages, one
    for every three blocks of the third, one for the fourth.

    Args:
        name: Key of the whole model.
        depths: ``MODEL.NETWORK.DEPTHS``.

    Returns:
        0 for what comes before the first block, `layers` for the heads and every norm that is new.

    >>> layer_of("backbone.net.inner.network.blocks.3.attn.qkv.weight", [12])
    4
    >>> inside = "backbone.bottom_up.inner.network"
    >>> [layer_of(f"{inside}.stages.{i}.blocks.0.norm.weight", [3, 3, 9, 3]) for i in range(4)]
    [1, 2, 3, 6]
    """
    match = re.match(r"backbone\.(?:net|bottom_up)\.inner\.network\.(.+)", name)
    last = layers(depths)
    if match is None:
        return last
    inner = match[1]
    if len(depths) == 1:
        if block := re.match(r"blocks\.(\d+)\.", inner):
            return int(block[1]) + 1
        return last if inner.startswith("norm.") else 0
    place = re.match(r"(?:stages|layers)[._](\d+)\.(?:blocks\.(\d+)\.)?", inner)
    if place is None:
        return 0
    stage, within = int(place[1]), int(place[2] or 0)
    return (1, 2, 3 + within // 3, last - 1)[stage]


def layers(depths: Sequence[int]) -> int:
    """The number of the heads' layer.

    >>> layers([12]), layers([3, 3, 9, 3]), layers([3, 3, 27, 3])
    (13, 7, 13)
    """
    return (depths[0] if len(depths) == 1 else 3 + depths[2] // 3) + 1


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """Learning rate and weight decay of every parameter that trains.

    The rate is ``SOLVER.LAYER_DECAY`` times smaller from layer to layer. Norms, positions, class and register tokens,
    layer scale and tables of relative positions do not decay; with ``SOLVER.NO_DECAY`` ``vectors`` nothing of one
    dimension does.

    Raises:
        UserError: For another ``SOLVER.NO_DECAY``.
    """
    from detectron2.solver import get_default_optimizer_params
    from detectron2.solver.build import reduce_param_groups

    depths, base = tuple(cfg.MODEL.NETWORK.DEPTHS), cfg.SOLVER.BASE_LR

    def factor(name: str) -> float:
        return float(cfg.SOLVER.LAYER_DECAY ** (layers(depths) - layer_of(name, depths))) if depths else 1.0

    if cfg.SOLVER.NO_DECAY == "norms":
        groups: list[dict[str, Any]] = get_default_optimizer_params(
            model,
            base_lr=base,
            weight_decay_norm=0.0,
            lr_factor_func=factor,
            overrides={name: {"weight_decay": 0.0} for name in _NO_DECAY},
        )
        return groups
    if cfg.SOLVER.NO_DECAY != "vectors":
        raise UserError(
            f"SOLVER.NO_DECAY={cfg.SOLVER.NO_DECAY!r}", remedy="it is 'norms' or 'vectors'", code=2
        )
    groups = [
        {
            "params": [parameter],
            "lr": base * factor(name),
            "weight_decay": 0.0
            if parameter.ndim <= 1 or name.endswith(".bias") or name.rpartition(".")[2] in _NO_DECAY
            else cfg.SOLVER.WEIGHT_DECAY,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    reduced: list[dict[str, Any]] = reduce_param_groups(groups)
    return reduced
