"""Lists of images and classes are read by one reader: the same forms are read and refused, wherever they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import datasets
from eval.datasets import depth, segmentation
from eval.datasets.values import text_lines
from eval.doctor.data import verify
from eval.errors import UserError


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)


def cub(root: Path) -> Callable[[], object]:
    names = [f"00{k}.Bird{k}/{i}.jpg" for k in (1, 2) for i in range(4)]
    for place, name in enumerate(names):
        picture(root / "CUB_200_2011/images" / name, place)
    tables = {
        "images.txt": names,
        "image_class_labels.txt": [1] * 4 + [2] * 4,
        "train_test_split.txt": [1, 1, 1, 0] * 2,
        "classes.txt": ["001.Bird1", "002.Bird2"],
    }
    for file, values in tables.items():
        text = "".join(f"{i} {value}\n" for i, value in enumerate(values, 1))
        (root / "CUB_200_2011" / file).write_text(text)
    return lambda: datasets.load("cub200", root).counts


def sun(root: Path) -> Callable[[], object]:
    for part in ("Training", "Testing"):
        names = [
            f"/{c}/{place}/{part}{i}.jpg" for c, place in (("a", "abbey"), ("b", "bar")) for i in range(3)
        ]
        for place, name in enumerate(names):
            picture(root / "SUN397" / name.lstrip("/"), place + 10 * len(part))
        (root / "SUN397" / f"{part}_01.txt").write_text("\n".join(names) + "\n")
    return lambda: datasets.load("sun397", root).counts


def voc(root: Path) -> Callable[[], object]:
    folder = root / "VOC2007"
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for part in ("train", "val", "test"):
        names = [f"{part}{i}" for i in range(2)]
        for place, name in enumerate(names):
            picture(folder / "JPEGImages" / f"{name}.jpg", place + len(part))
            (folder / "Annotations" / f"{name}.xml").write_text("<a><object><name>cat</name></object></a>")
        (folder / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(names) + "\n")
    return lambda: datasets.load("voc07", root).counts


def sums(root: Path) -> Callable[[], object]:
    from mast.files import sha256_file

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for place in range(3):
                picture(
                    root / "pets" / part / name / f"{place}.png", place + 7 * len(part + name) + ord(name[0])
                )
    files = sorted((root / "pets").rglob("*.png"))
    lines = [f"{sha256_file(path)}  {path.relative_to(root / 'pets')}\n" for path in files]
    (root / "pets/SHA256SUMS").write_text("".join(lines))
    return lambda: verify("pets", root)["against"]


def masks(root: Path) -> Callable[[], object]:
    for part in ("train", "test"):
        picture(root / "m/images" / part / "a.jpg", len(part))
        (root / "m/masks" / part).mkdir(parents=True)
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(root / "m/masks" / part / "a.png")
    (root / "m/classes.txt").write_text("ground\nsky\n")
    return lambda: segmentation.load(f"seg:{root}/m", root).classes


def nyu(root: Path) -> Callable[[], object]:
    for part in ("train", "test"):
        (root / "nyu" / part).mkdir(parents=True)
        Image.new("RGB", (640, 480), (40 * len(part), 0, 0)).save(root / "nyu" / part / "rgb.jpg")
        Image.fromarray(np.full((480, 640), 9000, np.uint16)).save(root / "nyu" / part / "d.png")
        (root / "nyu" / f"nyu_{part}.txt").write_text(f"/{part}/rgb.jpg /{part}/d.png 518.8\n")
    return lambda: depth.load("nyu", root).counts


SETS = {
    "cub": (cub, "CUB_200_2011/images.txt"),
    "sun": (sun, "SUN397/Training_01.txt"),
    "voc": (voc, "VOC2007/ImageSets/Main/train.txt"),
    "sums": (sums, "pets/SHA256SUMS"),
    "masks": (masks, "m/classes.txt"),
    "nyu": (nyu, "nyu/nyu_train.txt"),
}
SAME = {
    "mark": lambda content: b"\xef\xbb\xbf" + content,
    "windows": lambda content: content.replace(b"\n", b"\r\n"),
    "mac": lambda content: content.replace(b"\n", b"\r"),
    "end": lambda content: content.rstrip(),
    "blank end": lambda content: content + b"\n \n",
}
WRONG = {
    "latin": lambda content: content + "Zürich\n".encode("latin-1"),
    "utf-16": lambda content: content.decode().encode("utf-16"),
    "bytes": lambda content: b"\x80\x81" + content,
}


@pytest.mark.parametrize("name", SETS)
def test_forms_of_one_list_are_one_list(name: str, tmp_path: Path) -> None:
    make, file = SETS[name]
    read = make(tmp_path)
    content, expected = (tmp_path / file).read_bytes(), read()
    for change in SAME.values():
        (tmp_path / file).write_bytes(change(content))
        assert read() == expected
    for change in WRONG.values():
        (tmp_path / file).write_bytes(change(content))
        with pytest.raises(UserError, match=r"is no text in UTF-8.*save it as UTF-8"):
            read()


@pytest.mark.parametrize("name", ["cub", "voc", "masks", "nyu"])
def test_a_list_that_is_gone_is_named(name: str, tmp_path: Path) -> None:
    make, file = SETS[name]
    read = make(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=Path(file).name.replace("train.txt", "(train|trainval).txt")):
        read()


@pytest.mark.parametrize("value", ["0", "3", "-1", "x", "1.0", ""])
@pytest.mark.parametrize("file", ["image_class_labels.txt", "train_test_split.txt"])
def test_cub_numbers_that_name_nothing_are_refused(tmp_path: Path, file: str, value: str) -> None:
    read = cub(tmp_path)
    path = tmp_path / "CUB_200_2011" / file
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"1 {value}", *lines[1:]]))
    if (file, value) == ("train_test_split.txt", "0"):
        assert read()
        return
    with pytest.raises(
        UserError, match=r"image 1 of images.txt has no class or no split|is no number and a value"
    ):
        read()


def test_a_gap_among_class_names_is_refused(tmp_path: Path) -> None:
    read = masks(tmp_path)
    (tmp_path / "m/classes.txt").write_text("ground\n\nsky\n")
    with pytest.raises(
        UserError, match=r"classes.txt, line 2: is empty, and the place of a line is its class"
    ):
        read()


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "/etc/passwd", "a b", ".."])
def test_voc_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    read = voc(tmp_path)
    with (tmp_path / "VOC2007/ImageSets/Main/test.txt").open("a") as file:
        file.write(f"{name}\n")
    with pytest.raises(UserError, match="is not an image name"):
        read()


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" a \n\n\tb\u2028c\n\n \n", encoding="utf-8")
    assert text_lines(tmp_path / "a.txt", remedy="") == ["a", "", "b\u2028c"]
    with pytest.raises(UserError, match=r"cannot be read: Is a directory \(look\)"):
        text_lines(tmp_path, remedy="look")
