"""``mast list``: what there is by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from . import options, output

Rows = Iterator[tuple[str, str]]


def add(verbs: options.Verbs) -> None:
    parser = verbs.add("list", run, "list what there is by name", "mast list tasks")
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    rows = list(KINDS[arguments.kind]())
    if arguments.json:
        return output.as_json([{"name": name, "description": description} for name, description in rows])
    width = max((len(name) for name, _ in rows), default=0)
    for name, description in rows:
        print(f"{name:<{width}}  {description}".rstrip())
    return 0


def _tasks() -> Rows:
    from .. import tasks

    for task in map(tasks.get, tasks.names()):
        yield task.name, f"v{task.version}, {task.kind}, {task.metric}: {task.description}"


def _protocols() -> Rows:
    from .. import protocols

    for how in map(protocols.get, protocols.names()):
        yield how.name, f"v{how.version}, {how.kind}: {how.description or how.source}"


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
    from mast.config import load_recipe, recipe_names

    for name in recipe_names():
        yield name, load_recipe(name).description


def _augmentations() -> Rows:
    from mast.randaugment import MAST15

    for name, kind in MAST15.items():
        yield name, (kind.__doc__ or "").strip().splitlines()[0]


def _data() -> Rows:
    from .. import datasets

    for name, entry in datasets.known().items():
        yield name, entry.source


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
