"""The data order is Detectron2's, depends on the seed alone, and can be entered anywhere."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from torch.utils.data import DataLoader

from eval.detection.data_order import KeyedDataset, KeyedSampler, keyed_seed
from eval.errors import UserError

SHAPES = [(4, 3), (3, 4), (4, 4), (5, 2), (2, 5), (6, 1), (1, 6)]


def sampler(start: int = 0, *, seed: int = 5, group: bool = True) -> KeyedSampler:
    return KeyedSampler(SHAPES, batch=3, seed=seed, start=start, group=group)


def test_batches_are_those_of_detectron2s_grouping() -> None:
    order = [
        {"width": SHAPES[i][0], "height": SHAPES[i][1], "i": i}
        for i in islice(TrainingSampler(7, seed=5), 200)
    ]
    theirs = [[d["i"] for d in batch] for batch in AspectRatioGroupedDataset(order, 3)]
    ours = [[index for _, index in batch] for batch in islice(sampler().batches(), len(theirs))]
    assert ours == theirs
    ungrouped = list(islice(sampler(group=False), 30))
    assert [index for _, index in ungrouped] == list(islice(TrainingSampler(7, seed=5), 30))
    assert [position for position, _ in ungrouped] == list(range(30))


@pytest.mark.parametrize("start", [1, 7, 40])
def test_starting_in_the_middle_gives_the_rest(start: int) -> None:
    whole = list(islice(sampler(), 200))
    assert list(islice(sampler(start), 200 - 3 * start)) == whole[3 * start :]
    assert list(islice(sampler(seed=6), 200)) != whole


def draw(entry: dict[str, Any]) -> tuple[int, float]:
    return entry["i"], float(np.random.random())  # noqa: NPY002 (as Detectron2's augmentations do)


def test_augmentation_depends_on_seed_and_position_alone() -> None:
    data = KeyedDataset([{"i": i} for i in range(7)], draw, seed=1)
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = data[10, 2]
    assert first == data[10, 2]
    assert first[0] == 2
    assert first[1] != data[11, 2][1]
    assert first[1] != KeyedDataset(data.dicts, draw, seed=2)[10, 2][1]
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_stream(workers: int) -> None:
    from detectron2.data import build_detection_train_loader

    data = KeyedDataset([{"i": i} for i in range(7)], draw, seed=1)
    loader: DataLoader[Any] = build_detection_train_loader(
        data,
        mapper=None,
        sampler=sampler(2),
        total_batch_size=3,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    batches = list(islice(loader, 8))
    assert batches == [[data[key] for key in keys] for keys in islice(sampler().batches(), 2, 10)]


def test_an_unreadable_image_is_named() -> None:
    def broken(entry: dict[str, Any]) -> None:
        raise OSError("image file is truncated")

    data = KeyedDataset([{"file_name": "x/y.jpg"}], broken, seed=1)
    with pytest.raises(UserError, match=r"x/y\.jpg is not a readable image: image file is truncated"):
        data[0, 0]


def test_seeds_differ() -> None:
    assert len({keyed_seed(a, b) for a in range(10) for b in range(10)}) == 100
