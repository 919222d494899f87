"""What happened in a cell, in the form in which checkpoints are compared: by example, by image, or by resample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ..numbers import depth, intervals, kept, metrics, pairs, segmentation, tests
from ..numbers.tests import Paired
from .parts import Cell
from .records import Book, MissingOutcomes, Record

Floats = npt.NDArray[np.float64]
FEWSHOT: Final = "the records keep episodes of one pool alone, which say nothing of other images"


@dataclass(frozen=True)
class Evidence:
    """What a record kept of its examples.

    Attributes:
        kind: ``hits``: right or wrong; ``means``: contributions whose mean is the metric; ``resamples``: the metric
            on resamples of the examples, the same ones for every record; ``pool``: contributions of the images of a
            few-shot pool.
        unit: What varies: ``test examples``, ``test images`` (dense tasks) or ``images of the pool``.
        value: The metric.
        values: (N,); for ``pool`` (2, N).
        examples: How many there are.
        size, lacking: One more than the degrees of freedom where it is not N, and what a variance of resamples lacks,
            see `numbers.intervals.few`; infinite for N.
        episodes: (E,) for ``pool``: their accuracies.
        labels: (N,) for a mean over classes: the class of every example.
    """

    kind: Literal["hits", "means", "resamples", "pool"]
    unit: str
    value: float
    values: Floats
    examples: int
    size: float = np.inf
    lacking: float = 1.0
    episodes: Floats = field(default_factory=lambda: np.zeros(0))
    labels: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0))

    @property
    def shape(self) -> tuple[str, str, int, int, float]:
        """Two records pair if these are equal."""
        return self.kind, self.unit, self.values.shape[-1], len(self.episodes), self.size


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
        if "contributions" not in arrays:
            return FEWSHOT
        added, episodes = arrays["contributions"].astype(np.float64), arrays["episodes"].astype(np.float64)
        taken = int((added != 0).any(0).sum())
        return Evidence("pool", "images of the pool", value, added, taken, episodes=episodes)
    if (key := kept.HITS.get(metric, "")) in arrays:
        correct = arrays[key].astype(np.float64)
        return Evidence("hits", "test examples", value, correct, len(correct))
    if metric == "mean_per_class" and "labels" in arrays:
        linear = metrics.class_contributions(arrays["correct"].astype(np.float64), arrays["labels"])
        size = metrics.class_size(arrays["labels"])
        return Evidence("means", "test examples", value, linear, len(linear), size, labels=arrays["labels"])
    if metric.startswith("map11"):
        return intervals.ELEVEN_POINTS.reason
    if "scores" in arrays and metric in metrics.METRICS:
        labels = arrays["labels"]
        drawn = kept.resampled(metric, arrays["scores"], labels)
        size, lacking = intervals.few((labels > 0).sum(0))
        return Evidence("resamples", "test examples", value, drawn, len(labels), size, lacking)
    if metric == "ece" and "confidence" in arrays:
        confidence, hits = arrays["confidence"].astype(np.float64), arrays["correct"]
        if len(hits) < intervals.MIN_CALIBRATION:
            return f"calibration errors need {intervals.MIN_CALIBRATION} examples"
        counts = intervals.resample_counts(len(hits), kept.RESAMPLES, 0)
        drawn = metrics.calibration_error(confidence, hits, weights=counts)
        return Evidence("resamples", "test examples", value, drawn, len(hits), len(hits))
    if "confusions" in arrays and metric in segmentation.METRICS:
        images, (drawn, lacking) = int(arrays["shape"][0]), kept.of_masks(metric, arrays)
        return Evidence("resamples", "test images", value, drawn, images, images, lacking)
    if "depth" in arrays and metric in depth.NAMES:
        values = arrays["depth"][:, depth.NAMES.index(metric)].astype(np.float64)
        return Evidence("means", "test images", value, values, len(values))
    if metric == "mean_per_class":
        return "the outcomes were written without labels; run the cell again"
    return f"outcomes do not tell {metric}"


def _size(item: Evidence) -> float | None:
    return None if np.isinf(item.size) else item.size


def compare(found: Sequence[Sequence[Evidence]]) -> pairs.Pairs | None:
    """All pairs of several checkpoints, by the test that fits what was kept; each as `pair` has it.

    Args:
        found: For each checkpoint its evidence, one a seed, the same seeds for all.

    Returns:
        None if they do not pair.
    """
    shapes = {item.shape for one in found for item in one}
    if len(shapes) != 1 or len(found) < 2:
        return None
    same = np.array([once(one) for one in found])
    if same.all():
        return _compare([one[:1] for one in found])
    whole = _compare(found)
    if same.sum() > 1:
        part = _compare([one[:1] for one, alike in zip(found, same, strict=True) if alike])
        at = np.ix_(same, same)
        for name in ("differences", "p_values", "detectable"):
            getattr(whole, name)[at] = getattr(part, name)
    return whole


def once(one: Sequence[Evidence]) -> bool:
    """Whether all seeds have the same outcomes, which are read as one object: they are one result."""
    return all(item is one[0] for item in one)


def too_few(one: Sequence[Evidence]) -> bool:
    """Whether the seeds are too few to tell of others; those of a few-shot pool only draw more episodes."""
    return 1 < len(one) < tests.MIN_SEEDS and not once(one) and one[0].kind != "pool"


def _compare(found: Sequence[Sequence[Evidence]]) -> pairs.Pairs:
    kind, seeds = found[0][0].kind, len(found[0])
    runs = list(zip(*found, strict=True))  # by seed
    values = np.array([[item.values for item in one] for one in runs])  # (S, R, N)
    points = np.array([[item.value for item in one] for one in runs])  # (S, R)
    if kind == "hits" and seeds == 1:
        return pairs.proportions(values[0])
    if kind == "resamples":
        return pairs.resampled(points, values, found[0][0].size, found[0][0].lacking)
    if kind == "pool":
        episodes = np.array([np.concatenate([item.episodes for item in one]) for one in found])
        return pairs.pooled(points.mean(0), values.mean(0), episodes)
    labels, size = found[0][0].labels, _size(found[0][0])
    unseen = metrics.unseen_in_classes(values.mean(0), labels) if len(labels) else 0.0
    if seeds == 1:
        return pairs.means(values[0], size=size, unseen=unseen)
    return pairs.means(values, points, size=size, unseen=unseen)


def pair(first: Sequence[Evidence], second: Sequence[Evidence]) -> Paired | None:
    """Two checkpoints on the same seeds, by the test that fits what was kept; None if they do not pair."""
    if len({item.shape for item in (*first, *second)}) != 1:
        return None
    seeds = list(zip(first, second, strict=True))[: 1 if once(first) and once(second) else None]
    deltas = np.array([a.values - b.values for a, b in seeds])
    points = [a.value - b.value for a, b in seeds]
    if first[0].kind == "resamples":
        return tests.resampled(points, deltas, first[0].size, first[0].lacking, kind="bootstrap-paired")
    if first[0].kind == "pool":
        episodes = np.concatenate([a.episodes - b.episodes for a, b in seeds])
        return tests.pooled(float(np.mean(points)), deltas.mean(0), episodes)
    if first[0].kind == "hits" and len(seeds) == 1:
        return tests.paired(first[0].values, second[0].values)
    unseen, labels = 0.0, first[0].labels
    if len(labels):
        sides = [np.mean([item.values for item in side], axis=0) for side in zip(*seeds, strict=True)]
        unseen = float(metrics.unseen_in_classes(np.array(sides), labels)[0, 1])
    if len(seeds) > 1:
        return tests.crossed(deltas, points, size=_size(first[0]), unseen=unseen)
    return tests.means(deltas[0], size=_size(first[0]), unseen=unseen)


def gain(first: Cell, second: Cell, metric: str, witness: Witness) -> Paired | None:
    """The difference of two cells over all seeds that both have; None if they do not pair."""
    ours, theirs = ({record.seed: record for record in cell.records} for cell in (first, second))
    shared = sorted(ours.keys() & theirs.keys())
    sides = [[witness.of(side[seed], metric) for seed in shared] for side in (ours, theirs)]
    kept = [[item for item in side if isinstance(item, Evidence)] for side in sides]
    return pair(*kept) if shared and all(len(side) == len(shared) for side in kept) else None
