"""Tests against scipy, statsmodels, brute force and published examples; all pairs at once against one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from eval.numbers import intervals, metrics, pairs, tests
from eval.numbers.intervals import Interval, NoInterval


@pytest.mark.parametrize(("wins", "losses"), [(8, 2), (0, 5), (30, 21), (1, 0), (12, 12)])
def test_mcnemar_is_statsmodels(wins: int, losses: int) -> None:
    square = [[10, wins], [losses, 10]]
    score = mcnemar(square, exact=False, correction=False).pvalue
    assert tests.mcnemar(wins, losses) == pytest.approx(score)
    assert tests.mcnemar(wins, losses, "exact") == pytest.approx(mcnemar(square, exact=True).pvalue)
    half = scipy.stats.binom.pmf(min(wins, losses), wins + losses, 0.5)
    exact = 2 * scipy.stats.binom.cdf(min(wins, losses), wins + losses, 0.5)
    assert tests.mcnemar(wins, losses, "mid-p") == pytest.approx(min(1.0, exact - half))
    with pytest.raises(ValueError, match="kind"):
        tests.mcnemar(1, 2, "chi")  # type: ignore[arg-type]


def test_tango_by_the_airway_example() -> None:
    # Fagerland, Lydersen and Laake 2014, from Bentur et al. 2009: 1 and 7 of 21 discordant, -0.517 to -0.026.
    found = tests.proportions(1, 7, 21)
    assert isinstance(found.interval, Interval)
    assert found.difference == pytest.approx(-6 / 21)
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.517, -0.026), abs=0.001)


@pytest.mark.parametrize(
    ("wins", "losses", "trials"), [(5, 1, 20), (0, 0, 30), (0, 7, 50), (40, 30, 200), (9, 0, 9)]
)
def test_tango_inverts_the_score_test(wins: int, losses: int, trials: int) -> None:
    found = tests.proportions(wins, losses, trials).interval
    assert isinstance(found, Interval)
    for end in (found.low, found.high):
        if abs(end) >= 1:
            continue
        # The likeliest share of losses with the difference held at the interval's end, found by search.
        low, high = max(0.0, -end) + 1e-12, (1 - end) / 2 - 1e-12

        def unlikely(q: float, d: float = end) -> float:
            parts = ((wins, q + d), (losses, q), (trials - wins - losses, 1 - 2 * q - d))
            return -sum(count * math.log(max(share, 1e-300)) for count, share in parts if count)

        best = scipy.optimize.minimize_scalar(
            unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        score = (wins - losses - trials * end) / math.sqrt(trials * (2 * best + end - end**2))
        assert abs(score) == pytest.approx(1.959964, abs=2e-3)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_interval_and_p_value_decide_alike(wins: int, losses: int, ties: int) -> None:
    if wins + losses + ties < 2:
        return
    found = tests.proportions(wins, losses, wins + losses + ties)
    assert isinstance(found.interval, Interval)
    assert found.p_value is not None
    assert found.interval.low <= found.difference <= found.interval.high
    if abs(found.p_value - 0.05) > 1e-6:
        assert found.differs == (found.p_value < 0.05)


def test_means_are_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.7, 0.1, 8), generator.normal(0.65, 0.1, 8)
    found, theirs = tests.means(a - b), scipy.stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(theirs.pvalue)
    span = theirs.confidence_interval(0.95)
    assert isinstance(found.interval, Interval)
    assert (found.interval.low, found.interval.high) == pytest.approx((span.low, span.high))


def test_what_does_not_vary_has_no_interval() -> None:
    same = tests.means([0.02, 0.02, 0.02])
    assert same.interval == NoInterval("all 3 differences are the same")
    assert same.p_value is None
    assert not same.differs
    assert isinstance(tests.resampled([0.0], np.zeros(50), kind="x").interval, NoInterval)
    assert tests.crossed(np.zeros((3, 10)), [0.0, 0.0, 0.0]).interval == NoInterval("nothing varies")


def test_two_seeds_decide_nothing() -> None:
    """They may agree by luck: in simulation the interval of a difference over two covered .89 of the time."""
    values = np.random.default_rng(0).normal([[0.0], [5.0]], 1.0, (3, 2, 30))
    points, delta = values.mean(2), values[:, 0] - values[:, 1]
    assert tests.crossed(delta[:2], [-5.0, -5.1]).interval == NoInterval(tests.TWO_SEEDS)
    assert tests.crossed(delta, [-5.0, -5.1, -5.0]).differs
    assert tests.resampled([-5.0, -5.1], delta[:2], kind="x").p_value is None
    assert tests.resampled([-5.0, -5.1, -5.0], delta, kind="x").differs
    assert np.isnan(pairs.means(values[:2], points[:2]).p_values[0, 1])
    assert np.isnan(pairs.resampled(points[:2], values[:2]).detectable[0, 1])
    assert pairs.means(values, points).p_values[0, 1] < 0.05


def test_examples_and_seeds_are_both_counted_and_noise_once() -> None:
    """The two sources and their noise by hand, as sums of squares of a two-way layout; the half width from them."""
    generator = np.random.default_rng(0)
    delta = 0.1 * generator.normal(size=(4, 1)) + generator.normal(size=200) + generator.normal(size=(4, 200))
    found = tests.crossed(delta, delta.mean(1))
    examples, seeds = delta.mean(0), delta.mean(1)
    rest = delta - examples - seeds[:, None] + delta.mean()
    noise = (rest**2).sum() / (3 * 199) / (4 * 200)
    shared, over_seeds = examples.var(ddof=1) / 200 - noise, seeds.var(ddof=1) / 4
    squares = (scipy.stats.t.ppf(0.975, 199) ** 2 * shared, scipy.stats.t.ppf(0.975, 3) ** 2 * over_seeds)
    half = math.sqrt(sum(squares))
    assert isinstance(found.interval, Interval)
    ends = found.interval.low, found.interval.high
    assert ends == pytest.approx((delta.mean() - half, delta.mean() + half))
    # The p value is the level at which the interval ends at zero.
    assert found.p_value is not None
    touching = tests.crossed(delta, delta.mean(1), level=1 - found.p_value).ends
    assert min(abs(end) for end in touching if end is not None) == pytest.approx(0, abs=1e-9)


def test_resamples_of_several_seeds_are_counted_like_examples() -> None:
    """Resampled means of examples have the variances of these, so that the two intervals are about the same."""
    generator = np.random.default_rng(1)
    delta = 0.1 * generator.normal(size=(3, 1)) + generator.normal(size=300) + generator.normal(size=(3, 300))
    counts = intervals.resample_counts(300, 4000, 0)
    by_resamples = tests.resampled(delta.mean(1), delta @ counts.T / 300, 300, kind="x")
    by_examples = tests.crossed(delta, delta.mean(1))
    assert by_resamples.ends == pytest.approx(by_examples.ends, rel=0.05)
    assert by_resamples.p_value == pytest.approx(by_examples.p_value, rel=0.05)


def test_seeds_that_agree_by_luck_leave_the_noise() -> None:
    """Three seeds with the same number right, on different examples: the interval has a width nevertheless."""
    right = np.zeros((3, 30))
    for seed in range(3):
        right[seed, seed * 10 : seed * 10 + 8] = 1
    delta = right - right[:, ::-1]
    found = tests.crossed(delta, delta.mean(1))
    single = tests.means(delta[0])
    low, high = found.ends
    assert low is not None
    assert high is not None
    assert single.ends[1] is not None
    assert 0.1 * single.ends[1] < high < single.ends[1]
    assert found.p_value == pytest.approx(1)


def test_corrections_are_statsmodels() -> None:
    values = list(np.random.default_rng(0).random(12) ** 3)
    assert tests.holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert tests.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_detectable_over_seeds_is_statsmodels() -> None:
    effect = TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8)
    assert tests.detectable(1 / math.sqrt(5), 4) == pytest.approx(effect, rel=1e-3)
    assert tests.detectable(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)


@pytest.mark.parametrize(("discordant", "trials"), [(0.1, 1000), (0.3, 200)])
def test_detectable_shares_are_found_four_times_of_five(discordant: float, trials: int) -> None:
    difference = tests.detectable_proportions(discordant, trials)
    assert difference is not None
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    drawn = np.random.default_rng(0).multinomial(trials, shares, size=4000)
    found = np.mean([tests.mcnemar(int(wins), int(losses)) < 0.05 for wins, losses, _ in drawn])
    assert found == pytest.approx(0.8, abs=0.03)
    assert tests.detectable_proportions(0.01, 100) is None


def test_all_pairs_at_once_are_the_tests_one_by_one() -> None:
    generator = np.random.default_rng(0)
    right = generator.random((4, 60)) < np.array([[0.5], [0.6], [0.6], [0.9]])
    means = generator.normal(size=(4, 30))
    contributed = generator.normal(size=(3, 4, 30))
    values = generator.random((3, 4))
    drawn = values[:, :, None] + 0.05 * generator.normal(size=(3, 4, 200))
    added, episodes = (
        generator.normal(size=(4, 1, 40)) + generator.normal(size=(4, 2, 40)),
        generator.random((4, 50)),
    )
    noise = generator.normal(
        size=(4, 2, 40)
    )  # halves that agree on nothing: their products sum to about zero
    whole = {
        "proportions": pairs.proportions(right),
        "means": pairs.means(means),
        "crossed": pairs.means(contributed, values),
        "resampled": pairs.resampled(values, drawn, 12.0, 1.2),
        "pooled": pairs.pooled(episodes.mean(1), added, episodes),
        "pooled noise": pairs.pooled(episodes.mean(1), noise, episodes),
    }
    for i, j in ((0, 1), (2, 0), (3, 2)):
        single = {
            "proportions": tests.paired(right[i], right[j]),
            "means": tests.means(means[i] - means[j]),
            "crossed": tests.crossed(contributed[:, i] - contributed[:, j], values[:, i] - values[:, j]),
            "resampled": tests.resampled(
                values[:, i] - values[:, j], drawn[:, i] - drawn[:, j], 12.0, 1.2, kind="x"
            ),
            "pooled": tests.pooled(
                float((episodes[i] - episodes[j]).mean()), added[i] - added[j], episodes[i] - episodes[j]
            ),
            "pooled noise": tests.pooled(
                float((episodes[i] - episodes[j]).mean()), noise[i] - noise[j], episodes[i] - episodes[j]
            ),
        }
        for name, one in single.items():
            assert whole[name].differences[i, j] == pytest.approx(one.difference), name
            assert whole[name].p_values[i, j] == pytest.approx(one.p_value), name


@pytest.mark.parametrize("call", [lambda: tests.proportions(3, 2, 4), lambda: tests.means([0.1])])
def test_nonsense_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"wins|at least two"):
        call()


def test_a_class_on_which_two_agree_is_not_without_variance() -> None:
    """By hand: of classes of 6, 2 and 2 examples, one of the second weighs 1 / 6 of the metric."""
    labels = np.array([0] * 6 + [1] * 2 + [2] * 2)
    hits = np.array(
        [
            [1, 1, 1, 0, 0, 0, 1, 1, 1, 0],
            [1, 1, 0, 0, 0, 0, 1, 1, 1, 0],  # agrees with the first on both small classes
            [1, 1, 1, 0, 0, 0, 1, 0, 0, 0],  # agrees with the first on the large one
        ]
    )
    added = np.array([metrics.class_contributions(row.astype(float), labels) for row in hits])
    unseen = metrics.unseen_in_classes(added, labels)
    assert unseen[0, 1] == pytest.approx((1 / 6) ** 2 / 4)
    assert unseen[0, 2] == pytest.approx((1 / 18) ** 2 / 4)
    assert unseen[1, 2] == 0
    np.testing.assert_array_equal(unseen, unseen.T)
    found = pairs.means(added, size=5.0, unseen=unseen)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        one = tests.means(added[i] - added[j], size=5.0, unseen=float(unseen[i, j]))
        assert found.p_values[i, j] == pytest.approx(one.p_value)
    assert isinstance(tests.means(np.zeros(10), unseen=0.1).interval, NoInterval)
    # All classes of one example are taken together.
    alone = metrics.class_contributions(hits[0].astype(float), np.arange(10))
    other = metrics.class_contributions(hits[1].astype(float), np.arange(10))
    assert metrics.unseen_in_classes(np.array([alone, other]), np.arange(10))[0, 1] == 0
    assert metrics.unseen_in_classes(np.array([alone, alone]), np.arange(10))[0, 1] == pytest.approx(1 / 400)
