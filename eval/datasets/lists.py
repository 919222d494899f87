"""Lists of the images to use of a split, such as SimCLR's ``imagenet_subsets/1percent.txt``."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import UserError
from .base import Split
from .values import text_lines


def listed(split: Split, file: Path) -> Split:
    """The images of a split that a list names, in its order.

    Args:
        split: What the list is of.
        file: A text file, a name a line: a bare file name, or as much of the path as tells the image from others.

    Raises:
        UserError: If the list cannot be read, names an image twice, one that the split lacks, or several at once.
    """
    lines = text_lines(file, remedy="download imagenet_subsets from google-research/simclr")
    by_name: dict[str, list[int]] = defaultdict(list)
    parts = [PurePosixPath(_form(path.as_posix())).parts for path in split.paths]
    for index, given in enumerate(parts):
        by_name[given[-1]].append(index)
    rows: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        if not (text := _form(line.replace("\\", "/"))):
            continue
        wanted = tuple(part for part in PurePosixPath(text).parts if part != "/")
        found = [index for index in by_name.get(wanted[-1], ()) if parts[index][-len(wanted) :] == wanted]
        place = f"{file}, line {number}"
        if not found:
            raise UserError(
                f"{place}: {text}, which {split.name} lacks", remedy="use the list of this data set"
            )
        if len(found) > 1:
            places = " and ".join(split.pool.relative(int(split.rows[index])) for index in found[:2])
            raise UserError(
                f"{place}: {text} names {len(found)} images of {split.name}, such as {places}",
                remedy="write the class folder too",
            )
        if found[0] in rows:
            raise UserError(f"{place}: {text} stands on line {rows[found[0]]} too", remedy="delete one")
        rows[found[0]] = number
    if not rows:
        raise UserError(f"{file}: names no image", remedy="a name a line")
    return split.subset(np.array(list(rows)))


def _form(text: str) -> str:
    return unicodedata.normalize("NFC", text)
