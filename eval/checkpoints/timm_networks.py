"""Networks that timm builds, by timm's name or from a file's shapes, behind this project's interface."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError
from . import pooling
from .backbone import Spatial, check_layers
from .facts import Unusable

_LEVELS = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}
"""Detectors' names for maps, by their stride in pixels."""
_ANY_SIZE = {"dynamic_img_size": True}
_ONE_SIZE = "_radio_"
"""In names of networks whose positions timm made for one size, out of larger ones: it cannot resize them rightly."""
_TIMMS_WORDS = {"token": "cls", "avg": "mean", "map": "map"}
"""timm's ``global_pool`` of a transformer, in our words."""


class NoDraws(TorchFunctionMode):
    """Skip the random numbers of an initialisation, for weights that are read from a file anyway."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_DRAWS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.erfinv_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.trunc_normal_,
    nn.init.kaiming_uniform_,
}


def known(name: str) -> bool:
    """Whether timm has an architecture of a name (with or without the tag of its weights)."""
    import timm

    return bool(timm.is_model(name))


def create(name: str, arguments: Mapping[str, Any]) -> Any:
    """timm's network of a name without its classifier, for any size of image where it can.

    Raises:
        UserError: If timm does not know the name, or does not build it so.
    """
    import timm

    if not known(name):
        raise UserError(
            f"timm has no architecture '{name[:60]}'", remedy="update timm, or check the name", code=2
        )

    def built(more: Mapping[str, Any]) -> Any:
        return timm.create_model(name, pretrained=False, num_classes=0, **{**more, **arguments})

    try:
        network = built({})
        accepted = inspect.signature(type(network).__init__).parameters
        more = {key: value for key, value in _ANY_SIZE.items() if key in accepted and _ONE_SIZE not in name}
        if more:
            network = built(more)
    except Exception as error:  # timm's constructors raise errors of every kind for arguments of odd types
        told = " ".join(str(error).split())[:100]
        raise UserError(
            f"timm does not build {name[:60]} with its model_args: {told}", remedy="check the file"
        ) from error
    return network


def wrap(network: Any, arch: str) -> Transformer | Hierarchy:
    """This project's interface around one of timm's networks.

    Raises:
        UserError: If the network is of a kind whose feature has no name here.
    """
    if all(hasattr(network, part) for part in ("blocks", "num_prefix_tokens", "fc_norm", "patch_embed")):
        return Transformer(network, arch)
    return Hierarchy(network, arch)


def stated_pooling(network: Any) -> str | Unusable | None:
    """The feature that timm's own forward of a transformer gives.

    Returns:
        Its name here; why it has none; None where timm does not pool at all.
    """
    choose = f"say --features {', '.join(pooling.of_transformer(network))}"
    if hasattr(network, "dist_token"):
        return Unusable("timm's feature is the mean of the class and the distillation token", choose)
    word = str(getattr(network, "global_pool", ""))
    if word == "avg" and network.num_prefix_tokens and getattr(network, "pool_include_prefix", False):
        return Unusable("timm's feature is the mean of all tokens, the class token among them", choose)
    if word and word not in _TIMMS_WORDS:
        return Unusable(f"global_pool {word[:40]} is not built", choose)
    return _TIMMS_WORDS.get(word)


class Transformer(nn.Module):
    """One of timm's transformers with a sequence of blocks: VisionTransformer, Eva, Beit.

    Args:
        network: timm's, without classifier.
        arch: Its name here.
    """

    def __init__(self, network: Any, arch: str) -> None:
        super().__init__()
        self.network = network
        self.arch = arch
        self.choices: Sequence[str] = pooling.of_transformer(network)
        self.choose(self.choices[0])

    def choose(self, choice: str) -> None:
        """Say what `features` gives, a name of `pooling.CHOICES`.

        Raises:
            UserError: If this network cannot give it.
        """
        self.pooling = pooling.check(choice, self.choices, self.arch)
        times = {"cls+mean": 2, "last4": 4, "last4+mean": 5}.get(choice, 1)
        self.feature_dim = int(self.network.embed_dim) * times

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.network.embed_dim)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.network.patch_embed.patch_size[0])

    def _check(self, images: Tensor) -> None:
        if images.shape[-1] % self.patch or images.shape[-2] % self.patch:
            raise UserError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels for patches of {self.patch}",
                remedy=f"use a multiple of {self.patch}",
                code=2,
            )
        embed = self.network.patch_embed
        if getattr(embed, "strict_img_size", False) and tuple(embed.img_size) != tuple(images.shape[-2:]):
            raise UserError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels for {self.arch}, whose positions are for "
                f"{embed.img_size[0]}x{embed.img_size[1]}",
                remedy=f"say --input-size {embed.img_size[0]}",
                code=2,
            )

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the last normalisation: ``(B, 3, H, W) -> (B, T, D)``, class and registers first.

        Raises:
            UserError: If the images' sides are no multiples of the patch.
        """
        self._check(images)
        out: Tensor = self.network.forward_features(images)
        return out

    def pooled(self, images: Tensor, choices: Sequence[str]) -> dict[str, Tensor]:
        """Several features of one forward: ``(B, 3, H, W)`` to ``(B, D)`` for each name."""
        self._check(images)
        return pooling.pooled(
            self.network, images, [pooling.check(c, self.choices, self.arch) for c in choices]
        )

    def features(self, images: Tensor) -> Tensor:
        """The chosen feature: ``(B, 3, H, W) -> (B, D)``."""
        return self.pooled(images, [self.pooling])[self.pooling]

    def spatial(self, images: Tensor, last: int = 1) -> list[Spatial]:
        """Patch and class tokens of the last blocks, see `eval.checkpoints.spatial`."""
        self._check(images)
        check_layers(last, len(self.network.blocks))
        skip, rows, columns = (
            self.network.num_prefix_tokens,
            *(side // self.patch for side in images.shape[-2:]),
        )
        token = getattr(self.network, "cls_token", None) is not None
        return [
            Spatial(
                tokens[:, skip:].transpose(1, 2).reshape(len(tokens), -1, rows, columns),
                self.patch,
                tokens[:, 0] if token else None,
            )
            for tokens in pooling.layers(self.network, images, last)
        ]

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """A ViT has no pyramid of maps.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.arch} has no feature maps at strides 4, 8, 16 and 32",
            remedy="detectors take it through coco-vitdet and coco-vit-frozen-pyramid, which read its patch tokens",
            code=2,
        )

    def forward(self, images: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(images)


class Hierarchy(nn.Module):
    """One of timm's networks with stages: ConvNeXt, Swin, RegNet, EfficientNet and others.

    Args:
        network: timm's, without classifier.
        arch: Its name here.
        multiple: Pixels that the sides of images must be a multiple of.

    Raises:
        UserError: If its feature is no average over space.
    """

    choices = ("avg",)
    pooling = "avg"

    def __init__(self, network: Any, arch: str, multiple: int = 1) -> None:
        super().__init__()
        if _space_pooling(network) != "avg":
            raise UserError(
                f"timm's {arch} is pooled by '{_space_pooling(network)[:40]}'",
                remedy="networks that average over space are supported, and plain transformers",
            )
        self.network = network
        self.arch = arch
        self.multiple = multiple
        self.feature_dim = int(
            network.head_hidden_size if hasattr(network, "head_hidden_size") else network.num_features
        )

    def choose(self, choice: str) -> None:
        """There is one choice, ``avg``.

        Raises:
            UserError: For another one.
        """
        pooling.check(choice, self.choices, self.arch)

    def _check(self, images: Tensor) -> None:
        if images.shape[-1] % self.multiple or images.shape[-2] % self.multiple:
            raise UserError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels for {self.arch}, whose shifted windows they "
                "do not fill",
                remedy=f"use a multiple of {self.multiple}: timm fills up such images otherwise than the authors",
                code=2,
            )

    def features(self, images: Tensor) -> Tensor:
        """The network's own average over space: ``(B, 3, H, W) -> (B, D)``."""
        self._check(images)
        found: Tensor = self.network(images)
        return found

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs of the stages at strides 4, 8, 16 and 32: ``{"res2": (B, C, H / 4, W / 4), ...}``."""
        self._check(images)
        strides = [int(stage["reduction"]) for stage in self.network.feature_info]
        places = {stride: index for index, stride in enumerate(strides) if stride in _LEVELS}
        if len(places) != len(_LEVELS):
            raise UserError(
                f"{self.arch} has stages at strides {strides}", remedy="it serves the frozen features", code=2
            )
        found = self.network.forward_intermediates(
            images, indices=list(places.values()), intermediates_only=True
        )
        return dict(zip((_LEVELS[stride] for stride in places), found, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """The same as `features`."""
        return self.features(images)


def _space_pooling(network: Any) -> str:
    """timm's name of how a network pools; it keeps it in one of three places."""
    for place in (getattr(network, "head", None), network):
        pool = getattr(place, "global_pool", None)
        if pool is not None:
            return str(getattr(pool, "pool_type", pool))
    return "none"


def classifiers(backbone: Any) -> tuple[str, ...]:
    """What timm calls the classifier of a network that was built without."""
    names = backbone.network.default_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
