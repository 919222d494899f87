"""How pixels become a network's input: mean, standard deviation, range and order of the channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_TO_BYTES = {"0..1": 255.0, "0..255": 1.0}


@dataclass(frozen=True)
class Normalization:
    """What is subtracted from pixels and what they are divided by; ImageNet's constants by default.

    Attributes:
        mean: A number for each channel, in the units of ``range`` and in the order of ``channels``.
        std: The same, above zero.
        range: The network's input before normalisation: ``0..1`` or ``0..255``.
        channels: The order that the network wants: ``RGB`` or ``BGR``.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    range: str = "0..1"
    channels: str = "RGB"

    def __post_init__(self) -> None:
        """Refuse what no image can be normalised with."""
        for name in ("mean", "std"):
            values = getattr(self, name)
            if (
                not isinstance(values, Sequence)
                or len(values) != 3
                or not all(_is_number(value) for value in values)
                or (name == "std" and min(values) <= 0)
            ):
                what = "positive numbers" if name == "std" else "numbers"
                raise UserError(
                    f"the {name} of the normalisation is {repr(values)[:80]}",
                    remedy=f"it is three {what}",
                    code=2,
                )
            object.__setattr__(self, name, tuple(values))
        for name, known in (("range", tuple(_TO_BYTES)), ("channels", ("RGB", "BGR"))):
            if getattr(self, name) not in known:
                raise UserError(
                    f"the {name} of the normalisation is {repr(getattr(self, name))[:80]}",
                    remedy=f"it is {known[0]} or {known[1]}",
                    code=2,
                )

    @classmethod
    def from_json(cls, facts: Any) -> Normalization:
        """Read what `to_json` writes; ``range`` and ``channels`` may be left out.

        Raises:
            UserError: If it is no dict, a key is unknown or missing, or a value makes no sense.
        """
        if not isinstance(facts, Mapping) or not {"mean", "std"} <= set(facts) <= set(cls.__annotations__):
            raise UserError(
                f"the normalisation is {repr(facts)[:80]}",
                remedy="give mean and std, and if need be range and channels",
            )
        return cls(**facts)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Normalization:
        """Read what ``--normalization`` takes: ``imagenet``, ``none``, or mean and standard deviation.

        Args:
            words: One name, or two texts of one number or three with commas between.

        Raises:
            UserError: For anything else.
        """
        named = {"imagenet": cls(), "none": cls((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}
        if len(words) == 1 and words[0] in named:
            return named[words[0]]
        try:
            mean, std = ([float(number) for number in word.split(",")] for word in words)
        except ValueError as error:
            raise UserError(
                f"--normalization {' '.join(words)} is not understood",
                remedy="write imagenet, none, or MEAN STD, such as 0.4914,0.4822,0.4465 0.247,0.243,0.261",
                code=2,
            ) from error
        return cls(*((values * 3 if len(values) == 1 else values) for values in (mean, std)))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """As passports and records write it."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "range": self.range,
            "channels": self.channels,
        }

    @property
    def pixel_mean(self) -> list[float]:
        """Detectron2's ``PIXEL_MEAN``: for values 0 to 255, in the order of ``channels`` (its ``INPUT.FORMAT``)."""
        return [float(value) * _TO_BYTES[self.range] for value in self.mean]

    @property
    def pixel_std(self) -> list[float]:
        """Detectron2's ``PIXEL_STD``, likewise."""
        return [float(value) * _TO_BYTES[self.range] for value in self.std]

    def apply(self, images: Tensor) -> Tensor:
        """Normalise images.

        Args:
            images: ``(B, 3, H, W)``, float, RGB in ``0..1``.

        Returns:
            ``(B, 3, H, W)`` in the same precision, in the order of channels that the network wants.
        """
        if self.range == "0..255":
            images = images * 255
        return self._shifted(images)

    def apply_to_bytes(self, pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Normalise 8-bit pixels, without the detour that would round ``0..255`` twice.

        Args:
            pixels: ``(B, 3, H, W)``, RGB in 0 to 255, of any type.
            dtype: Precision of the result; float32 when None.

        Returns:
            ``(B, 3, H, W)``, contiguous, in the order of channels that the network wants.
        """
        import torch

        images = pixels.to(dtype or torch.float32, memory_format=torch.contiguous_format)
        if self.range == "0..1":
            images = images / 255
        return self._shifted(images)

    def _shifted(self, images: Tensor) -> Tensor:
        if self.channels == "BGR":
            images = images.flip(1)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1 << 53
    return whole or (isinstance(value, float) and math.isfinite(value))
