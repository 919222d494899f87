"""``mast eval --shots`` from end to end on embedded scenes: records, table, figure and report."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from eval import scenes, suites
from eval.cli import entry as cli
from eval.detection.options import training_images
from eval.results import records, tables
from eval.running.plan import plan


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run") / "out"
    scenes.write(data, size="test")
    command = ["eval", "--checkpoint", "a=random:resnet10-c8-half@0", "b=random:resnet10-c8-half@1"]
    command += [
        "--task",
        "scenes-colour",
        "--protocol",
        "knn",
        "--shots",
        "1",
        "4",
        "all",
        "--seeds",
        "0",
        "1",
        "2",
    ]
    assert cli.main([*command, "--data-root", str(data), "--out", str(folder), "--quiet"]) == 0
    return folder


def test_size_and_draw_stand_in_records_and_run_ids(out: Path) -> None:
    found = records.read([out]).counting()
    sizes = [(r.checkpoint.name, r.protocol.overrides.get("shots"), r.seed) for r in found]
    assert sorted(sizes, key=str) == sorted(
        [(name, size, seed) for name in "ab" for size in (1, 4) for seed in range(3)]
        + [(name, None, 0) for name in "ab"],
        key=str,
    )
    assert len({record.run_id for record in found}) == 14
    counts = {record.protocol.overrides.get("shots"): record.data.counts for record in found}
    classes = counts[1]["train"]
    assert counts[1]["val"] == 0
    assert counts[4]["train"] + counts[4]["val"] == 4 * classes
    assert len({record.data.manifest for record in found}) == 1


def test_the_table_has_a_column_for_each_size(out: Path) -> None:
    table = tables.read([out])
    plain, curve = table.sections
    assert (plain.title, curve.title) == ("knn v1", "knn v1 [by labels]")
    assert [column.size for column in curve.columns] == ["1", "4", "all"]
    values = defaultdict(list)
    for record in table.book.counting():
        size = str(record.protocol.overrides.get("shots", "all"))
        values[record.checkpoint.name, size].append(record.metrics["top1"].value)
    for (row, column), cell in curve.cells.items():
        assert cell.value == pytest.approx(np.mean(values[row.name, column.size]))
    assert curve.labels(curve.columns[0]) < curve.labels(curve.columns[1]) < curve.labels(curve.columns[2])
    for row in plain.rows:  # what has all labels is the ordinary cell
        assert plain.cells[row, plain.columns[0]].value == curve.cells[row, curve.columns[2]].value


def test_the_report_shows_the_curve_and_its_files_are_there(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<section id="labels">' in page
    (figure,) = (out / "figures").glob("labels-*.svg")
    drawn = figure.read_text(encoding="utf-8")
    assert "<!-- a -->" in drawn  # text is drawn as paths, and named in comments
    assert "<!-- b -->" in drawn


def test_a_suite_has_curves_too(tmp_path: Path) -> None:
    path = tmp_path / "curve.yaml"
    path.write_text(
        "name: curve\ndescription: x\n"
        'checkpoints: [{name: a, ref: "random:resnet10-c8-half@0"}]\n'
        'cells: [{tasks: [scenes-colour], protocols: [linear], shots: [1, "10%", all]},\n'
        '  {tasks: [scenes-voc], protocols: [voc-fpn-tiny], shots: ["50%", all], seeds: [0, 1]}]\n'
    )
    cells = plan(suites.load(path)).cells
    assert [(cell.overrides.get("shots"), cell.seed) for cell in cells] == [
        *((1, seed) for seed in range(5)),
        *(("10%", seed) for seed in range(5)),
        (None, 0),  # on frozen features all labels need no draw
        ("50%", 0),
        ("50%", 1),
        (None, 0),
        (None, 1),
    ]


def test_a_share_of_a_detectors_images() -> None:
    assert [training_images(text, 60) for text in ("10%", "1%", "2.5%", 5, None)] == [6, 1, 2, None, None]
