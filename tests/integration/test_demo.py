"""The demo: what it promises, a miniature of it from end to end, and (slow) the real one within its time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from eval import suites
from eval.cli import entry as cli
from eval.numbers.intervals import ELEVEN_POINTS
from eval.results import records
from eval.running.plan import plan
from eval.scenes.compose import FACTORS

SMALL = ["epochs=1", "batch_size=32", "expander=[32,32]", "arch=resnet10-c8-half"]


def test_the_demo_holds_what_it_promises() -> None:
    todo = plan(suites.load("demo"))
    cells = {(cell.checkpoint, cell.task.name, cell.protocol.kind) for cell in todo.cells}
    assert [source.name for source in todo.sources] == ["vicreg", "mast5", "random"]
    for checkpoint in ("vicreg", "mast5", "random"):
        for factor in ("colour", "scale", "position"):
            for kind in ("linear", "knn", "fewshot"):
                assert (checkpoint, f"scenes-{factor}", kind) in cells
        assert (checkpoint, "scenes-seg", "segknn") in cells
        for task in ("scenes-voc-colour", "scenes-coco-colour"):
            assert (checkpoint, task, "detection") in cells
    for cell in todo.cells:  # every episode has its classes
        if cell.protocol.kind == "fewshot":
            assert cell.protocol.params["way"] <= len(FACTORS[cell.task.name.removeprefix("scenes-")])
    assert todo.sources[-1].ref.startswith("random:")
    assert todo.sources[-1].like == "vicreg"


def test_the_demo_has_every_option_of_a_run() -> None:
    """It says few options and goes through the same code: what is not said has a value all the same."""
    known = [vars(cli.parse(words)) for words in (["demo"], ["run", "demo", "--out", "x"])]
    assert known[1].keys() - known[0].keys() == {"suite", "include"}


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    """The demo's own file, with every number made small."""
    suite = yaml.safe_load((suites.FOLDER / "demo.yaml").read_text())
    suite |= {"scenes": "test", "title": "A miniature"}
    for arm in suite["pretrain"]:
        arm["overrides"] = [*arm.get("overrides", []), *SMALL]
    suite["checkpoints"][0]["ref"] = "random:resnet10-c8-half@0"
    classification = suite["cells"][0]
    detection = [
        block for block in suite["cells"] if set(block["tasks"]) & {"scenes-voc-colour", "scenes-coco-colour"}
    ]
    changes = {
        "linear": {"penalties": [-2, 2, 3]},
        "knn": {"k": [5]},
        "fewshot": {"way": 3, "shots": 2, "queries": 2, "episodes": 20},
    }
    suite["cells"] = [
        {"tasks": classification["tasks"][:2], "protocols": [name], "overrides": overrides}
        for name, overrides in changes.items()
    ]
    brief = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": [1], "TEST.PRECISE_BN.NUM_ITER": 1}
    suite["cells"] += [block | {"overrides": brief, "checkpoints": ["vicreg"]} for block in detection]
    path = tmp_path / "miniature.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


def test_a_miniature_goes_from_scenes_to_report(
    tmp_path: Path, miniature: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["run", str(miniature), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "20 cells run, 0 done before, 0 failed." in said
    book = records.read([out])
    assert len(book.counting()) == 20
    # What was not measured is a dash in the one table that is printed.
    line = next(line for line in said.splitlines() if "scenes-voc-colour box_ap50" in line)
    assert line.split()[-2:] == ["–", "–"]
    detections = [
        record for record in book.records if record.task.name in ("scenes-voc-colour", "scenes-coco-colour")
    ]
    assert {record.task.metric for record in detections} == {"box_ap50", "mask_ap"}
    for record in detections:
        outcome = book.outcomes(record)
        assert len(outcome["images"]) == record.data.counts["test_images"] == 8
        assert record.certificate is not None
        kind = ELEVEN_POINTS.kind if "voc" in record.task.name else "wilson-bootstrap over test images"
        assert record.metrics[record.task.metric].interval == kind
    report = (out / "report.html").read_text()
    for heading in (
        "Comparison",
        "Difference to the first checkpoint",
        "Tables",
        "Pretraining",
        "Detections",
        "Provenance",
    ):
        assert f">{heading}</h" in report
    assert str(tmp_path) not in report
    for name in ("table.md", "table.csv", "table.tex", "table.html"):
        assert (out / "tables" / name).is_file()
    assert list((out / "figures").glob("*.png"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_ends_within_its_time(tmp_path: Path) -> None:
    """Twelve minutes on two cores; on a machine that is busy otherwise it takes longer and this fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(min(2, os.cpu_count() or 1))}
    started = time.monotonic()
    command = [sys.executable, "-m", "eval.cli", "demo", "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, env=environment)
    assert time.monotonic() - started < 12 * 60
    book = records.read([tmp_path / "demo"])
    assert len(book.counting()) == len(plan(suites.load("demo")).cells)
    assert book.failures() == []
