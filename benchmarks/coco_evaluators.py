"""pycocotools against hotcoco and faster-coco-eval on made-up objects: the twelve numbers, and seconds of one core.

    pip install hotcoco faster-coco-eval
    python benchmarks/coco_evaluators.py 300

Objects are ellipses of 80 classes on 640 x 640 pixels, one in a hundred a crowd; detections are moved objects and
noise, with scores of two digits, so that many tie.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask

SIDE, CLASSES = 640, 80


def ellipse(box: np.ndarray) -> list[list[float]]:
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    points = np.stack([x + w / 2 + w / 2 * np.cos(angle), y + h / 2 + h / 2 * np.sin(angle)], axis=1)
    return [points.flatten().tolist()]


def made_up(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)

    def anywhere() -> np.ndarray:
        size = np.exp(rng.uniform(np.log(12), np.log(300), 2))
        return np.concatenate([rng.uniform(0, SIDE - size), size])

    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []

    def detect(image: int, category: int, box: np.ndarray) -> None:
        shape = mask.merge(mask.frPyObjects(ellipse(box), SIDE, SIDE))
        found.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": box.tolist(),
                "score": round(float(rng.random()), 2),
                "segmentation": {"size": shape["size"], "counts": shape["counts"].decode()},
            }
        )

    for image in range(1, images + 1):
        for _ in range(rng.poisson(7)):
            box, category, crowd = anywhere(), int(rng.integers(1, CLASSES + 1)), int(rng.random() < 0.01)
            shape = mask.merge(mask.frPyObjects(ellipse(box), SIDE, SIDE))
            area = float(mask.area(shape))
            outline: Any = ellipse(box)
            if crowd:
                outline = {"size": shape["size"], "counts": shape["counts"].decode()}
            truth.append(
                {
                    "id": len(truth) + 1, "image_id": image, "category_id": category, "bbox": box.tolist(),
                    "area": area, "iscrowd": crowd, "segmentation": outline,
                }
            )  # fmt: skip
            for _ in range(rng.poisson(2)):
                moved = box + rng.normal(0, 0.1 * box[2:].max(), 4)
                right = rng.random() < 0.8
                detect(
                    image,
                    category if right else int(rng.integers(1, CLASSES + 1)),
                    np.concatenate([np.clip(moved[:2], 0, SIDE - 2), np.clip(moved[2:], 2, SIDE)]),
                )
        for _ in range(30):
            detect(image, int(rng.integers(1, CLASSES + 1)), anywhere())
    whole = {
        "info": {},
        "images": [
            {"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}.jpg"} for i in range(1, images + 1)
        ],
        "annotations": truth,
        "categories": [{"id": c, "name": str(c)} for c in range(1, CLASSES + 1)],
    }
    return whole, found


def main() -> None:
    truth, found = made_up(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
    print(f"{len(truth['images'])} images, {len(truth['annotations'])} objects, {len(found)} detections")
    peers = {}
    for name, module, evaluator in (
        ("pycocotools", "pycocotools", "COCOeval"),
        ("faster-coco-eval", "faster_coco_eval", "COCOeval_faster"),
        ("hotcoco", "hotcoco", "COCOeval"),
    ):
        home = importlib.import_module(module)
        if name == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            peers[name] = (COCO, COCOeval)
        else:
            peers[name] = (home.COCO, getattr(home, evaluator))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, "truth.json"), Path(folder, "found.json")]
        for file, content in zip(files, (truth, found), strict=True):
            file.write_text(json.dumps(content), encoding="utf-8")
        for task in ("bbox", "segm"):
            reference = None
            for name, (coco, evaluator) in peers.items():
                with contextlib.redirect_stdout(io.StringIO()):
                    known = coco(str(files[0]))
                    run = evaluator(known, known.loadRes(str(files[1])), task)
                    times = [time.process_time()]
                    for step in (run.evaluate, run.accumulate):
                        step()
                        times.append(time.process_time())
                    run.summarize()
                numbers = np.array(run.stats[:12], dtype=float)
                reference = numbers if reference is None else reference
                difference = np.abs(numbers - reference).max()
                print(
                    f"{task} {name}: evaluate {times[1] - times[0]:.2f} s, accumulate {times[2] - times[1]:.2f} s, "
                    f"largest difference {difference:.2g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
