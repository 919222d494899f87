"""Few-shot episodes and heads: all heads see the same pinned episodes, thousands are solved together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..device import device as choose_device
from ..errors import UserError
from .base import Array

if TYPE_CHECKING:
    from .fewshot import Params

CHUNK = 64  # episodes solved together


@dataclass(frozen=True)
class Episodes:
    """Pinned episodes over a pool.

    Attributes:
        support: (E, way, shots) int64 rows of the pool.
        query: (E, way, queries) int64 rows of the pool.
    """

    support: npt.NDArray[np.int64]
    query: npt.NDArray[np.int64]

    @property
    def sha256(self) -> str:
        """SHA-256 over the rows: equal hashes are the same episodes."""
        digest = hashlib.sha256(repr((self.support.shape, self.query.shape)).encode())
        digest.update(self.support.astype("<i8").tobytes())
        digest.update(self.query.astype("<i8").tobytes())
        return digest.hexdigest()


def draw(
    labels: Array,
    *,
    way: int,
    shots: int,
    queries: int,
    num_episodes: int,
    seed: int,
    resample: bool = False,
) -> Episodes:
    """Draw episodes from the labels alone, so that every checkpoint and head meets the same ones.

    Classes, then images within each class, are drawn without replacement; classes with too few images are left out.
    With ``resample`` only classes with at most ``shots`` images are left out, and one with fewer than
    ``shots + queries`` has its queries drawn with replacement from what its support leaves (AugSelf).

    Raises:
        UserError: If fewer than ``way`` classes have enough images.
    """
    total = shots + queries
    need = shots + 1 if resample else total
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [group for group in groups if len(group) >= need]
    if len(groups) < way:
        raise UserError(
            f"{way}-way {shots}-shot episodes need {way} classes of {need} images, {len(groups)} have them",
            remedy="use fewer ways, shots or queries, or pool more splits",
            code=2,
        )
    generator = np.random.default_rng(seed)
    rows = np.empty((num_episodes, way, total), dtype=np.int64)
    for episode in range(num_episodes):
        for position, index in enumerate(generator.choice(len(groups), way, replace=False)):
            group = groups[int(index)]
            if len(group) >= total:
                rows[episode, position] = generator.choice(group, total, replace=False)
            else:
                mixed = generator.permutation(group)
                rows[episode, position, :shots] = mixed[:shots]
                rows[episode, position, shots:] = generator.choice(mixed[shots:], queries)
    return Episodes(rows[:, :, :shots], rows[:, :, shots:])


# A head takes support (E, way, shots, D) and query (E, Q, D) and returns scores (E, Q, way).
Head = Callable[[Tensor, Tensor, "Params"], Tensor]


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = torch.nn.functional.normalize(x, dim=-1)
    return unit


def prototype(support: Tensor, query: Tensor, params: Params) -> Tensor:
    """Negative squared distance to the class means (Snell et al. 2017, equation 2)."""
    return -(torch.cdist(query, support.mean(2), compute_mode="donot_use_mm_for_euclid_dist") ** 2)


def cosine(support: Tensor, query: Tensor, params: Params) -> Tensor:
    """Cosine similarity to the mean of the unit features of a class."""
    scores: Tensor = _unit(query) @ _unit(_unit(support).mean(2)).transpose(1, 2)
    return scores


def _kernel(support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices of support (E, S, S) and query (E, Q, S) with support, and one-hot labels (S, way)."""
    way, shots = support.shape[1:3]
    flat = support.flatten(1, 2)
    hot = torch.eye(way, dtype=flat.dtype, device=flat.device).repeat_interleave(shots, 0)
    return flat @ flat.transpose(1, 2), query @ flat.transpose(1, 2), hot


def ridge(support: Tensor, query: Tensor, params: Params) -> Tensor:
    """Ridge regression on centred one-hot labels with features centred on the support; penalty in ``ridge``."""
    mean = support.mean((1, 2), keepdim=True)
    gram, cross, hot = _kernel(support - mean, query - mean[:, 0])
    system = gram + params.ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    dual = torch.linalg.solve(system, (hot - hot.mean(0)).expand(len(gram), -1, -1))
    scores: Tensor = cross @ dual
    return scores


