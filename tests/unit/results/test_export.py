"""Exports: every record is one row, types hold, names do nothing, and the Hub's own library reads the cards."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from eval.cli import entry as cli
from eval.errors import UserError
from eval.results import export, records, tables
from eval.results.records import Record

Make = Callable[..., Record]
DOCS = Path(__file__).parents[3] / "docs" / "export.md"


@pytest.fixture
def place(tmp_path: Path, make_record: Make) -> Path:
    path = tmp_path / "run" / "records" / "eval.jsonl"
    for record in (
        make_record(value=0.5, beside={"top5": 0.75}),
        make_record(value=0.625, started="2026-02-01T00:00:00+00:00", overrides={"k": [5]}),
        make_record(value=0.5625, started="2026-03-01T00:00:00+00:00"),
        make_record(name="random", weights="0", trained=False, status="failed"),
        make_record(name="=1+1", weights="b", task="=cmd|x", value=0.25, interval=None),
    ):
        records.append(path, record)
    return tmp_path / "run"


def _rows(place: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(export.comma_separated(records.read([place])))))


def test_every_record_is_a_row_and_says_whether_it_counts(place: Path) -> None:
    rows = _rows(place)
    book = records.read([place])
    assert [row["run_id"] for row in rows] == [record.run_id for record in book.records]
    assert [row["counts"] for row in rows] == ["false", "true", "true", "false", "true"]
    assert [row["value"] for row in rows] == ["0.5", "0.625", "0.5625", "", "0.25"]
    assert rows[0]["metric_top5"] == "0.75"
    assert rows[1]["metric_top5"] == ""
    assert (rows[0]["low"], rows[0]["interval"], rows[0]["level"]) == ("0.45", "wilson", "0.95")
    assert (rows[0]["metric_top1_high"], rows[4]["metric_top1_high"]) == ("0.55", "")
    assert json.loads(rows[1]["overrides"]) == {"k": [5]}
    assert rows[3]["error_type"] == "ValueError"
    assert (rows[3]["trained"], rows[3]["status"]) == ("false", "failed")


def test_a_spreadsheet_computes_nothing(place: Path) -> None:
    row = _rows(place)[4]
    assert (row["checkpoint"], row["task"]) == ("'=1+1", "'=cmd|x")
    for line in csv.reader(io.StringIO(export.comma_separated(records.read([place])))):
        assert not any(re.match(r"[=+@]|-\D", value) for value in line)


def test_the_documentation_lists_every_column_with_its_kind() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## Model cards")[0]
    named = dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", text, flags=re.MULTILINE))
    fixed = {field.name: field.kind for field in export.FIELDS} | {"counts": export.TRUTH}
    assert named == fixed


def test_parquet_keeps_types_and_names(place: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'parquet' is not installed")
    book, path = records.read([place]), tmp_path / "all.parquet"
    export.parquet(book, path)
    table = parquet.read_table(path)
    assert table.schema.metadata[b"mast-record-schema"] == b"1"
    types = {field.name: str(field.type) for field in table.schema}
    expected = {
        "text": "string",
        "JSON": "string",
        "whole number": "int64",
        "number": "double",
        "true or false": "bool",
    }
    assert types == {name: expected[kind] for name, kind in export.columns(book).items()}
    rows = table.to_pylist()
    assert rows[4]["checkpoint"] == "=1+1"  # a database computes nothing
    assert [row["value"] for row in rows] == [0.5, 0.625, 0.5625, None, 0.25]
    assert [row["seed"] for row in rows] == [0] * 5
    assert rows == [{name: row.get(name) for name in types} for row in export.rows(book)]


def test_parquet_without_its_library_is_one_error_before_any_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(records, "read", lambda *_: pytest.fail("read before"))
    assert cli.main(["export", "parquet", str(place), "--out", str(tmp_path / "a.parquet")]) == 2
    said = capsys.readouterr().err
    assert "mast-transfer[parquet]" in said
    assert len(said.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------- hub


def _card(text: str) -> tuple[ModelCard, Any]:
    card = ModelCard(text)
    assert card.data.eval_results is not None, "the Hub's library finds no results"
    return card, card.data.eval_results


def test_the_hubs_library_reads_the_results(place: Path) -> None:
    table = tables.read([place])
    cards = export.cards(table, ["vicreg"])
    assert list(cards) == ["vicreg.md"]
    card, results = _card(cards["vicreg.md"])
    assert card.data.model_name == "vicreg"
    assert [result.metric_value for result in results] == [0.5625, 0.625]
    first = results[0]
    assert (first.task_type, first.metric_type) == ("image-classification", "accuracy")
    assert (first.dataset_name, first.dataset_split) == ("cifar10", "test")
    assert first.dataset_args["manifest"] == "d" * 64
    assert first.metric_args["interval"] == [0.45, 0.55]
    assert results[1].metric_name == "top1, linear v1 (k=[5])"
    # Read, written and read again by the Hub's library, nothing is lost.
    again = ModelCard(str(card))
    assert again.data.eval_results == results
    body = cards["vicreg.md"].split("---\n", 2)[2]
    assert "| cifar10 | linear v1 | top1 | 56.2 | [45.0, 55.0] (wilson) | 1 |" in body
    assert f"`{'a' * 64}`" in body
    assert f"`{'d' * 64}`" in body


def test_names_do_nothing_in_a_card(tmp_path: Path, make_record: Make) -> None:
    evil = '--- "x": {a\n| <img src=x onerror=alert(1)> [b](http://c) `d`'
    path = tmp_path / "records" / "eval.jsonl"
    records.append(path, make_record(name=evil, task="../../{{t}}: |", value=0.5))
    records.append(path, make_record(name="../..", weights="b", value=0.5))
    cards = export.cards(tables.read([tmp_path]))
    assert len(cards) == 2
    assert all("/" not in name and not name.startswith(".") for name in cards)
    texts = list(cards.values())
    card, results = _card(next(text for text in texts if "onerror" in text))
    assert card.data.model_name.split() == evil.split()
    assert results[0].dataset_name == "../../{{t}}: |"
    body = card.text
    assert "<img" not in body
    assert "](http" not in body
    rows = [line for line in body.splitlines() if line.startswith("| ") and "linear" in line]
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 7


def test_names_that_make_the_same_file_do_not_overwrite_each_other(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "records" / "eval.jsonl"
    for number, name in enumerate(("a b", "a/b", "a-b")):
        records.append(path, make_record(name=name, weights="abc"[number]))
    assert len(export.cards(tables.read([tmp_path]))) == 3


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("box_ap", "object-detection"),
        ("mask_ap", "image-segmentation"),
        ("miou", "image-segmentation"),
        ("delta1", "depth-estimation"),
        ("map11", "image-classification"),
    ],
)
def test_kinds_of_tasks(tmp_path: Path, make_record: Make, metric: str, kind: str) -> None:
    records.append(tmp_path / "records" / "eval.jsonl", make_record(metric=metric))
    (text,) = export.cards(tables.read([tmp_path])).values()
    _, results = _card(text)
    assert [result.task_type for result in results] == [kind]


def test_seeds_are_one_result_with_all_their_runs(tmp_path: Path, make_record: Make) -> None:
    for seed, value in enumerate((0.5, 0.7)):
        records.append(tmp_path / "records" / "eval.jsonl", make_record(seed=seed, value=value))
    (text,) = export.cards(tables.read([tmp_path])).values()
    _, (result,) = _card(text)
    assert result.metric_value == pytest.approx(0.6)
    assert result.metric_args["seeds"] == [0, 1]
    assert len(result.metric_args["run_ids"]) == 2


# ------------------------------------------------------------------------------------------------- command line


def test_the_command_writes_what_it_says(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "csv", str(place)]) == 0
    assert capsys.readouterr().out == export.comma_separated(records.read([place]))
    assert cli.main(["export", "csv", str(place), "--out", str(tmp_path / "a.csv")]) == 0
    assert (tmp_path / "a.csv").read_text() == export.comma_separated(records.read([place]))
    assert cli.main(["export", "hub", str(place), "--out", str(tmp_path / "cards")]) == 0
    assert sorted(path.name for path in (tmp_path / "cards").iterdir()) == ["1-1.md", "vicreg.md"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["csv"], "no folder"),
        (["hub", "PLACE"], "needs --out"),
        (["parquet", "PLACE"], "needs --out"),
        (["csv", "PLACE", "--checkpoint", "vicreg"], "for mast export hub"),
        (["hub", "PLACE", "--out", "OUT", "--checkpoint", "vicregg"], "vicreg"),
        (["cvs", "PLACE"], "csv"),
    ],
)
def test_wrong_use(
    place: Path, tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [{"PLACE": str(place), "OUT": str(tmp_path / "cards")}.get(word, word) for word in arguments]
    assert cli.main(["export", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_nothing_measured_is_an_error(tmp_path: Path, make_record: Make) -> None:
    records.append(tmp_path / "records" / "eval.jsonl", make_record(status="failed"))
    with pytest.raises(UserError, match="no completed record"):
        export.cards(tables.read([tmp_path]))
