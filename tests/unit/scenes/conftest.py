from __future__ import annotations

from pathlib import Path

import pytest

from eval import scenes
from eval.scenes.photos import Backgrounds


@pytest.fixture(scope="session")
def backgrounds() -> Backgrounds:
    return Backgrounds()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data in its smallest size; tests only read it."""
    out = tmp_path_factory.mktemp("scenes") / "data"
    scenes.write(out, size="test")
    return out
