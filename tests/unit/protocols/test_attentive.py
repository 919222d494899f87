"""The attentive probe: what it pools, its schedule, that it learns where a mean cannot, that val alone chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval import checkpoints, datasets, protocols, tasks
from eval.errors import UserError
from eval.features import Preprocess
from eval.features.maps import Maps, fill_entry, of_crops
from eval.features.store import Entry
from eval.protocols import attentive
from eval.running.cell import measure
from eval.running.plan import Cell

CPU = torch.device("cpu")


def tokens(store: Path, rows: np.ndarray) -> attentive.Tokens:
    """Made-up tokens (N, h, w, D) as a store has them."""
    bits = torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    entry = Entry(store, {"sum": str(rows.sum())}, len(rows), "<u2")
    with entry.lock():
        fill_entry(entry, lambda row: bits[row], lambda batch, first: batch, 8, 0)
    return attentive.Tokens([(Maps(entry, (), rows.shape[1:]), np.arange(len(rows)))])  # type: ignore[arg-type]


def needles(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A class is told by one marked token among others that say the opposite: the mean says nothing."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number)
    rows = 0.1 * generator.normal(size=(number, 4, 4, 16)).astype(np.float32)
    signs = 2.0 * labels - 1
    rows[..., 1] -= signs[:, None, None] / 15
    place = generator.integers(0, 16, number)
    marked = rows.reshape(number, 16, 16)
    marked[np.arange(number), place, 0] = 3
    marked[np.arange(number), place, 1] = signs
    return rows, labels


@pytest.mark.parametrize("name", ["attentive", "attentive-ep", "attentive-4blocks"])
def test_it_finds_one_token_that_a_mean_cannot_see(name: str, tmp_path: Path) -> None:
    rows, labels = needles(256, 0)
    test, truth = needles(128, 1)
    assert np.abs(rows.mean((1, 2))[:, 1]).max() < 0.1
    changes: dict[str, Any] = {"epochs": 15, "batch_size": 32, "warmup": 1, "head_dim": 16}
    changes["queries"] = 4 if name == "attentive-ep" else 1
    how = protocols.get(name).override(changes).settings
    (probe,) = attentive.train(tokens(tmp_path / "a", rows), labels, 2, [(0.005, 0.001)], how, 0, CPU)
    found = attentive.scores(probe, tokens(tmp_path / "b", test), CPU)
    assert (found.argmax(1) == truth).mean() > 0.95


def test_order_of_tokens_and_size_of_batches_do_not_matter(tmp_path: Path) -> None:
    rows, _ = needles(10, 2)
    probe = attentive.build(16, 2, protocols.get("attentive").override({"head_dim": 8}).settings, 0).eval()
    x = torch.from_numpy(rows).flatten(1, 2)
    with torch.no_grad():
        whole, shuffled = probe(x), probe(x[:, torch.randperm(16)])
    assert torch.allclose(whole, shuffled, atol=1e-6)
    assert torch.allclose(
        torch.from_numpy(attentive.scores(probe, tokens(tmp_path, rows), CPU)), whole, atol=0.02
    )


def test_the_rate_is_vjepas() -> None:
    how = protocols.get("attentive").settings
    assert attentive.rate(how, 0.001, 25, 10) == pytest.approx(0.0002 + 0.5 * 0.0008)
    assert attentive.rate(how, 0.001, 50, 10) == pytest.approx(0.001)
    assert attentive.rate(how, 0.001, 125, 10) == pytest.approx(0.0005)
    assert attentive.rate(how, 0.001, 200, 10) == pytest.approx(0.0)


def test_equal_pairs_give_equal_probes_and_others_do_not(tmp_path: Path) -> None:
    rows, labels = needles(32, 3)
    how = (
        protocols.get("attentive")
        .override({"epochs": 2, "batch_size": 8, "warmup": 0, "head_dim": 8})
        .settings
    )
    pairs = [(0.001, 0.001), (0.001, 0.001), (0.002, 0.001)]
    first, second, third = attentive.train(tokens(tmp_path, rows), labels, 2, pairs, how, 0, CPU)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.linear.weight, third.linear.weight)  # type: ignore[union-attr, arg-type]


def test_tokens_of_several_splits_of_one_pool(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.float32)
    ((maps, _),) = tokens(tmp_path, rows).parts
    both = attentive.Tokens([(maps, np.array([4, 1])), (maps, np.array([0, 5, 2]))])
    assert len(both) == 5
    assert both.read(np.array([4, 0, 2, 1]))[:, 0, 0].tolist() == [2, 4, 0, 1]


def test_queries_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(UserError, match="32 queries for 48 channels"):
        attentive.build(48, 2, protocols.get("attentive-ep").settings, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright spot left or right."""
    place = tmp_path_factory.mktemp("spots")
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        for label, name in enumerate(("left", "right")):
            for index in range(count):
                pixels = generator.integers(0, 60, (32, 32, 3))
                pixels[10:20, (4 if label == 0 else 20) : (12 if label == 0 else 28)] = generator.integers(
                    180, 255
                )
                path = place / "spots" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return place


def test_a_cell_end_to_end(folder: Path, tmp_path: Path) -> None:
    loaded = checkpoints.load("random:resnet10-c8-half")
    task = tasks.get(f"folder:{folder / 'spots'}")
    data = task.open(Path())
    changes = {"layers": "res4", "epochs": 10, "batch_size": 8, "extraction.image_size": 32, "warmup": 1}
    changes["extraction.resize"] = 32
    protocol = protocols.get("attentive-tiny").override(changes)
    task.check(protocol)
    cell = Cell(loaded.passport.name, task, protocol, changes, 0)
    found = measure(cell, loaded, data, store=tmp_path / "store", work=tmp_path / "work")
    assert len(found.selected["grid"]) == 4
    assert found.selected["split"] == "val"
    assert set(found.metrics) >= {"top1", "mean_per_class", "ece"}
    # Labels of test decide nothing but the score: with them permuted the same probe is chosen.
    test = data.splits["test"]
    turned = datasets.Split(test.name, test.paths, 1 - test.labels, test.source, test.positions)
    other = datasets.ImageDataset(data.name, data.classes, data.splits | {"test": turned}, data.notes)
    again = measure(cell, loaded, other, store=tmp_path / "store", work=tmp_path / "work")
    assert again.selected == found.selected
    assert again.metrics["top1"].value == pytest.approx(1 - found.metrics["top1"].value)


def test_stored_tokens_are_those_of_the_crop_that_features_see(folder: Path, tmp_path: Path) -> None:
    loaded = checkpoints.load("random:resnet10-c8-half")
    pool = datasets.load(f"folder:{folder / 'spots'}", Path()).splits["test"].pool
    preprocess = Preprocess.of(loaded.passport, image_size=32, resize=40)
    maps = of_crops(loaded.backbone, loaded.passport, pool, preprocess, "last", store=tmp_path, most_gb=1)
    with torch.inference_mode():
        pixels = torch.from_numpy(preprocess.image(pool.read(3))[None].copy())
        expected = loaded.backbone.feature_maps(preprocess.normalise(pixels))["res5"]
    assert torch.equal(maps.read([3]), expected.to(torch.bfloat16).float())
