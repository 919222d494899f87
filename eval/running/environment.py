"""What a number was computed with: versions, commit, hardware. No path and no host name of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from typing import Any

from ..doctor.machine import DISTRIBUTION, processor

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "detectron2", "pycocotools")


@cache
def describe() -> dict[str, Any]:
    """The environment of this process.

    Returns:
        ``mast`` (version), ``git`` (commit, "-dirty" where files differ from it, empty outside a checkout),
        ``python``, ``packages``, ``platform``, ``processor``, ``cores``, ``threads`` and ``device``.
    """
    import torch

    from mast.train import git_stamp

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "mast": importlib.metadata.version(DISTRIBUTION),
        "git": git_stamp(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }
