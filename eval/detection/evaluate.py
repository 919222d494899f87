"""Predictions against ground truth: Detectron2's evaluators give the numbers, kept matches give their spread."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    coco_evaluation,
    pascal_voc_evaluation,
)
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

from ..datasets.voc import VocObject
from .average_precision import AREA, COCO_POINTS, VOC_POINTS, Curve, Matches, Recall
from .data import DetectionData

Prediction = dict[str, Any]  # {"image_id", "detections": [{"category", "bbox": x y w h, "score", ...}]}

_COCO_NAMES = {"bbox": "box", "segm": "mask"}
_AP = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"}
_AR = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
_AREAS = ("", "_small", "_medium", "_large")
VOC_IOUS = tuple(range(50, 100, 5))


@dataclass
class Evaluation:
    """The numbers of one set of predictions.

    Attributes:
        metrics: Fractions in 0..1; what is undefined (no object of that size) is left out.
        per_class: Metric -> class -> fraction, likewise.
        curves: Metric -> what `intervals` resamples.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: dict[str, Curve | Recall]


class Collector(DatasetEvaluator):
    """Keeps what a model predicts, in plain values: boxes to a hundredth of a pixel, scores to a millionth.

    What is measured is what is kept, so that it can be measured again.
    """

    def reset(self) -> None:
        """Forget everything."""
        self.predictions: list[Prediction] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add a batch."""
        for source, output in zip(inputs, outputs, strict=True):
            found = instances_to_coco_json(output["instances"].to("cpu"), source["image_id"])
            for detection in found:
                del detection["image_id"]
                detection["category"] = detection.pop("category_id")
                detection["bbox"] = [round(value, 2) for value in detection["bbox"]]
                detection["score"] = round(detection["score"], 6)
            self.predictions.append({"image_id": source["image_id"], "detections": found})

    def evaluate(self) -> dict[str, Any]:
        """Nothing yet: `evaluate` of this module does it, from the kept predictions."""
        return {}


def evaluate(predictions: Sequence[Prediction], data: DetectionData, *, masks: bool) -> Evaluation:
    """Score predictions on the test split with the metric of its layout.

    Args:
        predictions: One entry for each test image; ``category`` counts from 0 in the order of the classes,
            ``bbox`` is x, y, width, height in pixels, ``segmentation`` COCO's compressed run lengths.
        data: The data set, which `register` has entered in Detectron2's catalogs.
        masks: Whether masks are measured too.

    Returns:
        COCO: ``box_ap``, ``box_ap50``, ``box_ap75``, ``box_ap_{small,medium,large}``, ``box_ar{1,10,100}``,
        ``box_ar_{small,medium,large}`` and the same with ``mask_``. VOC: ``box_ap``, ``box_ap50``, ``box_ap75``
        by the 11-point metric of VOC 2007, and the same ending in ``_area`` by VOC's later one.
    """
    if data.layout == "voc":
        return _evaluate_voc(predictions, data)
    return _evaluate_coco(predictions, data, masks)


def coco_evaluator() -> str:
    """What computes COCO's numbers: ``hotcoco`` where it is installed, else ``pycocotools``, the reference."""
    return "pycocotools" if importlib.util.find_spec("hotcoco") is None else "hotcoco"


def _hotcoco(truth: Any, found: Any, task: str) -> Any:
    """hotcoco's COCOeval over what pycocotools has read; every number and match is the same."""
    import hotcoco

    return hotcoco.COCOeval(hotcoco.COCO(truth.dataset), hotcoco.COCO(found.dataset), task)


class _Coco(COCOEvaluator):
    """COCOEvaluator over kept predictions, with all twelve numbers and COCOeval's matches."""

    def __init__(self, masks: bool) -> None:
        tasks = ("bbox", "segm") if masks else ("bbox",)
        super().__init__("test", tasks=tasks, distributed=False, use_fast_impl=False)
        self.evals: dict[str, Any] = {}

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> Any:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names=class_names)
        if coco_eval is not None:
            self.evals[iou_type] = coco_eval
            results.update({name: value * 100 for name, value in zip(_AR, coco_eval.stats[6:], strict=True)})
        return results


