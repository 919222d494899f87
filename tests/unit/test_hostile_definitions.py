"""Definitions with values of wrong types, anywhere in them: one line that names the file, never a traceback."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml

from eval import protocols, suites, tasks
from eval.errors import UserError
from eval.running.plan import plan
from mast import config, yaml

HOSTILE: list[Any] = [
    *(None, [], {}, "", "x", "1", "a/b", -1, 0, 1.5, 1e30, True, 2**62, "\u00e9\0"),
    *([[]], [None], ["x"] * 3, [1, "2"], {"a": None}, {"x": [1]}, {"1": 1}),
]
ROOT = Path(__file__).resolve().parents[2]


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in plain data."""
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*above, key))
    return found


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 4)):
        *above, last = rng.choice(places(value))
        target = value
        for part in above:
            target = target[part]
        action = rng.randrange(4)
        if action == 0 and isinstance(target, dict):
            del target[last]
        elif action == 1 and isinstance(target, dict):
            target[rng.choice(["x", "name", "params", "1", "kind"])] = copy.deepcopy(rng.choice(HOSTILE))
        else:
            target[last] = copy.deepcopy(rng.choice(HOSTILE))
        if not places(value):
            break
    return value


KINDS: dict[str, tuple[str, Callable[[str], object]]] = {
    "tasks": ("eval/tasks", tasks.get),
    "protocols": ("eval/protocols", protocols.get),
    "suites": ("eval/suites", lambda path: plan(suites.load(path))),
    "recipes": ("mast/recipes", config.load_recipe),
}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_values_anywhere_are_one_line(kind: str, tmp_path: Path) -> None:
    folder, read = KINDS[kind]
    rng = random.Random(kind)
    sources = [yaml.read(path) for path in sorted((ROOT / folder).glob("*.yaml"))]
    for source in sources:
        for variant in source.pop("variants", [])[:1]:
            source |= {key: value for key, value in variant.items() if key != "params"}
            source.setdefault("params", {}).update(variant.get("params", {}))
    path = tmp_path / "own.yaml"
    refused = 0
    for _ in range(150):
        values = changed(rng.choice(sources), rng)
        text = pyyaml.safe_dump(values)
        path.write_text(text)
        try:
            read(str(path))
        except UserError as error:
            refused += 1
            if "\n" in str(error):
                raise AssertionError(text) from error
        except Exception as error:
            raise AssertionError(text) from error
    assert refused > 50
