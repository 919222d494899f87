"""What a detector sees of a picture: the house's pixels, turned once, in every format and mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from PIL import Image

from eval.detection import pixels
from eval.detection.data import COUNTED, prepare
from eval.detection.pictures import _picture
from eval.detection.score import score
from eval.errors import UserError
from mast.images import header
from tests.unit.detection.conftest import make_config, registered

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
TURNED = {
    1: COLOUR,
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.transpose(1, 0, 2),
    6: np.rot90(COLOUR, -1),
    7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(COLOUR),
}


def saved(path: Path, tag: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(COLOUR).save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


@pytest.mark.parametrize("tag", TURNED)
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_a_picture_is_turned_once_whatever_its_format(tmp_path: Path, ending: str, tag: int) -> None:
    path = saved(tmp_path / f"a.{ending}", tag)
    np.testing.assert_array_equal(pixels.read(str(path), "RGB"), TURNED[tag])
    np.testing.assert_array_equal(pixels.read(str(path), "BGR"), TURNED[tag][:, :, ::-1])
    assert header(path).shown == TURNED[tag].shape[1::-1]
    entry = {"file_name": str(path), "annotations": []}
    np.testing.assert_array_equal(_picture(entry, [], [], 240, 0.3).image, TURNED[tag])


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_what_detectron2_reads_right_is_read_alike(tmp_path: Path, mode: str) -> None:
    ending = "tif" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(COLOUR)
    image = image.convert("RGBA").convert(mode) if mode == "LA" else image.convert(mode)
    image.save(tmp_path / f"a.{ending}")
    for order in ("RGB", "BGR"):
        path = str(tmp_path / f"a.{ending}")
        np.testing.assert_array_equal(pixels.read(path, order), utils.read_image(path, order))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_do_not_become_white(tmp_path: Path, ending: str) -> None:
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4
    path = str(tmp_path / f"a.{ending}")
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(pixels.read(path, "RGB"), np.stack([grey] * 3, axis=2))
    assert utils.read_image(path, "RGB").mean() > 240  # Detectron2's own reader, where this has not changed


@pytest.mark.parametrize("train", [True, False])
def test_the_mapper_gives_what_detectron2s_gives(scenes_root: Path, tmp_path: Path, train: bool) -> None:
    data = registered("scenes-coco", scenes_root, tmp_path, masks=True)
    cfg = make_config("coco-fpn-1x", "resnet10-c8-half", masks=True)
    for entry in data.train.dicts[:4]:
        found = []
        for mapper in (pixels.Mapper(cfg, train), DatasetMapper(cfg, train)):
            np.random.seed(3)  # noqa: NPY002 (Detectron2's)
            found.append(mapper(entry))
        ours, theirs = found
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(ours["image"], theirs["image"], rtol=0, atol=0)
        if train:
            assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
            assert torch.equal(ours["instances"].gt_classes, theirs["instances"].gt_classes)


def coco(folder: Path, files: list[Path], boxes: int = 1) -> Path:
    """A file with the same boxes in every picture."""
    sizes = [header(path).shown for path in files]
    content = {
        "images": [
            {"id": n, "file_name": path.name, "width": w, "height": h}
            for n, (path, (w, h)) in enumerate(zip(files, sizes, strict=True), start=1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": n * boxes + k + 1, "image_id": n + 1, "category_id": 1, "iscrowd": 0, "area": 8.0,
             "bbox": [1 + 0.01 * k, 1, 2, 4]}
            for n in range(len(files)) for k in range(boxes)
        ],
    }  # fmt: skip
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def fed_back(truth: Path) -> Path:
    found = [
        {"image_id": a["image_id"], "category_id": 1, "bbox": a["bbox"], "score": 0.9}
        for a in json.loads(truth.read_text())["annotations"]
    ]
    path = truth.with_name("found.json")
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize("ending", ["jpg", "tif", "png", "webp"])
@pytest.mark.parametrize("tag", TURNED)
def test_tags_that_leave_the_sides_alone_are_told(tmp_path: Path, tag: int, ending: str) -> None:
    files = [saved(tmp_path / f"{place}.{ending}", tag) for place in range(2)]
    name = f"coco:{coco(tmp_path, files)},{tmp_path}"
    for _ in range(2):  # also where the images were looked at before
        warnings = prepare(name, tmp_path, masks=False, train=False).warnings
        assert len(warnings) == (tag in (2, 3, 4)), warnings
        assert not warnings or warnings[0].endswith(f"which nothing tells: 2 (such as 0.{ending})")


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_boxes_for_the_stored_pixels_are_refused_where_sides_tell(
    tmp_path: Path, tag: int, ending: str
) -> None:
    path = saved(tmp_path / f"a.{ending}", tag)
    truth = coco(tmp_path, [path])
    content = json.loads(truth.read_text())
    image = content["images"][0]
    image["width"], image["height"] = image["height"], image["width"]
    truth.write_text(json.dumps(content))
    with pytest.raises(UserError, match="annotation says"):
        prepare(f"coco:{truth},{tmp_path}", tmp_path, masks=False, train=False)


@pytest.mark.parametrize("boxes", [COUNTED, COUNTED + 1])
def test_more_objects_than_count_are_told(tmp_path: Path, boxes: int) -> None:
    path = saved(tmp_path / "a.png", 1)
    name = f"coco:{coco(tmp_path, [path], boxes)},{tmp_path}"
    told = prepare(name, tmp_path, masks=False, train=False).warnings
    assert [f"more than {COUNTED} objects" in line for line in told] == [True] * (boxes > COUNTED)
    perfect = score(fed_back(tmp_path / "truth.json"), name, tmp_path).metrics["box_ar100"]
    assert (perfect == pytest.approx(1.0)) == (boxes <= COUNTED)


@pytest.mark.parametrize("form", ["\ufeff{}", "{}\n\n\n", "\n{}\n", " {} ", "{}\r\n"])
def test_the_list_of_a_voc_folder_is_read_once(scenes_root: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / part).symlink_to(scenes_root / "VOC2007" / part)
    names = (scenes_root / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    end = "\r\n" if "\r" in form else "\n"
    listing = tmp_path / "ImageSets/Main/test.txt"
    listing.write_bytes(form.format(end.join(names)).encode())
    data = prepare(f"voc:{tmp_path},test", tmp_path, masks=False, train=False)
    found: list[dict[str, Any]] = [
        {
            "image_id": entry["image_id"],
            "category": data.classes[each["category_id"]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": 0.9,
        }
        for entry in data.test.dicts
        for each in entry["annotations"]
        for x0, y0, x1, y1 in [each["bbox"]]
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    metrics = score(tmp_path / "found.json", f"voc:{tmp_path},test", tmp_path).metrics
    assert metrics["box_ap50"] == pytest.approx(1.0)


@pytest.mark.parametrize("verb", ["score", "diagnose"])
def test_the_command_prints_no_deprecation_of_a_librarys(tmp_path: Path, verb: str) -> None:
    path = saved(tmp_path / "a.png", 1)
    truth = coco(tmp_path, [path])
    words = [verb, str(fed_back(truth)), "--data", f"coco:{truth},{tmp_path}"]
    words += ["--data-root", str(tmp_path)] if verb == "diagnose" else []
    done = subprocess.run(
        [sys.executable, "-W", "default", "-m", "eval.cli", *words], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
