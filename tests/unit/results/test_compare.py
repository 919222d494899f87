"""Methods compared over pretraining seeds, and checkpoints over the same examples."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.cli.entry import main
from eval.errors import UserError
from eval.results import compare, figures, records, tables
from eval.results.records import Book, Record

WEIGHTS = {"mast5": "0123", "vicreg": "4567", "a": "0123", "b": "4567", "c": "89"}
OURS, THEIRS = [0.50, 0.56, 0.53, 0.60], [0.48, 0.50, 0.52, 0.55]


@pytest.fixture
def book(make_record: Callable[..., Record]) -> Book:
    """Two methods of four seeds on two tasks; on the second all values are a tenth higher."""
    made = [
        make_record(name=f"{method}-{seed}", weights=WEIGHTS[method][seed], task=task, value=value + extra)
        for task, extra in (("cifar10", 0.0), ("pets", 0.1))
        for method, values in (("mast5", OURS), ("vicreg", THEIRS))
        for seed, value in enumerate(values)
    ]
    return Book(made, [])


def test_seeds_are_paired_and_the_interval_is_students(book: Book) -> None:
    found = compare.build(book, [("mast5", "vicreg")])
    line = next(line for line in found.lines if line.task == "cifar10")
    result = line.results["mast5", "vicreg"]
    delta = np.subtract(OURS, THEIRS)
    expected = scipy.stats.t.interval(0.95, 3, delta.mean(), scipy.stats.sem(delta))
    assert result.difference == pytest.approx(delta.mean())
    assert (result.interval.low, result.interval.high) == pytest.approx(expected)


def test_a_seed_that_one_side_lacks_does_not_count(book: Book) -> None:
    book.records[:] = [record for record in book.records if record.checkpoint.name != "vicreg-3"]
    line = compare.build(book, [("mast5", "vicreg")]).lines[0]
    assert line.results["mast5", "vicreg"].difference == pytest.approx(np.mean(np.subtract(OURS, THEIRS)[:3]))


def test_the_mean_over_tasks_is_taken_within_each_seed(book: Book) -> None:
    found = compare.build(book, [("mast5", "vicreg")], groups={"both": ["cifar10", "pets"]})
    mean = next(line for line in found.lines if line.task == "both")
    assert mean.tasks == 2
    assert list(mean.values["mast5"].values()) == pytest.approx([value + 0.05 for value in OURS])
    assert "*both, 2 tasks*" in compare.markdown(found)


def test_evaluation_seeds_are_averaged_and_data_are_never_mixed(
    book: Book, make_record: Callable[..., Record]
) -> None:
    again = make_record(name="mast5-0", weights=WEIGHTS["mast5"][0], value=0.7, seed=1)
    other = make_record(name="mast5-0", weights=WEIGHTS["mast5"][0], value=0.9, manifest="e" * 64)
    book.records += [again, other]
    lines = [line for line in compare.build(book, [("mast5", "vicreg")]).lines if line.task == "cifar10"]
    (line,) = lines  # on the other data there is nothing to pair with
    assert line.values["mast5"]["0"] == pytest.approx((OURS[0] + 0.7) / 2)


def test_bold_says_that_an_interval_excludes_zero(make_record: Callable[..., Record]) -> None:
    made = [
        make_record(
            name=f"{method}-{seed}",
            weights=WEIGHTS[method][seed],
            value=0.5 + gain * (0.1 + seed * 0.001) + seed * 0.01,
        )
        for method, gain in (("a", 1), ("b", 0))
        for seed in range(3)
    ]
    text = compare.markdown(compare.build(Book(made, []), [("a", "b"), ("b", "b")]))
    assert "**+10.1 [+9.9, +10.3]** | +0.0 (no interval: all 3 differences are the same) |" in text
    assert "1 of 2 intervals" in text


def test_two_checkpoints_are_paired_over_the_examples(
    make_record: Callable[..., Record], tmp_path: Path
) -> None:
    right = {"a": [1, 1, 1, 0], "b": [1, 0, 0, 0]}
    for name, correct in right.items():
        kept = records.write_arrays(tmp_path, correct=np.array(correct, dtype=bool))
        record = make_record(name=name, weights=name, value=float(np.mean(correct)), outcomes=kept)
        records.append(tmp_path / "records" / "x.jsonl", record)
    found = compare.build(records.read([tmp_path]), [("a", "b")])
    assert found.units["a", "b"] == "test examples or episodes"
    result = found.lines[0].results["a", "b"]
    assert (result.difference, result.wins, result.losses) == (0.5, 2, 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6),
)
def test_bold_and_p_always_decide_alike(
    make_record: Callable[..., Record], outcomes: list[tuple[bool, bool]], seeds: list[tuple[int, int]]
) -> None:
    """Paired right and wrong answers with ties, and few pretraining seeds whose values are often the same."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for which in (0, 1):
            right = np.array([pair[which] for pair in outcomes])
            kept = records.write_arrays(folder, correct=right)
            made = make_record(
                name="ab"[which], weights="ab"[which], value=float(right.mean()), outcomes=kept
            )
            records.append(folder / "records" / "x.jsonl", made)
        examples = compare.build(records.read([folder]), [("a", "b")])
    made_seeds = [
        make_record(name=f"{'cd'[which]}-{seed}", weights=f"{which}{seed}", value=pair[which] / 10)
        for seed, pair in enumerate(seeds)
        for which in (0, 1)
    ]
    for found in (examples, compare.build(Book(made_seeds, []), [("c", "d")])):
        (row,) = csv.DictReader(io.StringIO(compare.as_csv(found)))
        bold = "**" in compare.markdown(found).split("|--")[-1]
        assert bold == (row["p"] != "" and float(row["p"]) < 0.05) or abs(float(row["p"]) - 0.05) < 2e-6
        if row["low"]:
            assert bold == (float(row["low"]) > 0 or float(row["high"]) < 0) or 0.0 in map(
                float, (row["low"], row["high"])
            )


