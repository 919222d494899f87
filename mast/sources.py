"""Encoded images by their number, wherever they lie: a folder of this machine or an address, loose or in classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import UserError
from .images import ENDINGS, class_folders, decode, is_image, walk
from .remote import Remote, check, is_address

UNLABELLED = ("unlabelled",)
Labels = NDArray[np.int64]
Place = Path | Remote


class Reader:
    """Gives the bytes of the image with a number; a worker process can be given one."""

    def __call__(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            UserError: If they cannot be read.
        """
        (content,) = self.many([index])
        if isinstance(content, UserError):
            raise content
        return content

    def many(self, indices: Sequence[int]) -> list[bytes | UserError]:
        """The bytes of several images, or what is wrong with them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Files:
    """Encoded images.

    Attributes:
        read: Gives their bytes.
        names: What to call each of them in an error.
        labels: ``(N,)`` class numbers, for the probe only.
        classes: Their names.
    """

    read: Reader
    names: tuple[str, ...]
    labels: Labels
    classes: tuple[str, ...]

    def some(self, count: int) -> Files:
        """At most ``count`` of them, evenly spaced."""
        rows = spaced(len(self.labels), count)
        names = tuple(self.names[row] for row in rows)
        return Files(_Some(self.read, rows), names, self.labels[rows], self.classes)

    def open(self, index: int) -> Image.Image:
        """Decode an image.

        Raises:
            UserError: If it cannot be read or decoded.
        """
        return decode(self.read(index), self.names[index])


def spaced(size: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` numbers below ``size``, evenly spaced."""
    return np.linspace(0, size - 1, min(size, count)).astype(np.int64)


@dataclass(frozen=True)
class _Some(Reader):
    read: Reader
    rows: NDArray[np.int64]

    def many(self, indices: Sequence[int]) -> list[bytes | UserError]:
        return self.read.many([int(self.rows[index]) for index in indices])


@dataclass(frozen=True)
class _LocalReader(Reader):
    paths: tuple[str, ...]

    def many(self, indices: Sequence[int]) -> list[bytes | UserError]:
        return [_bytes(self.paths[index]) for index in indices]


def _bytes(path: str) -> bytes | UserError:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return UserError(
            f"{path}: cannot be read: {error.strerror}", remedy="restore it; the run goes on from its state"
        )


@dataclass(frozen=True)
class _RemoteReader(Reader):
    folder: Remote
    paths: tuple[str, ...]

    def many(self, indices: Sequence[int]) -> list[bytes | UserError]:
        return self.folder.many([(self.paths[index], None, None) for index in indices])


def place(root: Path, folder: str) -> Place:
    """Where a recipe's images lie: below the data root, or at an address of their own.

    Raises:
        UserError: If the data root is an address, or an address holds a password.
    """
    if is_address(folder):
        return Remote(check(folder, "data.folder"))
    if re.match(r"[a-z][a-z0-9+]+:/", str(root)):  # a path has lost one of the two strokes
        raise UserError(
            f"--data-root {root}: an address, where a folder of this machine is asked for",
            remedy="write the whole address into the recipe: data.folder=s3://bucket/images",
            code=2,
        )
    return root / folder


def list_images(folder: Place) -> Files:
    """All images below a folder, at any depth, in sorted order and without labels.

    Raises:
        UserError: If there is none.
    """
    if isinstance(folder, Remote):
        paths, others = _remote_images(folder)
    else:
        tree = walk(folder)
        paths, others = tuple(map(str, tree.images)), sorted(tree.others)
    if not paths:
        ending = f"; its files end in {', '.join(others)}" if others else ""
        raise UserError(
            f"no images below {folder}{ending}", remedy=f"they end in {', '.join(sorted(ENDINGS))}"
        )
    return _files(folder, paths, np.zeros(len(paths), dtype=np.int64), UNLABELLED)


def list_folders(folder: Place) -> Files:
    """The images of a folder of class folders, in sorted order.

    Raises:
        UserError: If it holds no image, or images beside the class folders.
    """
    if isinstance(folder, Remote):
        found, _ = _remote_images(folder)
        paths = tuple(path for path in found if "/" in path)
        loose, of = len(found) - len(paths), [path.partition("/")[0] for path in paths]
        classes = tuple(dict.fromkeys(of))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name] for name in of], dtype=np.int64)
    else:
        local = class_folders(folder)
        paths, loose = tuple(map(str, local.paths)), local.loose
        labels, classes = local.labels, local.classes
    if loose or not paths:
        what = f"{loose} images beside" if loose else "no images in"
        raise UserError(
            f"{what} the class folders of {folder}",
            remedy="expected <class>/<image>.jpg; data.format=images takes all, without labels",
        )
    return _files(folder, paths, labels, classes)


def _remote_images(folder: Remote) -> tuple[tuple[str, ...], list[str]]:
    """Paths of the images in it, sorted as a walk of a disk gives them, and the endings of its other files."""
    paths, others = list[str](), set[str]()
    for path in folder.files():
        name = path.rpartition("/")[2]
        if is_image(name):
            paths.append(path)
        else:
            others.add(os.path.splitext(name)[1].lower())
    return tuple(paths), sorted(others)


def _files(folder: Place, paths: tuple[str, ...], labels: Labels, classes: tuple[str, ...]) -> Files:
    if isinstance(folder, Remote):
        names = tuple(f"{folder}/{path}" for path in paths)
        return Files(_RemoteReader(folder, paths), names, labels, classes)
    return Files(_LocalReader(paths), paths, labels, classes)
