"""Files of every layout, each written once in a test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from checkpoint_sources import CASES, Case


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Write the named case on first use; later uses get the same file and network."""
    folder = tmp_path_factory.mktemp("layouts")
    done: dict[str, Case] = {}

    def write(name: str) -> Case:
        if name not in done:
            done[name] = CASES[name](folder / f"{name}.pth")
        return done[name]

    return write
