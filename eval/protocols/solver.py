"""Penalised logistic regression for a whole grid of penalties at once, with a certificate.

For every penalty lambda the objective is, as in Ericsson et al. 2021,

    F(W, b) = sum_i loss(x_i W + b, y_i) + lambda / 2 |W|^2,      the bias b free,

with the multinomial loss ("softmax") or independent yes-or-no losses a class ("sigmoid"). F is lambda-strongly convex
in W, so F(W) - min F <= |dF/dW|^2 / (2 lambda) at the best bias: that bound is the certificate, over F or over how
far F lies below the best constant prediction, whichever is less.

The method is Newton's with conjugate gradients. A coarse part of the grid is solved from strong penalties to weak
ones; each begins on the curve through the last three solutions in log lambda. The penalties in between begin on the
curve through their neighbours, most of them within the certificate, and are solved side by side, sharing every matrix
multiplication. Conjugate gradients run in float32 and along the features' principal axes, where the Hessian's
diagonal preconditions well; everything else, and so what is certified, is float64 and in the features' own
coordinates. Classes come before examples in every array: BLAS is fastest that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
STRIDE = 4  # of the coarse part of the grid
BUDGET = 24_000_000  # entries of one (penalties, C, N) array at most


@dataclass(frozen=True)
class Solutions:
    """Minimisers for a grid of L penalties.

    Attributes:
        weights: (L, D, C) float64.
        biases: (L, C) float64.
        objective: (L,) F at the solution.
        gap: (L,) |dF/dW|^2 / (2 lambda) plus the bias's share, over F or its drop below the best constant prediction,
            whichever is less: the certificate; relative distance to the minimum.
        gradient_norm: (L,) |dF/dW|.
        iterations: (L,) Newton steps taken.
        products: Multiplications of the feature matrix by one vector a class, for benchmarks.
    """

    weights: Array
    biases: Array
    objective: Array
    gap: Array
    gradient_norm: Array
    iterations: Array
    products: int


@dataclass(frozen=True)
class Design:
    """Features as the solver reads them, with a column of ones for the bias.

    Attributes:
        mean: (D,) float64.
        exact: (N, D + 1) float64, centred: what gradients and certificates are computed with.
        axes: (D, r) principal axes, orthonormal to the precision of the inner iterations; r = min(N, D).
        low: (N, r + 1) the features along the axes: what conjugate gradients multiply with.
        square: ``low``, every entry squared.
    """

    mean: Tensor
    exact: Tensor
    axes: Tensor
    low: Tensor
    square: Tensor


def design(features: Array, device: torch.device | str = "cpu", inner: torch.dtype = torch.float32) -> Design:
    """Centre (N, D) features and find their principal axes, in the precision ``inner``."""
    n, dim = features.shape
    exact = torch.ones(n, dim + 1, dtype=torch.float64, device=device)
    exact[:, :dim] = torch.from_numpy(np.array(features)).to(device)
    mean = exact[:, :dim].mean(0)
    exact[:, :dim] -= mean
    x = exact[:, :dim].to(inner)
    if n >= dim:
        _, axes = torch.linalg.eigh(x.T @ x)
    else:
        # Strong directions first: what rounding left of weak ones is then made orthogonal to them.
        _, left = torch.linalg.eigh(x @ x.T)
        axes, _ = torch.linalg.qr(x.T @ left.flip(1))
    low = torch.cat([x @ axes, torch.ones(n, 1, dtype=inner, device=device)], 1)
    return Design(mean, exact, axes, low, low**2)


def _loss(logits: Tensor, target: Tensor, link: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss summed over examples (A,), residual p - y and p, both (A, C, N). Softmax targets are one-hot."""
    if link == "softmax":
        shifted = logits - logits.amax(1, keepdim=True)
        right = (shifted * target).sum((1, 2))
        p = shifted.exp_()
        total = p.sum(1, keepdim=True)
        loss = total.log().sum((1, 2)) - right
        p /= total
        return loss, p - target, p
    loss = (torch.nn.functional.softplus(logits) - logits * target).sum((1, 2))
    p = torch.sigmoid(logits)
    return loss, p - target, p


