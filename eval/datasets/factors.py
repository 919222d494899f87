"""Data sets made from others: for choosing between variants without the test split, and for reading off factors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ..errors import unknown
from .base import ImageDataset, Pool, Split, carve

SIDE = 64  # pixels of the square in which a factor is applied
_VERSION = 1  # raise it when a derived picture changes


def _hue(image: Image.Image, level: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point(lambda at: (at + level * 64) % 256)
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def _rotation(image: Image.Image, level: int) -> Image.Image:
    return image.rotate(90 * level)


def _scale(image: Image.Image, level: int) -> Image.Image:
    margin = (0, 10, 18)[level]
    return image.crop((margin, margin, SIDE - margin, SIDE - margin))


def _position(image: Image.Image, level: int) -> Image.Image:
    side = 40
    left, top = (SIDE - side) * (level % 2), (SIDE - side) * (level // 2)
    return image.crop((left, top, left + side, top + side))


def _blur(image: Image.Image, level: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur((0, 1, 2, 4)[level]))


FACTORS: dict[str, tuple[tuple[str, ...], Callable[[Image.Image, int], Image.Image]]] = {
    "hue": (("0 turns", "1/4 turn", "1/2 turn", "3/4 turn"), _hue),
    "rotation": (("0 degrees", "90 degrees", "180 degrees", "270 degrees"), _rotation),
    "scale": (("whole", "47 % of the area", "19 % of the area"), _scale),
    "position": (("top left", "top right", "bottom left", "bottom right"), _position),
    "blur": (("sharp", "sigma 1 px", "sigma 2 px", "sigma 4 px"), _blur),
}


def derive(dataset: ImageDataset, steps: Sequence[str]) -> ImageDataset:
    """Apply steps one after another.

    Args:
        dataset: What to start from.
        steps: ``development``, or one of `FACTORS`.

    Raises:
        UserError: For a step that does not exist.
    """
    for step in steps:
        if step == "development":
            dataset = development(dataset)
        elif step in FACTORS:
            dataset = factor(dataset, step)
        else:
            raise unknown("derived data set", step, ["development", *FACTORS])
    return dataset


def development(dataset: ImageDataset) -> ImageDataset:
    """The same without its test split: val is tested on, and a fifth of train becomes the new val.

    What is chosen by such numbers has not seen the test split.
    """
    train, val = carve(dataset.splits["train"], 0.2, seed=1)
    splits = {
        "train": train,
        "val": val,
        "test": replace(dataset.splits["val"], name="test", source=dataset.splits["val"].pool),
    }
    notes = dataset.notes | {"development": "val is tested on; a new val of 20% of train, stratified, seed 1"}
    return replace(dataset, name=f"{dataset.name}-development", splits=splits, notes=notes)


def factor(dataset: ImageDataset, name: str) -> ImageDataset:
    """Its images with one of a few values of a factor each; the label is the value.

    Whoever is invariant to the factor cannot tell. The central square of an image is brought to 64 px before. Values
    are drawn evenly within the images of a folder or archive, always the same.
    """
    classes, apply = FACTORS[name]
    made: dict[int, tuple[Pool, npt.NDArray[np.int64]]] = {}
    splits = {}
    for part, split in dataset.splits.items():
        source = split.pool
        if id(source) not in made:
            levels = np.random.default_rng(0).permutation(np.arange(len(source)) % len(classes))
            content = hashlib.sha256(f"{source.digest} {name} {_VERSION}".encode()).hexdigest()
            read = partial(_picture, source, levels, apply)
            pool = replace(
                source,
                name=f"{source.name}, {name}",
                reader=read,
                archive_digest=content,
                fingerprint=partial(_content, source),
            )
            made[id(source)] = pool, levels
        pool, levels = made[id(source)]
        splits[part] = Split(part, split.paths, levels[split.rows].astype(np.int64), pool, split.rows)
    return ImageDataset(f"{dataset.name}-{name}", classes, splits, dataset.notes | {"factor": name})


def _content(source: Pool, index: int) -> str:
    return source.contents[index]


def _picture(
    source: Pool, levels: npt.NDArray[np.int64], apply: Callable[[Image.Image, int], Image.Image], index: int
) -> Image.Image:
    image = source.read(index)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return apply(square, int(levels[index]))
