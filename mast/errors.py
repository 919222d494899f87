"""Errors that a user can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NAMES = re.compile(r"([A-Za-z][\w+.-]*:/{1,2})[^/\s@]+@(?=[^/\s])")  # a path has lost one of the strokes
_KEYS = re.compile(
    r"([?&][^\s&=]*(?:sig|token|key|secret|passw|credential|auth)[^\s&=]*=)[^\s&#]+", re.IGNORECASE
)


def public(text: str) -> str:
    """A text whose addresses hold no user's name and password, and no signature or token behind a question mark.

    >>> public("https://me:secret@host/a.tar?page=2&X-Amz-Signature=abc is gone")
    'https://host/a.tar?page=2&X-Amz-Signature=... is gone'
    """
    return _KEYS.sub(r"\1...", _NAMES.sub(r"\1", text))


class UserError(Exception):
    """A failure whose cause is in the input, said in one line with its remedy.

    Args:
        message: What was asked and what was found.
        remedy: What to do about it.
        code: Exit code of the command line: 1 for bad or missing data, 2 for wrong use.
    """

    def __init__(self, message: str, *, remedy: str = "", code: int = 1) -> None:
        super().__init__(message if not remedy else f"{message} ({remedy})")
        self.message = message
        self.remedy = remedy
        self.code = code


class Unwritable(UserError):
    """A folder cannot be written to, such as on a full disk. It ends a run: the next job would fail like it."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


def printable(text: str) -> str:
    """A text as one line for a terminal: blanks joined, words of over 400 signs cut, signs that control it escaped.

    >>> printable("a\\n  b\\x1b[2J")
    'a b\\\\x1b[2J'
    """
    words = (word if len(word) <= 400 else f"{word[:400]}..." for word in text.split())
    line = " ".join(words)
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist, with the nearest names that do."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} '{name}'", remedy=remedy, code=2)
