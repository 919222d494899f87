"""The certified solver against scikit-learn, its certificate, and the legacy recipes against their own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from eval import protocols
from eval.errors import UserError
from eval.numbers import metrics
from eval.protocols import Labelled
from eval.protocols.solver import design, gap, solve

Array = np.ndarray[Any, Any]


def clusters(n: int, d: int, classes: int, *, spread: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    """Gaussian clusters with a power-law spectrum, as features of networks have."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    scale = np.arange(1, d + 1) ** -0.5
    means = np.random.default_rng(99).normal(size=(classes, d)) * scale
    x = means[labels] + spread * generator.normal(size=(n, d)) * scale
    return x.astype(np.float32), labels


def parts(n: int = 300, d: int = 20, classes: int = 4, **options: Any) -> tuple[Labelled, Labelled, Labelled]:
    x, y = clusters(3 * n, d, classes, **options)
    return tuple(Labelled(x[i::3], y[i::3], classes) for i in range(3))  # type: ignore[return-value]


def objective(x: Array, y: Array, w: Array, b: Array, penalty: float) -> float:
    """F written out in numpy."""
    z = x.astype(np.float64) @ w + b
    z = z - z.max(1, keepdims=True)
    loss = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
    return float(loss.sum() + penalty / 2 * (w**2).sum())


@pytest.mark.parametrize("shape", [(200, 12, 3), (40, 90, 5)], ids=["tall", "wide"])
def test_solutions_are_scikit_learns(shape: tuple[int, int, int]) -> None:
    x, y = clusters(*shape)
    grid = np.array([1e-2, 1.0, 1e2])
    found = solve(x, np.eye(shape[2])[y], grid, tolerance=1e-9, max_cg=500)
    for i, penalty in enumerate(grid):
        theirs = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=100_000).fit(x.astype(np.float64), y)
        value = objective(x, y, theirs.coef_.T, theirs.intercept_, penalty)
        assert found.objective[i] == pytest.approx(
            objective(x, y, found.weights[i], found.biases[i], penalty), rel=1e-9
        )
        # Both are within 1e-9 of the minimum, ours by its certificate.
        assert found.objective[i] == pytest.approx(value, rel=1e-6)
        # Strong convexity turns the gap into a distance: lambda/2 |dW|^2 <= gap F.
        bound = np.sqrt(2 * 2e-6 * value / penalty)
        assert np.linalg.norm(found.weights[i] - theirs.coef_.T) <= bound


def test_sigmoid_solutions_are_scikit_learns() -> None:
    x, y = clusters(150, 10, 2)
    targets = np.stack([y == 1, x[:, 0] > 0], 1).astype(float)
    found = solve(x, targets, np.array([0.5]), link="sigmoid", tolerance=1e-9)
    for column in range(2):
        theirs = LogisticRegression(C=2.0, tol=1e-12, max_iter=100_000).fit(
            x.astype(np.float64), targets[:, column]
        )
        np.testing.assert_allclose(found.weights[0, :, column], theirs.coef_[0], atol=1e-3)


def test_the_certificate_bounds_the_distance_to_the_minimum() -> None:
    x, y = clusters(120, 15, 3)
    target = np.eye(3)[y]
    grid = np.array([1e-1, 1.0, 10.0])
    best = solve(x, target, grid, tolerance=1e-10, max_cg=500).objective
    for tolerance in (1e-1, 1e-2, 1e-4):
        found = solve(x, target, grid, tolerance=tolerance)
        assert (found.gap <= tolerance).all()
        assert ((found.objective - best) / found.objective <= found.gap + 1e-9).all()


def test_what_is_not_solved_is_not_certified() -> None:
    x, y = clusters(120, 15, 3)
    found = solve(x, np.eye(3)[y], np.array([1e-6]), tolerance=1e-6, max_newton=1)
    assert found.gap[0] > 1e-6


