"""CONTRIBUTING.md: its examples are read by the code that reads the real ones, and the places it names are there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from eval import protocols, tasks
from eval.checkpoints.layouts import Layout
from eval.definitions import build

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(heading: str) -> str:
    """The YAML under a heading."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    return str(block)


def test_the_task_is_one(tmp_path: Path) -> None:
    (tmp_path / "flowers.yaml").write_text(example("Add a task"), encoding="utf-8")
    task = tasks.get(str(tmp_path / "flowers.yaml"))
    assert (task.name, task.dataset) == ("flowers", "flowers")
    assert set(task.protocols) <= set(protocols.names())


def test_the_protocol_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(example("Add a protocol"), encoding="utf-8")
    mine = protocols.get(str(tmp_path / "mine.yaml"))
    assert mine.params.keys() == protocols.get("knn").params.keys()


def test_the_layout_has_known_fields() -> None:
    ((name, fields),) = yaml.safe_load(example("Add a checkpoint layout")).items()
    assert build(Layout, {"name": name, **fields}, where="CONTRIBUTING.md").prefix == "backbone."


def test_every_marker_is_explained() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        told = tomllib.load(file)["tool"]["pytest"]["ini_options"]["markers"]
    for name in (line.partition(":")[0] for line in told):
        assert f"| `{name}` |" in TEXT, name


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:eval|mast|tests|pretrained|\.ci)/[\w./]+?)(?::\w+)?`", TEXT)))
)
def test_what_it_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


NAMED = sorted(set(re.findall(r"`((?:eval|mast)/[\w./]+\.py):(\w+)`", TEXT)))


def test_it_names_places() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_function_it_names_is_there(path: str, name: str) -> None:
    nodes = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {each.asname or each.name for n in nodes if isinstance(n, ast.ImportFrom) for each in n.names}
    assert name in (defined if path.split("/")[-1] != "__init__.py" else defined | imported)
