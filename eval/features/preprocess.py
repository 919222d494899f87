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
        squash: Resize to a square of side ``resize`` instead, ignoring the aspect ratio; or, with "after", resize the
            short side and then the whole to a square of side ``crop``, which cuts nothing.
        normalization: Mean, standard deviation, range and order of the channels.
    """

    resize: int
    crop: int
    interpolation: str
    squash: bool | str
    normalization: Normalization

    @classmethod
    def of(
        cls,
        passport: Passport,
        *,
        image_size: int | None = None,
        resize: float | None = None,
        squash: bool | str = False,
        interpolation: str | None = None,
        normalization: str | None = None,
    ) -> Preprocess:
        """The checkpoint's own preprocessing, but for what is given.

        Args:
            passport: The checkpoint's.
            image_size: Side of the crop; the checkpoint's input size when None.
            resize: Short side before the crop: pixels, or a multiple of the crop when below 8 (256/224);
                the crop's side when None, as Kornblith et al. do.
            squash: Resize to a square before the crop; "after" the resizing of the short side, in place of the crop.
            interpolation: "bicubic" or "bilinear".
            normalization: "imagenet" for ImageNet's constants, but for a checkpoint whose own are mean 0 and
                standard deviation 1 (ssl-transfer, which leaves SimCLR's images as they are).

        Raises:
            UserError: If the passport or the sizes make no sense.
        """
        crop = image_size or passport.input_size
        short = crop if resize is None else round(resize * crop if resize < 8 else resize)
        interpolation = interpolation or passport.interpolation
        if interpolation not in RESAMPLING:
            raise UserError(
                f"interpolation '{interpolation}' is not known", remedy="it is bicubic or bilinear"
            )
        if squash not in (True, False, "after") or normalization not in (None, "imagenet"):
            raise UserError(
                f"squash is {squash!r} and normalization {normalization!r}",
                remedy="squash is true, false or after, normalization imagenet or null",
                code=2,
            )
        if not 1 <= crop <= short:
            raise UserError(
                f"a crop of {crop} px out of {short} px", remedy="resize to at least the crop", code=2
            )
        own = passport.normalization
        plain = set(own.mean) == {0} and set(own.std) == {1}
        norm = Normalization() if normalization == "imagenet" and not plain else own
        return cls(short, crop, interpolation, squash, norm)

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
        if self.squash is True:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / short))
        else:
            size = (int(self.resize * width / short), self.resize)
        if size != image.size:
            image = image.resize(size, RESAMPLING[self.interpolation])
        if self.squash == "after" and size != (self.crop, self.crop):
            size = (self.crop, self.crop)
            image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = round((size[0] - self.crop) / 2.0), round((size[1] - self.crop) / 2.0)
        if size != (self.crop, self.crop):
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return np.asarray(image, dtype=np.uint8)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) float32, on the images' device."""
        return self.normalization.apply_to_bytes(images.permute(0, 3, 1, 2))
