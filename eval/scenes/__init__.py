"""Embedded data: small scenes with known factors in the layouts that real data has.

A picture is a pure function of the seed, its data set, its split and its index. `write` makes, below one folder,

- ``scenes/{train,val,test}/<shape>/*.jpg`` with ``scenes/labels.csv``: one object at 64x64 whose shape, colour,
  texture, orientation, scale and position are drawn independently of each other and of the background;
- ``VOC2007`` and ``coco``: two to four objects at 128x128 that hide one another, with exact visible masks; the
  classes are the shapes;
- ``colours/VOC2007`` and ``colours/coco``: the same pictures, where the classes are the colours;
- ``SCENES.sha256``, every file's hash for ``sha256sum -c``, and last ``SCENES.json``, the stamp.

The splits use disjoint columns of the photographs behind the objects.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mast.files import atomic_write, sha256_file

from ..errors import UserError, unknown

VERSION = 2  # of the generator: raise it when a picture or an annotation changes
STAMP, HASHES = "SCENES.json", "SCENES.sha256"
FOLDERS = ("scenes", "VOC2007", "coco", "colours")
_WRITING, _LOCK = ".SCENES.writing", ".SCENES.lock"


@dataclass(frozen=True)
class Size:
    """Number of pictures by split, for each layout."""

    scenes: dict[str, int]
    voc: dict[str, int]
    coco: dict[str, int]


_SCENES = {"train": 4000, "val": 600, "test": 1000}
SIZES = {
    "demo": Size(_SCENES, {"train": 120, "val": 40, "test": 80}, {"train": 160, "val": 80}),
    "test": Size(
        {"train": 120, "val": 40, "test": 60}, {"train": 8, "val": 4, "test": 8}, {"train": 12, "val": 8}
    ),
    "evidence": Size(_SCENES, {"train": 600, "val": 200, "test": 320}, {"train": 800, "val": 320}),
}


def write(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: str = "demo",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the embedded data, or return at once where it is already complete.

    An interrupted call leaves no stamp; the next one starts over. Calls on one folder wait for each other.

    Args:
        out: Folder to write to. It may hold other things, but no other ``scenes``, ``VOC2007`` or ``coco``.
        seed: At least 0; the same seed gives the same files.
        size: One of `SIZES`.
        progress: Called with the number of pictures written so far and in all.

    Raises:
        UserError: The folder holds other data, or embedded data that was asked for differently or changed since,
            or cannot be written; the size or seed is not valid; a photograph is not installed.
    """
    from filelock import FileLock

    from . import photos

    if size not in SIZES:
        raise unknown("size of the embedded data", size, SIZES)
    if seed < 0:
        raise UserError(f"seed {seed} of the embedded data is negative", remedy="use 0 or more", code=2)
    folder = Path(out)
    request: dict[str, Any] = {
        "generator": "eval.scenes", "version": VERSION, "seed": seed, "size": size, "photographs": photos.hashes(),
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK):
            if (folder / STAMP).exists():
                _check(folder, request)
            else:
                _clear(folder)
                (folder / _WRITING).touch()
                _generate(folder, request, SIZES[size], progress)
            (folder / _WRITING).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the embedded data to {folder}: {error.strerror or error}",
            remedy="choose a folder that is writable and has 50 MB free",
        ) from error


def read_stamp(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The stamp of a folder that `write` completed.

    Returns:
        ``generator``, ``version``, ``seed``, ``size``, ``photographs`` (file name -> SHA-256), ``classes`` (the
        shapes: VOC's class names and COCO's categories in order), ``factors`` (name -> levels), ``counts`` (data
        set -> split -> ``images``, ``objects``, ``crowds``), ``files`` (folder -> ``number`` and ``bytes``) and
        ``sha256`` (of ``SCENES.sha256``, so of everything).
    """
    path = Path(out) / STAMP
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"no complete embedded data in {out}: {STAMP} is missing",
            remedy="write it with eval.scenes.write",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}", remedy=_delete_remedy(Path(out))) from error
    if not isinstance(stamp, dict) or stamp.get("generator") != "eval.scenes":
        raise UserError(f"{path} is no stamp of the embedded data", remedy=_delete_remedy(Path(out)))
    return stamp


def verify(out: str | os.PathLike[str]) -> list[str]:
    """Hash every file again and name, by its path below the folder, each that is missing or changed."""
    folder = Path(out)
    stamp = read_stamp(folder)
    listing = folder / HASHES
    if not listing.is_file() or sha256_file(listing) != stamp["sha256"]:
        return [HASHES]
    changed = []
    for line in listing.read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            changed.append(name)
    return changed


def _delete_remedy(folder: Path) -> str:
    return f"use another folder, or delete {', '.join(FOLDERS)} and {STAMP} in {folder} and run again"


def _check(folder: Path, request: dict[str, Any]) -> None:
    """Refuse data that was asked for differently, or whose number of files or bytes is not what was written."""
    stamp = read_stamp(folder)
    for key, asked in request.items():
        if stamp.get(key) != asked:
            found = "other ones" if isinstance(asked, dict) else repr(stamp.get(key))
            asked = "the installed ones" if isinstance(asked, dict) else repr(asked)
            raise UserError(
                f"{folder} holds embedded data with {key} {found}, asked for {asked}",
                remedy=_delete_remedy(folder),
                code=2,
            )
    for name, expected in stamp["files"].items():
        sizes = [entry.stat().st_size for entry in (folder / name).rglob("*") if entry.is_file()]
        if {"number": len(sizes), "bytes": sum(sizes)} != expected:
            raise UserError(
                f"{folder / name} was changed after it was generated: {len(sizes)} files with {sum(sizes)} bytes, "
                f"expected {expected['number']} with {expected['bytes']}",
                remedy=_delete_remedy(folder),
            )


def _clear(folder: Path) -> None:
    """Remove what an interrupted call left; refuse folders that no call of ours began."""
    existing = [folder / name for name in FOLDERS if (folder / name).exists()]
    if existing and not (folder / _WRITING).exists():
        raise UserError(f"{existing[0]} exists and is not embedded data", remedy="use another folder", code=2)
    for path in existing:
        shutil.rmtree(path)


def _generate(
    folder: Path, request: dict[str, Any], size: Size, progress: Callable[[int, int], None] | None
) -> None:
    from . import compose, layouts, photos

    total, done = sum(sum(part.values()) for part in (size.scenes, size.voc, size.coco)), 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    writer, backgrounds, seed = layouts.Writer(folder, advance), photos.Backgrounds(), request["seed"]
    counts = {
        "scenes": layouts.write_folders(writer, backgrounds, seed, size.scenes),
        "VOC2007": layouts.write_voc(writer, backgrounds, seed, size.voc),
        "coco": layouts.write_coco(writer, backgrounds, seed, size.coco),
    }
    with atomic_write(folder / HASHES) as file:
        file.writelines(f"{digest}  {name}\n" for name, digest in sorted(writer.hashes.items()))
    files = {}
    for top in FOLDERS:
        sizes = [number for name, number in writer.sizes.items() if name.startswith(f"{top}/")]
        files[top] = {"number": len(sizes), "bytes": sum(sizes)}
    stamp = request | {
        "classes": list(compose.FACTORS["shape"]),
        "factors": {name: list(levels) for name, levels in compose.FACTORS.items()},
        "counts": counts,
        "files": files,
        "sha256": sha256_file(folder / HASHES),
    }
    with atomic_write(folder / STAMP) as file:
        json.dump(stamp, file, indent=1)
        file.write("\n")
