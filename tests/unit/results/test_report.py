"""Figures and the report: one file that loads nothing, and equal bytes for equal records."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from eval.cli.entry import main
from eval.errors import UserError
from eval.results import figures, passports, publishing, records, report, tables
from eval.results.evidence import Witness
from eval.results.records import Book, Record

Make = Callable[..., Record]
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Structure(HTMLParser):
    """Collects ids, links and what is left open."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [
            found[key] or "" for key in ("href", "src", "xlink:href", "srcset", "action") if key in found
        ]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def write(place: Path, path: Path, *, title: str) -> None:
    report.write(tables.read([place], title=title), place, path)


@pytest.fixture
def run(tmp_path: Path, make_record: Make) -> Path:
    """A run's folder with two trained checkpoints and a control on two tasks, outcomes and a passport."""
    rng = np.random.default_rng(0)
    for name, weights, trained in (("vicreg", "a", True), ("mast5", "b", True), ("random", "c", False)):
        for task in ("scenes-shape", "scenes-colour"):
            kept = records.write_arrays(tmp_path, correct=rng.random(100) < 0.5)
            value = float(rng.random() * 0.5)
            record = make_record(
                name=name,
                weights=weights,
                trained=trained,
                task=task,
                value=value,
                interval=(value - 0.1, value + 0.1),
                outcomes=kept,
                beside={"ece": 0.1},
            )
            records.append(tmp_path / "records" / "suite.jsonl", record)
        history = [{"epoch": epoch, "lr": 0.1, "loss": 3.0 / epoch, "mask_crop": 0.9} for epoch in (1, 2, 3)]
        passport = {
            "name": name,
            "weights_sha256": weights * 64,
            "extra": {"history": history, "method": name},
        }
        path = tmp_path / "passports" / f"{name}-{weights * 12}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(passport))
    return tmp_path


def test_the_page_is_whole_and_loads_nothing(run: Path) -> None:
    write(run, run / "report.html", title="A & B")
    text = (run / "report.html").read_text()
    page = Structure()
    page.feed(text)
    assert page.stack == []
    assert page.tags.count("script") == 3  # the explorer, its data, and the passport's training curve
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    loading = text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG's elements, not an address
    assert not re.search(r"url\((?!#)|@import|https?://", loading)
    assert "A &amp; B" in text
    for word in ("Comparison", "Tables", "Pretraining", "Provenance", "random control", "aaaaaaaaaaaa"):
        assert word in text
    assert "prefers-color-scheme: dark" in text
    sources = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="[^"]+">', text)
    assert len(sources) == page.tags.count("img") > 0
    for source in sources:  # figures take the page's colours, light or dark
        assert "prefers-color-scheme: dark" in base64.b64decode(source).decode()


def test_equal_records_give_equal_pages(run: Path) -> None:
    write(run, run / "one.html", title="T")
    write(run, run / "two.html", title="T")
    assert (run / "one.html").read_bytes() == (run / "two.html").read_bytes()


def test_publishing_writes_tables_figures_and_report(run: Path) -> None:
    written = report.publish(tables.read([run], title="T"), run)
    names = {str(path.relative_to(run)) for path in written}
    assert {
        "report.html",
        "tables/table.md",
        "tables/table.csv",
        "tables/table.tex",
        "tables/table.html",
    } <= names
    assert any(name.startswith("figures/scores-0") and name.endswith(".svg") for name in names)
    assert any(name.startswith("figures/difference-0") and name.endswith(".png") for name in names)
    assert all(path.stat().st_size > 0 for path in written)
    before = {path: path.read_bytes() for path in written}
    report.publish(tables.read([run], title="T"), run)
    assert {path: path.read_bytes() for path in written} == before


def test_what_is_published_is_made_again_only_when_something_changed(run: Path, make_record: Make) -> None:
    assert publishing.current(run, "T", None) is None
    written = report.publish(tables.read([run], title="T"), run)
    publishing.keep(run, "T", None, written)
    assert publishing.current(run, "T", None) == written
    assert publishing.current(run, "another title", None) is None
    assert publishing.current(run, "T", run) is None  # pictures of data would be shown
    text = written[0].read_text()
    written[0].write_text(text + " ")
    assert publishing.current(run, "T", None) is None
    report.publish(tables.read([run], title="T"), run)
    publishing.keep(run, "T", None, written)
    records.append(run / "records" / "suite.jsonl", make_record(task="cifar10"))
    assert publishing.current(run, "T", None) is None
    publishing.keep(run, "T", None, written)
    written[1].unlink()
    assert publishing.current(run, "T", None) is None


