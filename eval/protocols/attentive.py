"""Attentive probe: learned queries attend to a frozen backbone's patch tokens, and a linear layer classifies.

Tokens are read from the store a batch at a time. Probes of all learning rates and weight decays are trained on the
same batches; val chooses one, which is trained again on train and val.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..errors import UserError
from ..features import Preprocess
from ..features.maps import MAPS_GB, Layers, Maps, of_crops, planned
from . import base, scoring
from .base import Array, Context, Count, Kind, Listed, Measured, Positive, metric, select
from .heads import Share

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ..datasets import Split

    Tensor = torch.Tensor

READ = 64  # images whose tokens are scored at a time


class Params(base.Params):
    """Parameters of the attentive probe.

    Attributes:
        layers: What is read off the backbone, see `features.maps.dense`.
        pooler: ``cross-attention``: V-JEPA's, one query. ``queries``: Efficient Probing's, several queries without
            key projection, each pooling its own part of the projected channels.
        blocks: Self-attention blocks before ``cross-attention``.
        head_dim: Channels of an attention head of ``cross-attention``.
        queries: Of ``queries``.
        lr, weight_decay: A grid of both, of which val chooses one pair.
        epochs, batch_size: Of training.
        start_lr: Learning rate of the first iteration of the warm-up.
        warmup: Epochs over which the rate rises linearly.
    """

    RUNTIME: ClassVar[dict[str, type]] = {"maps_gb": int}

    layers: Layers
    pooler: Literal["cross-attention", "queries"]
    blocks: Annotated[int, Field(ge=0)]
    head_dim: Count
    queries: Count
    lr: Annotated[tuple[Positive, ...], Listed]
    weight_decay: Annotated[tuple[Share, ...], Listed]
    epochs: Count
    batch_size: Count
    start_lr: Share
    warmup: Annotated[int, Field(ge=0)]

    @property
    def reads_choice(self) -> bool:
        """It reads patch tokens."""
        return False

    def smoke(self, limit: int) -> dict[str, Any]:
        """One epoch of one pair."""
        return {"epochs": 1, "lr": [0.001], "weight_decay": [0.001], "warmup": 0}


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention without projections: (B, Q, D), (B, T, D) and (B, T, D) to (B, Q, D)."""
    from torch.nn import functional as F

    def split(part: Tensor) -> Tensor:
        return part.reshape(*part.shape[:2], heads, -1).transpose(1, 2)

    found = (
        F.scaled_dot_product_attention(split(queries), split(keys), split(values)).transpose(1, 2).flatten(2)
    )
    return found


