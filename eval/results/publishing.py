"""Whether the files that a run publishes are still those of its records: then they need not be made again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mast.files import atomic_write, canonical_json

NAME = ".published.json"
LIBRARIES = ("matplotlib", "jinja2", "numpy", "scipy")
_PACKAGE = Path(__file__).parents[1]


def current(out: Path, title: str, data_root: Path | None) -> list[Path] | None:
    """The files that `keep` was told of, if neither they nor anything that they are made of has changed since.

    Files count as unchanged by path, size and time.

    Args:
        out: The run's folder.
        title: The table's heading.
        data_root: As of `report.publish`.
    """
    try:
        found = json.loads((out / NAME).read_text(encoding="utf-8"))
        paths = [out / name for name in found["files"]]
        fresh = found["inputs"] == _inputs(out, title, data_root) and found["outputs"] == _digest(paths)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing was kept, or a file is gone: all is made again
    return paths if fresh else None


def keep(out: Path, title: str, data_root: Path | None, files: Sequence[Path]) -> None:
    """Write down what was published and what it was made of; arguments as for `current`."""
    kept: dict[str, Any] = {
        "files": [path.relative_to(out).as_posix() for path in files],
        "inputs": _inputs(out, title, data_root),
        "outputs": _digest(files),
    }
    with atomic_write(out / NAME) as file:
        file.write(canonical_json(kept))


def _inputs(out: Path, title: str, data_root: Path | None) -> str:
    versions = [importlib.metadata.version(name) for name in LIBRARIES]
    about = canonical_json([title, str(data_root), versions])
    return hashlib.sha256((about + _digest(_read_by_reports(out))).encode()).hexdigest()


def _read_by_reports(out: Path) -> Iterator[Path]:
    for folder in ("records", "published", "passports", "measures"):
        yield from sorted((out / folder).glob("*"))
    yield from (path for path in [out / "outcomes"] if path.is_dir())  # its files are named by their content
    yield from sorted(path for path in _PACKAGE.rglob("*") if path.suffix != ".pyc" and path.is_file())


def _digest(paths: Iterable[Path]) -> str:
    lines = []
    for path in paths:
        status = path.stat()
        lines.append(f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
