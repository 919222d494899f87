"""The files on disk, read by the libraries that real data is read by."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import scenes
from eval.scenes import compose
from eval.scenes.layouts import pixel_box, polygons, run_lengths
from eval.scenes.photos import Backgrounds


def test_every_image_decodes_in_its_size(data: Path) -> None:
    found = Counter()
    for path in data.rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()
            top = path.relative_to(data).parts[0]
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.size == ((64, 64) if top == "scenes" else (128, 128))
        found[top] += 1
    assert found == {"scenes": 220, "VOC2007": 20, "coco": 20, "colours": 40}


def test_class_folders_and_the_label_table_agree(data: Path) -> None:
    with open(data / "scenes" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "path",
        "split",
        "shape",
        "colour",
        "texture",
        "orientation",
        "scale",
        "position",
    ]
    on_disk = {path.relative_to(data / "scenes").as_posix() for path in (data / "scenes").rglob("*.jpg")}
    assert {row["path"] for row in rows} == on_disk
    assert len(rows) == len(on_disk)
    for row in rows:
        assert row["path"].split("/")[:2] == [row["split"], row["shape"]]
    assert Counter(row["split"] for row in rows) == {"train": 120, "val": 40, "test": 60}


def test_pictures_on_disk_are_the_ones_composed(data: Path, backgrounds: Backgrounds) -> None:
    factors = compose.single_factors(0, "test", 60)
    image = compose.single(backgrounds, 0, "test", 59, factors[59]).image.astype(float)
    stored = np.asarray(
        Image.open(data / "scenes" / "test" / factors[59]["shape"] / "00059.jpg"), dtype=float
    )
    assert np.abs(image - stored).mean() < 6  # what JPEG takes
    other = compose.single(backgrounds, 0, "test", 58, factors[58]).image.astype(float)
    assert np.abs(other - stored).mean() > 12


@pytest.mark.parametrize("label", ["shape", "colour"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_masks_boxes_and_areas_agree_exactly(
    data: Path, backgrounds: Backgrounds, split: str, label: str
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    masks = pytest.importorskip("pycocotools.mask")
    folder = data / "coco" if label == "shape" else data / "colours" / "coco"
    api = coco.COCO(str(folder / "annotations" / f"instances_{split}2017.json"))
    names = tuple(category["name"] for category in api.loadCats(sorted(api.getCatIds())))
    assert names == compose.FACTORS[label]
    band = {"train": "train", "val": "test"}[split]
    plan = compose.several_shapes(0, "coco", band, len(api.imgs))
    kinds = Counter()
    for index, (identity, image) in enumerate(sorted(api.imgs.items())):
        assert (folder / f"{split}2017" / image["file_name"]).is_file()
        picture = compose.several(
            backgrounds, 0, "coco", band, index, plan[index], crowd=any(api.getAnnIds(identity, iscrowd=True))
        )
        truths = [
            (getattr(thing, label), mask) for thing, mask in zip(picture.things, picture.masks, strict=True)
        ]
        if picture.crowd_mask is not None:
            kinds_there = sorted({getattr(thing, label) for thing in picture.crowd})
            truths += [(kind, picture.crowd_mask) for kind in kinds_there]
        entries = api.loadAnns(api.getAnnIds(identity))
        for entry, (kind, truth) in zip(entries, truths, strict=True):
            assert names[entry["category_id"] - 1] == kind
            mask = api.annToMask(entry).astype(bool)
            np.testing.assert_array_equal(mask, truth)
            assert entry["area"] == mask.sum()
            assert entry["bbox"] == masks.toBbox(api.annToRLE(entry)).tolist()
            runs = isinstance(entry["segmentation"], dict)
            assert runs or not entry["iscrowd"]
            kinds["crowd" if entry["iscrowd"] else "runs" if runs else "polygons"] += 1
    assert kinds["crowd"] >= 1
    assert kinds["polygons"] >= 10
    assert (kinds["runs"] > 0) == (split == "val")


def test_polygons_and_runs_keep_awkward_masks() -> None:
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    corner = np.zeros((20, 30), dtype=bool)
    corner[:4, :7] = corner[15:, 28:] = corner[9, 9] = corner[10, 10] = (
        True  # at borders, single and diagonal pixels
    )
    stairs = np.tri(20, 30, dtype=bool)
    for mask in (corner, stairs, ~stairs, np.ones_like(stairs)):
        joined = masks.merge(masks.frPyObjects(polygons(mask), *mask.shape))
        np.testing.assert_array_equal(masks.decode(joined), mask)
        left, top, right, bottom = pixel_box(mask)
        assert [left, top, right - left, bottom - top] == masks.toBbox(joined).tolist()
    for mask in (corner, np.ones_like(corner), np.zeros_like(corner), rng.random((20, 30)) < 0.5):
        np.testing.assert_array_equal(masks.decode(masks.frPyObjects(run_lengths(mask), *mask.shape)), mask)


@pytest.mark.parametrize(("label", "folder"), [("shape", "VOC2007"), ("colour", "colours/VOC2007")])
def test_voc_boxes_are_inside_their_image_and_tight(
    data: Path, backgrounds: Backgrounds, label: str, folder: str
) -> None:
    root = data / folder
    sets = {split: (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split() for split in
            ("train", "val", "trainval", "test")}  # fmt: skip
    assert {split: len(names) for split, names in sets.items()} == {
        "train": 8,
        "val": 4,
        "trainval": 12,
        "test": 8,
    }
    assert sets["trainval"] == sets["train"] + sets["val"]
    assert not set(sets["trainval"]) & set(sets["test"])
    flags = Counter()
    for split in ("train", "val", "test"):
        plan = compose.several_shapes(0, "VOC2007", split, len(sets[split]))
        for index, name in enumerate(sets[split]):
            tree = ET.parse(root / "Annotations" / f"{name}.xml")
            assert tree.findtext("filename") == f"{name}.jpg"
            picture = compose.several(backgrounds, 0, "VOC2007", split, index, plan[index], crowd=False)
            for item, thing, mask in zip(tree.iter("object"), picture.things, picture.masks, strict=True):
                assert item.findtext("name") == getattr(thing, label)
                rows, columns = np.nonzero(mask)
                box = [int(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
                assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
                assert 1 <= box[0] <= box[2] <= 128
                assert 1 <= box[1] <= box[3] <= 128
                if item.findtext("truncated") == "1":
                    assert min(box) == 1 or max(box) == 128
                flags["truncated"] += int(item.findtext("truncated", ""))
                flags["difficult"] += int(item.findtext("difficult", ""))
                flags["objects"] += 1
    assert 0 < flags["truncated"] < flags["objects"] / 2
    assert 0 < flags["difficult"] < flags["objects"] / 5


@pytest.mark.parametrize(("label", "folder"), [("shape", "VOC2007"), ("colour", "colours/VOC2007")])
def test_voc_image_sets_of_a_class_say_who_has_it(data: Path, label: str, folder: str) -> None:
    root = data / folder
    for kind in compose.FACTORS[label]:
        for line in (root / "ImageSets" / "Main" / f"{kind}_test.txt").read_text().splitlines():
            name, value = line.split()
            objects = [item for item in ET.parse(root / "Annotations" / f"{name}.xml").iter("object")
                       if item.findtext("name") == kind]  # fmt: skip
            plain = any(item.findtext("difficult") == "0" for item in objects)
            assert int(value) == (1 if plain else 0 if objects else -1)


def test_detectron2_reads_voc_and_scores_the_truth_100(data: Path) -> None:
    loader = pytest.importorskip("detectron2.data.datasets")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    torch = pytest.importorskip("torch")
    classes = scenes.read_stamp(data)["classes"]
    name = "scenes_unit_voc_test"
    loader.register_pascal_voc(name, str(data / "VOC2007"), "test", 2007, classes)
    try:
        evaluator = PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            assert (record["height"], record["width"]) == (128, 128)
            truth = Instances((128, 128))
            truth.pred_boxes = Boxes(torch.tensor([entry["bbox"] for entry in record["annotations"]]))
            truth.pred_classes = torch.tensor([entry["category_id"] for entry in record["annotations"]])
            truth.scores = torch.ones(len(truth))
            evaluator.process([record], [{"instances": truth}])
        assert evaluator.evaluate()["bbox"] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_stamp_counts_what_the_files_hold(data: Path) -> None:
    counts = scenes.read_stamp(data)["counts"]
    content = json.loads((data / "coco" / "annotations" / "instances_val2017.json").read_text())
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    objects = len(content["annotations"]) - crowds
    assert counts["coco"]["val2017"] == {
        "images": len(content["images"]),
        "objects": objects,
        "crowds": crowds,
    }
    names = (data / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    trees = [ET.parse(data / "VOC2007" / "Annotations" / f"{name}.xml") for name in names]
    assert counts["VOC2007"]["trainval"] == {
        "images": len(names), "objects": sum(len(tree.findall("object")) for tree in trees),
    }  # fmt: skip
    assert counts["scenes"]["val"] == {"images": 40, "objects": 40}
