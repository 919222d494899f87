"""Files of the families that timm builds, as their authors, Hugging Face and timm write them: small, perturbed.

The networks are timm's own; the names are written out here once more, away from the layouts.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from timm.models import _hub
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

State = dict[str, Tensor]


@dataclass
class Family:
    """A written file and the network that it comes from.

    Attributes:
        layout: The layout that must be found.
        path: The file.
        network: timm's, which computes `feature` of images.
        feature: Its feature, from the network and images.
        sizes: Two sides in pixels.
        pooling: The name of that feature.
        options: What a user must say.
        positions: How the authors' code resizes positions, where that is not timm's way: DINO's ``offset``, which
            goes into the scale, and torch's ``antialias``.
    """

    layout: str
    path: Path
    network: Any
    feature: Callable[[Any, Tensor], Tensor]
    sizes: tuple[int, int]
    pooling: str = "cls"
    options: dict[str, Any] = field(default_factory=dict)
    positions: dict[str, Any] | None = None

    def sized(self, height: int, width: int) -> Any:
        """The network with positions for images of these sides."""
        patch = self.network.patch_embed.patch_size[0] if self.positions is not None else 1
        now = height // patch, width // patch
        if self.positions is None or now == tuple(self.network.patch_embed.grid_size):
            return self.network
        network = copy.deepcopy(self.network)
        before = network.patch_embed.grid_size
        kept, places = network.pos_embed.split(
            (network.pos_embed.shape[1] - math.prod(before), math.prod(before)), 1
        )
        offset = self.positions.get("offset", 0.0)
        size: dict[str, Any] = {"size": now}
        if offset:
            size = {"scale_factor": tuple((a + offset) / b for a, b in zip(now, before, strict=True))}
        square = places.transpose(1, 2).unflatten(2, before)
        square = nn.functional.interpolate(
            square, mode="bicubic", antialias=self.positions.get("antialias", False), **size
        )
        network.patch_embed.grid_size = now
        network.pos_embed = nn.Parameter(torch.cat([kept, square.flatten(2).transpose(1, 2)], 1))
        return network


def perturbed(network: Any, seed: int = 0) -> Any:
    """Every vector away from its initial value and attention sharp, so that a wrong network shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or name.endswith("periods"):
                continue
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 2:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def renamed(state: Mapping[str, Tensor], names: Sequence[tuple[str, str]], start: str = "") -> State:
    """A state dict under other names: patterns and replacements, one after another."""
    found = {}
    for key, tensor in state.items():
        for pattern, new in names:
            key = re.sub(pattern, new, key)
        found[start + key] = tensor.clone().contiguous()
    return found


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def in_folder(path: Path, state: State, config: Mapping[str, Any]) -> Path:
    """A Hugging Face folder: weights and ``config.json``."""
    folder = path.with_suffix("")
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def split_qkv(
    state: Mapping[str, Tensor], inner: str, names: Sequence[str] = ("query", "key", "value")
) -> State:
    """``attn.qkv`` in three; ``inner`` stands before the names."""
    found = {}
    for key, tensor in state.items():
        if ".attn.qkv." in key:
            for name, part in zip(names, tensor.chunk(3), strict=True):
                found[key.replace(".attn.qkv.", f".{inner}{name}{'_proj' if len(name) == 1 else ''}.")] = part
        else:
            found[key] = tensor
    return found


def mean(network: Any, images: Tensor) -> Tensor:
    """The mean of the patch tokens after the last norm."""
    return network.forward_features(images)[:, network.num_prefix_tokens :].mean(1)


def cls(network: Any, images: Tensor) -> Tensor:
    """The class token after the last norm."""
    return network.forward_features(images)[:, 0]


def own(network: Any, images: Tensor) -> Tensor:
    """What timm's forward gives."""
    return network(images)


# --- networks ------------------------------------------------------------------------------------------------


def plain(**changes: Any) -> Any:
    """A small plain vision transformer, for any size of image."""
    settings: dict[str, Any] = {
        "img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0,
        "dynamic_img_size": True,
    }  # fmt: skip
    return perturbed(VisionTransformer(**settings | changes))


def rotary(**changes: Any) -> Any:
    """A small DINOv3."""
    settings: dict[str, Any] = {
        "img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0,
        "dynamic_img_size": True, "qkv_bias": True, "init_values": 1e-5, "rope_type": "dinov3",
        "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True, "use_abs_pos_emb": False,
        "num_reg_tokens": 4, "use_fc_norm": False, "norm_layer": partial(nn.LayerNorm, eps=1e-5),
    }  # fmt: skip
    return perturbed(Eva(**settings | changes))


