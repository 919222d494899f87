"""Do the intervals and tests of eval.numbers hold? Simulated coverage and family-wise error, as a table.

    OMP_NUM_THREADS=1 nice python -m benchmarks.coverage [--only WORD] [--minutes 9]   # goes on where it stopped
    python -m benchmarks.coverage --table           # the file as Markdown, into docs/statistics.md

Every setting draws many data sets from a population that is known, and asks how often the interval covers what such
data sets give on average. Two checkpoints are compared likewise; all that one data set can tell is asked of the same
draws. Results go to benchmarks/coverage.csv, a line a statistic, as soon as a setting is done. A setting that is in
the file with its number of draws is not run again: delete its lines to have it anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats

from eval.detection import tide
from eval.detection.average_precision import COCO_POINTS, VOC_POINTS, Curve, Matches, Recall, precisions
from eval.numbers import intervals, labelfree, metrics, pairs, pool, segmentation, tests
from eval.numbers.intervals import Interval
from eval.numbers.tests import Paired
from eval.results import diagnosis

FILE = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- made by benchmarks/coverage.py -->\n\n", "\n<!-- end -->"
FIELDS = ("statistic", "n", "setting", "draws", "rate", "without", "width")
SIZES = (20, 100, 1000)
RESAMPLES = 200  # the package takes 1000; fewer make the intervals a little less steady
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        statistic: What is measured.
        n: Examples, images or seeds.
        label: The population.
        truth: What is covered; None for the mean over draws.
    """

    statistic: str
    n: int
    label: str
    truth: float | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What the file knows it by."""
        return self.statistic, str(self.n), self.label

    @property
    def family(self) -> bool:
        """Whether a draw tells of a family of tests without any difference whether one of them is found."""
        return self.statistic.startswith("any ")

    def told(self, found: list[Any]) -> dict[str, Any]:
        """How often the interval covers, of the draws that have one."""
        line: dict[str, Any] = dict(zip(FIELDS, (*self.key, len(found)), strict=False))
        if self.family:
            return line | {"rate": f"{np.mean(found):.4f}", "without": "0", "width": ""}
        spans = [
            (item.difference, item.interval) if isinstance(item, Paired) else (item[0], item[1])
            for item in found
        ]
        truth = self.truth if self.truth is not None else float(np.mean([value for value, _ in spans]))
        kept = [span for _, span in spans if isinstance(span, Interval)]
        covered = [span.low - 1e-9 <= truth <= span.high + 1e-9 for span in kept]
        return line | {
            "rate": f"{np.mean(covered):.4f}" if kept else "",
            "without": f"{1 - len(kept) / len(found):.4f}",
            "width": f"{np.mean([span.high - span.low for span in kept]):.4f}" if kept else "",
        }


@dataclass(frozen=True)
class Setting:
    """A population, and what is measured on every data set that is drawn from it.

    Attributes:
        draws: Data sets.
        draw: From a generator to an item for each line: a value with its interval, a comparison of two, or whether
            anything is found.
        lines: What the items are.
    """

    draws: int
    draw: Callable[[np.random.Generator], Sequence[Any]]
    lines: tuple[Line, ...]

    def run(self, draws: int, told: str = "") -> list[dict[str, Any]]:
        """The lines of so many draws; other text gives other draws."""
        generator = np.random.default_rng(zlib.crc32((" ".join(self.lines[0].key) + told).encode()))
        found = [self.draw(generator) for _ in range(draws)]
        return [line.told([items[at] for items in found]) for at, line in enumerate(self.lines)]


def _counts(g: np.random.Generator, n: int) -> Array:
    """How often each of n is in each resample."""
    rows = g.integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(rows.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(np.float64)


# -- shares of right answers -----------------------------------------------------------------------------------


def _share(g: np.random.Generator, n: int, rate: float, spans: list[Interval]) -> list[Any]:
    right = int(g.binomial(n, rate))
    return [(right / n, spans[right])]


def proportions() -> Iterator[Setting]:
    """Top-1 and top-5."""
    for n in SIZES:
        spans = [intervals.wilson(k, n) for k in range(n + 1)]
        for rate in (0.02, 0.1, 0.5, 0.9, 0.98):
            line = Line("top-1, top-5", n, f"rate {rate}", rate)
            yield Setting(20000, partial(_share, n=n, rate=rate, spans=spans), (line,))


@cache
def _tango(wins: int, losses: int, n: int) -> Paired:
    return tests.proportions(wins, losses, n)


def _paired_shares(g: np.random.Generator, n: int, shares: list[float]) -> list[Paired]:
    wins, losses, _ = g.multinomial(n, shares)
    return [_tango(int(wins), int(losses), n)]


def paired_proportions() -> Iterator[Setting]:
    """Differences of two shares on the same examples."""
    for n in SIZES:
        for discordant in (0.02, 0.1, 0.3, 0.6):
            for part in (0.0, 0.5):
                gain = discordant * part
                shares = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
                label = f"{discordant:.0%} differ, difference {gain:.2f}"
                line = Line("difference of top-1", n, label, gain)
                yield Setting(4000, partial(_paired_shares, n=n, shares=shares), (line,))


SHAPE = {"equal": 0.0, "unequal": 0.8, "very unequal": 2.0}


def _classes(n: int, classes: int, sizes: str) -> Array:
    """Labels; of 20 very unequal classes the first has 63 % of the examples, the last ten 3 % together."""
    share = np.arange(1, classes + 1) ** -SHAPE[sizes]
    return np.repeat(np.arange(classes), np.maximum(1, np.round(share / share.sum() * n)).astype(int))


def _rates(classes: int, mean: float, spread: bool) -> Array:
    """Accuracies of the classes: all alike, or a beta's quantiles in an order unrelated to size."""
    if not spread:
        return np.full(classes, mean)
    found = scipy.stats.beta.ppf((np.arange(classes) + 0.5) / classes, 3 * mean, 3 * (1 - mean))
    return np.random.default_rng(1).permutation(found)


