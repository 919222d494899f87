"""What happened in a cell, in the form in which checkpoints are compared: by example, by image, or by resample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ..numbers import depth, intervals, metrics, pairs, segmentation, tests
from ..numbers.tests import Paired
from .parts import Cell
from .records import Book, MissingOutcomes, Record

Floats = npt.NDArray[np.float64]
RESAMPLES: Final = 1000
FEWSHOT: Final = "the records keep episodes of one pool alone, which say nothing of other images"


@dataclass(frozen=True)
class Evidence:
    """What a record kept of its examples.

    Attributes:
        kind: ``hits``: right or wrong; ``means``: contributions whose mean is the metric; ``resamples``: the metric
            on resamples of the examples, the same ones for every record.
        unit: What varies: ``test examples``, ``test images`` (segmentation) or ``images of the pool``.
        value: The metric.
        values: (N,).
        examples: How many there are.
    """

    kind: Literal["hits", "means", "resamples"]
    unit: str
    value: float
    values: Floats
    examples: int

    @property
    def shape(self) -> tuple[str, str, int]:
        """Two records pair if these are equal."""
        return self.kind, self.unit, len(self.values)


@dataclass
class Witness:
    """Reads the outcomes of records, each once.

    Attributes:
        book: Where they are.
    """

    book: Book
    _known: dict[tuple[str, str], Evidence | str] = field(default_factory=dict)

    def of(self, record: Record, metric: str) -> Evidence | str:
        """What happened to a record's examples; or why that cannot be told, as words after "because"."""
        if record.outcomes is None:
            return "the records keep no outcomes"
        key = record.outcomes.sha256, metric
        if key not in self._known:
            self._known[key] = self._read(record, metric)
        return self._known[key]

    def _read(self, record: Record, metric: str) -> Evidence | str:
        if record.outcomes is not None and record.outcomes.of_detection:
            return "detections pair over pretraining seeds alone"
        try:
            arrays = self.book.outcomes(record)
        except MissingOutcomes:
            return "the outcomes files are not there"
        return _evidence(arrays, metric, record.metrics[metric].value)


def _evidence(arrays: Mapping[str, Any], metric: str, value: float) -> Evidence | str:
    if "episodes" in arrays:
        if "asked" not in arrays:
            return FEWSHOT
        asked, right = arrays["asked"].astype(np.float64), arrays["right"].astype(np.float64)
        # The share of right answers is a ratio of sums over images; this is its linear form.
        linear = value + (right - value * asked) * len(asked) / asked.sum()
        return Evidence("means", "images of the pool", value, linear, int((asked > 0).sum()))
    if metric == "top1" and "correct" in arrays:
        correct = arrays["correct"].astype(np.float64)
        return Evidence("hits", "test examples", value, correct, len(correct))
    if metric == "mean_per_class" and "labels" in arrays:
        return _per_class(arrays["correct"].astype(np.float64), arrays["labels"], value)
    if "scores" in arrays and metric in metrics.METRICS:
        scores, labels = arrays["scores"].astype(np.float64), arrays["labels"]
        counts = intervals.resample_counts(len(labels), RESAMPLES, 0)
        drawn = metrics.resampled(metric, scores, labels, counts)
        return Evidence("resamples", "test examples", value, drawn, len(labels))
    if "confusions" in arrays and metric in segmentation.METRICS:
        images, classes = arrays["shape"].tolist()
        sums = segmentation.sums(arrays["confusions"], images, classes)
        resampled = sums.weighted(intervals.resample_counts(images, RESAMPLES, 0))
        return Evidence("resamples", "test images", value, segmentation.METRICS[metric](resampled), images)
    if "depth" in arrays and metric in depth.NAMES:
        values = arrays["depth"][:, depth.NAMES.index(metric)].astype(np.float64)
        return Evidence("means", "test images", value, values, len(values))
    if metric == "mean_per_class":
        return "the outcomes were written without labels; run the cell again"
    return f"outcomes do not tell {metric}"


def _per_class(correct: Floats, labels: npt.NDArray[np.int32], value: float) -> Evidence:
    """Contributions to the mean over classes, whose spread is that within classes, since their sizes are given."""
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    weight = len(labels) / (len(count) * count[place])
    accuracy = np.bincount(place, correct) / count
    within = np.sqrt(count / np.maximum(count - 1, 1))[place]
    linear = value + weight * (correct - accuracy[place]) * within
    return Evidence("means", "test examples", value, linear, len(labels))


def compare(found: Sequence[Sequence[Evidence]]) -> pairs.Pairs | None:
    """All pairs of several checkpoints, by the test that fits what was kept.

    Args:
        found: For each checkpoint its evidence, one a seed, the same seeds for all.

    Returns:
        None if they do not pair.
    """
    shapes = {item.shape for one in found for item in one}
    if len(shapes) != 1 or len(found) < 2:
        return None
    kind, seeds = found[0][0].kind, len(found[0])
    values = np.array([[item.values for item in one] for one in found])  # (R, S, N)
    points = np.array([[item.value for item in one] for one in found])  # (R, S)
    if kind == "hits" and seeds == 1:
        return pairs.proportions(values[:, 0])
    if kind == "resamples":
        return pairs.resampled(points.mean(1), values.mean(1))
    return pairs.means(values.mean(1), points if seeds > 1 else None)


def pair(first: Sequence[Evidence], second: Sequence[Evidence]) -> Paired | None:
    """Two checkpoints on the same seeds, by the test that fits what was kept; None if they do not pair."""
    if len({item.shape for item in (*first, *second)}) != 1:
        return None
    seeds = list({(id(a), id(b)): (a, b) for a, b in zip(first, second, strict=True)}.values())
    deltas = np.array([a.values - b.values for a, b in seeds])
    points = [a.value - b.value for a, b in seeds]
    if first[0].kind == "resamples":
        return tests.resampled(float(np.mean(points)), deltas.mean(0), kind="bootstrap-paired")
    if len(seeds) > 1:
        return tests.crossed(deltas.mean(0), points)
    if first[0].kind == "hits":
        return tests.paired(first[0].values, second[0].values)
    return tests.means(deltas[0])


def gain(first: Cell, second: Cell, metric: str, witness: Witness) -> Paired | None:
    """The difference of two cells over all seeds that both have; None if they do not pair."""
    ours, theirs = ({record.seed: record for record in cell.records} for cell in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    sides = [[witness.of(side[seed], metric) for seed in shared] for side in (ours, theirs)]
    kept = [[item for item in side if isinstance(item, Evidence)] for side in sides]
    return pair(*kept) if shared and all(len(side) == len(shared) for side in kept) else None
