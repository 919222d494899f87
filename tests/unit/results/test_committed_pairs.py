"""The differences that results/README.md shows are those of the committed records."""

from __future__ import annotations

import runpy
from pathlib import Path

RESULTS = Path(__file__).parents[3] / "results"


def test_differences_over_pretraining_seeds_are_those_of_the_records() -> None:
    table = runpy.run_path(str(RESULTS / "paired.py"))["table"]
    found = table(RESULTS / "records/detection-evidence", ["mast5-vicreg", "vicreg-random", "mast5-random"])
    assert found.count("\n") == 12
    assert found in (RESULTS / "README.md").read_text(encoding="utf-8")
