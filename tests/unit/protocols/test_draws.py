"""Draws of labelled images: stratified, nested, the same for every checkpoint, and all labels that are used count."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from eval import protocols
from eval.errors import UserError
from eval.protocols import draws
from eval.protocols.base import Labelled

SIZES: tuple[int | str, ...] = (1, 2, 3, 5, 10, "40%", 25, "90%")


def data(width: int = 4, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Three classes of 30, 20 and 12 images, a third of them in val; the first feature is the image's number."""
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [30, 20, 12]))
    features = np.random.default_rng(seed).normal(size=(62, width)).astype(np.float32)
    features[:, 0] = np.arange(62)
    return Labelled(features[:42], labels[:42], 3), Labelled(features[42:], labels[42:], 3)


def images(draw: draws.Draw) -> set[int]:
    parts = [draw.train, draw.val] if draw.whole else [draw.train]
    found = [int(number) for part in parts for number in np.asarray(part.features)[:, 0]]
    assert len(found) == len(set(found))  # nothing is trained on and chosen on
    return set(found)


@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_draw_lies_inside_a_larger_one(seed: int) -> None:
    found = [images(draws.draw(*data(), size, seed)) for size in (1, 2, 3, 5, 10, 25)]
    assert all(small < large for small, large in pairwise(found))
    shares = [images(draws.draw(*data(), size, seed)) for size in ("5%", "20%", "60%")]
    assert all(small < large for small, large in pairwise(shares))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [1, 1, 1]),
        (5, [5, 5, 5]),
        (25, [25, 20, 12]),
        ("10%", [3, 2, 1]),
        ("1%", [1, 1, 1]),
        ("50%", [15, 10, 6]),
    ],
)
def test_every_class_gives_its_number_or_share(size: int | str, expected: list[int]) -> None:
    draw = draws.draw(*data(), size, 0)
    counts = Counter(np.concatenate([draw.train.labels, draw.val.labels if draw.whole else []]).astype(int))
    assert [counts[label] for label in range(3)] == expected
    assert sum(draw.counts.values()) == sum(expected)
    assert bool([line for line in draw.warnings if "fewer than" in line]) == (size == 25)


def test_draws_depend_on_seed_and_labels_alone() -> None:
    """Two checkpoints have other features, and get the same images."""
    for size in SIZES:
        ours, theirs = draws.draw(*data(4, 0), size, 3), draws.draw(*data(9, 1), size, 3)
        assert images(ours) == images(theirs)
        np.testing.assert_array_equal(ours.train.labels, theirs.train.labels)
    assert images(draws.draw(*data(), 5, 0)) != images(draws.draw(*data(), 5, 1))


def test_one_in_five_is_chosen_on() -> None:
    assert [int(draws._held_out(count).sum()) for count in (0, 1, 2, 4, 5, 9, 10, 100)] == [
        0,
        0,
        1,
        1,
        1,
        1,
        2,
        20,
    ]


def test_with_one_label_a_class_choices_are_made_on_it_and_said() -> None:
    draw = draws.draw(*data(), 1, 0)
    assert not draw.whole
    assert draw.val is draw.train
    assert draw.counts == {"train": 3, "val": 0}
    assert "nothing is left to choose on" in draw.warnings[0]


def test_labels_a_class_are_refused_where_images_have_several_and_shares_are_not() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (62, 5))
    features = np.arange(62, dtype=np.float32)[:, None].repeat(3, 1)
    parts = Labelled(features[:42], labels[:42], 5), Labelled(features[42:], labels[42:], 5)
    with pytest.raises(UserError, match="give shares"):
        draws.draw(*parts, 3, 0)
    assert len(images(draws.draw(*parts, "50%", 0))) == 31


@pytest.mark.parametrize("name", ["linear", "knn", "ridge", "linear-sgd"])
@pytest.mark.parametrize("wrong", [0, -1, "0%", "100%", "ten", 1.5, "1e1%"])
def test_wrong_sizes_are_told(name: str, wrong: object) -> None:
    with pytest.raises(UserError, match="shots"):
        protocols.get(name).override({"shots": wrong})


def test_a_protocol_without_shots_has_the_parameters_it_always_had() -> None:
    for name in protocols.names():
        how = protocols.get(name)
        if how.kind in ("linear", "knn", "ridge", "sgd"):
            assert "shots" not in how.params
            assert how.override({"shots": "10%"}).params == {**how.params, "shots": "10%"}
