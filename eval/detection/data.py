"""Detection data in the official layouts, looked over before a single iteration is paid for."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import BoxMode

from mast.files import atomic_write, canonical_json, sha256_file
from mast.images import decode, header

from ..datasets.coco import read_coco, read_json
from ..datasets.voc import VocObject, read_voc
from ..errors import UserError, unknown
from .names import PLACES, is_place, place, table

COUNTED = 100  # detections of an image: Detectron2's and COCO's limit
UNTOLD = (2, 3, 4)  # orientation tags that leave width and height as they are
DECODE_ALL = 3000  # up to so many images are decoded whole beforehand; beyond that their headers are read


@dataclass
class Split:
    """One part of a detection data set.

    Attributes:
        dicts: Detectron2's dataset dicts.
        sources: Folder and split name (VOC) or annotation file and image folder (COCO), one for each part.
        completed: The content of the first annotation file put in order; None where it was in order.
        objects: Of VOC's test split, by image, what the metric is held against; None elsewhere.
        image_ids: Of COCO, from an image's id in the first file to its ``image_id``.
    """

    dicts: list[dict[str, Any]]
    sources: list[tuple[Path, str]]
    completed: dict[str, Any] | None = None
    objects: dict[str, tuple[VocObject, ...]] | None = None
    image_ids: dict[Any, int] | None = None


@dataclass(frozen=True)
class DetectionData:
    """A checked detection data set. Detectron2 knows nothing of it before `register`.

    Attributes:
        name: The entry of ``datasets.yaml``.
        layout: ``voc`` or ``coco``.
        classes: Names, in the order of the category ids of the dicts.
        train: What is trained on.
        test: What is measured.
        masks: Whether every object has a mask that is to be learnt.
        shots: Training objects of each class that the data set's definition keeps; None keeps all.
        fraction: Share of the training images that the data set's definition keeps; None keeps all.
        warnings: What is odd but harmless.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    masks: bool
    shots: int | None = None
    fraction: float | None = None
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def manifest(self) -> str:
        """SHA-256 over the annotations of both splits."""
        return _manifest(self.classes, self.train.dicts, self.test.dicts)

    @property
    def counts(self) -> dict[str, int]:
        """Images and objects of both splits."""
        return {
            f"{split}_{what}": count
            for split, part in (("train", self.train), ("test", self.test))
            for what, count in (
                ("images", len(part.dicts)),
                ("instances", sum(not a.get("iscrowd", 0) for d in part.dicts for a in d["annotations"])),
            )
        }

    @property
    def bitmasks(self) -> bool:
        """Whether a training mask is given as run lengths."""
        return any(
            isinstance(a.get("segmentation"), dict) and not a.get("iscrowd", 0)
            for d in self.train.dicts
            for a in d["annotations"]
        )

    def limited(self, number: int) -> DetectionData:
        """At most ``number`` images of each split, evenly spaced, for a smoke test."""

        def some(split: Split) -> Split:
            if len(split.dicts) <= number:
                return split
            places = np.linspace(0, len(split.dicts) - 1, number).round().astype(int)
            dicts = [split.dicts[place] for place in places]
            if self.layout == "voc":
                return replace(split, dicts=dicts)
            # COCO's evaluation counts the objects of every image in the annotation file.
            content = split.completed or read_json(split.sources[0][0])
            kept = {entry["image_id"] for entry in dicts}
            images = [image for image in content["images"] if image["id"] in kept]
            objects = [each for each in content["annotations"] if each["image_id"] in kept]
            return replace(split, dicts=dicts, completed=content | {"images": images, "annotations": objects})

        return replace(self, train=some(self.train), test=some(self.test))

    def drawn(self, *, images: int | None = None, shots: int | None = None, seed: int = 0) -> DetectionData:
        """The data set with the training part that a cell uses; all of it where nothing asks for less.

        Args:
            images: Keep only so many training images, in place of the definition's share.
            shots: Keep only so many training objects of each class, in place of the definition's number; the
                others are taken out of their images.
            seed: Draws them.

        Raises:
            UserError: If there is less data than asked for.
        """
        shots = self.shots if shots is None else shots
        if images is None and self.fraction is not None:
            images = max(1, round(self.fraction * len(self.train.dicts)))
        if images is None and shots is None:
            return self
        dicts = subset(self.train.dicts, self.classes, images=images, shots=shots, seed=seed)
        return replace(self, train=replace(self.train, dicts=dicts))


def catalog() -> dict[str, Any]:
    """The data sets that tasks may name, from ``datasets.yaml``."""
    return table().model_dump(exclude_none=True)


