"""Detection data in the official layouts, looked over before a single iteration is paid for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, load_voc_instances
from PIL import Image

from mast.files import atomic_write, canonical_json

from ..errors import UserError, unknown
from .names import table

DECODE_ALL = 3000  # up to so many images are decoded whole beforehand; beyond that their headers are read
TOLERANCE = 1.0  # pixels that a box may stick out: rounding, in the official files too


@dataclass
class Split:
    """One part of a detection data set.

    Attributes:
        dicts: Detectron2's dataset dicts.
        sources: Folder and split name (VOC) or annotation file and image folder (COCO), one for each part.
        completed: The content of the first annotation file with what it lacked; None where it lacked nothing.
    """

    dicts: list[dict[str, Any]]
    sources: list[tuple[Path, str]]
    completed: dict[str, Any] | None = None


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
            content = split.completed or _read_json(split.sources[0][0])
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


def prepare(name: str, data_root: Path, *, masks: bool) -> DetectionData:
    """Find a data set and check it, the whole of it; nothing is written and Detectron2 is told nothing.

    Args:
        name: An entry of ``datasets.yaml``; or ``voc:<folder>`` or ``coco:<folder>`` with the official layout
            and any classes.
        data_root: Where the official folders lie; relative folders of `name` start here.
        masks: Whether every object needs a mask.

    Raises:
        UserError: For anything that would fail later or train on something wrong; file and remedy are named.
    """
    entry, folders = _entry(name)
    if masks and entry["layout"] == "voc":
        raise UserError(
            f"'{name}' has boxes only, and the task asks for masks", remedy="use a COCO data set", code=2
        )
    parts = {
        split: [(_folder(data_root, folders.get(place, [place])), which) for place, which in entry[split]]
        for split in ("train", "test")
    }
    _check_embedded(name, entry.get("embedded"), data_root)
    checker = _Voc(entry["classes"], parts) if entry["layout"] == "voc" else _Coco(parts, masks)
    train, test = checker.split("train"), checker.split("test")
    _check_images(train.dicts + test.dicts)
    _check_overlap(train.dicts, test.dicts)
    return DetectionData(
        name=name,
        layout=entry["layout"],
        classes=checker.classes,
        train=train,
        test=test,
        masks=masks,
        shots=entry.get("shots"),
        fraction=entry.get("fraction"),
        warnings=checker.warnings,
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
                where = work_dir / where.name
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
    if match := re.fullmatch(r"(voc|coco):(.+)", name):
        layout, folder = match[1], match[2]
        names = ("trainval", "test") if layout == "voc" else ("train2017", "val2017")
        parts: dict[str, Any] = {"train": [[folder, names[0]]], "test": [[folder, names[1]]]}
        return {"layout": layout, "classes": "found", **parts}, {}
    if name not in known["datasets"]:
        raise unknown("detection data set", name, known["datasets"])
    return known["datasets"][name], known["folders"]


def _folder(data_root: Path, candidates: Iterable[str]) -> Path:
    tried = [data_root / candidate for candidate in candidates]
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
    """Reads Pascal VOC folders with Detectron2's loader, after looking at what that loader takes on trust."""

    def __init__(self, classes: str, parts: dict[str, list[tuple[Path, str]]]) -> None:
        self.parts = parts
        self.warnings: list[str] = []
        found = {
            obj.findtext("name", "").strip()
            for sources in parts.values()
            for folder, split in sources
            for _, xml in self._files(folder, split)
            for obj in _parse_xml(xml).iter("object")
        }
        self.classes = tuple(CLASS_NAMES) if classes == "voc" else tuple(sorted(found))
        if not found:
            folder, split = parts["train"][0]
            raise UserError(
                f"{folder / 'Annotations'} has no object in {split}", remedy="annotate some objects first"
            )

    @staticmethod
    def _files(folder: Path, split: str) -> Iterator[tuple[str, Path]]:
        listing = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listing.is_file():
            raise UserError(f"{listing} is missing", remedy="VOC lists the images of a split in that file")
        names = listing.read_text(encoding="utf-8").split("\n")
        images = [name.strip() for name in names if name.strip()]
        if len(images) < 2:
            raise UserError(f"{listing} names {len(images)} images", remedy="list at least two")
        for image in images:
            if " " in image:
                raise UserError(f"{listing}: '{image}' is not an image name", remedy="one name in each line")
            yield image, folder / "Annotations" / f"{image}.xml"

    def split(self, name: str) -> Split:
        dicts = []
        for folder, which in self.parts[name]:
            for image, xml in self._files(folder, which):
                jpeg = folder / "JPEGImages" / f"{image}.jpg"
                if not jpeg.is_file():
                    raise UserError(
                        f"{jpeg} is missing, and ImageSets/Main/{which}.txt of {folder} names it",
                        remedy="restore the image or take its name out of the list",
                    )
                self._check(xml, evaluated=name == "test")
            for entry in load_voc_instances(str(folder), which, self.classes):
                dicts.append({**entry, "image_id": str(entry["image_id"])})
        if not any(entry["annotations"] for entry in dicts):
            folder, which = self.parts[name][0]
            raise UserError(f"{folder}: no object in {which}", remedy="detection needs annotated images")
        return Split(dicts, self.parts[name])

    def _check(self, xml: Path, *, evaluated: bool) -> None:
        root = _parse_xml(xml)
        width, height = (_number(xml, root, f"size/{side}") for side in ("width", "height"))
        for obj in root.iter("object"):
            name = obj.findtext("name", "")
            if name not in self.classes:
                error = unknown("class", name, self.classes)
                raise UserError(
                    f"{xml}: {error.message}", remedy=f"{error.remedy} Correct the annotation"
                ) from None
            left, top, right, bottom = (
                _number(xml, obj, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
            )
            inside = left >= 0 and top >= 0 and right <= width + TOLERANCE and bottom <= height + TOLERANCE
            if not inside or right <= left or bottom <= top:
                raise UserError(
                    f"{xml}: the box ({left:g}, {top:g}, {right:g}, {bottom:g}) of a {name} is not inside its "
                    f"{width:g} x {height:g} image",
                    remedy="correct the box, or the size if that is wrong",
                )
            for element in ("pose", "truncated", "difficult") if evaluated else ():
                if obj.find(element) is None:
                    raise UserError(
                        f"{xml}: an object has no <{element}>", remedy="the VOC metric reads it; add 0"
                    )
            if evaluated and any(value != int(value) for value in (left, top, right, bottom)):
                raise UserError(
                    f"{xml}: a box has fractions", remedy="the VOC metric counts whole pixels; round"
                )


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(f"{path} is missing", remedy="every listed image needs its annotation") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not readable XML: {error}", remedy="restore the file") from error


def _number(path: Path, element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag)
    try:
        return float(text or "")
    except ValueError:
        raise UserError(f"{path}: <{tag}> is {text!r}, not a number", remedy="correct the file") from None


class _Coco:
    """Reads COCO annotation files with Detectron2's loader, after looking at what that loader takes on trust."""

    def __init__(self, parts: dict[str, list[tuple[Path, str]]], masks: bool) -> None:
        self.masks = masks
        self.warnings: list[str] = []
        self.files = {
            split: [self._locate(*source) for source in sources] for split, sources in parts.items()
        }
        self.contents = {
            json_file: _read_json(json_file) for sources in self.files.values() for json_file, _ in sources
        }
        classes = {}
        for json_file, content in self.contents.items():
            categories = content.get("categories")
            if not categories:
                raise UserError(f"{json_file} has no categories", remedy="list them as COCO does")
            classes[json_file] = tuple(category["name"] for category in self._categories(json_file))
        first, *others = classes
        for other in others:
            if classes[other] != classes[first]:
                differing = sorted(set(classes[first]) ^ set(classes[other]))
                raise UserError(
                    f"{other} does not have the classes of {first} (differing: {', '.join(differing) or 'order'})",
                    remedy="give both files the same categories",
                )
        self.classes = classes[first]

    @staticmethod
    def _locate(folder: Path, split: str) -> tuple[Path, Path]:
        json_file = folder / "annotations" / f"instances_{split}.json"
        if not json_file.is_file():
            raise UserError(f"{json_file} is missing", remedy="put COCO's annotation file there")
        for images in (folder / split, folder / "images" / split):
            if images.is_dir():
                return json_file, images
        raise UserError(
            f"no images of {split} in {folder}", remedy=f"put them into {split} or images/{split}"
        )

    def split(self, name: str) -> Split:
        dicts, sources, completed = [], [], []
        for json_file, images in self.files[name]:
            self._check(json_file, images)
            content = self._complete(json_file)
            with _as_file(json_file, content) as place:
                part = load_coco_json(str(place), str(images))
            # Ids of the file become places of the sorted categories, as Detectron2 numbers them.
            ids = {category["id"]: index for index, category in enumerate(self._categories(json_file))}
            for entry in part:
                for annotation in entry["annotations"]:
                    annotation["category_id"] = ids[annotation["category_id"]]
                dicts.append({**entry, "category_ids": ids})
            sources.append((json_file, str(images)))
            completed.append(content)
        if not any(entry["annotations"] for entry in dicts):
            raise UserError(f"{sources[0][0]} has no annotations", remedy="detection needs annotated images")
        return Split(dicts, sources, completed[0])

    def _categories(self, json_file: Path) -> list[dict[str, Any]]:
        return sorted(self.contents[json_file]["categories"], key=lambda category: category["id"])

    def _complete(self, json_file: Path) -> dict[str, Any] | None:
        """The content with ``area`` and ``iscrowd``, or None if they are there; pycocotools cannot do without."""
        content = self.contents[json_file]
        if all({"area", "iscrowd"} <= annotation.keys() for annotation in content["annotations"]):
            return None
        from pycocotools.coco import COCO

        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        for annotation in content["annotations"]:
            annotation.setdefault("iscrowd", 0)
            if "area" not in annotation:
                has_mask = bool(annotation.get("segmentation"))
                annotation["area"] = (
                    float(coco.annToMask(annotation).sum())
                    if has_mask
                    else float(annotation["bbox"][2] * annotation["bbox"][3])
                )
        self.warnings.append(f"{json_file}: areas or crowd flags were filled in")
        return content

    def _check(self, json_file: Path, folder: Path) -> None:
        content = self.contents[json_file]
        for key in ("images", "annotations"):
            if not content.get(key):
                raise UserError(f"{json_file} has no {key}", remedy="detection needs annotated images")
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: category["name"] for category in content["categories"]}
        for image in content["images"]:
            if not (folder / image["file_name"]).is_file():
                raise UserError(
                    f"{folder / image['file_name']} is missing, and {json_file} names it",
                    remedy="restore the image or take its entry out",
                )
        ids: set[int] = set()
        for annotation in content["annotations"]:
            where = f"{json_file}, annotation {annotation.get('id')}"
            if annotation.get("id") in ids or "id" not in annotation:
                raise UserError(f"{where}: missing or used twice", remedy="number the annotations")
            ids.add(annotation["id"])
            if annotation.get("image_id") not in images:
                raise UserError(
                    f"{where}: image {annotation.get('image_id')} is not listed",
                    remedy="list it or drop this",
                )
            if annotation.get("category_id") not in categories:
                raise UserError(
                    f"{where}: category {annotation.get('category_id')} is not listed",
                    remedy="list it under categories",
                )
            self._check_geometry(where, annotation, images[annotation["image_id"]])

    def _check_geometry(self, where: str, annotation: dict[str, Any], image: dict[str, Any]) -> None:
        box = annotation.get("bbox", ())
        if len(box) != 4 or not np.all(np.isfinite(box)):
            raise UserError(f"{where}: bbox {box} is not four numbers", remedy="give x, y, width, height")
        x, y, width, height = box
        fits = (
            min(x, y) >= -TOLERANCE
            and min(width, height) >= 0
            and x + width <= image["width"] + TOLERANCE
            and y + height <= image["height"] + TOLERANCE
        )
        if not fits:
            raise UserError(
                f"{where}: the box {[round(float(v), 2) for v in box]} (x, y, width, height) is not inside "
                f"{image['file_name']} of {image['width']} x {image['height']}",
                remedy="correct the box",
            )
        if self.masks and not annotation.get("segmentation"):
            raise UserError(f"{where} has no segmentation", remedy="use a task that asks for boxes only")


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable JSON: {error}", remedy="restore the file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a COCO annotation file", remedy="COCO's is one object with 'images'")
    return content


