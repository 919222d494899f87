"""Facts from the configuration that MMEngine and MMCV write into a checkpoint, as Python source in ``meta``."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UserError
from .facts import Fact, Unusable
from .normalization import Normalization

_LONGEST = 1 << 20  # characters of a configuration; real ones have ten thousand
_HEADS = {
    "s": 8,
    "small": 8,
    "b": 12,
    "base": 12,
    "l": 16,
    "large": 16,
    "h": 16,
    "huge": 16,
    "eva-g": 16,
    "eva-giant": 16,
    "deit-t": 3,
    "deit-tiny": 3,
    "deit-s": 6,
    "deit-small": 6,
    "dinov2-s": 6,
    "dinov2-small": 6,
    "deit-b": 12,
    "deit-base": 12,
    "dinov2-g": 24,
    "dinov2-giant": 24,
    "mocov3-s": 12,
    "mocov3-small": 12,
}
"""By MMPretrain's name of a transformer (mmpretrain/models/backbones/vision_transformer.py, mocov3_vit)."""
_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu", "Swish": "silu"}
_CODE = "MMPretrain's own code or another checkpoint"


def of_meta(meta: Any) -> dict[str, Fact]:
    """Facts from a checkpoint's ``meta``.

    Args:
        meta: What the file holds there: MMEngine's has its configuration as the text ``cfg``, MMCV's as ``config``.

    Raises:
        UserError: If a known setting has a value that makes no sense.
    """
    key = next(
        (k for k in ("cfg", "config") if isinstance(meta, Mapping) and isinstance(meta.get(k), str)), ""
    )
    config = _parsed(meta[key]) if key else {}
    model = config.get("model")
    if not isinstance(model, dict):
        return {}
    source = f"meta.{key}"
    facts: dict[str, Any] = {}
    backbone = model.get("backbone")
    if isinstance(backbone, dict):
        facts |= _resnet(backbone) if "ResN" in _kind(backbone) else _transformer(backbone, source)
    facts |= _pixels(config, model, source)
    return {name: Fact(value, source) for name, value in facts.items()}


def _parsed(text: str) -> dict[str, Any]:
    """The top-level settings of a configuration; what is no literal and no ``dict(...)`` becomes None.

    Nothing is run. A text that is no Python, such as the JSON or YAML of another tool, holds none.
    """
    if len(text) > _LONGEST:
        return {}
    try:
        body = ast.parse(text).body
        return {
            target.id: _value(line.value)
            for line in body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the parser's own words for such a text
        return {}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {item.arg: _value(item.value) for item in node.keywords if item.arg is not None}
    if isinstance(node, ast.Dict):
        return {
            key.value: _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _kind(settings: Mapping[str, Any]) -> str:
    """A module's class, without the package that new configurations put before it."""
    return str(settings.get("type", "")).rpartition(".")[2]


def _resnet(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenMMLab's ResNet computes beyond its keys and shapes."""
    facts: dict[str, Any] = {}
    style = backbone.get("style", "pytorch")
    facts["stride_in_1x1"] = (
        style == "caffe"
        if style in ("pytorch", "caffe")
        else Unusable(f"style {style!r:.40}", f"use {_CODE}")
    )
    for name, usual in (("strides", [1, 2, 2, 2]), ("dilations", [1, 1, 1, 1])):
        if (given := backbone.get(name)) is not None and given != usual:
            facts["stride_in_1x1"] = Unusable(
                f"{name} {given!r:.40} are not the usual {usual}", f"use {_CODE}"
            )
    if _kind(backbone) == "ResNet_CIFAR":
        facts["stem"] = "cifar"
    return facts


def _transformer(backbone: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What OpenMMLab's vision transformer computes beyond its keys and shapes."""
    facts: dict[str, Any] = {}
    arch = backbone.get("arch")
    heads = arch.get("num_heads") if isinstance(arch, dict) else _HEADS.get(str(arch).lower())
    if heads is not None:
        if isinstance(heads, bool) or not isinstance(heads, int) or not 1 <= heads <= 1 << 16:
            raise UserError(f"{source}: num_heads is {heads!r:.40}", remedy="say --heads N")
        facts["heads"] = heads
    side = backbone.get("img_size")
    if isinstance(side, list) and len(set(map(str, side))) > 1:  # shapes tell a grid's area alone
        facts["grid"] = Unusable(f"img_size {side!r:.40}", "positions are read as those of a square image")
    layers = backbone.get("layer_cfgs")
    activation = layers.get("act_cfg") if isinstance(layers, dict) else None
    if isinstance(activation, dict):
        name = _kind(activation)
        facts["activation"] = _ACTIVATIONS.get(name) or Unusable(
            f"the activation {name:.40}", f"known are {', '.join(_ACTIVATIONS)}"
        )
    norm = backbone.get("norm_cfg")
    if isinstance(norm, dict) and isinstance(eps := norm.get("eps"), float) and 0 < eps < 1:
        facts["eps"] = eps
    return facts


def _pixels(config: Mapping[str, Any], model: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Normalisation and size of the images.

    OpenMMLab reads images as BGR in 0 to 255 and turns them round where it says so; MMSelfSup before 1.0 normalised
    RGB in 0 to 1, as its small means tell.
    """
    facts: dict[str, Any] = {}
    given = [model.get("data_preprocessor"), config.get("data_preprocessor"), config.get("img_norm_cfg")]
    for settings in given:
        if isinstance(settings, dict) and settings.get("mean") is not None:
            mean, std = settings["mean"], settings.get("std")
            numbers = [value for value in (mean, std) if isinstance(value, list)]
            large = any(isinstance(v, int | float) and abs(v) > 2 for row in numbers for v in row)
            turned = settings.get("to_rgb", settings.get("bgr_to_rgb", not large))
            try:
                facts["normalization"] = Normalization.from_json(
                    {
                        "mean": mean,
                        "std": std,
                        "range": "0..255" if large else "0..1",
                        "channels": "RGB" if turned else "BGR",
                    }
                )
            except UserError as error:
                raise UserError(
                    f"{source}: {error.message}", remedy="say --normalization MEAN STD"
                ) from error
            break
    for step in _steps(config.get("test_pipeline")):
        size = step.get("crop_size") if _kind(step) == "CenterCrop" else None
        if isinstance(size, list) and size and size == [size[0]] * len(size):
            size = size[0]
        if isinstance(size, int) and 1 <= size <= 1 << 14:
            facts["input_size"] = size
        if step.get("interpolation") in ("bicubic", "bilinear"):
            facts["interpolation"] = step["interpolation"]
    return facts


def _steps(pipeline: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(pipeline, list):
        yield from (step for step in pipeline if isinstance(step, dict))
