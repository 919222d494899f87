"""Images become shards and come back the same, from a disk or an address, however often the writer was killed."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile

import fsspec
import numpy as np
import pytest

from eval.doctor.data import verify
from eval.doctor.encoded import shard
from mast import remote, shards
from mast.config import Data, load_recipe
from mast.data import list_files
from mast.errors import UserError, public
from mast.remote import Remote
from mast.sources import list_folders, list_images
from mast.train import pretrain


def written(data_root, out, per_shard=10):
    folder = data_root / "images"
    return shards.write(list_folders(folder), folder, out, per_shard=per_shard, progress=False)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def memory(data_root):
    """The images at ``memory://bucket/images``, their shards at ``memory://bucket/shards``."""
    system = fsspec.filesystem("memory")
    system.put(str(data_root / "images"), "/bucket/images", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


def test_shards_hold_the_bytes_of_the_files_in_their_order(tmp_path, data_root):
    manifest = written(data_root, tmp_path / "out")
    files, back = list_folders(data_root / "images"), shards.list_shards(tmp_path / "out", progress=False)
    assert [len(each.places) for each in manifest.shards] == [10, 10, 10, 10, 8]
    assert back.classes == files.classes == ("a", "b")
    assert back.names[30].endswith("out/000003.tar:b/14.jpg")
    np.testing.assert_array_equal(back.labels, files.labels)
    assert back.read.many(range(48)) == files.read.many(range(48))


def test_without_the_manifest_the_same_is_read(tmp_path, data_root):
    """So the manifest's places are those that tarfile finds, and other programs can read the shards."""
    written(data_root, tmp_path / "out")
    listed = shards.list_shards(tmp_path / "out", progress=False)
    (tmp_path / "out" / shards.MANIFEST).unlink()
    found = shards.list_shards(tmp_path / "out", progress=False)
    np.testing.assert_array_equal(found.read.places, listed.read.places)
    np.testing.assert_array_equal(found.labels, listed.labels)
    with tarfile.open(tmp_path / "out" / "000004.tar") as archive:
        assert archive.getnames()[:2] == ["000000040.jpg", "000000040.cls"]
        assert len(archive.getnames()) == 16


def test_a_writer_that_is_killed_goes_on_to_the_same_bytes(tmp_path, data_root):
    """Killed by SIGKILL in the middle of the third shard."""
    written(data_root, tmp_path / "whole")
    code = (
        "import os, signal, sys; from pathlib import Path; from mast import shards; from mast.sources import *\n"
        "folder, out = Path(sys.argv[1]), Path(sys.argv[2]); files = list_folders(folder); add = shards._add\n"
        "def dies(archive, name, content):\n"
        "    if name == '000000025.jpg': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(archive, name, content)\n"
        "shards._add = dies; shards.write(files, folder, out, per_shard=10, progress=False)\n"
    )
    command = [sys.executable, "-c", code, data_root / "images", tmp_path / "out"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["000000.tar", "000001.tar"]
    assert list((tmp_path / "out").glob(".000002.tar.*.tmp"))
    with pytest.raises(UserError, match=r"20 of 48 images are written .*run the same"):
        shards.list_shards(tmp_path / "out", progress=False)
    first = (tmp_path / "out" / "000000.tar").stat().st_mtime_ns
    with (tmp_path / "out" / shards.MANIFEST).open("a") as file:
        file.write('{"name": "000002.tar", "by')  # as a machine leaves it that loses its power
    written(data_root, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out" / "000000.tar").stat().st_mtime_ns == first, "a whole shard was written again"
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_progress_goes_on_where_it_was(tmp_path, data_root, capsys):
    written(data_root, tmp_path / "out")
    lines = (tmp_path / "out" / shards.MANIFEST).read_text().splitlines(keepends=True)
    (tmp_path / "out" / shards.MANIFEST).write_text("".join(lines[:4]))
    files = list_folders(data_root / "images")
    shards.write(files, data_root / "images", tmp_path / "out", per_shard=10)
    told = capsys.readouterr().err
    assert "going on after 30 of 48 images" in told
    assert "shard out: 48/48" in told


def test_a_folder_of_other_shards_is_left_alone(tmp_path, data_root):
    written(data_root, tmp_path / "out")
    with pytest.raises(UserError, match="other images or another --per-shard"):
        written(data_root, tmp_path / "out", per_shard=12)
    files = list_images(data_root / "images")
    with pytest.raises(UserError, match="other images or another --per-shard"):
        shards.write(files, data_root / "images", tmp_path / "out", per_shard=10, progress=False)
    (tmp_path / "out" / "000001.tar").write_bytes(b"short")
    with pytest.raises(UserError, match=r"000001\.tar: missing or changed"):
        written(data_root, tmp_path / "out")
    (tmp_path / "out" / shards.MANIFEST).unlink()
    with pytest.raises(UserError, match="5 tar files that no such call has written"):
        written(data_root, tmp_path / "out")


def test_a_changed_manifest_is_found(tmp_path, data_root):
    """Any value of any line: the images stay what they were, or one line says that the list is damaged."""
    written(data_root, tmp_path / "out")
    whole = shards.list_shards(tmp_path / "out", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "out" / shards.MANIFEST).read_text().splitlines()]
    odd = (None, -1, 0, 1, 2**40, 1.5, True, "", "x", "../x", [], {}, [[0, 1]], ["a"])
    refused = 0
    for number, line in enumerate(lines[:3]):
        for key, value in ((key, value) for key in line for value in odd if value != line[key]):
            changed = [*lines]
            changed[number] = {**line, key: value}
            (tmp_path / "out" / shards.MANIFEST).write_text("".join(json.dumps(x) + "\n" for x in changed))
            try:
                found = shards.list_shards(tmp_path / "out", progress=False)
            except UserError:
                refused += 1
            else:  # a hash, which `mast data verify` compares, or a word for the reader
                assert (key, found.names, found.labels.tolist()) == (
                    key if key in ("sha256", "schema_version", "per_shard") else "",
                    whole.names,
                    whole.labels.tolist(),
                )
    assert refused > 100


def test_two_writers_do_not_share_a_folder(tmp_path, data_root):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UserError, match="another `mast data shard`"):
        written(data_root, tmp_path / "out")


def test_a_file_that_is_no_image_ends_the_writing(tmp_path, data_root):
    shutil.copytree(data_root / "images", tmp_path / "images")
    (tmp_path / "images" / "b" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b/3\.jpg: cannot be decoded"):
        written(tmp_path, tmp_path / "out")
    (tmp_path / "images" / "b" / "3.jpg").write_bytes((data_root / "images" / "b" / "3.jpg").read_bytes())
    written(tmp_path, tmp_path / "out")
    assert verify(f"shards:{tmp_path / 'out'}", tmp_path)["ok"]


# -- mast data verify ------------------------------------------------------------------------------------------


def test_verify_finds_every_changed_byte_and_missing_shard(tmp_path, data_root):
    written(data_root, tmp_path / "out")
    name = f"shards:{tmp_path / 'out'}"
    found = verify(name, tmp_path)
    assert (found["ok"], found["counts"], found["classes"]) == (True, {"images": 48}, 2)
    assert found["against"] == ["shards.jsonl"]
    path = tmp_path / "out" / "000002.tar"
    content = bytearray(path.read_bytes())
    content[3] ^= 1  # of a member's name: every image can still be read
    path.write_bytes(content)
    assert verify(name, tmp_path)["problems"] == [f"{path}: its content has changed since it was written"]
    path.unlink()
    (tmp_path / "out" / "more.tar").write_bytes(b"")
    problems = verify(name, tmp_path)["problems"]
    assert problems == [f"{path}: missing", f"{tmp_path / 'out' / 'more.tar'}: not in shards.jsonl"]
    lines = (tmp_path / "out" / shards.MANIFEST).read_text().splitlines(keepends=True)
    (tmp_path / "out" / shards.MANIFEST).write_text("nonsense" + "".join(lines))
    with pytest.raises(UserError, match=r"shards\.jsonl: damaged"):
        verify(name, tmp_path)


def test_verify_decodes_every_image_of_a_shard(tmp_path, data_root):
    shutil.copytree(data_root / "images", tmp_path / "images")
    whole = (data_root / "images" / "a" / "7.jpg").read_bytes()
    (tmp_path / "images" / "a" / "7.jpg").write_bytes(whole[:-200])  # its head is whole
    written(tmp_path, tmp_path / "out")
    (problem,) = verify(f"shards:{tmp_path / 'out'}", tmp_path)["problems"]
    assert ".tar:a/7.jpg: cannot be decoded" in problem


# -- at an address ---------------------------------------------------------------------------------------------


def test_class_folders_and_images_at_an_address(memory, data_root, tmp_path):
    local, far = list_folders(data_root / "images"), list_folders(Remote("memory://bucket/images"))
    assert far.classes == local.classes
    np.testing.assert_array_equal(far.labels, local.labels)
    assert [name.removeprefix("memory://bucket") for name in far.names] == [
        name.removeprefix(str(data_root)) for name in local.names
    ]
    assert far.read.many(range(48)) == local.read.many(range(48))
    assert far.some(5).read(2) == local.some(5).read(2)
    memory.pipe("/bucket/images/.cache/x.jpg", b"")
    memory.pipe("/bucket/images/notes.txt", b"")
    assert len(list_images(Remote("memory://bucket/images")).names) == 48
    memory.pipe("/bucket/images/loose.jpg", b"")
    with pytest.raises(UserError, match="1 images beside the class folders of memory://bucket/images"):
        list_folders(Remote("memory://bucket/images"))
    with pytest.raises(UserError, match="memory://bucket/nowhere: is not there"):
        list_images(Remote("memory://bucket/nowhere"))


@pytest.mark.parametrize("indexed", [True, False])
def test_shards_at_an_address(memory, data_root, tmp_path, indexed):
    out = tmp_path / "out"
    found = shard("folders:memory://bucket/images", out, per_shard=10, progress=False)
    assert (found["images"], found["classes"], found["shards"]) == (48, 2, 5)
    written(data_root, tmp_path / "local")
    assert contents(out) == contents(tmp_path / "local"), "shards depend on where the images lay"
    if not indexed:
        (out / shards.MANIFEST).unlink()
    memory.put(str(out), "/bucket/shards", recursive=True)
    far = shards.list_shards(Remote("memory://bucket/shards"), progress=False)
    assert far.read.many(range(48)) == list_folders(data_root / "images").read.many(range(48))
    assert verify("shards:memory://bucket/shards", tmp_path)["ok"]
    memory.pipe("/bucket/shards/000001.tar", b"\0" * memory.size("/bucket/shards/000001.tar"))
    if indexed:
        assert verify("shards:memory://bucket/shards", tmp_path)["problems"] == [
            "memory://bucket/shards/000001.tar: its content has changed since it was written"
        ]


@pytest.mark.parametrize("form", ["file", "zip", "memory shards", "simplecache"])
def test_a_run_on_an_address_is_the_run_on_the_disk(form, memory, data_root, tmp_path, small):
    """Streamed by worker processes, which open connections of their own."""
    crop = "views.augmentations.crop.scale=[0.5, 1.0]"
    kind = "folders"
    if form == "file":
        address = f"file://{data_root}/images"
    elif form == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for path in (data_root / "images").rglob("*.jpg"):
                archive.write(path, f"train/{path.relative_to(data_root / 'images')}")
        address = f"zip://train::file://{tmp_path}/x.zip"
    elif form == "simplecache":
        address = "simplecache::memory://bucket/images"
    else:
        written(data_root, tmp_path / "out")
        memory.put(str(tmp_path / "out"), "/bucket/shards", recursive=True)
        address, kind = "memory://bucket/shards", "shards"
    logs = []
    for name, data in (("near", "folder: images"), ("far", f'folder: "{address}", format: {kind}')):
        recipe = small("epochs=2", crop, f"data={{{data}}}")
        pretrain(recipe, tmp_path / name, data_root=data_root, progress=False, workers=2)
        logs.append((tmp_path / name / "log.jsonl").read_text())
    assert logs[0] == logs[1]


def test_an_image_that_goes_missing_far_away_ends_the_run_with_its_name(memory, data_root, tmp_path, small):
    files = list_folders(Remote("memory://bucket/images"))
    memory.rm("/bucket/images/b/5.jpg")
    with pytest.raises(UserError, match=r"memory://bucket/images/b/5\.jpg: is not there"):
        [files.read(index) for index in range(48)]
    bad = files.read.many(range(48))
    assert sum(isinstance(content, UserError) for content in bad) == 1


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nosuch://bucket/x", "Protocol not known: nosuch"),
        ("file:///nowhere/at/all", "is not there"),
        ("zip://x::file:///nowhere.zip", "is not there"),
    ],
)
def test_addresses_that_cannot_be_read(address, told, tmp_path):
    with pytest.raises(UserError, match=told):
        list_files(Data(folder=address, format="images"), tmp_path)


