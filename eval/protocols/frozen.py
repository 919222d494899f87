"""Kinds on frozen features: they are fitted on train and val, and one function scores them all on test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..features.matrices import Features, blocks
from . import base, draws, scoring
from .base import Array, Context, Fitted, Kind, Labelled, Measured, whole

if TYPE_CHECKING:
    from . import Protocol

Fit = Callable[..., Fitted]


class Params(base.Params):
    """Parameters of kinds that can be given a part of the labels.

    Attributes:
        shots: Labels a class or their share, drawn with the cell's seed; all when None, see `draws`.
    """

    shots: draws.Shots | None = None


def kind(
    params: type[base.Params],
    fit: Fit,
    *,
    tasks: tuple[str, ...],
    family: str = "",
    names: bool = False,
    data: Callable[[Any, Any, int], Any] = whole,
    caveats: Callable[[Context], tuple[str, ...]] = lambda context: (),
) -> Kind:
    """A kind whose work is ``fit(train, val, params, seed, *, metric_name) -> Fitted``.

    Args:
        params: Its parameters.
        fit: Its work.
        tasks: The kinds of tasks it serves.
        family: As of `Kind`.
        names: Whether ``fit`` is to know the images' file names.
        data: As of `Kind`.
        caveats: What a reader of the number should know of the data.
    """

    def measure(context: Context) -> Measured:
        train, val = context.labelled("train", names=names), context.labelled("val", names=names)
        given, counts, told = context.params, context.data.counts, caveats(context)
        if isinstance(given, Params) and given.shots is not None:
            part = draws.draw(train, val, given.shots, context.seed)
            train, val, counts, told = part.train, part.val, counts | part.counts, told + part.warnings
            if not part.whole and "refit" in type(given).model_fields:
                given = given.model_copy(update={"refit": False})  # train has them all
        fitted = fit(train, val, given, context.seed, metric_name=context.metric)
        labels = context.data.splits["test"].labels
        measured = score(fitted, context.features("test"), labels, context.metric, counts)
        return replace(measured, warnings=measured.warnings + told)

    return Kind(params, tasks, measure, fit=fit, data=data, family=family, images=False)


def fit(protocol: Protocol, train: Labelled, val: Labelled, *, seed: int = 0, metric: str = "top1") -> Fitted:
    """Run a protocol on frozen features up to the point where it wants test features.

    It is given no test data: the caller hands test features to the result's ``scores`` and keeps the labels.

    Args:
        protocol: One whose kind works on frozen features.
        train: Features and labels of train.
        val: Features and labels of val, for selection.
        seed: Seed of whatever is random in it.
        metric: What selection maximises.

    Raises:
        UserError: If the kind does not work on frozen features, or a part is empty.
    """
    run = protocol.code.fit
    if run is None:
        raise UserError(
            f"protocol '{protocol.name}' of kind '{protocol.kind}' is not fitted on frozen features",
            remedy="`mast list protocols` shows the kinds: linear, knn, svm, ridge and sgd are",
            code=2,
        )
    return run(train, val, protocol.settings, seed, metric_name=metric)


def score(
    fitted: Fitted, test: Features, labels: Array, metric: str, counts: dict[str, int] | None = None
) -> Measured:
    """Score a fitted protocol on test: the one place where test labels meet its scores.

    Args:
        fitted: What `fit` gave.
        test: (N, D) test features.
        labels: (N,) or (N, C) their labels.
        metric: The metric that stands in tables.
        counts: Number of examples by split.
    """
    parts = list(blocks(test))
    scores = np.concatenate([fitted.scores(part) for _, part in parts])
    probabilities = None
    if fitted.probabilities is not None:
        probabilities = np.concatenate([fitted.probabilities(part) for _, part in parts])
    return Measured(
        scoring.estimates(metric, scores, labels, probabilities),
        counts or {},
        fitted.selected,
        fitted.certificate,
        fitted.warnings,
        scoring.outcomes(scores, labels, probabilities),
    )
