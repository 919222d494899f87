"""The objective: pure functions of embeddings. Equation numbers are those of ``mast/README.md``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Weights:
    """Coefficients of the terms.

    Attributes:
        invariance, variance, covariance: VICReg's lambda, mu and nu (arXiv 2105.04906, equation 6).
        open: Pull that keeps masks open, equation (6).
        uncertainty: Weight of the variance head's own loss, equation (5).
        variance_floor: Least value of a pair's variance, equation (4).
        clip: Range of the normalised uncertainty weights, equation (4).
        divisor_floor: Least share of D in the divisor of pairs in which several augmentations differ, equation (3).
        hinge_by_mask: Share of the variance hinge that is spread like the masks, equation (7).
        mass: The pull (6) acts on a mask while its mean is below this.
        overlap: Pressure against masks that close on the same dimensions, equation (8).
        sensitivity: Hinge on how much the closed dimensions change, equation (9).
        target: Root mean square of the change that (9) asks for.
        decorrelation: Pressure against closed dimensions that change together, equation (10).
        prediction: Reading the change of parameters off the closed dimensions, equation (11).
        contrast: Telling views apart within the closed dimensions, equation (12).
        temperature: Of (12), by which cosines are divided.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    open: float = 1.0
    uncertainty: float = 1.0
    variance_floor: float = 0.05
    clip: tuple[float, float] = (0.5, 2.0)
    divisor_floor: float = 0.25
    hinge_by_mask: float = 0.5
    mass: float = 1.0
    overlap: float = 0.0
    sensitivity: float = 0.0
    target: float = 1.0
    decorrelation: float = 0.0
    prediction: float = 0.0
    contrast: float = 0.0
    temperature: float = 0.2


class Loss(NamedTuple):
    """The total and its parts, each a scalar tensor; ``total`` is the weighted sum of the others."""

    total: Tensor
    parts: dict[str, Tensor]

    def plus(self, other: Loss) -> Loss:
        """Both, added."""
        return Loss(self.total + other.total, self.parts | other.parts)

    def numbers(self) -> dict[str, float]:
        """The parts and, as ``loss``, the total, read from the device at once."""
        values = {**self.parts, "loss": self.total}
        stacked = torch.stack([value.detach().float() for value in values.values()])
        return dict(zip(values, stacked.tolist(), strict=True))


def variance_per_dimension(z: Tensor, target: float = 1.0, epsilon: float = 1e-4) -> Tensor:
    """Hinge on the standard deviation of every dimension, equation (1): ``(B, D) -> (D,)``."""
    return torch.relu(target - torch.sqrt(z.var(dim=0) + epsilon))


