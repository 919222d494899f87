"""The metrics are right: perfect for the truth, equal to the references on noise, equal to hand calculations."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import registered
from detectron2.evaluation.pascal_voc_evaluation import voc_ap
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval.detection import evaluate as module
from eval.detection.average_precision import AREA, COCO_POINTS, VOC_POINTS, Curve, Matches
from eval.detection.data import DetectionData, prepare, register
from eval.detection.evaluate import evaluate
from eval.detection.intervals import intervals, paired
from eval.numbers.intervals import Interval, NoInterval
from eval.results.records import Metric


@pytest.fixture(scope="module")
def coco(scenes_root: Path) -> DetectionData:
    return prepare("scenes-coco", scenes_root, masks=True)


@pytest.fixture
def coco_data(coco: DetectionData, tmp_path: Path) -> DetectionData:
    register(coco, tmp_path)
    return coco


@pytest.fixture
def voc_data(scenes_root: Path, tmp_path: Path) -> DetectionData:
    return registered("scenes-voc", scenes_root, tmp_path)


def truth(data: DetectionData) -> list[dict[str, Any]]:
    """The test split's own annotations as predictions, crowds left out."""
    predictions = []
    for entry in data.test.dicts:
        found = []
        for a in entry["annotations"]:
            if a.get("iscrowd", 0):
                continue
            box = [float(v) for v in a["bbox"]]
            if data.layout == "voc":
                box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            detection = {"category": a["category_id"], "bbox": box, "score": 0.9}
            if "segmentation" in a:
                rle = a["segmentation"]
                if isinstance(rle, list):
                    rle = mask_util.merge(mask_util.frPyObjects(rle, entry["height"], entry["width"]))
                counts = rle["counts"]
                text = counts.decode() if isinstance(counts, bytes) else counts
                detection["segmentation"] = {"size": list(rle["size"]), "counts": text}
            found.append(detection)
        predictions.append({"image_id": entry["image_id"], "detections": found})
    return predictions


def noisy(data: DetectionData, seed: int = 0) -> list[dict[str, Any]]:
    """The truth, moved, doubled, lost and mislabelled."""
    rng = np.random.default_rng(seed)
    predictions = []
    for prediction in truth(data):
        found = []
        for detection in prediction["detections"]:
            for _ in range(int(rng.integers(0, 4))):
                moved = dict(detection)
                moved["bbox"] = (np.array(detection["bbox"]) + rng.normal(0, 3, 4)).clip(1, 120).tolist()
                moved["score"] = float(rng.random())
                if rng.random() < 0.2:
                    moved["category"] = int(rng.integers(len(data.classes)))
                found.append(moved)
        predictions.append({**prediction, "detections": found})
    return predictions


def test_truth_scores_100_on_coco(coco_data: DetectionData) -> None:
    metrics = evaluate(truth(coco_data), coco_data, masks=True).metrics
    areas = {
        "small" if a["area"] < 32**2 else "medium" if a["area"] < 96**2 else "large"
        for a in json.loads(coco_data.test.sources[0][0].read_text())["annotations"]
        if not a["iscrowd"]
    }
    assert len(areas) >= 2
    expected = {"ap", "ap50", "ap75", "ar100", *(f"ap_{a}" for a in areas), *(f"ar_{a}" for a in areas)}
    for kind in ("box", "mask"):
        for name in expected:
            assert metrics[f"{kind}_{name}"] == pytest.approx(1.0, abs=1e-12), f"{kind}_{name}"
    undefined = {"small", "medium", "large"} - areas
    assert not any(f"{kind}_ap_{a}" in metrics for kind in ("box", "mask") for a in undefined)


def test_truth_scores_100_on_voc(voc_data: DetectionData) -> None:
    metrics = evaluate(truth(voc_data), voc_data, masks=False).metrics
    names = [f"box_{name}{how}" for name in ("ap", "ap50", "ap75") for how in ("", "_area")]
    assert metrics == {name: pytest.approx(1.0, abs=1e-12) for name in names}


