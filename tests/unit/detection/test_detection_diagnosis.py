"""``mast diagnose``: from a file and from a record, alone and against another, as text, JSON and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_detection_evaluation import noisy

from eval.cli.entry import main
from eval.detection import tide
from eval.detection.data import DetectionData, prepare
from eval.errors import UserError
from eval.results import diagnosis, records
from eval.results.diagnosis import Source, diagnose
from eval.results.records import Record

Make = Callable[..., Record]
NASTY = '<script>document.title=1</script>|"'


@pytest.fixture(scope="module")
def data(scenes_root: Path) -> DetectionData:
    return prepare("scenes-coco", scenes_root, masks=True)


def as_file(path: Path, predictions: list[dict[str, Any]], data: DetectionData) -> Path:
    """Predictions in COCO's results format."""
    ids = {place: number for number, place in data.test.dicts[0]["category_ids"].items()}
    found = []
    for entry in predictions:
        for each in entry["detections"]:
            kept = {name: each[name] for name in ("bbox", "score", "segmentation")}
            found.append({"image_id": entry["image_id"], "category_id": ids[each["category"]], **kept})
    path.write_text(json.dumps(found))
    return path


def kept(out: Path, data: DetectionData, seeds: list[int], make_record: Make) -> list[str]:
    """A folder with a record for each seed's predictions; their run ids."""
    runs = []
    for seed in seeds:
        images = noisy(data, seed)
        outcomes = records.write_json(out, {"classes": list(data.classes), "images": images})
        record = make_record(
            name=f"net-{seed}",
            task="scenes-coco",
            metric="box_ap",
            protocol="coco-fpn-tiny",
            weights="abc"[seed],
        )
        record = msgspec.structs.replace(record, outcomes=outcomes)
        records.append(out / "records" / "r.jsonl", record)
        runs.append(record.run_id)
    return runs


