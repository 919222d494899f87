"""``mast analyze`` on a run of its own, with and without its images; and a suite against one of its arms."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.cli import entry as cli

SMALL = [
    *["arch=resnet10-c8-half", "expander=[16,16]", "batch_size=32", "epochs=1", "views.size=16"],
    *[
        "data={folder: images, store_size: 20}",
        "method=mast",
        "uncertainty=true",
        "views.single_fraction=0.5",
    ],
]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("analyze")
    rng = np.random.default_rng(0)
    for index in range(120):
        place = root / "images" / "abc"[index % 3] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) // (1 + index % 3)
        Image.fromarray(pixels).resize((20, 20), Image.Resampling.BICUBIC).save(place)
    code = cli.main(
        ["pretrain", "demo", *SMALL, "--data-root", str(root), "--out", str(root / "run"), "--quiet"]
    )
    assert code == 0
    return root


def test_everything_is_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", str(run / "run"), "--data-root", str(run), "--out", str(tmp_path), "--json"]
    assert cli.main(arguments) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert sorted(Path(path) for path in said["files"]) == sorted(tmp_path.iterdir())
    names = ["crop", "flip", "color", "gray", "blur"]
    assert [row["augmentation"] for row in _rows(tmp_path / "dimensions.csv")] == names
    assert list(dict.fromkeys(row["augmentation"] for row in _rows(tmp_path / "strength.csv"))) == names
    deciles = _rows(tmp_path / "difficulty.csv")
    assert [int(row["images"]) for row in deciles] == [12] * 10
    uncertainty = [float(row["uncertainty"]) for row in deciles]
    assert uncertainty == sorted(uncertainty)
    assert all(float(row["low"]) <= float(row["error"]) <= float(row["high"]) for row in deciles)
    for row in _rows(tmp_path / "difficulty-correlation.csv"):
        assert -1 <= float(row["low"]) <= float(row["rank correlation"]) <= float(row["high"]) <= 1
    found = _rows(tmp_path / "neighbours.csv")
    assert list(dict.fromkeys(row["subspace"] for row in found)) == ["whole", *names]
    assert len(found) == 6 * 64 * 5
    assert all(row["image"] != row["neighbour"] for row in found)


def test_tasks_are_read_off_subspaces(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index, part in enumerate(["train", "val", "test"]):
        for image in sorted((run / "images").rglob("*.png"))[index::3]:
            place = run / "parted" / part / image.parent.name / image.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image.read_bytes())
    blocks = ["masks={layout: own-closed, block: 0.15, lr: 0}", "weights.prediction=5"]
    command = ["pretrain", "demo", *SMALL, *blocks, "--data-root", str(run), "--out", str(tmp_path / "run")]
    assert cli.main([*command, "--quiet"]) == 0
    capsys.readouterr()
    arguments = ["analyze", str(tmp_path / "run"), "--task", "parted.yaml", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "--data-root" in capsys.readouterr().err
    arguments[3] = f"folder:{run / 'parted'}"
    assert cli.main([*arguments, "--data-root", str(run), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    rows = _rows(tmp_path / "out" / "subspaces.csv")
    parts = ["crop", "flip", "color", "gray", "blur"]
    assert [row["subspace"] for row in rows] == ["features", *parts, "shared", "embedding"]
    assert [row["dimensions"] for row in rows] == ["64", *["2"] * 5, "6", "16"]
    (chosen,) = [row for row in rows if row["chosen"] == "1"]
    assert float(chosen["val"]) == max(float(row["val"]) for row in rows)
    (told,) = said["tasks"].values()
    assert told["chosen"] == chosen["subspace"]
    assert told["test"] == pytest.approx(float(chosen["test"]), abs=1e-6)
    assert told["backbone"] == pytest.approx(float(rows[0]["test"]), abs=1e-6)
    assert len(list((tmp_path / "out").glob("nearest-*.png"))) == 3
    assert all(Path(path).stat().st_size > 0 for path in said["files"])


def test_masks_need_no_images(run: Path, tmp_path: Path) -> None:
    assert cli.main(["analyze", str(run / "run"), "--out", str(tmp_path)]) == 0
    tables = {path.stem for path in tmp_path.glob("*.csv")}
    assert tables == {"masks", "dimensions", "correlation", "overlap"}
    assert all(path.stat().st_size > 1000 for path in tmp_path.glob("*.png"))


def test_a_suite_against_one_of_its_arms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Path(__file__).parents[2] / "results/records/mini"
    assert cli.main(["analyze", str(results), "--against", "vicreg", "--out", str(tmp_path)]) == 0
    rows = [row for row in _rows(tmp_path / "differences.csv") if row["protocol"].startswith("linear")]
    assert rows
    for row in rows:
        difference = 100 * (float(row["value"]) - float(row["value of vicreg"]))
        assert float(row["difference in points"]) == pytest.approx(difference, abs=1e-4)
    assert list(tmp_path.glob("differences-linear-*.png"))
    capsys.readouterr()
    assert cli.main(["analyze", str(results), "--against", "vicregg", "--out", str(tmp_path)]) == 2
    assert "did you mean vicreg" in capsys.readouterr().err


def test_suites_without_the_reference_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Path(__file__).parents[2] / "results"
    assert cli.main(["analyze", str(results), "--against", "vicreg-10", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert {row["protocol"].split()[0] for row in _rows(tmp_path / "differences.csv")} >= {
        "voc-fpn-tiny-frozen",
        "coco-fpn-tiny-frozen",
    }
    (line,) = said.err.splitlines()
    assert line.startswith("left out, vicreg-10 has no number there: ")
    assert "Published" not in line
    assert {"linear v2", "knn v1"} <= set(line.partition(": ")[2].split(", "))
    assert "-fpn-tiny-frozen" not in line
    assert all(Path(path).is_file() for path in said.out.splitlines())
