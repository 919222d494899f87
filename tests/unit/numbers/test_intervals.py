"""Intervals against tables, formulas and their own promise: coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from eval.numbers import intervals, tests


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
    assert (interval.low, interval.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert "episodes" in interval.kind
    assert "episodes" in intervals.episodes(values).kind


def test_bootstrap_is_close_to_theory_and_repeatable() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = intervals.bootstrap(values)
    assert found == intervals.bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(400)
    # Monte Carlo error of a 2.5% quantile over 2000 resamples is about 3% of the half-width.
    assert found.high - values.mean() == pytest.approx(half, rel=0.12)
    median = intervals.bootstrap(values, lambda x: float(np.median(x)), resamples=200)
    assert median.low <= float(np.median(values)) <= median.high


def test_around_holds_the_estimate_however_biased_the_resamples() -> None:
    values = 0.6 + 0.02 * np.random.default_rng(0).normal(size=1000)
    found = intervals.around(0.5, np.append(values, np.nan))
    half = 1.959964 * values.std(ddof=1)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert intervals.percentile(values).low > 0.5
    assert intervals.around(0.01, values).low == 0
    with pytest.raises(ValueError, match="fewer than two"):
        intervals.around(0.5, np.array([np.nan, 0.1]))


def test_resample_counts_and_percentile() -> None:
    counts = intervals.resample_counts(5, 10, seed=1)
    assert counts.shape == (10, 5)
    assert (counts.sum(1) == 5).all()
    interval = intervals.percentile(np.array([np.nan, *range(101)]))
    assert (interval.low, interval.high) == pytest.approx((2.5, 97.5))
    with pytest.raises(ValueError, match="no resample"):
        intervals.percentile(np.array([np.nan]))


def test_paired_sees_what_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.normal(size=300)
    a = difficulty + 0.1 + 0.05 * generator.normal(size=300)
    b = difficulty + 0.05 * generator.normal(size=300)
    result = tests.paired(a, b)
    assert isinstance(result.interval, intervals.Interval)
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
