"""``mast report``: one self-contained page."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "report", run, "write one self-contained HTML page", "mast report runs/mini --out mini.html"
    )
    parser.add_argument("place", type=Path, metavar="DIR", help="the folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file")
    parser.add_argument("--title", default="Transfer evaluation", help="heading of the page")
    parser.add_argument(
        "--data-root", type=Path, help="show detections on the test images, which lie in this folder"
    )
    options.include(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import tables
    from ..results.report import write

    output.check_writable(arguments.out)
    table = tables.read([arguments.place], title=arguments.title)
    write(table, arguments.place, arguments.out, data_root=arguments.data_root)
    print(arguments.out)
    return 0