def _class_means(hits: Array, labels: Array) -> float:
    return float(np.mean(np.bincount(labels, hits) / np.bincount(labels)))


def _per_class(g: np.random.Generator, rates: Array, labels: Array) -> list[Any]:
    hits = g.random(len(rates)) < rates
    return [(_class_means(hits, labels), intervals.mean_per_class(hits, labels))]


def _per_class_pair(g: np.random.Generator, rates: Array, labels: Array) -> list[Paired]:
    added = np.array([_linear(hits, labels) for hits in _correlated(g, rates, len(labels))])
    unseen = float(metrics.unseen_in_classes(added, labels)[0, 1])
    return [tests.means(added[0] - added[1], size=metrics.class_size(labels), unseen=unseen)]


def per_class() -> Iterator[Setting]:
    """Mean per class, and differences of it."""
    for n in SIZES:
        for classes, sizes in ((1, "equal"), (20, "equal"), (20, "unequal"), (20, "very unequal")):
            labels = _classes(n, classes, sizes)
            told = f"C = {classes}, {sizes} sizes"
            for mean in (0.02, 0.5, 0.98):
                for spread in (False, True) if classes > 1 else (False,):
                    rates = _rates(classes, mean, spread)
                    label = f"{told}, rate {mean}" + (", classes differ" if spread else "")
                    line = Line("mean per class", n, label, float(np.mean(rates)))
                    yield Setting(3000, partial(_per_class, rates=rates[labels], labels=labels), (line,))
        for classes, sizes in ((1, "equal"), (20, "equal"), (20, "unequal"), (20, "very unequal")):
            labels = _classes(n, classes, sizes)
            told = f"C = {classes}, {sizes} sizes"
            for mean, gain in ((0.5, 0.0), (0.5, 0.1), (0.9, 0.0), (0.9, 0.05)):
                line = Line("difference of mean per class", n, f"{told}, {mean} and {mean + gain:.2f}", gain)
                rates = np.array([mean + gain, mean])
                yield Setting(2000, partial(_per_class_pair, rates=rates, labels=labels), (line,))


def _correlated(g: np.random.Generator, rates: Array, n: int, shared: float = 0.6) -> Array:
    """(R, n) right or wrong; some examples are hard for all."""
    common = np.sqrt(shared) * g.normal(size=n)
    score = common + np.sqrt(1 - shared) * g.normal(size=(len(rates), n))
    found: Array = score < scipy.stats.norm.ppf(rates)[:, None]
    return found


def _linear(hits: Array, labels: Array) -> Array:
    return metrics.class_contributions(hits.astype(np.float64), labels)


# -- average precision -----------------------------------------------------------------------------------------

AREA_AND_POINTS = {"map_area": "area", "map11": "11 points"}


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
    yield from ((20, 1, 0.15, 4000), (20, 1, 0.3, 4000), (20, 1, 0.5, 4000), (20, 20, 0.2, 1000))
    yield from ((100, 1, 0.05, 4000), (100, 1, 0.3, 4000), (100, 20, 0.1, 1000))
    yield from ((1000, 1, 0.08, 1000), (1000, 20, 0.08, 1000))


def _average_precisions(
    g: np.random.Generator, n: int, classes: int, prevalence: float, shifts: Array, alone: bool
) -> list[Any]:
    """By area and by points: the first alone, and against the second where there is one."""
    scores, labels = _scored(g, n, classes, prevalence, shifts)
    counts = _counts(g, n)
    items: list[Any] = []
    for name in AREA_AND_POINTS:
        found = [_ap(name, part, labels, counts) for part in scores]
        if alone:
            items.append((found[0][0], intervals.average_precision(*found[0], labels.sum(0))))
        if len(found) == 2:
            (one, ours), (two, theirs) = found
            size, lacking = intervals.few(labels.sum(0))
            items.append(tests.resampled([one - two], ours - theirs, size, lacking, kind="paired"))
    return items


