"""Linear probes by penalised logistic regression: the penalty chosen on val, the probe refit on train and val.

``solver: certified`` solves the published problem to a certified optimum. The legacy solvers run the published
recipes as they are, where they stop included: ``sklearn`` is scikit-learn's L-BFGS, ``augself`` is torch's.
"""

from __future__ import annotations

import warnings as python_warnings
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import model_validator

from ..device import device as choose_device
from ..errors import UserError
from ..numbers.metrics import softmax
from . import frozen, splits
from .base import Array, Count, Fitted, Labelled, Listed, Positive, metric, require, select, transform

if TYPE_CHECKING:
    from .solver import Solutions

LOWEST = float(np.finfo(np.float32).min)  # the score of a class that train lacks


Penalties = Annotated[tuple[float, float, Count], Listed]
_STOPPING = {  # what tells each solver when to stop
    "certified": {"tolerance"},
    "sklearn": {"max_iter", "tol"},
    "lbfgs": {"max_iter", "tol"},
    "augself": {"max_iter"},
}


class Params(frozen.Params):
    """Parameters of the linear probes.

    Attributes:
        solver: Who solves the problem, see above.
        penalties: log10 of the first, log10 of the last, and how many; the grid that val chooses from.
        transform: Of the features, fitted on training features.
        refit: Whether val joins train once the penalty is chosen.
        val: Who cuts val from train where the data set has none, see `splits`.
        tolerance: ``certified``: |g|^2 / (2 lambda) as a share of the objective.
        max_iter: The others: iterations after which they stop.
        tol: ``sklearn`` and ``lbfgs``: the largest gradient at which they stop.
    """

    solver: Literal["certified", "sklearn", "lbfgs", "augself"]
    penalties: Penalties
    transform: Literal["none", "l2", "standard"]
    refit: bool
    val: splits.Published = "task"
    tolerance: Positive = 0.0
    max_iter: Count = 0
    tol: Positive = 0.0

    @model_validator(mode="after")
    def _stopping(self) -> Self:
        given = self.model_fields_set & {"tolerance", "max_iter", "tol"}
        if given != (needed := _STOPPING[self.solver]):
            raise ValueError(
                f"the solver {self.solver} stops by {' and '.join(sorted(needed))}, "
                f"and {' and '.join(sorted(given)) or 'nothing'} is given"
            )
        return self


def penalties(exponents: tuple[float, float, int]) -> Array:
    """The grid of lambdas, all positive: from log10 of the first, log10 of the last, and how many."""
    grid: Array = np.logspace(*exponents)
    return grid


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    """Fit the protocol of ``params.solver``; see eval/protocols/linear*.yaml for the recipes."""
    require(train, "train")
    require(val, "val")
    if params.solver == "certified":
        return _certified(train, val, params, metric_name)
    if params.solver == "sklearn":
        return _sklearn(train, val, params, metric_name)
    if params.solver == "lbfgs":
        return _lbfgs(train, val, params, metric_name)
    return _augself(train, val, params, seed, metric_name)


def _fitted(
    prepare: Any,
    weights: Array,
    bias: Array,
    multilabel: bool,
    selected: dict[str, Any],
    certificate: dict[str, Any],
    warnings: tuple[str, ...],
) -> Fitted:
    def scores(features: Array) -> Array:
        values: Array = prepare(features) @ weights + bias
        return values

    probabilities = None if multilabel else lambda features: softmax(scores(features))
    return Fitted(scores, selected, certificate, warnings, probabilities)


# -- certified -----------------------------------------------------------------------------------------------


def _describe(solutions: Solutions, grid: Array, tolerance: float) -> dict[str, Any]:
    certified = solutions.gap <= tolerance
    return {
        "solver": "newton-cg, float64 gradients",
        "criterion": f"|g|^2 / (2 lambda) <= {tolerance:g} of the objective and of its drop below a constant",
        "certified": int(certified.sum()),
        "of": len(grid),
        "uncertified": [float(value) for value in grid[~certified]],
        "largest_gap": float(solutions.gap.max()),
        "newton_steps": int(solutions.iterations.max()),
    }


def _certified(train: Labelled, val: Labelled, params: Params, metric_name: str) -> Fitted:
    from .solver import solve

    measure = metric(metric_name)
    grid = penalties(params.penalties)
    tolerance = params.tolerance
    link = "sigmoid" if train.multilabel else "softmax"
    device = choose_device()
    options: dict[str, Any] = {"link": link, "tolerance": tolerance, "device": device}

    prepare = transform(params.transform, train.features)
    x, held_out = prepare(train.features), prepare(val.features)
    solutions = solve(x, train.targets(), grid, **options)
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
    if params.refit:
        both = train.joined(val)
        prepare = transform(params.transform, both.features)
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
    return _fitted(prepare, weights, bias, train.multilabel, selected, certificate, warnings)


# -- legacy: scikit-learn ------------------------------------------------------------------------------------


