"""From a protocol's data to the whole Detectron2 config that is run and stored with the record."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg

from mast.model import Arch

from ..checkpoints import Normalization
from ..device import device
from ..errors import UserError, unknown
from . import backbone, networks, stored, vit
from .options import options_of

FREEZE_AT = {"nothing": 0, "stem": 1, "res2": 2, "res3": 3, "res4": 4, "all": 5}
_SCHEDULE = ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD")


def defaults() -> CfgNode:
    """Detectron2's default config with this project's keys."""
    cfg = get_cfg()
    backbone.add_keys(cfg)
    networks.add_keys(cfg)
    vit.add_keys(cfg)
    stored.add_keys(cfg)
    return cfg


def resolve(
    params: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    arch: Arch | networks.Network,
    normalization: Normalization,
    stride_in_1x1: bool,
    num_classes: int,
    masks: bool,
    bitmasks: bool,
    seed: int,
) -> CfgNode:
    """Build the config of one run.

    In this order: Detectron2's base config, the protocol's ``set``, its ``tiny`` part if asked for, the
    checkpoint's architecture and normalisation, and last the overrides.

    Args:
        params: A detection protocol's ``params``.
        overrides: Detectron2 keys (``SOLVER.BASE_LR``) or the options of `options.OPTIONS`.
        arch: The checkpoint's architecture.
        normalization: The passport's.
        stride_in_1x1: The passport's; of ResNets.
        num_classes: Classes of the data.
        masks: Whether masks are trained and measured.
        bitmasks: Whether some training masks are run lengths and not polygons.
        seed: Goes into ``SEED``.

    Raises:
        UserError: For an option or key that does not exist, or a freeze level that the architecture does not have.
    """
    cfg = defaults()
    cfg.merge_from_file(model_zoo.get_config_file(params["base"]))
    for part in params["set"]:
        _set(cfg, part)
    options = options_of(overrides)
    if options.get("tiny"):
        for part in params["tiny"]:
            _set(cfg, part)
    freeze = params["freeze"]
    if freeze not in FREEZE_AT:
        raise unknown("freeze level", freeze, FREEZE_AT)
    cfg.MODEL.BACKBONE.FREEZE_AT = FREEZE_AT[freeze]
    if isinstance(arch, networks.Network):
        networks.set_network(cfg, arch)
        vit.settle(cfg)
    else:
        backbone.set_arch(cfg, arch, stride_in_1x1=stride_in_1x1)
    cfg.INPUT.FORMAT = normalization.channels
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = normalization.pixel_mean, normalization.pixel_std
    cfg.MODEL.WEIGHTS = ""  # loaded by `convert.load_backbone`, never by matching suffixes
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
    cfg.INPUT.MASK_FORMAT = "bitmask" if bitmasks else "polygon"
    cfg.MODEL.DEVICE = options.get("device", str(device()))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("test",)
    cfg.SEED = seed
    if "workers" in options:
        cfg.DATALOADER.NUM_WORKERS = options["workers"]
    if "batch" in options:
        scale_batch(cfg, options["batch"])
    if "iterations" in options:
        scale_schedule(cfg, options["iterations"])
    _set(cfg, {key: value for key, value in overrides.items() if "." in key})
    if cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.ENABLED:
        raise UserError("SOLVER.AMP.ENABLED needs a GPU", remedy="leave it off on the CPU", code=2)
    stored.settle(cfg)
    if cfg.INPUT.LSJ and cfg.INPUT.MAX_SIZE_TEST > cfg.INPUT.LSJ:
        raise UserError(
            f"test images of up to {cfg.INPUT.MAX_SIZE_TEST} pixels do not fit the square of {cfg.INPUT.LSJ}",
            remedy="INPUT.MAX_SIZE_TEST may be as large as INPUT.LSJ",
            code=2,
        )
    cfg.freeze()
    return cfg


def scale_batch(cfg: CfgNode, batch: int) -> None:
    """Change the batch and everything that depends on it, by the linear rule (Goyal et al. 2017).

    The learning rate is multiplied by ``batch / old batch``; iterations, steps, warm-up and checkpoint period
    are divided by it, so that the number of images seen stays the same.
    """
    if batch < 1:
        raise UserError(f"batch={batch} is not positive", remedy="give a batch of at least 1", code=2)
    factor = batch / cfg.SOLVER.IMS_PER_BATCH
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.SOLVER.BASE_LR *= factor
    _stretch(cfg, 1 / factor)


def scale_schedule(cfg: CfgNode, iterations: int) -> None:
    """Train for so many iterations, with steps, warm-up and checkpoint period at the same share of the whole."""
    if iterations < 1:
        raise UserError(f"iterations={iterations} is not positive", remedy="give at least 1", code=2)
    _stretch(cfg, iterations / cfg.SOLVER.MAX_ITER)
    cfg.SOLVER.MAX_ITER = iterations


def _stretch(cfg: CfgNode, factor: float) -> None:
    for key in _SCHEDULE:
        setattr(cfg.SOLVER, key, max(1, round(getattr(cfg.SOLVER, key) * factor)))
    steps = {round(step * factor) for step in cfg.SOLVER.STEPS}
    cfg.SOLVER.STEPS = tuple(sorted(step for step in steps if 0 < step < cfg.SOLVER.MAX_ITER))


def _set(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    """Merge dotted keys, naming the near ones when a key does not exist."""
    known = None
    for key, value in values.items():
        known = known or flatten(defaults())
        if key not in known:
            raise unknown("Detectron2 key", key, known)
        try:
            cfg.merge_from_list([key, tuple(value) if isinstance(value, list) else value])
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"{key}={value!r} does not fit Detectron2's key: {error}",
                remedy=f"the default is {known[key]!r}",
                code=2,
            ) from error


def flatten(cfg: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as ``{"SOLVER.BASE_LR": 0.001, ...}``."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = copy.deepcopy(value)
    return flat


def differences(params: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a protocol changes in Detectron2's base config: key -> (Detectron2's value, the protocol's)."""
    base = defaults()
    base.merge_from_file(model_zoo.get_config_file(params["base"]))
    ours = base.clone()
    for part in params["set"]:
        _set(ours, part)
    ours.MODEL.BACKBONE.FREEZE_AT = FREEZE_AT[params["freeze"]]
    before, after = flatten(base), flatten(ours)
    return {key: (before[key], value) for key, value in after.items() if before[key] != value}
