"""Is the run alive? Figures for the log at every epoch's end, and errors for collapse."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .model import SubspaceMasks

_ROWS = 512  # images that the effective rank is computed from
LEAST_STD, LEAST_RANK, LEAST_MASS, LEAST_DIFFERENCE = 0.05, 2.0, 0.01, 0.01


def effective_rank(x: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of centred rows ``(B, D)``; 0 for equal rows.

    Roy and Vetterli 2007, EUSIPCO, "The effective rank".
    """
    x = x[:_ROWS].double()
    x = x - x.mean(dim=0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if float(values.sum()) == 0:
        return 0.0
    p = values / values.sum()
    return math.exp(float(torch.special.entr(p).sum()))


@torch.no_grad()
def figures(features: Tensor, embeddings: Tensor, masks: SubspaceMasks | None) -> dict[str, float]:
    """Spread of features and embedding, and what the masks keep.

    Args:
        features: ``(B, D)`` of the last batch.
        embeddings: ``(B, E)`` of the last batch.
        masks: The masks, if there are any.

    Returns:
        ``feature_std``, ``feature_rank``, ``embedding_std``, ``embedding_rank``: mean standard deviation over
        dimensions and effective rank. For every mask its mean, ``mask_<name>``, and the mean standard deviation
        of the embedding within it, ``std_<name>``. For several masks the means over pairs of their correlation,
        ``mask_correlation``, and overlap (``sum min / sum max``), ``masks_overlap``; and ``masks_difference``:
        over dimensions the mean of largest less smallest mask, over the mean of what is closed; 0 where all
        masks are equal.
    """
    spread = embeddings.float().std(0)
    found = {
        "feature_std": float(features.float().std(0).mean()),
        "feature_rank": effective_rank(features),
        "embedding_std": float(spread.mean()),
        "embedding_rank": effective_rank(embeddings),
    }
    if masks is None:
        return found
    values = masks.masks().double().cpu().numpy()
    found |= {f"mask_{name}": float(row.mean()) for name, row in zip(masks.names, values, strict=True)}
    if values.shape[1] == len(spread):
        dims = spread.double().cpu().numpy()
        found |= {
            f"std_{name}": float((row * dims).sum() / max(row.sum(), 1e-12))
            for name, row in zip(masks.names, values, strict=True)
        }
    if len(values) > 1:
        upper = np.triu_indices(len(values), 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = np.nan_to_num(np.corrcoef(values))[upper]
        low = np.minimum(values[:, None], values[None]).sum(2)[upper]
        high = np.maximum(values[:, None], values[None]).sum(2)[upper]
        found["mask_correlation"] = float(correlation.mean())
        found["masks_overlap"] = float((low / np.maximum(high, 1e-12)).mean())
        apart = (values.max(0) - values.min(0)).mean()
        found["masks_difference"] = float(apart / max((1 - values).mean(), 1e-12))
    return found


def refuse_collapse(found: dict[str, float], place: str, masks: SubspaceMasks | None) -> None:
    """Stop a run from which nothing will come.

    Args:
        found: What `figures` returned.
        place: Where the run stands, for the message.
        masks: Masks that learn, or None.

    Raises:
        UserError: If the embedding is constant or on a line, a mask has closed, or all masks are the same.
    """
    reason, remedy = "", ""
    if found["embedding_std"] < LEAST_STD:
        reason = f"the embedding's standard deviation is {found['embedding_std']:.2g}, at least {LEAST_STD} expected"
        remedy = "raise weights.variance or lower optimizer.base_lr"
    elif found["embedding_rank"] < LEAST_RANK:
        reason = f"the embedding's effective rank is {found['embedding_rank']:.2g}, at least {LEAST_RANK:g} expected"
        remedy = "raise weights.covariance or lower optimizer.base_lr"
    elif masks is not None:
        names = masks.names
        closed = [name for name in names if found[f"mask_{name}"] < LEAST_MASS]
        opened = all(found[f"mask_{name}"] > 1 - LEAST_MASS for name in names)
        if closed:
            reason = f"the mask of {', '.join(closed)} has closed: its mean is below {LEAST_MASS}"
            remedy = "raise weights.open"
        elif len(names) > 1 and not opened and found["masks_difference"] < LEAST_DIFFERENCE:
            reason = "all masks are equal"
            remedy = "raise masks.spread or weights.overlap, or start from masks.layout=own-closed"
    if reason:
        raise UserError(
            f"collapse at {place}: {reason}",
            remedy=f"{remedy}; with stop_on_collapse=false the run goes on",
        )
