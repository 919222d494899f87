"""LARS and the schedule against VICReg's code, written out again; the groups of the others."""

import math

import pytest
import torch

from mast.optim import LARS, build_optimizer, learning_rate


def test_lars_is_that_of_vicregs_code():
    """main_vicreg.py, class LARS, with its two filters for one-dimensional parameters."""
    torch.manual_seed(0)
    start = [torch.randn(4, 3), torch.randn(4), torch.zeros(2, 2)]
    ours = [p.clone().requires_grad_() for p in start]
    theirs, mu = [p.clone() for p in start], [torch.zeros_like(p) for p in start]
    optimizer = LARS(ours, lr=0.3, weight_decay=0.1, momentum=0.9, eta=0.02)
    for step in range(4):
        gradients = [torch.randn_like(p) if step else torch.zeros_like(p) for p in start]
        for p, gradient in zip(ours, gradients, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
        for p, buffer, dp in zip(theirs, mu, gradients, strict=True):
            if p.ndim != 1:
                dp = dp + 0.1 * p
                norm, update = torch.norm(p), torch.norm(dp)
                dp = dp * (0.02 * norm / update if norm > 0 and update > 0 else 1.0)
            buffer.mul_(0.9).add_(dp)
            p.add_(buffer, alpha=-0.3)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b)


def test_the_schedule_is_that_of_vicregs_code():
    def theirs(step, epochs, length, base):
        max_steps, warmup_steps = epochs * length, 10 * length
        if step < warmup_steps:
            return base * step / warmup_steps
        step, max_steps = step - warmup_steps, max_steps - warmup_steps
        q = 0.5 * (1 + math.cos(math.pi * step / max_steps))
        return base * q + base * 0.001 * (1 - q)

    for step in range(0, 1000, 7):
        assert learning_rate(step, 1000, 100, 2.4, 0.001) == pytest.approx(
            theirs(step, 100, 10, 2.4), rel=1e-12
        )


def test_adamw_decays_matrices_only():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    decayed, others = build_optimizer(model, "adamw", weight_decay=0.1, momentum=0.9).param_groups
    assert [p.ndim for p in decayed["params"]] == [2]
    assert decayed["weight_decay"] == 0.1
    assert {p.ndim for p in others["params"]} == {1}
    assert others["weight_decay"] == 0
