"""Which squares of an image a backbone sees in dense tasks, and the same squares of its mask.

A view is: cut a box out of the image, resize it, cut a square out of the result, flip it. Whatever is drawn at random
is drawn once, from a seed, so that stored maps and masks belong together.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from .preprocess import RESAMPLING

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class View:
    """A square of an image.

    Attributes:
        image: The image's row in its pool.
        box: Left, top, width and height of what is cut out of the image first.
        size: Width and height that this is resized to.
        left, top: Corner of the square in it; what lies beyond its edges is padded.
        flip: Whether the square is mirrored.
    """

    image: int
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    left: int
    top: int
    flip: bool

    def pixels(self, image: Image.Image, side: int, interpolation: str, fill: tuple[int, ...]) -> Array:
        """The square of an RGB image: (side, side, 3) uint8, padded with the colour ``fill``."""
        part = self._resized(image, RESAMPLING[interpolation])
        square = Image.new("RGB", (side, side), fill)
        square.paste(part.crop(self._inside(side)), (0, 0))
        found = np.asarray(square, dtype=np.uint8)
        return found[:, ::-1] if self.flip else found

    def labels(self, mask: Array, side: int, padding: int) -> Array:
        """The same square of a mask, by nearest neighbours: (side, side), padded with ``padding``."""
        part = np.asarray(self._resized(Image.fromarray(mask.astype(np.int32)), Image.Resampling.NEAREST))
        left, top, right, bottom = self._inside(side)
        square = np.full((side, side), padding, dtype=mask.dtype)
        square[: bottom - top, : right - left] = part[top:bottom, left:right]
        return square[:, ::-1] if self.flip else square

    def _resized(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        left, top, width, height = self.box
        if self.box != (0, 0, *image.size):
            image = image.crop((left, top, left + width, top + height))
        return image if image.size == self.size else image.resize(self.size, how)

    def _inside(self, side: int) -> tuple[int, int, int, int]:
        right, bottom = min(self.left + side, self.size[0]), min(self.top + side, self.size[1])
        return self.left, self.top, right, bottom


@dataclass(frozen=True)
class Views:
    """How views are chosen.

    Attributes:
        kind: ``squash``: the whole image as a square. ``slide``: the short side becomes ``side`` times each of
            ``scales``, and squares at a stride cover the image. ``random``: a random one of these sizes between the
            smallest and the largest scale, a random square, mirrored half the time. ``resized-crop``: a random box of
            ``scales`` of the area and a ratio of 3/4 to 4/3, made a square (torchvision's RandomResizedCrop).
        side: Of the square, in pixels.
        scales: See ``kind``.
        stride: Between squares, as a share of ``side``.
        longest: The long side at scale 1 at most, in pixels.
        mirrored: Whether ``slide`` covers the mirrored image too, and half of ``resized-crop`` are mirrored.
        copies: Random views of every image.
        seed: Of what is random.
    """

    kind: Literal["squash", "slide", "random", "resized-crop"]
    side: int
    scales: tuple[float, ...] = (1.0,)
    stride: float = 2 / 3
    longest: int = 0
    mirrored: bool = False
    copies: int = 1
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """Everything that decides which squares they are, as plain values."""
        used = {"squash": (), "slide": ("scales", "stride", "longest", "mirrored")}.get(
            self.kind, ("scales", "longest", "copies", "seed")
        )
        told = asdict(self)
        found = {name: told[name] for name in ("kind", "side", *used)}
        if self.kind in ("slide", "random"):
            found["sizes"] = 2  # before: a side times a scale was not rounded down first
        if self.mirrored and self.kind in ("slide", "resized-crop"):
            found["mirrored"] = "image"  # before, of slide: every square by itself
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def plan(self, sizes: Array) -> list[View]:
        """The views of images, image by image.

        Args:
            sizes: (N, 2) their widths and heights in pixels.
        """
        generator = np.random.default_rng(self.seed)
        found: list[View] = []
        for row, (width, height) in enumerate(sizes.tolist()):
            found += self._of(row, width, height, generator)
        return found

    def _of(self, row: int, width: int, height: int, generator: np.random.Generator) -> list[View]:
        whole, side = (0, 0, width, height), self.side
        if self.kind == "squash":
            return [View(row, whole, (side, side), 0, 0, False)]
        if self.kind == "slide":
            return [
                # A mirrored view is a square of the mirrored image: in the image it lies as far from the right.
                View(row, whole, size, max(size[0] - side - left, 0) if flip else left, top, flip)
                for scale in self.scales
                for flip in ((False, True) if self.mirrored else (False,))
                for size in [self._size(width, height, scale)]
                for top in corners(size[1], side, self.step)
                for left in corners(size[0], side, self.step)
            ]
        if self.kind == "random":
            views = []
            for _ in range(self.copies):
                size = self._size(width, height, generator.uniform(min(self.scales), max(self.scales)))
                left, top = (int(generator.integers(max(s - side, 0) + 1)) for s in size)
                views.append(View(row, whole, size, left, top, bool(generator.random() < 0.5)))
            return views
        views = []
        for _ in range(self.copies):
            box = area_box(width, height, self.scales, generator)
            flip = self.mirrored and bool(generator.random() < 0.5)
            views.append(View(row, box, (side, side), 0, 0, flip))
        return views

    @property
    def step(self) -> int:
        """Pixels from one square to the next."""
        return max(1, int(self.side * self.stride))

    def _size(self, width: int, height: int, scale: float) -> tuple[int, int]:
        """Width and height with the aspect ratio kept, rounded as OpenMMLab's `Resize` and `rescale_size` do."""
        factor = int(self.side * scale) / min(width, height)
        if self.longest:
            factor = min(factor, int(self.longest * scale) / max(width, height))
        return int(width * factor + 0.5), int(height * factor + 0.5)


def corners(length: int, side: int, step: int) -> list[int]:
    """Where squares start so that they cover a length; the last one ends at its end (mmseg's slide_inference)."""
    count = max(length - side + step - 1, 0) // step + 1
    return [max(min(index * step + side, length) - side, 0) for index in range(count)]


def area_box(
    width: int, height: int, shares: tuple[float, ...], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width, height of a random box of a share of the area, as in torchvision's RandomResizedCrop."""
    for _ in range(10):
        area = width * height * generator.uniform(min(shares), max(shares))
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1)), w, h
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h
