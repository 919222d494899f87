"""Where the code of a kind is found: a module of this package, or one of the user's by its full name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from ..errors import UserError, unknown
from .base import Kind


def names() -> tuple[str, ...]:
    """The kinds that come with the package: its modules with a ``KIND``."""
    modules = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return tuple(
        sorted(name for name in modules if hasattr(importlib.import_module(f".{name}", __package__), "KIND"))
    )


@cache
def find(name: str) -> Kind:
    """The kind of a name: ``knn`` is this package's, ``some.module`` any module on Python's path with a ``KIND``.

    Raises:
        UserError: If there is no such module, or it offers no kind.
    """
    if "." not in name:
        if not (Path(__file__).parent / f"{name}.py").is_file():
            raise unknown("kind of protocol", name, names())
        module = importlib.import_module(f".{name}", __package__)
    else:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"the kind '{name}' cannot be imported: {error}",
                remedy="put its module on Python's path (PYTHONPATH)",
                code=2,
            ) from error
    kind = getattr(module, "KIND", None)
    if not isinstance(kind, Kind):
        raise UserError(
            f"the module {name} offers no kind of protocol",
            remedy="give it KIND = Kind(...), see eval/protocols/base.py",
            code=2,
        )
    return kind
