"""A run's folder: what lies where, who may write to it, and what is done in it already.

It holds the result, ``records/``, ``outcomes/`` and ``passports/``, and what an interrupted run goes on from,
``pretrain/``, ``features/`` and ``work/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mast.files import PUBLISHED, atomic_write

from ..checkpoints import Passport
from ..claims import locked
from ..errors import UserError
from ..results.passports import file_name
from ..suites import Arm
from .recording import describe_checkpoint, plain


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        root: The folder.
        name: Of the plan, and so of its record file.
        store: The feature store, where it is not the folder's own.
    """

    root: Path
    name: str
    store: Path | None = None

    @property
    def records(self) -> Path:
        """The record file of the plan."""
        return self.root / "records" / f"{self.name}.jsonl"

    @property
    def features(self) -> Path:
        """The feature store."""
        return self.store or self.root / "features"

    def work(self, run_id: str) -> Path:
        """What an interrupted cell goes on from."""
        return self.root / "work" / run_id[:16]

    def early(self, run_id: str) -> Path:
        """The record of a cell that ended before its turn."""
        return self.work(run_id) / "early.jsonl"

    @property
    def known(self) -> Path:
        """What checkpoints were when they were last read."""
        return self.root / ".checkpoints.json"

    def published(self, arm: Arm) -> Path:
        """Where the backbone of an arm lies once it is pretrained."""
        return self.root / "pretrain" / arm.name / PUBLISHED

    def keep_passport(self, passport: Passport) -> None:
        """Keep a passport under the name and the hash that records know it by."""
        path = self.root / "passports" / file_name(describe_checkpoint(passport))
        with atomic_write(path) as file:
            json.dump(plain(passport.to_json()), file, indent=1, sort_keys=True)
            file.write("\n")


@contextmanager
def claim(out: Path, data_root: Path) -> Iterator[None]:
    """Make ``out`` this process's folder for the time of a run, before any work is done.

    Raises:
        UserError: If a folder is missing, is not writable, or another process writes to it.
    """
    if not data_root.is_dir():
        raise UserError(
            f"{data_root}: no such folder", remedy="give the folder of data sets as --data-root", code=2
        )
    with locked(out):
        yield
