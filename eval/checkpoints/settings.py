"""Facts from what libraries write in or beside a checkpoint.

Read are ``hyper_parameters``, ``args``, ``arch`` and ``meta`` in the file, and the files of `BESIDE` in its folder.
Every value is checked: a file of another shape is an error that names it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mast.files import once

from ..errors import UserError
from . import openmmlab
from .facts import Fact, Unusable, merge
from .normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from .safe_unpickler import Opaque

BESIDE = (
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "config.json",
    "args.json",
)
"""Files of settings, in the order in which they are believed."""
_LARGEST_JSON = 4 << 20
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_LARGEST_MEAN = 2  # of pixels in 0..1; some are read as -1..1
_PILLOW = {2: "bilinear", 3: "bicubic", 0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}


def in_file(tree: Mapping[Any, Any]) -> dict[str, Fact]:
    """Facts from the settings that a training script saved with the weights.

    Raises:
        UserError: If a known setting has a value that makes no sense.
    """
    found: list[dict[str, Fact]] = []
    for place in ("hyper_parameters", "args"):
        settings = _plain(tree.get(place)) if place in tree else None
        if isinstance(settings, Mapping):
            found.append(_solo_learn(settings, place))
            found.append(_of_a_script(settings, place))
    if isinstance(name := tree.get("arch"), str):
        found.append(timm_network(name, {}, "arch"))
    found.append(openmmlab.of_meta(tree.get("meta")))
    return merge(*found)


_NAMES_OF_NETWORKS = (
    "model", "model_name", "arch", "architecture", "backbone", "backbone_name", "encoder", "encoder_name",
)  # fmt: skip
"""What training scripts call the setting that holds timm's name of their network."""


def _of_a_script(settings: Mapping[str, Any], place: str) -> dict[str, Fact]:
    """What a training script noted under names of its own: timm's network, and how timm's script prepared images."""
    found: list[dict[str, Fact]] = []
    for key in _NAMES_OF_NETWORKS:
        if isinstance(name := settings.get(key), str):
            given = settings.get("model_kwargs")
            found.append(timm_network(name, given if isinstance(given, Mapping) else {}, place))
    if isinstance(settings.get("model"), str) and "model_kwargs" in settings:  # timm's own
        size = settings.get("img_size") or settings.get("input_size")
        given = {"mean": settings.get("mean"), "std": settings.get("std"), "input_size": size}
        given["interpolation"] = settings.get("interpolation")
        found.append(timm_preprocessing({key: value for key, value in given.items() if value}, place))
    return merge(*found)


def beside(files: Mapping[str, Path]) -> dict[str, Fact]:
    """Facts from the files of settings that belong to a checkpoint.

    Args:
        files: By the usual name, a key of `BESIDE`; a hub's cache may call them otherwise. Not all need to be there.

    Raises:
        UserError: If one of these files is damaged, or a known setting in it makes no sense.
    """
    return merge(*(_of_file(name, files[name]) for name in BESIDE if name in files))


def _of_file(name: str, path: Path) -> dict[str, Fact]:
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"larger than {_LARGEST_JSON:,} bytes")
        settings = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable: {error}", remedy="repair or remove it") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds a {type(settings).__name__}", remedy="repair or remove it")
    try:
        return _READERS[name](settings, name)
    except UserError as error:
        raise UserError(f"{path.parent}/{error.message}", remedy=error.remedy) from error


# --- who writes what -----------------------------------------------------------------------------------------