def _grid_of_torch(params: Params) -> Array:
    """The grid in float32 as torch makes it, so that C shows as 999.99995 and not 1000."""
    import torch

    first, last, count = params.penalties
    return torch.logspace(first, last, count).double().numpy()


def _sklearn(train: Labelled, val: Labelled, params: Params, metric_name: str) -> Fitted:
    """scikit-learn's own L-BFGS, cold, over a grid of C."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from .solver import gap

    if train.multilabel:
        raise UserError("this recipe has no form for several labels an image", remedy="use linear", code=2)
    measure = metric(metric_name)
    grid = _grid_of_torch(params)
    prepare = transform(params.transform, train.features)
    iterations: list[int] = []

    def run(part: Labelled, cost: float) -> tuple[Array, Array]:
        """Weights (D, C) and bias (C,)."""
        model: Any = LogisticRegression(C=float(cost), max_iter=params.max_iter, tol=params.tol)
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(prepare(part.features).astype(np.float64), part.labels)
        iterations.append(int(model.n_iter_.max()))
        return _rows(model, part.num_classes)

    held_out = prepare(val.features).astype(np.float64)
    values = []
    for cost in grid:
        weights, bias = run(train, cost)
        values.append(measure(held_out @ weights + bias, val.labels))
    index, selected, warnings = select(np.array(values), grid, name="C")
    part = train
    if params.refit:
        part = train.joined(val)
        selected["refit"] = "train+val"
    weights, bias = run(part, grid[index])
    certificate = {
        "solver": f"scikit-learn lbfgs, {params.max_iter} iterations, tol {params.tol:g}",
        "stopped_early": int(sum(count >= params.max_iter for count in iterations)),
        "fits": len(iterations),
        "gap": gap(prepare(part.features), part.targets(), weights, bias, 1.0 / grid[index], "softmax"),
    }
    return _fitted(prepare, weights, bias, False, selected, certificate, warnings)


def _rows(model: Any, num_classes: int) -> tuple[Array, Array]:
    """A fitted model's weights (D, C) and bias (C,); a class that train lacks gets the score -inf."""
    if len(model.classes_) == 2:  # one row for two classes
        coef, intercept = (
            np.vstack([-model.coef_, model.coef_]) / 2,
            np.r_[-model.intercept_, model.intercept_] / 2,
        )
    else:
        coef, intercept = model.coef_, model.intercept_
    weights = np.zeros((coef.shape[1], num_classes))
    bias = np.full(num_classes, LOWEST)
    weights[:, model.classes_] = coef.T
    bias[model.classes_] = intercept
    return weights, bias


# -- legacy: ssl-transfer -------------------------------------------------------------------------------------


