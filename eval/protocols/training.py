"""Training on images with random crops and flips: a whole network, or heads on a frozen backbone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mast.checkpoint import load_state, save_state

from ..datasets import Split
from ..errors import UserError
from ..features import RESAMPLING, Preprocess
from .base import Array, Progress
from .heads import Heads

if TYPE_CHECKING:
    from .finetune import Params


def crop_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of torchvision's RandomResizedCrop: area 8% to 100%, ratio 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h


def augment(image: Image.Image, size: int, interpolation: str, generator: np.random.Generator) -> Array:
    """A random resized crop of side ``size``, flipped half the time: (size, size, 3) uint8."""
    left, top, w, h = crop_box(*image.size, generator)
    box = (left, top, left + w, top + h)
    pixels = np.asarray(image.crop(box).resize((size, size), RESAMPLING[interpolation]), dtype=np.uint8)
    return pixels[:, ::-1] if generator.random() < 0.5 else pixels


def subset(split: Split, wanted: float | str | None, seed: int = 0) -> Split:
    """The labelled part of train.

    Args:
        split: Train.
        wanted: None for all; a fraction, the same share of every class and at least one image; or the path of a list
            of file names, such as SimCLR's ``imagenet_subsets/1percent.txt``.
        seed: Seed of the draw.

    Raises:
        UserError: If the list cannot be read or names a file that train lacks.
    """
    if wanted is None:
        return split
    if isinstance(wanted, str):
        try:
            names = Path(wanted).read_text(encoding="utf-8").split()
        except OSError as error:
            raise UserError(
                f"{wanted}: cannot be read: {error.strerror}",
                remedy="download imagenet_subsets from google-research/simclr",
            ) from error
        where = {path.name: index for index, path in enumerate(split.paths)}
        for name in names:
            if name not in where:
                raise UserError(
                    f"{wanted} names {name}, which train lacks", remedy="use the list of this data set"
                )
        return split.subset(np.array([where[name] for name in names]))
    if not 0 < float(wanted) <= 1:
        raise UserError(
            f"subset is {wanted}", remedy="give a share in (0, 1] or a list of file names", code=2
        )
    generator = np.random.default_rng(seed)
    rows = [
        generator.permutation(group)[: max(1, round(float(wanted) * len(group)))]
        for group in (np.flatnonzero(split.labels == label) for label in np.unique(split.labels))
    ]
    return split.subset(np.sort(np.concatenate(rows)))


def joined(first: Split, second: Split) -> list[tuple[Split, int]]:
    """Every image of two splits."""
    return [(split, index) for split in (first, second) for index in range(len(split))]


def _learning_share(params: Params, epoch: int) -> float:
    if params.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / params.epochs))
    return float(params.gamma ** sum(epoch >= milestone for milestone in params.milestones))


class Trainer:
    """One training run over a list of images; a checkpoint an epoch."""

    def __init__(
        self,
        backbone: nn.Module,
        preprocess: Preprocess,
        images: list[tuple[Split, int]],
        num_classes: int,
        params: Params,
        rates: list[tuple[float, float]],
        seed: int,
        state: Path,
        progress: Progress,
    ) -> None:
        self.backbone = copy.deepcopy(backbone)
        self.preprocess, self.images, self.params, self.rates = preprocess, images, params, rates
        self.seed, self.state, self.progress = seed, state, progress
        self.frozen = params.freeze
        self.device = next(self.backbone.parameters()).device
        dim = int(self.backbone.feature_dim)  # type: ignore[arg-type]
        scale = params.batch_size / 256
        heads = [head * scale for _, head in rates]
        self.heads = Heads(heads, dim, num_classes, params, seed)
        self.head = nn.Linear(dim, num_classes).to(self.device)
        with torch.no_grad():
            self.head.weight.copy_(self.heads.weight[0].T)
            self.head.bias.zero_()
        self.optimizer = torch.optim.SGD(
            [
                {"params": list(self.backbone.parameters()), "peak": rates[0][0] * scale},
                {"params": list(self.head.parameters()), "peak": heads[0]},
            ],
            lr=0.0,
            momentum=params.momentum,
            weight_decay=params.weight_decay,
            nesterov=params.nesterov,
        )

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        size, crop = self.params.batch_size, self.preprocess.crop

        def one(index: int) -> tuple[Array, int]:
            split, row = self.images[index]
            image = split.pool.read(int(split.rows[row]))
            generator = np.random.default_rng([self.seed, epoch, index])
            return augment(image, crop, self.preprocess.interpolation, generator), int(split.labels[row])

        with ThreadPoolExecutor(2) as executor:
            for start in range(0, len(order), size):
                pairs = list(executor.map(one, [int(i) for i in order[start : start + size]]))
                if len(pairs) == 1 and not self.frozen:
                    continue  # batch normalisation has no statistics of one image
                pixels = torch.from_numpy(np.stack([pixel for pixel, _ in pairs])).to(self.device)
                yield (
                    self.preprocess.normalise(pixels),
                    torch.tensor([y for _, y in pairs], device=self.device),
                )

    def _modules(self) -> dict[str, Any]:
        heads = {"weight": self.heads.weight, "bias": self.heads.bias, "mean": self.heads.mean}
        heads |= {
            "std": self.heads.std,
            "momentum0": self.heads.momenta[0],
            "momentum1": self.heads.momenta[1],
        }
        model = {} if self.frozen else self.backbone.state_dict()
        return {
            "heads": heads,
            "backbone": model,
            "head": self.head.state_dict(),
            "sgd": self.optimizer.state_dict(),
        }

    def _resume(self) -> int:
        if not self.state.is_file():
            return 0
        saved = load_state(self.state)
        if not self.frozen:
            self.backbone.load_state_dict(saved["backbone"])
        self.head.load_state_dict(saved["head"])
        self.optimizer.load_state_dict(saved["sgd"])
        heads = saved["heads"]
        self.heads.weight, self.heads.bias = heads["weight"].to(self.device), heads["bias"].to(self.device)
        self.heads.mean, self.heads.std = heads["mean"].to(self.device), heads["std"].to(self.device)
        self.heads.momenta = [heads["momentum0"].to(self.device), heads["momentum1"].to(self.device)]
        return int(saved["epoch"])

    def train(self) -> None:
        """Train to the last epoch, from the last finished one where there is one."""
        epochs, start = self.params.epochs, self._resume()
        steps = -(-len(self.images) // self.params.batch_size)
        for epoch in range(start, epochs):
            share = _learning_share(self.params, epoch)
            self.backbone.train(not self.frozen)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * share
            for step, (images, labels) in enumerate(self._batches(epoch)):
                if self.frozen:
                    with torch.no_grad():
                        self.heads.step(self.backbone.features(images), labels, share)  # type: ignore[operator]
                else:
                    self.optimizer.zero_grad()
                    logits = self.head(self.backbone.features(images))  # type: ignore[operator]
                    loss = nn.functional.cross_entropy(logits, labels)
                    if not bool(torch.isfinite(loss)):
                        raise UserError(
                            f"fine-tuning diverged in epoch {epoch}", remedy="lower the learning rates"
                        )
                    loss.backward()  # type: ignore[no-untyped-call]
                    self.optimizer.step()
                self.progress("fine-tuning", epoch * steps + step + 1, epochs * steps)
            save_state(self.state, {"epoch": epoch + 1, **self._modules()})
        self.backbone.eval()

    def scores(self, split: Split) -> Array:
        """Logits (heads, N, C) on centre crops; one head unless the backbone is frozen."""
        found = []
        for start in range(0, len(split), 64):
            rows = split.rows[start : start + 64]
            pixels = np.stack([self.preprocess.image(split.pool.read(int(row))) for row in rows])
            with torch.inference_mode():
                x = self.backbone.features(  # type: ignore[operator]
                    self.preprocess.normalise(torch.from_numpy(pixels).to(self.device))
                )
                if self.frozen:
                    x = self.heads.normalise(x, train=False)
                    logits = torch.einsum("bd,hdc->hbc", x, self.heads.weight) + self.heads.bias[:, None]
                else:
                    logits = self.head(x)[None]
            found.append(logits.cpu().numpy())
        return np.concatenate(found, 1)
