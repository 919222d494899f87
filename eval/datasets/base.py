"""Images, splits and data sets: what everything else reads, whatever the layout on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mast.files import canonical_json
from mast.images import decode

from ..errors import UserError
from .checks import Findings, look

# Above this many bytes a pool is identified by names and sizes: hashing ImageNet takes longer than a probe.
HASH_LIMIT = 4 << 30

Labels = npt.NDArray[Any]
_hashes: dict[tuple[str, int, int], str] = {}


def _sha256(path: Path, status: os.stat_result) -> str:
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        try:
            _hashes[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read: {error.strerror}", remedy="check permissions"
            ) from error
    return _hashes[key]


@dataclass(frozen=True)
class Pool:
    """The images of one folder or archive, in a fixed order: the unit in which features are stored.

    Attributes:
        name: For people: "cifar10/train".
        paths: One path an image. Images inside an archive have the path "archive#index".
        root: What paths are relative to in the digest, so that a moved data set keeps its features.
        reader: Reads image ``i`` as RGB; decodes ``paths[i]`` when None.
        archive_digest: The content's hash when the images come from an archive.
        fingerprint: Gives one text an image, the same for equal ones, where its file's hash does not.
    """

    name: str
    paths: tuple[Path, ...]
    root: Path
    reader: Callable[[int], Image.Image] | None = field(default=None, compare=False)
    archive_digest: str | None = None
    fingerprint: Callable[[int], str] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """Image ``index`` as RGB."""
        return decode(self.paths[index]) if self.reader is None else self.reader(index)

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """One text an image: its SHA-256, or its size where the pool exceeds `HASH_LIMIT` bytes."""
        if self.archive_digest is not None:
            return tuple(f"{self.archive_digest[:32]}#{index}" for index in range(len(self)))
        try:
            statuses = [path.stat() for path in self.paths]
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}", remedy="restore the file") from error
        if sum(status.st_size for status in statuses) > HASH_LIMIT:
            return tuple(f"size:{status.st_size}" for status in statuses)
        return tuple(_sha256(path, status) for path, status in zip(self.paths, statuses, strict=True))

    @property
    def on_disk(self) -> bool:
        """Whether every image is a file of its own."""
        return self.reader is None

    @property
    def hashed(self) -> bool:
        """Whether the images are told apart by their content."""
        return not (self.on_disk and len(self) > 0 and self.identities[0].startswith("size:"))

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """One text an image, the same for equal images; empty where that is not known."""
        if self.fingerprint is not None:
            return tuple(self.fingerprint(index) for index in range(len(self)))
        known = self.on_disk and self.hashed
        return self.identities if known else ("",) * len(self)

    def relative(self, index: int) -> str:
        """The path of image ``index`` below the root, with forward slashes."""
        path = self.paths[index]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the images' names and content, in hexadecimal."""
        digest = hashlib.sha256()
        for index, identity in enumerate(self.identities):
            digest.update(f"{self.relative(index)}\0{identity}\n".encode())
        return digest.hexdigest()


def reread(read: Callable[[int], Any], rows: Sequence[int] | npt.NDArray[np.int64], index: int) -> Any:
    """What a reader gives for a place in a choice of rows."""
    return read(int(rows[index]))


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name: "train", "val" or "test".
        paths: N paths.
        labels: (N,) int64 class indices, or (N, C) float32 with 1 present, 0 absent, -1 present but difficult.
        source: The images it draws from; ``paths`` themselves when None.
        positions: (N,) int64 places of its images in ``source``; all of it, in order, when None.
    """

    name: str
    paths: tuple[Path, ...]
    labels: Labels
    source: Pool | None = None
    positions: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise ValueError(f"{len(self.paths)} paths but {len(self.labels)} labels in split '{self.name}'")

    @cached_property
    def pool(self) -> Pool:
        """The images it draws from."""
        if self.source is not None:
            return self.source
        root = Path(os.path.commonpath([path.parent for path in self.paths])) if self.paths else Path()
        return Pool(self.name, self.paths, root)

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """(N,) int64 places of its images in the pool."""
        return np.arange(len(self.paths), dtype=np.int64) if self.positions is None else self.positions

    def __len__(self) -> int:
        return len(self.paths)

    def limited(self, number: int) -> Split:
        """At most ``number`` images, in the split's order, as a split whose pool holds nothing else.

        Of single labels, the first classes only, so many that each can have four images; they take turns.
        """
        if len(self) <= number:
            return self
        turns = np.arange(len(self))
        if self.labels.ndim == 1:
            turns = np.full(len(self), len(self))
            for label in np.unique(self.labels)[: max(2, number // 4)]:
                places = np.flatnonzero(self.labels == label)
                turns[places] = np.arange(len(places))
        keep = np.sort(np.lexsort((np.arange(len(self)), turns))[:number])
        return self.alone(keep)

    def alone(self, keep: npt.NDArray[np.int64]) -> Split:
        """The images at some positions, as a split whose pool holds nothing else."""
        source, rows = self.pool, self.rows[keep]
        pool = Pool(
            f"{source.name}, {len(keep)} images",
            tuple(source.paths[int(row)] for row in rows),
            source.root,
            source.reader and partial(reread, source.read, rows),
            source.archive_digest
            and hashlib.sha256(f"{source.archive_digest} {rows.tolist()}".encode()).hexdigest(),
        )
        return Split(self.name, tuple(self.paths[int(index)] for index in keep), self.labels[keep], pool)

    def subset(self, keep: npt.NDArray[Any], name: str | None = None) -> Split:
        """The images at the positions ``keep`` (integers), in that order."""
        keep = np.asarray(keep, dtype=np.int64)
        paths = tuple(self.paths[int(index)] for index in keep)
        return Split(name or self.name, paths, self.labels[keep], self.pool, self.rows[keep])


@dataclass(frozen=True)
class ImageDataset:
    """A data set read from disk.

    Attributes:
        name: Its name.
        classes: Class names in label order.
        splits: "train", "val" and "test".
        notes: How the splits came to be, part of the manifest.
        remarks: What lies there and was not read; no part of the manifest.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    notes: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @cached_property
    def findings(self) -> Findings:
        """What is odd about it, looked for once; see `checks.look`."""
        return look(self)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of a number should know."""
        return (*self.remarks, *self.findings.warnings)

    def check(self) -> None:
        """Whether a number can be had from it; called before anything is trained.

        Raises:
            UserError: If images cannot be read.
        """
        if problems := self.findings.problems:
            more = f"; and {len(problems) - 1} more such images" if len(problems) > 1 else ""
            raise UserError(f"{problems[0]}{more}", remedy=f"`mast data verify {self.name}` lists all")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images in each split."""
        return {name: len(split) for name, split in self.splits.items()}

    def limited(self, number: int) -> ImageDataset:
        """At most ``number`` images of each split, noted in the manifest, for a smoke test."""
        splits = {name: split.limited(number) for name, split in self.splits.items()}
        return replace(self, splits=splits, notes={**self.notes, "limit": f"{number} images of each split"})

    @cached_property
    def manifest(self) -> str:
        """SHA-256 over classes, splits, and every image's name, content and label, in hexadecimal."""
        digest = hashlib.sha256(canonical_json([list(self.classes), self.notes]).encode())
        for name in sorted(self.splits):
            split = self.splits[name]
            digest.update(f"\n[{name}]\n".encode())
            identities = split.pool.identities
            for row, label in zip(split.rows, split.labels, strict=True):
                values = " ".join(f"{value:g}" for value in np.atleast_1d(label))
                line = f"{split.pool.relative(int(row))}\0{identities[int(row)]}\0{values}\n"
                digest.update(line.encode())
        return digest.hexdigest()


