"""Views of every image, two or three, and which augmentations differ between them."""

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
    """Parameters of the views of B images.

    Attributes:
        params: For every augmentation the parameters of the views, ``(2, B, P)``, or ``(3, B, P)`` with a third one.
        differs: ``(B, K)`` booleans: augmentation k has different parameters in the first two views.
        single: ``(B,)`` booleans: exactly one augmentation was allowed to differ between them.
        isolated: ``(B, K)`` booleans: the one augmentation that differs between the first view and the third, or
            between the first two of a single pair where there is no third.
        change: ``(B, Q)``: how the second view's parameters differ from the first's, in standard deviations.
        every: Every ``every``-th image of the batch has a third view; 0 for none.
    """

    params: Mapping[str, Array]
    differs: NDArray[np.bool_]
    single: NDArray[np.bool_]
    isolated: NDArray[np.bool_]
    change: Array
    every: int = 0


class Views:
    """Draws pairs of views whose difference is a chosen set of augmentations.

    A fraction of the pairs is *single*: one augmentation, each equally often, has its own parameters in the two
    views and all others share theirs. Another fraction is *all but one*: one augmentation is shared, all others
    are drawn twice. In the rest every augmentation is drawn twice. Single pairs are drawn anew until the two
    parameters differ, since equal ones (a flip, half of the time) teach a mask nothing.

    A third view may be added for some images: the first one with one augmentation drawn anew, the shared one
    where the pair shares one.

    Args:
        augmentations: In the order in which they are applied.
        second: The same operations with the distributions of the second view, where those are others.
        single_fraction: Share of single pairs; 0 gives VICReg's views.
        all_but_fraction: Share of pairs that differ in all but one.
        third_every: Every how manieth image of a batch has a third view; 0 for none.
        seed: Of the run. Every draw is a pure function of (seed, epoch, sample index, view).
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        second: Sequence[Augmentation] | None = None,
        *,
        single_fraction: float = 0.0,
        all_but_fraction: float = 0.0,
        third_every: int = 0,
        seed: int = 0,
    ) -> None:
        self.augmentations = tuple(augmentations)
        self.second = tuple(second or augmentations)
        self.names = tuple(augmentation.name for augmentation in augmentations)
        self.single_fraction, self.all_but_fraction = single_fraction, all_but_fraction
        self.third_every = third_every
        self.seed = seed
        self.widths, self._scale = self._descriptions()

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
        isolated = differs & single[:, None]
        change = (self._describe(params, 1) - self._describe(params, 0)) / self._scale
        if self.third_every:
            isolated = self._third(params, indices, epoch, np.where(all_but, chosen, -1))
        return ViewPlan(params, differs, single, isolated, change, self.third_every)

    def _third(
        self, params: dict[str, Array], indices: NDArray[np.integer], epoch: int, shared: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Add the third view's parameters; returns what differs from the first, ``(B, K)``.

        It is the augmentation that the first two views share, ``shared`` ``(B,)``, and any where that is below 0.
        """
        drawn = np.floor(uniform(self.seed, epoch, indices, "third", 1)[:, 0] * len(self.names)).astype(int)
        chosen = np.where(shared >= 0, shared, drawn)
        isolated = np.zeros((len(indices), len(self.names)), dtype=bool)
        for k, (name, augmentation) in enumerate(zip(self.names, self.augmentations, strict=True)):
            first = params[name][0]
            third, alone = first.copy(), chosen == k
            for attempt in range(_TRIES):
                again = alone & _equal(augmentation, first, third)
                if not again.any():
                    break
                third[again] = self._pair(k, indices[again], epoch, _TRIES + attempt)[0]
            params[name] = np.concatenate([params[name], third[None]])
            isolated[:, k] = ~_equal(augmentation, first, third)
        if {"color", "gray"} <= set(self.names):
            # A grey image hides its hue, so such a pair tells nothing of colour.
            isolated[params["gray"][0, :, 0] > 0, self.names.index("color")] = False
        return isolated

    def _describe(self, params: Mapping[str, Array], view: int) -> Array:
        """What describes a view, ``(B, Q)``. A crop's place is told in the frame that is seen, so after a flip."""
        parts = {a.name: a.describe(params[a.name][view]).copy() for a in self.augmentations}
        if {"crop", "flip"} <= set(parts):
            parts["crop"][:, 0] *= 1 - 2 * parts["flip"][:, 0]
        return np.concatenate(list(parts.values()), axis=1)

    def _descriptions(self) -> tuple[tuple[int, ...], Array]:
        """Numbers that describe each augmentation, and the standard deviations of their differences, ``(Q,)``."""
        pairs = [self._pair(k, np.arange(4096), 0, 0) for k in range(len(self.names))]
        params = {name: np.stack(pair) for name, pair in zip(self.names, pairs, strict=True)}
        widths = tuple(a.describe(params[a.name][0]).shape[1] for a in self.augmentations)
        spread = (self._describe(params, 1) - self._describe(params, 0)).std(axis=0)
        return widths, np.where(spread > 0, spread, 1.0)

    def _pair(self, k: int, indices: NDArray[np.integer], epoch: int, attempt: int) -> tuple[Array, Array]:
        augmentation = self.augmentations[k]
        stream = f"{augmentation.name}/{attempt}"
        u = uniform(self.seed, epoch, indices, stream, 2 * augmentation.num_uniforms)
        first, second = np.split(u, 2, axis=1)
        return augmentation.draw(first), self.second[k].draw(second)

    def render(self, images: Tensor, plan: ViewPlan) -> tuple[Tensor, ...]:
        """The views of ``images`` ``(B, 3, H, W)`` in [0, 1], or of crops ``(B, V, 3, H, W)`` already cut.

        The third, where there is one, has a row for every ``plan.every``-th image.
        """
        cut = images.ndim == 5
        views = list(images.unbind(1)) if cut else [images] * (3 if plan.every else 2)
        rows = [slice(None), slice(None), slice(None, None, plan.every or 1)]
        for number, view in enumerate(views):
            view = view[rows[number]]
            for augmentation in self.augmentations[1:] if cut else self.augmentations:
                drawn = plan.params[augmentation.name][number][rows[number]]
                params = torch.from_numpy(augmentation.fit(drawn, *images.shape[-2:]))
                view = augmentation.apply(view, params)
            views[number] = view
        return tuple(views)


def _equal(augmentation: Augmentation, first: Array, second: Array) -> NDArray[np.bool_]:
    """``(B,)``: which parameters do the same to a square."""
    equal: NDArray[np.bool_] = (augmentation.fit(first, 1, 1) == augmentation.fit(second, 1, 1)).all(axis=1)
    return equal
