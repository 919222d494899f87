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
from eval import compare, extract, load_backbone, read_records
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
    assert (shown["vicreg"], shown["mast5"], shown["random"]) == (44.0, 45.8, 28.6)  # the README's table
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
