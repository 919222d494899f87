"""The committed tables of the sensitivity terms are what the committed records give."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLES = {
    "search": (["sensitivity-search", "sensitivity-scenes"], "tables/sensitivity-search.md"),
    "confirm": (
        ["sensitivity", "sensitivity-mast15", "sensitivity-frozen"],
        "comparisons/sensitivity.md",
    ),
    "certainty": (["sensitivity", "sensitivity-certainty"], "tables/sensitivity-certainty.md"),
}


def _call(*arguments: str | Path, program: str = "sensitivity") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / f"{program}.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("table", TABLES)
def test_records_give_the_table(table):
    records, file = TABLES[table]
    places = [ROOT / "results" / "records" / name for name in records]
    called = _call(table, *places, "--check", ROOT / "results" / file)
    assert called.returncode == 0, called.stdout + called.stderr


def test_a_difference_is_told(tmp_path):
    records, file = TABLES["search"]
    other = tmp_path / "other.md"
    other.write_text((ROOT / "results" / file).read_text().replace("hinge-weak", "hinge-week"))
    called = _call("search", ROOT / "results" / "records" / records[0], "--check", other)
    assert called.returncode == 1
    assert "-| hinge-week" in called.stdout
    assert "+| hinge-weak" in called.stdout


def test_readings_give_the_table_of_subspaces(tmp_path):
    place = ROOT / "results" / "subspaces"
    readings = place / "readings.csv", place / "closed.csv"
    called = _call("table", *readings, "--check", place / "downstream.md", program="subspaces")
    assert called.returncode == 0, called.stdout + called.stderr
    header, first, *rest = readings[0].read_text().splitlines(keepends=True)
    values = first.split(",")
    values[header.split(",").index("test")] = "0.99"
    other = tmp_path / "readings.csv"
    other.write_text("".join([header, ",".join(values), *rest]))
    called = _call("table", other, readings[1], "--check", place / "downstream.md", program="subspaces")
    assert called.returncode == 1
    assert "-| " in called.stdout


def test_measures_give_their_correlations_with_accuracies(tmp_path):
    places = [ROOT / "results" / "records" / name for name in ("sensitivity", "sensitivity-search")]
    file = ROOT / "results" / "comparisons" / "labelfree.md"
    called = _call(*places, "--measures", ROOT / "results", "--check", file, program="labelfree")
    assert called.returncode == 0, called.stdout + called.stderr
    lines = (ROOT / "results" / "measures" / "sensitivity.jsonl").read_text().splitlines()
    (tmp_path / "measures").mkdir()
    (tmp_path / "measures" / "some.jsonl").write_text("\n".join(lines[:-40]) + "\n")
    called = _call(*places, "--measures", tmp_path, "--check", file, program="labelfree")
    assert called.returncode == 1
