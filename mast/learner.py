"""What learns: backbone, expander and, for MAST, masks and variance head, with the loss of one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .augment import to_images
from .config import Recipe
from .distributed import gather
from .model import Expander, SubspaceMasks, VarianceHead, build_backbone, laid_out
from .objective import (
    Loss,
    closedness,
    contrast,
    masked,
    prediction,
    pressure,
    relative,
    sensitivity,
    subspace_masks,
    vicreg,
)
from .views import ViewPlan


class Outcome(NamedTuple):
    """Of one batch: its loss; features ``(B, D)`` of this process's first views; embeddings ``(W B, E)`` of all."""

    loss: Loss
    features: Tensor
    embeddings: Tensor


class Learner(nn.Module):
    """The networks of a recipe.

    Args:
        recipe: Says which.
        names: The augmentations, in the order of the views' ``differs`` table.
        widths: How many numbers of the views' ``change`` table belong to each of them.
    """

    def __init__(self, recipe: Recipe, names: tuple[str, ...], widths: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.recipe = recipe
        self.memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.backbone = build_backbone(recipe.arch)
        self.expander = Expander(self.backbone.feature_dim, recipe.expander)
        self.masks: SubspaceMasks | None = None
        self.variance: VarianceHead | None = None
        if recipe.method == "mast":
            on_features = recipe.masks.level == "features"
            dim = self.backbone.feature_dim if on_features else recipe.expander[-1]
            self.masks = SubspaceMasks(
                names,
                dim,
                **recipe.masks.model_dump(include={"start", "spread", "layout", "block", "closed"}),
            )
            if recipe.uncertainty and not on_features:
                self.variance = VarianceHead(self.backbone.feature_dim, recipe.expander[-1])
        self.readout: nn.Linear | None = None
        if self.masks is not None and recipe.weights.prediction:
            if len(widths) != len(names):
                raise ValueError(
                    f"prediction needs the widths of {len(names)} augmentations, not {len(widths)}"
                )
            self.widths = widths
            self.readout = nn.Linear(recipe.expander[-1], sum(widths), bias=False)
            # Whose parameter each of the Q rows of the readout reads.
            of = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
            self.register_buffer("_of", of, persistent=False)
        self._of: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)

    def networks(self) -> nn.ModuleList:
        """Everything but the masks, which have an optimizer of their own."""
        return nn.ModuleList(module for name, module in self.named_children() if name != "masks")

    def features(self, view: Tensor) -> Tensor:
        """Features ``(B, D)`` of a view ``(B, 3, H, W)`` in [0, 1]."""
        images: Tensor = self.backbone(
            ((view - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        )
        return images

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings of all processes' images, ``(B, D) -> (W B, E)``, in the loss's precision."""
        return gather(self.expander(features).to(self.mean.dtype))

    def forward(self, first: Tensor, second: Tensor, plan: ViewPlan, third: Tensor | None = None) -> Outcome:
        """The loss of one batch, of which this process has the views ``(B, 3, H, W)`` planned in ``plan``."""
        h1, h2 = self.features(first), self.features(second)
        weights = self.recipe.weights
        if self.masks is None:
            z1, z2 = self.embed(h1), self.embed(h2)
            return Outcome(vicreg(z1, z2, weights), h1.detach(), z1.detach())
        differs = torch.from_numpy(plan.differs).to(h1.device, non_blocking=True)
        single = torch.from_numpy(plan.single).to(h1.device, non_blocking=True)
        log_masks = self.masks.log_masks()
        if self.recipe.masks.level == "features":
            keep = subspace_masks(differs, single, log_masks)
            z1, z2 = self.embed(h1 * keep), self.embed(h2 * keep)
            loss = vicreg(z1, z2, weights)
        else:
            z1, z2 = self.embed(h1), self.embed(h2)
            variances = None
            if self.variance is not None:
                predicted = [self.variance(h.detach().to(self.mean.dtype)) for h in (h1, h2)]
                variances = gather(predicted[0]), gather(predicted[1])
            loss = masked(z1, z2, gather(differs), gather(single), log_masks, weights, variances)
            loss = loss.plus(self._sensitivity((h1, h2), (z1, z2), plan, log_masks, third))
        return Outcome(loss.plus(pressure(log_masks, weights)), h1.detach(), z1.detach())

    def _sensitivity(
        self,
        h: tuple[Tensor, Tensor],
        z: tuple[Tensor, Tensor],
        plan: ViewPlan,
        log_masks: Tensor,
        third: Tensor | None,
    ) -> Loss:
        """The terms that ask closed dimensions to carry what their augmentation changes.

        Args:
            h: Features of this process's two views.
            z: Embeddings of those of all processes.
            plan: What was drawn.
            log_masks: Logarithms of the masks.
            third: The third views, where there are any.
        """
        weights, masks = self.recipe.weights, self.recipe.masks
        loss = Loss(z[0].new_zeros(()), {})
        closed = closedness(log_masks)
        if masks.sensitive == "all":
            closed = torch.ones_like(closed)
        if weights.sensitivity or weights.decorrelation or weights.contrast:
            loss = loss.plus(self._isolated(h, z, plan, closed, third))
        if self.readout is not None:
            change = gather(to_images(torch.from_numpy(plan.change), z[0]))
            seen = 1 - log_masks.exp() if masks.predict else closed.detach()
            readout = self.readout.weight * seen.index_select(0, self._of)  # (Q, E)
            loss = loss.plus(prediction(z[0] - z[1], change, readout, weights))
        return loss

    def _isolated(
        self,
        h: tuple[Tensor, Tensor],
        z: tuple[Tensor, Tensor],
        plan: ViewPlan,
        closed: Tensor,
        third: Tensor | None,
    ) -> Loss:
        """The terms that look at views in which one augmentation alone differs; arguments as of `_sensitivity`."""
        weights, masks = self.recipe.weights, self.recipe.masks
        isolated = gather(torch.from_numpy(plan.isolated).to(closed.device))
        if third is None:
            rows, h_other, z_other = isolated.any(1), h[1], z[1]
        else:  # it has rows of its own
            rows = gather(torch.arange(len(plan.isolated), device=closed.device) % plan.every == 0)
            h_other = self.features(third)
            z_other = self.embed(h_other)
        other = slice(None) if third is not None else rows
        loss = Loss(closed.new_zeros(()), {})
        if weights.sensitivity or weights.decorrelation:
            difference, blocks = z[0][rows] - z_other[other], closed
            if masks.changes == "features":
                h1, h2, h_other = (gather(each.to(self.mean.dtype)) for each in (*h, h_other))
                difference, blocks = relative(h1[rows] - h_other[other], h1, h2), self._feature_blocks()
            loss = loss.plus(sensitivity(difference, isolated[rows], blocks, weights))
        if weights.contrast:
            shared = isolated & ~gather(torch.from_numpy(plan.differs).to(closed.device))
            loss = loss.plus(contrast(*z, z_other, rows.nonzero()[:, 0], shared[rows], closed, weights))
        return loss

    def _feature_blocks(self) -> Tensor:
        """Which of the backbone's features are closed for whom, ``(K, D)``: fixed, as the masks' layout says."""
        masks = self.recipe.masks
        assert self.masks is not None
        count, dim = len(self.masks.names), self.backbone.feature_dim
        if masks.sensitive == "all":
            return torch.ones(count, dim, device=self.mean.device, dtype=self.mean.dtype)
        given = masks.model_dump(include={"start", "layout", "block", "closed"})
        return closedness(laid_out(count, dim, **given).log()).to(self.mean)
