"""Backgrounds: crops of the photographs that lie inside the scikit-learn and scikit-image wheels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from mast.files import sha256_file
from mast.images import decode

from ..errors import UserError

_SKLEARN, _SKIMAGE = ("sklearn", "datasets/images"), ("skimage", "data")
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "china.jpg": _SKLEARN,
    "flower.jpg": _SKLEARN,
    "astronaut.png": _SKIMAGE,
    "brick.png": _SKIMAGE,
    "chelsea.png": _SKIMAGE,
    "coffee.png": _SKIMAGE,
    "grass.png": _SKIMAGE,
    "gravel.png": _SKIMAGE,
    "hubble_deep_field.jpg": _SKIMAGE,
    "ihc.png": _SKIMAGE,
    "motorcycle_left.png": _SKIMAGE,
    "retina.jpg": _SKIMAGE,
    "rocket.jpg": _SKIMAGE,
}

# Columns of every photograph that a split may use, as fractions of its width: the splits share no pixel.
BANDS: dict[str, tuple[float, float]] = {"train": (0.0, 0.54), "val": (0.54, 0.76), "test": (0.76, 1.0)}
HEIGHT = 420  # photographs are reduced to at most this height before they are cut


def paths() -> dict[str, Path]:
    """The photographs' files by name; a `UserError` names the first that is not installed."""
    found = {}
    for name, (package, folder) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        roots = spec.submodule_search_locations if spec else None
        path = Path(roots[0]) / folder / name if roots else None
        if path is None or not path.is_file():
            wheel = {"sklearn": "scikit-learn", "skimage": "scikit-image"}[package]
            raise UserError(
                f"photograph {name} is not inside the installed {wheel}",
                remedy=f"reinstall {wheel} from its wheel: pip install --force-reinstall --no-deps {wheel}",
            )
        found[name] = path
    return found


def hashes() -> dict[str, str]:
    """SHA-256 of every photograph's file, by name."""
    return {name: sha256_file(path) for name, path in paths().items()}


class Backgrounds:
    """All photographs in memory, cut into one band for each split before anything is resampled."""

    def __init__(self) -> None:
        self.bands: dict[str, list[Image.Image]] = {split: [] for split in BANDS}
        for path in paths().values():
            photo = decode(path)
            if photo.height > HEIGHT:
                photo = photo.resize(
                    (round(photo.width * HEIGHT / photo.height), HEIGHT), Image.Resampling.BOX
                )
            for split, (left, right) in BANDS.items():
                box = (round(left * photo.width), 0, round(right * photo.width), photo.height)
                self.bands[split].append(photo.crop(box))

    def crop(self, split: str, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """A random square crop of a random photograph, its colour and contrast a little reduced.

        Args:
            split: Which band of the photographs to use.
            size: Side of the result in pixels.
            rng: The picture's own random numbers.

        Returns:
            (size, size, 3) float32 in 0..1.
        """
        band = self.bands[split][rng.integers(len(self.bands[split]))]
        longest = min(band.width, band.height, 3 * size)
        side = int(rng.integers(longest // 2, longest + 1))
        left = int(rng.integers(band.width - side + 1))
        top = int(rng.integers(band.height - side + 1))
        crop = band.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        crop = ImageEnhance.Color(crop).enhance(rng.uniform(0.45, 0.85))
        crop = ImageEnhance.Contrast(crop).enhance(rng.uniform(0.5, 0.8))
        return np.asarray(crop, dtype=np.float32) / np.float32(255)
