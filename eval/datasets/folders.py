"""Layouts on disk: class folders, CSV manifests, and VOC annotations used for classification."""

from __future__ import annotations

import csv
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import UserError, unknown
from .base import IMAGE_SUFFIXES, ImageDataset, Pool, Split, complete

SPLITS = ("train", "val", "test")
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_folders(name: str, root: Path) -> ImageDataset:
    """Read ``root/{train,val,test}/<class>/**/<image>``; a missing val is cut from train.

    Raises:
        UserError: If train or test is missing, a class folder holds no image, or classes differ.
    """
    for required in ("train", "test"):
        if not (root / required).is_dir():
            raise UserError(
                f"{root}: the split '{required}' is missing",
                remedy=f"put class folders under {root / required}",
            )
    classes = [folder.name for folder in _folders(root / "train")]
    if not classes:
        raise UserError(
            f"{root / 'train'}: holds no class folders", remedy="one folder a class, images inside"
        )
    splits: dict[str, Split] = {}
    for part in SPLITS:
        if not (root / part).is_dir():
            continue
        paths: list[Path] = []
        labels: list[int] = []
        for folder in _folders(root / part):
            if folder.name not in classes:
                error = unknown("class", folder.name, classes)
                raise UserError(f"{folder}: a class that train does not have", remedy=error.remedy)
            images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not images:
                raise UserError(
                    f"{folder}: the class '{folder.name}' holds no images in split '{part}'",
                    remedy="add images or delete the folder",
                )
            paths += images
            labels += [classes.index(folder.name)] * len(images)
        if not paths:
            raise UserError(
                f"{root / part}: holds no class folders", remedy="one folder a class, images inside"
            )
        pool = Pool(f"{name}/{part}", tuple(paths), root)
        splits[part] = Split(part, pool.paths, np.array(labels, dtype=np.int64), pool)
    return complete(name, classes, splits)


def csv_manifest(name: str, path: Path, label: str | None) -> ImageDataset:
    """Read a CSV file with the columns path, split, and one or more label columns; paths are relative to it.

    Args:
        name: The data set's name.
        path: The CSV file.
        label: The column to predict; may be left out where there is only one.

    Raises:
        UserError: If a column, a split or an image is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}", remedy="write it as UTF-8 CSV") from error
    factors = [column for column in columns if column not in ("path", "split")]
    if len(factors) == len(columns) or "path" not in columns or "split" not in columns or not factors:
        raise UserError(
            f"{path}: the columns are {', '.join(columns) or 'missing'}",
            remedy="it needs path, split and at least one label column",
        )
    if label is None:
        if len(factors) > 1:
            raise UserError(
                f"{path}: several label columns", remedy=f"choose one of {', '.join(factors)}", code=2
            )
        label = factors[0]
    elif label not in factors:
        wrong = unknown("label column", label, factors)
        raise UserError(f"{path}: {wrong.message}", remedy=wrong.remedy, code=2)
    for number, row in enumerate(rows, start=2):
        if row["split"] not in SPLITS:
            raise UserError(
                f"{path}, line {number}: unknown split '{row['split']}'", remedy="use train, val or test"
            )
        if not row[label]:
            raise UserError(f"{path}, line {number}: the column '{label}' is empty", remedy="fill it in")
    classes = sorted({row[label] for row in rows})
    splits: dict[str, Split] = {}
    for part in SPLITS:
        chosen = sorted((row for row in rows if row["split"] == part), key=lambda row: row["path"])
        if not chosen:
            continue
        paths = tuple(path.parent / row["path"] for row in chosen)
        for image in paths:
            if not image.is_file():
                raise UserError(
                    f"{image}: named in {path} but missing", remedy="restore it or delete its line"
                )
        labels = np.array([classes.index(row[label]) for row in chosen], dtype=np.int64)
        pool = Pool(f"{name}/{part}", paths, path.parent)
        splits[part] = Split(part, paths, labels, pool)
    for required in ("train", "test"):
        if required not in splits:
            raise UserError(f"{path}: no line has the split '{required}'", remedy="add such lines")
    return complete(name, classes, splits)


def _voc_labels(path: Path) -> list[float]:
    """Presence of the twenty classes: 1 present, 0 absent, -1 where every instance is marked difficult."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        raise UserError(f"{path}: cannot be read: {error}", remedy="restore the annotation") from error
    labels = [0.0] * len(VOC_CLASSES)
    for instance in root.iter("object"):
        text = (instance.findtext("name") or "").strip()
        if text not in VOC_CLASSES:
            wrong = unknown("class", text, VOC_CLASSES)
            raise UserError(f"{path}: {wrong.message}", remedy=wrong.remedy)
        index = VOC_CLASSES.index(text)
        if (instance.findtext("difficult") or "0").strip() != "1":
            labels[index] = 1.0
        elif labels[index] == 0.0:
            labels[index] = -1.0
    return labels


def voc_classification(name: str, root: Path) -> ImageDataset:
    """Read a VOC folder (Annotations, ImageSets/Main, JPEGImages) as twenty yes-or-no questions an image.

    The splits are the devkit's train, val and test lists; without train.txt and val.txt, trainval is cut.

    Raises:
        UserError: If a list, an annotation or an image is missing.
    """
    lists = root / "ImageSets" / "Main"
    if not lists.is_dir():
        raise UserError(f"{lists}: the folder is missing", remedy="unpack the VOC devkit there")
    parts = {part: lists / f"{part}.txt" for part in SPLITS}
    if not (parts["train"].is_file() and parts["val"].is_file()):
        parts = {"train": lists / "trainval.txt", "test": parts["test"]}
    splits: dict[str, Split] = {}
    for part, file in parts.items():
        if not file.is_file():
            raise UserError(f"{file}: the image list is missing", remedy="restore it from the VOC devkit")
        keys = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        paths = tuple(root / "JPEGImages" / f"{key}.jpg" for key in keys)
        for image in paths:
            if not image.is_file():
                raise UserError(f"{image}: named in {file} but missing", remedy="restore the image")
        labels = [_voc_labels(root / "Annotations" / f"{key}.xml") for key in keys]
        pool = Pool(f"{name}/{part}", paths, root)
        splits[part] = Split(part, paths, np.array(labels, dtype=np.float32).reshape(-1, 20), pool)
    return complete(name, VOC_CLASSES, splits)


def any_layout(name: str, root: Path, label: str | None) -> ImageDataset:
    """Read a folder of the user's: labels.csv where a label column is asked for or it is all there is."""
    manifest = root if root.suffix == ".csv" else root / "labels.csv"
    has_folders = (root / "train").is_dir() and bool(_folders(root / "train"))
    if manifest.is_file() and (label is not None or not has_folders):
        return csv_manifest(name, manifest, label)
    if label is not None:
        raise UserError(f"{manifest}: missing, and the task wants its column '{label}'", remedy="write it")
    return class_folders(name, root)


Reader = Callable[[str, Path, str | None], ImageDataset]
LAYOUTS: dict[str, Reader] = {
    "folders": any_layout,
    "voc": lambda name, root, _label: voc_classification(name, root),
}
