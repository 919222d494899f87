"""Writing: the same bytes for the same seed, kept when complete, started over when interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval import scenes
from eval.errors import UserError
from eval.scenes import compose, layouts

SMALL = scenes.Size(
    {"train": 12, "val": 4, "test": 4}, {"train": 3, "val": 1, "test": 2}, {"train": 2, "val": 2}
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scenes.SIZES, "small", SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.usefixtures("small")
def test_one_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        scenes.write(tmp_path / name, seed=seed, size="small")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    hashes = [scenes.read_stamp(tmp_path / name)["sha256"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_larger_size_begins_with_the_pictures_of_a_smaller_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scenes.SIZES, "small", SMALL)
    scenes.write(tmp_path, size="small")
    pictures = {name: content for name, content in contents(tmp_path).items() if name.endswith(".jpg")}
    assert len(pictures) == 30 + 10  # those of detection twice
    larger = contents(data)
    for name, content in pictures.items():
        if name.startswith(
            ("scenes/", "coco/", "colours/coco/", "VOC2007/JPEGImages/000001")
        ):  # VOC numbers run on over splits
            assert larger[name] == content


def test_the_stamp_says_what_there_is(data: Path) -> None:
    stamp = scenes.read_stamp(data)
    assert (stamp["version"], stamp["seed"], stamp["size"]) == (scenes.VERSION, 0, "test")
    assert stamp["classes"] == list(compose.FACTORS["shape"])
    assert len(stamp["photographs"]) == 13
    listed = [line.split("  ")[1] for line in (data / scenes.HASHES).read_text().splitlines()]
    assert listed == sorted(set(contents(data)) - {scenes.STAMP, scenes.HASHES, ".SCENES.lock"})
    assert scenes.verify(data) == []


@pytest.mark.usefixtures("small")
def test_complete_data_is_kept_and_progress_counts_every_picture(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    scenes.write(tmp_path, size="small", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 30) for done in range(1, 31)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.name != ".SCENES.lock"}
    scenes.write(tmp_path, size="small", progress=lambda done, total: pytest.fail("written again"))
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at", [1, 28])
def test_an_interrupted_call_leaves_no_stamp_and_the_next_one_completes(tmp_path: Path, at: int) -> None:
    def stop(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.write(tmp_path / "a", size="small", progress=stop)
    assert not (tmp_path / "a" / scenes.STAMP).exists()
    with pytest.raises(UserError, match=r"no complete embedded data.*SCENES\.json is missing"):
        scenes.read_stamp(tmp_path / "a")
    (tmp_path / "a" / "scenes" / "half.jpg").write_bytes(b"")  # what a kill in the middle of a file leaves
    scenes.write(tmp_path / "a", size="small")
    scenes.write(tmp_path / "b", size="small")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("asked", "said"), [({"seed": 1}, "seed 0, asked for 1"), ({"size": "demo"}, "size 'test'")]
)
def test_data_of_another_seed_or_size_is_refused(data: Path, asked: dict[str, int | str], said: str) -> None:
    with pytest.raises(
        UserError, match=f"{said}.*delete scenes, VOC2007, coco, colours and SCENES.json"
    ) as caught:
        scenes.write(data, **({"size": "test"} | asked))  # type: ignore[arg-type]
    assert caught.value.code == 2


@pytest.mark.usefixtures("small")
def test_changed_data_is_noticed(tmp_path: Path) -> None:
    scenes.write(tmp_path, size="small")
    victim = next((tmp_path / "VOC2007" / "JPEGImages").iterdir())
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + b"?")
    assert scenes.verify(tmp_path) == [victim.relative_to(tmp_path).as_posix()]
    victim.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"VOC2007 was changed after it was generated.*delete"):
        scenes.write(tmp_path, size="small")
    victim.unlink()
    assert scenes.verify(tmp_path) == [victim.relative_to(tmp_path).as_posix()]
    (tmp_path / scenes.HASHES).write_text("")
    assert scenes.verify(tmp_path) == [scenes.HASHES]


def test_folders_of_another_origin_are_never_touched(tmp_path: Path) -> None:
    precious = tmp_path / "VOC2007" / "real.xml"
    precious.parent.mkdir()
    precious.write_text("real")
    with pytest.raises(UserError, match="VOC2007 exists and is not embedded data"):
        scenes.write(tmp_path, size="test")
    assert precious.read_text() == "real"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".SCENES.lock", "VOC2007"]


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"generator": "other"})])
def test_a_broken_stamp_is_an_error_with_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / scenes.STAMP).write_text(text)
    with pytest.raises(UserError, match=r"SCENES\.json.*use another folder, or delete"):
        scenes.write(tmp_path, size="test")


def test_wrong_use_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown size of the embedded data 'dmeo' \(did you mean demo\?\)"):
        scenes.write(tmp_path / "x", size="dmeo")
    with pytest.raises(UserError, match="seed -1"):
        scenes.write(tmp_path / "x", seed=-1)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write the embedded data to .*file/x: .*choose a folder"):
        scenes.write(tmp_path / "file" / "x", size="test")

    def full(self: layouts.Writer, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layouts.Writer, "put", full)
    with pytest.raises(UserError, match="No space left on device"):
        scenes.write(tmp_path / "y", size="test")
    shutil.rmtree(tmp_path / "y")
