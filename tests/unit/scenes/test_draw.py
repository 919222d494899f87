"""Outlines, masks and photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.errors import UserError
from eval.scenes import photos
from eval.scenes.draw import COLOURS, OUTLINES, SHAPES, TEXTURES, Thing, coverage, render, visible_masks
from eval.scenes.photos import BANDS, Backgrounds

WHOLE = (0, 0, 64, 64)


def thing(
    shape: str, angle: float = 0.0, side: float = 26.0, centre: tuple[float, float] = (32, 32)
) -> Thing:
    return Thing(shape, "red", "solid", angle, side, centre)


def test_there_are_enough_levels() -> None:
    assert len(SHAPES) == 8
    assert len(TEXTURES) == 4
    hues = sorted(COLOURS.values())
    gaps = np.diff([*hues, hues[0] + 360])
    assert len(hues) == 8
    assert gaps.min() > 2 * 6  # each hue varies by 6 degrees either way


@pytest.mark.parametrize("shape", SHAPES)
def test_side_is_the_root_of_the_drawn_area_at_any_angle(shape: str) -> None:
    for angle in (0, 45, 200):
        area = coverage(thing(shape, angle).outline(), WHOLE).sum()
        assert area == pytest.approx(26.0**2, rel=0.06)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_orientation_looks_different(shape: str) -> None:
    masks = [coverage(thing(shape, angle).outline(), WHOLE) >= 0.5 for angle in (45, 135, 225, 315)]
    for i in range(4):
        for j in range(i):
            overlap = (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()
            assert overlap < 0.85


def test_angles_turn_clockwise() -> None:
    tip = np.argmin(OUTLINES["arrow"][:, 1])
    for angle, direction in ((0, (0, -1)), (90, (1, 0)), (180, (0, 1)), (270, (-1, 0))):
        offset = thing("arrow", angle).outline()[tip] - (32, 32)
        np.testing.assert_allclose(offset / np.hypot(*offset), direction, atol=1e-12)


def test_a_box_shows_the_same_coverage_as_the_whole_picture() -> None:
    outline = thing("fish", 30).outline()
    np.testing.assert_array_equal(coverage(outline, (10, 5, 40, 50)), coverage(outline, WHOLE)[5:50, 10:40])


def test_masks_are_disjoint_and_the_front_one_is_whole() -> None:
    things = [thing("house"), thing("heart", centre=(40, 36)), thing("crown", centre=(70, 30))]
    masks = visible_masks(things, 64)
    assert np.sum(masks, axis=0).max() == 1
    alone = [visible_masks([one], 64)[0] for one in things]
    np.testing.assert_array_equal(masks[2], alone[2])  # the front one
    np.testing.assert_array_equal(masks[0], alone[0] & ~alone[1] & ~alone[2])
    assert 0 < masks[0].sum() < alone[0].sum()


@pytest.mark.parametrize("texture", TEXTURES)
def test_things_are_drawn_inside_their_mask_and_only_there(texture: str) -> None:
    background = np.full((64, 64, 3), 0.5, dtype=np.float32)
    blue = Thing("heart", "blue", texture, 20, 26, (30, 34))
    image = render(background, [blue], np.random.default_rng(0)).astype(float)
    assert background.min() == background.max() == np.float32(0.5)  # the caller's array is left alone
    chroma = image.max(2) - image.min(2)
    alpha = coverage(blue.outline(), WHOLE)
    assert (chroma[alpha == 1] > 30).mean() > 0.9
    assert chroma[alpha == 0].max() < 30  # shadow and noise are grey


def test_textures_differ_in_their_share_of_the_second_tone() -> None:
    background = np.full((64, 64, 3), 0.5, dtype=np.float32)
    spread = {}
    for texture in TEXTURES:
        image = render(
            background, [Thing("heart", "blue", texture, 0, 26, (32, 32))], np.random.default_rng(3)
        )
        inside = coverage(Thing("heart", "blue", texture, 0, 22, (32, 32)).outline(), WHOLE) == 1
        spread[texture] = image[inside].astype(float)[:, 2].std() + image[inside].astype(float)[:, 1].std()
    assert min(spread[texture] for texture in ("stripes", "checks", "dots")) > 2 * spread["solid"]


def test_splits_share_no_pixel_of_any_photograph(backgrounds: Backgrounds) -> None:
    borders = [border for band in BANDS.values() for border in band]
    assert borders == sorted(borders)
    for number, path in enumerate(photos.paths().values()):
        with Image.open(path) as file:
            photo = file.convert("RGB")
        bands = [np.asarray(backgrounds.bands[split][number]) for split in BANDS]
        joined = np.concatenate(bands, axis=1)
        if photo.height <= photos.HEIGHT:  # side by side the bands are the photograph, each column once
            np.testing.assert_array_equal(joined, np.asarray(photo))
        assert joined.shape[0] == min(photo.height, photos.HEIGHT)


def test_crops_come_from_their_split_alone(backgrounds: Backgrounds) -> None:
    coded = Backgrounds.__new__(Backgrounds)
    coded.bands = {"train": [Image.new("RGB", (200, 300))], "val": [Image.new("RGB", (90, 300), "white")]}
    for seed in range(20):
        assert coded.crop("train", 64, np.random.default_rng(seed)).max() == 0
        assert coded.crop("val", 64, np.random.default_rng(seed)).min() == 1
    crop = backgrounds.crop("test", 128, np.random.default_rng(0))
    assert crop.shape == (128, 128, 3)
    assert crop.dtype == np.float32
    assert 0 <= crop.min() < crop.max() <= 1


def test_a_photograph_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(photos.PHOTOGRAPHS, "nowhere.png", ("skimage", "data"))
    with pytest.raises(UserError, match=r"nowhere\.png.*scikit-image.*pip install"):
        photos.paths()
