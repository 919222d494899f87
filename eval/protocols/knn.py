"""k nearest neighbours on unit features, votes weighted by exp(similarity / T) (Wu et al. 2018, DINO)."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..device import device as choose_device
from ..features.matrices import Features
from . import frozen
from .base import Array, Count, Fitted, Labelled, Listed, Positive, metric, require, select

CHUNK = 4096  # queries at a time
BANK = 1 << 16  # labelled examples at a time


class Params(frozen.Params):
    """Parameters of k-NN.

    Attributes:
        k: Numbers of neighbours; of several, val chooses one.
        temperature: T of the weights exp(cosine / T).
        refit: Whether the bank for test holds val too.
    """

    k: Annotated[tuple[Count, ...], Listed]
    temperature: Positive
    refit: bool


def in_logarithms(temperature: float) -> bool:
    """Whether votes at a temperature are beyond a float (exp(709.8)), so that their logarithms are counted."""
    return 1 / temperature > 700


def votes(bank: Labelled, queries: Features, ks: list[int], temperature: float) -> Array:
    """Votes for every class from the k nearest of the bank, for several k at once.

    Args:
        bank: The labelled features, (N, D).
        queries: (M, D).
        ks: Numbers of neighbours, each at most N.
        temperature: T of the weights exp(cosine / T).

    Returns:
        (len(ks), M, C) float64; logarithms of the votes where exp(1 / T) is beyond a float. Classes with equal votes
        keep their order, so argmax takes the lower index.
    """
    import torch

    device = choose_device()

    def unit(array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array, dtype=np.float32)).to(device)
        return torch.nn.functional.normalize(tensor, dim=1)

    k = max(ks)
    result = np.zeros((len(ks), len(queries), bank.num_classes))
    labels = (
        torch.as_tensor(bank.targets()).to(device)
        if bank.multilabel
        else torch.as_tensor(bank.labels).to(device)
    )
    for start in range(0, len(queries), CHUNK):
        query = unit(queries[start : start + CHUNK])
        best: torch.Tensor | None = None
        index: torch.Tensor | None = None
        # The bank is walked in blocks, so that one of ImageNet's size need not lie in memory.
        for low in range(0, len(bank), BANK):
            block = query @ unit(bank.features[low : low + BANK]).T
            value, place = block.topk(min(k, block.shape[1]), dim=1)
            place += low
            if best is not None and index is not None:
                value, place = torch.cat([best, value], 1), torch.cat([index, place], 1)
                value, order = value.topk(min(k, value.shape[1]), dim=1)
                place = place.gather(1, order)
            best, index = value, place
        assert best is not None
        assert index is not None
        weight = best.double() / temperature
        logs = in_logarithms(temperature)
        if not logs:
            weight = weight.exp()
        counted = torch.zeros(len(query), bank.num_classes, dtype=torch.float64, device=device)
        if logs:
            counted -= torch.inf
        done = 0
        for position in sorted(range(len(ks)), key=lambda i: ks[i]):
            span = slice(done, ks[position])
            if logs:
                for neighbour in range(*span.indices(k)):
                    has = labels[index[:, neighbour]]
                    if not bank.multilabel:
                        has = torch.nn.functional.one_hot(has, bank.num_classes)
                    counted = torch.where(
                        has > 0, torch.logaddexp(counted, weight[:, neighbour, None]), counted
                    )
            elif bank.multilabel:
                counted = counted + (weight[:, span, None] * labels[index[:, span]]).sum(1)
            else:
                counted = counted.scatter_add(1, labels[index[:, span]], weight[:, span])
            done = ks[position]
            table = counted.cpu().numpy()
            # No neighbour: below the logarithm of any vote, which is at least -1 / T.
            result[position, start : start + len(query)] = np.where(
                np.isneginf(table), -1 / temperature - 1, table
            )
    return result


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Choose k on val where several are given; the bank for test is train and val."""
    require(train, "train")
    require(val, "val")
    temperature = params.temperature
    ks = sorted({min(k, len(train)) for k in params.k})
    warnings: tuple[str, ...] = ()
    if max(params.k) > len(train):
        warnings = (f"k {max(params.k)} is clamped to the {len(train)} training examples",)
    if len(ks) > 1:
        measure = metric(metric_name)
        values = np.array(
            [measure(table, val.labels) for table in votes(train, val.features, ks, temperature)]
        )
        index, selected, more = select(values, np.array(ks, dtype=float), name="k", edges=False)
        warnings += more
        k = ks[index]
    else:
        k, selected = ks[0], {"split": None}
    selected |= {"k": k, "temperature": temperature}
    bank = train
    if params.refit:
        bank = train.joined(val)
        selected["refit"] = "train+val"

    def scores(features: Array) -> Array:
        table: Array = votes(bank, features, [k], temperature)[0]
        return table

    def probabilities(features: Array) -> Array:
        table = scores(features)
        if in_logarithms(temperature):
            table = np.exp(table - table.max(1, keepdims=True))
        shares: Array = table / table.sum(1, keepdims=True)
        return shares

    return Fitted(scores, selected, None, warnings, None if train.multilabel else probabilities)


KIND = frozen.kind(Params, fit, tasks=("classification", "multilabel"), family="knn")
