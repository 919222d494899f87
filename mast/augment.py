"""Augmentations as batched tensor operations with explicit parameters for every sample.

An augmentation turns uniform numbers into parameters (`draw`), fits them to an image's size (`fit`) and applies
them to images (`apply`). The
same parameters give the same pixels, so two views can share any subset of them. Images are ``(B, 3, H, W)``
float tensors in ``[0, 1]``. Each operation computes what torchvision's functional one does; the tests hold that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Array = NDArray[np.float64]


def to_images(params: Tensor, images: Tensor) -> Tensor:
    """Parameters on the images' device in the images' precision; nobody waits for the copy."""
    return params.to(images.device, images.dtype, non_blocking=True)


def chosen(rows: Tensor, images: Tensor) -> Tensor:
    """Numbers ``(R,)`` of the rows ``(B,)`` that are true, on the images' device; nobody waits for the copy."""
    return rows.nonzero()[:, 0].to(images.device, non_blocking=True)


class Augmentation(ABC):
    """One operation: a name, the number of uniforms it needs, parameters, pixels."""

    name: str
    num_uniforms: int

    @abstractmethod
    def draw(self, u: Array) -> Array:
        """Parameters ``(B, P)`` from uniforms ``(B, num_uniforms)``."""

    @abstractmethod
    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Apply parameters ``(B, P)`` to images ``(B, 3, H, W)`` in [0, 1].

        Parameters stay in the processor's memory, where they were drawn: which images an operation concerns is known
        there, so that a GPU is never waited for.
        """

    def fit(self, params: Array, height: int, width: int) -> Array:
        """Drawn parameters as `apply` takes them, for images of a size in pixels: the same ones, but for a crop."""
        return params

    def describe(self, params: Array) -> Array:
        """Numbers ``(B, Q)`` whose difference between two views tells how they differ; the parameters themselves."""
        return params


def _resampling_matrix(start: Tensor, length: Tensor, inputs: int, outputs: int, kernel: str) -> Tensor:
    """Weights ``(B, outputs, inputs)`` that crop ``[start, start + length)`` and resize it, antialiased.

    The filters are Pillow's: a triangle, or the cubic with a = -0.5, widened by the scale when shrinking.
    """
    scale = (length / outputs)[:, None, None]
    wide = scale.clamp(min=1.0)
    centre = start[:, None, None] + (torch.arange(outputs, device=start.device)[None, :, None] + 0.5) * scale
    position = torch.arange(inputs, device=start.device)[None, None, :]
    x = (position + 0.5 - centre).div_(wide).abs_()
    if kernel == "bilinear":
        weight = (1 - x).clamp_(min=0)
    else:
        x.clamp_(max=2)  # where the outer cubic is zero
        inner = (1.5 * x).sub_(2.5).mul_(x).mul_(x).add_(1)
        outer = (-0.5 * x).add_(2.5).mul_(x).sub_(4).mul_(x).add_(2)
        weight = torch.where(x < 1, inner, outer)
    position = position[0]
    inside = (position >= start[:, None]) & (position < (start + length)[:, None])
    weight.mul_(inside[:, None, :])
    return weight.div_(weight.sum(dim=2, keepdim=True))


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply every channel by ``rows`` ``(B, h, H)`` from the left and ``columns`` ``(B, w, W)`` from the right."""
    count, channels, height, width = images.shape
    narrow = torch.bmm(images.reshape(count, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], narrow.view(count, channels, height, -1))