def build(dim: int, classes: int, params: Params, seed: int) -> torch.nn.Module:
    """A probe: tokens (B, T, D) to logits (B, C). Parameters have the names of their sources' modules.

    Raises:
        UserError: If the queries do not divide the channels.
    """
    import torch
    from torch import nn

    def perceptron() -> nn.ModuleDict:
        return nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def expanded(layers: Any, x: Tensor) -> Tensor:
        found: Tensor = layers["fc2"](nn.functional.gelu(layers["fc1"](x)))
        return found

    class SelfAttention(nn.Module):
        """A transformer block (V-JEPA's `Block`)."""

        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
            self.mlp = perceptron()

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=2)
            x = x + self.attn["proj"](attention(q, k, v, heads))
            return x + expanded(self.mlp, self.norm2(x))

    class CrossAttention(nn.Module):
        """V-JEPA's `AttentiveClassifier`: one query, keys and values projected, no projection after, an MLP."""

        def __init__(self) -> None:
            super().__init__()
            self.query_tokens = nn.Parameter(torch.zeros(1, 1, dim))
            self.blocks = nn.ModuleList(SelfAttention() for _ in range(params.blocks))
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.xattn = nn.ModuleDict({"q": nn.Linear(dim, dim), "kv": nn.Linear(dim, 2 * dim)})
            self.mlp = perceptron()
            self.linear = nn.Linear(dim, classes)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            query = self.query_tokens.expand(len(x), -1, -1)
            keys, values = self.xattn["kv"](self.norm1(x)).chunk(2, dim=2)
            query = query + attention(self.xattn["q"](query), keys, values, heads)
            query = query + expanded(self.mlp, self.norm2(query))
            found: Tensor = self.linear(query[:, 0])
            return found

    class Queries(nn.Module):
        """Efficient Probing's `EfficientProbing` and a linear layer on its normalised result."""

        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.randn(1, params.queries, dim) * 0.02)
            self.v = nn.Linear(dim, dim, bias=False)
            self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
            self.linear = nn.Linear(dim, classes)

        def pooled(self, x: Tensor) -> Tensor:
            maps = (self.cls_token * dim**-0.5 @ x.transpose(1, 2)).softmax(2)  # (B, Q, T)
            values = self.v(x).unflatten(2, (params.queries, -1))  # (B, T, Q, D / Q)
            return torch.einsum("bqt,btqc->bqc", maps, values).flatten(1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.linear(self.norm(self.pooled(x)))
            return found

    if params.pooler == "queries" and dim % params.queries:
        raise UserError(
            f"{params.queries} queries for {dim} channels",
            remedy="set queries to a divisor of the channels",
            code=2,
        )
    heads = max(h for h in range(1, max(1, dim // params.head_dim) + 1) if dim % h == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Queries() if params.pooler == "queries" else CrossAttention()
        if isinstance(probe, CrossAttention):
            _initialise(probe)
    return probe


def _initialise(probe: Any) -> None:
    """V-JEPA's first weights: truncated normal of 0.02, zero biases, last layers of residual branches scaled down.

    As there, the linear classifier keeps torch's own.
    """
    import torch
    from torch import nn

    nn.init.trunc_normal_(probe.query_tokens, std=0.02)
    for name, module in probe.named_modules():
        if isinstance(module, nn.Linear) and name != "linear":
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for place, block in enumerate(probe.blocks, start=1):
            block.attn["proj"].weight.div_(math.sqrt(2 * place))
            block.mlp["fc2"].weight.div_(math.sqrt(2 * place))
        probe.mlp["fc2"].weight.div_(math.sqrt(2 * max(1, len(probe.blocks))))


def rate(params: Params, peak: float, step: int, each: int) -> float:
    """Learning rate of an iteration, from 1: a linear warm-up, then a cosine to 0 (V-JEPA's WarmupCosineLRSchedule).

    Args:
        params: Its warm-up and epochs.
        peak: The rate after the warm-up.
        step: The iteration.
        each: Iterations of an epoch.
    """
    warmup, total = params.warmup * each, params.epochs * each
    if step < warmup:
        return params.start_lr + step / warmup * (peak - params.start_lr)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class Tokens:
    """The patch tokens of some splits, one after the other.

    Args:
        parts: Maps of a pool and the rows to take.
    """

    def __init__(self, parts: Sequence[tuple[Maps, Array]]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(rows) for _, rows in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def dim(self) -> int:
        """D."""
        return self.parts[0][0].shape[2]

    def read(self, index: Array) -> Tensor:
        """(B, T, D) float32."""
        import torch

        h, w, dim = self.parts[0][0].shape
        found = torch.empty(len(index), h * w, dim)
        for number, (maps, rows) in enumerate(self.parts):
            here = (index >= self.starts[number]) & (index < self.starts[number + 1])
            if here.any():
                part = maps.read(rows[index[here] - self.starts[number]])
                found[torch.from_numpy(here)] = part.flatten(2).transpose(1, 2)
        return found


def train(
    tokens: Tokens,
    labels: Array,
    classes: int,
    pairs: Sequence[tuple[float, float]],
    params: Params,
    seed: int,
    device: torch.device,
    progress: Any = lambda done, total: None,
) -> list[torch.nn.Module]:
    """Train a probe for each pair of learning rate and weight decay, all on the same batches.

    Raises:
        UserError: If a loss is not finite.
    """
    import torch
    from torch.nn import functional as F

    probes = [build(tokens.dim, classes, params, seed).to(device).train() for _ in pairs]
    optimizers = [
        torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=decay)
        for probe, (lr, decay) in zip(probes, pairs, strict=True)
    ]
    generator = np.random.default_rng(seed)
    each, step = -(-len(tokens) // params.batch_size), 0
    for _ in range(params.epochs):
        order = generator.permutation(len(tokens))
        for start in range(0, len(order), params.batch_size):
            rows = order[start : start + params.batch_size]
            step += 1
            if len(rows) == 1 and params.pooler == "queries":
                continue  # batch normalisation of one image is not defined
            x = tokens.read(rows).to(device)
            y = torch.from_numpy(labels[rows]).to(device)
            for probe, optimizer, (peak, _) in zip(probes, optimizers, pairs, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate(params, peak, step, each)
                loss = F.cross_entropy(probe(x), y)
                if not bool(torch.isfinite(loss)):
                    raise UserError(
                        f"the loss of iteration {step} at lr {peak:g} is not finite", remedy="lower lr"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            progress(step, params.epochs * each)
    return [probe.eval() for probe in probes]


def scores(probe: torch.nn.Module, tokens: Tokens, device: torch.device) -> Array:
    """(N, C) logits."""
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(tokens), READ):
            rows = np.arange(start, min(start + READ, len(tokens)))
            found.append(probe(tokens.read(rows).to(device)).float().cpu().numpy())
    return np.concatenate(found)


def measure(context: Context) -> Measured:
    """Choose a pair on val, train it again on train and val, and score test."""
    from ..numbers.metrics import softmax

    params: Params = context.params
    data, device = context.data, context.device
    if data.splits["train"].labels.ndim != 1:
        raise UserError(
            "the attentive probe needs one class an image", remedy="choose a classification task", code=2
        )
    preprocess = Preprocess.of(context.loaded.passport, **params.extraction.pixels())
    context.loaded.backbone.to(device)
    store, most = _store(context), float(context.protocol.runtime.get("maps_gb", MAPS_GB))

    def part(name: str) -> tuple[Maps, Array]:
        split: Split = data.splits[name]
        maps = of_crops(
            context.loaded.backbone,
            context.loaded.passport,
            split.pool,
            preprocess,
            params.layers,
            store=store,
            most_gb=most,
            progress=context.progress,
        )
        return maps, split.rows

    labels = {name: data.splits[name].labels for name in ("train", "val")}
    own, held_out = part("train"), part("val")
    pairs = [(lr, decay) for lr in params.lr for decay in params.weight_decay]

    def trained(tokens: Tokens, truth: Array, chosen: Sequence[tuple[float, float]], what: str) -> list[Any]:
        told = lambda done, total: context.progress(what, done, total)  # noqa: E731
        return train(tokens, truth, data.num_classes, chosen, params, context.seed, device, told)

    selected: dict[str, Any] = {"split": None, "epoch": "last"}
    warnings: tuple[str, ...] = ()
    index = 0
    if len(pairs) > 1:
        probes = trained(Tokens([own]), labels["train"], pairs, "probes of all pairs")
        measured = metric(context.metric)
        values = np.array(
            [measured(scores(probe, Tokens([held_out]), device), labels["val"]) for probe in probes]
        )
        index, selected, warnings = select(
            values, np.arange(len(pairs), dtype=float), name="pair", edges=False
        )
        selected |= {
            "grid": [[*pair, float(v)] for pair, v in zip(pairs, values, strict=True)],
            "epoch": "last",
        }
    selected |= {"lr": pairs[index][0], "weight_decay": pairs[index][1], "refit": "train+val"}
    everything = np.concatenate([labels["train"], labels["val"]])
    (final,) = trained(Tokens([own, held_out]), everything, [pairs[index]], "the chosen probe")
    found = scores(final, Tokens([part("test")]), device)
    truth = data.splits["test"].labels
    return Measured(
        scoring.estimates(context.metric, found, truth, softmax(found)),
        data.counts,
        selected,
        warnings=warnings,
        arrays=scoring.outcomes(found, truth),
    )


def _store(context: Context) -> Path:
    if context.store is None:
        raise UserError("the attentive probe needs a feature store", remedy="run it with `mast eval`", code=2)
    return context.store


def disk(context: Context) -> dict[str, int]:
    """Bytes of maps that a cell will write."""
    found: dict[str, int] = {}
    context.loaded.backbone.to(context.device)
    for split in context.data.splits.values():
        lacking, _ = planned(
            context.loaded.backbone,
            context.loaded.passport,
            split.pool,
            Preprocess.of(context.loaded.passport, **context.params.extraction.pixels()),
            context.params.layers,
            store=_store(context),
        )
        found |= lacking
    return found


KIND = Kind(Params, ("classification",), measure, disk=disk, family="attentive", precision=True)
