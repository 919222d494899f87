"""Tar shards as webdataset writes them: how they are read at any place, and how images become shards.

Beside the shards that `write` makes lies ``shards.jsonl``. Its first line says what was to be written; every
further line stands for a shard that lies there whole: its name, size and SHA-256, and where each image is in it. So a
run need not go through the shards before it begins, a check finds every changed byte, and writing that was killed
goes on after the last line.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .console import bar, say
from .errors import UserError
from .files import atomic_write, sha256_file, sweep, writing
from .images import header, is_hidden, is_image
from .remote import BLOCK, Remote
from .sources import UNLABELLED, Files, Place, Reader

MANIFEST = "shards.jsonl"
AHEAD = 64  # images that are read at a time while shards are written
_HEAD = 512  # bytes of a tar member's head, whose name is short
_COMPRESSED = re.compile(r"(?i)\.(tgz|tar\.(gz|bz2|xz|zst|lz4))$")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Head(_Line):
    """What is to be written.

    Attributes:
        schema_version: Of this file's form.
        images: Their number.
        per_shard: Images of a shard; the last may have fewer.
        classes: Names of the classes, or None without labels.
        listing: SHA-256 of the names and labels of all images in order.
    """

    schema_version: int
    images: int
    per_shard: int
    classes: tuple[str, ...] | None
    listing: str


class Shard(_Line):
    """A shard that lies there whole.

    Attributes:
        name: Of the file.
        bytes: Its size.
        sha256: Of its content, in hexadecimal.
        places: First byte and size of each image.
        names: What each image was called.
        labels: Class numbers, or None.
    """

    name: str
    bytes: int
    sha256: str
    places: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    labels: tuple[int, ...] | None


@dataclass(frozen=True)
class Manifest:
    """What ``shards.jsonl`` says.

    Attributes:
        head: Its first line.
        shards: Its further lines.
    """

    head: Head
    shards: tuple[Shard, ...]

    @property
    def done(self) -> int:
        """Images in shards that lie there whole."""
        return sum(len(shard.places) for shard in self.shards)


# ------------------------------------------------------------------------------------------------------ reading


def list_shards(folder: Place, *, progress: bool = True) -> Files:
    """The images of tar shards: ``<key>.jpg`` and, for the probe, ``<key>.cls``.

    A key is the path up to the first dot of the file's own name, as in webdataset; it has one image. Labels are for
    all images or for none; their numbers need not be without gaps. Shards are read at any place, where webdataset
    itself reads them in sequence: shuffling is then complete, the same for any number of workers, and a run can go on
    in the middle of an epoch. Without ``shards.jsonl`` they are gone through once, to find the places.

    Raises:
        UserError: If there are no shards or no images in them, one is compressed, damaged, cut short or missing, a
            key has two images or two labels or a label without an image, an image is empty or a link, a label is no
            class number, or some images have labels and others not.
    """
    sizes, manifest = look(folder)
    if manifest is not None:
        return _listed(folder, manifest, sizes)
    if not sizes:
        raise UserError(f"no tar shards in {folder}", remedy=f"expected {folder}/*.tar")
    return _indexed(folder, sizes, progress=progress)


def look(folder: Place) -> tuple[dict[str, int], Manifest | None]:
    """The shards in a folder by name, sorted, with their sizes; and what ``shards.jsonl`` says, if it is there.

    Raises:
        UserError: If the folder cannot be read, or the file is damaged.
    """
    if isinstance(folder, Remote):
        there = {path: size for path, size in folder.files().items() if "/" not in path}
        content = folder.read(MANIFEST) if MANIFEST in there else None
    else:
        files = sorted(path for path in folder.glob("*") if path.is_file() and not is_hidden(path.name))
        there = {path.name: path.stat().st_size for path in files}
        content = (folder / MANIFEST).read_bytes() if MANIFEST in there else None
    for name in there:
        if _COMPRESSED.search(name):
            raise _packed(f"{folder}/{name}")
    sizes = {name: size for name, size in there.items() if name.lower().endswith(".tar")}
    return sizes, None if content is None else _parse(content, f"{folder}/{MANIFEST}")


def _packed(shard: str) -> UserError:
    return UserError(
        f"{shard}: is compressed, and a shard is read at any place",
        remedy="unpack it to .tar (gunzip); images are compressed already",
    )


def _parse(content: bytes, where: str) -> Manifest:
    """A last line that was cut off when its writer was killed does not count."""
    lines = content.splitlines(keepends=True)
    try:
        head = Head.model_validate_json(lines[0])
        shards = tuple(Shard.model_validate_json(line) for line in lines[1:] if line.endswith(b"\n"))
        _consistent(head, shards)
    except (ValueError, IndexError) as error:  # pydantic's are ValueErrors
        raise UserError(
            f"{where}: damaged",
            remedy="restore it, or delete it: the shards are gone through without it",
        ) from error
    return Manifest(head, shards)


def _consistent(head: Head, shards: Sequence[Shard]) -> None:
    """Raise ValueError for lines that contradict themselves or each other."""
    classes = len(head.classes or ())
    for shard in shards:
        labels = shard.labels or ()
        if not (
            len(shard.places) == len(shard.names)
            and (shard.labels is None) == (head.classes is None)
            and (shard.labels is None or len(labels) == len(shard.places))
            and all(0 <= label < classes for label in labels)
            and _in_order(shard)
            and PurePosixPath(shard.name).name == shard.name
        ):
            raise ValueError(f"the line of {shard.name} contradicts itself")
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("a shard has two lines")
    names = [name for shard in shards for name in shard.names]
    numbers = [label for shard in shards for label in shard.labels or ()]
    if len(names) > head.images or (len(names) == head.images and head.listing != _listing(names, numbers)):
        raise ValueError("its images are not those that it begins with")


def _in_order(shard: Shard) -> bool:
    """Whether the images of a shard lie in it one after the other, as members of a tar do."""
    end = 0
    for start, size in shard.places:
        if start < end + _HEAD or start % _HEAD or size <= 0:
            return False
        end = start + size
    return end <= shard.bytes


def _listing(names: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 of the names and labels of all images in order; there may be no labels."""
    digest = hashlib.sha256()
    for name, label in zip(names, map(str, labels) if labels else [""] * len(names), strict=True):
        digest.update(f"{label}\t{name}\n".encode())
    return digest.hexdigest()