class Crop(Augmentation):
    """Random resized crop, with the distribution of torchvision's ``RandomResizedCrop.get_params``.

    Drawn are areas and aspect ratios of ten attempts and a position. They become a box (top, left, height, width, as
    fractions) once the image's size is known, since the aspect ratio is one in pixels; its edges are rounded to
    pixels when it is applied.

    Args:
        size: Side of the result in pixels.
        scale: Range of the crop's area; (0.08, 1) is Inception's (arXiv 1409.4842), (0.2, 1) AugSelf's at 96 px.
        ratio: Range of the aspect ratio, width to height in pixels, drawn log-uniformly.
        interpolation: ``bicubic``, as VICReg's code, or ``bilinear``, torchvision's default.
    """

    name = "crop"
    attempts = 10
    num_uniforms = 2 * attempts + 2

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = "bicubic",
    ) -> None:
        self.size, self.scale, self.ratio, self.interpolation = size, scale, ratio, interpolation

    def draw(self, u: Array) -> Array:
        n = self.attempts
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :n]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = np.exp(low + (high - low) * u[:, n : 2 * n])
        return np.concatenate([area, ratio, u[:, 2 * n :]], axis=1)

    def fit(self, params: Array, height: int, width: int) -> Array:
        """Top, left, height and width, ``(B, 4)`` as fractions of an image of a size in pixels.

        The first attempt that fits is taken; where none does, the largest central box within the range of ratios.
        """
        n = self.attempts
        area, ratio = params[:, :n], params[:, n : 2 * n] * (height / width)  # the ratio of the fractions
        wide, high = np.sqrt(area * ratio), np.sqrt(area / ratio)
        fits = (wide <= 1) & (high <= 1)
        first = fits.argmax(axis=1)
        rows = np.arange(len(params))
        found = fits[rows, first]
        widest, highest = min(1.0, self.ratio[1] * height / width), min(1.0, width / height / self.ratio[0])
        w = np.where(found, wide[rows, first], widest)
        h = np.where(found, high[rows, first], highest)
        top = np.where(found, params[:, 2 * n], 0.5) * (1 - h)
        left = np.where(found, params[:, 2 * n + 1], 0.5) * (1 - w)
        return np.stack([top, left, h, w], axis=1)

    def describe(self, params: Array) -> Array:
        """Of a crop of a square: centre across and down, from the middle, and the logarithms of height and width."""
        top, left, height, width = self.fit(params, 1, 1).T
        return np.stack([left + width / 2 - 0.5, top + height / 2 - 0.5, np.log(height), np.log(width)], 1)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        height, width = images.shape[2:]
        size = params.new_tensor([height, width, height, width])
        edges = (torch.cat([params[:, :2], params[:, :2] + params[:, 2:]], 1) * size).round()
        top, left, bottom, right = to_images(edges, images).T
        rows = _resampling_matrix(top, (bottom - top).clamp(min=1), height, self.size, self.interpolation)
        columns = _resampling_matrix(left, (right - left).clamp(min=1), width, self.size, self.interpolation)
        return _separable(images, rows, columns).clamp_(0, 1)

    def cut(self, image: Image.Image, drawn: Array) -> NDArray[np.uint8]:
        """The same of one image, by Pillow: bytes ``(3, size, size)``. Parameters ``(P,)`` as drawn."""
        width, height = image.size
        (box,) = self.fit(drawn[None], height, width)
        top, left, bottom, right = np.rint(
            np.concatenate([box[:2], box[:2] + box[2:]]) * [height, width, height, width]
        ).tolist()
        kernel = Image.Resampling[self.interpolation.upper()]
        edges = (left, top, max(right, left + 1), max(bottom, top + 1))
        return np.asarray(image.resize((self.size, self.size), kernel, box=edges)).transpose(2, 0, 1)


class Flip(Augmentation):
    """Horizontal flip with probability ``p``. Parameter: 1 where flipped."""

    name = "flip"
    num_uniforms = 1

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def draw(self, u: Array) -> Array:
        return (u < self.p).astype(np.float64)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(to_images(params, images)[:, :, None, None] > 0, images.flip(3), images)


def _luma(images: Tensor) -> Tensor:
    """Grey level ``(B, 1, H, W)`` with torchvision's weights (ITU-R 601-2)."""
    weights = to_images(torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64), images)
    if images.is_cuda:  # where a matrix product with three columns takes several times as long
        return (images * weights[:, None, None]).sum(1, keepdim=True)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black: ``factor`` is ``(B,)``, 1 leaves the image as it is."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey level of each image."""
    f = factor[:, None, None, None]
    mean = _luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return (images * f + mean * (1 - f)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with each image's grey version."""
    f = factor[:, None, None, None]
    return (images * f + _luma(images) * (1 - f)).clamp_(0, 1)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by ``factor`` turns, in HSV space; ``factor`` is ``(B,)`` in [-0.5, 0.5]."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sector + 6 * factor[:, None, None]
    # Channel n of HSV -> RGB is value - chroma * clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6.
    turned = torch.empty_like(images)
    for channel, n in enumerate((5.0, 3.0, 1.0)):
        k = torch.remainder(hue + n, 6)
        turned[:, channel] = value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)
    return turned


