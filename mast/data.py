"""Images to pretrain on, and how they reach the loop.

A source either holds all images decoded, as squares of one size (`Bank`), or decodes them in every epoch (`Stream`).
Both answer for any image by its number, so the order of an epoch is known in advance and a run can go on anywhere.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import Crop
from .config import Data
from .console import bar
from .errors import UserError
from .images import ENDINGS, class_folders, decode, is_image, walk
from .views import ViewPlan

UNLABELLED = ("unlabelled",)
Labels = NDArray[np.int64]
Job = tuple[NDArray[np.int64], ViewPlan]


@dataclass(frozen=True)
class Files:
    """Encoded images.

    Attributes:
        read: Gives the bytes of the image with a number.
        names: What to call each of them in an error.
        labels: ``(N,)`` class numbers, for the probe only.
        classes: Their names.
    """

    read: Callable[[int], bytes]
    names: tuple[str, ...]
    labels: Labels
    classes: tuple[str, ...]

    def some(self, count: int) -> Files:
        """At most ``count`` of them, evenly spaced."""
        rows = _spaced(len(self.labels), count)
        names = tuple(self.names[row] for row in rows)
        return Files(_Some(self.read, rows), names, self.labels[rows], self.classes)

    def open(self, index: int) -> Image.Image:
        """Decode an image.

        Raises:
            UserError: If it cannot be decoded.
        """
        return decode(self.read(index), self.names[index])


@dataclass(frozen=True)
class Bank:
    """Decoded images.

    Attributes:
        images: ``(N, 3, S, S)`` bytes.
        labels: ``(N,)`` class numbers.
        classes: Their names.
    """

    images: NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]

    def some(self, count: int) -> Bank:
        """At most ``count`` of them, evenly spaced."""
        rows = _spaced(len(self.labels), count)
        return Bank(self.images[rows], self.labels[rows], self.classes)

    def feed(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Tensor]]:
        """Every job with its images, ``(B, 3, S, S)`` bytes."""
        for job in jobs:
            yield job, torch.from_numpy(self.images[job[0]])


@dataclass(frozen=True)
class Stream:
    """Images that worker processes decode in every epoch; both views' crops are cut from the whole image.

    Attributes:
        files: The images.
        crop: The crop of the views, whose parameters the jobs' plans hold.
        workers: Processes; 0 decodes in the loop itself.
        pin: Put batches into page-locked memory, for a GPU.
    """

    files: Files
    crop: Crop
    workers: int
    pin: bool = False

    @property
    def labels(self) -> Labels:
        """``(N,)`` class numbers."""
        return self.files.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return self.files.classes

    def feed(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Tensor]]:
        """Every job with both crops of its images, ``(B, 2, 3, size, size)`` bytes, decoded ahead of need."""
        ahead, wanted = tee(jobs)
        items = ([(int(i), plan.params["crop"][:, n]) for n, i in enumerate(rows)] for rows, plan in ahead)
        loader: DataLoader[Any] = DataLoader(
            _Crops(self.files, self.crop),
            batch_sampler=items,
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.pin,
        )
        for job, found in zip(wanted, loader, strict=True):
            if isinstance(found, UserError):
                raise found
            yield job, found


Source = Bank | Stream


class _Crops(Dataset[Any]):
    """The two crops of an image, or the error that its reader found: workers would bury it in a traceback."""

    def __init__(self, files: Files, crop: Crop) -> None:
        self.files, self.crop = files, crop

    def __getitem__(self, item: tuple[int, NDArray[np.float64]]) -> NDArray[np.uint8] | UserError:
        index, params = item
        try:
            image = self.files.open(index)
        except UserError as error:
            return error
        return np.stack([self.crop.cut(image, row) for row in params])


def _stack(found: list[NDArray[np.uint8] | UserError]) -> Tensor | UserError:
    images = []
    for item in found:
        if isinstance(item, UserError):
            return item
        images.append(item)
    return torch.from_numpy(np.stack(images))


def on_device(images: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bytes as floats in [0, 1]."""
    return images.to(device, non_blocking=True).to(dtype).div_(255)


