"""Protocol delta: several protocols, one feature set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import protocols, tasks
from eval.cli import entry as cli
from eval.protocols import Labelled
from eval.running import delta


@pytest.fixture(scope="module")
def rows() -> list[delta.Row]:
    generator = np.random.default_rng(0)
    y = generator.integers(3, size=300)
    x = (generator.normal(size=(300, 5)) + 1.5 * np.eye(5)[y]).astype(np.float32)
    chosen = [
        protocols.get(name).override({"penalties": [-2, 2, 5]})
        for name in ("linear", "linear-ericsson2021", "ridge")
    ]
    train, val = Labelled(x[:120], y[:120], 3), Labelled(x[120:180], y[120:180], 3)
    return delta.compare(chosen, train, val, (x[180:], y[180:]), metric="top1")


def test_the_first_protocol_is_what_others_are_compared_with(rows: list[delta.Row]) -> None:
    assert [row.protocol for row in rows] == ["linear v2", "linear-ericsson2021 v3", "ridge v1"]
    assert rows[0].delta == 0
    assert rows[2].delta == pytest.approx(rows[2].value - rows[0].value)
    assert all(row.interval and row.interval.low <= row.value <= row.interval.high for row in rows)


def test_the_table_states_the_spread(rows: list[delta.Row]) -> None:
    text = delta.render(rows)
    spread = 100 * (max(row.value for row in rows) - min(row.value for row in rows))
    assert f"moves top1 by {spread:.2f} points" in text
    assert text.count("| linear") == 2


def test_versions_of_a_task() -> None:
    names = [protocol.name for protocol in delta.versions(tasks.get("cifar10"), "linear")]
    assert {"linear", "linear-ericsson2021", "linear-augself2021", "linear-dinov2", "linear-sgd"} <= set(
        names
    )
    assert "knn" not in names


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 5)):
        for name in ("blue", "red"):
            for index in range(count):
                pixels = generator.integers(0, 90, (8, 8, 3), dtype=np.uint8)
                pixels[..., 2 if name == "blue" else 0] += 160
                path = tmp_path / "cifar10" / part / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    command = [
        "delta",
        "random:resnet10-c8-half@0",
        "--data-root",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
    ]
    names = ["knn-dino-k10", "linear", "ridge"]
    assert cli.main([*command, "--task", "cifar10", "--protocol", *names]) == 0
    said = capsys.readouterr()
    assert said.err.split() == names
    assert said.out.count("| top1 |") == 3
    assert "Protocol alone moves top1 by" in said.out
    assert "smoke" not in said.out
    assert cli.main([*command, "--task", "cifar10", "--protocol", "ridge", "linear", "--limit", "8"]) == 0
    assert capsys.readouterr().out.count("a smoke test: at most 8 examples of each split were used") == 1
    voc = [*command, "--task", "voc07-cls", "--protocol", "knn-dino-k10"]
    assert cli.main(voc) == 2
    assert (
        "knn-dino-k10 is for classification, and the task voc07-cls is multilabel" in capsys.readouterr().err
    )


def test_what_one_parameter_alone_moves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        for index in range(2):
            pixels = np.kron(np.random.default_rng(index).integers(0, 2, (8, 8)), np.ones((5, 5)))
            for what, values in (
                ("images", 200 * pixels[..., None].repeat(3, 2) + (split == "test")),
                ("masks", pixels),
            ):
                path = tmp_path / "own" / what / split / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(path)
    (tmp_path / "own/classes.txt").write_text("dark\nlight\n")
    command = [
        "delta",
        "random:resnet10-c8-half@0",
        "--task",
        f"seg:{tmp_path / 'own'}",
        "--protocol",
        "seg-knn-tiny",
    ]
    command += [
        "--data-root",
        str(tmp_path),
        "--out",
        str(tmp_path / "o"),
        "--set",
        "extraction.image_size=32",
    ]
    assert cli.main([*command, "--vary", "mask_size=null,8"]) == 0
    said = capsys.readouterr().out
    assert "| seg-knn-tiny v1 (mask_size=null) | miou |" in said
    assert "| seg-knn-tiny v1 (mask_size=8) | miou |" in said
    assert "Protocol alone moves miou by" in said
    assert cli.main([*command, "--vary", "mask_size"]) == 2
    assert "--vary mask_size: not of the form key=value,value" in capsys.readouterr().err
