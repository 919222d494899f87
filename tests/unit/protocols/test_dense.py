"""Dense protocols: hand calculations, an independent training loop, the authors' retrieval written again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from eval import checkpoints, protocols, scenes, tasks
from eval.datasets.segmentation import load
from eval.errors import UserError
from eval.features.maps import Maps, fill_entry
from eval.features.store import Entry
from eval.features.views import Views
from eval.numbers.segmentation import IGNORED
from eval.protocols import dense, segknn, seglinear
from eval.protocols.base import Context
from eval.protocols.dense import Stored
from eval.results.evidence import _evidence

CPU = torch.device("cpu")
CLASSES = 4


class FakeSplit:
    """Masks without images."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def read(self, index: int) -> np.ndarray:
        return self.masks[index]

    @property
    def sizes(self) -> np.ndarray:
        return np.array([[mask.shape[1], mask.shape[0]] for mask in self.masks])


def stored(
    tmp_path: Path, rows: np.ndarray, views: Views, sizes: np.ndarray, masks: np.ndarray | None = None
) -> Stored:
    """Made-up maps (N, C, h, w) and masks (N, H, W) as a store has them."""
    bits = (
        torch.from_numpy(rows)
        .permute(0, 2, 3, 1)
        .to(torch.bfloat16)
        .view(torch.int16)
        .numpy()
        .view(np.uint16)
    )
    plan = views.plan(sizes)
    assert len(plan) == len(rows)
    entry = Entry(tmp_path, {"rows": str(rows.sum())}, len(rows), "<u2")
    with entry.lock():
        fill_entry(entry, lambda row: bits[row], lambda batch, first: batch, 8, 0)
    kept = None
    if masks is not None:
        kept = Entry(tmp_path, {"masks": str(masks.sum())}, len(masks), "|u1")
        with kept.lock():
            fill_entry(kept, lambda row: masks[row].astype(np.uint8), lambda batch, first: batch, 8, 0)
    return Stored(Maps(entry, plan, bits.shape[1:]), kept, views)  # type: ignore[arg-type]


def params(name: str, **changes: Any) -> Any:
    return protocols.get(name).override(changes).settings


def one_hot(masks: np.ndarray) -> np.ndarray:
    return np.eye(CLASSES, dtype=np.float32)[masks].transpose(0, 3, 1, 2)


def confusions(test: Stored, split: FakeSplit, how: Any, scores: Any = lambda maps: maps) -> np.ndarray:
    rows = []
    for image, (truth, chosen) in enumerate(dense.predictions(test, split, scores, how, CPU)):  # type: ignore[arg-type]
        matrix = dense.segmentation.confusion(truth, chosen, CLASSES)
        rows += [[image, *place, matrix[tuple(place)]] for place in np.argwhere(matrix)]
    return np.array(rows)


def test_the_truth_as_prediction_is_perfect_and_shifted_by_a_pixel_what_a_hand_finds(tmp_path: Path) -> None:
    mask = np.zeros((16, 16), dtype=np.int16)
    mask[4:8, 4:8] = 1
    views = Views("squash", 16)
    split = FakeSplit([mask, mask])
    how = params("seg-linear-tiny")
    perfect = stored(tmp_path, one_hot(np.stack([mask, mask])), views, split.sizes)
    found = dense.measured(confusions(perfect, split, how), 2, ["ground", "square", "c", "d"], {})
    assert found.metrics["miou"].value == found.metrics["mean_accuracy"].value == 1.0
    assert found.warnings == ("2 of 4 classes are on no test image and are left out of the mean: c, d",)
    shifted = np.roll(mask, 1, axis=1)
    moved = stored(tmp_path / "moved", one_hot(np.stack([shifted, shifted])), views, split.sizes)
    found = dense.measured(confusions(moved, split, how), 2, ["ground", "square", "c", "d"], {})
    # Of each image: 12 of 16 pixels overlap, 20 in the union; of the ground 236 and 244.
    assert found.metrics["miou"].value == pytest.approx((12 / 20 + 236 / 244) / 2)
    assert found.metrics["pixel_accuracy"].value == pytest.approx(248 / 256)
    assert found.certificate == {"iou": {"ground": 236 / 244, "square": 12 / 20}}


