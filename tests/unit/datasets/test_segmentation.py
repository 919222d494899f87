"""Masks in the official layouts, as folders and from COCO: right values, or one clear refusal."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import scenes
from eval.datasets import segmentation
from eval.datasets.segmentation import CITYSCAPES, load
from eval.doctor.data import verify
from eval.errors import UserError
from eval.numbers.segmentation import IGNORED

PALETTE = [value for index in range(256) for value in (index, 255 - index, (7 * index) % 256)]


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, values: list[int], *, palette: bool = False, bits: int = 8) -> None:
    """Columns of the given values, 12 x 10."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.resize(np.array(values), 12)[None].repeat(10, 0)
    image = Image.fromarray(array.astype(np.uint16 if bits == 16 else np.uint8))
    if palette:
        image.putpalette(PALETTE)
    image.save(path)


def own(folder: Path, *, classes: str = "sky\nsea\nland\n", **options: bool | int) -> Path:
    for place, name in enumerate(("train/a", "train/b", "test/c")):
        picture(folder / f"images/{name}.jpg", place)
        mask(folder / f"masks/{name}.png", [0, 1, 2, 255], **options)  # type: ignore[arg-type]
    (folder / "classes.txt").write_text(classes)
    return folder


@pytest.mark.parametrize("options", [{}, {"palette": True}, {"bits": 16}])
def test_own_folders_with_grey_palette_and_16_bit_masks(tmp_path: Path, options: dict[str, int]) -> None:
    own(tmp_path / "mine", **options)
    found = load("mine", tmp_path)
    assert found.classes == ("sky", "sea", "land")
    assert found.counts == {"train": 2, "test": 1}
    expected = np.resize([0, 1, 2, IGNORED], 12)
    assert np.array_equal(found.splits["test"].read(0), expected[None].repeat(10, 0))


@pytest.mark.parametrize(("bits", "kind"), [(1, 0), (2, 0), (4, 0), (8, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_masks_of_any_depth_hold_their_numbers(tmp_path: Path, bits: int, kind: int) -> None:
    """Grey of two and four bits too, which picture readers stretch to 0 to 255: class 1 would be read as 17."""
    folder = own(tmp_path / "mine", classes="".join(f"c{index}\n" for index in range(90)))
    values = np.random.default_rng(bits).integers(0, min(2**bits, 90), (10, 12))
    for path in (folder / "masks").rglob("*.png"):
        path.write_bytes(png(values, bits, kind))
    assert np.array_equal(load("mine", tmp_path).splits["test"].read(0), values)


def png(values: np.ndarray, bits: int, kind: int) -> bytes:
    """A PNG of 1 to 8 bits, grey (0) or with a palette (3)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(
        b"\0" + np.packbits([int(bit) for value in row for bit in f"{value:0{bits}b}"]).tobytes()
        for row in values
    )
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(PALETTE[: 3 * 2**bits])) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + palette
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["TIFF", "BMP", "PPM", "GIF", "JPEG"])
def test_masks_are_png(tmp_path: Path, form: str) -> None:
    folder = own(tmp_path / "mine")
    Image.fromarray(np.zeros((10, 12), np.uint8)).save(folder / "masks/test/c.png", form)
    with pytest.raises(UserError, match=r"c\.png: the mask is no PNG"):
        load("mine", tmp_path)


@pytest.mark.parametrize("tag", range(2, 9))
def test_turned_pictures_are_told(tmp_path: Path, tag: int) -> None:
    """Masks fit the stored pixels, so a tool that turned the picture first has drawn them elsewhere."""
    folder = own(tmp_path / "mine")
    turned = Image.Exif()
    turned[0x0112] = tag
    path = folder / "images/test/c.jpg"
    Image.open(path).save(path, exif=turned)
    (told,) = [line for line in load("mine", tmp_path).warnings if "orientation" in line]
    assert told.startswith("mine test: 1 of 1 images carry an orientation tag, which is not applied")


def test_the_manifest_is_about_content_and_not_about_places(tmp_path: Path) -> None:
    own(tmp_path / "a" / "mine")
    own(tmp_path / "b" / "mine")
    first = load("mine", tmp_path / "a").manifest
    assert load("mine", tmp_path / "b").manifest == first
    mask(tmp_path / "b/mine/masks/test/c.png", [0, 1, 1, 255])
    assert load("mine", tmp_path / "b").manifest != first


def test_classes_that_are_nowhere_are_told(tmp_path: Path) -> None:
    own(tmp_path / "mine", classes="sky\nsea\nland\nfire\n")
    found = load("mine", tmp_path)
    assert [line for line in found.warnings if "no picture of test" in line and "fire" in line]


def _drop(path: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("masks/test/c.png"), "c.png is missing"),
        (_drop("classes.txt"), "classes.txt is missing"),
        (lambda folder: mask(folder / "masks/test/c.png", [0, 9]), "has the value 9"),
        (lambda folder: picture(folder / "images/test/c.jpg", 2, (12, 11)), "is 12 x 11, and"),
        (lambda folder: picture(folder / "masks/test/c.png", 2), "has colours, not one class"),
        (lambda folder: (folder / "masks/test/c.png").write_text("no"), "cannot be decoded as an image"),
        (lambda folder: picture(folder / "images/test/c.png", 5), "two pictures have one name"),
        (
            lambda folder: picture(folder / "images/test/c.jpg", 0),
            "in the test split and in the training split",
        ),
        (lambda folder: (folder / "classes.txt").write_text("sky\nsky\n"), "some twice"),
    ],
)
def test_what_has_no_one_right_reading_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = own(tmp_path / "mine")
    load("mine", tmp_path)
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load("mine", tmp_path)
    assert message in str(caught.value)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_voc_has_a_palette_and_a_border_that_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for which, name, values in (
        ("train", "a", [0, 15]),
        ("trainaug", "b", [0, 3]),
        ("val", "c", [0, 15, 255, 20]),
    ):
        (folder / f"ImageSets/Segmentation/{which}.txt").write_text(f"{name}\n")
        picture(folder / f"JPEGImages/{name}.jpg", ord(name))
        where = "SegmentationClassAug" if which == "trainaug" else "SegmentationClass"
        mask(folder / where / f"{name}.png", values, palette=True)
    found = load("voc2012", tmp_path)
    assert found.num_classes == 21
    assert found.classes[15] == "person"
    assert set(np.unique(found.splits["test"].read(0))) == {IGNORED, 0, 15, 20}
    assert set(np.unique(load("voc2012aug", tmp_path).splits["train"].read(0))) == {0, 3}


def test_ade20k_counts_from_one_and_zero_is_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "ADEChallengeData2016"
    for which in ("training", "validation"):
        picture(folder / f"images/{which}/a.jpg", len(which))
        mask(folder / f"annotations/{which}/a.png", [0, 1, 150])
    rows = [f"{i}\t0.1\t5\t5\tthing {i}, other" for i in range(1, 151)]
    (folder / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    found = load("ade20k", tmp_path)
    assert found.classes[149] == "thing 150"
    assert set(np.unique(found.splits["test"].read(0))) == {IGNORED, 0, 149}


def test_cityscapes_evaluates_nineteen_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cityscapes"
    for which in ("train", "val"):
        picture(folder / f"leftImg8bit/{which}/ulm/ulm_1_leftImg8bit.png", len(which))
        mask(folder / f"gtFine/{which}/ulm/ulm_1_gtFine_labelIds.png", [7, 33, 4, 0])
    found = load("cityscapes", tmp_path)
    assert len(CITYSCAPES) == found.num_classes == 19
    assert set(np.unique(found.splits["test"].read(0))) == {IGNORED, 0, 18}


def test_coco_stuff_has_171_classes(tmp_path: Path) -> None:
    for which in ("train2017", "val2017"):
        picture(tmp_path / f"coco/{which}/a.jpg", len(which))
        mask(tmp_path / f"coco/stuffthingmaps/{which}/a.png", [0, 12, 181, 255])
    found = load("coco-stuff", tmp_path)
    assert found.num_classes == 171
    assert set(np.unique(found.splits["test"].read(0))) == {IGNORED, 0, 11, 170}
    mask(tmp_path / "coco/stuffthingmaps/val2017/a.png", [11])
    with pytest.raises(UserError, match="has the value 11"):
        load("coco-stuff", tmp_path)


def test_scenes_give_their_exact_masks(tmp_path: Path) -> None:
    scenes.write(tmp_path, size="test")
    found = load("scenes-masks", tmp_path)
    assert found.classes[0] == "background"
    content = json.loads((tmp_path / "coco/annotations/instances_val2017.json").read_text())
    image = sorted(content["images"], key=lambda i: i["id"])[0]
    drawn = found.splits["test"].read(0)
    for annotation in content["annotations"]:
        if annotation["image_id"] == image["id"] and not annotation["iscrowd"]:
            # Visible masks do not overlap, so every object keeps all its pixels.
            assert (drawn == annotation["category_id"]).sum() >= annotation["area"]
    objects = sum(
        a["area"] for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]
    )
    assert (drawn > 0).sum() == objects


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean ade20k"):
        load("ade20", tmp_path)
    for name in segmentation.OFFICIAL:
        with pytest.raises(UserError, match=r"no .* in |holds no"):
            load(name, tmp_path)


def test_verify_decodes_pictures_and_masks(tmp_path: Path) -> None:
    folder = own(tmp_path / "mine")
    found = verify(f"seg:{folder}", Path())
    assert found["ok"]
    assert (found["classes"], found["counts"], found["against"]) == (3, {"train": 2, "test": 1}, [])
    (folder / "images/train/b.jpg").write_bytes((folder / "images/train/b.jpg").read_bytes()[:-200])
    found = verify(f"seg:{folder}", Path())
    assert not found["ok"]
    assert "b.jpg" in found["problems"][0]
    (folder / "classes.txt").unlink()
    (problem,) = verify(f"seg:{folder}", Path())["problems"]
    assert "classes.txt is missing" in problem


def test_verify_compares_with_the_official_counts(tmp_path: Path) -> None:
    for which in ("train", "val"):
        picture(tmp_path / f"cityscapes/leftImg8bit/{which}/ulm/ulm_1_leftImg8bit.png", len(which))
        mask(tmp_path / f"cityscapes/gtFine/{which}/ulm/ulm_1_gtFine_labelIds.png", [7, 33, 4, 0])
    found = verify("cityscapes", tmp_path)
    assert found["problems"] == [
        "cityscapes train: 1 images, officially 2,975",
        "cityscapes test: 1 images, officially 500",
    ]
