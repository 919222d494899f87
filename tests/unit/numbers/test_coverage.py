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
         "calibration", "seeds", "IoU", "accuracy of pixels", "pixel accuracy", "depth", "cost of errors",
         "rank correlation")  # fmt: skip


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


COVERAGE = _script("coverage")
with open(COVERAGE.FILE, encoding="utf-8", newline="") as _file:
    LINES = list(csv.DictReader(_file))
FAMILIES = [
    s
    for group in (COVERAGE.families, COVERAGE.over_seeds, COVERAGE.ranks)
    for s in group()
    if s.lines[0].family
]


def test_the_table_in_the_documentation_is_that_of_the_file() -> None:
    page = COVERAGE.PAGE.read_text(encoding="utf-8")
    assert page.partition(COVERAGE.BEGIN)[2].partition(COVERAGE.END)[0] == COVERAGE.table()


def test_exact_coverage_is_in_the_documentation() -> None:
    exact = _script("exact")
    for n, rate in exact.SHARES:
        found = exact.shares(n, rate)
        row = f"| n = {n}, rate {rate} | {' | '.join(f'{100 * value:.1f}' for value in found.values())} |"
        assert row in COVERAGE.PAGE.read_text(encoding="utf-8")
        assert 0.93 < found["Wilson"] < 0.97


def test_every_setting_of_the_script_was_run() -> None:
    settings = [setting for group in COVERAGE.GROUPS for setting in group()]
    keys = [line.key for setting in settings for line in setting.lines]
    assert keys == [
        (line["statistic"], line["n"], line["setting"]) for line in LINES
    ]  # none twice, in its order


def test_what_lies_outside_is_told_by_two_monte_carlo_errors() -> None:
    """The error of one rate of 93 % among 1,000 draws is .8 points, among 100 it is 2.6."""
    line = {"n": "100", "without": "0.0000"}
    assert COVERAGE.outside(line | {"rate": "0.9100", "draws": "1000"})
    assert not COVERAGE.outside(line | {"rate": "0.9100", "draws": "100"})
    assert not COVERAGE.outside(line | {"rate": "0.9400", "draws": "100000"})
    assert COVERAGE.outside(line | {"rate": "0.9900", "draws": "1000"})
    few = {"n": "20", "without": "0.5000", "draws": "1000"}  # half of the draws have an interval
    assert not COVERAGE.outside(few | {"rate": "1.0000"})
    assert COVERAGE.outside(few | {"rate": "0.8700"})
    assert not COVERAGE.outside(few | {"rate": "0.8800"})


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
@pytest.mark.parametrize("setting", FAMILIES, ids=lambda setting: " ".join(setting.lines[0].key))
def test_families_of_tests_by_simulation(setting: object) -> None:
    """Other draws than the committed ones, a tenth as many; at most three Monte Carlo errors above 5 %."""
    draws = max(60, round(0.1 * setting.draws))  # type: ignore[attr-defined]
    (line,) = setting.run(draws, told="once more")  # type: ignore[attr-defined]
    rate = float(line["rate"])
    assert rate < 0.05 + 3 * (0.05 * 0.95 / draws) ** 0.5
