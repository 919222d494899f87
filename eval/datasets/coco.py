"""COCO annotation files as people write them: put in order where one reading is right, else refused.

What the evaluators and Detectron2 take on trust is settled here, before anything is trained: a number given as text,
an annotation id of 0 (pycocotools takes it for "no match"), a size that the file leaves out. Whatever is changed is
counted in ``warnings``; the files themselves stay as they are. Rules: ``docs/data.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mast.files import once
from mast.images import header

from ..errors import UserError
from .values import TOLERANCE, Tally, class_name, flag, look_alikes, number, visible, whole

MARGIN = 0.1  # share of the image's sides that a polygon may stick out
CROWDS = 0.25  # share of crowds above which it is told
LARGEST = 65_535  # pixels of a side; above it pycocotools counts beyond 32 bits, and ends the process
LONGEST = (
    200  # times width and height: how long a polygon's line may be, which pycocotools draws pixel by pixel
)
DISAGREES = 0.5  # intersection over union below which a box contradicts the polygon beside it


@dataclass
class CocoFile:
    """A COCO annotation file, in order.

    Attributes:
        path: The file.
        images: The folder of its pictures.
        content: What the file says, in order: ids are whole numbers, annotation ids start at 1, every annotation has
            ``bbox``, ``area`` and ``iscrowd``, every image its size.
        image_ids: From an image's id in the file to its id in ``content``.
        changed: Whether ``content`` is other than what the file says.
        warnings: What was put in order, or is odd.
    """

    path: Path
    images: Path
    content: dict[str, Any]
    image_ids: dict[Any, int]
    changed: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the categories, by id."""
        return tuple(c["name"] for c in sorted(self.content["categories"], key=lambda c: c["id"]))


def read_coco(path: Path, images: Path, *, masks: bool) -> CocoFile:
    """Read a COCO annotation file.

    Args:
        path: The file.
        images: The folder that its ``file_name`` entries lie in.
        masks: Whether every object needs a mask.

    Raises:
        UserError: For what has no one right reading, naming the entry and what to do.
    """
    return _CocoReader(path, images, masks).read()


