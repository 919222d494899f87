"""Metrics of monocular depth (Eigen et al. 2014): pure functions on arrays. Depths are in metres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SHARES = ("delta1", "delta2", "delta3")
NAMES = (*SHARES, "abs_rel", "rmse")


def of_image(truth: Array, predicted: Array, valid: Array) -> npt.NDArray[np.float64]:
    """The metrics of one image over its valid pixels, in the order of `NAMES`; NaN without any.

    Args:
        truth: (H, W) depth above 0 where valid.
        predicted: (H, W) depth above 0.
        valid: (H, W) which pixels count.

    Returns:
        (5,): shares of pixels whose ratio to the truth, or its inverse, is below 1.25, 1.25^2 and 1.25^3; the mean of
        the error divided by the truth; the root of the mean squared error, in metres.
    """
    if not valid.any():
        return np.full(len(NAMES), np.nan)
    true, found = truth[valid].astype(np.float64), predicted[valid].astype(np.float64)
    ratio = np.maximum(true / found, found / true)
    shares = [float((ratio < 1.25**power).mean()) for power in (1, 2, 3)]
    error = found - true
    return np.array([*shares, float((np.abs(error) / true).mean()), float(np.sqrt((error**2).mean()))])