def missing(manifest: Manifest, sizes: dict[str, int], folder: Place) -> list[str]:
    """What a list of the shards' sizes shows to be wrong with them."""
    problems = []
    if manifest.done < manifest.head.images:
        problems.append(f"{folder}: {manifest.done:,} of {manifest.head.images:,} images are written")
    for shard in manifest.shards:
        if shard.name not in sizes:
            problems.append(f"{folder}/{shard.name}: missing")
        elif sizes[shard.name] != shard.bytes:
            problems.append(
                f"{folder}/{shard.name}: {sizes[shard.name]:,} bytes, {shard.bytes:,} were written"
            )
    for name in sizes.keys() - {shard.name for shard in manifest.shards}:
        problems.append(f"{folder}/{name}: not in {MANIFEST}")
    return problems


def _listed(folder: Place, manifest: Manifest, sizes: dict[str, int]) -> Files:
    """The images as the manifest has them."""
    if problems := missing(manifest, sizes, folder):
        more = f", and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        raise UserError(
            f"{problems[0]}{more}", remedy="run the same `mast data shard` again, or restore the shards"
        )
    shards = manifest.shards
    places = np.array(
        [(number, *place) for number, shard in enumerate(shards) for place in shard.places], dtype=np.int64
    )
    names = tuple(f"{folder}/{shard.name}:{name}" for shard in shards for name in shard.names)
    labels = [label for shard in shards for label in shard.labels or [0] * len(shard.places)]
    reader = _ShardReader(folder, tuple(shard.name for shard in shards), places)
    return Files(reader, names, np.array(labels, dtype=np.int64), manifest.head.classes or UNLABELLED)


