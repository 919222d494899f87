"""Intervals against tables, formulas and their own promise: coverage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats

from eval.numbers import intervals, metrics, tests
from eval.numbers.intervals import Interval, NoInterval


def test_wilson_matches_scipy() -> None:
    for k, n in ((0, 10), (3, 10), (8, 10), (10, 10), (512, 1000)):
        ours = intervals.wilson(k, n)
        theirs = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert ours.kind == "wilson"
    assert intervals.wilson(0, 5).low == 0.0
    assert intervals.wilson(5, 5).high == 1.0


def test_wilson_covers_as_it_promises() -> None:
    # Coverage averaged over rates is close to nominal; exact sums over the binomial, no simulation.
    n = 100
    found = [intervals.wilson(k, n) for k in range(n + 1)]
    coverage = [
        sum(scipy.stats.binom.pmf(k, n, rate) for k, i in enumerate(found) if i.low <= rate <= i.high)
        for rate in np.linspace(0.05, 0.95, 19)
    ]
    assert 0.94 < float(np.mean(coverage)) < 0.96


def test_t_interval_by_hand() -> None:
    # Mean 2, sd 1, n 3: half-width 4.302653 / sqrt(3).
    interval = intervals.t_interval([1.0, 2.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    with pytest.raises(ValueError, match="at least two"):
        intervals.t_interval([1.0])


def test_legacy_interval_is_the_papers_formula() -> None:
    values = np.array([0.2, 0.4, 0.9])
    half = 1.96 * values.std() / np.sqrt(3)
    interval = intervals.normal_legacy(values)
    assert isinstance(interval, Interval)
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert "episodes" in interval.kind
    assert "episodes" in intervals.episodes(values).kind


@pytest.mark.parametrize("over", [intervals.normal_legacy, intervals.episodes])
def test_episodes_that_are_all_alike_have_no_interval(over: Callable[[Any], Any]) -> None:
    """600 episodes of a pool that is nearly always answered rightly: no width would claim that it always is."""
    for value in (1.0, 0.95):
        assert over(np.full(600, value)) == NoInterval("all episodes have the same accuracy")


def test_effective_is_wilson_for_a_plain_proportion_and_never_empty() -> None:
    found = intervals.effective(0.3, 0.3 * 0.7 / 50, 50, "wilson-bootstrap")
    plain = intervals.wilson(15, 50)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-12)
    # A variance that is zero by luck leaves Wilson's interval at the end, and narrows it only as events speak for it.
    end = intervals.effective(1.0, 0.0, 50, "wilson-bootstrap")
    assert (end.low, end.high) == (intervals.wilson(50, 50).low, 1.0)
    few, many = (intervals.effective(0.9, 0.0, size, "wilson-bootstrap") for size in (20, 2000))
    assert 0.1 < few.high - few.low < intervals.wilson(18, 20).high - intervals.wilson(18, 20).low
    assert (
        many.high - many.low
        < 0.1 * (intervals.wilson(1800, 2000).high - intervals.wilson(1800, 2000).low) * 3
    )
    with pytest.raises(ValueError, match="are needed"):
        intervals.effective(1.2, 0.0, 50, "wilson-bootstrap")


def test_mean_per_class_by_hand() -> None:
    # Classes of 4 and 2: accuracies 3/4 and 1/2; unbiased variances 1/16 and 1/4, a fourth of their sum.
    hits, labels = np.array([1, 1, 1, 0, 1, 0]), np.array([5, 5, 5, 5, 7, 7])
    found = intervals.mean_per_class(hits, labels)
    expected = intervals.effective(0.625, (1 / 16 + 1 / 4) / 4, 4 / (1 / 4 + 1 / 2), "wilson-per-class")
    assert found == expected
    # One class is Wilson's interval but for n - 1 in its variance; one example a class is Wilson's over examples.
    one = intervals.mean_per_class(np.arange(40) < 30, np.zeros(40))
    assert (one.low, one.high) == pytest.approx((0.598, 0.859), abs=0.005)
    each = intervals.mean_per_class(np.arange(40) < 30, np.arange(40))
    assert (each.low, each.high) == pytest.approx(
        (intervals.wilson(30, 40).low, intervals.wilson(30, 40).high)
    )


def test_average_precision_has_an_interval_at_one_and_none_without_positives() -> None:
    perfect = intervals.average_precision(1.0, np.ones(50), np.array([10.0]))
    assert isinstance(perfect, Interval)
    assert perfect.high == 1.0
    assert 0.8 < perfect.low < 0.9  # Wilson's for 20 of 20: half the binomial variance of ten positives
    few = intervals.average_precision(1.0, np.ones(50), np.array([1.0, 1.0]))
    assert few == NoInterval("2 positives say too little, 3 are needed")
    # Classes without a positive count for nothing: C^2 / sum(1 / P), and P / (P - 1) of the harmonic mean.
    assert intervals.few(np.array([4, 0, 12])) == pytest.approx((12.0, 6 / 5))
    with pytest.raises(ValueError, match="no class"):
        intervals.few(np.zeros(3))


def test_calibration_is_close_to_the_bootstrap() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1.0, size=500)
    hits = generator.random(500) < confidence - 0.15
    found = intervals.calibration(confidence, hits)
    assert isinstance(found, Interval)
    counts = intervals.resample_counts(500, 4000, seed=1)
    drawn = metrics.calibration_error(confidence, hits, weights=counts)
    value = float(metrics.calibration_error(confidence, hits))
    factor = np.exp(1.959964 * drawn.std() / value)
    assert (found.low, found.high) == pytest.approx((value / factor, value * factor), rel=0.03)
    assert isinstance(intervals.calibration(confidence[:99], hits[:99]), NoInterval)
    assert isinstance(intervals.calibration(np.ones(200), np.ones(200, dtype=bool)), NoInterval)


def test_a_missing_interval_says_why() -> None:
    assert NoInterval("nothing varies").kind == "none: nothing varies"
    with pytest.raises(ValueError, match="says why"):
        NoInterval("")


def test_resample_counts() -> None:
    counts = intervals.resample_counts(5, 10, seed=1)
    assert counts.shape == (10, 5)
    assert (counts.sum(1) == 5).all()


def test_paired_sees_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=300)
    a = difficulty + 0.1 + 0.05 * generator.normal(size=300)
    b = difficulty + 0.05 * generator.normal(size=300)
    result = tests.paired(a, b)
    assert isinstance(result.interval, Interval)
    assert result.interval.low > 0
    assert result.p_value is not None
    assert result.p_value < 1e-6
    separate_a, separate_b = intervals.t_interval(a), intervals.t_interval(b)
    assert separate_a.low < separate_b.high  # unpaired, the two overlap


def test_paired_correctness_is_mcnemar() -> None:
    a = np.array([1] * 8 + [0] * 2 + [1] * 10)
    b = np.array([0] * 8 + [1] * 2 + [1] * 10)
    result = tests.paired(a, b)
    assert (result.wins, result.losses) == (8, 2)
    # Chi square without correction: (8 - 2)^2 / (8 + 2) = 3.6.
    assert result.p_value == pytest.approx(scipy.stats.chi2.sf(3.6, 1))
    # Exact two-sided binomial: 2 * (1 + 10 + 45) / 1024.
    assert tests.mcnemar(8, 2, "exact") == pytest.approx(2 * 56 / 1024)
    assert tests.paired(a, a).p_value == 1.0
    with pytest.raises(ValueError, match="same N"):
        tests.paired(a, b[:5])


def test_holm_by_hand() -> None:
    assert tests.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize("call", [lambda: intervals.wilson(3, 2), lambda: intervals.wilson(1, 2, level=95)])
def test_nonsense_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"successes|level"):
        call()


def test_a_share_of_images_counts_as_many_events_as_it_says() -> None:
    """Right or wrong images are Wilson's with one pseudo event; equal shares are one event an image."""
    wrong = np.repeat([0.0, 1.0], [5, 95])
    plain = intervals.effective(0.95, 0.95 * 0.05 / 100, 100, "x", events=1.0)
    found = intervals.of_shares(0.95, float(wrong.var()) / 100, 100, "x")
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    # 100 images that nearly all miss a twentieth say nearly 100 events: the design effect is hardly shrunk towards 1.
    variance = 0.01**2 / 100
    effect = variance / (0.95 * 0.05 / 100)
    seen = 100 * 0.05**2 / (0.05**2 + 0.01**2)
    shrunk = (seen * effect + 1) / (seen + 1)
    assert seen == pytest.approx(96.15, abs=0.01)
    found = intervals.of_shares(0.95, variance, 100, "x")
    low, high = intervals._wilson(0.95, 100 / shrunk, 1.959964)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)
    assert intervals.of_shares(1.0, 0.0, 100, "x").low == pytest.approx(intervals.wilson(100, 100).low)


def test_what_an_error_costs_is_on_the_scale_of_the_logarithm() -> None:
    drawn = 0.04 + 0.01 * np.tile([-1.0, 1.0], 500)
    found = intervals.cost(0.04, drawn, 200)
    assert isinstance(found, Interval)
    error = 0.01 * np.sqrt(1000 / 999 * 200 / 199) / 0.04
    reach = scipy.stats.t.ppf(0.975, 199) * error * np.sqrt(1 + error**2)
    assert (found.low, found.high) == pytest.approx((0.04 / np.exp(reach), 0.04 * np.exp(reach)))
    assert intervals.cost(0.9, np.tile([0.5, 1.0], 50), 100).high == 1  # type: ignore[union-attr]
    for value, images in ((0.04, 99), (0.0, 200)):
        assert isinstance(intervals.cost(value, drawn, images), NoInterval)
    assert isinstance(intervals.cost(0.04, np.full(50, 0.04), 200), NoInterval)
    lost = intervals.cost(1e-6, drawn, 200)  # as good as nothing is known
    assert isinstance(lost, Interval)
    assert (lost.low, lost.high) == (pytest.approx(0, abs=1e-12), 1.0)
