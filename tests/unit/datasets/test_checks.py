"""Folders and lists as people have them: the right images and labels, or one line that says what is wrong."""

from __future__ import annotations

import codecs
import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import datasets, tasks
from eval.datasets import listed
from eval.datasets.factors import derive
from eval.datasets.torchvision_sets import _array_split
from eval.doctor.data import verify
from eval.errors import UserError

TURNED = Image.Exif()
TURNED[0x0112] = 6


def picture(path: Path, value: int, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(
        path, **options
    )
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of five training and three test images, each file name in both of them."""
    numbers = itertools.count()
    for part, count in (("train", 5), ("test", 3)):
        for name in ("cat", "dog"):
            for index in range(count):
                picture(tmp_path / "pets" / part / name / f"{index}.png", next(numbers))
    return tmp_path / "pets"


def load(root: Path, **options: object) -> datasets.ImageDataset:
    return datasets.load(root.name, root.parent, **options)  # type: ignore[arg-type]


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def test_a_clean_folder_has_no_warnings(root: Path) -> None:
    data = load(root)
    assert data.warnings == ()
    assert verify("pets", root.parent)["ok"]
    data.check()


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        (
            "test/cat/0.png",
            "test/cat/9.png",
            "pets test: 1 of 7 images are copies of others in it (test/cat/0",
        ),
        ("test/cat/0.png", "test/dog/9.png", "pets test: 1 images stand in it with different labels"),
        ("train/cat/0.png", "test/cat/9.png", "pets: 1 of 7 test images stand in"),
    ],
)
def test_copies_are_told_by_the_run_and_by_verify(root: Path, source: str, target: str, told: str) -> None:
    before = load(root).counts["test"]
    copy(root / source, root / target)
    data = load(root)
    assert data.counts["test"] == before + 1
    assert any(told in warning for warning in data.warnings), data.warnings
    found = verify("pets", root.parent)
    assert tuple(found["warnings"]) == data.warnings
    assert found["ok"] == ("train" not in source)


def test_copies_are_found_in_arrays_and_in_what_is_made_of_a_set(root: Path) -> None:
    copy(root / "train/cat/0.png", root / "test/cat/9.png")
    for steps in (["hue"], ["development"], ["development", "blur"]):
        made = derive(load(root), steps)
        told = [warning for warning in made.warnings if "stand in" in warning]
        assert bool(told) == ("development" not in steps)  # which drops the test split


def test_copies_are_found_in_arrays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[5], images[1] = images[4], images[0]
    root = Path("cifar")
    train = _array_split("cifar", "train", root, images[:3], [0, 1, 0])
    test = _array_split("cifar", "test", root, images[[4, 5, 0]], [0, 1, 1])
    val = _array_split("cifar", "val", root, images[3:4], [0])
    data = datasets.ImageDataset("cifar", ("a", "b"), {"train": train, "val": val, "test": test})
    data.check()
    assert [warning.split(" (")[0] for warning in data.warnings] == [
        "cifar: 1 of 3 test images stand in train too",
        "cifar train: 1 of 3 images are copies of others in it",
        "cifar train: 1 images stand in it with different labels",
        "cifar test: 1 of 3 images are copies of others in it",
        "cifar test: 1 images stand in it with different labels",
    ]


@pytest.mark.parametrize("ending", [".jpg", ".tif", ".webp", ".png"])
def test_what_the_decoder_drops_is_counted(root: Path, ending: str) -> None:
    for index in range(4):
        picture(root / "test" / "dog" / f"turned{index}{ending}", 100 + index, exif=TURNED)
    (warning,) = load(root).warnings
    names = ", ".join(f"turned{index}{ending}" for index in range(3))
    told = "carry an orientation tag, which is not applied: the stored pixels are read"
    if ending == ".tif":
        told = "are TIFF with an orientation tag, which Pillow applies as it reads"
    assert warning == f"pets test: 4 of 10 images {told} ({names}, ...)"


def test_transparency_and_frames_are_counted(root: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "train/cat/alpha.png")
    first, second = (Image.fromarray(pixels[:, :, part]) for part in (0, 1))
    first.save(root / "train/cat/pages.tif", save_all=True, append_images=[second])
    told = " ".join(load(root).warnings)
    assert "have transparency, which is dropped: the colours below it are read (alpha.png)" in told
    assert "have several frames or pages, of which the first is read (pages.tif)" in told


@pytest.mark.parametrize("kind", ["float", "text", "eps", "cut"])
def test_an_image_that_cannot_be_read_stops_a_run_before_training(root: Path, kind: str) -> None:
    path = root / "train" / "cat" / "bad.png"
    if kind == "float":
        Image.fromarray(np.ones((4, 4), np.float32)).save(path, format="TIFF")
    else:
        path.write_bytes(
            {"text": b"hello", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n", "cut": b"\x89PNG\r\n\x1a\n"}[kind]
        )
    copy(path, root / "test" / "cat" / "bad.png")
    task = replace(tasks.get("caltech101_20"), dataset="pets")
    with pytest.raises(UserError, match=r"bad\.png.*and 1 more such image") as caught:
        task.open(root.parent)
    assert "mast data verify pets" in caught.value.remedy
    assert not verify("pets", root.parent)["ok"]


def test_files_that_only_look_like_images_are_told(root: Path) -> None:
    for name in ("a.gif", "b.heic", "c.GIF", "notes.txt", "Thumbs.db"):
        (root / "train" / "cat" / name).write_text("")
    picture(root / "train" / "loose.png", 50)
    picture(root / "holdout" / "cat" / "1.png", 51)
    (root / "notes").mkdir()
    assert load(root).remarks == (
        f"{root / 'holdout'}: is no split (train, val, test) and is not read",
        f"{root / 'train'}: files that are not read: 2 .gif, 1 .heic",
        f"{root / 'train'}: 1 images beside the class folders have no class and are not read",
    )


# -- splits ----------------------------------------------------------------------------------------------------


def test_a_folder_without_splits_is_cut_the_same_way_every_time(root: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    (root / "train").rename(flat)
    for name in ("cat", "dog"):
        for index in range(5, 10):
            picture(flat / name / f"{index}.png", 500 + index + 10 * (name == "dog"))
    for data in (datasets.load("flat", tmp_path), datasets.load(f"folder:{flat}", tmp_path / "nowhere")):
        assert data.counts == {"train": 12, "val": 4, "test": 4}
        assert [np.bincount(split.labels).tolist() for split in data.splits.values()] == [
            [6, 6],
            [2, 2],
            [2, 2],
        ]
        assert data.notes == {
            "val": "20% of train, stratified, seed 0",
            "test": "20% of all images for test, stratified, seed 0",
        }
        assert "has no splits; 20% of each class is tested on, seed 0" in data.warnings[0]
    again = datasets.load("flat", tmp_path)
    assert again.manifest == data.manifest
    assert again.splits["test"].paths == data.splits["test"].paths


def test_val_is_tested_on_when_asked_for(root: Path) -> None:
    (root / "test").rename(root / "valid")
    with pytest.raises(UserError, match=r"'test' is missing.*folder:DIR,test=val"):
        load(root)
    data = datasets.load(f"folder:{root},test=val", Path())
    assert data.counts == {"train": 8, "val": 2, "test": 6}
    assert data.notes["test"] == "val is tested on"
    assert {path.parts[-3] for path in data.splits["test"].paths} == {"valid"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder:{root},tset=val", "unknown option 'tset' .did you mean test"),
        ("folder:{root},test=train", "test=train"),
        ("folder:", "names no place"),
        ("folder:{root}/none", "none: no such folder"),
        ("csv:{root}", "no such file"),
        ("folder:{root}/train/cat", "neither splits"),
        ("folder:{root},test=val", "no split 'val' to test on"),
    ],
)
def test_a_place_that_is_none_is_told(root: Path, name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        datasets.load(name.format(root=root), Path())


def test_a_place_is_a_task_and_is_verified(root: Path) -> None:
    task = tasks.get(f"folder:{root}")
    assert (task.kind, task.metric, task.default) == ("classification", "top1", "linear")
    assert task.open(Path("nowhere")).counts == {"train": 8, "val": 2, "test": 6}
    assert verify(f"folder:{root}", Path("nowhere"))["ok"]


# -- CSV lists -------------------------------------------------------------------------------------------------

LINES = [
    ("path", "split", "label"),
    ("a/0.png", "train", "red"),
    ("a/1.png", "train", "blue"),
    ("a/2.png", "train", "red"),
    ("a/3.png", "train", "blue"),
    ("a/4.png", "test", "red"),
    ("a/5.png", "test", "blue"),
]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    for index in range(6):
        picture(tmp_path / "a" / f"{index}.png", index)
    return tmp_path / "list.csv"


def write(path: Path, lines: list[tuple[str, ...]], delimiter: str = ",", encoding: str = "utf-8") -> str:
    path.write_bytes("\n".join(delimiter.join(line) for line in lines).encode(encoding))
    return f"csv:{path}"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("blanks", ["", " ", "  \t"])
def test_a_csv_file_is_read_however_a_program_wrote_it(
    lists: Path, delimiter: str, encoding: str, blanks: str
) -> None:
    if delimiter == "\t" and blanks:
        blanks = "  "
    lines = [
        tuple(f"{value}{blanks if turn % 2 else ''}" for value in line) for turn, line in enumerate(LINES)
    ]
    data = datasets.load(write(lists, lines, delimiter, encoding), Path())
    assert data.classes == ("blue", "red")
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert sum(data.counts.values()) == 6
    plain = datasets.load(write(lists, LINES), Path())
    assert data.manifest == plain.manifest


def test_names_of_splits_and_columns_are_read_as_people_write_them(lists: Path) -> None:
    lines = [("Path", "Split", "Label")] + [
        (p, {"train": "Training", "test": "TEST"}[s], c) for p, s, c in LINES[1:]
    ]
    assert datasets.load(write(lists, lines), Path()).counts == {"train": 2, "val": 2, "test": 2}
    lines = [(p, "val" if s == "test" else s, c) for p, s, c in LINES]
    lines[0] = LINES[0]
    with pytest.raises(UserError, match="'test' is missing"):
        datasets.load(write(lists, lines), Path())
    assert datasets.load(write(lists, lines) + ",test=val", Path()).counts["test"] == 2
    lines = [(p, c) for p, _, c in LINES]
    data = datasets.load(write(lists, lines), Path())
    assert data.notes["test"] == "20% of all images for test, stratified, seed 0"


def test_class_names_are_the_same_however_their_accents_are_written(lists: Path) -> None:
    lines = [
        (p, s, {"red": "caf\u00e9" if n % 2 else "cafe\u0301"}.get(c, c)) for n, (p, s, c) in enumerate(LINES)
    ]
    assert datasets.load(write(lists, lines), Path()).classes == ("blue", "caf\u00e9")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines, lines[1]], "line 8: a/0.png is listed twice, first on line 2"),
        (lambda lines: [*lines, ("a/0.png", "test", "red")], "listed twice"),
        (lambda lines: [*lines, ("../x.png", "test", "red")], r"line 8: the path '\.\./x\.png' leads out of"),
        (lambda lines: [*lines, ("/etc/passwd", "test", "red")], "leads out of"),
        (lambda lines: [*lines, ("C:\\x.png", "test", "red")], "leads out of"),
        (lambda lines: [*lines, ("a/9.png", "test", "red")], r"9\.png: named in .*line 8 but missing"),
        (lambda lines: [*lines, ("a/5.png", "test")], "line 8: 2 values for 3 columns"),
        (lambda lines: [*lines, ("a/5.png", "test", "x", "y")], "line 8: 4 values for 3 columns"),
        (lambda lines: [lines[0], *((p, s, " ") for p, s, _ in lines[1:])], "line 2: the column 'label' is empty"),
        (lambda lines: [lines[0], *((" ", s, c) for _, s, c in lines[1:])], "line 2: the column 'path' is empty"),
        (lambda lines: [lines[0], *((p, "hold", c) for p, _, c in lines[1:])], "line 2: unknown split 'hold'"),
        (lambda lines: [("path", "split", "split"), *lines[1:]], "give every column a name of its own"),
        (lambda lines: [("file", "split", "label"), *lines[1:]], "the columns are file, split, label"),
        (lambda lines: [*lines[:6], (*lines[6][:2], "green")], "'green' of split 'test'"),
        (lambda lines: lines[:1], "holds no lines"),
        (lambda lines: [], "holds no lines"),
        (lambda lines: [*lines, ("a/\0.png", "test", "red")], "leads out of|cannot be read"),
    ],
)  # fmt: skip
def test_what_a_csv_file_gets_wrong_is_told_with_its_line(lists: Path, change: object, told: str) -> None:
    assert callable(change)
    name = write(lists, change(LINES))
    with pytest.raises(UserError, match=told) as caught:
        datasets.load(name, Path())
    assert str(lists) in str(caught.value) or "9.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    lists.write_bytes(codecs.BOM_UTF8 + b"path,split,label\n\xff\xfe")
    with pytest.raises(UserError, match="write it as UTF-8 CSV"):
        datasets.load(f"csv:{lists}", Path())


# -- lists of the images to use ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        "cat/{0}.png",
        "train/cat/{0}.png",
        "./cat/{0}.png",
        "/cat/{0}.png ",
        "cat\\{0}.png",
        "MARK",
    ],
)
def test_a_list_takes_the_images_that_it_names(root: Path, tmp_path: Path, form: str) -> None:
    train = load(root).splits["train"]
    there = [int(path.stem) for path in train.paths if path.parent.name == "cat"]
    file = tmp_path / "list.txt"
    names = [form.replace("MARK", "cat/{0}.png").format(index) for index in there[::-1]]
    file.write_text("\n".join(names), encoding="utf-8-sig" if form == "MARK" else "utf-8")
    found = listed(train, file)
    assert [int(path.stem) for path in found.paths] == there[::-1]
    assert set(found.labels.tolist()) == {0}


def test_a_bare_name_is_enough_where_it_is_the_only_one(root: Path, tmp_path: Path) -> None:
    picture(root / "train" / "dog" / "only one.png", 77)
    train = load(root).splits["train"]
    file = tmp_path / "list.txt"
    file.write_text("only one.png\n")
    if any(path.name == "only one.png" for path in train.paths):
        assert [path.name for path in listed(train, file).paths] == ["only one.png"]
    for text, told in (
        ("1.png" if sum(p.name == "1.png" for p in train.paths) > 1 else "2.png", "names 2 images of train"),
        ("cat/99.png", "line 1: cat/99.png, which train lacks"),
        ("", "names no image"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            listed(train, file)
    first = train.pool.relative(int(train.rows[0]))
    file.write_text(f"{first}\n{first}\n")
    with pytest.raises(UserError, match="stands on line 1 too"):
        listed(train, file)


# --- more that people have ------------------------------------------------------------------------------------


def refused(root: Path, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(root)


def test_folds_and_domains_are_no_classes(root: Path) -> None:
    for part in ("train", "test"):
        (root / part).rename(root / f"fold-{part}")
    refused(root, "fold-test, fold-train are read as the classes, and each holds the same folders, cat, dog")
    assert load(root / "fold-train").classes == ("cat", "dog")
    numbers = itertools.count(100)
    for part in ("train", "test"):
        for domain in ("photo", "sketch"):
            for name in ("cat", "dog"):
                copy(root / f"fold-{part}" / name / "0.png", root / "deep" / part / domain / name / "0.png")
                picture(root / "deep" / part / domain / name / "1.png", next(numbers))
    assert any("are those the classes?" in line for line in load(root / "deep").warnings)


def test_a_class_called_train_is_not_taken_for_the_split(root: Path) -> None:
    for name in ("bus", "car"):
        copy(root / "train" / "cat" / "0.png", root / name / "0.png")
    for index in range(3):
        copy(root / "train" / "cat" / f"{index}.png", root / "train" / f"{index}.png")
    for part in ("test", "train/cat", "train/dog"):
        (root / part).rename(root.parent / part.replace("/", "-"))
    refused(root, "'train' is the only folder with a split's name, and bus, car beside it hold images")


@pytest.mark.parametrize("name", ["cat ", "cat\u200b", "\ufeffcat"])
def test_class_folders_that_look_the_same_are_one_class(root: Path, name: str) -> None:
    (root / "test" / "cat").rename(root / "test" / name)
    assert load(root).counts["test"] == 6
    (root / "train" / "cat").rename(root / "train" / name)
    copy(root / "train" / "dog" / "0.png", root / "train" / "cat" / "0.png")
    refused(root, "two class folders are called 'cat'")


def test_names_that_are_no_text_are_told(root: Path) -> None:
    os.rename(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/\xff.png")
    refused(root, r"the name of \\udcff.png is no text in UTF-8")
    os.rename(os.fsencode(root / "train/cat") + b"/\xff.png", root / "train/cat/0.png")
    for part in ("train", "test"):
        os.rename(root / part / "cat", os.fsencode(root / part) + b"/\xff")
    refused(root, "is no text in UTF-8")


def test_one_class_is_nothing_to_tell_apart(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "images").mkdir()
        for name in ("cat", "dog"):
            (root / part / name).rename(root / part / "images" / name)
    refused(root, "holds one class, 'images'")


@pytest.mark.parametrize(("largest", "told"), [(200, True), (4095, True), (65535, False)])
def test_sixteen_bit_images_that_are_nearly_black_are_told(root: Path, largest: int, told: bool) -> None:
    for index in range(3):
        values = np.random.default_rng(index).integers(0, largest + 1, (6, 6)).astype(np.uint16)
        values[0, 0] = largest
        Image.fromarray(values).save(root / "test" / "cat" / f"{index}.png")
    assert [line for line in load(root).warnings if "3 of 6 images hold 16-bit values" in line] == [
        line for line in load(root).warnings if told
    ]
    assert len(load(root).warnings) == told


@pytest.mark.parametrize("form", ["./a/1.png", "a//1.png", "a\\1.png", "a/./1.png"])
def test_a_path_written_in_two_ways_is_one_image(lists: Path, form: str) -> None:
    lines = [(f"a/{index}.png", "train" if index < 4 else "test", "xy"[index % 2]) for index in range(6)]
    place = write(lists, [("path", "split", "label"), *lines, (form, "test", "y")])
    with pytest.raises(UserError, match="is listed twice, first on line 3"):
        datasets.load(place, lists.parent)


@pytest.mark.parametrize(
    ("change", "told"), [(("x", "nan"), "programs write"), (("y", "x"), "holds one class, 'x'")]
)
def test_labels_that_say_nothing_are_refused(lists: Path, change: tuple[str, str], told: str) -> None:
    lines = [
        (f"a/{index}.png", "train" if index < 4 else "test", "xy"[index % 2].replace(*change))
        for index in range(6)
    ]
    with pytest.raises(UserError, match=told):
        datasets.load(write(lists, [("path", "split", "label"), *lines]), lists.parent)


def test_a_relative_place_is_looked_for_here_and_under_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, data = tmp_path / "here", tmp_path / "data"
    for place, kind in enumerate(("cat", "dog")):
        for index in range(5):
            picture(data / "mine" / kind / f"{index}.png", 10 * place + index)
    lines = [f"{kind}/{index}.png,{kind}" for kind in ("cat", "dog") for index in range(5)]
    (data / "mine/list.csv").write_text("\n".join(["path,label", *lines]))
    here.mkdir()
    monkeypatch.chdir(here)
    expected = datasets.load(f"folder:{data}/mine", here).counts
    assert datasets.load("folder:mine", data).counts == expected
    assert datasets.load("csv:mine/list.csv", data).counts == expected
    with pytest.raises(UserError, match=r"^mine and .*here/mine: no such folder"):
        datasets.load("folder:mine", here)
    monkeypatch.chdir(data)
    assert (
        datasets.load("folder:mine", data).counts == datasets.load("folder:mine", Path()).counts == expected
    )
    (here / "mine").mkdir()
    with pytest.raises(UserError, match=r"both mine and .*here/mine are there \(write the whole path\)"):
        datasets.load("folder:mine", here)
    (here / "mine").rmdir()
    (here / "mine").symlink_to(data / "mine")  # one folder
    assert datasets.load("folder:mine", here).counts == expected
