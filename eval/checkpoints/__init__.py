"""What is this file, and did it really load? Layouts as data, safe reading, the passport, conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backbone import Backbone, Spatial, spatial
from .normalization import Normalization
from .passport import Passport

if TYPE_CHECKING:
    from .reading import Loaded, inspect, load

__all__ = ["Backbone", "Loaded", "Normalization", "Passport", "Spatial", "inspect", "load", "spatial"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name in ("Loaded", "inspect", "load"):
        from . import reading

        return getattr(reading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
