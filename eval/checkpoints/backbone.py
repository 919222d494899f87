"""What every backbone can do, whatever network is inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


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
