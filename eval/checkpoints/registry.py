"""The published checkpoints by short name: ``pretrained/registry.yaml``."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from ..definitions import build, read_yaml
from ..errors import UserError, unknown


@dataclass(frozen=True)
class Entry:
    """One published checkpoint.

    Attributes:
        name: Short name.
        family: Name of its card, ``pretrained/cards/<family>.md``.
        method: Who made it.
        arch: Architecture.
        layout: Layout of the file.
        licence: Under which the authors give it.
        citation: What to cite.
        source: Where address and numbers were read.
        url: Address of the file, or empty.
        page: Page to fetch it from by hand, where a program cannot.
        hub: Where on a hub it lies, ``hf://...`` or ``timm:...``.
        file: The file itself, beside the registry, for those that come with this project.
        checksum: ``md5:`` or ``sha256:`` and the digest or its start, as the authors publish it.
        linear_top1: ImageNet's linear probe as the source states it, per cent; for supervised ones their top-1.
        results: Name of the method in ``results/published``.
    """

    name: str
    family: str
    method: str
    arch: str
    layout: str
    licence: str
    citation: str
    source: str
    url: str = ""
    page: str = ""
    hub: str = ""
    file: str = ""
    checksum: str = ""
    linear_top1: float | None = None
    results: str = ""


def path() -> Path:
    """The registry's file: inside an installed package, or in the source tree beside it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "pretrained", package.parent / "pretrained"):
        if (folder / "registry.yaml").is_file():
            return folder / "registry.yaml"
    raise UserError(
        f"{package / 'pretrained' / 'registry.yaml'} is not there",
        remedy="install the package again: its build left the known checkpoints out",
        code=2,
    )


@functools.cache
def entries() -> dict[str, Entry]:
    """All entries by name, in the order of the file."""
    found: dict[str, Entry] = {}
    for family, facts in read_yaml(path()).items():
        common = {key: value for key, value in facts.items() if key != "entries"}
        for name, entry in facts["entries"].items():
            if name in found:
                raise UserError(f"{path()}: the checkpoint '{name}' is defined twice", code=2)
            fields = {"name": name, "family": family, **common, **entry}
            found[name] = build(Entry, fields, where=f"{path()}, {name}")
    return found


def get(name: str) -> Entry:
    """An entry by name.

    Raises:
        UserError: If there is none; near names are suggested.
    """
    if name not in entries():
        raise unknown("checkpoint", name, entries())
    return entries()[name]
