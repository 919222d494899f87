"""What was measured becomes a line of a record file, whatever library's numbers it holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.numbers import intervals
from eval.protocols import Estimate
from eval.running.recording import metric

VALUES = np.linspace(0.2, 0.8, 20)


@pytest.mark.parametrize(
    "interval",
    [
        intervals.NoInterval("nothing varies"),
        intervals.wilson(7, 20),
        intervals.episodes(VALUES),
        intervals.normal_legacy(VALUES),
        intervals.effective(np.float64(0.5), VALUES.var(), 20, "wilson-bootstrap"),
        intervals.average_precision(np.float64(0.5), VALUES, np.array([9])),
        intervals.calibration(np.linspace(0.3, 1, 100), np.arange(100) % 2 == 0),
    ],
    ids=lambda interval: interval.kind,
)
def test_numbers_are_plain(interval: intervals.Interval | intervals.NoInterval) -> None:
    found = metric(Estimate(np.float64(0.5), interval))
    for value in (found.value, found.low, found.high):
        assert value is None or type(value) is float
    assert json.dumps([found.value, found.low, found.high])
    assert (found.low is None) == isinstance(interval, intervals.NoInterval)
    assert found.interval == interval.kind
