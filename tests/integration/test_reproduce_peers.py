"""The suite ``peers-mini`` on the real images: this project's numbers beside those of the peers' own code."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eval import suites
from eval.cli import entry as cli
from mast import yaml

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


@pytest.fixture
def data() -> str:
    root = os.environ.get("MAST_DATA_ROOT")
    if not root:
        pytest.skip("set MAST_DATA_ROOT to a folder with cifar10, caltech101_20 and tinyimagenet_20")
    return root


def test_the_peers_numbers_are_reproduced(data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["reproduce", "peers-mini", "--data-root", data, "--out", str(out), "--quiet"]) == 0
    found = json.loads((out / "reproduction" / "reproduction.json").read_text())
    assert found["counts"]["reproduced"] == 22
    for line in found["lines"]:
        if line["protocol"].startswith("knn"):
            assert abs(line["measured"] - line["published"]) <= 0.003


def test_a_changed_protocol_differs(data: str, tmp_path: Path) -> None:
    value = yaml.read(suites.FOLDER / "peers-mini.yaml")
    value["cells"] = [{"tasks": ["cifar10"], "protocols": ["knn-dino-k20"], "overrides": {"k": [200]}}]
    path = tmp_path / "changed.yaml"
    path.write_text(json.dumps(value))
    out = tmp_path / "out"
    assert cli.main(["reproduce", str(path), "--data-root", data, "--out", str(out), "--quiet"]) == 1
    lines = json.loads((out / "reproduction" / "reproduction.json").read_text())["lines"]
    assert [(line["verdict"], line["delta"]) for line in lines] == [("differs", ["k=[200]"])] * 2
    assert lines[0]["measured"] == pytest.approx(0.364, abs=0.003)  # the peers' number with k = 200