def load(
    data: Data, root: Path, crop: Crop | None, *, workers: int, pin: bool = False, progress: bool = True
) -> Source:
    """Open a recipe's images.

    Args:
        data: Which, and how.
        root: Where ``data.folder`` lies.
        crop: The views' crop, which a stream cuts while decoding.
        workers: Decoding threads of a bank, processes of a stream.
        pin: Page-locked batches.
        progress: Show a progress bar while a bank is decoded.

    Raises:
        UserError: If images are missing or damaged, or the recipe asks for what this format has not.
    """
    folder = root / data.folder
    if data.format in ARRAYS:
        bank = ARRAYS[data.format](folder)
        side = bank.images.shape[2]
        if data.store_size not in (None, side):
            raise UserError(
                f"data.store_size is {data.store_size}, images of {data.format} have {side} px",
                remedy="leave it out",
                code=2,
            )
        return bank if data.limit is None else bank.some(data.limit)
    files = list_files(data, root, progress=progress)
    if data.limit is not None:
        files = files.some(data.limit)
    if data.store_size is not None:
        return decode_all(
            files, data.store_size, workers=workers, progress=progress, title=f"decode {folder.name}"
        )
    if crop is None:
        raise UserError(
            "a stream cuts the crops while it decodes, and the views have no crop",
            remedy="set data.store_size",
            code=2,
        )
    return Stream(files, crop, workers, pin)


def count(data: Data, root: Path) -> int:
    """The number of images that `load` would open, none of them decoded where they are files."""
    folder = root / data.folder
    number = len(
        (
            ARRAYS[data.format](folder) if data.format in ARRAYS else list_files(data, root, progress=False)
        ).labels
    )
    return number if data.limit is None else min(number, data.limit)


def sample(data: Data, root: Path, size: int, count: int) -> Bank:
    """At most ``count`` images, evenly spaced, as squares of the recipe's stored size or of ``size``."""
    folder = root / data.folder
    if data.format in ARRAYS:
        bank = ARRAYS[data.format](folder)
        return bank.some(count)
    files = list_files(data, root, progress=False)
    return decode_all(files.some(count), data.store_size or size, progress=False)


def _spaced(size: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, size - 1, min(size, count)).astype(np.int64)


@dataclass(frozen=True)
class _Some:
    """Reads some of the images that another reader reads; a worker process can be given it."""

    read: Callable[[int], bytes]
    rows: NDArray[np.int64]

    def __call__(self, index: int) -> bytes:
        return self.read(int(self.rows[index]))


def list_files(data: Data, root: Path, *, progress: bool = True) -> Files:
    """The encoded images of a recipe's data; see `list_images`, `list_folders` and `list_shards`."""
    folder = root / data.folder
    if data.format == "shards":
        return list_shards(folder, progress=progress)
    if not folder.is_dir():
        raise UserError(f"no folder of images at {folder}", remedy="give its parent as --data-root")
    return list_folders(folder) if data.format == "folders" else list_images(folder)


def list_images(folder: Path) -> Files:
    """All images below a folder, at any depth, in sorted order and without labels.

    Raises:
        UserError: If there is none.
    """
    found = walk(folder)
    if not found.images:
        others = f"; its files end in {', '.join(found.others)}" if found.others else ""
        raise UserError(
            f"no images below {folder}{others}", remedy=f"they end in {', '.join(sorted(ENDINGS))}"
        )
    names = tuple(map(str, found.images))
    return Files(_PathReader(names), names, np.zeros(len(names), dtype=np.int64), UNLABELLED)


def list_folders(folder: Path) -> Files:
    """The images of a folder of class folders, in sorted order.

    Raises:
        UserError: If it holds no image, or images beside the class folders.
    """
    found = class_folders(folder)
    if found.loose or not found.paths:
        what = f"{found.loose} images beside" if found.loose else "no images in"
        raise UserError(
            f"{what} the class folders of {folder}",
            remedy="expected <class>/<image>.jpg; data.format=images takes all, without labels",
        )
    names = tuple(map(str, found.paths))
    return Files(_PathReader(names), names, found.labels, found.classes)


