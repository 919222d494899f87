"""Validation splits of the named linear protocols: their authors' permutations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from eval import protocols
from eval.datasets import ImageDataset, Split, carve
from eval.protocols import splits


def dataset(name: str, count: int, *, official: bool = False) -> ImageDataset:
    """Numbered images of three classes, whose val is cut as tasks cut it, unless the data set has one."""
    paths = tuple(Path(f"/d/{number:05}.png") for number in range(count))
    whole = Split("train", paths, np.arange(count) % 3)
    train, val = carve(whole, 0.2)
    test = Split("test", (Path("/d/test.png"),), np.zeros(1, dtype=np.int64))
    notes = {} if official else {"val": "20% of train, stratified, seed 0"}
    return ImageDataset(name, ("a", "b", "c"), {"train": train, "val": val, "test": test}, notes)


def numbers(split: Split) -> list[int]:
    return [int(path.stem) for path in split.paths]


def test_ssl_transfers() -> None:
    """linear.py, get_train_valid_loader: seed 0, shuffle, the first fifth."""
    np.random.seed(0)  # noqa: NPY002 - what their code calls
    indices = list(range(503))
    np.random.shuffle(indices)  # noqa: NPY002
    found = splits.cut(dataset("pets", 503), "ssl-transfer")
    assert numbers(found.splits["val"]) == sorted(indices[:100])
    assert numbers(found.splits["train"]) == sorted(indices[100:])


def test_dinov2s() -> None:
    """log_regression.py: torch.manual_seed(0), randperm, the first tenth."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        indices = torch.randperm(503).tolist()
    found = splits.cut(dataset("pets", 503), "dinov2")
    assert numbers(found.splits["val"]) == sorted(indices[:50])


@pytest.mark.parametrize(("name", "lengths", "seed"), [("pets", (2940, 740), 49), ("stl10", (4500, 500), 50)])
def test_augselfs(name: str, lengths: tuple[int, int], seed: int) -> None:
    """datasets.py, load_datasets: random_split with a generator."""
    generator = torch.Generator().manual_seed(seed)
    train, val = random_split(range(sum(lengths)), lengths, generator=generator)  # type: ignore[arg-type]
    found = splits.cut(dataset(name, sum(lengths)), "augself")
    assert numbers(found.splits["train"]) == sorted(train.indices)
    assert numbers(found.splits["val"]) == sorted(val.indices)
    assert splits.caveat(found, "augself") == ()


@pytest.mark.parametrize("how", ["ssl-transfer", "dinov2", "augself"])
def test_labels_and_rows_go_with_their_images_and_runs_are_others(how: splits.Published) -> None:
    before = dataset("pets", 3680)
    found = splits.cut(before, how)
    for part in ("train", "val"):
        split = found.splits[part]
        assert split.labels.tolist() == [number % 3 for number in numbers(split)]
        assert split.rows.tolist() == numbers(split)
        assert split.pool is before.splits["train"].pool  # so features are not extracted again
    assert sorted(numbers(found.splits["train"]) + numbers(found.splits["val"])) == list(range(3680))
    assert found.notes != before.notes  # and with them the manifest and the run id
    official = dataset("dtd", 60, official=True)
    assert splits.cut(official, how) is official
    assert splits.caveat(official, how) == ()


def test_what_cannot_be_followed_is_said() -> None:
    for name, told in (("cars", "no split of its authors"), ("sun397", "a file of its authors")):
        data = dataset(name, 90)
        assert splits.cut(data, "augself") is data
        assert told in splits.caveat(data, "augself")[0]
    caltech = splits.cut(dataset("caltech101", 90), "ssl-transfer")
    assert splits.caveat(caltech, "ssl-transfer") == (
        "train and test are not ssl-transfer's own lists of caltech101",
    )


def test_who_cuts_val() -> None:
    asked = {name: protocols.get(name).settings.val for name in protocols.names() if name.startswith("linear-")
             and protocols.get(name).kind == "linear"}  # fmt: skip
    assert asked == {
        "linear-ericsson2021": "ssl-transfer",
        "linear-ericsson2021-own": "ssl-transfer",
        "linear-augself2021": "augself",
        "linear-dinov2": "dinov2",
    }
    assert protocols.get("linear").settings.val == "task"
