"""The k-NN probe on features whose neighbours are known."""

import numpy as np
import pytest
import torch

from mast.probe import Probe


def _clusters(count: int) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.arange(count) % 3
    features = torch.eye(3)[torch.from_numpy(labels)]
    return features + 0.1 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), labels


def test_clusters_are_told_apart_and_noise_is_not():
    features, labels = _clusters(600)
    probe = Probe(3)
    for start in range(0, 600, 50):
        probe.add(features[start : start + 50], labels[start : start + 50])
    assert probe.finish() == {"knn": 1.0}
    assert probe.finish() == {}
    probe.add(torch.randn(600, 3, generator=torch.Generator().manual_seed(1)), labels)
    # 150 queries, a third right by chance: four standard errors are 0.15.
    assert probe.finish()["knn"] == pytest.approx(1 / 3, abs=0.15)


def test_the_newest_are_kept_and_a_state_goes_on_the_same():
    features, labels = _clusters(300)
    wrong = Probe(3, size=100)
    whole, parts = Probe(3, size=100), Probe(3, size=100)
    wrong.add(features[:200], (labels[:200] + 1) % 3)
    for probe in (whole, parts):
        probe.add(features[:150], (labels[:150] + 1) % 3)
    resumed = Probe(3, size=100)
    resumed.load_state_dict(parts.state_dict(), torch.device("cpu"))
    for probe in (wrong, whole, resumed):
        probe.add(features[200:], labels[200:])
    assert wrong.finish() == {"knn": 1.0}
    assert whole.finish() == resumed.finish() == {"knn": 1.0}


def test_without_classes_there_is_nothing_to_tell():
    probe = Probe(1)
    probe.add(torch.randn(50, 3), np.zeros(50, dtype=np.int64))
    assert probe.finish() == {}
    assert probe.state_dict() == {}
