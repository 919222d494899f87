"""LARS and the learning-rate schedule of VICReg's code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import overload

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
        # The tensors of a group go together: on a GPU that is a dozen launches, one by one it were thousands.
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            if not held:
                continue
            scaled, plain = [p for p in held if p.ndim > 1], [p for p in held if p.ndim <= 1]
            updates = [p.grad for p in plain]
            if scaled:
                decayed = torch._foreach_add([p.grad for p in scaled], scaled, alpha=group["weight_decay"])
                weight, update = (torch.stack(torch._foreach_norm(each)) for each in (scaled, decayed))
                ratio = torch.where((weight > 0) & (update > 0), group["eta"] * weight / update, 1.0)
                torch._foreach_mul_(decayed, ratio.unbind())
                updates = [*decayed, *updates]
            ordered = [*scaled, *plain]
            for p in ordered:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum"] for p in ordered]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(ordered, buffers, alpha=-group["lr"])
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