def test_failures_and_torn_lines_are_said_at_the_top(run: Path, make_record: Make) -> None:
    path = run / "records" / "suite.jsonl"
    records.append(path, make_record(task="cifar10", status="failed"))
    with path.open("a") as file:
        file.write('{"schema":1,"run')
    write(run, run / "report.html", title="T")
    header = (run / "report.html").read_text().split("</header>")[0]
    assert "1 cell failed" in header
    assert "suite.jsonl:8" in header


def test_a_folder_without_records_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records"):
        write(tmp_path, tmp_path / "report.html", title="T")
    assert not (tmp_path / "report.html").exists()


def test_differences_are_paired_on_the_same_examples_of_their_own_protocol(
    tmp_path: Path, make_record: Make
) -> None:
    gains = {"linear": 30, "knn": -10}  # examples of 100 that b has right and a has wrong
    for protocol, gain in gains.items():
        for name, right in (("a", 50), ("b", 50 + gain)):
            kept = records.write_arrays(tmp_path, correct=np.arange(100) < right)
            record = make_record(name=name, weights=name, protocol=protocol, outcomes=kept, value=right / 100)
            records.append(tmp_path / "records" / "suite.jsonl", record)
    book = records.read([tmp_path])
    for section in tables.build(book).sections:
        gain = gains[section.heading.name.removesuffix(" v1")]
        figure = figures.differences(section, Witness(book), section.rows[0])
        assert figure is not None
        (marker,) = [line for line in figure.axes[0].lines if line.get_marker() == "s"]
        assert float(np.ravel(marker.get_xdata())[0]) == pytest.approx(gain)


def test_no_outcomes_no_differences(make_record: Make) -> None:
    book = Book([make_record(name="a", weights="a"), make_record(name="b", weights="b")])
    (section,) = tables.build(book).sections
    assert figures.differences(section, Witness(book), section.rows[0]) is None


def test_a_saved_figure_is_the_same_twice(tmp_path: Path) -> None:
    for form in ("svg", "png"):
        for name in ("one", "two"):
            figure = figures.heatmap(np.array([[1.0, -0.25], [-0.25, 1.0]]), ["crop", "flip"], "correlation")
            (tmp_path / name).mkdir(exist_ok=True)
            figures.save(figure, tmp_path / name / f"figure.{form}")
        assert (tmp_path / "one" / f"figure.{form}").read_bytes() == (
            tmp_path / "two" / f"figure.{form}"
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_has_nothing_to_complain_about(run: Path, tmp_path: Path, width: int) -> None:
    write(run, run / "report.html", title="T")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--enable-logging=stderr",
    ]
    command += [
        "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
    ]
    command += [
        f"--window-size={width},3000",
        f"--screenshot={tmp_path / 'shot.png'}",
        f"file://{run}/report.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "shot.png").stat().st_size > 10_000


DEEP: object = 1
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", "[" * 100_000, "{}", {"name": 3}, {"name": "vicreg", "extra": []},
     {"name": "vicreg", "extra": {"history": 7}}, {"name": "vicreg", "extra": {"history": [1, 2]}},
     {"name": "vicreg", "extra": {"history": [{"loss": 1.0}]}}, {"name": "vicreg", "deep": DEEP},
     {"name": "vicreg", "extra": {"history": [{"epoch": 1, "loss": "low"}]}},
     {"name": "vicreg", "extra": {"history": [{"epoch": 1, "loss": float("nan")}]}},
     {"name": "vicreg", "extra": {"history": [{"epoch": 10**400}]}},
     {"name": "vicreg", "extra": {"history": [{"epoch": 1}, {"epoch": 2, "mask_crop": 0.5}]}},
     {"name": "mast5", "weights_sha256": "a" * 64}, {"name": "vicreg", "weights_sha256": "b" * 64}],
)  # fmt: skip
def test_a_damaged_passport_is_named_and_left_out(run: Path, content: object) -> None:
    path = run / "passports" / f"vicreg-{'a' * 12}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    write(run, run / "report.html", title="T")
    text = (run / "report.html").read_text()
    assert f"{path.name}: a damaged passport, which is left out" in text
    assert "mast5" in text