def average_precisions() -> Iterator[Setting]:
    """One class and the mean over classes, by eleven points and by area, and differences."""
    for n, classes, prevalence, draws in _ap_cases():
        cases = (("low", prevalence + 0.08, None), ("middle", 0.6, 0.6), ("", 0.7, 0.5), ("high", 0.96, 0.96))
        for level, one, two in cases:
            told, lines = f"C = {classes}, {prevalence:.0%} positive", []
            for how in AREA_AND_POINTS.values():
                if level:
                    lines.append(Line(f"average precision, {how}", n, f"{told}, {level} AP"))
                if two is not None:
                    label, truth = f"{told}, AP {one} and {two}", 0.0 if one == two else None
                    lines.append(Line(f"difference of average precision, {how}", n, label, truth))
            skills = [one] if two is None else [one, two]
            draw = partial(
                _average_precisions, n=n, classes=classes, prevalence=prevalence, alone=bool(level),
                shifts=np.array([_separation(skill, prevalence) for skill in skills]),
            )  # fmt: skip
            yield Setting(draws, draw, tuple(lines))


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


def _measured(matches: list[Matches], recall: Recall, weights: Array) -> dict[str, tuple[Array, float]]:
    """Each metric of a detector under weightings of the images, and the variance that these do not show."""
    curve = Curve(matches, tuple(range(10)), COCO_POINTS)
    points = Curve(matches, (0,), VOC_POINTS)
    by_class = precisions(curve.classes, curve.ious, curve.points, weights)
    return {
        "AP": (curve.mean(by_class), curve.unseen()),
        "AP50, area": (curve.mean(by_class[:, :, :1]), replace(curve, ious=(0,)).unseen()),
        "AP50, 11 points": (points.values(weights), 0.0),
        "AR": (recall.values(weights), 0.0),
    }


def _detection(g: np.random.Generator, n: int, classes: int, skill: Array, alone: bool) -> list[Any]:
    """Each metric: the first detector alone, and against the second where there is one."""
    detectors = _detections(g, n, classes, skill)
    weights = np.vstack([np.ones(n), _counts(g, n)])
    found = [_measured(*detector, weights) for detector in detectors]
    positives = (detectors[0][1].positives > 0).sum(1)
    items: list[Any] = []
    for kind, (values, unseen) in found[0].items():
        if alone:
            items.append((values[0], intervals.average_precision(values[0], values[1:], positives)))
        if len(found) == 2:
            theirs, also = found[1][kind]
            delta, (size, lacking) = values - theirs, intervals.few(positives)
            items.append(tests.resampled([delta[0]], delta[1:], size, lacking, unseen + also, kind="paired"))
    return items


KINDS = ("AP", "AP50, area", "AP50, 11 points", "AR")


def detection() -> Iterator[Setting]:
    """AP, AP50 by area and by 11 points, and average recall, with images as clusters; and differences."""
    cases = (
        ("low", "", (-1.5,)), ("middle", "equal", (0.5, 0.5)), ("", "apart", (0.9, 0.4)),
        ("high", "equal, high", (3.0, 3.0)),
    )  # fmt: skip
    for n, classes, draws in ((20, 1, 400), (20, 5, 400), (100, 1, 1000), (100, 5, 600), (1000, 1, 600)):
        more = [("", "equal, perfect", (4.0, 4.0))] if n == 1000 else []  # one object in 2,000 is missed
        for level, pair, skill in (*cases, *more):
            lines = []
            for kind in KINDS:
                if level:
                    lines.append(Line(f"detection {kind}", n, f"C = {classes}, {level}"))
                if pair:
                    truth = 0.0 if len(set(skill)) == 1 else None
                    lines.append(Line(f"difference of detection {kind}", n, f"C = {classes}, {pair}", truth))
            draw = partial(_detection, n=n, classes=classes, skill=np.array(skill), alone=bool(level))
            yield Setting(200 if "perfect" in pair else draws, draw, tuple(lines))


# -- segmentation and depth ------------------------------------------------------------------------------------

MASKS = {"miou": "mean IoU", "mean_accuracy": "mean accuracy of pixels", "pixel_accuracy": "pixel accuracy"}


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


