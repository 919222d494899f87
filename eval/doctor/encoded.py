"""`mast data verify` and `mast data shard` of images to pretrain on: tar shards, and folders at an address."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mast import shards
from mast.console import bar
from mast.files import canonical_json
from mast.remote import Remote, check, is_address
from mast.sources import UNLABELLED, Files, Place, list_folders, list_images

from ..errors import UserError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
SHOWN = 20  # problems told one by one
SHARDS, LISTED = "shards:", {"images:": list_images, "folders:": list_folders}


def place(text: str) -> Place:
    """A folder of this machine or an address, as written after ``images:``, ``folders:`` or ``shards:``.

    Raises:
        UserError: For an address with a name, a password or a query.
    """
    return Remote(check(text, "the place")) if is_address(text) else Path(text).expanduser()


def is_encoded(name: str) -> bool:
    """Whether `verify` is the one to look a place over."""
    return name.startswith((SHARDS, "folders:")) or (name.startswith("images:") and is_address(name))


def shard(name: str, out: Path, *, per_shard: int, progress: bool) -> dict[str, Any]:
    """Write the images of ``images:PLACE`` or ``folders:PLACE`` as tar shards; see `mast.shards.write`."""
    kind = next((kind for kind in LISTED if name.startswith(kind)), None)
    if kind is None:
        raise UserError(
            f"mast data shard {name}: says not whether the images have classes",
            remedy="write folders:DIR for class folders, or images:DIR for images without labels",
            code=2,
        )
    folder = place(name.removeprefix(kind))
    written = shards.write(_list(kind, folder), folder, out, per_shard=per_shard, progress=progress)
    return {
        "name": f"{SHARDS}{out}",
        "images": written.head.images,
        "classes": len(written.head.classes or ()),
        "shards": len(written.shards),
        "bytes": sum(shard.bytes for shard in written.shards),
    }


def verify(name: str, *, workers: int = 4, progress: bool = False) -> dict[str, Any]:
    """Look images to pretrain on over: every shard's hash, and whether every image can be decoded.

    Returns:
        What `eval.doctor.data.verify` returns.
    """
    kind = name.partition(":")[0] + ":"
    folder = place(name.removeprefix(kind))
    against, problems, contents = list[str](), list[str](), hashlib.sha256()
    if kind == SHARDS:
        sizes, manifest = shards.look(folder)
        if manifest is not None:
            against.append(shards.MANIFEST)
            problems += shards.missing(manifest, sizes, folder)
            told = {problem.partition(": ")[0] for problem in problems}
            whole = [each for each in manifest.shards if f"{folder}/{each.name}" not in told]
            hashes = _many(lambda each: shards.sha256(folder, each.name), whole, workers, "shard", progress)
            contents.update(canonical_json(hashes).encode())
            problems += [
                f"{folder}/{each.name}: its content has changed since it was written"
                for each, found in zip(whole, hashes, strict=True)
                if found != each.sha256
            ]
        if problems:
            return _found(name, problems, against)
        files = shards.list_shards(folder, progress=progress)
    else:
        files = _list(kind, folder)

    def problem(index: int) -> str | None:
        try:
            files.open(index)
        except UserError as error:
            return str(error)
        return None

    rows = range(len(files.names))
    problems += [text for text in _many(problem, rows, workers, "img", progress) if text]
    found = _found(name, problems, against)
    if files.classes != UNLABELLED:
        found["classes"] = len(files.classes)
    if against:
        found["manifest"] = f"sha256:{contents.hexdigest()}"
    return found | {"counts": {"images": len(files.names)}}


def _list(kind: str, folder: Place) -> Files:
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(f"no folder of images at {folder}", remedy="give the folder's path")
    return LISTED[kind](folder)


def _many(
    work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int, unit: str, progress: bool
) -> list[_Result]:
    with ThreadPoolExecutor(workers) as executor:
        done = executor.map(work, items)
        return list(bar(done, total=len(items), desc="verify", unit=unit, disable=not progress))


def _found(name: str, problems: list[str], against: list[str]) -> dict[str, Any]:
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return {
        "name": name,
        "ok": not problems,
        "problems": [*problems[:SHOWN], *more],
        "warnings": [],
        "against": against,
        "classes": 0,
        "counts": {},
        "manifest": "",
    }
