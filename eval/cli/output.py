"""What verbs print and write."""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from mast.errors import UserError, printable, public
from mast.files import atomic_write

MOST: Final = 200  # lines of a difference that are printed
WIDEST: Final = 2000  # letters of each


def failed(message: str, code: int) -> int:
    """Print an error's line and return its exit code."""
    print(f"mast: error: {printable(public(message))}", file=sys.stderr)
    return code


def warned(warnings: Sequence[str], file: TextIO | None = None) -> None:
    """Print a line a warning, on the error stream where no file is named."""
    for warning in warnings:
        print(f"warning: {printable(warning)}", file=file or sys.stderr)


def as_json(value: Any) -> int:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
    return 0


def fields(values: dict[str, Any], width: int) -> None:
    """Print one line for each field that is not empty."""
    for key, value in values.items():
        if value not in ([], {}, ""):
            print(f"{key:<{width}} {_short(value)}")


def problems(found: list[str]) -> None:
    """Print what was wrong with the records that were read."""
    for problem in found:
        print(problem, file=sys.stderr)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        UserError: If its folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}", remedy="give another --out", code=2
        ) from error


def deliver(text: str, out: Path | None, check: Path | None) -> int:
    """Print a text, or write it to ``out``, or compare it with the file ``check``."""
    if check:
        try:
            there = check.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{check}: is no text in UTF-8", remedy="name the file to compare with"
            ) from error
        if there == text:
            return 0
        lines = list(difflib.unified_diff(_cut(there), _cut(text), str(check), "from the records"))
        sys.stdout.writelines(lines[:MOST])
        if len(lines) > MOST:
            print(f"... and {len(lines) - MOST} more lines")
        return failed(f"{check} is not what the records give", 1)
    if out:
        with atomic_write(out) as file:
            file.write(text)
        print(out)
    else:
        sys.stdout.write(text)
    return 0


def compared(content: bytes, check: Path) -> int:
    """Compare a figure with a file, byte for byte."""
    there = check.read_bytes()
    if there == content:
        return 0
    pairs = zip(there.splitlines(), content.splitlines(), strict=False)
    at = next((number for number, (old, new) in enumerate(pairs, start=1) if old != new), None)
    where = f", from line {at}" if at and check.suffix == ".svg" else ""
    return failed(f"{check} is not what the records give{where}", 1)


def ending(choices: Mapping[str, str], *paths: Path | None) -> str | None:
    """The format that the ending of the first given path stands for.

    Args:
        choices: Formats by ending, such as ``{".md": "md"}``.
        paths: Of ``--out`` and ``--check``.
    """
    return next((choices.get(path.suffix) for path in paths if path), None)


def _cut(text: str) -> list[str]:
    """A text's lines, none longer than a reader can compare: a page holds pictures as lines of letters."""
    return [
        line if len(line) <= WIDEST else f"{line[:WIDEST]} ...\n" for line in text.splitlines(keepends=True)
    ]


def _short(value: Any) -> str:
    """A value on one line, long lists and texts cut."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        some = ", ".join(_short(item) for item in value[:6])
        return some + (f", ... ({len(value)})" if len(value) > 6 else "")
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
