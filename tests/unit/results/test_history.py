"""Looking into records and merging folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from eval.cli.entry import main
from eval.errors import UserError
from eval.results import history, records, render, tables
from eval.results.records import Record

Make = Callable[..., Record]


def test_a_change_of_protocol_may_move_the_number_and_is_named(make_record: Make) -> None:
    found = history.compare(make_record(value=0.5), make_record(value=0.6, overrides={"epochs": 5}))
    assert [(c.part, c.key, c.first, c.second) for c in found.changes] == [("protocol", "epochs", "1", "5")]
    assert found.changes[0].decides
    assert found.verdict() == "The number moved; what may move it differs: protocol."


def test_another_library_should_move_nothing_and_is_told_if_it_does(make_record: Make) -> None:
    one = make_record(value=0.5)
    other = msgspec.structs.replace(one, environment={"versions": {"mast": "0.2.0"}})
    assert history.compare(one, other).verdict() == "The number is the same, though these differ: software."
    moved = msgspec.structs.replace(other, metrics=make_record(value=0.51).metrics)
    found = history.compare(one, moved)
    assert found.moved
    assert found.verdict().endswith("What differs: software.")
    assert history.compare(one, one).verdict() == "The number is the same."


def test_a_run_is_found_by_the_start_of_its_id(make_record: Make) -> None:
    book = records.Book([make_record(), make_record(seed=1)])
    one = book.records[0].run_id
    assert history.find(book, one[:12]) == [book.records[0]]
    with pytest.raises(UserError, match="no run begins"):
        history.find(book, "zz")
    with pytest.raises(UserError, match="2 runs begin"):
        history.find(book, "")


def test_folders_of_several_machines_merge_without_counting_twice(tmp_path: Path, make_record: Make) -> None:
    hits = np.arange(50) < 20
    for machine, names in (("one", "ab"), ("two", "bc")):
        for name in names:
            kept = records.write_arrays(tmp_path / machine, correct=np.roll(hits, ord(name)))
            records.append(
                tmp_path / machine / "records" / "eval.jsonl",
                make_record(
                    name=name, weights=name, outcomes=kept, started=f"2026-01-01T00:00:0{ord(name) - 97}"
                ),
            )
    places = [tmp_path / "one", tmp_path / "two"]
    assert history.merge(places, tmp_path / "both") == history.Merged(3, 1, 3)
    assert history.merge(places, tmp_path / "both") == history.Merged(0, 4, 0)
    assert history.merge([tmp_path / "both"], tmp_path / "both") == history.Merged(0, 3, 0)
    merged = tables.read([tmp_path / "both"])
    assert len(merged.book.records) == 3
    assert "Paired over 50 test examples" in render.render(merged, "md")
    # Reading both folders side by side gives the same table.
    assert render.render(tables.read(places), "md") == render.render(merged, "md")


def test_the_schema_fits_what_is_written(tmp_path: Path, make_record: Make) -> None:
    schema = history.schema()
    record = schema["$defs"]["Record"]
    assert set(record["properties"]) == set(make_record().to_json())
    assert record["additionalProperties"] is False
    assert schema["$defs"]["Metric"]["properties"]["value"]["maximum"] == 1.0


def test_the_command_lists_and_tells(
    tmp_path: Path, make_record: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = make_record(value=0.5), make_record(value=0.6, overrides={"epochs": 5})
    for record in (one, msgspec.structs.replace(one, started="2026-02-01"), other):
        records.append(tmp_path / "x.jsonl", record)
    assert main(["records", "list", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2
    assert f"{other.run_id[:12]}  vicreg  cifar10 v1  linear v1 epochs=5  seed 0  top1 60.0" in listed
    assert main(["records", "diff", str(tmp_path), "--run", one.run_id[:12], other.run_id[:12]]) == 0
    assert "top1: 50.00 -> 60.00 (+10.00 points)" in capsys.readouterr().out
    assert main(["records", "explain", str(tmp_path), "--run", one.run_id, "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)
    assert step["moved"] is False
    assert main(["records", "diff", str(tmp_path), "--run", one.run_id]) == 2
    assert main(["records", "merge", str(tmp_path)]) == 2
