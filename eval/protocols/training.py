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

from ..checkpoints import Backbone
from ..datasets import Split, listed
from ..errors import UserError
from ..features import RESAMPLING, Preprocess, pooled
from ..features.views import area_box
from .base import Array, Progress
from .heads import Heads

if TYPE_CHECKING:
    from .finetune import Params


def crop_box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of torchvision's RandomResizedCrop: area 8% to 100%, ratio 3/4 to 4/3."""
    return area_box(width, height, (0.08, 1.0), generator)


def augment(image: Image.Image, size: int, interpolation: str, generator: np.random.Generator) -> Array:
    """A random resized crop of side ``size``, flipped half the time: (size, size, 3) uint8."""
    left, top, w, h = crop_box(*image.size, generator)
    box = (left, top, left + w, top + h)
    pixels = np.asarray(image.crop(box).resize((size, size), RESAMPLING[interpolation]), dtype=np.uint8)
    return pixels[:, ::-1] if generator.random() < 0.5 else pixels


Images = list[tuple[Split, int]]


def joined(*splits: Split) -> Images:
    """Every image of some splits."""
    return [(split, index) for split in splits for index in range(len(split))]


def subset(images: Images, wanted: float | str, seed: int = 0) -> Images:
    """The labelled part of the images.

    Args:
        images: All that could be labelled.
        wanted: A fraction, the same share of every class and at least one image; or a list of file names, such as
            SimCLR's ``imagenet_subsets/1percent.txt``: its path, or its place below one of the images' folders.
        seed: Seed of the draw.

    Raises:
        UserError: If the list cannot be read or names a file that is not there.
    """
    if isinstance(wanted, str):
        paths = tuple(split.paths[index] for split, index in images)
        together = Split("train and val", paths, np.zeros(len(paths), dtype=np.int64))
        return [images[int(row)] for row in listed(together, _find(wanted, images)).rows]
    if not 0 < float(wanted) <= 1:
        raise UserError(
            f"subset is {wanted}", remedy="give a share in (0, 1] or a list of file names", code=2
        )
    labels = np.array([split.labels[index] for split, index in images])
    generator = np.random.default_rng(seed)
    rows = [
        generator.permutation(group)[: max(1, round(float(wanted) * len(group)))]
        for group in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    return [images[row] for row in np.sort(np.concatenate(rows))]


def _find(wanted: str, images: Images) -> Path:
    """A list of file names by its path, or by its place below one of the images' folders."""
    folders = images[0][0].paths[0].absolute().parents if images else ()
    places = [Path(wanted), *(folder / wanted for folder in folders)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"{wanted}: no such list of file names, here or beside the images",
            remedy="put imagenet_subsets of google-research/simclr into the folder of data sets",
        )
    return found


def learning_share(params: Params, epoch: int, step: int, steps: int) -> float:
    """The share of the peak learning rate.

    Args:
        params: ``schedule`` is ``cosine`` (torch's CosineAnnealingLR, stepped once an epoch), ``cosine-by-iteration``
            (the same, stepped after every batch), ``cosine-by-step`` (lightly's, a thousandth in the last step) or
            ``step`` (a factor ``gamma`` at each of ``milestones``).
        epoch: From 0.
        step: From 0, over all epochs.
        steps: Of all epochs.
    """
    if params.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / params.epochs))
    if params.schedule == "cosine-by-iteration":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if params.schedule == "cosine-by-step":
        end = 0.001
        return end + (1 - end) / 2 * (1 + math.cos(math.pi * step / (steps - 1))) if steps > 1 else end
    return float(params.gamma ** sum(epoch >= milestone for milestone in params.milestones))


