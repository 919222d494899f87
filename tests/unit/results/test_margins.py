"""One row against another in few words."""

from __future__ import annotations

from collections.abc import Callable

from eval.results import tables
from eval.results.margins import Side, margins
from eval.results.records import Book, Record


def test_unpaired_rows_are_told_apart_by_their_intervals(make_record: Callable[..., Record]) -> None:
    values = {"a": {"near": 0.52, "far": 0.9, "lower": 0.1}, "b": {"near": 0.5, "far": 0.5, "lower": 0.5}}
    weights = {"a": "0", "b": "1"}
    made = [
        make_record(name=name, weights=weights[name], task=task, value=v, interval=(v - 0.05, v + 0.05))
        for name, tasks in values.items()
        for task, v in tasks.items()
    ]
    made.append(make_record(name="a", weights=weights["a"], task="alone", value=0.3))
    made += [make_record(name=n, weights=weights[n], task="bare", value=0.3, interval=None) for n in values]
    found = margins(tables.build(Book(made, [])), "a", "b")
    sides = {column.split(": ")[1].split()[0]: side for column, side in found.sides.items()}
    assert sides == {"near": Side.OPEN, "far": Side.ABOVE, "lower": Side.BELOW, "bare": Side.UNKNOWN}
    told = found.lines()
    assert told[0] == "a against b: above in 1 of 3 rows"
    assert [line.split(":")[0].strip() for line in told[1:]] == ["below", "not told apart", "no interval"]
