"""Do the intervals and tests of eval.numbers hold? Simulated coverage and family-wise error, as a table.

    OMP_NUM_THREADS=1 nice python -m benchmarks.coverage [--only WORD] [--share 0.2]   # goes on where it stopped
    python -m benchmarks.coverage --table           # the file as Markdown, into docs/statistics.md

Every setting draws many data sets from a population that is known, and asks how often the interval covers what such
data sets give on average. Two checkpoints are compared likewise. Results are appended to benchmarks/coverage.csv,
a line a setting, as soon as they are there; a setting that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats

from eval.detection.average_precision import COCO_POINTS, VOC_POINTS, Curve, Matches, Recall
from eval.numbers import intervals, metrics, pairs, pool, segmentation, tests
from eval.numbers.intervals import Interval, NoInterval
from eval.numbers.tests import Paired

FILE = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- made by benchmarks/coverage.py -->\n\n", "\n<!-- end -->"
FIELDS = ("statistic", "n", "setting", "draws", "rate", "without", "width")
SIZES = (20, 100, 1000)
RESAMPLES = 200  # the package takes 1000; fewer make the intervals a little less steady
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Setting:
    """One line of the table.

    Attributes:
        statistic: What is measured.
        n: Examples, images or seeds.
        label: The population.
        draws: Data sets.
        draw: From a generator to a value with its interval, or a comparison of two.
        truth: What is covered; None for the mean over draws.
        family: Whether ``draw`` tells of a family of tests without any difference whether one of them is found.
    """

    statistic: str
    n: int
    label: str
    draws: int
    draw: Callable[[np.random.Generator], Any]
    truth: float | None = None
    family: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What the file knows it by."""
        return self.statistic, str(self.n), self.label

    def run(self) -> dict[str, Any]:
        """How often the interval covers, of the draws that have one."""
        generator = np.random.default_rng(zlib.crc32(" ".join(self.key).encode()))
        found = [self.draw(generator) for _ in range(self.draws)]
        line: dict[str, Any] = dict(zip(FIELDS, (*self.key, self.draws), strict=False))
        if self.family:
            return line | {"rate": f"{np.mean(found):.4f}", "without": "0", "width": ""}
        spans = [(item.difference if isinstance(item, Paired) else item[0], _span(item)) for item in found]
        truth = self.truth if self.truth is not None else float(np.mean([value for value, _ in spans]))
        kept = [span for _, span in spans if isinstance(span, Interval)]
        covered = [span.low - 1e-9 <= truth <= span.high + 1e-9 for span in kept]
        return line | {
            "rate": f"{np.mean(covered):.4f}" if kept else "",
            "without": f"{1 - len(kept) / len(found):.4f}",
            "width": f"{np.mean([span.high - span.low for span in kept]):.4f}" if kept else "",
        }


def _span(item: Any) -> Interval | NoInterval:
    found: Interval | NoInterval = item.interval if isinstance(item, Paired) else item[1]
    return found


# -- shares of right answers -----------------------------------------------------------------------------------


def proportions() -> Iterator[Setting]:
    """Top-1 and top-5."""
    for n in SIZES:
        spans = [intervals.wilson(k, n) for k in range(n + 1)]
        for rate in (0.02, 0.1, 0.5, 0.9, 0.98):

            def draw(
                g: np.random.Generator, n: int = n, rate: float = rate, spans: list[Interval] = spans
            ) -> Any:
                right = int(g.binomial(n, rate))
                return right / n, spans[right]

            yield Setting("top-1, top-5", n, f"rate {rate}", 20000, draw, rate)


def paired_proportions() -> Iterator[Setting]:
    """Differences of two shares on the same examples."""
    for n in SIZES:
        for discordant in (0.02, 0.1, 0.3, 0.6):
            for part in (0.0, 0.5):
                difference = discordant * part
                shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]

                def draw(g: np.random.Generator, n: int = n, shares: list[float] = shares) -> Paired:
                    wins, losses, _ = g.multinomial(n, shares)
                    return _tango(int(wins), int(losses), n)

                label = f"{discordant:.0%} differ, difference {difference:.2f}"
                yield Setting("difference of top-1", n, label, 4000, draw, difference)


