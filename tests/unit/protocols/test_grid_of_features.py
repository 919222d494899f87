"""DINOv2's grid of blocks, average pooling and rates: what each head reads, and that val alone chooses."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import protocols, tasks
from eval.checkpoints import load
from eval.cli import entry as cli
from eval.datasets import Split
from eval.errors import UserError
from eval.features.matrices import Rows
from eval.protocols import Labelled, finetune, heads
from eval.protocols.base import Context, select_pair
from eval.protocols.training import Trainer
from eval.results import records
from eval.running import arrays, delta

SMALL = {"epochs": 2, "epoch_length": 8, "batch_size": 16}
PARTS = ["cls", "cls+mean", "last4", "last4+mean"]


def planted(token: int, number: int, seed: int) -> Labelled:
    """``last4+mean`` of tokens of four numbers, noise but for one token, which tells the class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number)
    x = generator.normal(size=(number, 5, 4)).astype(np.float32)
    x[:, token, 0] += 8 * labels - 4
    return Labelled(x.reshape(number, 20), labels, 2)


@pytest.mark.parametrize(("token", "chosen"), [(3, "cls"), (4, "cls+mean"), (0, "last4")])
def test_val_chooses_the_first_part_that_holds_the_class(token: int, chosen: str) -> None:
    how = protocols.get("linear-sgd-dinov2").override(SMALL)
    fitted = protocols.fit(how, planted(token, 80, 0), planted(token, 40, 1))
    assert fitted.selected["features"] == chosen
    assert fitted.selected["refit"] == "train+val"
    grid = fitted.selected["grid"]
    assert [row[0] for row in grid] == [part for part in PARTS for _ in range(13)]
    best = [row for row in grid if row[2] == fitted.selected["value"] and row[0] == chosen]
    assert fitted.selected["lr"] == best[0][1]
    assert [row[1] for row in grid[:13]] == [rate * 16 / 256 for rate in how.settings.lr]
    test = planted(token, 60, 2)
    assert (fitted.scores(np.asarray(test.features)).argmax(1) == test.labels).mean() > 0.95


def test_one_part_and_one_rate_need_no_choice() -> None:
    how = protocols.get("linear-sgd-dinov2").override(SMALL | {"features": "last4", "lr": 0.1})
    fitted = protocols.fit(how, planted(0, 80, 0), planted(0, 40, 1))
    assert fitted.selected == {"lr": 0.1 * 16 / 256, "split": None, "epoch": "last", "features": "last4",
                               "refit": "train+val"}  # fmt: skip


def test_a_choice_that_ties_or_lies_at_the_edge_is_told() -> None:
    place, record, told = select_pair(np.array([[0.5, 0.7], [0.7, 0.6]]), ["cls", "last4"], [0.1, 1.0])
    assert place == (0, 1)
    assert told == (
        "lr 1 lies at the edge of the grid",
        "2 pairs of feature and lr tie on val; the first is taken",
    )
    assert record["grid"][2] == ["last4", 0.1, 0.7]
    assert select_pair(np.array([[0.5], [0.7]]), ["cls", "last4"], [0.1])[0::2] == ((1, 0), ())


@pytest.mark.parametrize("on_disk", [False, True])
def test_epochs_of_a_length_of_their_own_run_through_all_images(
    on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "SHUFFLE", 6 if on_disk else 100)
    x = np.arange(10, dtype=np.float32)[:, None]
    part = Labelled(Rows([(x, None)]) if on_disk else x, np.arange(10), 10)
    batches = list(islice(heads._endless(part, 4, np.random.default_rng(0)), 5))  # twice through ten images
    assert [len(y) for _, y in batches] == [4] * 5
    assert all((features[:, 0] == labels).all() for features, labels in batches)
    order = np.concatenate([labels for _, labels in batches])
    assert Counter(order[:10]) == Counter(order[10:]) == Counter(range(10))
    assert (order[:10] != order[10:]).any()


