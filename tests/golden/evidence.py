"""The table of docs/protocols.md of what each named protocol was held against: ``python tests/golden/evidence.py``.

It is made of ``evidence.yaml`` beside this file, in place of what stands between the two marks of the page. What is
left of a row is a mapping from a difference to what it moves: a number, or why there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mast import yaml

DATA = Path(__file__).with_name("evidence.yaml")
PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
BEGIN, END = "<!-- evidence: tests/golden/evidence.py writes this table -->", "<!-- end of evidence -->"
OURS = "this project"
HEAD = (
    "protocols", "their code", "compared by running", "by reading", "largest difference",
    "what is left, and what it moves",
)  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """What ``evidence.yaml`` says."""
    return list(yaml.read(DATA))


def table() -> str:
    """The table, without this project's own protocols."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in rows():
        if row["source"] != OURS:
            names = ", ".join(f"`{name}`" for name in row["protocols"])
            cells = [row.get(key, "–") for key in ("running", "reading", "difference")]
            left = "; ".join(f"{what}: *{effect}*" for what, effect in row.get("left", {}).items()) or "–"
            lines.append(f"| {names} | {row['source']} | {' | '.join(cells)} | {left} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table of today."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