def test_names_that_differ_in_signs_alone_have_figures_of_their_own(tmp_path: Path) -> None:
    """Files are named without signs and in lower case, as some file systems do themselves."""
    names = ["a.b", "A-B", "a b", "a-b-2", "x" * 300, "x" * 300 + "y", "é" * 200, "#", "%"]
    history = [{"epoch": epoch, "loss": 1.0, "mask_crop": 0.5} for epoch in (1, 2)]
    found = [{"name": name, "extra": {"history": history}} for name in names]
    drawn = [item.name for item in report._pretraining(found)]
    assert len({name.casefold() for name in drawn}) == len(drawn) > 5
    for name in drawn:
        (tmp_path / f".{name}.12345678.tmp").touch()


def test_one_network_with_pixels_prepared_in_two_ways_has_two_passports(
    tmp_path: Path, make_record: Make
) -> None:
    first, second = (
        msgspec.structs.replace(record.checkpoint, preprocessing={"input_size": size})
        for record, size in ((make_record(), 224), (make_record(), 32))
    )
    assert passports.file_name(first) != passports.file_name(second)
    folder = tmp_path / "passports"
    folder.mkdir()
    for checkpoint, size in ((first, 224), (second, 32)):
        content = {"name": checkpoint.name, "input_size": size}
        (folder / passports.file_name(checkpoint)).write_text(json.dumps(content))
    base = make_record()
    measured = [
        msgspec.structs.replace(
            base,
            checkpoint=each,
            run_id=records.run_id(each, base.task, base.protocol, base.data.manifest, base.seed),
        )
        for each in (first, second, first)
    ]
    found, problems = passports.read([tmp_path], measured)
    assert [each["input_size"] for each in found] == [224, 32]
    (folder / passports.file_name(first)).rename(folder / f"vicreg-{'a' * 12}.json")  # as older runs named it
    assert [each["input_size"] for each in passports.read([tmp_path], measured)[0]] == [224, 32]
    assert problems == []


@pytest.mark.parametrize(
    "name",
    [
        "a$%$",
        "$\\frac{$",
        "$$",
        "\\input{x}",
        "x^{",
        "_{",
        "%",
        "#",
        "&",
        "{",
        "}",
        "~",
        "\u202ea",
        "\u05d0\u05d1",
        "a\u0301" * 9,
    ],
)
def test_no_name_is_taken_for_a_formula(make_record: Make, name: str, tmp_path: Path) -> None:
    """matplotlib reads what stands between dollars as TeX, and ends where it cannot."""
    made = [
        make_record(name=name, weights="a", task=name, interval=(0.4, 0.6)),
        make_record(name="other", weights="b", task=name, interval=(0.4, 0.6)),
    ]
    for record in made:
        records.append(tmp_path / "records" / "a.jsonl", record)
    figure = figures.comparison(tables.build(Book(made)).sections[0])
    assert figures.drawn(figure, "odd", "svg")
    write(tmp_path, tmp_path / "report.html", title=name)
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_a_detection_task_of_ones_own_ends_no_report(make_record: Make, tmp_path: Path) -> None:
    """A task file that only the run was given: its table is there, and the page says why no pictures are."""
    kept = records.write_json(tmp_path, [])
    measured = make_record(task="mine", metric="box_ap", protocol="coco-1x", outcomes=kept)
    records.append(tmp_path / "records" / "suite.jsonl", measured)
    table = tables.read([tmp_path], title="Own")
    report.write(table, tmp_path, tmp_path / "report.html", data_root=tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "this task is a file of your own; give its folder as --include" in text
    assert "50.0" in text


@pytest.mark.parametrize("long", [False, True])
def test_a_legend_stays_inside_its_figure_whatever_the_names(make_record: Make, long: bool) -> None:
    names = [f"a name with dollars $x_{n}^$" + " and many more words to come" * long for n in range(12)]
    made = [make_record(name=name, weights=f"{n:x}", interval=(0.4, 0.6)) for n, name in enumerate(names)]
    figure = figures.comparison(tables.build(Book(made)).sections[0])
    content = figures.drawn(figure, "wide", "svg").decode()
    assert "$x_11^$" in content or long
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert 0 <= box.x0 <= box.x1 <= page.width
    assert 0 <= box.y0 <= box.y1 <= page.height
    assert len(legend.get_texts()) == 12
    assert all(len(text.get_text()) <= figures.LONGEST for text in legend.get_texts())
    assert not re.search(r"url\(#p[0-9a-f]{10}\)", content)
    assert "url(#clip0)" in content


def test_the_command_compares_pages_and_figures_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = tmp_path / "page.html", tmp_path / "drawn"
    assert main(["report", str(run), "--out", str(page), "--figures", str(folder)]) == 0
    assert main(["report", str(run), "--check", str(page)]) == 0
    assert main(["report", str(run), "--check", str(folder)]) == 0
    capsys.readouterr()
    first = min(folder.glob("*.svg"))
    first.write_bytes(first.read_bytes().replace(b"vicreg", b"vicerg"))
    page.write_text(page.read_text().replace("vicreg", "vicerg"))
    assert main(["report", str(run), "--check", str(folder)]) == 1
    assert f"{first} is not what the records give, from line" in capsys.readouterr().err
    assert main(["report", str(run), "--check", str(page)]) == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) < 2100  # a figure in a page is one long line
    (folder / "scores-9-other.svg").write_text("<svg/>")
    assert main(["report", str(run), "--check", str(folder)]) == 1
    assert "the records give no such figure" in capsys.readouterr().err
    assert main(["report", str(run), "--check", str(page), "--figures", str(folder)]) == 2


