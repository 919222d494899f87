"""Protocol delta: several protocols, one feature set."""

from __future__ import annotations

import numpy as np
import pytest

from eval import delta, protocols, tasks
from eval.protocols import Labelled


@pytest.fixture(scope="module")
def rows() -> list[delta.Row]:
    generator = np.random.default_rng(0)
    y = generator.integers(3, size=300)
    x = (generator.normal(size=(300, 5)) + 1.5 * np.eye(5)[y]).astype(np.float32)
    chosen = [
        protocols.get(name).override({"penalties": [-2, 2, 5]})
        for name in ("linear", "linear-ericsson2021", "ridge")
    ]
    train, val = Labelled(x[:120], y[:120], 3), Labelled(x[120:180], y[120:180], 3)
    return delta.compare(chosen, train, val, (x[180:], y[180:]), metric="top1")


def test_the_first_protocol_is_what_others_are_compared_with(rows: list[delta.Row]) -> None:
    assert [row.protocol for row in rows] == ["linear v1", "linear-ericsson2021 v2", "ridge v1"]
    assert rows[0].delta == 0
    assert rows[2].delta == pytest.approx(rows[2].value - rows[0].value)
    assert all(
        row.interval is not None and row.interval.low <= row.value <= row.interval.high for row in rows
    )


def test_the_table_states_the_spread(rows: list[delta.Row]) -> None:
    text = delta.render(rows)
    spread = 100 * (max(row.value for row in rows) - min(row.value for row in rows))
    assert f"moves top1 by {spread:.2f} points" in text
    assert text.count("| linear") == 2


def test_versions_of_a_task() -> None:
    names = [protocol.name for protocol in delta.versions(tasks.get("cifar10"), "linear")]
    assert {"linear", "linear-ericsson2021", "linear-augself2021", "linear-dinov2", "linear-sgd"} <= set(
        names
    )
    assert "knn" not in names
