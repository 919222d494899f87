"""Folders at an address, such as ``s3://bucket/images`` or ``zip://train::/disk/images.zip``, read through fsspec."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from .errors import UserError
from .images import is_hidden

BLOCK = 8 << 20  # bytes that are read at a time where a whole file is gone through
_NAMES = re.compile(r"([A-Za-z][\w+.-]*://)[^/\s@:]*(:[^/\s@]*)?@")
_QUERY = re.compile(r"([A-Za-z][\w+.-]*://[^\s?#]*)[?#][^\s:]*")


def is_address(place: str) -> bool:
    """Whether a place is an address, as fsspec writes it, and not a path of this machine."""
    return "://" in place


def public(text: str) -> str:
    """A text whose addresses have neither a user's name and password nor what follows a question mark.

    >>> public("https://me:secret@host/a.tar?signature=1 is gone")
    'https://host/a.tar is gone'
    """
    return _QUERY.sub(r"\1", _NAMES.sub(r"\1", text))


def check(address: str, where: str) -> str:
    """An address that may stand in recipes, logs and records.

    Raises:
        UserError: If it holds a user's name, a password or a query, which is where signatures stand.
    """
    if (clean := public(address)) != address:
        raise UserError(
            f"{where}: the address {clean} was given with a name, a password or a query, which files would keep",
            remedy="leave them out; the storage's own settings hold them (AWS_ACCESS_KEY_ID, ~/.config/fsspec)",
            code=2,
        )
    return address


@functools.lru_cache(maxsize=8)
def _open(address: str, process: int) -> tuple[Any, str]:
    """The file system of an address and the path in it; of each process its own, for connections do not fork."""
    try:
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{public(address)}: no package here reads this kind of address ({error})",
            remedy='pip install "mast-transfer[remote]" for s3 and http; others as it says',
        ) from error
    except ValueError as error:
        raise UserError(
            f"{public(address)}: {public(str(error))}", remedy="write it as fsspec does: s3://bucket/folder"
        ) from error
    except Exception as error:
        raise _unread(address, error) from error
    return found


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Every kind of storage has errors of its own; here they become one, without what its address may hide."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _unread(what, error) from error


def _unread(what: str, error: BaseException) -> UserError:
    reason = "is not there"
    if not isinstance(error, FileNotFoundError):
        told = (public(str(error)).splitlines() or [""])[0]
        reason = f"cannot be read ({type(error).__name__}: {told})"
    return UserError(
        f"{public(what)}: {reason}", remedy="check the address, and this machine's access to the storage"
    )


@dataclass(frozen=True)
class Remote:
    """A folder at an address.

    Attributes:
        address: As fsspec writes it.
    """

    address: str

    def __str__(self) -> str:
        return public(self.address)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self._opened()[1].rstrip("/").rpartition("/")[2] or str(self)

    def exists(self) -> bool:
        """Whether there is such a folder or file."""
        system, path = self._opened()
        with _reading(self.address):
            return bool(system.exists(path))

    def files(self) -> dict[str, int]:
        """Sizes of the visible files below it, at any depth, by their path in it, sorted by the parts of the path.

        Raises:
            UserError: If it is not there or cannot be listed.
        """
        system, root = self._opened()
        with _reading(self.address):
            found = system.find(root, detail=True)
            if not found and not system.exists(root):
                raise FileNotFoundError(root)
        start = root.strip("/")
        sizes = {}
        for path, facts in found.items():
            inside = path.strip("/").removeprefix(start).lstrip("/")
            if not any(map(is_hidden, inside.split("/"))):
                sizes[inside] = int(facts["size"])
        return dict(sorted(sizes.items(), key=lambda item: item[0].split("/")))

    def many(self, parts: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | UserError]:
        """The bytes of files or of parts of them, fetched at the same time where the storage can do that.

        Args:
            parts: Path, first byte and the byte after the last; None for the whole file's.

        Returns:
            What was read, or the error, in the same order.
        """
        system, root = self._opened()
        paths = [f"{root.rstrip('/')}/{path}" if root else path for path, *_ in parts]
        with _reading(self.address):
            found = system.cat_ranges(
                paths, [start for _, start, _ in parts], [stop for *_, stop in parts], on_error="return"
            )
        return [
            _unread(f"{self}/{path}", content) if isinstance(content, BaseException) else bytes(content)
            for content, (path, *_) in zip(found, parts, strict=True)
        ]

    def read(self, path: str) -> bytes:
        """A file's bytes.

        Raises:
            UserError: If it is not there or cannot be read.
        """
        (content,) = self.many([(path, None, None)])
        if isinstance(content, UserError):
            raise content
        return content

    @contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes]]:
        """A file, to be gone through.

        Raises:
            UserError: If it is not there or cannot be read.
        """
        system, root = self._opened()
        with _reading(f"{self}/{path}"), system.open(f"{root.rstrip('/')}/{path}" if root else path) as file:
            yield file

    def sha256(self, path: str) -> str:
        """SHA-256 of a file's content, in hexadecimal."""
        digest = hashlib.sha256()
        with self.opened(path) as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def _opened(self) -> tuple[Any, str]:
        return _open(self.address, os.getpid())
