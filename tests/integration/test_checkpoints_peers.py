"""Files written by the methods' own public code, read by ours.

Opt-in: ``pytest -m peers`` with ``MAST_PEERS`` naming a folder of clones (see `peer_checkpoints`), each under its
repository's name, and, where they need more packages than ours, ``MAST_PEERS_PYTHON`` an interpreter that has them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peer_checkpoints import METHODS, images

from eval.checkpoints import load
from eval.errors import UserError

pytestmark = pytest.mark.peers
INNER = re.compile(r"\b(conv2|mlp\.fc1|mlp\.w1|mlp\.w12|pwconv1)\.weight$")


@pytest.mark.parametrize("method", METHODS)
def test_what_the_methods_own_code_writes_computes_the_same_here(method: str, tmp_path: Path) -> None:
    clones = os.environ.get("MAST_PEERS")
    if not clones:
        pytest.fail("set MAST_PEERS to a folder of clones of the methods' repositories")
    written = METHODS[method]
    if not (Path(clones) / written.repository).is_dir():
        pytest.skip(f"no clone of {written.repository} in MAST_PEERS")
    script = Path(__file__).with_name("peer_checkpoints.py")
    python = os.environ.get("MAST_PEERS_PYTHON", sys.executable)
    done = subprocess.run([python, script, method, clones, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    file = tmp_path / "checkpoint.pth"
    if written.refused:
        with pytest.raises(UserError, match=written.refused):
            load(str(file), **written.said)
        return
    loaded = load(str(file), **written.said)
    assert (loaded.passport.layout, loaded.passport.arch) == (written.layout, written.arch)
    expected = torch.load(tmp_path / "features.pt", weights_only=True)
    for (size, dtype), theirs in expected.items():
        with torch.no_grad():
            found = loaded.backbone.to(dtype).features(images(size, dtype))
        limit = {torch.float32: 1e-4, torch.float64: written.exact}[dtype]
        assert float((found - theirs).abs().max() / theirs.abs().max()) <= limit, (size, dtype)

    content = torch.load(file, weights_only=False)
    assert without_one_weight(content)
    torch.save(content, file)
    with pytest.raises(UserError):
        load(str(file), **written.said)


def without_one_weight(content: Any) -> bool:
    """Take a weight of an inner layer away, the same one of every copy of the network; whether there was one."""
    places, found = [content], []
    for place in places:
        places += [value for value in place.values() if isinstance(value, dict)]
        found += [(place, str(key)) for key, value in place.items() if isinstance(value, torch.Tensor)]
    inner = [key for _, key in found if INNER.search(key)]
    last = inner[-1].split(".")[-4:]
    for place, key in found:
        if key.split(".")[-4:] == last:
            del place[key]
    return bool(inner)
