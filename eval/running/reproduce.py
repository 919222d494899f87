"""A suite of published tables: what of it can run here, and what is missing and where to get it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mast.config import load_recipe
from mast.data import count

from .. import datasets
from ..checkpoints import references, registry
from ..detection.names import table
from ..errors import UserError
from ..results.reproduction import Asked, Need
from ..suites import Arm, Suite
from ..tasks import Task
from .folder import RunFolder
from .opened import OpenData
from .plan import Plan, Source
from .recording import protocol_entry, task_entry


@dataclass(frozen=True)
class Prepared:
    """What a reproduction will do.

    Attributes:
        plan: The cells that can run.
        asked: All cells, each over its seeds, with what they need and lack.
    """

    plan: Plan
    asked: list[Asked]


def prepare(
    suite: Suite,
    todo: Plan,
    opened: OpenData,
    folder: RunFolder,
    *,
    there: bool,
    fetch: bool,
    progress: bool = True,
) -> Prepared:
    """Sort a plan's cells into those that can run and those that cannot.

    Data are opened as a run opens them. Weights are fetched only where some of their cells have data.

    Args:
        suite: The suite.
        todo: Its plan.
        opened: Opens data, for the run too.
        folder: The run's folder, where checkpoints may be pretrained already.
        there: Whether there is a data root.
        fetch: Fetch weights that are not at hand; else only say from where.
        progress: Show downloads.
    """
    data = {cell.task.name: _data(cell.task, opened, there=there) for cell in todo.cells}
    weights = dict[str, Need | None]()
    for source in todo.sources:
        wanted = fetch and any(data[cell.task.name] is None for cell in todo.of(source))
        liked = weights.get(source.like)
        if liked is not None and liked.blocks:
            weights[source.name] = liked
        elif source.arm is not None:
            pretrained = folder.published(source.arm).is_file()
            weights[source.name] = None if pretrained else _images(source.arm, opened, there=there)
        else:
            weights[source.name] = _weights(source.ref, fetch=wanted, progress=progress)
    publications = dict(_publications(suite))
    reduced = {source.name: _reduced(source) for source in todo.sources}
    asked, runnable = dict[tuple[str, str, str], Asked](), []
    for cell in todo.cells:
        found = (data[cell.task.name], weights[cell.checkpoint])
        needs = tuple(need for need in found if need is not None)
        if not any(need.blocks for need in needs):
            runnable.append(cell)
        how = protocol_entry(cell)
        key = cell.checkpoint, cell.task.name, how.identity
        if key not in asked:
            delta = [*_official(cell.task, opened), *_smoke(todo)] if found[0] is None else []
            delta += reduced[cell.checkpoint]
            about = publications[cell.checkpoint], task_entry(cell), how, (), needs, tuple(delta)
            asked[key] = Asked(cell.checkpoint, *about)
        asked[key] = replace(asked[key], seeds=(*asked[key].seeds, cell.seed))
    return Prepared(replace(todo, cells=tuple(runnable)), list(asked.values()))


def _reduced(source: Source) -> list[str]:
    """A precision other than the one that published numbers are compared in."""
    precision = source.options.get("precision", "fp32")
    return [] if precision == "fp32" else [f"features in {precision}"]


def _publications(suite: Suite) -> Iterator[tuple[str, str]]:
    """For each checkpoint ``METHOD BACKBONE``: what the suite says, or the registry."""
    for arm in suite.pretrain:
        yield arm.name, arm.published
    for item in suite.checkpoints:
        entry = registry.entries().get(item.ref)
        known = f"{entry.results} {entry.arch}" if entry is not None and entry.results else ""
        yield item.name, item.published or known


# --------------------------------------------------------------------------------------------------------- data


def _data(task: Task, opened: OpenData, *, there: bool) -> Need | None:
    """What is wrong with a task's data; None if they are at hand."""
    why = "no --data-root is given"
    if there:
        try:
            opened.whole(task)
        except UserError as error:
            why = str(error)
        else:
            return None
    where, terms = _sources(task)
    return Need(f"data {task.dataset}", why, where or why, terms)


def _sources(task: Task) -> tuple[str, str]:
    """Where a task's data come from, and under which terms."""
    if task.kind in ("classification", "multilabel"):
        entry = datasets.known().get(task.dataset)
        if entry is None:
            return "", ""
        other = datasets.known().get(entry.otherwise, entry)
        how = f"`mast data download {task.dataset}`, or " if other.downloads else ""
        return f"{how}{entry.source}", entry.terms
    catalog = table()
    if (named := catalog.datasets.get(task.dataset)) is None:
        return "", ""
    folders = dict.fromkeys(folder for folder, _ in [*named.train, *named.test])
    found = [catalog.sources[folder] for folder in folders if folder in catalog.sources]
    return "; ".join(found) or "`mast demo` writes it", ""


def _official(task: Task, opened: OpenData) -> tuple[str, ...]:
    """How a data set's sizes differ from the official ones."""
    data = opened.whole(task)
    if task.kind not in ("classification", "multilabel"):
        named = table().datasets.get(task.dataset)
        official: dict[Any, int] = dict(named.counts or {}) if named else {}
        found = data.counts
    else:
        entry = datasets.known().get(task.dataset)
        if entry is None:
            return ()
        official = dict(entry.counts or datasets.known().get(entry.otherwise, entry).counts)
        found = dict(data.counts)
        if "val" not in official:
            found["train"] += found.pop("val")
    return tuple(
        f"{task.dataset} {part}: {found[part]:,} images, officially {count:,}"
        for part, count in official.items()
        if found[part] != count
    )


def _smoke(todo: Plan) -> tuple[str, ...]:
    return () if todo.limit is None else (f"a smoke test with {todo.limit} examples of each split",)


# ------------------------------------------------------------------------------------------------------ weights


def _images(arm: Arm, opened: OpenData, *, there: bool) -> Need | None:
    """What is wrong with the images that a checkpoint is pretrained on; None if they are at hand."""
    recipe = load_recipe(arm.recipe, arm.overrides)
    why = "no --data-root is given"
    if there:
        try:
            count(recipe.data, opened.data_root)
        except UserError as error:
            why = str(error)
        else:
            return None
    place = recipe.data.folder.partition("/")[0]
    entry = next(
        (e for name, e in datasets.known().items() if place == e.folder or name == recipe.data.format), None
    )
    where, terms = (entry.source, entry.terms) if entry else (why, "")
    return Need(f"images that {recipe.name} pretrains on", why, where, terms)


def _weights(ref: str, *, fetch: bool, progress: bool) -> Need | None:
    """What is wrong with a checkpoint's weights; None if they are at hand, or made at random."""
    if references.at_hand(ref):
        return None
    entry = registry.entries().get(ref)
    terms = f"licence {entry.licence}" if entry else ""
    why, remedy = "no such file", "put it there, or name another in a suite file of your own"
    if fetch:
        try:
            references.locate(ref, progress=progress)
        except UserError as error:
            why, remedy = error.message, error.remedy
        else:
            return None
    if entry and entry.page:
        return Need(f"weights {ref}", why, f"by hand from {entry.page}", terms)
    if entry or ref.startswith(("hf://", "timm:")):
        address = entry.url if entry else ref
        return Need(
            f"weights {ref}", why, address if fetch else f"fetched when needed from {address}", terms, fetch
        )
    return Need(f"weights {ref}", why, remedy, terms)
