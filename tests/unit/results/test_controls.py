"""Whether a checkpoint is above random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.cli.entry import main
from eval.numbers import tests
from eval.results import controls, records, tables
from eval.results.records import Book, Record

Make = Callable[..., Record]
RNG = np.random.default_rng(0)
SHARES = {"better": 0.65, "alike": 0.42, "random-0": 0.3, "random-1": 0.4}
HITS = {name: RNG.random(300) < share for name, share in SHARES.items()}


@pytest.fixture
def folder(tmp_path: Path, make_record: Make) -> Path:
    for number, (name, hits) in enumerate(HITS.items()):
        record = make_record(
            name=name,
            weights=f"{number:x}",
            value=float(hits.mean()),
            trained=not name.startswith("random"),
            outcomes=records.write_arrays(tmp_path, correct=hits),
        )
        records.append(tmp_path / "records" / "x.jsonl", record)
    return tmp_path


def test_the_best_control_counts_and_p_values_are_those_of_the_pairs_with_holms_correction(
    folder: Path,
) -> None:
    table = tables.read([folder])
    found = {item.row.name: item for item in controls.against(table, table.sections[0])}
    assert {item.control.name for item in found.values()} == {"random-1"}
    names = list(found)
    assert sorted(names) == ["alike", "better"]
    plain = [tests.paired(HITS[name], HITS["random-1"]).p_value for name in names]
    expected = tests.holm([p for p in plain if p is not None])
    assert [found[name].p_value for name in names] == pytest.approx(expected)
    assert found["better"].above
    assert found["better"].difference == pytest.approx(HITS["better"].mean() - HITS["random-1"].mean())
    assert not found["alike"].above
    assert found["alike"].paired


def test_what_does_not_pair_has_to_lie_apart_by_its_intervals(make_record: Make) -> None:
    made = [
        make_record(name="far", weights="1", value=0.9, interval=(0.8, 0.95)),
        make_record(name="near", weights="2", value=0.6, interval=(0.5, 0.7)),
        make_record(name="bare", weights="3", value=0.9, interval=None),
        make_record(name="random", weights="4", value=0.5, interval=(0.4, 0.6), trained=False),
    ]
    table = tables.build(Book(made))
    found = {item.row.name: item for item in controls.against(table, table.sections[0])}
    assert {name: item.above for name, item in found.items()} == {"far": True, "near": False, "bare": False}
    assert not any(item.paired or item.p_value is not None for item in found.values())


def test_the_command_tells_it_and_refuses_where_there_is_no_control(
    folder: Path, tmp_path: Path, make_record: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(folder), "--controls"]) == 0
    told = capsys.readouterr().out
    assert "| better | 1 of 1 |" in told
    assert "| alike | 0 of 1 | " in told
    assert ", p 0." in told
    assert main(["compare", str(folder), "--controls", "--format", "csv"]) == 2
    alone = tmp_path / "alone"
    records.append(alone / "records" / "x.jsonl", make_record())
    assert main(["compare", str(alone), "--controls"]) != 0
    assert "random control" in capsys.readouterr().err
