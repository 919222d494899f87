"""Images to pretrain on, and how they reach the loop.

A source either holds all images decoded, as squares of one size (`Bank`), or decodes them in every epoch (`Stream`).
Both answer for any image by its number, so the order of an epoch is known in advance and a run can go on anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
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
from .images import decode
from .shards import list_shards
from .sources import UNLABELLED, Files, Labels, list_folders, list_images, place, spaced
from .views import ViewPlan

Job = tuple[NDArray[np.int64], ViewPlan]


@dataclass(frozen=True)
class Bank:
    """Decoded images.

    Attributes:
        images: ``(N, 3, S, S)`` bytes.
        labels: ``(N,)`` class numbers.
        classes: Their names.
        pin: Put batches into page-locked memory, for a GPU.
    """

    images: NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]
    pin: bool = False

    def some(self, count: int) -> Bank:
        """At most ``count`` of them, evenly spaced."""
        rows = spaced(len(self.labels), count)
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def feed(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Tensor]]:
        """Every job with its images, ``(B, 3, S, S)`` bytes."""
        for job in jobs:
            batch = torch.from_numpy(self.images[job[0]])
            yield job, batch.pin_memory() if self.pin else batch


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
        return self.__getitems__([item])[0]

    def __getitems__(
        self, items: Sequence[tuple[int, NDArray[np.float64]]]
    ) -> list[NDArray[np.uint8] | UserError]:
        """A batch, whose bytes a storage that is far away gives all at a time."""
        contents = self.files.read.many([index for index, _ in items])
        return [
            self._cut(index, content, params)
            for (index, params), content in zip(items, contents, strict=True)
        ]

    def _cut(
        self, index: int, content: bytes | UserError, params: NDArray[np.float64]
    ) -> NDArray[np.uint8] | UserError:
        if isinstance(content, UserError):
            return content
        try:
            image = decode(content, self.files.names[index])
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
    if data.format in ARRAYS:
        bank = replace(_arrays(data, root), pin=pin)
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
        title = f"decode {data.folder.rstrip('/').rpartition('/')[2]}"
        bank = decode_all(files, data.store_size, workers=workers, progress=progress, title=title)
        return replace(bank, pin=pin)
    if crop is None:
        raise UserError(
            "a stream cuts the crops while it decodes, and the views have no crop",
            remedy="set data.store_size",
            code=2,
        )
    return Stream(files, crop, workers, pin)


def count(data: Data, root: Path) -> int:
    """The number of images that `load` would open, none of them decoded where they are files."""
    arrays = data.format in ARRAYS
    number = len((_arrays(data, root) if arrays else list_files(data, root, progress=False)).labels)
    return number if data.limit is None else min(number, data.limit)


def sample(data: Data, root: Path, size: int, count: int) -> Bank:
    """At most ``count`` images, evenly spaced, as squares of the recipe's stored size or of ``size``."""
    if data.format in ARRAYS:
        return _arrays(data, root).some(count)
    files = list_files(data, root, progress=False)
    return decode_all(files.some(count), data.store_size or size, progress=False)


def list_files(data: Data, root: Path, *, progress: bool = True) -> Files:
    """The encoded images of a recipe's data.

    Raises:
        UserError: If there are none, or they are not as the format says.
    """
    folder = place(root, data.folder)
    if data.format == "shards":
        return list_shards(folder, progress=progress)
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"no folder of images at {folder}", remedy="give its parent as --data-root")
    return list_folders(folder) if data.format == "folders" else list_images(folder)


def _arrays(data: Data, root: Path) -> Bank:
    """The images of a format whose authors' files hold arrays."""
    folder = place(root, data.folder)
    if not isinstance(folder, Path):
        raise UserError(
            f"{folder}: {data.format} is read from this machine alone", remedy="fetch it first", code=2
        )
    return ARRAYS[data.format](folder)


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
