"""Figures of hand-made masks."""

import numpy as np
import pytest

from mast.analysis import analyze_masks, read_masks
from mast.errors import UserError


def test_figures_of_hand_made_masks():
    masks = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    analysis = analyze_masks(["a", "b", "c", "d"], masks)
    np.testing.assert_allclose(analysis.mass, [0.5, 0.5, 0.25, 0.5])
    assert analysis.correlation[0, 1] == pytest.approx(-1.0)
    # a and c: covariance 1/8 over standard deviations 1/2 and sqrt(3)/4.
    assert analysis.correlation[0, 2] == pytest.approx((1 / 8) / (0.5 * np.sqrt(3) / 4))
    assert np.isnan(analysis.correlation[3, 0])
    assert analysis.overlap[0, 1] == 0
    assert analysis.overlap[0, 2] == 0.5
    assert analysis.overlap[0, 3] == pytest.approx(1 / 3)  # minima 0.5 + 0.5, maxima 1 + 1 + 0.5 + 0.5


def test_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"recipe\.json is missing"):
        read_masks(tmp_path)
