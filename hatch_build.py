"""What a build adds to the packages: known checkpoints, published numbers, and the state of the code."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PRETRAINED = ("README.md", "registry.yaml", "cards", "weights")
"""What of ``pretrained/`` travels; large files that a user put beside them do not."""


class Contents(BuildHookInterface[Any]):
    """Lays ``pretrained/`` and ``results/published/`` into the package ``eval`` and writes ``mast/REVISION``.

    An editable install gets neither: it reads the source tree.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the further files of a wheel (``version`` "standard" or "editable") or a source distribution."""
        if version == "editable":
            return
        root = Path(self.root)
        if self.target_name == "wheel":
            for name in PRETRAINED:
                build_data["force_include"][str(root / "pretrained" / name)] = f"eval/pretrained/{name}"
            build_data["force_include"][str(root / "results" / "published")] = "eval/published"
        if not (root / "mast" / "REVISION").is_file():  # it is there in an unpacked source distribution
            self.scratch = tempfile.TemporaryDirectory()
            stamp = Path(self.scratch.name) / "REVISION"
            stamp.write_text(f"{revision(root)}\n", encoding="utf-8")
            build_data["force_include"][str(stamp)] = "mast/REVISION"


def revision(root: Path) -> str:
    """The checkout's commit as `mast.rundir.git_stamp` writes it; outside of one ``MAST_REVISION``, or ""."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or a checkout of another owner: what the builder says counts
    return os.environ.get("MAST_REVISION", "")
