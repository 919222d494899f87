"""Files written by the methods' own public code, read by ours.

Opt-in: ``pytest -m peers`` with ``MAST_PEERS`` naming a folder of clones (see `peer_checkpoints`), each under its
repository's name, and, where they need more packages than ours, ``MAST_PEERS_PYTHON`` an interpreter that has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peer_checkpoints import METHODS, images

from eval.checkpoints import load

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("method", METHODS)
def test_what_the_methods_own_code_writes_computes_the_same_here(method: str, tmp_path: Path) -> None:
    clones = os.environ.get("MAST_PEERS")
    if not clones:
        pytest.fail("set MAST_PEERS to a folder of clones of the methods' repositories")
    repository, layout, arch, _, sizes = METHODS[method]
    if not (Path(clones) / repository).is_dir():
        pytest.skip(f"no clone of {repository} in MAST_PEERS")
    script = Path(__file__).with_name("peer_checkpoints.py")
    python = os.environ.get("MAST_PEERS_PYTHON", sys.executable)
    done = subprocess.run([python, script, method, clones, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    loaded = load(str(tmp_path / "checkpoint.pth"))
    assert (loaded.passport.layout, loaded.passport.arch) == (layout, arch)
    expected = torch.load(tmp_path / "features.pt", weights_only=True)
    for size in sizes:
        with torch.no_grad():
            found = loaded.backbone.features(images(size))
        assert float((found - expected[size]).abs().max() / expected[size].abs().max()) <= 1e-4
