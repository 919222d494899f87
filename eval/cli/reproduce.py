"""``mast reproduce``: a suite, beside the numbers that were published for its protocols."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from . import cells, options


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "reproduce",
        run,
        "run a suite and compare each cell with the number that was published for the same protocol",
        "mast reproduce vicreg-table1                                # what is missing, and where to get it\n"
        "  mast reproduce vicreg-table1 --data-root data --out runs/vicreg-table1\n"
        "exit codes: 0 everything reproduced; 1 something differs or failed; 3 nothing differs, but not all was run",
    )
    parser.add_argument("suite", help="a name from `mast list suites`, or a YAML file with 'published:'")
    options.running(parser, out="reproduced/SUITE")


def run(arguments: argparse.Namespace) -> int:
    from .. import suites
    from ..results import published, records, report, reproduction, tables
    from ..running import reproduce
    from ..running.folder import claim
    from ..running.local import embedded
    from ..running.plan import plan

    suite = suites.load(arguments.suite)
    arguments.out = arguments.out or Path("reproduced") / suite.name
    quoted = published.read(published.committed(suite.published))
    chosen = published.read_chosen(published.committed(suite.chosen))
    data_root: Path | None = arguments.data_root
    if data_root is not None:
        options.folder(data_root)
    elif suite.scenes is not None:
        data_root = arguments.out / "data"
        if not arguments.dry_run:
            with claim(arguments.out, Path()):
                embedded(data_root, suite.scenes, progress=not arguments.quiet)
    todo = plan(suite, arguments.limit)
    runner = cells.runner(todo, arguments, data_root or arguments.out)
    there = data_root is not None and data_root.is_dir()
    prepared = reproduce.prepare(
        suite,
        todo,
        runner.opened,
        runner.folder,
        there=there,
        fetch=not arguments.dry_run,
        progress=not arguments.quiet,
    )
    kept = {str(cell) for cell in runner.plan.cells}  # what --only and --part leave
    runner.plan = replace(runner.plan, cells=tuple(c for c in prepared.plan.cells if str(c) in kept))
    if arguments.dry_run and not arguments.json:
        # What has still to be fetched is not fetched for a forecast.
        at_hand = {one.checkpoint for one in prepared.asked if not one.needs}
        runner.plan = replace(
            runner.plan, cells=tuple(c for c in runner.plan.cells if c.checkpoint in at_hand)
        )
        cells.forecast(runner.preview())
    elif runner.plan.cells and not arguments.dry_run:
        runner.run()
    book = records.read([arguments.out]) if runner.folder.records.is_file() else records.Book([])
    found = reproduction.compare(
        suite.title or suite.name,
        prepared.asked,
        book,
        quoted,
        chosen,
        suite.absent,
        pending="to be run" if arguments.dry_run else "not asked for",
    )
    files = [] if arguments.dry_run else reproduction.write(found, arguments.out)
    if files and book.counting():
        table = tables.build(book, published.read(published.files([arguments.out])), title=found.title)
        files += report.publish(table, arguments.out, data_root=data_root)
    if arguments.json:
        print(reproduction.as_json(found), end="")
    else:
        print(reproduction.text(found, shutil.get_terminal_size().columns))
        print(
            *(f"{'Open: ' if number == 0 else '      '}{path}" for number, path in enumerate(files[:4])),
            sep="\n",
        )
    return 0 if arguments.dry_run else found.code
