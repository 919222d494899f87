"""Numbers of the authors' own code in tests/golden/dense.json, which make_dense.py there made, beside ours."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import protocols
from eval.features.maps import Maps, fill_entry
from eval.features.store import Entry
from eval.features.views import Views
from eval.numbers.segmentation import IGNORED
from eval.protocols import dense, segknn, seglinear
from eval.protocols.base import Context
from eval.protocols.dense import Stored

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "dense.json").read_text(encoding="utf-8"))
POINTS = 0.002  # of mIoU that ours may differ by


@pytest.fixture(scope="module")
def made() -> Any:
    """The module that made them, for its inputs."""
    spec = importlib.util.spec_from_file_location("make_dense", FOLDER / "make_dense.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Truth:
    """Masks without images."""

    def __init__(self, masks: Any) -> None:
        self.masks = np.where(masks == 255, IGNORED, masks).astype(np.int16)

    def __len__(self) -> int:
        return len(self.masks)

    def read(self, index: int) -> Any:
        return self.masks[index]


def kept(made: Any, store: Path, images: Any, views: Views, masks: Any = None) -> Stored:
    """The squares' features, and their masks, in a store."""
    plan = views.plan(np.array([[images.shape[3], images.shape[2]]] * len(images)))
    squares = torch.stack(
        [images[v.image, :, v.top : v.top + made.SIDE, v.left : v.left + made.SIDE] for v in plan]
    )
    rows = (
        made.features(squares)
        .permute(0, 2, 3, 1)
        .to(torch.bfloat16)
        .view(torch.int16)
        .numpy()
        .view(np.uint16)
    )
    entry = Entry(store, {"of": "maps", "rows": len(rows)}, len(rows), "<u2")
    fields: list[tuple[Entry, Any]] = [(entry, rows)]
    labels = None
    if masks is not None:
        labels = Entry(store, {"of": "masks"}, len(rows), "|u1")
        fields.append((labels, masks.numpy().astype(np.uint8)))
    for place, values in fields:
        with place.lock():
            fill_entry(place, values.__getitem__, lambda batch, first: batch, 8, 0)
    return Stored(Maps(entry, plan, rows.shape[1:]), labels, views)


def scored(test: Stored, split: Truth, scores: Any, how: Any, classes: int) -> Any:
    rows = []
    for image, (truth, chosen) in enumerate(
        dense.predictions(test, split, scores, how, torch.device("cpu"))  # type: ignore[arg-type]
    ):
        matrix = dense.segmentation.confusion(truth, chosen, classes)
        rows += [[image, *place, matrix[tuple(place)]] for place in np.argwhere(matrix)]
    names = [str(index) for index in range(classes)]
    return dense.measured(np.array(rows), len(split), names, {})


def test_the_linear_head_is_dinov2s_in_mmseg(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, 52, 4)
    train = kept(made, tmp_path / "train", images, Views("squash", made.SIDE), masks)
    changes = {
        "iterations": made.ITERATIONS,
        "batch_size": made.BATCH,
        "warmup": made.WARMUP,
        "lr": made.RATE,
    }
    how = protocols.get("seg-linear").override(changes).settings

    def first(channels: int, classes: int, *_: Any) -> torch.nn.Sequential:
        found = torch.nn.Sequential(torch.nn.BatchNorm2d(channels), torch.nn.Conv2d(channels, classes, 1))
        with torch.no_grad():
            for own, value in zip(found[1].parameters(), made.head(), strict=True):
                own.copy_(value)
        return found

    def order(*_: Any) -> Iterator[Any]:
        return iter(map(np.array, made.batches()))

    monkeypatch.setattr(seglinear, "head", first)
    monkeypatch.setattr(seglinear, "order", order)
    nothing: dict[str, Any] = dict.fromkeys(("task", "protocol", "data", "loaded", "extract"))
    context = Context(**nothing, metric="miou", seed=0, work=tmp_path, device=torch.device("cpu"))
    model = seglinear.train(train, made.CLASSES, how, 0, context)
    test = kept(made, tmp_path / "test", tests, Views("slide", made.SIDE))
    found = scored(test, Truth(truth.numpy()), model, how, made.CLASSES)
    golden = GOLDEN["dinov2"]["value"]
    assert found.metrics["miou"].value == pytest.approx(golden["miou"], abs=POINTS)
    assert list(found.certificate["iou"].values()) == pytest.approx(golden["iou"], abs=3 * POINTS)


def test_retrieval_is_open_hummingbirds(made: Any, tmp_path: Path) -> None:
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, made.SIDE, 4)
    views = Views("squash", made.SIDE)
    train = kept(made, tmp_path / "train", images, views, masks)
    how = (
        protocols.get("seg-knn-hummingbird")
        .override({"neighbours": 7, "memory": None, "mask_size": None})
        .settings
    )
    memory = segknn.remember(train, 12, made.CLASSES, how, 0, 1.0)
    scores = segknn.retriever(memory, how, torch.device("cpu"))
    found = scored(
        kept(made, tmp_path / "test", tests, views), Truth(truth.numpy()), scores, how, made.CLASSES
    )
    assert found.metrics["miou"].value == pytest.approx(
        GOLDEN["open-hummingbird-eval"]["value"]["miou"], abs=POINTS
    )