def _segmented(g: np.random.Generator, n: int, classes: int, skill: Array, alone: bool) -> list[Any]:
    """Every metric of the first network, and the difference of mean IoU where there is a second."""
    networks = _masks(g, n, classes, skill)
    counts = np.vstack([np.ones(n), _counts(g, n)])
    weighted = [network.weighted(counts) for network in networks]
    items: list[Any] = []
    for name in MASKS if alone else ():
        values = segmentation.METRICS[name](weighted[0])
        lacking = segmentation.lacking(name, networks[0])
        items.append((values[0], intervals.over_images(values[0], values[1:], n, lacking)))
    if len(networks) == 2:
        delta = segmentation.miou(weighted[0]) - segmentation.miou(weighted[1])
        lacking = segmentation.lacking("miou", networks[0])
        items.append(tests.resampled([delta[0]], delta[1:], n, lacking, kind="paired"))
    return items


def masks() -> Iterator[Setting]:
    """Mean IoU, mean and pixel accuracy, with images as clusters; and differences of mean IoU."""
    skills = (-2.0, -2.0), (0.0, 0.0), (1.0, 0.0), (2.5,), (4.5, 4.5)
    for n in SIZES:
        many = ((150, skills[1:3]),) if n < 1000 else ()  # most of which are in no image, or in one or two
        for classes, levels in ((2, skills), (20, skills), *many):
            for skill in levels:
                alone = len(set(skill)) == 1
                label = f"C = {classes}, skill {skill[0]}"
                lines = [Line(name, n, label) for name in MASKS.values() if alone]
                if len(skill) == 2:
                    truth = 0.0 if alone else None
                    lines.append(Line("difference of mean IoU", n, f"{label} and {skill[1]}", truth))
                draw = partial(_segmented, n=n, classes=classes, skill=np.array(skill), alone=alone)
                yield Setting(1000, draw, tuple(lines))


def _depth_share(g: np.random.Generator, n: int, shape: tuple[float, float]) -> list[Any]:
    values = g.beta(*shape, size=n)
    return [(float(values.mean()), intervals.mean_share(values))]


def _depth_pair(g: np.random.Generator, n: int, shape: tuple[float, float]) -> list[Paired]:
    common, own = g.random(n), g.random((2, n))
    place = np.where(g.random((2, n)) < 0.7, common, own)  # most images are as hard for both
    one, two = scipy.stats.beta.ppf(place, *shape)
    return [tests.means(one - two)]


def _depth_error(g: np.random.Generator, n: int, spread: float) -> list[Any]:
    values = np.exp(spread * g.normal(size=n))
    return [(float(values.mean()), intervals.t_interval(values))]


def _depth_errors(g: np.random.Generator, n: int, spread: float) -> list[Paired]:
    common, own = g.normal(size=n), g.normal(size=(2, n))
    one, two = np.exp(spread * (np.sqrt(0.7) * common + np.sqrt(0.3) * own))
    return [tests.means(one - two)]


def depths() -> Iterator[Setting]:
    """Depth's delta1, a share of each image's pixels, and its root mean squared error; and differences."""
    for n in SIZES:
        for mean in (0.02, 0.5, 0.9, 0.98):
            for alike in (1, 8):
                shape = alike * mean, alike * (1 - mean)
                label = f"delta1 {mean}, images {'differ much' if alike == 1 else 'differ little'}"
                single, pair = (
                    Line("depth, delta1", n, label, mean),
                    Line("difference of depth, delta1", n, label, 0.0),
                )
                yield Setting(3000, partial(_depth_share, n=n, shape=shape), (single,))
                yield Setting(1000, partial(_depth_pair, n=n, shape=shape), (pair,))
        for spread in (0.3, 0.7):
            line = Line("depth, error in metres", n, f"lognormal, {spread}", float(np.exp(spread**2 / 2)))
            yield Setting(3000, partial(_depth_error, n=n, spread=spread), (line,))
            line = Line("difference of depth, error in metres", n, f"lognormal, {spread}", 0.0)
            yield Setting(3000, partial(_depth_errors, n=n, spread=spread), (line,))


# -- calibration -----------------------------------------------------------------------------------------------


def _calibrated(g: np.random.Generator, n: int, accuracy: float, over: Array) -> tuple[Array, Array]:
    """Confidences (R, n) and hits of R checkpoints that are too sure by ``over``."""
    common = g.beta(4 * accuracy, 4 * (1 - accuracy), size=n)
    confidence = np.clip(common + 0.05 * g.normal(size=(len(over), n)), 0.05, 1 - 1e-6)
    rate = np.clip(confidence - 4 * over[:, None] * confidence * (1 - confidence), 0, 1)
    return confidence, g.random((len(over), n)) < rate


def _calibration(g: np.random.Generator, n: int, accuracy: float, over: float) -> list[Any]:
    confidence, hits = _calibrated(g, n, accuracy, np.array([over]))
    value = float(metrics.calibration_error(confidence[0], hits[0]))
    return [(value, intervals.calibration(confidence[0], hits[0]))]


