"""Architectures: told from tensor shapes, built empty, with the list of keys that each must be given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mast.model import Arch, parse_arch
from mast.model import Backbone as ResNet

from ..errors import UserError
from . import beit, stages
from .backbone import Backbone
from .timm_networks import NoDraws, create, known, wrap

Shapes = Mapping[str, tuple[int, ...]]
Options = Mapping[str, Any]

_DEPTHS = (10, 18, 34, 50, 101, 152)
_SUPPORTED = (
    "ResNet-10 to -152 with widths and CIFAR stems, ViT, ConvNeXt, Swin, MobileNetV2, and by --arch timm's"
)


def infer(shapes: Shapes, options: Options | None = None) -> str:
    """Name the architecture that tensors of these names and shapes belong to.

    Args:
        shapes: Under torchvision's or timm's names.
        options: What the layout and settings say: ``stem`` about a 3x3 first convolution, ``rope`` about a ViT.

    Raises:
        UserError: If no supported architecture has such tensors, or if several have.
    """
    options = options or {}
    if "conv1.weight" in shapes and any(key.startswith("layer1.0.") for key in shapes):
        return _infer_resnet(shapes, str(options.get("stem", "")))
    if stages.is_convnext(shapes) or stages.is_swin(shapes):
        return stages.infer(shapes)
    if "patch_embed.proj.weight" in shapes and options.get("relative") == "beit":
        return beit.infer(shapes)
    if "patch_embed.proj.weight" in shapes:
        from . import vit

        return vit.infer(shapes, rope=str(options.get("rope", "")))
    if "features.0.0.weight" in shapes and "features.18.0.weight" in shapes:
        return "mobilenet_v2"
    keys = ", ".join(sorted(shapes)[:3]) or "none"
    raise UserError(
        f"the tensors belong to no supported architecture; first keys: {keys}",
        remedy=f"supported: {_SUPPORTED}",
    )


def measured(shapes: Shapes, arch: str) -> dict[str, Any]:
    """What tensors show that settings state too, by the keys of `facts.SHAPES`.

    Args:
        shapes: Under torchvision's or timm's names.
        arch: Their architecture.
    """
    found: dict[str, Any] = {}
    if (match := re.match(r"resnet(\d+)", arch)) is not None:
        found["resnet"] = int(match[1])
    places = [re.match(r"(?:layer|stages\.|layers\.)(\d+)\.(?:blocks\.)?(\d+)\.", key) for key in shapes]
    if stages_of := Counter(stage for stage, _ in {match.groups() for match in places if match is not None}):
        found["depths"] = [count for _, count in sorted(stages_of.items())]
    elif arch.startswith(("vit", "beit")):
        from . import vit

        kernel = shapes["patch_embed.proj.weight"]
        found |= {"blocks": vit.depth_of(shapes), "width": kernel[0], "patch": kernel[-1]}
    return found


def _infer_resnet(shapes: Shapes, stem: str) -> str:
    first = shapes["conv1.weight"]
    channels, inputs, *kernel = first if len(first) == 4 else (0, 0, 0, 0)
    if inputs != 3 or not channels:
        raise UserError(
            f"the first convolution has the shape {first}",
            remedy="only networks on three-channel images are supported (not Lab, gray or video)",
        )
    inner = shapes.get("layer1.0.conv1.weight", (channels,))[0]
    second = shapes.get("layer1.0.conv2.weight", (channels, channels))
    if inner != channels or second[1] != inner:
        raise UserError(
            f"the stem has {channels} channels and the first block {inner}, in groups of {second[1]}: a Wide ResNet "
            "or a ResNeXt",
            remedy=f"supported: {_SUPPORTED}; widths w2, w4 widen every layer",
        )
    counts = tuple(_blocks(shapes, stage) for stage in range(1, 5))
    kind = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    same_kind = [depth for depth in _DEPTHS if Arch(depth).block == kind]
    depth = min(same_kind, key=lambda d: sum(abs(a - b) for a, b in zip(Arch(d).layers, counts, strict=True)))
    width, base = (channels // 64, 64) if channels % 64 == 0 else (1, channels)
    if kernel == [3, 3] and stem in ("", "imagenet"):
        name = Arch(depth, width, base).name
        raise UserError(
            f"the first convolution is 3x3: {name}-cifar (stride 1, padding 1), {name}-cifar2 (stride 1, padding 2) "
            f"and {name}-half (stride 2) all fit and do not compute the same",
            remedy="say which with --arch",
            code=2,
        )
    return Arch(depth, width, base, stem if kernel == [3, 3] else "imagenet").name  # type: ignore[arg-type]


def _blocks(shapes: Shapes, stage: int) -> int:
    found = [re.match(rf"layer{stage}\.(\d{{1,3}})\.", key) for key in shapes]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def build(arch: str, shapes: Shapes, options: Options) -> Backbone:
    """Build a backbone without allocating its weights.

    Args:
        arch: A name that `infer` gives or a user does.
        shapes: Shapes of the weights it will get; a ViT's grid and extra tokens come from them.
        options: ``timm`` is a network of timm's by name, and everything else follows from it; ``stride_in_1x1``
            moves the stride of bottlenecks into the first convolution, ``padding: same`` pads as TensorFlow does;
            for a ViT see `vit.build`.

    Returns:
        Its tensors are on the ``meta`` device, or hold nothing yet.
    """
    if (stated := options.get("timm")) is not None:
        with NoDraws():  # not on meta: constants such as rotary frequencies are in no file
            return wrap(create(stated["architecture"], stated["model_args"]), arch)
    if options.get("relative") == "beit":
        heads = options.get("heads") or beit.heads_by_table(shapes)
        with NoDraws():
            return beit.build(arch, shapes, {**options, "heads": heads})
    if stages.is_convnext(shapes) or stages.is_swin(shapes) or "rope" in options:
        with NoDraws():
            if "rope" in options:
                from . import vit

                return vit.build_rotary(arch, shapes, options)
            return stages.build(shapes, options, arch)
    with torch.device("meta"), NoDraws():
        if arch.startswith("vit_"):
            from . import vit

            return vit.build(arch, shapes, options)
        if (activation := options.get("activation", "relu")) != "relu":
            raise UserError(f"a {arch} with the activation {activation}", remedy="only ReLU is supported")
        if arch == "mobilenet_v2":
            return MobileNetV2()
        try:
            backbone = ResNet(parse_arch(arch))
        except ValueError as error:
            raise UserError(str(error), remedy=f"supported: {_SUPPORTED}", code=2) from error
    if options.get("stride_in_1x1"):
        _stride_in_1x1(backbone)
    if options.get("padding") == "same":
        _same_padding(backbone)
    return backbone


def fresh(arch: str, seed: int) -> Backbone:
    """Build a backbone with random weights drawn from a seed; the global generator stays as it was.

    Raises:
        UserError: If there is no such architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arch == "mobilenet_v2":
            return MobileNetV2()
        if own(arch):
            if arch.startswith("vit_"):
                from . import vit

                return vit.build(arch, {}, {"head_dim": 64})
            return ResNet(parse_arch(arch))
        if known(arch):
            return wrap(create(arch, {}), arch)
    raise UserError(
        f"unknown architecture '{arch}'",
        remedy="write random:resnet18, random:resnet18@1, random:mobilenet_v2, or timm's name of a network",
        code=2,
    )


