"""``mast score``: ground truth fed back is perfect, and what has no right reading is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as runs

from eval.cli.entry import main
from eval.detection.data import prepare
from eval.detection.score import score
from eval.doctor.data import verify
from eval.errors import UserError


@pytest.fixture
def root(scenes_root: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    for folder in ("VOC2007", "coco"):
        shutil.copytree(scenes_root / folder, copy / folder)
    shutil.copy(scenes_root / "SCENES.json", copy)
    return copy


def coco_truth(root: Path, masks: bool) -> list[dict[str, Any]]:
    """The objects of a COCO test file as a detector would report them."""
    content = json.loads((root / "coco/annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found = []
    for each in content["annotations"]:
        if each["iscrowd"]:
            continue
        entry = {key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        if masks:
            packed = runs.frPyObjects(each["segmentation"], *sizes[each["image_id"]])
            packed = runs.merge(packed) if isinstance(packed, list) else packed
            entry["segmentation"] = {"size": packed["size"], "counts": packed["counts"].decode()}
        found.append(entry)
    return found


def voc_truth(root: Path) -> list[dict[str, Any]]:
    data = prepare("scenes-voc", root, masks=False)
    return [
        {
            "image_id": entry["image_id"],
            "category_id": each["category_id"] + 1,
            "bbox": [
                each["bbox"][0],
                each["bbox"][1],
                each["bbox"][2] - each["bbox"][0],
                each["bbox"][3] - each["bbox"][1],
            ],
            "score": 0.9,
        }
        for entry in data.test.dicts
        for each in entry["annotations"]
    ]


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("first", [1, 0])
def test_coco_truth_fed_back_is_perfect_whatever_the_annotations_count_from(
    root: Path, tmp_path: Path, masks: bool, first: int
) -> None:
    file = root / "coco/annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    for place, each in enumerate(content["annotations"]):
        each["id"] = place + first
    file.write_text(json.dumps(content))
    found = score(write(tmp_path / "p.json", coco_truth(root, masks)), "scenes-coco", root)
    for name, value in found.metrics.items():
        if "_ap" in name:
            assert value == pytest.approx(1.0), name
            assert found.intervals[name].high == 1.0  # type: ignore[union-attr]
    assert ("mask_ap" in found.metrics) is masks


def test_voc_truth_fed_back_is_perfect_by_number_and_by_name(root: Path, tmp_path: Path) -> None:
    entries = voc_truth(root)
    classes = prepare("scenes-voc", root, masks=False).classes
    for entry in entries[::2]:
        entry["category"] = classes[entry.pop("category_id") - 1]
    found = score(write(tmp_path / "p.json", entries), "scenes-voc", root)
    assert {name: value for name, value in found.metrics.items() if value != pytest.approx(1.0)} == {}


def test_boxes_shifted_by_two_pixels_are_worth_less(root: Path, tmp_path: Path) -> None:
    entries = coco_truth(root, False)
    for entry in entries:
        entry["bbox"][0] += 2
    found = score(write(tmp_path / "p.json", entries), "scenes-coco", root)
    assert found.metrics["box_ap"] < found.metrics["box_ap50"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, "image 3 is not in the test split"),
        ({"category_id": 99}, "category 99 is not known"),
        ({"category_id": None}, "category None is not known"),
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]"),
        ({"bbox": [1, 2, -3, 4]}, "bbox is [1, 2, -3, 4]"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox is [1, 2, nan, 4]"),
        ({"score": "high"}, "score is 'high'"),
        ({"score": float("inf")}, "score is inf"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6]]}, "the mask is not run lengths"),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, "run lengths are for [2, 2]"),
    ],
)
def test_predictions_without_one_right_reading_are_refused(
    root: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    entries = coco_truth(root, False)
    entries[1] |= change
    with pytest.raises(UserError) as caught:
        score(write(tmp_path / "p.json", entries), "scenes-coco", root)
    assert message in str(caught.value)
    assert "p.json, detection 2" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_what_is_no_list_of_detections_is_refused(root: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match=r"p\.json is not"):
        score(tmp_path / "p.json", "scenes-coco", root)


def test_boxes_in_shares_of_the_sides_are_refused(root: Path, tmp_path: Path) -> None:
    entries = [{**entry, "bbox": [0.1, 0.2, 0.3, 0.4]} for entry in coco_truth(root, False)]
    with pytest.raises(UserError, match="no box reaches beyond one pixel"):
        score(write(tmp_path / "p.json", entries), "scenes-coco", root)


def test_boxes_beyond_their_pictures_and_doubled_detections_are_counted(root: Path, tmp_path: Path) -> None:
    entries = coco_truth(root, False)
    entries += [entries[0], {**entries[1], "bbox": [0, 0, 9000, 5]}]
    warnings = score(write(tmp_path / "p.json", entries), "scenes-coco", root).data.warnings
    assert ["stand twice" in line for line in warnings] == [True, False]
    assert ["far beyond their pictures" in line for line in warnings] == [False, True]


@pytest.mark.parametrize("named", [True, False])
def test_a_test_split_alone_is_measured_on_and_not_trained_on(
    root: Path, tmp_path: Path, named: bool
) -> None:
    folder = root / "coco"
    for left in (
        folder / "annotations/instances_train2017.json",
        root / "VOC2007/ImageSets/Main/trainval.txt",
    ):
        left.unlink()
    images = f",{folder / 'val2017'}" if named else ""
    file = folder / "annotations/instances_val2017.json"
    place = f"coco:{file if named else shutil.copy(file, folder / 'val2017/any.json')}{images}"
    found = score(write(tmp_path / "p.json", coco_truth(root, False)), place, Path())
    assert found.metrics["box_ap"] == pytest.approx(1.0)
    assert (found.data.counts["train_images"], found.data.counts["test_images"]) == (0, 8)
    with pytest.raises(UserError, match="nothing to train on"):
        prepare(place, Path(), masks=False)
    place = f"voc:{root / 'VOC2007'},test"
    data = prepare(place, Path(), masks=False, train=False)
    assert len(data.test.dicts) == 8
    assert verify(place, root)["ok"]


def test_no_detection_at_all_is_worth_nothing(root: Path, tmp_path: Path) -> None:
    assert score(write(tmp_path / "p.json", []), "scenes-coco", root).metrics["box_ap"] == 0


def test_the_verb_prints_a_table_or_json(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "p.json", coco_truth(root, False))
    call: Callable[..., int] = lambda *more: main(  # noqa: E731
        ["score", str(file), "--data", "scenes-coco", "--data-root", str(root), *more]
    )
    assert call() == 0
    assert "| box_ap | 100.0 | [91.7, 100.0] |" in capsys.readouterr().out
    assert call("--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["box_ap"] == pytest.approx(1.0)
