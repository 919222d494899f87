"""Data sets made from others: development splits, and factors to read off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import datasets
from eval.datasets.factors import FACTORS, SIDE
from eval.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 20 + 8 images with a bright corner, wider than high."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 8)):
        for name in ("cat", "dog"):
            for index in range(count):
                pixels = generator.integers(0, 120, (70, 90, 3), dtype=np.uint8)
                pixels[:20, 10:30, 0] = 255
                path = tmp_path / "pets" / part / name / f"{index:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path


def test_development_never_holds_a_test_image(root: Path) -> None:
    whole = datasets.load("pets", root)
    found = datasets.load("pets", root, derived=["development"])
    test = set(whole.splits["test"].paths)
    parts = {name: set(split.paths) for name, split in found.splits.items()}
    assert parts["test"] == set(whole.splits["val"].paths)
    assert not test & set.union(*parts.values())
    assert not parts["train"] & parts["val"]
    assert not (parts["train"] | parts["val"]) & parts["test"]
    assert found.counts == {"train": 26, "val": 6, "test": 8}
    assert found.manifest != whole.manifest


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_is_drawn_evenly_and_applied(root: Path, name: str) -> None:
    found = datasets.load("pets", root, derived=[name])
    assert found.classes == FACTORS[name][0]
    train = found.splits["train"]
    everyone = np.concatenate([train.labels, found.splits["val"].labels])
    assert np.ptp(np.bincount(everyone)) <= 1
    again = datasets.load("pets", root, derived=[name])
    assert found.manifest == again.manifest
    pictures = [train.pool.read(int(row)) for row in train.rows]
    whole = {image.size for image, label in zip(pictures, train.labels, strict=True) if label == 0}
    assert whole == ({(40, 40)} if name == "position" else {(SIDE, SIDE)})


def test_factors_do_to_pixels_what_they_say() -> None:
    picture = Image.new("RGB", (SIDE, SIDE), (200, 10, 10))
    picture.paste((10, 200, 10), (0, 0, 10, 10))
    apply = {name: function for name, (_, function) in FACTORS.items()}
    assert apply["rotation"](picture, 1).getpixel((0, SIDE - 1)) == (10, 200, 10)
    assert apply["position"](picture, 0).getpixel((0, 0)) == (10, 200, 10)
    assert apply["position"](picture, 3).getpixel((0, 0)) == (200, 10, 10)
    assert apply["scale"](picture, 2).size == (28, 28)
    assert apply["hue"](picture, 0).getpixel((40, 40)) == (200, 10, 10)
    red, green, blue = apply["hue"](picture, 2).getpixel((40, 40))  # half a turn: the complement
    assert red < 30 < 150 < min(green, blue)
    assert apply["blur"](picture, 3).getpixel((9, 9)) not in {(10, 200, 10), (200, 10, 10)}


def test_features_of_factors_are_stored_apart(root: Path) -> None:
    plain = datasets.load("pets", root).splits["train"].pool
    pools = [datasets.load("pets", root, derived=[name]).splits["train"].pool for name in FACTORS]
    assert len({plain.digest, *(pool.digest for pool in pools)}) == 1 + len(FACTORS)


def test_an_unknown_step_is_told(root: Path) -> None:
    with pytest.raises(UserError, match="hues"):
        datasets.load("pets", root, derived=["hues"])
