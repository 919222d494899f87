"""A pair of views of every image, and which augmentations differ between the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import Array, Augmentation
from .draws import uniform

_TRIES = 8  # draws of a pair until an isolated augmentation really differs


@dataclass(frozen=True)
class ViewPlan:
    """Parameters of two views of B images.

    Attributes:
        params: For every augmentation the parameters of both views, ``(2, B, P)``.
        differs: ``(B, K)`` booleans: augmentation k has different parameters in the two views.
        single: ``(B,)`` booleans: exactly one augmentation was allowed to differ.
    """

    params: Mapping[str, Array]
    differs: NDArray[np.bool_]
    single: NDArray[np.bool_]


class Views:
    """Draws pairs of views whose difference is a chosen set of augmentations.

    A fraction of the pairs is *single*: one augmentation, each equally often, has its own parameters in the two
    views and all others share theirs. Another fraction is *all but one*: one augmentation is shared, all others
    are drawn twice. In the rest every augmentation is drawn twice. Single pairs are drawn anew until the two
    parameters differ, since equal ones (a flip, half of the time) teach a mask nothing.

    Args:
        augmentations: In the order in which they are applied.
        second: The same operations with the distributions of the second view, where those are others.
        single_fraction: Share of single pairs; 0 gives VICReg's views.
        all_but_fraction: Share of pairs that differ in all but one.
        seed: Of the run. Every draw is a pure function of (seed, epoch, sample index, view).
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        second: Sequence[Augmentation] | None = None,
        *,
        single_fraction: float = 0.0,
        all_but_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.augmentations = tuple(augmentations)
        self.second = tuple(second or augmentations)
        self.names = tuple(augmentation.name for augmentation in augmentations)
        self.single_fraction, self.all_but_fraction = single_fraction, all_but_fraction
        self.seed = seed

    def draw(self, indices: NDArray[np.integer], epoch: int) -> ViewPlan:
        """Plan the two views of the images at ``indices`` ``(B,)``."""
        count = len(indices)
        u = uniform(self.seed, epoch, indices, "pair", 2)
        single = u[:, 0] < self.single_fraction
        all_but = ~single & (u[:, 0] < self.single_fraction + self.all_but_fraction)
        chosen = np.minimum((u[:, 1] * len(self.names)).astype(int), len(self.names) - 1)
        params: dict[str, Array] = {}
        differs = np.zeros((count, len(self.names)), dtype=bool)
        for k, augmentation in enumerate(self.augmentations):
            alone = single & (chosen == k)
            first, second = self._pair(k, indices, epoch, 0)
            for attempt in range(1, _TRIES):
                again = alone & _equal(augmentation, first, second)
                if not again.any():
                    break
                first[again], second[again] = self._pair(k, indices[again], epoch, attempt)
            shared = (single & (chosen != k)) | (all_but & (chosen == k))
            second[shared] = first[shared]
            params[augmentation.name] = np.stack([first, second])
            differs[:, k] = ~_equal(augmentation, first, second)
        if {"color", "gray"} <= set(self.names):
            # A grey image hides its hue, so a pair that isolates colour is shown in colour.
            hidden = single & (chosen == self.names.index("color"))
            params["gray"][:, hidden] = 0.0
        return ViewPlan(params, differs, single)

    def _pair(self, k: int, indices: NDArray[np.integer], epoch: int, attempt: int) -> tuple[Array, Array]:
        augmentation = self.augmentations[k]
        stream = f"{augmentation.name}/{attempt}"
        u = uniform(self.seed, epoch, indices, stream, 2 * augmentation.num_uniforms)
        first, second = np.split(u, 2, axis=1)
        return augmentation.draw(first), self.second[k].draw(second)

    def render(self, images: Tensor, plan: ViewPlan) -> tuple[Tensor, Tensor]:
        """Both views of ``images`` ``(B, 3, H, W)`` in [0, 1], or of crops ``(B, 2, 3, H, W)`` already cut."""
        cut = images.ndim == 5
        first, second = images.unbind(1) if cut else (images, images)
        for augmentation in self.augmentations[1:] if cut else self.augmentations:
            one, two = (
                torch.from_numpy(augmentation.fit(params, *images.shape[-2:])).to(images.device)
                for params in plan.params[augmentation.name]
            )
            first, second = augmentation.apply(first, one), augmentation.apply(second, two)
        return first, second


def _equal(augmentation: Augmentation, first: Array, second: Array) -> NDArray[np.bool_]:
    """``(B,)``: which parameters do the same to a square."""
    equal: NDArray[np.bool_] = (augmentation.fit(first, 1, 1) == augmentation.fit(second, 1, 1)).all(axis=1)
    return equal
