"""Images to pretrain on: every file is decoded once, kept as bytes, and served in an order known in advance."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .console import bar
from .errors import UserError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageBank:
    """Decoded images.

    Attributes:
        images: ``(N, 3, S, S)`` bytes.
        labels: ``(N,)`` class numbers, for the probe only.
        classes: Their names.
    """

    images: Tensor
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def batch(self, indices: NDArray[np.int64], device: torch.device) -> Tensor:
        """Images at ``indices`` as ``(B, 3, S, S)`` floats in [0, 1]."""
        return self.images[torch.from_numpy(indices)].to(device).float().div_(255)


def list_images(folder: Path) -> tuple[list[Path], NDArray[np.int64], tuple[str, ...]]:
    """Files, labels and class names of a folder of class folders, in sorted order.

    Raises:
        UserError: If the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"no folder of images at {folder}", remedy="give its parent as --data-root")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in EXTENSIONS)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UserError(f"no images in the class folders of {folder}", remedy="expected <class>/<image>.jpg")
    return paths, np.array(labels, dtype=np.int64), tuple(classes)


def decode_square(path: Path, size: int) -> NDArray[np.uint8]:
    """Decode an image, bring its short side to ``size`` (bicubic), keep the central square: ``(3, size, size)``.

    Raises:
        UserError: If the file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cannot be decoded ({error})", remedy="replace or remove the file"
        ) from error
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    if (width, height) != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(rgb).transpose(2, 0, 1)


def load_bank(folder: Path, size: int, *, workers: int = 2, progress: bool = True) -> ImageBank:
    """Decode every image below ``folder`` once.

    Args:
        folder: A folder of class folders.
        size: Side S of the stored squares.
        workers: Decoding threads (the decoder releases the interpreter's lock).
        progress: Show a progress bar.
    """
    paths, labels, classes = list_images(folder)
    images = np.empty((len(paths), 3, size, size), dtype=np.uint8)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(lambda path: decode_square(path, size), paths)
        shown = bar(decoded, total=len(paths), desc=f"decode {folder.name}", unit="img", disable=not progress)
        for index, image in enumerate(shown):
            images[index] = image
    return ImageBank(torch.from_numpy(images), labels, classes)
