"""Semantic segmentation: pictures with a class for every pixel, in the official layouts, as folders, or from COCO.

A mask is an integer array with classes from 0 and `IGNORED` where a pixel counts for nothing. How the values in the
files become classes belongs to the layout; a value that it does not know is refused, never taken for background.
Pictures are read as `mast.images.decode` reads them, so an orientation tag is not applied, and masks fit the pixels
as they are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mast.files import canonical_json, sha256_file
from mast.images import walk

from ..errors import UserError, unknown
from ..numbers.segmentation import IGNORED
from .base import Pool, reread
from .checks import dropped, header_of
from .coco import CocoFile, read_coco
from .values import Tally, class_name, text_lines

Mask = npt.NDArray[np.integer[Any]]
_STRETCHED = {"L;2": 85, "L;4": 17}  # Pillow makes grey of two and four bits reach from 0 to 255
DECODE_ALL = 3000  # up to so many masks are decoded beforehand; beyond that their headers are read
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Cityscapes' labels.py: the 19 classes that are evaluated, by their value in *_labelIds.png.
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
# COCO-Stuff's maps have 182 values of which these eleven are no class (cocostuff, labels.md: "removed").
COCO_STUFF_REMOVED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@dataclass(frozen=True)
class MaskSplit:
    """Pictures with their masks.

    Attributes:
        name: "train" or "test".
        pool: The pictures.
        masks: (N,) their masks: files, or the annotation file that they are drawn from.
        reader: Mask ``i``, (H, W) int16.
        digest_of_masks: A text over the content of all masks.
    """

    name: str
    pool: Pool
    masks: tuple[Path, ...]
    reader: Callable[[int], Mask] = field(compare=False)
    digest_of_masks: str

    def __len__(self) -> int:
        return len(self.pool)

    def read(self, index: int) -> Mask:
        """Mask ``index``: (H, W) int16, a class or `IGNORED`."""
        return self.reader(index)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(N, 2) width and height of the pictures."""
        return np.array([header_of(path).size for path in self.pool.paths], dtype=np.int64)

    def limited(self, number: int) -> MaskSplit:
        """At most ``number`` pictures, evenly spaced."""
        if len(self) <= number:
            return self
        keep = np.linspace(0, len(self) - 1, number).round().astype(int).tolist()
        pool = Pool(
            f"{self.pool.name}, {number} images", tuple(self.pool.paths[i] for i in keep), self.pool.root
        )
        digest = hashlib.sha256(f"{self.digest_of_masks} {keep}".encode()).hexdigest()
        masks = tuple(self.masks[i] for i in keep)
        return MaskSplit(self.name, pool, masks, partial(reread, self.reader, keep), digest)


