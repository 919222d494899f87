"""Data that several tests of whole commands need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, Sequence[int]], Path]:
    """Makes a folder with two data sets of noise around shades of grey, and their tasks.

    They are called ``shades`` and ``broken``; one test image of the latter is cut short.
    """

    def made(train: int, test: int, classes: Sequence[int]) -> Path:
        root = tmp_path_factory.mktemp("place")
        rng = np.random.default_rng(0)
        for name in ("shades", "broken"):
            for split, number in (("train", train), ("test", test)):
                for shade in classes:
                    folder = root / "data" / name / split / str(shade)
                    folder.mkdir(parents=True)
                    for index in range(number):
                        pixels = np.clip(rng.normal(shade, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
                        Image.fromarray(pixels).save(folder / f"{index}.png")
            text = f"version: 1\nkind: classification\ndataset: {name}\nmetric: mean_per_class\n"
            (root / f"{name}.yaml").write_text(text)
        bad = root / "data" / "broken" / "test" / str(classes[0]) / "0.png"
        bad.write_bytes(bad.read_bytes()[:60])
        return root

    return made
