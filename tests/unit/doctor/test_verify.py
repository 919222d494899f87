"""What `mast data verify` holds class folders against: their list of hashes, and their own classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from eval.cli import entry as cli
from eval.doctor.data import verify
from eval.errors import UserError
from mast.files import sha256_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, five and two images each, with the list that ``sha256sum`` would write."""
    root = tmp_path / "cifar10"
    for part, count in (("train", 5), ("test", 2)):
        for label, name in enumerate(("cat", "cow", "dog")):
            for index in range(count):
                path = root / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (100 * label, 10 * index, count)).save(path)
    (root / "SOURCES.md").write_text("where it is from")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{sha256_file(path)}  {path.relative_to(root)}\n" for path in files]
    (root / "SHA256SUMS").write_text("".join(lines))
    return root


def problems(root: Path) -> list[str]:
    return list(verify("cifar10", root.parent)["problems"])


def test_a_whole_folder_is_sound(root: Path) -> None:
    (root / "SOURCES.md").write_text("where it is from, in other words")
    found = verify("cifar10", root.parent)
    assert found["ok"]
    assert found["against"] == ["SHA256SUMS"]


def test_a_missing_class_is_told(root: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(root / part / "dog")
    assert problems(root) == [
        f"{root}/test/dog: missing, by SHA256SUMS: 0.png, 1.png",
        f"{root}/train/dog: missing, by SHA256SUMS: 0.png, 1.png, 2.png and 2 more",
    ]


def test_missing_changed_and_further_images_are_told(root: Path) -> None:
    (root / "train/cat/1.png").unlink()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(root / "train/cow/2.png")
    Image.new("RGB", (4, 4), (3, 2, 1)).save(root / "test/dog/new.png")
    assert problems(root) == [
        f"{root}/train/cat: missing, by SHA256SUMS: 1.png",
        f"{root}/train/cow: changed, by SHA256SUMS: 2.png",
        f"{root}/test/dog: not in the list, by SHA256SUMS: new.png",
    ]


def test_without_a_list_it_says_so_and_still_misses_a_class_of_one_split(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "SHA256SUMS").unlink()
    assert verify("cifar10", root.parent)["against"] == []
    assert cli.main(["data", "verify", "cifar10", "--data-root", str(root.parent)]) == 0
    assert "against    nothing: no official numbers are known" in capsys.readouterr().out
    shutil.rmtree(root / "test" / "cow")
    assert problems(root) == ["cifar10 test: no image of the class 'cow'"]


def test_images_to_pretrain_on_are_looked_over_too(root: Path) -> None:
    folder = root / "train"
    found = verify(f"images:{folder}", Path())
    assert (found["ok"], found["counts"], found["classes"]) == (True, {"images": 15}, 0)
    shutil.copy(folder / "cat/0.png", folder / "dog/copy.png")
    (folder / "cow/broken.png").write_bytes(b"no picture")
    (folder / "deep/er").mkdir(parents=True)
    (folder / "deep/er/moving.gif").write_bytes(b"GIF89a")
    found = verify(f"images:{folder}", Path())
    assert len(found["problems"]) == 1
    assert f"{folder}/cow/broken.png: cannot be decoded" in found["problems"][0]
    assert any("1 of 17 images are copies of others" in warning for warning in found["warnings"])
    assert any("files that are not read: 1 .gif" in warning for warning in found["warnings"])
    with pytest.raises(UserError, match=r"no images below .*its files end in \.gif"):
        verify(f"images:{folder / 'deep'}", Path())


def test_a_damaged_list_is_named_with_its_line(root: Path) -> None:
    with (root / "SHA256SUMS").open("a") as file:
        file.write("abc train/cat/1.png\n")
    with pytest.raises(UserError, match=r"SHA256SUMS:23: not a line of sha256sum"):
        verify("cifar10", root.parent)


@pytest.mark.parametrize(
    ("name", "train", "test", "told"),
    [
        ("coco2017", 80, 5_000, ["coco2017 train: 80 images, officially 118,287"]),
        ("coco2017", 118_287, 5_000, []),
        ("voc0712", 16_551, 4_951, ["voc0712 test: 4,951 images, officially 4,952"]),
        ("coco2017-1pct", 80, 80, []),
    ],
)  # fmt: skip
def test_a_part_of_a_public_detection_set_is_not_the_set(
    monkeypatch: pytest.MonkeyPatch, name: str, train: int, test: int, told: list[str]
) -> None:
    counts = {"train_images": train, "train_instances": 9, "test_images": test, "test_instances": 9}
    data = SimpleNamespace(counts=counts, classes=("a",), warnings=[], manifest="0")
    monkeypatch.setattr("eval.detection.prepare", lambda *_, **__: SimpleNamespace(drawn=lambda: data))
    found = verify(name, Path())
    assert (found["problems"], found["ok"]) == (told, not told)
