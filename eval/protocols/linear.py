"""Linear probes by penalised logistic regression: the penalty chosen on val, the probe refit on train and val."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UserError
from ..metrics import softmax
from .base import Array, Fitted, Labelled, Params, metric, require, select, transform
from .solver import Solutions, rotate, solve


def penalties(params: Params) -> Array:
    """The grid of lambdas: ``penalties: [log10 of the first, log10 of the last, how many]``."""
    try:
        first, last, count = params["penalties"]
        grid: Array = np.logspace(float(first), float(last), int(count))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"penalties is {params['penalties']!r}", remedy="give [log10 first, log10 last, count]", code=2
        ) from error
    return grid


def _describe(solutions: Solutions, grid: Array, tolerance: float) -> dict[str, Any]:
    certified = solutions.gap <= tolerance
    return {
        "solver": "newton-cg, float64 gradients",
        "criterion": f"|g|^2 / (2 lambda) <= {tolerance:g} of the objective",
        "certified": int(certified.sum()),
        "of": len(grid),
        "uncertified": [float(value) for value in grid[~certified]],
        "largest_gap": float(solutions.gap.max()),
        "newton_steps": int(solutions.iterations.max()),
    }


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Fit the protocol of ``params["solver"]``; see eval/protocols/linear*.yaml for the recipes."""
    require(train, "train")
    require(val, "val")
    return _certified(train, val, params, metric_name)


def _certified(train: Labelled, val: Labelled, params: Params, metric_name: str) -> Fitted:
    import torch

    measure = metric(metric_name)
    grid = penalties(params)
    tolerance = float(params["tolerance"])
    link = "sigmoid" if train.multilabel else "softmax"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"link": link, "tolerance": tolerance, "device": device}

    prepare = transform(params["transform"], train.features)
    x, held_out = prepare(train.features), prepare(val.features)
    solutions = solve(x, train.targets(), grid, basis=rotate(x, device), **options)
    values = np.array(
        [
            measure(held_out @ w + b, val.labels)
            for w, b in zip(solutions.weights, solutions.biases, strict=True)
        ]
    )
    # Among equals the strongest penalty: it is the easiest to certify and the least sensitive to the solver.
    index, selected, warnings = select(values, grid, name="lambda", prefer="last")
    certificate = _describe(solutions, grid, tolerance)
    if solutions.gap[index] > tolerance:
        warnings += (f"the selected lambda {grid[index]:.6g} is not certified",)
    final, last = solutions, index
    if params["refit"]:
        both = train.joined(val)
        prepare = transform(params["transform"], both.features)
        final = solve(prepare(both.features), both.targets(), grid[index : index + 1], **options)
        last = 0
        selected["refit"] = "train+val"
        certificate["refit"] = {
            "gap": float(final.gap[0]),
            "gradient_norm": float(final.gradient_norm[0]),
            "objective": float(final.objective[0]),
            "certified": bool(final.gap[0] <= tolerance),
        }
        if final.gap[0] > tolerance:
            warnings += ("the refit is not certified",)
    weights, bias = final.weights[last], final.biases[last]
    prepared = prepare

    def scores(features: Array) -> Array:
        values: Array = prepared(features) @ weights + bias
        return values

    probabilities = None if train.multilabel else lambda features: softmax(scores(features))
    return Fitted(scores, selected, certificate, warnings, probabilities)
