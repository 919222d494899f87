"""The standard layouts on disk: class folders with a label table, Pascal VOC 2007, COCO 2017."""

from __future__ import annotations

import csv
import hashlib
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import find_contours

from mast.files import canonical_json

from . import compose
from .draw import Thing
from .photos import Backgrounds

DIFFICULT_BELOW = 0.5  # visible share of an object's whole area; VOC's metrics leave difficult objects out
CROWD_EVERY = 6  # one COCO picture in so many has a crowd region
RLE_EVERY = (
    5  # one COCO val instance in so many is annotated as RLE; train has polygons alone, as Detectron2 wants
)

LABELS = {
    "shape": "",
    "colour": "colours/",
}  # what the classes of detection are: the folder before the layouts

Counts = dict[str, dict[str, int]]


class Writer:
    """Writes files below a folder and keeps their size and SHA-256.

    Args:
        out: The folder.
        advance: Called after each picture.
    """

    def __init__(self, out: Path, advance: Callable[[], None]) -> None:
        self.out = out
        self.advance = advance
        self.sizes: dict[str, int] = {}
        self.hashes: dict[str, str] = {}

    def put(self, name: str, content: bytes) -> None:
        """Write one file, named by its path below the folder."""
        path = self.out / name
        try:
            path.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.sizes[name] = len(content)
        self.hashes[name] = hashlib.sha256(content).hexdigest()

    def picture(self, names: Sequence[str], image: NDArray[np.uint8]) -> None:
        """Write (H, W, 3) RGB, under each name, as a JPEG that keeps its colour resolution."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling="4:4:4")
        for name in names:
            self.put(name, buffer.getvalue())
        self.advance()


def write_folders(writer: Writer, backgrounds: Backgrounds, seed: int, sizes: Mapping[str, int]) -> Counts:
    """``scenes/<split>/<shape>/*.jpg`` and ``scenes/labels.csv`` with every factor of the object."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["path", "split", *compose.FACTORS])
    for split, count in sizes.items():
        for index, factors in enumerate(compose.single_factors(seed, split, count)):
            path = f"{split}/{factors['shape']}/{index:05d}.jpg"
            writer.picture([f"scenes/{path}"], compose.single(backgrounds, seed, split, index, factors).image)
            rows.writerow([path, split, *factors.values()])
    writer.put("scenes/labels.csv", table.getvalue().encode())
    return {split: {"images": count, "objects": count} for split, count in sizes.items()}


def pixel_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight box (left, top, right, bottom) of a mask; right and bottom are one past its last pixel."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _voc_xml(name: str, things: list[Thing], masks: list[NDArray[np.bool_]], label: str) -> bytes:
    """Annotation of one picture, by one factor. Boxes are 1-based and inclusive and hold the visible part."""
    height, width = masks[0].shape

    def add(parent: ET.Element, fields: Mapping[str, Any]) -> None:
        for tag, value in fields.items():
            child = ET.SubElement(parent, tag)
            if isinstance(value, dict):
                add(child, value)
            else:
                child.text = str(value)

    root = ET.Element("annotation")
    add(root, {
        "folder": "VOC2007",
        "filename": f"{name}.jpg",
        "source": {"database": "Embedded scenes", "annotation": "Embedded scenes", "image": "drawn"},
        "size": {"width": width, "height": height, "depth": 3},
        "segmented": 0,
    })  # fmt: skip
    for thing, mask in zip(things, masks, strict=True):
        left, top, right, bottom = pixel_box(mask)
        low, high = thing.outline().min(0), thing.outline().max(0)
        add(root, {"object": {
            "name": getattr(thing, label),
            "pose": "Unspecified",
            "truncated": int(bool(low.min() < -1 or high[0] > width + 1 or high[1] > height + 1)),
            "difficult": int(mask.sum() < DIFFICULT_BELOW * thing.side**2),
            "bndbox": {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom},
        }})  # fmt: skip
    ET.indent(root)
    return ET.tostring(root) + b"\n"


def write_voc(writer: Writer, backgrounds: Backgrounds, seed: int, sizes: Mapping[str, int]) -> Counts:
    """``VOC2007/{Annotations,ImageSets/Main,JPEGImages}``, and ``colours/VOC2007`` with the same pictures.

    The classes are the shapes, and there the colours; trainval is train and val.
    """
    # label -> split -> picture -> class -> 1, or 0 if there are only difficult ones
    present: dict[str, dict[str, dict[str, dict[str, int]]]] = {label: {} for label in LABELS}
    counts: Counts = {}
    number = 0
    for split, count in sizes.items():
        counts[split] = {"images": count, "objects": 0}
        for index, shapes in enumerate(compose.several_shapes(seed, "VOC2007", split, count)):
            number += 1
            name = f"{number:06d}"
            picture = compose.several(backgrounds, seed, "VOC2007", split, index, shapes, crowd=False)
            for label, folder in LABELS.items():
                annotation = _voc_xml(name, picture.things, picture.masks, label)
                writer.put(f"{folder}VOC2007/Annotations/{name}.xml", annotation)
                seen = present[label].setdefault(split, {}).setdefault(name, {})
                for item in ET.fromstring(annotation).iter("object"):
                    what, difficult = item.findtext("name", ""), item.findtext("difficult") == "1"
                    seen[what] = max(seen.get(what, 0), int(not difficult))
            writer.picture(
                [f"{folder}VOC2007/JPEGImages/{name}.jpg" for folder in LABELS.values()], picture.image
            )
            counts[split]["objects"] += len(picture.things)
    counts["trainval"] = {key: counts["train"][key] + counts["val"][key] for key in counts["train"]}
    for label, folder in LABELS.items():
        sets = f"{folder}VOC2007/ImageSets/Main"
        splits = present[label]
        for split, pictures in {**splits, "trainval": splits["train"] | splits["val"]}.items():
            writer.put(f"{sets}/{split}.txt", "".join(f"{name}\n" for name in pictures).encode())
            for what in compose.FACTORS[label]:
                lines = (f"{name} {seen.get(what, -1):2d}\n" for name, seen in pictures.items())
                writer.put(f"{sets}/{what}_{split}.txt", "".join(lines).encode())
    return counts


def polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Contours of a mask without holes as COCO polygons that rasterise to exactly this mask.

    The contour runs through the middles of pixel edges, which are half integers in COCO's coordinates.
    """
    height, width = mask.shape
    found = []
    for contour in find_contours(np.pad(mask, 1).astype(np.float64), 0.5):
        points = (
            contour[:-1, ::-1] - 0.5
        )  # closed; (row, column) of padded pixel centres -> (x, y) of pixel corners
        step, back = np.roll(points, -1, axis=0) - points, points - np.roll(points, 1, axis=0)
        corners = points[step[:, 0] * back[:, 1] != step[:, 1] * back[:, 0]]
        found.append(corners.clip(0, (width, height)).ravel().tolist())
    return found


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: lengths of runs in column order, the first one of zeros."""
    flat = mask.ravel(order="F")
    ends = np.r_[np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size]
    counts = np.diff(ends, prepend=0).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def write_coco(writer: Writer, backgrounds: Backgrounds, seed: int, sizes: Mapping[str, int]) -> Counts:
    """``coco/{train2017,val2017}`` and ``coco/annotations/instances_*.json``, and ``colours/coco`` likewise.

    The classes are the shapes, and there the colours, of the same pictures; val has the test backgrounds. A crowd is
    of one shape and of several colours: each of these has the whole crowd as a crowd region.
    """
    counts: Counts = {}
    for split, count in sizes.items():
        folder, band = f"{split}2017", {"train": "train", "val": "test"}[split]
        images: list[dict[str, Any]] = []
        annotations: dict[str, list[dict[str, Any]]] = {label: [] for label in LABELS}
        for index, shapes in enumerate(compose.several_shapes(seed, "coco", band, count)):
            identity = index + 1 + (0 if split == "train" else 100_000)
            crowd = index % CROWD_EVERY == 1
            picture = compose.several(backgrounds, seed, "coco", band, index, shapes, crowd=crowd)
            name = f"{identity:012d}.jpg"
            writer.picture([f"{place}coco/{folder}/{name}" for place in LABELS.values()], picture.image)
            height, width = picture.image.shape[:2]
            images.append({"id": identity, "file_name": name, "height": height, "width": width, "license": 1})
            for label, entries in annotations.items():
                regions = [
                    (getattr(thing, label), mask, 0)
                    for thing, mask in zip(picture.things, picture.masks, strict=True)
                ]
                if picture.crowd_mask is not None:
                    kinds = sorted({getattr(thing, label) for thing in picture.crowd})
                    regions += [(kind, picture.crowd_mask, 1) for kind in kinds]
                for kind, mask, iscrowd in regions:
                    left, top, right, bottom = pixel_box(mask)
                    runs = iscrowd or (split == "val" and len(entries) % RLE_EVERY == 0)
                    entries.append({
                        "id": len(entries) + 1,
                        "image_id": identity,
                        "category_id": compose.FACTORS[label].index(kind) + 1,
                        "iscrowd": iscrowd,
                        "area": int(mask.sum()),
                        "bbox": [left, top, right - left, bottom - top],
                        "segmentation": run_lengths(mask) if runs else polygons(mask),
                    })  # fmt: skip
        for label, place in LABELS.items():
            content = {
                "info": {
                    "description": "Embedded scenes in the layout of COCO 2017",
                    "version": "1",
                    "year": 2017,
                },
                "licenses": [{"id": 1, "name": "image credits of scikit-learn and scikit-image", "url": ""}],
                "categories": [
                    {"id": number, "name": kind, "supercategory": label}
                    for number, kind in enumerate(compose.FACTORS[label], 1)
                ],
                "images": images,
                "annotations": annotations[label],
            }
            writer.put(f"{place}coco/annotations/instances_{folder}.json", canonical_json(content).encode())
        crowds = sum(entry["iscrowd"] for entry in annotations["shape"])
        counts[folder] = {"images": count, "objects": len(annotations["shape"]) - crowds, "crowds": crowds}
    return counts