def _transformers(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """Hugging Face's ``config.json``."""
    facts: dict[str, Any] = {}
    kind = config.get("model_type")
    if isinstance(tower := config.get("vision_config"), Mapping):
        return _transformers(tower, source)
    if kind == "dinov3_vit":
        rotary = config.get("rope_parameters")
        theta = rotary.get("rope_theta") if isinstance(rotary, Mapping) else config.get("rope_theta")
        if theta is not None and _number(theta, f"{source}: rope_theta", above=0) != 100:
            facts["rope"] = Unusable(f"rope_theta {theta}", "DINOv3's frequencies have 100")
    if kind in ("beit", "data2vec-vision") and (pooled := config.get("use_mean_pooling")) is not None:
        facts["pooling"] = "mean" if _switch(pooled, f"{source}: use_mean_pooling") else "cls"
    if (heads := config.get("num_attention_heads")) is not None and "hidden_size" in config:
        facts["heads"] = _whole(heads, f"{source}: num_attention_heads")
    if (eps := config.get("layer_norm_eps")) is not None:
        number = _number(eps, f"{source}: layer_norm_eps", above=0)
        facts["final_eps" if kind in ("convnext", "convnextv2") else "eps"] = number
        if kind == "swin" and number != 1e-5:
            facts["eps"] = Unusable(f"layer_norm_eps {eps}", "Swin's first norm has 1e-5, so all must")
    side = config.get("image_size")
    if isinstance(side, list) and len(set(map(str, side))) > 1:  # shapes tell a grid's area alone
        facts["grid"] = Unusable(f"image_size {side!r:.40}", "positions are read as those of a square image")
    if (activation := config.get("hidden_act")) is not None:
        facts["activation"] = _activation(activation, f"{source}: hidden_act")
    if (moved := config.get("downsample_in_bottleneck")) is not None:
        facts["stride_in_1x1"] = _switch(moved, f"{source}: downsample_in_bottleneck")
    if _switch(config.get("downsample_in_first_stage", False), f"{source}: downsample_in_first_stage"):
        facts["stride_in_1x1"] = Unusable(
            "downsample_in_first_stage moves a stride into the first stage, and this project's ResNet has none there",
            "the weights cannot be used",
        )
    about = _shapes_of_transformers(config)
    return {name: Fact(value, source, about) for name, value in facts.items()}


def _shapes_of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Hugging Face's ``config.json`` says of the network's shapes, as far as it says it in whole numbers."""
    if _is_whole_list(depths := config.get("depths")):
        return {"depths": depths}
    told = {"blocks": "num_hidden_layers", "width": "hidden_size", "patch": "patch_size"}
    return {key: config[name] for key, name in told.items() if _is_whole_list([config.get(name)])}


def _is_whole_list(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _config(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """``config.json``, whoever wrote it."""
    return merge(_timm(config, source), _transformers(config, source))


_UNREAD = ("rescale_offset", "include_top", "do_grayscale", "do_color_quantize")
"""Switches of Hugging Face's image processors that change pixels in ways that are not built here."""


def _image_processor(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """Hugging Face's ``preprocessor_config.json``, or the part about images of its ``processor_config.json``."""
    if isinstance(part := config.get("image_processor"), Mapping):
        return _image_processor(part, source)
    facts: dict[str, Any] = {}
    scaled = _switch(config.get("do_rescale", True), f"{source}: do_rescale")
    factor = _number(config.get("rescale_factor", 1 / 255), f"{source}: rescale_factor", above=0)
    turned = _switch(config.get("do_flip_channel_order", False), f"{source}: do_flip_channel_order")
    if "image_mean" in config or "do_normalize" in config or turned:
        normalised = config.get("image_mean") is not None or not turned
        if normalised and _switch(config.get("do_normalize", True), f"{source}: do_normalize"):
            mean, std = config.get("image_mean"), config.get("image_std")
        else:
            mean, std = [0.0] * 3, [1.0] * 3
        odd = [
            key for key in _UNREAD if config.get(key) is not None and _switch(config[key], f"{source}: {key}")
        ]
        if scaled and not math.isclose(factor, 1 / 255, rel_tol=1e-6):
            odd = [f"rescale_factor {factor}"]
        facts["normalization"] = (
            Unusable(f"{odd[0]} is not supported", "say how pixels are normalised: --normalization MEAN STD")
            if odd
            else _normalization(mean, std, source, "0..1" if scaled else "0..255", "BGR" if turned else "RGB")
        )
    size = config.get("size")
    resized = _switch(config.get("do_resize", True), f"{source}: do_resize")
    if _switch(config.get("do_center_crop", False), f"{source}: do_center_crop") and config.get("crop_size"):
        facts["input_size"] = _side(config["crop_size"], f"{source}: crop_size")
    elif size is not None and resized:
        facts["input_size"] = _side(size, f"{source}: size")
    if (resample := config.get("resample")) is not None:
        name = _PILLOW.get(resample) if isinstance(resample, int) else str(resample).lower()
        facts["interpolation"] = _interpolation(name, f"resample {repr(resample)[:40]}")
    return {name: Fact(value, source) for name, value in facts.items()}


def _open_clip(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """open_clip's ``open_clip_config.json``."""
    given, model = config.get("preprocess_cfg"), config.get("model_cfg")
    if not isinstance(given, Mapping):
        return {}
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    size = given.get("size") or (vision.get("image_size") if isinstance(vision, Mapping) else None)
    return timm_preprocessing({**given, "input_size": size}, source)


def _timm(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """timm's ``config.json`` (its ``pretrained_cfg`` alone in older ones)."""
    if config.get("model_type") == "timm_backbone" and isinstance(config.get("backbone"), str):
        given = config.get("model_args")
        return timm_network(config["backbone"], given if isinstance(given, Mapping) else {}, source)
    if "architecture" not in config and not isinstance(config.get("pretrained_cfg"), Mapping):
        return {}
    pretrained = config.get("pretrained_cfg") or config
    if not isinstance(pretrained, Mapping):
        raise UserError(f"{source}: pretrained_cfg is no mapping", remedy="repair or remove it")
    facts = timm_preprocessing(pretrained, source)
    name = config.get("architecture")
    if name is not None:
        arguments = config.get("model_args") or {}
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise UserError(f"{source}: architecture or model_args are damaged", remedy="repair or remove it")
        pool = config.get("global_pool")
        if isinstance(pool, str):
            arguments = {**arguments, "global_pool": pool}
        network = timm_network(name, arguments, source)
        about = next((fact.about for fact in network.values()), _shapes_of_resnet(name))
        facts = merge({key: replace(fact, about=about) for key, fact in facts.items()}, network)
    return facts


def _shapes_of_resnet(name: str) -> dict[str, Any]:
    """What the name of a plain ResNet says of its shapes."""
    match = _PLAIN.fullmatch(name.partition(".")[0])
    return {} if match is None else {"resnet": int(match[1])}


def timm_preprocessing(config: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """Facts from timm's ``pretrained_cfg``, wherever it lies."""
    facts: dict[str, Any] = {}
    if "mean" in config or "std" in config:
        facts["normalization"] = _normalization(config.get("mean"), config.get("std"), source)
    if (size := config.get("input_size")) is not None:
        facts["input_size"] = _side(size, f"{source}: input_size")
    if (interpolation := config.get("interpolation")) is not None:
        facts["interpolation"] = _interpolation(interpolation, f"interpolation {repr(interpolation)[:40]}")
    return {name: Fact(value, source) for name, value in facts.items()}


_PLAIN = re.compile(r"resnet(18|34|50|101|152)")
"""timm's ResNets whose network is torchvision's."""


_HARMLESS = {"num_classes", "drop_rate", "drop_path_rate"}
"""Arguments of timm's constructors that change nothing about a backbone in evaluation."""
_USUAL = {"global_pool": "avg", "in_chans": 3}


def timm_network(name: str, arguments: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """What timm's network of a name computes beyond its keys and shapes.

    Args:
        name: timm's name, with or without the tag of its weights.
        arguments: What its constructor is given besides.
        source: For provenance.

    Returns:
        Facts about a plain ResNet or vision transformer, which are told from their shapes; ``timm``, the name and
        its arguments, for every other network; nothing if timm does not know the name.
    """
    import torch

    from . import timm_networks, vit

    base = name.partition(".")[0]
    own = {k: v for k, v in arguments.items() if k not in _HARMLESS and (k, v) != ("in_chans", 3)}
    if not timm_networks.known(base):
        return {}
    if _PLAIN.fullmatch(base) and all(_USUAL.get(key) == value for key, value in own.items()):
        return {}
    try:
        with torch.device("meta"), timm_networks.NoDraws():
            network = timm_networks.create(base, own)
            backbone = timm_networks.wrap(network, base)
    except UserError as error:
        return {"timm": Fact(Unusable(error.message, error.remedy), source)}
    plain = vit.of_timm(network)
    if plain is not None:
        about = vit.shapes_of_timm(network)
        return {key: Fact(value, source, about) for key, value in plain.items()}
    transformer = isinstance(backbone, timm_networks.Transformer)
    if not transformer and own.get("global_pool") == "avg":
        del own["global_pool"]  # what there is anyway
    facts = {"timm": Fact({"architecture": base, "model_args": own}, source)}
    if transformer:
        pooling = timm_networks.stated_pooling(network)
        if pooling is not None:
            facts["pooling"] = Fact(pooling, source)
    return facts


_SOLO_DATA = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), 32),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261), 32),
    "stl10": ((0.4914, 0.4823, 0.4466), (0.247, 0.243, 0.261), 96),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD, 224),
    "imagenet100": (IMAGENET_MEAN, IMAGENET_STD, 224),
}
"""Mean, standard deviation and side of solo-learn's own evaluation (solo/data/classification_dataloader.py)."""
_POOLED = {"token": "cls", "avg": "mean", "map": "map"}
_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
_STANDARD_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}