def covariance(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over D, equation (2): ``(B, D) -> ()``."""
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / (len(z) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]


def vicreg(z1: Tensor, z2: Tensor, weights: Weights) -> Loss:
    """VICReg (Bardes, Ponce and LeCun 2022, arXiv 2105.04906), with its code's factor 1/2 on the hinge.

    Args:
        z1, z2: Embeddings of the two views, ``(B, D)``, of the whole global batch.
        weights: Its ``invariance``, ``variance`` and ``covariance`` are used.
    """
    invariance = (z1 - z2).square().mean()
    hinge = (variance_per_dimension(z1).mean() + variance_per_dimension(z2).mean()) / 2
    return _total(weights, invariance=invariance, variance=hinge, covariance=covariance(z1) + covariance(z2))


def masked(
    z1: Tensor,
    z2: Tensor,
    differs: Tensor,
    single: Tensor,
    log_masks: Tensor,
    weights: Weights,
    variances: tuple[Tensor, Tensor] | None = None,
) -> Loss:
    """The MAST objective: invariance within the subspace of what differs, weighted by certainty.

    With masks of one and no variances it equals `vicreg`. `pressure` on the masks is added apart. What belongs to
    pairs is computed again for the gradient: beyond VICReg's tensors only masks, ``(K, D)``, hinge weights,
    ``(D,)``, and the predicted variances, two of ``(B, D)``, are kept.

    Args:
        z1, z2: Embeddings of the two views, ``(B, D)``.
        differs: ``(B, K)`` booleans, which augmentations differ between the views.
        single: ``(B,)`` booleans, pairs that isolate one augmentation: they alone teach the masks.
        log_masks: Logarithms of the masks, ``(K, D)``.
        weights: Coefficients.
        variances: Predicted s^2 of both views, ``(B, D)`` each, or None for no uncertainty.
    """
    invariance, spread, uncertainty = checkpoint(
        pair_terms,
        *(z1, z2, differs, single, log_masks, weights, variances),
        use_reentrant=False,
        preserve_rng_state=False,
    )
    hinge = ((variance_per_dimension(z1) + variance_per_dimension(z2)) * spread).sum() / 2
    extra = {} if uncertainty is None else {"uncertainty": uncertainty}
    return _total(
        weights,
        invariance=invariance,
        variance=hinge,
        covariance=covariance(z1) + covariance(z2),
        **extra,
    )


def pair_terms(
    z1: Tensor,
    z2: Tensor,
    differs: Tensor,
    single: Tensor,
    log_masks: Tensor,
    weights: Weights,
    variances: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Invariance (3), weights ``(D,)`` of the hinge (7), and the variance head's loss (5); see `masked`."""
    squared = (z1 - z2).square()
    keep = subspace_masks(differs, single, log_masks)  # (B, D)
    certainty, uncertainty = None, None
    if variances is not None:
        pair_variance = (variances[0] + variances[1]).clamp(min=weights.variance_floor)
        certainty = certainty_weights(pair_variance.detach(), weights.clip)
        uncertainty = likelihood(squared.detach(), pair_variance)
    invariance = masked_invariance(squared, keep, single, weights.divisor_floor, certainty)
    return invariance, hinge_weights(keep.detach(), weights.hinge_by_mask), uncertainty


def pressure(log_masks: Tensor, weights: Weights) -> Loss:
    """What holds the masks ``(K, D)`` open, equation (6), and apart, equation (8).

    Overlap is the mean over pairs of masks and over dimensions of ``(1 - m_a) (1 - m_b)``.
    """
    masks = log_masks.exp()
    parts = {"open": torch.relu(weights.mass - masks.mean(dim=1)).mean()}
    if weights.overlap and len(masks) > 1:
        closed = 1 - masks
        both = closed.sum(0).square() - closed.square().sum(0)
        parts["overlap"] = both.mean() / (len(masks) * (len(masks) - 1))
    return _total(weights, **parts)


def closedness(log_masks: Tensor) -> Tensor:
    """How closed dimensions are for augmentations, ``max(0, 1 - 2 m)``, so 0 from a mask of half on: ``(K, D)``."""
    return torch.relu(1 - 2 * log_masks.exp())


def sensitivity(
    difference: Tensor, isolated: Tensor, closed: Tensor, weights: Weights, epsilon: float = 1e-4
) -> Loss:
    """What an augmentation changes is to show in the dimensions that are closed for it, equations (9) and (10).

    VICReg's two terms against collapse, applied to differences: where (1) and (2) want embeddings that vary and
    dimensions that do not vary together, these want it of the change under one augmentation. An augmentation
    without pairs, or without a closed dimension, does not count.

    Args:
        difference: Differences ``(P, D)`` of embeddings of two views of an image, of the whole global batch.
        isolated: ``(P, K)`` booleans, the one augmentation that differs between the two; a row may have none.
        closed: Weights of the dimensions ``(K, D)``, each at least 0, such as `closedness`.
        weights: Its ``sensitivity``, ``target`` and ``decorrelation`` are used; a term of weight 0 is not computed.
        epsilon: Added to the mean square, as in (1).
    """
    with torch.autocast(difference.device.type, enabled=False):
        count = isolated.sum(0)  # (K,)
        total = closed.sum(1)
        seen = (count > 0) & (total > 0)
        share = isolated.T.to(difference) / count.clamp(min=1)[:, None]  # (K, P), rows sum to 1
        square = (
            share @ difference.square()
        )  # (K, D), the mean square of every dimension under every augmentation

        def mean(sums: Tensor) -> Tensor:
            return (torch.where(seen, sums / total.clamp(min=1e-6), 0.0)).sum() / seen.sum().clamp(min=1)

        parts = {}
        if weights.sensitivity:
            parts["sensitivity"] = mean(
                (closed * torch.relu(weights.target - torch.sqrt(square + epsilon))).sum(1)
            )
        if weights.decorrelation:
            # The squared entries of a D x D matrix of moments add up to those of the pairs' P x P products.
            products = torch.einsum("kd,pd,qd->kpq", closed, difference, difference)
            both = torch.einsum("kpq,kp,kq->k", products.square(), share, share)
            parts["decorrelation"] = mean(both - (closed * square).square().sum(1))
        return _total(weights, **parts)


def prediction(difference: Tensor, change: Tensor, readout: Tensor, weights: Weights) -> Loss:
    """Mean squared error of reading the change of parameters off differences linearly, equation (11).

    After AugSelf (Lee et al. 2021, arXiv 2111.09613), which predicts it from both views' features by a network.

    Args:
        difference: Differences ``(B, D)`` of the embeddings of two views.
        change: Differences ``(B, Q)`` of what describes the two views, in units of their standard deviations.
        readout: Linear map ``(Q, D)``, zero where a row may not look.
        weights: Its ``prediction`` is used.
    """
    with torch.autocast(difference.device.type, enabled=False):
        return _total(weights, prediction=(difference @ readout.T - change).square().mean())


def contrast(
    z1: Tensor,
    z2: Tensor,
    third: Tensor,
    rows: Tensor,
    isolated: Tensor,
    closed: Tensor,
    weights: Weights,
    epsilon: float = 1e-8,
) -> Loss:
    """In what is closed for k, views with the same parameters of k are near, others are far, equation (12).

    InfoNCE. The positive shares k's parameters and differs in everything else; the negatives are the second views of
    all other images, and a view of the same image that differs in k alone. After LooC (Xiao et al. 2021, arXiv
    2008.05659), whose negatives of the same image differ in other augmentations too.

    Args:
        z1, z2: Embeddings of the two views, ``(B, D)``, of the whole global batch.
        third: Embeddings ``(P, D)`` of third views.
        rows: ``(P,)`` the images they belong to, as rows of ``z1``.
        isolated: ``(P, K)`` booleans: the third view differs from the first in k alone, and the second does not
            differ in k. A row may have none.
        closed: Weights of the dimensions ``(K, D)``, as for `sensitivity`.
        weights: Its ``contrast`` and ``temperature`` are used.
        epsilon: Added to squared lengths.
    """
    with torch.autocast(z1.device.type, enabled=False):
        count = isolated.sum(0)  # (K,)
        seen = (count > 0) & (closed.sum(1) > 0)
        share = isolated.T.to(z1) / count.clamp(min=1)[:, None]  # (K, P), rows sum to 1
        first = z1[rows]

        def lengths(z: Tensor) -> Tensor:
            return torch.sqrt(closed @ z.square().T + epsilon)  # (K, N)

        images = torch.einsum("kd,pd,bd->kpb", closed, first, z2) / lengths(z2)[:, None]
        away = torch.einsum("kd,pd,pd->kp", closed, first, third) / lengths(third)
        cosines = torch.cat([images, away[:, :, None]], dim=2) / lengths(first)[:, :, None]
        logits = cosines / weights.temperature  # (K, P, B + 1)
        positive = logits.gather(2, rows.expand(len(closed), -1)[:, :, None])[:, :, 0]
        losses = (share * (logits.logsumexp(2) - positive)).sum(1)
        return _total(weights, contrast=torch.where(seen, losses, 0.0).sum() / seen.sum().clamp(min=1))


def relative(difference: Tensor, h1: Tensor, h2: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Differences ``(P, D)`` of features in units of their standard deviations over both views, ``(B, D)`` each.

    Nothing else in the loss fixes the scale of features, and growing is no sensitivity.
    """
    with torch.autocast(difference.device.type, enabled=False):
        return difference / torch.sqrt(torch.cat([h1, h2]).var(dim=0) + epsilon)


def subspace_masks(differs: Tensor, single: Tensor, log_masks: Tensor) -> Tensor:
    """Product of the masks of what differs, ``(B, D)``: a sum in log space. Only single pairs pass gradient."""
    with torch.autocast(log_masks.device.type, enabled=False):
        chosen = differs.to(log_masks)
        return torch.exp(torch.where(single[:, None], chosen @ log_masks, chosen @ log_masks.detach()))


def masked_invariance(
    squared: Tensor, keep: Tensor, single: Tensor, divisor_floor: float, certainty: Tensor | None = None
) -> Tensor:
    """Mean over pairs of the masked mean of squared differences, equation (3).

    Args:
        squared: Squared differences, ``(B, D)``.
        keep: Subspace mask of every pair, ``(B, D)`` in [0, 1].
        single: ``(B,)``; the divisor of all other pairs is at least ``divisor_floor * D``.
        divisor_floor: Share of D.
        certainty: Weights ``(B, D)`` from equation (4).
    """
    weighted = squared * keep if certainty is None else squared * keep * certainty
    floor = torch.where(single, 1e-6, divisor_floor) * squared.shape[1]
    return (weighted.sum(1) / torch.maximum(keep.sum(1), floor.to(keep))).mean()


def certainty_weights(pair_variance: Tensor, clip: tuple[float, float]) -> Tensor:
    """Inverse variances, each dimension brought to mean 1 over the batch and clipped, equation (4)."""
    inverse = 1 / pair_variance
    return (inverse / inverse.mean(dim=0)).clamp(*clip)


def likelihood(squared: Tensor, pair_variance: Tensor) -> Tensor:
    """Negative mutual likelihood score up to constants, equation (5): ``d^2 / v + log v``, averaged.

    Probabilistic Face Embeddings (Shi and Jain 2019, arXiv 1904.09658), equation 3.
    """
    return (squared / pair_variance + torch.log(pair_variance)).mean()


def hinge_weights(keep: Tensor, share: float) -> Tensor:
    """Weights of the variance hinge over dimensions, ``(D,)`` summing to 1, equation (7)."""
    even = torch.full_like(keep[0], 1 / keep.shape[1])
    by_mask = (keep / keep.sum(1, keepdim=True).clamp(min=1e-6)).mean(0)
    return (1 - share) * even + share * by_mask


def _total(weights: Weights, **parts: Tensor) -> Loss:
    total = sum((getattr(weights, name) * value for name, value in parts.items()), start=torch.zeros(()))
    return Loss(total, parts)
