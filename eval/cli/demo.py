"""``mast demo``: the suite ``demo``, its table and its report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import cells, options

if TYPE_CHECKING:
    from ..results.records import Book


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "demo",
        run,
        "pretrain, transfer, tabulate and report on embedded data, in minutes",
        "mast demo --out demo",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="the folder of the run (default: demo)"
    )
    options.limit(parser)
    options.quiet(parser)
    parser.set_defaults(data_root=None, dry_run=False, json=False, **options.SCALING)


def run(arguments: argparse.Namespace) -> int:
    return cells.run_suite("demo", arguments, then=_summary)


def _summary(book: Book) -> None:
    """What the demo shows, in a few lines: pretrained against random, and method against method."""
    from ..results import tables
    from ..results.margins import margins

    table = tables.build(book)
    print("In short (rows of the table, each difference with its own 95 % interval):")
    for first, second in (("mast5", "random"), ("vicreg", "random"), ("mast5", "vicreg")):
        print("\n".join(f"  {line}" for line in margins(table, first, second).lines()))
