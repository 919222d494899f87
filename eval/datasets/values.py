"""Values as annotation tools write them: numbers as text, flags of every kind, sizes of turned pictures."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

TOLERANCE = 1.0  # pixels that a box may stick out: rounding, in the official files too


class Tally:
    """Counts what was put in order, by kind, with one example each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, kind: str, example: object, number: int = 1) -> None:
        """One more of a kind, or several."""
        self.counts[kind] += number
        self.examples.setdefault(kind, str(example))

    def lines(self, file: Path) -> list[str]:
        """A line a kind: the file, what, how many, and one example."""
        return [
            f"{file}: {kind}: {count} (such as {self.examples[kind]})" for kind, count in self.counts.items()
        ]


def text_lines(path: Path, *, remedy: str) -> list[str]:
    """The lines of a text file without blanks around them; the empty ones at its end are left out.

    Args:
        path: The file, in UTF-8 with or without a mark.
        remedy: What to do where it is not there or not to be read.

    Raises:
        UserError: Then.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing", remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8: {error}", remedy="save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}", remedy=remedy) from error
    stripped = [line.strip() for line in lines]
    while stripped and not stripped[-1]:
        stripped.pop()
    return stripped


def number(value: Any) -> float | None:
    """A finite number, given as one or as text; None for everything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> int | None:
    """A whole number, given as one, as 3.0 or as text; None for everything else."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def flag(value: Any) -> bool | None:
    """Yes or no, given as 0 and 1, true and false, or as their text; empty, missing and unspecified are no."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "false", "unspecified")):
        return False
    if isinstance(value, str) and value.strip().lower() == "true":
        return True
    if isinstance(value, bool):
        return value
    found = number(value)
    return found != 0 if found is not None and 0 <= found <= 1 else None


def class_name(value: Any) -> str:
    """A class's name without blanks around it, in Unicode's composed form."""
    return unicodedata.normalize("NFC", str(value)).strip()


def visible(name: str) -> str:
    """A name as a reader sees it: composed, without invisible signs, with one blank for any number of any kind.

    >>> visible(" a\u200b\u00a0 b ")
    'a b'
    """
    composed = unicodedata.normalize("NFC", name)
    return " ".join("".join(sign for sign in composed if unicodedata.category(sign) != "Cf").split())


def look_alikes(where: object, names: Iterable[str]) -> list[str]:
    """A warning for each group of class names that differ in upper case or in how a number is written alone.

    Args:
        where: What to name first.
        names: Of all classes.

    Raises:
        UserError: If two names differ only in what nobody sees.
    """
    seen: dict[str, str] = {}
    spelled: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        if (shown := visible(name)) in seen:
            raise UserError(
                f"{where}: two classes are called '{shown}' and differ only in blanks or invisible signs: "
                f"{seen[shown]!a} and {name!a}",
                remedy="write them alike",
            )
        seen[shown] = name
        value = number(shown)
        spelled[shown.casefold() if value is None else f"{value:g}"].append(name)
    return [
        f"{where}: the classes {' and '.join(map(repr, group))} are counted as different ones"
        for group in spelled.values()
        if len(group) > 1
    ]


def several(where: object, classes: Sequence[str]) -> None:
    """Raise for a data set of one class.

    Raises:
        UserError: Every answer would be right.
    """
    if len(classes) == 1:
        raise UserError(
            f"{where}: holds one class, '{classes[0]}', and so nothing to tell apart",
            remedy="give two classes or more; where they lie one folder deeper, name the folder that holds them",
        )