class _Path:
    """One model that goes along a grid of penalties, warm, and what it did.

    Attributes:
        iterations: Of every fit.
        unlearnt: Classes, of several labels, that train has no example of or nothing but examples of.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self.iterations: list[int] = []
        self.unlearnt: set[int] = set()
        self._rows: dict[int, Array] = {}  # of the last fit: for each class its weights and bias

    def fit(self, x: Array, part: Labelled, penalty: float) -> tuple[Array, Array]:
        """Weights (D, C) and biases (C,); with several labels the model, warm, goes from class to class."""
        x = x.astype(np.float64)
        if not part.multilabel:
            weights, biases = np.zeros((x.shape[1], part.num_classes)), np.full(part.num_classes, LOWEST)
            for index, row in self._minimum(x, part.labels, penalty).items():
                weights[:, index], biases[index] = row[:-1], row[-1]
            return weights, biases
        weights, biases = np.zeros((x.shape[1], part.num_classes)), np.zeros(part.num_classes)
        for column, truth in enumerate(part.targets().T.astype(np.int64)):
            if truth.min() == truth.max():
                self.unlearnt.add(column)
                continue
            row = self._minimum(x, truth, penalty)[1]
            weights[:, column], biases[column] = row[:-1], row[-1]
        return weights, biases

    def _minimum(self, x: Array, labels: Array, penalty: float) -> dict[int, Array]:
        """Rows (D + 1,) of the multinomial problem, two for two classes, as scikit-learn 0.24 solved it."""
        import scipy.optimize

        classes = [int(label) for label in np.unique(labels)]
        rows, columns = np.searchsorted(classes, labels), np.arange(len(labels))
        width = x.shape[1]

        def value(flat: Array) -> tuple[float, Array]:
            theta = flat.reshape(len(classes), width + 1)
            logits = theta[:, :width] @ x.T + theta[:, width:]  # (C, N)
            logits -= logits.max(0)
            loss = penalty / 2 * (theta[:, :width] ** 2).sum() - logits[rows, columns].sum()
            residual = np.exp(logits, out=logits)
            total = residual.sum(0)
            residual /= total
            residual[rows, columns] -= 1
            weights = residual @ x + penalty * theta[:, :width]
            gradient = np.concatenate([weights, residual.sum(1, keepdims=True)], 1)
            return float(loss + np.log(total).sum()), gradient.ravel()

        start = np.stack([self._rows.get(index, np.zeros(width + 1)) for index in classes])
        found = scipy.optimize.minimize(
            value,
            start.ravel(),
            method="L-BFGS-B",
            jac=True,
            options={"gtol": self.params.tol, "maxiter": self.params.max_iter},
        )
        self.iterations.append(int(found.nit))
        self._rows = dict(zip(classes, found.x.reshape(len(classes), -1), strict=True))
        return self._rows


def _lbfgs(train: Labelled, val: Labelled, params: Params, metric_name: str) -> Fitted:
    """ssl-transfer's loop with the stopping rules of scikit-learn 0.24: the sum of losses, scipy's own ``ftol``."""
    from .solver import gap

    measure = metric(metric_name)
    grid = _grid_of_torch(params)
    prepare = transform(params.transform, train.features)
    path = _Path(params)
    x, held_out = prepare(train.features), prepare(val.features)
    values = []
    for penalty in grid:
        weights, bias = path.fit(x, train, float(penalty))
        values.append(measure(held_out @ weights + bias, val.labels))
    index, selected, warnings = select(np.array(values), grid, name="lambda")
    selected["C"] = 1.0 / float(grid[index])
    path.unlearnt.clear()
    part = train
    if params.refit:
        part = train.joined(val)
        selected["refit"] = "train+val"
    weights, bias = path.fit(prepare(part.features), part, float(grid[index]))
    if path.unlearnt:
        warnings += (f"without positive or negative examples, scored alike: classes {sorted(path.unlearnt)}",)
    certificate = {
        "solver": f"scipy L-BFGS, {params.max_iter} iterations, gradient {params.tol:g}",
        "stopped_early": sum(count >= params.max_iter for count in path.iterations),
        "fits": len(path.iterations),
    }
    if not part.multilabel:
        penalty = float(grid[index])
        certificate["gap"] = gap(prepare(part.features), part.targets(), weights, bias, penalty, "softmax")
    return _fitted(prepare, weights, bias, train.multilabel, selected, certificate, warnings)


# -- legacy: AugSelf -----------------------------------------------------------------------------------------


def _augself(train: Labelled, val: Labelled, params: Params, seed: int, metric_name: str) -> Fitted:
    """hankook/AugSelf transfer_linear_eval.py: sum loss + lambda (|W|^2 + |b|^2), torch L-BFGS, warm."""
    import copy

    import torch
    from torch import nn

    if train.multilabel:
        raise UserError(
            f"{params.solver} has no form for several labels an image", remedy="use linear", code=2
        )
    measure = metric(metric_name)
    grid = _grid_of_torch(params)
    device = choose_device()
    prepare = transform(params.transform, train.features)

    def tensors(part: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(np.array(prepare(part.features))).to(device)
        return x, torch.from_numpy(np.array(part.labels)).to(device)

    steps: list[int] = []

    def run(classifier: nn.Linear, x: torch.Tensor, y: torch.Tensor, w: float) -> None:
        optimizer = torch.optim.LBFGS(
            classifier.parameters(),
            line_search_fn="strong_wolfe",
            max_iter=params.max_iter,
            lr=1.0,
            tolerance_grad=1e-10,
            tolerance_change=0,
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(classifier(x), y, reduction="sum")
            for p in classifier.parameters():
                loss = loss + p.pow(2).sum().mul(w)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        steps.append(int(optimizer.state[optimizer._params[0]]["n_iter"]))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = nn.Linear(train.features.shape[1], train.num_classes).to(device)
    (x, y), (held_out, _) = tensors(train), tensors(val)
    values, best, kept = [], 0.0, classifier
    for w in grid:
        run(classifier, x, y, float(w))
        with torch.no_grad():
            values.append(measure(classifier(held_out).cpu().numpy(), val.labels))
        if values[-1] > best:
            best, kept = values[-1], copy.deepcopy(classifier)
    index, selected, warnings = select(np.array(values), grid, name="lambda")
    if params.refit:
        run(kept, *tensors(train.joined(val)), float(grid[index]))
        selected["refit"] = "train+val"
    weights = kept.weight.detach().cpu().numpy().T.astype(np.float64)
    bias = kept.bias.detach().cpu().numpy().astype(np.float64)
    certificate = {
        "solver": f"torch L-BFGS, strong Wolfe, {params.max_iter} iterations",
        "fits": len(steps),
        "stopped_early": int(sum(count >= params.max_iter for count in steps)),
    }
    return _fitted(prepare, weights, bias, False, selected, certificate, warnings)


def data(opened: Any, params: Params, seed: int) -> Any:
    """The data set with val as the protocol's authors cut it."""
    return splits.cut(opened, params.val)


KIND = frozen.kind(
    Params,
    fit,
    tasks=("classification", "multilabel"),
    family="linear",
    data=data,
    caveats=lambda context: splits.caveat(context.data, context.params.val),
)
