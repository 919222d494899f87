"""Proofs about a detector before it is trained, and about what it left alone once it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..checkpoints import Passport
from ..errors import UserError
from . import vit
from .backbone import feature_maps
from .config import FREEZE_AT
from .convert import Conversion, backbone_keys, model_kind
from .train import build_optimizer, seed_everything, train_loader

LIMITS = {"float64": 1e-9, "float32": 1e-4}  # largest difference over largest value
_IMAGE = (64, 96)  # height and width of the images compared on; multiples of every stride


def certify_features(
    model: nn.Module, backbone: Any, passport: Passport, cfg: CfgNode
) -> dict[str, dict[str, float]]:
    """Compare res2..res5 of the detector with the checkpoint's own backbone, from pixels on.

    Random 8-bit images go into both: into the backbone scaled and normalised as the passport says, into the
    detector through its own preprocessing, in its channel order. In C4 models res5 is the one in the ROI heads. Of a
    vision transformer the tokens of the patches are compared: without class token, windows and relative positions,
    at the size that the checkpoint has positions for.

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
    transformer = model_kind(model) == "vit"
    height, width = 2 * (cfg.MODEL.VIT.GRID * vit.PATCH,) if transformer else _IMAGE
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
            if transformer:
                ours.backbone._square_pad = 0  # to a size that need not be the checkpoint's
            inputs = ours.preprocess_image([{"image": image.to(dtype)} for image in given]).tensor
            inputs = inputs[..., :height, :width]  # padded to a multiple of 32
            if transformer:
                expected = {"tokens": vit.patch_tokens(theirs, normalised)}
                found = {"tokens": vit.detector_tokens(ours, inputs)}
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
        if theirs.startswith("network."):  # a transformer is frozen whole or not at all
            stage = FREEZE_AT["all"]
        if stage <= level:
            keys.add(ours)
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            keys |= {f"{name}.{key}" for key in module.state_dict()}
    return keys


def certify_training(model: nn.Module, cfg: CfgNode, freeze: str) -> dict[str, Any]:
    """Take training steps on a copy: look at what the first moved, and at whether the loss falls.

    All steps see one batch and the same sampled anchors and proposals, so that the loss falls if learning works.
    Their number is a hundredth of the schedule, at least 1 and at most 20.

    Args:
        model: The detector, filled; it is copied and not changed.
        cfg: Its config.
        freeze: The protocol's freeze level.

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
    batch = next(iter(train_loader(cfg, start=0)))

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
