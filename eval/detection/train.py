"""Detectron2's own trainer, made resumable to the last digit."""

from __future__ import annotations

import logging
import random
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter
from torch import nn

from mast.files import atomic_write

from ..errors import UserError, unknown
from . import pixels
from .data_order import KeyedDataset, KeyedSampler, keyed_seed
from .networks import parameter_groups

CHECKPOINT = "checkpoint.pth"
LOGGERS = ("detectron2", "fvcore", "torch.fx")  # whose lines go to log.txt
Progress = Callable[[str, int, int], None]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with one file that is replaced whole or not at all."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, optimiser, schedule and hooks; ``name`` is Detectron2's and not used."""
        if not self.save_to_disk:
            return
        content = {"model": self.model.state_dict(), **kwargs}
        content.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        with atomic_write(Path(self.save_dir) / CHECKPOINT, "wb") as file:
            torch.save(content, file)

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return (Path(self.save_dir) / CHECKPOINT).is_file()

    def get_checkpoint_file(self) -> str:
        """The file that `save` writes."""
        return str(Path(self.save_dir) / CHECKPOINT)

    def _torch_load(self, f: str) -> Any:
        return read_checkpoint(Path(f))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint without running anything that it contains.

    Raises:
        UserError: If it is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common error: zip, pickle, end of file, runtime
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged: {reason}", remedy="delete it to train this cell from its start"
        ) from error
    return dict(content)


class SeedHook(HookBase):
    """Keys the model's randomness (which proposals and anchors are sampled) to seed and iteration.

    It seeds right before the forward pass, so that nothing the data loader draws can shift it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train(self) -> None:
        """Seed before every forward pass from here on."""
        self.handle = self.trainer.model.register_forward_pre_hook(self._seed)

    def after_train(self) -> None:
        """Stop seeding."""
        self.handle.remove()

    def _seed(self, *_: Any) -> None:
        seed_everything(keyed_seed(self.seed, comm.get_rank(), self.trainer.iter))


class LossHook(HookBase):
    """Keeps the total loss of every iteration, through restarts, and reports progress."""

    def __init__(self, progress: Progress) -> None:
        self.losses: list[float] = []
        self.progress = progress

    def after_step(self) -> None:
        """Read what Detectron2's trainer wrote for this iteration, in the main process."""
        if not comm.is_main_process():
            return
        value, _ = self.trainer.storage.latest()["total_loss"]
        self.losses.append(float(value))
        self.progress("train", self.trainer.iter + 1, self.trainer.max_iter)

    def state_dict(self) -> dict[str, Any]:
        """The losses so far."""
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after these losses."""
        self.losses = list(state["losses"])


class TimeHook(HookBase):
    """Saves when so many seconds have passed, so that a kill never costs more than that."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def after_step(self) -> None:
        """Save if it is time; Detectron2's periodic checkpointer does the rest."""
        if comm.get_world_size() == 1 and time.monotonic() - self.last > self.seconds:
            self.trainer.checkpointer.save("periodic", iteration=self.trainer.iter)
            self.last = time.monotonic()