_seen: set[tuple[str, int, int, int, int]] = (
    set()
)  # images that were found good, with size and time of change


def _check_images(dicts: Sequence[dict[str, Any]]) -> None:
    """Read every image's header, and decode it whole if there are few enough to do so; once in a process."""
    for entry in dicts:
        path = entry["file_name"]
        status = os.stat(path)
        mark = (path, status.st_size, status.st_mtime_ns, entry["width"], entry["height"])
        if mark in _seen:
            continue
        try:
            with Image.open(path) as image:
                size = image.size
                if len(dicts) <= DECODE_ALL:
                    image.load()
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path} is not a readable image: {error}",
                remedy="restore the file or take it out of its list",
            ) from error
        if size != (entry["width"], entry["height"]):
            raise UserError(
                f"{path} is {size[0]} x {size[1]}, and its annotation says {entry['width']} x {entry['height']}",
                remedy="correct the annotation or restore the image",
            )
        _seen.add(mark)


def _check_overlap(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> None:
    """No test image may be a training image, under whatever name."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for entry in train:
        by_size[Path(entry["file_name"]).stat().st_size].append(entry["file_name"])
    for entry in test:
        path = entry["file_name"]
        for other in by_size.get(Path(path).stat().st_size, ()):
            if other == path or Path(other).read_bytes() == Path(path).read_bytes():
                raise UserError(
                    f"{path} is in the test split and in the training split ({other})",
                    remedy="take it out of one of them",
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
