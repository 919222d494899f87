"""docs/python.md and the notebooks of examples/ are run, top to bottom, as a reader would."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import eval as house

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def run(blocks: list[str], names: dict[str, Any]) -> dict[str, Any]:
    """Run blocks of code one after the other in one namespace; a failure names the block."""
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"block {number}", "exec"), names)
    return names


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names = run(blocks, {"RESULTS": ROOT / "results" / "records"})
    assert names["features"].shape == (60, names["passport"].feature_dim)
    assert len(names["linear"]) > 5
    assert len(names["found"][names["found"].headline]) == 4
    assert (names["mine"][names["mine"].headline].value > 0.6).all()
    assert set(names["differences"]["first"]) == {"mast5"}
    assert capsys.readouterr().out.count("\n") > 10


def test_the_page_lists_every_function() -> None:
    rows = re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE)
    assert sorted(rows) == sorted(house.__all__)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_the_notebooks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)  # none goes stale
    names = run(["".join(cell["source"]) for cell in code], {})
    assert names["features"].shape == (60, names["passport"].feature_dim)
    assert len(names["found"][names["found"].headline]) == 12
    assert set(names["differences"].protocol) == {"knn v1", "linear v2"}
    assert len(names["axes"].patches) == 3


def test_there_is_a_notebook() -> None:
    assert [path.name for path in (ROOT / "examples").glob("*.ipynb")] == ["evaluate.ipynb"]
