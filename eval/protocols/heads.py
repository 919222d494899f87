"""Linear heads trained together by SGD: on stored features, or fed by a backbone's forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..device import device as choose_device
from ..features.matrices import Features, blocks
from .base import Array, Count, Labelled, Params

if TYPE_CHECKING:
    import torch

SHUFFLE = 1 << 16  # rows shuffled together when features do not fit into memory
SOME = 4  # batches of a smoke test, and of a trial
Share = Annotated[float, Field(ge=0)]
Part = Literal["cls", "cls+mean", "last4", "last4+mean"]
PARTS: dict[str, tuple[int, int]] = {"cls": (3, 4), "cls+mean": (3, 5), "last4": (0, 4), "last4+mean": (0, 5)}
"""The first and the last, not included, of the five tokens of the feature ``last4+mean`` that make up a feature."""


class HeadParams(Params):
    """Parameters of training linear heads by SGD.

    Attributes:
        epochs, batch_size, momentum, nesterov, weight_decay: Of SGD.
        schedule: ``cosine``, or ``step``: a factor ``gamma`` at each of ``milestones`` (epochs).
        batchnorm: Whether features pass a batch normalisation, torch's with its defaults.
        affine: Whether that normalisation learns a factor and a shift a feature, without weight decay.
        init: The first weights and biases: ``normal``, N(0, ``init_std``) and 0; or ``default``, nn.Linear's own,
            uniform within 1 / sqrt(D).
        init_std: Standard deviation of ``normal``.
        epoch_length: Batches of an epoch, whatever the number of images: one shuffled pass follows the other, and
            batches run across the border. All images once when None.
        features: What heads read of the feature ``last4+mean`` (``extraction.pooling``), each as often as there are
            rates: DINOv2's grid of blocks and average pooling. All of the checkpoint's feature when empty.
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
    affine: bool = False
    init: Literal["normal", "default"] = "normal"
    init_std: Share
    epoch_length: Count | None = None
    features: Annotated[tuple[Part, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _normalised(self) -> Self:
        if self.affine and not self.batchnorm:
            raise ValueError("affine is of the batch normalisation, which batchnorm turns on")
        if self.features and self.extraction.pooling != "last4+mean":
            raise ValueError("features are parts of last4+mean, which extraction.pooling has to name")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The features that heads read, or an empty name for all of the feature there is."""
        return self.features or ("",)

    def smoke(self, limit: int) -> dict[str, Any]:
        """A few batches of a protocol whose epochs have a length of their own."""
        return {} if self.epoch_length is None else {"epochs": 1, "epoch_length": SOME}

    def trial(self) -> tuple[dict[str, Any], float]:
        """The same, whose time tells that of the whole."""
        return self.smoke(0), 1.0 if self.epoch_length is None else self.epochs * self.epoch_length / SOME


def columns(part: str, dim: int) -> slice:
    """Where a feature lies in ``last4+mean``.

    Args:
        part: A name of `PARTS`; an empty one stands for all columns.
        dim: Columns of ``last4+mean``, five times a token's.

    >>> columns("cls+mean", 50)
    slice(30, 50, None)
    """
    first, last = PARTS.get(part, (0, 5))
    return slice(0, dim) if not part else slice(dim // 5 * first, dim // 5 * last)


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


def _endless(part: Labelled, batch: int, generator: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Whole batches without end, one `_epoch` after the other."""
    held: list[tuple[Array, Array]] = []
    while True:
        for pair in _epoch(part, batch, generator):
            held.append(pair)
            while sum(len(labels) for _, labels in held) >= batch:
                x, y = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
                yield x[:batch], y[:batch]
                held = [(x[batch:], y[batch:])]


class Heads:
    """H linear heads that see the same batches, each with its own learning rate.

    Attributes:
        weight: (H, D, C).
        bias: (H, C).
        factor: (H, D / area) of the affine normalisation; None without it.
        shift: (H, D / area), likewise.
        mean: (D / area,) running mean of the features.
        std: (D / area,) running standard deviation.
        area: Positions of a channel that are features of their own and are normalised as one, as BatchNorm2d does.
        columns: Of what they are given, those that they read: D of them.
    """

    def __init__(
        self,
        rates: Sequence[float],
        dim: int,
        classes: int,
        params: HeadParams,
        seed: int,
        *,
        area: int = 1,
        part: str = "",
    ) -> None:
        """Make them.

        Args:
            rates: H peak learning rates.
            dim: Columns of what they are given.
            classes: C.
            params: Of their training.
            seed: Of their first weights.
            area: As of the class.
            part: What they read, see `columns`.
        """
        import torch

        self.columns = columns(part, dim)
        dim = self.columns.stop - self.columns.start

        device = choose_device()
        generator = torch.Generator().manual_seed(seed)
        if params.init == "default":
            bound = dim**-0.5
            start, bias = (
                (2 * torch.rand(shape, generator=generator) - 1) * bound
                for shape in ((dim, classes), (classes,))
            )
        else:
            start = torch.randn(dim, classes, generator=generator) * params.init_std
            bias = torch.zeros(classes)
        self.weight = start.to(device).repeat(len(rates), 1, 1)
        self.bias = bias.to(device).repeat(len(rates), 1)
        self.factor = torch.ones(len(rates), dim // area, device=device) if params.affine else None
        self.shift = torch.zeros(len(rates), dim // area, device=device) if params.affine else None
        self.rates = torch.tensor(rates, device=device)
        self.momenta = [torch.zeros_like(value) for value in self._learnt()]
        self.mean = torch.zeros(dim // area, device=device)
        self.std = torch.ones(dim // area, device=device)
        self.params = params
        self.device = device
        self.area = area

    def _learnt(self) -> list[torch.Tensor]:
        affine = [] if self.factor is None or self.shift is None else [self.factor, self.shift]
        return [self.weight, self.bias, *affine]

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that training changes, by name."""
        named = {"weight": self.weight, "bias": self.bias, "mean": self.mean, "std": self.std}
        if self.factor is not None and self.shift is not None:
            named |= {"factor": self.factor, "shift": self.shift}
        return named | {f"momentum{index}": value for index, value in enumerate(self.momenta)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def normalise(self, x: torch.Tensor, *, train: bool) -> torch.Tensor:
        """The columns that heads read, after a batch normalisation where the protocol has one.

        It is that before its affine part; statistics are kept as torch keeps them.
        """
        x = x[:, self.columns]
        if not self.params.batchnorm:
            return x
        if train and len(x) > 1:
            channels = x.view(len(x), -1, self.area)
            mean, var = channels.mean((0, 2)), channels.var((0, 2), unbiased=False)
            self.mean += 0.1 * (mean - self.mean)
            self.std = (self.std**2 + 0.1 * (channels.var((0, 2)) - self.std**2)).sqrt()
            return (x - self._wide(mean)) / (self._wide(var) + 1e-5).sqrt()
        return (x - self._wide(self.mean)) / (self._wide(self.std) ** 2 + 1e-5).sqrt()

    def _wide(self, channels: torch.Tensor) -> torch.Tensor:
        """A number a channel (..., D / area) as a number a feature (..., D)."""
        return channels if self.area == 1 else channels.repeat_interleave(self.area, -1)

    def _inputs(self, x: torch.Tensor) -> torch.Tensor:
        """(H, B, D) what each head reads, or (B, D) where all read the same."""
        if self.factor is None or self.shift is None:
            return x
        return x * self._wide(self.factor)[:, None] + self._wide(self.shift)[:, None]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """(H, B, C) of normalised features (B, D)."""
        import torch

        z = self._inputs(x)
        equation = "bd,hdc->hbc" if z.ndim == 2 else "hbd,hdc->hbc"
        scores: torch.Tensor = torch.einsum(equation, z, self.weight) + self.bias[:, None]
        return scores

    def step(self, x: torch.Tensor, y: torch.Tensor, share: float) -> None:
        """One step of SGD with momentum and weight decay on the mean cross-entropy of every head."""
        import torch

        x = self.normalise(x, train=True)
        z = self._inputs(x)
        residual = self.logits(x).softmax(-1)
        residual[:, torch.arange(len(y), device=y.device), y] -= 1
        residual /= len(y)
        equation = "bd,hbc->hdc" if z.ndim == 2 else "hbd,hbc->hdc"
        gradients = [torch.einsum(equation, z, residual), residual.sum(1)]
        decays = [self.params.weight_decay, self.params.weight_decay]
        if z.ndim == 3:
            back = torch.einsum("hbc,hdc->hbd", residual, self.weight)
            sums = [(back * x).sum(1), back.sum(1)]  # (H, D) each
            gradients += [total.view(len(total), -1, self.area).sum(2) for total in sums]
            decays += [0.0, 0.0]
        momentum = self.params.momentum
        learnt = zip(self._learnt(), gradients, self.momenta, decays, strict=True)
        for value, gradient, buffer, decay in learnt:
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
            if self.factor is not None and self.shift is not None:
                x = x * self._wide(self.factor[head]) + self._wide(self.shift[head])
            found.append((x @ self.weight[head] + self.bias[head]).cpu().numpy())
        return np.concatenate(found)


def train_heads(
    part: Labelled, rates: Sequence[float], params: HeadParams, seed: int, parts: Sequence[str] = ("",)
) -> list[Heads]:
    """Train all heads over ``params.epochs`` epochs; the last state is what counts, never the best one.

    Args:
        part: Features and labels.
        rates: Peak learning rates.
        params: Of the training.
        seed: Of first weights and order.
        parts: What the heads read, see `columns`.

    Returns:
        For each part heads of all rates; all saw the same batches.
    """
    import torch

    dim = part.features.shape[1]
    groups = [Heads(rates, dim, part.num_classes, params, seed, part=name) for name in parts]
    device = groups[0].device
    generator = np.random.default_rng(seed)
    batch, epochs = params.batch_size, params.epochs
    each = params.epoch_length or -(-len(part) // batch)
    endless = _endless(part, batch, generator) if params.epoch_length else None
    step = 0
    for epoch in range(epochs):
        batches = _epoch(part, batch, generator) if endless is None else islice(endless, each)
        for features, labels in batches:
            x = torch.from_numpy(np.array(features, dtype=np.float32)).to(device)
            y = torch.from_numpy(np.array(labels)).to(device)
            for heads in groups:
                heads.step(x, y, schedule(params, step, epochs * each, epoch))
            step += 1
    return groups
