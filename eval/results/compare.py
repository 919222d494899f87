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
from ..numbers.intervals import NoInterval
from ..numbers.tests import Paired
from . import evidence
from .evidence import Evidence, Witness
from .parts import Heading
from .records import Book, MissingOutcomes, Record
from .tables import protocol_heading

Pair = tuple[str, str]


@dataclass(frozen=True)
class Line:
    """One measurement, or the mean of several.

    Attributes:
        task, protocol, metric: What was measured; for a mean, ``task`` is the group's name.
        values: For each name its values, as fractions, by pretraining seed ("" for a single checkpoint).
        results: For each pair the difference of the first over the second.
        tasks: How many tasks it is the mean of.
        reasons: For each pair without a difference, why.
        episodes: For few-shot, by pair, the standard error of the difference over episodes of this pool: how far
            other episodes would move it. It is part of no interval.
    """

    task: str
    protocol: Heading
    metric: str
    values: Mapping[str, Mapping[str, float]]
    results: Mapping[Pair, Paired]
    tasks: int = 1
    reasons: Mapping[Pair, str] = field(default_factory=dict)
    episodes: Mapping[Pair, float] = field(default_factory=dict)


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
    left_out: list[Line] = field(default_factory=list)
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
        UserError: If a name, a metric or a group's task is in no record.
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
    for metric in metrics:
        if not any(what.metric == metric for part in found.values() for what in part):
            raise unknown("metric", metric, {name for record in records for name in record.metrics})
    tasks = sorted({what.task for part in found.values() for what in part})
    for task in (task for group in (groups or {}).values() for task in group):
        if task not in tasks:
            raise unknown("task", task, tasks)
    comparison, witness = Comparison(tuple(pairs)), Witness(book)
    for pair in pairs:
        single = all(set(seeds[name]) == {""} for name in pair)
        comparison.units[pair] = "test examples or episodes" if single else "pretraining seeds"
        comparison.notes.extend(_prepared(pair, [seeds[name].values() for name in pair], records))
    for protocol, part_of in found.items():
        lines = [
            _line(protocol, what, cells, seeds, comparison, witness)
            for what, cells in sorted(part_of.items())
        ]
        comparison.lines.extend(line for line in lines if line.results)
        comparison.left_out.extend(
            line for line in lines if line.reasons and any(line.values[name] for name in comparison.names)
        )
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
    witness: Witness,
) -> Line:
    metric = what.metric
    values = {
        name: {s: _value(cells[c], metric) for s, c in seeds[name].items() if c in cells}
        for name in comparison.names
    }
    results, reasons, episodes = {}, {}, {}
    for pair in comparison.pairs:
        if comparison.units[pair] == "pretraining seeds":
            result = _over_seeds(values, pair)
            if result is None:
                reasons[pair] = "fewer than two pretraining seeds have both"
        else:
            first, second = ({r.seed: r for r in cells.get(seeds[name][""], ())} for name in pair)
            shared = sorted(first.keys() & second.keys())
            result, reason = _over_examples([(first[s], second[s]) for s in shared], metric, witness)
            if reason:
                reasons[pair] = reason
            error = _over_episodes([(first[s], second[s]) for s in shared], witness.book)
            if error is not None:
                episodes[pair] = error
        if result is not None:
            results[pair] = result
    return Line(what.task, protocol, metric, values, results, 1, reasons, episodes)


def _value(records: Sequence[Record], metric: str) -> float:
    """The mean over evaluation seeds."""
    return float(np.mean([record.metrics[metric].value for record in records]))


def _over_seeds(values: Mapping[str, Mapping[str, float]], pair: Pair) -> Paired | None:
    first, second = (values[name] for name in pair)
    shared = sorted(first.keys() & second.keys(), key=int)
    if len(shared) < 2:
        return None
    return tests.paired([first[seed] for seed in shared], [second[seed] for seed in shared])


def _over_examples(
    shared: Sequence[tuple[Record, Record]], metric: str, witness: Witness
) -> tuple[Paired | None, str]:
    """The difference over all evaluation seeds that both have; or none, and why."""
    if not shared:
        return None, "not measured for both with one seed"
    sides = [[witness.of(record, metric) for record in side] for side in zip(*shared, strict=True)]
    for item in (item for side in sides for item in side):
        if isinstance(item, str):
            return None, item
    first, second = ([item for item in side if isinstance(item, Evidence)] for side in sides)
    result = evidence.pair(first, second)
    return result, "" if result is not None else "they keep other outcomes"


def _over_episodes(shared: Sequence[tuple[Record, Record]], book: Book) -> float | None:
    """Standard error of a few-shot difference over the episodes of one pool, None for other protocols."""
    if not shared or not all("episodes" in record.data.counts for pair in shared for record in pair):
        return None
    if any(record.outcomes is None for pair in shared for record in pair):
        return None
    try:
        both = [[book.outcomes(record)["episodes"] for record in pair] for pair in shared]
    except MissingOutcomes:
        return None
    deltas = np.concatenate([first - second for first, second in both])
    return float(deltas.std(ddof=1) / np.sqrt(len(deltas)))


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
    if episodes := _episodes(comparison):
        parts.append(
            "Few-shot differences are over the images of the pool. Standard error in points over its episodes, which "
            f"comes on top: {'; '.join(episodes)}.\n"
        )
    if absent := left_out(comparison):
        parts.append("Not compared:\n\n" + "".join(f"- {line}\n" for line in absent))
    return "\n".join(parts)


def left_out(comparison: Comparison) -> list[str]:
    """What was measured and could not be compared, one line for each pair and reason."""
    found: dict[tuple[Pair, str], list[str]] = {}
    for line in comparison.left_out:
        for pair, reason in line.reasons.items():
            if all(line.values[name] for name in pair):
                found.setdefault((pair, reason), []).append(f"{line.task} {line.metric} ({line.protocol})")
    return [f"{' - '.join(pair)}, {reason}: {', '.join(lines)}" for (pair, reason), lines in found.items()]


def _episodes(comparison: Comparison) -> list[str]:
    return [
        f"{line.task} ({line.protocol}) {' - '.join(pair)} {100 * error:.2f}"
        for line in comparison.lines
        for pair, error in line.episodes.items()
        if pair in line.results
    ]


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
        return f"{100 * result.difference:+.1f} (no interval: {result.interval.reason})"
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
            numbers = [*means, result.difference, *result.ends, result.p_value]
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
