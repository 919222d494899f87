"""What renaming cannot do: transposes, joined matrices, filled statistics."""

from __future__ import annotations

import re
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


def dinov3(weights: Weights) -> Weights:
    """DINOv3's biases of query, key and value, under timm's names: that of the key is masked out.

    Raises:
        UserError: If a key's bias is left, or the mask is neither 0 nor 1.
    """
    split = {}
    for name, tensor in weights.items():
        if name.endswith(".qkv.bias_mask"):
            continue
        if not name.endswith(".qkv.bias"):
            split[name] = tensor
            continue
        mask = weights.get(f"{name}_mask", torch.ones_like(tensor))
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError(f"{name}_mask holds more than 0 and 1", remedy="the checkpoint is incomplete")
        query, key, value = (tensor * mask).chunk(3)
        if bool(key.any()):
            raise UserError(
                f"{name} has a bias for keys, which DINOv3 masks out", remedy="it is another network"
            )
        split[name.replace(".qkv.bias", ".q_bias")] = query
        split[name.replace(".qkv.bias", ".v_bias")] = value
    return split


def beit(weights: Weights) -> Weights:
    """Query, key and value joined; queries and values have biases of their own, keys have none.

    Raises:
        UserError: If keys have one.
    """
    biases = {
        name: tensor
        for name, tensor in weights.items()
        if re.search(r"\.attn\.(query|key|value)\.bias$", name)
    }
    if any(".key." in name for name in biases):
        raise UserError("keys have a bias", remedy="such a network is not supported")
    joined = qkv({name: tensor for name, tensor in weights.items() if name not in biases})
    for name, tensor in biases.items():
        joined[name.replace(".query.bias", ".q_bias").replace(".value.bias", ".v_bias")] = tensor
    return joined


def huggingface_dinov3(weights: Weights) -> Weights:
    """As `beit`, with gated perceptrons; where there are no registers, they are an empty tensor."""
    weights = {name: tensor for name, tensor in weights.items() if name != "reg_token" or tensor.numel()}
    joined = beit(weights)
    return {name.replace(".mlp.up_proj.", ".mlp.fc1_x." if _gated(weights) else ".mlp.fc1."): tensor
            for name, tensor in joined.items()}  # fmt: skip


def _gated(weights: Weights) -> bool:
    return any(".mlp.fc1_g." in name for name in weights)


def siglip(weights: Weights) -> Weights:
    """SigLIP's image tower: joined matrices, positions and the attention pooling as timm has them.

    Raises:
        UserError: For SigLIP 2's NaFlex networks, whose patch embedding is a matrix.
    """
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 2:
        raise UserError(
            "SigLIP 2 NaFlex: its image processor cuts patches at each picture's own shape, and here all are squares",
            remedy="take a release of a fixed size, such as google/siglip2-base-patch16-256",
        )
    found = {}
    for name, tensor in qkv(weights).items():
        if name == "pos_embed":
            found[name] = tensor.unsqueeze(0)
        elif name.startswith("attn_pool.qkv."):
            leaf, third = name.rpartition(".")[2], len(tensor) // 3
            found[f"attn_pool.q.{leaf}"], found[f"attn_pool.kv.{leaf}"] = tensor[:third], tensor[third:]
        else:
            found[name] = tensor
    return found


def grn(weights: Weights) -> Weights:
    """ConvNeXt V2's response normalisation ``(1, 1, 1, C)`` as timm's vectors."""
    return {name: t.reshape(-1) if ".mlp.grn." in name else t for name, t in weights.items()}


def fcmae(weights: Weights) -> Weights:
    """ConvNeXt V2's self-supervised encoders: sparse convolutions ``(k * k, [in,] out)`` as dense ones."""
    dense = {}
    for name, tensor in weights.items():
        if name.endswith(".kernel"):
            side = round(tensor.shape[0] ** 0.5)
            moved = tensor.movedim(0, -1).transpose(0, 1) if tensor.ndim == 3 else tensor.t().unsqueeze(1)
            square = moved.reshape(*moved.shape[:2], side, side)
            dense[name.replace(".kernel", ".weight")] = square.transpose(-1, -2).contiguous()
        else:
            dense[name] = tensor.reshape(-1) if name.endswith(".bias") else tensor
    return grn(dense)


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
    "beit": beit,
    "dinov3": dinov3,
    "huggingface-dinov3": huggingface_dinov3,
    "siglip": siglip,
    "grn": grn,
    "fcmae": fcmae,
}
