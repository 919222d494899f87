"""Records: what is written comes back, what is torn is told, what is wrong is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from eval.errors import UserError
from eval.results import records
from eval.results.records import Record

Make = Callable[..., Record]


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, make_record: Make) -> None:
    record = make_record(value=1 / 3, interval=(0.1, 0.9), certificate={"gradient": 1e-7})
    records.append(tmp_path / "a.jsonl", record)
    book = records.read([tmp_path])
    assert book.records == [record]
    assert not book.problems


def test_run_id_covers_what_decides_the_numbers_and_nothing_else(make_record: Make) -> None:
    base = make_record()
    for change in (
        {"weights": "b"},
        {"manifest": "e" * 64},
        {"task": "stl10"},
        {"protocol": "knn"},
        {"version": 2},
        {"overrides": {"epochs": 2}},
        {"seed": 1},
    ):
        assert make_record(**change).run_id != base.run_id, change
    # The name of the file, the time, the hardware and an override that changes nothing are no part of it.
    for change in ({"name": "other"}, {"seconds": 9.0}, {"started": "2027-01-01T00:00:00+00:00"}):
        assert make_record(**change).run_id == base.run_id, change
    assert make_record(overrides={"epochs": 1}).run_id == base.run_id


def test_preprocessing_is_part_of_the_weights_identity(make_record: Make) -> None:
    record = make_record()
    other = msgspec.structs.replace(record.checkpoint, preprocessing={"input_size": 96})
    assert records.run_id(other, record.task, record.protocol, record.data.manifest, 0) != record.run_id


def test_the_latest_completed_line_counts_and_all_are_kept(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, make_record(status="failed", started="2026-01-01T00:00:00+00:00"))
    records.append(path, make_record(value=0.4, interval=None, started="2026-01-02T00:00:00+00:00"))
    records.append(path, make_record(value=0.6, interval=None, started="2026-01-03T00:00:00+00:00"))
    records.append(path, make_record(status="failed", started="2026-01-04T00:00:00+00:00"))
    book = records.read([path])
    assert len(book.records) == 4
    assert [record.metrics["top1"].value for record in book.counting()] == [0.6]
    assert book.failures() == []  # answered by a completed record


def test_an_unanswered_failure_is_told_once(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, make_record(status="failed"))
    records.append(path, make_record(status="failed"))
    book = records.read([path])
    assert book.counting() == []
    assert len(book.failures()) == 1


def test_a_failure_is_answered_by_what_was_asked_for_alike(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, make_record(status="failed", weights="b"))
    records.append(path, make_record(status="failed", overrides={"k": 0}))
    records.append(path, make_record(version=2))  # the same cell, after its protocol was mended
    (left,) = records.read([path]).failures()
    assert left.protocol.overrides == {"k": 0}


def test_a_torn_last_line_is_told_and_the_next_record_stands_alone(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, make_record())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])  # what a kill in the middle of a write leaves
    book = records.read([path])
    assert len(book.records) == 1
    assert len(book.problems) == 1
    assert f"{path}:2" in book.problems[0]
    records.append(path, make_record(seed=1))
    assert [record.seed for record in records.read([path]).records] == [0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 99}, "schema 99"),
        ({"extra": 1}, "extra"),
        ({"seed": -1}, "seed"),
        ({"seed": "0"}, "seed"),
        ({"run_id": "0" * 64}, "run_id"),
        ({"status": "done"}, "status"),
        ({"metrics": {}}, "top1"),
        ({"metrics": {"top1": {"value": 61.2}}}, "metrics.top1.value"),
        ({"metrics": {"top1": {"value": 0.6, "low": 0.5}}}, "go together"),
        ({"error": {"type": "E", "message": "m"}}, "no 'error'"),
    ],
)
def test_a_wrong_line_is_refused_with_file_line_and_key(
    tmp_path: Path, make_record: Make, change: dict[str, object], told: str
) -> None:
    path = tmp_path / "a.jsonl"
    records.append(path, make_record())
    value = json.loads(path.read_text()) | change
    path.write_text(path.read_text() + json.dumps(value) + "\n")
    with pytest.raises(UserError, match="jsonl:2") as caught:
        records.read([path])
    assert told in str(caught.value)


def test_nothing_invalid_is_ever_written(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(ValueError, match="finite"):
        records.append(path, make_record(value=float("nan")))
    assert not path.exists()


def test_two_processes_append_whole_lines(tmp_path: Path, make_record: Make) -> None:
    path, line = tmp_path / "a.jsonl", tmp_path / "one.jsonl"
    records.append(line, make_record())
    code = (
        "import sys; from pathlib import Path; from eval.results import records\n"
        "record = records.read([Path(sys.argv[1])]).records[0]\n"
        "for _ in range(25): records.append(Path(sys.argv[2]), record)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(line), str(path)]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    book = records.read([path])
    assert len(book.records) == 50
    assert book.problems == []


def test_outcomes_are_named_by_content_and_checked(tmp_path: Path, make_record: Make) -> None:
    correct = np.array([True, False, True])
    kept = records.write_arrays(tmp_path, correct=correct)
    assert records.write_arrays(tmp_path, correct=correct) == kept
    record = make_record(outcomes=kept)
    path = tmp_path / "records" / "suite" / "a.jsonl"
    records.append(path, record)
    book = records.read([tmp_path])
    np.testing.assert_array_equal(book.outcomes(record)["correct"], correct)
    (tmp_path / kept.path).write_bytes(b"altered")
    with pytest.raises(UserError, match="altered"):
        book.outcomes(record)
    (tmp_path / kept.path).unlink()
    with pytest.raises(UserError, match="missing"):
        book.outcomes(record)


def test_outcomes_that_are_no_arrays(tmp_path: Path, make_record: Make) -> None:
    detections = [{"image_id": 3, "detections": [{"box": [0.0, 1.0, 2.0, 3.0], "score": 0.5}]}]
    kept = records.write_json(tmp_path, detections)
    assert records.write_json(tmp_path, detections).sha256 == kept.sha256
    assert records.read_outcomes(tmp_path / kept.path, kept.sha256) == detections


def test_a_folder_that_does_not_exist_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere") as caught:
        records.read([tmp_path / "nowhere"])
    assert caught.value.code == 2
