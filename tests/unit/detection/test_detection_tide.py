"""Types of error: the values of TIDE's authors, each type by hand, and what resampling and pairing rest on."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import registered
from test_detection_evaluation import noisy

from eval.detection import tide
from eval.detection.data import DetectionData
from eval.detection.evaluate import evaluate
from eval.detection.tide import Errors, judge, shares

HERE = Path(__file__).resolve().parents[2] / "golden"
GOLDEN = json.loads((HERE / "tide.json").read_text())
CLASSES = tuple("abcd")
SQUARE, BESIDE, FAR = [10.0, 10.0, 20.0, 20.0], [20.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]


def judged(images: list[dict[str, Any]], *, threshold: float = 0.5, masks: bool = False) -> Errors:
    each = [judge(one["found"], one["objects"], threshold=threshold, masks=masks) for one in images]
    return Errors(CLASSES, each, threshold, masks)


def once(found: Errors) -> dict[str, float]:
    """The values with every image counted once."""
    return {name: float(v[0]) for name, v in found.values(np.ones((1, len(found.images)))).items()}


@pytest.mark.parametrize(
    "case", GOLDEN["found"], ids=lambda c: f"{c['scene']}, {c['kind']}, {c['threshold']}".replace(" ", "-")
)
def test_values_are_those_of_the_authors(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # tidecv reads precision at x / 100, COCO's own code at the floats of linspace, of which ten are an ulp above.
    monkeypatch.setattr(tide, "COCO_POINTS", np.array([x / 100 for x in range(101)]))
    scene = GOLDEN["scenes"][case["scene"]]
    found = judged(scene, threshold=case["threshold"], masks=case["kind"] == "mask")
    values = once(found)
    assert 100 * values["ap"] == pytest.approx(case["ap"], abs=1e-9)
    for name, gain in case["gains"].items():
        assert 100 * values[name] == pytest.approx(gain, abs=1e-9), name
    kinds = np.concatenate([image.kind for image in found.images])
    # tidecv also counts wrong detections inside crowds, which cost nothing.
    with_crowds = {name: int((kinds == name).sum()) for name in tide.TYPES[:-1]}
    assert with_crowds | {"missed": found.counts["missed"]} == case["counts"]


def test_the_golden_scenes_have_all_that_can_go_wrong() -> None:
    crowded = judged(GOLDEN["scenes"]["crowds"])
    assert sum(int(image.ignored.sum()) for image in crowded.images) > 5
    assert all(count > 0 for count in crowded.counts.values())
    assert any(not image["found"] and image["objects"] for image in GOLDEN["scenes"]["one of each"])
    scores = [each["score"] for image in GOLDEN["scenes"]["tied"] for each in image["found"]]
    assert len(set(scores)) < len(scores) / 5


@pytest.mark.peers
def test_the_authors_code_gives_the_golden_values() -> None:
    if not (Path(os.environ.get("MAST_PEERS", "")) / "tidecv" / "tidecv").is_dir():
        pytest.skip("needs tidecv in the folder tidecv of MAST_PEERS")
    spec = importlib.util.spec_from_file_location("make_tide", HERE / "make_tide.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.scenes() == GOLDEN["scenes"]
    again = make.values()
    assert again.pop("tidecv") == GOLDEN["tidecv"]
    for one, kept in zip(again["found"], GOLDEN["found"], strict=True):
        assert one["counts"] == kept["counts"]
        assert one["gains"] == pytest.approx(kept["gains"], abs=1e-9)
        assert one["ap"] == pytest.approx(kept["ap"], abs=1e-9)


def thing(category: int, box: list[float], score: float = 0.9, ignored: bool = False) -> dict[str, Any]:
    return {"category": category, "bbox": box, "score": score, "ignored": ignored}


@pytest.mark.parametrize(
    ("objects", "found", "kinds"),
    [
        ([thing(0, SQUARE)], [thing(0, SQUARE)], ["hit"]),
        ([thing(0, SQUARE)], [thing(1, SQUARE)], ["classification"]),
        ([thing(0, SQUARE)], [thing(0, BESIDE)], ["localisation"]),
        ([thing(0, SQUARE)], [thing(1, BESIDE)], ["both"]),
        ([thing(0, SQUARE)], [thing(0, FAR)], ["background"]),
        ([], [thing(0, FAR)], ["background"]),
        ([thing(0, SQUARE)], [thing(0, SQUARE), thing(0, SQUARE, 0.8)], ["hit", "duplicate"]),
        ([thing(0, SQUARE)], [thing(0, SQUARE, 0.8), thing(0, BESIDE)], ["localisation", "hit"]),
    ],
)
def test_each_type_by_hand(objects: list[Any], found: list[Any], kinds: list[str]) -> None:
    assert judge(found, objects).kind.tolist() == kinds


def test_an_object_is_missed_only_if_no_detection_could_be_mended_to_it() -> None:
    truth = [thing(0, SQUARE), thing(1, FAR)]
    assert judge([thing(0, BESIDE)], truth).missed.tolist() == [False, True]
    assert judge([], truth).missed.tolist() == [True, True]


def test_only_the_best_of_several_errors_is_mended_to_one_object() -> None:
    found = judge([thing(0, BESIDE, 0.5), thing(1, SQUARE, 0.7), thing(0, BESIDE, 0.6)], [thing(0, SQUARE)])
    assert found.kind.tolist() == ["classification", "localisation", "localisation"]
    assert found.mended.tolist() == [0, -1, -1]


def test_a_detector_that_finds_nothing_misses_everything() -> None:
    values = once(judged([{"objects": [thing(0, SQUARE)], "found": []}]))
    assert (values["ap"], values["missed"], values["false_negative"]) == (0.0, 1.0, 1.0)


def test_a_perfect_detector_has_no_errors_and_no_shares() -> None:
    found = judged([{"objects": [thing(0, SQUARE)], "found": [thing(0, SQUARE)]}] * 3)
    values = found.values(np.ones((1, 3)))
    assert {name: float(v[0]) for name, v in values.items()} == {"ap": 1.0} | dict.fromkeys(
        (*tide.TYPES, *tide.SUMS), 0.0
    )
    assert all(np.isnan(v).all() for v in shares(values).values())


def test_a_class_without_objects_does_not_count() -> None:
    images = [{"objects": [thing(0, SQUARE)], "found": [thing(0, SQUARE), thing(3, FAR)]}]
    assert once(judged(images))["ap"] == 1.0


@pytest.mark.parametrize("masks", [False, True])
def test_precision_is_the_one_that_is_reported(scenes_root: Path, tmp_path: Path, masks: bool) -> None:
    """With crowds, on predictions of every kind: the same number as COCO's own code gives."""
    data = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    predictions = noisy(data, 0)
    metrics = evaluate(predictions, data, masks=True).metrics
    for threshold, name in ((0.5, "ap50"), (0.75, "ap75")):
        values = once(tide.find(predictions, data, threshold=threshold, masks=masks))
        assert values["ap"] == pytest.approx(metrics[f"{'mask' if masks else 'box'}_{name}"], abs=1e-12)


