"""Tables: what shares a column, what has a mean, and that equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scipy.stats

from eval import protocols, tasks
from eval.cli.entry import main
from eval.errors import UserError
from eval.numbers import tests
from eval.results import published, records, render, tables
from eval.results.records import Book, Record

Make = Callable[..., Record]
HEAD = "method,backbone,task,metric,value,source,same_as\n"


def test_a_cell_carries_its_interval(make_record: Make) -> None:
    table = tables.build(Book([make_record(value=0.623, interval=(0.601, 0.644))]))
    assert "| vicreg | 62.3 [60.1, 64.4] |" in render.render(table, "md")
    assert "Intervals: 95 % wilson." in render.render(table, "md")


def test_a_row_with_a_missing_cell_has_a_dash_no_mean_and_no_rank(make_record: Make) -> None:
    book = Book(
        [
            make_record(name="a", weights="a", task="one", value=0.9, interval=None),
            make_record(name="b", weights="b", task="one", value=0.5, interval=None),
            make_record(name="b", weights="b", task="two", value=0.7, interval=None),
            make_record(name="c", weights="c", task="one", value=0.6, interval=None),
            make_record(name="c", weights="c", task="two", value=0.8, interval=None),
        ]
    )
    text = render.render(tables.build(book), "md")
    assert "| a | 90.0 | – | – | – |" in text  # the easier task alone gives it no mean
    # Values without an interval tell nothing apart.
    assert "| b | 50.0 | 70.0 | 60.0 | 2.0 [1.0, 2.0] |" in text
    assert "| c | 60.0 | 80.0 | 70.0 | 1.0 [1.0, 2.0] |" in text


def test_protocol_versions_overrides_and_data_never_share_a_column(make_record: Make) -> None:
    first = make_record(value=0.5)
    for change in ({"version": 2}, {"overrides": {"epochs": 5}}, {"protocol": "knn"}):
        table = tables.build(Book([first, make_record(value=0.6, **change)]))
        assert len(table.sections) == 2, change
    (section,) = tables.build(Book([first, make_record(value=0.6, manifest="e" * 64)])).sections
    assert [column.label for column in section.columns] == [
        "cifar10 top1 (task v1, data dddddddd)",
        "cifar10 top1 (task v1, data eeeeeeee)",
    ]
    assert len(section.rows) == 1


def test_seeds_become_a_mean_with_an_interval_over_seeds(make_record: Make) -> None:
    values = [0.50, 0.52, 0.57]
    (section,) = tables.build(Book([make_record(value=v, seed=s) for s, v in enumerate(values)])).sections
    (cell,) = section.cells.values()
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert cell.value == pytest.approx(0.53)
    assert cell.over_seeds is not None
    assert (cell.over_seeds.low, cell.over_seeds.high) == pytest.approx((low, high))
    # What the examples leave open is not dropped for it.
    assert (cell.low, cell.high, cell.interval, cell.seeds) == (0.45, 0.55, "wilson", 3)
    table = tables.build(Book([make_record(value=v, seed=s) for s, v in enumerate(values)]))
    assert "| vicreg | 53.0 [45.0, 55.0] seeds [44.0, 62.0] n=3 |" in render.render(table, "md")


def test_seeds_of_a_deterministic_protocol_are_one_result(tmp_path: Path, make_record: Make) -> None:
    """Three seeds of one closed-form probe have the interval of one, and the width of three is not zero."""
    for name, right in (("a", 76), ("b", 80)):
        kept = records.write_arrays(tmp_path, correct=np.arange(100) < right)
        for seed in range(3):
            record = make_record(
                name=name, weights=name, value=right / 100, seed=seed, interval=(0.66, 0.87), outcomes=kept
            )
            records.append(tmp_path / "records" / "x.jsonl", record)
    table = tables.read([tmp_path])
    text = render.render(table, "md")
    assert "| a | 76.0 [66.0, 87.0] |" in text
    assert "seeds [" not in text
    section = table.sections[0]
    found = table.standings.of(section, section.columns[0])
    assert found.unit == "100 test examples"
    assert found.adjusted[0, 1] == pytest.approx(tests.proportions(0, 4, 100).p_value)


def test_one_name_with_two_weights_is_two_rows(make_record: Make) -> None:
    (section,) = tables.build(Book([make_record(weights="a"), make_record(weights="b")])).sections
    assert [row.label for row in section.rows] == ["vicreg aaaaaaaa", "vicreg bbbbbbbb"]


def test_detection_shows_its_metrics_but_averages_the_headline_only(make_record: Make) -> None:
    beside = {"box_ap": 0.2, "box_ap75": 0.1, "box_ap_small": 0.05}
    record = make_record(task="voc", metric="box_ap50", value=0.4, interval=None, beside=beside)
    (section,) = tables.build(Book([record])).sections
    assert [column.label for column in section.columns] == ["voc box_ap50", "voc box_ap", "voc box_ap75"]
    assert len(section.headline) == 1
    table = tables.build(Book([record]))
    assert table.standings.summary(table.sections[0]) == {}


def test_failures_are_told_under_the_table(make_record: Make) -> None:
    failed = make_record(name="b", weights="b", status="failed", overrides={"k": 0})
    table = tables.build(Book([make_record(name="a"), failed]))
    for form in ("md", "text", "tex", "html"):
        assert "b, cifar10, linear v1 (k=0), seed 0: ValueError: it broke" in render.render(table, form)


def test_seeds_that_count_once_are_told(tmp_path: Path, make_record: Make) -> None:
    kept = {task: records.write_arrays(tmp_path, correct=np.arange(10) < 5) for task in ("one", "two")}
    made = [make_record(task=task, seed=seed, outcomes=kept[task]) for task in kept for seed in (0, 1)]
    for form in ("md", "text", "tex", "html"):
        assert "Seeds with the same outcomes are one result." in render.render(tables.build(Book(made)), form)
        text = render.render(tables.build(Book(made[:-1])), form)
        assert "Seeds with the same outcomes are one result (one top1)." in text
        assert "Seeds with" not in render.render(tables.build(Book(made[::2])), form)


def test_cells_that_failed_alike_share_a_line(make_record: Make) -> None:
    cells = [(task, seed) for task in ("one", "two") for seed in (0, 1)]
    made = [
        make_record(name="b", weights="b", task=task, seed=seed, status="failed", protocol=protocol)
        for protocol in ("linear", "knn")
        for task, seed in cells
    ]
    (line,) = tables.build(Book(made)).failures
    assert line == "b, one, two; knn v1, linear v1; seeds 0, 1: ValueError: it broke"
    (line,) = tables.build(Book(made[:-1])).failures
    assert line == "b, one, two; knn v1, linear v1; seeds 0, 1; 7 cells of these: ValueError: it broke"


def test_published_numbers_share_a_column_only_with_their_own_protocol(
    tmp_path: Path, make_record: Make
) -> None:
    path = tmp_path / "paper.csv"
    path.write_text(
        HEAD
        + "swav,resnet50,cifar,top1,61.2,Paper A Table 1,cifar10 linear v1 top1\n"
        + "swav,resnet50,cifar,top5,62.2,Paper B Table 2,cifar10 linear v2 top5\n"
        + "byol,resnet50,cifar,top1,63.2,Paper A Table 1,\n"
    )
    table = tables.build(Book([make_record(value=0.5, interval=None)]), published.read([path]))
    text = render.render(table, "md")
    measured, quoted = text.split("## Published: paper")
    assert "| swav resnet50 | 61.2[^1] |" in measured
    assert "byol" not in measured
    assert "| swav resnet50 | 61.2[^1] | 62.2[^2] |" in quoted  # a paper's table stays whole
    assert "| byol resnet50 | 63.2[^1] | – |" in quoted
    assert text.endswith("[^1]: Paper A Table 1\n[^2]: Paper B Table 2\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("method,value\na,1\n", "columns"),
        (HEAD + "a,r,t,top1,61.2,,\n", "source"),
        (HEAD + "a,r,t,top1,612,x,\n", "0 to 100"),
        (HEAD + "a,r,t,top1,many,x,\n", "0 to 100"),
        (HEAD + "a,r,t,top1,0.884,x,\n", "looks like a fraction"),
        (HEAD + "a,r,t,top1,61.2,x,cifar10 linear top1\n", "TASK PROTOCOL vVERSION METRIC"),
        (HEAD + "a,r,t,top1,61.2\n", "columns"),
        (HEAD + "a,r,t,top1,61.2,x,,y,z\n", "columns"),
        (HEAD + "a,b,r,t,top1,61.2,x,\n", "columns"),  # a comma in a name shifts all the rest
    ],
)
def test_published_files_are_checked(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "paper.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=told) as caught:
        published.read([path])
    assert str(path) in str(caught.value)


def test_the_published_numbers_of_this_repository_are_whole() -> None:
    folder = Path(__file__).parents[3] / "results" / "published"
    quoted = published.read(sorted(folder.glob("*.csv")))
    assert len(quoted) == 132
    for same in (item.same_as for item in quoted if item.same_as):
        how, task = protocols.get(same.protocol), tasks.get(same.task)
        assert same.protocol in task.protocols
        assert same.version == how.version
        assert same.metric in ("top1", "top5", "box_ap", "box_ap75", how.metric_for(task.metric))
    table = tables.build(Book(), quoted)
    for form in render.FORMS:
        assert "71.3" in render.render(table, form) or form == "csv"  # simsiam


@pytest.mark.parametrize("form", sorted(render.FORMS))
def test_equal_records_give_equal_bytes(make_record: Make, form: str) -> None:
    book = [
        make_record(),
        make_record(name="rand|om_50%", weights="b", trained=False, value=0.1, interval=None),
    ]
    text = render.render(tables.build(Book(list(book))), form)
    assert text == render.render(tables.build(Book(list(book))), form)
    assert text.endswith("\n")
    if form == "html":
        assert "<script" not in text
        assert 'scope="row"' in text
    if form == "tex":
        assert "rand\\textbar{}om\\_50\\% (random control)" in text


def test_a_terminal_table_lists_tasks_down_and_checkpoints_across(make_record: Make) -> None:
    book = Book(
        [make_record(name=name, weights=name[0], task=t) for name in ("a", "b") for t in ("one", "two")]
    )
    head, _, title, *rest = render.render(tables.build(book), "text").splitlines()
    assert head.split() == ["a", "b"]
    assert title == "linear v1"
    assert rest[0].split() == ["one", "top1", "50.0", "[45.0,", "55.0]", "50.0", "[45.0,", "55.0]"]
    assert rest[2].split() == ["mean", "50.0", "50.0"]


def test_many_checkpoints_stand_in_parts_on_a_terminal(make_record: Make) -> None:
    names = enumerate("abcdef01")
    begun = "2026-01-0{}T00:00:00+00:00"
    book = Book(
        [
            make_record(
                name=f"net-{n}", weights=n, value=0.1 * i, interval=(0, 1), started=begun.format(i + 1)
            )
            for i, n in names
        ]
    )
    first, second = render.render(tables.build(book), "text").split("\n\n")
    assert first.split("\n")[0].split() == [f"net-{n}" for n in "abcdef"]
    assert second.split("\n")[0].split() == ["net-0", "net-1"]
    assert second.split("\n")[3].split()[:3] == ["cifar10", "top1", "60.0"]
    assert second.count("Intervals: ") == 1
    assert "|" not in first + second


def test_an_unknown_format_names_the_near_one(make_record: Make) -> None:
    with pytest.raises(UserError, match="did you mean html"):
        render.render(tables.build(Book([make_record()])), "htm")


def test_the_title_is_the_one_that_was_given(make_record: Make) -> None:
    table = tables.build(Book([make_record(value=0.6, interval=None)]), title="Mine")
    assert render.render(table, "md").startswith("# Mine\n")


def test_the_order_of_records_moves_nothing(make_record: Make) -> None:
    """A cell that failed and later succeeded stands where it was first tried."""
    made = [
        make_record(name=name, weights=name, task=task, started=f"2026-01-0{day}T00:00:00+00:00", **more)
        for day, name, task, more in (
            (1, "b", "two", {"status": "failed"}),
            (2, "b", "one", {}),
            (3, "a", "two", {}),
            (4, "a", "one", {}),
            (5, "b", "two", {}),
        )
    ]
    text = render.render(tables.build(Book(made)), "md")
    assert text.index("two top1") < text.index("one top1")
    assert text.index("| b |") < text.index("| a |")
    assert render.render(tables.build(Book(made[::-1])), "md") == text


@pytest.mark.parametrize("form", ["md", "csv", "html"])
def test_files_in_another_order_give_the_same_bytes(make_record: Make, form: str) -> None:
    """Curves, protocols asked for in other words, ties in time and failures included."""
    made = [
        make_record(name=name, weights=name, task=task, seed=seed, overrides=overrides, value=value, **more)
        for name in ("b", "a")
        for task in ("two", "one")
        for overrides, seeds in (({}, 1), ({"shots": 10}, 2), ({"shots": 1}, 2), ({"epochs": 1}, 1))
        for seed in range(seeds)
        for value, more in ((0.1 * (seed + 1), {}),)
    ]
    late = make_record(name="c", weights="c", task="three", started="2026-01-02T00:00:00+00:00")
    made += [make_record(name="c", weights="c", status="failed"), late]
    made += [make_record(name="b", weights="b", task="three", status="failed")]
    text = render.render(tables.build(Book(made)), form)
    rng = np.random.default_rng(0)
    for _ in range(5):
        mixed = [made[place] for place in rng.permutation(len(made))]
        assert render.render(tables.build(Book(mixed)), form) == text


def test_other_preprocessing_of_the_same_weights_is_another_row_and_not_another_seed(
    make_record: Make,
) -> None:
    record = make_record()
    checkpoint = msgspec.structs.replace(record.checkpoint, preprocessing={"input_size": 96})
    key = records.run_id(checkpoint, record.task, record.protocol, record.data.manifest, 0)
    other = msgspec.structs.replace(record, checkpoint=checkpoint, run_id=key)
    (section,) = tables.build(Book([record, other])).sections
    assert len({row.label for row in section.rows}) == 2
    assert [cell.seeds for cell in section.cells.values()] == [1, 1]


@pytest.mark.parametrize(
    ("same_as", "told"),
    [
        (
            "cifar10 linear v1 tpo1",
            "unknown metric in same_as cifar10 linear v1 tpo1: 'tpo1' (did you mean top1?)",
        ),
        ("cifar10 linear v99 top1", "same_as cifar10 linear v99 top1: the latest version of linear is v2"),
        ("cifra10 linear v1 top1", "unknown task 'cifra10'"),
        ("cifar10 linaer v1 top1", "unknown protocol 'linaer'"),
    ],
)
def test_a_misspelt_same_as_is_an_error(
    tmp_path: Path, make_record: Make, same_as: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records.append(tmp_path / "records" / "x.jsonl", make_record())
    path = tmp_path / "paper.csv"
    path.write_text(f"{HEAD}m,r50,t,top1,61.2,Paper,{same_as}\n")
    assert main(["table", str(tmp_path), "--published", str(path)]) == 2
    assert told in capsys.readouterr().err
    path.write_text(
        f"{HEAD}m,r50,t,top1,61.2,Paper,cifar10 linear v1 top5\nm,r50,t,top1,61.2,Paper,pets linear v2 top1\n"
    )
    assert (
        main(["table", str(tmp_path), "--published", str(path)]) == 2
    )  # top5 was not measured with the others
    path.write_text(f"{HEAD}m,r50,t,top1,61.2,Paper,pets linear v2 top1\n")
    assert main(["table", str(tmp_path), "--published", str(path)]) == 0  # not measured at all


def test_a_published_number_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text(f"{HEAD}m,r50,t,top1,61.2,Paper,\nn,r50,t,top1,60.0,Paper,\nm,r50,t,top1,61.3,Paper,\n")
    with pytest.raises(UserError, match=r"paper\.csv:4: m r50, t top1: line 2 has it too"):
        published.read([path])


def test_an_interval_over_seeds_ends_where_values_do(make_record: Make) -> None:
    for values, (low, high) in (
        ((0.01, 0.05), (0.0, None)),
        ((0.9, 0.99), (None, 1.0)),
        ((0.5, 0.5001), (None, None)),
    ):
        made = [make_record(seed=seed, value=value) for seed, value in enumerate(values)]
        spread = tables.over_seeds(made, "top1").over_seeds
        assert spread is not None
        half = scipy.stats.t.ppf(0.975, 1) * abs(values[0] - values[1]) / 2
        assert spread.low == pytest.approx(sum(values) / 2 - half if low is None else low)
        assert spread.high == pytest.approx(sum(values) / 2 + half if high is None else high)
