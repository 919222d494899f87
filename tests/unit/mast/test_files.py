"""What killed processes leave beside files that are written whole."""

from __future__ import annotations

import os
from pathlib import Path

from mast.files import sweep


def test_stale_files_go_and_young_ones_stay(tmp_path: Path) -> None:
    stale, young, other = (
        tmp_path / name for name in (".state.pt.ab12.tmp", ".log.jsonl.cd34.tmp", "state.pt")
    )
    for path in (stale, young, other):
        path.write_text("")
        os.utime(path, (1, 1) if path != young else None)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young.name, other.name])
