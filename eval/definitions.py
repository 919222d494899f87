"""Definitions kept as data: a folder of YAML files, each read strictly into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
KINDS = ("tasks", "protocols", "suites", "layouts")
_included: list[Path] = []


@contextmanager
def included(folders: Sequence[Path]) -> Iterator[None]:
    """Let names stand for the user's own definitions too, for as long as the block runs.

    Args:
        folders: Each holds YAML files in one or more of the folders ``tasks``, ``protocols``, ``suites`` and
            ``layouts``.

    Raises:
        UserError: If a folder is missing or holds none of these.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", remedy="give an existing one as --include", code=2)
        if not any((folder / kind).is_dir() for kind in KINDS):
            raise UserError(
                f"{folder}: holds none of the folders {', '.join(KINDS)}",
                remedy="put your YAML files into folders of these names",
                code=2,
            )
    before = list(_included)
    _included[:] = folders
    try:
        yield
    finally:
        _included[:] = before


def in_use() -> tuple[Path, ...]:
    """The folders that `included` has let in."""
    return tuple(_included)


def files(folder: Path) -> dict[str, Path]:
    """The YAML files of a folder of the package and of the included folders of that name, by name.

    Raises:
        UserError: If two have the same name.
    """
    found: dict[str, Path] = {}
    for place in (folder, *(each / folder.name for each in _included)):
        for path in sorted(place.glob("*.yaml")):
            if path.stem in found:
                raise UserError(f"{path}: {found[path.stem]} has the same name", remedy="rename one", code=2)
            found[path.stem] = path
    return found


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
        self._read: dict[tuple[Path, ...], dict[str, T]] = {}

    @property
    def _all(self) -> dict[str, T]:
        if (key := tuple(_included)) not in self._read:
            self._read[key] = self._everything()
        return self._read[key]

    def _everything(self) -> dict[str, T]:
        found: dict[str, T] = {}
        for path in files(self.folder).values():
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
                    remedy=f"a file that you name by its path defines one {self.kind}",
                    code=2,
                )
            return next(iter(found.values()))
        raise unknown(self.kind, name, self._all)
