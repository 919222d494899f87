"""Fetch a file once: resumed when cut off, checked, and put in place whole."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import filelock
from tqdm import tqdm

from mast.files import atomic_write, sha256_file

from ..errors import UserError

_CHUNK = 2**20
_TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""


def cache_folder() -> Path:
    """Where downloads are kept: ``$MAST_CACHE``, or ``mast/checkpoints`` in the user's cache folder."""
    if os.environ.get("MAST_CACHE"):
        return Path(os.environ["MAST_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mast" / "checkpoints"


def fetch(url: str, target: Path, *, checksum: str = "", progress: bool = True) -> Path:
    """Bring a file into the cache, or find it there.

    Args:
        url: ``https`` or ``http`` address.
        target: Where it is to lie. A download that was cut off is continued from ``<target>.part``.
        checksum: ``md5:`` or ``sha256:`` and the digest or its start. Without one, the sha256 of the first
            download is written to ``<target>.sha256`` and compared from then on.
        progress: Show a bar.

    Returns:
        ``target``.

    Raises:
        UserError: If the file is not there and cannot be fetched (the message says where to put it), or if its
            content is not what it should be.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"{url}: not a web address", remedy="only https and http are fetched", code=2)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not target.exists():
                _download(url, target, checksum, progress)
            else:
                verify(target, checksum)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written: {error.strerror or error}",
            remedy="set MAST_CACHE to a folder that can",
        ) from error
    return target


def _download(url: str, target: Path, checksum: str, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    try:
        _continue(url, part, progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        kept = f"; {part.stat().st_size:,} bytes are kept and will be continued" if part.exists() else ""
        raise UserError(
            f"{url}: cannot be fetched: {reason}{kept}", remedy=f"fetch it elsewhere and put it at {target}"
        ) from error
    try:
        verify(part, checksum)
    except UserError:
        part.unlink()
        raise
    if not checksum:
        with atomic_write(f"{target}.sha256") as file:
            file.write(sha256_file(part) + "\n")
    part.replace(target)


def _continue(url: str, part: Path, progress: bool) -> None:
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "mast-transfer"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is left to send
            return
        raise
    with response:
        if done and response.status != 206:  # the server sends all of it again
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        with part.open("ab" if done else "wb") as file:
            received = done + sum(_copy(response, file, done, total, part.name, progress))
    if total is not None and received != total:
        raise urllib.error.URLError(f"cut off after {received:,} of {total:,} bytes")


def _copy(
    response: IO[bytes], file: IO[bytes], done: int, total: int | None, name: str, progress: bool
) -> Iterator[int]:
    with tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
        while block := response.read(_CHUNK):
            file.write(block)
            bar.update(len(block))
            yield len(block)


def verify(path: Path, checksum: str) -> None:
    """Compare a file with its published or recorded checksum.

    Raises:
        UserError: If they differ.
    """
    recorded = path.with_name(path.name + ".sha256")
    if not checksum and recorded.exists():
        checksum = f"sha256:{recorded.read_text('utf-8').strip()}"
    if not checksum:
        return
    match = re.fullmatch(r"(md5|sha256):([0-9a-f]{6,64})", checksum)
    if match is None:
        raise ValueError(f"not a checksum: {checksum!r}")
    kind, wanted = match.groups()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if not found.startswith(wanted):
        raise UserError(
            f"{path}: its {kind} is {found[: max(len(wanted), 12)]}..., not {wanted}",
            remedy="delete it and fetch it again; if it differs again, its publisher changed it",
        )
