"""``mast list``: what there is by name."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from mast.errors import UserError

from . import options, output

Rows = Iterator[tuple[str, str]]


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "list", run, "list what there is by name", "mast list tasks\n  mast list protocols knn dino"
    )
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    words = parser.add_argument(
        "having", nargs="*", metavar="WORD", help="show only what has every one of these words"
    )
    parser.set_defaults(words=words)
    options.include(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    words = [word.casefold() for word in arguments.having]
    rows = [row for row in KINDS[arguments.kind]() if all(word in " ".join(row).casefold() for word in words)]
    if arguments.json:
        return output.as_json([{"name": name, "description": description} for name, description in rows])
    if not rows:
        raise UserError(
            f"no {arguments.kind} with {' and '.join(arguments.having) or 'any name'}",
            remedy=f"`mast list {arguments.kind}` shows all",
        )
    columns = shutil.get_terminal_size().columns  # 80 where output is no terminal and COLUMNS is not set
    width = min(max(len(name) for name, _ in rows), 30)
    for name, description in rows:
        # A name that is wider than its column has its description on the next line.
        first, rest = (f"{name:<{width}}  ", "") if len(name) <= width else ("", f"{name}\n")
        indent = " " * (width + 2)
        text = textwrap.fill(description, columns, initial_indent=first or indent, subsequent_indent=indent)
        print(rest + text.rstrip())
    return 0


def _tasks() -> Rows:
    from .. import tasks

    for task in map(tasks.get, tasks.names()):
        yield task.name, f"v{task.version}, {task.kind}, {task.metric}: {task.description}"


def _protocols() -> Rows:
    from .. import protocols

    for how in map(protocols.get, protocols.names()):
        mark = f" [not verified: {how.unverified}]" if how.unverified else ""
        yield how.name, f"v{how.version}, {how.kind}: {how.description or how.source}{mark}"


def _checkpoints() -> Rows:
    from ..checkpoints import registry

    for name, entry in registry.entries().items():
        yield name, f"{entry.method}, {entry.arch}, {entry.licence}"


def _layouts() -> Rows:
    from ..checkpoints import layouts

    for name, layout in layouts.table().items():
        yield name, layout.title


def _suites() -> Rows:
    from .. import suites

    for name in suites.names():
        yield name, suites.load(name).description


def _recipes() -> Rows:
    import mast
    from mast import yaml

    # Each file has its own description; to build the recipe would import torch.
    for path in sorted((Path(mast.__file__).parent / "recipes").glob("*.yaml")):
        yield path.stem, str(yaml.read(path)["description"])


def _augmentations() -> Rows:
    from mast.randaugment import MAST15

    for name, kind in MAST15.items():
        yield name, (kind.__doc__ or "").strip().splitlines()[0]


def _data() -> Rows:
    from .. import datasets
    from ..datasets import depth, segmentation

    for name, entry in datasets.known().items():
        yield name, f"{entry.source} ({entry.terms})" if entry.terms else entry.source
    for name, masks in segmentation.OFFICIAL.items():
        yield name, f"masks: {masks.source}"
    yield depth.NYU, "depth: NYU Depth v2 as github.com/cleinc/bts keeps it, with its lists"


KINDS: dict[str, Callable[[], Rows]] = {
    "tasks": _tasks,
    "protocols": _protocols,
    "checkpoints": _checkpoints,
    "layouts": _layouts,
    "suites": _suites,
    "recipes": _recipes,
    "augmentations": _augmentations,
    "data": _data,
}