_TANGO: dict[tuple[int, int, int], Paired] = {}


def _tango(wins: int, losses: int, n: int) -> Paired:
    key = wins, losses, n
    if key not in _TANGO:
        _TANGO[key] = tests.proportions(*key)
    return _TANGO[key]


def _classes(n: int, classes: int, balanced: bool) -> Array:
    share = np.ones(classes) if balanced else np.arange(1, classes + 1) ** -0.8
    return np.repeat(np.arange(classes), np.maximum(1, np.round(share / share.sum() * n)).astype(int))


def _rates(classes: int, mean: float, spread: bool) -> Array:
    """Accuracies of the classes: all alike, or a beta's quantiles in an order unrelated to size."""
    if not spread:
        return np.full(classes, mean)
    found = scipy.stats.beta.ppf((np.arange(classes) + 0.5) / classes, 3 * mean, 3 * (1 - mean))
    return np.random.default_rng(1).permutation(found)


def _class_means(hits: Array, labels: Array) -> float:
    return float(np.mean(np.bincount(labels, hits) / np.bincount(labels)))


def per_class() -> Iterator[Setting]:
    """Mean per class, and differences of it."""
    for n in SIZES:
        for classes, balanced in ((1, True), (20, True), (20, False)):
            labels = _classes(n, classes, balanced)
            for mean in (0.02, 0.5, 0.98):
                for spread in (False, True) if classes > 1 else (False,):
                    rates = _rates(classes, mean, spread)[labels]

                    def draw(g: np.random.Generator, rates: Array = rates, labels: Array = labels) -> Any:
                        hits = g.random(len(rates)) < rates
                        return _class_means(hits, labels), intervals.mean_per_class(hits, labels)

                    label = f"C = {classes}, {'equal' if balanced else 'unequal'} sizes, rate {mean}"
                    label += ", classes differ" if spread else ""
                    truth = float(np.mean(_rates(classes, mean, spread)))
                    yield Setting("mean per class", n, label, 3000, draw, truth)
        for classes, balanced in ((1, True), (20, True), (20, False)):
            labels = _classes(n, classes, balanced)
            for mean, gain in ((0.5, 0.0), (0.5, 0.1), (0.9, 0.0), (0.9, 0.05)):

                def compare(
                    g: np.random.Generator, labels: Array = labels, mean: float = mean, gain: float = gain
                ) -> Paired:
                    hits = _correlated(g, np.array([mean + gain, mean]), len(labels))
                    return tests.means(
                        _linear(hits[0], labels) - _linear(hits[1], labels), size=metrics.class_size(labels)
                    )

                label = (
                    f"C = {classes}, {'equal' if balanced else 'unequal'} sizes, {mean} and {mean + gain:.2f}"
                )
                yield Setting("difference of mean per class", n, label, 2000, compare, gain)


def _correlated(g: np.random.Generator, rates: Array, n: int, shared: float = 0.6) -> Array:
    """(R, n) right or wrong; some examples are hard for all."""
    common = np.sqrt(shared) * g.normal(size=n)
    score = common + np.sqrt(1 - shared) * g.normal(size=(len(rates), n))
    found: Array = score < scipy.stats.norm.ppf(rates)[:, None]
    return found


def _linear(hits: Array, labels: Array) -> Array:
    return metrics.class_contributions(hits.astype(np.float64), labels)


# -- average precision -----------------------------------------------------------------------------------------


def _separation(target: float, prevalence: float) -> float:
    """How far positives' scores lie above negatives' for an average precision, both normal."""
    grid = np.linspace(14, -8, 4001)

    def value(shift: float) -> float:
        recall, alarms = scipy.stats.norm.sf(grid - shift), scipy.stats.norm.sf(grid)
        precision = prevalence * recall / np.maximum(prevalence * recall + (1 - prevalence) * alarms, 1e-300)
        return float(np.trapezoid(precision, recall)) - target

    return float(scipy.optimize.brentq(value, -2, 12))