@pytest.mark.parametrize("masks", [False, True])
def test_a_file_and_a_record_of_the_same_detections_are_told_the_same(
    scenes_root: Path,
    tmp_path: Path,
    data: DetectionData,
    make_record: Make,
    masks: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = as_file(tmp_path / "p.json", noisy(data, 0), data)
    (run,) = kept(tmp_path / "runs", data, [0], make_record)
    shape = ["--masks"] if masks else []
    place = ["--data-root", str(scenes_root), "--json", *shape]
    assert main(["diagnose", str(file), "--data", "scenes-coco", *place]) == 0
    of_file = json.loads(capsys.readouterr().out)["detectors"][0]
    assert main(["diagnose", str(tmp_path / "runs"), "--run", run[:12], *place]) == 0
    of_record = json.loads(capsys.readouterr().out)["detectors"][0]
    assert of_file.pop("name") == "p.json"
    assert of_record.pop("name") == "net-0, coco-fpn-tiny, seed 0"
    assert of_file.pop("data") == of_record.pop("data") == "scenes-coco"
    assert of_file == of_record
    values = tide.find(noisy(data, 0), data, masks=masks).values(np.ones((1, len(data.test.dicts))))
    for name in tide.TYPES:
        assert of_file["errors"][name]["value"] == pytest.approx(float(values[name][0]), abs=1e-12)
    assert sum(of_file["errors"][name]["share"]["value"] for name in tide.TYPES) == pytest.approx(1)
    metric = f"{'mask' if masks else 'box'}_ap"
    assert of_file["ap"]["value"] == pytest.approx(of_file["metrics"][f"{metric}50"], abs=1e-12)
    by_class = [row[metric] for row in of_file["by_class"] if row[metric] is not None]
    assert np.mean(by_class) == pytest.approx(of_file["metrics"][metric], abs=1e-12)
    assert sum(row["objects"] for row in of_file["by_class"]) == data.counts["test_instances"]


def test_two_runs_are_paired(
    scenes_root: Path,
    tmp_path: Path,
    data: DetectionData,
    make_record: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = kept(tmp_path, data, [0, 1], make_record)
    place = [str(tmp_path), "--data-root", str(scenes_root), "--json"]
    assert main(["diagnose", *place, "--run", first, "--against", second]) == 0
    found = json.loads(capsys.readouterr().out)
    one, other = found["detectors"]
    for name in tide.TYPES:
        told = found["difference"][name]
        gain = one["errors"][name]["value"] - other["errors"][name]["value"]
        part = one["errors"][name]["share"]["value"] - other["errors"][name]["share"]["value"]
        assert told["value"] == pytest.approx(gain)
        assert told["share"]["value"] == pytest.approx(part)
        assert told["low"] is None or told["low"] <= told["value"] <= told["high"]
    assert main(["diagnose", *place, "--run", second, "--against", first]) == 0
    turned = json.loads(capsys.readouterr().out)["difference"]
    assert turned["missed"]["low"] == pytest.approx(-found["difference"]["missed"]["high"])


def test_a_detector_against_itself_differs_in_nothing(data: DetectionData) -> None:
    source = Source("a", data, noisy(data, 0), True)
    one, other = (diagnose(source, threshold=0.5, masks=False) for _ in range(2))
    for name in ("ap", *tide.TYPES, *tide.SUMS):
        assert diagnosis.gain(one, name, other) == diagnosis.Estimate(0.0)


def test_the_page_is_whole_and_names_steer_nothing(tmp_path: Path, data: DetectionData) -> None:
    sources = [
        Source(name, replace(data, name=NASTY), noisy(data, seed), True)
        for seed, name in enumerate((NASTY, "b"))
    ]
    one, other = (diagnose(source, threshold=0.5, masks=True) for source in sources)
    diagnosis.write(one, other, tmp_path / "e.html", images=2)
    page = (tmp_path / "e.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert len(re.findall(r'<img src="data:image/png;base64', page)) == 2  # both detectors side by side
    assert not re.search(r'(src|href)="(?!data:)', page)
    text = diagnosis.markdown(one, other)
    assert "<script" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    assert "localisation" in text
    assert "paired over test images" in text


def test_voc_is_told_by_its_own_metric(scenes_root: Path) -> None:
    voc = prepare("scenes-voc", scenes_root, masks=False)
    found = diagnose(Source("v", voc, noisy(voc, 0), False), threshold=0.5, masks=False)
    assert set(found.by_class()[0]) == {"class", "objects", "box_ap", "box_ap50"}
    assert "box_ap50" in diagnosis.markdown(found)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["{runs}"], "is a folder"),
        (["{runs}", "--run", "{run}", "--data", "scenes-coco"], "--data with --run"),
        (["{runs}", "--run", "zzz"], "no run begins"),
        (["{file}"], "no --data"),
        (["{file}", "--data", "scenes-coco", "--overlap", "1.5"], "an overlap of 1.5"),
        (["{boxes}", "--data", "scenes-coco", "--masks"], "holds no masks"),
    ],
)
def test_what_cannot_be_done_is_said(
    scenes_root: Path,
    tmp_path: Path,
    data: DetectionData,
    make_record: Make,
    words: list[str],
    wrong: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = as_file(tmp_path / "p.json", noisy(data, 0), data)
    without = [
        {k: v for k, v in each.items() if k != "segmentation"} for each in json.loads(file.read_text())
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(without))
    (run,) = kept(tmp_path / "runs", data, [0], make_record)
    names = {
        "runs": str(tmp_path / "runs"),
        "run": run,
        "file": str(file),
        "boxes": str(tmp_path / "boxes.json"),
    }
    given = [word.format(**names) for word in words]
    assert main(["diagnose", *given, "--data-root", str(scenes_root)]) == 2
    error = capsys.readouterr().err
    assert wrong in error
    assert len(error.strip().splitlines()) == 1


def test_detections_of_other_images_are_refused(scenes_root: Path, tmp_path: Path, make_record: Make) -> None:
    other = {"classes": ["a"], "images": [{"image_id": 1, "detections": []}]}
    record = make_record(task="scenes-coco", metric="box_ap")
    record = msgspec.structs.replace(record, outcomes=records.write_json(tmp_path, other))
    records.append(tmp_path / "records" / "r.jsonl", record)
    with pytest.raises(UserError, match="other test images or classes"):
        diagnosis.of_record(tmp_path, record.run_id, scenes_root)
    plain = make_record(name="b")
    records.append(tmp_path / "records" / "r.jsonl", plain)
    with pytest.raises(UserError, match="keeps no detections"):
        diagnosis.of_record(tmp_path, plain.run_id, scenes_root)
