"""Linear heads trained together by SGD: on stored features, or fed by a backbone's forward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ..device import device as choose_device
from ..features.matrices import Features, blocks
from .base import Array, Count, Labelled, Params

if TYPE_CHECKING:
    import torch

SHUFFLE = 1 << 16  # rows shuffled together when features do not fit into memory
Share = Annotated[float, Field(ge=0)]


class HeadParams(Params):
    """Parameters of training linear heads by SGD.

    Attributes:
        epochs, batch_size, momentum, nesterov, weight_decay: Of SGD.
        schedule: ``cosine``, or ``step``: a factor ``gamma`` at each of ``milestones`` (epochs).
        batchnorm: Whether features pass a non-affine batch normalisation.
        init_std: Standard deviation of the first weights; biases start at 0.
    """

    epochs: Count
    batch_size: Count
    momentum: Share
    nesterov: bool
    weight_decay: Share
    schedule: Literal["cosine", "step"]
    milestones: Annotated[tuple[int, ...], Field(strict=False)]
    gamma: float
    batchnorm: bool
    init_std: Share


def schedule(params: HeadParams, step: int, steps: int, epoch: int) -> float:
    """The share of the peak learning rate: a cosine by step, or a factor ``gamma`` at each of ``milestones``."""
    if params.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return float(params.gamma ** sum(epoch >= milestone for milestone in params.milestones))


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

    def __init__(self, rates: list[float], dim: int, classes: int, params: HeadParams, seed: int) -> None:
        import torch

        device = choose_device()
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(dim, classes, generator=generator) * params.init_std
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
        if not self.params.batchnorm:
            return x
        if train and len(x) > 1:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            self.mean += 0.1 * (mean - self.mean)
            self.std = (self.std**2 + 0.1 * (x.var(0) - self.std**2)).sqrt()
            return (x - mean) / (var + 1e-5).sqrt()
        return (x - self.mean) / (self.std**2 + 1e-5).sqrt()

    def step(self, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        """One step of SGD with momentum and weight decay on the mean cross-entropy of every head."""
        import torch

        x = self.normalise(x, train=True)
        logits = torch.einsum("bd,hdc->hbc", x, self.weight) + self.bias[:, None]
        residual = logits.softmax(-1)
        residual[:, torch.arange(len(y), device=y.device), y] -= 1
        residual /= len(y)
        gradients = [torch.einsum("bd,hbc->hdc", x, residual), residual.sum(1)]
        decay, momentum = self.params.weight_decay, self.params.momentum
        for value, gradient, buffer in zip((self.weight, self.bias), gradients, self.momenta, strict=True):
            gradient = gradient + decay * value
            buffer.mul_(momentum).add_(gradient)
            update = gradient + momentum * buffer if self.params.nesterov else buffer
            value -= share * self.rates.view(-1, *[1] * (value.ndim - 1)) * update

    def scores(self, features: Features, head: int) -> Array:
        """Logits (N, C) of one head."""
        import torch

        found = []
        for _, block in blocks(features):
            x = self.normalise(torch.from_numpy(np.array(block)).to(self.device), train=False)
            found.append((x @ self.weight[head] + self.bias[head]).cpu().numpy())
        return np.concatenate(found)


def train_heads(part: Labelled, rates: list[float], params: HeadParams, seed: int) -> Heads:
    """Train all heads over ``params.epochs`` epochs; the last state is what counts, never the best one."""
    import torch

    heads = Heads(rates, part.features.shape[1], part.num_classes, params, seed)
    generator = np.random.default_rng(seed)
    batch, epochs = params.batch_size, params.epochs
    steps, step = epochs * -(-len(part) // batch), 0
    for epoch in range(epochs):
        for features, labels in _epoch(part, batch, generator):
            x = torch.from_numpy(np.array(features, dtype=np.float32)).to(heads.device)
            y = torch.from_numpy(np.array(labels)).to(heads.device)
            heads.step(x, y, schedule(params, step, steps, epoch))
            step += 1
    return heads
