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
    from ..results import records, report, tables
    from ..results.render import render

    if arguments.out:
        output.check_writable(arguments.out)
    book = records.read(arguments.places)
    output.problems(book.problems)
    published = tables.read_published([*report.published_files(arguments.places), *arguments.published])
    built = tables.build(book, published, title=arguments.title)
    if not built.sections:
        raise UserError(
            f"no records in {', '.join(map(str, arguments.places))}", remedy="name the --out folder of a run"
        )
    text = report.standalone(built) if arguments.format == "html" else render(built, arguments.format)
    return output.deliver(text, arguments.out, arguments.check)
