"""Few-shot episodes and heads against loops over single episodes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from eval import protocols
from eval.errors import UserError
from eval.numbers import pool
from eval.protocols import Labelled
from eval.protocols.episodes import HEADS, accuracies, draw
from eval.protocols.fewshot import outcomes

from .test_linear import clusters


def test_episodes_are_pinned_and_disjoint() -> None:
    labels = np.repeat(np.arange(8), 25)
    chosen = draw(labels, way=5, shots=5, queries=15, num_episodes=50, seed=0)
    again = draw(labels, way=5, shots=5, queries=15, num_episodes=50, seed=0)
    other = draw(labels, way=5, shots=5, queries=15, num_episodes=50, seed=1)
    assert chosen.sha256 == again.sha256 != other.sha256
    for support, query in zip(chosen.support, chosen.query, strict=True):
        rows = np.concatenate([support.ravel(), query.ravel()])
        assert len(np.unique(rows)) == 5 * 20
        classes = labels[support]
        assert (classes == classes[:, :1]).all()
        assert (labels[query] == classes[:, :1]).all()
        assert len(np.unique(classes[:, 0])) == 5


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match="need 5 classes of 20 images, 4 have them"):
        draw(np.repeat(np.arange(4), 25), way=5, shots=5, queries=15, num_episodes=1, seed=0)


def test_short_classes_as_augself_has_them() -> None:
    """Classes with at most K images are left out; short ones give K of their images and resample the others."""
    labels = np.repeat(np.arange(7), [30, 30, 30, 30, 12, 6, 5])
    chosen = draw(labels, way=5, shots=5, queries=16, num_episodes=80, seed=0, resample=True)
    seen = set(labels[chosen.support].ravel().tolist())
    assert seen == {0, 1, 2, 3, 4, 5}  # 5 of 5 images leave no query
    for support, query in zip(chosen.support.reshape(-1, 5), chosen.query.reshape(-1, 16), strict=True):
        label = labels[support[0]]
        assert len(set(support)) == 5
        assert set(support) & set(query) == set()
        assert (labels[query] == label).all()
        expected = {4: range(2, 8), 5: range(1, 2)}.get(int(label), range(16, 17))  # of 12 and of 6 images
        assert len(set(query)) in expected
    with pytest.raises(UserError, match=r"6-way.*need 6 classes of 21 images, 4 have them"):
        draw(labels, way=6, shots=5, queries=16, num_episodes=1, seed=0)


def loop(features: np.ndarray, chosen: object, head: str) -> np.ndarray:
    """Each head written for one episode with numpy and scikit-learn."""
    found = []
    for support, query in zip(chosen.support, chosen.query, strict=True):  # type: ignore[attr-defined]
        x, q = features[support].astype(np.float64), features[query.ravel()].astype(np.float64)
        way, shots = support.shape
        truth, y = np.repeat(np.arange(way), query.shape[1]), np.repeat(np.arange(way), shots)
        flat = x.reshape(way * shots, -1)
        if head == "prototype":
            predicted = ((q[:, None] - x.mean(1)[None]) ** 2).sum(2).argmin(1)
        elif head == "cosine":
            unit = x / np.linalg.norm(x, axis=2, keepdims=True)
            mean = unit.mean(1)
            predicted = (q @ (mean / np.linalg.norm(mean, axis=1, keepdims=True)).T).argmax(1)
        elif head == "ridge":
            mean = flat.mean(0)
            hot = np.eye(way)[y] - 1 / way
            w = np.linalg.solve(
                (flat - mean).T @ (flat - mean) + np.eye(flat.shape[1]), (flat - mean).T @ hot
            )
            predicted = ((q - mean) @ w).argmax(1)
        else:
            model = OneVsRestClassifier(LogisticRegression(solver="liblinear", tol=1e-8, max_iter=5000))
            predicted = model.fit(flat, y).predict(q)
        found.append((predicted == truth).mean())
    return np.array(found)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("head", HEADS)
def test_heads_are_their_definitions(head: str, shots: int) -> None:
    x, y = clusters(400, 12, 8, spread=1.2)
    chosen = draw(y, way=5, shots=shots, queries=6, num_episodes=40, seed=0)
    ours = accuracies(x, chosen, protocols.get("fewshot").override({"head": head}).settings)
    # The same predictions, but for queries that lie on a boundary to the last digits: at most one in all.
    assert np.abs(ours - loop(x, chosen, head)).sum() * 30 <= 1 + 1e-9


def test_planted_and_permuted_features() -> None:
    x, y = clusters(600, 8, 6, spread=0.02)
    noise = np.random.default_rng(0).permutation(y)
    for name in ("fewshot", "fewshot-1shot", "fewshot-logistic", "fewshot-cosine", "fewshot-ridge"):
        protocol = protocols.get(name).override({"episodes": 100})
        assert outcomes(Labelled(x, y, 6), protocol.settings, 0)["episodes"].mean() == 1.0
        chance = outcomes(Labelled(x, noise, 6), protocol.settings, 0)["episodes"]
        # Chance is 1/5; the standard error over 100 episodes of 75 queries is below 0.006.
        assert abs(chance.mean() - 0.2) < 0.03


def test_all_heads_and_checkpoints_meet_the_same_episodes() -> None:
    x, y = clusters(400, 8, 6, spread=1.0)
    protocol = protocols.get("fewshot").override({"episodes": 20})
    twice = outcomes(Labelled(np.concatenate([x, x], 1), y, 6), protocol.settings, 0)["episodes"]
    # Doubling every feature changes no distance's order, so equal accuracies mean equal episodes.
    assert np.array_equal(twice, outcomes(Labelled(x, y, 6), protocol.settings, 0)["episodes"])


def test_several_labels_an_image_are_refused() -> None:
    pool = Labelled(np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32), 3)
    with pytest.raises(UserError, match="one class an image"):
        outcomes(pool, protocols.get("fewshot").settings, 0)


def test_outcomes_hold_what_each_image_adds_and_the_interval_is_over_images() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(90, 4)).astype(np.float32), np.repeat(np.arange(6), 15)
    params = protocols.get("fewshot").override({"episodes": 40, "way": 4, "queries": 5}).settings
    found = outcomes(Labelled(x, y, 6), params, 0)
    assert found["contributions"].shape == (2, 90)
    for label in range(6):  # what a class adds above its own mean is nothing
        assert found["contributions"][:, y == label].sum(1) == pytest.approx(0, abs=1e-6)
    span = pool.interval(found["contributions"], found["episodes"])
    assert span.low < found["episodes"].mean() < span.high
    assert span.kind == "wilson-pool-images"
