"""Data sets as a CSV file: a line an image, with its path, its split and its labels."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from ..errors import UserError, unknown
from .base import ImageDataset, Pool, Split, complete, cut_test
from .values import look_alikes, several

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What people call the splits; compared in lower case."""
DELIMITERS = ",;\t|"


def split_of(name: str) -> str | None:
    """The split that a name stands for."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def csv_manifest(name: str, path: Path, label: str | None, *, test: str = "test") -> ImageDataset:
    """Read a CSV file with the columns path, split, and one or more label columns; paths are relative to it.

    UTF-8 or UTF-16 with its mark, with commas, semicolons, tabs or bars; blanks around values do not count. Without
    a column ``split`` the splits are cut, always the same way.

    Args:
        name: The data set's name.
        path: The CSV file.
        label: The column to predict; may be left out where there is only one.
        test: ``val``: val is tested on, and a new val is cut from train.

    Raises:
        UserError: If a column, a split or an image is missing, an image is listed twice, or a path leads elsewhere.
    """
    columns, rows = _rows(path)
    factors = [column for column in columns if column not in ("path", "split")]
    if "path" not in columns or not factors:
        raise UserError(
            f"{path}: the columns are {', '.join(columns) or 'missing'}",
            remedy="it needs path, at least one label column, and split where the splits are given",
        )
    if label is None:
        if len(factors) > 1:
            raise UserError(
                f"{path}: several label columns", remedy=f"choose one of {', '.join(factors)}", code=2
            )
        label = factors[0]
    elif label not in factors:
        wrong = unknown("label column", label, factors)
        raise UserError(f"{path}: {wrong.message}", remedy=wrong.remedy, code=2)
    seen: dict[Path, int] = {}
    parts: dict[str, list[tuple[Path, str]]] = {}
    for number, row in rows:
        place = f"{path}, line {number}"
        part = split_of(row["split"]) if "split" in columns else "train"
        if part is None:
            raise UserError(f"{place}: unknown split '{row['split']}'", remedy="use train, val or test")
        if not row[label]:
            raise UserError(f"{place}: the column '{label}' is empty", remedy="fill it in")
        if row[label].lower() == "nan":
            raise UserError(
                f"{place}: the column '{label}' is '{row[label]}', which programs write where nothing is known",
                remedy="fill it in or delete the line",
            )
        image = _inside(path.parent, row["path"], place)
        if image in seen:
            raise UserError(
                f"{place}: {row['path']} is listed twice, first on line {seen[image]}", remedy="delete one"
            )
        seen[image] = number
        parts.setdefault(part, []).append((image, row[label]))
    classes = sorted({row[label] for _, row in rows})
    several(path, classes)
    remarks = look_alikes(path, classes)
    splits: dict[str, Split] = {}
    for part in sorted(parts, key=list(SPLIT_NAMES).index):
        paths = tuple(image for image, _ in parts[part])
        labels = np.array([classes.index(text) for _, text in parts[part]], dtype=np.int64)
        splits[part] = Split(part, paths, labels, Pool(f"{name}/{part}", paths, path.parent))
    if "split" not in columns and splits:
        return cut_test(name, classes, splits["train"], remarks=remarks)
    data = complete(name, classes, splits, where=str(path), test=test, remarks=remarks)
    _learnable(path, data)
    return data


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and the lines with their numbers; blanks around values are taken off."""
    try:
        content = path.read_bytes()
        marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if marked else "utf-8-sig")
        first = text.lstrip("\r\n").split("\n", 1)[0]
        delimiter = max(DELIMITERS, key=lambda mark: (first.count(mark), -DELIMITERS.index(mark)))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [
            (reader.line_num, [_clean(value) for value in line])
            for line in reader
            if any(map(str.strip, line))
        ]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}", remedy="write it as UTF-8 CSV") from error
    if len(lines) < 2:
        raise UserError(
            f"{path}: holds no lines", remedy="a line with the columns' names, then a line an image"
        )
    columns = [column.lower() if column.lower() in ("path", "split") else column for column in lines[0][1]]
    if len(set(columns)) < len(columns) or "" in columns:
        raise UserError(
            f"{path}: the columns are {', '.join(columns)}", remedy="give every column a name of its own"
        )
    for number, values in lines[1:]:
        if len(values) != len(columns):
            raise UserError(
                f"{path}, line {number}: {len(values)} values for {len(columns)} columns",
                remedy="put values that hold the delimiter in quotes",
            )
    return columns, [(number, dict(zip(columns, values, strict=True))) for number, values in lines[1:]]


def _clean(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip())


def _inside(root: Path, text: str, place: str) -> Path:
    """An image of the list, which has to lie below its folder."""
    if not text:
        raise UserError(f"{place}: the column 'path' is empty", remedy="fill it in")
    given = PurePosixPath(text)
    if given.is_absolute() or ".." in given.parts or PureWindowsPath(text).is_absolute() or "\0" in text:
        raise UserError(
            f"{place}: the path {text!r} leads out of {root}",
            remedy="write paths relative to the CSV file's folder",
        )
    for form in (text, unicodedata.normalize("NFD", text), text.replace("\\", "/")):
        if (root / form).is_file():
            return root / form
    raise UserError(f"{root / text}: named in {place} but missing", remedy="restore it or delete its line")


def _learnable(path: Path, data: ImageDataset) -> None:
    """Every class that is tested or chosen on has to be in train."""
    known = set(data.splits["train"].labels.tolist())
    for name, split in data.splits.items():
        for label in sorted(set(split.labels.tolist()) - known):
            raise UserError(
                f"{path}: the class '{data.classes[label]}' of split '{name}' has no image in train",
                remedy="add lines of that class to train, or take it out",
            )
