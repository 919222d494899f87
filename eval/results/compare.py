"""Is one method better than another? Paired over pretraining seeds, or over test examples and episodes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError, unknown
from ..numbers import tests
from ..numbers.intervals import NoInterval
from ..numbers.tests import Paired
from .records import Book, Record
from .tables import column_key, protocol_title, section_key

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
    protocol: str
    metric: str
    values: Mapping[str, Mapping[str, float]]
    results: Mapping[Pair, Paired]
    tasks: int = 1


@dataclass(frozen=True)
class Comparison:
    """Lines in the order of the records, a protocol's means after its tasks; ``units`` says what pairs are over."""

    pairs: tuple[Pair, ...]
    lines: list[Line] = field(default_factory=list)
    units: dict[Pair, str] = field(default_factory=dict)

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
    found: dict[tuple[str, str, str, str], dict[str, list[Record]]] = {}
    for record in records:
        for metric in metrics or [record.task.metric]:
            if metric in record.metrics:
                place = f"{section_key(record)} {column_key(record, metric)}"  # never across versions or data
                key = (record.task.name, protocol_title(record), metric, place)
                found.setdefault(key, {}).setdefault(record.checkpoint.name, []).append(record)
    for task in (task for group in (groups or {}).values() for task in group):
        if task not in {key[0] for key in found}:
            raise unknown("task", task, sorted({key[0] for key in found}))
    comparison = Comparison(tuple(pairs))
    for pair in pairs:
        single = all(set(seeds[name]) == {""} for name in pair)
        comparison.units[pair] = "test examples or episodes" if single else "pretraining seeds"
    for protocol in dict.fromkeys(key[1] for key in found):
        lines = [
            _line(key, cells, seeds, comparison, book)
            for key, cells in sorted(found.items())
            if key[1] == protocol
        ]
        comparison.lines.extend(line for line in lines if line.results)
        sets = groups or {"mean": sorted({line.task for line in lines})}
        for metric in dict.fromkeys(line.metric for line in lines) if metrics else [""]:
            for title, tasks in sets.items():
                part = [
                    line for line in lines if line.task in tasks and (not metric or line.metric == metric)
                ]
                if len(part) > 1 and (mean := _mean(title, part, comparison)).results:
                    comparison.lines.append(mean)
    return comparison


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
    key: tuple[str, str, str, str],
    cells: Mapping[str, Sequence[Record]],
    seeds: Mapping[str, Mapping[str, str]],
    comparison: Comparison,
    book: Book,
) -> Line:
    metric = key[2]
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
    return Line(*key[:3], values, results)


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
    return "\n".join(parts)


def _count(comparison: Comparison) -> str:
    single = [result for line in comparison.lines if line.tasks == 1 for result in line.results.values()]
    excluded = sum(result.differs for result in single)
    return (
        f"{excluded} of {len(single)} intervals of single tasks exclude zero; by chance alone 1 in 20 would."
    )


def _points(values: Sequence[float]) -> str:
    return f"{100 * float(np.mean(values)):.1f}" if values else "–"


def _gain(result: Paired | None) -> str:
    if result is None:
        return "–"
    if isinstance(result.interval, NoInterval):
        return f"{100 * result.difference:+.1f}"
    ends = f"{100 * result.interval.low:+.1f}, {100 * result.interval.high:+.1f}"
    text = f"{100 * result.difference:+.1f} [{ends}]"
    return f"**{text}**" if result.differs else text


def as_csv(comparison: Comparison) -> str:
    """A line a measurement and pair, as fractions with six digits, with p values."""
    file = io.StringIO()
    written = csv.writer(file, lineterminator="\n")
    heads = ["task", "tasks", "protocol", "metric", "first", "second"]
    written.writerow([*heads, "mean_first", "mean_second", "difference", "low", "high", "p"])
    for line in comparison.lines:
        for pair, result in line.results.items():
            means = [float(np.mean(list(line.values[name].values()))) for name in pair]
            ends = [getattr(result.interval, end, None) for end in ("low", "high")]
            numbers = [*means, result.difference, *ends, result.p_value]
            row = [line.task, line.tasks, line.protocol, line.metric, *pair]
            written.writerow([*row, *("" if number is None else f"{number:.6f}" for number in numbers)])
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
