"""Do these weights look like the result of training?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def check(weights: Mapping[str, Tensor]) -> tuple[bool, list[str]]:
    """Look at a backbone's weights for signs of an initialisation or of damage.

    Every normalisation layer starts with weight 0 or 1 and bias 0, and BatchNorm with mean 0 and variance 1; one
    optimiser step moves the former, one forward pass the latter.

    Args:
        weights: State dict under torchvision's or timm's names.

    Returns:
        Whether the weights look trained, and warnings.

    Raises:
        ValueError: If a value is not finite or a variance is negative.
    """
    warnings = []
    infinite = [
        name for name, tensor in weights.items() if tensor.is_floating_point() and not _finite(tensor)
    ]
    if infinite:
        raise ValueError(f"not finite: {_some(infinite)}")
    means = {name: t for name, t in weights.items() if name.endswith("running_mean")}
    variances = {name: t for name, t in weights.items() if name.endswith("running_var")}
    negative = [name for name, tensor in variances.items() if bool((tensor < 0).any())]
    if negative:
        raise ValueError(f"negative variances: {_some(negative)}")
    fresh = [name for name, t in variances.items() if bool((t == 1).all()) and _zero(means, name)]
    if fresh:
        warnings.append(
            f"{len(fresh)} of {len(variances)} BatchNorm layers have untouched statistics: {_some(fresh)}"
        )
    exploded = [name for name, t in variances.items() if float(t.max()) > 1e6]
    exploded += [name for name, t in means.items() if float(t.abs().max()) > 1e4]
    if exploded:
        warnings.append(f"BatchNorm statistics look exploded: {_some(exploded)}")
    dead = [name for name, t in variances.items() if float(t.max()) < 1e-12]
    if dead:
        warnings.append(f"BatchNorm layers that saw nothing vary: {_some(dead)}")
    huge = [name for name, t in weights.items() if "running" not in name and t.is_floating_point()
            and t.numel() and float(t.abs().max()) > 1e4]  # fmt: skip
    if huge:
        warnings.append(f"weights look exploded: {_some(huge)}")
    affine = [t for name, t in weights.items() if t.ndim == 1 and _is_norm(name, weights)]
    initial = all(bool((t == t[0]).all()) and float(t[0]) in (0.0, 1.0) for t in affine)
    trained = not (affine and initial)
    if not trained:
        warnings.append(
            "every normalisation layer has its initial weight and bias: these look like random weights"
        )
    return trained, warnings


def _is_norm(name: str, weights: Mapping[str, Tensor]) -> bool:
    module, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        return False
    weight = weights.get(f"{module}.weight")
    return weight is not None and weight.ndim == 1


def _finite(tensor: Tensor) -> bool:
    if not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)  # a NaN anywhere comes through
    return math.isfinite(float(low)) and math.isfinite(float(high))


def _zero(means: Mapping[str, Tensor], variance: str) -> bool:
    mean = means.get(variance.removesuffix("var") + "mean")
    return mean is not None and not bool(mean.any())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