def test_whole_numbers_as_weights_are_images_repeated() -> None:
    scene = GOLDEN["scenes"]["crowds"]
    counts = np.random.default_rng(0).integers(0, 3, len(scene))
    weighted = judged(scene).values(counts[None].astype(float))
    repeated = judged([image for image, count in zip(scene, counts, strict=True) for _ in range(count)])
    for name, value in once(repeated).items():
        assert float(weighted[name][0]) == pytest.approx(value, abs=1e-12), name


def test_resamples_pair_and_spread_as_much_as_images_do() -> None:
    first, second = (judged(GOLDEN["scenes"][name]) for name in ("plain", "crowds"))
    again = judged(GOLDEN["scenes"]["plain"])
    drawn, twice = first.resampled(60), again.resampled(60)
    assert all(np.array_equal(drawn[name], twice[name]) for name in drawn)
    assert not np.array_equal(drawn["ap"], second.resampled(60)["ap"])
    assert 0.01 < drawn["missed"].std() < 0.2
    assert np.sum(list(shares(drawn).values()), axis=0) == pytest.approx(np.ones(60))


def test_confusion_by_hand() -> None:
    images = [
        {"objects": [thing(0, SQUARE)], "found": [thing(0, SQUARE)]},
        {"objects": [thing(0, SQUARE)], "found": [thing(1, SQUARE), thing(0, SQUARE, 0.5)]},
        {"objects": [thing(2, SQUARE)], "found": [thing(2, FAR)]},
        {"objects": [thing(3, SQUARE)], "found": [thing(3, SQUARE, 0.1)]},
        {"objects": [thing(3, SQUARE, ignored=True)], "found": [thing(3, SQUARE)]},
    ]
    table = judged(images).confusion(0.3)
    expected = np.zeros((5, 5), dtype=int)
    expected[0, 0] = expected[0, 1] = 1  # the better detection takes the object
    expected[4, 0] = 1  # the other is on nothing
    expected[2, 4] = expected[4, 2] = 1
    expected[3, 4] = 1  # found with too low a score
    assert table.tolist() == expected.tolist()


def test_confusion_is_hotcocos() -> None:
    hotcoco = pytest.importorskip("hotcoco", reason="needs the extra fast")
    scene = GOLDEN["scenes"]["plain"]
    kept = ("bbox", "score")
    truth: dict[str, Any] = {
        "images": [{"id": one["image"] + 1, "width": 100, "height": 100} for one in scene],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [
            {"image_id": one["image"] + 1, "category_id": each["category"] + 1, "bbox": each["bbox"]}
            | {"area": each["bbox"][2] * each["bbox"][3], "iscrowd": 0}
            for one in scene
            for each in one["objects"]
        ],
    }
    for number, each in enumerate(truth["annotations"]):
        each["id"] = number + 1
    found = [
        {
            "image_id": one["image"] + 1,
            "category_id": each["category"] + 1,
            **{key: each[key] for key in kept},
        }
        for one in scene
        for each in one["found"]
    ]
    api = hotcoco.COCO(truth)
    theirs = hotcoco.COCOeval(api, api.load_res(found), "bbox").confusion_matrix(iou_thr=0.5, min_score=0.3)
    assert judged(scene).confusion(0.3).tolist() == theirs["matrix"].tolist()


def test_worst_images_come_first() -> None:
    images = [
        {"objects": [thing(0, SQUARE)], "found": [thing(0, SQUARE)]},
        {"objects": [thing(0, SQUARE)], "found": [thing(0, FAR), thing(1, FAR)]},
        {"objects": [], "found": [thing(0, FAR), thing(1, FAR, 0.1)]},
    ]
    assert judged(images).worst(0.3) == [(1, 3), (2, 1)]


def test_difficult_objects_of_voc_are_ignored(scenes_root: Path, tmp_path: Path) -> None:
    data: DetectionData = registered("scenes-voc", scenes_root, tmp_path)
    objects = [each for entry in data.test.dicts for each in tide.truth_of(entry, data, False)]
    told = [each.difficult for those in (data.test.objects or {}).values() for each in those]
    assert [each["ignored"] for each in objects] == told
    assert len(objects) == sum(len(entry["annotations"]) for entry in data.test.dicts)
