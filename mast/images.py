"""Image files: which are read, in what order, and what their pixels are. The one place for the core and the harness.

Pixels are what torchvision's loader gives: the first frame as RGB, alpha dropped, colour profile and orientation
tag not applied. Where that loader would saturate or guess, sixteen-bit grey is scaled to eight bits, and values
without a known range are refused.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import UserError

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "TIFF",
    "PPM",
    "GIF",
)  # no others are tried: EPS would start Ghostscript
SERVICE = frozenset(
    ("@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, OverflowError, Image.DecompressionBombError)


def is_image(name: str) -> bool:
    """Whether a file of this name is read: by its ending; hidden files, such as macOS's ``._x.jpg``, are not."""
    return os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith(".")


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded.

    Attributes:
        size: Width and height.
        mode: Pillow's mode, such as ``RGB`` or ``I;16``.
        orientation: EXIF's or XMP's tag: 1 upright, 2 to 8 mirrored or turned.
        turned: The decoder turns it as the tag says, as Pillow does with TIFF, and ``size`` is what it is then.
        frames: Pages or frames; the first is read.
        alpha: It has transparency, which is dropped.
    """

    size: tuple[int, int]
    mode: str
    orientation: int
    frames: int
    alpha: bool
    turned: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of the picture turned as its tag says, which is how a detector sees it."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 and not self.turned else (width, height)


def header(source: Path | bytes, name: str = "") -> Header:
    """Read a file's header.

    Raises:
        UserError: If it is no image that is read.
    """
    with _opened(source, name) as image:
        _refuse(image, name or str(source))
        return Header(
            image.size,
            image.mode,
            _orientation(image),
            int(getattr(image, "n_frames", 1)),
            image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
            _turned(image),
        )


def _turned(image: Image.Image) -> bool:
    """Whether Pillow turns an image as it reads it, which it does with TIFF."""
    return hasattr(image, "tag_v2") and _orientation(image) != 1


def _orientation(image: Image.Image) -> int:
    """The tag of EXIF, of XMP, or TIFF's own, as Pillow finds it; a PNG's own `getexif` would decode the image."""
    if hasattr(image, "tag_v2"):
        value = image.tag_v2.get(_ORIENTATION, 1)
    else:
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(source: Path | bytes, name: str = "", *, upright: bool = False) -> Image.Image:
    """Read an image as RGB; see the rules above.

    Args:
        source: A path, or a file's bytes.
        name: What to call it in an error; the path otherwise.
        upright: Turn it as its orientation tag says, as Detectron2 does.

    Raises:
        UserError: If the file is missing, damaged, of another format, or its values have no obvious meaning as
            grey levels or colours.
    """
    with _opened(source, name) as image:
        _refuse(image, name or str(source))
        turn = _TURNS.get(_orientation(image)) if upright and not _turned(image) else None
        if image.mode == "P":  # transparency is dropped; Pillow would warn of that, image by image
            image.info.pop("transparency", None)
        found = (_eight_bits(image) if image.mode in DEEP else image).convert("RGB")
    return found if turn is None else found.transpose(turn)


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An image file, opened; whatever Pillow finds wrong with it, now or while it is decoded, becomes one error."""
    name = name or str(source)
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
        ) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(
            f"{name}: the image is gone", remedy="restore it or take it out of the list"
        ) from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is none of {', '.join(FORMATS)}, or is damaged"
        raise UserError(
            f"{name}: cannot be decoded as an image: {reason}", remedy="replace or delete the file"
        ) from error


def _refuse(image: Image.Image, name: str) -> None:
    """Raise for values whose black and white nobody can know."""
    integers = image.mode == "I" and image.format not in ("PNG", "PPM")
    if image.mode == "F" or integers:
        what = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise UserError(
            f"{name}: holds {what} values, of which nothing says what is black and what is white",
            remedy="convert it to 8 or 16 bits",
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit grey (or 12-bit, from TIFF) scaled so that the largest value the file can hold becomes white."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    most = 2 ** int(tags.get(_BITS, (16,))[0]) - 1
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero: Pillow turns 8-bit values round, and not these
        values = most - values
    return Image.fromarray(((values * 255 + most // 2) // most).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Tree:
    """The files below a folder.

    Attributes:
        images: Sorted by path.
        others: Endings of the visible files that are no images that are read, with their number.
    """

    images: tuple[Path, ...]
    others: dict[str, int]


def walk(folder: Path) -> Tree:
    """The images below a folder, at any depth: links are followed; hidden and service folders and files are not.

    Raises:
        UserError: If a folder cannot be read, or a link leads nowhere or in a circle.
    """
    images: list[Path] = []
    others: Counter[str] = Counter()
    _walk(folder, images, others, ())
    return Tree(tuple(images), dict(sorted(others.items())))


def is_hidden(name: str) -> bool:
    """Whether a folder or file belongs to a program and not to the data: ``.ipynb_checkpoints``, ``@eaDir``."""
    return name.startswith(".") or name in SERVICE


def _walk(folder: Path, images: list[Path], others: Counter[str], above: tuple[tuple[int, int], ...]) -> None:
    try:
        status = folder.stat()
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise UserError(f"{folder}: a link that leads to a folder above it", remedy="delete the link")
    for entry in entries:
        if is_hidden(entry.name):
            continue
        _readable(folder, entry.name)
        path = folder / entry.name
        if entry.is_dir():
            _walk(path, images, others, (*above, here))
        elif entry.is_file():
            if is_image(entry.name):
                images.append(path)
            else:
                others[os.path.splitext(entry.name)[1].lower()] += 1
        elif entry.is_symlink():
            raise UserError(f"{path}: a link that leads nowhere", remedy="restore what it names or delete it")


def _unreadable(folder: Path, error: OSError) -> UserError:
    denied = isinstance(error, PermissionError)
    remedy = "check permissions" if denied else "check its name and that the disk it lies on is there"
    return UserError(f"{folder}: cannot be read: {error.strerror}", remedy=remedy)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted by name; links to folders count."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError as error:
        raise _unreadable(folder, error) from error
    for path in found:
        _readable(folder, path.name)
    return found


def _readable(folder: Path, name: str) -> None:
    """Raise for a name that is no text: neither a manifest nor a record could hold it."""
    if any("\ud800" <= sign <= "\udfff" for sign in name):
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{folder}: the name of {shown} is no text in UTF-8", remedy="rename it")


@dataclass(frozen=True)
class ClassFolders:
    """The images of ``<class>/**/<image>``.

    Attributes:
        classes: Names of the folders, sorted.
        paths: N paths, class by class, sorted.
        labels: ``(N,)`` int64 class numbers.
        empty: Classes without an image.
        loose: Images that lie beside the class folders and so have no class.
        others: Endings of the files that are not read, with their number.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    empty: tuple[str, ...]
    loose: int
    others: dict[str, int]


def class_folders(root: Path) -> ClassFolders:
    """The images in the folders of a folder.

    Raises:
        UserError: As `walk`.
    """
    paths: list[Path] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    folders, empty = subfolders(root), []
    for label, folder in enumerate(folders):
        tree = walk(folder)
        paths += tree.images
        labels += [label] * len(tree.images)
        others.update(tree.others)
        if not tree.images:
            empty.append(folder.name)
    loose = sum(is_image(path.name) and path.is_file() for path in root.iterdir())
    return ClassFolders(
        tuple(folder.name for folder in folders),
        tuple(paths),
        np.array(labels, dtype=np.int64),
        tuple(empty),
        loose,
        dict(sorted(others.items())),
    )
