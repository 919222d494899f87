"""Is one method better than another? Paired over pretraining seeds, or over test examples and episodes."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mast.files import canonical_json

from ..errors import UserError, unknown
from ..numbers import tests
from ..numbers.tests import Paired
from .records import Book, Record
from .tables import Heading, protocol_heading

Pair = tuple[str, str]


@dataclass(frozen=True)
class Line:
    """One measurement, or the mean of several.

    Attributes:
        task, protocol, metric: What was measured; for a mean, ``task`` is the group's name.
        values: For each name its values, as fractions, by pretraining seed ("" for a single checkpoint).
        results: For each pair the difference of the first over the second.
        tasks: How many tasks it is the mean of.
    """

    task: str
    protocol: Heading
    metric: str
    values: Mapping[str, Mapping[str, float]]
    results: Mapping[Pair, Paired]
    tasks: int = 1


@dataclass(frozen=True, order=True)
class _What:
    """What two checkpoints must share to be compared: never across versions or data."""

    task: str
    metric: str
    parameters: str
    version: int
    manifest: str


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints or methods, task by task.

    Attributes:
        pairs: What is compared.
        lines: In the order of the records, a protocol's means after its tasks.
        units: What pairs are over.
        notes: Where the two sides of a pair saw their images prepared differently, a sentence each.
    """

    pairs: tuple[Pair, ...]
    lines: list[Line] = field(default_factory=list)
    units: dict[Pair, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All names, each once."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair))


def build(
    book: Book,
    pairs: Sequence[Pair],
    *,
    metrics: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Comparison:
    """Compare by records.

    A name is a checkpoint's, or a method's whose checkpoints are called ``NAME-SEED``. Two methods are paired by
    pretraining seed, with Student's interval over the seeds that both have; two checkpoints by test example or
    episode (and have an interval only where the records' outcomes tell right from wrong).

    Args:
        book: The records.
        pairs: Two names each: the first against the second.
        metrics: What to compare where a record has it; each task's own metric when empty.
        groups: Names for sets of tasks: the mean over them is compared as well, within each protocol. Without
            any, the mean over all tasks is.

    Raises:
        UserError: If a name or a group's task is in no record.
    """
    records = book.counting()
    known = sorted({record.checkpoint.name for record in records})
    seeds = {name: _checkpoints(name, known) for pair in pairs for name in pair}
    found: dict[Heading, dict[_What, dict[str, list[Record]]]] = {}
    for record in records:
        for metric in metrics or [record.task.metric]:
            if metric in record.metrics:
                entry, manifest = record.task, record.data.manifest or ""
                what = _What(entry.name, metric, record.protocol.key, entry.version, manifest)
                cells = found.setdefault(protocol_heading(record.protocol), {}).setdefault(what, {})
                cells.setdefault(record.checkpoint.name, []).append(record)
    tasks = sorted({what.task for part in found.values() for what in part})
    for task in (task for group in (groups or {}).values() for task in group):
        if task not in tasks:
            raise unknown("task", task, tasks)
    comparison = Comparison(tuple(pairs))
    for pair in pairs:
        single = all(set(seeds[name]) == {""} for name in pair)
        comparison.units[pair] = "test examples or episodes" if single else "pretraining seeds"
        comparison.notes.extend(_prepared(pair, [seeds[name].values() for name in pair], records))
    for protocol, part_of in found.items():
        lines = [
            _line(protocol, what, cells, seeds, comparison, book) for what, cells in sorted(part_of.items())
        ]
        comparison.lines.extend(line for line in lines if line.results)
        sets = groups or {"mean": sorted({line.task for line in lines})}
        for metric in dict.fromkeys(line.metric for line in lines) if metrics else [""]:
            for title, members in sets.items():
                part = [
                    line for line in lines if line.task in members and (not metric or line.metric == metric)
                ]
                if len(part) > 1 and (mean := _mean(title, part, comparison)).results:
                    comparison.lines.append(mean)
    return comparison


def _prepared(pair: Pair, sides: Sequence[Collection[str]], records: Sequence[Record]) -> Iterator[str]:
    """In what the two sides' images were prepared differently."""
    for what, of in (("input size", _size), ("interpolation", _interpolation), ("normalisation", _constants)):
        first, second = (
            sorted({of(record) for record in records if record.checkpoint.name in side} - {""})
            for side in sides
        )
        if first != second and first and second:
            told = f"{' and '.join(first)} against {' and '.join(second)}"
            yield (
                f"{pair[0]} and {pair[1]} saw images prepared differently ({what}: {told}); "
                "part of their difference may come from that."
            )


def _size(record: Record) -> str:
    """The input size in pixels, where the protocol leaves it to the checkpoint."""
    fixed = (record.protocol.params.get("extraction") or {}).get("image_size")
    return "" if fixed else f"{record.checkpoint.preprocessing.get('input_size', 'unknown')} px"


def _interpolation(record: Record) -> str:
    return str(record.checkpoint.preprocessing.get("interpolation", "unknown"))


def _constants(record: Record) -> str:
    constants = record.checkpoint.normalization or {}
    return ", ".join(f"{key} {canonical_json(value)}" for key, value in sorted(constants.items()))


def _checkpoints(name: str, known: Sequence[str]) -> dict[str, str]:
    """The checkpoints that a name stands for, by seed."""
    seeded = {
        other[len(name) + 1 :]: other
        for other in known
        if other.startswith(f"{name}-") and other[len(name) + 1 :].isdigit()
    }
    if name in known:
        return {"": name}
    if not seeded:
        raise unknown("checkpoint or method", name, known)
    return seeded


def _line(
    protocol: Heading,
    what: _What,
    cells: Mapping[str, Sequence[Record]],
    seeds: Mapping[str, Mapping[str, str]],
    comparison: Comparison,
    book: Book,
) -> Line:
    metric = what.metric
    values = {
        name: {s: _value(cells[c], metric) for s, c in seeds[name].items() if c in cells}
        for name in comparison.names
    }
    results = {}
    for pair in comparison.pairs:
        if comparison.units[pair] == "pretraining seeds":
            result = _over_seeds(values, pair)
        else:
            first, second = ({r.seed: r for r in cells.get(seeds[name][""], ())} for name in pair)
            shared = first.keys() & second.keys()  # the same evaluation seed drew the same episodes
            result = _over_examples(first[min(shared)], second[min(shared)], metric, book) if shared else None
        if result is not None:
            results[pair] = result
    return Line(what.task, protocol, metric, values, results)


def _value(records: Sequence[Record], metric: str) -> float:
    """The mean over evaluation seeds."""
    return float(np.mean([record.metrics[metric].value for record in records]))


def _over_seeds(values: Mapping[str, Mapping[str, float]], pair: Pair) -> Paired | None:
    first, second = (values[name] for name in pair)
    shared = sorted(first.keys() & second.keys(), key=int)
    if len(shared) < 2:
        return None
    return tests.paired([first[seed] for seed in shared], [second[seed] for seed in shared])


def _over_examples(first: Record, second: Record, metric: str, book: Book) -> Paired | None:
    if first.outcomes is None or second.outcomes is None:
        return None
    ours, theirs = book.outcomes(first), book.outcomes(second)
    name = "episodes" if "episodes" in ours else "correct" if metric == "top1" else ""
    if name not in ours or name not in theirs or len(ours[name]) != len(theirs[name]):
        return None
    return tests.paired(ours[name], theirs[name])


def _mean(title: str, lines: Sequence[Line], comparison: Comparison) -> Line:
    """The mean over tasks; a seed counts if every task has it."""
    values = {}
    for name in comparison.names:
        seeds = set.intersection(*(set(line.values[name]) for line in lines))
        values[name] = {
            seed: float(np.mean([line.values[name][seed] for line in lines])) for seed in sorted(seeds)
        }
    results = {}
    for pair in comparison.pairs:
        if comparison.units[pair] == "pretraining seeds":
            result = _over_seeds(values, pair)
            if result is not None:
                results[pair] = result
    metrics = {line.metric for line in lines}
    metric = metrics.pop() if len(metrics) == 1 else "headline"
    return Line(title, lines[0].protocol, metric, values, results, len(lines))


def markdown(comparison: Comparison) -> str:
    """A table in points: means over seeds, and differences with 95 % intervals."""
    names = comparison.names
    heads = ["task", "metric", *names, *(" - ".join(pair) for pair in comparison.pairs)]
    parts = []
    for protocol in dict.fromkeys(line.protocol for line in comparison.lines):
        rows = []
        for line in comparison.lines:
            if line.protocol != protocol:
                continue
            task = f"*{line.task}, {line.tasks} tasks*" if line.tasks > 1 else line.task
            means = [_points(list(line.values[name].values())) for name in names]
            gains = [_gain(line.results.get(pair)) for pair in comparison.pairs]
            rows.append(f"| {' | '.join([task, line.metric, *means, *gains])} |")
        rule = "|:--|:--|" + "--:|" * (len(heads) - 2)
        parts.append("\n".join([f"### {protocol}", "", f"| {' | '.join(heads)} |", rule, *rows]) + "\n")
    if len(units := set(comparison.units.values())) == 1:
        notes = [f"paired over {units.pop()}"]
    else:
        notes = [f"{' - '.join(pair)} paired over {unit}" for pair, unit in comparison.units.items()]
    seeds = [
        f"{name} {max((len(line.values[name]) for line in comparison.lines), default=0)}" for name in names
    ]
    told = "; ".join(notes)
    parts.append(
        f"Means in percent, of all checkpoints ({', '.join(seeds)}); differences in points with 95 % intervals, "
        f"{told} that both have. {_count(comparison)}\n"
    )
    parts.extend(f"{note}\n" for note in comparison.notes)
    return "\n".join(parts)


def _count(comparison: Comparison) -> str:
    single = [result for line in comparison.lines if line.tasks == 1 for result in line.results.values()]
    excluded = sum(result.interval.low > 0 or result.interval.high < 0 for result in single)
    return (
        f"{excluded} of {len(single)} intervals of single tasks exclude zero; by chance alone 1 in 20 would."
    )


def _points(values: Sequence[float]) -> str:
    return f"{100 * float(np.mean(values)):.1f}" if values else "–"


def _gain(result: Paired | None) -> str:
    if result is None:
        return "–"
    ends = f"{100 * result.interval.low:+.1f}, {100 * result.interval.high:+.1f}"
    text = f"{100 * result.difference:+.1f} [{ends}]"
    return f"**{text}**" if result.interval.low > 0 or result.interval.high < 0 else text


def as_csv(comparison: Comparison) -> str:
    """A line a measurement and pair, as fractions with six digits, with p values."""
    file = io.StringIO()
    written = csv.writer(file, lineterminator="\n")
    heads = ["task", "tasks", "protocol", "metric", "first", "second"]
    written.writerow([*heads, "mean_first", "mean_second", "difference", "low", "high", "p"])
    for line in comparison.lines:
        for pair, result in line.results.items():
            means = [float(np.mean(list(line.values[name].values()))) for name in pair]
            numbers = [*means, result.difference, result.interval.low, result.interval.high, result.p_value]
            row = [line.task, line.tasks, line.protocol, line.metric, *pair]
            written.writerow([*row, *(f"{number:.6f}" for number in numbers)])
    return file.getvalue()


def parse_groups(given: Sequence[str]) -> dict[str, list[str]]:
    """Groups of tasks from ``NAME=TASK,TASK``.

    Raises:
        UserError: For text of another form.
    """
    groups = {}
    for text in given:
        name, _, tasks = text.partition("=")
        if not name or not tasks:
            raise UserError(f"group '{text}'", remedy="write NAME=TASK,TASK", code=2)
        groups[name] = tasks.split(",")
    return groups