def test_ignored_pixels_decide_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    mask = generator.integers(0, CLASSES, (16, 16)).astype(np.int16)
    mask[:, :8] = IGNORED
    split = FakeSplit([mask])
    first = generator.normal(size=(1, CLASSES, 16, 16)).astype(np.float32)
    second = first.copy()
    second[..., :8] = -second[..., :8]
    how = params("seg-linear-tiny")
    tables = [
        confusions(stored(tmp_path / str(i), rows, Views("squash", 16), split.sizes), split, how)
        for i, rows in enumerate((first, second))
    ]
    assert np.array_equal(*tables)
    assert tables[0][:, 3].sum() == 128
    with pytest.raises(UserError, match="no pixel of the test masks has a class"):
        dense.measured(np.zeros((0, 4), dtype=int), 1, ["a", "b"], {})


def test_slide_is_mmsegs(tmp_path: Path) -> None:
    """Against slide_inference and aug_test of mmseg 0.30, written again on the whole logit map."""
    generator = np.random.default_rng(1)
    mask = generator.integers(0, CLASSES, (20, 34)).astype(np.int16)
    split = FakeSplit([mask])
    views = Views("slide", 16, scales=(1.0, 1.5), stride=2 / 3)
    plan = views.plan(split.sizes)
    rows = generator.normal(size=(len(plan), CLASSES, 4, 4)).astype(np.float32)
    data = stored(tmp_path, rows, views, split.sizes)
    ((_, chosen),) = dense.predictions(data, split, lambda maps: maps, params("seg-linear-tiny"), CPU)  # type: ignore[arg-type]
    total = torch.zeros(1, CLASSES, 20, 34)
    for scale in (1.0, 1.5):
        width, height = round(34 * 16 * scale / 20), int(16 * scale)
        preds, counts = torch.zeros(1, CLASSES, height, width), torch.zeros(1, 1, height, width)
        members = [(row, view) for row, view in enumerate(plan) if view.size == (width, height)]
        place = 0
        for h in range(max(height - 16 + 9, 0) // 10 + 1):
            for w in range(max(width - 16 + 9, 0) // 10 + 1):
                y, x = min(h * 10, height - 16), min(w * 10, width - 16)
                logits = data.maps.read([members[place][0]])
                logits = F.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)
                preds += F.pad(logits, (x, width - x - 16, y, height - y - 16))
                counts[:, :, y : y + 16, x : x + 16] += 1
                place += 1
        assert place == len(members)
        total += F.interpolate(preds / counts, (20, 34), mode="bilinear", align_corners=False).softmax(1)
    assert np.array_equal(chosen, total.argmax(1)[0].numpy())


def test_a_mirrored_square_is_mirrored_back(tmp_path: Path) -> None:
    mask = np.zeros((16, 16), dtype=np.int16)
    mask[:, :8] = 1
    split = FakeSplit([mask])
    views = Views("slide", 16, mirrored=True)
    rows = one_hot(np.stack([mask, mask[:, ::-1]]))
    data = stored(tmp_path, rows, views, split.sizes)
    table = confusions(data, split, params("seg-linear-tiny"))
    assert {tuple(row) for row in table[:, 1:3].tolist()} == {(0, 0), (1, 1)}


def test_sizes_of_masks_and_logits_are_named_and_change_the_number(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    mask = np.kron(generator.integers(0, CLASSES, (4, 4)), np.ones((8, 8))).astype(np.int16)
    mask[::8] = 0
    split = FakeSplit([mask])
    rows = generator.normal(size=(1, CLASSES, 4, 4)).astype(np.float32)
    data = stored(tmp_path, rows, Views("squash", 32), split.sizes)
    counted = {}
    for name, changes in {
        "own": {"mask_size": None},
        "small": {"mask_size": 4},
        "grid": {"mask_size": None, "logit_size": "grid"},
    }.items():
        table = confusions(data, split, params("seg-linear-tiny", **changes))
        counted[name] = (table[:, 3].sum(), table[table[:, 1] == table[:, 2], 3].sum())
    assert [total for total, _ in counted.values()] == [1024, 16, 1024]
    cells = rows[0].argmax(0)
    assert counted["grid"][1] == (np.kron(cells, np.ones((8, 8))) == mask).sum()
    assert counted["small"][1] == (cells == mask[4::8, 4::8]).sum()
    slide = stored(tmp_path / "slide", rows, Views("slide", 32), split.sizes)
    with pytest.raises(UserError, match="logit_size=grid"):
        confusions(slide, split, params("seg-linear-tiny", logit_size="grid"))


def test_the_linear_head_is_trained_as_an_independent_loop_trains_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(6, 5, 4, 4)).astype(np.float32)
    masks = generator.integers(0, CLASSES, (6, 8, 8))
    masks[0, :3] = 255
    data = stored(tmp_path, rows, Views("squash", 8), np.array([[8, 8]] * 6), masks)
    how = params("seg-linear-tiny", iterations=30, batch_size=3, warmup=10, lr=0.01)
    context = Context(
        task=None,
        protocol=None,
        metric="miou",
        seed=4,
        data=None,
        loaded=None,
        extract=None,
        work=tmp_path,
        device=CPU,
    )  # type: ignore[arg-type]
    model = seglinear.train(data, CLASSES, how, 4, context, how.length(6))
    # The reference has no modules: batch normalisation, matrix product and AdamW by their formulas.
    start = seglinear.head(5, CLASSES, how, 4)
    values = {name: value.detach().double().clone() for name, value in start.named_parameters()}
    moments = {name: [torch.zeros_like(value), torch.zeros_like(value)] for name, value in values.items()}
    features = data.maps.read(range(6)).double()
    mean, variance = torch.zeros(5).double(), torch.ones(5).double()
    batches = seglinear.order(6, 3, 4)
    for step in range(30):
        at = next(batches)
        x, y = features[at], torch.from_numpy(masks[at])
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        m, v = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        mean, variance = 0.9 * mean + 0.1 * m, 0.9 * variance + 0.1 * v * 48 / 47
        normal = (x - m[:, None, None]) / (v[:, None, None] + 1e-5).sqrt()
        normal = normal * leaves["0.weight"][:, None, None] + leaves["0.bias"][:, None, None]
        logits = (
            torch.einsum("bdhw,cd->bchw", normal, leaves["1.weight"][:, :, 0, 0])
            + leaves["1.bias"][:, None, None]
        )
        logits = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
        kept = y != 255
        chosen = logits.log_softmax(1).gather(1, (y * kept)[:, None])[:, 0]
        loss = -(chosen * kept).sum() / y.numel()  # mmseg's mean counts ignored pixels
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        regular = 0.01 * (1 - step / 30)
        lr = regular if step >= 10 else regular * (1 - (1 - step / 10) * (1 - 1e-6))
        for (name, value), gradient in zip(values.items(), gradients, strict=True):
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            value.mul_(1 - lr * 1e-4)
            value.sub_(
                lr * first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            )
    for name, value in model.named_parameters():
        assert torch.allclose(value.double(), values[name], atol=2e-4), name
    assert torch.allclose(model[0].running_mean.double(), mean, atol=1e-5)
    assert torch.allclose(model[0].running_var.double(), variance, atol=1e-4)


def test_every_row_is_seen_once_in_each_pass() -> None:
    batches = seglinear.order(5, 2, 0)
    rows = np.concatenate([next(batches) for _ in range(10)])
    assert [sorted(rows[i : i + 5]) for i in range(0, 20, 5)] == [[0, 1, 2, 3, 4]] * 4


def hummingbird(
    train: torch.Tensor, masks: torch.Tensor, test: torch.Tensor, size: int, neighbours: int
) -> torch.Tensor:
    """vpariza/open-hummingbird-eval without a limit of memory, as its hbird_eval.py describes it: (N, size, size)."""
    patch = masks.shape[-1] // train.shape[-1]
    labels = masks.clone()
    labels[labels == 255] = 0
    cells = labels.unfold(1, patch, patch).unfold(2, patch, patch).flatten(3)
    values = F.one_hot(cells, CLASSES).float().mean(3).flatten(0, 2)
    keys = F.normalize(train.permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    chosen = []
    for image in test:
        queries = F.normalize(image.flatten(1).T, dim=1)
        similar = queries @ keys.T
        near = similar.argsort(1, descending=True)[:, :neighbours]
        weight = (similar.gather(1, near) / 0.02).softmax(1)
        found = (weight[..., None] * values[near]).sum(1)
        side = image.shape[-1]
        table = found.T.reshape(1, CLASSES, side, side)
        chosen.append(F.interpolate(table, (size, size), mode="bilinear").argmax(1)[0])
    return torch.stack(chosen)


@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_retrieval_is_hummingbirds(tmp_path: Path, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if search == "faiss":
        pytest.importorskip("faiss")
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(CLASSES, 16))
    truth = generator.integers(0, CLASSES, (8, 4, 4))
    rows = (centres[truth] + generator.normal(size=(8, 4, 4, 16))).transpose(0, 3, 1, 2).astype(np.float32)
    masks = np.kron(truth, np.ones((1, 8, 8))).astype(int)
    masks[:, ::7] = 255
    views, sizes = Views("squash", 32), np.array([[32, 32]] * 4)
    data = stored(tmp_path, rows[:4], views, sizes, masks[:4])
    how = params("seg-knn-hummingbird", neighbours=7, memory=None, mask_size=32)
    monkeypatch.setattr(segknn, "BANK", 9)  # blocks of the memory
    monkeypatch.setattr(segknn, "QUERIES", 5)
    memory = segknn.remember(data, 4, CLASSES, how, 0, 1.0)
    assert len(memory.keys) == 64
    split = FakeSplit([mask.astype(np.int16) for mask in np.where(masks[4:] == 255, IGNORED, masks[4:])])
    test = stored(tmp_path / "test", rows[4:], views, sizes)
    scores = segknn.retriever(memory, how, CPU, search)
    found = [chosen for _, chosen in dense.predictions(test, split, scores, how, CPU)]  # type: ignore[arg-type]
    expected = hummingbird(
        data.maps.read(range(4)), torch.from_numpy(masks[:4]), test.maps.read(range(4)), 32, 7
    )
    assert (np.stack(found) == expected.numpy()).mean() > 0.9999
    assert (np.stack(found) == masks[4:])[masks[4:] != 255].mean() > 0.8


def test_shares_of_classes_by_hand() -> None:
    mask = np.array([[0, 0, 1, 9], [0, 2, 1, 1], [9, 9, 2, 2], [9, 9, 2, 0]])
    left_out = segknn.shares(mask, (2, 2), 3, 9, False)
    assert left_out.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0], [0.25, 0, 0.75]]
    first = segknn.shares(mask, (2, 2), 3, 9, True)
    assert first[1].tolist() == [0.25, 0.75, 0]
    assert first[2].tolist() == [1, 0, 0]