class Color(Augmentation):
    """Colour jitter with probability ``p``, its four steps in random order, as torchvision's ``ColorJitter``.

    Parameters: four factors (brightness, contrast, saturation, hue), then for each of the four turns which step
    is taken. An image that is not jittered has factors (1, 1, 1, 0) and the turns in order.

    Args:
        brightness: Factor within ``1 +- brightness``; likewise ``contrast`` and ``saturation``.
        hue: Turn within ``+- hue``. VICReg (arXiv 2105.04906, App. C.1) has (0.4, 0.4, 0.2, 0.1) with p 0.8.
    """

    name = "color"
    num_uniforms = 9
    steps = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.2,
        hue: float = 0.1,
        p: float = 0.8,
    ) -> None:
        self.strength = np.array([brightness, contrast, saturation, hue])
        self.p = p

    def draw(self, u: Array) -> Array:
        neutral = np.array([1.0, 1.0, 1.0, 0.0])
        factors = neutral + self.strength * (2 * u[:, 1:5] - 1)
        factors[:, :3] = np.maximum(factors[:, :3], 0)
        jittered = u[:, :1] < self.p
        factors = np.where(jittered, factors, neutral)
        order = np.where(jittered, np.argsort(u[:, 5:9], axis=1), np.arange(4))
        return np.concatenate([factors, order], axis=1)

    def describe(self, params: Array) -> Array:
        """The four factors, without their order."""
        return params[:, :4]

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        images = images.clone()
        jittered = (params[:, :3] != 1).any(1) | (params[:, 3] != 0)
        for turn in range(4):
            for step, adjust in enumerate(self.steps):
                concerned = jittered & (params[:, 4 + turn] == step)
                rows = chosen(concerned, images)
                if len(rows):
                    images[rows] = adjust(images[rows], to_images(params[concerned, step], images))
        return images


class Grayscale(Augmentation):
    """Grey version with probability ``p``; 0.2 since SimCLR (arXiv 2002.05709, App. A). Parameter: 1 where grey."""

    name = "gray"
    num_uniforms = 1

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    def draw(self, u: Array) -> Array:
        return (u < self.p).astype(np.float64)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.where(to_images(params, images)[:, :, None, None] > 0, _luma(images), images)


class Blur(Augmentation):
    """Gaussian blur with probability ``p``. Parameter: sigma in pixels, 0 where not blurred.

    Args:
        kernel_size: Odd number of taps; a tenth of the image's side (SimCLR): 23 at 224 px, 9 at 96 px.
        sigma: Range of the standard deviation, uniform; 0.1 to 2 at every size in the recipes' sources.
        p: 0.5 in VICReg's paper, App. C.1.
    """

    name = "blur"
    num_uniforms = 2

    def __init__(
        self, kernel_size: int = 23, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5
    ) -> None:
        self.radius, self.sigma, self.p = kernel_size // 2, sigma, p

    def draw(self, u: Array) -> Array:
        sigma = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[:, 1:2]
        return np.where(u[:, :1] < self.p, sigma, 0.0)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        blurry = params[:, 0] > 0
        rows = chosen(blurry, images)
        if not len(rows):
            return images
        sigma = to_images(params[blurry, 0], images)
        blurred = _separable(images[rows], *(self._matrix(side, sigma) for side in images.shape[2:]))
        return images.index_copy(0, rows, blurred)

    def _matrix(self, side: int, sigma: Tensor) -> Tensor:
        """The blur of one axis with reflected borders as a matrix ``(B, side, side)``."""
        offsets = torch.arange(-self.radius, self.radius + 1, device=sigma.device)
        taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
        taps = taps / taps.sum(1, keepdim=True)
        place = torch.arange(side, device=sigma.device)
        source = (place[:, None] + offsets[None, :]).abs()
        source = torch.where(source >= side, 2 * (side - 1) - source, source)
        matrix = sigma.new_zeros(len(sigma), side, side)
        matrix.scatter_add_(
            2, source[None].expand(len(sigma), -1, -1), taps[:, None].expand(-1, side, -1).contiguous()
        )
        return matrix


MAST5: dict[str, type[Augmentation]] = {
    augmentation.name: augmentation for augmentation in (Crop, Flip, Color, Grayscale, Blur)
}