class Trainer:
    """One training run over a list of images; a checkpoint an epoch.

    ``parts`` are what heads on a frozen backbone read, see `heads.columns`; for each there are heads of all rates.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocess: Preprocess,
        images: Images,
        num_classes: int,
        params: Params,
        rates: list[tuple[float, float]],
        seed: int,
        state: Path,
        progress: Progress,
        parts: tuple[str, ...] = ("",),
    ) -> None:
        self.backbone = copy.deepcopy(backbone)
        self.preprocess, self.images, self.params, self.rates = preprocess, images, params, rates
        self.seed, self.state, self.progress = seed, state, progress
        self.frozen = params.freeze
        self.device = next(self.backbone.parameters()).device
        self.pooling = params.extraction.pooling
        with torch.no_grad():
            pixels = torch.zeros(1, 3, preprocess.crop, preprocess.crop, device=self.device)
            dim = pooled(self.backbone, pixels, self.pooling).shape[1]
        scale = params.batch_size / 256
        heads = [head * scale for _, head in rates]
        area = dim // self.backbone.feature_dim if self.pooling == "res5-6x6" else 1
        self.heads = {
            part: Heads(heads, dim, num_classes, params, seed, area=area, part=part) for part in parts
        }
        first = self.heads[parts[0]]
        self.head = nn.Linear(*first.weight.shape[1:]).to(self.device)
        with torch.no_grad():
            self.head.weight.copy_(first.weight[0].T)
            self.head.bias.copy_(first.bias[0])
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

    def _order(self, epoch: int) -> Array:
        """The images of an epoch in a new order: (M, 2), the pass over all images and the image.

        An epoch is a pass, without the last batch where the protocol drops a short one; or as many batches as the
        protocol says, out of one pass after the other.
        """
        size, number = self.params.batch_size, len(self.images)
        if self.params.epoch_length is None:
            whole = number // size * size if self.params.drop_last and number >= size else number
            places = np.arange(whole) + epoch * number
        else:
            length = self.params.epoch_length * size
            places = np.arange(length) + epoch * length
        passes, rows = np.divmod(places, number)
        order = np.empty_like(rows)
        for each in np.unique(passes):
            here = passes == each
            order[here] = np.random.default_rng([self.seed, int(each)]).permutation(number)[rows[here]]
        return np.stack([passes, order], 1)

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order(epoch)
        size, crop = self.params.batch_size, self.preprocess.crop

        def one(place: list[int]) -> tuple[Array, int]:
            split, row = self.images[place[1]]
            image = split.pool.read(int(split.rows[row]))
            generator = np.random.default_rng([self.seed, *place])
            return augment(image, crop, self.preprocess.interpolation, generator), int(split.labels[row])

        with ThreadPoolExecutor(2) as executor:
            for start in range(0, len(order), size):
                pairs = list(executor.map(one, order[start : start + size].tolist()))
                if len(pairs) == 1 and not self.frozen:
                    continue  # batch normalisation has no statistics of one image
                pixels = torch.from_numpy(np.stack([pixel for pixel, _ in pairs])).to(self.device)
                yield (
                    self.preprocess.normalise(pixels),
                    torch.tensor([y for _, y in pairs], device=self.device),
                )

    def _modules(self) -> dict[str, Any]:
        model = {} if self.frozen else self.backbone.state_dict()
        return {
            "heads": {
                f"{part}{name}": value
                for part, heads in self.heads.items()
                for name, value in heads.state().items()
            },
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
        for part, heads in self.heads.items():
            heads.load({name: saved["heads"][f"{part}{name}"].to(self.device) for name in heads.state()})
        return int(saved["epoch"])

    def train(self) -> None:
        """Train to the last epoch, from the last finished one where there is one."""
        epochs, start = self.params.epochs, self._resume()
        steps = -(-len(self._order(0)) // self.params.batch_size)
        for epoch in range(start, epochs):
            self.backbone.train(not self.frozen)
            for step, (images, labels) in enumerate(self._batches(epoch)):
                share = learning_share(self.params, epoch, epoch * steps + step, epochs * steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak"] * share
                if self.frozen:
                    with torch.no_grad():
                        x = pooled(self.backbone, images, self.pooling)
                        for heads in self.heads.values():
                            heads.step(x, labels, share)
                else:
                    self.optimizer.zero_grad()
                    logits = self.head(pooled(self.backbone, images, self.pooling))
                    loss = nn.functional.cross_entropy(logits, labels)
                    if not bool(torch.isfinite(loss)):
                        raise UserError(
                            f"fine-tuning diverged in epoch {epoch + 1}", remedy="lower the learning rates"
                        )
                    loss.backward()  # type: ignore[no-untyped-call]
                    self.optimizer.step()
                self.progress(
                    f"fine-tuning, epoch {epoch + 1} of {epochs}", epoch * steps + step + 1, epochs * steps
                )
            save_state(self.state, {"epoch": epoch + 1, **self._modules()})
        self.backbone.eval()

    def scores(self, split: Split) -> Array:
        """Logits (parts x rates, N, C) on centre crops; of one head unless the backbone is frozen."""
        found = []
        for start in range(0, len(split), 64):
            rows = split.rows[start : start + 64]
            pixels = np.stack([self.preprocess.image(split.pool.read(int(row))) for row in rows])
            with torch.inference_mode():
                images = self.preprocess.normalise(torch.from_numpy(pixels).to(self.device))
                x = pooled(self.backbone, images, self.pooling)
                if self.frozen:
                    logits = torch.cat(
                        [heads.logits(heads.normalise(x, train=False)) for heads in self.heads.values()]
                    )
                else:
                    logits = self.head(x)[None]
            found.append(logits.cpu().numpy())
        return np.concatenate(found, 1)
