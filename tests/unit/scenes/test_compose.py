"""The factors: balanced, independent, and readable from the pictures by what should read them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.scenes import compose
from eval.scenes.photos import Backgrounds


def test_every_factor_is_balanced() -> None:
    drawn = compose.single_factors(0, "train", 1001)
    for name, levels in compose.FACTORS.items():
        counts = [sum(factors[name] == level for factors in drawn) for level in levels]
        assert max(counts) - min(counts) <= 1


def test_factors_are_independent_of_each_other() -> None:
    drawn = compose.single_factors(0, "train", 4000)
    for one, other in itertools.combinations(compose.FACTORS, 2):
        table = np.zeros((len(compose.FACTORS[one]), len(compose.FACTORS[other])))
        for factors in drawn:
            table[compose.FACTORS[one].index(factors[one]), compose.FACTORS[other].index(factors[other])] += 1
        assert stats.chi2_contingency(table).pvalue > 1e-3  # 15 pairs: one false alarm in 67 seeds


def test_the_background_and_the_light_do_not_depend_on_the_factors(backgrounds: Backgrounds) -> None:
    one = dict.fromkeys(compose.FACTORS, "") | {
        "shape": "arrow", "colour": "red", "texture": "solid", "orientation": "up-left", "scale": "small",
        "position": "top-left",
    }  # fmt: skip
    other = one | {
        "shape": "fish",
        "colour": "cyan",
        "texture": "dots",
        "orientation": "up-right",
        "scale": "medium",
    }
    images = [compose.single(backgrounds, 0, "train", 5, factors).image for factors in (one, other)]
    np.testing.assert_array_equal(images[0][-16:, -16:], images[1][-16:, -16:])
    assert (images[0] != images[1]).any()


def test_a_picture_depends_on_seed_split_and_index_alone(backgrounds: Backgrounds) -> None:
    short, long = (compose.single_factors(3, "val", count) for count in (10, 500))
    assert short == long[:10]
    shapes, longer = (compose.several_shapes(3, "coco", "train", count) for count in (10, 500))
    assert shapes == longer[:10]
    again = compose.single(Backgrounds(), 3, "val", 7, short[7]).image
    for _ in range(2):
        np.testing.assert_array_equal(compose.single(backgrounds, 3, "val", 7, short[7]).image, again)
    for changed in (
        compose.single(backgrounds, 4, "val", 7, short[7]),
        compose.single(backgrounds, 3, "test", 7, short[7]),
        compose.single(backgrounds, 3, "val", 8, short[7]),
    ):
        assert (changed.image != again).any()


def test_the_object_has_its_factors(backgrounds: Backgrounds) -> None:
    for index, factors in enumerate(compose.single_factors(1, "train", 200)):
        picture = compose.single(backgrounds, 1, "train", index, factors)
        (thing,), (mask,) = picture.things, picture.masks
        assert (thing.shape, thing.colour, thing.texture) == tuple(list(factors.values())[:3])
        assert abs(thing.angle - compose.ORIENTATIONS[factors["orientation"]]) <= 15
        nearest = min(compose.SCALES, key=lambda scale: abs(compose.SCALES[scale] - thing.side))
        assert nearest == factors["scale"]
        assert mask.sum() == pytest.approx(thing.side**2, rel=0.12)  # nothing of it is outside
        rows, columns = np.nonzero(mask)
        middle = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        found = ("top" if middle[1] < 32 else "bottom") + "-" + ("left" if middle[0] < 32 else "right")
        assert found == factors["position"]


def _features(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Raw pixels at a quarter of the size, and a joint hue and saturation histogram."""
    scaled = images.astype(np.float64) / 255
    pixels = scaled.reshape(len(images), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(images), -1)
    high, low = scaled.max(-1), scaled.min(-1)
    chroma = high - low
    red, green, blue = np.moveaxis(scaled, -1, 0)
    angle = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    bins = (angle // 15).astype(int) + 24 * (chroma > 0.45)
    weights = np.where(chroma > 0.2, 1.0, 0.0)
    histogram = [np.bincount(b.ravel(), w.ravel(), 48) for b, w in zip(bins, weights, strict=True)]
    return {"pixels": pixels, "hues": np.log1p(np.array(histogram))}


def test_a_hue_histogram_reads_colour_and_neither_it_nor_raw_pixels_read_shape(
    backgrounds: Backgrounds,
) -> None:
    images, factors = [], []
    for split, count in (("train", 800), ("test", 400)):
        for index, levels in enumerate(compose.single_factors(0, split, count)):
            images.append(compose.single(backgrounds, 0, split, index, levels).image)
            factors.append(levels)
    features = _features(np.array(images))

    def accuracy(kind: str, factor: str) -> float:
        labels = np.array([levels[factor] for levels in factors])
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=60, tol=1e-2))
        classifier.fit(features[kind][:800], labels[:800])
        return float(classifier.score(features[kind][800:], labels[800:]))

    found = {(kind, factor): accuracy(kind, factor) for kind in features for factor in ("colour", "shape")}
    assert found["hues", "colour"] > 0.9, found
    assert found["hues", "shape"] < 0.2, found  # chance is 1/8
    assert found["pixels", "shape"] < 0.2, found


@pytest.mark.parametrize("crowd", [False, True])
def test_several_objects_have_clean_visible_masks(backgrounds: Backgrounds, crowd: bool) -> None:
    plan = compose.several_shapes(0, "coco", "train", 24)
    assert sorted({len(shapes) for shapes in plan}) == [2, 3, 4]
    flat = [shape for shapes in plan for shape in shapes]
    assert (
        max(map(flat.count, compose.FACTORS["shape"])) - min(map(flat.count, compose.FACTORS["shape"])) <= 1
    )
    shares = []
    for index, shapes in enumerate(plan):
        picture = compose.several(backgrounds, 0, "coco", "train", index, shapes, crowd=crowd)
        assert [thing.shape for thing in picture.things] == shapes
        everything = picture.masks + ([] if picture.crowd_mask is None else [picture.crowd_mask])
        assert np.sum(everything, axis=0).max() == 1
        assert (picture.crowd_mask is not None) == crowd
        assert len({thing.shape for thing in picture.crowd}) == int(crowd)
        for thing, mask in zip(picture.things, picture.masks, strict=True):
            assert mask.sum() >= compose.MIN_VISIBLE * thing.side**2
            shares.append(mask.mean())
    assert np.mean(np.array(shares) > 0.05) > 0.4
