"""Few-shot accuracy as a statistic of the pool's images: what every image contributes, and the interval over images.

Thousands of episodes of one pool meet the same images again and again, so that an interval over episodes only tells
how well the pool's mean is known. Here the images are what varies and the episodes follow: accuracy over episodes is
a U-statistic of the images, whose variance is that of their first-order contributions (Hoeffding 1948; Wager, Hastie
and Efron 2014 do the same for bagged trees). The error that the number of episodes leaves is told beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its rooms when they are first used

from .intervals import Array, Interval, of_shares

Floats = npt.NDArray[np.float64]


def contributions(
    right: Array, support: npt.NDArray[np.int64], query: npt.NDArray[np.int64], labels: Array
) -> Floats:
    """What each image adds to the mean accuracy, as query and as support, from two halves of the episodes.

    As a query an image adds how far it lies above its class. As support it adds how far the answers to the other
    queries lie above what these queries get on average, so that the mix of queries does not count; a class of n
    images with S in support has the factor n / (n - S), since an image in support keeps others out.

    What a query and an image in support do together is in the products of both, so that it would count twice, and
    with k images in support k + 1 times. `_together` tells how much that is too much, and all contributions are made
    smaller by the same factor, until their products have what is right as their sum.

    Args:
        right: (E, way, queries) whether the answer was right.
        support: (E, way, shots) rows of the pool.
        query: (E, way, queries) rows of the pool.
        labels: (N,) class of every image of the pool.

    Returns:
        (2, N). The products of the two rows have the variance of an image's contribution as their mean: what the
        draw of episodes adds to one half is independent of the other.
    """
    classes, place = np.unique(labels, return_inverse=True)
    half = len(right) // 2
    parts = [slice(0, half), slice(half, 2 * half)]
    found = np.stack([_half(right[p], support[p], query[p], place, len(classes)) for p in parts])
    once, twice = (_together(right[p], support[p], query[p], place) for p in parts)
    products = found[0] * found[1]
    error, taken = float(np.sqrt((products**2).sum())), float(of_images(products))
    rest = max(float(products.sum()) - float(once.multiply(twice).sum()) / 2, error)
    return found * np.sqrt(min(rest / taken, 1.0)) if taken > 0 else found


def _half(
    right: Array, support: npt.NDArray[np.int64], query: npt.NDArray[np.int64], place: Array, classes: int
) -> Floats:
    number, hits = len(place), np.asarray(right, dtype=np.float64)
    episodes, way, queries = query.shape
    asked = np.bincount(query.ravel(), minlength=number)
    own = np.bincount(query.ravel(), hits.ravel(), number) / np.maximum(asked, 1)
    of_class = _mean(hits.ravel(), place[query].ravel(), classes)
    as_query = np.bincount(query.ravel(), (hits - of_class[place[query]]).ravel(), number) / (way * queries)
    size = np.bincount(place, minlength=classes).astype(np.float64)
    # The class's mean is estimated from the same images.
    as_query *= np.sqrt(size / np.maximum(size - 1, 1))[place]
    lift = np.repeat((hits - own[query]).mean((1, 2))[:, None], way, axis=1)  # (E, way)
    at = place[support[..., 0]]  # (E, way) the classes of an episode
    lift = lift - _mean(lift.ravel(), at.ravel(), classes)[at]
    shots = support.shape[2]
    lift *= (size / np.maximum(size - shots, 1))[at]
    as_support = np.bincount(support.ravel(), np.repeat(lift.ravel(), shots), number)
    found: Floats = (as_query + as_support) / episodes
    return found


def _together(
    right: Array, support: npt.NDArray[np.int64], query: npt.NDArray[np.int64], place: Array
) -> Any:
    """(N, N) sparse and symmetric: what two images add together, one as a query and one in support, either way."""
    episodes, way, queries = query.shape
    number, hits = len(place), np.asarray(right, dtype=np.float64)
    asked = np.bincount(query.ravel(), minlength=number)
    own = np.bincount(query.ravel(), hits.ravel(), number) / np.maximum(asked, 1)
    over = hits - own[query]  # (E, way, queries)
    # Which classes meet is a matter of the episodes: (E, way of the query, way of the support).
    at = place[support[..., 0]]
    pair = (at[:, :, None] * (place.max() + 1) + at[:, None, :]).ravel()
    _, met = np.unique(pair, return_inverse=True)
    usual = _mean(np.repeat(over.mean(2).ravel(), way), met, int(met.max()) + 1)[met]
    values = over[:, :, None, :] - usual.reshape(episodes, way, way, 1)  # (E, way, way, queries)
    # Each column is a class of an episode: what its support meets, and what is in it.
    column = np.arange(episodes * way).reshape(episodes, 1, way, 1)
    shape = number, episodes * way
    met_by = _sparse(values, np.broadcast_to(query[:, :, None, :], values.shape), column, shape)
    held = _sparse(np.ones(support.shape), support, column[:, 0], shape)
    found = met_by @ held.T / (episodes * way * queries)
    return found + found.T


def _sparse(values: Array, rows: Array, columns: Array, shape: tuple[int, int]) -> Any:
    at = rows.ravel(), np.broadcast_to(columns, values.shape).ravel()
    return scipy.sparse.coo_array((values.ravel(), at), shape=shape).tocsr()


def _mean(values: Floats, group: Array, groups: int) -> Floats:
    total: Floats = np.bincount(group, values, groups) / np.maximum(np.bincount(group, minlength=groups), 1)
    return total


def variance(contributed: Array, episodes: Array) -> float:
    """Of the mean accuracy, or of a difference of two, over pools of this size and the draw of episodes.

    Args:
        contributed: (2, N) from `contributions`, or the difference of two.
        episodes: (E,) accuracies, or their differences.
    """
    products = np.asarray(contributed[0], dtype=np.float64) * contributed[1]
    return float(of_images(products)) + float(np.var(episodes, ddof=1)) / len(episodes)


def of_images(products: Array) -> Floats:
    """The images' part of the variance, from the products of the two halves' contributions: (..., N) -> (...).

    Their sum is unbiased but noisy where an image is in support often and its lift is lost among the others': it may
    be near zero or below by luck. It is taken as no less than its own standard error.
    """
    found: Floats = np.maximum(products.sum(-1), np.sqrt((products**2).sum(-1)))
    return found


def interval(contributed: Array, episodes: Array, level: float = 0.95) -> Interval:
    """For the mean accuracy over pools of this size, by `of_shares` of the pool's images."""
    spread = variance(contributed, episodes)
    return of_shares(float(np.mean(episodes)), spread, contributed.shape[1], "wilson-pool-images", level)
