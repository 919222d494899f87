"""What there is by name, for ``mast list``."""

from __future__ import annotations

from collections.abc import Callable

Rows = list[dict[str, str]]


def rows(kind: str) -> Rows:
    """Names and descriptions of one of `KINDS`."""
    return [{"name": name, "description": description} for name, description in KINDS[kind]()]


def _tasks() -> list[tuple[str, str]]:
    from .. import tasks

    found = map(tasks.get, tasks.names())
    return [(task.name, f"v{task.version}, {task.kind}, {task.metric}: {task.description}") for task in found]


def _protocols() -> list[tuple[str, str]]:
    from .. import protocols

    found = map(protocols.get, protocols.names())
    return [(how.name, f"v{how.version}, {how.kind}: {how.description or how.source}") for how in found]


def _checkpoints() -> list[tuple[str, str]]:
    from ..checkpoints import registry

    return [
        (name, f"{entry.method}, {entry.arch}, {entry.licence}") for name, entry in registry.entries().items()
    ]


def _layouts() -> list[tuple[str, str]]:
    from ..checkpoints import layouts

    return [(name, layout.title) for name, layout in layouts.table().items()]


def _suites() -> list[tuple[str, str]]:
    from .. import suites

    return [(name, suites.load(name).description) for name in suites.names()]


def _recipes() -> list[tuple[str, str]]:
    from mast.config import load_recipe, recipe_names

    return [(name, load_recipe(name).description) for name in recipe_names()]


def _augmentations() -> list[tuple[str, str]]:
    from mast.randaugment import MAST15

    return [(name, (kind.__doc__ or "").strip().splitlines()[0]) for name, kind in MAST15.items()]


def _data() -> list[tuple[str, str]]:
    from .. import datasets

    return [(name, entry.source) for name, entry in datasets.known().items()]


KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "tasks": _tasks,
    "protocols": _protocols,
    "checkpoints": _checkpoints,
    "layouts": _layouts,
    "suites": _suites,
    "recipes": _recipes,
    "augmentations": _augmentations,
    "data": _data,
}
