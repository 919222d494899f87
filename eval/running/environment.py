"""What a number was computed with: versions, commit, hardware. No path and no host name of the machine."""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

from ..doctor.machine import DISTRIBUTION, processor, version

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "detectron2", "pycocotools")


@cache
def describe() -> dict[str, Any]:
    """The environment of this process.

    Returns:
        ``mast`` (version, "not installed" where its folder is on the path alone), ``git`` (commit, "-dirty" where
        files differ from it, empty outside a checkout),
        ``python``, ``packages``, ``platform``, ``processor``, ``cores``, ``threads`` and ``device``.
    """
    import torch

    from mast.train import git_stamp

    versions = {name: found for name in PACKAGES if (found := version(name))}
    cuda = torch.cuda.is_available()
    return {
        "mast": version(DISTRIBUTION) or "not installed",
        "git": git_stamp(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }
