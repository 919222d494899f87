"""`benchmarks/gpu.py` measures every line at tiny sizes on a CPU: ten minutes with a GPU shall not be wasted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))
gpu = __import__("gpu")


def measured(tmp_path: Path, *lines: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", *lines], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "gpu.md").read_text()
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert (whole["device"], whole["tiny"]) == ("cpu", True)
    return {line["line"]: line for line in whole["lines"]}


def test_quick_lines(tmp_path: Path) -> None:
    found = measured(tmp_path, "environment", "linear-grid")
    assert {line["state"] for line in found.values()} == {"measured"}
    assert found["linear-grid"]["numbers"]["certified"] == 45
    assert max(found["linear-grid"]["numbers"]["scikit_learn_gaps"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("line", [name for name in gpu.LINES if name not in ("environment", "linear-grid")])
def test_every_other_line(tmp_path: Path, line: str) -> None:
    found = measured(tmp_path, line)[line]
    assert found["state"] == "measured"
    for goal in found["goals"]:
        assert goal["number"] in found["numbers"]
        assert "met" not in goal  # a tiny size is no measurement


def test_arms_are_the_same_whatever_method_the_recipe_has() -> None:
    arms = gpu._recipes(False, "resnet18", "fp32")
    assert {name: arm.method for name, arm in arms.items() if arm.method == "vicreg"}.keys() == {
        "vicreg",
        "vicreg15",
    }
    assert arms["vicreg"].views.single_fraction == 0
    assert arms["mast5"].weights.prediction == 0
    assert arms["mast5"].masks.lr > 0
    assert arms["mast5"].uncertainty


def test_a_line_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setattr(gpu, "HERE", Path("/nowhere"))
    found = gpu.in_a_process("environment", tiny=True, device="cpu")
    assert found["state"] == "failed"
    assert "exit code 2" in found["why"]


def test_a_missed_goal_is_shown() -> None:
    goal = {"number": "mast5", "sign": "<=", "bound": 1.05, "met": False}
    line = {"line": "steps", "state": "measured", "why": "", "numbers": {"mast5": 1.2}, "goals": [goal]}
    skipped = {
        "line": "two-processes",
        "state": "skipped",
        "why": "1 GPU, two are needed",
        "numbers": {},
        "goals": [],
    }
    page = gpu.markdown([line, skipped], tiny=False, device="cuda")
    assert "| steps | mast5 | 1.2 | <= 1.05 | **no** |" in page
    assert "| two-processes | skipped | 1 GPU, two are needed | | |" in page
