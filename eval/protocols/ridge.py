"""Ridge regression on one-hot labels, closed form over the whole grid; features are streamed, never copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..device import device
from ..features.matrices import blocks
from . import frozen
from .base import Array, Fitted, Labelled, metric, require, select
from .linear import Penalties, penalties

if TYPE_CHECKING:
    import torch


class Params(frozen.Params):
    """Parameters of ridge regression.

    Attributes:
        penalties: log10 of the first lambda, log10 of the last, and how many.
        transform: Features are streamed as they are.
        refit: Whether val joins train once lambda is chosen.
    """

    penalties: Penalties
    transform: Literal["none"]
    refit: bool


def _moments(part: Labelled, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Count, sums of x and y, x^T x and x^T y, float64, in one pass over the features."""
    import torch

    d, c = part.features.shape[1], part.num_classes
    sx, sy = (
        torch.zeros(d, dtype=torch.float64, device=device),
        torch.zeros(c, dtype=torch.float64, device=device),
    )
    xx = torch.zeros(d, d, dtype=torch.float64, device=device)
    xy = torch.zeros(c, d, dtype=torch.float64, device=device)
    for span, block in blocks(part.features, 8192):
        x = torch.from_numpy(np.array(block, dtype=np.float64)).to(device)
        sx += x.sum(0)
        xx += x.T @ x
        if part.multilabel:
            y = torch.from_numpy(np.maximum(part.labels[span], 0).astype(np.float64)).to(device)
            sy += y.sum(0)
            xy += y.T @ x
        else:  # one-hot: the products are sums over the class
            labels = torch.from_numpy(np.array(part.labels[span])).to(device)
            sy += torch.bincount(labels, minlength=c)
            xy.index_add_(0, labels, x)
    return torch.tensor(float(len(part)), dtype=torch.float64, device=device), sx, sy, xx, xy.T


class _Path:
    """The ridge path from moments: one eigendecomposition serves every penalty."""

    def __init__(self, moments: tuple[torch.Tensor, ...]) -> None:
        import torch

        n, sx, sy, xx, xy = moments
        self.mean, self.target = sx / n, sy / n
        gram = xx - torch.outer(sx, self.mean)
        self.values, self.axes = torch.linalg.eigh(gram)
        self.values = self.values.clamp(min=0)
        self.rotated = self.axes.T @ (xy - torch.outer(sx, self.target))

    def solve(self, penalty: float) -> tuple[Array, Array]:
        """Weights (D, C) and bias (C,) of min |Xc W - Yc|^2 + lambda |W|^2, bias free."""
        weights = self.axes @ (self.rotated / (self.values + penalty)[:, None])
        bias = self.target - self.mean @ weights
        return weights.cpu().numpy(), bias.cpu().numpy()


def _scores(features: Any, weights: Array, bias: Array) -> Array:
    return np.concatenate(
        [np.asarray(block, dtype=np.float64) @ weights + bias for _, block in blocks(features)]
    )


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Choose lambda on val, solve again on train and val. Exact up to rounding, so it needs no certificate."""
    require(train, "train")
    require(val, "val")
    measure = metric(metric_name)
    grid = penalties(params.penalties)
    where = device()
    moments = _moments(train, where)
    path = _Path(moments)
    values = np.array([measure(_scores(val.features, *path.solve(lam)), val.labels) for lam in grid])
    index, selected, warnings = select(values, grid, name="lambda", prefer="last")
    if params.refit:
        # Moments add up: train is not read again.
        more = _moments(val, where)
        path = _Path(tuple(a + b for a, b in zip(moments, more, strict=True)))
        selected["refit"] = "train+val"
    weights, bias = path.solve(float(grid[index]))
    return Fitted(lambda features: _scores(features, weights, bias), selected, None, warnings)


KIND = frozen.kind(Params, fit, tasks=("classification", "multilabel"))