def _evaluate_coco(predictions: Sequence[Prediction], data: DetectionData, masks: bool) -> Evaluation:
    coco = _Coco(masks)
    coco.reset()
    for prediction in predictions:
        image_id = prediction["image_id"]
        found = [
            {
                **{k: v for k, v in d.items() if k != "category"},
                "category_id": d["category"],
                "image_id": image_id,
            }
            for d in prediction["detections"]
        ]
        coco._predictions.append({"image_id": image_id, "instances": found})
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if coco_evaluator() == "hotcoco":
            stack.enter_context(mock.patch.object(coco_evaluation, "COCOeval", _hotcoco))
        results = coco.evaluate()
    image_ids = sorted(entry["image_id"] for entry in data.test.dicts)
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    curves: dict[str, Curve | Recall] = {}
    for task in ("bbox", "segm") if masks else ("bbox",):
        prefix = _COCO_NAMES[task]
        if task not in coco.evals:  # pycocotools cannot score an empty list; it is worth 0
            coco.evals[task] = _empty_eval(coco._coco_api, task)
        found_curves = _coco_curves(coco.evals[task], image_ids)
        curves.update({prefix + name: curve for name, curve in found_curves.items()})
        if not any(prediction["detections"] for prediction in predictions):
            defined = {name: curve.value() for name, curve in found_curves.items()}
            metrics.update({f"{prefix}_{n[1:]}": v for n, v in defined.items() if not math.isnan(v)})
            continue
        for name, value in results[task].items():
            if name.startswith("AP-"):
                if not math.isnan(value):
                    per_class.setdefault(f"{prefix}_ap", {})[name[3:]] = value / 100
            elif not math.isnan(value) and value >= 0:
                metrics[f"{prefix}_{_AP.get(name, name)}"] = float(value) / 100
    return Evaluation(metrics, per_class, {name: c for name, c in curves.items() if name in metrics})


def _empty_eval(coco: Any, task: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    nothing = COCO()
    nothing.dataset = {**coco.dataset, "annotations": []}
    with contextlib.redirect_stdout(io.StringIO()):
        nothing.createIndex()
        coco_eval = COCOeval(coco, nothing, task)
        coco_eval.evaluate()
    return coco_eval


def _coco_curves(coco_eval: Any, image_ids: Sequence[int]) -> dict[str, Curve | Recall]:
    """COCOeval's matches by class: ``_ap``, ``_ap50``, ``_ap_small``, ..., ``_ar1``, ..., ``_ar_small``, ..."""
    params = coco_eval.params
    place = {image_id: i for i, image_id in enumerate(image_ids)}
    groups: dict[tuple[int, tuple[float, ...]], list[Any]] = defaultdict(list)
    for found in coco_eval.evalImgs:
        if found is not None:
            groups[found["category_id"], tuple(map(float, found["aRng"]))].append(found)
    by_area: dict[str, list[Matches]] = {area: [] for area in _AREAS}
    found_by: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in _AR}
    for category in params.catIds:
        for area, limits in zip(_AREAS, params.areaRng, strict=True):
            evals = sorted(groups[category, tuple(map(float, limits))], key=lambda e: place[e["image_id"]])
            positives = np.zeros(len(image_ids), dtype=np.int64)
            for e in evals:
                positives[place[e["image_id"]]] = int(np.sum(np.asarray(e["gtIgnore"]) == 0))
            for name, limit in _recalls(area, params.maxDets):
                hits = np.zeros((len(params.iouThrs), len(image_ids)), dtype=np.int64)
                for e in evals:  # detections of an image are sorted by score
                    right = (np.asarray(e["dtMatches"]) > 0) & ~np.asarray(e["dtIgnore"]).astype(bool)
                    hits[:, place[e["image_id"]]] = right[:, :limit].sum(axis=1)
                found_by[name].append(hits)
            if not evals:
                by_area[area].append(Matches.empty(positives, len(params.iouThrs)))
                continue
            scores = np.concatenate([e["dtScores"] for e in evals])
            best = np.argsort(-scores, kind="mergesort")
            images = np.concatenate([[place[e["image_id"]]] * len(e["dtScores"]) for e in evals])
            by_area[area].append(
                Matches(
                    image=images.astype(np.int64)[best],
                    hit=np.concatenate([np.asarray(e["dtMatches"]) > 0 for e in evals], axis=1)[:, best],
                    ignored=np.concatenate([e["dtIgnore"] for e in evals], axis=1)[:, best].astype(bool),
                    positives=positives,
                )
            )
    ious = [round(float(t), 2) for t in params.iouThrs]
    everything = range(len(ious))
    curves: dict[str, Curve | Recall] = {
        f"_ap{area}": Curve(by_area[area], tuple(everything), COCO_POINTS) for area in _AREAS
    }
    curves["_ap50"] = Curve(by_area[""], (ious.index(0.5),), COCO_POINTS)
    curves["_ap75"] = Curve(by_area[""], (ious.index(0.75),), COCO_POINTS)
    for area in _AREAS:
        counted = np.stack([matches.positives for matches in by_area[area]])
        for name, _ in _recalls(area, params.maxDets):
            curves[f"_{name}"] = Recall(np.stack(found_by[name]), counted)
    return curves


