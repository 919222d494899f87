"""Who is ahead in a column: paired tests of all pairs, corrected together, and what they could have shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from ..numbers.intervals import EPISODE_KINDS, Array
from ..numbers.tests import TWO_SEEDS
from . import evidence
from .evidence import Evidence, Witness
from .parts import Cell, Column, Row, Section
from .records import Book

LEVEL: Final = 0.95


@dataclass(frozen=True)
class Standing:
    """One column's order.

    Attributes:
        rows: The R rows that are ranked: neither controls nor published numbers.
        values: (R,) what they reached.
        adjusted: (R, R) p values after Holm's correction; NaN where two do not pair.
        apart: (R, R) whether the interval of the row lies above the column's, where two do not pair.
        detectable: The smallest difference that the data would have shown in four of five cases: the median over
            pairs; None where nothing pairs.
        unit: What pairs, such as "1000 test examples"; empty where nothing does.
        unpaired: Why rows do not pair, by reason.
    """

    rows: Sequence[Row]
    values: Array
    adjusted: Array
    apart: Array
    detectable: float | None = None
    unit: str = ""
    unpaired: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    @cached_property
    def places(self) -> dict[Row, int]:
        """Where each row stands in `rows`."""
        return {row: number for number, row in enumerate(self.rows)}

    def ahead(self, level: float = LEVEL) -> Array:
        """(R, R) whether the row is surely ahead of the column's; all of it holds at once with this probability."""
        higher = self.values[:, None] > self.values[None, :]
        # A comparison with NaN is false: where there is no test, nothing is told apart by one.
        return ((self.adjusted < 1 - level) & higher) | self.apart

    @cached_property
    def leaders(self) -> Sequence[Row]:
        """The row with the highest value, then those that ties with it; empty where that is all of them."""
        if not len(self.rows):
            return []
        best = int(self.values.argmax())
        ahead = self.ahead()[best]
        ties = [row for number, row in enumerate(self.rows) if number != best and not ahead[number]]
        return [self.rows[best], *ties] if len(ties) < len(self.rows) - 1 else []

    @cached_property
    def ranks(self) -> dict[Row, tuple[int, int]]:
        """For each row its lowest and highest rank, 1 is best; all hold at once."""
        ahead = self.ahead()
        return {
            row: (1 + int(ahead[:, i].sum()), len(self.rows) - int(ahead[i].sum()))
            for i, row in enumerate(self.rows)
        }


@dataclass(frozen=True)
class Summary:
    """A row over all tasks: the mean of its values, and of its ranks with the range that the tests leave it."""

    mean: float
    rank: float | None = None
    low: float | None = None
    high: float | None = None


class Standings:
    """Who is ahead, column by column."""

    def __init__(self, book: Book) -> None:
        self.witness = Witness(book)
        self._known: dict[tuple[int, Column], Standing] = {}

    def of(self, section: Section, column: Column) -> Standing:
        """A column's standing; computed once."""
        key = id(section), column
        if key not in self._known:
            self._known[key] = standing(section, column, self.witness)
        return self._known[key]

    def summary(self, section: Section) -> dict[Row, Summary]:
        """Means and ranks over the headline columns, for the rows that miss none of them.

        A rank is the mean over columns of the rank by value among these rows. Its range is the mean of the ranges
        that hold in all columns at once with 95 % (Bonferroni over columns, Holm within). One row alone
        has none. Empty where there are fewer than two columns: there is no mean then.
        """
        columns = section.headline
        if len(columns) < 2:
            return {}
        whole = [row for row in section.rows if all((row, column) in section.cells for column in columns)]
        means = {row: float(np.mean([section.cells[row, c].value for c in columns])) for row in whole}
        ranked = [row for row in whole if not row.control and not row.published]
        if len(ranked) < 2:
            return {row: Summary(mean) for row, mean in means.items()}
        places, lows, highs = [], [], []
        for column in columns:
            found = self.of(section, column)
            at = [found.places[row] for row in ranked]
            ahead = found.ahead(1 - (1 - LEVEL) / len(columns))[np.ix_(at, at)]
            places.append(_ranks(found.values[at]))
            lows.append(1 + ahead.sum(0))
            highs.append(len(ranked) - ahead.sum(1))
        rank, low, high = (
            dict(zip(ranked, np.mean(one, axis=0), strict=True)) for one in (places, lows, highs)
        )
        return {
            row: Summary(mean, float(rank[row]), float(low[row]), float(high[row]))
            if row in rank
            else Summary(mean)
            for row, mean in means.items()
        }