class _CocoReader:
    def __init__(self, path: Path, images: Path, masks: bool) -> None:
        self.path, self.images, self.masks = path, images, masks
        self.tally = Tally()
        self.sizes: dict[int, tuple[int, int]] = {}
        self.files: dict[int, str] = {}
        self.reach = 0.0  # pixels from the corner that a box comes to, at most
        self.areas: Counter[str] = Counter()  # what areas without a mask are the product of

    def read(self) -> CocoFile:
        content = read_json(self.path)
        for key in ("images", "annotations", "categories"):
            entries = content.get(key)
            if not entries:
                raise UserError(f"{self.path} has no {key}", remedy="detection needs annotated images")
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise UserError(
                    f"{self.path}: '{key}' is not a list of objects", remedy="write it as COCO does"
                )
        used = {key_of(entry.get("category_id")) for entry in content["annotations"]}
        categories, category_ids = self._categories(content["categories"], used)
        pictures, image_ids = self._pictures(content["images"])
        annotations = self._annotations(content["annotations"], image_ids, category_ids)
        tidy = {**content, "images": pictures, "annotations": annotations, "categories": categories}
        self._in_pixels()
        warnings = self.tally.lines(self.path) + look_alikes(self.path, (each["name"] for each in categories))
        return CocoFile(self.path, self.images, tidy, image_ids, tidy != content, warnings)

    def _in_pixels(self) -> None:
        """Refuse boxes that are plainly no left, top, width and height in pixels, whatever each of them may be."""
        remedy = "write x, y, width and height in pixels"
        if self.reach <= 1:
            raise UserError(
                f"{self.path}: no box reaches beyond one pixel, as if they were shares of the pictures' sides",
                remedy=remedy,
            )
        if self.areas["corners"] == self.areas.total() > 0:
            raise UserError(
                f"{self.path}: every area is (bbox[2] - bbox[0]) * (bbox[3] - bbox[1]), as if boxes were two corners",
                remedy=remedy,
            )

    def _refuse(self, entry: str, found: str, remedy: str) -> UserError:
        return UserError(f"{self.path}, {entry}: {found}", remedy=remedy)

    def _categories(
        self, entries: Sequence[dict[str, Any]], used: set[Any]
    ) -> tuple[list[dict[str, Any]], dict[Any, int]]:
        """Categories by name; Roboflow's export begins with one that no object has and that may be called as one."""
        found, ids, names = [], dict[Any, int](), set[str]()
        given = Counter(visible(str(entry.get("name"))) for entry in entries)
        for entry in entries:
            shown = visible(str(entry.get("name")))
            if given[shown] > 1 and key_of(entry.get("id")) not in used:
                given[shown] -= 1
                self.tally.add(
                    "categories of another's name, which no object has, were left out", f"'{shown}'"
                )
                continue
            where = f"category {entry.get('id')!r}"
            key, name = whole(entry.get("id")), entry.get("name")
            if key is None:
                raise self._refuse(where, "its id is not a whole number", "number the categories")
            if not isinstance(name, str) or not class_name(name):
                raise self._refuse(where, f"its name is {name!r}", "name it")
            if key in ids.values() or class_name(name) in names:
                raise self._refuse(
                    where, f"its id or its name '{class_name(name)}' stands twice", "merge the two"
                )
            names.add(class_name(name))
            ids[key_of(entry["id"])] = key
            found.append({**entry, "id": key, "name": class_name(name)})
        return found, ids

    def _pictures(self, entries: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[Any, int]]:
        keys = [key_of(entry.get("id")) for entry in entries]
        renumber = any(whole(key) is None for key in keys)
        if renumber:
            first = next(key for key in keys if whole(key) is None)
            self.tally.add(
                "image ids are no whole numbers, images were numbered from 1", repr(first), len(keys)
            )
        found, ids, by_file = [], dict[Any, int](), dict[str, Any]()
        for position, (entry, key) in enumerate(zip(entries, keys, strict=True), start=1):
            where = f"image {entry.get('id')!r}"
            if key is None:
                raise self._refuse(f"images, entry {position}", "it has no id", "number the images")
            if key in ids:
                raise self._refuse(
                    where,
                    "the id stands twice, so boxes would land on another picture",
                    "number the images anew",
                )
            ids[key] = position if renumber else whole(key) or 0
            name = self._file(where, entry.get("file_name"))
            if name in by_file:
                raise self._refuse(
                    where, f"{name} is listed before, as image {by_file[name]!r}", "list every picture once"
                )
            by_file[name] = entry["id"]
            width, height = self._size(where, entry, name)
            self.sizes[ids[key]], self.files[ids[key]] = (width, height), name
            changes = {"id": ids[key], "file_name": name, "width": width, "height": height}
            found.append({**entry, **changes})
        return found, ids

    def _file(self, where: str, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise self._refuse(where, f"its file_name is {name!r}", "name the picture's file")
        windows = PureWindowsPath(name)
        parts = PurePosixPath(name).parts if "\\" not in name else windows.parts
        if name.startswith("/") or windows.drive or ".." in parts:
            raise self._refuse(
                where,
                f"{name} lies outside {self.images}",
                "give file names relative to the folder of images",
            )
        tidy = str(PurePosixPath(*parts))
        if not (self.images / tidy).is_file():
            raise UserError(
                f"{self.images / tidy} is missing, and {self.path} names it",
                remedy="restore the image or take its entry out",
            )
        return tidy

    def _size(self, where: str, entry: dict[str, Any], name: str) -> tuple[int, int]:
        given = [entry.get("width"), entry.get("height")]
        if given == [None, None]:
            self.tally.add("images have no width and height, read from the pictures", name)
            return header(self.images / name).shown
        width, height = (whole(side) for side in given)
        if width is None or height is None or not 1 <= min(width, height) <= max(width, height) <= LARGEST:
            raise self._refuse(
                where, f"its size is {given[0]!r} x {given[1]!r}", "give width and height in whole pixels"
            )
        return width, height

    def _annotations(
        self, entries: Sequence[dict[str, Any]], image_ids: Mapping[Any, int], category_ids: Mapping[Any, int]
    ) -> list[dict[str, Any]]:
        ids = [whole(entry.get("id")) for entry in entries]
        given = [number for number in ids if number is not None]
        if len(set(given)) < len(given):
            twice = next(key for key, count in Counter(given).items() if count > 1)
            raise self._refuse(f"annotation {twice}", "the id is used twice", "number the annotations")
        renumber = len(given) < len(ids) or min(given) < 1
        if renumber:
            first = next(e.get("id") for e, n in zip(entries, ids, strict=True) if n is None or n < 1)
            what = "annotations were numbered from 1, since some have no id above 0, which COCO's evaluator needs"
            self.tally.add(what, f"id {first!r}", len(entries))
        found, seen = [], set[tuple[object, ...]]()
        objects = 0
        for position, (entry, key) in enumerate(zip(entries, ids, strict=True), start=1):
            where = f"annotation {entry['id']!r}" if "id" in entry else f"annotations, entry {position}"
            image = image_ids.get(key_of(entry.get("image_id")))
            if image is None:
                raise self._refuse(
                    where, f"image {entry.get('image_id')} is not listed", "list it or drop this"
                )
            category = category_ids.get(key_of(entry.get("category_id")))
            if category is None:
                what = f"category {entry.get('category_id')} is not listed"
                raise self._refuse(where, what, "list it under categories")
            if _turned(entry):
                self.tally.add(
                    "boxes are turned (attributes, rotation) and read as if they were upright", where
                )
            crowd = flag(entry.get("iscrowd"))
            if crowd is None:
                raise self._refuse(where, f"iscrowd is {entry['iscrowd']!r}", "write 0 or 1")
            if flag(entry.get("ignore")) and not crowd:
                raise self._refuse(
                    where,
                    "it says 'ignore', which COCO's evaluator does not read",
                    "set iscrowd to 1 or take it out",
                )
            changes = {"id": position if renumber else key, "image_id": image, "category_id": category}
            clean = {**entry, **changes, "iscrowd": int(crowd)}
            mark = (image, category, crowd, *self._shape(where, clean, self.sizes[image]))
            if mark in seen and not crowd:
                self.tally.add("objects stand twice, with the same box and class", where)
            seen.add(mark)
            objects += not crowd
            found.append(clean)
        if (crowds := len(found) - objects) > CROWDS * len(found):
            what = "objects are crowds, which no number counts (some tools mark every painted mask so)"
            self.tally.add(what, f"{crowds} of {len(found)}", crowds)
        if not objects:
            raise UserError(
                f"{self.path}: every object is a crowd, and no number counts crowds",
                remedy="set iscrowd to 0 where it is one object; CVAT marks every painted mask so",
            )
        return found

    def _shape(self, where: str, entry: dict[str, Any], size: tuple[int, int]) -> list[float]:
        """Put box, mask and area of an annotation in order; returns the box."""
        outline = self._segmentation(where, entry, size)
        box = self._box(where, entry, size, outline)
        if outline is not None and not _agree(box, outline):
            self.tally.add(
                "boxes contradict the polygons beside them",
                f"{where}: box {_round(box)}, polygon {_round(outline)}",
            )
        self._area(where, entry, box, size)
        return box

    def _box(
        self, where: str, entry: dict[str, Any], size: tuple[int, int], outline: list[float] | None
    ) -> list[float]:
        given: Any = entry.get("bbox")
        if not given and outline is not None:
            self.tally.add("objects have no box, taken around their polygons", where)
            given = outline
        values = [number(value) for value in given] if isinstance(given, list | tuple) else []
        box = [value for value in values if value is not None]
        if len(box) != 4 or len(values) != 4:
            raise self._refuse(where, f"bbox {given} is not four numbers", "give x, y, width, height")
        x, y, width, height = box
        fits = (
            min(x, y) >= -TOLERANCE
            and min(width, height) >= 0
            and x + width <= size[0] + TOLERANCE
            and y + height <= size[1] + TOLERANCE
        )
        if not fits:
            name = self.files[entry["image_id"]]
            raise self._refuse(
                where,
                f"the box {_round(box)} (x, y, width, height) is not inside {name} of {size[0]} x {size[1]}",
                "correct the box",
            )
        self.reach = max(self.reach, x + width, y + height)
        if min(width, height) == 0:
            self.tally.add("boxes have no area, nothing can match them", where)
        if given is outline or not all(type(value) in (int, float) for value in given):
            entry["bbox"] = box
        return box

    def _segmentation(self, where: str, entry: dict[str, Any], size: tuple[int, int]) -> list[float] | None:
        """Check a mask; returns the box around its polygons, None where there are none."""
        given = entry.get("segmentation")
        if not given:
            if self.masks:
                raise self._refuse(where, "it has no segmentation", "use a task that asks for boxes only")
            entry.pop("segmentation", None)
            return None
        if isinstance(given, dict):
            check_run_lengths(f"{self.path}, {where}", given, size)
            return None
        if not isinstance(given, list):
            raise self._refuse(
                where, "segmentation is neither polygons nor run lengths", "write it as COCO does"
            )
        if not any(isinstance(part, list | tuple) for part in given):
            self.tally.add("polygons are flat lists, read as one polygon", where)
            given = [given]
        polygons, xs, ys = [], list[float](), list[float]()
        for part in given:
            values = [number(value) for value in part] if isinstance(part, list | tuple) else [None]
            points = [value for value in values if value is not None]
            if len(points) != len(values) or len(points) % 2:
                raise self._refuse(
                    where, "a polygon is not pairs of finite numbers", "give x and y of every point"
                )
            if len(points) < 6:
                if self.masks:
                    what = f"a polygon has {len(points) // 2} points"
                    raise self._refuse(where, what, "give three points or more")
                self.tally.add("polygons of fewer than three points were left out", where)
                continue
            if len(points) > 2 * LONGEST and _length(points) > LONGEST * sum(size):
                raise self._refuse(
                    where,
                    f"a polygon of {len(points) // 2:,} points crosses its picture to and fro",
                    "draw it anew",
                )
            polygons.append(list(part) if all(type(v) in (int, float) for v in part) else points)
            xs += points[0::2]
            ys += points[1::2]
        if not polygons:
            entry.pop("segmentation")
            return None
        if polygons != given or given is not entry["segmentation"]:
            entry["segmentation"] = polygons
        self._inside(where, entry, xs, ys, size)
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]

    def _inside(
        self,
        where: str,
        entry: dict[str, Any],
        xs: Sequence[float],
        ys: Sequence[float],
        size: tuple[int, int],
    ) -> None:
        beyond = [max(-min(values), max(values) - side) for values, side in ((xs, size[0]), (ys, size[1]))]
        if any(out > max(TOLERANCE, MARGIN * side) for out, side in zip(beyond, size, strict=True)):
            name = self.files[entry["image_id"]]
            raise self._refuse(
                where,
                f"its polygon reaches to ({max(xs, key=abs):g}, {max(ys, key=abs):g}), far outside "
                f"{name} of {size[0]} x {size[1]}",
                "correct the polygon",
            )
        if max(beyond) > TOLERANCE:
            self.tally.add("polygons stick out of their pictures", where)

    def _area(self, where: str, entry: dict[str, Any], box: Sequence[float], size: tuple[int, int]) -> None:
        """Keep a possible area; compute one that is missing, or impossible for its box."""
        given, of_box = number(entry.get("area")), box[2] * box[3]
        most = (box[2] + 2 * TOLERANCE) * (box[3] + 2 * TOLERANCE)
        if given and not entry.get("segmentation"):
            corners = (box[2] - box[0]) * (box[3] - box[1])
            fits = {
                "box": abs(given - of_box) <= 0.01 * given,
                "corners": abs(given - corners) <= 0.01 * given,
            }
            self.areas["box" if fits["box"] else "corners" if fits["corners"] else "neither"] += 1
        if given is not None and 0 <= given <= most and not (given == 0 and of_box > 0):
            if type(entry["area"]) not in (int, float):
                entry["area"] = given
            return
        if entry.get("area") is None:
            self.tally.add("areas are missing, computed", where)
        else:
            self.tally.add(
                "areas are impossible for their boxes, computed anew", f"{where}: {entry['area']!r}"
            )
        entry["area"] = _mask_area(entry["segmentation"], size) if entry.get("segmentation") else of_box


