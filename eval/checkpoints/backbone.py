"""What every backbone can do, whatever network is inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@dataclass(frozen=True)
class Spatial:
    """What one layer of a network says about every place of a batch of images.

    Attributes:
        map: ``(B, C, h, w)``: a ViT's patch tokens, laid out as the image is, or the output of a stage.
        stride: Pixels of the image from one cell to the next, so that ``H = stride * h`` where it divides.
        cls: The class token ``(B, C)`` after the same normalisation; None where the network has none.
    """

    map: Tensor
    stride: int
    cls: Tensor | None = None


def spatial(backbone: Backbone, images: Tensor, last: int = 1) -> list[Spatial]:
    """The last layers of any backbone, with gradients if the backbone has them.

    Args:
        backbone: The backbone.
        images: ``(B, 3, H, W)``, normalised; a ViT wants sides that its patch divides.
        last: How many layers. Of a ViT, its last blocks, each after the network's final normalisation and without
            class and register tokens (all at one stride; what DINOv2 calls intermediate layers). Of a hierarchical
            network (ResNet, ConvNeXt, Swin, ...), its last stages, as they leave the stage.

    Returns:
        One entry a layer, the last layer last.

    Raises:
        UserError: If the network has fewer layers.
    """
    own = getattr(backbone, "spatial", None)
    if own is not None:
        found: list[Spatial] = own(images, last)
        return found
    maps = list(backbone.feature_maps(images).values())
    check_layers(last, len(maps))
    return [Spatial(map, round(images.shape[-1] / map.shape[-1])) for map in maps[-last:]]


def check_layers(last: int, there: int) -> None:
    """Refuse to give more layers than there are.

    Raises:
        UserError: If there are fewer.
    """
    if not 1 <= last <= there:
        raise UserError(
            f"the last {last} layers of a network of {there}", remedy=f"ask for 1 to {there}", code=2
        )


class Backbone(Protocol):
    """A network without its head, of `torch.nn.Module`'s kind. Protocols ask for nothing else."""

    @property
    def feature_dim(self) -> int:
        """D."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """One vector an image: ``(B, 3, H, W) -> (B, D)``; the images are normalised."""
        ...

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Maps at four strides: ``{"res2": (B, C, H, W), ..., "res5": ...}``.

        Raises:
            UserError: If the network has none.
        """
        ...

    def to(self, target: Any) -> Self:
        """Move to a device or change the precision, in place."""
        ...

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode or back."""
        ...

    def eval(self) -> Self:
        """Switch to evaluation mode."""
        ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch gradients on or off."""
        ...

    def parameters(self) -> Iterator[Parameter]:
        """What training would change."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Take tensors by name; every one of both sides."""
        ...
