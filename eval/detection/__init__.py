"""Detection and instance segmentation: the only place that imports Detectron2, and nothing of it here."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import evaluate, score, tide
    from .data import prepare
    from .pictures import Gallery
    from .run_cell import disk, forecast, run

__all__ = ["Gallery", "disk", "evaluate", "forecast", "prepare", "run", "score", "tide"]
_HOMES = {
    "run": "run_cell",
    "disk": "run_cell",
    "forecast": "run_cell",
    "prepare": "data",
    "Gallery": "pictures",
}
_MODULES = ("evaluate", "score", "tide")


def __getattr__(name: str) -> Any:
    """Import Detectron2 when one of these is first used, without the deprecation warnings of its dependencies."""
    if name not in _HOMES and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    logging.getLogger("detectron2").addHandler(logging.NullHandler())  # it speaks where somebody listens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f".{_HOMES.get(name, name)}", __name__)
    return module if name in _MODULES else getattr(module, name)