def test_rare_classes_are_kept_first_and_cells_without_a_label_never() -> None:
    labels = np.zeros((12, 3), dtype=np.float32)
    labels[:10, 0] = 1
    labels[10, 2] = 1
    chosen = [segknn.rare_first(labels, 3, np.random.default_rng(seed)) for seed in range(100)]
    assert all(11 not in rows for rows in chosen)
    assert sum(10 in rows for rows in chosen) > 85
    assert len(segknn.rare_first(labels, 99, np.random.default_rng(0))) == 11


def test_a_memory_that_is_too_large_is_refused(tmp_path: Path) -> None:
    rows = np.ones((2, 8, 4, 4), dtype=np.float32)
    data = stored(tmp_path, rows, Views("squash", 8), np.array([[8, 8]] * 2), np.zeros((2, 8, 8), dtype=int))
    with pytest.raises(UserError, match="the memory of 32 cells takes"):
        segknn.remember(data, 2, CLASSES, params("seg-knn", memory=None), 0, 1e-9)
    assert len(segknn.remember(data, 2, CLASSES, params("seg-knn", memory=10), 0, 1.0).keys) == 10


def test_confusions_pair_checkpoints(tmp_path: Path) -> None:
    table = np.array([[0, 0, 0, 5], [0, 0, 1, 5], [1, 1, 1, 3], [2, 0, 0, 1]], dtype=np.int32)
    found = dense.measured(table, 3, ["a", "b"], {"test": 3})
    evidence = _evidence(found.arrays, "miou", found.metrics["miou"].value)
    assert not isinstance(evidence, str)
    assert (evidence.kind, evidence.unit, evidence.examples) == ("resamples", "test images", 3)
    assert evidence.value == pytest.approx((6 / 11 + 3 / 8) / 2)


