"""The feature store: exact preprocessing, one forward an image, resumption, sharing and damage."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from eval import datasets, features
from eval.checkpoints import Normalization, load
from eval.errors import UserError
from mast.files import canonical_json


@dataclass
class FakePassport:
    weights_sha256: str = "a" * 64
    normalization: Normalization = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))  # noqa: RUF009 - frozen
    input_size: int = 16
    interpolation: str = "bicubic"
    network: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"


class TinyBackbone(nn.Module):
    """A fixed convolution; counts the images it sees and may stop after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator))
            self.conv.bias.zero_()  # type: ignore[union-attr]
        self.seen = 0
        self.stop_after = stop_after

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        if self.stop_after is not None and self.seen >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        return {"res2": self.conv(images), "res5": self.conv(images).relu()}

    def features(self, images: Tensor) -> Tensor:
        return self.feature_maps(images)["res5"].mean((2, 3))


@pytest.fixture
def split(tmp_path: Path) -> datasets.Split:
    generator = np.random.default_rng(0)
    paths = []
    for index in range(23):
        path = tmp_path / "images" / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        shape = (20 + index % 3, 24 - index % 2, 3)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
        paths.append(path)
    return datasets.Split("train", tuple(paths), np.arange(23) % 2)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "crop"), [((37, 53), 16), ((53, 37), 16), ((16, 16), 16), ((41, 40), 13)])
def test_preprocessing_is_torchvisions_to_the_bit(
    size: tuple[int, int], crop: int, interpolation: str
) -> None:
    array = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    passport = FakePassport(interpolation=interpolation)
    ours = features.Preprocess.of(passport, image_size=crop, resize=16)
    mode = transforms.InterpolationMode(interpolation)
    norm = passport.normalization
    reference = transforms.Compose(
        [transforms.Resize(16, mode), transforms.CenterCrop(crop), transforms.ToTensor(),
         transforms.Normalize(norm.mean, norm.std)]
    )(image)  # fmt: skip
    found = ours.normalise(torch.from_numpy(ours.image(image)[None].copy()))[0]
    assert torch.equal(found, reference)


def test_range_and_channel_order_come_from_the_passport() -> None:
    passport = FakePassport()
    passport.normalization = Normalization((103.5, 116.3, 123.7), (1, 1, 1), "0..255", "BGR")
    pixel = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    found = features.Preprocess.of(passport, image_size=1).normalise(pixel)[0, :, 0, 0]
    # BGR: the first channel is blue, 30, less the first mean.
    assert torch.allclose(found, torch.tensor([30 - 103.5, 20 - 116.3, 10 - 123.7]))


def test_each_image_is_forwarded_once(split: datasets.Split, tmp_path: Path) -> None:
    backbone = TinyBackbone()
    first = features.extract(backbone, FakePassport(), split, store=tmp_path / "s", batch_size=4)
    assert first.shape == (23, 5)
    assert backbone.seen == 23
    assert isinstance(first, np.memmap)
    part = features.extract(backbone, FakePassport(), split.subset(np.array([5, 2])), store=tmp_path / "s")
    assert backbone.seen == 23
    assert np.array_equal(part, first[[5, 2]])
    # The values are those of a plain loop over single images.
    prep = features.Preprocess.of(FakePassport())
    with torch.inference_mode():
        for index in (0, 22):
            pixels = torch.from_numpy(prep.image(datasets.decode(split.paths[index]))[None].copy())
            plain = backbone.features(prep.normalise(pixels))[0].numpy()
            np.testing.assert_allclose(first[index], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p, "weights_sha256", "b" * 64),
        lambda p: setattr(p, "interpolation", "bilinear"),
        lambda p: setattr(p, "input_size", 12),
        lambda p: p.network.update(heads=12),
        lambda p: setattr(p, "precision", "bfloat16"),
        lambda p: setattr(p, "normalization", Normalization((0.0, 0.0, 0.0))),
    ],
)
def test_another_checkpoint_or_preprocessing_is_extracted_anew(
    split: datasets.Split, tmp_path: Path, change: Any
) -> None:
    backbone = TinyBackbone()
    passport = FakePassport()
    features.extract(backbone, passport, split, store=tmp_path / "s")
    change(passport)
    features.extract(backbone, passport, split, store=tmp_path / "s")
    assert backbone.seen == 46


