"""Views, and maps in the store: right squares, right values, bounded disk and memory, resumed after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import checkpoints
from eval.datasets import Pool
from eval.errors import UserError
from eval.features import Preprocess, maps
from eval.features.budget import evict
from eval.features.store import Entry
from eval.features.views import Views, corners

ROOT = Path(__file__).resolve().parents[3]


def test_squares_cover_an_image_as_mmseg_slides() -> None:
    # mmseg's slide_inference at 512 and 341 px on 512 x 700 px: starts 0 and 700 - 512.
    assert corners(512, 512, 341) == [0]
    assert corners(700, 512, 341) == [0, 188]
    assert corners(1500, 512, 341) == [0, 341, 682, 988]
    assert corners(300, 512, 341) == [0]
    plan = Views("slide", 512, longest=2048).plan(np.array([[500, 375], [10, 100]]))
    assert [(view.image, view.size, view.left, view.top) for view in plan[:2]] == [
        (0, (683, 512), 0, 0),
        (0, (683, 512), 171, 0),
    ]
    assert plan[2].size == (205, 2048)  # the long side is the limit, as mmcv.imrescale has it


def test_resized_crops_are_mirrored_half_the_time_where_asked() -> None:
    sizes = np.array([[500, 375]] * 40)
    plain = Views("resized-crop", 32, scales=(0.8, 1.0), copies=5)
    mirrored = Views("resized-crop", 32, scales=(0.8, 1.0), copies=5, mirrored=True)
    assert not any(view.flip for view in plain.plan(sizes))
    assert (
        70 < sum(view.flip for view in mirrored.plan(sizes)) < 130
    )  # of 200, within four standard deviations
    assert plain.identity() != mirrored.identity()
    assert "mirrored" not in plain.identity()  # what was stored stays
    assert all(0.79 < view.box[2] * view.box[3] / (500 * 375) <= 1 for view in mirrored.plan(sizes))


def test_a_side_times_a_scale_is_rounded_down_first() -> None:
    """640 times 1.32 is 844.8: mmseg resizes the short side to 844."""
    (view, *_) = Views("slide", 640, scales=(1.32,)).plan(np.array([[640, 480]]))
    assert view.size == (1125, 844)


def test_a_mirrored_slide_covers_the_mirrored_image() -> None:
    """Its squares of the mirrored image begin at 0, 21 and 28; in the image itself these are 28, 7 and 0."""
    plan = Views("slide", 32, stride=21 / 32, mirrored=True).plan(np.array([[60, 32], [32, 32]]))
    assert [(view.left, view.flip) for view in plan if view.image == 0] == [
        (0, False), (21, False), (28, False), (28, True), (7, True), (0, True)
    ]  # fmt: skip
    assert [view.left for view in plan if view.image == 1] == [0, 0]


def test_a_mask_is_cut_as_its_image_is() -> None:
    """A picture whose colours are its labels: what is seen of both agrees, wherever they are cut and mirrored."""
    grid = np.zeros((40, 60), dtype=np.int16)
    grid[:, 30:] = 1
    grid[20:, :15] = 2
    picture = Image.fromarray((grid[..., None] * 100).repeat(3, 2).astype(np.uint8))
    for views in (
        Views("slide", 40, mirrored=True),
        Views("random", 40, scales=(1.0, 2.0), copies=5),
        Views("resized-crop", 40, scales=(0.5, 1.0), copies=5),
        Views("squash", 40),
    ):
        for view in views.plan(np.array([[60, 40]])):
            pixels = view.pixels(picture, 40, "bilinear", (0, 0, 0))[..., 0].astype(int)
            labels = view.labels(grid, 40, 9)
            assert (abs(pixels - 100 * labels) < 50).mean() > 0.93
            assert labels.max() <= 2


def test_what_lies_beyond_the_edge_is_padded() -> None:
    (view,) = Views("random", 32, scales=(0.5,), copies=1).plan(np.array([[64, 64]]))
    assert view.size == (16, 16)
    labels = view.labels(np.ones((64, 64), dtype=np.int16), 32, 255)
    assert (labels == 1).sum() == 16 * 16
    assert (labels == 255).sum() == 32 * 32 - 16 * 16
    pixels = view.pixels(Image.new("RGB", (64, 64), (1, 1, 1)), 32, "bilinear", (7, 8, 9))
    assert {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()} == {(1, 1, 1), (7, 8, 9)}


def test_random_views_are_those_of_their_seed() -> None:
    sizes = np.array([[64, 48]] * 3)
    first = Views("random", 32, scales=(0.5, 2.0), copies=4, seed=1)
    assert first.plan(sizes) == first.plan(sizes)
    assert first.plan(sizes) != replace(first, seed=2).plan(sizes)
    assert first.identity() != replace(first, seed=2).identity()
    assert Views("squash", 32, seed=1).identity() == Views("squash", 32, seed=2).identity()


@pytest.fixture
def loaded() -> checkpoints.Loaded:
    return checkpoints.load("random:resnet10-c8-half")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    paths = []
    for index in range(5):
        path = tmp_path / f"images/{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return Pool("five", tuple(paths), tmp_path)


def extract(
    loaded: checkpoints.Loaded, pool: Pool, store: Path, layers: maps.Layers = "last", **options: object
) -> maps.Maps:
    given = {"most_gb": 1.0, "workers": 0, "batch_size": 2} | options
    sizes = np.array([[50, 40]] * len(pool))
    views = Views("slide", 32)
    preprocess = Preprocess.of(loaded.passport, image_size=32)
    return maps.extract(
        loaded.backbone, loaded.passport, pool, sizes, views, preprocess, layers, store=store, **given
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", ["last", "res4", "last4"])
def test_stored_maps_are_the_backbones(
    loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path, layers: maps.Layers
) -> None:
    found = extract(loaded, pool, tmp_path / "store", layers)
    preprocess = Preprocess.of(loaded.passport, image_size=32)
    for row in (len(found) - 1, 0):
        view = found.views[row]
        square = view.pixels(pool.read(view.image), 32, preprocess.interpolation, (0, 0, 0))
        with torch.inference_mode():
            images = preprocess.normalise(torch.from_numpy(square[None].copy()))
            own = loaded.backbone.feature_maps(images)
        expected = own["res5" if layers == "last" else "res4"]
        read = found.read([row])
        if layers == "last4":
            assert read.shape[1:] == (sum(part.shape[1] for part in own.values()), *own["res3"].shape[2:])
            start = own["res2"].shape[1]
            expected, read = own["res3"], read[:, start : start + own["res3"].shape[1]]
        assert torch.equal(read, expected.to(torch.bfloat16).float())
    rows = [3, 0, 3]
    assert torch.equal(found.read(rows)[1:2], found.read([0]))


def test_a_second_call_reads_and_another_size_does_not(
    loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(loaded, pool, tmp_path / "store")
    monkeypatch.setattr(maps, "dense", lambda *arguments: pytest.fail("the store has them"))
    again = extract(loaded, pool, tmp_path / "store")
    assert again.entry.key == first.entry.key
    monkeypatch.undo()
    assert extract(loaded, pool, tmp_path / "store", "res4").entry.key != first.entry.key


def test_an_interrupted_extraction_goes_on_and_a_damaged_shard_is_made_again(
    loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "SHARD", 1)  # a shard a batch
    whole = extract(loaded, pool, tmp_path / "whole")
    done: list[int] = []

    def stop(what: str, rows: int, total: int) -> None:
        if rows >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(loaded, pool, tmp_path / "store", progress=stop)
    found = extract(loaded, pool, tmp_path / "store", progress=lambda what, rows, total: done.append(rows))
    assert done[0] > 2  # what was there is not made again
    assert found.entry.data.read_bytes() == whole.entry.data.read_bytes()
    content = bytearray(found.entry.data.read_bytes())
    content[len(content) // 2] ^= 1
    found.entry.data.write_bytes(content)
    os.utime(found.entry.data, ns=(0, 1))
    again = extract(loaded, pool, tmp_path / "store")
    assert again.entry.data.read_bytes() == whole.entry.data.read_bytes()


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from eval.features import maps
from eval.features.store import Entry
maps.SHARD = 1
entry = Entry(Path(sys.argv[1]), {"layer": "made up"}, 100, "<u2")
def batched(batch, first):
    time.sleep(0.02)
    return batch
with entry.lock():
    one = lambda row: np.full((2, 2, 3), row, np.uint16)
    maps.fill_entry(entry, one, batched, 4, 0, lambda done: print(done, flush=True))
"""