def test_a_cell_on_the_scenes_and_on_folders_of_ones_own(tmp_path: Path) -> None:
    """Both protocols end to end through the runner's own functions, with nothing but a made-up network."""
    from eval.running.cell import measure
    from eval.running.plan import Cell

    scenes.write(tmp_path, size="test")
    own = tmp_path / "own"
    for split in ("train", "test"):
        for index in range(3):
            name = f"{split}/{index}"
            for what, ending in (("images", "jpg"), ("masks", "png")):
                (own / what / split).mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(index + 10 * (split == "test")).integers(0, 2, (40, 50))
                values = pixels if what == "masks" else 200 * pixels[..., None].repeat(3, 2)
                Image.fromarray(values.astype(np.uint8)).save(own / what / f"{name}.{ending}")
    (own / "classes.txt").write_text("dark\nlight\n")
    loaded = checkpoints.load("random:resnet10-c8-half")
    for name, root in (("scenes-seg", tmp_path), (f"seg:{own}", Path())):
        task = tasks.get(name)
        data = task.open(root).limited(3)
        for how, changes in (("seg-linear-tiny", {"iterations": 5}), ("seg-knn-tiny", {"memory": 100})):
            protocol = protocols.get(how).override({"extraction.image_size": 32, **changes})
            task.check(protocol)
            cell = Cell(loaded.passport.name, task, protocol, changes, 0)
            found = measure(cell, loaded, data, store=tmp_path / "store", work=tmp_path / "work")
            assert 0 <= found.metrics["miou"].value <= 1
            interval = found.metrics["miou"].interval
            assert interval is not None
            json.dumps(found.certificate)
            again = measure(cell, loaded, data, store=tmp_path / "store", work=tmp_path / "work")
            assert again.metrics == found.metrics
    assert load("scenes-masks", tmp_path).limited(3).manifest != load("scenes-masks", tmp_path).manifest


