"""What renaming cannot do: transposes, joined matrices, filled statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import UserError

Weights = dict[str, Tensor]


def haiku(weights: Weights) -> Weights:
    """Haiku's ``HWIO`` kernels to ``OIHW``, its ``(1, 1, 1, C)`` vectors to ``(C,)``."""
    return {
        name: tensor.permute(3, 2, 0, 1).contiguous() if _is_kernel(name, weights) else tensor.reshape(-1)
        for name, tensor in weights.items()
    }


def _is_kernel(name: str, weights: Weights) -> bool:
    module, _, leaf = name.rpartition(".")
    return leaf == "weight" and f"{module}.bias" not in weights


def qkv(weights: Weights) -> Weights:
    """Query, key and value of a block joined into timm's ``attn.qkv``."""
    joined = {
        name: tensor for name, tensor in weights.items() if not name.rpartition(".attn.")[2].startswith(_QKV)
    }
    for name in weights:
        if ".attn.query." in name:
            parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
            if any(part not in weights for part in parts):
                raise UserError(f"{name} without its key or value", remedy="the checkpoint is incomplete")
            joined[name.replace(".query.", ".qkv.")] = torch.cat([weights[part] for part in parts])
    return joined


_QKV = ("query.", "key.", "value.")


def absorbed(weights: Weights) -> Weights:
    """Caffe2's affine layers: the statistics are in weight and bias, so mean 0 and variance 1 - eps remain."""
    filled = dict(weights)
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.ndim == 1 and f"{module}.running_mean" not in weights:
            filled[f"{module}.running_mean"] = torch.zeros_like(tensor)
            filled[f"{module}.running_var"] = torch.full_like(tensor, 1 - 1e-5)
    return filled


TRANSFORMS: dict[str, Callable[[Weights], Weights]] = {
    "": dict,
    "haiku": haiku,
    "qkv": qkv,
    "absorbed": absorbed,
}
