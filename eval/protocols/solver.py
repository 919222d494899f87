"""Penalised logistic regression for a whole grid of penalties at once, with a certificate.

For every penalty lambda the objective is, as in Ericsson et al. 2021,

    F(W, b) = sum_i loss(x_i W + b, y_i) + lambda / 2 |W|^2,      the bias b free,

with the multinomial loss ("softmax") or independent yes-or-no losses a class ("sigmoid"). F is lambda-strongly convex
in W, so F(W) - min F <= |dF/dW|^2 / (2 lambda) at the best bias: that bound, over F, is the certificate.

The method is Newton's with conjugate gradients, from strong penalties to weak ones, a few at a time that share every
matrix multiplication. Each starts on the line through the last two solutions in log lambda, which most often leaves
one Newton step to do. Inner iterations may run in float32; what is certified is measured in float64. The features
are centred and rotated to their principal axes first, which changes neither objective nor penalty and lets the
Hessian's diagonal precondition well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
GROUP = 4  # penalties solved side by side
BUDGET = 24_000_000  # entries of one (N, penalties, C) array at most


@dataclass(frozen=True)
class Solutions:
    """Minimisers for a grid of L penalties.

    Attributes:
        weights: (L, D, C) float64.
        biases: (L, C) float64.
        objective: (L,) F at the solution.
        gap: (L,) |dF/dW|^2 / (2 lambda) / F plus the bias's share: the certificate; relative distance to the minimum.
        gradient_norm: (L,) |dF/dW|.
        iterations: (L,) Newton steps taken.
        products: Multiplications of the feature matrix in all, for benchmarks.
    """

    weights: Array
    biases: Array
    objective: Array
    gap: Array
    gradient_norm: Array
    iterations: Array
    products: int


@dataclass(frozen=True)
class Basis:
    """Features centred and rotated to principal axes: x = mean + z V^T."""

    mean: Tensor  # (D,)
    axes: Tensor  # (D, r), orthonormal columns
    scores: Tensor  # (N, r)


def rotate(features: Array, device: torch.device) -> Basis:
    """Principal axes of (N, D) features; r = min(N, D) less the directions without variance."""
    x = torch.from_numpy(np.array(features, dtype=np.float64)).to(device)
    mean = x.mean(0)
    x = x - mean
    if x.shape[0] >= x.shape[1]:
        values, axes = torch.linalg.eigh(x.T @ x)
        keep = values > values[-1].clamp(min=1e-300) * 1e-14
        axes = axes[:, keep]
    else:
        values, left = torch.linalg.eigh(x @ x.T)
        keep = values > values[-1].clamp(min=1e-300) * 1e-14
        # Rotations lose accuracy along weak directions: orthonormalise what the Gram matrix gives.
        axes, _ = torch.linalg.qr(x.T @ left[:, keep] / values[keep].sqrt())
    return Basis(mean, axes, x @ axes)


def _loss(logits: Tensor, target: Tensor, link: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss summed over examples (A,), residual p - y and p, both (N, A, C). Softmax targets are one-hot."""
    if link == "softmax":
        shifted = logits - logits.amax(2, keepdim=True)
        exped = shifted.exp()
        total = exped.sum(2, keepdim=True)
        loss = (total.log()[..., 0] - (shifted * target).sum(2)).sum(0)
        p = exped / total
        return loss, p - target, p
    loss = (torch.nn.functional.softplus(logits) - logits * target).sum((0, 2))
    p = torch.sigmoid(logits)
    return loss, p - target, p


def _loss_only(logits: Tensor, target: Tensor, link: str) -> Tensor:
    if link == "softmax":
        return (logits.logsumexp(2) - (logits * target).sum(2)).sum(0)
    return (torch.nn.functional.softplus(logits) - logits * target).sum((0, 2))


def _curve(p: Tensor, v: Tensor, link: str) -> Tensor:
    """The loss's Hessian in the logits times v, (N, A, C)."""
    if link == "softmax":
        pv = p * v
        return pv - p * pv.sum(2, keepdim=True)
    return p * (1 - p) * v


