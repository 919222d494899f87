"""What the documentation says of simulations is what the simulations gave; and, on demand, they give it again."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
# Shown beside numbers, so that these have to hold; no interval by eleven points is shown, since it does not.
SHOWN = ("top-1", "mean per class", "average precision, area", "detection AP", "detection AR", "few-shot",
         "calibration", "seeds", "IoU", "accuracy of pixels", "pixel accuracy", "depth")  # fmt: skip


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_script", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


COVERAGE = _script()
with open(COVERAGE.FILE, encoding="utf-8", newline="") as _file:
    LINES = list(csv.DictReader(_file))
FAMILIES = [setting for group in (COVERAGE.families, COVERAGE.ranks) for setting in group() if setting.family]


def test_the_table_in_the_documentation_is_that_of_the_file() -> None:
    page = COVERAGE.PAGE.read_text(encoding="utf-8")
    assert page.partition(COVERAGE.BEGIN)[2].partition(COVERAGE.END)[0] == COVERAGE.table()


def test_every_setting_of_the_script_was_run() -> None:
    settings = {setting.key for group in COVERAGE.GROUPS for setting in group()}
    assert settings == {(line["statistic"], line["n"], line["setting"]) for line in LINES}


def test_intervals_that_are_shown_hold() -> None:
    """At least 93 % at n >= 100 and 90 % at 20, but for three Monte Carlo errors of the setting."""
    held = 0
    for line in LINES:
        name, rate, draws = line["statistic"], float(line["rate"] or 1), int(line["draws"])
        if name.startswith("any ") or "11 points" in name:
            continue
        assert any(word in name for word in SHOWN), name
        least = 0.93 if int(line["n"]) >= 100 else 0.90
        assert rate > least - 3 * (least * (1 - least) / draws) ** 0.5, line
        held += 1
    assert held > 300


def test_families_of_tests_find_nothing_in_19_of_20_cases() -> None:
    families = [line for line in LINES if line["statistic"].startswith("any ")]
    assert {int(line["n"]) for line in families} == {3, 5, 8, 20, 100, 1000}
    for line in families:
        draws = int(line["draws"])
        assert float(line["rate"]) < 0.05 + 2 * (0.05 * 0.95 / draws) ** 0.5, line


@pytest.mark.slow
@pytest.mark.parametrize("setting", FAMILIES, ids=lambda setting: " ".join(setting.key))
def test_families_of_tests_by_simulation(setting: object) -> None:
    """Other draws than the committed ones, a tenth as many; at most three Monte Carlo errors above 5 %."""
    draws = max(60, round(0.1 * setting.draws))  # type: ignore[attr-defined]
    values = {**setting.__dict__, "draws": draws, "label": f"{setting.label}, once more"}  # type: ignore[attr-defined]
    rate = float(COVERAGE.Setting(**values).run()["rate"])
    assert rate < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