def test_parts_need_the_feature_that_they_are_parts_of() -> None:
    with pytest.raises(UserError, match=r"parts of last4\+mean"):
        protocols.get("linear-sgd").override({"features": ["cls"]})
    with pytest.raises(UserError, match="freeze it"):
        protocols.get("linear-dinov2-grid").override({"freeze": False})
    with pytest.raises(UserError, match="features"):
        protocols.get("linear-sgd-dinov2").override({"features": ["map"]})


# --- on images -----------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Split]:
    found = {}
    for name, number in (("train", 12), ("val", 8)):
        generator = np.random.default_rng(number)
        paths, labels = [], np.arange(number) % 2
        for index, label in enumerate(labels):
            pixels = generator.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 * label] += 120
            paths.append(tmp_path / f"{name}-{index:02}.png")
            Image.fromarray(pixels).save(paths[-1])
        found[name] = Split(name, tuple(paths), labels)
    return found


def context(images: dict[str, Split], work: Path, ref: str, **changes: Any) -> Context:
    given: dict[str, Any] = {
        "task": None, "metric": "top1", "seed": 0, "extract": None, "work": work, "device": torch.device("cpu"),
        "data": SimpleNamespace(splits=images, num_classes=2), "loaded": load(ref, input_size=32),
        "protocol": protocols.get("linear-dinov2-grid").override(SMALL | changes),
    }  # fmt: skip
    return Context(**given)


