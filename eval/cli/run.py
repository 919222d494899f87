"""``mast run``: a suite."""

from __future__ import annotations

import argparse

from . import cells, options


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "run",
        run,
        "run a suite: checkpoints x tasks x protocols x seeds",
        "mast run eval/suites/mini.yaml --data-root data --out runs/mini --dry-run",
    )
    parser.add_argument("suite", help="a name from `mast list suites`, or a YAML file")
    options.running(parser)


def run(arguments: argparse.Namespace) -> int:
    return cells.run_suite(arguments.suite, arguments)
