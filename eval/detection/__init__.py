"""Detection and instance segmentation: the only place that imports Detectron2, and nothing of it here."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import prepare
    from .pictures import Gallery
    from .run_cell import disk, forecast, run

__all__ = ["Gallery", "disk", "forecast", "prepare", "run"]
_HOMES = {
    "run": "run_cell",
    "disk": "run_cell",
    "forecast": "run_cell",
    "prepare": "data",
    "Gallery": "pictures",
}


def __getattr__(name: str) -> Any:
    """Import Detectron2 when one of these is first used, without the deprecation warnings of its dependencies."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    logging.getLogger("detectron2").addHandler(logging.NullHandler())  # it speaks where somebody listens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(f".{_HOMES[name]}", __name__)
    return getattr(module, name)