def test_unknown_names_are_told(book: Book) -> None:
    with pytest.raises(UserError, match="mast6"):
        compare.build(book, [("mast6", "vicreg")])
    with pytest.raises(UserError, match="cifar11"):
        compare.build(book, [("mast5", "vicreg")], groups={"x": ["cifar11"]})
    with pytest.raises(UserError, match="NAME=TASK"):
        compare.parse_groups(["x"])


def test_csv_has_a_line_a_pair_and_the_figure_a_panel_a_protocol(book: Book) -> None:
    found = compare.build(book, [("mast5", "vicreg"), ("vicreg", "mast5")])
    assert compare.as_csv(found).count("\n") == 1 + 2 * 3
    assert len(figures.paired_differences(found).axes) == 1


def prepared(record: Record, params: dict[str, object] | None = None, **how: object) -> Record:
    """The record of the same checkpoint with another preprocessing, its run id with it."""
    checkpoint = msgspec.structs.replace(record.checkpoint, preprocessing=how)
    protocol = msgspec.structs.replace(record.protocol, params=params or record.protocol.params)
    key = records.run_id(checkpoint, record.task, protocol, record.data.manifest, record.seed)
    return msgspec.structs.replace(record, checkpoint=checkpoint, protocol=protocol, run_id=key)


def test_what_cannot_pair_and_a_metric_that_is_not_there_are_told(
    tmp_path: Path, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        record = make_record(name=name, weights=name, task="voc", metric="box_ap50", beside={"box_ap": 0.2})
        records.append(tmp_path / "records" / "x.jsonl", record)
    command = ["compare", str(tmp_path), "--pair", "a", "b"]
    assert main(command) == 1
    assert "nothing pairs: voc box_ap50: " in capsys.readouterr().err
    assert main([*command, "--metric", "box_ap"]) == 1
    assert "nothing pairs: voc box_ap: " in capsys.readouterr().err
    assert main([*command, "--metric", "bxo_ap"]) == 2
    assert "unknown metric 'bxo_ap' (did you mean box_ap" in capsys.readouterr().err
    (tmp_path / "records" / "x.jsonl").write_text("")
    assert main(command) == 1
    assert "no records in" in capsys.readouterr().err


def test_images_prepared_differently_are_told(make_record: Callable[..., Record]) -> None:
    made = [
        prepared(
            make_record(name=f"{method}-{seed}", weights=WEIGHTS[method][seed], value=0.5 + seed / 10), **how
        )
        for method, how in (
            ("a", {"input_size": 224, "interpolation": "bicubic"}),
            ("b", {"input_size": 32, "interpolation": "bicubic"}),
            ("c", {"input_size": 32, "interpolation": "bicubic"}),
        )
        for seed in range(2)
    ]
    found = compare.build(Book(made, []), [("a", "b"), ("b", "c")])
    assert found.notes == [
        "a and b saw images prepared differently (input size: 224 px against 32 px); part of their difference may "
        "come from that."
    ]
    assert found.notes[0] in compare.markdown(found)
    rows = [row.label for row in tables.build(Book(made, [])).sections[0].rows]
    assert rows == [
        "a-0 (224 px)",
        "a-1 (224 px)",
        "b-0 (32 px)",
        "b-1 (32 px)",
        "c-0 (32 px)",
        "c-1 (32 px)",
    ]
    same = [record for record in made if not record.checkpoint.name.startswith("a")]
    assert [row.label for row in tables.build(Book(same, [])).sections[0].rows] == [
        "b-0",
        "b-1",
        "c-0",
        "c-1",
    ]


def test_a_protocol_that_fixes_the_size_makes_it_equal(make_record: Callable[..., Record]) -> None:
    made = [
        prepared(
            make_record(name=f"{name}-{seed}", weights=WEIGHTS[name][seed], value=0.5 + seed / 10),
            {"extraction": {"image_size": 64}},
            input_size=side,
        )
        for name, side in (("a", 32), ("b", 224))
        for seed in range(2)
    ]
    found = compare.build(Book(made, []), [("a", "b")])
    assert found.lines
    assert found.notes == []
