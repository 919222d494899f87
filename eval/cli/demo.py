"""``mast demo``: the suite ``demo``, its table and its report."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import cells, options


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
    return cells.run_suite("demo", arguments)
