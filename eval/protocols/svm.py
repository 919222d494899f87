"""Linear SVMs a class, the cost by cross-validated average precision (VISSL's VOC07 benchmark)."""

from __future__ import annotations

import warnings as python_warnings
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
        class_weight={1: float(params.positive_weight), -1: 1.0},
        intercept_scaling=1.0,
        penalty="l2",
        loss="squared_hinge",
        tol=1e-4,
        dual=True,
        max_iter=int(params.max_iter),
        random_state=seed,
    )


def low_shot_rows(labels: Array, column: int, shots: int, generator: np.random.Generator) -> Array:
    """``shots`` positives of a class and ``shots`` negatives for every other class, as VISSL draws them.

    Args:
        labels: (N, C) with 1 present, 0 absent, -1 difficult.
        column: The class.
        shots: k.
        generator: Of the draw.

    Returns:
        Positions of the chosen examples, sorted.
    """
    chosen = [generator.permutation(np.flatnonzero(labels[:, column] == 1))[:shots]]
    for other in range(labels.shape[1]):
        if other != column:
            pool = np.flatnonzero((labels[:, other] == 1) & (labels[:, column] == 0))
            chosen.append(generator.permutation(pool)[:shots])
    return np.unique(np.concatenate(chosen))


def fit(
    train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "map_area"
) -> Fitted:
    """One SVM a class on train and val together.

    The cost of a class is the one with the best mean average precision in cross-validation over train and val; with
    ``shots``, where folds would be too small, the one with the best average precision on val, and the seed draws
    the sample.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import cross_val_score

    require(train, "train")
    require(val, "val")
    costs = [float(cost) for cost in params.costs]
    both = train.joined(val)
    # Difficult objects keep the label -1, which is also the label of absence: they train as negatives.
    targets = np.where(both.labels > 0, 1, -1) if both.multilabel else 2 * both.targets().astype(int) - 1
    x = _unit(np.asarray(both.features))
    shots = params.shots
    generator = np.random.default_rng(seed)
    weights, biases = np.zeros((x.shape[1], both.num_classes)), np.zeros(both.num_classes)
    chosen: list[float | None] = []
    table: list[list[float]] = []
    unconverged, fits = 0, 0
    needed = int(params.folds) if shots is None else 1
    for column in range(both.num_classes):
        y = targets[:, column]
        positives = int((y == 1).sum() if shots is None else (train.targets()[:, column] == 1).sum())
        if min(positives, len(y) - positives) < needed:
            chosen.append(None)  # cannot be learnt: all examples score alike
            table.append([])
            continue
        with python_warnings.catch_warnings(record=True) as caught:
            python_warnings.simplefilter("always", ConvergenceWarning)
            if shots is None:
                points = [
                    cross_val_score(
                        _classifier(cost, params, seed),
                        x,
                        y,
                        cv=int(params.folds),
                        scoring="average_precision",
                    ).mean()
                    for cost in costs
                ]
                rows = np.arange(len(y))
            else:
                labels = train.labels if train.multilabel else train.targets()
                rows = low_shot_rows(labels, column, int(shots), generator)
                held_out = _unit(np.asarray(val.features))
                truth = (targets[len(train) :, column] > 0).astype(float)
                points = []
                for cost in costs:
                    model = _classifier(cost, params, seed).fit(x[rows], y[rows])
                    points.append(float(average_precision(model.decision_function(held_out), truth)))
            best = int(np.argmax(np.nan_to_num(points)))
            model = _classifier(costs[best], params, seed).fit(x[rows], y[rows])
        fits += len(costs) * (int(params.folds) if shots is None else 1) + 1
        unconverged += sum(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        weights[:, column], biases[column] = model.coef_[0], model.intercept_[0]
        chosen.append(costs[best])
        table.append([float(point) for point in points])
    split = "cross-validation on train+val" if shots is None else "val"
    selected = {"cost": chosen, "split": split, "grid": costs, "value": table}
    certificate = {"solver": "scikit-learn LinearSVC, dual", "fits": fits, "stopped_early": unconverged}
    warnings: tuple[str, ...] = ()
    if unconverged:
        warnings += (f"{unconverged} of {fits} SVM fits stopped at max_iter",)
    if unlearnt := [column for column, cost in enumerate(chosen) if cost is None]:
        if len(unlearnt) == both.num_classes:
            raise UserError(
                f"no class has {needed} positives and as many negatives",
                remedy="cross-validation needs that many of each; add images or lower folds",
            )
        warnings += (f"fewer than {needed} positives or negatives, scored alike: classes {unlearnt}",)

    def scores(features: Array) -> Array:
        values: Array = _unit(np.asarray(features)) @ weights + biases
        return values

    return Fitted(scores, selected, certificate, warnings)


KIND = frozen.kind(Params, fit, tasks=("multilabel",))