def _calibration_pair(
    g: np.random.Generator, n: int, accuracy: float, over: tuple[float, float]
) -> list[Paired]:
    confidence, hits = _calibrated(g, n, accuracy, np.array(over))
    weights = np.vstack([np.ones(n), _counts(g, n)])
    one, two = (
        metrics.calibration_error(c, h, weights=weights) for c, h in zip(confidence, hits, strict=True)
    )
    return [tests.resampled([float(one[0] - two[0])], one[1:] - two[1:], n, kind="paired")]


def calibration() -> Iterator[Setting]:
    """Expected calibration error, and differences of it."""
    for n in SIZES:
        for accuracy in (0.1, 0.5, 0.95, 0.98):
            for over in (0.0, 0.05, 0.15, 0.3):
                line = Line("calibration error", n, f"confidence {accuracy}, too sure by {over}")
                yield Setting(1000, partial(_calibration, n=n, accuracy=accuracy, over=over), (line,))
        if n < intervals.MIN_CALIBRATION:
            continue
        for accuracy, ours, theirs in ((0.5, 0.1, 0.1), (0.5, 0.2, 0.05), (0.95, 0.1, 0.1), (0.95, 0.3, 0.1)):
            label = f"confidence {accuracy}, too sure by {ours} and {theirs}"
            draw = partial(_calibration_pair, n=n, accuracy=accuracy, over=(ours, theirs))
            yield Setting(1000, draw, (Line("difference of calibration error", n, label),))


# -- few-shot --------------------------------------------------------------------------------------------------

EPISODES = 600
EPISODE_INTERVALS = {"Student's": intervals.episodes, "1.96": intervals.normal_legacy}
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
    size = n // classes
    chosen = np.argsort(g.random((EPISODES, classes)), axis=1)[:, :way]
    rows = np.argsort(g.random((EPISODES, way, size)), axis=2)[:, :, : shots + queries]
    rows = rows + chosen[..., None] * size
    return rows[..., :shots], rows[..., shots:]


def _prototypes(features: Array, support: Array, query: Array) -> Array:
    centres = features[support].mean(2)
    near = 2 * np.einsum("ewqd,evd->ewqv", features[query], centres) - (centres**2).sum(-1)[:, None, None, :]
    found: Array = near.argmax(-1) == np.arange(query.shape[1])[None, :, None]
    return found