def _indexed(folder: Place, sizes: dict[str, int], *, progress: bool) -> Files:
    """The images as the shards themselves have them."""
    places, names, keys = list[tuple[int, int, int]](), list[str](), list[str]()
    labels: dict[str, int] = {}
    for number, (name, size) in enumerate(
        bar(sizes.items(), desc=f"index {folder.name}", unit="shard", disable=not progress)
    ):
        seen: set[str] = set()
        try:
            with _opened(folder, name) as file:
                if file.read(6).startswith(_MAGIC):
                    raise _packed(f"{folder}/{name}")
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    for member in archive:
                        path = PurePosixPath(member.name)
                        where = f"{folder}/{name}:{member.name}"
                        key = f"{number}/{path.parent}/{path.name.partition('.')[0]}"
                        if path.suffix.lower() == ".cls" and not path.name.startswith("."):
                            if key in labels:
                                raise _twice(where, "a second label")
                            labels[key] = _label(archive, member, where)
                        elif is_image(path.name) and not member.isdir():
                            _check_member(member, where, size)
                            if key in seen:
                                raise _twice(where, "a second image")
                            seen.add(key)
                            places.append((number, member.offset_data, member.size))
                            names.append(where)
                            keys.append(key)
                    _check_end(file, archive.offset)
        except (tarfile.TarError, ValueError, OSError) as error:
            raise UserError(
                f"{folder}/{name}: damaged ({error})", remedy="write or fetch it again"
            ) from error
    if not places:
        raise UserError(f"no images in the tar shards of {folder}", remedy="expected <key>.jpg in them")
    if alone := labels.keys() - set(keys):
        at, _, stem = min(alone).partition("/")
        raise UserError(
            f"{folder}/{list(sizes)[int(at)]}: the label of {PurePosixPath(stem)} has no image in its shard",
            remedy="write an image and its label into one shard",
        )
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
    return Files(_ShardReader(folder, tuple(sizes), np.array(places)), tuple(names), found, titles)


@contextlib.contextmanager
def _opened(folder: Place, name: str) -> Iterator[IO[bytes]]:
    if isinstance(folder, Remote):
        with folder.opened(name) as file:
            yield file
    else:
        with (folder / name).open("rb") as file:
            yield file


def _check_member(member: tarfile.TarInfo, where: str, size: int) -> None:
    """Raise for an image of a shard that would be read wrongly."""
    what = ""
    if not member.isreg() or member.issparse():
        what = "is a link or a sparse file"
    elif member.size <= 0:
        what = "is empty"
    elif member.offset_data + member.size > size:
        what = "is cut short"
    if what:
        raise UserError(f"{where}: {what}", remedy="write the shard again")


def _twice(where: str, what: str) -> UserError:
    return UserError(
        f"{where}: {what} of one key, the path up to the first dot of its name",
        remedy="write one image, and one label, under each key",
    )


def _check_end(file: IO[bytes], offset: int) -> None:
    """Raise where anything but zeros follows the last member: tarfile takes a damaged head for the end.

    Args:
        file: The shard.
        offset: Where the next head would begin.
    """
    file.seek(offset)
    while block := file.read(BLOCK):
        if block.strip(b"\0"):
            raise ValueError("more follows its end: several archives in one file, or a damaged head")


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> int:
    file = archive.extractfile(member) if member.isreg() else None
    text = file.read(20).strip() if file else b""
    if not text.isdigit() or member.size > 20:
        raise UserError(f"{where}: {text[:20]!r} is no class number", remedy="write a whole number from 0 on")
    return int(text)


@dataclass(frozen=True)
class _ShardReader(Reader):
    folder: Place
    shards: tuple[str, ...]
    places: NDArray[np.int64]  # (N, 3): shard, offset, size

    def many(self, indices: Sequence[int]) -> list[bytes | UserError]:
        wanted = [tuple(map(int, self.places[index])) for index in indices]
        if isinstance(self.folder, Remote):
            return self.folder.many(
                [(self.shards[shard], offset, offset + size) for shard, offset, size in wanted]
            )
        return [_part(self.folder / self.shards[shard], offset, size) for shard, offset, size in wanted]


def _part(path: Path, offset: int, size: int) -> bytes | UserError:
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), size, offset)
    except OSError as error:
        return UserError(
            f"{path}: cannot be read: {error.strerror}", remedy="restore it; the run goes on from its state"
        )


def sha256(folder: Place, name: str) -> str:
    """SHA-256 of a shard's content, in hexadecimal."""
    return folder.sha256(name) if isinstance(folder, Remote) else sha256_file(folder / name)


# ------------------------------------------------------------------------------------------------------ writing


