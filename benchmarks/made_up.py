"""Features made up to look like a network's: non-negative, correlated, with classes that overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def features(
    num_examples: int, dim: int, classes: int, *, signal: float = 1.0, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(N, D) features with a power-law spectrum after a ReLU, and (N,) labels."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(dim, dim)) / np.sqrt(dim)
    spectrum = np.arange(1, dim + 1) ** -0.7
    means = np.random.default_rng(2).normal(size=(classes, dim)) * spectrum * signal
    labels = generator.integers(classes, size=num_examples)
    latent = generator.normal(size=(num_examples, dim)) * spectrum + means[labels]
    return np.maximum(3 * (latent @ mixing) + 0.3, 0).astype(np.float32), labels
