"""Measures without labels: kept as lines, arranged beside the accuracies of the same weights."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eval.errors import UserError
from eval.results import history, measures, records, report, tables
from eval.results.measures import Measure
from eval.results.records import Record

Make = Callable[..., Record]
MANIFEST = "d" * 64


def _measure(record: Record, value: float | None = 3.25, **more: Any) -> Measure:
    given: dict[str, Any] = {
        "name": "rankme",
        "task": record.task.name,
        "split": "train",
        "manifest": MANIFEST,
        "images": 500,
        "dim": [64],
        "params": {"extraction": {}, "seed": 0, "epsilon": 1e-7},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Measure(checkpoint=record.checkpoint, value=value, **(given | more))


@pytest.fixture
def place(tmp_path: Path, make_record: Make) -> Path:
    """Six trained checkpoints and a random one, with a linear probe and two measures each."""
    names = [(f"net{index}", "abcdef"[index], True) for index in range(6)] + [("control", "0", False)]
    for index, (name, weights, trained) in enumerate(names):
        accuracy = [0.5, 0.6, 0.4, 0.8, 0.7, 0.9, 0.1][index]
        record = make_record(name=name, weights=weights, trained=trained, value=accuracy, interval=None)
        records.append(tmp_path / "records" / "eval.jsonl", record)
        line = _measure(record, 10 * accuracy + (index == 3) * 2.5)
        measures.append(tmp_path / "measures" / "measures.jsonl", line)
    return tmp_path


def test_a_line_comes_back_and_the_latest_of_equal_ones_counts(tmp_path: Path, make_record: Make) -> None:
    path, record = tmp_path / "measures" / "a.jsonl", make_record()
    first = _measure(record)
    later = _measure(record, 4.5, started="2026-02-01T00:00:00+00:00")
    other = _measure(record, None, why="all alike", name="alpha-req")
    for line in (later, first, other):
        measures.append(path, line)
    with path.open("ab") as file:
        file.write(b'{"schema":1,"na')  # a killed process
    assert measures.read([tmp_path]) == [later, other]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"value": None}, "or says why"),
        ({"why": "because"}, "or says why"),
        ({"name": "cka"}, "two checkpoints"),
        ({"name": "accuracy"}, "Invalid enum"),
        ({"images": 1}, ">= 2"),
    ],
)
def test_nothing_invalid_is_written(
    tmp_path: Path, make_record: Make, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        measures.append(tmp_path / "a.jsonl", _measure(make_record(), **changes))
    assert not (tmp_path / "a.jsonl").exists()


def test_a_line_of_another_form_is_an_error_with_its_place(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "measures" / "a.jsonl"
    measures.append(path, _measure(make_record()))
    with path.open("a") as file:
        file.write('{"schema": 2}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not a valid measure"):
        measures.read([tmp_path])


def test_accuracies_stand_beside_and_orders_are_compared(place: Path) -> None:
    table = tables.read([place])
    (sheet,) = measures.sheets(measures.read([place]), table.sections)
    assert sheet.title == "cifar10, train"
    heads, rows = measures.grid(sheet)
    assert heads == ["checkpoint", "RankMe (500 images)", "linear v1 top1"]
    assert rows[0] == ["net0", "5", "50.0"]
    assert rows[-1] == ["control (random)", "1", "10.0"]
    (agreement,) = sheet.agreements
    # Six trained ones; net3 (80) is measured above net5 (90), so two ranks are exchanged.
    assert agreement.correlation.count == 6
    assert agreement.correlation.rho == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert agreement.cells()[2] == "+0.94"
    text = measures.text([sheet])
    assert "control (random)" in text
    assert "[+0." in text


def test_few_checkpoints_have_no_correlation(place: Path) -> None:
    table = tables.read([place])
    (sheet,) = measures.sheets(measures.read([place])[:4], table.sections)
    assert sheet.accuracies
    assert sheet.agreements == []


def test_other_weights_under_the_same_name_get_no_accuracy(place: Path) -> None:
    lines = measures.read([place])
    entry = msgspec.structs.replace(lines[0].checkpoint, weights_sha256="9" * 64)
    (sheet,) = measures.sheets(
        [msgspec.structs.replace(lines[0], checkpoint=entry)], tables.read([place]).sections
    )
    assert sheet.accuracies == []


def test_csv_has_numbers_pairs_and_no_formulas(place: Path, make_record: Make) -> None:
    lines = measures.read([place])
    evil = msgspec.structs.replace(lines[0].checkpoint, name="=SUM(A1)")
    pair = msgspec.structs.replace(lines[1], name="cka", other=evil, value=0.25, dim=[64, 64])
    found = measures.sheets([*lines, pair], tables.read([place]).sections)
    rows = list(csv.DictReader(io.StringIO(measures.comma_separated(found))))
    assert len(rows) == 7
    assert [row["trained"] for row in rows] == ["true"] * 6 + ["false"]
    assert float(rows[3]["RankMe (500 images)"]) == pytest.approx(10.5)
    assert float(rows[3]["linear v1 top1"]) == pytest.approx(0.8)
    (column,) = [name for name in rows[0] if "CKA" in name]
    assert [row[column] for row in rows] == ["", "0.25", "", "", "", "", ""]
    named = measures.sheets([msgspec.structs.replace(lines[0], checkpoint=evil)], [])
    assert "'=SUM(A1)" in measures.comma_separated(named)


def test_the_report_shows_them_and_escapes_names(place: Path, make_record: Make) -> None:
    record = make_record(name="<script>alert(1)</script>", weights="9", value=0.3, interval=None)
    records.append(place / "records" / "eval.jsonl", record)
    measures.append(place / "measures" / "measures.jsonl", _measure(record, None, why="all alike"))
    table = tables.read([place], title="T")
    written = report.publish(table, place)
    assert place / "tables" / "measures.csv" in written
    page = (place / "report.html").read_text()
    assert 'id="labelfree"' in page
    assert "RankMe (500 images)" in page
    assert "none: all alike" in page
    assert "Spearman" in page
    assert "<script>alert(1)" not in page


def test_a_report_without_measures_says_nothing_of_them(tmp_path: Path, make_record: Make) -> None:
    records.append(tmp_path / "records" / "eval.jsonl", make_record())
    report.publish(tables.read([tmp_path]), tmp_path)
    assert "labelfree" not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "tables" / "measures.csv").exists()


def test_merging_brings_each_line_once(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("merged") / "out"
    for _ in range(2):
        history.merge([place, place], out)
    path = out / "measures" / "measures.jsonl"
    assert len(path.read_text().splitlines()) == 7
    assert measures.read([out]) == measures.read([place])


def test_a_run_without_records_has_none(tmp_path: Path, make_record: Make) -> None:
    """Stored features and measures have lines too, and are no records."""
    measures.append(tmp_path / "measures" / "measures.jsonl", _measure(make_record()))
    (tmp_path / "features" / "ab").mkdir(parents=True)
    (tmp_path / "features" / "ab" / "shards.jsonl").write_text('{"start": 0}\n')
    assert records.read([tmp_path]).records == []
