"""Bad data is refused before training, in one line that names file and remedy; good data is Detectron2's."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import load_voc_instances

from eval.detection.data import catalog, prepare, register, subset
from eval.errors import UserError


@pytest.fixture
def root(scenes_root: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "data"
    for folder in ("VOC2007", "coco"):
        shutil.copytree(scenes_root / folder, copy / folder)
    shutil.copy(scenes_root / "SCENES.json", copy)
    return copy


def load(root: Path, name: str, **options: Any) -> Any:
    return prepare(name, root, masks=name == "scenes-coco").drawn(**options)


def names(root: Path, split: str) -> list[str]:
    return (root / f"VOC2007/ImageSets/Main/{split}.txt").read_text().split()


def test_voc_is_read_as_detectron2_reads_it(root: Path) -> None:
    data = load(root, "scenes-voc")
    expected = load_voc_instances(str(root / "VOC2007"), "test", data.classes)
    assert data.test.dicts == [{**entry, "image_id": str(entry["image_id"])} for entry in expected]
    assert data.counts["test_images"] == len(names(root, "test"))
    assert data.counts["train_instances"] == sum(len(d["annotations"]) for d in data.train.dicts)


@pytest.mark.parametrize("layout", ["val2017", "images/val2017"])
def test_coco_is_read_as_detectron2_reads_it_from_both_image_folders(root: Path, layout: str) -> None:
    if layout.startswith("images"):
        (root / "coco/images").mkdir()
        for split in ("train2017", "val2017"):
            (root / "coco" / split).rename(root / "coco/images" / split)
    data = load(root, "scenes-coco")
    file = root / "coco/annotations/instances_val2017.json"
    expected = load_coco_json(str(file), str(root / "coco" / layout), "expected")
    for ours, theirs in zip(data.test.dicts, expected, strict=True):
        assert {key: value for key, value in ours.items() if key != "category_ids"} == theirs
    assert Counter(a["iscrowd"] for d in data.train.dicts for a in d["annotations"])[1] >= 1


def test_run_lengths_in_training_masks_are_noticed(root: Path) -> None:
    assert not load(root, "scenes-coco").bitmasks  # polygons, and run lengths for the crowd alone
    counts = {"size": [128, 128], "counts": [0, 128 * 64, 128 * 64]}
    edit_json(lambda c: c["annotations"][0].update(segmentation=counts, bbox=[0, 0, 64, 128]))(root)
    data = load(root, "scenes-coco")
    assert data.bitmasks


def test_the_manifest_is_about_annotations_and_not_about_places(root: Path, tmp_path: Path) -> None:
    first = load(root, "scenes-voc").manifest
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert load(moved, "scenes-voc").manifest == first
    xml = moved / f"VOC2007/Annotations/{names(moved, 'test')[0]}.xml"
    tree = ElementTree.parse(xml)
    box = next(tree.iter("xmin"))
    box.text = str(int(box.text or 0) + 1)
    tree.write(xml)
    assert load(moved, "scenes-voc").manifest != first


def edit_xml(tag: str, text: str, split: str = "trainval") -> Callable[[Path], str]:
    def change(root: Path) -> str:
        for name in names(root, split):
            path = root / f"VOC2007/Annotations/{name}.xml"
            tree = ElementTree.parse(path)
            element = next(tree.iter(tag), None)
            if element is not None:
                element.text = text
                tree.write(path)
                return str(path)
        raise AssertionError(f"no {tag}")

    return change


def truncate(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:400])
    return str(path)


def edit_json(change: Callable[[dict[str, Any]], Any], split: str = "train2017") -> Callable[[Path], str]:
    def run(root: Path) -> str:
        path = root / f"coco/annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return str(path)

    return run


def list_twice(root: Path) -> str:
    name = names(root, "trainval")[0]
    with (root / "VOC2007/ImageSets/Main/test.txt").open("a") as file:
        file.write(f"{name}\n")
    return name


def copy_into_test(root: Path) -> str:
    train, test = names(root, "trainval")[0], names(root, "test")[0]
    folder = root / "VOC2007/JPEGImages"
    shutil.copy(folder / f"{train}.jpg", folder / f"{test}.jpg")
    return test


def drop_image(root: Path) -> str:
    path = root / f"VOC2007/JPEGImages/{names(root, 'test')[0]}.jpg"
    path.unlink()
    return str(path)


def no_objects(root: Path) -> str:
    for path in (root / "VOC2007/Annotations").glob("*.xml"):
        tree = ElementTree.parse(path)
        for obj in tree.findall("object"):
            tree.getroot().remove(obj)
        tree.write(path)
    return "VOC2007"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("scenes-voc", edit_xml("xmax", "999"), "is not inside its 128 x 128 image"),
        ("scenes-voc", edit_xml("xmin", "-3"), "is not inside its 128 x 128 image"),
        ("scenes-voc", edit_xml("ymin", "127"), "is not inside its 128 x 128 image"),
        ("scenes-voc", edit_xml("xmin", "left"), "<bndbox/xmin> is 'left', not a number"),
        ("scenes-voc", edit_xml("width", "130"), "is 128 x 128, and its annotation says 130 x 128"),
        ("scenes-voc", drop_image, "is missing, and ImageSets/Main/test.txt"),
        ("scenes-voc", no_objects, "has no object in trainval"),
        ("scenes-voc", list_twice, "of the test split are in the training split too"),
        ("scenes-voc", copy_into_test, "1 of 8 images of the test split are in the training split too"),
        (
            "scenes-voc",
            lambda root: truncate(root / f"VOC2007/JPEGImages/{names(root, 'trainval')[1]}.jpg"),
            "cannot be decoded as an image",
        ),
        (
            "scenes-voc",
            lambda root: truncate(root / f"VOC2007/Annotations/{names(root, 'test')[1]}.xml"),
            "is not readable XML",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["images"][0].update(file_name="gone.jpg")),
            "gone.jpg is missing",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["annotations"][0].update(bbox=[100, 3, 90, 9])),
            "is not inside",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["annotations"][0].update(bbox=[-9, 3, 20, 9])),
            "is not inside",
        ),
        ("scenes-coco", edit_json(lambda c: c["annotations"][0].update(bbox=[1, 2])), "is not four numbers"),
        (
            "scenes-coco",
            edit_json(lambda c: c["annotations"][0].update(category_id=99)),
            "category 99 is not listed",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["annotations"][0].update(image_id=-1)),
            "image -1 is not listed",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["annotations"][0].update(id=c["annotations"][1]["id"])),
            "used twice",
        ),
        ("scenes-coco", edit_json(lambda c: c["annotations"][0].pop("segmentation")), "has no segmentation"),
        ("scenes-coco", edit_json(lambda c: c.update(annotations=[])), "has no annotations"),
        (
            "scenes-coco",
            edit_json(lambda c: c["categories"].append({"id": 99, "name": "zebra"}), "val2017"),
            "does not have the classes of",
        ),
        (
            "scenes-coco",
            edit_json(lambda c: c["categories"].pop(), "val2017"),
            "is not listed",
        ),
        (
            "scenes-coco",
            lambda root: truncate(root / "coco/annotations/instances_val2017.json"),
            "not readable JSON",
        ),
        (
            "scenes-coco",
            lambda root: truncate(sorted((root / "coco/train2017").iterdir())[0]),
            "cannot be decoded as an image",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(
    root: Path, name: str, spoil: Callable[[Path], str], message: str
) -> None:
    load(root, name)
    spoiled = spoil(root)
    with pytest.raises(UserError) as caught:
        load(root, name)
    assert message in str(caught.value)
    assert Path(spoiled).stem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert caught.value.code == 1


def test_a_class_that_voc_does_not_have_gets_a_suggestion(root: Path) -> None:
    (root / "SCENES.json").unlink()
    for path in (root / "VOC2007/Annotations").glob("*.xml"):
        tree = ElementTree.parse(path)
        for element in tree.findall("object/name"):
            element.text = "bycicle"
        tree.write(path)
    with pytest.raises(UserError, match=r"unknown class 'bycicle'.*did you mean bicycle"):
        load(root, "voc07")


def test_scenes_do_not_pass_for_real_data_nor_the_reverse(root: Path) -> None:
    with pytest.raises(UserError, match="holds embedded scenes"):
        load(root, "voc07")
    (root / "SCENES.json").unlink()
    with pytest.raises(UserError, match=r"has no SCENES\.json"):
        load(root, "scenes-voc")


def test_unknown_names_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean voc0712"):
        load(tmp_path, "voc712")
    with pytest.raises(UserError, match=r"no data in .*VOC2007 or .*VOCdevkit"):
        load(tmp_path, "voc07")


def test_boxes_only_data_has_no_masks(root: Path) -> None:
    with pytest.raises(UserError, match="has boxes only"):
        prepare("scenes-voc", root, masks=True)


def test_own_folders_with_own_classes(root: Path, tmp_path: Path) -> None:
    data = prepare(f"voc:{root / 'VOC2007'}", tmp_path, masks=False)
    assert data.classes == load(root, "scenes-voc").classes
    assert prepare("coco:coco", root, masks=True).classes == load(root, "scenes-coco").classes


def test_files_and_lists_of_other_names(root: Path, tmp_path: Path) -> None:
    official = prepare("coco:coco", root, masks=False)
    for part, split in (
        ("train", "train2017"),
        ("valid", "val2017"),
    ):  # as Roboflow exports: one name in each folder
        shutil.copytree(root / "coco" / split, tmp_path / part)
        shutil.copy(
            root / f"coco/annotations/instances_{split}.json", tmp_path / part / "_annotations.coco.json"
        )
    files = [tmp_path / part / "_annotations.coco.json" for part in ("train", "valid")]
    own = prepare(f"coco:{files[0]},{files[1]}", Path(), masks=False)
    assert (own.counts, own.manifest) == (official.counts, official.manifest)
    named = prepare(f"coco:valid/{files[1].name},train/{files[0].name}", tmp_path, masks=False)
    assert (len(named.train.dicts), len(named.test.dicts)) == (len(own.test.dicts), len(own.train.dicts))
    swapped = prepare("voc:VOC2007,test,trainval", root, masks=False)
    assert len(swapped.train.dicts) == len(prepare("voc:VOC2007", root, masks=False).test.dicts)


def test_changed_copies_of_two_files_of_one_name_do_not_collide(root: Path, tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        edit_json(lambda c: [a.pop("area") for a in c["annotations"]], split)(root)
        shutil.copytree(root / "coco" / split, tmp_path / split)
        shutil.copy(root / f"coco/annotations/instances_{split}.json", tmp_path / split / "own.json")
    data = prepare("coco:train2017/own.json,val2017/own.json", tmp_path, masks=False)
    register(data, tmp_path / "work")
    held = {
        split: len(json.loads(Path(MetadataCatalog.get(split).json_file).read_text())["images"])
        for split in ("train", "test")
    }
    assert held == {"train": len(data.train.dicts), "test": len(data.test.dicts)}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("coco:", "names no place"),
        ("voc: ", "names no place"),
        ("coco:a.json,b.json", r"a\.json is missing"),
        (
            "coco:coco/annotations/instances_val2017.json,coco/annotations/instances_train2017.json,no",
            "no is missing",
        ),
        (
            "voc:VOC2007,train,dev",
            r"dev\.txt is missing; there are test, train, trainval, val .*voc:DIR,TRAIN,TEST",
        ),
    ],
)
def test_a_place_without_data_is_named(root: Path, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        prepare(name, root, masks=False)


def test_missing_areas_are_filled_in_a_copy(root: Path, tmp_path: Path) -> None:
    file = root / "coco/annotations/instances_val2017.json"
    before = {a["id"]: a["area"] for a in json.loads(file.read_text())["annotations"]}
    edit_json(lambda c: [a.pop("area") for a in c["annotations"]], "val2017")(root)
    text = file.read_text()
    data = load(root, "scenes-coco")
    assert file.read_text() == text
    assert data.warnings
    register(data, tmp_path)
    copy = Path(MetadataCatalog.get("test").json_file)
    assert copy.parent == tmp_path
    after = {a["id"]: a["area"] for a in json.loads(copy.read_text())["annotations"]}
    assert after == pytest.approx(before, rel=0.1, abs=3)


def test_few_shot_subsets_are_nested_and_exact(root: Path) -> None:
    data = load(root, "scenes-coco")
    one, two = (subset(data.train.dicts, data.classes, images=None, shots=shots, seed=3) for shots in (1, 2))
    for shots, kept in ((1, one), (2, two)):
        per_class = Counter(a["category_id"] for d in kept for a in d["annotations"])
        assert per_class == dict.fromkeys(range(len(data.classes)), shots)
        assert all(d["annotations"] for d in kept)
    ids = [{(d["image_id"], tuple(a["bbox"])) for d in kept for a in d["annotations"]} for kept in (one, two)]
    assert ids[0] < ids[1]
    other = subset(data.train.dicts, data.classes, images=None, shots=1, seed=4)
    assert {d["image_id"] for d in other} != {d["image_id"] for d in one}
    few = load(root, "scenes-coco", images=5)
    assert few.counts["train_images"] == 5
    assert few.manifest != data.manifest
    with pytest.raises(UserError, match="the training split has fewer objects of arrow"):
        load(root, "scenes-coco", shots=1000)
    with pytest.raises(UserError, match="train_images=13"):
        load(root, "scenes-coco", images=13)


@pytest.mark.parametrize("name", ["scenes-voc", "scenes-coco"])
def test_looking_at_data_leaves_detectron2s_catalogs_alone(root: Path, name: str) -> None:
    for registry in (DatasetCatalog, MetadataCatalog):
        for split in {"train", "test"} & set(registry.list()):
            registry.remove(split)
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    assert len(load(root, name).manifest) == 64
    assert (set(DatasetCatalog.list()), set(MetadataCatalog.list())) == before


def test_low_data_tasks_train_on_what_they_say() -> None:
    entries = {
        name: {key: value for key, value in entry.items() if key != "counts"}  # those of the whole sets
        for name, entry in catalog()["datasets"].items()
    }
    assert entries["coco2017-1pct"] == {**entries["coco2017"], "fraction": 0.01}
    assert entries["coco2017-10pct"] == {**entries["coco2017"], "fraction": 0.1}
    assert entries["voc07-10shot"] == {**entries["voc07"], "shots": 10}
    assert entries["scenes-voc-10shot"] == {**entries["scenes-voc"], "shots": 10}