def test_one_forward_feeds_the_grid_on_images(
    images: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []
    given = context(images, tmp_path / "w", "random:vit_w64_patch16_d4@0", lr=[[0, 0.1], [0, 3.0]])
    plain = type(given.loaded.backbone).pooled
    monkeypatch.setattr(
        type(given.loaded.backbone),
        "pooled",
        lambda self, x, choices: (forwards.append(len(x)), plain(self, x, choices))[1],
    )
    tuned = finetune.run(given)
    # A forward of one image tells the width; 16 batches train; val is one batch; then the same for the refit.
    assert forwards == [1, *[16] * 16, 8, 1, *[16] * 16]
    assert tuned.selected["features"] in PARTS
    assert tuned.selected["lr"] in (0.1, 3.0)
    assert [row[:2] for row in tuned.selected["grid"]] == [[part, lr] for part in PARTS for lr in (0.1, 3.0)]
    assert (tuned.scores(images["val"]).argmax(1) == images["val"].labels).all()


def test_a_grid_is_trained_as_each_of_its_heads_alone_would_be(
    images: dict[str, Split], tmp_path: Path
) -> None:
    """On the same crops in the same order: columns that a head does not read are no part of it."""

    def trained(work: str, parts: tuple[str, ...], rates: list[tuple[float, float]]) -> Trainer:
        given = context(images, tmp_path / work, "random:vit_w64_patch16_d4@0")
        preprocess = finetune_preprocess(given)
        (tmp_path / work).mkdir()
        made = Trainer(
            given.loaded.backbone, preprocess, [(images["train"], i) for i in range(12)], 2, given.params, rates, 0,
            tmp_path / work / "s.pt", lambda *_: None, parts,
        )  # fmt: skip
        made.train()
        return made

    whole = trained("all", tuple(PARTS), [(0, 0.1), (0, 3.0)]).scores(images["val"])
    for place, part in enumerate(PARTS):
        alone = trained(part, (part,), [(0, 3.0)]).scores(images["val"])
        np.testing.assert_allclose(whole[2 * place + 1], alone[0], rtol=1e-5, atol=1e-5)


def finetune_preprocess(given: Context) -> Any:
    from eval.features import Preprocess

    return Preprocess.of(given.loaded.passport, **given.params.extraction.pixels())


def test_an_interrupted_grid_goes_on(images: dict[str, Split], tmp_path: Path) -> None:
    ref, lr = "random:vit_w64_patch16_d4@0", [[0, 0.1], [0, 3.0]]
    whole = finetune.run(context(images, tmp_path / "a", ref, lr=lr)).scores(images["val"])

    class Stop(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 12:
            raise Stop

    given = context(images, tmp_path / "b", ref, lr=lr)
    object.__setattr__(given, "progress", interrupt)
    with pytest.raises(Stop):
        finetune.run(given)
    steps: list[int] = []
    again = context(images, tmp_path / "b", ref, lr=lr)
    object.__setattr__(again, "progress", lambda what, done, total: steps.append(done))
    np.testing.assert_array_equal(finetune.run(again).scores(images["val"]), whole)
    assert steps[0] == 9


def test_an_image_that_comes_twice_in_an_epoch_is_cropped_anew(
    images: dict[str, Split], tmp_path: Path
) -> None:
    given = context(images, tmp_path, "random:vit_w64_patch16_d4@0")
    trainer = Trainer(
        given.loaded.backbone, finetune_preprocess(given), [(images["train"], i) for i in range(12)], 2, given.params,
        [(0, 0.1)], 0, tmp_path / "s.pt", lambda *_: None, ("cls",),
    )  # fmt: skip
    orders = np.concatenate([trainer._order(epoch) for epoch in range(2)])
    assert len(orders) == 2 * 8 * 16
    assert len({tuple(row) for row in orders.tolist()}) == len(orders)  # pass and image: the seed of a crop
    assert Counter(orders[:12, 1]) == Counter(range(12))


@pytest.mark.parametrize("name", ["linear-sgd-dinov2", "linear-dinov2-grid"])
def test_from_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record says which was chosen; a network without a class token is refused by name, and stops no other."""
    for split in ("train", "val", "test"):
        for label in ("blue", "red"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(6):
                noise = np.random.default_rng(index).integers(0, 99, (32, 32, 3), dtype=np.uint8)
                noise[..., 2 * (label == "blue")] += 130
                Image.fromarray(noise).save(folder / f"{split}{index}.png")
    command = ["eval", "--checkpoint", "random:vit_w64_patch16_d4@0", "random:resnet10-c8@0", "--task"]
    command += [f"folder:{tmp_path / 'data'}", "--protocol", name, "--input-size", "32", "--out"]
    command += [str(tmp_path / "run"), "--limit", "12", "--quiet", "--json"]
    assert cli.main(command) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["failed"]) == (1, 1)
    (problem,) = told["errors"]
    assert "has no feature 'last4+mean'" in problem
    (record,) = records.read([tmp_path / "run"]).counting()
    assert record.selected["features"] in PARTS
    assert record.selected["split"] == "val"
    assert len(record.selected["grid"]) == 4 * 13


def test_a_dry_run_says_what_would_fail_and_goes_on(
    images: dict[str, Split], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        for label, path in enumerate(images["val"].paths[:4]):
            folder = tmp_path / "data" / split / f"class{label % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.open(path).rotate(90 * label).save(folder / f"{split}{label}.png")
    command = [
        "eval",
        "--checkpoint",
        "random:resnet10-c8@0",
        "--task",
        f"folder:{tmp_path / 'data'}",
        "--protocol",
    ]
    command += [
        "linear-sgd-dinov2",
        "knn",
        "--input-size",
        "32",
        "--out",
        str(tmp_path / "run"),
        "--dry-run",
        "--json",
    ]
    assert cli.main(command) == 0
    states = {row["protocol"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert "has no feature 'last4+mean'" in states["linear-sgd-dinov2 v1"]
    assert states["knn v1"] == "to run"


def test_it_is_no_version_of_a_protocol_on_the_checkpoints_own_feature() -> None:
    names = [protocol.name for protocol in delta.versions(tasks.get("cifar10"), "linear")]
    assert "linear-sgd" in names
    assert "linear-sgd-dinov2" not in names


def test_arrays_are_not_taken_apart() -> None:
    part = planted(0, 20, 0)
    data = arrays.arrays([(part.features, part.labels)] * 3)
    with pytest.raises(UserError, match=r"linear-sgd-dinov2 reads parts of a feature of its own"):
        arrays.measure(data, protocols.get("linear-sgd-dinov2"))
    with pytest.raises(UserError) as told:
        arrays.measure(data, protocols.get("finetune"))
    assert "linear-sgd," in str(told.value)
    assert "linear-sgd-dinov2" not in str(told.value)