def _few_shot(g: np.random.Generator, centres: Array, shape: tuple[int, ...]) -> list[Any]:
    """Accuracy of the first of two networks, and their difference."""
    n, classes = shape[:2]
    labels = np.repeat(np.arange(classes), n // classes)
    scale = np.linspace(2, 0.3, 16)
    image = centres[labels] + scale * g.normal(size=(n, 16))
    support, query = _episodes(g, *shape)
    found = []
    for _ in range(2):
        right = _prototypes(image + 0.5 * scale * g.normal(size=image.shape), support, query)
        found.append((pool.contributions(right, support, query, labels), right.mean((1, 2))))
    (ours, one), (theirs, two) = found
    single = float(one.mean()), pool.interval(ours, one)
    return [single, tests.pooled(float((one - two).mean()), ours - theirs, one - two)]


def _of_this_pool(g: np.random.Generator, features: Array, shape: tuple[int, ...]) -> list[Any]:
    """Accuracy over other episodes of one and the same pool, as papers print it and as ``..._episodes`` has it."""
    values = _prototypes(features, *_episodes(g, *shape)).mean((1, 2))
    return [(float(values.mean()), interval(values)) for interval in EPISODE_INTERVALS.values()]


def few_shot() -> Iterator[Setting]:
    """Few-shot accuracy over the images of a pool, and differences of two networks."""
    for n, classes, way, shots, queries in SHAPES:
        for level, strength in (("near chance", 0.15), ("middle", 0.8), ("high", 1.6)):
            centres = strength * np.random.default_rng(3).normal(size=(classes, 16))
            draw = partial(_few_shot, centres=centres, shape=(n, classes, way, shots, queries))
            label = f"{classes} classes, {way}-way {shots}-shot, {level}"
            single = Line("few-shot accuracy", n, label)
            draws = 400 if n < 1000 else 600
            yield Setting(draws, draw, (single, Line("difference of few-shot accuracy", n, label, 0.0)))
            spread = np.linspace(2, 0.3, 16) * np.random.default_rng(4).normal(size=(n, 16))
            features = np.repeat(centres, n // classes, axis=0) + spread
            draw = partial(_of_this_pool, features=features, shape=(n, classes, way, shots, queries))
            names = (f"few-shot accuracy, other episodes, {kind}" for kind in EPISODE_INTERVALS)
            yield Setting(1000, draw, tuple(Line(name, n, label) for name in names))


# -- families of tests, ranks, seeds ---------------------------------------------------------------------------

CHECKPOINTS = 5


def _any(found: pairs.Pairs) -> list[bool]:
    return [bool(np.nanmin(found.adjusted(), initial=1.0) < 0.05)]


def _any_share(g: np.random.Generator, n: int, rate: float, shared: float) -> list[bool]:
    return _any(pairs.proportions(_correlated(g, np.full(CHECKPOINTS, rate), n, shared)))


def _any_per_class(g: np.random.Generator, labels: Array) -> list[bool]:
    right = _correlated(g, np.full(CHECKPOINTS, 0.8), len(labels))
    linear = np.stack([_linear(row, labels) for row in right])
    unseen = metrics.unseen_in_classes(linear, labels)
    return _any(pairs.means(linear, size=metrics.class_size(labels), unseen=unseen))


def _any_precision(
    g: np.random.Generator, n: int, classes: int, prevalence: float, shift: Array
) -> list[bool]:
    scores, labels = _scored(g, n, classes, prevalence, shift)
    counts = _counts(g, n)
    found = [_ap("map_area", part, labels, counts) for part in scores]
    values, drawn = np.array([[value for value, _ in found]]), np.stack([[drawn for _, drawn in found]])
    return _any(pairs.resampled(values, drawn, *intervals.few(labels.sum(0))))


def _any_seeds(g: np.random.Generator, seeds: int) -> list[bool]:
    return _any(pairs.means(0.7 + 0.01 * g.normal(size=(CHECKPOINTS, seeds))))


def _seeds(g: np.random.Generator, seeds: int) -> list[Any]:
    values = 0.7 + 0.01 * g.normal(size=seeds)
    return [(float(values.mean()), intervals.t_interval(values))]


def families() -> Iterator[Setting]:
    """How often Holm finds any difference among equal checkpoints: all pairs of five."""
    cases = {
        20: ((1, 0.5, 600), (20, 0.2, 600)),
        100: ((1, 0.1, 600), (20, 0.1, 600)),
        1000: ((1, 0.08, 600),),
    }
    for n in SIZES:
        for rate in (0.5, 0.9, 0.98):
            for shared in (0.2, 0.9):
                line = Line("any false find, top-1", n, f"rate {rate}, examples share {shared}")
                yield Setting(4000, partial(_any_share, n=n, rate=rate, shared=shared), (line,))
        for sizes in SHAPE:
            line = Line("any false find, mean per class", n, f"20 classes, {sizes} sizes")
            yield Setting(2000, partial(_any_per_class, labels=_classes(n, 20, sizes)), (line,))
        for classes, prevalence, draws in cases[n]:
            for target in (0.6, 0.96):
                shift = np.full(CHECKPOINTS, _separation(target, prevalence))
                label = f"C = {classes}, {prevalence:.0%} positive, AP {target}"
                line = Line("any false find, average precision", n, label)
                draw = partial(_any_precision, n=n, classes=classes, prevalence=prevalence, shift=shift)
                yield Setting(draws, draw, (line,))


def _crossed(g: np.random.Generator, n: int, seeds: int) -> list[Paired]:
    rate = 0.1 + 0.02 * g.normal(size=(seeds, 1)) + 0.3 * g.normal(size=n)
    delta = rate + 0.5 * g.normal(size=(seeds, n))
    return [tests.crossed(delta, delta.mean(1))]


def _crossed_shares(g: np.random.Generator, n: int, seeds: int, spread: float) -> list[Paired]:
    """Right or wrong of two checkpoints, each trained with some seeds: these move it by as much as ``spread``."""
    hard, own = g.normal(size=n), g.normal(size=(2, seeds, n))
    level = spread * g.normal(size=(2, seeds, 1))
    right = level + 0.8 * hard + 0.6 * own > -0.5
    delta = right[0].astype(np.float64) - right[1]
    return [tests.crossed(delta, delta.mean(1))]


def _crossed_precisions(g: np.random.Generator, n: int, seeds: int, spread: float) -> list[Paired]:
    """Average precision of two checkpoints as good as each other, 30 % positive, about .6."""
    shifts = _separation(0.6, 0.3) + spread * g.normal(size=2 * seeds)
    scores, labels = _scored(g, n, 1, 0.3, shifts)
    counts = _counts(g, n)
    found = [_ap("map_area", part, labels, counts) for part in scores]
    values, drawn = np.array([value for value, _ in found]), np.stack([drawn for _, drawn in found])
    size, lacking = intervals.few(labels.sum(0))
    delta = values[:seeds] - values[seeds:], drawn[:seeds] - drawn[seeds:]
    return [tests.resampled(*delta, size, lacking, kind="paired")]


def over_seeds() -> Iterator[Setting]:
    """Means over pretraining seeds; differences over examples and evaluation seeds, which both vary."""
    for seeds in (3, 5, 8):
        line = Line("any false find, means over seeds", seeds, "normal")
        yield Setting(4000, partial(_any_seeds, seeds=seeds), (line,))
        yield Setting(4000, partial(_seeds, seeds=seeds), (Line("mean over seeds", seeds, "normal", 0.7),))
        statistic = f"difference over examples and {seeds} seeds"
        for n in SIZES:
            line = Line(statistic, n, "normal", 0.1)
            yield Setting(4000, partial(_crossed, n=n, seeds=seeds), (line,))
            for spread in (0.0, 0.05, 0.1, 0.2):
                line = Line(statistic, n, f"right or wrong, spread of seeds {spread}", 0.0)
                yield Setting(4000, partial(_crossed_shares, n=n, seeds=seeds, spread=spread), (line,))
        for n in (100, 1000):
            for spread in (0.0, 0.1):
                line = Line(statistic, n, f"average precision, area, spread of seeds {spread}", 0.0)
                yield Setting(1000, partial(_crossed_precisions, n=n, seeds=seeds, spread=spread), (line,))


def _any_rank(g: np.random.Generator, n: int, rates: tuple[float, ...]) -> list[bool]:
    right = _correlated(g, np.array(rates), n)
    adjusted = pairs.proportions(right).adjusted()
    mean, true = right.mean(1), np.array(rates)
    ahead = (adjusted < 0.05) & (mean[:, None] > mean[None, :])
    return [bool((ahead & (true[:, None] <= true[None, :])).any())]


def ranks() -> Iterator[Setting]:
    """Whether all ranks of five checkpoints hold at once; the rate is that of a rank outside its range."""
    for n in SIZES:
        for rates in ((0.5, 0.5, 0.6, 0.7, 0.8), (0.9, 0.9, 0.92, 0.94, 0.99), (0.7, 0.7, 0.7, 0.9, 0.9)):
            line = Line("any rank outside its range", n, f"rates {rates}")
            yield Setting(4000, partial(_any_rank, n=n, rates=rates), (line,))


# -- errors of detectors, rank correlations --------------------------------------------------------------------

COSTS = ("localisation", "classification", "background", "missed")
NOTHING = np.zeros(0, dtype=np.int64)


def _judged(
    g: np.random.Generator, classes: int, hard: float, common: Array, skills: Array
) -> list[tide.Judged]:
    """An image by R detectors, judged: objects found, found elsewhere, mistaken or missed, and alarms."""
    truth, found = g.integers(0, classes, len(common)), []
    for skill in skills:
        quality = skill - 0.5 * hard + 0.7 * common + 0.7 * g.normal(size=len(truth))
        alarms = g.poisson(0.7)
        lot = g.random(len(truth))
        kind = np.where(lot < 0.4, "localisation", np.where(lot < 0.6, "classification", "missed"))
        kind = np.where(quality > 0, tide.HIT, kind)
        said = kind != "missed"
        kinds = np.r_[kind[said], np.repeat("background", alarms)].astype("<U14")
        swapped = np.where(kind == "classification", (truth + 1) % max(classes, 2), truth) % classes
        mended = np.where(kind == tide.HIT, -1, truth)[said]
        score = np.r_[quality[said] + g.normal(size=said.sum()), g.normal(size=alarms) - 0.7]
        order = np.argsort(-score)
        found.append(
            tide.Judged(
                order=order,
                category=np.r_[swapped[said], g.integers(0, classes, alarms)][order],
                score=score[order], kind=kinds[order], ignored=np.zeros(len(order), dtype=bool),
                mended=np.r_[mended, np.full(alarms, -1)][order], truth=truth, found=kind == tide.HIT,
                missed=kind == "missed", takes=NOTHING,
            )
        )  # fmt: skip
    return found


def _costs(g: np.random.Generator, n: int, classes: int, skills: Array) -> list[Any]:
    """What each type of error costs the first detector, and how much more it costs than the second."""
    images = [
        _judged(g, classes, g.normal(), g.normal(size=g.poisson(2.0) if place else 2), skills)
        for place in range(n)
    ]
    counts = np.vstack([np.ones(n), _counts(g, n)])
    names = tuple(str(number) for number in range(classes))
    values = [tide.Errors(names, list(one), 0.5, False).values(counts) for one in zip(*images, strict=True)]
    items: list[Any] = []
    for name in COSTS:
        for two, found in enumerate((values[0][name], values[0][name] - values[1][name])):
            interval = diagnosis.difference if two else diagnosis.estimate
            told = interval(float(found[0]), found[1:], n)
            span: Any = intervals.NoInterval("it does not vary")
            if told.low is not None and told.high is not None:
                span = Interval(told.low, told.high, "of the page")
            items.append((float(found[0]), span))
    return items


def costs() -> Iterator[Setting]:
    """`mast diagnose`: what a type of error costs in average precision, and differences of two detectors."""
    for n, classes, draws in ((20, 1, 400), (100, 1, 400), (100, 5, 400)):
        for level, skill in (("middle", 0.3), ("high", 2.0)):
            label = f"C = {classes}, {level}"
            lines = [
                Line(f"{'difference of ' * two}cost of errors", n, f"{label}, {name}", 0.0 if two else None)
                for name in COSTS
                for two in (False, True)
            ]
            yield Setting(
                draws, partial(_costs, n=n, classes=classes, skills=np.array([skill, skill])), tuple(lines)
            )


def _ranked(g: np.random.Generator, n: int, share: float) -> list[Any]:
    common, own = g.normal(size=n), g.normal(size=(2, n))
    told = labelfree.rank_correlation(*(np.sqrt(share) * common + np.sqrt(1 - share) * own))
    return [(told.rho, told.interval)]


def rank_correlations() -> Iterator[Setting]:
    """Spearman's rank correlation of two normal measures of checkpoints."""
    for n in (20, 60, 100):
        for share in (0.0, 0.3, 0.6, 0.9):
            truth = 6 / np.pi * np.arcsin(share / 2)
            line = Line("rank correlation", n, f"correlation {share}", float(truth))
            yield Setting(4000, partial(_ranked, n=n, share=share), (line,))


GROUPS = (
    proportions, paired_proportions, per_class, families, over_seeds, ranks, average_precisions, detection, masks,
    depths, calibration, few_shot, costs, rank_correlations,
)  # fmt: skip


def read() -> dict[tuple[str, str, str], dict[str, str]]:
    """The lines of the file by what it knows them by."""
    if not FILE.exists():
        return {}
    with FILE.open(encoding="utf-8", newline="") as file:
        return {(line["statistic"], line["n"], line["setting"]): line for line in csv.DictReader(file)}


def write(known: dict[tuple[str, str, str], dict[str, str]]) -> None:
    """The file, in the order of the script."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    keys = (line.key for group in GROUPS for setting in group() for line in setting.lines)
    writer.writerows(known[key] for key in keys if key in known)
    FILE.write_text(text.getvalue(), encoding="utf-8")


def outside(line: dict[str, str]) -> bool:
    """Whether a coverage lies outside what is asked for by more than two of its Monte Carlo errors.

    Asked for are 93 to 97 %, and 90 % at least below 100 examples.
    """
    rate, number = float(line["rate"]), int(line["draws"]) * (1 - float(line["without"]))
    low, high = (0.93, 0.97) if int(line["n"]) >= 100 else (0.90, 1.0)
    bound = min(max(rate, low), high)
    return bool(abs(rate - bound) > 2 * (bound * (1 - bound) / number) ** 0.5)


def table() -> str:
    """The file as Markdown: for each statistic and size the lowest, mean and highest rate over its settings.

    In percent. "Draws" are those of the setting with the fewest data sets; bold is `outside`.
    """
    parts = []
    for title, family in (("coverage of 95 % intervals", False), ("family-wise error at 5 %", True)):
        rows = [
            f"| {title} | n | settings | lowest | mean | highest | draws | without interval |",
            "|:--|--:|--:|--:|--:|--:|--:|--:|",
        ]
        groups: dict[tuple[str, int], list[dict[str, str]]] = {}
        for line in read().values():
            if line["statistic"].startswith("any ") == family:
                groups.setdefault((line["statistic"], int(line["n"])), []).append(line)
        for (statistic, n), found in sorted(groups.items()):
            lines = sorted((line for line in found if line["rate"]), key=lambda line: float(line["rate"]))
            told = ["–"] * 3
            if lines:
                mean = 100 * float(np.mean([float(line["rate"]) for line in lines]))
                low, high = (
                    f"**{rate:.1f}**" if not family and outside(line) else f"{rate:.1f}"
                    for line in (lines[0], lines[-1])
                    for rate in [100 * float(line["rate"])]
                )
                told = [low, f"{mean:.1f}", high]
            without = 100 * float(np.mean([float(line["without"]) for line in found]))
            least = min(int(line["draws"]) for line in found)
            rows.append(
                f"| {statistic} | {n} | {len(found)} | {' | '.join(told)} | {least:,} | {without:.0f} |"
            )
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="settings with a line that holds these words: statistic, n and population"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no setting after so many")
    parser.add_argument(
        "--table", action="store_true", help="write the file into docs/statistics.md and stop"
    )
    args = parser.parse_args()
    if args.table:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")
        return
    until = time.monotonic() + 60 * args.minutes
    for setting in (setting for group in GROUPS for setting in group()):
        known = read()
        done = all(int(known.get(line.key, {"draws": 0})["draws"]) >= setting.draws for line in setting.lines)
        if done or not any(args.only in " ".join(line.key) for line in setting.lines):
            continue
        if time.monotonic() > until:
            print("not done yet: start it again")
            break
        lines = {}
        for found in setting.run(setting.draws):
            lines[found["statistic"], str(found["n"]), found["setting"]] = found
            print(*found.values(), sep="  ", flush=True)
        write(read() | lines)  # another process may have written meanwhile


if __name__ == "__main__":
    main()