def _solo_learn(settings: Mapping[str, Any], source: str) -> dict[str, Fact]:
    """solo-learn's settings: nested in a Lightning file and its ``args.json``, flat in older ones."""
    backbone = settings.get("backbone", settings.get("encoder"))
    name = backbone.get("name") if isinstance(backbone, Mapping) else backbone
    data = settings.get("data")
    dataset = data.get("dataset") if isinstance(data, Mapping) else settings.get("dataset")
    method = settings.get("method")
    if not (isinstance(method, str) and isinstance(name, str) and isinstance(dataset, str)):
        return {}
    facts: dict[str, Any] = {}
    augmentations = settings.get("augmentations")
    views = augmentations if isinstance(augmentations, list) else [augmentations or settings]
    first = next((view for view in views if isinstance(view, Mapping)), {})
    if dataset in _SOLO_DATA:
        mean, std, side = _SOLO_DATA[dataset]
        facts["normalization"], facts["input_size"] = Normalization(mean, std), side
    elif "mean" in first and "std" in first:
        facts["normalization"] = _normalization(first["mean"], first["std"], source)
    if dataset not in _SOLO_DATA and (crop := first.get("crop_size")) is not None:
        facts["input_size"] = _side(
            crop[0] if isinstance(crop, list) and crop else crop, f"{source}: crop_size"
        )
    about: dict[str, Any] = _shapes_of_resnet(name)
    if name.startswith("resnet"):
        facts["stem"] = "cifar2" if dataset in ("cifar10", "cifar100") else "imagenet"
    size = re.fullmatch(r"vit_(tiny|small|base|large)", name)
    if size:
        own = method.lower() in ("mocov3", "mae") and size[1] in ("tiny", "small")
        facts["heads"] = 12 if own else _STANDARD_HEADS[size[1]]
        about = {"width": _WIDTHS[size[1]]}
        given = backbone.get("kwargs") if isinstance(backbone, Mapping) else None
        if isinstance(given, Mapping) and isinstance(pool := given.get("global_pool"), str):
            facts["pooling"] = _POOLED.get(pool) or Unusable(f"global_pool {pool:.40}", "say --features NAME")
    return {fact: Fact(value, source, about) for fact, value in facts.items()}


