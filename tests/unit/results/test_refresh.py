"""Intervals of records computed anew from kept outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from eval.cli.entry import main
from eval.numbers import intervals, kept
from eval.numbers.intervals import Interval, NoInterval
from eval.results import records
from eval.results.records import Metric, Record
from eval.results.refresh import refresh

Make = Callable[..., Record]
LABELS = np.repeat(np.arange(4), 15)
HITS = np.random.default_rng(0).random(60) < 0.8


def _write(folder: Path, record: Record) -> Path:
    path = folder / "records" / "eval.jsonl"
    records.append(path, record)
    return path


def test_reasons_in_records_are_those_of_the_numbers() -> None:
    assert NoInterval("why").kind == f"{records.NO_INTERVAL}why"


def test_intervals_change_and_nothing_else(tmp_path: Path, make_record: Make) -> None:
    kept_there = records.write_arrays(tmp_path, correct=HITS, labels=LABELS)
    value = float(np.mean([HITS[c == LABELS].mean() for c in range(4)]))
    old = make_record(
        metric="mean_per_class", value=value, interval=(value - 0.2, value + 0.1), kind="bootstrap",
        outcomes=kept_there,
    )  # fmt: skip
    failed = make_record(status="failed", name="other")
    path = _write(tmp_path, old)
    _write(tmp_path, failed)
    with open(path, "ab") as file:
        file.write(b'{"torn')
    before = path.read_bytes().split(b"\n")
    done = refresh([tmp_path])
    assert dict(done.changed) == {("bootstrap", "wilson-per-class"): 1}
    after = path.read_bytes().split(b"\n")
    assert before[1:] == after[1:]
    found = records.read([tmp_path]).records[0]
    expected = intervals.mean_per_class(HITS, LABELS)
    metric = found.metrics["mean_per_class"]
    assert (metric.low, metric.high) == (expected.low, expected.high)
    assert metric.value == value
    assert msgspec.structs.replace(found, metrics=old.metrics) == old
    again = refresh([tmp_path])
    assert (sum(again.changed.values()), again.same) == (0, 1)
    assert path.read_bytes().split(b"\n") == after


def test_what_cannot_be_told_stays_but_for_zero_width(tmp_path: Path, make_record: Make) -> None:
    _write(tmp_path, make_record(value=0.5, interval=(0.4, 0.6), kind="bootstrap"))
    _write(tmp_path, make_record(value=0.0, interval=(0.0, 0.0), kind="bootstrap", seed=1))
    done = refresh([tmp_path])
    wide, narrow = (record.metrics["top1"] for record in records.read([tmp_path]).records)
    assert wide == Metric(0.5, 0.4, 0.6, "bootstrap", 0.95)
    assert narrow == Metric(0.0, interval="none: the one that was recorded had no width")
    assert dict(done.left) == {"the records keep no outcomes": 1}


def test_new_cells_and_records_read_again_have_one_interval() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=(80, 3)).astype(np.float32)
    labels = (generator.random((80, 3)) < 0.3).astype(np.int8)
    arrays = {"scores": scores, "labels": labels}
    found = kept.interval("map_area", 0.4, arrays)
    assert isinstance(found, Interval)
    assert found == kept.interval("map_area", 0.4, arrays)
    assert kept.interval("map11", 0.4, arrays) == intervals.ELEVEN_POINTS
    assert kept.interval("top1", 0.4, {"episodes": np.zeros(3)}) is None


def test_the_verb_tells_what_it_did(
    tmp_path: Path, make_record: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_there = records.write_arrays(tmp_path, correct=HITS)
    _write(
        tmp_path, make_record(value=float(HITS.mean()), interval=(0.1, 0.99), kind="x", outcomes=kept_there)
    )
    assert main(["records", "refresh", str(tmp_path)]) == 0
    assert "1 metrics: x -> wilson\n1 intervals changed, 0 were up to date." in capsys.readouterr().out
    assert main(["records", "refresh", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": [], "same": 1, "left": {}}