def _ranks(values: Array) -> Array:
    """(R,) the rank of each value, the highest has 1; equal ones share the mean of theirs."""
    higher, equal = values[None, :] > values[:, None], values[None, :] == values[:, None]
    ranks: Array = higher.sum(1) + (1 + equal.sum(1)) / 2
    return ranks


def standing(section: Section, column: Column, witness: Witness) -> Standing:
    """Rank a column's measured checkpoints; controls and published numbers have no rank.

    One is behind another where their paired test, corrected with all others of the column by Holm's method, says so;
    where two do not pair, where their intervals lie apart.
    """
    cells = {
        row: section.cells[row, column]
        for row in section.rows
        if not row.control and not row.published and (row, column) in section.cells
    }
    rows = list(cells)
    kept, reasons = paired_evidence(cells, column, witness)
    tested = evidence.compare(list(kept.values()))
    spans = np.array([span(cell) for cell in cells.values()]).reshape(-1, 2)
    apart = spans[:, None, 0] > spans[None, :, 1]
    adjusted = np.full(apart.shape, np.nan)
    detectable, unit = None, ""
    known = {row: number for number, row in enumerate(rows)}
    for row in reasons.get(TWO_SEEDS, ()):  # which could pair, but nothing is decided by two
        apart[known[row]] = apart[:, known[row]] = False
    if tested is not None:
        places = [known[row] for row in kept]
        adjusted[np.ix_(places, places)] = tested.adjusted()
        apart[np.ix_(places, places)] = False
        found = tested.detectable[np.triu_indices(len(places), 1)]
        detectable = float(np.nanmedian(found)) if not np.isnan(found).all() else None
        one = next(iter(kept.values()))[0]
        unit = f"{one.examples} {one.unit}"
    values = np.array([cell.value for cell in cells.values()])
    return Standing(rows, values, adjusted, apart, detectable, unit, reasons)


def span(cell: Cell) -> tuple[float, float]:
    """The ends of an interval; those over few-shot episodes of one pool, and values without one, separate nothing."""
    if cell.low is None or cell.high is None or cell.interval in EPISODE_KINDS:
        return -np.inf, np.inf
    return cell.low, cell.high


def paired_evidence(
    cells: Mapping[Row, Cell], column: Column, witness: Witness
) -> tuple[dict[Row, list[Evidence]], dict[str, list[Row]]]:
    """What pairs, on the seeds that all of it has; and why the rest does not."""
    found: dict[Row, dict[int, Evidence]] = {}
    reasons: dict[str, list[Row]] = {}
    for row, cell in cells.items():
        told = {record.seed: witness.of(record, column.metric) for record in cell.records}
        missing = [reason for reason in told.values() if isinstance(reason, str)]
        if missing:
            reasons.setdefault(missing[0], []).append(row)
        else:
            found[row] = {seed: item for seed, item in told.items() if isinstance(item, Evidence)}
    shapes = [next(iter(items.values())).shape for items in found.values()]
    common = max(set(shapes), key=lambda shape: (shapes.count(shape), shape)) if shapes else None
    seeds = _shared(items.keys() for items in found.values())
    kept = {}
    for row, items in found.items():
        at_seeds = [items[seed] for seed in seeds]
        if not seeds:
            reasons.setdefault("they were measured with other seeds", []).append(row)
        elif any(item.shape != common for item in items.values()):
            reasons.setdefault("they keep other outcomes", []).append(row)
        elif evidence.too_few(at_seeds):
            reasons.setdefault(TWO_SEEDS, []).append(row)
        else:
            kept[row] = at_seeds
    return kept, reasons


def _shared(sets: Iterable[Iterable[int]]) -> list[int]:
    known = [set(one) for one in sets]
    return sorted(set.intersection(*known)) if known else []