def convnext(**changes: Any) -> Any:
    """A small ConvNeXt."""
    settings: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 0}
    return perturbed(ConvNeXt(**settings | changes))


def swin(**changes: Any) -> Any:
    """A small Swin with windows of 2, shifted in the first three stages."""
    settings: dict[str, Any] = {
        "img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4),
        "num_classes": 0, "dynamic_img_size": True,
    }  # fmt: skip
    return perturbed(SwinTransformer(**settings | changes))


# --- authors' files ------------------------------------------------------------------------------------------


def _dinov3_state(network: Any) -> State:
    gated = hasattr(network.blocks[0].mlp, "fc1_g")
    state = renamed(
        network.state_dict(),
        [(r"^reg_token$", "storage_tokens"), (r"gamma_(\d)$", r"ls\1.gamma"), (r"mlp\.fc1_g\.", "mlp.w1."),
         (r"mlp\.fc1_x\.", "mlp.w2."), *([(r"mlp\.fc2\.", "mlp.w3.")] if gated else [])],
    )  # fmt: skip
    for index in range(len(network.blocks)):
        start = f"blocks.{index}.attn"
        query, value = state.pop(f"{start}.q_bias"), state.pop(f"{start}.v_bias")
        state[f"{start}.qkv.bias"] = torch.cat(
            [query, torch.full_like(query, 0.7), value]
        )  # the key's is masked
        ones = torch.ones_like(query)
        state[f"{start}.qkv.bias_mask"] = torch.cat([ones, 0 * ones, ones])
    return state | {"rope_embed.periods": network.rope.periods.clone(), "mask_token": torch.zeros(1, 128)}


def dinov3(path: Path) -> Family:
    network = rotary()
    return Family("dinov3", saved(path, _dinov3_state(network)), network, cls, (32, 48))


def dinov3_untied(path: Path) -> Family:
    network = rotary(swiglu_mlp=True, swiglu_align_to=8)
    state = _dinov3_state(network) | {
        "local_cls_norm.weight": torch.ones(128),
        "local_cls_norm.bias": torch.ones(128),
    }
    return Family("dinov3-untied", saved(path, state), network, cls, (32, 48))


def dinov3_satellite(path: Path) -> Family:
    family = dinov3_untied(path)
    family.layout, family.options = "dinov3-satellite", {"layout": "dinov3-satellite"}
    return family