def test_no_weights_are_no_solution_at_a_strong_penalty() -> None:
    """F is within 1e-3 of its minimum at W = 0 there, and yet the minimum separates the classes."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = 0.5 * np.eye(3)[y] @ rng.normal(size=(3, 8)) + 0.01 * rng.normal(size=(60, 8))
    found = solve(x, np.eye(3)[y], np.array([1e4, 1e5]), tolerance=1e-3)
    assert (found.gap <= 1e-3).all()
    for weights, bias in zip(found.weights, found.biases, strict=True):
        assert ((x @ weights + bias).argmax(1) == y).all()


def test_the_gap_of_a_foreign_solution() -> None:
    x, y = clusters(120, 15, 3)
    found = solve(x, np.eye(3)[y], np.array([1.0]), tolerance=1e-8)
    assert gap(x, np.eye(3)[y], found.weights[0], found.biases[0], 1.0, "softmax") <= 1e-8
    assert gap(x, np.eye(3)[y], np.zeros((15, 3)), np.zeros(3), 1.0, "softmax") > 1


def test_rotation_and_shift_of_features_change_nothing() -> None:
    x, y = clusters(100, 8, 3)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    grid, target = np.array([0.1, 10.0]), np.eye(3)[y]
    plain, moved = (solve(z, target, grid, tolerance=1e-9).objective for z in (x, x @ turn + 5))
    np.testing.assert_allclose(plain, moved, rtol=1e-5)


@pytest.mark.parametrize("shape", [(50, 7), (7, 50)], ids=["tall", "wide"])
def test_principal_axes(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    held = design(x, inner=torch.float64)
    np.testing.assert_allclose((held.axes.T @ held.axes).numpy(), np.eye(7), atol=1e-12)
    np.testing.assert_allclose((held.mean + held.low[:, :-1] @ held.axes.T).numpy(), x, atol=1e-12)
    gram = (held.low[:, :-1].T @ held.low[:, :-1]).numpy()
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)


def test_certified_probe_selects_on_val_and_refits() -> None:
    train, val, test = parts(spread=1.5)
    fitted = protocols.fit(protocols.get("linear").override({"penalties": [-3, 4, 15]}), train, val)
    assert fitted.selected["split"] == "val"
    assert fitted.selected["refit"] == "train+val"
    assert len(fitted.selected["grid"]) == 15
    assert fitted.certificate is not None
    assert fitted.certificate["certified"] == 15
    assert fitted.certificate["refit"]["certified"]
    # The refit is the minimum on train and val together at the chosen lambda.
    both = train.joined(val)
    theirs = LogisticRegression(C=1 / fitted.selected["lambda"], tol=1e-10, max_iter=10_000).fit(
        np.asarray(both.features), both.labels
    )
    ours = metrics.top1(fitted.scores(np.asarray(test.features)), test.labels)
    assert ours == pytest.approx(theirs.score(np.asarray(test.features), test.labels), abs=0.01)


def test_edges_and_ties_are_flagged() -> None:
    train, val, _ = parts(spread=0.01)
    fitted = protocols.fit(protocols.get("linear").override({"penalties": [-2, 0, 3]}), train, val)
    # Every lambda separates these clusters: a tie, resolved towards the strongest, at the edge.
    assert fitted.selected["lambda"] == 1.0
    assert any("tie" in warning for warning in fitted.warnings)
    assert any("edge" in warning for warning in fitted.warnings)


def test_ericsson2021_converges_to_scikit_learns_minimum() -> None:
    """With nothing that stops it early the recipe's own solver finds what scikit-learn finds."""
    train, val, test = parts(spread=2.0, d=8)
    protocol = protocols.get("linear-ericsson2021").override({"penalties": [0, 2, 3], "max_iter": 10_000})
    fitted = protocols.fit(protocol, train, val)
    both = train.joined(val)
    model = LogisticRegression(C=fitted.selected["C"], tol=1e-10, max_iter=10_000)
    model.fit(np.asarray(both.features, dtype=np.float64), both.labels)
    x = np.asarray(test.features)
    ours, theirs = (metrics.softmax(scores) for scores in (fitted.scores(x), model.decision_function(x)))
    # scipy's ftol, 2e-9 of the objective (about 900), leaves 2e-6: distances of its square root, 1e-3.
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_ericsson2021_grid_is_held_in_float32() -> None:
    train, val, _ = parts(60, 5, 3)
    fitted = protocols.fit(protocols.get("linear-ericsson2021"), train, val)
    costs = [1 / penalty for penalty, _ in fitted.selected["grid"]]
    # lambda = 1e-3 in float32 is 0.0010000000474974513.
    assert min(costs, key=lambda c: abs(c - 1000)) == pytest.approx(999.99995, abs=1e-4)
    assert len(costs) == 45


