"""What can be changed about a detection run beside Detectron2's own keys; needs no Detectron2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, unknown

OPTIONS = {
    "tiny": bool,  # small heads, sizes and schedule: the protocol's own `tiny` part
    "batch": int,  # scales learning rate, schedule and warm-up with it
    "iterations": int,  # stretches or shortens schedule and warm-up alone
    "device": str,
    "workers": int,
    "maps_gb": int,  # what stored maps may take on the disk, in units of 10**9 bytes
    "processes": int,  # of this machine, one for each GPU, which share every batch
    "train_images": int,  # only so many training images, drawn with the cell's seed
    "shots": int,  # only so many training objects of each class, or "10%" of the images; drawn with the cell's seed
}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


def training_images(shots: int | str | None, images: int) -> int | None:
    """How many training images a share such as ``10%`` is; None for what is no share."""
    found = _SHARE.fullmatch(shots) if isinstance(shots, str) else None
    return max(1, round(float(found[1]) / 100 * images)) if found else None


def options_of(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options among overrides; what has a dot is Detectron2's.

    Raises:
        UserError: For an option that does not exist, or a value that is not of its type.
    """
    options = {key: value for key, value in overrides.items() if "." not in key}
    for key, value in options.items():
        if key not in OPTIONS:
            raise unknown("detection option", key, OPTIONS)
        share = _SHARE.fullmatch(value) if key == "shots" and isinstance(value, str) else None
        if share and 0 < float(share[1]) < 100:
            continue
        if not isinstance(value, OPTIONS[key]) or (OPTIONS[key] is int and isinstance(value, bool)):
            raise UserError(
                f"detection option {key}={value!r} is not {OPTIONS[key].__name__}",
                remedy=f"give {key} a value of that type",
                code=2,
            )
    return options
