"""The parts of a table: who (rows), what (columns), how (sections), and the cells where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..numbers.intervals import Interval
from .records import Record


@dataclass(frozen=True)
class Heading:
    """What stands over a section.

    Attributes:
        name: Such as ``linear v1``, or ``Published: vicreg-table1``.
        overrides: What was overridden, such as ``epochs=10``.
        note: What tells it from another section of the same name and overrides.
        shown: What a reader wants to see instead.
    """

    name: str
    overrides: str = ""
    note: str = ""
    shown: str = ""

    def __str__(self) -> str:
        if self.shown:
            return self.shown
        overrides = f" ({self.overrides})" if self.overrides else ""
        return f"{self.name}{overrides}" + (f" [{self.note}]" if self.note else "")


@dataclass(frozen=True)
class Row:
    """Who: one checkpoint, or one method and backbone of a publication.

    Attributes:
        name: The checkpoint's name.
        identity: Of a checkpoint, a hash of its weights with their preprocessing.
        label: The name, with the start of a hash where a name stands for several weights.
        control: Whether its weights are random on purpose.
        published: Whether it stands for published numbers and was not measured here.
        cite: The BibTeX key of its publication, if it is known.
    """

    name: str
    identity: str
    label: str
    control: bool = False
    published: bool = False
    cite: str = ""


@dataclass(frozen=True)
class Column:
    """What: one metric of one version of a task on one state of its data; a publication names task and metric only.

    Attributes:
        task, version, manifest, metric: As in records.
        headline: Whether it is the task's own metric, which counts for mean and rank.
        note: What tells it from another column of the same task and metric.
        shown: What a reader wants to see instead.
        size: In a curve, how many labels there were: ``10`` a class, a share such as ``10%``, or ``all``.
    """

    task: str
    version: int | None
    manifest: str | None
    metric: str
    headline: bool
    note: str = ""
    shown: str = ""
    size: str = ""

    @property
    def label(self) -> str:
        """Such as ``cifar10 top1``."""
        return self.shown or f"{self.task} {self.metric}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Cell:
    """A fraction with its intervals.

    Attributes:
        value: The mean over its records.
        low, high, interval, level: The interval over test examples or episodes, and its kind; over several seeds the
            mean of the ends, which is wide enough.
        over_seeds: Student's interval over evaluation seeds, where there are several.
        records: One a seed.
        seeds: Over how many seeds it is; 1 where all have the same outcomes, a published number has none.
        source: Where it was published, if it was not measured here.
    """

    value: float
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    level: float | None = None
    over_seeds: Interval | None = None
    records: tuple[Record, ...] = ()
    seeds: int = 0
    source: str | None = None

    @property
    def span(self) -> tuple[float, float]:
        """The ends of its interval; without one, the value is both."""
        return self.value if self.low is None else self.low, self.value if self.high is None else self.high


@dataclass(frozen=True)
class Section:
    """All results under one protocol version and one set of parameters; or those of one publication.

    Attributes:
        heading: What stands over it.
        rows: Measured ones first.
        columns: In the order of the tasks.
        cells: What was not measured is absent.
    """

    heading: Heading
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: dict[tuple[Row, Column], Cell]

    @cached_property
    def curves(self) -> dict[tuple[str, str], list[Column]]:
        """The columns of each label-efficiency curve, by task and metric, the fewest labels first."""
        found: dict[tuple[str, str], list[Column]] = {}
        for column in self.columns:
            if column.size:
                found.setdefault((column.task, column.metric), []).append(column)
        return found

    def labels(self, column: Column) -> float:
        """Labelled images of a size, the mean over its cells."""
        found = [
            record.data.counts
            for row in self.rows
            for record in (self.cells[row, column].records if (row, column) in self.cells else ())
        ]
        counts = [one.get("train_images", one.get("train", 0) + one.get("val", 0)) for one in found]
        return sum(counts) / len(counts) if counts else 0.0

    @property
    def title(self) -> str:
        """The heading as text, such as ``linear v1 (epochs=10)``."""
        return str(self.heading)

    @cached_property
    def headline(self) -> list[Column]:
        """The columns that count for mean and rank."""
        return [column for column in self.columns if column.headline]