def test_a_package_that_is_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r"s3://bucket/x: no package .*s3fs.*pip install \"mast-transfer\[remote\]\""
    ):
        list_files(Data(folder="s3://bucket/x"), tmp_path)
    remote._open.cache_clear()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match=r"pip install \"mast-transfer\[remote\]\""):
        list_files(Data(folder="memory://bucket/x"), tmp_path)


def test_no_password_reaches_a_recipe(tmp_path, data_root, small, capsys):
    secret = "s3://me:geheim@bucket/x"
    with pytest.raises(
        UserError, match=r"data\.folder: the address s3://bucket/x was given with a name"
    ) as told:
        list_files(Data(folder=secret), tmp_path)
    assert "geheim" not in str(told.value)
    recipe = load_recipe("demo", [f'data.folder="{secret}"'])
    with pytest.raises(UserError, match="a name, a password or a query"):
        pretrain(recipe, tmp_path / "out", data_root=data_root, progress=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="the address https://bucket/x was given with"):
        list_files(Data(folder="https://bucket/x?a=1"), tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "GET https://host/x?page=1&X-Amz-Signature=a/c%3D and",
            "GET https://host/x?page=1&X-Amz-Signature=... and",
        ),
        ("https://me:geheim@host/x and s3://geheim@b/y", "https://host/x and s3://b/y"),
        ("https:/me:geheim@host: no such folder", "https:/host: no such folder"),
        ("zip://train::https://me:geheim@host/x.zip", "zip://train::https://host/x.zip"),
        ("hf://timm/vit@main, random:resnet10@0, a@b.c", "hf://timm/vit@main, random:resnet10@0, a@b.c"),
        ("https://drive.example/uc?id=7#part", "https://drive.example/uc?id=7#part"),
    ],
)
def test_addresses_are_shown_without_secrets(text, shown):
    assert public(text) == shown


def test_a_data_root_cannot_be_an_address(tmp_path):
    from pathlib import Path

    with pytest.raises(UserError, match=r"write the whole address into the recipe"):
        list_files(Data(folder="train"), Path("s3://bucket"))


@pytest.mark.slow
def test_the_command_is_killed_again_and_again(tmp_path, data_root):
    """After every other shard; what comes out is what an undisturbed call writes."""
    written(data_root, tmp_path / "whole", per_shard=2)
    manifest = tmp_path / "out" / shards.MANIFEST
    command = [sys.executable, "-m", "eval.cli", "data", "shard", f"folders:{data_root / 'images'}"]
    command += ["--out", str(tmp_path / "out"), "--per-shard", "2"]
    codes = [1]
    while codes[-1] != 0:
        before = _lines(manifest)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if _lines(manifest) >= before + 3:
                    process.kill()
        codes.append(process.returncode)
        assert _lines(manifest) > before, "a call came no further"
    assert codes.count(-signal.SIGKILL) >= 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _lines(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0