def logistic(support: Tensor, query: Tensor, params: Params) -> Tensor:
    """One-vs-rest logistic regression, the bias penalised as a constant feature: liblinear's problem.

    min over w of 1/2 |w|^2 + C sum log(1 + exp(-y w.[x, 1])), solved by Newton's method in the span of the
    support, so that an episode costs matrices of way * shots rows whatever the width of the features.
    """
    gram, cross, hot = _kernel(support, query)
    gram, cross = gram + 1, cross + 1
    cost = params.C
    e, s, _ = gram.shape
    way = hot.shape[1]
    k = gram[:, None].expand(e, way, s, s)
    target = hot.T[None, :, :].expand(e, way, s)
    a = torch.zeros(e, way, s, dtype=gram.dtype, device=gram.device)  # w = sum a_i [x_i, 1]
    eye = torch.eye(s, dtype=gram.dtype, device=gram.device)

    def value(a: Tensor) -> Tensor:
        f = (k @ a[..., None])[..., 0]
        loss = (torch.nn.functional.softplus(f) - target * f).sum(-1)
        return 0.5 * (a * f).sum(-1) + cost * loss

    current = value(a)
    for _ in range(50):
        f = (k @ a[..., None])[..., 0]
        p = torch.sigmoid(f)
        residual = a + cost * (p - target)  # the gradient is K times this
        norm = (residual * (k @ residual[..., None])[..., 0]).sum(-1)
        if bool((norm <= 1e-16 * (1 + current)).all()):
            break
        # Newton: (I + C diag(p (1 - p)) K) step = -residual
        step = -torch.linalg.solve(eye + cost * (p * (1 - p))[..., None] * k, residual[..., None])[..., 0]
        t = torch.ones_like(current)
        for _ in range(30):
            trial = value(a + t[..., None] * step)
            worse = trial > current + 1e-12 * current.abs()
            if not bool(worse.any()):
                break
            t = torch.where(worse, t / 2, t)
        t = torch.where(trial > current + 1e-12 * current.abs(), torch.zeros_like(t), t)
        a = a + t[..., None] * step
        current = value(a)
    return cross @ a.transpose(1, 2)


HEADS: dict[str, Head] = {"prototype": prototype, "cosine": cosine, "ridge": ridge, "logistic": logistic}


def answers(features: Array, chosen: Episodes, params: Params) -> npt.NDArray[np.bool_]:
    """Whether the head of ``params.head`` is right about each query of every episode, (E, way * queries).

    Args:
        features: (N, D) the pool's features.
        chosen: The episodes.
        params: The head and its own parameters, and ``transform``: "none" or "l2".
    """
    head, device = params.head, choose_device()
    dtype = torch.float64 if head in ("ridge", "logistic") else torch.float32
    total, way, queries = chosen.query.shape
    truth = torch.arange(way, device=device).repeat_interleave(queries)
    result = np.empty((total, way * queries), dtype=bool)
    for start in range(0, total, CHUNK):
        part = slice(start, start + CHUNK)

        def take(rows: npt.NDArray[np.int64]) -> Tensor:
            x = torch.as_tensor(features[rows.reshape(-1)], dtype=dtype, device=device)
            return (_unit(x) if params.transform == "l2" else x).view(*rows.shape, -1)

        scores = HEADS[head](take(chosen.support[part]), take(chosen.query[part]).flatten(1, 2), params)
        result[part] = (scores.argmax(-1) == truth).cpu().numpy()
    return result


def accuracies(features: Array, chosen: Episodes, params: Params) -> npt.NDArray[np.float64]:
    """The share of right `answers` in every episode, (E,)."""
    shares: npt.NDArray[np.float64] = answers(features, chosen, params).mean(1)
    return shares
