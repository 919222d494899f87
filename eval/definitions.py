"""Definitions kept as data: a folder of YAML files read strictly into dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from mast.yaml import read

from .errors import UserError, unknown


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; a duplicate key or text that is not a mapping is an error naming the file.

    Raises:
        UserError: If the file cannot be read as a mapping.
    """
    try:
        value = read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}", remedy="correct the file", code=2) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: holds {type(value).__name__}, not a mapping", remedy="see docs/protocols.md", code=2
        )
    return value


T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a dataclass from a mapping; an unknown or a missing field is an error that names it.

    Args:
        cls: A dataclass.
        values: Its fields.
        where: What to name in the error: a file, or "overrides".

    Raises:
        UserError: If a field is unknown or a required one is missing.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            error = unknown("field", str(name), fields)
            raise UserError(f"{where}: {error.message}", remedy=error.remedy, code=2)
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: the field '{missing[0]}' is missing", remedy="add it", code=2)
    return cls(**values)


class Catalog(Generic[T]):
    """The definitions in one folder, one YAML file each, named by their file.

    Args:
        kind: What they are, for errors: "task" or "protocol".
        folder: Where the files lie.
        cls: The dataclass they become; it has a field ``name``.
    """

    def __init__(self, kind: str, folder: Path, cls: type[T]) -> None:
        self.kind = kind
        self.folder = folder
        self.cls = cls

    @cached_property
    def _paths(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted(self.folder.glob("*.yaml"))}

    @cached_property
    def _all(self) -> dict[str, T]:
        found: dict[str, T] = {}
        for path in self._paths.values():
            values = read_yaml(path)
            # A file with `variants` defines several that share everything else: a variant is a few lines.
            variants = values.pop("variants", None)
            for changes in [{}] if variants is None else variants:
                merged = {**values, **changes}
                if isinstance(values.get("params"), dict) and "params" in changes:
                    merged["params"] = {**values["params"], **changes["params"]}
                merged.setdefault("name", path.stem)
                item = build(self.cls, merged, where=str(path))
                name = str(merged["name"])
                if name in found:
                    raise UserError(
                        f"{path}: the {self.kind} '{name}' is defined twice", remedy="rename one", code=2
                    )
                found[name] = item
        return found

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._all))

    def get(self, name: str) -> T:
        """The definition of that name, or of that YAML file if ``name`` is the path of one.

        Raises:
            UserError: If there is none; the message suggests the nearest name.
        """
        if name in self._all:
            return self._all[name]
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            values = read_yaml(path)
            values.setdefault("name", path.stem)
            return build(self.cls, values, where=str(path))
        raise unknown(self.kind, name, self._all)
