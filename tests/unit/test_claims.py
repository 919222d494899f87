"""A folder belongs to one run and is written to by one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eval.claims import claim, locked
from eval.errors import UserError


def test_what_another_run_left_is_not_gone_on_from(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 0, "params": {"k": 1}}, keeps=["*.pt"])
    claim(tmp_path, {"seed": 1, "params": {"k": 1}}, keeps=["*.pt"])  # nothing lies there yet
    (tmp_path / "final.pt").write_text("")
    claim(tmp_path, {"params": {"k": 1}, "seed": 1}, keeps=["*.pt"])
    with pytest.raises(UserError, match=r"holds another run .it differs in params, seed"):
        claim(tmp_path, {"seed": 0, "params": {"k": 2}}, keeps=["*.pt"])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eval.claims import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout is not None
    held.stdout.readline()
    with pytest.raises(UserError, match="another process is writing to it"), locked(tmp_path / "new"):
        pass
    held.communicate()
    with locked(tmp_path / "new"):
        pass


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), locked(tmp_path / "file"):
        pass
