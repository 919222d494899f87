"""Annotation files with just the fields that public tools write: their ground truth fed back is perfect.

Fields and first numbers are those of CVAT 2 (datumaro's COCO and VOC), Label Studio's converter, Roboflow, make-sense
and labelme2coco.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.detection.data import prepare
from eval.detection.score import score

SIZE = (80, 60)
BOXES = [
    ("cat", (5.5, 6.25, 20.0, 30.5)),
    ("dog", (30.0, 10.0, 41.5, 40.25)),
    ("cat", (1.0, 40.0, 15.0, 19.0)),
]
CLASSES = ["cat", "dog"]
DATE = "2024-05-04T11:22:33+00:00"

Tool = Callable[[list[str], list[Any]], dict[str, Any]]


def polygon(box: Any) -> list[list[float]]:
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def cvat(names: list[str], found: list[Any]) -> dict[str, Any]:
    image = {
        "width": SIZE[0],
        "height": SIZE[1],
        "license": 0,
        "flickr_url": "",
        "coco_url": "",
        "date_captured": 0,
    }
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": dict.fromkeys(("contributor", "date_created", "description", "url", "version", "year"), ""),
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(CLASSES, 1)],
        "images": [{"id": i, "file_name": name, **image} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": k, "image_id": i + 1, "category_id": CLASSES.index(c) + 1, "segmentation": [], "bbox": list(b),
             "area": b[2] * b[3], "iscrowd": 0, "attributes": {"occluded": False, "rotation": 0.0}}
            for k, (i, c, b) in enumerate(found, 1)
        ],
    }  # fmt: skip


def label_studio(names: list[str], found: list[Any]) -> dict[str, Any]:
    image = {"width": SIZE[0], "height": SIZE[1]}
    return {
        "images": [{**image, "id": i, "file_name": f".\\{name}"} for i, name in enumerate(names)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": CLASSES.index(c), "segmentation": [], "bbox": list(b),
             "ignore": 0, "iscrowd": 0, "area": b[2] * b[3]}
            for k, (i, c, b) in enumerate(found)
        ],
        "info": {"year": 2024, "version": "1.0", "contributor": "Label Studio", "date_created": DATE},
    }  # fmt: skip


def roboflow(names: list[str], found: list[Any]) -> dict[str, Any]:
    image = {"license": 1, "height": SIZE[1], "width": SIZE[0], "date_captured": DATE}
    return {
        "info": {"year": "2024", "version": "2", "description": "Exported from roboflow.com", "date_created": DATE},
        "licenses": [{"id": 1, "url": "https://creativecommons.org/licenses/by/4.0/", "name": "CC BY 4.0"}],
        "categories": [{"id": 0, "name": "cat", "supercategory": "none"}]
        + [{"id": i, "name": name, "supercategory": "cat"} for i, name in enumerate(CLASSES, 1)],
        "images": [{"id": i, "file_name": name, **image, "extra": {"name": name}} for i, name in enumerate(names)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": CLASSES.index(c) + 1, "bbox": list(b), "area": b[2] * b[3],
             "segmentation": [], "iscrowd": 0}
            for k, (i, c, b) in enumerate(found)
        ],
    }  # fmt: skip


def make_sense(names: list[str], found: list[Any]) -> dict[str, Any]:
    image = {"width": SIZE[0], "height": SIZE[1]}
    return {
        "info": {"description": "my-project-name"},
        "images": [{"id": i, **image, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"id": k, "iscrowd": 0, "image_id": i + 1, "category_id": CLASSES.index(c) + 1,
             "segmentation": polygon(b), "bbox": list(b), "area": b[2] * b[3]}
            for k, (i, c, b) in enumerate(found)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }  # fmt: skip


def labelme2coco(names: list[str], found: list[Any]) -> dict[str, Any]:
    image = {"height": SIZE[1], "width": SIZE[0]}
    return {
        "images": [{**image, "id": i, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [
            {"iscrowd": 0, "image_id": i + 1, "bbox": list(b), "segmentation": polygon(b),
             "category_id": CLASSES.index(c), "id": k, "area": int(b[2] * b[3])}
            for k, (i, c, b) in enumerate(found, 1)
        ],
        "categories": [{"id": i, "name": name, "supercategory": name} for i, name in enumerate(CLASSES)],
    }  # fmt: skip


def pictures(folder: Path, seed: int, count: int = 3) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    names = [f"{seed}_{index}_jpg.rf.0a1b.jpg" for index in range(count)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).save(folder / name)
    return names


@pytest.mark.parametrize("tool", [cvat, label_studio, roboflow, make_sense, labelme2coco])
def test_coco_files_of_public_tools(tool: Tool, tmp_path: Path) -> None:
    contents = {}
    for seed, split in enumerate(("train", "test")):
        names = pictures(tmp_path / split, seed)
        contents[split] = tool(names, [(i, c, b) for i in range(len(names)) for c, b in BOXES])
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(contents[split]))
    entries = [
        {"image_id": each["image_id"], "category_id": each["category_id"], "bbox": each["bbox"], "score": 0.9}
        for each in contents["test"]["annotations"]
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    files = ",".join(str(tmp_path / split / "_annotations.coco.json") for split in ("train", "test"))
    found = score(tmp_path / "p.json", f"coco:{files}", Path())
    assert found.data.classes == ("cat", "dog")
    assert found.metrics["box_ap"] == pytest.approx(1.0)
    assert found.metrics["box_ap75"] == pytest.approx(1.0)


def test_vocs_files_of_cvat(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    names = [name.removesuffix(".jpg") for name in pictures(root / "JPEGImages", 0, 6)]
    for part in ("Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split, listed in (("trainval", names[:3]), ("test", names[3:])):
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed))
        (root / "ImageSets/Main" / f"cat_{split}.txt").write_text("".join(f"{name} 1\n" for name in listed))
    objects = "".join(
        f"<object><name>{c}</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult><bndbox>"
        f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox><attributes><attribute>"
        "<name>rotation</name><value>0.0</value></attribute></attributes></object>"
        for c, (x, y, w, h) in BOXES
    )
    for name in names:
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><folder></folder><filename>{name}.jpg</filename><source><database>Unknown</database>"
            f"</source><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth></depth></size>"
            f"<segmented>0</segmented>{objects}</annotation>"
        )
    entries = [
        {"image_id": entry["image_id"], "category_id": each["category_id"] + 1, "score": 0.9,
         "bbox": [each["bbox"][0], each["bbox"][1], *(np.subtract(each["bbox"][2:], each["bbox"][:2]).tolist())]}
        for entry in prepare(f"voc:{root}", Path(), masks=False).test.dicts
        for each in entry["annotations"]
    ]  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(entries))
    found = score(tmp_path / "p.json", f"voc:{root}", Path())
    assert [name for name, value in found.metrics.items() if value != pytest.approx(1.0)] == []
