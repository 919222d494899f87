"""Every source gives the images that were written, in the order asked for."""

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torchvision

from mast.augment import Crop
from mast.config import Data
from mast.data import Bank, Stream, list_shards, load, on_device
from mast.errors import UserError
from mast.train import pretrain

STREAM = ["data={folder: images}", "views.augmentations.crop.scale=[0.5, 1.0]"]


def _shards(data_root, out, compressed_label=True):
    """The images of ``data_root`` as webdataset lays them out, 20 a shard."""
    paths = sorted((data_root / "images").rglob("*.jpg"))
    out.mkdir(parents=True)
    for start in range(0, len(paths), 20):
        with tarfile.open(out / f"{start:06d}.tar", "w") as archive:
            for path in paths[start : start + 20]:
                key = f"{path.parent.name}-{path.stem}"
                for name, content in (
                    (f"{key}.jpg", path.read_bytes()),
                    (f"{key}.cls", b"0" if path.parent.name == "a" else b"1"),
                ):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return paths


def test_shards_hold_what_was_put_in(tmp_path, data_root):
    paths = _shards(data_root, tmp_path / "shards")
    files = list_shards(tmp_path / "shards", progress=False)
    assert files.classes == ("0", "1")
    for index, path in enumerate(paths):
        assert files.read(index) == path.read_bytes()
        assert files.labels[index] == (path.parent.name == "b")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_from_shards_is_a_run_from_folders(tmp_path, data_root, small, workers):
    """The same images in the same order give the same bits, however many workers decode them."""
    _shards(data_root, tmp_path / "shards")
    runs = {"folders": ("images", data_root, 1), "shards": ("shards", tmp_path, workers)}
    logs = []
    for form, (folder, root, count) in runs.items():
        recipe = small("epochs=2", *STREAM[1:], f"data={{folder: {folder}, format: {form}}}")
        out = tmp_path / "out" / form
        pretrain(recipe, out, data_root=root, progress=False, workers=count)
        logs.append((out / "log.jsonl").read_text())
    assert logs[0] == logs[1]


def test_a_stream_cuts_what_the_bank_crops(data_root):
    """Pillow rounds to bytes and clips after each of its two passes, the cubic overshoots: three grey levels."""
    files = load(Data(folder="images"), data_root, Crop(16), workers=0)
    assert isinstance(files, Stream)
    params = np.array([0.1, 0.2, 0.5, 0.7])
    for index in (0, 30):
        image = files.files.open(index)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        got = files.crop.cut(image, params)
        want = files.crop.apply(pixels, torch.from_numpy(params)[None])[0] * 255
        assert np.abs(got - want.numpy()).max() <= 3
        assert np.abs(got - want.numpy()).mean() <= 0.5


def test_a_stream_stopped_anywhere_goes_on_the_same(tmp_path, data_root, small, monkeypatch):
    import mast.train

    recipe = small("save_minutes=0", "epochs=2", *STREAM, mast=True)
    pretrain(recipe, tmp_path / "whole", data_root=data_root, progress=False, workers=1)
    real = mast.train.learning_rate

    def stops(step, *rest):
        if step == 4:
            raise KeyboardInterrupt
        return real(step, *rest)

    monkeypatch.setattr(mast.train, "learning_rate", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "parts", data_root=data_root, progress=False, workers=1)
    monkeypatch.undo()
    pretrain(recipe, tmp_path / "parts", data_root=data_root, progress=False, workers=2)
    states = [torch.load(tmp_path / n / "state.pt", weights_only=True)["learner"] for n in ("whole", "parts")]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_in_a_stream_is_named(tmp_path, data_root, small, workers):
    (tmp_path / "images" / "a").mkdir(parents=True)
    source = next((data_root / "images" / "a").glob("*.jpg")).read_bytes()
    for index in range(20):
        (tmp_path / "images" / "a" / f"{index}.jpg").write_bytes(source[: 200 if index == 7 else None])
    with pytest.raises(UserError, match=r"7\.jpg: cannot be decoded") as caught:
        pretrain(small(*STREAM), tmp_path / "out", data_root=tmp_path, progress=False, workers=workers)
    assert "Traceback" not in str(caught.value)


def test_missing_and_damaged_shards(tmp_path):
    with pytest.raises(UserError, match="no tar shards"):
        list_shards(tmp_path, progress=False)
    (tmp_path / "0.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError, match=r"0\.tar: damaged"):
        list_shards(tmp_path, progress=False)
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(UserError, match="no images in the tar shards"):
        list_shards(tmp_path, progress=False)


def test_stl10_is_read_columns_first(tmp_path):
    folder = tmp_path / "stl10" / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 3, 96, 96), dtype=np.uint8)
    images.transpose(0, 1, 3, 2)[:2].tofile(folder / "train_X.bin")
    images.transpose(0, 1, 3, 2)[2:].tofile(folder / "unlabeled_X.bin")
    bank = load(Data(folder="stl10", format="stl10"), tmp_path, None, workers=1)
    np.testing.assert_array_equal(bank.images, images)
    ((_, batch),) = bank.feed([(np.array([4, 1]), None)])
    torch.testing.assert_close(
        on_device(batch, torch.device("cpu"), torch.float32),
        torch.from_numpy(images[[4, 1]]).float() / 255,
    )
    (folder / "train_X.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"train_X\.bin: 5 bytes, a multiple of 27648 expected"):
        load(Data(folder="stl10", format="stl10"), tmp_path, None, workers=1)


def test_cifar_is_read_by_torchvision(tmp_path, monkeypatch):
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    files = {
        "data_batch_1": {"data": images, "labels": [1, 0, 1, 1]},
        "batches.meta": {"label_names": ["x", "y"]},
    }
    sums = {}
    for name, content in files.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(kind, "test_list", [])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums["batches.meta"]})
    bank = load(Data(folder="cifar", format="cifar10"), tmp_path, None, workers=1)
    assert isinstance(bank, Bank)
    np.testing.assert_array_equal(bank.images, images.reshape(4, 3, 32, 32))
    assert bank.labels.tolist() == [1, 0, 1, 1]
    with pytest.raises(UserError, match="store_size is 64, images of cifar10 have 32 px"):
        load(Data(folder="cifar", format="cifar10", store_size=64), tmp_path, None, workers=1)
    (folder / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"CIFAR10: .*corrupted"):
        load(Data(folder="cifar", format="cifar10"), tmp_path, None, workers=1)