def test_several_features_come_from_one_forward(split: datasets.Split, tmp_path: Path) -> None:
    """Those asked for together are stored as each alone would be, bit for bit; nothing is forwarded again."""
    ref, wanted, forwards = "random:vit_w64_patch16_d4", ["cls", "mean", "cls+mean", "last4"], []
    alone = {}
    for choice in wanted:
        loaded = load(ref, features=choice, input_size=32)
        alone[choice] = features.extract(loaded.backbone, loaded.passport, split, store=tmp_path / "alone")
    for choice in wanted:
        loaded = load(ref, features=choice, input_size=32, together=wanted)
        loaded.backbone.network.norm.register_forward_hook(lambda *_: forwards.append(1))
        found = features.extract(
            loaded.backbone, loaded.passport, split, store=tmp_path / "s", together=loaded.together
        )
        assert np.array_equal(found, alone[choice])
        assert len(forwards) == 4  # of the first: its four blocks, and no other image
    keys = [
        {path.parent.name for path in (tmp_path / name).glob("*/*/features.bin")} for name in ("alone", "s")
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 4


def test_a_changed_image_is_extracted_anew(split: datasets.Split, tmp_path: Path) -> None:
    backbone = TinyBackbone()
    first = np.array(features.extract(backbone, FakePassport(), split, store=tmp_path / "s"))
    Image.new("RGB", (20, 24), (1, 2, 3)).save(split.paths[3])
    again = features.extract(
        backbone, FakePassport(), datasets.Split("train", split.paths, split.labels), store=tmp_path / "s"
    )
    assert backbone.seen == 46
    assert (first != again).any(1).tolist() == [index == 3 for index in range(23)]


def test_interrupted_extraction_goes_on(
    split: datasets.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.features.extraction.SHARD", 8)
    broken = TinyBackbone(stop_after=20)
    with pytest.raises(KeyboardInterrupt):
        features.extract(broken, FakePassport(), split, store=tmp_path / "s", batch_size=4)
    rest = TinyBackbone()
    found = features.extract(rest, FakePassport(), split, store=tmp_path / "s", batch_size=4)
    assert rest.seen == 23 - 16  # two shards of eight were on disk
    whole = features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "t", batch_size=4)
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("damage", ["flip", "truncate", "header", "list"])
def test_a_damaged_shard_is_found_and_extracted_again(
    split: datasets.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr("eval.features.extraction.SHARD", 8)
    monkeypatch.setattr("eval.features.store._verified", {})
    good = np.array(
        features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s", batch_size=8)
    )
    monkeypatch.setattr("eval.features.store._verified", {})  # as a new process would start
    (data,) = (tmp_path / "s").rglob("features.bin")
    content = bytearray(data.read_bytes())
    if damage == "flip":
        content[9 * 5 * 4] ^= 1  # in the second shard
        data.write_bytes(content)
    elif damage == "truncate":
        data.write_bytes(content[:-7])
    elif damage == "header":
        (data.parent / "meta.json").write_text("{")
    else:
        shards = data.parent / "shards.jsonl"
        shards.write_text(shards.read_text()[:-5])
    backbone = TinyBackbone()
    found = features.extract(backbone, FakePassport(), split, store=tmp_path / "s", batch_size=8)
    assert np.array_equal(found, good)
    assert backbone.seen == {"flip": 15, "truncate": 7, "header": 23, "list": 7}[damage]


def test_the_key_of_an_entry_stays_what_it_was(split: datasets.Split, tmp_path: Path) -> None:
    """Features that earlier versions extracted are found again: the key is over these bytes and no others."""
    features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s")
    (meta,) = (tmp_path / "s").rglob("meta.json")
    preprocess = {
        "resize": 16, "crop": 16, "interpolation": "bicubic", "squash": False,
        "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1], "scale": "0..1", "channels": "RGB",
    }  # fmt: skip
    identity = {
        "format": 1, "weights": "a" * 64, "preprocess": preprocess, "images": split.pool.digest,
        "layer": "features", "dtype": "float32",
    }  # fmt: skip
    assert json.loads(meta.read_text()) == {**identity, "dim": 5, "rows": 23}
    assert meta.parent.name == hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:40]


def test_bfloat16_is_close_and_kept_apart(split: datasets.Split, tmp_path: Path) -> None:
    full = features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s")
    half = features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s", dtype="bfloat16")
    # bfloat16 keeps 8 bits: relative error about 2^-8 on each of the sums.
    np.testing.assert_allclose(half, full, rtol=0.05, atol=0.05)
    assert not np.array_equal(half, full)


def test_errors_name_the_image(split: datasets.Split, tmp_path: Path) -> None:
    split.paths[4].write_bytes(b"broken")
    with pytest.raises(UserError, match=r"04\.png.*replace or delete"):
        features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s")
    backbone = TinyBackbone()
    with torch.no_grad():
        backbone.conv.weight.fill_(float("nan"))
    good = datasets.Split("train", split.paths[:3], split.labels[:3])
    with pytest.raises(UserError, match=r"00\.png.*not finite"):
        features.extract(backbone, FakePassport(), good, store=tmp_path / "t")


def test_a_store_that_is_a_file_is_refused(split: datasets.Split, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        features.extract(TinyBackbone(), FakePassport(), split, store=tmp_path / "s")


def _worker(split: datasets.Split, store: Path, queue: Any) -> None:
    torch.set_num_threads(1)
    backbone = TinyBackbone()
    queue.put("ready")
    found = features.extract(backbone, FakePassport(), split, store=store, batch_size=2)
    queue.put((backbone.seen, float(found.sum())))


def test_two_processes_share_one_extraction(split: datasets.Split, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=_worker, args=(split, tmp_path / "s", queue))
    worker.start()
    assert queue.get(timeout=300) == "ready"
    backbone = TinyBackbone()
    here = features.extract(backbone, FakePassport(), split, store=tmp_path / "s", batch_size=2)
    seen, total = queue.get(timeout=300)
    worker.join()
    assert sorted((seen, backbone.seen)) == [0, 23]
    assert total == float(here.sum())