def own(arch: str) -> bool:
    """Whether a name is one that `infer` gives, and not timm's."""
    from . import vit

    if arch == "mobilenet_v2" or vit.NAME.fullmatch(arch):
        return True
    try:
        parse_arch(arch)
    except ValueError:
        return False
    return True


def target(backbone: Backbone) -> nn.Module:
    """The part of a backbone whose state dict has the names that layouts map to."""
    inner = getattr(backbone, "network", backbone)
    assert isinstance(inner, nn.Module)
    return inner


def _stride_in_1x1(backbone: ResNet) -> None:
    for stage in (2, 3, 4):
        block: Any = backbone.get_submodule(f"layer{stage}.0")
        if backbone.arch.block == "bottleneck":
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _same_padding(backbone: ResNet) -> None:
    """Replace the padding of every strided layer by TensorFlow's, which depends on the input's size."""
    for name, module in list(backbone.named_modules()):
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and module.stride in (2, (2, 2)):
            kernel = module.kernel_size[0] if isinstance(module.kernel_size, tuple) else module.kernel_size
            if kernel > 1:
                module.padding = 0 if isinstance(module, nn.MaxPool2d) else (0, 0)
                if isinstance(module, nn.Conv2d):
                    module.register_forward_pre_hook(
                        lambda m, args: (_pad_same(args[0], m.kernel_size[0], 0.0),)
                    )
                else:
                    setattr(backbone, name, nn.Sequential(_PadSame(kernel), module))


def _pad_same(images: Tensor, kernel: int, value: float) -> Tensor:
    pads = []
    for size in (images.shape[-1], images.shape[-2]):
        total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(images, pads, value=value)


class _PadSame(nn.Module):
    """Padding for max-pooling: minus infinity, so that it is never the maximum."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, images: Tensor) -> Tensor:
        """Pad ``(B, C, H, W)``."""
        return _pad_same(images, self.kernel, float("-inf"))


class MobileNetV2(nn.Module):
    """Torchvision's MobileNetV2 without its classifier (Sandler et al. 2018, arXiv 1801.04381)."""

    feature_dim = 1280
    arch = "mobilenet_v2"

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self.network = mobilenet_v2()
        self.network.classifier = nn.Identity()

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs at strides 4, 8, 16 and 32: ``(B, 3, H, W)`` to 24, 32, 96 and 1,280 channels."""
        maps, x = {}, images
        stages = {3: "res2", 6: "res3", 13: "res4", 18: "res5"}
        for index, layer in enumerate(self.network.features):
            x = layer(x)
            if index in stages:
                maps[stages[index]] = x
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Global average of the last map: ``(B, 3, H, W) -> (B, 1280)``."""
        return self.feature_maps(images)["res5"].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(images)
