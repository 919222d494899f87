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
from mast.data import Bank, Stream, load, on_device
from mast.errors import UserError
from mast.shards import list_shards
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
    params = files.crop.draw(np.random.default_rng(0).random((1, files.crop.num_uniforms)))[0]
    for index in (0, 30):
        image = files.files.open(index)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        got = files.crop.cut(image, params)
        box = torch.from_numpy(files.crop.fit(params[None], *pixels.shape[2:]))
        want = files.crop.apply(pixels, box)[0] * 255
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


# -- folders and shards as people have them --------------------------------------------------------------------


def shard(path, members):
    """A tar with members of given names and contents, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path.parent


@pytest.mark.parametrize(
    "form",
    [
        "{0:03}.{1}",
        "./{0}.{1}",
        "train.v1/{0}.{1}",
        "./a.b/c.d/{0}.{1}",
        "{0}.x.{1}",
        "a/{0}.{1}",
        "/x.y/{0}.{1}",
    ],
)
def test_a_label_belongs_to_the_image_of_its_key(tmp_path, form):
    labels = [3, 0, 7, 3]
    members = []
    for index, label in enumerate(labels):
        members += [
            (form.format(index, "jpg"), b"image"),
            (form.format(index, "cls").replace(".x", ""), str(label).encode()),
        ]
    files = list_shards(shard(tmp_path / "0.tar", members), progress=False)
    assert [files.classes[label] for label in files.labels] == list(map(str, labels))
    assert files.classes == ("0", "3", "7")


def test_shards_without_labels_are_read_and_their_probe_is_off(tmp_path):
    files = list_shards(
        shard(tmp_path / "0.tar", [("a.png", b"x"), ("b.png", b"y"), ("._a.png", b"z")]), progress=False
    )
    assert files.classes == ("unlabelled",)
    assert [files.read(index) for index in range(len(files.labels))] == [b"x", b"y"]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a.jpg", b"x"), ("a.cls", b"-1")], r"0\.tar:a\.cls: b'-1' is no class number"),
        ([("a.jpg", b"x"), ("a.cls", b"cat")], "no class number"),
        ([("a.jpg", b"x"), ("a.cls", b"")], "no class number"),
        ([("a.jpg", b"x"), ("a.cls", b"1.5")], "no class number"),
        ([("a.jpg", b"x"), ("a.cls", b"9" * 5000)], "no class number"),
        ([("a.jpg", b"x"), ("a.cls", b"1"), ("b.jpg", b"y")], r"b\.jpg: has no \.cls"),
        ([("a.jpg", b"x"), ("a.jpg", b"y")], r"a\.jpg: a second image of one key"),
        ([("a.jpg", b"x"), ("a.png", b"y"), ("a.cls", b"1")], r"a\.png: a second image of one key"),
        ([("a.jpg", b"x"), ("a.seg.png", b"y")], r"a\.seg\.png: a second image of one key"),
        ([("./a.jpg", b"x"), ("a.jpg", b"y")], r":a\.jpg: a second image of one key"),
        ([("a//b.jpg", b"x"), ("a/b.jpg", b"y")], r"a/b\.jpg: a second image of one key"),
        ([("a.jpg", b"x"), ("a.cls", b"1"), ("a.cls", b"2")], r"a\.cls: a second label of one key"),
        ([("a.jpg", b"x"), ("a.cls", b"1"), ("b.cls", b"2")], "label of b has no image in its shard"),
        ([("a.jpg", b"x"), ("b.cls", b"2")], "label of b has no image in its shard"),
        ([("a.jpg", b"")], r"a\.jpg: is empty"),
    ],
)
def test_what_a_shard_gets_wrong_is_told_with_its_member(tmp_path, members, told):
    with pytest.raises(UserError, match=told):
        list_shards(shard(tmp_path / "0.tar", members), progress=False)


def test_a_damaged_head_is_not_the_end(tmp_path):
    """tarfile stops without a word at a head that it cannot read; no image may get lost so."""
    members = [(f"{index}.jpg", bytes([index]) * (300 * index)) for index in range(1, 7)]
    content = (shard(tmp_path / "0.tar", members) / "0.tar").read_bytes()
    heads = [0]
    for _, image in members[:-1]:
        heads.append(heads[-1] + 512 + -(-len(image) // 512) * 512)
    rng = np.random.default_rng(0)
    for head in heads[1:]:
        for damage in (bytes(512), b"G" * 512, rng.bytes(512)):
            (tmp_path / "0.tar").write_bytes(content[:head] + damage + content[head + 512 :])
            with pytest.raises(UserError, match=r"0\.tar: damaged"):
                list_shards(tmp_path, progress=False)
        (tmp_path / "0.tar").write_bytes(content[:head])  # without the zeros at the end, but whole members
        assert len(list_shards(tmp_path, progress=False).names) == heads.index(head)
    (tmp_path / "0.tar").write_bytes(content + content)
    with pytest.raises(UserError, match="several archives in one file"):
        list_shards(tmp_path, progress=False)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("name", ["1.tar", "1.tar.gz", "1.TGZ"])
def test_compressed_shards_are_not_left_out(tmp_path, mode, name):
    shard(tmp_path / "0.tar", [("a.jpg", b"x")])
    with tarfile.open(tmp_path / name, mode) as archive:
        archive.addfile(tarfile.TarInfo("b.jpg"))
    with pytest.raises(UserError, match=rf"{name}: is compressed.*unpack it"):
        list_shards(tmp_path, progress=False)


def test_shards_of_odd_names(tmp_path):
    shard(tmp_path / "0.TAR", [("a.jpg", b"x")])
    (tmp_path / "._0.tar").write_bytes(b"what macOS keeps beside it")
    (tmp_path / "dir.tar").mkdir()
    assert list_shards(tmp_path, progress=False).names == (f"{tmp_path}/0.TAR:a.jpg",)


def test_a_huge_class_number_costs_no_memory(tmp_path):
    members = [("a.jpg", b"x"), ("a.cls", b"1000000000000"), ("b.jpg", b"x"), ("b.cls", b"5")]
    files = list_shards(shard(tmp_path / "0.tar", members), progress=False)
    assert (files.classes, files.labels.tolist()) == (("5", "1000000000000"), [1, 0])


def test_links_and_cut_shards_are_told(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match=r"a\.jpg: is a link"):
        list_shards(tmp_path, progress=False)
    shard(tmp_path / "0.tar", [("a.jpg", b"x" * 5000)])
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[:2000])
    with pytest.raises(UserError, match=r"0\.tar.*(cut short|damaged)"):
        list_shards(tmp_path, progress=False)


def test_a_run_from_a_folder_of_unlabelled_images_is_the_labelled_one(tmp_path, data_root, small, capsys):
    """The same images in the same order, flat, give the same weights; only the probe is off."""
    for path in sorted((data_root / "images").rglob("*.jpg")):
        place = tmp_path / "flat" / path.parent.name / "more" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    (tmp_path / "flat" / ".hidden").mkdir()
    (tmp_path / "flat" / "notes.txt").write_text("")
    states = []
    for form, folder, root in (("folders", "images", data_root), ("images", "flat", tmp_path)):
        recipe = small(f"data={{folder: {folder}, format: {form}, store_size: 20}}")
        pretrain(recipe, tmp_path / form, data_root=root, workers=1)
        states.append(torch.load(tmp_path / form / "state.pt", weights_only=True))
        assert ("no labels: the k-NN probe is off" in capsys.readouterr().err) == (form == "images")
    for name, value in states[0]["learner"].items():
        assert torch.equal(value, states[1]["learner"][name]), name
    assert ["knn" in state["history"][-1] for state in states] == [True, False]


def test_a_folder_of_the_wrong_form_says_which_is_right(tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 images beside the class folders.*data\.format=images"):
        load(Data(folder="flat", store_size=8), tmp_path, None, workers=0)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "1.heic").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no images below .*its files end in \.heic"):
        load(Data(folder="none", format="images", store_size=8), tmp_path, None, workers=0)