def prepare(name: str, data_root: Path, *, masks: bool, train: bool = True) -> DetectionData:
    """Find a data set and check it, the whole of it; nothing is written and Detectron2 is told nothing.

    Args:
        name: An entry of ``datasets.yaml``, or a place as `names.PLACES` has it, with any classes.
        data_root: Where the official folders lie; relative folders of `name` start here.
        masks: Whether every object needs a mask.
        train: Whether something is to be trained; else a place may name a test split alone.

    Raises:
        UserError: For anything that would fail later or train on something wrong; file and remedy are named.
    """
    entry, folders = _entry(name)
    if masks and entry["layout"] == "voc":
        raise UserError(
            f"'{name}' has boxes only, and the task asks for masks", remedy="use a COCO data set", code=2
        )
    alone = is_place(name) and entry["train"] == entry["test"]
    if alone and train:
        raise UserError(f"'{name}' has nothing to train on", remedy=PLACES[entry["layout"]], code=2)
    parts = {
        split: [_source(data_root, folders.get(place, [place]), which) for place, which in entry[split]]
        for split in (("test",) if alone else ("train", "test"))
    }
    _check_embedded(name, entry.get("embedded"), data_root)
    checker = _Voc(entry["classes"], parts) if entry["layout"] == "voc" else _Coco(parts, masks)
    test = checker.split("test")
    learnt = Split([], test.sources) if alone else checker.split("train")
    odd = _check_images(name, learnt.dicts + test.dicts) + _check_crowded(name, test.dicts)
    _check_overlap(learnt.dicts, test.dicts)
    return DetectionData(
        name=name,
        layout=entry["layout"],
        classes=checker.classes,
        train=learnt,
        test=test,
        masks=masks,
        shots=entry.get("shots"),
        fraction=entry.get("fraction"),
        warnings=checker.warnings + odd,
    )


def register(data: DetectionData, work_dir: Path) -> None:
    """Enter ``train`` and ``test`` in Detectron2's catalogs, in place of what was there.

    Args:
        data: The data set.
        work_dir: Where a completed copy of an annotation file goes, if one is needed: Detectron2 reads it there.
    """
    for split, part in (("train", data.train), ("test", data.test)):
        for registry in (DatasetCatalog, MetadataCatalog):
            if split in registry.list():
                registry.remove(split)
        DatasetCatalog.register(split, lambda dicts=part.dicts: dicts)
        where, which = part.sources[0]
        if data.layout == "voc":
            year = 2012 if where.name == "VOC2012" else 2007
            extra = {"dirname": str(where), "year": year, "split": which}
        else:
            if part.completed is not None:
                where = work_dir / f"{split}-{where.name}"  # both files may have one name
                with atomic_write(where) as file:
                    json.dump(part.completed, file)
            ids = part.dicts[0]["category_ids"] if part.dicts else {}
            extra = {"json_file": str(where), "thing_dataset_id_to_contiguous_id": ids}
        MetadataCatalog.get(split).set(thing_classes=list(data.classes), **extra)


