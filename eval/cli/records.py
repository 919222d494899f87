"""``mast records``: list runs, say what differs between two, bring folders together, and renew their intervals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mast.errors import UserError

from . import options, output

if TYPE_CHECKING:
    from ..results.history import Difference

ACTIONS = ("list", "diff", "explain", "merge", "refresh", "schema")


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "records",
        run,
        "list runs, say what differs between two, merge the folders of several machines, or renew intervals",
        "mast records list runs/mini\n"
        "  mast records diff runs/mini --run 4cadf70a 9be1c3d2\n"
        "  mast records explain runs/mini --run 4cadf70a\n"
        "  mast records merge runs/a runs/b --out runs/both\n"
        "  mast records refresh runs/mini",
    )
    parser.add_argument("action", choices=ACTIONS)
    words = parser.add_argument(
        "places", nargs="*", type=Path, metavar="DIR", help="folders of runs, or record files"
    )
    parser.set_defaults(words=words)
    parser.add_argument(
        "--run",
        **options.MANY,
        default=[],
        metavar="ID",
        help="the first characters of run ids: two for diff, one for explain",
    )
    parser.add_argument("--out", type=Path, help="the folder that merge writes")
    parser.add_argument("--data-root", type=Path, help="for refresh: where the images of detection tasks lie")
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..results import history, records

    if arguments.action == "schema":
        return output.as_json(history.schema())
    if not arguments.places:
        raise UserError("mast records: no folder", remedy="name the --out folder of a run", code=2)
    if arguments.action == "merge":
        if arguments.out is None:
            raise UserError("mast records merge needs --out", remedy="name the folder to write", code=2)
        merged = history.merge(arguments.places, arguments.out)
        print(
            f"{merged.lines} records and {merged.outcomes} outcomes files added, {merged.known} known already."
        )
        return 0
    if arguments.action == "refresh":
        return _refresh(arguments)
    book = records.read(arguments.places)
    output.problems(book.problems)
    if arguments.action == "list":
        return _list(history.rows(book), arguments.json)
    needed = 2 if arguments.action == "diff" else 1
    if len(arguments.run) != needed:
        raise UserError(
            f"mast records {arguments.action} takes {needed} run id{'s' * (needed > 1)}",
            remedy="give --run ID; `mast records list` prints run ids",
            code=2,
        )
    runs = [history.find(book, prefix) for prefix in arguments.run]
    if needed == 2:
        steps = [history.compare(runs[0][-1], runs[1][-1])]
    else:
        steps = [history.compare(a, b) for a, b in zip(runs[0], runs[0][1:], strict=False)]
    if arguments.json:
        return output.as_json([_plain(step) for step in steps])
    if not steps:
        print(
            f"run {runs[0][0].run_id[:12]} has one record, of {runs[0][0].started}; nothing to compare it with"
        )
    for step in steps:
        _print(step)
    return 0


def _refresh(arguments: argparse.Namespace) -> int:
    from ..results.refresh import refresh

    done = refresh(arguments.places, arguments.data_root)
    changed = [
        {"was": was, "is": now, "metrics": count} for (was, now), count in sorted(done.changed.items())
    ]
    if arguments.json:
        return output.as_json({"changed": changed, "same": done.same, "left": dict(done.left)})
    for line in changed:
        print(f"{line['metrics']} metrics: {line['was']} -> {line['is']}")
    for reason, count in sorted(done.left.items()):
        print(f"{count} metrics keep what they had: {reason}")
    print(f"{sum(done.changed.values())} intervals changed, {done.same} were up to date.")
    return 0


def _list(rows: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        return output.as_json(rows)
    for row in rows:
        value = "failed" if row["value"] is None else f"{row['metric']} {100 * row['value']:.1f}"
        overrides = " ".join(f"{key}={item}" for key, item in row["overrides"].items())
        protocol = f"{row['protocol']} {overrides}".rstrip()
        print(
            f"{row['run_id'][:12]}  {row['checkpoint']}  {row['task']}  {protocol}  seed {row['seed']}  {value}"
        )
    return 0


def _plain(step: Difference) -> dict[str, Any]:
    return {
        "first": step.first.run_id,
        "second": step.second.run_id,
        "moved": step.moved,
        "verdict": step.verdict(),
        "same_outcomes": step.same_outcomes,
        "changes": [{**vars(change), "decides": change.decides} for change in step.changes],
        "metrics": step.metrics,
    }


def _print(step: Difference) -> None:
    for name, record in (("first", step.first), ("second", step.second)):
        print(f"{name:<7}{record.run_id[:12]}  {record.started}  {record.status}")
    for change in step.changes:
        print(f"  {change.part:<14}{change.key}: {_short(change.first)} -> {_short(change.second)}")
    for name, (first, second) in step.metrics.items():
        moved = f"{100 * (second - first):+.2f} points" if first != second else "the same"
        print(f"  {name}: {100 * first:.2f} -> {100 * second:.2f} ({moved})")
    if step.same_outcomes is not None:
        print(f"  outcomes of every example: {'the same' if step.same_outcomes else 'not the same'}")
    print(step.verdict())


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
