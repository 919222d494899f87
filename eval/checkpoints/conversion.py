"""Conversion with a certificate: the copy is run beside the original before it is kept."""

from __future__ import annotations

import copy
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from mast.checkpoint import write_published
from mast.files import atomic_write, sha256_file, writing
from mast.model import Arch

from ..errors import UserError
from . import file_formats, key_names, other_libraries
from .architectures import target
from .passport import Passport
from .reading import Loaded, Said, as_tensor, load

LIMITS = {"float64": 1e-9, "float32": 1e-4}
"""Largest difference over largest value that a certificate may hold."""
HALF = {"float64": 1e-2, "float32": 1e-2}
"""The same for weights that were rounded to half precision, 11 bits."""

State = dict[str, Tensor]


def convert(
    checkpoint: str,
    output: str | os.PathLike[str],
    *,
    to: str,
    half: bool = False,
    **said: Unpack[Said],
) -> dict[str, Any]:
    """Write a backbone under another library's names and prove that it computes the same.

    Args:
        checkpoint: What `load` takes.
        output: The file to write; its ending chooses the container (``.pth``, ``.safetensors`` or, for Detectron2,
            ``.pkl``). The certificate lies beside it as ``<output>.certificate.json``.
        to: ``torchvision``, ``detectron2`` (a ``matching_heuristics`` file), ``timm`` and ``huggingface`` (with
            their ``config.json``, which overwrites no other) or ``safetensors`` (torchvision's names with the
            passport inside).
        half: Round the weights to half precision, which halves the file.
        **said: What the user says about the checkpoint, as `load` takes it.

    Returns:
        The certificate: source and target with their hashes, ``peer`` (what ran the copy), ``config`` (whether a
            config.json was written, or why not, for libraries that read one), and ``differences``,
        by precision and by map (C2 to C5 as ``res2`` to ``res5``), each the largest difference over the largest
        value.

    Raises:
        UserError: If the target cannot express the backbone, cannot be written, or differs; nothing is left then.
        Unwritable: If the disk is full; nothing is left then either.
    """
    if to not in FORMATS:
        raise UserError(f"unknown format '{to}'", remedy=f"known: {', '.join(FORMATS)}", code=2)
    endings, write, run = FORMATS[to]
    path = Path(output)
    if path.suffix not in endings:
        raise UserError(
            f"{path}: {to} files end in {' or '.join(endings)}", remedy="change the ending", code=2
        )
    if to == "huggingface" and path.with_name("config.json").exists():
        raise UserError(
            f"{path.with_name('config.json')} exists, and the copy needs its own",
            remedy="write it into another folder",
            code=2,
        )
    loaded = load(checkpoint, **said)
    _expressible(loaded, to)
    state = {name: tensor.clone() for name, tensor in target(loaded.backbone).state_dict().items()}
    if half:
        state = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()
        }
    limits = HALF if half else LIMITS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=".convert-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}", remedy="choose another folder"
        ) from error
    try:
        with writing(path.parent):
            write(Path(draft), state, loaded.passport)
        peer, differences = _compare(loaded, Path(draft), run)
        config, told = _config(loaded, to, path.with_name("config.json"))
        certificate = {
            "source": {
                key: getattr(loaded.passport, key)
                for key in ("source", "layout", "arch", "sha256", "weights_sha256")
            },
            "target": {"file": path.name, "format": to, "sha256": sha256_file(draft)},
            "normalization": loaded.passport.normalization.to_json(),
            "images": f"2 of {_size(loaded)} x {_size(loaded)} pixels, normal noise, seed 0",
            "peer": peer,
            "limits": limits,
            **({"config": told} if told else {}),
            "differences": differences,
        }
        _check(path, differences, limits)
        beside = {Path(f"{path}.certificate.json"): certificate}
        if config is not None:
            beside[path.with_name("config.json")] = config
        _keep(Path(draft), path, beside)
    finally:
        Path(draft).unlink(missing_ok=True)
    return certificate


def _expressible(loaded: Loaded, to: str) -> None:
    """Refuse what the other library's network cannot compute."""
    passport, arch = loaded.passport, getattr(loaded.backbone, "arch", None)
    reason = ""
    if passport.extra.get("padding") == "same":
        reason = "its strided layers are padded as TensorFlow does"
    elif passport.stride_in_1x1 and to not in ("huggingface", "detectron2"):
        reason = "its bottlenecks stride in the first 1x1 convolution"
    elif not isinstance(arch, Arch) and to in ("detectron2", "huggingface", "safetensors"):
        reason = f"a {passport.arch} is no ResNet"
    elif isinstance(arch, Arch) and arch.stem != "imagenet" and to in ("detectron2", "huggingface", "timm"):
        reason = f"its stem ({arch.stem}) is not the 7x7 one"
    if reason:
        raise UserError(
            f"{passport.source}: {to} cannot express this backbone: {reason}", remedy="use it as it is"
        )


