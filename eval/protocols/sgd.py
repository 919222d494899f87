"""A linear layer trained by SGD on stored features, a grid of learning rates at once, the last epoch reported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..features.matrices import Features, blocks
from ..numbers.metrics import softmax
from .base import Array, Fitted, Labelled, Params, metric, require, select

SHUFFLE = 1 << 16  # rows shuffled together when features do not fit into memory


def schedule(params: Params, step: int, steps: int, epoch: int) -> float:
    """The share of the peak learning rate: a cosine by step, or a factor ``gamma`` at each of ``milestones``."""
    if params["schedule"] == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if params["schedule"] == "step":
        passed = sum(epoch >= int(milestone) for milestone in params["milestones"])
        return float(params["gamma"]) ** passed
    raise UserError(f"unknown schedule '{params['schedule']}'", remedy="known: cosine, step", code=2)


def _epoch(part: Labelled, batch: int, generator: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Batches in a new order. Features on disk are read in blocks whose order, and rows within, are shuffled."""
    n = len(part)
    if n <= SHUFFLE:
        order = generator.permutation(n)
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            yield part.features[rows], part.labels[rows]
        return
    size = max(batch, SHUFFLE // batch * batch)
    for start in generator.permutation(range(0, n, size)):
        stop = min(int(start) + size, n)
        block, labels = np.asarray(part.features[int(start) : stop]), part.labels[int(start) : stop]
        order = generator.permutation(stop - int(start))
        for low in range(0, len(order), batch):
            rows = order[low : low + batch]
            yield block[rows], labels[rows]


class Heads:
    """H linear heads that see the same batches, each with its own learning rate.

    Attributes:
        weight: (H, D, C).
        bias: (H, C).
    """

    def __init__(self, rates: list[float], dim: int, classes: int, params: Params, seed: int) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(dim, classes, generator=generator) * float(params["init_std"])
        self.weight = start.to(device).repeat(len(rates), 1, 1)
        self.bias = torch.zeros(len(rates), classes, device=device)
        self.rates = torch.tensor(rates, device=device)
        self.momenta = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self.mean = torch.zeros(dim, device=device)
        self.std = torch.ones(dim, device=device)
        self.params = params
        self.device = device

    def normalise(self, x: torch.Tensor, *, train: bool) -> torch.Tensor:
        """Non-affine batch normalisation where the protocol has it, running statistics as torch keeps them."""
        if not self.params["batchnorm"]:
            return x
        if train and len(x) > 1:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            self.mean += 0.1 * (mean - self.mean)
            self.std = (self.std**2 + 0.1 * (x.var(0) - self.std**2)).sqrt()
            return (x - mean) / (var + 1e-5).sqrt()
        return (x - self.mean) / (self.std**2 + 1e-5).sqrt()

    def step(self, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        """One step of SGD with momentum and weight decay on the mean cross-entropy of every head."""
        x = self.normalise(x, train=True)
        logits = torch.einsum("bd,hdc->hbc", x, self.weight) + self.bias[:, None]
        residual = logits.softmax(-1)
        residual[:, torch.arange(len(y), device=y.device), y] -= 1
        residual /= len(y)
        gradients = [torch.einsum("bd,hbc->hdc", x, residual), residual.sum(1)]
        decay, momentum = float(self.params["weight_decay"]), float(self.params["momentum"])
        for value, gradient, buffer in zip((self.weight, self.bias), gradients, self.momenta, strict=True):
            gradient = gradient + decay * value
            buffer.mul_(momentum).add_(gradient)
            update = gradient + momentum * buffer if self.params["nesterov"] else buffer
            value -= share * self.rates.view(-1, *[1] * (value.ndim - 1)) * update

    def scores(self, features: Features, head: int) -> Array:
        """Logits (N, C) of one head."""
        found = []
        for _, block in blocks(features):
            x = self.normalise(torch.from_numpy(np.array(block)).to(self.device), train=False)
            found.append((x @ self.weight[head] + self.bias[head]).cpu().numpy())
        return np.concatenate(found)


def train_heads(part: Labelled, rates: list[float], params: Params, seed: int) -> Heads:
    """Train all heads over ``params["epochs"]`` epochs; the last state is what counts, never the best one."""
    heads = Heads(rates, part.features.shape[1], part.num_classes, params, seed)
    generator = np.random.default_rng(seed)
    batch, epochs = int(params["batch_size"]), int(params["epochs"])
    steps, step = epochs * -(-len(part) // batch), 0
    for epoch in range(epochs):
        for features, labels in _epoch(part, batch, generator):
            x = torch.from_numpy(np.array(features, dtype=np.float32)).to(heads.device)
            y = torch.from_numpy(np.array(labels)).to(heads.device)
            heads.step(x, y, schedule(params, step, steps, epoch))
            step += 1
    return heads


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Choose the learning rate on val where several are given, then train again on train and val."""
    require(train, "train")
    require(val, "val")
    if train.multilabel:
        raise UserError("sgd trains one label an image", remedy="use linear for several labels", code=2)
    rates = sorted(float(rate) * int(params["batch_size"]) / 256 for rate in np.atleast_1d(params["lr"]))
    selected: dict[str, Any] = {"lr": rates[0], "split": None, "epoch": "last"}
    warnings: tuple[str, ...] = ()
    index, heads = 0, None
    if len(rates) > 1 or not params["refit"]:
        heads = train_heads(train, rates, params, seed)
        measure = metric(metric_name)
        values = np.array([measure(heads.scores(val.features, i), val.labels) for i in range(len(rates))])
        index, selected, warnings = select(values, np.array(rates), name="lr")
        selected["epoch"] = "last"
    if params["refit"]:
        heads, index = train_heads(train.joined(val), [rates[index]], params, seed), 0
        selected["refit"] = "train+val"
    final = heads
    assert final is not None
    if not bool(torch.isfinite(final.weight[index]).all()):
        raise UserError(f"SGD diverged at learning rate {selected['lr']:g}", remedy="lower lr")

    def scores(features: Array) -> Array:
        return final.scores(features, index)

    return Fitted(scores, selected, None, warnings, lambda features: softmax(scores(features)))
