"""Layouts on disk, splits, manifests, and what broken ones say."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import datasets
from eval.datasets import carve, decode
from eval.errors import UserError


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                picture(tmp_path / "pets" / part / name / f"{i:02}.png", 1000 * label + 10 * i + len(part))
    return tmp_path


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_class_folders_with_val_cut_from_train(folders: Path) -> None:
    data = datasets.load("pets", folders)
    assert data.classes == ("cat", "dog")
    assert data.counts == {"train": 16, "val": 4, "test": 8}
    assert "20%" in data.notes["val"]
    # Two of ten in each class, no image in two splits, labels agree with folders.
    assert np.bincount(data.splits["val"].labels).tolist() == [2, 2]
    assert not set(data.splits["train"].paths) & set(data.splits["val"].paths)
    for split in data.splits.values():
        assert [path.parent.name for path in split.paths] == [data.classes[i] for i in split.labels]


def test_a_val_folder_is_used_as_it_is(folders: Path) -> None:
    for name in ("cat", "dog"):
        picture(folders / "pets" / "val" / name / "v.png", 77)
    data = datasets.load("pets", folders)
    assert data.counts == {"train": 20, "val": 2, "test": 8}
    assert data.notes == {}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "valid", "test"), ("Train", "Validation", "Test"), ("training", "dev", "testing")],
)
def test_splits_have_the_names_that_people_give_them(folders: Path, train: str, val: str, test: str) -> None:
    root = folders / "pets"
    (root / "train").rename(root / "x")
    (root / "x").rename(root / train)
    (root / "test").rename(root / "y")
    (root / "y").rename(root / test)
    for name in ("cat", "dog"):
        picture(root / val / name / "v.png", 77)
    data = datasets.load("pets", folders)
    assert data.counts == {"train": 20, "val": 2, "test": 8}
    assert data.notes == {}


def test_two_folders_for_one_split_are_refused(folders: Path) -> None:
    for part in ("val", "valid"):
        picture(folders / "pets" / part / "cat" / "v.png", 77)
    with pytest.raises(UserError, match="both val and valid could be the split 'val'"):
        datasets.load("pets", folders)


@pytest.mark.parametrize("name", ["café", "ångström", "naïve", "ｃｌａｓｓ", "한국"])
def test_a_class_name_is_the_same_however_its_accents_are_written(folders: Path, name: str) -> None:
    root = folders / "pets"
    (root / "train" / "cat").rename(root / "train" / unicodedata.normalize("NFC", name))
    (root / "test" / "cat").rename(root / "test" / unicodedata.normalize("NFD", name))
    data = datasets.load("pets", folders)
    assert data.counts["test"] == 8
    assert np.bincount(data.splits["test"].labels).tolist() == [4, 4]
    if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFD", name):
        picture(root / "train" / unicodedata.normalize("NFD", name) / "1.png")
        with pytest.raises(UserError, match="written in two ways"):
            datasets.load("pets", folders)


def test_the_cut_is_the_same_twice_and_the_manifest_covers_content_labels_and_cut(folders: Path) -> None:
    first, second = datasets.load("pets", folders), datasets.load("pets", folders)
    assert first.splits["val"].paths == second.splits["val"].paths
    assert first.manifest == second.manifest
    image = first.splits["test"].paths[0]
    picture(image, 12345)
    assert datasets.load("pets", folders).manifest != first.manifest
    before = datasets.load("pets", folders).manifest
    (folders / "pets/train/cat/00.png").rename(folders / "pets/train/dog/zz.png")
    assert datasets.load("pets", folders).manifest != before


def test_a_moved_data_set_keeps_its_manifest(folders: Path, tmp_path: Path) -> None:
    before = datasets.load("pets", folders).manifest
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (folders / "pets").rename(moved / "pets")
    assert datasets.load("pets", moved).manifest == before


def test_csv_manifest_with_several_factors(tmp_path: Path) -> None:
    rows = [
        {"path": f"{part}/{i}.png", "split": part, "hue": "red" if i % 2 else "blue", "size": str(i % 3)}
        for part in ("train", "val", "test")
        for i in range(6)
    ]
    for index, row in enumerate(rows):
        picture(tmp_path / "toy" / row["path"], index)
    write_csv(tmp_path / "toy" / "labels.csv", rows)
    hue, size = (datasets.load("toy", tmp_path, label=label) for label in ("hue", "size"))
    assert hue.classes == ("blue", "red")
    assert size.classes == ("0", "1", "2")
    # The two tasks share images, hence features; their labels, hence manifests, differ.
    assert hue.splits["train"].pool.digest == size.splits["train"].pool.digest
    assert hue.manifest != size.manifest
    with pytest.raises(UserError, match="did you mean hue"):
        datasets.load("toy", tmp_path, label="hu")
    with pytest.raises(UserError, match="several label columns"):
        datasets.load("toy", tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "test").rename(root / "tset"), "'test' is missing"),
        (lambda root: [f.unlink() for f in (root / "train" / "cat").iterdir()], "'cat' holds no images"),
        (lambda root: picture(root / "test" / "cow" / "1.png"), "train does not have"),
    ],
)
def test_broken_folders_are_named(folders: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(folders / "pets")
    with pytest.raises(UserError, match=message) as caught:
        datasets.load("pets", folders)
    assert str(folders / "pets") in str(caught.value)
    assert caught.value.remedy


def test_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other"):
        datasets.load("nonsense", tmp_path)
    with pytest.raises(UserError, match=r"robots\.ox"):
        datasets.load("voc07", tmp_path)
    with pytest.raises(UserError, match="data-root"):
        datasets.load("pets", tmp_path / "nowhere")


def test_csv_errors_name_the_line(tmp_path: Path) -> None:
    picture(tmp_path / "toy" / "a.png")
    write_csv(tmp_path / "toy" / "labels.csv", [{"path": "a.png", "split": "trian", "label": "x"}])
    with pytest.raises(UserError, match=r"line 2.*trian"):
        datasets.load("toy", tmp_path)
    write_csv(tmp_path / "toy" / "labels.csv", [{"path": "gone.png", "split": "train", "label": "x"}])
    with pytest.raises(UserError, match=r"gone\.png"):
        datasets.load("toy", tmp_path)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    good = picture(tmp_path / "good.jpg")
    bad.write_bytes(good.read_bytes()[:200])
    with pytest.raises(UserError, match=r"bad\.jpg.*(replace|delete)"):
        decode(bad)
    bad.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"bad\.jpg"):
        decode(bad)


VOC = """<annotation><object><name>dog</name><difficult>0</difficult></object>
<object><name>cat</name><difficult>1</difficult></object>
<object><name>dog</name><difficult>1</difficult></object></annotation>"""


def test_voc_classification(tmp_path: Path) -> None:
    root = tmp_path / "VOC2007"
    for part, keys in (("train", "ab"), ("val", "c"), ("test", "d")):
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Main/{part}.txt").write_text("\n".join(keys) + "\n")
        for key in keys:
            picture(root / f"JPEGImages/{key}.jpg")
            (root / "Annotations").mkdir(exist_ok=True)
            (root / f"Annotations/{key}.xml").write_text(VOC)
    data = datasets.load("voc07", tmp_path)
    labels = data.splits["train"].labels
    assert labels.shape == (2, 20)
    # dog is plainly there, cat only as a difficult object, nothing else.
    assert labels[0, data.classes.index("dog")] == 1
    assert labels[0, data.classes.index("cat")] == -1
    assert np.abs(labels[0]).sum() == 2
    (root / "JPEGImages/d.jpg").unlink()
    with pytest.raises(UserError, match=r"d\.jpg"):
        datasets.load("voc07", tmp_path)


def test_a_class_of_one_image_stays_in_train(tmp_path: Path) -> None:
    paths = tuple(picture(tmp_path / f"{i}.png", i) for i in range(6))
    split = datasets.Split("train", paths, np.array([0, 0, 0, 0, 0, 1]))
    rest, val = carve(split, 0.2)
    assert (len(rest), len(val)) == (5, 1)
    assert 1 in rest.labels
    with pytest.raises(UserError, match="no class has two images"):
        carve(split.subset(np.array([0, 5])), 0.2)
