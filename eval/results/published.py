"""Numbers from papers and repositories, each with its source, as they stand in CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ..errors import UserError

COLUMNS: Final = ["method", "backbone", "task", "metric", "value", "source", "same_as"]


@dataclass(frozen=True)
class SameAs:
    """The column of this project that measures the same by the very same protocol."""

    task: str
    protocol: str
    version: int
    metric: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``coco coco-fpn-1x-vicreg v1 mask_ap``.

        Raises:
            ValueError: For text of another form.
        """
        found = re.fullmatch(r"(\S+) (\S+) v(\d+) (\S+)", text)
        if not found:
            raise ValueError(f"same_as '{text}' is not of the form 'TASK PROTOCOL vVERSION METRIC'")
        return cls(found[1], found[2], int(found[3]), found[4])


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        method, backbone: Whose it is.
        task, metric: What it is, in the publication's words.
        value: A fraction.
        source: Where it stands.
        same_as: Where it also stands here; None where its recipe was another one.
        file: The name of the file it is from, without ending.
        cite: The BibTeX key of the source; empty if it is not told.
    """

    method: str
    backbone: str
    task: str
    metric: str
    value: float
    source: str
    same_as: SameAs | None
    file: str
    cite: str = ""


def files(places: Iterable[Path]) -> list[Path]:
    """The files of published numbers that lie beside records."""
    return [
        path for place in places if place.is_dir() for path in sorted((place / "published").glob("*.csv"))
    ]


def read(paths: Iterable[Path]) -> list[Published]:
    """Read published numbers: CSV files with the columns of `COLUMNS` and perhaps ``cite``, values in percent.

    Raises:
        UserError: For a file with other columns, a value outside 0 to 100 or like a fraction, a number without a
            source, or a ``same_as`` of another form.
    """
    return [item for path in paths for item in _read_file(path)]


def _read_file(path: Path) -> list[Published]:
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a file of published numbers: {error}") from error
    if not lines or lines[0] not in (COLUMNS, [*COLUMNS, "cite"]):
        heads = ",".join(lines[0]) if lines else ""
        raise UserError(f"{path}: has the columns {heads}", remedy=f"it needs {','.join(COLUMNS)}")
    found = []
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(lines[0]):
            raise UserError(f"{path}:{number}: has {len(line)} columns instead of {len(lines[0])}")
        try:
            found.append(_entry(dict(zip(lines[0], line, strict=True)), path.stem))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from error
    return found


def _entry(line: Mapping[str, str], file: str) -> Published:
    value, source, cite = line["value"], line["source"], line.get("cite", "")
    try:
        percent = float(value)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100 or not source.strip():
        raise ValueError("a number needs a value from 0 to 100 and a source")
    if 0 < percent <= 1:
        raise ValueError(f"{value} looks like a fraction; values are in percent")
    if not re.fullmatch(r"[\w:./+-]*", cite):
        raise ValueError(f"cite '{cite}' is no BibTeX key")
    same = SameAs.parse(line["same_as"]) if line["same_as"] else None
    names = line["method"], line["backbone"], line["task"], line["metric"]
    return Published(*names, percent / 100, source, same, file, cite)