def franca(path: Path) -> Family:
    network = plain(init_values=1.0, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=2.75)
    state = renamed(network.state_dict(), [(r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3."),
                                           (r"^blocks\.1\.", "blocks.1.1."), (r"^blocks\.0\.", "blocks.0.0.")],
                    "module.backbone.")  # fmt: skip
    return Family(
        "dinov2-training", saved(path, {"teacher": state}), network, cls, (32, 48), positions={"offset": 0.1}
    )


def dinov3_training(path: Path) -> Family:
    network = rotary()
    network.rope.periods.mul_(1.25)  # frequencies are read, and not worked out once more
    state = {f"backbone.{k}": v for k, v in _dinov3_state(network).items()}
    heads = {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.mlp.0.weight": torch.zeros(4, 4)}
    return Family("dinov3-training", saved(path, {"teacher": state | heads}), network, cls, (32, 48))


def dinov2_giant(path: Path) -> Family:
    network = plain(init_values=1.0, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=2.75)
    state = renamed(network.state_dict(), [(r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3.")])
    place = saved(path, state | {"mask_token": torch.zeros(1, 128)})
    return Family("dinov2", place, network, cls, (32, 48), positions={"offset": 0.1})


def ijepa(path: Path) -> Family:
    network = plain(embed_dim=192, num_heads=3, class_token=False, global_pool="avg", fc_norm=False)
    target = renamed(network.state_dict(), [], "module.")
    content = {
        "encoder": {k: v + 1 for k, v in target.items()},
        "predictor": {"module.predictor_embed.weight": torch.zeros(4, 4)},
        "target_encoder": target,
        "opt": {}, "scaler": None, "epoch": 3, "loss": 0.1, "batch_size": 8, "world_size": 1, "lr": 0.1,
    }  # fmt: skip
    return Family("ijepa", saved(path, content), network, mean, (32, 48), "mean")


_CONVNEXT = [
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"^head\.norm\.", "norm."),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
]


def convnext_authors(path: Path) -> Family:
    network = convnext()
    state = renamed(network.state_dict(), _CONVNEXT)
    state |= {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}
    return Family("convnext", saved(path, {"model": state}), network, own, (64, 96), "avg")


def convnext_dinov3(path: Path) -> Family:
    network = convnext()
    state = renamed(network.state_dict(), _CONVNEXT)
    state |= {"norms.3.weight": state["norm.weight"], "norms.3.bias": state["norm.bias"]}
    return Family("convnext", saved(path, state), network, own, (64, 96), "avg")


def _grn(state: State) -> State:
    return {k: v.reshape(1, 1, 1, -1) if ".grn." in k else v for k, v in state.items()}


def convnextv2(path: Path) -> Family:
    network = convnext(use_grn=True, ls_init_value=None)
    state = _grn(renamed(network.state_dict(), _CONVNEXT))
    return Family("convnext", saved(path, {"model": state}), network, own, (64, 96), "avg")


def convnextv2_fcmae(path: Path) -> Family:
    """Sparse convolutions: ``(k * k, [in,] out)`` with columns before rows, biases and GRN as rows."""
    network = convnext(use_grn=True, ls_init_value=None)
    state = {}
    for key, tensor in renamed(network.state_dict(), _CONVNEXT).items():
        if key.endswith("dwconv.weight"):
            tensor, key = (
                tensor.transpose(3, 2).reshape(len(tensor), -1).t(),
                key.replace(".weight", ".kernel"),
            )
        elif re.match(r"downsample_layers\.[123]\.1\.weight", key):
            tensor = tensor.transpose(3, 2).flatten(2).permute(2, 1, 0)
            key = key.replace(".weight", ".kernel")
        elif re.search(r"(dwconv|downsample_layers\.[123]\.1)\.bias$", key) or ".grn." in key:
            tensor = tensor[None]
        elif re.search(r"\.norm\.|downsample_layers\.[123]\.0\.", key):
            key = re.sub(r"\.(weight|bias)$", r".ln.\1", key)
        elif "pwconv" in key:
            key = re.sub(r"\.(weight|bias)$", r".linear.\1", key)
        if not key.startswith("norm."):
            state[f"encoder.{key}"] = tensor.clone()
    state |= {
        f"encoder.norm.{leaf}": getattr(network.head.norm, leaf).detach() for leaf in ("weight", "bias")
    }
    state |= dict.fromkeys(
        ("mask_token", "decoder.0.dwconv.weight", "proj.weight", "pred.weight"), torch.zeros(4)
    )
    return Family("convnextv2-fcmae", saved(path, {"model": state}), network, own, (64, 96), "avg")


def vicregl_convnext(path: Path) -> Family:
    network = convnext()
    state = renamed(network.state_dict(), _CONVNEXT, "module.backbone.")
    state |= {
        "module.projector.0.weight": torch.zeros(4, 4),
        "module.maps_projector.0.weight": torch.zeros(4, 4),
    }
    return Family("vicregl-convnext", saved(path, {"model": state}), network, own, (64, 96), "avg")


_SWIN = [(rf"^layers\.{stage}\.downsample\.", f"layers.{stage - 1}.downsample.") for stage in (1, 2, 3)]


def swin_authors(path: Path) -> Family:
    network = swin()
    state = renamed(network.state_dict(), _SWIN) | {
        "head.weight": torch.zeros(3, 128),
        "head.bias": torch.zeros(3),
    }
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 4, 4)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
    return Family("swin", saved(path, {"model": state, "epoch": 1}), network, own, (64, 128), "avg")


def moby(path: Path) -> Family:
    network = swin()
    state = renamed(network.state_dict(), _SWIN, "encoder.")
    state |= {key.replace("encoder.", "encoder_k.", 1): tensor + 1 for key, tensor in state.items()}
    state |= {
        f"{part}.linear_out.weight": torch.zeros(4, 4) for part in ("projector", "projector_k", "predictor")
    }
    state |= {"queue1": torch.zeros(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    content = {"model": state, "max_accuracy": 0.0, "epoch": 1}
    return Family("moby", saved(path, content), network, own, (64, 128), "avg")


def esvit_swin(path: Path) -> Family:
    network = swin(norm_layer=partial(nn.LayerNorm, eps=1e-6))
    state = renamed(network.state_dict(), _SWIN, "module.")
    state |= {
        "module.head.mlp.0.weight": torch.zeros(4, 4),
        "module.head_dense.mlp.0.weight": torch.zeros(4, 4),
    }
    content = {"student": {k: v + 1 for k, v in state.items()}, "teacher": state, "epoch": 1}
    return Family("esvit-swin", saved(path, content), network, own, (64, 128), "avg")


def webssl_mae(path: Path) -> Family:
    network = plain(embed_dim=1024, depth=1, num_heads=16)
    family = Family("webssl-mae", saved(path, network.state_dict()), network, cls, (32, 48))
    family.options = {"layout": "webssl-mae"}
    return family


# --- Hugging Face's ------------------------------------------------------------------------------------------

_VIT = [
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
]


def huggingface_ijepa(path: Path) -> Family:
    network = plain(num_heads=4, class_token=False, global_pool="avg", fc_norm=False,
                    norm_layer=partial(nn.LayerNorm, eps=1e-5))  # fmt: skip
    state = renamed(split_qkv(network.state_dict(), "attention.attention."), _VIT)
    config = {"model_type": "ijepa", "hidden_size": 128, "num_attention_heads": 4, "layer_norm_eps": 1e-5}
    return Family(
        "huggingface-ijepa", in_folder(path, state, config), network, mean, (32, 48), "mean", positions={}
    )


def huggingface_dinov3(path: Path) -> Family:
    network = rotary(num_heads=4, swiglu_mlp=True, swiglu_align_to=8)
    state = split_qkv(network.state_dict(), "attention.", ("q", "k", "v"))
    state = renamed(
        state,
        [(r"\.attn\.q_bias$", ".attention.q_proj.bias"), (r"\.attn\.v_bias$", ".attention.v_proj.bias"),
         (r"\.attn\.proj\.", ".attention.o_proj."), (r"^blocks\.", "layer."),
         (r"gamma_(\d)$", r"layer_scale\1.lambda1"),
         (r"mlp\.fc1_g\.", "mlp.gate_proj."), (r"mlp\.fc1_x\.", "mlp.up_proj."), (r"mlp\.fc2\.", "mlp.down_proj."),
         (r"^cls_token$", "embeddings.cls_token"), (r"^reg_token$", "embeddings.register_tokens"),
         (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.")],
    )  # fmt: skip
    state["embeddings.mask_token"] = torch.zeros(1, 1, 128)
    config = {"model_type": "dinov3_vit", "hidden_size": 128, "num_attention_heads": 4, "rope_theta": 100.0,
              "hidden_act": "silu", "layer_norm_eps": 1e-5}  # fmt: skip
    return Family("huggingface-dinov3", in_folder(path, state, config), network, cls, (32, 48))


def huggingface_dinov3_convnext(path: Path) -> Family:
    network = convnext()
    state = renamed(
        network.state_dict(),
        [(r"^stem\.", "stages.0.downsample_layers."),
         (r"^stages\.(\d)\.downsample\.", r"stages.\1.downsample_layers."),
         (r"^stages\.(\d)\.blocks\.", r"stages.\1.layers."), (r"\.conv_dw\.", ".depthwise_conv."),
         (r"\.mlp\.fc(\d)\.", r".pointwise_conv\1."), (r"\.(\d+)\.norm\.", r".\1.layer_norm."),
         (r"^head\.norm\.", "layer_norm.")],
    )  # fmt: skip
    config = {"model_type": "dinov3_convnext", "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    place = in_folder(path, state, config)
    return Family("huggingface-dinov3-convnext", place, network, own, (64, 96), "avg")


def huggingface_convnextv2(path: Path) -> Family:
    network = convnext(use_grn=True, ls_init_value=None)
    network.head.norm.eps = 1e-3
    state = renamed(
        network.state_dict(),
        [(r"^stem\.0\.", "embeddings.patch_embeddings."), (r"^stem\.1\.", "embeddings.layernorm."),
         (r"^stages\.(\d)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
         (r"^stages\.(\d)\.blocks\.", r"encoder.stages.\1.layers."), (r"\.conv_dw\.", ".dwconv."),
         (r"\.mlp\.fc(\d)\.", r".pwconv\1."), (r"\.mlp\.grn\.", ".grn."), (r"\.(\d+)\.norm\.", r".\1.layernorm."),
         (r"^head\.norm\.", "layernorm.")],
    )  # fmt: skip
    config = {"model_type": "convnextv2", "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    return Family("huggingface-convnext", in_folder(path, _grn(state), config), network, own, (64, 96), "avg")


def huggingface_swin(path: Path) -> Family:
    network = swin()
    state = renamed(
        split_qkv(network.state_dict(), "attention.self."),
        [*_SWIN, (r"^layers\.", "encoder.layers."), (r"\.attn\.proj\.", ".attention.output.dense."),
         (r"\.attn\.rel", ".attention.self.rel"), (r"\.norm1\.", ".layernorm_before."),
         (r"\.norm2\.", ".layernorm_after."), (r"\.mlp\.fc1\.", ".intermediate.dense."),
         (r"\.mlp\.fc2\.", ".output.dense."), (r"^norm\.", "layernorm."),
         (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
         (r"^patch_embed\.norm\.", "embeddings.norm.")],
        "swin.",
    )  # fmt: skip
    state |= {"classifier.weight": torch.zeros(3, 128), "classifier.bias": torch.zeros(3)}
    config = {"model_type": "swin", "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    return Family("huggingface-swin", in_folder(path, state, config), network, own, (64, 128), "avg")


def huggingface_beit(path: Path) -> Family:
    network = perturbed(
        Beit(img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=0, init_values=0.1,
             use_abs_pos_emb=False, use_rel_pos_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-3))
    )  # fmt: skip
    state = renamed(
        split_qkv(network.state_dict(), "attention.attention."),
        [(r"\.attn\.q_bias", ".attention.attention.query.bias"),
         (r"\.attn\.v_bias", ".attention.attention.value.bias"),
         (r"\.attn\.rel", ".attention.attention.relative_position_bias.rel"), (r"^blocks\.", "encoder.layer."),
         (r"\.attn\.proj\.", ".attention.output.dense."), (r"\.norm1\.", ".layernorm_before."),
         (r"\.norm2\.", ".layernorm_after."), (r"\.mlp\.fc1\.", ".intermediate.dense."),
         (r"\.mlp\.fc2\.", ".output.dense."), (r"\.gamma_", ".lambda_"), (r"^cls_token", "embeddings.cls_token"),
         (r"^fc_norm\.", "pooler.layernorm."),
         (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection.")],
        "beit.",
    )  # fmt: skip
    state |= {"classifier.weight": torch.zeros(3, 64), "beit.embeddings.mask_token": torch.zeros(1, 1, 64)}
    config = {"model_type": "beit", "hidden_act": "gelu", "layer_norm_eps": 1e-3, "use_mean_pooling": True}
    return Family("huggingface-beit", in_folder(path, state, config), network, own, (64, 64), "mean")


def siglip(path: Path) -> Family:
    network = plain(
        num_heads=4, class_token=False, global_pool="map", act_layer=partial(nn.GELU, approximate="tanh")
    )
    state = renamed(
        split_qkv(network.state_dict(), "self_attn.", ("q", "k", "v")),
        [(r"^blocks\.", "encoder.layers."), (r"^attn_pool\.latent$", "head.probe"),
         (r"^attn_pool\.proj\.", "head.attention.out_proj."), (r"^attn_pool\.norm\.", "head.layernorm."),
         (r"^attn_pool\.mlp\.", "head.mlp."), (r"\.attn\.proj\.", ".self_attn.out_proj."),
         (r"\.norm(\d)\.", r".layer_norm\1."), (r"^norm\.", "post_layernorm."),
         (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
         (r"^pos_embed$", "embeddings.position_embedding.weight")],
        "vision_model.",
    )  # fmt: skip
    for leaf in ("weight", "bias"):
        query, rest = (state.pop(f"vision_model.attn_pool.{part}.{leaf}") for part in ("q", "kv"))
        state[f"vision_model.head.attention.in_proj_{leaf}"] = torch.cat([query, rest])
    place = "vision_model.embeddings.position_embedding.weight"
    state[place] = state[place][0]
    state |= {
        "text_model.final_layer_norm.weight": torch.zeros(4),
        "logit_scale": torch.zeros(1),
        "logit_bias": torch.zeros(1),
    }
    vision = {"model_type": "siglip_vision_model", "hidden_size": 128, "num_attention_heads": 4,
              "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}  # fmt: skip
    config = {
        "model_type": "siglip",
        "vision_config": vision,
        "text_config": {"hidden_size": 99, "num_attention_heads": 9},
    }
    return Family("siglip", in_folder(path, state, config), network, own, (32, 48), "map", positions={})


# --- timm's --------------------------------------------------------------------------------------------------


def _of_timm(name: str, sizes: tuple[int, int], pooling: str, **arguments: Any) -> Callable[[Path], Family]:
    def write(path: Path) -> Family:
        network = perturbed(timm.create_model(name, num_classes=3, **arguments))
        folder = path.with_suffix("")
        _hub.save_for_hf(network, folder, model_args=arguments or None, safe_serialization=True)
        takes = "dynamic_img_size" in inspect.signature(type(network).__init__).parameters
        other = {"dynamic_img_size": True} if sizes[0] != sizes[1] and takes else {}
        fresh = timm.create_model(name, num_classes=0, **arguments, **other).eval()
        fresh.load_state_dict(network.state_dict(), strict=False)
        return Family("timm", folder / "model.safetensors", fresh, own, sizes, pooling)

    return write


def convnext_timm(path: Path) -> Family:
    network = convnext()
    state = network.state_dict() | {"head.fc.weight": torch.zeros(3, 64), "head.fc.bias": torch.zeros(3)}
    return Family("convnext-timm", saved(path, state), network, own, (64, 96), "avg")


def timm_averaged(path: Path) -> Family:
    small = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}
    network = perturbed(timm.create_model("convnext_atto", num_classes=3, **small))
    averaged = network.state_dict()
    content = {"state_dict": {k: v + 1 for k, v in averaged.items()}, "state_dict_ema": averaged, "epoch": 1,
               "args": argparse.Namespace(model="convnext_atto", model_kwargs=small)}  # fmt: skip
    place = saved(path, content)
    network.reset_classifier(0)
    return Family("timm-averaged", place, network, own, (64, 96), "avg")


_ATTO = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)}
_SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64}

FAMILIES: dict[str, Callable[[Path], Family]] = {
    make.__name__: make
    for make in (
        dinov3, dinov3_untied, dinov3_satellite, dinov3_training, dinov2_giant, franca, ijepa, convnext_authors,
        convnext_dinov3, convnextv2,
        convnextv2_fcmae, vicregl_convnext, swin_authors, moby, esvit_swin, webssl_mae, huggingface_ijepa,
        huggingface_beit, huggingface_dinov3, huggingface_dinov3_convnext, huggingface_convnextv2, huggingface_swin,
        siglip,
        timm_averaged, convnext_timm,
    )
} | {
    f"timm-{name}": _of_timm(name, sizes, pooling, **arguments)
    for name, sizes, pooling, arguments in (
        ("convnext_atto", (64, 96), "avg", _ATTO),
        ("convnextv2_atto", (64, 96), "avg", _ATTO),
        ("swin_tiny_patch4_window7_224", (224, 448), "avg",
         {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}),
        ("efficientnet_b0", (64, 96), "avg", {}),
        ("regnety_002", (64, 96), "avg", {}),
        ("resnetaa50", (64, 96), "avg", {"layers": (1, 1, 1, 1)}),
        ("vit_small_patch16_dinov3", (64, 96), "mean", _SMALL),
        ("vit_small_plus_patch16_dinov3", (64, 96), "mean", _SMALL),
        ("vit_giant_patch14_reg4_dinov2", (56, 84), "cls", _SMALL | {"img_size": 56, "embed_dim": 96}),
        ("vit_huge_patch14_gap_224", (56, 84), "mean", _SMALL | {"img_size": 56}),
        ("vit_base_patch16_siglip_224", (64, 96), "map", _SMALL),
        ("vit_base_patch16_224", (64, 96), "cls", _SMALL | {"qk_norm": True}),
        ("vit_so150m_patch16_reg4_map_256", (64, 96), "map", _SMALL),
        ("vit_pe_core_tiny_patch16_384", (64, 96), "map", _SMALL),
        ("vit_base_patch16_radio_v3", (64, 64), "cls", _SMALL),
        ("beitv2_base_patch16_224", (64, 64), "mean", _SMALL),
        ("eva02_tiny_patch14_224", (56, 84), "mean", _SMALL | {"img_size": 56}),
    )
}  # fmt: skip
