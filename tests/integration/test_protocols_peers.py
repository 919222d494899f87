"""The golden values of tests/golden, frozen.json, protocols.json and dense.json, made anew by the peers' own code.

Opt-in: ``pytest -m peers`` with ``MAST_PEERS`` naming a folder of clones (see `make_protocols` and `make_dense`).
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.datasets import Split
from eval.protocols import training

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "protocols.json").read_text(encoding="utf-8"))
DENSE = json.loads((FOLDER / "dense.json").read_text(encoding="utf-8"))
FROZEN = json.loads((FOLDER / "frozen.json").read_text(encoding="utf-8"))
FROM = {
    "ericsson2021": "ssl-transfer",
    "augself2021": "AugSelf",
    "dino": "dino",
    "vissl": "vissl",
    "fewshot": "ssl-transfer",
}


def flat(value: Any) -> list[Any]:
    """The numbers and texts in nested lists and mappings, in order."""
    if isinstance(value, dict):
        return [item for key in sorted(value) for item in [key, *flat(value[key])]]
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


@pytest.mark.peers
@pytest.mark.parametrize("name", GOLDEN)
def test_the_peers_code_still_gives_the_golden_values(name: str) -> None:
    folder = clones(GOLDEN[name]["repository"]) / GOLDEN[name]["repository"]
    compare(flat(maker("make_protocols").MADE[name][1](folder)), flat(GOLDEN[name]["value"]))


@pytest.mark.peers
@pytest.mark.parametrize("name", FROM)
def test_the_peers_code_still_gives_the_golden_values_on_frozen_features(name: str) -> None:
    folder, made = clones(FROM[name]) / FROM[name], maker("make_frozen")
    key = f"{name}, scikit-learn {made.sklearn.__version__}" if name == "ericsson2021" else name
    if key not in FROZEN:
        pytest.skip(f"no golden values of {key}")
    kept = FROZEN[key]
    numbers = next((kept[part] for part in ("top1 and top5", "area") if part in kept), kept)
    found = getattr(made, name)(folder, made.load())
    for one in (found, numbers):
        if isinstance(one, dict):
            for about in ("commit", "torch", "scikit-learn", "patches"):
                one.pop(about, None)
    compare(flat(found), flat(numbers))


@pytest.mark.peers
@pytest.mark.parametrize("percent", [1, 10])
def test_simclrs_lists_name_for_us_what_they_name_for_vicreg(percent: int) -> None:
    folder, made = clones("simclr") / "simclr", maker("make_protocols")
    both = {line for part in (1, 10) for line in (folder / (made.SIMCLR % part)).read_text().split()}
    both |= {f"{line.split('_')[0]}_0.JPEG" for line in both}  # images of which no list speaks
    classes = {name: number for number, name in enumerate(sorted({line.split("_")[0] for line in both}))}
    paths = tuple(Path("/train") / line.split("_")[0] / line for line in sorted(both))
    labels = np.array([classes[path.parent.name] for path in paths])
    whole = Split("train", paths, labels)
    images = training.joined(
        whole.subset(np.arange(0, len(paths), 2)), whole.subset(np.arange(1, len(paths), 2))
    )
    found = training.subset(images, str(folder / (made.SIMCLR % percent)))
    ours = made.of_list([(split.paths[row].as_posix(), int(split.labels[row])) for split, row in found])
    golden = GOLDEN["vicreg lists"]["value"][str(percent)]
    assert ours == {key: golden[key] for key in ("images", "classes", "hash")}
    assert golden["images"] < len(paths)


@pytest.mark.peers
@pytest.mark.parametrize("name", DENSE)
def test_the_peers_code_still_gives_the_golden_values_of_dense_tasks(name: str) -> None:
    needed, made = maker("make_dense").MADE[name]
    compare(flat(made(clones(*needed))), flat(DENSE[name]["value"]))


def clones(*needed: str) -> Path:
    """The folder of clones, if those that a test needs are in it."""
    folder = os.environ.get("MAST_PEERS")
    if not folder:
        pytest.fail("set MAST_PEERS to a folder of clones of the methods' repositories")
    if missing := [one for one in needed if not (Path(folder) / one).is_dir()]:
        pytest.skip(f"no clone of {' and none of '.join(missing)} in MAST_PEERS")
    return Path(folder)


def maker(name: str) -> Any:
    """A module of tests/golden."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(found: list[Any], kept: list[Any]) -> None:
    """Equal but for the last digits."""
    assert len(found) == len(kept)
    for new, old in zip(found, kept, strict=True):
        if isinstance(old, float):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)  # other libraries' last digits
        else:
            assert new == old
