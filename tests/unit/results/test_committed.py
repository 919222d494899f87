"""What is committed under results/ is what the committed records give, to the byte, by the commands of its README."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eval.analysis import write as analysis
from eval.cli.entry import main
from eval.results import records
from mast.files import sha256_file

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results"
DRAWN = (".svg", ".png")
OF_NETWORKS = RESULTS / "figures" / "nearest"  # drawn from weights and images, which are not committed
BY_ANALYZE = RESULTS / "figures" / "leave-one-out"  # `mast analyze` writes a folder


def commands() -> Iterator[list[str]]:
    """Every command of the README with ``--check``, as words."""
    for line in (RESULTS / "README.md").read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith(("mast ", "python ")) and "--check " in line:
            yield shlex.split(line, comments=True)


def checked(words: list[str]) -> Path:
    return ROOT / words[words.index("--check") + 1]


def pinned() -> bool:
    """Whether what draws has the versions of ``constraints.txt``, without which figures have other bytes."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = dict(line.split("==") for line in lines if not line.startswith("#"))
    names = ("matplotlib", "numpy", "scipy", "kiwisolver", "contourpy")
    return all(importlib.metadata.version(name) == wanted[name] for name in names)


@pytest.mark.parametrize(
    "words", list(commands()), ids=lambda words: checked(words).relative_to(RESULTS).as_posix()
)
def test_records_give_what_is_committed(words: list[str]) -> None:
    program, *words = words
    path = checked(words)
    if (path.is_dir() or path.suffix in DRAWN) and not pinned():
        pytest.skip("other versions than those of constraints.txt draw other bytes")
    if program == "python":
        call = [sys.executable, *words]
        subprocess.run(call, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    else:
        assert main([f"{ROOT}/{word}" if word.startswith("results/") else word for word in words]) == 0


def test_every_committed_file_has_its_command() -> None:
    held = [checked(words) for words in commands()]
    for folder in ("tables", "comparisons", "figures"):
        for path in (RESULTS / folder).rglob("*"):
            if (
                path.is_file()
                and path.parent not in (OF_NETWORKS, BY_ANALYZE)
                and path.stem != "leave-one-out"
            ):
                assert path in held or path.parent in held, f"{path}: no command with --check in its README"


def test_differences_of_augmentations_are_those_of_the_records(tmp_path: Path) -> None:
    analysis.compare(tmp_path, RESULTS / "records" / "leave-one-out", "all")
    committed = RESULTS / "comparisons" / "leave-one-out.csv"
    assert (tmp_path / "differences.csv").read_bytes() == committed.read_bytes()
    if pinned():
        for path in BY_ANALYZE.iterdir():
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


def test_every_record_is_whole_and_has_its_outcomes_unaltered() -> None:
    book = records.read([RESULTS / "records"])
    assert book.problems == []
    for record in book.counting():
        assert book.outcomes_file(record).is_file()
    for path in (RESULTS / "outcomes").iterdir():
        assert sha256_file(path) == path.name.partition(".")[0]
