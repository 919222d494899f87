"""Tables from records, readings and measures: what differs is told. test_committed.py holds the committed ones."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _call(*arguments: str | Path, program: str = "sensitivity") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / f"{program}.py", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_difference_is_told(tmp_path):
    file = ROOT / "results" / "tables" / "sensitivity-search.md"
    other = tmp_path / "other.md"
    other.write_text(file.read_text().replace("hinge-weak", "hinge-week"))
    called = _call("search", ROOT / "results" / "records" / "sensitivity-search", "--check", other)
    assert called.returncode == 1
    assert "-| hinge-week" in called.stdout
    assert "+| hinge-weak" in called.stdout


def test_other_readings_give_another_table(tmp_path):
    place = ROOT / "results" / "subspaces"
    readings = place / "readings.csv", place / "closed.csv"
    header, first, *rest = readings[0].read_text().splitlines(keepends=True)
    values = first.split(",")
    values[header.split(",").index("test")] = "0.99"
    other = tmp_path / "readings.csv"
    other.write_text("".join([header, ",".join(values), *rest]))
    called = _call("table", other, readings[1], "--check", place / "downstream.md", program="subspaces")
    assert called.returncode == 1
    assert "-| " in called.stdout


def test_fewer_measures_give_other_correlations(tmp_path):
    places = [ROOT / "results" / "records" / name for name in ("sensitivity", "sensitivity-search")]
    file = ROOT / "results" / "comparisons" / "labelfree.md"
    lines = (ROOT / "results" / "measures" / "sensitivity.jsonl").read_text().splitlines()
    (tmp_path / "measures").mkdir()
    (tmp_path / "measures" / "some.jsonl").write_text("\n".join(lines[:-40]) + "\n")
    called = _call(*places, "--measures", tmp_path, "--check", file, program="labelfree")
    assert called.returncode == 1
