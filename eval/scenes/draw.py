"""Drawing: outlines, hues and surfaces of the things in a picture, and the picture with its exact masks."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Points = NDArray[np.float64]
SUPERSAMPLING = 4

# Hue in degrees. Neighbours are 27 degrees apart or more and vary by at most 6.
COLOURS: dict[str, float] = {
    "red": 0, "orange": 28, "yellow": 56, "green": 120, "cyan": 181, "blue": 222, "purple": 272, "pink": 322,
}  # fmt: skip
TEXTURES = ("solid", "stripes", "checks", "dots")


def _arc(start: float, stop: float, count: int = 24) -> tuple[Points, Points]:
    angles = np.radians(np.linspace(start, stop, count))
    return np.cos(angles), np.sin(angles)


def _outlines() -> dict[str, Points]:
    """Outlines (P, 2) of unit area about the middle of their box, upright: y grows downwards, the top is -y.

    None looks the same after a quarter or a half turn, so that orientation is visible for every shape.
    """
    cos, sin = _arc(-32, 212)  # round the bottom, from the right horn to the left
    inner_cos, inner_sin = _arc(180, 0)  # and back along a flatter curve
    horn = math.cos(math.radians(32)), -math.sin(math.radians(32))
    crescent = np.c_[
        np.r_[cos, horn[0] * inner_cos[1:-1]], np.r_[sin, horn[1] + 0.95 * inner_sin[1:-1]]
    ]  # fmt: skip

    turn = np.radians(np.arange(0, 360, 7.5))
    heart = np.c_[
        16 * np.sin(turn) ** 3,
        -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)),
    ]
    drop = np.c_[0.95 * np.sin(turn) * np.sin(turn / 2) ** 1.6, -np.cos(turn)]

    cos, sin = _arc(118, 422)  # the body, all but its lower end
    fish = np.r_[np.c_[0.5 * cos, -0.28 + 0.66 * sin], [[0.62, 0.98], [0.0, 0.7], [-0.62, 0.98]]]

    cos, sin = _arc(180, 360)
    mushroom = np.r_[
        np.c_[0.95 * cos, 0.1 + 0.9 * sin], [[0.3, 0.1], [0.36, 0.95], [-0.36, 0.95], [-0.3, 0.1]]
    ]

    shapes = {
        "arrow": [[0, -1], [0.85, -0.05], [0.32, -0.05], [0.32, 0.95], [-0.32, 0.95], [-0.32, -0.05],
                  [-0.85, -0.05]],
        "crescent": crescent,
        "crown": [[-0.95, 0.7], [-0.95, -0.6], [-0.46, 0.02], [0, -0.8], [0.46, 0.02], [0.95, -0.6],
                  [0.95, 0.7]],
        "drop": drop,
        "fish": fish,
        "heart": heart,
        "house": [[-0.76, 0.85], [-0.76, -0.05], [-1, -0.05], [0, -0.9], [1, -0.05], [0.76, -0.05],
                  [0.76, 0.85], [0.2, 0.85], [0.2, 0.3], [-0.2, 0.3], [-0.2, 0.85]],
        "mushroom": mushroom,
    }  # fmt: skip
    outlines = {}
    for name, listed in shapes.items():
        points = np.asarray(listed, dtype=np.float64)
        points = points - (points.min(0) + points.max(0)) / 2
        following = np.roll(points, -1, axis=0)
        area = abs(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0])) / 2
        outlines[name] = points / math.sqrt(area)
    return outlines


OUTLINES = _outlines()
SHAPES = tuple(OUTLINES)


@dataclass(frozen=True)
class Thing:
    """One object of a picture.

    Attributes:
        shape: A key of `OUTLINES`.
        colour: A key of `COLOURS`.
        texture: One of `TEXTURES`.
        angle: Clockwise turn of the upright outline, in degrees.
        side: Square root of the whole object's area, in pixels.
        centre: (x, y) of the middle of its box when upright, in pixels from the picture's top left corner.
    """

    shape: str
    colour: str
    texture: str
    angle: float
    side: float
    centre: tuple[float, float]

    @property
    def radius(self) -> float:
        """Largest distance of the outline from the centre, in pixels."""
        return self.side * float(np.hypot(*OUTLINES[self.shape].T).max())

    def outline(self) -> Points:
        """The outline in the picture: (P, 2) x and y in pixels."""
        turn = math.radians(self.angle)
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        points: Points = self.side * OUTLINES[self.shape] @ rotation + self.centre
        return points


def _box(outline: Points, size: int, margin: float = 0.0) -> tuple[int, int, int, int]:
    """The pixels (left, top, right, bottom) that a polygon can touch, cut to the picture."""
    low = np.floor(outline.min(0) - margin).clip(0, size).astype(int)
    high = np.ceil(outline.max(0) + margin).clip(0, size).astype(int)
    return int(low[0]), int(low[1]), max(int(high[0]), int(low[0]) + 1), max(int(high[1]), int(low[1]) + 1)


def coverage(outline: Points, box: tuple[int, int, int, int], line: float = 0.0) -> NDArray[np.float32]:
    """Which share of each pixel of a box a polygon covers (with ``line`` > 0, its contour of so many pixels).

    Args:
        outline: (P, 2) x and y in the picture.
        box: (left, top, right, bottom), the pixels asked for.
        line: Width of the contour in pixels, or 0 for the filled polygon.

    Returns:
        (bottom - top, right - left) float32 in 0..1.
    """
    left, top, right, bottom = box
    canvas = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    fine = np.round((outline - (left, top)) * SUPERSAMPLING - 0.5)  # Pillow would round towards zero
    points = [(x, y) for x, y in fine.tolist()]
    if line:
        width = round(line * SUPERSAMPLING)
        ImageDraw.Draw(canvas).line([*points, points[0]], fill=255, width=width)
    else:
        ImageDraw.Draw(canvas).polygon(points, fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def visible_masks(things: Sequence[Thing], size: int) -> list[NDArray[np.bool_]]:
    """What is seen of each thing, later ones lying on earlier ones: one (size, size) mask a thing, disjoint."""
    free = np.ones((size, size), dtype=bool)
    masks = []
    for thing in reversed(things):
        outline = thing.outline()
        box = left, top, right, bottom = _box(outline, size)
        whole = np.zeros_like(free)
        whole[top:bottom, left:right] = coverage(outline, box) >= 0.5
        masks.append(whole & free)
        free &= ~whole
    return masks[::-1]


def _pattern(
    thing: Thing, x: NDArray[np.float32], y: NDArray[np.float32], period: float
) -> NDArray[np.float32]:
    """Share of the second tone, 0..1, in the thing's own turned coordinates; edges are one pixel soft."""
    turn = math.radians(thing.angle)
    u = (math.cos(turn) * x + math.sin(turn) * y) / period
    v = (math.cos(turn) * y - math.sin(turn) * x) / period
    if thing.texture == "stripes":
        wave = np.sin(2 * math.pi * v) * period / (2 * math.pi)
    elif thing.texture == "checks":
        wave = np.sin(math.pi * u) * np.sin(math.pi * v) * period / math.pi
    elif thing.texture == "dots":
        row = np.floor(v)
        across, along = (u + 0.5 * (row % 2)) % 1 - 0.5, v - row - 0.5
        wave = (0.3 - np.hypot(across, along)) * period
    else:
        return np.zeros_like(u)
    return np.clip(wave + 0.5, 0, 1).astype(np.float32)


