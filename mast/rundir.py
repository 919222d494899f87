"""The folder of a run: whose it is, its log, and the passport of its result."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from . import __version__
from .config import Recipe, parse_recipe
from .data import Source
from .errors import UserError
from .files import PUBLISHED as PUBLISHED
from .files import atomic_write, sweep
from .sinks import BOARD, RUNS, Place, Sinks

LOCK = ".lock"
STATE, LOG, RECIPE = "state.pt", "log.jsonl", "recipe.json"
History = list[dict[str, float]]


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keep a folder for this process; it is made, and removed again where nothing was written to it.

    Raises:
        UserError: If it cannot be written, or another process holds it.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(
            f"cannot write to {out}: {there} is no folder that can be written to",
            remedy="give a writable --out",
        )
    lock = FileLock(out / LOCK, timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{out}: another `mast pretrain` is at work in this folder",
            remedy="wait for it, or give another --out",
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write to {out}: {error.strerror or error}", remedy="give a writable --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
        if made and all(path.name == LOCK for path in out.iterdir()):
            (out / LOCK).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()


def check(recipe: Recipe, out: Path) -> bool:
    """Whether ``out`` can become or is this recipe's folder, before any work and without a trace.

    A run may be made longer where its learning rate does not depend on its length (``optimizer.final_lr`` 1).

    Returns:
        Whether the run is finished.

    Raises:
        UserError: If it holds another recipe's run; the message names the keys that differ.
    """
    mine = out / RECIPE
    if not mine.is_file():
        return False
    before = _read(mine)
    unused = {"masks", "uncertainty"} if recipe.method == "vicreg" else None
    differing = _differing(
        before.model_dump(mode="json", exclude=unused), recipe.model_dump(mode="json", exclude=unused)
    )
    longer = recipe.epochs > before.epochs and recipe.optimizer.final_lr == 1
    if differing and not (list(differing) == ["epochs"] and longer):
        told = ", ".join(f"{key} is {old}, asked is {new}" for key, (old, new) in list(differing.items())[:3])
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        remedy = "give another --out, or --fresh to start anew here"
        if list(differing) == ["epochs"]:
            remedy = f"the rate falls until the last epoch, so another length is another run: {remedy}"
        raise UserError(f"{out} holds a run of another recipe: {told}{more}", remedy=remedy, code=2)
    return not differing and (out / PUBLISHED).is_file()


def _read(path: Path) -> Recipe:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}", remedy="give another --out, or --fresh to start anew here"
        ) from error
    return parse_recipe(values, str(path))


def _differing(old: dict[str, Any], new: dict[str, Any], above: str = "") -> dict[str, tuple[str, str]]:
    """The dotted keys whose values differ, with both; the order of the augmentations counts."""
    found: dict[str, tuple[str, str]] = {}
    for key in dict.fromkeys([*new, *old]):
        one, two = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            found |= _differing(one, two, f"{above}{key}.")
        elif one != two or (key in old) != (key in new):
            found[above + key] = (json.dumps(one), json.dumps(two))
    if not found and list(old) != list(new):
        found[above.rstrip(".")] = (" ".join(old), " ".join(new))
    return found


def claim(recipe: Recipe, out: Path, *, fresh: bool = False) -> None:
    """Make ``out`` this recipe's folder, once nothing is missing that a run needs, and clear what killed runs left.

    Args:
        recipe: The recipe.
        out: The folder.
        fresh: Take away what a run left there.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        for name in (STATE, PUBLISHED, LOG, RECIPE, RUNS) if fresh else (PUBLISHED,):
            (out / name).unlink(missing_ok=True)
        if fresh:
            shutil.rmtree(out / BOARD, ignore_errors=True)
        with atomic_write(out / RECIPE) as file:
            file.write(json.dumps(recipe.model_dump(mode="json")))
        sweep(out)
    except OSError as error:
        raise UserError(
            f"cannot write to {out} ({error.strerror})", remedy="give a writable --out"
        ) from error


class Log:
    """One JSON line an epoch, and the same numbers for other programs where they are asked for.

    Args:
        out: The run's folder.
        history: What was logged before.
        recipe: What the run does.
        sinks: Names of `mast.sinks.NAMES`.
    """

    def __init__(self, out: Path, history: History, recipe: Recipe, sinks: Sequence[str] = ()) -> None:
        self.path, self.history = out / LOG, history
        facts = recipe.model_dump(mode="json") if sinks else {}
        self.sinks = Sinks(sinks, Place(out, recipe.name, facts, first=len(history) + 1))

    def add(self, line: dict[str, float]) -> None:
        """Log an epoch; ``line`` has its number under ``epoch``."""
        self.history.append(line)
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self.history)
        self.sinks.add(line, int(line["epoch"]))

    def close(self) -> None:
        """End what other programs were told."""
        self.sinks.close()


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
