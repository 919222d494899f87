"""Measures without labels as they are kept, beside the accuracies of the same checkpoints.

One JSON line for each measure of each checkpoint on each set of images, in ``measures/*.jsonl`` of a run's folder;
for linear CKA one for each pair. Lines are only added; of lines with the same `Measure.key` the latest counts.
``docs/labelfree.md`` has the keys.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from mast.files import canonical_json

from ..errors import UserError
from ..numbers import labelfree
from ..numbers.intervals import Interval
from . import escape, records
from .parts import Column, Section
from .records import CheckpointEntry

FOLDER: Final = "measures"
# In the order of tables: the name in lines and on the command line, and for people.
NAMES: Final = {
    "rankme": "RankMe",
    "effective-rank": "effective rank",
    "alpha-req": "alpha-ReQ",
    "lidar": "LiDAR",
    "cka": "linear CKA",
}
PAIRED: Final = "cka"


class Measure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line, schema 1.

    Attributes:
        name: A key of `NAMES`.
        value: The number, in no unit; None where it does not exist.
        why: Then the reason.
        checkpoint: Whose features.
        other: The second one of a pair.
        task: The task or place whose images they are.
        split: Of its images.
        manifest: Hash of the data.
        images: How many were looked at.
        dim: Length of a feature; of a pair, both.
        params: What else decides the number: ``extraction``, ``seed`` of the draw of images, and the measure's own.
        environment: As in records.
        started: ISO 8601, UTC.
    """

    schema: Literal[1] = 1
    name: Literal["rankme", "effective-rank", "alpha-req", "lidar", "cka"]
    value: float | None = None
    why: str | None = None
    checkpoint: CheckpointEntry
    other: CheckpointEntry | None = None
    task: Annotated[str, Meta(min_length=1)]
    split: str
    manifest: records.Sha256
    images: Annotated[int, Meta(ge=2)]
    dim: list[int]
    params: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    started: str

    def __post_init__(self) -> None:
        if (self.value is None) == (self.why is None):
            raise ValueError("a measure has a value, or says why it has none")
        if (self.name == PAIRED) != (self.other is not None):
            raise ValueError("linear CKA alone is of two checkpoints")

    @property
    def key(self) -> str:
        """Everything that decides the number, as canonical JSON."""
        other = self.other.identity if self.other else None
        about = [self.checkpoint.identity, other, self.manifest, self.split, self.images, self.params]
        return canonical_json([self.name, *about])

    @property
    def heading(self) -> str:
        """What stands over its column, such as ``LiDAR (1,000 images x 50 views)``."""
        views = f" x {self.params['views']} views" if "views" in self.params else ""
        return f"{NAMES[self.name]} ({self.images:,} images{views})"

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Which features it looked at: task, split, manifest, and how images were prepared and drawn."""
        how = {key: self.params.get(key) for key in ("extraction", "seed")}
        return self.task, self.split, self.manifest, canonical_json(how)


_DECODER: Final = msgspec.json.Decoder(Measure)


def append(path: Path, measure: Measure) -> None:
    """Add one line to a file of measures, under a lock and flushed to the disk.

    Raises:
        Unwritable: If the disk is full.
        ValueError: If the line is not of the schema; nothing is written.
    """
    line = canonical_json(msgspec.to_builtins(measure)).encode()
    _DECODER.decode(line)
    records.append_line(path, line)


def files(place: Path) -> list[Path]:
    """The files of measures in a run's folder."""
    return sorted((place / FOLDER).glob("*.jsonl")) if place.is_dir() else []


def read(places: Iterable[Path]) -> list[Measure]:
    """The measures that count, in the order in which they were first taken.

    A line that is not whole JSON is what a killed process leaves; it is left out.

    Raises:
        UserError: If a line is JSON but no measure, naming file and line.
    """
    found: dict[str, Measure] = {}
    for path in (path for place in places for path in files(place)):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                measure = _DECODER.decode(line)
            except msgspec.DecodeError as error:
                try:
                    json.loads(line)
                except ValueError:
                    continue
                raise UserError(
                    f"{path}:{number}: not a valid measure: {error}", remedy="mend or remove that line"
                ) from error
            if measure.key not in found or measure.started >= found[measure.key].started:
                found[measure.key] = measure
    return list(found.values())


# -------------------------------------------------------------------------------------------- beside accuracies


@dataclass(frozen=True)
class Agreement:
    """How the order by a measure agrees with the order by an accuracy, over checkpoints.

    Attributes:
        measure: Heading of the measure.
        accuracy: Heading of the accuracy.
        correlation: With its interval.
    """

    measure: str
    accuracy: str
    correlation: labelfree.Correlation

    def cells(self) -> list[str]:
        """As text: measure, accuracy, correlation, interval, number of checkpoints."""
        found = self.correlation
        ends = (
            f"[{found.interval.low:+.2f}, {found.interval.high:+.2f}]"
            if isinstance(found.interval, Interval)
            else f"none: {found.interval.reason}"
        )
        return [self.measure, self.accuracy, f"{found.rho:+.2f}", ends, str(found.count)]


AGREEMENT: Final = ("measure", "accuracy", "Spearman's rho", "95 % interval", "checkpoints")


@dataclass
class Line:
    """One checkpoint of a sheet.

    Attributes:
        entry: The checkpoint.
        measures: By heading.
        accuracies: Fractions by heading.
    """

    entry: CheckpointEntry
    measures: dict[str, Measure] = field(default_factory=dict)
    accuracies: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name, and whether its weights are random."""
        return self.entry.name if self.entry.trained is not False else f"{self.entry.name} (random)"


@dataclass
class Sheet:
    """All measures on one set of images, and the accuracies of the same checkpoints on the same task.

    Attributes:
        task, split, manifest: Which images.
        lines: One for each checkpoint, in the order in which they were measured.
        measures: Headings of the measures.
        accuracies: Headings of the accuracies.
        pairs: Linear CKA by the identities of both checkpoints.
        agreements: Rank correlations over trained checkpoints, where there are at least five.
    """

    task: str
    split: str
    manifest: str
    lines: list[Line] = field(default_factory=list)
    measures: list[str] = field(default_factory=list)
    accuracies: list[str] = field(default_factory=list)
    pairs: dict[tuple[str, str], Measure] = field(default_factory=dict)
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Such as ``cifar10, train``."""
        return f"{self.task}, {self.split}"

    def reasons(self) -> list[str]:
        """Why values are missing."""
        found = [measure for line in self.lines for measure in line.measures.values()]
        return sorted({measure.why for measure in (*found, *self.pairs.values()) if measure.why})


def sheets(taken: Sequence[Measure], sections: Sequence[Section]) -> list[Sheet]:
    """Arrange measures by the images that they looked at, with the accuracies of a table's sections beside them.

    Args:
        taken: The measures.
        sections: Of a table: cells are matched by the checkpoint's weights and preprocessing, and by the task.
    """
    found: dict[tuple[str, str, str, str], Sheet] = {}
    lines: dict[tuple[Any, ...], Line] = {}
    for measure in sorted(taken, key=lambda one: list(NAMES).index(one.name)):
        sheet = found.setdefault(measure.place, Sheet(measure.task, measure.split, measure.manifest))
        if measure.other is not None:
            sheet.pairs[measure.checkpoint.identity, measure.other.identity] = measure
            continue
        key = (measure.place, measure.checkpoint.name, measure.checkpoint.identity)
        if key not in lines:
            lines[key] = Line(measure.checkpoint)
            sheet.lines.append(lines[key])
        lines[key].measures[measure.heading] = measure
        if measure.heading not in sheet.measures:
            sheet.measures.append(measure.heading)
    for sheet in found.values():
        _put_beside(sheet, sections)
    return list(found.values())


def _put_beside(sheet: Sheet, sections: Sequence[Section]) -> None:
    """Add the accuracies on the sheet's task, and how the orders agree."""
    for section in sections:
        for column in section.headline:
            if column.task != sheet.task or column.size:
                continue
            values = {
                row.identity: section.cells[row, column].value
                for row in section.rows
                if (row, column) in section.cells and not row.published
            }
            there = [line for line in sheet.lines if line.entry.key in values]
            heading = _heading(section, column)
            for line in there:
                line.accuracies[heading] = values[line.entry.key]
            if there:
                sheet.accuracies.append(heading)
    trained = [line for line in sheet.lines if line.entry.trained is not False]
    for name in sheet.measures:
        for heading in sheet.accuracies:
            both = [
                (measure.value, line.accuracies[heading])
                for line in trained
                if heading in line.accuracies
                and (measure := line.measures.get(name)) is not None
                and measure.value is not None
            ]
            try:
                found = labelfree.rank_correlation([one for one, _ in both], [other for _, other in both])
            except labelfree.Undefined:  # too few checkpoints, or all alike: nothing to be said
                continue
            sheet.agreements.append(Agreement(name, heading, found))


