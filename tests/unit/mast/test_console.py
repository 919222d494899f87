"""Progress lines: the time left is seen at 80 columns, whatever the title."""

from __future__ import annotations

import io
import re

from mast.console import FORMAT, bar


def shown(columns: int | None, title: str) -> str:
    file = io.StringIO()
    with bar(total=400, desc=title, file=file, ncols=columns, mininterval=0, miniters=1) as line:
        line.set_postfix({"loss": "1.234", "invariance": "0.123", "variance": "0.456", "covariance": "7.89"})
        line.update(100)
        line.refresh()
    return max(file.getvalue().split("\r"), key=lambda part: "25%" in part)


def test_the_time_left_is_seen_at_80_columns() -> None:
    title = (
        "mast5-imagenette96 · scenes-voc-colour · voc-fpn-tiny v3 seed 1: features of scenes-voc-colour train"
    )
    for columns in (80, None):
        line = shown(columns, title)
        assert re.match(r" 25% \d\d:\d\d left  mast5-imagenette96 · scenes", line)
    assert len(shown(80, title)) <= 80
    assert "100/400" in shown(None, title)
    assert "loss=1.234" in shown(None, title)


def test_the_line_names_what_stands_in_the_format() -> None:
    assert FORMAT.index("remaining") < FORMAT.index("desc") < FORMAT.index("postfix")
