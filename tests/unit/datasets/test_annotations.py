"""Annotation files as public tools write them: read with the right value, or refused in one line."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as runs

from eval.datasets.coco import _decoded_pixels, read_coco
from eval.datasets.values import flag, look_alikes, number, whole
from eval.datasets.voc import read_voc
from eval.errors import UserError
from mast.images import header

WIDTH, HEIGHT = 100, 80
SQUARE = [10, 10, 30, 10, 30, 40, 10, 40]


def clean() -> dict[str, Any]:
    """Two pictures, three objects and a crowd."""
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 80 * 10, 80 * 90]}
    one = {"segmentation": [SQUARE], "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT, "licence": 3} for i in (7, 9)
        ],
        "categories": [{"id": 2, "name": "cup"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, **copy.deepcopy(one)},
            {"id": 2, "image_id": 7, "category_id": 5, **copy.deepcopy(one)},
            {"id": 4, "image_id": 9, "category_id": 5, **copy.deepcopy(one)},
            {
                "id": 6,
                "image_id": 9,
                "category_id": 5,
                "segmentation": crowd,
                "bbox": [0, 0, 10, 80],
                "area": 800,
                "iscrowd": 1,
            },
        ],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    """Write a COCO file with one change, and read it."""
    for name in (7, 9):
        Image.new("RGB", (WIDTH, HEIGHT), (name, 0, 0)).save(tmp_path / f"{name}.jpg")

    def run(change: Callable[[dict[str, Any]], Any] = lambda content: None, masks: bool = True) -> Any:
        content = clean()
        change(content)
        path = tmp_path / "file.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return read_coco(path, tmp_path, masks=masks)

    return run


def first(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["annotations"][0].update(changes)


def picture(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["images"][0].update(changes)


def without(part: str, *keys: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: [content[part][0].pop(key) for key in keys]


def test_a_clean_file_is_left_as_it_is(read: Callable[..., Any]) -> None:
    found = read()
    assert found.content == clean()
    assert found.warnings == []
    assert found.classes == ("cup", "dog")
    assert found.image_ids == {7: 7, 9: 9}


@pytest.mark.parametrize("start", [0, -3])
def test_annotations_are_numbered_from_one_where_an_id_means_no_match(
    read: Callable[..., Any], start: int
) -> None:
    def change(content: dict[str, Any]) -> None:
        for place, annotation in enumerate(content["annotations"]):
            annotation["id"] = place + start

    found = read(change)
    assert [a["id"] for a in found.content["annotations"]] == [1, 2, 3, 4]
    assert any("numbered from 1" in line and ": 4 (such as id" in line for line in found.warnings)


@pytest.mark.parametrize("value", [None, "a7", 1.5, True])
def test_annotations_without_a_number_are_numbered(read: Callable[..., Any], value: Any) -> None:
    assert [a["id"] for a in read(first(id=value)).content["annotations"]] == [1, 2, 3, 4]


def test_ids_as_text_are_the_same_ids(read: Callable[..., Any]) -> None:
    def change(content: dict[str, Any]) -> None:
        for part, key in (
            ("images", "id"),
            ("annotations", "id"),
            ("categories", "id"),
            ("annotations", "image_id"),
        ):
            for entry in content[part]:
                entry[key] = str(entry[key])

    assert read(change).content == clean()
    assert read(first(image_id="7", category_id=2.0)).content == clean()


def test_images_named_by_words_are_numbered(read: Callable[..., Any]) -> None:
    names = {7: "left", 9: "right"}

    def change(content: dict[str, Any]) -> None:
        for entry in content["images"]:
            entry["id"] = names[entry["id"]]
        for entry in content["annotations"]:
            entry["image_id"] = names[entry["image_id"]]

    found = read(change)
    assert found.image_ids == {"left": 1, "right": 2}
    assert [a["image_id"] for a in found.content["annotations"]] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        ("0", 0),
        (False, 0),
        ("false", 0),
        (None, 0),
        ("", 0),
        (0.0, 0),
        (1, 1),
        ("1", 1),
        (True, 1),
        ("True", 1),
    ],
)
def test_crowd_flags_of_every_kind(read: Callable[..., Any], value: Any, expected: int) -> None:
    assert read(first(iscrowd=value)).content["annotations"][0]["iscrowd"] == expected


def test_a_box_that_contradicts_its_polygon_is_counted(read: Callable[..., Any]) -> None:
    def change(content: dict[str, Any]) -> None:
        for annotation in content["annotations"][:3]:
            annotation["bbox"] = [60, 50, 30, 20]

    (line,) = [line for line in read(change).warnings if "contradict" in line]
    assert "boxes contradict the polygons beside them: 3 (such as" in line
    assert "annotation 1" in line


@pytest.mark.parametrize("area", [None, -1, 0, 1e9, "many", float("nan"), float("inf"), [3]])
def test_an_impossible_area_is_computed_from_the_mask(read: Callable[..., Any], area: Any) -> None:
    found = read(first(area=area))
    polygon = runs.merge(runs.frPyObjects([SQUARE], HEIGHT, WIDTH))
    assert found.content["annotations"][0]["area"] == float(runs.area(polygon))
    assert any("area" in line for line in found.warnings)


def test_an_area_as_text_is_read_and_one_without_a_mask_is_the_boxs(read: Callable[..., Any]) -> None:
    assert read(first(area="600")).content == clean()
    found = read(
        lambda content: (first(area=None)(content), without("annotations", "segmentation")(content)), False
    )
    assert found.content["annotations"][0]["area"] == 600


def test_sizes_are_read_from_text_from_floats_and_from_pictures(read: Callable[..., Any]) -> None:
    for change in (
        picture(width="100", height="80"),
        picture(width=100.0),
        without("images", "width", "height"),
    ):
        image = read(change).content["images"][0]
        assert (image["width"], image["height"]) == (WIDTH, HEIGHT)


def test_polygons_flat_or_too_short(read: Callable[..., Any]) -> None:
    found = read(first(segmentation=SQUARE))
    assert found.content["annotations"][0]["segmentation"] == [SQUARE]
    assert any("flat" in line for line in found.warnings)
    found = read(first(segmentation=[[10, 10, 30, 40], SQUARE]), False)
    assert found.content["annotations"][0]["segmentation"] == [SQUARE]
    found = read(first(segmentation=[[10, 10, 30, 40]]), False)
    assert "segmentation" not in found.content["annotations"][0]
    assert any("fewer than three points" in line for line in found.warnings)


def test_a_missing_box_is_taken_around_the_polygon(read: Callable[..., Any]) -> None:
    found = read(first(bbox=None))
    assert found.content["annotations"][0]["bbox"] == [10, 10, 20, 30]
    assert any("no box" in line for line in found.warnings)


def test_doubled_objects_are_counted(read: Callable[..., Any]) -> None:
    found = read(lambda content: content["annotations"].append({**content["annotations"][0], "id": 99}))
    assert any("stand twice" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (picture(id=9), "the id stands twice"),
        (picture(file_name="9.jpg"), "9.jpg is listed before"),
        (picture(file_name="./9.jpg"), "9.jpg is listed before"),
        (picture(file_name="/etc/passwd"), "lies outside"),
        (picture(file_name="a/../../7.jpg"), "lies outside"),
        (picture(file_name="..\\7.jpg"), "lies outside"),
        (picture(file_name="C:\\7.jpg"), "lies outside"),
        (picture(file_name=None), "file_name is None"),
        (picture(file_name="gone.jpg"), "gone.jpg is missing"),
        (picture(width="wide"), "its size is 'wide' x 80"),
        (picture(width=0), "its size is 0 x 80"),
        (without("images", "width"), "its size is None x 80"),
        (without("images", "id"), "has no id"),
        (first(iscrowd="maybe"), "iscrowd is 'maybe'"),
        (first(iscrowd=7), "iscrowd is 7"),
        (first(ignore=1), "says 'ignore'"),
        (first(id=2), "used twice"),
        (first(image_id=8), "image 8 is not listed"),
        (first(category_id="cup"), "category cup is not listed"),
        (first(bbox=[1, 2, 3]), "is not four numbers"),
        (first(bbox="1 2 3 4"), "is not four numbers"),
        (first(bbox=[1, 2, 3, "x"]), "is not four numbers"),
        (first(bbox=[1, 2, 3, float("nan")]), "is not four numbers"),
        (first(bbox=[1, 2, -3, 4]), "is not inside 7.jpg"),
        (first(bbox=[90, 2, 30, 4]), "is not inside 7.jpg"),
        (first(segmentation=[]), "has no segmentation"),
        (first(segmentation=[[10, 10, 30, 40]]), "a polygon has 2 points"),
        (first(segmentation=[[*SQUARE, 3]]), "not pairs of finite numbers"),
        (first(segmentation=[[*SQUARE, float("nan"), 3]]), "not pairs of finite numbers"),
        (first(segmentation=[[*SQUARE, "x", 3]]), "not pairs of finite numbers"),
        (first(segmentation=[[*SQUARE, 1e9, 3]]), "far outside 7.jpg"),
        (first(segmentation=[[*SQUARE, 1e308, 3]]), "far outside 7.jpg"),
        (first(segmentation=[[*SQUARE, -60, 3]]), "far outside 7.jpg"),
        (first(segmentation="square"), "neither polygons nor run lengths"),
        (first(segmentation={"size": [80, 99], "counts": [0, 1, 2]}), "run lengths are for"),
        (first(segmentation={"size": [100, 80], "counts": [0, 4000, 4000]}), "run lengths are for"),
        (first(segmentation={"size": [80, 100], "counts": [0, 4000, 3999]}), "do not cover"),
        (first(segmentation={"size": [80, 100], "counts": [0, -1, 8001]}), "do not cover"),
        (first(segmentation={"size": [80, 100], "counts": "0"}), "do not cover"),
        (first(segmentation={"size": [80, 100], "counts": "\u00ff"}), "do not cover"),
        (first(segmentation={"counts": [8000]}), "lack 'counts' or 'size'"),
        (lambda c: c["categories"][0].update(name="dog"), "stands twice"),
        (lambda c: c["categories"][0].update(name=" dog "), "stands twice"),
        (lambda c: c["categories"][0].update(id=5), "stands twice"),
        (lambda c: c["categories"][0].update(id="two"), "is not a whole number"),
        (lambda c: c["categories"][0].update(name=""), "its name is ''"),
        (lambda c: c.update(images=[]), "has no images"),
        (lambda c: c.update(annotations={"a": 1}), "is not a list of objects"),
        (lambda c: c.update(categories=["cup"]), "is not a list of objects"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "every object is a crowd"),
    ],
)
def test_what_has_no_one_right_reading_is_refused(
    read: Callable[..., Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    read()
    with pytest.raises(UserError) as caught:
        read(change)
    assert message in str(caught.value)
    assert "file.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": 3', "\x00", "[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"file\.json"):
        read_coco(path, tmp_path, masks=False)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    part=st.sampled_from(["images", "annotations", "categories"]),
    key=st.sampled_from(
        [
            "id",
            "image_id",
            "category_id",
            "bbox",
            "area",
            "iscrowd",
            "segmentation",
            "file_name",
            "width",
            "name",
            "ignore",
        ]
    ),
    value=VALUES,
)
def test_any_value_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, part: str, key: str, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        folder.mkdir()
        for name in (7, 9):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{name}.jpg")
    content = clean()
    content[part][0][key] = value
    (folder / "file.json").write_text(json.dumps(content))
    try:
        found = read_coco(folder / "file.json", folder, masks=True)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    for annotation in found.content["annotations"]:
        assert annotation["id"] > 0
        assert annotation["iscrowd"] in (0, 1)
        assert 0 <= annotation["area"] < math.inf
        assert all(math.isfinite(value) for value in annotation["bbox"])


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(pixels: list[bool]) -> None:
    encoded = runs.encode(np.asfortranarray(np.array(pixels, dtype=np.uint8)[None]))
    assert _decoded_pixels(encoded["counts"].decode()) == len(pixels)


def renamed(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: [
        each.update(name=name) for each, name in zip(content["categories"], names, strict=True)
    ]


def boxes(change: Callable[[list[float]], list[float]], **more: Any) -> Callable[[dict[str, Any]], Any]:
    """Boxes alone, of single objects, each changed."""

    def run(content: dict[str, Any]) -> None:
        content["annotations"].pop()
        for each in content["annotations"]:
            each.pop("segmentation")
            each.update(bbox=change(each["bbox"]), **more)

    return run


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (boxes(lambda b: [b[0] / 100, b[1] / 80, b[2] / 100, b[3] / 80], area=None), "beyond one pixel"),
        (boxes(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), "as if boxes were two corners"),
        (renamed("dog", "dog\u200b"), "stands twice|invisible"),
        (renamed("a dog", "a\u00a0dog"), "stands twice|invisible"),
    ],
)
def test_what_is_plainly_something_else_is_refused(read: Callable[..., Any], change: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read(change, masks=False)


@pytest.mark.parametrize("place", ['"annotations": [', '"bbox": ['])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.json").write_text(json.dumps(clean()).replace(place, f"{place}], {place}", 1))
    with pytest.raises(UserError, match="stands twice in one object"):
        read_coco(tmp_path / "file.json", tmp_path, masks=False)


@pytest.mark.parametrize("turn", [30.0, "-90", 0.0, 360])
def test_turned_boxes_are_counted(read: Callable[..., Any], turn: Any) -> None:
    warnings = read(first(attributes={"occluded": False, "rotation": turn})).warnings
    assert [("boxes are turned" in line, ": 1 " in line) for line in warnings] == [(True, True)] * (
        turn in (30.0, "-90")
    )


def test_roboflows_first_category_may_be_called_as_one_with_objects(read: Callable[..., Any]) -> None:
    dummy = {"id": 0, "name": "dog", "supercategory": "none"}
    found = read(lambda content: content["categories"].insert(0, dummy))
    assert found.classes == ("cup", "dog")
    assert found.content["annotations"] == clean()["annotations"]
    assert ["left out: 1" in line for line in found.warnings] == [True]


def test_classes_that_differ_in_case_alone_and_many_crowds_are_told(read: Callable[..., Any]) -> None:
    assert ["'dog' and 'Dog'" in line for line in read(renamed("dog", "Dog")).warnings] == [True]
    crowd = lambda content: content["annotations"][2].update(iscrowd=1)  # noqa: E731
    assert ["crowds, which no number counts" in line for line in read(crowd).warnings] == [True]


@pytest.mark.parametrize(
    ("names", "told"),
    [(("a", "b"), None), (("a", "A"), 1), (("1", "1.0", "01"), 1), (("x", "x y"), None),
     (("é", "e\u0301"), UserError), (("a", " a"), UserError), (("a b", "a  b"), UserError),
     (("a", "\ufeffa"), UserError)],
)  # fmt: skip
def test_names_that_look_alike(names: tuple[str, ...], told: Any) -> None:
    if told is UserError:
        with pytest.raises(UserError, match="differ only in blanks or invisible signs"):
            look_alikes("here", names)
    else:
        assert len(look_alikes("here", names)) == (told or 0)


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (number, "1e400", None),
        (number, 10**400, None),
        (number, " 3.5 ", 3.5),
        (number, True, None),
        (whole, "3.0", 3),
        (whole, 3.5, None),
        (flag, "Unspecified", False),
        (flag, "0.06", True),
        (flag, "-1", None),
    ],
)
def test_numbers_and_flags(function: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert function(value) == expected


# ---------------------------------------------------------------------------------------------------------- VOC

OBJECT = """<object><name>pig</name><pose>Unspecified</pose><truncated>0.06</truncated><difficult/>
<bndbox><xmin>10.0</xmin><ymin>20</ymin><xmax>50.0</xmax><ymax>60</ymax></bndbox></object>"""


def write_voc(folder: Path, xml: str | bytes, names: str = "a\nb\n", ending: str = ".jpg") -> Path:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets/Main/test.txt").write_text(names)
    for number_, name in enumerate(("a", "b")):
        Image.new("RGB", (WIDTH, HEIGHT), (number_, 0, 0)).save(folder / f"JPEGImages/{name}{ending}")
        content = xml if isinstance(xml, bytes) else xml.encode()
        (folder / f"Annotations/{name}.xml").write_bytes(content)
    return folder


def size(width: object = WIDTH, height: object = HEIGHT) -> str:
    return f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"


def test_voc_as_annotation_tools_write_it(tmp_path: Path) -> None:
    found = read_voc(write_voc(tmp_path, f"<annotation>{size('100.0')}{OBJECT}</annotation>"), "test")
    (image, _) = found.images
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    (thing,) = image.objects
    assert (thing.name, thing.box, thing.difficult) == ("pig", (10, 20, 50, 60), False)
    assert found.warnings == []


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("<difficult>1</difficult>", True), ("<difficult>Unspecified</difficult>", False), ("", False)],
)
def test_voc_difficult_flags(tmp_path: Path, text: str, difficult: bool) -> None:
    xml = f"<annotation>{size()}{OBJECT.replace('<difficult/>', text)}</annotation>"
    assert read_voc(write_voc(tmp_path, xml), "test").images[0].objects[0].difficult is difficult


@pytest.mark.parametrize("encoding", ["GB2312", "utf-16", "latin-1", "utf-8", "Shift_JIS"])
def test_voc_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    name = "chat" if encoding == "latin-1" else "猫"
    body = f"<annotation>{size()}{OBJECT.replace('pig', name)}</annotation>"
    xml = (f'<?xml version="1.0" encoding="{encoding}"?>' + body).encode(encoding)
    assert read_voc(write_voc(tmp_path, xml), "test").classes == {name}


def test_voc_boxes_with_fractions_are_rounded_for_the_metric_alone(tmp_path: Path) -> None:
    xml = f"<annotation>{size()}{OBJECT.replace('50.0', '50.5').replace('10.0', '10.4')}</annotation>"
    folder = write_voc(tmp_path, xml)
    assert read_voc(folder, "test").images[0].objects[0].box == (10.4, 20, 50.5, 60)
    found = read_voc(folder, "test", whole_pixels=True)
    assert found.images[0].objects[0].box == (10, 20, 51, 60)
    assert any("the VOC metric counts: 2 (such as" in line for line in found.warnings)


@pytest.mark.parametrize("given_size", ["", size("", ""), size(0, 0)])
def test_voc_sizes_are_read_from_the_picture(tmp_path: Path, given_size: str) -> None:
    found = read_voc(write_voc(tmp_path, f"<annotation>{given_size}{OBJECT}</annotation>"), "test")
    assert (found.images[0].width, found.images[0].height) == (WIDTH, HEIGHT)
    assert any("read from the pictures" in line for line in found.warnings)


def test_voc_pictures_may_be_png(tmp_path: Path) -> None:
    found = read_voc(write_voc(tmp_path, f"<annotation>{size()}{OBJECT}</annotation>", ending=".png"), "test")
    assert found.images[0].file.name == "a.png"


def test_voc_names_are_stripped_and_composed(tmp_path: Path) -> None:
    thing = OBJECT.replace("pig", " cafe\u0301 ")
    xml = f"<annotation>{size()}{thing}</annotation>"
    assert read_voc(write_voc(tmp_path, xml), "test").classes == {"café"}


@pytest.mark.parametrize(
    ("names", "xml", "message"),
    [
        ("a\nb\na\n", "", "names a 2 times"),
        ("a\n../b\n", "", "is not an image name"),
        ("a\nb 1\n", "", "is not an image name"),
        ("a\nb\nc\n", "", "c.jpg is missing"),
        ("a\nb\n", OBJECT.replace("pig", " "), "has no <name>"),
        ("a\nb\n", OBJECT.replace("50.0", "five"), "is 'five', not a number"),
        ("a\nb\n", OBJECT.replace("50.0", "nan"), "is 'nan', not a number"),
        ("a\nb\n", OBJECT.replace("50.0", "500"), "is not inside its 100 x 80 image"),
        ("a\nb\n", OBJECT.replace("<difficult/>", "<difficult>often</difficult>"), "<difficult> is 'often'"),
        ("a\nb\n", "", "has no object in test"),
        ("a\nb\n", "<object>", "is not readable XML"),
    ],
)
def test_voc_without_one_right_reading_is_refused(tmp_path: Path, names: str, xml: str, message: str) -> None:
    folder = write_voc(tmp_path, f"<annotation>{size()}{xml}</annotation>", names)
    with pytest.raises(UserError) as caught:
        read_voc(folder, "test")
    assert message in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_voc_entities_are_refused(tmp_path: Path) -> None:
    xml = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    with pytest.raises(UserError, match="entities"):
        read_voc(write_voc(tmp_path, xml), "test")


@pytest.mark.parametrize("tag", range(1, 9))
def test_sizes_are_those_of_the_turned_picture(tmp_path: Path, tag: int) -> None:
    exif = Image.Exif()
    exif[274] = tag
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", exif=exif)
    assert header(tmp_path / "a.jpg").shown == ((HEIGHT, WIDTH) if tag >= 5 else (WIDTH, HEIGHT))


ROTATION = "<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("</object>", f"{ROTATION.format('30.0')}</object>", "boxes are turned"),
        ("</object>", f"{ROTATION.format('0.0')}</object>", None),
        ("</annotation>", f"{OBJECT}</annotation>", "objects stand twice"),
        ("</annotation>", f"{OBJECT.replace('pig', 'Pig')}</annotation>", "'Pig' and 'pig'"),
        ("<annotation>", "<annotation><filename>b.jpg</filename>", "name another picture"),
        ("<annotation>", "<annotation><filename>elsewhere.jpg</filename>", None),
        ("<annotation>", '<annotation xmlns="http://host/schema">', None),
    ],
)
def test_what_is_odd_in_a_voc_file_is_counted(tmp_path: Path, old: str, new: str, told: str | None) -> None:
    xml = f"<annotation>{size()}{OBJECT}</annotation>".replace(old, new)
    found = read_voc(write_voc(tmp_path, xml), "test")
    assert found.images[0].objects[0].box == (10, 20, 50, 60)
    assert len(found.warnings) == (told is not None)
    assert told is None or told in found.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("</object>", "<bndbox><xmin>1</xmin></bndbox></object>", "several <bndbox>"),
        ("</object>", "<name>cow</name></object>", "several <name>"),
        (OBJECT, OBJECT.replace("10.0", "0.1").replace("20", "0.2").replace("50.0", "0.5").replace("60", "0.75"),
         "beyond one pixel"),
    ],
)  # fmt: skip
def test_voc_files_that_say_two_things_are_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    xml = f"<annotation>{size()}{OBJECT}</annotation>".replace(old, new)
    with pytest.raises(UserError, match=told):
        read_voc(write_voc(tmp_path, xml), "test")


def test_two_pictures_of_one_name_and_names_with_an_ending_are_told(tmp_path: Path) -> None:
    xml = f"<annotation>{size()}{OBJECT}</annotation>"
    with pytest.raises(UserError, match=r"without their ending: a\b"):
        read_voc(write_voc(tmp_path, xml, names="a.jpg\nb.jpg\n"), "test")
    write_voc(tmp_path, xml, ending=".png")
    with pytest.raises(UserError, match="could both be the picture 'a'"):
        read_voc(write_voc(tmp_path, xml), "test")


@pytest.mark.parametrize("area", [None, 0, "many", -3.0])
@pytest.mark.parametrize("packed", [True, False])
def test_an_area_is_computed_from_run_lengths_of_both_kinds(
    read: Callable[..., Any], area: Any, packed: bool
) -> None:
    counts = [10 * HEIGHT + 10, *[30, HEIGHT - 30] * 19, 30, HEIGHT * (WIDTH - 29) - 40]
    lengths = {"size": [HEIGHT, WIDTH], "counts": counts}
    if packed:
        found = runs.frPyObjects(lengths, HEIGHT, WIDTH)
        lengths = {"size": [HEIGHT, WIDTH], "counts": found["counts"].decode()}
    content = read(first(segmentation=lengths, area=area)).content
    assert content["annotations"][0]["area"] == 600


@pytest.mark.parametrize("side", [65_536, 10**6, 10**9, 10**12, 1e300])
@pytest.mark.parametrize("shape", ["polygon", "runs"])
def test_a_picture_larger_than_any_is_refused_before_it_is_drawn(
    read: Callable[..., Any], side: float, shape: str
) -> None:
    """pycocotools counts in 32 bits: it raised, took the memory, or ended the process."""
    mask: Any = [[0, 0, side, 0, side, side, 0, side]]
    if shape == "runs":
        mask = {"size": [side, side], "counts": [0, side * side]}

    def change(content: dict[str, Any]) -> None:
        picture(width=side, height=side)(content)
        first(segmentation=mask, bbox=[0, 0, side, side], area=None)(content)

    with pytest.raises(UserError, match=r"image 7: its size is"):
        read(change)


@pytest.mark.parametrize(("points", "fine"), [(10, True), (300, True), (3_000, False), (300_000, False)])
def test_a_polygon_that_would_take_the_memory_is_refused(
    read: Callable[..., Any], points: int, fine: bool
) -> None:
    zigzag = [value for _ in range(points // 2) for value in (0.0, 0.0, 90.0, 70.0)]
    if fine:
        assert read(first(segmentation=[zigzag], area=None, bbox=[0, 0, 90, 70])).content
    else:
        with pytest.raises(UserError, match="crosses its picture to and fro"):
            read(first(segmentation=[zigzag], area=None, bbox=[0, 0, 90, 70]))
