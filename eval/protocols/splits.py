"""Validation splits as the authors of a protocol cut them, where the data set itself has none.

A permutation of train's images in the order of the data set's own list decides; each author draws it otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..datasets import ImageDataset, Split

Published = Literal["task", "ssl-transfer", "dinov2", "augself"]
# AugSelf's datasets.py, load_datasets: the seed of torch's generator and the size of val.
AUGSELF = {
    "food101": (42, 7575),
    "cifar10": (43, 5000),
    "cifar100": (44, 5000),
    "pets": (49, 740),
    "stl10": (50, 500),
    "mit67": (51, 670),
}
_FILES = ("sun397", "caltech101", "cub200", "dog")  # AugSelf's splits/*.pth
_NOTES = {
    "ssl-transfer": "the first 20% of train as numpy's seed 0 shuffles it (ssl-transfer)",
    "dinov2": "the first 10% of train as torch's seed 0 permutes it (DINOv2)",
    "augself": "the last part of train as torch's generator permutes it (AugSelf)",
}


def cut(data: ImageDataset, how: Published) -> ImageDataset:
    """A data set whose val is cut from train as a protocol's authors cut it.

    A val of the data set's own stays, and so does the task's where the authors have no split of this data set;
    `caveat` says so.
    """
    if how == "task" or "val" not in data.notes:
        return data
    whole = _whole(data)
    order = _order(data.name, len(whole), how)
    if order is None:
        return data
    rest, held_out = order
    splits = data.splits | {
        "train": whole.subset(np.sort(rest), "train"),
        "val": whole.subset(np.sort(held_out), "val"),
    }
    return replace(data, splits=splits, notes=data.notes | {"val": _NOTES[how]})


def caveat(data: ImageDataset, how: Published) -> tuple[str, ...]:
    """What a reader should know of the splits that `cut` gave."""
    found = []
    if how != "task" and "val" in data.notes and data.notes["val"] != _NOTES[how]:
        where = "a file of its authors" if data.name in _FILES else "no split of its authors"
        found.append(f"val is the task's own: for {data.name} there is {where} that could be followed")
    if how == "ssl-transfer" and data.name == "caltech101":
        found.append("train and test are not ssl-transfer's own lists of caltech101")
    if how == "augself" and data.name == "caltech101":
        found.append("train and test are not AugSelf's own lists of caltech101")
    return tuple(found)


def _whole(data: ImageDataset) -> Split:
    """Train and val together, in the order of the pool that both were cut from."""
    train, val = data.splits["train"], data.splits["val"]
    rows = np.concatenate([train.rows, val.rows])
    paths = (*train.paths, *val.paths)
    order = np.argsort(rows, kind="stable")
    labels = np.concatenate([train.labels, val.labels])[order]
    return Split("train", tuple(paths[int(i)] for i in order), labels, train.pool, rows[order])


def _order(name: str, count: int, how: Published) -> tuple[Any, Any] | None:
    """Places of train and of val in the whole of train; None where the authors have no such split."""
    if how == "ssl-transfer":
        indices = list(range(count))
        np.random.RandomState(0).shuffle(indices)
        size = int(np.floor(0.2 * count))
        return indices[size:], indices[:size]
    import torch

    if how == "dinov2":
        indices = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        return indices[count // 10 :], indices[: count // 10]
    if name not in AUGSELF or AUGSELF[name][1] >= count:
        return None
    seed, size = AUGSELF[name]
    indices = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return indices[: count - size], indices[count - size :]
