"""``mast report``: one self-contained page."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mast.errors import UserError
from mast.files import atomic_write

from . import options, output

if TYPE_CHECKING:
    from ..results.report import Drawn


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "report",
        run,
        "write one self-contained HTML page",
        "mast report runs/mini --out mini.html\n  mast report runs/part1 runs/part2 --out grid.html",
    )
    words = parser.add_argument(
        "places",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="the folder of a run; several are read together, without the masks of their pretraining runs",
    )
    parser.set_defaults(words=words)
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, help="the HTML file")
    goal.add_argument(
        "--check",
        type=Path,
        metavar="PATH",
        help="compare with this page, or with the figures in this folder; exit with 1 if they differ",
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="write every figure into this folder too, as SVG and PNG"
    )
    parser.add_argument("--title", default="Transfer evaluation", help="heading of the page")
    parser.add_argument(
        "--data-root", type=Path, help="show detections on the test images, which lie in this folder"
    )
    options.include(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import history

    if arguments.check and arguments.figures:
        raise UserError(
            "--check writes nothing, --figures does",
            remedy=f"--check {arguments.figures} compares figures",
            code=2,
        )
    for path in (arguments.out, arguments.figures and arguments.figures / "one.svg"):
        if path:
            output.check_writable(path)
    if len(arguments.places) == 1:
        return _write(arguments.places[0], arguments)
    with tempfile.TemporaryDirectory() as folder:
        if not history.merge(arguments.places, Path(folder)).lines:
            where = ", ".join(map(str, arguments.places))
            raise UserError(f"{where}: no records", remedy="name the --out folders of runs")
        return _write(Path(folder), arguments)


def _write(place: Path, arguments: argparse.Namespace) -> int:
    from ..results import report, tables

    table = tables.read([place], title=arguments.title)
    if arguments.check and arguments.check.is_dir():
        return _compare(report.drawings(table, place), arguments.check)
    text = report.page(table, place, data_root=arguments.data_root)
    code = output.deliver(text, arguments.out, arguments.check)
    for item in report.drawings(table, place).values() if arguments.figures else ():
        for form in ("svg", "png"):
            path = arguments.figures / f"{item.name}.{form}"
            with atomic_write(path, "wb") as file:
                file.write(item.content(form))
    if arguments.figures:
        print(arguments.figures)
    return code


def _compare(drawn: Mapping[str, Drawn], folder: Path) -> int:
    """Compare the figures in a folder; it may lack some, and may have none that the records do not give."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".svg", ".png"))
    if not paths:
        raise UserError(f"{folder}: no SVG or PNG in it", remedy="name the folder of --figures")
    codes = [
        output.compared(drawn[path.stem].content(path.suffix[1:]), path)
        if path.stem in drawn
        else output.failed(f"{path}: the records give no such figure", 1)
        for path in paths
    ]
    return max(codes)