def _turned(entry: Mapping[str, Any]) -> bool:
    """Whether a box is marked as turned, as CVAT writes it."""
    attributes = entry.get("attributes")
    return isinstance(attributes, dict) and (number(attributes.get("rotation")) or 0) % 360 != 0


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: If the file is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError too
        raise UserError(f"{path} is not readable JSON: {error}", remedy="restore the file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", remedy="give a readable file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a COCO annotation file", remedy="COCO's is one object with 'images'")
    return content


def check_run_lengths(where: str, given: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Whether run lengths are those of an image of ``size``, width and height.

    Raises:
        UserError: If they are not, or do not cover it; ``where`` names the entry.
    """
    stated, counts = given.get("size"), given.get("counts")
    if not isinstance(counts, list | str) or not isinstance(stated, list | tuple):
        raise UserError(f"{where}: its run lengths lack 'counts' or 'size'", remedy="write them as COCO does")
    if [whole(side) for side in stated] != [size[1], size[0]]:
        raise UserError(
            f"{where}: its run lengths are for {stated} (height, width), the image is {size[1]} x {size[0]}",
            remedy="encode the mask at the image's size",
        )
    if isinstance(counts, list):
        runs = [whole(run) for run in counts]
        known = [run for run in runs if run is not None and run >= 0]
        covered = sum(known) if len(known) == len(runs) else -1
    else:
        covered = _decoded_pixels(counts)
    if covered != size[0] * size[1]:
        raise UserError(f"{where}: its run lengths do not cover the image", remedy="encode the mask anew")


def key_of(value: Any) -> Any:
    """An id to look things up by: 7, 7.0 and "7" are one."""
    found = whole(value)
    return found if found is not None else value if isinstance(value, str) else None


def _round(box: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in box]


def _agree(box: Sequence[float], outline: Sequence[float]) -> bool:
    """Whether a box and the one around its polygon overlap as two readings of one object would."""
    left, top = max(box[0], outline[0]), max(box[1], outline[1])
    right = min(box[0] + box[2], outline[0] + outline[2])
    bottom = min(box[1] + box[3], outline[1] + outline[3])
    both = max(0.0, right - left) * max(0.0, bottom - top)
    union = box[2] * box[3] + outline[2] * outline[3] - both
    slack = 4 * TOLERANCE  # thin objects
    near = all(
        abs(a - b) <= slack
        for a, b in zip(
            (box[0], box[1], box[0] + box[2], box[1] + box[3]),
            (outline[0], outline[1], outline[0] + outline[2], outline[1] + outline[3]),
            strict=True,
        )
    )
    return near or union <= 0 or both / union >= DISAGREES


def _length(points: Sequence[float]) -> float:
    """Length of the line through points, x and y of each, and back to the first."""
    corners = [complex(x, y) for x, y in zip(points[0::2], points[1::2], strict=True)]
    return sum(abs(b - a) for a, b in pairwise([*corners, corners[0]]))


def _mask_area(segmentation: Any, size: tuple[int, int]) -> float:
    """Pixels of a mask, as pycocotools rasterises it."""
    from pycocotools import mask

    width, height = size
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):  # compressed already
        return float(mask.area({"size": [height, width], "counts": segmentation["counts"].encode("ascii")}))
    runs = mask.frPyObjects(segmentation, height, width)
    return float(mask.area(mask.merge(runs) if isinstance(runs, list) else runs))


def _decoded_pixels(counts: str) -> int:
    """Pixels that COCO's compressed run lengths cover, -1 for text that is none.

    The format is pycocotools' ``rleToString``: five bits a character from 48 on, a sixth says that more follow, and
    from the third run on the difference to the run before the last is written.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(counts) or not 0 <= (bits := ord(counts[position]) - 48) < 64 or shift > 60:
                return -1
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            position, shift = position + 1, shift + 5
            if not more and bits & 16:
                value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return -1
        runs.append(value)
    return sum(runs)
