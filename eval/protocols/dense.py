"""What dense protocols share: maps and masks from the store; from logits of squares to numbers of whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from ..errors import UserError
from ..features import Preprocess
from ..features.maps import MAPS_GB, Layers, Maps, extract, label_entry, labels, planned
from ..features.views import Views
from ..numbers import kept, segmentation
from ..numbers.segmentation import IGNORED
from . import base
from .base import Array, Context, Count, Estimate, Listed, Measured, Positive

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ..datasets.segmentation import MaskSplit
    from ..features.store import Entry
    from ..features.views import View

Scores = Callable[["torch.Tensor"], "torch.Tensor"]


class SquaresOfTraining(base.Strict):
    """Squares of training images; what is not given is as of `features.views.Views`."""

    kind: Literal["squash", "slide", "random", "resized-crop"]
    scales: Annotated[tuple[Positive, ...], Listed] = (1.0,)
    longest: int = 0
    copies: Count = 1
    mirrored: bool = False

    @model_validator(mode="after")
    def _mirrored(self) -> Self:
        if self.mirrored and self.kind != "resized-crop":
            raise ValueError("mirrored is of resized-crop; random squares are mirrored as they are")
        return self


class SquaresOfTest(base.Strict):
    """Squares of test images; what is not given is as of `features.views.Views`."""

    kind: Literal["squash", "slide"]
    scales: Annotated[tuple[Positive, ...], Listed] = (1.0,)
    longest: int = 0
    stride: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    mirrored: bool = False


class DenseParams(base.Params):
    """Parameters of dense protocols.

    ``extraction.image_size`` is the side of a square.

    Attributes:
        layers: What is read off the backbone, see `features.maps.dense`.
        train_views: Squares of training images; random ones are drawn once, from the cell's seed, and stored.
        test_views: Squares of test images.
        label_size: Side of a square's mask in training; that of the square when None.
        mask_size: Side of the square that test masks are resized to, by nearest neighbours; None leaves them as they
            are.
        logit_size: Side of the square at which a class is chosen; the choice is then enlarged to the mask by nearest
            neighbours. ``grid``: the map's own size. None: logits are resized to the mask and the class chosen there.
    """

    RUNTIME: ClassVar[Mapping[str, type]] = {"maps_gb": int}

    layers: Layers
    train_views: SquaresOfTraining
    test_views: SquaresOfTest
    label_size: Count | None = None
    mask_size: Count | None = None
    logit_size: Count | Literal["grid"] | None = None

    @property
    def reads_choice(self) -> bool:
        """It reads maps."""
        return False


DEPTHS = 65_535  # values of a mask that holds millimetres


@dataclass(frozen=True)
class Stored:
    """Maps of a split with, for training, the masks of the same squares.

    Attributes:
        maps: The maps.
        masks: Rows of masks, the largest value of their type ignored; None for test.
        views: How the squares were chosen.
    """

    maps: Maps
    masks: Entry | None
    views: Views


def stored(
    context: Context, split: str, chosen: SquaresOfTraining | SquaresOfTest, label_size: int | None = None
) -> Stored:
    """Maps of a split, from the store or extracted now; with masks for training.

    Args:
        context: The cell's.
        split: "train" or "test".
        chosen: Which squares.
        label_size: Side of the masks; no masks when None.
    """
    params: DenseParams = context.params
    part, preprocess, views, store = _asked(context, split, chosen)
    maps = extract(
        context.loaded.backbone,
        context.loaded.passport,
        part.pool,
        part.sizes,
        views,
        preprocess,
        params.layers,
        store=store,
        most_gb=float(context.protocol.runtime.get("maps_gb", MAPS_GB)),
        progress=context.progress,
    )
    masks = None
    if label_size is not None:
        number = context.data.num_classes or DEPTHS
        told = _masks(context, part)
        masks = labels(views, maps.views, part.read, told, number, label_size, store=store)
    return Stored(maps, masks, views)


def disk(context: Context, label_size: Callable[[tuple[int, int, int]], int]) -> dict[str, int]:
    """Bytes of maps and masks that a cell will write, by their key in the feature store.

    Args:
        context: The cell's.
        label_size: From the shape (h, w, C) of a training map to the side of its masks.
    """
    params: DenseParams = context.params
    found: dict[str, int] = {}
    for split, chosen in (("train", params.train_views), ("test", params.test_views)):
        part, preprocess, views, store = _asked(context, split, chosen)
        lacking, shape = planned(
            context.loaded.backbone,
            context.loaded.passport,
            part.pool,
            preprocess,
            params.layers,
            store=store,
            views=views,
            sizes=part.sizes,
        )
        found |= lacking
        if split == "train":
            side, rows = label_size(shape), len(views.plan(part.sizes))
            number = context.data.num_classes or DEPTHS
            masks = label_entry(views, rows, _masks(context, part), number, side, store=store)
            if not masks.whole():
                found[masks.key] = rows * side * side * masks.dtype.itemsize
    return found


def _asked(
    context: Context, split: str, chosen: SquaresOfTraining | SquaresOfTest
) -> tuple[MaskSplit, Preprocess, Views, Path]:
    """The images, their preprocessing, their squares and the store; the backbone is where it will compute.

    Raises:
        UserError: If there is no store.
    """
    if context.store is None:
        raise UserError(
            "dense protocols need a feature store", remedy="run the cell with `mast eval`", code=2
        )
    preprocess = Preprocess.of(context.loaded.passport, **context.params.extraction.pixels())
    views = Views(side=preprocess.crop, seed=context.seed, **chosen.model_dump())
    context.loaded.backbone.to(context.device)
    return context.data.splits[split], preprocess, views, context.store


def _masks(context: Context, part: MaskSplit) -> dict[str, Any]:
    """What stands for the content of masks."""
    return {
        "masks": part.digest_of_masks,
        "classes": list(context.data.classes),
        "images": part.pool.digest,
    }


# -- from logits of squares to predictions of images -----------------------------------------------------------


def predictions(
    test: Stored,
    split: MaskSplit,
    scores: Scores,
    params: DenseParams,
    device: torch.device,
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Array, Array]]:
    """Mask and prediction of every image, (H, W) each, one image at a time.

    Squares that overlap have their logits averaged; sizes and mirrored squares have their probabilities averaged, as
    mmseg's slide and aug_test do.

    Args:
        test: The maps.
        split: The masks.
        scores: From maps (B, D, h, w) to logits (B, C, h, w).
        params: Sizes of masks and logits.
        device: Where to compute.
        batch_size: Squares at a time.
        progress: Called with the number of images done.
    """
    for truth, total in assembled(
        test, split, scores, params, device, average=_softmax, batch_size=batch_size, progress=progress
    ):
        chosen = total.argmax(1)[0].cpu().numpy().astype(np.int16)
        if chosen.shape != truth.shape:
            size = (truth.shape[1], truth.shape[0])
            enlarged = Image.fromarray(chosen.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
            chosen = np.asarray(enlarged).astype(np.int16)
        yield truth, chosen


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1)


def assembled(
    test: Stored,
    split: MaskSplit,
    scores: Scores,
    params: DenseParams,
    device: torch.device,
    *,
    average: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Array, torch.Tensor]]:
    """Mask (H, W) of every image and what its squares say together, (1, C, H', W') at the size of the choice.

    Args:
        test, split, scores, params, device, batch_size, progress: As of `predictions`.
        average: What is averaged over sizes and mirrored squares, where there are several.
    """
    from torch.nn import functional as F

    plan = list(enumerate(test.maps.views))
    for done, (image, rows) in enumerate(groupby(plan, key=lambda item: item[1].image), start=1):
        truth = resized(split.read(image), params.mask_size)
        size = (truth.shape[0], truth.shape[1])
        at = size
        if params.logit_size == "grid":
            if test.views.kind != "squash":
                raise UserError(
                    "logit_size=grid, and an image has several squares",
                    remedy="use test_views.kind=squash",
                    code=2,
                )
            at = test.maps.shape[:2]
        elif params.logit_size is not None:
            at = (params.logit_size, params.logit_size)
        groups: dict[tuple[Any, ...], list[tuple[int, View]]] = {}
        for row, view in rows:
            groups.setdefault((view.size, view.flip), []).append((row, view))
        total: torch.Tensor | None = None
        for (whole, _), members in groups.items():
            canvas = _canvas(test, members, whole, scores, device, batch_size)
            found = F.interpolate(canvas, at, mode="bilinear", align_corners=False)  # nothing at equal sizes
            if len(groups) > 1:
                found = average(found) / len(groups)
            total = found if total is None else total + found
        assert total is not None
        progress(done)
        yield truth, total


def _canvas(
    test: Stored,
    members: Sequence[tuple[int, View]],
    whole: tuple[int, int],
    scores: Scores,
    device: torch.device,
    batch_size: int,
) -> torch.Tensor:
    """Logits (1, C, H, W) of a resized image from its squares; of a whole image as a square, those of the map."""
    import torch
    from torch.nn import functional as F

    side = test.views.side
    if len(members) == 1 and whole == (side, side):
        with torch.inference_mode():
            found = scores(test.maps.read([members[0][0]]).to(device)).float()
        return found.flip(3) if members[0][1].flip else found
    canvas: torch.Tensor | None = None
    counts = torch.zeros(1, 1, whole[1], whole[0], device=device)
    for start in range(0, len(members), batch_size):
        part = members[start : start + batch_size]
        with torch.inference_mode():
            logits = scores(test.maps.read([row for row, _ in part]).to(device)).float()
            logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
            if canvas is None:
                canvas = torch.zeros(1, logits.shape[1], whole[1], whole[0], device=device)
            for square, (_, view) in zip(logits, part, strict=True):
                square = square.flip(2) if view.flip else square
                right, bottom = min(view.left + side, whole[0]), min(view.top + side, whole[1])
                place = (slice(None), slice(None), slice(view.top, bottom), slice(view.left, right))
                canvas[place] += square[:, : bottom - view.top, : right - view.left]
                counts[place] += 1
    assert canvas is not None
    return canvas / counts


def resized(mask: Array, side: int | None) -> Array:
    """A mask as a square, by nearest neighbours; as it is when None."""
    if side is None:
        return mask
    image = Image.fromarray(mask.astype(np.int32)).resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(image).astype(mask.dtype)


# -- numbers ---------------------------------------------------------------------------------------------------


def evaluate(context: Context, test: Stored, scores: Scores) -> Measured:
    """Predict every test image and measure: metrics, their intervals over images, and confusions by image."""
    split: MaskSplit = context.data.splits["test"]
    found = predictions(
        test,
        split,
        scores,
        context.params,
        context.device,
        progress=lambda done: context.progress("test images", done, len(split)),
    )
    number = context.data.num_classes
    rows = []
    for image, (truth, chosen) in enumerate(found):
        matrix = segmentation.confusion(truth, chosen, number)
        true, predicted = np.nonzero(matrix)
        rows.append(np.stack([np.full(len(true), image), true, predicted, matrix[true, predicted]], 1))
    confusions = np.concatenate(rows).astype(np.int32)
    return measured(confusions, len(split), context.data.classes, context.data.counts)


def measured(confusions: Array, images: int, classes: Sequence[str], counts: Mapping[str, int]) -> Measured:
    """Numbers of confusions.

    Args:
        confusions: (K, 4) int: image, true class, predicted class, pixels.
        images: N.
        classes: Names of the C classes.
        counts: Images by split.

    Raises:
        UserError: If no test pixel has a class.
    """
    sums = segmentation.sums(confusions, images, len(classes))
    if not sums.truth.any():
        raise UserError("no pixel of the test masks has a class", remedy="check the masks' ignored value")
    arrays = {"confusions": confusions, "shape": np.array([images, len(classes)], dtype=np.int32)}
    metrics = {}
    for name, metric in segmentation.METRICS.items():
        value = float(metric(sums.total()))
        span = kept.interval(name, value, arrays)
        assert span is not None
        metrics[name] = Estimate(value, span)
    each = segmentation.ious(sums.total())
    absent = [str(name) for name, value in zip(classes, each, strict=True) if np.isnan(value)]
    warnings: tuple[str, ...] = ()
    if absent:
        some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        warnings = (
            f"{len(absent)} of {len(classes)} classes are on no test image and are left out of the mean: {some}",
        )
    told = {str(name): float(value) for name, value in zip(classes, each, strict=True) if not np.isnan(value)}
    return Measured(
        metrics,
        dict(counts),
        certificate={"iou": told},
        warnings=warnings,
        arrays=arrays,
    )


__all__ = ["IGNORED", "DenseParams", "Stored", "evaluate", "measured", "predictions", "resized", "stored"]
