"""Tasks read off hand-made subspaces: who is chosen, by what, and what lies near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from eval import protocols, tasks
from eval.analysis import subspaces
from eval.analysis.subspaces import Opened, neighbours, open_task, read
from eval.analysis.write import rank_correlation
from eval.datasets import ImageDataset, Split
from eval.errors import UserError

SIZES = {"train": 240, "val": 90, "test": 120}


def _opened(seed: int = 0, told_by: str = "blur") -> Opened:
    """A task of three classes that one of four subspaces tells; the others are noise."""
    rng = np.random.default_rng(seed)
    splits, spaces = {}, {}
    for part, count in SIZES.items():
        labels = np.arange(count) % 3
        paths = tuple(Path(f"{part}/{index}.png") for index in range(count))
        splits[part] = Split(part, paths, labels.astype(np.int64))
        spaces[part] = {
            name: rng.standard_normal((count, width)).astype(np.float32)
            for name, width in {"features": 12, "crop": 4, "blur": 4, "embedding": 20}.items()
        }
        spaces[part][told_by][:, :3] += 3 * np.eye(3, dtype=np.float32)[labels]
    return Opened(tasks.get("cifar10"), ImageDataset("made", ("a", "b", "c"), splits), spaces)


@pytest.mark.parametrize("protocol", ["ridge", "knn"])
@pytest.mark.parametrize("told_by", ["blur", "features"])
def test_the_subspace_that_tells_is_chosen(protocol: str, told_by: str) -> None:
    found = {each.subspace: each for each in read(_opened(told_by=told_by), protocols.get(protocol))}
    assert [name for name, each in found.items() if each.chosen] == [told_by]
    assert found[told_by].test > 0.85
    assert found[told_by].nearest > 0.7
    others = [each for name, each in found.items() if name != told_by]
    # Chance is a third; four standard errors of 120 images are 0.17.
    assert all(abs(each.test - 1 / 3) < 0.17 and abs(each.nearest - 1 / 3) < 0.1 for each in others)
    assert {name: each.dimensions for name, each in found.items()} == {
        "features": 12,
        "crop": 4,
        "blur": 4,
        "embedding": 20,
    }


def test_test_labels_decide_no_choice() -> None:
    opened = _opened()
    splits = dict(opened.data.splits)
    splits["test"] = replace(splits["test"], labels=np.roll(splits["test"].labels, 1))
    other = replace(opened, data=replace(opened.data, splits=splits))
    before, after = (read(each, protocols.get("ridge")) for each in (opened, other))
    assert [(r.subspace, r.val, r.chosen) for r in before] == [(r.subspace, r.val, r.chosen) for r in after]
    chosen = next(r for r in after if r.chosen)
    assert chosen.test < 0.15  # every label is now a wrong one


def test_among_equals_the_plain_backbone_is_chosen() -> None:
    opened = _opened()
    spaces = {part: {"features": each["blur"], "blur": each["blur"]} for part, each in opened.spaces.items()}
    found = read(replace(opened, spaces=spaces), protocols.get("ridge"))
    assert [each.chosen for each in found] == [True, False]


def test_a_protocol_without_a_value_on_val_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = protocols.fit

    def silent(*args: object, **kwargs: object) -> object:
        return replace(fitted(*args, **kwargs), selected={})  # type: ignore[arg-type]

    monkeypatch.setattr(subspaces.protocols, "fit", silent)
    with pytest.raises(UserError, match="tells no value on val"):
        read(_opened(), protocols.get("ridge"))


def test_other_kinds_of_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is detection; subspaces are read for classification"):
        open_task(None, None, "voc07", tmp_path, tmp_path)  # type: ignore[arg-type]


def test_neighbours_of_points_in_the_plane() -> None:
    """Two directions seen from the centre, with labels across: 0, 1, 2 to the right, the others to the left."""
    angles = np.radians([0, 2, 5, 180, 182, 187])
    space = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1])
    rows, near, same = neighbours(space, labels)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert near[0].tolist()[:2] == [1, 2]
    assert near[3].tolist()[:2] == [4, 5]
    assert all(row not in near[row] for row in rows)
    np.testing.assert_array_equal(same, labels[near] == labels[:, None])
    _, some, _ = neighbours(space, labels, np.array([3]))
    np.testing.assert_array_equal(some, near[[3]])


def test_many_images_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subspaces, "GALLERY", 10)
    space = np.random.default_rng(0).standard_normal((91, 3)).astype(np.float32)
    rows, near, _ = neighbours(space, np.zeros(91, dtype=np.int64))
    assert rows.tolist() == list(range(0, 91, 10))
    assert set(near.ravel().tolist()) <= set(rows.tolist())


def test_rank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(300)
    b = a + 2 * rng.standard_normal(300)
    wrong = b > 0.5  # ties
    for series in (b, wrong):
        rho, low, high = rank_correlation(a, series)
        assert rho == pytest.approx(spearmanr(a, series).statistic, abs=1e-12)
        assert low < rho < high
        assert 0.1 < high - low < 0.3  # 4 / sqrt(300) is 0.23
    assert rank_correlation(a, np.exp(a))[0] == pytest.approx(1)
