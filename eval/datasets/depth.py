"""Monocular depth: pictures with a distance for every pixel, NYU Depth v2 in its usual layout or one's own folders.

A depth file is a 16-bit grey PNG of millimetres; 0 is not measured.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mast.files import sha256_file
from mast.images import walk

from ..errors import UserError, unknown
from .base import Pool
from .checks import dropped, header_of
from .segmentation import DECODE_ALL, Mask, MaskSplit, SegmentationDataset, refuse_overlap
from .values import Tally, text_lines

NYU, PLACE = "nyu", "depth:"
NEAR = 256  # millimetres: nearer than all of a room, so that the numbers are likely metres or grey levels
FEW = 16  # depths of a large set that are looked at
UNKNOWN = -1  # a pixel whose depth was not measured, or does not count
# What of NYU's 480 x 640 pictures counts: all but the white border in training, Eigen's crop in test.
NYU_TRAIN, NYU_TEST = (45, 472, 43, 608), (45, 471, 41, 601)


@dataclass(frozen=True)
class DepthDataset(SegmentationDataset):
    """Pictures with depth. Where a segmentation set has classes, this one has none.

    Attributes:
        name, classes, splits, notes, warnings: As of `SegmentationDataset`; "masks" are depths in millimetres, int32.
    """


def load(name: str, data_root: Path) -> DepthDataset:
    """Read a data set: lists, sizes of pictures and depths, hashes; see `_odd` for what is decoded.

    Args:
        name: ``nyu``; a folder under the data root; or ``depth:DIR``, a folder anywhere, with
            ``images/{train,test}`` and ``depth/{train,test}`` of equal names.
        data_root: Where the data sets lie.

    Raises:
        UserError: If something is missing, does not fit, or cannot be read as a depth.
    """
    if name == NYU:
        found = _nyu(data_root / NYU)
    elif name.startswith(PLACE):
        found = _own(Path(name.removeprefix(PLACE)).expanduser())
    elif (data_root / name).is_dir():
        found = _own(data_root / name)
    else:
        raise unknown("depth data set", name, [NYU, f"{PLACE}DIR"])
    refuse_overlap(found.splits)
    return replace(found, name=name, warnings=tuple(_odd(name, found)))


def _odd(name: str, data: DepthDataset) -> list[str]:
    """What is odd about pictures and depths; those of a small set are all decoded, before anything is trained."""
    tally, told, farthest = Tally(), list[str](), 0
    for split in data.splits.values():
        told += dropped(f"{name} {split.name}", split.pool.paths)
        looked_at = len(split) if len(split) <= DECODE_ALL else FEW
        for index in np.linspace(0, len(split) - 1, looked_at).round().astype(int):
            most = int(split.read(int(index)).max())
            farthest = max(farthest, most)
            if most == UNKNOWN:
                tally.add(f"depths of {split.name} hold no pixel that counts", split.pool.paths[int(index)])
    if 0 < farthest < NEAR:
        told.append(
            f"{name}: nothing looked at is farther than {farthest} mm: depths are read as millimetres"
        )
    return told + [
        f"{name}: {count} {kind} (such as {tally.examples[kind]})" for kind, count in tally.counts.items()
    ]


def _nyu(folder: Path) -> DepthDataset:
    """NYU Depth v2 as BTS keeps it: lists of picture, depth and focal length."""
    splits = {}
    for name, window in (("train", NYU_TRAIN), ("test", NYU_TEST)):
        listing = folder / f"nyu_{name}.txt"
        lines = [
            line.split()
            for line in text_lines(
                listing, remedy="put BTS's NYU Depth v2 there, with its lists (github.com/cleinc/bts)"
            )
            if line
        ]
        # Frames without a measured depth have None in the lists.
        kept = [parts for parts in lines if len(parts) >= 2 and parts[1] != "None"]
        pairs = [(folder / a.lstrip("/\\"), folder / b.lstrip("/\\")) for a, b, *_ in kept]
        splits[name] = _split(name, folder, pairs, window)
    return DepthDataset(NYU, (), splits, {"train": f"window {NYU_TRAIN}", "test": f"window {NYU_TEST}"})


def _own(folder: Path) -> DepthDataset:
    splits = {}
    for name in ("train", "test"):
        images = folder / "images" / name
        if not images.is_dir():
            raise UserError(f"{images}: no such folder", remedy=f"put the pictures of {name} there")
        found = walk(images).images
        pairs = [
            (path, folder / "depth" / name / path.relative_to(images).with_suffix(".png")) for path in found
        ]
        if len({depth for _, depth in pairs}) < len(pairs):
            raise UserError(
                f"{images}: two pictures have one name and share a depth", remedy="name them apart"
            )
        splits[name] = _split(name, folder, pairs, None)
    return DepthDataset(folder.name, (), splits)


def _split(
    name: str, root: Path, pairs: list[tuple[Path, Path]], window: tuple[int, int, int, int] | None
) -> MaskSplit:
    if not pairs:
        raise UserError(f"{root}: no pictures of {name}", remedy="add some, with their depths")
    digest = hashlib.sha256()
    for picture, depth in pairs:
        if not depth.is_file():
            raise UserError(f"{depth} is missing", remedy="every picture needs its depth")
        found, told = header_of(picture).size, header_of(depth).size
        if found != told:
            raise UserError(
                f"{picture} is {found[0]} x {found[1]}, and {depth} {told[0]} x {told[1]}",
                remedy="restore the picture or its depth",
            )
        if window is not None and found != (640, 480):
            raise UserError(f"{picture} is {found[0]} x {found[1]}, NYU's are 640 x 480", remedy="restore it")
        digest.update(f"{depth.relative_to(root).as_posix()}\0{sha256_file(depth)}\n".encode())
    depths = tuple(depth for _, depth in pairs)
    pool = Pool(name, tuple(picture for picture, _ in pairs), root)
    return MaskSplit(name, pool, depths, partial(_read, depths, window), digest.hexdigest())


def _read(depths: tuple[Path, ...], window: tuple[int, int, int, int] | None, index: int) -> Mask:
    path = depths[index]
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            mode, values = image.mode, np.asarray(image).astype(np.int32)
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: the depth is no PNG", remedy="save millimetres as a 16-bit grey PNG"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable depth: {error}", remedy="save it as PNG") from error
    if mode not in ("I;16", "I;16B", "I"):
        raise UserError(f"{path}: a depth of mode {mode}", remedy="save millimetres as a 16-bit grey PNG")
    found = np.where(values > 0, values, UNKNOWN)
    if window is not None:
        inside = np.full_like(found, UNKNOWN)
        top, bottom, left, right = window
        inside[top:bottom, left:right] = found[top:bottom, left:right]
        found = inside
    return found
