"""The simulation of the scheduler: what can be reckoned by hand comes out, and docs/scale.md has its tables."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))
scale = __import__("scale")


def test_one_slot_takes_the_sum_of_all_work() -> None:
    rates = scale.Rates(overhead=1.0)
    machine = scale.Machine("one", 1, extract=1000.0, fit=1.0, bound="")
    images = sum(count for count, _ in scale.TASKS.values())
    products = sum(count * scale.DIM * classes / 1e9 for count, classes in scale.TASKS.values())
    expected = 40 * (images / 1000 + 5 * (products + len(scale.TASKS)))
    seconds, busy, reading = scale.simulate(machine, rates)
    assert seconds == pytest.approx(expected)
    assert busy == pytest.approx(1.0)
    assert reading == pytest.approx(40 * images / 1000 / expected)


def test_slots_share_the_work_and_never_beat_their_number() -> None:
    rates = scale.Rates()
    one, many = (scale.Machine("", slots, 1000.0, 1.0, "") for slots in (1, 16))
    alone, shared = scale.simulate(one, rates)[0], scale.simulate(many, rates)[0]
    assert alone / 16 <= shared < 1.3 * alone / 16


def test_cells_on_the_same_features_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One checkpoint, one task, two seeds, two slots: the second cell begins when the first has extracted."""
    monkeypatch.setattr(scale, "CHECKPOINTS", 1)
    monkeypatch.setattr(scale, "SEEDS", 2)
    monkeypatch.setattr(scale, "TASKS", {"small": (1000, 1)})
    machine = scale.Machine("", 2, extract=100.0, fit=1e9, bound="")
    assert scale.simulate(machine, scale.Rates(overhead=2.0))[0] == pytest.approx(10 + 2 + 2, abs=1e-3)


def test_the_page_has_the_tables() -> None:
    assert scale.tables(scale.Rates()) in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_a_faster_forward_does_not_help_where_decoding_binds() -> None:
    slow = scale.Rates(decode=50)
    (machine, *_) = scale.machines(slow)
    (faster, *_) = scale.machines(replace(slow, gpu_forward=2 * slow.gpu_forward))
    assert machine.bound == "decoding"
    assert machine.extract == faster.extract
