"""``mast report``: one self-contained page."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from mast.errors import UserError

from . import options, output


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
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")
    parser.add_argument("--title", default="Transfer evaluation", help="heading of the page")
    parser.add_argument(
        "--data-root", type=Path, help="show detections on the test images, which lie in this folder"
    )
    options.include(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import history

    output.check_writable(arguments.out)
    if len(arguments.places) == 1:
        return _write(arguments.places[0], arguments)
    with tempfile.TemporaryDirectory() as folder:
        if not history.merge(arguments.places, Path(folder)).lines:
            where = ", ".join(map(str, arguments.places))
            raise UserError(f"{where}: no records", remedy="name the --out folders of runs")
        return _write(Path(folder), arguments)


def _write(place: Path, arguments: argparse.Namespace) -> int:
    from ..results import tables
    from ..results.report import write

    table = tables.read([place], title=arguments.title)
    write(table, place, arguments.out, data_root=arguments.data_root)
    print(arguments.out)
    return 0
