"""Numbers from papers and repositories, each with its source, as they stand in CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ..errors import UserError, unknown

COLUMNS: Final = ["method", "backbone", "task", "metric", "value", "source", "same_as"]
OPTIONAL: Final = ("cite", "tolerance", "data")


@dataclass(frozen=True)
class SameAs:
    """The column of this project that measures the same by the very same protocol."""

    task: str
    protocol: str
    version: int
    metric: str

    def __str__(self) -> str:
        return f"{self.task} {self.protocol} v{self.version} {self.metric}"

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
        tolerance: By how much another measurement may differ and still count as the same number, a fraction; None
            where nobody stated it.
        data: The start of the manifest of the data, where they are not the official ones.
        rounding: Half a unit of the last digit that is printed, a fraction.
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
    tolerance: float | None = None
    data: str = ""
    rounding: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """A hyper-parameter that a publication chose on validation data.

    Attributes:
        method, backbone: Whose it is.
        task, protocol, version: The cell of this project that chooses it by the very same protocol.
        parameter: Its name there, in a record's ``selected``.
        value: The value.
        source: Where it stands.
    """

    method: str
    backbone: str
    task: str
    protocol: str
    version: int
    parameter: str
    value: float
    source: str


CHOSEN: Final = ["method", "backbone", "same_as", "parameter", "value", "source"]


def committed(names: Iterable[str]) -> list[Path]:
    """The files of ``results/published`` of these names, of the package or the source tree; or others by path.

    Raises:
        UserError: For a name that is none of them.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "published", package.parent / "results" / "published"]
    folder = next((place for place in places if place.is_dir()), places[-1])
    known = {path.stem: path for path in sorted(folder.rglob("*.csv"))}
    found = []
    for name in names:
        if not name.endswith(".csv") and name not in known:
            raise unknown("file of published numbers", name, known)
        found.append(known.get(name) or Path(name))
    return found


def files(places: Iterable[Path]) -> list[Path]:
    """The files of published numbers that lie beside records."""
    return [
        path for place in places if place.is_dir() for path in sorted((place / "published").glob("*.csv"))
    ]


def read(paths: Iterable[Path]) -> list[Published]:
    """Read published numbers: CSV files with the columns of `COLUMNS` and perhaps some of `OPTIONAL`, in percent.

    Raises:
        UserError: For a file with other columns, a value outside 0 to 100 or like a fraction, a number without a
            source, or a tolerance, manifest or ``same_as`` of another form.
    """
    return [item for path in paths for item in _read_file(path)]


def read_chosen(paths: Iterable[Path]) -> list[Chosen]:
    """Read published choices: CSV files with the columns of `CHOSEN`; ``same_as`` is ``TASK PROTOCOL vVERSION``.

    Raises:
        UserError: For a file with other columns, or a line of another form.
    """
    found = []
    for path in paths:
        lines = _lines(path)
        if not lines or lines[0] != CHOSEN:
            heads = ",".join(lines[0]) if lines else ""
            raise UserError(f"{path}: has the columns {heads}", remedy=f"it needs {','.join(CHOSEN)}")
        for number, line in enumerate(lines[1:], start=2):
            try:
                method, backbone, where, parameter, value, source = line
                same = SameAs.parse(f"{where} {parameter}")
                about = same.task, same.protocol, same.version, parameter, float(value), source
            except ValueError as error:
                raise UserError(f"{path}:{number}: {error}") from error
            found.append(Chosen(method, backbone, *about))
    return found


def _lines(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a file of published numbers: {error}") from error


def _read_file(path: Path) -> list[Published]:
    lines = _lines(path)
    more = lines[0][len(COLUMNS) :] if lines else []
    if not lines or lines[0] != [*COLUMNS, *more] or more != [name for name in OPTIONAL if name in more]:
        heads = ",".join(lines[0]) if lines else ""
        remedy = f"it needs {','.join(COLUMNS)}, and may have {','.join(OPTIONAL)} after them"
        raise UserError(f"{path}: has the columns {heads}", remedy=remedy)
    found, seen = [], dict[tuple[object, ...], int]()
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(lines[0]):
            raise UserError(f"{path}:{number}: has {len(line)} columns instead of {len(lines[0])}")
        try:
            item = _entry(dict(zip(lines[0], line, strict=True)), path.stem)
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        place = item.method, item.backbone, item.task, item.metric, item.same_as, item.data
        if (first := seen.setdefault(place, number)) != number:
            raise UserError(
                f"{path}:{number}: {item.method} {item.backbone}, {item.task} {item.metric}: line {first} has it too",
                remedy="keep one of them, or name another task",
            )
        found.append(item)
    return found


def _entry(line: Mapping[str, str], file: str) -> Published:
    value, source, cite = line["value"], line["source"], line.get("cite", "")
    percent, tolerance = _number(value), line.get("tolerance", "")
    if not 0 <= percent <= 100 or not source.strip():
        raise ValueError("a number needs a value from 0 to 100 and a source")
    if 0 < percent <= 1:
        raise ValueError(f"{value} looks like a fraction; values are in percent")
    if not re.fullmatch(r"[\w:./+-]*", cite):
        raise ValueError(f"cite '{cite}' is no BibTeX key")
    same = SameAs.parse(line["same_as"]) if line["same_as"] else None
    if tolerance and not 0 < _number(tolerance) <= 100:
        raise ValueError(f"tolerance '{tolerance}' is no number of points above 0")
    names = line["method"], line["backbone"], line["task"], line["metric"]
    within = _number(tolerance) / 100 if tolerance else None
    rounding = 0.5 * 10.0 ** -len(value.partition(".")[2].strip()) / 100
    if not re.fullmatch(r"([0-9a-f]{8,64})?", data := line.get("data", "")):
        raise ValueError(f"data '{data}' is not the start of a manifest, 8 to 64 hexadecimal digits")
    return Published(*names, percent / 100, source, same, file, cite, within, data, rounding)


def _number(text: str) -> float:
    """The number that a text says; -1 for another text."""
    try:
        return float(text)
    except ValueError:
        return -1.0