def _scored(
    g: np.random.Generator, n: int, classes: int, prevalence: float, shifts: Array, shared: float = 0.6
) -> tuple[Array, Array]:
    """Scores (R, n, C) of R checkpoints and labels (n, C) with a positive in every class but by chance."""
    labels = g.random((n, classes)) < prevalence
    while not labels.any():
        labels = g.random((n, classes)) < prevalence
    noise = np.sqrt(shared) * g.normal(size=(n, classes))
    noise = noise + np.sqrt(1 - shared) * g.normal(size=(len(shifts), n, classes))
    return noise + shifts[:, None, None] * labels, labels.astype(np.float64)


def _ap(name: str, scores: Array, labels: Array, counts: Array) -> tuple[float, Array]:
    weights = np.vstack([np.ones(len(labels)), counts])
    found = metrics.resampled(name, scores, labels, weights)
    return float(found[0]), found[1:]


def _ap_cases() -> Iterator[tuple[int, int, float, int]]:
    yield from ((20, 1, 0.15, 600), (20, 1, 0.3, 600), (20, 1, 0.5, 600), (20, 20, 0.2, 300))
    yield from ((100, 1, 0.05, 600), (100, 1, 0.3, 600), (100, 20, 0.1, 300))
    yield from ((1000, 1, 0.08, 300), (1000, 20, 0.08, 60))


