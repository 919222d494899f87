"""What is looked at in a data set before anything is trained, alike by ``mast data verify``, dry runs and runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mast.images import DEEP, Header, decode, header

from ..errors import UserError

if TYPE_CHECKING:
    from .base import ImageDataset, Pool, Split

# Files that look like images and are not read; a text file beside the images is none of our business.
LIKE_IMAGES = frozenset(
    f".{ending}"
    for endings in (
        "gif heic heif avif jfif jpe jp2 jxl tga svg eps psd dng cr2 nef arw",
        "raw npy npz dcm nii exr hdr zip tar gz",
    )
    for ending in endings.split()
)
SHOWN = 3  # names in a message
DARK = 32  # of 255: 16-bit images without anything brighter hold 13 bits at most
LOOKED_AT = 16  # of them are decoded to tell
_headers: dict[tuple[str, int, int], Header | UserError] = {}


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        problems: Images that cannot be read: no number can be had.
        overlaps: Images that stand in two splits, one message for each.
        warnings: What a reader of a number should know, one sentence a kind.
    """

    problems: tuple[str, ...]
    overlaps: tuple[str, ...]
    warnings: tuple[str, ...]


def look(dataset: ImageDataset) -> Findings:
    """Look a data set over without decoding images: headers of all files, and which images are the same.

    Pools too large to hash are not compared, and of their images the test split's headers are read.
    """
    problems: list[str] = []
    warnings: list[str] = []
    for name, split in dataset.splits.items():
        title = f"{dataset.name} {name}"
        if split.pool.on_disk and (name == "test" or split.pool.hashed):
            found = _headers_of(split.paths)
            problems += [str(item) for item in found if isinstance(item, UserError)]
            warnings += _of_headers(title, split.paths, found)
        warnings += _within(title, split)
    overlaps, told = _between(dataset)
    return Findings(tuple(dict.fromkeys(problems)), overlaps, (*told, *warnings))


def header_of(path: Path) -> Header:
    """A file's header, read once as long as the file is the same; errors are those of `mast.images.header`."""
    found = _kept(path)
    if isinstance(found, UserError):
        raise found
    return found


def _kept(path: Path) -> Header | UserError:
    try:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
    except OSError as error:
        return UserError(f"{path}: {error.strerror}", remedy="restore the file")
    if key not in _headers:
        try:
            _headers[key] = header(path)
        except UserError as error:
            _headers[key] = error
    return _headers[key]


def _headers_of(paths: Sequence[Path]) -> list[Header | UserError]:
    with ThreadPoolExecutor(4) as executor:
        return list(executor.map(_kept, paths))


def dropped(title: str, paths: Sequence[Path]) -> list[str]:
    """Sentences about what the decoder drops from pictures: orientation, transparency, further frames."""
    return _of_headers(title, paths, _headers_of(paths))


def _of_headers(title: str, paths: Sequence[Path], found: Sequence[Header | UserError]) -> list[str]:
    """What the decoder drops, as torchvision does, by what it is."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for path, item in zip(paths, found, strict=True):
        if isinstance(item, Header):
            if item.turned:
                kinds["are TIFF with an orientation tag, which Pillow applies as it reads"].append(path.name)
            elif item.orientation != 1:
                kinds["carry an orientation tag, which is not applied: the stored pixels are read"].append(
                    path.name
                )
            if item.alpha:
                kinds["have transparency, which is dropped: the colours below it are read"].append(path.name)
            if item.frames > 1:
                kinds["have several frames or pages, of which the first is read"].append(path.name)
    deep = [p for p, item in zip(paths, found, strict=True) if isinstance(item, Header) and item.mode in DEEP]
    if deep and (most := _brightest(deep)) < DARK:
        kinds[
            f"hold 16-bit values and are nearly black: none looked at is brighter than {most} of 255, since files of "
            "10 or 12 bits do not say so; scale them to their own range"
        ] = [path.name for path in deep]
    return [
        f"{title}: {len(names)} of {len(paths)} images {what} ({some(names)})"
        for what, names in kinds.items()
    ]


def _brightest(paths: Sequence[Path]) -> int:
    """The brightest pixel, 0 to 255, of a few images spread evenly."""
    brightest = 0
    for place in np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).round().astype(int):
        try:
            brightest = max(brightest, int(np.asarray(decode(paths[place])).max()))
        except UserError:
            return 255  # a damaged one is told by whoever reads it, and nothing is known of the others
    return brightest


def _within(title: str, split: Split) -> list[str]:
    """Images that a split holds more than once, and those of them that have different labels."""
    groups: dict[str, list[int]] = defaultdict(list)
    contents = split.pool.contents
    for place, row in enumerate(split.rows):
        if contents[int(row)]:
            groups[contents[int(row)]].append(place)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return []
    copies = sum(len(group) - 1 for group in several)
    names = [
        " = ".join(split.pool.relative(int(split.rows[place])) for place in group[:2]) for group in several
    ]
    told = [f"{title}: {copies} of {len(split)} images are copies of others in it ({some(names)})"]
    contrary = [
        name
        for name, group in zip(names, several, strict=True)
        if any(not np.array_equal(split.labels[place], split.labels[group[0]]) for place in group)
    ]
    if contrary:
        told.append(f"{title}: {len(contrary)} images stand in it with different labels ({some(contrary)})")
    return told


def _between(dataset: ImageDataset) -> tuple[tuple[str, ...], list[str]]:
    """Images whose content stands in more than one split: what is tested on was trained on."""
    where: dict[str, dict[str, str]] = defaultdict(dict)
    held: dict[str, Counter[str]] = {}
    for name, split in dataset.splits.items():
        contents = split.pool.contents
        held[name] = Counter(contents[int(row)] for row in split.rows)
        for row, path in zip(split.rows, split.paths, strict=True):
            if contents[int(row)]:
                where[contents[int(row)]].setdefault(name, str(path))
    shared = {content: places for content, places in where.items() if len(places) > 1}
    messages = tuple(
        f"the same image in {' and '.join(f'{split} ({path})' for split, path in places.items())}"
        for places in shared.values()
    )
    warnings = []
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        both = [content for content, places in shared.items() if first in places and second in places]
        if both:
            count = sum(held[second][content] for content in both)
            names = [Path(where[content][second]).name for content in both]
            size = len(dataset.splits[second])
            warnings.append(
                f"{dataset.name}: {count} of {size} {second} images stand in {first} too ({some(names)})"
            )
    return messages, warnings


def unread(place: Path, others: dict[str, int], loose: int) -> list[str]:
    """What lies in a folder of class folders and is not read, where a person would think that it is."""
    told = []
    if alike := {ending: count for ending, count in others.items() if ending in LIKE_IMAGES}:
        counts = ", ".join(f"{count} {ending}" for ending, count in alike.items())
        told.append(f"{place}: files that are not read: {counts}")
    if loose:
        told.append(f"{place}: {loose} images beside the class folders have no class and are not read")
    return told


def some(names: Iterable[str]) -> str:
    """The first few of some names."""
    given = list(names)
    return ", ".join(given[:SHOWN]) + (", ..." if len(given) > SHOWN else "")


def by_pool(dataset: ImageDataset) -> list[Pool]:
    """The pools of a data set, each once."""
    return list({id(split.pool): split.pool for split in dataset.splits.values()}.values())
