"""``mast table``: a table from records and published numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from mast.errors import UserError

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "table",
        run,
        "print a table from records and published numbers",
        "mast table demo --title Results --out results.md; mast table demo --title Results --check results.md",
    )
    parser.add_argument("--format", default="md", choices=("text", "md", "csv", "tex", "html"))
    parser.add_argument(
        "--published", **options.MANY, type=Path, default=[], help="more CSV files of published numbers"
    )
    parser.add_argument("--title", default="Results", help="heading of the table")
    options.places(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import tables
    from ..results.render import render

    if arguments.out:
        output.check_writable(arguments.out)
    built = tables.read(arguments.places, more=arguments.published, title=arguments.title)
    output.problems(built.book.problems)
    if not built.sections:
        raise UserError(
            f"no records in {', '.join(map(str, arguments.places))}", remedy="name the --out folder of a run"
        )
    if arguments.format == "html":
        from ..results.report import standalone

        text = standalone(built)
    else:
        text = render(built, arguments.format)
    return output.deliver(text, arguments.out, arguments.check)