def subset(
    dicts: Sequence[dict[str, Any]],
    classes: Sequence[str],
    *,
    images: int | None,
    shots: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """A low-data training set: so many images, or so many objects of each class.

    Args:
        dicts: Detectron2's dataset dicts.
        classes: Names of the classes.
        images: Images to keep, drawn without replacement.
        shots: Objects to keep of each class; an image keeps only its drawn objects, as in few-shot detection
            (Wang et al. 2020, arXiv 2003.06957), and images without one are left out.
        seed: Draws the subset. Smaller subsets of one seed lie inside larger ones.

    Raises:
        UserError: If there is less data than asked for.
    """
    order = np.random.default_rng([seed, 7]).permutation(len(dicts))
    kept = [dicts[i] for i in order]
    if images is not None:
        if not 1 <= images <= len(kept):
            raise UserError(
                f"train_images={images}, and the training split has {len(kept)}",
                remedy=f"give a number from 1 to {len(kept)}",
                code=2,
            )
        kept = kept[:images]
    if shots is not None:
        left = Counter(dict.fromkeys(range(len(classes)), shots))
        few = []
        for entry in kept:
            chosen = []
            for annotation in entry["annotations"]:
                if not annotation.get("iscrowd", 0) and left[annotation["category_id"]] > 0:
                    left[annotation["category_id"]] -= 1
                    chosen.append(annotation)
            if chosen:
                few.append({**entry, "annotations": chosen})
        short = [c for c, count in left.items() if count > 0]
        if short or shots < 1:
            raise UserError(
                f"shots={shots}, and the training split has fewer objects of "
                + (classes[short[0]] if short else "some class"),
                remedy="ask for fewer shots",
                code=2,
            )
        kept = few
    return kept


def _entry(name: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    known = catalog()
    if is_place(name):
        return place(name).model_dump(exclude_none=True), {}
    if name not in known["datasets"]:
        raise unknown("detection data set", name, known["datasets"])
    return known["datasets"][name], known["folders"]


def _source(data_root: Path, candidates: Sequence[str], which: str) -> tuple[Path, str]:
    """The folder of a part, and its split or annotation file there."""
    if which.lower().endswith(".json"):
        images, file = (data_root / Path(given).expanduser() for given in (candidates[0], which))
        for path, there in ((file, file.is_file()), (images, images.is_dir())):
            if not there:
                raise UserError(f"{path} is missing", remedy=PLACES["coco"], code=2)
        return images, str(file)
    return _folder(data_root, candidates), which


def _folder(data_root: Path, candidates: Iterable[str]) -> Path:
    tried = [data_root / Path(candidate).expanduser() for candidate in candidates]
    for folder in tried:
        if any((folder / part).is_dir() for part in ("Annotations", "annotations")):
            return folder
    raise UserError(
        f"no data in {' or '.join(map(str, tried))}",
        remedy="put the official folder there, or point --data-root at its parent",
    )


def _check_embedded(name: str, embedded: bool | None, data_root: Path) -> None:
    stamped = (data_root / "SCENES.json").is_file()
    if embedded is not None and stamped != embedded:
        raise UserError(
            f"'{name}' is for {'embedded scenes' if embedded else 'real images'}, and {data_root} "
            f"{'has no SCENES.json' if embedded else 'holds embedded scenes (SCENES.json)'}",
            remedy="use another --data-root, or the tasks scenes-voc and scenes-coco for scenes",
            code=2,
        )


class _Voc:
    """A Pascal VOC data set: what `eval.datasets.voc` reads, as Detectron2's dataset dicts."""

    def __init__(self, classes: str, parts: dict[str, list[tuple[Path, str]]]) -> None:
        self.parts = parts
        known = tuple(CLASS_NAMES) if classes == "voc" else ()
        self.read = {
            name: [
                read_voc(folder, which, whole_pixels=name == "test", classes=known)
                for folder, which in sources
            ]
            for name, sources in parts.items()
        }
        read = [part for found in self.read.values() for part in found]
        self.classes = known or tuple(sorted(set().union(*(part.classes for part in read))))
        self.warnings = list(dict.fromkeys(line for part in read for line in part.warnings))

    def split(self, name: str) -> Split:
        places = {label: index for index, label in enumerate(self.classes)}
        images = [image for part in self.read[name] for image in part.images]
        dicts = [
            {
                "file_name": str(image.file),
                "image_id": image.name,
                "height": image.height,
                "width": image.width,
                "annotations": [
                    {
                        # The pixels from 1 on, both ends inside, become coordinates of their edges.
                        "category_id": places[found.name],
                        "bbox": [found.box[0] - 1.0, found.box[1] - 1.0, found.box[2], found.box[3]],
                        "bbox_mode": BoxMode.XYXY_ABS,
                    }
                    for found in image.objects
                ],
            }
            for image in images
        ]
        objects = {image.name: image.objects for image in images} if name == "test" else None
        return Split(dicts, self.parts[name], objects=objects)


class _Coco:
    """A COCO data set: what `eval.datasets.coco` reads, through Detectron2's loader."""

    def __init__(self, parts: dict[str, list[tuple[Path, str]]], masks: bool) -> None:
        self.read = {
            split: [read_coco(*self._locate(*source), masks=masks) for source in sources]
            for split, sources in parts.items()
        }
        first, *others = (part for found in self.read.values() for part in found)
        for other in others:
            if other.classes != first.classes:
                differing = sorted(set(first.classes) ^ set(other.classes))
                raise UserError(
                    f"{other.path} does not have the classes of {first.path} "
                    f"(differing: {', '.join(differing) or 'order'})",
                    remedy="give both files the same categories",
                )
        self.classes = first.classes
        self.warnings = list(dict.fromkeys(line for part in (first, *others) for line in part.warnings))

    @staticmethod
    def _locate(folder: Path, split: str) -> tuple[Path, Path]:
        if split.lower().endswith(".json"):
            return Path(split), folder
        json_file = folder / "annotations" / f"instances_{split}.json"
        if not json_file.is_file():
            beside = sorted(path.name for path in json_file.parent.glob("*.json"))
            raise UserError(
                f"{json_file} is missing" + (f"; there are {', '.join(beside[:4])}" if beside else ""),
                remedy="put COCO's annotation file there, or name the files: coco:TRAIN.json,TEST.json,IMAGES",
            )
        for images in (folder / split, folder / "images" / split):
            if images.is_dir():
                return json_file, images
        raise UserError(
            f"no images of {split} in {folder}", remedy=f"put them into {split} or images/{split}"
        )

    def split(self, name: str) -> Split:
        dicts, sources, completed = [], [], []
        for found in self.read[name]:
            content = found.content if found.changed else None
            with _as_file(found.path, content) as place:
                part = load_coco_json(str(place), str(found.images))
            # Ids of the file become places of the sorted categories, as Detectron2 numbers them.
            numbers = sorted(category["id"] for category in found.content["categories"])
            ids = {number: index for index, number in enumerate(numbers)}
            for entry in part:
                for annotation in entry["annotations"]:
                    annotation["category_id"] = ids[annotation["category_id"]]
                dicts.append({**entry, "category_ids": ids})
            sources.append((found.path, str(found.images)))
            completed.append(content)
        return Split(dicts, sources, completed[0], image_ids=self.read[name][0].image_ids)


@contextmanager
def _as_file(json_file: Path, content: dict[str, Any] | None) -> Iterator[Path]:
    """The annotation file, or a passing copy with the content that it lacked."""
    if content is None:
        yield json_file
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / json_file.name
        place.write_text(json.dumps(content), encoding="utf-8")
        yield place


_seen = dict[tuple[str, int, int, int, int], int]()  # good images, by size and time of change: their tags


def _check_images(name: str, dicts: Sequence[dict[str, Any]]) -> list[str]:
    """Read every image's header, and decode it whole if there are few enough to do so; once in a process.

    Returns:
        A warning where a tag turns images so that their sides do not tell for which picture the boxes are.

    Raises:
        UserError: For an image that is not what its annotation says.
    """
    doubtful = []
    for entry in dicts:
        path = entry["file_name"]
        status = os.stat(path)
        mark = (path, status.st_size, status.st_mtime_ns, entry["width"], entry["height"])
        if mark in _seen:
            doubtful += [Path(path).name] * (_seen[mark] in UNTOLD)
            continue
        found = header(Path(path))
        size = found.shown
        if len(dicts) <= DECODE_ALL:
            decode(Path(path))
        if size != (entry["width"], entry["height"]):
            turned = found.size == (entry["width"], entry["height"])
            raise UserError(
                f"{path} is {size[0]} x {size[1]}"
                + (", turned as its orientation tag says" if turned else "")
                + f", and its annotation says {entry['width']} x {entry['height']}",
                remedy="a detector sees it turned: annotate it so, or save it without the tag"
                if turned
                else "correct the annotation or restore the image",
            )
        _seen[mark] = found.orientation
        doubtful += [Path(path).name] * (found.orientation in UNTOLD)
    if not doubtful:
        return []
    what = (
        "images are mirrored or turned by half by a tag, as a detector sees them; boxes for the stored pixels"
    )
    return [f"{name}: {what} would be wrong, which nothing tells: {len(doubtful)} (such as {doubtful[0]})"]


def _check_crowded(name: str, dicts: Sequence[dict[str, Any]]) -> list[str]:
    """A warning for images with more objects than detections count."""
    counts = [sum(not a.get("iscrowd", 0) for a in entry["annotations"]) for entry in dicts]
    crowded = [Path(e["file_name"]).name for e, count in zip(dicts, counts, strict=True) if count > COUNTED]
    if not crowded:
        return []
    what = (
        f"images have more than {COUNTED} objects, and of no image more than {COUNTED} detections are counted"
    )
    return [f"{name} test: {what}: {len(crowded)} (such as {crowded[0]}; {max(counts)} at most)"]


def _check_overlap(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> None:
    """No test image may be a training image, under whatever name. Files are read once, and only where sizes agree."""
    files = [[Path(entry["file_name"]) for entry in dicts] for dicts in (train, test)]
    sizes = [{path: path.stat().st_size for path in paths} for paths in files]
    shared = set(sizes[0].values()) & set(sizes[1].values())
    known = {sha256_file(path): path for path, size in sizes[0].items() if size in shared}
    found = [(path, known.get(sha256_file(path))) for path, size in sizes[1].items() if size in shared]
    both = [(path, other) for path, other in found if other is not None]
    if both:
        raise UserError(
            f"{len(both)} of {len(files[1])} images of the test split are in the training split too, such as "
            + " and ".join(f"{path} ({other})" for path, other in both[:2]),
            remedy="take them out of one of them",
        )


def _manifest(classes: Sequence[str], *splits: Sequence[dict[str, Any]]) -> str:
    """SHA-256 over classes, image names and sizes, boxes, classes and masks; not over folders."""
    digest = hashlib.sha256(canonical_json(list(classes)).encode())
    for dicts in splits:
        digest.update(b"split")
        for entry in dicts:
            content = {key: value for key, value in entry.items() if key not in ("file_name", "category_ids")}
            content["file_name"] = Path(entry["file_name"]).name
            digest.update(json.dumps(content, sort_keys=True, default=_plain).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.decode("ascii") if isinstance(value, bytes) else value.item()
