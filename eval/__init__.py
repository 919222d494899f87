"""The transfer evaluation harness, and its Python API: ``from eval import load_backbone, extract, ...``.

``eval`` is also the name of a builtin function: write ``from eval import x`` or ``from eval.x import y``, never
``import eval``. Nothing heavy is imported before a function of the API is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compare, evaluate, extract, load_backbone, read_records

__all__ = ["compare", "evaluate", "extract", "load_backbone", "read_records"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