_READERS = {
    "preprocessor_config.json": _image_processor,
    "processor_config.json": _image_processor,
    "open_clip_config.json": _open_clip,
    "config.json": _config,
    "args.json": _solo_learn,
}


def side(value: Any) -> int:
    """The side of images in the header of a file of ours.

    Raises:
        UserError: If it is none.
    """
    return _whole(value, "input_size")


def interpolation(value: Any) -> str:
    """How images are resized, likewise.

    Raises:
        UserError: If it is neither ``bicubic`` nor ``bilinear``.
    """
    if value not in ("bicubic", "bilinear"):
        raise _wrong("interpolation", value, "bicubic or bilinear")
    return str(value)


# --- values --------------------------------------------------------------------------------------------------


def _plain(value: Any, depth: int = 0) -> Any:
    """Settings objects that were noted and not built (omegaconf's, Lightning's), and namespaces, as plain data."""
    if depth > 32:
        raise UserError("settings nested more than 32 deep", remedy="the file is not trustworthy")
    if isinstance(value, Opaque):
        state = value.state if isinstance(value.state, Mapping) else {}
        if "_content" in state:
            return _plain(state["_content"], depth + 1)
        if "_val" in state:
            return _plain(state["_val"], depth + 1)
        return _plain(value.mapping(), depth + 1) if value.mapping() is not value else None
    if type(value).__name__ in ("Namespace", "DictConfig", "AttributeDict"):
        value = dict(value.items()) if hasattr(value, "items") else vars(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return value


def _wrong(what: str, value: Any, wanted: str) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:56]} ..."
    return UserError(f"{what} is {shown}", remedy=f"it is {wanted}: repair or remove the setting")


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 16:
        raise _wrong(what, value, "a positive whole number")
    return value


