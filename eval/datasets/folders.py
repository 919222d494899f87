"""Layouts on disk: class folders, CSV manifests, and VOC annotations used for classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mast import images

from ..errors import UserError, unknown
from .base import ImageDataset, Pool, Split, complete, cut_test
from .checks import some, unread
from .csv_manifest import csv_manifest, split_of
from .values import class_name, flag, look_alikes, several, visible
from .voc import image_names, parse_xml

SPLITS = ("train", "val", "test")
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def class_folders(name: str, root: Path, *, test: str = "test") -> ImageDataset:
    """Read ``root/{train,val,test}/<class>/**/<image>``; a missing val is cut from train.

    Where the folder holds the class folders themselves, test and val are cut from each class, always the same.

    Args:
        name: The data set's name.
        root: Its folder.
        test: ``val``: val is tested on, and a new val is cut from train.

    Raises:
        UserError: If train or test is missing, a class folder holds no image, or classes differ.
    """
    places, besides = _places(root)
    if not places:
        return _unsplit(name, root)
    _one_split_beside_classes(root, places, besides)
    if "train" not in places:
        raise UserError(
            f"{root}: the split 'train' is missing", remedy=f"put class folders under {root / 'train'}"
        )
    found = {part: images.class_folders(place) for part, place in places.items()}
    classes = found["train"].classes
    if not classes:
        raise UserError(
            f"{places['train']}: holds no class folders", remedy="one folder a class, images inside"
        )
    several(places["train"], classes)
    forms = _forms(places["train"], classes)
    remarks = look_alikes(places["train"], classes) + _one_level_too_high(places["train"], found["train"])
    remarks += [
        f"{folder}: is no split (train, val, test) and is not read"
        for folder in besides
        if images.walk(folder).images
    ]
    splits: dict[str, Split] = {}
    for part, listed in found.items():
        remarks += unread(places[part], listed.others, listed.loose)
        _filled(places[part], listed)
        numbers = []
        for own in _forms(places[part], listed.classes):
            if own not in forms:
                error = unknown("class", own, forms)
                raise UserError(
                    f"{places[part] / own}: a class that train does not have", remedy=error.remedy
                )
            numbers.append(forms[own])
        pool = Pool(f"{name}/{part}", listed.paths, root)
        labels = np.array(numbers, dtype=np.int64)[listed.labels]
        splits[part] = Split(part, pool.paths, labels, pool)
    return complete(name, classes, splits, where=str(root), test=test, remarks=remarks)


def _unsplit(name: str, root: Path) -> ImageDataset:
    """A folder of class folders."""
    listed = images.class_folders(root)
    if len(listed.classes) < 2 or not listed.paths:
        raise UserError(
            f"{root}: holds neither splits (train, val, test) nor class folders",
            remedy=f"put class folders under {root / 'train'} and {root / 'test'}, or in {root} itself",
        )
    _filled(root, listed)
    _forms(root, listed.classes)
    if told := _one_level_too_high(root, listed):
        raise UserError(
            told[0], remedy=f"name one of them, folder:{root / listed.classes[0]}, or list images as csv:FILE"
        )
    pool = Pool(f"{name}/all", listed.paths, root)
    whole = Split("all", pool.paths, listed.labels, pool)
    remarks = unread(root, listed.others, listed.loose) + look_alikes(root, listed.classes)
    return cut_test(name, listed.classes, whole, remarks=remarks)


def _one_split_beside_classes(root: Path, places: dict[str, Path], besides: Sequence[Path]) -> None:
    """Raise where the only split's name may be a class's: COCO, VOC and CIFAR-100 have a class "train"."""
    beside = [folder.name for folder in besides if images.walk(folder).images] if len(places) == 1 else []
    if beside:
        name = next(iter(places.values())).name
        raise UserError(
            f"{root}: the split '{'train' if 'test' in places else 'test'}' is missing; '{name}' is the only folder "
            f"with a split's name, and {some(beside)} beside it hold images",
            remedy=f"if '{name}' is a class, move all class folders into {root / 'train'} and {root / 'test'}; "
            "else give the other splits their names",
        )


def _one_level_too_high(place: Path, listed: images.ClassFolders) -> list[str]:
    """A sentence where all class folders hold folders of the same names and no image: domains or folds of classes."""
    if len(listed.classes) < 2 or any(path.parent.parent == place for path in listed.paths):
        return []
    inner = [{folder.name for folder in images.subfolders(place / name)} for name in listed.classes]
    if len(inner[0]) < 2 or any(names != inner[0] for names in inner):
        return []
    return [
        f"{place}: {some(listed.classes)} are read as the classes, and each holds the same folders, "
        f"{some(sorted(inner[0]))}: are those the classes?"
    ]


def _filled(place: Path, listed: images.ClassFolders) -> None:
    """Raise for a class without an image, or no class."""
    if listed.empty:
        raise UserError(
            f"{place / listed.empty[0]}: the class '{listed.empty[0]}' holds no images",
            remedy="add images or delete the folder",
        )
    if not listed.paths:
        raise UserError(f"{place}: holds no class folders", remedy="one folder a class, images inside")


def _places(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """The folders of the splits, by what people call them, and the folders beside them.

    Raises:
        UserError: If two folders could be the same split.
    """
    places: dict[str, Path] = {}
    besides: list[Path] = []
    for folder in images.subfolders(root):
        part = split_of(folder.name)
        if part is None:
            besides.append(folder)
        elif part in places:
            raise UserError(
                f"{root}: both {places[part].name} and {folder.name} could be the split '{part}'",
                remedy="rename or remove one",
            )
        else:
            places[part] = folder
    return {part: places[part] for part in SPLITS if part in places}, besides


def _forms(folder: Path, classes: Sequence[str]) -> dict[str, int]:
    """Class numbers by their names as a reader sees them: file systems and archives write accents differently.

    Raises:
        UserError: If two folders' names are the same text.
    """
    forms: dict[str, int] = {}
    for number, given in enumerate(classes):
        form = visible(given)
        if form in forms:
            raise UserError(
                f"{folder}: two class folders are called '{form}', written in two ways", remedy="merge them"
            )
        forms[form] = number
    return forms


def _voc_labels(path: Path) -> list[float]:
    """Presence of the twenty classes: 1 present, 0 absent, -1 where every instance is marked difficult."""
    labels = [0.0] * len(VOC_CLASSES)
    for instance in parse_xml(path).findall("object"):
        text = class_name(instance.findtext("name", ""))
        if text not in VOC_CLASSES:
            wrong = unknown("class", text, VOC_CLASSES)
            raise UserError(f"{path}: {wrong.message}", remedy=wrong.remedy)
        index = VOC_CLASSES.index(text)
        difficult = flag(instance.findtext("difficult"))
        if difficult is None:
            raise UserError(
                f"{path}: <difficult> is {instance.findtext('difficult')!r}", remedy="write 0 or 1"
            )
        if not difficult:
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
        keys = image_names(file)
        paths = tuple(root / "JPEGImages" / f"{key}.jpg" for key in keys)
        for image in paths:
            if not image.is_file():
                raise UserError(f"{image}: named in {file} but missing", remedy="restore the image")
        labels = [_voc_labels(root / "Annotations" / f"{key}.xml") for key in keys]
        pool = Pool(f"{name}/{part}", paths, root)
        splits[part] = Split(part, paths, np.array(labels, dtype=np.float32).reshape(-1, 20), pool)
    return complete(name, VOC_CLASSES, splits)


def any_layout(name: str, root: Path, label: str | None, *, test: str = "test") -> ImageDataset:
    """Read a folder of the user's: labels.csv where a label column is asked for or it is all there is."""
    if root.is_file():
        return csv_manifest(name, root, label, test=test)
    manifest = root / "labels.csv"
    if manifest.is_file() and (label is not None or not _holds_classes(root)):
        return csv_manifest(name, manifest, label, test=test)
    if label is not None:
        raise UserError(f"{manifest}: missing, and the task wants its column '{label}'", remedy="write it")
    return class_folders(name, root, test=test)


def _holds_classes(root: Path) -> bool:
    places, besides = _places(root)
    return bool(images.subfolders(places["train"])) if "train" in places else len(besides) > 1


Reader = Callable[[str, Path, str | None], ImageDataset]
LAYOUTS: dict[str, Reader] = {
    "folders": any_layout,
    "voc": lambda name, root, _label: voc_classification(name, root),
}
