"""The Python API: what it takes, what it gives, and that it stays cheap to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval as house
from eval import compare, evaluate, extract, load_backbone, read_records, scenes
from eval.errors import UserError
from eval.results.frames import COLUMNS

ROOT = Path(__file__).resolve().parents[3]
REF = "random:resnet10-c8-half@3"


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: np.ndarray) -> Path:
    root = tmp_path_factory.mktemp("images")
    for index, picture in enumerate(pictures):
        (root / "ab"[index % 2]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(root / "ab"[index % 2] / f"{index}.png")
    (root / "notes.txt").write_text("no image")
    return root


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, eval as house; print(*sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_names_its_functions_and_no_others() -> None:
    assert set(house.__all__) <= set(dir(house))
    for name in house.__all__:
        assert getattr(house, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'evalute'"):
        _ = house.evalute  # type: ignore[attr-defined]


def test_features_are_what_the_network_computes(pictures: np.ndarray) -> None:
    """Against resizing, cropping and normalising written out here, in torchvision's words."""
    from torchvision.transforms import v2

    backbone, passport = load_backbone(REF, device="cpu")
    side = passport.input_size
    prepare = v2.Compose(
        [
            v2.Resize(side, interpolation=v2.InterpolationMode(passport.interpolation)),
            v2.CenterCrop(side),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    batch = torch.stack([prepare(Image.fromarray(picture)) for picture in pictures])
    with torch.inference_mode():
        expected = backbone.features(batch).numpy()
    found = extract(backbone, pictures)
    assert found.dtype == np.float32
    assert found.shape == (5, passport.feature_dim)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_every_form_of_images_gives_the_same_rows(pictures: np.ndarray, folder: Path) -> None:
    expected = extract(REF, pictures)
    files = [folder / "ab"[index % 2] / f"{index}.png" for index in range(5)]
    mixed = [*files[:2], *(Image.fromarray(picture) for picture in pictures[2:])]
    for images in (files, [str(file) for file in files], mixed):
        np.testing.assert_array_equal(extract(REF, images), expected)
    np.testing.assert_array_equal(extract(REF, folder), expected[[0, 2, 4, 1, 3]])  # a/0 a/2 a/4 b/1 b/3
    np.testing.assert_array_equal(extract(REF, files[3]), expected[[3]])
    grey = Image.fromarray(pictures[0]).convert("L")
    np.testing.assert_array_equal(extract(REF, [grey]), extract(REF, [grey.convert("RGB")]))


def test_the_size_of_the_input_is_the_users_where_given(pictures: np.ndarray) -> None:
    assert not np.array_equal(extract(REF, pictures, image_size=32), extract(REF, pictures, image_size=48))


def test_a_store_is_read_the_second_time(pictures: np.ndarray, tmp_path: Path) -> None:
    asked: list[int] = []
    first = extract(REF, pictures, store=tmp_path, progress=lambda done, total: asked.append(done))
    assert asked == [5]
    again = extract(REF, pictures, store=tmp_path, progress=lambda done, total: asked.append(done))
    assert asked == [5]
    np.testing.assert_array_equal(first, again)


def test_half_precision_is_near_and_kept_apart(pictures: np.ndarray, tmp_path: Path) -> None:
    whole = extract(REF, pictures, store=tmp_path)
    half = extract(REF, pictures, dtype="bfloat16", store=tmp_path)
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()
    np.testing.assert_array_equal(extract(REF, pictures, store=tmp_path), whole)
    with pytest.raises(UserError, match="choose float32 or bfloat16"):
        extract(REF, pictures, dtype="float16")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"images are float32 of shape \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"images are uint8 of shape \(8, 8, 3\)"),
        ([], "holds no images"),
    ],
)
def test_what_is_no_image_is_refused(images: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        extract(REF, images)  # type: ignore[arg-type]


def test_a_folder_without_images_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images below this folder"):
        extract(REF, tmp_path)
    with pytest.raises(UserError, match=r"none\.png"):
        extract(REF, [tmp_path / "none.png"])


def test_a_network_without_a_passport_is_refused_and_one_with_it_is_not(pictures: np.ndarray) -> None:
    backbone, passport = load_backbone(REF, device="cpu")
    expected = extract(backbone, pictures)
    del backbone.__dict__["passport"]
    with pytest.raises(UserError, match="has no passport"):
        extract(backbone, pictures)
    np.testing.assert_array_equal(extract(backbone, pictures, passport=passport), expected)


def test_records_become_a_frame() -> None:
    frame = read_records(ROOT / "results" / "records" / "mini")
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["checkpoint"]) >= {"vicreg", "mast5", "random"}
    rows = frame[frame["headline"] & (frame["protocol"] == "linear") & (frame["task"] == "cifar10")]
    shown = {row.checkpoint: round(100 * row.value, 1) for row in rows.itertuples()}
    assert (shown["vicreg"], shown["mast5"], shown["random"]) == (42.5, 44.7, 28.6)  # the README's table
    assert ((frame["low"].isna()) | (frame["low"] <= frame["value"])).all()
    headlines = frame[frame["headline"]].groupby("run_id").size()
    assert set(headlines) == {1}
    assert len(headlines) == frame["run_id"].nunique()