def _recalls(area: str, limits: Sequence[int]) -> list[tuple[str, int]]:
    """COCO's average recalls of an area, and how many detections of an image each lets count."""
    if area:
        return [(f"ar{area}", limits[-1])]
    return [(f"ar{limit}", limit) for limit in limits]


class _Voc(PascalVOCDetectionEvaluator):
    """PascalVOCDetectionEvaluator over the classes that the test split has.

    Detectron2's class gives 0 to a class without any object and averages it in. That never happens on the whole
    of VOC; on a part of it, it would make a perfect detector miss 100.
    """

    def __init__(self, defined: Sequence[int], data: DetectionData) -> None:
        super().__init__("test")
        self._is_2007 = True
        self._defined = list(defined)
        self._data = data

    def evaluate(self) -> Any:
        """Detectron2's result, over the defined classes."""
        base: Any = self
        found = {new: base._predictions[old] for new, old in enumerate(self._defined)}
        base._predictions = {c: lines for c, lines in found.items() if lines}
        # Classes are told by their numbers: their names become names of files, and may hold what these cannot.
        base._class_names = [str(c) for c in self._defined]
        truth = {
            image: [
                {
                    "name": str(self._data.classes.index(each.name)),
                    "difficult": each.difficult,
                    "bbox": [int(value) for value in each.box],
                }
                for each in objects
            ]
            for image, objects in _voc_objects(self._data).items()
        }

        def objects_of(file: str) -> list[dict[str, Any]]:
            return truth.get(Path(file).stem, [])

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(pascal_voc_evaluation, "parse_rec", objects_of),
        ):
            # The images that were read: the folder's own list may have a mark, or more images than are measured.
            listing = Path(folder) / "test.txt"
            listing.write_text("\n".join(truth) + "\n")
            base._image_set_path = str(listing)
            return super().evaluate()


def _evaluate_voc(predictions: Sequence[Prediction], data: DetectionData) -> Evaluation:
    truth = _voc_truth(data)
    lines = _voc_lines(predictions)
    matches = [_voc_matches(lines[c], truth, name) for c, name in enumerate(data.classes)]
    defined = [c for c, found in enumerate(matches) if found.positives.sum() > 0]
    evaluator = _Voc(defined, data)
    evaluator.reset()
    for prediction in predictions:
        instances = Instances((0, 0))
        boxes = np.array([d["bbox"] for d in prediction["detections"]], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.from_numpy(boxes.astype(np.float32)))
        instances.scores = torch.tensor([d["score"] for d in prediction["detections"]])
        instances.pred_classes = torch.tensor([d["category"] for d in prediction["detections"]]).long()
        evaluator.process([{"image_id": prediction["image_id"]}], [{"instances": instances}])
    results = evaluator.evaluate()["bbox"]
    kept = [matches[c] for c in defined]
    curves = {
        "box_ap": Curve(kept, tuple(range(len(VOC_IOUS))), VOC_POINTS),
        "box_ap50": Curve(kept, (VOC_IOUS.index(50),), VOC_POINTS),
        "box_ap75": Curve(kept, (VOC_IOUS.index(75),), VOC_POINTS),
    }
    per_class = {
        name: {data.classes[c]: Curve([matches[c]], curve.ious, VOC_POINTS).value() for c in defined}
        for name, curve in curves.items()
    }
    metrics = {f"box_{_AP[name]}": float(value) / 100 for name, value in results.items()}
    areas = {f"{name}_area": replace(curve, points=AREA) for name, curve in curves.items()}
    metrics.update({name: curve.value() for name, curve in areas.items()})
    return Evaluation(metrics, per_class, {**curves, **areas})


