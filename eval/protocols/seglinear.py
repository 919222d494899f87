"""Semantic segmentation by a linear classifier of map cells: a 1x1 convolution, in DINOv2's after normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..errors import UserError
from ..features.maps import rows_of
from . import dense
from .base import Array, Context, Count, Kind, Measured, Positive
from .heads import Share

if TYPE_CHECKING:
    import torch

    from .dense import Stored

MOMENTUM = 0.9  # of SGD


class Params(dense.DenseParams):
    """Parameters of the linear head; the last iteration counts.

    Attributes:
        iterations: Number of batches.
        epochs: Or how often the training images are passed, whole batches only; one of the two is None.
        batch_size: Squares in a batch.
        optimizer: ``adamw``, or ``sgd`` with a momentum of 0.9.
        lr: Learning rate after the warm-up; it falls to 0 linearly with the iterations to the power ``power``.
        drop: Or it stays, and is a tenth from this share of the iterations on.
        weight_decay: Of all parameters.
        warmup: Iterations over which the rate rises linearly from ``warmup_ratio`` of its scheduled value.
        warmup_ratio: See ``warmup``.
        power: See ``lr``.
        batchnorm: Whether maps pass a batch normalisation first.
        init: The first weights and biases: ``normal``, N(0, ``init_std``) and 0; or ``default``, torch's own.
        init_std: Standard deviation of ``normal``.
        counted: The loss is a mean over ``all`` pixels, zero where ignored, or over those ``labelled``.
    """

    iterations: Count | None
    epochs: Count | None = None
    batch_size: Count
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive
    drop: Annotated[float, Field(gt=0, lt=1)] | None = None
    weight_decay: Share
    warmup: Annotated[int, Field(ge=0)]
    warmup_ratio: Share
    power: Positive
    batchnorm: bool = True
    init: Literal["normal", "default"] = "normal"
    init_std: Positive
    counted: Literal["all", "labelled"] = "all"

    @model_validator(mode="after")
    def _long(self) -> Self:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError("iterations or epochs says how long it trains: give one, and null for the other")
        return self

    def length(self, images: int) -> int:
        """Iterations with so many training images."""
        return self.iterations or max(1, (self.epochs or 0) * (images // self.batch_size))

    def smoke(self, limit: int) -> dict[str, Any]:
        """As many iterations as images, small squares of the whole image."""
        return {
            "iterations": limit,
            "batch_size": 2,
            "extraction.image_size": 64,
            "train_views.copies": 1,
        }


def head(channels: int, classes: int, params: Params, seed: int) -> torch.nn.Sequential:
    """A 1x1 convolution, after batch normalisation or not: maps (B, D, h, w) to logits (B, C, h, w)."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        convolution = torch.nn.Conv2d(channels, classes, 1)
    if params.init == "normal":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            convolution.weight.normal_(0, params.init_std, generator=generator)
            convolution.bias.zero_()  # type: ignore[union-attr]
    return torch.nn.Sequential(*([torch.nn.BatchNorm2d(channels)] if params.batchnorm else []), convolution)


def rate(params: Params, step: int, total: int) -> float:
    """Learning rate of an iteration, from 0 of ``total``: OpenMMLab's ``poly`` with a linear warm-up, or one drop."""
    if params.drop is not None:
        return params.lr * (0.1 if step >= params.drop * total else 1.0)
    found: float = params.lr * (1 - step / total) ** params.power
    if step < params.warmup:
        found *= 1 - (1 - step / params.warmup) * (1 - params.warmup_ratio)
    return found


def loss_of(logits: torch.Tensor, masks: torch.Tensor, ignored: int, counted: str = "all") -> torch.Tensor:
    """Cross-entropy at the masks' size, (B, C, h, w) and (B, H, W).

    It is a mean over ``all`` pixels, zero where ignored, as mmseg's; or over those ``labelled``.
    """
    from torch.nn import functional as F

    if logits.shape[2:] != masks.shape[1:]:
        logits = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, masks, ignore_index=ignored, reduction="sum")
    return total / (masks.numel() if counted == "all" else (masks != ignored).sum().clamp(min=1))


def order(number: int, batch: int, seed: int) -> Iterator[Array]:
    """Rows of batches for ever: every row once in each pass, in a new order each time."""
    generator = np.random.default_rng(seed)
    rest = np.zeros(0, dtype=np.int64)
    while True:
        while len(rest) < batch:
            rest = np.concatenate([rest, generator.permutation(number)])
        yield rest[:batch]
        rest = rest[batch:]


def train(
    data: Stored, classes: int, params: Params, seed: int, context: Context, total: int
) -> torch.nn.Sequential:
    """Train the head on stored maps for ``total`` iterations, reading a batch at a time.

    Raises:
        UserError: If the loss is not finite.
    """
    import torch

    assert data.masks is not None
    ignored = int(np.iinfo(data.masks.dtype).max)
    model = head(data.maps.shape[2], classes, params, seed).to(context.device).train()
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=MOMENTUM)}
    optimizer = kinds[params.optimizer](model.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    batches = order(len(data.maps), params.batch_size, seed)
    for step in range(total):
        rows = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate(params, step, total)
        masks = torch.from_numpy(rows_of(data.masks, rows).astype(np.int64)).to(context.device)
        loss = loss_of(model(data.maps.read(rows).to(context.device)), masks, ignored, params.counted)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss of iteration {step} is not finite", remedy="lower lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 20 == 19 or step + 1 == total:
            context.progress("iterations", step + 1, total)
    return model.eval()


def measure(context: Context) -> Measured:
    """Train the head on the training squares and measure the test images."""
    params: Params = context.params
    side = params.label_size or _side(context, params)
    data = dense.stored(context, "train", params.train_views, side)
    total = params.length(len(context.data.splits["train"]))
    model = train(data, context.data.num_classes, params, context.seed, context, total)
    test = dense.stored(context, "test", params.test_views)
    found = dense.evaluate(context, test, model)
    squares = {"train_squares": len(data.maps), "test_squares": len(test.maps)}
    return replace(found, counts=found.counts | squares, selected={"split": None, "iteration": "last"})


def _side(context: Context, params: Params) -> int:
    return params.extraction.image_size or int(context.loaded.passport.input_size)


def disk(context: Context) -> dict[str, int]:
    """Bytes of maps and masks that a cell will write."""
    return dense.disk(context, lambda shape: context.params.label_size or _side(context, context.params))


KIND = Kind(Params, ("segmentation",), measure, disk=disk, family="seg", precision=True)