def test_a_comparison_is_the_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    import csv
    import io

    from eval.cli.entry import main

    place = ROOT / "results" / "records" / "subspaces"
    assert main(["compare", str(place), "--pair", "mast5", "vicreg", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    frame = compare(place, ("mast5", "vicreg"))
    assert len(frame) == len(lines) > 5
    for row, line in zip(frame.itertuples(), lines, strict=True):
        assert (row.task, row.protocol, row.metric) == (line["task"], line["protocol"], line["metric"])
        for name in ("mean_first", "mean_second", "difference", "low", "high", "p"):
            assert f"{getattr(row, name):.6f}" == line[name]
    assert set(frame["over"]) == {"pretraining seeds"}


def test_names_that_are_in_no_record_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean mast5"):
        compare(ROOT / "results" / "records" / "mini", ("mast", "vicreg"))
    with pytest.raises(UserError, match="no such file or folder"):
        read_records(ROOT / "nowhere")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    scenes.write(root, size="test")
    return root


def test_evaluate_is_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from eval.cli.entry import main

    options = ["--checkpoint", "a=vicreg-imagenette96", "random:resnet10-c8-half@0", "--task", "scenes-shape"]
    options += ["scenes-colour", "--protocol", "knn", "knn-dino-k20", "--set", "k=[5]", "--seeds", "1"]
    assert main(["eval", *options, "--data-root", str(data), "--out", str(tmp_path / "cli"), "--quiet"]) == 0
    frame = evaluate(
        ["a=vicreg-imagenette96", "random:resnet10-c8-half@0"],
        ["scenes-shape", "scenes-colour"],
        ["knn", "knn-dino-k20"],
        data_root=data,
        out=tmp_path / "api",
        overrides={"k": [5]},
        seeds=[1],
    )
    assert len(frame[frame["headline"]]) == 8
    same = [name for name in COLUMNS if name not in ("seconds", "started")]
    left, right = (
        rows.sort_values(["run_id", "metric"])[same].reset_index(drop=True)
        for rows in (frame, read_records(tmp_path / "cli"))
    )
    assert left.equals(right)


def test_evaluate_goes_on_and_gives_its_own_cells_only(data: Path, tmp_path: Path) -> None:
    asked = {"data_root": data, "out": tmp_path}
    first = evaluate(REF, "scenes-colour", "knn", **asked)
    both = evaluate(REF, "scenes-colour", ["knn", "ridge"], **asked)
    assert set(both["protocol"]) == {"knn", "ridge"}
    again = evaluate(REF, "scenes-colour", "knn", **asked)
    assert first.equals(again)  # the start times too: nothing was run again
    assert evaluate(REF, "scenes-colour", "ridge", data_root=data)["value"].tolist() == (
        both[both["protocol"] == "ridge"]["value"].tolist()
    )


def test_a_failed_cell_is_an_error_and_the_others_are_kept(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of 2 cells failed: .*cifar10"):
        evaluate(REF, ["scenes-colour", "cifar10"], "knn", data_root=data, out=tmp_path)
    assert set(read_records(tmp_path)["task"]) == {"scenes-colour"}


def blobs(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three well-separated classes around fixed centres."""
    generator = np.random.default_rng(seed)
    labels = np.arange(number) % 3
    return generator.normal(size=(number, 4)) + 8 * np.eye(4)[labels], labels


def test_protocols_on_arrays_equal_those_on_images(data: Path) -> None:
    """The features of a data set's images, given as arrays, give the numbers that the images give."""
    from eval import tasks

    opened = tasks.get("scenes-colour").open(data)
    parts = [
        (extract(REF, list(split.paths)), np.array(opened.classes)[split.labels])
        for split in (opened.splits[name] for name in ("train", "val", "test"))
    ]
    for protocol in ("knn", "ridge", "linear"):
        images = evaluate(REF, "scenes-colour", protocol, data_root=data)
        arrays = evaluate(features=parts, protocols=protocol)
        arrays, images = arrays.sort_values("metric"), images.sort_values("metric")
        assert arrays["metric"].tolist() == images["metric"].tolist()
        for name in ("value", "low", "high"):
            np.testing.assert_allclose(arrays[name].astype(float), images[name].astype(float))
    assert arrays["checkpoint"].unique().tolist() == ["arrays"]


def test_arrays_of_planted_classes_and_of_noise() -> None:
    train, test = blobs(90, 0), blobs(60, 1)
    names = np.array(["cat", "dog", "owl"])
    planted = evaluate(features=(train, test), protocols=["knn", "linear"])
    assert (planted[planted["headline"]]["value"] > 0.99).all()
    few = evaluate(
        features=(train, test), protocols="fewshot", overrides={"way": 3, "shots": 2, "queries": 3}
    )
    assert few["metric"].tolist() == ["top1", "top1_episodes"]
    assert few[few["headline"]]["value"].item() > 0.99
    named = evaluate(features=((train[0], names[train[1]]), (test[0], names[test[1]])), protocols=["knn"])
    assert named["value"].tolist() == planted[planted["protocol"] == "knn"]["value"].tolist()
    noise = np.random.default_rng(2).normal(size=(690, 4))
    empty = evaluate(features=((noise[:90], train[1]), (noise[90:], blobs(600, 1)[1])), protocols="linear")
    headline = empty[empty["headline"]].iloc[0]
    assert headline["low"] < 1 / 3 < headline["high"]


def test_arrays_with_several_labels() -> None:
    train, test = blobs(90, 0), blobs(60, 1)
    parts = [(x, np.eye(3, dtype=int)[y]) for x, y in (train, blobs(30, 3), test)]
    frame = evaluate(features=parts, protocols="linear", metric="map_area")
    assert frame[frame["headline"]]["metric"].tolist() == ["map_area"]
    assert frame[frame["headline"]]["value"].item() > 0.99


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"features": [blobs(9, 0)]}, r"features has 1 parts .give .train, val, test."),
        (
            {"features": [blobs(9, 0), blobs(9, 1)], "protocols": "finetune"},
            "finetune needs images .choose among",
        ),
        (
            {"features": [blobs(9, 0), blobs(9, 1)], "protocols": "svm-vissl"},
            "svm-vissl is not for classification",
        ),
        (
            {"features": [blobs(9, 0), blobs(9, 1)], "metric": "map11"},
            "map11 is not for classification labels",
        ),
        ({"features": [blobs(9, 0), (np.zeros((2, 5)), [0, 1])]}, "differ in width: train"),
        (
            {"features": [blobs(9, 0), (np.zeros((2, 4)), [0, 7])]},
            "train has no example of the class 7 of test",
        ),
        ({"features": [blobs(9, 0), (np.full((2, 4), np.nan), [0, 1])]}, "test: row 0 is not finite"),
        ({"features": [blobs(9, 0), (np.zeros((2, 4)), [0])]}, r"test: features \(2, 4\) and labels \(1,\)"),
        ({"features": [blobs(9, 0), blobs(9, 1)], "tasks": "cifar10"}, "give one or the other"),
        ({"ref": REF}, "evaluate needs ref, tasks and data_root"),
        ({"ref": REF, "tasks": "cifr10", "data_root": "."}, "did you mean cifar10"),
    ],
)
def test_wrong_requests_are_told(asked: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        evaluate(**asked)  # type: ignore[arg-type]
