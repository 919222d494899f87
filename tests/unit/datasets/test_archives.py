"""Official layouts, small ones made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval import datasets
from eval.datasets import torchvision_sets as archives
from eval.doctor.data import verify
from eval.errors import UserError


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (value % 256, value // 256, 3)).save(path)


def test_dtd_keeps_its_official_splits(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    names = [f"{kind}/{kind}_{index}.jpg" for kind in ("dotted", "woven") for index in range(3)]
    for index, name in enumerate(names):
        picture(root / "images" / name, index)
    for part, keep in (("train", 0), ("val", 1), ("test", 2)):
        (root / "labels" / f"{part}1.txt").write_text("\n".join(names[keep::3]) + "\n")
    data = datasets.load("dtd", tmp_path)
    assert data.counts == {"train": 2, "val": 2, "test": 2}
    assert data.classes == ("dotted", "woven")
    assert [path.name for path in data.splits["val"].paths] == ["dotted_1.jpg", "woven_1.jpg"]
    assert data.notes == {}


def test_cifar_images_come_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        classes = ("a", "b")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            generator = np.random.default_rng(int(train))
            self.data = generator.integers(0, 256, (10 if train else 4, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 2 for i in range(len(self.data))]

    import torchvision

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    (tmp_path / "cifar-10-batches-py").mkdir()
    data = datasets.load("cifar10", tmp_path)  # no folder cifar10: torchvision's layout is read
    assert data.counts == {"train": 8, "val": 2, "test": 4}
    split = data.splits["test"]
    expected = Fake(tmp_path, train=False, download=False).data[3]
    assert np.array_equal(np.asarray(split.pool.read(int(split.rows[3]))), expected)
    assert data.manifest == datasets.load("cifar10", tmp_path).manifest
    assert data.splits["train"].pool.digest != split.pool.digest


def test_official_counts_are_checked(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for index in range(3):
        picture(root / "images" / "dotted" / f"{index}.jpg", index)
    for index, part in enumerate(("train", "val", "test")):
        (root / "labels" / f"{part}1.txt").write_text(f"dotted/{index}.jpg\n")
    found = verify("dtd", tmp_path)
    assert found["against"] == ["official counts"]
    assert found["problems"] == [
        "dtd: the number of classes is 1, officially 47",
        *(f"dtd {part}: 1 images, officially 1880" for part in ("train", "val", "test")),
    ]
    # A val that was cut from train counts as train.
    root = tmp_path / "CUB_200_2011"
    for index in range(1, 8):
        picture(root / "images" / f"{index}.jpg", 30 * index)
    for name, values in {
        "images.txt": [f"{i}.jpg" for i in range(1, 8)],
        "image_class_labels.txt": [1] * 7,
        "train_test_split.txt": [1, 1, 1, 1, 1, 0, 0],
        "classes.txt": ["001.Crow"],
    }.items():
        (root / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))
    assert verify("cub200", tmp_path)["problems"] == [
        "cub200: the number of classes is 1, officially 200",
        "cub200 train: 5 images, officially 5994",
        "cub200 test: 2 images, officially 5794",
    ]


def test_every_public_set_has_official_numbers() -> None:
    own = {name for name, entry in datasets.known().items() if entry.layout == "folders"}
    assert own == {"scenes", "caltech101_20", "tinyimagenet_20", "imagenette_96", "cifar10"}
    for name, entry in datasets.known().items():
        assert (name in own) == (entry.classes == 0) == (not entry.counts), name


def test_downloads_go_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    asked: list[dict[str, Any]] = []

    class Fake:
        classes = ("a", "b")

        def __init__(self, root: Path, download: bool, train: bool | None = None) -> None:
            asked.append({"download": download, "train": train})
            self.data = np.zeros((10, 32, 32, 3), np.uint8)
            self.targets = [i % 2 for i in range(10)]
            for name in ("Forest", "River"):
                for index in range(10):
                    picture(root / "eurosat" / "2750" / name / f"{index}.jpg", index)

    for kind in ("CIFAR10", "EuroSAT"):
        monkeypatch.setattr(torchvision.datasets, kind, Fake)
    assert datasets.download("cifar10", tmp_path).counts["test"] == 10
    assert datasets.download("eurosat", tmp_path).classes == ("Forest", "River")
    assert asked == [{"download": True, "train": part} for part in (True, False, None)]


def test_a_missing_set_names_its_download(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mast data download flowers102.*robots\.ox"):
        datasets.load("flowers102", tmp_path)
    with pytest.raises(UserError, match=r"SUN397: the data set 'sun397' is missing \(put there"):
        datasets.load("sun397", tmp_path)


def test_damaged_archives_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(UserError, match="CIFAR100 cannot be read"):
        datasets.load("cifar100", tmp_path)


def test_unsplit_folders_are_cut_the_same_way_twice(tmp_path: Path) -> None:
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for label, name in enumerate(("ant", "bee")):
        for index in range(40):
            picture(root / name / f"{index:02}.jpg", 100 * label + index)
    data = datasets.load("caltech101", tmp_path)
    assert data.counts == {"train": 48, "val": 12, "test": 20}
    assert "30 images a class" in data.notes["test"]
    assert data.manifest == datasets.load("caltech101", tmp_path).manifest
    paths = [path for split in data.splits.values() for path in split.paths]
    assert len(set(paths)) == 80


def test_imagenet_reports_the_official_validation_images(tmp_path: Path) -> None:
    for part, count in (("train", 120), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            for index in range(count):
                picture(tmp_path / "imagenet" / part / name / f"{index}.JPEG", 300 * label + index)
    data = datasets.load("imagenet", tmp_path)
    assert data.counts == {"train": 238, "val": 2, "test": 4}
    assert all("/val/" in path.as_posix() for path in data.splits["test"].paths)


def test_cub(tmp_path: Path) -> None:
    root = tmp_path / "CUB_200_2011"
    files = ["001.Crow/a.jpg", "001.Crow/b.jpg", "002.Owl/c.jpg", "002.Owl/d.jpg", "002.Owl/e.jpg"]
    for index, name in enumerate(files):
        picture(root / "images" / name, index)
    tables: dict[str, list[Any]] = {
        "images.txt": files,
        "image_class_labels.txt": [1, 1, 2, 2, 2],
        "train_test_split.txt": [1, 1, 1, 1, 0],
    }
    for name, values in tables.items():
        (root / name).write_text("".join(f"{i} {value}\n" for i, value in enumerate(values, 1)))
    (root / "classes.txt").write_text("1 001.Crow\n2 002.Owl\n")
    data = datasets.load("cub200", tmp_path)
    assert data.classes == ("Crow", "Owl")
    assert data.counts == {"train": 2, "val": 2, "test": 1}
    (root / "images.txt").unlink()
    with pytest.raises(UserError, match=r"images\.txt"):
        datasets.load("cub200", tmp_path)


def test_lists(tmp_path: Path) -> None:
    root = tmp_path / "SUN397"
    for name in ("/a/abbey/1.jpg", "/a/abbey/2.jpg", "/b/bar/outdoor/1.jpg", "/b/bar/outdoor/2.jpg"):
        picture(root / name.lstrip("/"), len(name))
    (root / "Training_01.txt").write_text("/a/abbey/1.jpg\n/a/abbey/2.jpg\n/b/bar/outdoor/1.jpg\n")
    (root / "Testing_01.txt").write_text("/b/bar/outdoor/2.jpg\n")
    data = datasets.load("sun397", tmp_path)
    assert data.classes == ("a/abbey", "b/bar/outdoor")
    assert data.splits["test"].labels.tolist() == [1]
    (root / "Testing_01.txt").unlink()
    with pytest.raises(UserError, match=r"Testing_01\.txt"):
        datasets.load("sun397", tmp_path)


def test_every_known_set_says_where_it_comes_from_and_has_a_reader() -> None:
    for name, entry in datasets.known().items():
        assert entry.source, name
        assert entry.layout in {"folders", "voc", "torchvision", *archives.ARCHIVES}, name
        if entry.layout == "torchvision":
            kind = entry.options["class"]
            assert kind in archives.SPLIT_NAMES or kind.startswith("CIFAR"), name


def test_downloads_that_cannot_be_made_say_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"by hand.*vision\.princeton"):
        datasets.download("sun397", tmp_path)
    with pytest.raises(UserError, match="did you mean"):
        datasets.download("cifar1", tmp_path)