def test_one_wrong_label_costs_something(coco_data: DetectionData, voc_data: DetectionData) -> None:
    predictions = truth(voc_data)
    first = next(p for p in predictions if p["detections"])["detections"][0]
    first["category"] = (first["category"] + 1) % len(voc_data.classes)
    assert evaluate(predictions, voc_data, masks=False).metrics["box_ap50"] < 1


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_scores_what_pycocotools_says(coco_data: DetectionData, seed: int) -> None:
    predictions = noisy(coco_data, seed)
    evaluation = evaluate(predictions, coco_data, masks=True)
    ids = coco_data.test.dicts[0]["category_ids"]
    back = {new: old for old, new in ids.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(str(coco_data.test.sources[0][0]))
        for kind, task in (("box", "bbox"), ("mask", "segm")):
            found = []
            for p in predictions:
                for d in p["detections"]:
                    shape = {"bbox": d["bbox"]} if task == "bbox" else {"segmentation": d["segmentation"]}
                    found.append(
                        {
                            "image_id": p["image_id"],
                            "category_id": back[d["category"]],
                            "score": d["score"],
                            **shape,
                        }
                    )
            reference = COCOeval(gt, gt.loadRes(found), task)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
            names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
            names += ["ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"]
            for name, value in zip(names, reference.stats, strict=True):
                if value < 0:
                    assert f"{kind}_{name}" not in evaluation.metrics
                else:
                    assert evaluation.metrics[f"{kind}_{name}"] == pytest.approx(value, abs=1e-12)
    # What the intervals resample is the same metric.
    for name, curve in evaluation.curves.items():
        assert curve.value() == pytest.approx(evaluation.metrics[name], abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_hotcoco_gives_every_number_of_pycocotools(
    coco_data: DetectionData, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twelve numbers, those of each class, and every match, with tied scores, crowds and empty images."""
    pytest.importorskip("hotcoco", reason="needs the extra fast")
    predictions = noisy(coco_data, seed)
    for prediction in predictions[1:]:
        for detection in prediction["detections"]:
            detection["score"] = round(detection["score"], 1)
    predictions[0]["detections"] = []
    found = {}
    for name in ("pycocotools", "hotcoco"):
        monkeypatch.setattr(module, "coco_evaluator", lambda name=name: name)
        found[name] = evaluate(predictions, coco_data, masks=True)
    reference, fast = found.values()
    assert len(reference.metrics) >= 18
    assert fast.metrics == reference.metrics
    assert fast.per_class == reference.per_class
    for name, curve in reference.curves.items():
        for ours, theirs in zip(fast.curves[name].classes, curve.classes, strict=True):
            for part in ("image", "hit", "ignored", "positives"):
                assert np.array_equal(getattr(ours, part), getattr(theirs, part)), (name, part)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_voc_matches_give_detectron2s_number(voc_data: DetectionData, seed: int) -> None:
    evaluation = evaluate(noisy(voc_data, seed), voc_data, masks=False)
    assert 0 < evaluation.metrics["box_ap"] < 1
    for name, curve in evaluation.curves.items():
        assert curve.value() == pytest.approx(evaluation.metrics[name], abs=1e-12)


def test_nothing_found_is_zero_not_undefined(
    coco_data: DetectionData, scenes_root: Path, tmp_path: Path
) -> None:
    nothing = [{"image_id": d["image_id"], "detections": []} for d in coco_data.test.dicts]
    metrics = evaluate(nothing, coco_data, masks=True).metrics
    assert metrics["box_ap"] == metrics["mask_ap"] == metrics["box_ap50"] == 0
    data = registered("scenes-voc", scenes_root, tmp_path)
    nothing = [{"image_id": d["image_id"], "detections": []} for d in data.test.dicts]
    assert set(evaluate(nothing, data, masks=False).metrics.values()) == {0.0}


def hand_case(tmp_path: Path, objects: list[tuple[str, tuple[int, int, int, int], int]]) -> DetectionData:
    """A VOC folder whose test image a holds the objects and b none; train holds one of each class."""
    from PIL import Image

    root = tmp_path / "hand"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    names = {"a": objects, "b": [], "c": objects[:1], "d": []}
    for position, (name, boxes) in enumerate(names.items()):
        Image.new("RGB", (200, 200), (position, 0, 0)).save(root / "JPEGImages" / f"{name}.jpg")
        text = "".join(
            f"<object><name>{label}</name><pose>x</pose><truncated>0</truncated><difficult>{hard}</difficult>"
            f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for label, (x0, y0, x1, y1), hard in boxes
        )
        size = "<size><width>200</width><height>200</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{text}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("a\nb\n")
    (root / "ImageSets/Main/trainval.txt").write_text("c\nd\n")
    return registered("voc:hand", tmp_path, tmp_path)


def boxes(*found: tuple[tuple[float, float, float, float], float]) -> list[dict[str, Any]]:
    """Detections in image a from 1-based corners and scores."""
    detections = [
        {"category": 0, "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1], "score": score}
        for (x0, y0, x1, y1), score in found
    ]
    return [{"image_id": "a", "detections": detections}, {"image_id": "b", "detections": []}]


def test_voc_by_hand(tmp_path: Path) -> None:
    """Three objects, one of them difficult. Best first: hit, duplicate, hit on the difficult one, miss, hit.

    The difficult one counts for nothing, so true and false positives run 1/0, 1/1, 1/1, 1/2, 2/2 over two
    objects: precision 1 up to recall 1/2 (six of the eleven points), 2/4 up to recall 1 (five): (6 + 2.5) / 11.
    The area under the same steps is 1/2 * 1 + 1/2 * 2/4.
    """
    data = hand_case(
        tmp_path, [("x", (1, 1, 40, 40), 0), ("x", (100, 100, 140, 140), 0), ("x", (1, 100, 40, 140), 1)]
    )
    found = boxes(
        ((1, 1, 40, 40), 0.9),
        ((2, 1, 40, 40), 0.8),
        ((1, 100, 40, 140), 0.7),
        ((60, 60, 80, 80), 0.6),
        ((100, 100, 140, 140), 0.5),
    )
    evaluation = evaluate(found, data, masks=False)
    assert evaluation.metrics["box_ap50"] == pytest.approx((6 + 5 * 0.5) / 11)
    assert evaluation.metrics["box_ap50_area"] == pytest.approx(0.75)
    assert evaluation.per_class["box_ap50"] == {"x": pytest.approx((6 + 5 * 0.5) / 11)}


def test_twelve_boxes_by_hand(scenes_root: Path, tmp_path: Path) -> None:
    """Four objects of one class in two images, twelve detections, all of them exact, half a box off, or far away.

    Best first, with the overlap of each: hit 1, hit 1, far, duplicate 1, 3/5, far, hit 1, far x 5. The 3/5 one
    (40 x 40 moved by 10: 30 of 50) is a hit at 0.50, 0.55 and 0.60, for on COCO an overlap equal to it counts.
    Hits at ranks 1, 2, 5, 7 up to 0.60: precisions 1, 1, 3/5, 4/7 at recalls 1/4 .. 1. Of the 101 points 51 lie at
    recall up to 1/2, 25 up to 3/4, 25 up to 1. Above 0.60: ranks 1, 2, 7 at recalls 1/4, 1/2, 3/4 and precision 3/7
    for the last 25 points reached.
    """
    from PIL import Image

    def square(x: int, y: int) -> list[float]:
        return [float(x), float(y), 40.0, 40.0]

    objects = {1: [square(0, 0), square(100, 0)], 2: [square(0, 100), square(100, 100)]}
    root = tmp_path / "hand" / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, shade in (("train2017", 1), ("val2017", 2)):
        (root / split).mkdir()
        images, annotations = [], []
        for number, found in objects.items():
            Image.new("RGB", (200, 200), (shade, number, 0)).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 200})
            for box in found:
                identity = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
                annotations.append({**identity, "bbox": box, "area": 1600.0, "iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    data = registered("coco:coco", tmp_path / "hand", tmp_path)
    far = square(150, 150)
    ranked = [
        (1, square(0, 0)), (2, square(0, 100)), (1, far), (1, square(0, 0)), (1, square(110, 0)), (2, far),
        (2, square(100, 100)), (1, far), (2, far), (1, far), (2, far), (1, far),
    ]  # fmt: skip
    predictions = [
        {
            "image_id": image,
            "detections": [
                {"category": 0, "bbox": box, "score": 0.9 - 0.05 * rank}
                for rank, (where, box) in enumerate(ranked)
                if where == image
            ],
        }
        for image in objects
    ]
    metrics = evaluate(predictions, data, masks=False).metrics
    low = (51 * 1 + 25 * 3 / 5 + 25 * 4 / 7) / 101
    high = (51 * 1 + 25 * 3 / 7) / 101
    assert metrics["box_ap50"] == pytest.approx(low)
    assert metrics["box_ap75"] == pytest.approx(high)
    assert metrics["box_ap"] == pytest.approx((3 * low + 7 * high) / 10)
    assert metrics["box_ar1"] == pytest.approx(2 / 4)  # the best of each image is right
    assert metrics["box_ar100"] == pytest.approx((3 * 4 / 4 + 7 * 3 / 4) / 10)


def test_voc_overlap_counts_whole_pixels_and_must_exceed_its_threshold(tmp_path: Path) -> None:
    """A 10-pixel-wide box against its 5-pixel-wide half overlaps by exactly one half, which is not over 0.5."""
    data = hand_case(tmp_path, [("x", (1, 1, 10, 10), 0)])
    half = evaluate(boxes(((1, 1, 5, 10), 0.9)), data, masks=False)
    assert half.metrics["box_ap50"] == 0
    more = evaluate(boxes(((1, 1, 6, 10), 0.9)), data, masks=False)
    assert more.metrics["box_ap50"] == pytest.approx(1)
    assert more.metrics["box_ap75"] == 0
    assert more.metrics["box_ap"] == pytest.approx(2 / 10)  # 0.6 exceeds 0.50 and 0.55


def test_classes_without_a_test_object_are_left_out(tmp_path: Path) -> None:
    data = hand_case(tmp_path, [("x", (1, 1, 40, 40), 0), ("y", (60, 60, 90, 90), 1)])
    found = boxes(((1, 1, 40, 40), 0.9))
    found[0]["detections"].append({"category": 1, "bbox": [5, 5, 9, 9], "score": 0.99})
    assert evaluate(found, data, masks=False).metrics["box_ap50"] == pytest.approx(1)


def test_eleven_points_and_area_on_one_curve() -> None:
    """Hits at ranks 1, 3 and 4 of four objects: precisions 1, 2/3, 3/4 at recalls 1/4, 1/2, 3/4."""
    hit = np.array([[True, False, True, True]])
    curve = Curve([Matches(np.zeros(4, dtype=np.int64), hit, ~hit & False, np.array([4]))], (0,), VOC_POINTS)
    by_hand = (3 * 1 + 5 * 0.75 + 3 * 0) / 11  # recalls 0, .1, .2 then .3 to .7 then .8, .9, 1
    assert curve.value() == pytest.approx(by_hand)
    recall, precision = np.array([0.25, 0.25, 0.5, 0.75]), np.array([1, 0.5, 2 / 3, 0.75])
    assert voc_ap(recall, precision, use_07_metric=True) == pytest.approx(by_hand)
    area = Curve(curve.classes, (0,), AREA)
    assert area.value() == pytest.approx(0.25 * 1 + 0.25 * 0.75 + 0.25 * 0.75)
    assert voc_ap(recall, precision, use_07_metric=False) == pytest.approx(area.value())


@pytest.mark.parametrize("points", [VOC_POINTS, COCO_POINTS, AREA], ids=["11", "101", "area"])
def test_a_perfect_detector_is_never_better_than_perfect(points: np.ndarray) -> None:
    """A record takes no fraction above 1, and sums of 11 shares end above it by a rounding."""
    for objects in range(1, 80):
        hit = np.ones((1, objects), dtype=bool)
        image = np.arange(objects, dtype=np.int64)
        one = Matches(image, hit, ~hit, np.ones(objects, dtype=np.int64))
        curve = Curve([one] * (1 + objects % 7), (0,), points)
        assert 1 - 1e-12 < curve.value() <= 1
        assert msgspec.convert({"value": curve.value()}, Metric)


def test_weights_count_an_image_as_often_as_they_say(scenes_root: Path, tmp_path: Path) -> None:
    """Every test image a whole number of times in a real file, scored by pycocotools, against the weights."""
    root = tmp_path / "copy"
    shutil.copytree(scenes_root / "coco", root / "coco")
    shutil.copy(scenes_root / "SCENES.json", root)
    data = registered("scenes-coco", root, tmp_path)
    predictions = noisy(data, 3)
    curves = evaluate(predictions, data, masks=False).curves
    times = np.random.default_rng(0).integers(0, 3, len(predictions))
    file = root / "coco/annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    images, annotations, repeated = [], [], []
    by_id = {p["image_id"]: p for p in predictions}
    order = sorted(i["id"] for i in content["images"])
    for image in content["images"]:
        for copy in range(times[order.index(image["id"])]):
            number = image["id"] * 10 + copy
            name = f"{number}.jpg"  # one file a time that it counts: a file listed twice is refused
            shutil.copy(root / "coco/val2017" / image["file_name"], root / "coco/val2017" / name)
            images.append({**image, "id": number, "file_name": name})
            for a in content["annotations"]:
                if a["image_id"] == image["id"]:
                    annotations.append({**a, "image_id": number, "id": len(annotations) + 1})
            repeated.append({**by_id[image["id"]], "image_id": number})
    file.write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    again = registered("scenes-coco", root, tmp_path)
    expected = evaluate(repeated, again, masks=False).metrics
    for name, curve in curves.items():
        value = curve.values(times[None].astype(float))[0]
        assert value == pytest.approx(expected[name], abs=1e-9), name


def test_intervals_hold_the_value_and_pairs_are_tighter(coco_data: DetectionData) -> None:
    first = evaluate(noisy(coco_data, 0), coco_data, masks=False)
    better = [
        {**p, "detections": p["detections"] + [dict(d, score=0.99) for d in q["detections"]]}
        for p, q in zip(noisy(coco_data, 0), truth(coco_data), strict=True)
    ]
    second = evaluate(better, coco_data, masks=False)
    found = intervals(first.curves, resamples=200)
    assert set(found) == set(first.curves)
    for name, interval in found.items():
        assert isinstance(interval, Interval)
        assert interval.low <= first.metrics[name] <= interval.high
        assert interval.high - interval.low > 0.01
        assert interval.kind == "wilson-bootstrap over test images"
    assert found == intervals(first.curves, resamples=200)
    result = paired(first.curves["box_ap"], second.curves["box_ap"], resamples=200)
    assert isinstance(result.interval, Interval)
    assert result.interval.low > 0
    assert result.difference == pytest.approx(second.metrics["box_ap"] - first.metrics["box_ap"])
    itself = paired(first.curves["box_ap"], first.curves["box_ap"], resamples=50)
    assert (itself.difference, itself.interval) == (
        0,
        NoInterval("the difference is the same on every resample"),
    )
    # Average recall is resampled from what pycocotools counted.
    assert {"box_ar1", "box_ar10", "box_ar100"} <= set(first.curves)
    for name, curve in first.curves.items():
        assert curve.value() == pytest.approx(first.metrics[name], abs=1e-9)


def found_all(objects: int, false: int, missed: int) -> Curve:
    """One class with an object an image; false alarms come before the last hits."""
    hits = np.r_[np.ones(objects - missed - 5), np.zeros(false), np.ones(5)].astype(bool)[None]
    images = np.arange(hits.shape[1]) % objects
    return Curve([Matches(images, hits, np.zeros_like(hits), np.ones(objects, dtype=int))], (0,), COCO_POINTS)


def test_a_missed_object_that_no_resample_shows_is_allowed_for() -> None:
    """By hand: 1,000 objects are found, 1,500 detections reach recall 1, which is one of 101 points."""
    whole, one_less = found_all(1000, 500, 0), found_all(1000, 500, 1)
    assert one_less.unseen() == 0  # its resamples show it
    assert whole.unseen() == pytest.approx(((1 / 101 - 1 / 1000) * 1000 / 1500) ** 2 / 4)
    assert whole.value() - one_less.value() == pytest.approx(2 / 3 / 101, rel=0.01)
    # With few objects each is as much as a point or more, and the area under the curve has no points.
    assert found_all(50, 30, 0).unseen() == 0
    assert Curve(whole.classes, (0,), AREA).unseen() == 0
    two = Curve([*whole.classes, Matches.empty(np.ones(1000, dtype=int), 1)], (0,), COCO_POINTS)
    assert two.unseen() == pytest.approx(whole.unseen() / 4)
    result = paired(one_less, whole, resamples=200)
    assert isinstance(result.interval, Interval)
    half = (result.interval.high - result.interval.low) / 2
    assert half > 1.95 * whole.unseen() ** 0.5
    assert isinstance(paired(whole, whole, resamples=50).interval, NoInterval)


def test_pairs_need_the_same_test_set() -> None:
    def curve(positives: list[int]) -> Curve:
        return Curve([Matches.empty(np.array(positives), 1)], (0,), VOC_POINTS)

    with pytest.raises(ValueError, match="same test images"):
        paired(curve([1, 0]), curve([0, 1]))
