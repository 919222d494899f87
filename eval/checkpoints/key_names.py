"""Torchvision's ResNet names in other libraries' words: pure functions on keys, both ways."""

from __future__ import annotations

import re


def torchvision_to_detectron2(key: str) -> str:
    """The name inside Detectron2's ResNet.

    >>> torchvision_to_detectron2("layer1.0.bn2.weight"), torchvision_to_detectron2("conv1.weight")
    ('res2.0.conv2.norm.weight', 'stem.conv1.weight')
    """
    key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
    if not key.startswith("res"):
        key = f"stem.{key}"
    key = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
    return key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")


def detectron2_to_torchvision(key: str) -> str:
    """The inverse of `torchvision_to_detectron2`.

    >>> detectron2_to_torchvision("res5.0.shortcut.norm.running_var")
    'layer4.0.downsample.1.running_var'
    """
    key = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", key.removeprefix("stem."))
    key = re.sub(r"(^|\.)conv(\d)\.norm\.", r"\1bn\2.", key)
    return key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")


def torchvision_to_huggingface(key: str) -> str:
    """The name inside transformers' ``ResNetModel``.

    >>> torchvision_to_huggingface("layer2.1.bn3.bias")
    'encoder.stages.1.layers.1.layer.2.normalization.bias'
    """
    stem = re.fullmatch(r"(conv|bn)1\.(.+)", key)
    if stem:
        return f"embedder.embedder.{_KIND[stem[1]]}.{stem[2]}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", key).groups()  # type: ignore[union-attr]
    prefix = f"encoder.stages.{int(stage) - 1}.layers.{block}."
    shortcut = re.fullmatch(r"downsample\.(\d)\.(.+)", rest)
    if shortcut:
        return f"{prefix}shortcut.{'normalization' if shortcut[1] == '1' else 'convolution'}.{shortcut[2]}"
    kind, index, leaf = re.fullmatch(r"(conv|bn)(\d)\.(.+)", rest).groups()  # type: ignore[union-attr]
    return f"{prefix}layer.{int(index) - 1}.{_KIND[kind]}.{leaf}"


_KIND = {"conv": "convolution", "bn": "normalization"}