def _loss_only(logits: Tensor, target: Tensor, link: str) -> Tensor:
    if link == "softmax":
        return logits.logsumexp(1).sum(1) - (logits * target).sum((1, 2))
    return (torch.nn.functional.softplus(logits) - logits * target).sum((1, 2))


def _curve(p: Tensor, v: Tensor, link: str) -> Tensor:
    """The loss's Hessian in the logits times v, (A, C, N)."""
    if link == "softmax":
        pv = p * v
        return pv - p * pv.sum(1, keepdim=True)
    return p * (1 - p) * v


def solve(
    features: Array,
    targets: Array,
    penalties: Array,
    *,
    link: str = "softmax",
    tolerance: float = 1e-4,
    max_newton: int = 60,
    max_cg: int = 1000,
    inner: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
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
        inner: Precision of the conjugate gradients.
        device: Where to compute.

    Returns:
        One solution a penalty, in the given order. Whether one is certified is read from ``gap``.
    """
    if (np.asarray(penalties) <= 0).any():
        raise ValueError("penalties must be positive: without a penalty there is no certificate")
    device = torch.device(device)
    held = design(features, device, inner)
    n, width = held.exact.shape
    y = torch.from_numpy(np.ascontiguousarray(np.asarray(targets, dtype=np.float64).T)).to(device)
    c = len(y)
    problem = _Problem(held, y, link, tolerance, max_newton, max_cg)
    given = torch.as_tensor(np.asarray(penalties, dtype=np.float64).copy(), device=device)
    lambdas, back = torch.unique(given, return_inverse=True)
    path = _Path.empty(lambdas, c, width)
    size = max(1, BUDGET // max(1, n * c))
    coarse, *between = _levels(len(lambdas))
    for index in coarse:
        _newton(problem, path, [index], path.ahead(index, problem))
    for level in between:
        for at in range(0, len(level), size):
            part = level[at : at + size]
            _newton(problem, path, part, [torch.stack([path.curve(index, 4) for index in part])])
    theta = path.theta[back]
    weights = theta[..., :-1]
    biases = theta[..., -1] - weights @ held.mean
    if link == "softmax":  # adding a constant to all classes changes nothing
        biases = biases - biases.mean(1, keepdim=True)
    return Solutions(
        weights.transpose(1, 2).cpu().numpy(),
        biases.cpu().numpy(),
        path.objective[back].cpu().numpy(),
        path.gap[back].cpu().numpy(),
        path.norm[back].cpu().numpy(),
        path.steps[back].cpu().numpy(),
        path.products,
    )


def _levels(count: int) -> list[list[int]]:
    """Positions in an ascending grid in the order of solving: a coarse grid from strong to weak, then its gaps."""
    stride = STRIDE
    while stride > 1 and count <= 2 * stride:
        stride //= 2
    levels = [sorted({*range(count - 1, -1, -stride), 0}, reverse=True)]
    while stride > 1:
        stride //= 2
        done = {index for level in levels for index in level}
        levels.append([index for index in range(count - 1, -1, -stride) if index not in done])
    return levels


@dataclass(frozen=True)
class _Problem:
    """Features, targets (C, N), and how to solve."""

    design: Design
    target: Tensor
    link: str
    tolerance: float
    max_newton: int
    max_cg: int

    def constant(self) -> Tensor:
        """The logits (C, 1) of the best constant prediction."""
        share = self.target.mean(1, keepdim=True).clamp(1e-12, 1 - 1e-12)
        return share.log() if self.link == "softmax" else torch.logit(share)


@dataclass
class _Path:
    """What is known of L ascending penalties; d = D + 1 columns with the bias last."""

    lambdas: Tensor  # (L,)
    theta: Tensor  # (L, C, d) float64
    objective: Tensor  # (L,)
    gap: Tensor  # (L,), infinite where nothing is known
    norm: Tensor  # (L,)
    steps: Tensor  # (L,)
    products: int = 0

    @classmethod
    def empty(cls, lambdas: Tensor, c: int, d: int) -> _Path:
        theta = lambdas.new_zeros(len(lambdas), c, d)
        zeros = torch.zeros_like(lambdas)
        return cls(lambdas, theta, zeros, torch.full_like(zeros, torch.inf), zeros.clone(), zeros.long())

    def known(self) -> list[int]:
        """Solved penalties, ascending."""
        return torch.nonzero(self.gap.isfinite())[:, 0].tolist()

    def curve(self, index: int, points: int) -> Tensor:
        """The polynomial in log lambda through the nearest solutions, (C, d)."""
        logs = self.lambdas.log().tolist()
        near = sorted(self.known(), key=lambda known: abs(logs[known] - logs[index]))[:points]
        total = torch.zeros_like(self.theta[0])
        for i in near:
            factor = 1.0
            for j in near:
                factor *= (logs[index] - logs[j]) / (logs[i] - logs[j]) if j != i else 1.0
            total += factor * self.theta[i]
        return total

    def ahead(self, index: int, problem: _Problem) -> list[Tensor]:
        """Where to start with the next weaker penalty: the curve through the last three, and the last itself."""
        known = self.known()
        if not known:
            zero = torch.zeros_like(self.theta[:1])
            zero[0, :, -1] = problem.constant()[:, 0]
            return [zero]  # nothing but the bias: the solution at an infinite penalty
        return [self.curve(index, 3)[None], self.theta[known[:1]]]


def _newton(problem: _Problem, path: _Path, which: list[int], starts: list[Tensor]) -> None:
    """Solve some penalties side by side and write them to the path.

    Args:
        problem: Features, targets, and how to solve.
        path: Where the solutions go.
        which: A positions in the path.
        starts: Starting points, (A, C, d) each; the better one of each penalty is taken.
    """
    x, target, link = problem.design.exact, problem.target, problem.link
    index = torch.tensor(which, device=x.device)
    constant = _loss_only(problem.constant().expand(1, -1, len(x)), target, link)[0]

    def product(theta: Tensor) -> Tensor:
        path.products += len(theta)
        return (theta.view(-1, x.shape[1]) @ x.T).view(*theta.shape[:2], -1)

    def ridge_of(index: Tensor) -> Tensor:
        ridge = path.lambdas[index].view(-1, 1, 1).repeat(1, 1, x.shape[1])
        ridge[..., -1] = 0
        return ridge

    theta, logits = starts[0].contiguous(), product(starts[0].contiguous())
    for start in starts[1:]:
        ridge, others = ridge_of(index), product(start)
        values = [
            _loss_only(z, target, link) + 0.5 * (ridge * t**2).sum((1, 2))
            for t, z in ((theta, logits), (start, others))
        ]
        better = values[1] < values[0]
        theta[better], logits[better] = start[better], others[better]
    stuck = torch.zeros(len(index), dtype=torch.bool, device=x.device)
    for step in range(problem.max_newton + 1):
        ridge = ridge_of(index)
        loss, residual, p = _loss(logits, target, link)
        gradient = (residual.view(-1, len(x)) @ x).view(theta.shape) + ridge * theta
        path.products += len(theta)
        objective = loss + 0.5 * (ridge * theta**2).sum((1, 2))
        squared = (gradient[..., :-1] ** 2).sum((1, 2))
        # The bias has no strong convexity: its part of the gap is the Newton decrement along it.
        bends = (p * (1 - p)).sum(2).clamp(min=1e-12)
        bias = (gradient[..., -1] ** 2 / (2 * bends)).sum(1)
        # At a strong penalty F hardly falls below a constant prediction's: W = 0 must not pass for a solution.
        scale = torch.minimum(objective, (constant - objective).clamp(min=1e-9 * constant))
        gap = (squared / (2 * path.lambdas[index]) + bias) / scale
        path.theta[index], path.objective[index], path.gap[index] = theta, objective, gap
        path.norm[index] = squared.sqrt()
        keep = (gap > problem.tolerance) & ~stuck
        if step == problem.max_newton or not keep.any():
            return
        if not keep.all():
            index, theta, logits, ridge = index[keep], theta[keep], logits[keep], ridge[keep]
            p, gradient, gap, objective = p[keep], gradient[keep], gap[keep], objective[keep]
        direction, moved, used = _conjugate(problem, p, gradient, path.lambdas[index], gap)
        path.products += used
        length = _line_search(theta, logits, direction, moved, gradient, ridge, objective, target, link)
        theta = theta + length.view(-1, 1, 1) * direction
        logits = product(theta)
        path.steps[index] += 1
        stuck = length == 0


def _line_search(
    theta: Tensor,
    logits: Tensor,
    direction: Tensor,
    moved: Tensor,
    gradient: Tensor,
    ridge: Tensor,
    value: Tensor,
    target: Tensor,
    link: str,
) -> Tensor:
    """Step lengths (A,) by backtracking from 1 to Armijo's condition; 0 where no step helps."""
    slope = (gradient * direction).sum((1, 2))
    base = 0.5 * (ridge * theta**2).sum((1, 2))
    cross, square = (ridge * theta * direction).sum((1, 2)), (ridge * direction**2).sum((1, 2))
    length = torch.ones_like(value)
    waiting = torch.arange(len(theta), device=theta.device)
    for _ in range(30):
        t = length[waiting]
        trial = _loss_only(logits[waiting] + t.view(-1, 1, 1) * moved[waiting], target, link)
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
    problem: _Problem, p: Tensor, gradient: Tensor, penalty: Tensor, gap: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Solve H d = -g for A penalties by preconditioned conjugate gradients along the principal axes.

    Returns:
        d (A, C, D + 1) float64, its logits (A, C, N) float64, and the number of products.
    """
    axes, x, link = problem.design.axes, problem.design.low, problem.link
    n, d = x.shape
    a, c = gradient.shape[:2]
    p = p.to(x.dtype)
    ridge = penalty.to(x.dtype).view(-1, 1, 1).repeat(1, 1, d)
    ridge[..., -1] = 0
    scale = ((p * (1 - p)).view(-1, n) @ problem.design.square).view(a, c, d).add_(ridge).clamp_(min=1e-12)
    solution = torch.zeros(a, c, d, dtype=x.dtype, device=x.device)
    moved = torch.zeros(a, c, n, dtype=x.dtype, device=x.device)
    # Unit right-hand sides: float32 must not underflow for the smallest penalties.
    size = gradient.flatten(1).norm(dim=1).clamp(min=1e-300).view(-1, 1, 1)
    r = (-gradient / size).to(x.dtype)
    r = torch.cat([r[..., :-1] @ axes, r[..., -1:]], 2)

    def precondition(r: Tensor, scale: Tensor) -> Tensor:
        s = r / scale
        # A step that moves all classes alike changes no probability: such steps are projected out.
        return s - s.mean(1, keepdim=True) if link == "softmax" else s

    q = precondition(r, scale)
    rho = (r * q).sum((1, 2))
    aim = (0.2 * problem.tolerance / gap).sqrt().clamp(0.03, 0.5)
    forcing = torch.where(gap > 0.3, torch.full_like(aim, 0.3), aim).to(x.dtype)
    goal = forcing**2 * rho
    index = torch.arange(a, device=x.device)
    used = a
    for _ in range(problem.max_cg):
        m = len(index)
        xq = (q.view(-1, d) @ x.T).view(m, c, n)
        hq = (_curve(p, xq, link).view(-1, n) @ x).view(m, c, d) + ridge * q
        used += 2 * m
        curvature = (q * hq).sum((1, 2))
        alpha = torch.where(curvature > 0, rho / curvature.clamp(min=1e-38), torch.zeros_like(rho))
        step = alpha.view(-1, 1, 1)
        solution[index] += step * q
        moved[index] += step * xq
        r = r - step * hq
        s = precondition(r, scale)
        new = (r * s).sum((1, 2))
        keep = (new > goal) & (curvature > 0)
        if not keep.any():
            break
        q = s + (new / rho.clamp(min=1e-38)).view(-1, 1, 1) * q
        rho = new
        if not keep.all():
            index, q, r, rho, goal = index[keep], q[keep], r[keep], rho[keep], goal[keep]
            p, scale, ridge = p[keep], scale[keep], ridge[keep]
    direction = torch.cat([solution[..., :-1] @ axes.T, solution[..., -1:]], 2)
    return direction.double() * size, moved.double() * size, used


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
    loss, residual, _ = _loss((x @ w + b).T[None], y.T, link)
    gradient = x.T @ residual[0].T + penalty * w
    objective = loss[0] + 0.5 * penalty * (w**2).sum()
    return float((gradient**2).sum() / (2 * penalty) / objective)