def write(
    files: Files, folder: Place, out: Path, *, per_shard: int = 1000, progress: bool = True
) -> Manifest:
    """Write images as tar shards of ``<number>.<ending>`` and, where they have labels, ``<number>.cls``.

    Their bytes are copied as they are, in the order of ``files``, so a run on the shards is the run on the files, bit
    for bit. The same images give the same bytes of shards. A call that was killed goes on after the last whole shard.

    Args:
        files: The images.
        folder: Where they lie; their names are written from there on.
        out: The folder of the shards; it is made.
        per_shard: Images of a shard.
        progress: Show a progress bar.

    Returns:
        What was written.

    Raises:
        UserError: If ``out`` holds other shards or another process writes there, a shard there has changed, or an
            image cannot be read or is none.
        Unwritable: If the disk is full.
    """
    labelled = files.classes != UNLABELLED
    names = [name.removeprefix(f"{folder}/") for name in files.names]
    head = Head(
        schema_version=1,
        images=len(names),
        per_shard=per_shard,
        classes=files.classes if labelled else None,
        listing=_listing(names, files.labels.tolist() if labelled else ()),
    )
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0), writing(out):
            return _write(files, names, out, head, progress)
    except Timeout as error:
        raise UserError(
            f"{out}: another `mast data shard` writes there", remedy="wait for it, or give another --out"
        ) from error


def _write(files: Files, names: list[str], out: Path, head: Head, progress: bool) -> Manifest:
    before = _begun(out, head)
    sweep(out, older_than=0)
    with atomic_write(out / MANIFEST) as file:  # whole lines alone
        file.writelines(line.model_dump_json() + "\n" for line in (head, *before))
    done = sum(len(shard.places) for shard in before)
    if done:
        say(f"{out}: going on after {done:,} of {head.images:,} images", progress)
    shards = [*before]
    shown = bar(total=head.images, initial=done, desc=f"shard {out.name}", unit="img", disable=not progress)
    with shown, (out / MANIFEST).open("a", encoding="utf-8") as lines:
        for start in range(done, head.images, head.per_shard):
            rows = range(start, min(start + head.per_shard, head.images))
            path = out / f"{start // head.per_shard:06d}.tar"
            size, digest, places = _one(files, rows, path, head.classes is not None, shown)
            labels = None if head.classes is None else tuple(map(int, files.labels[rows.start : rows.stop]))
            shard = Shard(
                name=path.name,
                bytes=size,
                sha256=digest,
                places=places,
                names=tuple(names[rows.start : rows.stop]),
                labels=labels,
            )
            lines.write(shard.model_dump_json() + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            shards.append(shard)
    return Manifest(head, tuple(shards))


def _begun(out: Path, head: Head) -> tuple[Shard, ...]:
    """The shards of an earlier call that need not be written again."""
    sizes, found = look(out)
    if found is None:
        if sizes:
            raise UserError(
                f"{out}: holds {len(sizes)} tar files that no such call has written",
                remedy="give another --out",
            )
        return ()
    if found.head != head:
        raise UserError(
            f"{out}: was begun with other images or another --per-shard "
            f"({found.head.images:,} images, {found.head.per_shard:,} a shard)",
            remedy="give another --out, or delete that one",
        )
    for shard in found.shards:
        if sizes.get(shard.name) != shard.bytes:
            raise UserError(
                f"{out / shard.name}: missing or changed since it was written",
                remedy=f"restore it, or delete {out} and begin anew",
            )
    return found.shards


def _one(
    files: Files, rows: range, path: Path, labelled: bool, shown: Any
) -> tuple[int, str, tuple[tuple[int, int], ...]]:
    """Write one shard, whole or not at all: its size, its SHA-256, and where each image is in it."""
    places = list[tuple[int, int]]()
    with atomic_write(path, "wb") as file:
        counted = _Counted(file)
        with tarfile.open(fileobj=counted, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            for start in range(rows.start, rows.stop, AHEAD):
                some = range(start, min(start + AHEAD, rows.stop))
                for index, content in zip(some, files.read.many(some), strict=True):
                    if isinstance(content, UserError):
                        raise content
                    header(content, files.names[index])
                    places.append((archive.offset + _HEAD, len(content)))
                    ending = PurePosixPath(files.names[index]).suffix.lower()
                    _add(archive, f"{index:09d}{ending}", content)
                    if labelled:
                        _add(archive, f"{index:09d}.cls", str(files.labels[index]).encode())
                shown.update(len(some))
    return counted.size, counted.digest.hexdigest(), tuple(places)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member without a time or an owner, so that the same images give the same shard."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


class _Counted(io.RawIOBase):
    """Passes on what is written, and keeps its size and hash."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.size += len(content)
        self.digest.update(content)
        return self.file.write(content)
