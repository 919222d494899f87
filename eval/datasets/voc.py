"""Pascal VOC folders as people write them: put in order where one reading is right, else refused.

Whatever is changed is counted in ``warnings``; the files themselves stay as they are. Rules: ``docs/data.md``.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mast.images import header

from ..errors import UserError, unknown
from .values import TOLERANCE, Tally, class_name, flag, look_alikes, number, text_lines, whole


@dataclass(frozen=True)
class VocObject:
    """One object of an image.

    Attributes:
        name: Its class.
        box: Left, top, right, bottom, in pixels counted from 1, both ends inside.
        difficult: Left out of the metric.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocImage:
    """One annotated image: its name, its picture's file, its size, its objects."""

    name: str
    file: Path
    width: int
    height: int
    objects: tuple[VocObject, ...]


@dataclass
class VocSplit:
    """The images that one list of a Pascal VOC folder names, in its order."""

    folder: Path
    split: str
    images: list[VocImage]
    warnings: list[str] = field(default_factory=list)

    @property
    def classes(self) -> set[str]:
        """The classes that occur."""
        return {found.name for image in self.images for found in image.objects}


def read_voc(
    folder: Path, split: str, *, whole_pixels: bool = False, classes: Sequence[str] = ()
) -> VocSplit:
    """Read a split of a Pascal VOC folder.

    Args:
        folder: Holds ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: Name of the list in ``ImageSets/Main``.
        whole_pixels: Round boxes to whole pixels, which the VOC metric counts.
        classes: The classes that there are; any when empty.

    Raises:
        UserError: For what has no one right reading, naming the file and what to do.
    """
    tally = Tally()
    images = []
    for name in _listed(folder, split):
        picture = _picture(folder, split, name)
        images.append(
            _voc_image(folder / "Annotations" / f"{name}.xml", name, picture, whole_pixels, classes, tally)
        )
    if not any(image.objects for image in images):
        raise UserError(
            f"{folder / 'Annotations'} has no object in {split}", remedy="annotate some objects first"
        )
    if all(max(found.box) <= 1 for image in images for found in image.objects):
        raise UserError(
            f"{folder / 'Annotations'}: no box of {split} reaches beyond one pixel, as if they were shares of the "
            "pictures' sides",
            remedy="write boxes in pixels",
        )
    found = VocSplit(folder, split, images, tally.lines(folder / "ImageSets" / "Main" / f"{split}.txt"))
    found.warnings += look_alikes(folder / "Annotations", sorted(found.classes))
    return found


def _listed(folder: Path, split: str) -> list[str]:
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        beside = sorted(
            path.stem for path in listing.parent.glob("*.txt") if "_" not in path.stem
        )  # no class's
        raise UserError(
            f"{listing} is missing" + (f"; there are {', '.join(beside[:6])}" if beside else ""),
            remedy="VOC lists the images of a split in that file; other lists are named as voc:DIR,TRAIN,TEST",
        )
    names = image_names(listing)
    if len(names) < 2:
        raise UserError(f"{listing} names {len(names)} images", remedy="list at least two")
    return names


def image_names(listing: Path) -> list[str]:
    """The images that a list of Pascal VOC's names, in its order.

    Raises:
        UserError: If it cannot be read, or names one twice or one that is no name.
    """
    names = list(filter(None, text_lines(listing, remedy="restore it from the VOC devkit")))
    for name in names:
        if not re.fullmatch(r"[^\s/\\]+", name) or name.startswith(".."):
            raise UserError(
                f"{listing}: '{name}' is not an image name", remedy="one name in each line, without ending"
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{listing} names {twice[0]} {names.count(twice[0])} times ({len(twice)} names stand more than once), "
            "and the metric would count its objects again",
            remedy="list every image once",
        )
    return names


def _picture(folder: Path, split: str, name: str) -> Path:
    endings = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG")
    paths = [folder / "JPEGImages" / f"{name}{ending}" for ending in endings]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1 and not found[0].samefile(found[1]):  # a file system may not tell .jpg from .JPG
        raise UserError(
            f"{found[0]} and {found[1].name} could both be the picture '{name}'",
            remedy="take one of them away",
        )
    if found:
        return found[0]
    remedy = "restore the image or take its name out of the list"
    if name.lower().endswith(tuple(endings)):
        remedy = f"the list names pictures without their ending: {name.rpartition('.')[0]}"
    raise UserError(
        f"{paths[0]} is missing, and ImageSets/Main/{split}.txt of {folder} names '{name}'", remedy=remedy
    )


