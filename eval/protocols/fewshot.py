"""Few-shot classification: episodes drawn from a pool of splits, one head for all of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..numbers import intervals, pool
from ..numbers.pool import contributions
from . import base
from .base import Context, Count, Estimate, Kind, Labelled, Listed, Measured, Positive


class Params(base.Params):
    """Parameters of few-shot episodes.

    Attributes:
        head: What classifies the queries of an episode.
        way: Classes in an episode.
        shots: Labelled images a class.
        queries: Images a class that are classified.
        episodes: Their number.
        transform: Of the features.
        C: Cost of the logistic head.
        ridge: Penalty of the ridge head.
        interval: ``t``, or the papers' ``normal``: 1.96 standard errors over episodes.
        splits: What the pool holds.
        short: Classes with fewer images than shots and queries: left out, or, where they have more than the shots,
            with queries drawn with replacement (``resample``).
    """

    head: Literal["prototype", "cosine", "ridge", "logistic"]
    way: Annotated[int, base.Field(ge=2)]
    shots: Count
    queries: Count
    episodes: Count
    transform: Literal["none", "l2"]
    C: Positive
    ridge: Positive
    interval: Literal["t", "normal"]
    splits: Annotated[tuple[Literal["train", "val", "test"], ...], Listed]
    short: Literal["leave out", "resample"] = "leave out"

    def smoke(self, limit: int) -> dict[str, Any]:
        """Episodes that a few images of two classes can fill."""
        return {"way": 2, "shots": 1, "queries": 1, "episodes": limit}


def outcomes(images: Labelled, params: Params, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """What happened in every episode, with the head of ``params.head``.

    Returns:
        ``episodes`` (E,) accuracies, and ``contributions`` (2, N) float32: what each image of the pool adds to their
        mean, see `eval.numbers.pool`. With them two checkpoints are compared over images, which episodes share, and
        not over episodes alone.

    Raises:
        UserError: If images have several labels, or too few classes have enough images.
    """
    from .episodes import answers, draw

    if images.multilabel:
        raise UserError(
            "few-shot episodes need one class an image", remedy="choose a classification task", code=2
        )
    chosen = draw(
        images.labels,
        way=params.way,
        shots=params.shots,
        queries=params.queries,
        num_episodes=params.episodes,
        seed=seed,
        resample=params.short == "resample",
    )
    right = answers(np.asarray(images.features), chosen, params)
    added = contributions(
        right.reshape(chosen.query.shape), chosen.support, chosen.query, np.asarray(images.labels)
    )
    return {"episodes": right.mean(1), "contributions": added.astype(np.float32)}


def measure(context: Context) -> Measured:
    """Mean accuracy over episodes, with an interval over the pool's images.

    The interval over episodes, which tells how well the pool's mean is known and is what papers print, stands beside
    it under the metric's name with ``_episodes``.
    """
    params: Params = context.params
    found = outcomes(context.labelled(*params.splits), params, context.seed)
    values = np.asarray(found["episodes"], dtype=np.float64)
    value, spread = float(values.mean()), pool.interval(found["contributions"], values)
    over = intervals.normal_legacy if params.interval == "normal" else intervals.episodes
    counts = {split: len(context.data.splits[split]) for split in params.splits}
    return Measured(
        {
            context.metric: Estimate(value, spread),
            f"{context.metric}_episodes": Estimate(value, over(values)),
        },
        counts | {"episodes": len(values)},
        arrays=found,
    )


KIND = Kind(Params, ("classification",), measure, images=False)
