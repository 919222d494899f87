"""A k-NN probe on the features that training computes anyway."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize


class Probe:
    """Keeps the last features of an epoch and lets the older ones name the newest quarter.

    Cosine similarity, votes weighted by ``exp(similarity / 0.07)`` among the 20 nearest, as DINO's k-NN
    (arXiv 2104.14294). The features are those of augmented views in training mode, so the figure tells the trend
    of a run and is no result.

    Args:
        num_classes: With fewer than two there is nothing to tell.
        size: Features kept.
    """

    neighbours, temperature = 20, 0.07

    def __init__(self, num_classes: int, size: int = 4096) -> None:
        self.num_classes, self.size = num_classes, size
        self.features: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, features: Tensor, labels: NDArray[Any]) -> None:
        """Keep features ``(B, D)`` with their labels ``(B,)``."""
        if self.num_classes < 2:
            return
        self.features.append(normalize(features.float(), dim=1))
        self.labels.append(torch.from_numpy(labels))
        while sum(map(len, self.features)) - len(self.features[0]) >= self.size:
            del self.features[0], self.labels[0]

    def finish(self) -> dict[str, float]:
        """``{"knn": top-1 in [0, 1]}`` of what was kept, which is then forgotten; empty where that is too little."""
        kept = min(self.size, sum(map(len, self.features)))
        if kept < 8:
            self.features, self.labels = [], []
            return {}
        features = torch.cat(self.features)[-kept:]
        labels = torch.cat(self.labels)[-kept:].to(features.device)
        split = kept - kept // 4
        similarity = features[split:] @ features[:split].T
        value, place = similarity.topk(min(self.neighbours, split), dim=1)
        votes = features.new_zeros(kept - split, self.num_classes)
        votes.scatter_add_(1, labels[:split][place], torch.exp(value / self.temperature))
        self.features, self.labels = [], []
        return {"knn": float((votes.argmax(1) == labels[split:]).float().mean())}

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept in the middle of an epoch."""
        if not self.features:
            return {}
        return {"features": torch.cat(self.features).cpu(), "labels": torch.cat(self.labels)}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what was kept."""
        self.features = [state["features"].to(device)] if state else []
        self.labels = [state["labels"]] if state else []
