"""The golden values of tests/golden/protocols.json, made anew by the peers' own code.

Opt-in: ``pytest -m peers`` with ``MAST_PEERS`` naming a folder of clones (see `make_protocols`).
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "protocols.json").read_text(encoding="utf-8"))


def flat(value: Any) -> list[Any]:
    """The numbers and texts in nested lists and mappings, in order."""
    if isinstance(value, dict):
        return [item for key in sorted(value) for item in [key, *flat(value[key])]]
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.peers
@pytest.mark.parametrize("name", GOLDEN)
def test_the_peers_code_still_gives_the_golden_values(name: str) -> None:
    clones = os.environ.get("MAST_PEERS")
    if not clones:
        pytest.fail("set MAST_PEERS to a folder of clones of the methods' repositories")
    folder = Path(clones) / GOLDEN[name]["repository"]
    if not folder.is_dir():
        pytest.skip(f"no clone of {GOLDEN[name]['repository']} in MAST_PEERS")
    spec = importlib.util.spec_from_file_location("make_protocols", FOLDER / "make_protocols.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found, kept = flat(module.MADE[name][1](folder)), flat(GOLDEN[name]["value"])
    assert len(found) == len(kept)
    for new, old in zip(found, kept, strict=True):
        if isinstance(old, float):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)  # other libraries' last digits
        else:
            assert new == old
