"""Protocols on images and not only features: fine-tuning, semi-supervised, and linear probes with augmentation.

Training crops are RandomResizedCrop and a flip; evaluation resizes and crops the centre; the last epoch counts.
Where several learning rates are given, val chooses and the choice is trained again on train and val; a single
published rate needs no choice, and train and val are trained on together from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from .. import claims
from ..errors import UserError
from ..numbers.metrics import softmax
from . import scoring
from .base import Array, Context, Kind, Listed, Measured, metric, select, select_pair
from .heads import HeadParams, Share

if TYPE_CHECKING:
    from ..datasets import Split
    from .training import Images, Trainer

Rates = Annotated[tuple[Share, Share], Field(strict=False)]


class Params(HeadParams):
    """Parameters of training on images.

    Attributes:
        schedule: Of `HeadParams`, by epoch; ``cosine-by-step``, lightly's; or ``cosine-by-iteration``.
        drop_last: Whether an epoch leaves out the images that fill no whole batch.
        lr: Pairs of rates, of backbone and head, for a batch of 256, scaled linearly; of several, val chooses one, as
            of ``features``.
        freeze: Whether the backbone stays as it is.
        subset: The labelled part of train and val: None for all, a share, or a list of file names.
    """

    schedule: Literal["cosine", "cosine-by-step", "cosine-by-iteration", "step"]  # type: ignore[assignment]
    drop_last: bool = False
    lr: Annotated[tuple[Rates, ...], Listed]
    freeze: bool
    subset: float | str | None

    @model_validator(mode="after")
    def _heads_alone(self) -> Self:
        if self.features and not self.freeze:
            raise ValueError("features are for heads on a frozen backbone: freeze it")
        return self


@dataclass(frozen=True)
class Finetuned:
    """A network that has been trained and chosen, ready for test images.

    Attributes:
        scores: From a split to logits (N, C).
        selected: The learning rates, and the split they were chosen on.
        warnings: What a reader of the number should know.
        counts: Number of images trained on.
    """

    scores: Callable[[Split], Array]
    selected: dict[str, Any]
    warnings: tuple[str, ...]
    counts: dict[str, int]


def run(context: Context) -> Finetuned:
    """Train on images, choose on val where there is a choice, and return what scores test images.

    The checkpoint's backbone is not changed: copies are trained. Test images are not looked at.

    Raises:
        UserError: If training diverges, an image cannot be decoded, or the parameters make no sense.
    """
    from ..features import Preprocess
    from .training import Trainer, joined, subset

    params: Params = context.params
    train, val = context.data.splits["train"], context.data.splits["val"]
    if train.labels.ndim != 1:
        raise UserError("fine-tuning needs one class an image", remedy="choose a classification task", code=2)
    loaded = context.loaded
    preprocess = Preprocess.of(loaded.passport, **params.extraction.pixels())
    everything = joined(train, val)
    # A share of the labels is drawn from all of them, as SimCLR's lists are; what it leaves is never trained on.
    whole = params.subset is None
    labelled = everything if params.subset is None else subset(everything, params.subset)
    own = joined(train) if whole else labelled
    held_out = val if whole else _without(val, labelled)
    identity = {
        "checkpoint": loaded.passport.weights_sha256,
        "params": context.protocol.params,
        "seed": context.seed,
        "images": [train.pool.digest, val.pool.digest, len(train), len(val)],
    }
    claims.claim(context.work, identity, keeps=["*.pt"])

    def trained(
        name: str, images: Images, rates: list[tuple[float, float]], parts: tuple[str, ...]
    ) -> Trainer:
        trainer = Trainer(
            loaded.backbone,
            preprocess,
            images,
            context.data.num_classes,
            params,
            rates,
            context.seed,
            context.work / f"{name}.pt",
            context.progress,
            parts,
        )
        trainer.train()
        return trainer

    selected: dict[str, Any] = {"split": None, "epoch": "last"}
    warnings: tuple[str, ...] = ()
    part, index, rates = 0, 0, list(params.lr)
    if len(rates) * len(params.parts) > 1:
        measured = metric(context.metric)
        groups = [rates] if params.freeze else [[pair] for pair in rates]
        tables = [
            trained(f"select-{place}", own, group, params.parts).scores(held_out)
            for place, group in enumerate(groups)
        ]
        values = np.array([measured(scores, held_out.labels) for table in tables for scores in table])
        if params.features:
            table = values.reshape(len(params.features), -1)
            (part, index), selected, warnings = select_pair(table, params.features, [r for _, r in rates])
        else:
            places = np.arange(len(rates), dtype=float)
            index, selected, warnings = select(values, places, name="lr", edges=False)
            selected["grid"] = [[list(r), float(v)] for r, v in zip(rates, values, strict=True)]
        selected["epoch"] = "last"
    final = trained("final", labelled, [rates[index]], (params.parts[part],))
    selected |= {"lr": list(rates[index]), "refit": "train+val" if whole else "labelled part of train+val"}
    if params.features:
        selected |= {"features": params.features[part], "lr": rates[index][1]}

    def scores(split: Split) -> Array:
        table: Array = final.scores(split)[0]
        return table

    counts = {"labelled": len(own), "trained_on": len(labelled)}
    return Finetuned(scores, selected, warnings, counts)


def _without(split: Split, images: Images) -> Split:
    """A split without some images."""
    gone = {index for other, index in images if other is split}
    rest = np.array([index for index in range(len(split)) if index not in gone], dtype=np.int64)
    return split.subset(rest)


def measure(context: Context) -> Measured:
    """Train, then score the test images."""
    context.loaded.backbone.to(context.device)
    tuned = run(context)
    test = context.data.splits["test"]
    scores = tuned.scores(test)
    return Measured(
        scoring.estimates(context.metric, scores, test.labels, softmax(scores)),
        context.data.counts | tuned.counts,
        tuned.selected,
        warnings=tuned.warnings,
        arrays=scoring.outcomes(scores, test.labels),
    )


KIND = Kind(Params, ("classification",), measure)
