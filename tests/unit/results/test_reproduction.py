"""Measured beside published: when a number counts as reproduced, and what is said when it does not."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.errors import UserError
from eval.results import published, reproduction
from eval.results.published import Published
from eval.results.records import Book, Record
from eval.results.reproduction import Asked, Need, Reproduction

Make = Callable[..., Record]
HEAD = "method,backbone,task,metric,value,source,same_as,cite,tolerance,data\n"


def quoted(
    tmp_path: Path, value: str, tolerance: str = "", data: str = "", version: int = 1
) -> list[Published]:
    path = tmp_path / "paper.csv"
    line = f"vicreg,resnet50,linear,top1,{value},Table 1,cifar10 linear v{version} top1,,{tolerance},{data}\n"
    path.write_text(HEAD + line)
    return published.read([path])


def asked(record: Record, *seeds: int, **more: Any) -> Asked:
    about = {"checkpoint": "vicreg", "published": "vicreg resnet50", "task": record.task}
    return Asked(**{**about, "protocol": record.protocol, "seeds": seeds or (0,), **more})


def verdict(record: Record, numbers: list[Published], **more: Any) -> str:
    (line,) = reproduction.compare("t", [asked(record, **more)], Book([record]), numbers).lines
    return line.verdict


@pytest.mark.parametrize(
    ("value", "tolerance", "expected"),
    [
        ("50.5", "0.5", "reproduced"),  # exactly as far as is allowed
        ("50.6", "0.5", "differs"),
        ("54.9", "", "reproduced"),  # in the interval [45, 55]
        ("55.04", "", "differs"),
        ("55.0", "", "reproduced"),
        ("55", "", "reproduced"),
        ("56", "", "differs"),
        ("44.6", "", "differs"),
        ("45", "", "reproduced"),
    ],
)
def test_the_tolerance_is_the_stated_one_or_our_own_interval(
    tmp_path: Path, make_record: Make, value: str, tolerance: str, expected: str
) -> None:
    assert verdict(make_record(value=0.5), quoted(tmp_path, value, tolerance)) == expected


def test_a_rounded_number_may_lie_half_a_digit_outside_the_interval(
    tmp_path: Path, make_record: Make
) -> None:
    record = make_record(value=0.5, interval=(0.45, 0.5496))
    assert verdict(record, quoted(tmp_path, "55.0")) == "reproduced"  # may have been 54.95
    assert verdict(record, quoted(tmp_path, "55.00")) == "differs"  # was at least 54.995


def test_without_tolerance_and_interval_nothing_is_decided(tmp_path: Path, make_record: Make) -> None:
    found = reproduction.compare(
        "t", [asked(r := make_record(interval=None))], Book([r]), quoted(tmp_path, "50")
    )
    assert found.lines[0].verdict == "undecided"
    assert found.code == 3


@pytest.mark.parametrize(
    ("record", "delta"),
    [
        ({"version": 2}, "version 2, published with 1"),
        ({"overrides": {"k": [5]}}, "k=[5]"),
        ({"manifest": "e" * 64}, "data eeeeeeee, published with dddddddd"),
    ],
)
def test_another_protocol_differs_however_near_its_number_is(
    tmp_path: Path, make_record: Make, record: dict[str, Any], delta: str
) -> None:
    made = make_record(value=0.5, **record)
    found = reproduction.compare("t", [asked(made)], Book([made]), quoted(tmp_path, "50", "5", "dddddddd"))
    (line,) = found.lines
    assert (line.verdict, line.difference, line.delta) == ("differs", 0.0, [delta])
    assert found.code == 1
    assert delta in reproduction.text(found)


def test_other_sizes_count_unless_the_number_names_its_data(tmp_path: Path, make_record: Make) -> None:
    delta = ("cifar10 test: 1,000 images, officially 10,000",)
    assert verdict(make_record(), quoted(tmp_path, "50"), delta=delta) == "differs"
    assert verdict(make_record(), quoted(tmp_path, "50", data="d" * 12), delta=delta) == "reproduced"


def test_a_number_is_about_one_method_one_backbone_and_one_column(tmp_path: Path, make_record: Make) -> None:
    record = make_record()
    for about in ({"published": "vicreg resnet50w2"}, {"published": ""}):
        assert verdict(record, quoted(tmp_path, "50"), **about) == "no number"
    assert verdict(make_record(task="cifar100"), quoted(tmp_path, "50")) == "no number"
    assert verdict(make_record(protocol="knn"), quoted(tmp_path, "50")) == "no number"


def test_seeds_are_averaged_and_none_may_be_missing(tmp_path: Path, make_record: Make) -> None:
    records = [make_record(value=value, seed=seed) for seed, value in enumerate((0.40, 0.50, 0.60))]
    cell, numbers = asked(records[0], 0, 1, 2), quoted(tmp_path, "51", "2")
    (line,) = reproduction.compare("t", [cell], Book(records), numbers).lines
    assert line.measured == pytest.approx(0.5)
    assert line.verdict == "reproduced"
    assert line.low is not None
    assert line.low == pytest.approx(
        0.5 - 4.302653 * 0.1 / 3**0.5, abs=1e-6
    )  # Student, two degrees of freedom
    (line,) = reproduction.compare("t", [cell], Book(records[:2]), numbers).lines
    assert (line.verdict, line.why) == ("not run", "2 of 3 seeds measured; not asked for")


def test_the_latest_record_of_a_seed_counts(tmp_path: Path, make_record: Make) -> None:
    old = make_record(value=0.2, started="2026-01-01T00:00:00+00:00")
    new = make_record(value=0.5, manifest="e" * 64, started="2026-02-01T00:00:00+00:00")
    (line,) = reproduction.compare("t", [asked(old)], Book([new, old]), quoted(tmp_path, "50", "1")).lines
    assert line.measured == 0.5


def test_what_was_not_run_and_what_failed_say_why(tmp_path: Path, make_record: Make) -> None:
    need = Need("data cifar10", "no such folder", "cs.toronto.edu", "free")
    fetched = Need("weights vicreg", "not at hand", "fetched when needed from x", "licence MIT", blocks=False)
    record, numbers = make_record(status="failed"), quoted(tmp_path, "50")
    (line,) = reproduction.compare("t", [asked(record, needs=(need, fetched))], Book([]), numbers).lines
    assert (line.verdict, line.why, line.published) == ("not run", "missing: data cifar10", 0.5)
    (line,) = reproduction.compare("t", [asked(record, needs=(fetched,))], Book([record]), numbers).lines
    assert (line.verdict, line.why) == ("failed", "it broke")


def test_the_exit_code_says_the_worst(make_record: Make) -> None:
    def code(*verdicts: str) -> int:
        lines = [reproduction.Line("a", "b", "c", "d", verdict) for verdict in verdicts]  # type: ignore[arg-type]
        return Reproduction("t", lines, [], []).code

    assert code("reproduced", "no number") == 0
    assert code("reproduced", "not run") == 3
    assert code("undecided") == 3
    assert code("not run", "differs") == 1
    assert code("not run", "failed") == 1


def whole(tmp_path: Path, make_record: Make, name: str = "vicreg") -> Reproduction:
    good, other = make_record(name=name), make_record(name=name, overrides={"k": [5]})
    need = Need("data imagenet", "not there", "image-net.org", "an account")
    cells = [
        asked(good, checkpoint=name),
        asked(other, checkpoint=name),
        asked(good, checkpoint="else", needs=(need,)),
    ]
    return reproduction.compare(
        "A <title>", cells, Book([good, other]), quoted(tmp_path, "50.1"), absent=["Table 9"]
    )


def test_what_is_written_is_read_again(tmp_path: Path, make_record: Make) -> None:
    found = whole(tmp_path, make_record)
    files = reproduction.write(found, tmp_path)
    assert [file.suffix for file in files] == [".md", ".csv", ".json"]
    assert reproduction.read(tmp_path) == found
    assert json.loads(files[2].read_text())["counts"]["reproduced"] == 1
    rows = list(csv.DictReader(io.StringIO(files[1].read_text())))
    assert [row["verdict"] for row in rows] == ["reproduced", "differs", "not run"]
    assert rows[0]["difference"] == "-0.1000"
    files[2].write_text("{}")
    with pytest.raises(UserError, match="not what `mast reproduce` writes"):
        reproduction.read(tmp_path)
    files[2].unlink()
    assert reproduction.read(tmp_path) is None


def test_every_form_shows_verdicts_needs_and_what_is_absent(tmp_path: Path, make_record: Make) -> None:
    found = whole(tmp_path, make_record)
    for form in (reproduction.text(found), reproduction.markdown(found), str(reproduction.section(found))):
        for word in ("reproduced", "differs", "not run", "image-net.org", "an account", "Table 9"):
            assert word in form


def test_names_do_no_harm(tmp_path: Path, make_record: Make) -> None:
    found = whole(tmp_path, make_record, name="=cmd|'<b>x")
    assert "<b>" not in str(reproduction.section(found))
    assert "<b>" not in reproduction.markdown(found)
    assert "\n=cmd" not in reproduction.comma_separated(found)


def test_published_choices_stand_beside_ours(tmp_path: Path, make_record: Make) -> None:
    path = tmp_path / "chosen.csv"
    head = "method,backbone,same_as,parameter,value,source\n"
    path.write_text(f"{head}vicreg,resnet50,cifar10 linear v1,C,0.316227,run.sh:1\n")
    record = make_record(selected={"C": 1.0})
    choices = published.read_chosen([path])
    (line,) = reproduction.compare(
        "t", [asked(record)], Book([record]), quoted(tmp_path, "50"), choices
    ).lines
    assert line.chosen == "C 1, published 0.3162"
    path.write_text(f"{head}vicreg,resnet50,cifar10 linear,C,0.316227,run.sh:1\n")
    with pytest.raises(UserError, match=r"chosen.csv:2: same_as"):
        published.read_chosen([path])


@pytest.mark.parametrize(
    ("tolerance", "data", "told"),
    [
        ("0", "", "tolerance '0'"),
        ("x", "", "tolerance 'x'"),
        ("nan", "", "tolerance"),
        ("", "xyz", "data 'xyz'"),
    ],
)
def test_tolerance_and_data_are_checked(tmp_path: Path, tolerance: str, data: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        quoted(tmp_path, "50", tolerance, data)
