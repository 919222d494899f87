"""One command opens each data set once, reads records once before and once after, and builds its table once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import datasets, scenes
from eval.checkpoints import reading
from eval.cli import entry as cli
from eval.datasets import checks
from eval.results import records, tables


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scenes.write(tmp_path / "data", size="test")
    times: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            times[name] += 1
            return function(*args, **kwargs)

        return call

    for room, name in ((datasets, "load"), (reading, "load"), (records, "read"), (tables, "build")):
        title = f"{room.__name__}.{name}"
        monkeypatch.setattr(room, name, counted(title, getattr(room, name)))
    command = ["eval", "--checkpoint", "random:resnet10-c8-half@0", "random:resnet10-c8-half@1", "--task"]
    command += [
        "scenes-shape",
        "scenes-colour",
        "--protocol",
        "knn",
        "ridge",
        "--data-root",
        str(tmp_path / "data"),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert "8 cells run" in capsys.readouterr().out
    assert times == {
        "eval.datasets.load": 2,  # a label each of the same images
        "eval.checkpoints.reading.load": 2,
        "eval.results.records.read": 1,  # for the table; there was none to go on from
        "eval.results.tables.build": 1,
    }


def test_no_check_of_the_data_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image's header is read once and its content hashed once, however many cells look at it."""
    scenes.write(tmp_path / "data", size="test")
    headers: Counter[str] = Counter()
    contents: Counter[str] = Counter()
    header, read_bytes = checks.header, Path.read_bytes

    def counted_header(path: Any, name: str = "") -> Any:
        headers[str(path)] += 1
        return header(path, name)

    def counted_bytes(path: Path) -> bytes:
        if path.suffix == ".jpg":
            contents[str(path)] += 1
        return read_bytes(path)

    monkeypatch.setattr(checks, "header", counted_header)
    monkeypatch.setattr(Path, "read_bytes", counted_bytes)
    command = ["eval", "--checkpoint", "random:resnet10-c8-half@0", "--task", "scenes-shape", "scenes-colour"]
    command += [
        "--protocol",
        "knn",
        "ridge",
        "--data-root",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*command, "--quiet"]) == 0
    assert len(headers) == len(contents) > 0
    assert set(headers.values()) == set(contents.values()) == {1}


# What a Python that finds this on its path does first: tell which images it opens.
WATCH = """
import os, sys
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(FOLDER) and str(arguments[0]).endswith(".jpg"):
        log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, (str(arguments[0]) + "\\n").encode())
        os.close(log)
sys.addaudithook(hook)
"""


def test_two_jobs_open_no_image_oftener_than_one(tmp_path: Path) -> None:
    """Data are listed and hashed by one process, and each checkpoint's features come from one decoding."""
    data = tmp_path / "data"
    scenes.write(data, size="test")
    found = []
    for jobs in ("1", "2"):
        log, place = tmp_path / f"log{jobs}", tmp_path / f"path{jobs}"
        place.mkdir()
        (place / "sitecustomize.py").write_text(f"FOLDER, LOG = {str(data)!r}, {str(log)!r}\n{WATCH}")
        path = os.pathsep.join([str(place), os.getcwd(), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "eval.cli", "eval", "--task", "scenes-shape", "--protocol", "knn"]
        command += ["ridge", "--checkpoint", "random:resnet10-c8-half@0", "random:resnet10-c8-half@1"]
        command += ["--data-root", str(data), "--out", str(tmp_path / jobs), "--jobs", jobs, "--quiet"]
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found.append(Counter(log.read_text(encoding="utf-8").splitlines()))
    assert found[0]
    assert found[1] == found[0]


@pytest.mark.parametrize("name", ["scenes-voc", "scenes-coco"])
def test_no_check_of_detection_data_is_repeated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Annotations are read once, and every picture once for its size, once for its pixels, once for its hash."""
    pytest.importorskip("detectron2", reason="needs Detectron2: python -m eval.doctor.install")
    from eval.detection import data

    scenes.write(tmp_path / "data", size="test")
    monkeypatch.setattr(data, "_seen", {})
    times: dict[str, Counter[str]] = {}

    def counted(function: Callable[..., Any], of: str) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **more: Any) -> Any:
            times.setdefault(of, Counter())[f"{first} {rest if of.startswith('read') else ''}"] += 1
            return function(first, *rest, **more)

        return call

    layout = "voc" if name == "scenes-voc" else "coco"
    looked = ("header", "decode", "sha256_file", f"read_{layout}", "_manifest")
    for function in looked:
        monkeypatch.setattr(data, function, counted(getattr(data, function), function))
    root, out = ["--data-root", str(tmp_path / "data")], ["--out", str(tmp_path / "out")]
    command = [
        "eval",
        "--checkpoint",
        "random:resnet10-c8-half@0",
        "random:resnet10-c8-half@1",
        "--task",
        name,
    ]
    assert cli.main([*command, "--seeds", "0", "1", *root, *out, "--dry-run"]) == 0
    assert times["header"] == times["decode"]
    assert len(times["header"]) > 10
    assert set(times["header"].values()) == {1}
    for function in (f"read_{layout}", "_manifest"):
        assert sorted(times[function].values()) == [1] * (2 if function.startswith("read") else 1), function
    assert set(times.get("sha256_file", Counter({"": 1})).values()) == {1}