def test_what_a_vision_transformer_gives() -> None:
    from eval.features.maps import dense as read_maps

    backbone = checkpoints.load("random:vit_tiny_patch16").backbone
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        found = {name: read_maps(backbone, images, name) for name in ("last", "last+cls", "last4")}  # type: ignore[arg-type]
        tokens = backbone.tokens(images)
        inner = backbone.network.get_intermediate_layers(images, n=4, reshape=True, norm=True)
    assert found["last"].shape == (2, 192, 14, 14)
    assert torch.allclose(found["last"][:, :, 3, 5], tokens[:, 1 + 3 * 14 + 5], atol=1e-6)
    assert torch.allclose(found["last+cls"][:, 192:, 9, 2], tokens[:, 0], atol=1e-6)
    assert torch.allclose(found["last4"], torch.cat(inner, dim=1), atol=1e-6)
    with pytest.raises(UserError):
        read_maps(backbone, images, "res4")


def test_maps_gb_is_a_runtime_matter() -> None:
    first = protocols.get("seg-linear")
    changed = first.override({"maps_gb": 5})
    assert changed.params == first.params
    assert changed.runtime == {"maps_gb": 5}
    assert replace(changed, runtime={}) == first


def test_the_length_of_a_linear_head_and_what_is_mirrored_are_checked() -> None:
    how = protocols.get("seg-linear-448")
    assert how.settings.length(1464) == 25 * 11
    assert how.settings.length(3) == 1  # fewer images than a batch
    assert how.override({"iterations": 7, "epochs": None}).settings.length(1464) == 7
    assert protocols.get("seg-linear").settings.length(3) == 40000
    for neither_or_both in ({"epochs": None}, {"iterations": 7}):
        with pytest.raises(UserError, match="iterations or epochs"):
            how.override(neither_or_both)
    with pytest.raises(UserError, match="null for the other"):  # 5 epochs would be overruled without a word
        protocols.get("seg-linear").override({"epochs": 5})
    with pytest.raises(UserError, match="mirrored is of resized-crop"):
        protocols.get("seg-linear").override({"train_views.mirrored": True})


def test_a_mean_over_labelled_pixels_is_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    masks = torch.randint(0, 3, (2, 4, 4), generator=generator)
    masks[0] = 255
    labelled = F.cross_entropy(logits, masks, ignore_index=255)
    torch.testing.assert_close(seglinear.loss_of(logits, masks, 255, "labelled"), labelled)
    torch.testing.assert_close(seglinear.loss_of(logits, masks, 255), labelled / 2)
    nothing = torch.full_like(masks, 255)
    assert float(seglinear.loss_of(logits, nothing, 255, "labelled")) == 0
