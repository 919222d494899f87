"""Depth files as they lie on disk: millimetres, what counts, or one clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.datasets.depth import NYU_TEST, UNKNOWN, load
from eval.doctor.data import verify
from eval.errors import UserError


def picture(path: Path, size: tuple[int, int] = (20, 16), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def distances(
    path: Path, size: tuple[int, int] = (20, 16), value: int = 1500, kind: type = np.uint16
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0]), value, dtype=kind)
    array[0] = 0
    Image.fromarray(array).save(path)


def own(folder: Path) -> Path:
    for seed, name in enumerate(("train/a", "test/b")):
        picture(folder / f"images/{name}.jpg", seed=seed)
        distances(folder / f"depth/{name}.png")
    return folder


def test_own_folders_hold_millimetres_and_zero_is_unknown(tmp_path: Path) -> None:
    folder = own(tmp_path / "mine")
    data = load("mine", tmp_path)
    found = data.splits["test"].read(0)
    assert (found[0] == UNKNOWN).all()
    assert (found[1:] == 1500).all()
    assert data.counts == {"train": 1, "test": 1}
    placed = load(f"depth:{folder}", Path())
    assert placed.manifest == data.manifest
    distances(folder / "depth/test/b.png", value=1501)
    assert load("mine", tmp_path).manifest != data.manifest


def test_nyu_counts_within_eigens_crop_and_skips_frames_without_depth(tmp_path: Path) -> None:
    for name in ("train", "test"):
        picture(tmp_path / f"nyu/{name}/rgb.jpg", (640, 480), seed=len(name))
        distances(tmp_path / f"nyu/{name}/depth.png", (640, 480), 9000)
        lines = [f"/{name}/rgb.jpg /{name}/depth.png 518.8579", f"/{name}/rgb2.jpg None 518.8579"]
        (tmp_path / f"nyu/nyu_{name}.txt").write_text("\n".join(lines))
    data = load("nyu", tmp_path)
    assert data.counts == {"train": 1, "test": 1}
    found = data.splits["test"].read(0)
    top, bottom, left, right = NYU_TEST
    assert (found[top:bottom, left:right] == 9000).all()
    assert (found != UNKNOWN).sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "depth/test/b.png").unlink(), "b.png is missing"),
        (lambda folder: distances(folder / "depth/test/b.png", (20, 17)), "is 20 x 16, and"),
        (lambda folder: distances(folder / "depth/test/b.png", value=5, kind=np.uint8), "a depth of mode L"),
        (lambda folder: (folder / "images/test/b.jpg").unlink(), "no pictures of test"),
        (
            lambda folder: picture(folder / "images/test/b.jpg", seed=0),
            "in the test split and in the training",
        ),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = own(tmp_path / "mine")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load("mine", tmp_path).splits["test"].read(0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_odd_is_told(tmp_path: Path) -> None:
    folder = own(tmp_path / "mine")
    assert load("mine", tmp_path).warnings == ()
    distances(folder / "depth/test/b.png", value=0)
    assert load("mine", tmp_path).warnings == (
        f"mine: 1 depths of test hold no pixel that counts (such as {folder}/images/test/b.jpg)",
    )
    for name in ("train/a", "test/b"):
        distances(folder / f"depth/{name}.png", value=3)
    (told,) = load("mine", tmp_path).warnings
    assert told == "mine: nothing looked at is farther than 3 mm: depths are read as millimetres"
    own(tmp_path / "mine")
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.open(folder / "images/train/a.jpg").save(folder / "images/train/a.jpg", exif=turned)
    (told,) = load("mine", tmp_path).warnings
    assert told.startswith("mine train: 1 of 1 images carry an orientation tag")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_depth_is_found_before_anything_is_trained(tmp_path: Path, content: bytes) -> None:
    folder = own(tmp_path / "mine")
    (folder / "depth/train/a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"train/a\.png"):
        load("mine", tmp_path)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean nyu"):
        load("nyuu", tmp_path)
    with pytest.raises(UserError, match=r"nyu_train.txt is missing"):
        load("nyu", tmp_path)


def test_verify_decodes_all(tmp_path: Path) -> None:
    folder = own(tmp_path / "mine")
    assert verify(f"depth:{folder}", Path())["ok"]
    distances(folder / "depth/train/a.png", value=5, kind=np.uint8)
    (problem,) = verify(f"depth:{folder}", Path())["problems"]
    assert "a depth of mode L" in problem
    (problem,) = verify("nyu", tmp_path)["problems"]
    assert "nyu_train.txt" in problem
