"""What is in each picture: factors drawn independently of each other and of the background, from seed and index."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .draw import COLOURS, SHAPES, TEXTURES, Thing, render, visible_masks
from .photos import Backgrounds

# Clockwise from upright, in degrees. A horizontal flip exchanges up-right with up-left and down-right with down-left.
ORIENTATIONS: dict[str, float] = {"up-right": 45, "down-right": 135, "down-left": 225, "up-left": 315}
# Square root of the object's area, in pixels.
SCALES: dict[str, float] = {"small": 16.5, "medium": 22.5, "large": 30.5}
POSITIONS: dict[str, tuple[int, int]] = {
    "top-left": (-1, -1), "top-right": (1, -1), "bottom-left": (-1, 1), "bottom-right": (1, 1),
}  # fmt: skip
FACTORS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "orientation": tuple(ORIENTATIONS),
    "scale": tuple(SCALES),
    "position": tuple(POSITIONS),
}
SINGLE_SIZE, SEVERAL_SIZE = 64, 128
MIN_VISIBLE = 0.3  # of an object's whole area
MIN_PIECE = 12  # pixels of the smallest separate piece of a visible mask


@dataclass(frozen=True)
class Picture:
    """An image with what is in it.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        things: The objects, from behind to the front.
        masks: The visible part of each object, (S, S) bool, disjoint.
        crowd: The little things of a crowd region, all of one shape; they lie behind ``things``.
        crowd_mask: The visible part of the crowd, or None without one.
    """

    image: NDArray[np.uint8]
    things: list[Thing]
    masks: list[NDArray[np.bool_]]
    crowd: list[Thing]
    crowd_mask: NDArray[np.bool_] | None


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Random numbers that depend on the seed and a name alone, such as ``(seed, "voc", "train", 7)``."""
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def balanced(levels: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` levels in random order, run after run of ``levels`` draws that hold each level once."""
    runs = np.tile(np.arange(levels), (-(-count // levels), 1))
    return rng.permuted(runs, axis=1).ravel()[:count]


def single_factors(seed: int, split: str, count: int) -> list[dict[str, str]]:
    """The factors of the first ``count`` single-object pictures of a split; each factor is balanced."""
    drawn = {
        name: balanced(len(levels), count, stream(seed, "scenes", split, name))
        for name, levels in FACTORS.items()
    }
    return [{name: FACTORS[name][drawn[name][index]] for name in FACTORS} for index in range(count)]


def single(backgrounds: Backgrounds, seed: int, split: str, index: int, factors: dict[str, str]) -> Picture:
    """A 64x64 picture of one whole object with the given factors."""
    rng = stream(seed, "scenes", split, index)
    background = backgrounds.crop(split, SINGLE_SIZE, rng)
    angle = ORIENTATIONS[factors["orientation"]] + rng.uniform(-15, 15)
    side = SCALES[factors["scale"]] * rng.uniform(0.93, 1.07)
    shape, colour, texture = factors["shape"], factors["colour"], factors["texture"]
    outline = Thing(shape, colour, texture, angle, side, (0, 0)).outline()
    low, high = outline.min(0), outline.max(0)
    reach = np.maximum(7.0, (SINGLE_SIZE - (high - low)) / 2)  # as far as it fits, or a little more
    offset = np.array(POSITIONS[factors["position"]]) * rng.uniform(5.0, reach)
    x, y = (SINGLE_SIZE / 2 + offset - (low + high) / 2).tolist()
    thing = Thing(shape, colour, texture, angle, side, (x, y))
    image = render(background, [thing], rng)
    return Picture(image, [thing], visible_masks([thing], SINGLE_SIZE), [], None)


def several_shapes(seed: int, layout: str, split: str, count: int) -> list[list[str]]:
    """The shapes, 2 to 4, of the first ``count`` pictures of a detection split; shapes are balanced."""
    numbers = 2 + balanced(3, count, stream(seed, layout, split, "number"))
    drawn = balanced(len(SHAPES), int(numbers.sum()), stream(seed, layout, split, "shape"))
    return [[SHAPES[level] for level in part] for part in np.split(drawn, np.cumsum(numbers)[:-1])]


def _any(rng: np.random.Generator, shape: str, side: float, centre: tuple[float, float]) -> Thing:
    """A thing of this shape whose other factors are drawn freely."""
    colour = FACTORS["colour"][rng.integers(len(COLOURS))]
    return Thing(shape, colour, TEXTURES[rng.integers(len(TEXTURES))], rng.uniform(0, 360), side, centre)


def _crowd(rng: np.random.Generator) -> list[Thing]:
    """Seven to ten small things of one shape close together."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    middle = rng.uniform(0.3, 0.7, 2) * SEVERAL_SIZE
    count = int(rng.integers(7, 11))
    turns = rng.uniform(0, 2 * math.pi) + np.arange(count) * 2.4  # the golden angle spreads them evenly
    reach = 9.5 * np.sqrt(np.arange(count) + 0.3)
    centres = middle + reach[:, None] * np.c_[np.cos(turns), np.sin(turns)]
    return [_any(rng, shape, rng.uniform(10, 13), (x, y)) for x, y in centres.tolist()]


def _clean(mask: NDArray[np.bool_], whole: float, *, holes: bool = False) -> bool:
    """Enough of it is visible, in pieces that are not too small, and (unless allowed) without a hole."""
    if mask.sum() < MIN_VISIBLE * whole:
        return False
    pieces, _ = ndimage.label(mask)
    if np.bincount(pieces.ravel())[1:].min() < MIN_PIECE:
        return False
    return holes or ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] == 1


def several(
    backgrounds: Backgrounds,
    seed: int,
    layout: str,
    split: str,
    index: int,
    shapes: list[str],
    *,
    crowd: bool,
) -> Picture:
    """A 128x128 picture of some objects that may hide one another, and of a crowd region if asked for.

    An arrangement in which an object is mostly hidden, crumbled or pierced is drawn again.

    Args:
        backgrounds: The photographs.
        seed: Of the whole data.
        layout: Name of the data set, which has its own random numbers.
        split: Band of the photographs.
        index: Of the picture in its split.
        shapes: Of the objects, from behind to the front.
        crowd: Whether a crowd lies behind them.
    """
    rng = stream(seed, layout, split, index)
    background = backgrounds.crop(split, SEVERAL_SIZE, rng)
    for _ in range(1000):
        little = _crowd(rng) if crowd else []
        sides = np.exp(rng.uniform(math.log(23), math.log(48), len(shapes))).tolist()
        centres = (SEVERAL_SIZE * rng.uniform(0.12, 0.88, (len(shapes), 2))).tolist()
        things = [
            _any(rng, shape, side, (x, y)) for shape, side, (x, y) in zip(shapes, sides, centres, strict=True)
        ]
        masks = visible_masks([*little, *things], SEVERAL_SIZE)
        crowd_mask = np.any(masks[: len(little)], axis=0) if little else None
        masks = masks[len(little) :]
        if all(_clean(mask, thing.side**2) for mask, thing in zip(masks, things, strict=True)) and (
            crowd_mask is None or _clean(crowd_mask, sum(thing.side**2 for thing in little), holes=True)
        ):
            return Picture(render(background, [*little, *things], rng), things, masks, little, crowd_mask)
    raise RuntimeError(
        f"no clean arrangement of {shapes} in 1000 tries ({layout} {split} {index}, seed {seed})"
    )