def _number(value: Any, what: str, *, above: float) -> float:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53
    if not (whole or isinstance(value, float)) or not math.isfinite(value) or value <= above:
        raise _wrong(what, value, f"a number above {above}")
    return float(value)


def _switch(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(what, value, "true or false")
    return value


def _activation(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        raise _wrong(what, value, "a name")
    known = _ACTIVATIONS.get(value.lower())
    return known or Unusable(
        f"activation '{value[:40]}'", f"supported are {', '.join(sorted(set(_ACTIVATIONS.values())))}"
    )


def _interpolation(value: Any, what: str) -> Any:
    if value in ("bicubic", "bilinear"):
        return value
    return Unusable(f"{what} is not supported", "say --interpolation bicubic or bilinear")


def _normalization(mean: Any, std: Any, source: str, range: str = "0..1", channels: str = "RGB") -> Any:
    """A normalisation, or why it cannot be meant: its numbers are those of the other range of pixels."""
    try:
        found = Normalization.from_json(
            {"mean": _three(mean), "std": _three(std), "range": range, "channels": channels}
        )
    except UserError as error:
        raise UserError(f"{source}: {error.message}", remedy="repair or remove it") from error
    most = max(abs(value) for value in found.mean)
    if most > _LARGEST_MEAN if range == "0..1" else 0 < most <= 1:
        return Unusable(
            f"the mean {list(found.mean)} is not that of pixels in {range}, as which they would be read",
            "say how pixels are normalised: --normalization MEAN STD",
        )
    return found


def _three(value: Any) -> Any:
    """One number for three channels is written once by some."""
    return [value] * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _side(value: Any, what: str) -> Any:
    """The side of a square input: a number, a dict of height and width or shortest edge, or ``(3, H, W)``."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value:
            return _whole(value["shortest_edge"], what)
        if not {"height", "width"} <= set(value):
            shown = ", ".join(f"{key} {value[key]!r:.20}" for key in list(value)[:4])
            return Unusable(f"size ({shown}) names no square", "say --input-size PIXELS")
        sides = [value.get("height"), value.get("width")]
    elif isinstance(value, list | tuple) and len(value) in (2, 3):
        sides = list(value[-2:])
    else:
        sides = [value]
    numbers = [_whole(side, what) for side in sides]
    if min(numbers) != max(numbers):
        return Unusable(f"size {numbers} is no square", "say --input-size PIXELS")
    return numbers[0]
