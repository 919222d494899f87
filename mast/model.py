"""The networks: a ResNet backbone under torchvision's names, the expander, the variance head, the masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Stem = Literal["imagenet", "cifar", "cifar2", "half"]

_BLOCKS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
_STEM_STRIDE: dict[Stem, int] = {"imagenet": 4, "cifar": 1, "cifar2": 1, "half": 2}
_ARCH = re.compile(r"resnet(\d+)(?:w(\d+))?(?:-c(\d+))?(?:-(cifar2|cifar|half))?")


WIDEST = 1024  # channels of a stem, four times those of a network four times as wide as usual


@dataclass(frozen=True)
class Arch:
    """A ResNet (He et al. 2016, arXiv 1512.03385) as torchvision builds it, with its published variations.

    Attributes:
        depth: 10, 18, 34, 50, 101 or 152.
        width_multiplier: Widens every stage, as SwAV's and VICReg's ``w2`` and ``w4`` do.
        channels: Channels of the stem before the multiplier; torchvision's 64, or fewer for small machines.
        stem: ``imagenet`` is 7x7 stride 2 and max-pooling; ``cifar`` 3x3 stride 1 padding 1; ``cifar2`` the
            same with padding 2 (solo-learn's); ``half`` 3x3 stride 2 padding 1, without pooling.
    """

    depth: int
    width_multiplier: int = 1
    channels: int = 64
    stem: Stem = "imagenet"

    @property
    def name(self) -> str:
        """The name that `parse_arch` reads back, such as ``resnet50w2`` or ``resnet18-c32-half``."""
        width = f"w{self.width_multiplier}" if self.width_multiplier != 1 else ""
        channels = f"-c{self.channels}" if self.channels != 64 else ""
        return f"resnet{self.depth}{width}{channels}" + ("" if self.stem == "imagenet" else f"-{self.stem}")

    @property
    def block(self) -> Literal["basic", "bottleneck"]:
        """The kind of residual block."""
        return _BLOCKS[self.depth][0]

    @property
    def layers(self) -> tuple[int, int, int, int]:
        """The number of blocks in each of the four stages."""
        return _BLOCKS[self.depth][1]

    @property
    def stem_channels(self) -> int:
        """Channels that leave the stem."""
        return self.channels * self.width_multiplier

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of res2, res3, res4 and res5."""
        expansion = 1 if self.block == "basic" else 4
        return tuple(self.stem_channels * 2**stage * expansion for stage in range(4))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the input for one cell of res2, res3, res4 and res5."""
        return tuple(_STEM_STRIDE[self.stem] * 2**stage for stage in range(4))

    @property
    def feature_dim(self) -> int:
        """D, the length of a pooled feature."""
        return self.stage_channels[-1]


def parse_arch(name: str) -> Arch:
    """Read an architecture's name.

    >>> parse_arch("resnet50w2").feature_dim
    4096
    >>> parse_arch("resnet10-c32-half").strides
    (2, 4, 8, 16)

    Raises:
        ValueError: If the name is not of the form ``resnet<depth>[w<multiplier>][-c<channels>][-<stem>]``.
    """
    match = _ARCH.fullmatch(name)
    if match is None or int(match[1]) not in _BLOCKS:
        depths = "|".join(map(str, _BLOCKS))
        raise ValueError(
            f"unknown architecture '{name}': expected resnet({depths})[w2|w4][-c<channels>][-cifar|-cifar2|-half]"
        )
    stem: Stem = match[4] or "imagenet"  # type: ignore[assignment]
    arch = Arch(int(match[1]), int(match[2] or 1), int(match[3] or 64), stem)
    if not 1 <= arch.stem_channels <= WIDEST:
        raise ValueError(
            f"architecture '{name}': its stem has {arch.stem_channels} channels, not 1 to {WIDEST}"
        )
    return arch


class Backbone(nn.Module):
    """A ResNet without its classifier. Parameter names and outputs are torchvision's.

    Args:
        arch: What to build.
        zero_init_residual: Start every residual branch at zero (Goyal et al. 2017, arXiv 1706.02677), as
            VICReg's code does.
    """

    def __init__(self, arch: Arch, *, zero_init_residual: bool = True) -> None:
        super().__init__()
        self.arch = arch
        self.feature_dim = arch.feature_dim
        channels = arch.stem_channels
        if arch.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            padding = 2 if arch.stem == "cifar2" else 1
            stride = 2 if arch.stem == "half" else 1
            self.conv1 = nn.Conv2d(3, channels, 3, stride=stride, padding=padding, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        inputs = channels
        for stage, outputs in enumerate(arch.stage_channels):
            blocks = []
            for index in range(arch.layers[stage]):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(_block(arch, inputs, outputs, stride))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs of the four stages.

        Args:
            images: ``(B, 3, H, W)``, float, normalised as the checkpoint's passport says.

        Returns:
            ``{"res2": (B, C2, H / s2, W / s2), ..., "res5": ...}``, channels and strides as in `Arch`.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = {}
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps[f"res{stage + 1}"] = x
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Global average of the last stage: ``(B, 3, H, W) -> (B, D)``."""
        return self.feature_maps(images)["res5"].mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(images)


def _block(arch: Arch, inputs: int, outputs: int, stride: int) -> nn.Module:
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    block: nn.Module
    if arch.block == "basic":
        block = BasicBlock(inputs, outputs, stride, downsample)
    else:
        block = Bottleneck(inputs, outputs // 4, stride, downsample)
    return block


def build_backbone(arch: str | Arch, *, seed: int | None = None) -> Backbone:
    """Build a backbone with fresh weights.

    Args:
        arch: An architecture or its name.
        seed: Draw the weights from this seed and leave the global generator as it was.
    """
    arch = parse_arch(arch) if isinstance(arch, str) else arch
    if seed is None:
        return Backbone(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(arch)


class Expander(nn.Sequential):
    """VICReg's expander: Linear, BatchNorm, ReLU for every width but the last, which is Linear without bias.

    Args:
        inputs: D of the backbone.
        widths: Output widths, ``(8192, 8192, 8192)`` in the paper (arXiv 2105.04906, section 4.2).
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for width in widths[:-1]:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.Linear(inputs, widths[-1], bias=False))
        super().__init__(*layers)


class VarianceHead(nn.Linear):
    """Predicts an uncertainty for every dimension of the embedding from the backbone's features.

    One linear layer and a softplus, started at zero so that every weight is equal at first.
    ``(B, D) -> (B, E)``, each value >= 0 (the floor is applied to the pair's sum, in the objective).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Variances s^2 for features ``input``."""
        return nn.functional.softplus(super().forward(input))


def laid_out(count: int, dim: int, *, start: float, layout: str, block: float, closed: float) -> Tensor:
    """Masks ``(count, dim)`` of a layout as they start, without their spread; arguments as of `SubspaceMasks`."""
    values = torch.full((count, dim), start)
    if layout != "even":
        size = int(block * dim)
        for k in range(count):
            own = slice(k * size, (k + 1) * size)
            rows = torch.arange(count) == k
            values[rows if layout == "own-closed" else ~rows, own] = closed
    return values


class SubspaceMasks(nn.Module):
    """One mask in ``[0, 1]^E`` for each of K augmentations: the dimensions that stay the same under it.

    After the condition masks of Conditional Similarity Networks (Veit et al. 2017, arXiv 1603.07810), with a
    sigmoid in place of the rectifier, so that a product of masks stays a mask and is taken in log space.

    Args:
        names: The K augmentations, in the order of the views' ``differs`` table.
        dim: E, the embedding's width.
        start: The value masks start at where they are open.
        spread: Standard deviation of the starting logits, which breaks the tie between dimensions.
        layout: ``even``, ``own-closed`` or ``own-open``: blocks of dimensions, one for each augmentation, that
            start closed for it alone, or for all others (see ``config.Masks``).
        block: Size of a block as a share of E.
        closed: The value masks start at where they are closed.
    """

    def __init__(
        self,
        names: Sequence[str],
        dim: int,
        *,
        start: float = 0.9,
        spread: float = 0.1,
        layout: str = "even",
        block: float = 0.1,
        closed: float = 0.05,
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        values = laid_out(len(self.names), dim, start=start, layout=layout, block=block, closed=closed)
        self.logits = nn.Parameter(torch.logit(values) + spread * torch.randn(len(self.names), dim))

    def log_masks(self) -> Tensor:
        """Logarithms of the masks, ``(K, E)``, each <= 0."""
        return nn.functional.logsigmoid(self.logits)

    def masks(self) -> Tensor:
        """The masks, ``(K, E)`` in ``[0, 1]``."""
        return torch.sigmoid(self.logits)
