"""A plan from names: what ``mast eval`` and `eval.evaluate` are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mast.files import PUBLISHED

from .. import tasks
from ..checkpoints import references
from ..checkpoints.facts import PREPROCESSING
from ..checkpoints.pooling import CHOICES
from ..errors import UserError

if TYPE_CHECKING:
    from .plan import Plan

RANDOM = "random:"
LONGEST = 100  # bytes of a checkpoint's name; a file's may have 255


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        checkpoints: References, each ``REF`` or ``NAME=REF``.
        tasks: Names of tasks, or files.
        protocols: Names of protocols, or files; each task's default when empty.
        seeds: Evaluation seeds.
        overrides: Changes to the protocols' parameters.
        against: Further references, which the others are compared with.
        reading: what the user says about the files in ``checkpoints``, as `eval.checkpoints.load` takes it.
        shots: Sizes of a label-efficiency curve, as of `eval.suites.Block`.
        limit: Use at most so many examples of each split, and train for a short time: a smoke test.
    """

    checkpoints: tuple[str, ...]
    tasks: tuple[str, ...]
    protocols: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    shots: tuple[int | str, ...] = ()
    limit: int | None = None


def plan(request: Request) -> Plan:
    """Resolve a request's names; all of them are checked before anything heavy is imported.

    A random control takes the preprocessing of the first checkpoint that is not random, and runs last; where there is
    none, it takes what is said of preprocessing.

    Raises:
        UserError: For a name, file or parameter that does not exist, a protocol that does not apply to a task, or
            two checkpoints of one name.
    """
    pairs = [
        (task, protocol)
        for task in request.tasks
        for protocol in request.protocols or [tasks.get(task).default]
    ]
    indifferent: set[str] = set()  # protocols that read no chosen feature
    for task, protocol in pairs:
        for size in request.shots or ("all",):
            changes = {} if size == "all" else {"shots": size}
            _, how = tasks.resolve(task, protocol, {**request.overrides, **changes})
            if not how.settings.reads_choice:
                indifferent.add(protocol)
    for text in [*request.checkpoints, *request.against]:
        references.check(_split(text)[1])

    from .plan import Plan, Source, make_cells

    named = _named(request)
    others = {_split(text)[1] for text in request.against}
    asked = str(request.reading.get("features") or "")
    choices, rest = list(dict.fromkeys(asked.split(","))), {**request.reading}
    if asked:
        del rest["features"]
        for choice in choices:
            if choice not in CHOICES:
                raise UserError(f"--features {choice!r}", remedy=f"known: {', '.join(CHOICES)}", code=2)
    precision = {name: value for name, value in rest.items() if name == "precision"}
    pixels = precision | {name: value for name, value in rest.items() if name in PREPROCESSING}
    reading = [pair for pair in pairs if pair[1] not in indifferent]
    alike = [pair for pair in pairs if pair[1] in indifferent]
    notes = []
    if asked and alike:
        under = f"measured once, as {', '.join(named)}" if len(choices) > 1 else "measured as without it"
        notes.append(f"--features {asked} changes nothing for {', '.join(sorted(indifferent))}: {under}")

    def ways(ref: str) -> list[tuple[str, dict[str, Any], list[tuple[str, str]]]]:
        """For a reference what is put behind its name, what is said of its feature, and what is measured so."""
        if ref in others:
            return [("", {}, pairs)]
        if len(choices) == 1:
            return [("", {"features": choices[0]} if asked else {}, pairs)]
        each = [(f"-{choice}", {"features": choice, "together": choices}, reading) for choice in choices]
        return [*(each if reading or not pairs else []), *([("", {}, alike)] if alike else [])]

    trained = next((name for name, ref in named.items() if not ref.startswith(RANDOM)), "")
    sources, cells = [], []
    for name, ref in sorted(named.items(), key=lambda pair: pair[1].startswith(RANDOM)):
        control = ref.startswith(RANDOM)
        said = precision if ref in others or (control and trained) else pixels if control else rest
        for suffix, feature, mine in ways(ref):
            like = ""
            if control and trained:
                like = trained if named[trained] in others else f"{trained}{suffix}"
            sources.append(Source(f"{name}{suffix}", ref, like=like, options={**said, **feature}))
            for task, protocol in mine:
                cells += make_cells(
                    f"{name}{suffix}",
                    task,
                    protocol,
                    dict(request.overrides),
                    request.seeds,
                    shots=request.shots,
                    limit=request.limit,
                )
    return Plan("eval", tuple(sources), tuple(cells), request.limit, tuple(notes))


def pairs(request: Request, measured: Iterable[str]) -> list[tuple[str, str]]:
    """Every checkpoint that was measured beside every one of ``against`` that was, by name."""
    there = set(measured)
    others = {_split(text)[1] for text in request.against}
    named = {name: ref for name, ref in _named(request).items() if name in there}
    return [
        (first, second)
        for first, ref in named.items()
        if ref not in others
        for second, other in named.items()
        if other in others
    ]


def _named(request: Request) -> dict[str, str]:
    """References by name: the one given, or one made of the file's or the folder's."""
    found: dict[str, str] = {}
    for text in [*request.checkpoints, *request.against]:
        name, ref = _split(text)
        path = Path(ref)
        stem = path.absolute().parent.name if path.name == PUBLISHED else path.name.partition(".")[0]
        name = name or _made(ref if ref.startswith(RANDOM) else stem)
        if len(name.encode()) > LONGEST:
            raise UserError(
                f"the name {name[:20]}... is longer than {LONGEST} bytes, and files are named by it",
                remedy="give a shorter one: NAME=FILE",
                code=2,
            )
        if name in found:
            raise UserError(f"two checkpoints are named {name}", remedy="name them: NAME=FILE", code=2)
        found[name] = ref
    return found


def _made(text: str) -> str:
    """A name for tables and files, as near to a text as they allow."""
    fits = re.sub(r"[^\w.-]+", "-", text).encode()[:LONGEST].decode(errors="ignore")
    return fits.strip("-.") or "checkpoint"


def _split(text: str) -> tuple[str, str]:
    """``[NAME=]REF`` in its parts; no name is an empty one."""
    match = re.match(r"([A-Za-z0-9][\w.-]*)=(.+)", text)
    return (match[1], match[2]) if match and not Path(text).exists() else ("", text)