def _heading(section: Section, column: Column) -> str:
    note = f" ({column.note})" if column.note else ""
    return f"{section.title} {column.metric}{note}"


# ------------------------------------------------------------------------------------------------------- output


def shown(measure: Measure | None) -> str:
    """A value for people: four digits; ``none`` where it does not exist, nothing where it was not taken."""
    if measure is None:
        return ""
    return "none" if measure.value is None else f"{measure.value:.4g}"


def grid(sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a sheet as text; accuracies in percent."""
    rows = [
        [
            line.label,
            *(shown(line.measures.get(name)) for name in sheet.measures),
            *(
                f"{100 * line.accuracies[name]:.1f}" if name in line.accuracies else ""
                for name in sheet.accuracies
            ),
        ]
        for line in sheet.lines
    ]
    return ["checkpoint", *sheet.measures, *sheet.accuracies], rows


def pair_grid(sheet: Sheet) -> tuple[list[str], list[list[str]]]:
    """Linear CKA of all pairs as text, a row and a column for each checkpoint."""
    entries = {
        entry.identity: entry.name
        for measure in sheet.pairs.values()
        for entry in (measure.checkpoint, measure.other)
        if entry is not None
    }
    rows = []
    for one, name in entries.items():
        line = [sheet.pairs.get((one, other), sheet.pairs.get((other, one))) for other in entries]
        rows.append(
            [
                name,
                *("1" if other == one else shown(m) for other, m in zip(entries, line, strict=True)),
            ]
        )
    return ["linear CKA", *entries.values()], rows


def text(found: Sequence[Sheet]) -> str:
    """All sheets for a terminal."""
    parts = []
    for sheet in found:
        blocks = [grid(sheet), pair_grid(sheet)]
        if sheet.agreements:
            blocks.append((list(AGREEMENT), [agreement.cells() for agreement in sheet.agreements]))
        lines = [escape.line(sheet.title)]
        for heads, rows in blocks:
            if rows:
                lines += [*_aligned([heads, *rows]), ""]
        lines += [f"none: {why}" for why in sheet.reasons()]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[escape.line(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def comma_separated(found: Sequence[Sheet]) -> str:
    """All sheets as CSV, a line for each checkpoint: measures, accuracies as fractions, CKA with later ones."""
    about = ["task", "split", "manifest", "checkpoint", "weights_sha256", "trained", "dim"]
    names = dict.fromkeys(name for sheet in found for name in (*sheet.measures, *sheet.accuracies))
    others = dict.fromkeys(_other(pair) for sheet in found for pair in sheet.pairs.values())
    buffer = io.StringIO()
    written = csv.writer(buffer, lineterminator="\n")
    heads = [*about, *names, *others]
    written.writerow([escape.csv_text(head) for head in heads])
    for sheet in found:
        for line in sheet.lines:
            entry, first = line.entry, next(iter(line.measures.values()))
            values: dict[str, Any] = {name: one.value for name, one in line.measures.items()}
            values |= line.accuracies
            values |= {
                _other(pair): pair.value
                for pair in sheet.pairs.values()
                if pair.checkpoint.identity == entry.identity
            }
            trained = str(entry.trained is not False).lower()
            told = [sheet.task, sheet.split, sheet.manifest, entry.name, entry.weights_sha256, trained]
            row = [*told, first.dim[0], *(values.get(head) for head in (*names, *others))]
            written.writerow([escape.csv_text(item) if isinstance(item, str) else item for item in row])
    return buffer.getvalue()


def _other(pair: Measure) -> str:
    """The column of a pair, named by its second checkpoint."""
    return f"{pair.heading} with {pair.other.name if pair.other else ''}"