def test_a_killed_extraction_leaves_what_it_finished(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 20:
            time.sleep(0)
        process.send_signal(signal.SIGKILL)
    entry = Entry(tmp_path, {"layer": "made up"}, 100, "<u2")
    assert not entry.whole()
    assert 16 <= entry.finished() < 100
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert entry.whole()
    rows = maps.rows_of(entry, [99, 5])
    assert rows[:, 0, 0, 0].tolist() == [99, 5]


def test_the_size_is_told_before_anything_is_written(
    loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 10 views of 2 x 2 cells (32 px at stride 16) of 64 channels: 10 * 4 * 64 * 2 bytes.
    need = 10 * 4 * 64 * 2
    told: list[str] = []
    with pytest.raises(UserError, match="10 rows of 2 x 2 x 64 in bfloat16 take"):
        extract(loaded, pool, tmp_path / "store", most_gb=(need - 1) / 1e9)
    assert not list((tmp_path / "store").rglob("features.bin"))
    monkeypatch.setattr(maps.shutil, "disk_usage", lambda path: _Free(need))
    with pytest.raises(UserError, match="the disk has"):
        extract(loaded, pool, tmp_path / "store")
    monkeypatch.undo()
    found = extract(
        loaded,
        pool,
        tmp_path / "store",
        progress=lambda what, done, total: told.append(what),
        most_gb=need / 1e9,
    )
    assert found.entry.data.stat().st_size == need
    assert told[0] == "maps of five, 0.00 GB"


class _Free:
    def __init__(self, free: int) -> None:
        self.free = free


def test_maps_that_are_not_finite_are_refused(loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path) -> None:
    with torch.no_grad():
        next(iter(loaded.backbone.parameters())).fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        extract(loaded, pool, tmp_path / "store")


def test_masks_are_stored_once_with_the_ignored_value_last(tmp_path: Path) -> None:
    mask = np.zeros((40, 50), dtype=np.int16)
    mask[:, 25:] = 1
    mask[:5] = -1
    views = Views("squash", 32)
    plan = views.plan(np.array([[50, 40]]))
    reads: list[int] = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return mask

    for _ in range(2):
        entry = maps.labels(views, plan, read, {"masks": "a"}, 2, 16, store=tmp_path)
    assert reads == [0]
    row = maps.rows_of(entry, [0])[0]
    assert row.shape == (16, 16)
    assert row.dtype == np.uint8
    assert (row[:2] == 255).all()
    assert (row[2:, :8] == 0).all()
    assert (row[2:, 8:] == 1).all()
    many = maps.labels(views, plan, read, {"masks": "a"}, 300, 16, store=tmp_path / "many")
    assert maps.rows_of(many, [0])[0, 0, 0] == 65535


def test_maps_in_use_outlive_their_eviction(loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path) -> None:
    found = extract(loaded, pool, tmp_path / "store")
    before = found.read([3])
    assert evict(tmp_path / "store", 0) > 0
    assert not found.entry.data.exists()
    assert torch.equal(found.read([3]), before)
    again = extract(loaded, pool, tmp_path / "store")
    assert torch.equal(again.read([3]), before)


def test_a_file_that_was_cut_short_is_told(loaded: checkpoints.Loaded, pool: Pool, tmp_path: Path) -> None:
    found = extract(loaded, pool, tmp_path / "store")
    found.read([0])
    os.truncate(found.entry.data, 10)
    with pytest.raises(UserError, match="ends before row 9"):
        found.read([9])
