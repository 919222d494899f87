"""From an image file's pixels to a backbone's input."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..checkpoints import Normalization, Passport
from ..errors import UserError

if TYPE_CHECKING:
    import torch

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """From an image to what the backbone saw in training: resize, centre crop, scale, normalise.

    Attributes:
        resize: Length of the short side after resizing, in pixels.
        crop: Side of the central square, in pixels.
        interpolation: "bicubic" or "bilinear", PIL's, with its antialiasing.
        squash: Resize to a square of side ``resize`` instead, ignoring the aspect ratio.
        normalization: Mean, standard deviation, range and order of the channels.
    """

    resize: int
    crop: int
    interpolation: str
    squash: bool
    normalization: Normalization

    @classmethod
    def of(
        cls,
        passport: Passport,
        *,
        image_size: int | None = None,
        resize: float | None = None,
        squash: bool = False,
    ) -> Preprocess:
        """The checkpoint's own preprocessing at a size.

        Args:
            passport: The checkpoint's.
            image_size: Side of the crop; the checkpoint's input size when None.
            resize: Short side before the crop: pixels, or a multiple of the crop when below 8 (256/224);
                the crop's side when None, as Kornblith et al. do.
            squash: Resize to a square before the crop.

        Raises:
            UserError: If the passport or the sizes make no sense.
        """
        crop = image_size or passport.input_size
        short = crop if resize is None else round(resize * crop if resize < 8 else resize)
        if passport.interpolation not in RESAMPLING:
            raise UserError(
                f"interpolation '{passport.interpolation}' is not known", remedy="it is bicubic or bilinear"
            )
        if not 1 <= crop <= short:
            raise UserError(
                f"a crop of {crop} px out of {short} px", remedy="resize to at least the crop", code=2
            )
        return cls(short, crop, passport.interpolation, squash, passport.normalization)

    def identity(self) -> dict[str, Any]:
        """Everything that changes the pixels, for the key of the feature store."""
        norm = self.normalization
        own = {key: value for key, value in asdict(self).items() if key != "normalization"}
        constants = {"mean": [float(v) for v in norm.mean], "std": [float(v) for v in norm.std]}
        return {**own, **constants, "scale": norm.range, "channels": norm.channels}

    def image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop with PIL exactly as torchvision's Resize and CenterCrop do on PIL images.

        Returns:
            (crop, crop, 3) uint8, RGB.
        """
        width, height = image.size
        short = min(width, height)
        if self.squash:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / short))
        else:
            size = (int(self.resize * width / short), self.resize)
        if size != image.size:
            image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = round((size[0] - self.crop) / 2.0), round((size[1] - self.crop) / 2.0)
        if size != (self.crop, self.crop):
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return np.asarray(image, dtype=np.uint8)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) float32, on the images' device."""
        return self.normalization.apply_to_bytes(images.permute(0, 3, 1, 2))
