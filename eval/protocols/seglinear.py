"""Semantic segmentation by a linear classifier of map cells: batch normalisation, 1x1 convolution (DINOv2's head)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from ..errors import UserError
from ..features.maps import rows_of
from . import dense
from .base import Array, Context, Count, Kind, Measured, Positive
from .heads import Share

if TYPE_CHECKING:
    import torch

    from .dense import Stored


class Params(dense.DenseParams):
    """Parameters of the linear head, trained by AdamW; the last iteration counts.

    Attributes:
        iterations: Number of batches.
        batch_size: Squares in a batch.
        lr: Learning rate after the warm-up; it falls to 0 linearly with the iterations to the power ``power``.
        weight_decay: AdamW's, of all parameters.
        warmup: Iterations over which the rate rises linearly from ``warmup_ratio`` of its scheduled value.
        warmup_ratio: See ``warmup``.
        power: See ``lr``.
        init_std: Standard deviation of the first weights; biases begin at 0.
    """

    iterations: Count
    batch_size: Count
    lr: Positive
    weight_decay: Share
    warmup: Annotated[int, Field(ge=0)]
    warmup_ratio: Share
    power: Positive
    init_std: Positive

    def smoke(self, limit: int) -> dict[str, Any]:
        """As many iterations as images, small squares of the whole image."""
        return {
            "iterations": limit,
            "batch_size": 2,
            "extraction.image_size": 64,
            "train_views.copies": 1,
        }


def head(channels: int, classes: int, params: Params, seed: int) -> torch.nn.Sequential:
    """Batch normalisation and a 1x1 convolution: maps (B, D, h, w) to logits (B, C, h, w)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    convolution = torch.nn.Conv2d(channels, classes, 1)
    with torch.no_grad():
        convolution.weight.normal_(0, params.init_std, generator=generator)
        convolution.bias.zero_()  # type: ignore[union-attr]
    return torch.nn.Sequential(torch.nn.BatchNorm2d(channels), convolution)


def rate(params: Params, step: int) -> float:
    """Learning rate of an iteration, from 0: OpenMMLab's ``poly`` by iteration with a linear warm-up."""
    found: float = params.lr * (1 - step / params.iterations) ** params.power
    if step < params.warmup:
        found *= 1 - (1 - step / params.warmup) * (1 - params.warmup_ratio)
    return found


def loss_of(logits: torch.Tensor, masks: torch.Tensor, ignored: int) -> torch.Tensor:
    """Cross-entropy at the masks' size, (B, C, h, w) and (B, H, W); ignored pixels are zeros in the mean (mmseg)."""
    from torch.nn import functional as F

    if logits.shape[2:] != masks.shape[1:]:
        logits = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, masks, ignore_index=ignored, reduction="sum")
    return total / masks.numel()


def order(number: int, batch: int, seed: int) -> Iterator[Array]:
    """Rows of batches for ever: every row once in each pass, in a new order each time."""
    generator = np.random.default_rng(seed)
    rest = np.zeros(0, dtype=np.int64)
    while True:
        while len(rest) < batch:
            rest = np.concatenate([rest, generator.permutation(number)])
        yield rest[:batch]
        rest = rest[batch:]


def train(data: Stored, classes: int, params: Params, seed: int, context: Context) -> torch.nn.Sequential:
    """Train the head on stored maps, reading a batch at a time.

    Raises:
        UserError: If the loss is not finite.
    """
    import torch

    assert data.masks is not None
    ignored = int(np.iinfo(data.masks.dtype).max)
    model = head(data.maps.shape[2], classes, params, seed).to(context.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    batches = order(len(data.maps), params.batch_size, seed)
    for step in range(params.iterations):
        rows = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = rate(params, step)
        masks = torch.from_numpy(rows_of(data.masks, rows).astype(np.int64)).to(context.device)
        loss = loss_of(model(data.maps.read(rows).to(context.device)), masks, ignored)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss of iteration {step} is not finite", remedy="lower lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 20 == 19 or step + 1 == params.iterations:
            context.progress("iterations", step + 1, params.iterations)
    return model.eval()


def measure(context: Context) -> Measured:
    """Train the head on the training squares and measure the test images."""
    params: Params = context.params
    side = params.label_size or _side(context, params)
    data = dense.stored(context, "train", params.train_views, side)
    model = train(data, context.data.num_classes, params, context.seed, context)
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
