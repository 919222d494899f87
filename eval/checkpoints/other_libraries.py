"""Other people's networks, to run a converted file in: torchvision, timm, transformers, Detectron2 written out."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mast.model import Arch

from .backbone import Backbone

Maps = dict[str, Tensor]


def version(package: str) -> str:
    """A package's name and version."""
    return f"{package} {importlib.metadata.version(package)}"


def torchvision_network(backbone: Backbone) -> nn.Module | None:
    """Torchvision's own network of a backbone's architecture, if it has that one."""
    import torchvision.models

    arch: Any = getattr(backbone, "arch", None)
    network: nn.Module
    if arch == "mobilenet_v2":
        network = torchvision.models.mobilenet_v2()
        network.classifier = nn.Identity()
        return network
    if not _standard(arch):
        return None
    network = torchvision.models.get_model(f"resnet{arch.depth}")
    network.fc = nn.Identity()
    return network


def _standard(arch: Any) -> bool:
    return isinstance(arch, Arch) and arch == Arch(arch.depth) and arch.depth != 10


def timm_network(backbone: Backbone) -> nn.Module | None:
    """timm's network of a backbone's architecture, if timm is there and has that one."""
    arch: Any = getattr(backbone, "arch", None)
    if not _standard(arch):
        return None
    try:
        import timm
    except ImportError:
        return None
    network: nn.Module = timm.create_model(f"resnet{arch.depth}", pretrained=False, num_classes=0)
    return network


def torchvision_maps(network: Any, images: Tensor) -> Maps:
    """Outputs of the four stages of torchvision's or timm's network."""
    maps, x = {}, images
    if hasattr(network, "features"):  # MobileNetV2
        stages = {3: "res2", 6: "res3", 13: "res4", 18: "res5"}
        for index, layer in enumerate(network.features):
            x = layer(x)
            if index in stages:
                maps[stages[index]] = x
        return maps
    activation = network.relu if hasattr(network, "relu") else network.act1
    x = network.maxpool(activation(network.bn1(network.conv1(x))))
    for stage in range(1, 5):
        x = getattr(network, f"layer{stage}")(x)
        maps[f"res{stage + 1}"] = x
    return maps


def huggingface_network(config: Mapping[str, Any]) -> nn.Module | None:
    """transformers' ``ResNetModel``, if transformers is there."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        return None
    settings = {key: value for key, value in config.items() if key not in ("architectures", "model_type")}
    network: nn.Module = transformers.ResNetModel(transformers.ResNetConfig(**settings))
    return network


def huggingface_maps(network: Any, images: Tensor) -> Maps:
    """Its four hidden states after the stem's."""
    states = network(images, output_hidden_states=True).hidden_states
    return {f"res{index + 1}": state for index, state in enumerate(states) if index}


def detectron2_maps(state: Mapping[str, Tensor], images: Tensor, *, stride_in_1x1: bool) -> Maps:
    """Detectron2's ResNet on its own keys: frozen normalisation as one scale and shift, 3x3 stride by default.

    Args:
        state: ``stem.conv1.weight``, ``res2.0.conv1.norm.running_var`` and so on, in the images' precision.
        images: ``(B, 3, H, W)``, normalised.
        stride_in_1x1: As in its configuration ``MODEL.RESNETS.STRIDE_IN_1X1``.
    """

    def layer(x: Tensor, name: str, stride: int) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        scale = state[f"{name}.norm.weight"] * (state[f"{name}.norm.running_var"] + 1e-5).rsqrt()
        shift = state[f"{name}.norm.bias"] - state[f"{name}.norm.running_mean"] * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    x = F.max_pool2d(layer(images, "stem.conv1", 2).relu(), 3, stride=2, padding=1)
    maps = {}
    for stage in range(2, 6):
        block = 0
        while f"res{stage}.{block}.conv1.weight" in state:
            name, stride = f"res{stage}.{block}", 2 if stage > 2 and block == 0 else 1
            shortcut = layer(x, f"{name}.shortcut", stride) if f"{name}.shortcut.weight" in state else x
            if f"{name}.conv3.weight" in state:
                first, second = (stride, 1) if stride_in_1x1 else (1, stride)
                x = layer(layer(x, f"{name}.conv1", first).relu(), f"{name}.conv2", second).relu()
                x = layer(x, f"{name}.conv3", 1)
            else:
                x = layer(layer(x, f"{name}.conv1", stride).relu(), f"{name}.conv2", 1)
            x = (x + shortcut).relu()
            block += 1
        maps[f"res{stage}"] = x
    return maps
