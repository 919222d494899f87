"""The folder of a run: whose it is, its log, and the passport of its result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .config import Recipe, parse_recipe
from .data import Source
from .errors import UserError
from .files import atomic_write, sweep

STATE, PUBLISHED, LOG, RECIPE, BOARD = (
    "state.pt",
    "backbone.safetensors",
    "log.jsonl",
    "recipe.json",
    "tensorboard",
)
History = list[dict[str, float]]


def check(recipe: Recipe, out: Path, resume: bool) -> None:
    """Whether ``out`` can become or is this recipe's folder, before any work and without a trace.

    Raises:
        UserError: If it holds another recipe's run, or one that is not to be resumed, or cannot be written.
    """
    mine = out / RECIPE
    if mine.is_file():
        before = parse_recipe(json.loads(mine.read_text(encoding="utf-8")), str(mine))
        if _text(before) != _text(recipe):
            raise UserError(
                f"{out} holds a run of another recipe",
                remedy="give another --out, or delete the folder",
                code=2,
            )
        if not resume:
            raise UserError(
                f"{out} holds a run of this recipe", remedy="add --resume to go on with it", code=2
            )
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(
            f"cannot write to {out}: {there} is no folder that can be written to",
            remedy="give a writable --out",
        )


def claim(recipe: Recipe, out: Path) -> None:
    """Make ``out`` this recipe's folder, once nothing is missing that a run needs, and clear what killed runs left.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        with atomic_write(out / RECIPE) as file:
            file.write(_text(recipe))
        sweep(out)
    except OSError as error:
        raise UserError(
            f"cannot write to {out} ({error.strerror})", remedy="give a writable --out"
        ) from error


def _text(recipe: Recipe) -> str:
    """Keys stay in the recipe's order, since the order of the augmentations counts."""
    return json.dumps(recipe.model_dump(mode="json"))


class Log:
    """One JSON line an epoch and, on demand, the same for TensorBoard.

    Args:
        out: The run's folder.
        history: What was logged before.
        tensorboard: Write TensorBoard's files as well.

    Raises:
        UserError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path, history: History, *, tensorboard: bool = False) -> None:
        self.path, self.history, self.board = out / LOG, history, None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError(
                    "tensorboard is not installed", remedy="pip install 'mast-transfer[tensorboard]'", code=2
                ) from error
            self.board = SummaryWriter(str(out / BOARD), purge_step=len(history) + 1)

    def add(self, line: dict[str, float]) -> None:
        """Log an epoch; ``line`` has its number under ``epoch``."""
        self.history.append(line)
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self.history)
        if self.board is not None:
            for name, value in line.items():
                self.board.add_scalar(name, value, int(line["epoch"]))
            self.board.flush()


def passport(recipe: Recipe, source: Source, history: History) -> dict[str, Any]:
    """What a reader of the published backbone must know."""
    return {
        "arch": recipe.arch,
        "method": recipe.method,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "data": {
            "folder": recipe.data.folder,
            "images": len(source.labels),
            "classes": len(source.classes),
        },
        "normalization": {"mean": list(recipe.mean), "std": list(recipe.std)},
        "input_size": recipe.views.size,
        "interpolation": "bicubic",
        "history": history,
        "git": git_stamp(),
        "versions": {"mast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def git_stamp() -> str:
    """The state of this code: a build's own stamp, else the commit of its checkout, else ``MAST_REVISION``, or ""."""
    package = Path(__file__).parent
    if (package / "REVISION").is_file():  # a wheel; hatch_build.py wrote it
        return (package / "REVISION").read_text(encoding="utf-8").strip()
    if (package.parent / ".git").exists():  # of this code, and not of a project that it is installed in
        command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or a checkout of another owner
    return os.environ.get("MAST_REVISION", "")
