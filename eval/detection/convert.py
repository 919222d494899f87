"""A torchvision-named backbone into a whole Detectron2 model, key by key, with nothing left to chance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .networks import LoadedBackbone

_NEW = {  # what a detector has and a backbone does not, by kind of detector
    "vit": ("backbone.simfp_", "proposal_generator.", "roi_heads."),
    "hierarchy": (
        "backbone.bottom_up.norms.",
        "backbone.fpn_lateral",
        "backbone.fpn_output",
        "proposal_generator.",
        "roi_heads.",
    ),
    "fpn": ("backbone.fpn_lateral", "backbone.fpn_output", "proposal_generator.", "roi_heads."),
    "c4": ("proposal_generator.", "roi_heads.box_predictor.", "roi_heads.mask_head.", "roi_heads.res5.norm."),
}
_NETWORK = {
    "vit": "backbone.net.inner.",
    "hierarchy": "backbone.bottom_up.inner.",
}  # where a loaded network lies
_REL_POS = re.compile(r"backbone\.net\.inner\.network\.blocks\.\d+\.attn\.attention\.rel_pos_[hw]")


@dataclass(frozen=True)
class Conversion:
    """What went where.

    Attributes:
        kind: As `model_kind` gives it.
        mapped: Detectron2 keys that were filled, with the torchvision key each came from.
        new: Detectron2 keys that no backbone has (heads, proposal generator, pyramid, extra norm).
        dropped: Torchvision keys that the detector has no place for, with the reason.
    """

    kind: str
    mapped: dict[str, str]
    new: tuple[str, ...]
    dropped: dict[str, str]


def rename(key: str) -> str:
    """Detectron2's name, inside its ResNet, of a torchvision key.

    >>> rename("layer1.0.bn2.weight"), rename("conv1.weight"), rename("layer4.0.downsample.1.running_var")
    ('res2.0.conv2.norm.weight', 'stem.conv1.weight', 'res5.0.shortcut.norm.running_var')
    """
    key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
    if not key.startswith("res"):
        key = f"stem.{key}"
    key = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
    return key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def original(key: str) -> str:
    """The inverse of `rename`.

    >>> original("res2.0.conv2.norm.weight")
    'layer1.0.bn2.weight'
    """
    key = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", key.removeprefix("stem."))
    key = re.sub(r"(^|\.)conv(\d)\.norm\.", r"\1bn\2.", key)
    return key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")


def model_kind(model: nn.Module) -> str:
    """``vit``; ``hierarchy`` or ``fpn`` for a pyramid over a loaded network with stages or a ResNet; else ``c4``."""
    if hasattr(model.backbone, "net"):
        return "vit"
    if not hasattr(model.backbone, "bottom_up"):
        return "c4"
    return "hierarchy" if isinstance(model.backbone.bottom_up, LoadedBackbone) else "fpn"


def loaded_network(model: nn.Module) -> LoadedBackbone | None:
    """The network of the loader's inside a detector; None over a ResNet of Detectron2's."""
    inner: Any = getattr(model.backbone, "net", None) or getattr(model.backbone, "bottom_up", None)
    return inner if isinstance(inner, LoadedBackbone) else None


def backbone_keys(model: nn.Module) -> dict[str, str]:
    """Where each of the backbone's tensors lives: its own key -> key of the whole model."""
    kind = model_kind(model)
    places = {}
    for key in model.state_dict():
        if kind in _NETWORK:
            if key.startswith(_NETWORK[kind]) and not _REL_POS.fullmatch(key):
                places[key.removeprefix(_NETWORK[kind]).replace(".attn.attention.", ".attn.")] = key
        elif kind == "fpn" and key.startswith("backbone.bottom_up."):
            places[original(key.removeprefix("backbone.bottom_up."))] = key
        elif kind == "c4" and key.startswith("backbone."):
            places[original(key.removeprefix("backbone."))] = key
        elif kind == "c4" and re.match(r"roi_heads\.res5\.\d", key):
            places[original(key.removeprefix("roi_heads."))] = key
    return places


def load_backbone(model: nn.Module, state: Mapping[str, Tensor]) -> Conversion:
    """Fill a detector's backbone from a state dict: torchvision's names of a ResNet, the loader's of other networks.

    Detectron2's own loaders match suffixes and only warn about what stays random, and its FrozenBatchNorm2d
    invents running statistics that a file lacks. Here every key is matched exactly or nothing is loaded.

    Args:
        model: A model with `MastResNet` backbone, pyramid or C4, or with a network of `networks.given`.
        state: Every backbone key, no classifier.

    Raises:
        UserError: If a backbone tensor is missing, has another shape, or has no place; the keys are named.
    """
    kind = model_kind(model)
    places = backbone_keys(model)
    target = model.state_dict()
    optional = {
        key: "frozen BatchNorm counts no batches"
        for key in sorted(state)
        if key.endswith("num_batches_tracked") and key not in places
    }
    if (network := loaded_network(model)) is not None:
        optional |= {key: reason for key, reason in network.dropped.items() if key in state}
    missing = sorted(set(places) - set(state))
    unexpected = sorted(set(state) - set(places) - set(optional))
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(target[place].shape)}"
        for key, place in places.items()
        if key in state and state[key].shape != target[place].shape
    ]
    new = tuple(key for key in target if key not in set(places.values()))
    strays = [key for key in new if not key.startswith(_NEW[kind]) and not _REL_POS.fullmatch(key)]
    for problem, keys in (
        ("lacks", missing),
        ("has no place in the detector for", unexpected),
        ("has other shapes:", shapes),
        ("leaves undeclared parts of the detector random:", strays),
    ):
        if keys:
            shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            raise UserError(
                f"the backbone's state dict {problem} {shown}",
                remedy="only a complete backbone is fine-tuned; check the checkpoint with `mast inspect`",
            )
    with torch.no_grad():
        for key, place in places.items():
            target[place].copy_(state[key])
    return Conversion(
        kind=kind,
        mapped={place: key for key, place in places.items()},
        new=new,
        dropped=optional,
    )
