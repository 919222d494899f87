"""``mast measure`` from end to end: stored features are read, numbers are those of the features, pages show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import extract, features, scenes, tasks
from eval.cli import entry as cli
from eval.numbers import labelfree

NETS = ["random:resnet10-c8-half@0", "random:resnet10-c8-half@1"]
FIRST, SECOND = "random-resnet10-c8-half-0", "random-resnet10-c8-half-1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    scenes.write(folder, size="test")
    return folder


def _measure(data: Path, out: Path, *more: str) -> None:
    command = [
        "measure",
        "--checkpoint",
        *NETS,
        "--data-root",
        str(data),
        "--out",
        str(out),
        "--quiet",
        "--json",
    ]
    assert cli.main([*command, *more]) == 0


def _values(said: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {
        (line["name"], line["checkpoint"]["name"], *([line["other"]["name"]] if line["other"] else [])): line[
            "value"
        ]
        for line in said["measures"]
    }


def test_stored_features_are_read_and_numbers_are_theirs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ["eval", "--checkpoint", *NETS, "--task", "scenes-shape", "--protocol", "knn", "--set", "k=[5]"]
    assert cli.main([*command, "--data-root", str(data), "--out", str(out), "--quiet"]) == 0
    capsys.readouterr()

    def never(*given: Any, **more: Any) -> Any:
        raise AssertionError("extracted anew")

    with monkeypatch.context() as patched:
        patched.setattr(features, "extract", never)
        _measure(data, out, "--task", "scenes-shape", "--protocol", "knn")
    said = json.loads(capsys.readouterr().out)
    assert (said["added"], said["known"], said["failed"]) == (7, 0, {})

    split = tasks.get("scenes-shape").open(data).splits["train"]
    rows = [extract(net, list(split.paths)) for net in NETS]
    found, moments = _values(said), [labelfree.moments(each) for each in rows]
    for name, of in ((FIRST, moments[0]), (SECOND, moments[1])):
        assert found["rankme", name] == pytest.approx(labelfree.rankme(of), rel=1e-5)
        assert found["effective-rank", name] == pytest.approx(labelfree.effective_rank(of), rel=1e-5)
        assert found["alpha-req", name] == pytest.approx(labelfree.alpha_req(of).alpha, rel=1e-3)
    assert found["cka", FIRST, SECOND] == pytest.approx(labelfree.cka(*rows), rel=1e-5)

    _measure(data, out, "--task", "scenes-shape", "--protocol", "knn")
    again = json.loads(capsys.readouterr().out)
    assert (again["added"], again["known"]) == (0, 7)
    assert cli.main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Without labels" in page
    assert "knn v" in page.split('id="labelfree"')[1].split("</section>")[0]


def test_lidar_sees_the_same_views_for_everyone_and_always(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--task", "scenes-shape", "--measures", "lidar", "--lidar-images", "12", "--views", "3"]
    said = []
    for name in ("a", "b"):
        _measure(data, tmp_path / name, *asked)
        said.append(json.loads(capsys.readouterr().out))
    first, second = said
    assert _values(first) == _values(second)
    (line, _) = first["measures"]
    assert (line["images"], line["params"]["views"]) == (12, 3)
    assert 1 <= line["value"] <= 12
    assert not list((tmp_path / "a" / "features").rglob("features.bin"))  # no image's features were needed
    _measure(data, tmp_path / "a", *asked, "--seed", "1")
    other = json.loads(capsys.readouterr().out)
    assert other["added"] == 2
    assert len(set(_values(other).values()) - set(_values(first).values())) == 2


def test_a_part_of_a_folder_without_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the images that are looked at are extracted."""
    place = next(path for path in sorted(data.iterdir()) if path.is_dir())
    _measure(data, tmp_path / "out", "--task", f"images:{place}", "--images", "20", "--measures", "rankme")
    said = json.loads(capsys.readouterr().out)
    assert [line["images"] for line in said["measures"]] == [20, 20]
    sizes = {
        path.stat().st_size // 4 // said["measures"][0]["dim"][0]
        for path in (tmp_path / "out").rglob("features.bin")
    }
    assert sizes == {20}
    assert cli.main(["table", str(tmp_path / "out")]) == 1
    assert "no records in" in capsys.readouterr().err  # and no word of other files that have lines


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--task", "scenes-shape", "--measures", "rankmee"], "rankme"),
        (["--task", "scenes-shape", "--split", "trian"], "train"),
        (["--task", "scenes-shape", "--protocol", "finetune"], "frozen features"),
        (["--task", "scenes-shape", "--views", "1"], "--views 1"),
        (["--task", "images:/no/such/folder"], "no such folder"),
    ],
)
def test_wrong_use_is_one_line(
    data: Path, tmp_path: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["measure", "--checkpoint", NETS[0], "--data-root", str(data), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--quiet", *more]) in (1, 2)
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out" / "measures").exists()


def test_one_broken_checkpoint_stops_no_other(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(np.arange(50, dtype=np.uint8).tobytes())
    command = ["measure", "--checkpoint", f"broken={broken}", "vicreg-imagenette96", "--json"]
    command += [
        "--task",
        "scenes-shape",
        "--images",
        "20",
        "--measures",
        "rankme",
        "--data-root",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert list(said["failed"]) == ["broken"]
    assert [line["checkpoint"]["name"] for line in said["measures"]] == ["vicreg-imagenette96"]
    assert captured.err.startswith("mast: error: broken: ")
