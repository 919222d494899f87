"""Label efficiency: the labelled part of a data set that a protocol is given, drawn with the cell's seed.

A draw is stratified: each class has a permutation of its own, and gives its first images. So a smaller draw of a seed
lies inside a larger one, and a draw depends on the seed and the labels alone: all checkpoints get the same images.
All labels that are drawn count: what a protocol chooses on is taken from them, and not from a val set beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from ..errors import UserError
from ..features.matrices import take
from .base import Labelled

Places = npt.NDArray[np.int64]
HELD_OUT = 5  # one of so many labels of a class is chosen on


def _is_share(text: str) -> str:
    if not 0 < share(text) < 1:
        raise ValueError("a share lies above 0% and below 100%; leave it out for all labels")
    return text


Shots = (
    Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$"), AfterValidator(_is_share)]
)
"""Labels a class, or a share of them such as ``10%``."""


def share(text: str) -> float:
    """``10%`` as a fraction."""
    return float(text.removesuffix("%")) / 100


@dataclass(frozen=True)
class Draw:
    """What a protocol is given in place of train and val.

    Attributes:
        train, val: The labelled images; val is train itself where nothing is left to choose on.
        whole: Whether val is a part of its own, which train may be joined with.
        warnings: What a reader of the number should know.
    """

    train: Labelled
    val: Labelled
    whole: bool
    warnings: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Labelled images that are trained on and chosen on."""
        return {"train": len(self.train), "val": len(self.val) if self.whole else 0}


def draw(train: Labelled, val: Labelled, shots: int | str, seed: int) -> Draw:
    """Draw the labelled images from train and val.

    One of five labels of a class is held out for choices (one of two to four; none where there is a single one).

    Args:
        train, val: All that there is.
        shots: Labels a class, or their share; where a class has fewer, all of it.
        seed: Of the draw.

    Raises:
        UserError: For labels a class on a task with several labels an image.
    """
    everything = train.joined(val)
    labels = everything.labels
    if everything.multilabel and isinstance(shots, int):
        raise UserError(
            f"shots={shots}: an image of this task has several labels, so none can be drawn for a class alone",
            remedy="give shares, such as 10%, or the protocols svm-low-shot-*",
            code=2,
        )
    groups = (
        [np.arange(len(labels))]
        if everything.multilabel
        else [np.flatnonzero(labels == label) for label in range(everything.num_classes)]
    )
    kept, held, short = list[Places](), list[Places](), 0
    for label, group in enumerate(groups):
        order = np.random.default_rng([seed, 23, label]).permutation(group)
        wanted = shots if isinstance(shots, int) else max(1, round(share(shots) * len(group)))
        short += len(group) < wanted
        chosen = order[:wanted]
        out = _held_out(len(chosen))
        kept.append(chosen[~out])
        held.append(chosen[out])
    warnings = [f"{short} classes have fewer than {shots} labels, and gave all they have"] if short else []
    own, rest = _part(everything, kept), _part(everything, held)
    if not len(rest):
        warnings.append(
            "one label a class: nothing is left to choose on, and choices are made on these images"
        )
        return Draw(own, own, False, tuple(warnings))
    return Draw(own, rest, True, tuple(warnings))


def _held_out(count: int) -> npt.NDArray[np.bool_]:
    """Which of so many labels of a class are chosen on: every fifth, or the last where there are fewer."""
    places = np.arange(count)
    few = (places == count - 1) & (count > 1)
    many = places % HELD_OUT == HELD_OUT - 1
    found: npt.NDArray[np.bool_] = few if count < HELD_OUT else many
    return found


def _part(whole: Labelled, places: list[Places]) -> Labelled:
    rows = np.sort(np.concatenate(places)).astype(np.int64)
    names = None if whole.names is None else whole.names[rows]
    return Labelled(take(whole.features, rows), whole.labels[rows], whole.num_classes, names)