# ------------------------------------------------------------------------------------------------- writing


def _write_torchvision(path: Path, state: State, passport: Passport) -> None:
    if path.suffix == ".safetensors":
        _write_safetensors(path, state)
    else:
        _save(path, state)


def _save(path: Path, content: Any) -> None:
    with path.open(
        "wb"
    ) as file:  # by its path alone torch writes in C++, whose error for a full disk is no OSError
        torch.save(content, file)


def _write_safetensors(path: Path, state: State) -> None:
    from safetensors.torch import save

    # Not its own save_file, whose error for a full disk is no OSError.
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


def _write_published(path: Path, state: State, passport: Passport) -> None:
    facts = {
        "arch": passport.arch,
        "normalization": passport.normalization.to_json(),
        "input_size": passport.input_size,
        "interpolation": passport.interpolation,
    }
    write_published(path, state, {**facts, "converted_from": passport.layout, **passport.extra})


def _write_detectron2(path: Path, state: State, passport: Passport) -> None:
    renamed = {
        key_names.torchvision_to_detectron2(name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }
    content: dict[str, Any] = {"__author__": "mast-transfer", "matching_heuristics": True}
    if path.suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in renamed.items()}
        with path.open("wb") as file:
            pickle.dump({"model": arrays, **content}, file)
    else:
        _save(path, {"model": renamed, **content})


def _write_huggingface(path: Path, state: State, passport: Passport) -> None:
    _write_torchvision(
        path, {key_names.torchvision_to_huggingface(name): t for name, t in state.items()}, passport
    )


def _huggingface_config(passport: Passport) -> dict[str, Any]:
    from mast.model import parse_arch

    arch = parse_arch(passport.arch)
    return {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": arch.stem_channels,
        "hidden_sizes": list(arch.stage_channels),
        "depths": list(arch.layers),
        "layer_type": arch.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": passport.stride_in_1x1,
    }


def _config(loaded: Loaded, to: str, path: Path) -> tuple[dict[str, Any] | None, str]:
    """The config.json of a library that reads one, and what the certificate says of it."""
    if to not in ("huggingface", "timm"):
        return None, ""
    if to == "huggingface":
        return _huggingface_config(loaded.passport), "written"
    if path.exists():
        return None, "not written: there is one already"
    name = _name_in_timm(loaded)
    if name is None:
        return None, f"not written: timm has no name for a {loaded.passport.arch} with just this network"
    return _timm_config(loaded.passport, name), "written"


def _name_in_timm(loaded: Loaded) -> str | None:
    """timm's name of a network that computes what ours does, where there is one."""
    if other_libraries.timm_network(loaded.backbone) is not None:
        return f"resnet{getattr(loaded.backbone, 'arch').depth}"  # noqa: B009
    return loaded.passport.arch if loaded.passport.provenance.get("timm") else None


def _timm_config(passport: Passport, name: str) -> dict[str, Any]:
    """What timm reads of a model's folder; a normalisation of BGR, which it cannot prepare, is left out."""
    pixels: dict[str, Any] = {
        "input_size": [3, passport.input_size, passport.input_size],
        "interpolation": passport.interpolation,
    }
    normalization = passport.normalization
    if normalization.channels == "RGB":
        pixels["mean"] = [value / 255 for value in normalization.pixel_mean]
        pixels["std"] = [value / 255 for value in normalization.pixel_std]
    pooling = {"cls": "token", "mean": "avg", "avg": "avg", "map": "map"}.get(
        str(passport.network.get("pooling", "")), ""
    )
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": passport.feature_dim,
        **({"global_pool": pooling} if pooling else {}),
        **({"model_args": args} if (args := passport.network.get("model_args")) else {}),
        "pretrained_cfg": {"num_classes": 0, **pixels},
    }


def _keep(draft: Path, path: Path, beside: Mapping[Path, Any]) -> None:
    """Put the certified draft in place, whole, with the usual permissions, once what lies beside it is there."""
    umask = os.umask(0)
    os.umask(umask)
    draft.chmod(0o666 & ~umask)
    written: list[Path] = []
    try:
        for place, content in beside.items():
            with atomic_write(place) as file:
                json.dump(content, file, indent=1)
                file.write("\n")
            written.append(place)
        draft.replace(path)
    except BaseException:
        for place in written:
            place.unlink()
        raise


# ----------------------------------------------------------------------------------------------- comparing


Maps = dict[str, Tensor]
Run = Callable[[Path, Loaded], tuple[str, Callable[[Tensor], Maps]]]
"""From a written file to the name of what runs it and its forward pass."""


