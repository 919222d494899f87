"""Ten further augmentations in the manner of RandAugment, for MAST-15.

Ranges are those of RandAugment at its greatest magnitude (Cubuk et al. 2020, arXiv 1909.13719, as torchvision's
``RandAugment`` has them) unless said otherwise. Each is applied with probability ``p``; 0.1 is our own choice, so
that a view has one of the ten on average. An image that is left alone has the neutral parameter.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torch.nn.functional import grid_sample

from .augment import MAST5, Array, Augmentation, chosen, to_images


def _signed(u: Array, strength: float) -> Array:
    return strength * (2 * u - 1)


class _Occasional(Augmentation):
    """One parameter, ``neutral`` in the images that are left alone; a draw in the others.

    Args:
        p: Probability that an image is changed.
    """

    num_uniforms = 2
    neutral = 0.0

    def __init__(self, p: float = 0.1) -> None:
        self.p = p

    def draw(self, u: Array) -> Array:
        return np.where(u[:, :1] < self.p, self.value(u[:, 1:]), self.neutral)

    def value(self, u: Array) -> Array:
        """The parameter ``(B, 1)`` from a uniform; a switch unless overridden."""
        return np.ones_like(u)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        concerned = (params != self.neutral).any(1)
        rows = chosen(concerned, images)
        if not len(rows):
            return images
        return images.index_copy(0, rows, self.change(images[rows], to_images(params[concerned], images)))

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        """Change every image given, with its parameters ``(B, P)``."""
        raise NotImplementedError


class Solarize(_Occasional):
    """Invert what is at least as bright as the threshold. Parameter: 1 - threshold.

    The threshold is 1/2, as in BYOL (arXiv 2006.07733, App. B) and VICReg's code (p 0.2 in one view).
    """

    name = "solarize"

    def value(self, u: Array) -> Array:
        return np.full_like(u, 0.5)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(images >= 1 - params[:, :, None, None], 1 - images, images)


class Posterize(_Occasional):
    """Keep 4 to 7 bits of every channel. Parameter: the number of bits."""

    name = "posterize"

    def value(self, u: Array) -> Array:
        return 4 + np.floor(4 * u)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        levels = 2 ** params[:, :, None, None]
        return (images * levels).floor().minimum(levels - 1) / levels


class Equalize(_Occasional):
    """Equalise the histogram of every channel, on 256 levels. Parameter: 1 where equalised."""

    name = "equalize"

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        levels = (images * 255).round().to(torch.uint8)
        equalized: Tensor = F.equalize(levels)
        return equalized.to(images) / 255


class Autocontrast(_Occasional):
    """Stretch every channel to the whole range. Parameter: 1 where stretched."""

    name = "autocontrast"

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        stretched: Tensor = F.autocontrast(images)
        return stretched


class Sharpness(_Occasional):
    """Blend with a smoothed version by a factor in 1 +- 0.9. Parameter: factor - 1."""

    name = "sharpness"

    def value(self, u: Array) -> Array:
        return _signed(u, 0.9)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        smooth: Tensor = F.adjust_sharpness(images, 0.0)
        factor = 1 + params[:, :, None, None]
        return (factor * images + (1 - factor) * smooth).clamp(0, 1)


class Invert(_Occasional):
    """Negative. Parameter: 1 where inverted."""

    name = "invert"

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        return 1 - images


class Rotate(_Occasional):
    """Turn around the centre by up to 30 degrees. Parameter: degrees, counter-clockwise; corners become black."""

    name = "rotate"

    def value(self, u: Array) -> Array:
        return _signed(u, 30.0)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        angle = params[:, 0] * (math.pi / 180)
        matrix = torch.eye(3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
        matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
        matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
        return warp(images, matrix)


class Shear(_Occasional):
    """Shear along x or y, with equal chances, by up to 0.3. Parameters: tangents along x and y."""

    name = "shear"
    num_uniforms = 3

    def value(self, u: Array) -> Array:
        return _one_axis(u, 0.3)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        matrix = torch.eye(3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
        matrix[:, 0, 1], matrix[:, 1, 0] = params[:, 0], params[:, 1]
        return warp(images, matrix)


class Translate(_Occasional):
    """Shift along x or y, with equal chances, by up to 150/331 of the side. Parameters: shares of both sides."""

    name = "translate"
    num_uniforms = 3

    def value(self, u: Array) -> Array:
        return _one_axis(u, 150 / 331)

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = images.shape[2:]
        matrix = torch.eye(3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
        matrix[:, 0, 2] = -(params[:, 0] * width).round()
        matrix[:, 1, 2] = -(params[:, 1] * height).round()
        return warp(images, matrix)


class Perspective(_Occasional):
    """Move every corner inwards by up to a quarter of the side. Parameters: eight shares, x and y of four corners.

    The distribution is that of torchvision's ``RandomPerspective`` with its default ``distortion_scale`` 0.5.
    """

    name = "perspective"
    num_uniforms = 9

    def value(self, u: Array) -> Array:
        return 0.25 * u

    def change(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = images.shape[2:]
        start = images.new_tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
        inwards = images.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        shift = (params.view(-1, 4, 2) * images.new_tensor([width, height])).floor()
        end = start + inwards * shift
        return warp(images, homography(end, start.expand_as(end)), centred=False)


def _one_axis(u: Array, strength: float) -> Array:
    along_x = u[:, :1] < 0.5
    value = _signed(u[:, 1:], strength)
    return np.where(np.concatenate([along_x, ~along_x], axis=1), value, 0.0)


def homography(source: Tensor, target: Tensor) -> Tensor:
    """The projective map that takes four points to four others.

    Args:
        source: ``(B, 4, 2)`` x and y.
        target: ``(B, 4, 2)``.

    Returns:
        ``(B, 3, 3)`` matrices whose last entry is 1.
    """
    x, y = source.double().unbind(2)
    u, v = target.double().unbind(2)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    upper = torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], dim=2)
    lower = torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], dim=2)
    solution = torch.linalg.solve(torch.cat([upper, lower], dim=1), torch.cat([u, v], dim=1))
    return torch.cat([solution, torch.ones_like(solution[:, :1])], dim=1).view(-1, 3, 3).to(source)


def warp(images: Tensor, matrices: Tensor, *, centred: bool = True) -> Tensor:
    """Resample bilinearly at projectively mapped positions; what lies outside is black.

    Args:
        images: ``(B, 3, H, W)``.
        matrices: ``(B, 3, 3)``, from a position in the result to one in the source, in pixels.
        centred: Positions count from the image's centre; otherwise from its upper left corner.
    """
    height, width = images.shape[2:]
    centre = images.new_tensor([width / 2, height / 2])
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device, dtype=images.dtype) + 0.5,
        torch.arange(width, device=images.device, dtype=images.dtype) + 0.5,
        indexing="ij",
    )
    place = torch.stack([x, y], dim=2).view(-1, 2)
    if centred:
        place = place - centre
    mapped = torch.cat([place, torch.ones_like(place[:, :1])], dim=1) @ matrices.transpose(1, 2)
    position = mapped[..., :2] / mapped[..., 2:]
    if not centred:
        position = position - centre
    return grid_sample(
        images, (position / centre).view(-1, height, width, 2), mode="bilinear", align_corners=False
    )


_TEN: tuple[type[Augmentation], ...] = (
    Rotate,
    Shear,
    Translate,
    Perspective,
    Solarize,
    Posterize,
    Equalize,
    Autocontrast,
    Sharpness,
    Invert,
)
MAST15: dict[str, type[Augmentation]] = MAST5 | {augmentation.name: augmentation for augmentation in _TEN}