def _voc_truth(data: DetectionData) -> list[tuple[str, dict[str, list[tuple[list[int], bool]]]]]:
    """For each test image its id and, by class, the boxes with their ``difficult`` flags."""
    truth = []
    for image, objects in _voc_objects(data).items():
        by_class: dict[str, list[tuple[list[int], bool]]] = defaultdict(list)
        for each in objects:
            by_class[each.name].append(([int(value) for value in each.box], each.difficult))
        truth.append((image, by_class))
    return truth


def _voc_objects(data: DetectionData) -> dict[str, tuple[VocObject, ...]]:
    """The objects of every test image, in its order."""
    objects = data.test.objects or {}
    return {entry["image_id"]: objects[entry["image_id"]] for entry in data.test.dicts}


def _voc_lines(predictions: Sequence[Prediction]) -> dict[int, list[tuple[str, float, list[float]]]]:
    """Detections by class as Detectron2's evaluator writes them down: three decimals, one decimal, from 1."""
    lines: dict[int, list[tuple[str, float, list[float]]]] = defaultdict(list)
    for prediction in predictions:
        for d in prediction["detections"]:
            box = np.array(d["bbox"], dtype=np.float64)
            box[2:] += box[:2]
            corners = box.astype(np.float32)
            corners[:2] += 1
            score = float(f"{torch.tensor(d['score']).item():.3f}")
            lines[d["category"]].append((prediction["image_id"], score, [float(f"{v:.1f}") for v in corners]))
    return lines


def _voc_matches(
    lines: Sequence[tuple[str, float, list[float]]],
    truth: Sequence[tuple[str, dict[str, list[tuple[list[int], bool]]]]],
    name: str,
) -> Matches:
    """The development kit's matching, best detection first: each takes the object that it overlaps most.

    A hit on an object that is already taken is a false positive; a hit on a difficult object counts for nothing.
    """
    place = {image_id: i for i, (image_id, _) in enumerate(truth)}
    boxes = [np.array([b for b, _ in objects[name]], dtype=np.float64) for _, objects in truth]
    difficult = [np.array([d for _, d in objects[name]], dtype=bool) for _, objects in truth]
    positives = np.array([int((~d).sum()) for d in difficult], dtype=np.int64)
    order = np.argsort(-np.array([score for _, score, _ in lines], dtype=np.float64))
    hit = np.zeros((len(VOC_IOUS), len(lines)), dtype=bool)
    ignored = np.zeros_like(hit)
    image = np.array([place[lines[i][0]] for i in order], dtype=np.int64)
    taken = [np.zeros((len(VOC_IOUS), len(b)), dtype=bool) for b in boxes]
    for rank, i in enumerate(order):
        where = image[rank]
        if not len(boxes[where]):
            continue
        overlaps = _overlaps(np.array(lines[i][2]), boxes[where])
        best = int(np.argmax(overlaps))
        over = overlaps[best] > np.array(VOC_IOUS) / 100.0
        if difficult[where][best]:
            ignored[:, rank] = over
        else:
            hit[:, rank] = over & ~taken[where][:, best]
            taken[where][:, best] |= over
    return Matches(image, hit, ignored, positives)


def _overlaps(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union with whole pixels, as VOC counts them: a box from 1 to 1 is one pixel wide."""
    low = np.maximum(others[:, :2], box[:2])
    high = np.minimum(others[:, 2:], box[2:])
    shared = np.prod(np.maximum(high - low + 1.0, 0.0), axis=1)
    area = np.prod(box[2:] - box[:2] + 1.0)
    return np.asarray(shared / (area + np.prod(others[:, 2:] - others[:, :2] + 1.0, axis=1) - shared))
