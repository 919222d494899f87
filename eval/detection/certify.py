"""Proofs about a detector before it is trained, and about what it left alone once it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..checkpoints import Passport
from ..errors import UserError
from . import hierarchy, vit
from .backbone import feature_maps
from .config import FREEZE_AT
from .convert import Conversion, backbone_keys, loaded_network, model_kind
from .stored import network_maps
from .train import Mapper, build_optimizer, seed_everything, train_loader

LIMITS = {"float64": 1e-9, "float32": 1e-4}  # largest difference over largest value
ROUNDING = 2**-8 + LIMITS["float32"]  # the same for bfloat16
_IMAGE = (
    64,
    96,
)  # height and width of the images compared on, where a network asks for no larger multiple than 32


def certify_features(
    model: nn.Module, backbone: Any, passport: Passport, cfg: CfgNode
) -> dict[str, dict[str, float]]:
    """Compare res2..res5 of the detector with the checkpoint's own backbone, from pixels on.

    Random 8-bit images go into both: into the backbone scaled and normalised as the passport says, into the
    detector through its own preprocessing, in its channel order. In C4 models res5 is the one in the ROI heads. Of a
    vision transformer the tokens of the patches are compared, with attention over the whole image: on an image that
    is no square, so that the resizing of positions is held too; in ViTDet's form, which resizes them otherwise, at
    the size that the checkpoint has positions for.

    Args:
        model: The detector, filled; it is copied and not changed.
        backbone: The checkpoint's backbone, with `feature_maps`.
        passport: Its passport.
        cfg: The detector's config: the channel order it is fed, its pixel constants in full precision.

    Returns:
        ``{"float64": {"res2": difference, ...}, "float32": {...}}`` (``tokens`` for a ViT), each the largest
        difference over the largest value.

    Raises:
        UserError: If a difference is above its limit: the detector is not this checkpoint.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = _IMAGE
    whole: Any = model
    if (multiple := int(whole.backbone.size_divisibility)) > _IMAGE[1] - _IMAGE[0]:
        height, width = multiple, 2 * multiple
    if model_kind(model) == "vit" and cfg.MODEL.VIT.FORM == "vitdet":
        height = width = vit.grid_of(backbone.network) * vit.STRIDE
    pixels = torch.randint(0, 256, (2, 3, height, width), generator=generator)  # RGB
    given = pixels.flip(1) if cfg.INPUT.FORMAT == "BGR" else pixels  # what Detectron2's mapper hands over
    differences: dict[str, dict[str, float]] = {}
    for name, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        ours: Any = copy.deepcopy(model).cpu().to(dtype).eval()
        ours.pixel_mean, ours.pixel_std = (  # the module holds them in float32
            torch.tensor(list(values), dtype=dtype).view(3, 1, 1)
            for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        theirs = copy.deepcopy(backbone).cpu().to(dtype).eval()
        with torch.no_grad():
            normalised = passport.normalization.apply_to_bytes(pixels, dtype)
            ours.backbone._square_pad = 0  # of ViTDet's pyramid: to a size that need not be the checkpoint's
            inputs = ours.preprocess_image([{"image": image.to(dtype)} for image in given]).tensor
            inputs = inputs[..., :height, :width]  # padded to a multiple of 32
            network = loaded_network(ours)
            if isinstance(network, vit.VitBackbone):
                network.bfloat16 = False
                expected = {"tokens": vit.expected_tokens(network, theirs, normalised)}
                found = {"tokens": vit.detector_tokens(network, inputs)}
            elif isinstance(network, hierarchy.MapsBackbone):
                network.bfloat16 = False
                expected, found = theirs.feature_maps(normalised), network.maps(inputs)
            else:
                expected, found = theirs.feature_maps(normalised), feature_maps(ours, inputs)
        differences[name] = {}
        for level, value in expected.items():
            largest = value.abs().max().item()
            difference = (value - found[level]).abs().max().item() / max(largest, 1e-30)
            differences[name][level] = difference
            if not difference <= LIMITS[name]:
                raise UserError(
                    f"{level} of the detector differs from the checkpoint's by {difference:.2g} of its largest "
                    f"value in {name}",
                    remedy="its architecture is not what the passport says; check with `mast inspect`",
                )
    return differences


def described(model: nn.Module, cfg: CfgNode) -> dict[str, Any]:
    """What the detector is made of, in words, for the record.

    Args:
        model: The detector.
        cfg: Its config.

    Returns:
        ``pyramid`` and its ``levels``, ``frozen``; of a vision transformer ``tokens``, ``windows`` and
        ``patch_pixels``.
    """
    kind, network, whole = model_kind(model), loaded_network(model), cast(Any, model)
    names = {
        "vit": "simple feature pyramid over patch tokens",
        "hierarchy": "feature pyramid over four stages",
        "fpn": "feature pyramid",
        "c4": "none",
    }
    told: dict[str, Any] = {
        "pyramid": names[kind],
        "levels": list(whole.backbone.output_shape()),
        "frozen": bool(network.frozen) if network else FREEZE_AT["all"] == cfg.MODEL.BACKBONE.FREEZE_AT,
    }
    if isinstance(network, vit.VitBackbone):
        count = network.prefix
        told["tokens"] = f"patches and {count} class or register tokens" if count else "patches"
        windows = {m.window for m in network.modules() if isinstance(m, vit.GridAttention) and m.window}
        told["windows"] = max(windows, default=0)
        told["patch_pixels"] = network.patch
    return told


def frozen_keys(model: nn.Module, freeze: str) -> set[str]:
    """Keys of the whole model that must not move under a freeze level of a protocol.

    Args:
        model: A detector.
        freeze: ``nothing``, ``stem``, ``res2``, ``res3``, ``res4`` or ``all``.
    """
    level = FREEZE_AT[freeze]
    keys = set()
    for theirs, ours in backbone_keys(model).items():
        stage = int(theirs[5]) + 1 if theirs.startswith("layer") else 1
        if theirs.startswith("network."):  # a network of the loader's is frozen whole or not at all
            stage = FREEZE_AT["all"]
        if stage <= level:
            keys.add(ours)
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            keys |= {f"{name}.{key}" for key in module.state_dict()}
    return keys


def certify_training(
    model: nn.Module, cfg: CfgNode, freeze: str, mapper: Mapper | None = None
) -> dict[str, Any]:
    """Take training steps on a copy: look at what the first moved, and at whether the loss falls.

    All steps see one batch and the same sampled anchors and proposals, so that the loss falls if learning works.
    Their number is a hundredth of the schedule, at least 1 and at most 20.

    Args:
        model: The detector, filled; it is copied and not changed.
        cfg: Its config.
        freeze: The protocol's freeze level.
        mapper: As of `train_loader`.

    Returns:
        Counts of frozen and training tensors, of BatchNorm statistics that follow the data; the losses, and
        whether they fall (None for fewer than 20).

    Raises:
        UserError: If something frozen moved or would be trained, if something else would not be, or if a loss
            is not finite.
    """
    trial = copy.deepcopy(model).train()
    optimizer = build_optimizer(cfg, trial)
    frozen = frozen_keys(trial, freeze)
    before = {key: value.clone() for key, value in trial.state_dict().items()}
    batch = next(iter(train_loader(cfg, start=0, mapper=mapper)))

    def backward() -> float:
        seed_everything(cfg.SEED)
        with EventStorage():
            loss: Any = torch.stack(list(trial(batch).values())).sum()
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} in a trial step", remedy="check boxes and normalisation"
            )
        trial.zero_grad()
        loss.backward()
        return float(loss.item())

    losses = [backward()]
    parameters = dict(trial.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.requires_grad and parameter.grad is not None:
                parameter.sub_(0.01 * (parameter.grad / (parameter.grad.norm() + 1e-12) + parameter))
    after = trial.state_dict()
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    idle = {key for key, p in parameters.items() if p.requires_grad and p.grad is None}
    statistics = {key for key in after if key.endswith("running_mean") and key not in frozen}
    wrong = {
        "moved although frozen": moved & frozen,
        "would be trained although frozen": {k for k, p in parameters.items() if p.requires_grad} & frozen,
        "would not be trained": {k for k, p in parameters.items() if not p.requires_grad and k not in frozen},
        "got no gradient": idle,
        "did not follow the data": {key for key in statistics if key not in moved},
    }
    for problem, keys in wrong.items():
        if keys:
            raise UserError(
                f"freeze={freeze}: {sorted(keys)[0]} {problem}"
                + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""),
                remedy="Detectron2 does not do what the protocol's name says; do not trust the run",
            )
    for group in optimizer.param_groups:
        group["lr"] *= 0.1  # one batch and no warm-up
    for _ in range(min(20, cfg.SOLVER.MAX_ITER // 100) - 1):
        optimizer.step()
        losses.append(backward())
    return {
        "freeze": freeze,
        "frozen_tensors": len(frozen),
        "trained_parameters": sum(p.requires_grad for p in parameters.values()),
        "moving_statistics": len(statistics),
        "losses": losses,
        "falling": sum(losses[-5:]) < sum(losses[:5]) if len(losses) == 20 else None,
    }


def certify_stored(model: nn.Module, cfg: CfgNode, mapper: Mapper) -> dict[str, Any]:
    """Hold what the store gives for the first batch against the network in the loop, from pixels on.

    Args:
        model: The detector, filled; it is copied and not changed.
        cfg: Its config.
        mapper: Reads the store.

    Returns:
        ``difference`` of each map, the largest over its largest value, which bfloat16 keeps below 2^-8; and ``loss``
        of this batch, ``from_store`` and ``in_loop``, with the same sampling of anchors and proposals.

    Raises:
        UserError: If a difference is above its limit: the store holds other images, or another network's maps.
    """
    trial: Any = copy.deepcopy(model).train()
    read, seen = (next(iter(train_loader(cfg, start=0, mapper=how))) for how in (mapper, None))
    expected = network_maps(trial, trial.preprocess_image(seen).tensor)
    found = trial.preprocess_image(read).tensor
    difference = {}
    for name, value in expected.items():
        largest = max(value.abs().max().item(), 1e-30)
        difference[name] = (value - found[name]).abs().max().item() / largest
        if not difference[name] <= ROUNDING:
            raise UserError(
                f"{name} from the store differs from the network's by {difference[name]:.2g} of its largest value",
                remedy="delete the feature store and run again",
            )
    losses = {}
    for name, batch in (("from_store", read), ("in_loop", seen)):
        seed_everything(cfg.SEED)
        with EventStorage(), torch.no_grad():
            losses[name] = float(torch.stack(list(trial(batch).values())).sum())
    return {"difference": difference, "loss": losses}


def certify_rest(model: nn.Module, state: Mapping[str, Tensor], conversion: Conversion, freeze: str) -> int:
    """After training: every frozen tensor is still the checkpoint's, bit by bit.

    Returns:
        How many were compared.

    Raises:
        UserError: If one is not.
    """
    frozen = frozen_keys(model, freeze)
    after = model.state_dict()
    compared = 0
    for ours, theirs in _pairs(conversion, frozen):
        if not torch.equal(after[ours].cpu(), state[theirs].cpu().to(after[ours].dtype)):
            raise UserError(f"{ours} was frozen and has changed in training", remedy="do not trust the run")
        compared += 1
    return compared


def _pairs(conversion: Conversion, frozen: set[str]) -> Iterator[tuple[str, str]]:
    return ((ours, theirs) for ours, theirs in conversion.mapped.items() if ours in frozen)
