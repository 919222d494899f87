"""Running cells, for ``mast demo``, ``mast eval`` and ``mast run``: the forecast, or the run with its table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mast.errors import UserError, printable

from . import options, output

if TYPE_CHECKING:
    from ..results.records import Book
    from ..running.engines import Engine
    from ..running.local import Runner
    from ..running.plan import Plan


def run_suite(name: str, arguments: argparse.Namespace, then: Callable[[Book], None] | None = None) -> int:
    """Run a suite by its name or file; one with embedded data needs no ``--data-root``. For ``then`` see `run`."""
    from .. import suites

    suite = suites.load(name)
    data_root = arguments.data_root
    if data_root is not None:
        options.folder(data_root)
    elif suite.scenes is None:
        raise UserError(
            f"the suite {suite.name} needs --data-root", remedy="give the folder of data sets", code=2
        )
    from ..running.folder import claim
    from ..running.local import embedded
    from ..running.plan import plan

    todo = plan(suite, arguments.limit)
    if data_root is None:
        data_root = arguments.out / "data"
        if not arguments.dry_run:
            with claim(arguments.out, Path()):
                embedded(data_root, suite.scenes or "demo", progress=not arguments.quiet)
    if arguments.dry_run and suite.minutes and not arguments.json:
        print(f"The whole suite {suite.name} took {suite.minutes:g} min on {suite.hardware}.")
    return run(todo, arguments, data_root, suite.title or suite.name, then)


def run(
    todo: Plan,
    arguments: argparse.Namespace,
    data_root: Path,
    title: str,
    then: Callable[[Book], None] | None = None,
) -> int:
    """Run a plan and print its table, or with ``--dry-run`` print what it would do.

    Args:
        todo: The plan.
        arguments: The options of `options.running`.
        data_root: The folder of the data sets.
        title: Heading of table and report.
        then: Prints more, from the records that the table was made of.
    """
    ready = runner(todo, arguments, data_root)
    for note in todo.notes if not arguments.quiet else ():
        print(printable(note), file=sys.stderr)
    if arguments.dry_run:
        cells = ready.preview()
        return output.as_json(cells) if arguments.json else forecast(cells)
    return _run(ready, arguments, data_root, title, then)


def runner(todo: Plan, arguments: argparse.Namespace, data_root: Path) -> Runner:
    """The runner of a plan, or of the part of it that the options ask for."""
    from ..running.local import Runner

    if arguments.store is not None and arguments.store.exists() and not arguments.store.is_dir():
        raise UserError(f"--store {arguments.store}: no folder", remedy="name a folder", code=2)
    if arguments.only:
        todo = todo.only(arguments.only)
    if arguments.part:
        todo = todo.part(*arguments.part)
    return Runner(
        todo,
        data_root=data_root,
        out=arguments.out,
        progress=not arguments.quiet,
        jobs=arguments.jobs,
        engine=_engine(arguments),
        features=arguments.store,
        features_gb=arguments.store_gb,
        log=arguments.log,
    )


def _engine(arguments: argparse.Namespace) -> Engine | None:
    """A cluster's, where one is asked for."""
    if arguments.engine == "local":
        if arguments.address:
            raise UserError("--address is for --engine ray", remedy="add --engine ray", code=2)
        return None
    from ..running.ray import Cluster

    return Cluster(arguments.address)


def forecast(rows: list[dict[str, Any]]) -> int:
    """Print what `Runner.preview` says."""
    from ..running.costs import counted, duration

    for row in rows:
        cost = "" if row["seconds"] is None else f"  {duration(row['seconds'])}"
        if row["work"] == "pretraining":
            print(f"{row['checkpoint']}  pretraining  {row['protocol']}  seed {row['seed']}{cost}")
            continue
        cost += f"  features {duration(row['features'])}" if row["features"] else ""
        cost += f"  maps {row['bytes']:,} bytes" if row["bytes"] else ""
        seed = f"seed {row['seed']}"
        print(f"{row['checkpoint']}  {row['task']}  {row['protocol']}  {seed}  {row['state']}{cost}")
    cells = [row for row in rows if row["work"] == "cell"]
    to_run = [row["seconds"] for row in cells if row["state"] == "to run"]
    known = [seconds for seconds in to_run if seconds is not None]
    costs = [duration(sum(known))] if known else []
    if unknown := len(to_run) - len(known):
        costs.append(f"{unknown} of unknown cost (no record here has one like it)")
    print(f"{counted(len(cells), 'cell')}, {len(to_run)} to run: {' and '.join(costs) or 'nothing'}.")
    arms = [row["seconds"] for row in rows if row["work"] == "pretraining"]
    if trained := [seconds for seconds in arms if seconds is not None]:
        print(f"Pretraining of {counted(len(trained), 'checkpoint')}: about {duration(sum(trained))}.")
    if features := sum(row["features"] or 0.0 for row in cells):
        print(f"Features: about {duration(features)}.")
    if maps := sum(row["bytes"] or 0 for row in cells):
        print(f"Maps in the feature store: {maps:,} bytes, {maps / 10**9:.2f} GB.")
    if stuck := sum(row["state"] not in ("to run", "done") for row in cells):
        print(f"{counted(stuck, 'cell')} cannot run; the reason stands beside each.")
    return 0


def _run(
    runner: Runner,
    arguments: argparse.Namespace,
    data_root: Path,
    title: str,
    then: Callable[[Book], None] | None,
) -> int:
    summary = runner.run()
    from ..results import publishing, tables
    from ..results.render import render
    from ..running.costs import counted

    shown = summary.done + summary.copied + summary.skipped > 0
    files = publishing.current(arguments.out, title, data_root) if shown else []
    table = tables.read([arguments.out], title=title) if files is None or not arguments.json else None
    if files is None:
        from ..results import report

        assert table is not None
        files = report.publish(table, arguments.out, data_root=data_root)
        publishing.keep(arguments.out, title, data_root, files)
    if arguments.json:
        output.as_json({**vars(summary), "files": [str(path) for path in files]})
    elif shown and table is not None:
        print(render(table, "text"))
        copied = (
            f"{summary.copied} taken from the same weights under another name, " if summary.copied else ""
        )
        print(
            f"{counted(summary.done, 'cell')} run, {copied}{summary.skipped} done before, {summary.failed} failed."
        )
        print("Open:")
        for path in files[:5]:
            print(f"  {path}")
        print(f"  {arguments.out / 'figures'}/")
        if then is not None:
            then(table.book)
    for message, count in summary.errors.items():
        output.failed(f"{message} [{counted(count, 'cell')}]", 1)
    return 1 if summary.failed else 0