def _compare(loaded: Loaded, draft: Path, run: Run) -> tuple[str, dict[str, dict[str, float]]]:
    differences: dict[str, dict[str, float]] = {}
    peer = ""
    noise = torch.randn(2, 3, _size(loaded), _size(loaded), generator=torch.Generator().manual_seed(0))
    for precision, dtype in (("float64", torch.float64), ("float32", torch.float32)):
        peer, theirs = run(draft, loaded)
        original = loaded.backbone.to(dtype)
        with torch.no_grad():
            ours, copied = _maps(original, noise.to(dtype)), theirs(noise.to(dtype))
        differences[precision] = {
            name: float((ours[name] - copied[name]).abs().max() / ours[name].abs().max().clamp_min(1e-30))
            for name in ours
        }
    return peer, differences


def _size(loaded: Loaded) -> int:
    """Small enough to be quick, a multiple of every stride and patch."""
    grid, network = getattr(loaded.backbone, "grid", 0), getattr(loaded.backbone, "network", None)
    return int(grid * network.patch_embed.patch_size[0]) if grid and network is not None else 64


def _maps(backbone: Any, images: Tensor) -> Maps:
    if hasattr(backbone, "grid"):
        return {"features": backbone.features(images)}
    maps: Maps = backbone.feature_maps(images)
    return maps


def _check(path: Path, differences: Mapping[str, Mapping[str, float]], limits: Mapping[str, float]) -> None:
    for precision, limit in limits.items():
        for name, value in differences[precision].items():
            if not value <= limit:  # a NaN is above every limit
                raise UserError(
                    f"{path}: not written: {name} differs by {value:.1e} in {precision}, the limit is {limit:.0e}",
                    remedy="report this with the certificate: the conversion is wrong",
                )


def _module(
    build: Callable[[Path, Loaded], tuple[str, nn.Module, Callable[[nn.Module, Tensor], Maps]]],
) -> Run:
    def run(draft: Path, loaded: Loaded) -> tuple[str, Callable[[Tensor], Maps]]:
        peer, network, forward = build(draft, loaded)

        def call(images: Tensor) -> Maps:
            return forward(network.to(images.dtype).eval(), images)

        return peer, call

    return run


def _reread(draft: Path, loaded: Loaded) -> tuple[str, Any, Callable[[Any, Tensor], Maps]]:
    """The file in a second copy of our own network: where the other library has no such one."""
    again = copy.deepcopy(loaded.backbone)
    target(again).load_state_dict(file_formats.read(draft).tree, strict=True)
    return "re-read by mast-transfer", again, _maps


def _torchvision(draft: Path, loaded: Loaded) -> tuple[str, nn.Module, Callable[[nn.Module, Tensor], Maps]]:
    network = other_libraries.torchvision_network(loaded.backbone)
    if network is None:
        return _reread(draft, loaded)
    network.load_state_dict(file_formats.read(draft).tree, strict=True)
    return other_libraries.version("torchvision"), network, other_libraries.torchvision_maps


def _timm(draft: Path, loaded: Loaded) -> tuple[str, nn.Module, Callable[[nn.Module, Tensor], Maps]]:
    network = other_libraries.timm_network(loaded.backbone)
    if network is None:
        return _reread(draft, loaded)
    network.load_state_dict(file_formats.read(draft).tree, strict=True)
    return other_libraries.version("timm"), network, other_libraries.torchvision_maps


def _huggingface(draft: Path, loaded: Loaded) -> tuple[str, Callable[[Tensor], Maps]]:
    tree = file_formats.read(draft).tree
    network = other_libraries.huggingface_network(_huggingface_config(loaded.passport))
    if network is not None:
        network.load_state_dict(tree, strict=True)
        return other_libraries.version("transformers"), lambda images: other_libraries.huggingface_maps(
            network.to(images.dtype).eval(), images
        )
    layout = "huggingface-resnet-caffe" if loaded.passport.stride_in_1x1 else "huggingface-resnet"
    again = load(str(draft), layout=layout, arch=loaded.passport.arch).backbone
    return "re-read by mast-transfer", lambda images: _maps(again.to(images.dtype), images)


def _detectron2(draft: Path, loaded: Loaded) -> tuple[str, Callable[[Tensor], Maps]]:
    tree = file_formats.read(draft).tree["model"]
    weights = {name: as_tensor(value) for name, value in tree.items()}
    stride_in_1x1 = loaded.passport.stride_in_1x1
    return "Detectron2's ResNet written out on its own keys", lambda images: other_libraries.detectron2_maps(
        {name: tensor.to(images.dtype) for name, tensor in weights.items()},
        images,
        stride_in_1x1=stride_in_1x1,
    )


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Path, State, Passport], None], Run]] = {
    "torchvision": ((".pth", ".safetensors"), _write_torchvision, _module(_torchvision)),
    "detectron2": ((".pth", ".pkl"), _write_detectron2, _detectron2),
    "timm": ((".pth", ".safetensors"), _write_torchvision, _module(_timm)),
    "huggingface": ((".safetensors",), _write_huggingface, _huggingface),
    "safetensors": ((".safetensors",), _write_published, _module(_reread)),
}
"""By name: endings, writer, and what runs the written file."""
