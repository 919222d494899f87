"""Golden values of detection errors: tidecv, the code of TIDE's authors, on detections that are made here.

    MAST_PEERS=DIR python tests/golden/make_tide.py

DIR/tidecv holds what ``pip install --no-deps --target DIR/tidecv tidecv==1.0.1 appdirs seaborn`` gives. A stand-in
takes the place of OpenCV, with which tidecv draws. ``tide.json`` keeps the scenes and tidecv's numbers on them.
"""

from __future__ import annotations

import json
import os
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as runs

HERE = Path(__file__).parent
GOLDEN = HERE / "tide.json"
SIDE, CLASSES, IMAGES = 100, 4, 24
NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
    "FalsePos": "false_positive",
    "FalseNeg": "false_negative",
}


def ellipse(box: list[float]) -> dict[str, Any]:
    """The run lengths of the ellipse inside a box (x, y, width, height)."""
    left, top, width, height = box
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = ((x - left - width / 2) / (width / 2)) ** 2 + ((y - top - height / 2) / (height / 2)) ** 2 <= 1
    packed = runs.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}


def thing(category: int, box: Any, **more: Any) -> dict[str, Any]:
    box = [round(float(value), 2) for value in box]
    return {"category": category, "bbox": box, "segmentation": ellipse(box), **more}


def scene(seed: int, *, crowds: float = 0.0, empty: float = 0.0) -> list[dict[str, Any]]:
    """Images with objects and with detections of them: moved, of another class, doubled, invented, or none."""
    generator = np.random.default_rng(seed)
    images = []
    for number in range(IMAGES):
        objects, found = [], []
        for _ in range(0 if generator.random() < empty else int(generator.integers(1, 6))):
            size = generator.uniform(12, 45, 2)
            box = np.concatenate([generator.uniform(0, SIDE - size), size])
            category = int(generator.integers(CLASSES))
            crowd = bool(generator.random() < crowds)
            objects.append(thing(category, box, ignored=crowd))
            for _ in range(int(generator.choice([0, 1, 2, 3], p=[0.15, 0.5, 0.25, 0.1]))):
                shift = generator.choice([1.0, 6.0, 14.0], p=[0.5, 0.3, 0.2])
                moved = np.clip(box + generator.normal(0, shift, 4), 0.5, SIDE)
                moved[2:] = np.clip(moved[2:], 4, SIDE - np.minimum(moved[:2], SIDE - 4))
                other = generator.random() < 0.25
                said = int(generator.integers(CLASSES)) if other else category
                found.append(thing(said, moved))
        for _ in range(int(generator.integers(0, 3))):
            size = generator.uniform(8, 30, 2)
            box = np.concatenate([generator.uniform(0, SIDE - size), size])
            found.append(thing(int(generator.integers(CLASSES)), box))
        images.append({"image": number, "objects": objects, "found": found})
    return images


def scored(images: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Scores without a tie."""
    every = [detection for image in images for detection in image["found"]]
    order = np.random.default_rng(seed).permutation(len(every))
    for detection, place in zip(every, order, strict=True):
        detection["score"] = round(float(place + 1) / (len(every) + 1), 6)
    return images


def hand() -> list[dict[str, Any]]:
    """One image for each type of error, and objects that are ignored."""
    square, beside, far = [10, 10, 20, 20], [20, 10, 20, 20], [60, 60, 20, 20]
    cases: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
        ([thing(0, square)], [thing(0, square)]),
        ([thing(0, square)], [thing(1, square)]),
        ([thing(0, square)], [thing(0, beside)]),
        ([thing(0, square)], [thing(1, beside)]),
        ([thing(0, square)], [thing(0, square), thing(0, square)]),
        ([thing(0, square)], [thing(0, square), thing(0, far)]),
        ([thing(0, square), thing(1, far)], [thing(0, square)]),
        ([], [thing(1, square)]),
        ([thing(1, square)], []),
        ([thing(0, square, ignored=True), thing(1, far)], [thing(0, square), thing(1, far)]),
        ([thing(0, square, ignored=True)], [thing(1, square)]),
        ([thing(0, square), thing(0, square)], [thing(0, square), thing(0, square)]),
    ]
    return [
        {"image": number, "objects": [{"ignored": False, **each} for each in objects], "found": found}
        for number, (objects, found) in enumerate(cases)
    ]


def tied(images: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Scores of one decimal, which tie within images and between them."""
    generator = np.random.default_rng(seed)
    for image in images:
        for detection in image["found"]:
            detection["score"] = round(float(generator.integers(1, 10)) / 10, 1)
    return images


def scenes() -> dict[str, list[dict[str, Any]]]:
    return {
        "plain": scored(scene(0), 0),
        "crowds": scored(scene(1, crowds=0.3), 1),
        "empty images": scored(scene(2, crowds=0.1, empty=0.4), 2),
        "one of each": scored(hand(), 3),
        "tied": tied(scene(4, crowds=0.1), 4),
    }


def measure(images: list[dict[str, Any]], kind: str, threshold: float, hair: float = 1e-10) -> dict[str, Any]:
    """tidecv's numbers, in points, and its counts.

    It counts tied detections in another order after a fix than before it, so that a fix of nothing moves its AP
    (``nothing``). Scores that tie are therefore parted by a hair, in the order in which they are given.
    """
    tidecv = load()
    order = 0
    truth, found = tidecv.Data("truth"), tidecv.Data("found")
    for image in images:
        number = image["image"]
        truth.add_image(number, str(number))
        for each in image["objects"]:
            add = truth.add_ignore_region if each["ignored"] else truth.add_ground_truth
            add(number, each["category"], list(each["bbox"]), dict(each["segmentation"]))
        for each in image["found"]:
            box, outline = list(each["bbox"]), dict(each["segmentation"])
            order += 1
            found.add_detection(number, each["category"], each["score"] - hair * order, box, outline)
    mode = tidecv.TIDE.BOX if kind == "box" else tidecv.TIDE.MASK
    run = tidecv.TIDE().evaluate(truth, found, pos_threshold=threshold, mode=mode, name="golden")
    gains = run.fix_main_errors() | run.fix_special_errors()
    return {
        "ap": run.ap,
        "nothing": run.fix_errors().get_mAP() - run.ap,
        "gains": {NAMES[error.short_name]: float(value) for error, value in gains.items()},
        "counts": {NAMES[error.short_name]: int(n) for error, n in run.count_errors().items()},
    }


def load() -> Any:
    folder = Path(os.environ["MAST_PEERS"]) / "tidecv"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    stand_in: Any = types.ModuleType("cv2")
    stand_in.FONT_HERSHEY_SIMPLEX = 0
    sys.modules.setdefault("cv2", stand_in)
    import tidecv

    return tidecv


def values() -> dict[str, Any]:
    found = []
    for name, images in scenes().items():
        for kind in ("box", "mask"):
            for threshold in (0.5, 0.75):
                numbers = measure(images, kind, threshold)
                found.append({"scene": name, "kind": kind, "threshold": threshold, **numbers})
    nothing = measure(scenes()["tied"], "box", 0.5, hair=0.0)["nothing"]
    return {"tidecv": metadata.version("tidecv"), "found": found, "nothing_mended_with_ties": nothing}


def main() -> None:
    load()
    GOLDEN.write_text(json.dumps({"scenes": scenes(), **values()}, indent=None, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
