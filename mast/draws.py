"""Random numbers that are a pure function of what they are for.

A draw depends on (seed, epoch, sample index, stream) and on nothing else: not on the order of the batch, the
number of workers or ranks, the device, or whether the run was resumed. The generator is the finaliser of
SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195) applied to a chain of keys.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def _key(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def uniform(
    seed: int, epoch: int, indices: NDArray[np.integer], stream: str, count: int
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for every sample.

    Args:
        seed: The run's seed.
        epoch: The epoch, from 0.
        indices: ``(B,)`` positions of the samples in the data set.
        stream: What the numbers are for, such as ``"crop/1"``.
        count: How many numbers each sample gets.

    Returns:
        ``(B, count)`` numbers with 53 random bits each.
    """
    with np.errstate(over="ignore"):
        state = np.full(1, _key(stream), dtype=np.uint64)
        for key in (seed, epoch):
            state = _mix(state + _GAMMA + np.uint64(key))
        rows = _mix(state + _GAMMA * (indices.astype(np.uint64) + np.uint64(1)))
        bits = _mix(rows[:, None] + _GAMMA * np.arange(1, count + 1, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of the samples in an epoch, ``(size,)``."""
    order = uniform(seed, epoch, np.arange(size), "order", 1)[:, 0]
    return np.argsort(order, kind="stable").astype(np.int64)