def average_precisions() -> Iterator[Setting]:
    """One class and the mean over classes, by eleven points and by area, and differences."""
    for name in ("map_area", "map11"):
        told = "area" if name == "map_area" else "11 points"
        for n, classes, prevalence, draws in _ap_cases():
            for level, target in (("low", prevalence + 0.08), ("middle", 0.6), ("high", 0.96)):
                shift = np.array([_separation(target, prevalence)])

                def draw(
                    g: np.random.Generator,
                    name: str = name,
                    n: int = n,
                    classes: int = classes,
                    prevalence: float = prevalence,
                    shift: Array = shift,
                ) -> Any:
                    scores, labels = _scored(g, n, classes, prevalence, shift)
                    counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                    value, drawn = _ap(name, scores[0], labels, counts)
                    return value, intervals.average_precision(value, drawn, labels.sum(0))

                label = f"C = {classes}, {prevalence:.0%} positive, {level} AP"
                yield Setting(f"average precision, {told}", n, label, draws, draw)
        for n, classes, prevalence, draws in _ap_cases():
            for first, second in ((0.6, 0.6), (0.7, 0.5), (0.96, 0.96)):
                shifts = np.array([_separation(first, prevalence), _separation(second, prevalence)])

                def compare(
                    g: np.random.Generator,
                    name: str = name,
                    n: int = n,
                    classes: int = classes,
                    prevalence: float = prevalence,
                    shifts: Array = shifts,
                ) -> Paired:
                    scores, labels = _scored(g, n, classes, prevalence, shifts)
                    counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                    (one, ours), (two, theirs) = (_ap(name, part, labels, counts) for part in scores)
                    size, lacking = intervals.few(labels.sum(0))
                    return tests.resampled([one - two], ours - theirs, size, lacking, kind="paired")

                label = f"C = {classes}, {prevalence:.0%} positive, AP {first} and {second}"
                yield Setting(f"difference of average precision, {told}", n, label, draws // 2, compare)


# -- detection -------------------------------------------------------------------------------------------------


def _detections(
    g: np.random.Generator, images: int, classes: int, skill: Array
) -> list[tuple[list[Matches], Recall]]:
    """Detections of R detectors of the same images, some of which are hard: ten thresholds of overlap."""
    hard = g.normal(size=images)
    found: list[tuple[list[Matches], Recall]] = [([], None) for _ in skill]  # type: ignore[misc]
    hits: list[list[Array]] = [[] for _ in skill]
    counted = []
    for _ in range(classes):
        positives = g.poisson(np.where(g.random(images) < 0.5, 2.0, 0.0))
        if not positives.sum():
            positives[0] = 1
        counted.append(positives)
        place = np.repeat(np.arange(images), positives)
        common = g.normal(size=len(place))
        for number, level in enumerate(skill):
            quality = level - 0.7 * hard[place] + 0.7 * common + 0.7 * g.normal(size=len(place))
            overlap = quality[None, :] > np.linspace(-1, 2, 10)[:, None]  # (T, objects)
            false = np.repeat(np.arange(images), g.poisson(1.0, images))
            image = np.concatenate([place, false])
            score = np.concatenate([quality + g.normal(size=len(place)), g.normal(size=len(false)) - 0.5])
            hit = np.concatenate([overlap, np.zeros((10, len(false)), dtype=bool)], axis=1)
            order = np.argsort(-score)
            nothing = np.zeros_like(hit)
            found[number][0].append(Matches(image[order], hit[:, order], nothing, positives))
            hits[number].append(np.stack([np.bincount(place, row, images).astype(int) for row in overlap]))
    return [
        (matches, Recall(np.stack(rows), np.stack(counted)))
        for (matches, _), rows in zip(found, hits, strict=True)
    ]


def _curve(kind: str, matches: list[Matches], recall: Recall) -> Curve | Recall:
    if kind == "AR":
        return recall
    return Curve(
        matches, tuple(range(10)) if kind == "AP" else (0,), VOC_POINTS if "11" in kind else COCO_POINTS
    )


def detection() -> Iterator[Setting]:
    """AP, AP50 by area and by 11 points, and average recall, with images as clusters; and differences."""
    for kind in ("AP", "AP50, area", "AP50, 11 points", "AR"):
        for n, classes, draws in ((20, 1, 400), (20, 5, 200), (100, 1, 300), (100, 5, 150), (1000, 1, 60)):
            for level, skill in (("low", -1.5), ("middle", 0.5), ("high", 3.0)):

                def draw(
                    g: np.random.Generator, kind: str = kind, n: int = n, c: int = classes, s: float = skill
                ) -> Any:
                    ((matches, recall),) = _detections(g, n, c, np.array([s]))
                    curve = _curve(kind, matches, recall)
                    drawn = _redrawn(g, [curve], n)[0]
                    value = curve.value()
                    return value, intervals.average_precision(value, drawn, (curve.positives > 0).sum(1))

                yield Setting(f"detection {kind}", n, f"C = {classes}, {level}", draws, draw)
            for level, one, two in (("equal", 0.5, 0.5), ("apart", 0.9, 0.4), ("equal, high", 3.0, 3.0)):

                def compare(
                    g: np.random.Generator,
                    kind: str = kind,
                    n: int = n,
                    c: int = classes,
                    one: float = one,
                    two: float = two,
                ) -> Paired:
                    curves = [_curve(kind, *item) for item in _detections(g, n, c, np.array([one, two]))]
                    ours, theirs = _redrawn(g, curves, n)
                    size, lacking = intervals.few((curves[0].positives > 0).sum(1))
                    gain = curves[0].value() - curves[1].value()
                    return tests.resampled([gain], ours - theirs, size, lacking, kind="paired")

                yield Setting(f"difference of detection {kind}", n, f"C = {classes}, {level}", draws, compare)


def _redrawn(g: np.random.Generator, curves: list[Curve | Recall], n: int) -> list[Array]:
    counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    return [curve.values(counts) for curve in curves]


# -- segmentation and depth ------------------------------------------------------------------------------------


def _masks(g: np.random.Generator, images: int, classes: int, skill: Array) -> list[segmentation.Sums]:
    """Pixels by class of R networks on the same images: a ground and up to three things on it.

    Some images are hard, and so are some things for all networks. Of what is missed more than half is said to be
    ground.
    """
    there = np.zeros((images, classes), dtype=bool)
    there[:, 0] = True
    for _ in range(3):
        there[np.arange(images), (g.random(images) ** 1.5 * classes).astype(int)] = True
    area = np.where(there, np.exp(g.normal(size=there.shape)), 0.0)
    truth = np.round(10_000 * area / area.sum(1, keepdims=True))
    hard, common = g.normal(size=(images, 1)), g.normal(size=there.shape)
    found = []
    for level in skill:
        logit = level - 0.7 * hard + 0.7 * common + 0.7 * g.normal(size=there.shape)
        hits = np.round(truth / (1 + np.exp(-logit)))
        said = np.where(g.random(there.shape) < 0.6, 0, g.integers(0, classes, there.shape))
        said = np.where(said == np.arange(classes), (said + 1) % classes, said)
        guessed = hits.copy()
        np.add.at(guessed, (np.repeat(np.arange(images), classes), said.ravel()), (truth - hits).ravel())
        found.append(segmentation.Sums(hits, truth, guessed))
    return found


def masks() -> Iterator[Setting]:
    """Mean IoU, mean and pixel accuracy, with images as clusters; and differences of mean IoU."""
    for name, metric in segmentation.METRICS.items():
        for n, draws in ((20, 300), (100, 300), (1000, 100)):
            for classes in (2, 20):
                for level in (-2.0, 0.0, 2.5, 4.5):

                    def draw(
                        g: np.random.Generator,
                        name: str = name,
                        metric: Any = metric,
                        n: int = n,
                        classes: int = classes,
                        level: float = level,
                    ) -> Any:
                        (sums,) = _masks(g, n, classes, np.array([level]))
                        counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                        value = float(metric(sums.total()))
                        lacking = segmentation.lacking(name, sums)
                        return value, intervals.over_images(value, metric(sums.weighted(counts)), n, lacking)

                    yield Setting(MASKS[name], n, f"C = {classes}, skill {level}", draws, draw)
    for n, draws in ((20, 300), (100, 300), (1000, 100)):
        for classes in (2, 20):
            for one, two in ((-2.0, -2.0), (0.0, 0.0), (1.0, 0.0), (4.5, 4.5)):

                def compare(
                    g: np.random.Generator,
                    n: int = n,
                    classes: int = classes,
                    skill: tuple[float, float] = (one, two),
                ) -> Paired:
                    sums = _masks(g, n, classes, np.array(skill))
                    counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                    ours, theirs = (segmentation.miou(part.weighted(counts)) for part in sums)
                    gain = float(segmentation.miou(sums[0].total()) - segmentation.miou(sums[1].total()))
                    lacking = segmentation.lacking("miou", sums[0])
                    return tests.resampled([gain], ours - theirs, n, lacking, kind="paired")

                label = f"C = {classes}, skill {one} and {two}"
                yield Setting("difference of mean IoU", n, label, draws, compare)


MASKS = {"miou": "mean IoU", "mean_accuracy": "mean accuracy of pixels", "pixel_accuracy": "pixel accuracy"}


def depths() -> Iterator[Setting]:
    """Depth's delta1, a share of each image's pixels, and its root mean squared error; and differences."""
    for n in SIZES:
        for mean in (0.02, 0.5, 0.9, 0.98):
            for alike in (1, 8):
                shape = alike * mean, alike * (1 - mean)

                def draw(g: np.random.Generator, n: int = n, shape: tuple[float, float] = shape) -> Any:
                    values = g.beta(*shape, size=n)
                    return float(values.mean()), intervals.mean_share(values)

                def compare(g: np.random.Generator, n: int = n, shape: tuple[float, float] = shape) -> Paired:
                    common, own = g.random(n), g.random((2, n))
                    place = np.where(g.random((2, n)) < 0.7, common, own)  # most images are as hard for both
                    values = scipy.stats.beta.ppf(place, *shape)
                    return tests.means(values[0] - values[1])

                label = f"delta1 {mean}, images {'differ much' if alike == 1 else 'differ little'}"
                yield Setting("depth, delta1", n, label, 3000, draw, mean)
                yield Setting(
                    "difference of depth, delta1", n, label, 1000 if n < 1000 else 200, compare, 0.0
                )
        for spread in (0.3, 0.7):

            def error(g: np.random.Generator, n: int = n, spread: float = spread) -> Any:
                values = np.exp(spread * g.normal(size=n))
                return float(values.mean()), intervals.t_interval(values)

            label = f"lognormal, {spread}"
            yield Setting("depth, error in metres", n, label, 3000, error, float(np.exp(spread**2 / 2)))


# -- calibration -----------------------------------------------------------------------------------------------


def _calibrated(g: np.random.Generator, n: int, accuracy: float, over: Array) -> tuple[Array, Array]:
    """Confidences (R, n) and hits of R checkpoints that are too sure by ``over``."""
    common = g.beta(4 * accuracy, 4 * (1 - accuracy), size=n)
    confidence = np.clip(common + 0.05 * g.normal(size=(len(over), n)), 0.05, 1 - 1e-6)
    rate = np.clip(confidence - 4 * over[:, None] * confidence * (1 - confidence), 0, 1)
    return confidence, g.random((len(over), n)) < rate


def calibration() -> Iterator[Setting]:
    """Expected calibration error, and differences of it."""
    for n in SIZES:
        for accuracy in (0.1, 0.5, 0.95, 0.98):
            for over in (0.0, 0.05, 0.15, 0.3):

                def draw(
                    g: np.random.Generator, n: int = n, accuracy: float = accuracy, over: float = over
                ) -> Any:
                    confidence, hits = _calibrated(g, n, accuracy, np.array([over]))
                    value = float(metrics.calibration_error(confidence[0], hits[0]))
                    return value, intervals.calibration(confidence[0], hits[0])

                yield Setting(
                    "calibration error", n, f"confidence {accuracy}, too sure by {over}", 1000, draw
                )
        if n < intervals.MIN_CALIBRATION:
            continue
        for accuracy, ours, theirs in ((0.5, 0.1, 0.1), (0.5, 0.2, 0.05), (0.95, 0.1, 0.1), (0.95, 0.3, 0.1)):

            def compare(
                g: np.random.Generator,
                n: int = n,
                accuracy: float = accuracy,
                over: tuple[float, float] = (ours, theirs),
            ) -> Paired:
                confidence, hits = _calibrated(g, n, accuracy, np.array(over))
                counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                values = [metrics.calibration_error(c, h) for c, h in zip(confidence, hits, strict=True)]
                drawn = [
                    metrics.calibration_error(c, h, weights=counts)
                    for c, h in zip(confidence, hits, strict=True)
                ]
                gain = float(values[0] - values[1])
                return tests.resampled([gain], drawn[0] - drawn[1], n, kind="paired")

            label = f"confidence {accuracy}, too sure by {ours} and {theirs}"
            yield Setting("difference of calibration error", n, label, 400 if n < 1000 else 200, compare)


# -- few-shot --------------------------------------------------------------------------------------------------

SHAPES = (
    (20, 4, 2, 1, 2),
    (20, 2, 2, 3, 5),
    (100, 10, 5, 1, 5),
    (100, 5, 5, 5, 10),
    (1000, 20, 5, 1, 15),
    (1000, 20, 5, 5, 15),
)


def _episodes(
    g: np.random.Generator, n: int, classes: int, way: int, shots: int, queries: int
) -> tuple[Array, Array]:
    size, number = n // classes, 400
    chosen = np.argsort(g.random((number, classes)), axis=1)[:, :way]
    rows = (
        np.argsort(g.random((number, way, size)), axis=2)[:, :, : shots + queries] + chosen[..., None] * size
    )
    return rows[..., :shots], rows[..., shots:]


def _prototypes(features: Array, support: Array, query: Array) -> Array:
    centres = features[support].mean(2)
    near = 2 * np.einsum("ewqd,evd->ewqv", features[query], centres) - (centres**2).sum(-1)[:, None, None, :]
    found: Array = near.argmax(-1) == np.arange(query.shape[1])[None, :, None]
    return found


def few_shot() -> Iterator[Setting]:
    """Few-shot accuracy over the images of a pool, and differences of two networks."""
    for n, classes, way, shots, queries in SHAPES:
        for level, strength in (("near chance", 0.15), ("middle", 0.8), ("high", 1.6)):
            centres = strength * np.random.default_rng(3).normal(size=(classes, 16))
            shape = (n, classes, way, shots, queries)

            def made(
                g: np.random.Generator, count: int, centres: Array = centres, shape: Any = shape
            ) -> list[Any]:
                labels = np.repeat(np.arange(shape[1]), shape[0] // shape[1])
                image = g.normal(size=(shape[0], 16)) * np.linspace(2, 0.3, 16)
                support, query = _episodes(g, *shape)
                found = []
                for _ in range(count):
                    noise = 0.5 * g.normal(size=image.shape) * np.linspace(2, 0.3, 16)
                    right = _prototypes(centres[labels] + image + (noise if count > 1 else 0), support, query)
                    found.append((pool.contributions(right, support, query, labels), right.mean((1, 2))))
                return found

            def draw(g: np.random.Generator, made: Any = made) -> Any:
                ((added, accuracies),) = made(g, 1)
                return float(accuracies.mean()), pool.interval(added, accuracies)

            def compare(g: np.random.Generator, made: Any = made) -> Paired:
                (ours, one), (theirs, two) = made(g, 2)
                return tests.pooled(float((one - two).mean()), ours - theirs, one - two)

            label = f"{classes} classes, {way}-way {shots}-shot, {level}"
            yield Setting("few-shot accuracy", n, label, 1000, draw)
            yield Setting("difference of few-shot accuracy", n, label, 1000, compare, 0.0)


# -- families of tests, ranks, seeds ---------------------------------------------------------------------------

CHECKPOINTS = 5


def families() -> Iterator[Setting]:
    """How often Holm finds any difference among equal checkpoints: all pairs of five."""

    def any_found(found: pairs.Pairs) -> bool:
        return bool(np.nanmin(found.adjusted(), initial=1.0) < 0.05)

    for n in SIZES:
        for rate in (0.5, 0.9, 0.98):
            for shared in (0.2, 0.9):

                def hits(
                    g: np.random.Generator, n: int = n, rate: float = rate, shared: float = shared
                ) -> bool:
                    right = _correlated(g, np.full(CHECKPOINTS, rate), n, shared)
                    return any_found(pairs.proportions(right))

                label = f"rate {rate}, examples share {shared}"
                yield Setting("any false find, top-1", n, label, 4000, hits, family=True)
        for balanced in (True, False):
            labels = _classes(n, 20, balanced)

            def by_class(g: np.random.Generator, labels: Array = labels) -> bool:
                right = _correlated(g, np.full(CHECKPOINTS, 0.8), len(labels))
                linear = np.stack([_linear(row, labels) for row in right])
                return any_found(pairs.means(linear, size=metrics.class_size(labels)))

            label = f"20 classes, {'equal' if balanced else 'unequal'} sizes"
            yield Setting("any false find, mean per class", n, label, 2000, by_class, family=True)
        cases = {
            20: ((1, 0.5, 600), (20, 0.2, 200)),
            100: ((1, 0.1, 600), (20, 0.1, 150)),
            1000: ((1, 0.08, 200),),
        }
        for classes, prevalence, draws in cases[n]:
            for target in (0.6, 0.96):
                shift = np.full(CHECKPOINTS, _separation(target, prevalence))

                def precision(
                    g: np.random.Generator,
                    n: int = n,
                    c: int = classes,
                    p: float = prevalence,
                    shift: Array = shift,
                ) -> bool:
                    scores, labels = _scored(g, n, c, p, shift)
                    counts = g.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
                    found = [_ap("map_area", part, labels, counts) for part in scores]
                    values = np.array([[value] for value, _ in found])
                    return any_found(
                        pairs.resampled(
                            values, np.stack([drawn for _, drawn in found]), *intervals.few(labels.sum(0))
                        )
                    )

                label = f"C = {classes}, {prevalence:.0%} positive, AP {target}"
                yield Setting("any false find, average precision", n, label, draws, precision, family=True)
    for seeds in (3, 5, 8):

        def over_seeds(g: np.random.Generator, seeds: int = seeds) -> bool:
            return any_found(pairs.means(0.7 + 0.01 * g.normal(size=(CHECKPOINTS, seeds))))

        yield Setting("any false find, means over seeds", seeds, "normal", 4000, over_seeds, family=True)

        def mean(g: np.random.Generator, seeds: int = seeds) -> Any:
            values = 0.7 + 0.01 * g.normal(size=seeds)
            return float(values.mean()), intervals.t_interval(values)

        yield Setting("mean over seeds", seeds, "normal", 4000, mean, 0.7)

        def crossed(g: np.random.Generator, seeds: int = seeds) -> Paired:
            rate = 0.1 + 0.02 * g.normal(size=(seeds, 1)) + 0.3 * g.normal(size=100)
            delta = rate + 0.5 * g.normal(size=(seeds, 100))
            return tests.crossed(delta.mean(0), delta.mean(1))

        yield Setting("difference over examples and seeds", seeds, "100 examples", 4000, crossed, 0.1)


def ranks() -> Iterator[Setting]:
    """Whether all ranks of five checkpoints hold at once; the rate is that of a rank outside its range."""
    for n in SIZES:
        for rates in ((0.5, 0.5, 0.6, 0.7, 0.8), (0.9, 0.9, 0.92, 0.94, 0.99)):

            def wrong(g: np.random.Generator, n: int = n, rates: tuple[float, ...] = rates) -> bool:
                right = _correlated(g, np.array(rates), n)
                adjusted = pairs.proportions(right).adjusted()
                mean, true = right.mean(1), np.array(rates)
                ahead = (adjusted < 0.05) & (mean[:, None] > mean[None, :])
                return bool((ahead & (true[:, None] <= true[None, :])).any())

            yield Setting("any rank outside its range", n, f"rates {rates}", 4000, wrong, family=True)


GROUPS = (
    proportions, paired_proportions, per_class, families, ranks, average_precisions, detection, masks, depths,
    calibration, few_shot,
)  # fmt: skip


def table() -> str:
    """The file as Markdown: for each statistic and size the lowest, mean and highest rate over its settings.

    In percent. "Error of one" is the Monte Carlo standard error of one setting at 95 %.
    """
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    parts = []
    for title, family in (("coverage of 95 % intervals", False), ("family-wise error at 5 %", True)):
        rows = [
            f"| {title} | n | settings | lowest | mean | highest | error of one | without interval |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|",
        ]
        groups: dict[tuple[str, int], list[dict[str, str]]] = {}
        for line in lines:
            if line["statistic"].startswith("any ") == family:
                groups.setdefault((line["statistic"], int(line["n"])), []).append(line)
        for (statistic, n), found in sorted(groups.items()):
            rates = [100 * float(line["rate"]) for line in found if line["rate"]]
            told = (
                [f"{value:.1f}" for value in (min(rates), float(np.mean(rates)), max(rates))]
                if rates
                else ["–"] * 3
            )
            without = 100 * float(np.mean([float(line["without"]) for line in found]))
            least = min(int(line["draws"]) for line in found)
            error = (
                100 * (0.05 * 0.95 / least) ** 0.5
            )  # Monte Carlo, of the setting with the fewest data sets
            rows.append(
                f"| {statistic} | {n} | {len(found)} | {' | '.join(told)} | {error:.1f} | {without:.0f} |"
            )
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="statistics that hold this word")
    parser.add_argument("--share", type=float, default=1.0, help="share of the draws, for a quick look")
    parser.add_argument(
        "--table", action="store_true", help="write the file into docs/statistics.md and stop"
    )
    args = parser.parse_args()
    if args.table:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")
        return
    known = set()
    if FILE.exists():
        with FILE.open(encoding="utf-8", newline="") as file:
            known = {(line["statistic"], line["n"], line["setting"]) for line in csv.DictReader(file)}
    for setting in (setting for group in GROUPS for setting in group()):
        if setting.key in known or args.only not in setting.statistic:
            continue
        new = not FILE.exists()
        draws = max(20, round(args.share * setting.draws))
        line = Setting(**{**setting.__dict__, "draws": draws}).run()
        with FILE.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(line)
        print(*(line[name] for name in FIELDS), sep="  ", flush=True)


if __name__ == "__main__":
    main()