@dataclass(frozen=True)
class _PathReader:
    paths: tuple[str, ...]

    def __call__(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()


def list_shards(folder: Path, *, progress: bool = True) -> Files:
    """The images of tar shards as webdataset writes them: ``<key>.jpg`` and, for the probe, ``<key>.cls``.

    A key is the path up to the first dot of the file's own name, as in webdataset. Labels are for all images or for
    none; their numbers need not be without gaps. The shards are indexed once and read at any place, where webdataset
    itself reads them in sequence: shuffling is then complete, the same for any number of workers, and a run can go
    on in the middle of an epoch.

    Raises:
        UserError: If there are no shards or no images in them, one is cut short, an image stands in it twice or as a
            link, a label is no class number, or some images have labels and others not.
    """
    shards = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not shards:
        raise UserError(f"no tar shards in {folder}", remedy="expected <folder>/*.tar")
    places, names, keys = list[tuple[int, int, int]](), list[str](), list[str]()
    labels: dict[str, int] = {}
    for number, shard in enumerate(
        bar(shards, desc=f"index {folder.name}", unit="shard", disable=not progress)
    ):
        seen: set[str] = set()
        try:
            size = shard.stat().st_size
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    where, key = (
                        f"{shard}:{member.name}",
                        f"{number}/{path.parent}/{path.name.partition('.')[0]}",
                    )
                    if member.isfile() and path.suffix.lower() == ".cls" and not path.name.startswith("."):
                        labels[key] = _label(archive, member, where)
                    elif is_image(path.name) and not member.isdir():
                        _check_member(member, where, seen, size)
                        places.append((number, member.offset_data, member.size))
                        names.append(where)
                        keys.append(key)
        except (tarfile.TarError, ValueError, OSError) as error:
            raise UserError(f"{shard}: damaged ({error})", remedy="write or fetch it again") from error
    if not places:
        raise UserError(f"no images in the tar shards of {folder}", remedy="expected <key>.jpg in them")
    given = [key in labels for key in keys]
    if any(given) and not all(given):
        raise UserError(
            f"{names[given.index(False)]}: has no .cls, and other images have one",
            remedy="write a label for every image, or for none",
        )
    classes = sorted({labels[key] for key in keys}) if all(given) else [0]
    numbers = {label: index for index, label in enumerate(classes)}
    found = np.array([numbers[labels[key]] if all(given) else 0 for key in keys], dtype=np.int64)
    titles = tuple(map(str, classes)) if all(given) else UNLABELLED
    return Files(_ShardReader(tuple(map(str, shards)), np.array(places)), tuple(names), found, titles)


def _check_member(member: tarfile.TarInfo, where: str, seen: set[str], size: int) -> None:
    """Raise for an image of a shard that would be read wrongly."""
    what = ""
    if not member.isreg() or member.issparse():
        what = "is a link or a sparse file"
    elif member.name in seen:
        what = "stands twice in its shard"
    elif member.offset_data + member.size > size:
        what = "is cut short"
    if what:
        raise UserError(f"{where}: {what}", remedy="write the shard again")
    seen.add(member.name)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> int:
    file = archive.extractfile(member)
    text = file.read(20).strip() if file else b""
    if not text.isdigit() or member.size > 20:
        raise UserError(f"{where}: {text[:20]!r} is no class number", remedy="write a whole number from 0 on")
    return int(text)


@dataclass(frozen=True)
class _ShardReader:
    shards: tuple[str, ...]
    places: NDArray[np.int64]  # (N, 3): shard, offset, size

    def __call__(self, index: int) -> bytes:
        shard, offset, size = map(int, self.places[index])
        with open(self.shards[shard], "rb") as file:
            return os.pread(file.fileno(), size, offset)


def decode_square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Bring the short side to ``size`` (bicubic), keep the central square: ``(3, size, size)``."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if (width, height) != (size, size):
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image).transpose(2, 0, 1)


def decode_all(
    files: Files, size: int, *, workers: int = 2, progress: bool = True, title: str = "decode"
) -> Bank:
    """Decode every image once, into squares of ``size``, with threads (the decoder releases the interpreter)."""
    images = np.empty((len(files.labels), 3, size, size), dtype=np.uint8)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = pool.map(lambda index: decode_square(files.open(index), size), range(len(images)))
        for index, image in enumerate(
            bar(decoded, total=len(images), desc=title, unit="img", disable=not progress)
        ):
            images[index] = image
    return Bank(images, files.labels, files.classes)


def _cifar(folder: Path, name: str) -> Bank:
    """The training images of CIFAR-10 or CIFAR-100 as its authors' archive unpacks, checked by torchvision."""
    import torchvision

    try:
        data = getattr(torchvision.datasets, name)(folder, train=True, download=False)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{folder}: {name}: {error}", remedy="unpack the authors' python archive there"
        ) from error
    images = np.ascontiguousarray(data.data.transpose(0, 3, 1, 2))
    return Bank(images, np.array(data.targets, dtype=np.int64), tuple(data.classes))


def _stl10(folder: Path) -> Bank:
    """STL-10's ``train`` and ``unlabeled`` images, 105,000 of 96 px (2.9 GB), stored columns first."""
    parts = []
    for part in ("train", "unlabeled"):
        path = folder / "stl10_binary" / f"{part}_X.bin"
        size = path.stat().st_size if path.is_file() else 0
        if size == 0 or size % (3 * 96 * 96):
            raise UserError(
                f"{path}: {size} bytes, a multiple of {3 * 96 * 96} expected",
                remedy="unpack stl10_binary.tar.gz there",
            )
        parts.append(np.fromfile(path, np.uint8).reshape(-1, 3, 96, 96))
    images = np.concatenate(parts).transpose(0, 1, 3, 2)
    return Bank(images, np.zeros(len(images), dtype=np.int64), UNLABELLED)


ARRAYS: dict[str, Callable[[Path], Bank]] = {
    "cifar10": lambda folder: _cifar(folder, "CIFAR10"),
    "cifar100": lambda folder: _cifar(folder, "CIFAR100"),
    "stl10": _stl10,
}
