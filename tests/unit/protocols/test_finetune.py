"""Training on images: it learns, resumes, leaves the checkpoint alone, and draws what torchvision draws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from eval import protocols
from eval.checkpoints import Normalization
from eval.datasets import Split
from eval.errors import UserError
from eval.numbers import metrics
from eval.protocols import finetune, training
from eval.protocols.base import Context

PASSPORT: Any = SimpleNamespace(
    weights_sha256="a" * 64,
    normalization=Normalization((0.5,) * 3, (0.25,) * 3),
    input_size=16,
    interpolation="bilinear",
    network={},
)
SMALL = {"epochs": 3, "batch_size": 16}


class Tiny(nn.Module):
    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())

    def features(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images).mean((2, 3))
        return result


def coloured(folder: Path, count: int, seed: int) -> Split:
    """Noisy images, red or blue."""
    generator = np.random.default_rng(seed)
    paths, labels = [], []
    for index in range(count):
        pixels = generator.integers(0, 120, (20, 18, 3), dtype=np.uint8)
        pixels[..., 2 * (index % 2)] += 120
        path = folder / f"{seed}-{index:02}.png"
        Image.fromarray(pixels).save(path)
        paths.append(path)
        labels.append(index % 2)
    return Split(f"s{seed}", tuple(paths), np.array(labels))


@pytest.fixture
def splits(tmp_path: Path) -> tuple[Split, Split, Split]:
    return coloured(tmp_path, 48, 0), coloured(tmp_path, 16, 1), coloured(tmp_path, 20, 2)


def run(
    splits: tuple[Split, Split, Split],
    name: str,
    work: Path,
    backbone: Tiny | None = None,
    progress: Any = None,
    **changes: Any,
) -> Any:
    parts = {"train": splits[0], "val": splits[1]}  # no test split: it is not looked at
    context: Any = {
        "task": None,
        "protocol": protocols.get(name).override({**SMALL, **changes}),
        "metric": "top1",
        "seed": 0,
        "data": SimpleNamespace(splits=parts, num_classes=2),
        "loaded": SimpleNamespace(backbone=backbone or Tiny().eval(), passport=PASSPORT),
        "extract": None,
        "work": work,
        "device": torch.device("cpu"),
    }
    return finetune.run(Context(**context | ({"progress": progress} if progress else {})))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("finetune", {"lr": [[0.1, 1.0], [0.0, 1e-6]], "epochs": 6}),
        ("linear-grid", {"lr": [[0, 1e-6], [0, 30]], "epochs": 6}),
        ("semi-10pct", {"lr": [[0.3, 3.0]], "subset": 0.25, "epochs": 20}),
    ],
)
def test_it_learns_and_the_checkpoint_stays(
    splits: tuple[Split, Split, Split], tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    backbone = Tiny().eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    fitted = run(splits, name, tmp_path / "w", backbone, **changes)
    scores = fitted.scores(splits[2])
    assert scores.shape == (20, 2)
    assert metrics.top1(scores, splits[2].labels) == 1.0
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    if name == "finetune":
        assert fitted.selected["lr"] == [0.1, 1.0]
        assert fitted.counts == {"labelled": 48, "trained_on": 64}
    if name == "linear-grid":
        assert fitted.selected["lr"] == [0.0, 30.0]
    if name == "semi-10pct":  # a quarter of all labels, val's among them
        assert fitted.counts == {"labelled": 16, "trained_on": 16}
        assert fitted.selected["split"] is None


@pytest.mark.parametrize("name", ["finetune", "linear-moco"])
def test_an_interrupted_run_goes_on(splits: tuple[Split, Split, Split], tmp_path: Path, name: str) -> None:
    lr = {"lr": [[0.05, 0.5]]}
    whole = run(splits, name, tmp_path / "a", **lr).scores(splits[2])

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 6:  # in the second of three epochs of four steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(splits, name, tmp_path / "b", progress=interrupt, **lr)
    with pytest.raises(UserError, match=r"holds another run .it differs in params"):
        run(splits, name, tmp_path / "b", **lr, momentum=0.5)
    steps: list[int] = []
    again = run(splits, name, tmp_path / "b", progress=lambda what, done, total: steps.append(done), **lr)
    assert steps[0] == 5
    np.testing.assert_array_equal(again.scores(splits[2]), whole)


@pytest.mark.parametrize("name", ["linear-vissl", "linear-lightly"])
def test_an_interrupted_probe_with_a_head_of_its_own_goes_on(
    splits: tuple[Split, Split, Split], tmp_path: Path, name: str
) -> None:
    """What a head learns beside its weights is kept as well."""
    test_an_interrupted_run_goes_on(splits, tmp_path, name)


def test_schedules_are_those_of_the_peers() -> None:
    """lightly's CosineWarmupScheduler without warm-up, by its formula; torch's CosineAnnealingLR once an epoch."""
    lightly = protocols.get("linear-lightly").override({"epochs": 3}).settings
    found = [training.learning_share(lightly, step // 4, step, 12) for step in range(12)]
    expected = [0.001 + 0.999 * (np.cos(np.pi * step / 11) + 1) / 2 for step in range(11)] + [0.001]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert training.learning_share(lightly, 0, 0, 1) == 0.001
    vicreg = protocols.get("linear-vicreg").override({"epochs": 3}).settings
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for epoch in range(3):
        assert training.learning_share(vicreg, epoch, 4 * epoch, 12) == pytest.approx(
            scheduler.get_last_lr()[0]
        )
        optimizer.step()
        scheduler.step()


def test_short_batches_are_dropped_where_the_protocol_says_so(
    splits: tuple[Split, Split, Split], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    run(
        splits,
        "linear-lightly",
        tmp_path,
        progress=lambda _, done, total: steps.append((done, total)),
        batch_size=30,
    )
    assert steps[-1] == (6, 6)  # 64 images make two whole batches of 30, in three epochs
    few: list[tuple[int, int]] = []
    run(
        splits,
        "linear-lightly",
        tmp_path / "few",
        progress=lambda _, done, total: few.append((done, total)),
        batch_size=99,
    )
    assert few[-1] == (3, 3)  # fewer images than a batch are used all the same


def test_crops_are_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    generator = np.random.default_rng(0)
    ours = np.array([training.crop_box(60, 40, generator) for _ in range(4000)])
    image = torch.zeros(3, 40, 60)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    theirs = theirs[:, [1, 0, 3, 2]]  # top, left, height, width
    # Means over 4,000 draws agree to four standard errors of their difference.
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()
    assert (ours[:, 0] + ours[:, 2] <= 60).all()
    assert (ours[:, 1] + ours[:, 3] <= 40).all()
    # Too slim for any ratio: the central part of the nearest one.
    assert training.crop_box(100, 1, generator) == (49, 0, 1, 1)


def test_subsets(splits: tuple[Split, Split, Split], tmp_path: Path) -> None:
    images = training.joined(*splits[:2])

    def names(wanted: float | str) -> list[str]:
        return [split.paths[index].name for split, index in training.subset(images, wanted)]

    part = training.subset(images, 0.1)
    assert np.bincount([split.labels[index] for split, index in part]).tolist() == [3, 3]
    assert {split.name for split, _ in training.subset(images, 0.5)} == {"s0", "s1"}  # of train and of val
    assert names(0.001) == names(0.001)
    assert len(names(0.001)) == 2  # one a class
    file = tmp_path / "lists" / "1percent.txt"
    file.parent.mkdir()
    file.write_text("0-03.png\n1-10.png\n")
    assert names(str(file)) == ["0-03.png", "1-10.png"]
    assert names("lists/1percent.txt") == ["0-03.png", "1-10.png"]  # beside the images
    file.write_text("gone.png\n")
    with pytest.raises(UserError, match=r"gone\.png"):
        names(str(file))
    with pytest.raises(UserError, match="share in"):
        names(5.0)
    with pytest.raises(UserError, match="simclr"):
        names(str(tmp_path / "missing.txt"))


def test_a_choice_among_rates_sees_no_labelled_image(
    splits: tuple[Split, Split, Split], tmp_path: Path
) -> None:
    """With the labels drawn from train and val, the rates are chosen on what is left of val."""
    lr = {"lr": [[0.3, 3.0], [0.0, 1e-6]], "epochs": 20, "subset": 0.5}
    fitted = run(splits, "semi-10pct", tmp_path, **lr)
    taken = [
        index for split, index in training.subset(training.joined(*splits[:2]), 0.5) if split is splits[1]
    ]
    left = finetune._without(splits[1], [(splits[1], index) for index in taken])
    assert 0 < len(left) == 16 - len(taken) < 16
    assert not {splits[1].paths[index] for index in taken} & set(left.paths)
    assert fitted.selected["lr"] == [0.3, 3.0]
    assert (fitted.selected["grid"][0][1] * len(left)) % 1 == pytest.approx(0, abs=1e-9)


def test_divergence_is_an_error(splits: tuple[Split, Split, Split], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        run(splits, "finetune", tmp_path, lr=[[1e20, 1e20]])