def test_dinov2_is_cold() -> None:
    train, val, test = parts(100, 8, 3, spread=2.0)
    protocol = protocols.get("linear-dinov2").override({"penalties": [-2, 2, 3]})
    fitted = protocols.fit(protocol, train, val)
    both = train.joined(val)
    x = np.asarray(both.features).astype(np.float64)
    model = LogisticRegression(C=fitted.selected["C"], tol=1e-12, max_iter=1000).fit(x, both.labels)
    queries = np.asarray(test.features).astype(np.float64)
    np.testing.assert_allclose(fitted.scores(queries), model.decision_function(queries), atol=1e-6)


def test_augself2021_penalises_the_bias() -> None:
    train, val, _ = parts(80, 6, 3)
    protocol = protocols.get("linear-augself2021").override({"penalties": [1, 1, 1], "max_iter": 200})
    fitted = protocols.fit(protocol, train, val)
    # At its minimum the gradient of sum loss + lambda (|W|^2 + |b|^2) vanishes; recover W, b from scores.
    probe = np.concatenate([np.zeros((1, 6)), np.eye(6)]).astype(np.float32)
    rows = fitted.scores(probe)
    bias, weights = rows[0], rows[1:] - rows[0]
    both = train.joined(val)
    residual = metrics.softmax(np.asarray(both.features) @ weights + bias) - both.targets()
    scale = np.abs(both.targets().T @ np.asarray(both.features)).max()
    np.testing.assert_allclose(residual.sum(0) + 2 * 10 * bias, 0, atol=1e-4 * scale)
    np.testing.assert_allclose(
        np.asarray(both.features).T @ residual + 2 * 10 * weights, 0, atol=1e-4 * scale
    )


def test_voc_fits_are_two_row_softmax() -> None:
    x, y = clusters(200, 8, 2)
    labels = np.stack([y, 1 - y, np.zeros(200, int)], 1).astype(np.float32)
    train, val = Labelled(x[:120], labels[:120], 3), Labelled(x[120:], labels[120:], 3)
    protocol = protocols.get("linear-ericsson2021").override({"penalties": [0, 0, 1], "max_iter": 10_000})
    fitted = protocols.fit(protocol, train, val, metric="map11_ericsson2021")
    assert fitted.selected["C"] == 1.0
    # lambda/2 (|v|^2 + |-v|^2) with logit 2v: as a binary problem the penalty is half, so scikit-learn's C is 2, and
    # the second row, which ranks, is half its logit.
    model = LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(2 * fitted.scores(x)[:, 0], model.decision_function(x), atol=5e-3)
    # A class without a single positive cannot be learnt: said, and no reason to fail.
    assert (fitted.scores(x)[:, 2] == 0).all()
    assert any("classes [2]" in warning for warning in fitted.warnings)


def test_a_class_that_train_lacks_does_not_shift_the_others() -> None:
    x, y = clusters(90, 5, 4)
    keep = y != 1
    train, val = Labelled(x[:60][keep[:60]], y[:60][keep[:60]], 4), Labelled(x[60:], y[60:], 4)
    for name in ("linear", "linear-ericsson2021"):
        protocol = protocols.get(name).override({"penalties": [0, 0, 1], "refit": False})
        scores = protocols.fit(protocol, train, val).scores(x[keep])
        assert scores.shape == (keep.sum(), 4)
        assert (scores.argmax(1) != 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "magic"}, "solver of protocol linear cannot be 'magic'"),
        ({"penalties": 5}, "penalties"),
        ({"transform": "zca"}, "transform of protocol linear cannot be 'zca'"),
        ({"penalty": 1}, "did you mean penalties"),
        ({"max_iter": 5}, "the solver certified stops by tolerance, and max_iter and tolerance is given"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    train, val, _ = parts(20, 3, 2)
    with pytest.raises(UserError, match=message) as caught:
        protocols.fit(protocols.get("linear").override(changes), train, val)
    assert caught.value.code == 2


@pytest.mark.parametrize("kind", ["none", "l2", "standard"])
def test_transforms_are_fitted_on_train_alone(kind: str) -> None:
    train, val, test = parts(100, 6, 3)
    protocol = protocols.get("linear").override({"penalties": [-1, 1, 3], "transform": kind})
    fitted = protocols.fit(protocol, train, val)
    x = np.asarray(test.features)
    # A single row gets the scores it gets among others: nothing is fitted on test.
    np.testing.assert_allclose(fitted.scores(x)[:1], fitted.scores(x[:1]), rtol=1e-5)
