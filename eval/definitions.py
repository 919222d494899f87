"""Definitions kept as data: a folder of YAML files, each read strictly into a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from mast.yaml import build as build
from mast.yaml import read

from .errors import UserError, unknown


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Raises:
        UserError: If the file cannot be read as a mapping.
    """
    value = read(path)
    if not isinstance(value, dict):
        raise UserError(
            f"{path}: holds {type(value).__name__}, not a mapping", remedy="see docs/protocols.md", code=2
        )
    return value


T = TypeVar("T")


class Catalog(Generic[T]):
    """The definitions in one folder, one YAML file each, named by their file.

    Args:
        kind: What they are, for errors: "task" or "protocol".
        folder: Where the files lie.
        cls: The model they become; it has a field ``name``.
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
            for name, item in self._defined(path).items():
                if name in found:
                    raise UserError(
                        f"{path}: the {self.kind} '{name}' is defined twice", remedy="rename one", code=2
                    )
                found[name] = item
        return found

    def _defined(self, path: Path) -> dict[str, T]:
        """What a file defines; with ``variants`` several that share everything else, a variant in a few lines."""
        values = read_yaml(path)
        variants = values.pop("variants", [{}])
        if not isinstance(variants, list) or not all(isinstance(changes, Mapping) for changes in variants):
            raise UserError(
                f"{path}: variants: not a list of mappings", remedy="see docs/protocols.md", code=2
            )
        found: dict[str, T] = {}
        for changes in variants:
            merged = {"name": path.stem, **values, **changes}
            if isinstance(values.get("params"), dict) and isinstance(changes.get("params"), dict):
                merged["params"] = {**values["params"], **changes["params"]}
            name = str(merged["name"])
            if name in found:
                raise UserError(
                    f"{path}: the {self.kind} '{name}' is defined twice", remedy="rename one", code=2
                )
            found[name] = build(self.cls, merged, where=str(path))
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
            found = self._defined(path)
            if len(found) != 1:
                raise UserError(
                    f"{path}: defines {', '.join(found) or 'nothing'}",
                    remedy=f"a file of one's own defines one {self.kind}",
                    code=2,
                )
            return next(iter(found.values()))
        raise unknown(self.kind, name, self._all)
