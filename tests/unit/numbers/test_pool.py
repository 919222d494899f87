"""Contributions of a few-shot pool's images: by hand, and against the spread of redrawn pools."""

from __future__ import annotations

import numpy as np
import pytest

from eval.numbers import pool


def test_contributions_by_hand() -> None:
    # Two classes of three images, one in support and one asked in every episode; each half is two episodes.
    labels = np.array([0, 0, 0, 1, 1, 1])
    support = np.array([[[0], [3]], [[1], [4]], [[0], [3]], [[1], [4]]])
    query = np.array([[[2], [5]], [[2], [5]], [[2], [5]], [[2], [5]]])
    right = np.array([[[1], [1]], [[0], [1]], [[1], [1]], [[0], [1]]], dtype=bool)
    found = pool.contributions(right, support, query, labels)
    # Image 2 is asked twice, right once, and alone in its class: as a query it lies nowhere above its class. Answers
    # to the two queries lie 1/4 above their rates with 0 and 3 in support, 1/4 below with 1 and 4; the factor of a
    # class of three with one in support is 3/2, over two episodes.
    alone = np.array([1, -1, 0, 1, -1, 0]) * 0.25 * 1.5 / 2
    # What 2 and 5 do with one in support: 2 is half an answer better with 0 and 3, half worse with 1 and 4, an answer
    # being a quarter of two episodes; 5 is always right. Its class is met like its own. That is in products of both.
    together = 4 * (0.5 / 4) ** 2
    right_sum = (alone**2).sum() - together
    expected = alone * np.sqrt(max(right_sum, np.sqrt((alone**4).sum())) / (alone**2).sum())
    assert found[0] == pytest.approx(expected)
    assert found[1] == pytest.approx(expected)


def test_a_better_query_contributes_more() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 10)
    rows = np.stack([[generator.permutation(10), 10 + generator.permutation(10)] for _ in range(400)])
    support, query = rows[..., :2], rows[..., 2:6]
    right = np.where(query == 3, True, generator.random(query.shape) < 0.5)
    found = pool.contributions(right, support, query, labels).mean(0)
    assert found.argmax() == 3
    assert found[:10].sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("apart", [1.0, 0.1])
def test_the_spread_is_that_of_redrawn_pools(apart: float) -> None:
    """Near chance pairs of images explain nearly all of it; counted for both they would make it twice as much."""
    generator = np.random.default_rng(0)
    classes, size, shots, queries = 10, 20, 1, 5
    labels = np.repeat(np.arange(classes), size)
    centres = apart * generator.normal(size=(classes, 8))
    values, spreads, covered = [], [], []
    for _ in range(150):
        features = centres[labels] + generator.normal(size=(len(labels), 8))
        chosen = np.argsort(generator.random((300, classes)), axis=1)[:, :5]
        inside = np.argsort(generator.random((300, 5, size)), axis=2)[..., : shots + queries]
        rows = chosen[..., None] * size + inside
        support, query = rows[..., :shots], rows[..., shots:]
        means = features[support].mean(2)
        near = 2 * np.einsum("ewqd,evd->ewqv", features[query], means) - (means**2).sum(-1)[:, None, None]
        right = near.argmax(-1) == np.arange(5)[None, :, None]
        added, episodes = pool.contributions(right, support, query, labels), right.mean((1, 2))
        values.append(episodes.mean())
        spreads.append(pool.variance(added, episodes))
        covered.append(pool.interval(added, episodes))
    # The spread over episodes alone is several times too small here.
    assert np.mean(spreads) == pytest.approx(np.var(values), rel=0.4)
    truth = np.mean(values)
    assert np.mean([span.low <= truth <= span.high for span in covered]) > 0.9
    assert covered[0].kind == "wilson-pool-images"
