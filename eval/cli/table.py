"""``mast table``: a table from records and published numbers."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Final

from mast.errors import UserError, unknown

from . import options, output

ENDINGS: Final = {".txt": "text", ".md": "md", ".csv": "csv", ".tex": "tex", ".html": "html"}


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "table",
        run,
        "print a table from records and published numbers",
        "mast table demo --title Results --out results.md; mast table demo --title Results --check results.md",
    )
    parser.add_argument(
        "--format",
        choices=("text", "md", "csv", "tex", "html"),
        help="default: what the ending of --out or --check says, else md",
    )
    parser.add_argument(
        "--published", **options.MANY, type=Path, default=[], help="more CSV files of published numbers"
    )
    parser.add_argument("--title", default="Results", help="heading of the table")
    parser.add_argument(
        "--rows", **options.MANY, default=[], help="only these checkpoints, in this order; * fits any"
    )
    parser.add_argument("--columns", **options.MANY, default=[], help="only these tasks, in this order")
    parser.add_argument(
        "--sections", **options.MANY, default=[], help="only these protocols: 'linear v2', 'knn*'"
    )
    parser.add_argument(
        "--name",
        **options.MANY,
        default=[],
        metavar="NAME=SHOWN",
        help="show a row, task or protocol under this name",
    )
    parser.add_argument(
        "--spread",
        default="interval",
        choices=("interval", "plus-minus", "none"),
        help="how cells show intervals",
    )
    parser.add_argument("--one", action="store_true", help="one grid for all protocols (md, tex)")
    options.places(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import selection, tables
    from ..results.render import render

    if arguments.out:
        output.check_writable(arguments.out)
    built = tables.read(arguments.places, more=arguments.published, title=arguments.title)
    output.problems(built.book.problems)
    from .. import protocols, tasks

    for same in built.absent:  # not measured, or misspelt
        tasks.get(same.task)
        if same.version > (latest := protocols.get(same.protocol).version):
            raise UserError(f"same_as {same}: the latest version of {same.protocol} is v{latest}", code=2)
        if (there := built.book.metrics(same.task, same.protocol, same.version)) and same.metric not in there:
            raise unknown(f"metric in same_as {same}:", same.metric, sorted(there))
    if built.absent:
        some = f"such as {built.absent[0]}" if len(built.absent) > 1 else built.absent[0]
        output.problems([f"not measured here, so published numbers stand by themselves: {some}"])
    if not built.sections:
        if built.failures:
            raise UserError(f"nothing was measured, every cell failed: {' | '.join(built.failures)}")
        raise UserError(
            f"no records in {', '.join(map(str, arguments.places))}", remedy="name the --out folder of a run"
        )
    chosen = {name: getattr(arguments, name) for name in ("rows", "columns", "sections")}
    built = selection.select(built, **chosen, names=selection.parse_names(arguments.name))
    built = dataclasses.replace(built, spread=arguments.spread, one=arguments.one)
    form = arguments.format or output.ending(ENDINGS, arguments.out, arguments.check) or "md"
    if form == "html":
        from ..results.report import standalone

        text = standalone(built)
    else:
        text = render(built, form)
    return output.deliver(text, arguments.out, arguments.check)
