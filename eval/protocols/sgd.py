"""A linear layer trained by SGD on stored features, a grid of learning rates at once, the last epoch reported."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from ..errors import UserError
from ..numbers.metrics import softmax
from . import frozen
from .base import Array, Fitted, Labelled, Listed, metric, require, select, select_pair
from .heads import HeadParams, Heads, Share, train_heads


class Params(frozen.Params, HeadParams):
    """Parameters of SGD on stored features.

    Attributes:
        lr: Learning rates for a batch of 256, scaled linearly; of several, val chooses one, as of ``features``.
        refit: Whether the chosen one is trained again on train and val.
    """

    lr: Annotated[tuple[Share, ...], Listed]
    refit: bool


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Choose learning rate and feature on val where several are given, then train again on train and val."""
    import torch

    require(train, "train")
    require(val, "val")
    if train.multilabel:
        raise UserError("sgd trains one label an image", remedy="use linear for several labels", code=2)
    rates = sorted(rate * params.batch_size / 256 for rate in params.lr)
    selected: dict[str, Any] = {"lr": rates[0], "split": None, "epoch": "last"}
    if params.features:
        selected["features"] = params.features[0]
    warnings: tuple[str, ...] = ()
    group, index = 0, 0
    heads: list[Heads] = []
    if len(rates) * len(params.parts) > 1 or not params.refit:
        heads = train_heads(train, rates, params, seed, params.parts)
        measure = metric(metric_name)
        values = np.array(
            [[measure(one.scores(val.features, i), val.labels) for i in range(len(rates))] for one in heads]
        )
        if params.features:
            (group, index), selected, warnings = select_pair(values, params.features, rates)
        else:
            index, selected, warnings = select(values[0], np.array(rates), name="lr")
        selected["epoch"] = "last"
    if params.refit:
        heads = train_heads(train.joined(val), [rates[index]], params, seed, [params.parts[group]])
        group, index = 0, 0
        selected["refit"] = "train+val"
    final = heads[group]
    if not bool(torch.isfinite(final.weight[index]).all()):
        raise UserError(f"SGD diverged at learning rate {selected['lr']:g}", remedy="lower lr")

    def scores(features: Array) -> Array:
        return final.scores(features, index)

    return Fitted(scores, selected, None, warnings, lambda features: softmax(scores(features)))


KIND = frozen.kind(Params, fit, tasks=("classification",), family="linear")