def _voc_image(
    xml: Path, name: str, picture: Path, whole_pixels: bool, classes: Sequence[str], tally: Tally
) -> VocImage:
    root = parse_xml(xml)
    width, height = _voc_size(xml, root, picture, tally)
    other = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/")).name
    if other and PurePosixPath(other).stem != name and (picture.parent / other).is_file():
        tally.add("annotations name another picture in <filename>, which is there too", f"{xml}: {other}")
    objects = list[VocObject]()
    for element in root.findall("object"):
        for tag in ("name", "bndbox"):
            if len(element.findall(tag)) > 1:
                raise UserError(f"{xml}: an object has several <{tag}>", remedy="one object for each")
        turned = (e.findtext("value") for e in element.iterfind("attributes/attribute") if _is_rotation(e))
        if any((number(value) or 0) % 360 != 0 for value in turned):
            tally.add("boxes are turned (attribute rotation) and read as if they were upright", xml)
        called = class_name(element.findtext("name", ""))
        if not called:
            raise UserError(f"{xml}: an object has no <name>", remedy="name its class")
        if classes and called not in classes:
            wrong = unknown("class", called, classes)
            raise UserError(f"{xml}: {wrong.message}", remedy=f"{wrong.remedy} Correct the annotation")
        box = [_xml_number(xml, element, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = box
        inside = left >= 0 and top >= 0 and right <= width + TOLERANCE and bottom <= height + TOLERANCE
        if not inside or right < left or bottom < top:
            raise UserError(
                f"{xml}: the box ({left:g}, {top:g}, {right:g}, {bottom:g}) of a {called} is not inside its "
                f"{width} x {height} image",
                remedy="correct the box, or the size if that is wrong",
            )
        if right == left or bottom == top:  # both ends are inside
            tally.add("boxes are one pixel wide or high", f"{xml}: {called}")
        if whole_pixels and any(value != int(value) for value in box):
            tally.add("boxes have fractions, rounded to the whole pixels that the VOC metric counts", xml)
            box = [float(math.floor(value + 0.5)) for value in box]
        text = element.findtext("difficult")
        difficult = flag(text)
        if difficult is None:
            raise UserError(f"{xml}: <difficult> is {text!r}", remedy="write 0 or 1")
        if text is None:
            tally.add("objects have no <difficult>, read as 0", xml)
        found = VocObject(called, (box[0], box[1], box[2], box[3]), difficult)
        if found in objects:
            tally.add("objects stand twice, with the same box and class", f"{xml}: {called}")
        objects.append(found)
    return VocImage(name, picture, width, height, tuple(objects))


def _voc_size(xml: Path, root: ElementTree.Element, picture: Path, tally: Tally) -> tuple[int, int]:
    given = [root.findtext(f"size/{side}") for side in ("width", "height")]
    width, height = (whole((side or "").strip()) for side in given)
    if width and height and width > 0 and height > 0:
        return width, height
    if all(not (side or "").strip() or number(side) == 0 for side in given):
        tally.add("images have no size, read from the pictures", xml)
        return header(picture).shown
    raise UserError(
        f"{xml}: <size> is {given[0]!r} x {given[1]!r}, not two whole numbers", remedy="correct the file"
    )


def _is_rotation(attribute: ElementTree.Element) -> bool:
    return attribute.findtext("name") == "rotation"


def _xml_number(xml: Path, element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag)
    found = number((text or "").strip())
    if found is None:
        raise UserError(f"{xml}: <{tag}> is {text!r}, not a number", remedy="correct the file")
    return found


_DECLARATION = re.compile(
    rb"""^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>"""
)


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file in any encoding that Python knows: expat alone does not read GB2312, for example.

    Raises:
        UserError: If it is missing or no XML, or declares entities.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing", remedy="every listed image needs its annotation") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", remedy="give a readable file") from error
    if b"<!ENTITY" in content:
        raise UserError(f"{path} declares XML entities, which no annotation needs", remedy="take them out")
    try:
        declared = _DECLARATION.match(content)
        if declared is not None:
            root = ElementTree.fromstring(content[declared.end() :].decode(declared[1].decode("ascii")))
        else:
            root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError, ValueError) as error:
        raise UserError(f"{path} is not readable XML: {error}", remedy="restore the file") from error
    if root.tag.startswith("{"):  # a namespace stands before every name
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    return root