def carve(train: Split, fraction: float, *, seed: int = 0) -> tuple[Split, Split]:
    """Cut a validation split out of train, the same share of every class, always the same images.

    Classes of a single image stay in train. A multi-label split is cut at random.

    Args:
        train: The split to cut.
        fraction: Share of the images that goes to val, in (0, 1).
        seed: Seed of the draw.

    Returns:
        The rest of train, and val; both keep train's order.

    Raises:
        UserError: If no class has two images.
    """
    generator = np.random.default_rng(seed)
    groups: Iterable[npt.NDArray[np.int64]]
    if train.labels.ndim == 1:
        groups = (np.flatnonzero(train.labels == label) for label in np.unique(train.labels))
    else:
        groups = (np.arange(len(train)),)
    chosen = [
        generator.permutation(group)[: max(1, round(fraction * len(group)))]
        for group in groups
        if len(group) > 1
    ]
    if not chosen:
        raise UserError(
            f"{train.pool.name}: no class has two images, so no validation split can be cut from it",
            remedy="add images or a val split",
        )
    val = np.sort(np.concatenate(chosen))
    rest = np.setdiff1d(np.arange(len(train)), val)
    return train.subset(rest, "train"), train.subset(val, "val")


def complete(
    name: str,
    classes: Sequence[str],
    splits: dict[str, Split],
    *,
    fraction: float = 0.2,
    where: str = "",
    test: str = "test",
    remarks: Sequence[str] = (),
) -> ImageDataset:
    """A data set from the splits that were found; a missing val is cut from train and noted in the manifest.

    Args:
        name: Its name.
        classes: Class names in label order.
        splits: What was found.
        fraction: Share of train that becomes a missing val.
        where: What to name in an error.
        test: ``val``: val is tested on, and a new val is cut from train.
        remarks: What was not read.

    Raises:
        UserError: If train or test is missing.
    """
    splits, notes = dict(splits), dict[str, str]()
    if test == "val":
        if "val" not in splits:
            raise UserError(f"{where}: has no split 'val' to test on", remedy="leave test=val out", code=2)
        splits["test"] = replace(splits.pop("val"), name="test")
        notes["test"] = "val is tested on"
    for required in ("train", "test"):
        if required not in splits:
            found = ", ".join(splits) or "nothing"
            remedy = f"add it; found: {found}"
            if required == "test" and "val" in splits:
                remedy = (
                    "add it, or say that val is to be tested on: folder:DIR,test=val or csv:FILE,test=val"
                )
            raise UserError(f"{where}: the split '{required}' is missing", remedy=remedy)
    if "val" not in splits:
        splits["train"], splits["val"] = carve(splits["train"], fraction)
        notes["val"] = f"{fraction:.0%} of train, stratified, seed 0"
    ordered = {part: splits[part] for part in ("train", "val", "test")}
    return ImageDataset(name, tuple(classes), ordered, notes, tuple(remarks))


def cut_test(
    name: str, classes: Sequence[str], whole: Split, fraction: float = 0.2, *, remarks: Sequence[str] = ()
) -> ImageDataset:
    """A data set whose splits nobody gave: the same share of every class is tested on, always the same images."""
    train, test = carve(whole, fraction)
    test = replace(test, name="test")
    note = f"{fraction:.0%} of all images for test, stratified, seed 0"
    told = f"{name}: has no splits; {fraction:.0%} of each class is tested on, seed 0"
    data = complete(name, classes, {"train": train, "test": test}, remarks=[*remarks, told])
    return replace(data, notes={**data.notes, "test": note})
