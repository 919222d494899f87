"""Data sets in torchvision's own layouts and classes, and those whose official lists torchvision does not read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mast.images import class_folders

from ..errors import UserError
from .base import ImageDataset, Pool, Split, complete, cut_test
from .values import text_lines

# How torchvision's classes call our splits.
SPLIT_NAMES: dict[str, dict[str, str]] = {
    "DTD": {"train": "train", "val": "val", "test": "test"},
    "Flowers102": {"train": "train", "val": "val", "test": "test"},
    "FGVCAircraft": {"train": "train", "val": "val", "test": "test"},
    "Food101": {"train": "train", "test": "test"},
    "StanfordCars": {"train": "train", "test": "test"},
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "STL10": {"train": "train", "test": "test"},
}


def _picture(images: npt.NDArray[np.uint8], index: int) -> Image.Image:
    return Image.fromarray(images[index])


def _content(images: npt.NDArray[np.uint8], index: int) -> str:
    return hashlib.sha256(images[index].tobytes()).hexdigest()


def _array_split(name: str, part: str, root: Path, images: npt.NDArray[np.uint8], labels: Any) -> Split:
    """A split of images (N, H, W, 3) held in memory."""
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    paths = tuple(root / f"{name}-{part}#{index}" for index in range(len(images)))
    pool = Pool(
        f"{name}/{part}",
        paths,
        root,
        partial(_picture, images),
        digest,
        partial(_content, images),
    )
    return Split(part, paths, np.asarray(labels, dtype=np.int64), pool)


def _path_split(name: str, part: str, root: Path, paths: list[Path], labels: Any) -> Split:
    pool = Pool(f"{name}/{part}", tuple(paths), root)
    return Split(part, pool.paths, np.asarray(labels, dtype=np.int64), pool)


def _make(options: dict[str, Any], root: Path, download: bool, **arguments: Any) -> Any:
    import torchvision

    try:
        return getattr(torchvision.datasets, options["class"])(root, download=download, **arguments)
    except Exception as error:  # torchvision's classes raise errors of every kind for damaged files
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"{root}: torchvision's {options['class']} cannot be read: {reason}", remedy="download it again"
        ) from error


def fetch(kind: str, root: Path) -> None:
    """Let a torchvision class download its files below ``root``."""
    _make({"class": kind}, root, True)


def torchvision_classes(
    name: str, root: Path, options: dict[str, Any], *, download: bool = False
) -> ImageDataset:
    """Read a data set through torchvision's class, with the official splits.

    Args:
        name: Its name here.
        root: The data root, torchvision's ``root``.
        options: ``class``, torchvision's class, and ``split`` with further arguments of it.
        download: Let torchvision download it.

    Raises:
        UserError: If it is not there or torchvision finds it damaged.
    """
    kind = options["class"]
    splits: dict[str, Split] = {}
    classes: list[str] = []
    if kind in ("CIFAR10", "CIFAR100"):
        for part in ("train", "test"):
            data = _make(options, root, download, train=part == "train")
            splits[part] = _array_split(name, part, root, data.data, data.targets)
            classes = list(data.classes)
        return complete(name, classes, splits)
    for part, official in SPLIT_NAMES[kind].items():
        data = _make(options, root, download, split=official)
        if kind == "STL10":
            images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
            splits[part] = _array_split(name, part, root, images, data.labels)
        elif kind == "StanfordCars":
            paths, labels = zip(*data._samples, strict=True)
            splits[part] = _path_split(name, part, root, [Path(path) for path in paths], labels)
        else:
            files = data._images if kind == "OxfordIIITPet" else data._image_files
            splits[part] = _path_split(name, part, root, [Path(path) for path in files], data._labels)
        known = getattr(data, "classes", None)
        classes = [str(item) for item in known] if known else classes
    if not classes:
        classes = [
            str(index) for index in range(int(max(split.labels.max() for split in splits.values())) + 1)
        ]
    return complete(name, classes, splits)


def _listing(root: Path) -> tuple[list[str], list[Path], npt.NDArray[np.int64]]:
    """Classes, images and labels of ``root/<class>/**/<image>``."""
    found = class_folders(root)
    if found.empty:
        where = root / found.empty[0]
        raise UserError(f"{where}: the class holds no images", remedy="add images or delete the folder")
    if not found.paths:
        raise UserError(f"{root}: holds no class folders", remedy="one folder a class, images inside")
    return list(found.classes), list(found.paths), found.labels


def unsplit(name: str, root: Path, options: dict[str, Any]) -> ImageDataset:
    """Class folders without official splits, cut the same way every time and noted in the manifest.

    Args:
        name: Its name.
        root: The folder of class folders.
        options: ``per_class``, images a class for train with the rest as test (Caltech-101: 30), or ``test``, the
            share of the images that goes to test; ``drop``, class folders to leave out.
    """
    classes, paths, labels = _listing(root)
    if dropped := [item for item in options.get("drop", ()) if item in classes]:
        kept = [item for item in classes if item not in dropped]
        chosen = [index for index, label in enumerate(labels) if classes[label] in kept]
        paths = [paths[index] for index in chosen]
        labels = np.array([kept.index(classes[labels[index]]) for index in chosen], dtype=np.int64)
        classes = kept
    whole = _path_split(name, "all", root, paths, labels)
    if "per_class" in options:
        generator = np.random.default_rng(0)
        groups = [np.flatnonzero(labels == label) for label in range(len(classes))]
        rows = np.sort(
            np.concatenate([generator.permutation(g)[: int(options["per_class"])] for g in groups])
        )
        train, test = (
            whole.subset(rows, "train"),
            whole.subset(np.setdiff1d(np.arange(len(whole)), rows), "test"),
        )
        note = f"{options['per_class']} images a class for train, seed 0"
    else:
        return replace(cut_test(name, classes, whole, float(options["test"])), remarks=())
    data = complete(name, classes, {"train": train, "test": test})
    return ImageDataset(name, data.classes, data.splits, {**data.notes, "test": note})


def imagenet(name: str, root: Path, options: dict[str, Any]) -> ImageDataset:
    """``train/<wnid>`` and ``val/<wnid>``: the official validation images are test, val is cut from train."""
    splits = {}
    classes: list[str] = []
    for part, folder in (("train", "train"), ("test", "val")):
        if not (root / folder).is_dir():
            raise UserError(
                f"{root / folder}: the folder is missing", remedy="unpack the images into class folders"
            )
        found, paths, labels = _listing(root / folder)
        if classes and found != classes:
            raise UserError(
                f"{root / folder}: its classes are not those of train", remedy="restore the class folders"
            )
        classes = found
        splits[part] = _path_split(name, part, root, paths, labels)
    data = complete(name, classes, splits, fraction=float(options.get("val", 0.01)))
    return ImageDataset(
        name, data.classes, data.splits, {**data.notes, "test": "the official validation images"}
    )


def cub200(name: str, root: Path, options: dict[str, Any]) -> ImageDataset:
    """CUB_200_2011 with its official images.txt, image_class_labels.txt and train_test_split.txt."""

    again = "unpack CUB_200_2011.tgz again"

    def table(file: str) -> dict[str, str]:
        path = root / file
        lines = [line.split(maxsplit=1) for line in filter(None, text_lines(path, remedy=again))]
        if odd := next((number for number, parts in enumerate(lines, start=1) if len(parts) != 2), 0):
            raise UserError(f"{path}, line {odd}: is no number and a value", remedy=again)
        return dict(lines)

    images, labels, official = (
        table(file) for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    classes = [line.split(".", 1)[-1] for line in table("classes.txt").values()]
    numbers = {str(number + 1): number for number in range(len(classes))}
    if odd := next(
        (key for key in images if labels.get(key) not in numbers or official.get(key) not in ("0", "1")), ""
    ):
        raise UserError(
            f"{root}: image {odd} of images.txt has no class or no split in the lists", remedy=again
        )
    splits = {}
    for part, flag in (("train", "1"), ("test", "0")):
        keys = [key for key in images if official.get(key) == flag]
        paths = [root / "images" / images[key] for key in keys]
        splits[part] = _path_split(name, part, root, paths, [numbers[labels[key]] for key in keys])
    return complete(name, classes, splits)


def listed(name: str, root: Path, options: dict[str, Any]) -> ImageDataset:
    """Text lists of images: ``path label`` a line, or paths under class folders (SUN397's official split 01).

    Args:
        name: Its name.
        root: The data set's folder.
        options: ``train`` and ``test``, the lists; ``images``, the folder that paths are relative to.
    """
    base = root / str(options.get("images", "."))
    rows: dict[str, list[tuple[Path, str]]] = {}
    for part in ("train", "test"):
        file = root / str(options[part])
        rows[part] = []
        for line in filter(None, text_lines(file, remedy="restore the official list")):
            path, _, label = line.rpartition(" ")
            if (
                not path or not label.removeprefix("-").isdecimal()
            ):  # a list without labels: the folders are the classes
                path, label = line, Path(line).parent.as_posix().lstrip("/")
            elif label.startswith("-"):
                raise UserError(
                    f"{file}: the class number {label} of {path}", remedy="restore the official list"
                )
            rows[part].append((base / path.strip().lstrip("/"), label))
    classes = sorted({label for pairs in rows.values() for _, label in pairs})
    if all(label.isdecimal() for label in classes):
        classes = sorted(classes, key=int)
    where = {label: index for index, label in enumerate(classes)}
    splits = {
        part: _path_split(name, part, root, [path for path, _ in pairs], [where[label] for _, label in pairs])
        for part, pairs in rows.items()
    }
    return complete(name, classes, splits)


Reader = Callable[[str, Path, dict[str, Any]], ImageDataset]
ARCHIVES: dict[str, Reader] = {"unsplit": unsplit, "imagenet": imagenet, "cub200": cub200, "listed": listed}
