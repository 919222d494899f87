"""``mast compare``: methods over pretraining seeds, or two checkpoints on the same examples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mast.errors import UserError

from . import options, output

if TYPE_CHECKING:
    from ..results.records import Book

DRAWN: Final = (".svg", ".png", ".pdf")


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "compare",
        run,
        "compare methods over pretraining seeds, or two checkpoints on the same examples",
        "mast compare runs/subspaces --pair mast5 vicreg --group classes=cifar10,caltech101_20",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--controls",
        action="store_true",
        help="every trained checkpoint against the best random control: where it is surely above",
    )
    what.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("A", "B"),
        help="checkpoints, or methods whose checkpoints are called NAME-SEED",
    )
    parser.add_argument("--metric", **options.MANY, default=[], help="default: each task's own")
    parser.add_argument(
        "--group",
        **options.MANY,
        default=[],
        metavar="NAME=TASK,TASK",
        help="also compare the mean over these tasks",
    )
    parser.add_argument(
        "--format", choices=("md", "csv"), help="default: what the ending of --out or --check says, else md"
    )
    options.places(parser)
    parser.add_argument(
        "--figure",
        type=Path,
        help="draw the differences into this file (.svg, .png, .pdf); --check with such a file compares it",
    )


def _controls(book: Book, arguments: argparse.Namespace) -> str:
    from ..results import controls, tables

    if arguments.metric or arguments.group or arguments.figure or arguments.format == "csv":
        raise UserError(
            "--controls goes with --out and --check alone",
            remedy="name the control in --pair for the rest",
            code=2,
        )
    return controls.markdown(tables.build(book))


def run(arguments: argparse.Namespace) -> int:
    from ..results import compare, records

    for path in (arguments.out, arguments.figure):
        if path:
            output.check_writable(path)
    book = records.read(arguments.places)
    output.problems(book.problems)
    if not book.records:
        raise UserError(
            f"no records in {', '.join(map(str, arguments.places))}", remedy="name the --out folder of a run"
        )
    if arguments.controls:
        return output.deliver(_controls(book, arguments), arguments.out, arguments.check)
    found = compare.build(
        book,
        [tuple(pair) for pair in arguments.pair],
        metrics=arguments.metric,
        groups=compare.parse_groups(arguments.group),
    )
    if not found.lines:
        told = dict.fromkeys(
            f"{line.task} {line.metric}: {reason}"
            for line in found.left_out
            for reason in line.reasons.values()
        )
        raise UserError(
            f"nothing pairs: {'; '.join(list(told)[:5])}" if told else "no task has both sides of a pair",
            remedy="`mast table` shows what was measured",
        )
    check = arguments.check
    if arguments.figure or (check and check.suffix in DRAWN):
        from ..results import figures

        figure = figures.paired_differences(found)
        if arguments.figure:
            figures.save(figure, arguments.figure)
        if check and check.suffix in DRAWN:
            return output.compared(figures.drawn(figure, check.stem, check.suffix[1:]), check)
    form = arguments.format or output.ending({".csv": "csv"}, arguments.out, check)
    text = compare.as_csv(found) if form == "csv" else compare.markdown(found)
    return output.deliver(text, arguments.out, arguments.check)