def render(
    background: NDArray[np.float32], things: Sequence[Thing], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw things on a background under one light, with shadows, exposure and noise.

    Args:
        background: (S, S, 3) float32 in 0..1.
        things: From the one farthest behind to the one in front.
        rng: The picture's own random numbers.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    size = background.shape[0]
    scale = size / 64
    image = background.copy()
    bearing = rng.uniform(0, 2 * math.pi)
    light = np.array([math.cos(bearing), math.sin(bearing)])
    for thing in things:
        outline = thing.outline()
        box = left, top, right, bottom = _box(outline, size, margin=5 * scale)
        window = image[top:bottom, left:right]
        shadow = Image.fromarray((coverage(outline - 1.6 * scale * light, box) * 255).astype(np.uint8))
        shadow = shadow.filter(ImageFilter.GaussianBlur(1.4 * scale))
        window *= 1 - np.float32(0.5 / 255) * np.asarray(shadow, dtype=np.float32)[..., None]

        hue = (COLOURS[thing.colour] + rng.uniform(-6, 6)) / 360 % 1
        tone = np.array(
            colorsys.hsv_to_rgb(hue, rng.uniform(0.78, 1), rng.uniform(0.86, 1)), dtype=np.float32
        )
        second = 0.25 * tone + np.float32(0.75) if rng.random() < 0.5 else np.float32(0.3) * tone
        x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - thing.centre[0])
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - thing.centre[1])
        share = _pattern(thing, x, y, rng.uniform(6.0, 7.5) * scale**0.75)[..., None]
        surface = tone + share * (second - tone)
        lit = 1 + np.float32(0.18 / thing.radius) * (x * np.float32(light[0]) + y * np.float32(light[1]))
        rim = 1 - np.float32(0.55) * coverage(outline, box, line=1.5 * scale**0.5)
        surface *= (lit * rim)[..., None]
        window += coverage(outline, box)[..., None] * (surface - window)
    image *= np.float32(rng.uniform(0.85, 1.1))
    image += np.float32(rng.uniform(0.005, 0.02)) * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
