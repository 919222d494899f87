"""Every protocol is accounted for, and the page shows what the data say."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval import protocols

FILE = Path(__file__).parents[2] / "golden" / "evidence.py"
KEYS = {"protocols", "source", "running", "reading", "difference", "left"}


@pytest.fixture(scope="module")
def evidence() -> Any:
    spec = importlib.util.spec_from_file_location("evidence", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_protocol_stands_in_one_row(evidence: Any) -> None:
    counted = Counter(name for row in evidence.rows() for name in row["protocols"])
    assert counted == Counter(protocols.names())


def test_a_row_says_what_was_compared_and_what_came_of_it(evidence: Any) -> None:
    for row in evidence.rows():
        assert set(row) <= KEYS
        if row["source"] != evidence.OURS:
            assert {"running", "reading", "left"} & set(row), row["protocols"]
            assert ("running" in row) == ("difference" in row), row["protocols"]
            for what, effect in row.get("left", {}).items():
                assert what, row["protocols"]
                measured = any(letter.isdigit() for letter in effect)
                assert measured or effect.startswith(("not measured, ", "as ", "none")), effect


def test_what_is_not_verified_is_marked_on_the_protocol(evidence: Any) -> None:
    marked = {name for name in protocols.names() if protocols.get(name).unverified}
    said = {
        name
        for row in evidence.rows()
        if any("not verified" in what for what in row.get("left", {}))
        for name in row["protocols"]
    }
    assert marked == said != set()


def test_the_page_shows_the_data(evidence: Any) -> None:
    text = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.page(text) == text, "run python tests/golden/evidence.py"
