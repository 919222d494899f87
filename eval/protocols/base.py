"""What every protocol on frozen features is given, and what it must return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..features.matrices import Features, stack
from ..numbers.metrics import METRICS

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Features with their labels. There is one for train and one for val; nobody makes one for test.

    Attributes:
        features: (N, D) float32; an array, or `Rows` that stay on disk.
        labels: (N,) int in [0, num_classes), or (N, num_classes) with 1, 0 and -1 (difficult).
        num_classes: Number of classes.
    """

    features: Features
    labels: Array
    num_classes: int

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ValueError(f"features {self.features.shape} do not fit labels {self.labels.shape}")
        if self.labels.ndim == 2 and self.labels.shape[1] != self.num_classes:
            raise ValueError(
                f"labels {self.labels.shape} are not a column for each of {self.num_classes} classes"
            )
        if self.labels.ndim == 1 and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"labels from {low} to {high} with {self.num_classes} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether an example may have several classes."""
        return self.labels.ndim == 2

    def joined(self, other: Labelled) -> Labelled:
        """This and the other, one after the other."""
        return Labelled(
            stack([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
            self.num_classes,
        )

    def targets(self, *, difficult: float = 0.0) -> npt.NDArray[np.float64]:
        """(N, C) one-hot, or 0/1 a class; difficult ones become ``difficult``."""
        if self.multilabel:
            return np.where(self.labels < 0, difficult, self.labels).astype(np.float64)
        return np.eye(self.num_classes)[self.labels]


@dataclass(frozen=True)
class Fitted:
    """A protocol that has chosen its hyper-parameters and is ready for test features.

    Attributes:
        scores: From features (N, D) to scores (N, C), higher for the class that is thought right.
        selected: What was chosen, on which split, and the validation value of every candidate.
        certificate: How exactly the optimisation problem was solved; None where there is none.
        warnings: What a reader of the number should know: a choice at the grid's edge, ties, a clamped k.
        probabilities: From features to calibrated-or-not probabilities (N, C), for ECE; None if it has none.
    """

    scores: Callable[[Array], Array]
    selected: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    probabilities: Callable[[Array], Array] | None = None


Params = dict[str, Any]


def metric(name: str) -> Callable[[Array, Array], float]:
    """A metric by name, for selection on val."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'", remedy=f"known: {', '.join(METRICS)}", code=2)
    return METRICS[name]


def transform(kind: str, train: Features) -> Callable[[Features], npt.NDArray[np.float32]]:
    """A map of features, fitted on training features only. The result is in memory.

    Args:
        kind: "none"; "l2", unit rows; or "standard", zero mean and unit variance a column.
        train: (N, D) what "standard" is fitted on.
    """
    if kind == "none":
        return lambda x: np.asarray(x, dtype=np.float32)
    if kind == "l2":

        def unit(x: Features) -> npt.NDArray[np.float32]:
            whole = np.asarray(x, dtype=np.float32)
            norm: Array = np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
            return np.asarray(whole / norm, dtype=np.float32)

        return unit
    if kind == "standard":
        whole = np.asarray(train)
        mean: Array = whole.mean(0, dtype=np.float64)
        std = whole.std(0, dtype=np.float64)
        std = np.where(std > 1e-12, std, 1.0)
        return lambda x: np.asarray((np.asarray(x) - mean) / std, dtype=np.float32)
    raise UserError(f"unknown transform '{kind}'", remedy="known: none, l2, standard", code=2)


def select(
    values: Array, candidates: Array, *, name: str, prefer: str = "first", edges: bool = True
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """The candidate with the best validation value.

    Args:
        values: (L,) one validation value a candidate, higher is better.
        candidates: (L,) ascending.
        name: What is selected.
        prefer: Among equals the "first" or the "last".
        edges: Whether the ends of the grid deserve a warning.

    Returns:
        Its index, what to record, and warnings for a choice at the grid's edge and for ties.
    """
    best = np.flatnonzero(values == np.nanmax(values))
    index = int(best[0] if prefer == "first" else best[-1])
    warnings = []
    if edges and len(candidates) > 1 and index in (0, len(candidates) - 1):
        warnings.append(f"{name} {candidates[index]:.6g} lies at the edge of the grid")
    if len(best) > 1:
        warnings.append(f"{len(best)} values of {name} tie on val; the {prefer} is taken")
    record = {
        name: float(candidates[index]),
        "split": "val",
        "value": float(values[index]),
        "ties": len(best) - 1,
        "edge": bool(edges and len(candidates) > 1 and index in (0, len(candidates) - 1)),
        "grid": [[float(c), float(v)] for c, v in zip(candidates, values, strict=True)],
    }
    return index, record, tuple(warnings)


def require(labelled: Labelled, name: str) -> None:
    """Refuse an empty part.

    Raises:
        UserError: If it holds no examples.
    """
    if not len(labelled):
        raise UserError(f"the {name} split holds no examples", remedy=f"add images to {name}")
