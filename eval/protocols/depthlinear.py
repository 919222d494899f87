"""Monocular depth by a linear layer on map cells: shares of 256 depths, as DINOv2's head and AdaBins have it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from ..errors import UserError
from ..features.maps import rows_of
from ..numbers import depth, intervals
from . import dense
from .base import Context, Count, Estimate, Kind, Measured, Positive
from .heads import Share
from .seglinear import order

if TYPE_CHECKING:
    import torch

    from ..datasets.segmentation import MaskSplit
    from .dense import Stored

EPS = 1e-3  # metres added under the logarithms of the loss
Beta = Annotated[float, Field(ge=0, lt=1)]


class Params(dense.DenseParams):
    """Parameters of the depth head, trained by AdamW; the last iteration counts.

    Attributes:
        bins: Number of depths, evenly spaced from ``least`` to ``most``.
        least, most: Of the depths, in metres; what the truth has beyond them does not count in test.
        upsample: By how much maps are enlarged before the layer.
        iterations: Number of batches.
        batch_size: Squares in a batch.
        lr: Learning rate after the warm-up; it falls to 0 by a cosine.
        weight_decay: AdamW's.
        warmup: Iterations over which the rate rises linearly from ``warmup_ratio`` of its scheduled value.
        warmup_ratio: See ``warmup``.
        clip: Largest norm of the gradients.
        mean_only: Iterations at the start in which the loss is that of the mean alone.
        first_beta: AdamW's first beta: at both ends, and after three tenths of the iterations.
    """

    bins: Count
    least: Positive
    most: Positive
    upsample: Count
    iterations: Count
    batch_size: Count
    lr: Positive
    weight_decay: Share
    warmup: Annotated[int, Field(ge=0)]
    warmup_ratio: Share
    clip: Positive
    mean_only: Annotated[int, Field(ge=0)]
    first_beta: Annotated[tuple[Beta, Beta], Field(strict=False)]

    def smoke(self, limit: int) -> dict[str, Any]:
        """As many iterations as images, small squares."""
        return {
            "iterations": limit,
            "batch_size": 2,
            "extraction.image_size": 64,
            "train_views.copies": 1,
        }


def depths(layer: torch.nn.Conv2d, maps: torch.Tensor, params: Params) -> torch.Tensor:
    """Depth in metres: maps (B, D, h, w) to (B, 1, u h, u w)."""
    import torch
    from torch.nn import functional as F

    size = [params.upsample * side for side in maps.shape[2:]]
    logits = layer(F.interpolate(maps, size, mode="bilinear", align_corners=False)).relu() + 0.1
    shares = logits / logits.sum(1, keepdim=True)
    bins = torch.linspace(params.least, params.most, params.bins, device=maps.device)
    return torch.einsum("bkhw,k->bhw", shares, bins)[:, None]


def loss_of(found: torch.Tensor, truth: torch.Tensor, mean_only: bool) -> torch.Tensor:
    """The scale-invariant loss of Eigen et al. 2014 in AdaBins' form; DINOv2's `SigLoss`.

    Args:
        found: (B, 1, h, w) metres; it is enlarged to the truth.
        truth: (B, H, W) metres, 0 where unknown.
        mean_only: Whether the variance is left out.
    """
    import torch
    from torch.nn import functional as F

    found = F.interpolate(found, truth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    valid = truth > 0
    difference = torch.log(found[valid] + EPS) - torch.log(truth[valid] + EPS)
    mean = 0.15 * difference.mean() ** 2
    return torch.sqrt(mean if mean_only else difference.var() + mean)


def rate(params: Params, step: int) -> float:
    """Learning rate of an iteration, from 0: a cosine with a linear warm-up, as OpenMMLab multiplies them."""
    found = params.lr * 0.5 * (1 + float(np.cos(np.pi * step / params.iterations)))
    if step < params.warmup:
        found *= 1 - (1 - step / params.warmup) * (1 - params.warmup_ratio)
    return found


def first_beta(params: Params, step: int) -> float:
    """AdamW's first beta in an iteration, from 0: a cosine down, then one up (OpenMMLab's ``OneCycle``)."""
    ends, middle = params.first_beta
    turn, last = 0.3 * params.iterations - 1, params.iterations - 1
    if step <= turn:
        return middle + (ends - middle) * 0.5 * (1 + float(np.cos(np.pi * step / turn)))
    return ends + (middle - ends) * 0.5 * (1 + float(np.cos(np.pi * (step - turn) / (last - turn))))


def train(data: Stored, params: Params, seed: int, context: Context) -> torch.nn.Conv2d:
    """Train the layer on stored maps, reading a batch at a time; batches without a known depth are passed over.

    Raises:
        UserError: If the loss is not finite.
    """
    import torch

    assert data.masks is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Conv2d(data.maps.shape[2], params.bins, 1)
    layer.to(context.device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    batches = order(len(data.maps), params.batch_size, seed)
    for step in range(params.iterations):
        rows = next(batches)
        millimetres = rows_of(data.masks, rows).astype(np.int64)
        metres = np.where(millimetres == dense.DEPTHS, 0.0, millimetres / 1000).astype(np.float32)
        if (metres > 0).sum() < 2:
            continue
        for group in optimizer.param_groups:
            group["lr"] = rate(params, step)
            group["betas"] = (first_beta(params, step), group["betas"][1])
        found = depths(layer, data.maps.read(rows).to(context.device), params)
        loss = loss_of(found, torch.from_numpy(metres).to(context.device), step < params.mean_only)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"the loss of iteration {step} is not finite", remedy="lower lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(layer.parameters(), params.clip)
        optimizer.step()
        if step % 20 == 19 or step + 1 == params.iterations:
            context.progress("iterations", step + 1, params.iterations)
    return layer.eval()


def measure(context: Context) -> Measured:
    """Train the layer on the training squares and measure the test images."""
    params: Params = context.params
    data = dense.stored(context, "train", params.train_views, _side(context))
    layer = train(data, params, context.seed, context)
    test = dense.stored(context, "test", params.test_views)
    split: MaskSplit = context.data.splits["test"]
    rows = []
    for truth, found in dense.assembled(
        test,
        split,
        lambda maps: depths(layer, maps, params),
        params,
        context.device,
        average=lambda part: part,
        progress=lambda done: context.progress("test images", done, len(split)),
    ):
        metres = truth / 1000
        predicted = found[0, 0].cpu().numpy().clip(params.least, params.most)
        rows.append(depth.of_image(metres, predicted, (metres > params.least) & (metres < params.most)))
    measured = numbers(np.stack(rows), context.data.counts)
    squares = {"train_squares": len(data.maps), "test_squares": len(test.maps)}
    return replace(measured, counts=measured.counts | squares, selected={"split": None, "iteration": "last"})


def numbers(table: np.ndarray[Any, Any], counts: dict[str, int]) -> Measured:
    """Means over images with their intervals.

    Errors in metres are no fractions: they stand in the certificate, with Student's intervals.

    Args:
        table: (N, 5) `numbers.depth.NAMES` of every test image, NaN where it has no valid pixel.
        counts: Images by split.

    Raises:
        UserError: If fewer than two images have a valid pixel.
    """
    kept = table[~np.isnan(table).any(1)]
    if len(kept) < 2:
        raise UserError(
            f"{len(kept)} test images have a valid depth", remedy="check depths and their unit: millimetres"
        )
    metrics, errors = {}, {}
    for name, values in zip(depth.NAMES, kept.T, strict=True):
        if name in depth.SHARES:
            value = float(values.mean())
            metrics[name] = Estimate(value, intervals.mean_share(values))
        else:
            errors[name] = _error(values) | {"unit": "m" if name == "rmse" else "share of the truth"}
    lost = len(table) - len(kept)
    warnings = (f"{lost} test images have no valid depth and are left out",) if lost else ()
    return Measured(metrics, dict(counts), certificate=errors, warnings=warnings, arrays={"depth": kept})


def _error(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The mean of an error over images, with Student's interval where the images differ."""
    found: dict[str, Any] = {"value": float(values.mean())}
    span = intervals.t_interval(values)
    if span.low == span.high:
        return found | {"interval": "none: all images have the same error"}
    return found | {"low": max(0.0, span.low), "high": span.high}


def _side(context: Context) -> int:
    """Side of a square's depths in training."""
    params: Params = context.params
    return params.label_size or params.extraction.image_size or int(context.loaded.passport.input_size)


def disk(context: Context) -> dict[str, int]:
    """Bytes of maps and depths that a cell will write."""
    return dense.disk(context, lambda shape: _side(context))


KIND = Kind(Params, ("depth",), measure, disk=disk, family="depth", precision=True)
