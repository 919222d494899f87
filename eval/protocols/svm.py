"""Linear SVMs a class, the cost by cross-validated average precision (VISSL's VOC07 benchmark)."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..errors import UserError
from ..numbers.metrics import average_precision
from . import base, frozen
from .base import Array, Count, Fitted, Labelled, Listed, Positive, require


class Params(base.Params):
    """Parameters of the SVMs.

    Attributes:
        costs: The grid of C.
        folds: Of the cross-validation that chooses a cost.
        positive_weight: Weight of a positive example; negatives have 1.
        max_iter: Iterations after which liblinear stops.
        shots: Positives a class in low-shot classification; None uses all examples.
    """

    costs: Annotated[tuple[Positive, ...], Listed]
    folds: Annotated[int, Field(ge=2)]
    positive_weight: Positive
    max_iter: Count
    shots: Count | None


def _unit(features: Array) -> Array:
    """Rows divided by their norm + 1e-5, as VISSL's `_normalize_features` does, in float64."""
    x = np.asarray(features, dtype=np.float64)
    result: Array = x / (np.linalg.norm(x, axis=1) + 1e-5)[:, None]
    return result


def _classifier(cost: float, params: Params, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        class_weight={1: params.positive_weight, -1: 1.0},
        intercept_scaling=1.0,
        penalty="l2",
        loss="squared_hinge",
        tol=1e-4,
        dual=True,
        max_iter=params.max_iter,
        random_state=seed,
    )


def low_shot_rows(labels: Array, column: int, shots: int, generator: np.random.Generator) -> Array:
    """A class's sample as VISSL draws it: k positives, and (C - 1) k negatives from all that are negative.

    Args:
        labels: (N, C) with 1 present, 0 absent, -1 difficult.
        column: The class.
        shots: k.
        generator: Of the draw.

    Returns:
        Positions of the chosen examples, sorted; fewer where there are fewer.
    """
    wanted = {1: shots, 0: (labels.shape[1] - 1) * shots}
    chosen = [
        generator.permutation(np.flatnonzero(labels[:, column] == symbol))[:count]
        for symbol, count in wanted.items()
    ]
    return np.sort(np.concatenate(chosen))


class _Fits:
    """Linear SVMs, and how many of them stopped early."""

    def __init__(self, params: Params, seed: int) -> None:
        self.params, self.seed = params, seed
        self.count = self.stopped = 0

    @contextmanager
    def counted(self, fits: int) -> Iterator[None]:
        """Count the fits made within."""
        from sklearn.exceptions import ConvergenceWarning

        with python_warnings.catch_warnings(record=True) as caught:
            python_warnings.simplefilter("always", ConvergenceWarning)
            yield
        self.count += fits
        self.stopped += sum(issubclass(warning.category, ConvergenceWarning) for warning in caught)

    def fit(self, x: Array, y: Array, cost: float) -> Any:
        """A fitted classifier of features (N, D) and labels (N,) of 1 and -1."""
        with self.counted(1):
            return _classifier(cost, self.params, self.seed).fit(x, y)

    def cross_validated(self, x: Array, y: Array, cost: float) -> float:
        """Mean average precision over stratified folds of the examples in their order."""
        from sklearn.model_selection import cross_val_score

        with self.counted(self.params.folds):
            model = _classifier(cost, self.params, self.seed)
            values = cross_val_score(model, x, y, cv=self.params.folds, scoring="average_precision")
        return float(values.mean())


