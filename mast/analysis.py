"""What the masks learned: sizes of the subspaces, correlation and overlap between augmentations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .checkpoint import load_state
from .config import parse_recipe
from .errors import UserError
from .rundir import RECIPE, STATE

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class MaskAnalysis:
    """Figures of K masks over D dimensions.

    Attributes:
        names: The K augmentations.
        masks: ``(K, D)`` in [0, 1].
        mass: ``(K,)`` mean of every mask: the share of the embedding that is invariant to it.
        correlation: ``(K, K)`` Pearson correlation; NaN where a mask is constant.
        overlap: ``(K, K)`` ``sum min(m_a, m_b) / sum max(m_a, m_b)``, 1 for equal masks.
    """

    names: tuple[str, ...]
    masks: Matrix
    mass: Matrix
    correlation: Matrix
    overlap: Matrix


def analyze_masks(names: Sequence[str], masks: Matrix) -> MaskAnalysis:
    """Compute the figures of masks ``(K, D)``."""
    centred = masks - masks.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (centred @ centred.T) / np.outer(norm, norm)
    low = np.minimum(masks[:, None], masks[None]).sum(axis=2)
    high = np.maximum(masks[:, None], masks[None]).sum(axis=2)
    return MaskAnalysis(tuple(names), masks, masks.mean(axis=1), correlation, low / high)


def read_masks(run: Path) -> MaskAnalysis:
    """Analyse the masks of a pretraining run.

    Args:
        run: The run's folder, or any file in it.

    Raises:
        UserError: If there is no run, or it has no masks.
    """
    folder = run if run.is_dir() else run.parent
    for name in (RECIPE, STATE):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no pretraining run ({name} is missing)",
                remedy="masks are in the run's folder, not in the published backbone",
            )
    recipe = parse_recipe(json.loads((folder / RECIPE).read_text(encoding="utf-8")), str(folder / RECIPE))
    if recipe.method != "mast":
        raise UserError(f"{folder} is a run of {recipe.method}, which has no masks", code=2)
    logits: torch.Tensor = load_state(folder / STATE)["learner"]["masks.logits"]
    return analyze_masks(list(recipe.views.augmentations), torch.sigmoid(logits).double().numpy())
