"""Made-up images and a recipe small enough for many runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mast.config import Recipe, load_recipe

SMALL = [
    "arch=resnet10-c16-half",
    "expander=[32, 32]",
    "batch_size=16",
    "epochs=3",
    "data={folder: images, store_size: 20}",
    "views.size=16",
]
MAST = ["method=mast", "uncertainty=true", "views.single_fraction=0.5", "name=small-mast"]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of two classes under ``images/``."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((24, 28), Image.Resampling.BICUBIC)
            picture.save(root / "images" / name / f"{index}.jpg")
    return root


@pytest.fixture(scope="session")
def small() -> Callable[..., Recipe]:
    """The demo's recipe made small, with overrides; ``mast=True`` makes it a MAST arm."""

    def build(*overrides: str, mast: bool = False) -> Recipe:
        return load_recipe("demo", [*SMALL, *(MAST if mast else []), *overrides])

    return build