def test_the_ending_of_a_file_chooses_the_format(run: Path, tmp_path: Path) -> None:
    for ending, start in (
        ("md", "# "),
        ("csv", "section,"),
        ("tex", "% "),
        ("html", "<!doctype"),
        ("x", "# "),
    ):
        path = tmp_path / f"table.{ending}"
        assert main(["table", str(run), "--out", str(path)]) == 0
        assert path.read_text().startswith(start)
        assert main(["table", str(run), "--check", str(path)]) == 0
    path = tmp_path / "difference.csv"
    assert main(["compare", str(run), "--pair", "vicreg", "mast5", "--out", str(path)]) == 0
    assert "," in path.read_text().splitlines()[0]
    for form in ("svg", "pdf", "png"):
        path = tmp_path / f"difference.{form}"
        command = ["compare", str(run), "--pair", "vicreg", "mast5"]
        assert main([*command, "--figure", str(path)]) == 0
        assert main([*command, "--check", str(path)]) == 0
        assert main(["compare", str(run), "--pair", "mast5", "vicreg", "--check", str(path)]) == 1


def test_no_two_checkpoints_look_alike(make_record: Make) -> None:
    made = [
        make_record(name=f"n{number}", weights="0123456789abcdef"[number], trained=number < 12)
        for number in range(16)
    ]
    (section,) = tables.build(Book(made)).sections
    looks = figures.looks(section)
    assert len(looks) == len(set(looks.values())) == 16


def test_a_figure_of_many_tasks_shows_some_and_says_so(tmp_path: Path, make_record: Make) -> None:
    for number in range(report.TASKS + 5):
        records.append(tmp_path / "records" / "x.jsonl", make_record(task=f"task-{number:02d}"))
    (drawn, *_) = report.drawings(tables.read([tmp_path]), tmp_path).values()
    assert f"Shown are the first {report.TASKS} of {report.TASKS + 5} tasks" in drawn.text
    (axes,) = drawn.figure.axes
    assert len(axes.get_yticks()) == report.TASKS


def test_long_names_of_tasks_leave_room_for_the_figure(tmp_path: Path, make_record: Make) -> None:
    name = "coco:street/labels_train.json,street/labels_val.json,street/pictures"
    records.append(tmp_path / "records" / "x.jsonl", make_record(task=name, interval=(0.0, 0.1), value=0.0))
    (drawn, *_) = report.drawings(tables.read([tmp_path]), tmp_path).values()
    drawn.figure.draw_without_rendering()
    (axes,) = drawn.figure.axes
    assert axes.get_position().width > 0.5
    assert axes.get_xlim()[0] < 0  # a marker at zero is whole
    assert axes.get_xlabel() == "top1, percent"


def test_photographs_stand_in_the_page_as_jpeg() -> None:
    rng = np.random.default_rng(0)
    figure = figures.Figure(figsize=(3.6, 3.6))
    figure.add_subplot().imshow(rng.integers(0, 255, (240, 240, 3), dtype=np.uint8))
    photo, plain = (report.Drawn("x", figure, "", photo=photo) for photo in (True, False))
    assert photo.source.startswith("data:image/jpeg;base64,")
    assert plain.source.startswith("data:image/svg+xml;base64,")
    assert photo.content("jpeg") == figures.drawn(figure, "x", "jpeg")  # equal records give equal bytes