def fit(
    train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "map_area_vissl"
) -> Fitted:
    """One SVM a class over train and val, in the order of the file names where they are known.

    Without ``shots`` every class's cost is the one with the highest mean average precision in cross-validation.
    With ``shots`` the seed draws every class's sample, and one cost for all classes is chosen by the mean average
    precision on the examples that the samples leave.
    """
    require(train, "train")
    require(val, "val")
    both = train.joined(val)
    order = np.arange(len(both)) if both.names is None else np.argsort(both.names, kind="stable")
    labels = (both.labels if both.multilabel else both.targets())[order]
    x = _unit(np.asarray(both.features))[order]
    # Difficult objects keep the label -1, which is also the label of absence: they train as negatives.
    targets = np.where(labels > 0, 1, -1)
    fits = _Fits(params, seed)
    needed = params.folds if params.shots is None else 1
    learnt = [
        column
        for column in range(both.num_classes)
        if min((targets[:, column] == 1).sum(), (targets[:, column] == -1).sum()) >= needed
    ]
    if not learnt:
        raise UserError(
            f"no class has {needed} positives and as many negatives",
            remedy="cross-validation needs that many of each; add images or lower folds",
        )
    warnings: tuple[str, ...] = ()
    if params.shots is None:
        models, selected = _whole(x, targets, learnt, fits)
    else:
        models, selected, warnings = _low_shot(x, labels, targets, learnt, fits)
    weights, biases = np.zeros((x.shape[1], both.num_classes)), np.zeros(both.num_classes)
    for column, model in models.items():
        weights[:, column], biases[column] = model.coef_[0], model.intercept_[0]
    if fits.stopped:
        warnings = (f"{fits.stopped} of {fits.count} SVM fits stopped at max_iter", *warnings)
    if unlearnt := sorted(set(range(both.num_classes)) - set(learnt)):
        warnings += (f"fewer than {needed} positives or negatives, scored alike: classes {unlearnt}",)
    certificate = {
        "solver": "scikit-learn LinearSVC, dual",
        "fits": fits.count,
        "stopped_early": fits.stopped,
    }

    def scores(features: Array) -> Array:
        values: Array = _unit(np.asarray(features)) @ weights + biases
        return values

    return Fitted(scores, selected, certificate, warnings)


def _whole(x: Array, targets: Array, learnt: list[int], fits: _Fits) -> tuple[dict[int, Any], dict[str, Any]]:
    """Models by class, each class's cost by cross-validation."""
    costs = list(fits.params.costs)
    table: list[list[float]] = [[] for _ in range(targets.shape[1])]
    chosen: list[float | None] = [None] * targets.shape[1]
    models = {}
    for column in learnt:
        y = targets[:, column]
        table[column] = [fits.cross_validated(x, y, cost) for cost in costs]
        best = costs[int(np.argmax(np.nan_to_num(table[column])))]
        chosen[column], models[column] = best, fits.fit(x, y, best)
    return models, {
        "cost": chosen,
        "split": "cross-validation on train+val",
        "grid": costs,
        "value": table,
    }


def _low_shot(
    x: Array, labels: Array, targets: Array, learnt: list[int], fits: _Fits
) -> tuple[dict[int, Any], dict[str, Any], tuple[str, ...]]:
    """Models by class from k positives each, one cost for all by what the samples leave."""
    params = fits.params
    assert params.shots is not None
    generator = np.random.default_rng(fits.seed)
    rows = {column: low_shot_rows(labels, column, params.shots, generator) for column in learnt}
    costs = list(params.costs)
    models = [
        {column: fits.fit(x[rows[column]], targets[rows[column], column], cost) for column in learnt}
        for cost in costs
    ]
    values = np.full((len(costs), len(learnt)), np.nan)
    for place, column in enumerate(learnt):
        rest = np.setdiff1d(np.arange(len(x)), rows[column])
        for index in range(len(costs)):
            if (labels[rest, column] > 0).any():
                found = models[index][column].decision_function(x[rest])
                values[index, place] = average_precision(found, labels[rest, column])
    left = ~np.isnan(values).all(0)
    means = np.nanmean(values[:, left], axis=1) if left.any() else np.zeros(len(costs))
    best = int(np.argmax(means))
    warnings = []
    positives = (labels > 0).sum(0)
    if short := [column for column in learnt if positives[column] < params.shots]:
        warnings.append(f"fewer than {params.shots} positives, all of them used: classes {short}")
    if not left.any():
        warnings.append("the samples leave no positive, so the cost is not chosen but the first")
    selected = {
        "cost": costs[best],
        "split": "what the samples leave of train+val",
        "grid": costs,
        "value": [float(mean) for mean in means],
    }
    return models[best], selected, tuple(warnings)


KIND = frozen.kind(Params, fit, tasks=("multilabel",), names=True)