@dataclass(frozen=True)
class SegmentationDataset:
    """A data set with a class for every pixel.

    Attributes:
        name: Its name.
        classes: Names of the classes, in the order of their numbers.
        splits: "train" and "test".
        notes: How masks are read, part of the manifest.
        warnings: What is odd but harmless.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, MaskSplit]
    notes: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pictures in each split."""
        return {name: len(split) for name, split in self.splits.items()}

    def limited(self, number: int) -> SegmentationDataset:
        """At most ``number`` pictures of each split, noted in the manifest, for a smoke test."""
        splits = {name: split.limited(number) for name, split in self.splits.items()}
        return replace(self, splits=splits, notes={**self.notes, "limit": f"{number} images of each split"})

    @cached_property
    def manifest(self) -> str:
        """SHA-256 over classes, notes, and the content of pictures and masks, in hexadecimal."""
        digest = hashlib.sha256(canonical_json([list(self.classes), self.notes]).encode())
        for name in sorted(self.splits):
            split = self.splits[name]
            digest.update(f"\n[{name}]\n{split.pool.digest}\n{split.digest_of_masks}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Values:
    """How the values in mask files become classes.

    Attributes:
        classes: From a value to its class's number.
        ignored: Values that count for nothing.
    """

    classes: Mapping[int, int]
    ignored: frozenset[int]

    @classmethod
    def plain(cls, number: int, *, first: int = 0, ignored: Iterable[int] = (255,)) -> Values:
        """Classes from the value ``first`` on."""
        return cls({first + index: index for index in range(number)}, frozenset(ignored))

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """From value to class for values up to 65,535; -2 where the layout knows none."""
        table = np.full(1 << 16, -2, dtype=np.int16)
        table[list(self.ignored)] = IGNORED
        table[list(self.classes)] = list(self.classes.values())
        return table

    def read(self, path: Path) -> Mask:
        """A mask file as classes.

        Raises:
            UserError: If it is no mask of one number a pixel, or has a value that the layout does not know.
        """
        values = _values(path)
        found = self.table[values]
        if (found == -2).any():
            wrong = np.unique(values[found == -2])
            known = sorted(self.classes)
            raise UserError(
                f"{path}: the mask has the value {wrong[0]}, classes are {known[0]} to {known[-1]} and ignored is "
                f"{', '.join(map(str, sorted(self.ignored))) or 'nothing'}",
                remedy="add it to the class list, or write the ignored value there",
            )
        return found


def _values(path: Path) -> npt.NDArray[np.uint16]:
    """The numbers in a mask file: palette indices and not colours, 1 to 16 bits."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            stretched = _STRETCHED.get(str(image.tile[0].args) if image.tile else "", 1)
            image.load()
            mode, array = image.mode, np.asarray(image) // stretched
    except FileNotFoundError:
        raise UserError(f"{path} is missing", remedy="every picture needs its mask") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: the mask is no PNG", remedy="save the class numbers as PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable mask: {error}", remedy="save it as PNG") from error
    if mode not in ("1", "L", "P", "I;16", "I;16B", "I;16L", "I") or array.ndim != 2:
        raise UserError(
            f"{path}: a mask of mode {mode} has colours, not one class number a pixel",
            remedy="save the class numbers as a grey or palette PNG",
        )
    if array.min() < 0 or array.max() >= 1 << 16:
        raise UserError(
            f"{path}: the mask has values from {array.min()} to {array.max()}", remedy="use 0 to 65535"
        )
    return array.astype(np.uint16)


# ------------------------------------------------------------------------------------------------------- layouts


def _voc2012(root: Path, train: str = "train", masks: str = "SegmentationClass") -> SegmentationDataset:
    """Pascal VOC 2012: 21 classes with background, 255 is the border and ignored; val is measured."""
    folder = _first(root, ("VOC2012", "VOCdevkit/VOC2012"), "ImageSets/Segmentation")
    values = Values.plain(len(VOC_CLASSES))
    splits = {}
    for name, which, where in (("train", train, masks), ("test", "val", "SegmentationClass")):
        listing = folder / "ImageSets" / "Segmentation" / f"{which}.txt"
        pairs = [
            (folder / "JPEGImages" / f"{image}.jpg", folder / where / f"{image}.png")
            for image in _lines(listing)
        ]
        splits[name] = _split(name, folder, pairs, values)
    return SegmentationDataset("voc2012", VOC_CLASSES, splits, {"train": train})


def _voc2012aug(root: Path) -> SegmentationDataset:
    """VOC 2012 with the annotations of SBD (Hariharan et al. 2011): list ``trainaug``, ``SegmentationClassAug``."""
    return _voc2012(root, "trainaug", "SegmentationClassAug")


def _ade20k(root: Path) -> SegmentationDataset:
    """ADE20K's scene parsing challenge: 150 classes, 0 is 'other' and ignored; validation is measured."""
    folder = _first(root, ("ADEChallengeData2016", "ade/ADEChallengeData2016"), "annotations")
    classes = tuple(f"class {number}" for number in range(1, 151))
    listing = folder / "objectInfo150.txt"
    if listing.is_file():
        rows = [line.split("\t") for line in _lines(listing)[1:]]
        if len(rows) != 150:
            raise UserError(f"{listing} has {len(rows)} classes, not 150", remedy="restore the official file")
        classes = tuple(row[-1].split(",")[0].strip() for row in rows)
    values = Values.plain(150, first=1, ignored=(0,))
    splits = {
        name: _beside(name, folder, folder / "images" / which, folder / "annotations" / which, values)
        for name, which in (("train", "training"), ("test", "validation"))
    }
    return SegmentationDataset("ade20k", classes, splits)


def _cityscapes(root: Path) -> SegmentationDataset:
    """Cityscapes' fine annotations (``*_gtFine_labelIds.png``): 19 evaluated classes; val is measured."""
    folder = _first(root, ("cityscapes", "Cityscapes"), "leftImg8bit")
    known = {value: index for index, value in enumerate(CITYSCAPES)}
    values = Values(known, frozenset(set(range(34)) - set(known)))
    splits = {}
    for name, which in (("train", "train"), ("test", "val")):
        pictures = sorted((folder / "leftImg8bit" / which).glob("*/*_leftImg8bit.png"))
        pairs = [
            (
                path,
                folder
                / "gtFine"
                / which
                / path.parent.name
                / path.name.replace("_leftImg8bit", "_gtFine_labelIds"),
            )
            for path in pictures
        ]
        splits[name] = _split(name, folder, pairs, values)
    return SegmentationDataset("cityscapes", tuple(CITYSCAPES.values()), splits)


def _pictures_of(folder: Path, which: str) -> Path:
    """COCO's folder of pictures, which people put into one of two places."""
    for place in (folder / which, folder / "images" / which):
        if place.is_dir():
            return place
    raise UserError(f"no images of {which} in {folder}", remedy=f"put them into {which} or images/{which}")


def _coco_stuff(root: Path) -> SegmentationDataset:
    """COCO-Stuff 164k (``stuffthingmaps``): 171 classes, 255 is ignored; val2017 is measured."""
    folder = _first(root, ("coco", "."), "stuffthingmaps")
    kept = [value for value in range(182) if value not in COCO_STUFF_REMOVED]
    values = Values({value: index for index, value in enumerate(kept)}, frozenset((255,)))
    splits = {}
    for name, which in (("train", "train2017"), ("test", "val2017")):
        images = _pictures_of(folder, which)
        splits[name] = _beside(name, folder, images, folder / "stuffthingmaps" / which, values)
    return SegmentationDataset("coco-stuff", tuple(f"class {value + 1}" for value in kept), splits)


def _scenes(root: Path) -> SegmentationDataset:
    """The embedded scenes with their exact visible masks; the classes are the shapes."""
    if not (root / "SCENES.json").is_file():
        raise UserError(
            f"{root}: holds no embedded scenes (SCENES.json is missing)",
            remedy="`mast demo` writes them",
            code=2,
        )
    return replace(_coco(root / "coco"), name="scenes-masks")


@dataclass(frozen=True)
class Official:
    """A data set with a name.

    Attributes:
        read: From the data root to the data set.
        counts: Pictures of the official splits.
        source: What to download, and from whom.
    """

    read: Callable[[Path], SegmentationDataset]
    source: str
    counts: Mapping[str, int] = field(default_factory=dict)


OFFICIAL = {
    "voc2012": Official(
        _voc2012,
        "host.robots.ox.ac.uk/pascal/VOC/voc2012: VOCtrainval",
        {"train": 1464, "test": 1449},
    ),
    "voc2012aug": Official(
        _voc2012aug,
        "VOC 2012, with SegmentationClassAug and trainaug.txt made from SBD (Hariharan et al. 2011)",
        {"train": 10582, "test": 1449},
    ),
    "ade20k": Official(
        _ade20k, "sceneparsing.csail.mit.edu: ADEChallengeData2016", {"train": 20210, "test": 2000}
    ),
    "cityscapes": Official(
        _cityscapes, "cityscapes-dataset.com: leftImg8bit, gtFine", {"train": 2975, "test": 500}
    ),
    "coco-stuff": Official(
        _coco_stuff,
        "github.com/nightrome/cocostuff: stuffthingmaps_trainval2017, beside COCO 2017",
        {"train": 118287, "test": 5000},
    ),
    "scenes-masks": Official(_scenes, "`mast demo` writes it"),
}


def _own(folder: Path) -> SegmentationDataset:
    """``images/{train,test}`` and ``masks/{train,test}`` with equal names; ``classes.txt``: a name a line, from 0."""
    listing = folder / "classes.txt"
    classes = [
        class_name(line) for line in text_lines(listing, remedy="write the names of the classes there")
    ]
    if "" in classes:
        raise UserError(
            f"{listing}, line {classes.index('') + 1}: is empty, and the place of a line is its class number",
            remedy="name the class, or close the gap",
        )
    if len(set(classes)) < len(classes) or len(classes) < 2:
        raise UserError(
            f"{listing}: {len(classes)} names, some twice or too few", remedy="one name a line, at least two"
        )
    values = Values.plain(len(classes), ignored=() if len(classes) > 255 else (255,))
    splits = {
        name: _beside(name, folder, folder / "images" / name, folder / "masks" / name, values)
        for name in ("train", "test")
    }
    return SegmentationDataset(folder.name, tuple(classes), splits)


def _coco(folder: Path) -> SegmentationDataset:
    """Masks drawn from the objects of a COCO folder: 0 is background, small objects lie on large ones.

    A pixel of a crowd region that no single object covers is ignored.
    """
    files = {}
    for name, which in (("train", "train2017"), ("test", "val2017")):
        images = _pictures_of(folder, which)
        files[name] = read_coco(folder / "annotations" / f"instances_{which}.json", images, masks=True)
    classes = files["train"].classes
    if files["test"].classes != classes:
        raise UserError(
            f"{files['test'].path} does not have the classes of {files['train'].path}",
            remedy="give both files the same categories",
        )
    splits = {name: _drawn(name, file) for name, file in files.items()}
    warnings = tuple(dict.fromkeys(line for file in files.values() for line in file.warnings))
    return SegmentationDataset(folder.name, ("background", *classes), splits, {"masks": "drawn"}, warnings)


def _drawn(name: str, file: CocoFile) -> MaskSplit:
    images = sorted(file.content["images"], key=lambda image: image["id"])
    order = {
        c["id"]: index for index, c in enumerate(sorted(file.content["categories"], key=lambda c: c["id"]), 1)
    }
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for annotation in file.content["annotations"]:
        objects[annotation["image_id"]].append(annotation)

    paths = tuple(file.images / image["file_name"] for image in images)
    split = MaskSplit(
        name,
        Pool(name, paths, file.images),
        (file.path,) * len(images),
        partial(_draw, images, objects, order),
        sha256_file(file.path),
    )
    for path, image in zip(paths, images, strict=True):
        _same_size(path, (image["width"], image["height"]), file.path)
    return split


def _draw(
    images: list[dict[str, Any]], objects: dict[int, list[dict[str, Any]]], order: dict[int, int], index: int
) -> Mask:
    """The objects of an image, drawn: crowds first, then from large to small."""
    from pycocotools import mask as runs

    image = images[index]
    mask = np.zeros((image["height"], image["width"]), dtype=np.int16)
    for annotation in sorted(objects[image["id"]], key=lambda a: (-a["iscrowd"], -a["area"], a["id"])):
        encoded = runs.frPyObjects(annotation["segmentation"], *mask.shape)
        where = runs.decode(runs.merge(encoded) if isinstance(encoded, list) else encoded).astype(bool)
        mask[where] = IGNORED if annotation["iscrowd"] else order[annotation["category_id"]]
    return mask


PLACE = "seg:"
"""What stands before a folder on the command line."""


def is_place(name: str) -> bool:
    """Whether a name is a folder of the user's, ``seg:DIR``."""
    return name.startswith(PLACE)


def load(name: str, data_root: Path) -> SegmentationDataset:
    """Read a data set and look it over.

    Args:
        name: One of `OFFICIAL`; a folder under the data root; or ``seg:DIR``, a folder anywhere. A folder holds
            ``images``, ``masks`` and ``classes.txt``, or COCO's ``annotations/instances_*.json``.
        data_root: Where the official folders lie.

    Raises:
        UserError: For a name that is not known, and for anything that would fail later or train on something wrong.
    """
    if is_place(name):
        folder = Path(name.removeprefix(PLACE)).expanduser()
        if name == PLACE or not folder.is_dir():
            raise UserError(f"{folder}: no such folder", remedy=f"write {PLACE}DIR", code=2)
        return _checked(replace(_folder(folder), name=name))
    if name in OFFICIAL:
        return _checked(replace(OFFICIAL[name].read(data_root), name=name))
    if not (data_root / name).is_dir():
        raise unknown("segmentation data set", name, [*OFFICIAL, f"{PLACE}DIR"])
    return _checked(replace(_folder(data_root / name), name=name))


def _folder(folder: Path) -> SegmentationDataset:
    if (folder / "classes.txt").is_file() or (folder / "masks").is_dir():
        return _own(folder)
    if (folder / "annotations" / "instances_train2017.json").is_file():
        return _coco(folder)
    raise UserError(
        f"{folder}: has neither masks with classes.txt nor annotations/instances_train2017.json",
        remedy="lay it out as docs/dense.md says",
    )


def refuse_overlap(splits: Mapping[str, MaskSplit]) -> None:
    """Whether no test picture is a training picture, by content.

    Raises:
        UserError: If one is.
    """
    train, test = set(splits["train"].pool.identities), splits["test"].pool
    for path, identity in zip(test.paths, test.identities if test.hashed else (), strict=test.hashed):
        if identity in train:
            raise UserError(
                f"{path} is in the test split and in the training split", remedy="take it out of one of them"
            )


def _checked(dataset: SegmentationDataset) -> SegmentationDataset:
    """Masks hold what they should, no test picture is a training picture, and what is odd is told."""
    tally = Tally()
    refuse_overlap(dataset.splits)
    seen = np.zeros((2, dataset.num_classes), dtype=bool)
    for row, split in enumerate((dataset.splits["train"], dataset.splits["test"])):
        if len(split) > DECODE_ALL:
            seen[row] = True
            continue
        for index in range(len(split)):
            present = np.unique(split.read(index))
            if present[-1] == IGNORED:
                tally.add(f"masks of {split.name} are ignored whole", split.pool.paths[index])
            seen[row, present[present >= 0]] = True
    for row, name in enumerate(("train", "test")):
        for label in np.flatnonzero(~seen[row]):
            tally.add(f"classes are on no picture of {name}", dataset.classes[int(label)])
    lines = [
        f"{dataset.name}: {count} {kind} (such as {tally.examples[kind]})"
        for kind, count in tally.counts.items()
    ]
    for name, split in dataset.splits.items():
        lines += dropped(f"{dataset.name} {name}", split.pool.paths)
    return replace(dataset, warnings=(*dataset.warnings, *lines))


def _first(root: Path, candidates: Iterable[str], inside: str) -> Path:
    tried = [root / candidate for candidate in candidates]
    for folder in tried:
        if (folder / inside).is_dir():
            return folder
    raise UserError(
        f"no {inside} in {' or '.join(map(str, tried))}",
        remedy="put the official folder there, or point --data-root at its parent",
    )


def _lines(path: Path) -> list[str]:
    return list(filter(None, text_lines(path, remedy="put the official list there")))


def _beside(name: str, root: Path, images: Path, masks: Path, values: Values) -> MaskSplit:
    """Pictures below a folder and masks of the same names below another."""
    if not images.is_dir():
        raise UserError(f"{images}: no such folder", remedy=f"put the pictures of {name} there")
    found = walk(images).images
    pairs = [(path, masks / path.relative_to(images).with_suffix(".png")) for path in found]
    stems = {path.relative_to(images).with_suffix("") for path in found}
    if len(stems) < len(found):
        raise UserError(f"{images}: two pictures have one name and share a mask", remedy="name them apart")
    return _split(name, root, pairs, values)


def _split(name: str, root: Path, pairs: list[tuple[Path, Path]], values: Values) -> MaskSplit:
    if not pairs:
        raise UserError(f"{root}: no pictures of {name}", remedy="add some, with their masks")
    if len({picture for picture, _ in pairs}) < len(pairs):
        raise UserError(f"{root}: a picture is listed twice in {name}", remedy="list every picture once")
    for picture, mask in pairs:
        if not mask.is_file():
            raise UserError(f"{mask} is missing", remedy="every picture needs its mask")
        _same_size(picture, header_of(mask).size, mask)
    masks = tuple(mask for _, mask in pairs)
    digest = hashlib.sha256()
    for mask in masks:
        digest.update(f"{mask.relative_to(root).as_posix()}\0{sha256_file(mask)}\n".encode())
    pool = Pool(name, tuple(picture for picture, _ in pairs), root)
    return MaskSplit(name, pool, masks, partial(_mask, values, masks), digest.hexdigest())


def _mask(values: Values, masks: tuple[Path, ...], index: int) -> Mask:
    return values.read(masks[index])


def _same_size(picture: Path, size: tuple[int, int], source: Path) -> None:
    found = header_of(picture)
    if found.size != size:
        turned = " (its orientation tag is not applied)" if found.shown == size else ""
        raise UserError(
            f"{picture} is {found.size[0]} x {found.size[1]}{turned}, and {source} says {size[0]} x {size[1]}",
            remedy="restore the picture or its mask",
        )