def solve(
    features: Array,
    targets: Array,
    penalties: Array,
    *,
    link: str = "softmax",
    tolerance: float = 1e-4,
    max_newton: int = 60,
    max_cg: int = 150,
    inner: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    basis: Basis | None = None,
) -> Solutions:
    """Minimise F for every penalty.

    Args:
        features: (N, D).
        targets: (N, C) one-hot, or 0/1 a class for the "sigmoid" link.
        penalties: (L,) positive lambdas.
        link: "softmax" or "sigmoid".
        tolerance: Relative gap at which a penalty is done.
        max_newton: Newton steps at most.
        max_cg: Conjugate gradient steps in a Newton step at most.
        inner: Precision of the inner steps.
        device: Where to compute.
        basis: `rotate(features)` where it is at hand.

    Returns:
        One solution a penalty, in the given order. Whether one is certified is read from ``gap``.
    """
    if (np.asarray(penalties) <= 0).any():
        raise ValueError("penalties must be positive: without a penalty there is no certificate")
    device = torch.device(device)
    basis = basis or rotate(features, device)
    z = basis.scores
    n, r = z.shape
    y = torch.from_numpy(np.array(targets, dtype=np.float64)).to(device)
    c = y.shape[1]
    ones = torch.ones(n, 1, dtype=torch.float64, device=device)
    x = torch.cat([z, ones], 1)  # the last column is the bias
    design = _Design(x, x.to(inner), x.to(inner) ** 2)
    lambdas = torch.as_tensor(np.asarray(penalties, dtype=np.float64).copy(), device=device)
    order = torch.argsort(lambdas, descending=True)
    size = max(1, min(GROUP, int(BUDGET // max(1, n * c))))
    parts = []
    last: list[tuple[float, Tensor]] = []  # log lambda and theta of the last two solved
    for at in range(0, len(order), size):
        index = order[at : at + size]
        logs = lambdas[index].log().tolist()
        starts = _starts(last, logs, y, link, r + 1)
        part = _newton(design, y, lambdas[index], starts, link, tolerance, max_newton, max_cg)
        parts.append(part)
        last = [*last, *zip(logs, part[0], strict=True)][-2:]
    back = torch.argsort(order)
    theta = torch.cat([part[0] for part in parts])[back]  # (L, r + 1, C)
    weights = basis.axes @ theta[:, :r]
    biases = theta[:, r] - basis.mean @ weights
    if link == "softmax":  # adding a constant to all classes changes nothing
        biases = biases - biases.mean(1, keepdim=True)

    def joined(index: int) -> Array:
        return torch.cat([part[index] for part in parts])[back].cpu().numpy()

    return Solutions(
        weights.cpu().numpy(),
        biases.cpu().numpy(),
        joined(1),
        joined(2),
        joined(3),
        joined(4),
        sum(int(part[5]) for part in parts),
    )


def _starts(
    last: list[tuple[float, Tensor]], logs: list[float], y: Tensor, link: str, width: int
) -> list[Tensor]:
    """Where to start: nothing but the bias, the last solution, and the line through the last two in log lambda."""
    share = y.mean(0).clamp(1e-12, 1 - 1e-12)
    zero = torch.zeros(len(logs), width, y.shape[1], dtype=torch.float64, device=y.device)
    zero[:, -1] = share.log() if link == "softmax" else torch.logit(share)
    if not last:
        return [zero]
    nearest = last[-1][1].expand_as(zero)
    if len(last) < 2 or last[0][0] == last[1][0]:
        return [nearest]
    (before, first), (now, second) = last
    steps = torch.tensor([(log - now) / (now - before) for log in logs], dtype=torch.float64, device=y.device)
    return [nearest, second + steps.view(-1, 1, 1) * (second - first)]


@dataclass(frozen=True)
class _Design:
    """The rotated features with a column of ones, (N, d)."""

    exact: Tensor  # float64
    low: Tensor  # in the precision of the inner iterations
    square: Tensor  # of ``low``, entry by entry


@dataclass
class _State:
    """All penalties of a group while they are solved; L penalties, d columns of the design with the bias last."""

    theta: Tensor  # (L, d, C) float64
    logits: Tensor  # (N, L, C) float64


def _newton(
    design: _Design,
    y: Tensor,
    lambdas: Tensor,
    starts: list[Tensor],
    link: str,
    tolerance: float,
    max_newton: int,
    max_cg: int,
) -> tuple[Any, ...]:
    x, low = design.exact, design.low
    n, d = x.shape  # d counts the bias
    c, total, dev = y.shape[1], len(lambdas), x.device
    target = y[:, None]  # (N, 1, C)
    ridge = lambdas.view(-1, 1, 1).repeat(1, d, 1)
    ridge[:, -1] = 0
    best: Tensor | None = None
    for start in starts:
        logits = (x @ start.permute(1, 0, 2).reshape(d, -1)).view(n, total, c)
        value = _loss_only(logits, target, link) + 0.5 * (ridge * start**2).sum((1, 2))
        if best is None:
            state, best = _State(start.clone(), logits), value
        else:
            better = value < best
            state.theta[better], state.logits[:, better] = start[better], logits[:, better]
            best = torch.minimum(best, value)
    objective, gap, norm = (torch.zeros(total, dtype=torch.float64, device=dev) for _ in range(3))
    steps = torch.zeros(total, dtype=torch.int64, device=dev)
    exact = torch.zeros(total, dtype=torch.bool, device=dev)
    products = len(starts)

    def evaluate(index: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, gradient and diagonal Hessian of some penalties; keeps their objective and gap."""
        theta = state.theta[index]
        loss, residual, p = _loss(state.logits[:, index], target, link)
        p = p.to(low.dtype)
        gradient = (
            (matrix.T @ residual.to(matrix.dtype).reshape(n, -1)).view(d, -1, c).permute(1, 0, 2).double()
        )
        gradient = gradient + ridge[index] * theta
        spread = (p * (1 - p)).reshape(n, -1)
        diagonal = (design.square.T @ spread).view(d, -1, c).permute(1, 0, 2).double() + ridge[index]
        square = (theta[:, :-1] ** 2).sum((1, 2))
        objective[index] = loss + 0.5 * lambdas[index] * square
        squared = (gradient[:, :-1] ** 2).sum((1, 2))
        # The bias has no strong convexity: its part of the gap is the Newton decrement along it.
        bias = (gradient[:, -1] ** 2 / (2 * diagonal[:, -1].clamp(min=1e-12))).sum(1)
        norm[index] = squared.sqrt()
        gap[index] = (squared / (2 * lambdas[index]) + bias) / objective[index]
        return p, gradient, diagonal

    def recompute(index: Tensor) -> None:
        flat = state.theta[index].permute(1, 0, 2).reshape(d, -1)
        state.logits[:, index] = (x @ flat).view(n, -1, c)

    active = torch.arange(total, device=dev)
    for step in range(max_newton + 1):
        p, gradient, diagonal = evaluate(active, low)
        products += 2
        # What looks solved, or once did, is measured again in float64: nothing is certified in float32.
        check = exact[active] | (gap[active] <= tolerance)
        if check.any():
            which = torch.nonzero(check)[:, 0]
            recompute(active[which])
            p[:, which], gradient[which], diagonal[which] = evaluate(active[which], x)
            products += 3
            exact[active[which]] = True
        keep = gap[active] > tolerance
        if step == max_newton or not keep.any():
            break
        if not keep.all():
            active, p, gradient, diagonal = active[keep], p[:, keep], gradient[keep], diagonal[keep]
        penalty = ridge[active]
        direction, moved, used = _conjugate(
            low, p, gradient, diagonal, penalty, gap[active], tolerance, link, max_cg
        )
        products += used
        length = _line_search(
            state, active, direction, moved, gradient, penalty, target, link, objective[active]
        )
        state.theta[active] += length.view(-1, 1, 1) * direction
        state.logits[:, active] += length.view(1, -1, 1) * moved
        steps[active] += 1
        if not length.any() and bool(exact[active].all()):
            break
        exact[active] |= length == 0
    recompute(active)
    evaluate(active, x)
    return state.theta, objective, gap, norm, steps, products


def _line_search(
    state: _State,
    active: Tensor,
    direction: Tensor,
    moved: Tensor,
    gradient: Tensor,
    penalty: Tensor,
    target: Tensor,
    link: str,
    value: Tensor,
) -> Tensor:
    """Step lengths (A,) by backtracking from 1 to Armijo's condition; 0 where no step helps."""
    theta, logits = state.theta[active], state.logits[:, active]
    slope = (gradient * direction).sum((1, 2))
    base = 0.5 * (penalty * theta**2).sum((1, 2))
    cross, square = (penalty * theta * direction).sum((1, 2)), (penalty * direction**2).sum((1, 2))
    length = torch.ones(len(active), dtype=torch.float64, device=theta.device)
    waiting = torch.arange(len(active), device=theta.device)
    for _ in range(30):
        t = length[waiting]
        trial = _loss_only(logits[:, waiting] + t.view(1, -1, 1) * moved[:, waiting], target, link)
        trial = trial + base[waiting] + t * cross[waiting] + 0.5 * t**2 * square[waiting]
        # The last digits of the objective are noise: a step that changes nothing more is accepted.
        good = trial <= value[waiting] + 1e-4 * t * slope[waiting] + 1e-13 * value[waiting].abs()
        waiting = waiting[~good]
        if not len(waiting):
            return length
        length[waiting] *= 0.5
    length[waiting] = 0.0
    return length


def _conjugate(
    x: Tensor,
    p: Tensor,
    gradient: Tensor,
    diagonal: Tensor,
    ridge: Tensor,
    relative: Tensor,
    tolerance: float,
    link: str,
    max_cg: int,
) -> tuple[Tensor, Tensor, int]:
    """Solve H d = -g for all penalties by preconditioned conjugate gradients.

    Returns:
        d (A, D, C) float64, its logits (N, A, C) float64, and the number of products.
    """
    n, d = x.shape
    a, c = gradient.shape[0], gradient.shape[2]
    scale = diagonal.clamp(min=1e-12).to(x.dtype)
    ridge = ridge.to(x.dtype)
    solution = torch.zeros(a, d, c, dtype=x.dtype, device=x.device)
    moved = torch.zeros(n, a, c, dtype=x.dtype, device=x.device)
    # Unit right-hand sides: float32 must not underflow for the smallest penalties.
    size = gradient.flatten(1).norm(dim=1).clamp(min=1e-300)
    r = (-gradient / size.view(-1, 1, 1)).to(x.dtype)
    # A step that moves all classes alike changes no probability: such steps are projected out.
    s = r / scale
    s = s - s.mean(2, keepdim=True) if link == "softmax" else s
    q = s.clone()
    rho = (r * s).sum((1, 2))
    aim = (0.2 * tolerance / relative).sqrt().clamp(0.03, 0.5)
    forcing = torch.where(relative > 0.3, torch.full_like(aim, 0.3), aim).to(x.dtype)
    goal = forcing**2 * rho
    index = torch.arange(a, device=x.device)
    used = 0
    for _ in range(max_cg):
        m = len(index)
        xq = (x @ q.permute(1, 0, 2).reshape(d, -1)).view(n, m, c)
        hq = (
            (x.T @ _curve(p[:, index] if m < a else p, xq, link).reshape(n, -1))
            .view(d, m, c)
            .permute(1, 0, 2)
        )
        hq = hq + ridge[index] * q
        used += 2
        curvature = (q * hq).sum((1, 2))
        alpha = torch.where(curvature > 0, rho / curvature.clamp(min=1e-38), torch.zeros_like(rho))
        step = alpha.view(-1, 1, 1)
        solution[index] += step * q
        moved[:, index] += alpha.view(1, -1, 1) * xq
        r = r - step * hq
        s = r / scale[index]
        s = s - s.mean(2, keepdim=True) if link == "softmax" else s
        new = (r * s).sum((1, 2))
        keep = (new > goal) & (curvature > 0)
        if not keep.any():
            break
        q = s + (new / rho.clamp(min=1e-38)).view(-1, 1, 1) * q
        rho = new
        if not keep.all():
            index, q, r, rho, goal = index[keep], q[keep], r[keep], rho[keep], goal[keep]
    factor = size.view(-1, 1, 1)
    return solution.double() * factor, moved.double() * size.view(1, -1, 1), used


def gap(features: Array, targets: Array, weights: Array, bias: Array, penalty: float, link: str) -> float:
    """The certificate of a solution found elsewhere: |dF/dW|^2 / (2 lambda) over F, the bias's share left out.

    Args:
        features: (N, D).
        targets: (N, C) one-hot or 0/1.
        weights: (D, C).
        bias: (C,).
        penalty: lambda.
        link: "softmax" or "sigmoid".
    """
    x = torch.from_numpy(np.array(features, dtype=np.float64))
    y = torch.from_numpy(np.array(targets, dtype=np.float64))
    w, b = (
        torch.from_numpy(np.array(weights, dtype=np.float64)),
        torch.from_numpy(np.array(bias, dtype=np.float64)),
    )
    loss, residual, _ = _loss((x @ w + b)[:, None], y[:, None], link)
    gradient = x.T @ residual[:, 0] + penalty * w
    objective = loss[0] + 0.5 * penalty * (w**2).sum()
    return float((gradient**2).sum() / (2 * penalty) / objective)