class Trainer(DefaultTrainer):
    """`DefaultTrainer` with keyed data and randomness, atomic checkpoints, and weights that are given to it.

    Args:
        cfg: The resolved config; ``OUTPUT_DIR`` is where it keeps its files.
        prepare: Fills the fresh model with the checkpoint's weights.
        progress: Called with ``("train", done, total)``.
        score: Measures the model, with the mapper of ``test``, every ``TEST.EVAL_PERIOD`` iterations, for the curve
            in ``train.jsonl`` alone: the reported numbers are those of the last iteration.

    Attributes:
        mappers: By split, from an entry of the data set to what the detector takes, in place of Detectron2's; of
            ``train`` from `resume_or_load` on.
    """

    def __init__(
        self,
        cfg: CfgNode,
        prepare: Callable[[nn.Module], None],
        progress: Progress,
        score: Callable[[nn.Module, Mapper | None], dict[str, float]],
    ) -> None:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
        self._progress = progress
        self._score = score
        self.mappers: Mapping[str, Mapper] = {}
        seed_everything(keyed_seed(cfg.SEED, 0))
        super().__init__(cfg)
        self.checkpointer = Checkpointer(
            self.detector,
            cfg.OUTPUT_DIR,
            save_to_disk=comm.is_main_process(),
            trainer=weakref.proxy(self),
        )
        for hook in self._hooks:
            if hasattr(hook, "checkpointer"):  # Detectron2's PeriodicCheckpointer
                hook.checkpointer = self.checkpointer
        prepare(self.detector)

    @property
    def detector(self) -> nn.Module:
        """The model without what shares it among processes."""
        return self.model.module if comm.get_world_size() > 1 else self.model

    @property
    def losses(self) -> list[float]:
        """The total loss of every iteration so far."""
        return next(hook.losses for hook in self._hooks if isinstance(hook, LossHook))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model, without printing it."""
        return build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """`build_optimizer` of this module."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """The stream of batches from the first one; `resume_or_load` replaces it after a restart."""
        return train_loader(cfg, start=0)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks with seeding before and the losses after them."""
        losses = LossHook(self._progress)
        period = self.cfg.TEST.EVAL_PERIOD
        default = [
            EvalHook(
                period,
                lambda: {"test": self._score(self.model, self.mappers.get("test"))},
                eval_after_train=False,
            )
            if isinstance(hook, EvalHook)
            else hook
            for hook in super().build_hooks()
        ]
        # The losses come before Detectron2's checkpointer, so that a checkpoint holds those it has trained on.
        return [SeedHook(self.cfg.SEED), losses, *default, TimeHook()]

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's log and JSON lines; no TensorBoard."""
        output = Path(self.cfg.OUTPUT_DIR)
        return [CommonMetricPrinter(self.max_iter), JSONWriter(str(output / "train.jsonl"))]

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the checkpoint in ``OUTPUT_DIR`` if there is one, with the data that would have come next."""
        super().resume_or_load(resume=resume)
        start, mapper = self.start_iter, self.mappers.get("train")
        if start or mapper:
            self._trainer.reset_data_loader(lambda: train_loader(self.cfg, start=start, mapper=mapper))


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Detectron2's SGD, or with ``SOLVER.OPTIMIZER`` AdamW over `networks.parameter_groups`."""
    if cfg.SOLVER.OPTIMIZER == "SGD":
        sgd: torch.optim.Optimizer = build_sgd(cfg, model)
        return sgd
    if cfg.SOLVER.OPTIMIZER != "AdamW":
        raise unknown("SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ["SGD", "AdamW"])
    groups = parameter_groups(cfg, model)
    optimizer = torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)
    clipped: torch.optim.Optimizer = maybe_add_gradient_clipping(cfg, optimizer)
    return clipped


def build_mapper(cfg: CfgNode) -> DatasetMapper:
    """Detectron2's mapper for training, with the wider augmentations of ``INPUT.LSJ`` or ``INPUT.DETR_CROP``.

    The first is ViTDet's large-scale jitter to a square of that side. The second is DETR's (arXiv 2005.12872): every
    second image is cut to between 384 and 600 pixels, from a short side of 400, 500 or 600, before it is resized.
    """
    augmentations: list[T.Augmentation]
    if side := cfg.INPUT.LSJ:
        augmentations = [
            T.RandomFlip(horizontal=True),
            T.ResizeScale(min_scale=0.1, max_scale=2.0, target_height=side, target_width=side),
            T.FixedSizeCrop(crop_size=(side, side), pad=False),
        ]
    elif cfg.INPUT.DETR_CROP:
        longest = cfg.INPUT.MAX_SIZE_TRAIN
        cut = [
            T.ResizeShortestEdge((400, 500, 600), longest, "choice"),
            T.RandomCrop("absolute_range", (384, 600)),
        ]
        augmentations = [
            T.RandomFlip(horizontal=True),
            T.RandomApply(T.AugmentationList(cut), prob=0.5),
            T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, longest, "choice"),
        ]
    else:
        return pixels.Mapper(cfg, True)
    return pixels.Mapper(cfg, True, augmentations=augmentations, recompute_boxes=cfg.MODEL.MASK_ON)


def train_loader(cfg: CfgNode, *, start: int, mapper: Mapper | None = None) -> Iterable[list[dict[str, Any]]]:
    """Detectron2's loader over the keyed order.

    Args:
        cfg: Reads DATASETS.TRAIN, DATALOADER, INPUT, SOLVER.IMS_PER_BATCH and SEED.
        start: Batches to pass over.
        mapper: From an entry of the data set to an example; `build_mapper`'s when None.
    """
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    sampler = KeyedSampler(
        [(entry["width"], entry["height"]) for entry in dicts],
        batch=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        seed=cfg.SEED,
        start=start,
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )
    loader: Iterable[list[dict[str, Any]]] = build_detection_train_loader(
        KeyedDataset(dicts, mapper or build_mapper(cfg), cfg.SEED),
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,  # done by the sampler
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return loader


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (Detectron2 draws from the global generator)
    random.seed(seed)


class _LogFile(logging.FileHandler):
    """A log file that its loggers forget when it is closed; otherwise the next line would open it again."""

    def close(self) -> None:
        """Close the file and leave the loggers."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        super().close()


def quiet_logs(path: Path) -> logging.Handler:
    """Send Detectron2's log, and torch's of tracing, to a file; returns the handler, to be closed by the caller."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [handler]
    return handler
