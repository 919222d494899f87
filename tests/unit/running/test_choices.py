"""What is chosen of a feature, by --features and --precision: in plans, records, tables and the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval import features, suites
from eval.checkpoints import load
from eval.cli import entry as cli
from eval.datasets import Split
from eval.errors import UserError
from eval.results import records
from eval.results.records import Record
from eval.running import plan as plans
from eval.running.request import Request, plan

VIT = "random:vit_w64_patch16_d4@0"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for label in ("blue", "red"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(8):
                noise = np.random.default_rng([index, ord(split[1])]).integers(
                    0, 200, (32, 32, 3), dtype=np.uint8
                )
                noise[..., 2 * (label == "blue")] += 30
                Image.fromarray(noise).save(folder / f"{split}{index}.png")
    return tmp_path / "data"


def wanted(*protocols: str, **more: Any) -> Request:
    return Request(checkpoints=(f"mine={VIT}",), tasks=("cifar10",), protocols=protocols, **more)


def run(data: Path, out: Path, *more: str) -> list[Record]:
    command = ["eval", "--checkpoint", f"mine={VIT}", "--task", f"folder:{data}", "--input-size", "32"]
    assert cli.main([*command, "--out", str(out), "--jobs", "1", *more]) == 0
    return records.read([out]).counting()


# --- features ------------------------------------------------------------------------------------------------


def test_what_reads_no_feature_is_planned_once() -> None:
    made = plan(wanted("knn", "attentive", reading={"features": "cls,mean"}))
    cells = [(cell.checkpoint, cell.protocol.name) for cell in made.cells]
    assert cells == [("mine-cls", "knn"), ("mine-mean", "knn"), ("mine", "attentive")]
    assert [source.options for source in made.sources if source.name == "mine"] == [{}]
    assert made.notes == ("--features cls,mean changes nothing for attentive: measured once, as mine",)


def test_names_of_features_are_checked_before_anything_runs() -> None:
    for wrong in ("cls,", "cls,gem", "Mean"):
        with pytest.raises(UserError, match="known: cls, mean"):
            plan(wanted("knn", reading={"features": wrong}))
    twice = plan(wanted("knn", reading={"features": "cls,cls"}))
    assert [(source.name, source.options) for source in twice.sources] == [("mine", {"features": "cls"})]


def test_where_nothing_reads_a_feature_no_choice_is_planned() -> None:
    made = plan(wanted("attentive", "linear-sgd-dinov2", reading={"features": "cls,mean"}))
    assert {cell.checkpoint for cell in made.cells} == {"mine"}
    assert [source.name for source in made.sources] == ["mine"]
    assert "attentive, linear-sgd-dinov2" in made.notes[0]


def test_what_it_is_compared_with_keeps_its_own_feature() -> None:
    given = wanted(
        "knn", "attentive", reading={"features": "cls,mean"}, against=("theirs=random:vit_w64_patch16_d4@1",)
    )
    made = plan(given)
    assert [cell.protocol.name for cell in made.cells if cell.checkpoint == "theirs"] == ["knn", "attentive"]
    (theirs,) = (source for source in made.sources if source.name == "theirs")
    assert theirs.options == {}


def test_the_record_of_tokens_does_not_name_a_feature(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--protocol", "knn", "attentive-tiny", "--limit", "16"]
    first = {
        record.protocol.name: record for record in run(data, tmp_path / "run", *tiny, "--features", "mean")
    }
    assert (
        "--features mean changes nothing for attentive-tiny: measured as without it"
        in capsys.readouterr().err
    )
    assert first["knn"].checkpoint.preprocessing["pooling"] == "mean"
    assert "pooling" not in first["attentive-tiny"].checkpoint.preprocessing
    kept = sorted((tmp_path / "run" / "passports").iterdir())
    assert [json.loads(path.read_text())["network"] for path in kept] in (
        [{}, {"pooling": "mean"}], [{"pooling": "mean"}, {}],
    )  # fmt: skip
    again = run(data, tmp_path / "run", *tiny)
    assert len(again) == 3  # another k-NN, the same attentive probe
    assert "done before" in capsys.readouterr().err


# --- precision -----------------------------------------------------------------------------------------------


def test_bf16_stands_in_record_run_id_and_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--protocol", "knn", "attentive-tiny", "--limit", "16"]
    plain = run(data, tmp_path / "run", *both)
    assert all("precision" not in record.checkpoint.preprocessing for record in plain)
    found = run(data, tmp_path / "run", *both, "--precision", "bf16")
    assert len(found) == 4
    assert len({record.run_id for record in found}) == 4
    reduced = [r for r in found if r.checkpoint.preprocessing.get("precision") == "bfloat16"]
    assert {record.protocol.name for record in reduced} == {"knn", "attentive-tiny"}
    capsys.readouterr()
    assert cli.main(["table", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out
    assert "mine (bfloat16)" in table
    assert table.count("mine ") >= 4  # each in a row of its own


def test_bf16_is_what_extract_computes_in_bfloat16(data: Path, tmp_path: Path) -> None:
    paths = tuple(sorted(data.rglob("*.png")))[:6]
    split = Split("train", paths, np.zeros(6, dtype=np.int64))
    plain, reduced = (load(VIT, input_size=32, precision=word) for word in ("fp32", "bf16"))
    assert (plain.passport.precision, reduced.passport.precision) == ("float32", "bfloat16")
    full = features.extract(plain.backbone, plain.passport, split, store=tmp_path / "s")
    said = features.extract(plain.backbone, plain.passport, split, store=tmp_path / "a", dtype="bfloat16")
    found = features.extract(reduced.backbone, reduced.passport, split, store=tmp_path / "b")
    np.testing.assert_array_equal(found, said)
    assert 0 < np.abs(found - full).max() < 0.05 * np.abs(full).max()
    keys = [next((tmp_path / name).glob("*/*/features.bin")).parent.name for name in "sab"]
    assert keys[1] == keys[2] != keys[0]


@pytest.mark.parametrize("protocol", ["finetune", "linear-dinov2-grid"])
def test_what_computes_in_float32_is_refused_in_another_precision(protocol: str) -> None:
    with pytest.raises(UserError, match=f"{protocol} computes with the network itself, in float32"):
        plan(wanted(protocol, reading={"precision": "bf16"}))
    assert plan(wanted(protocol, reading={"precision": "fp32"})).cells


def test_controls_and_what_it_is_compared_with_are_computed_alike() -> None:
    given = Request(checkpoints=("mine=timm:a", "random:resnet18@0"), tasks=("cifar10",), protocols=("knn",),
                    against=("theirs=timm:b",), reading={"precision": "bf16", "heads": 3})  # fmt: skip
    options = {source.name: source.options for source in plan(given).sources}
    assert options == {
        "mine": {"precision": "bf16", "heads": 3}, "theirs": {"precision": "bf16"},
        "random-resnet18-0": {"precision": "bf16"},
    }  # fmt: skip


def test_a_control_alone_takes_the_size_that_is_said() -> None:
    reading = {"input_size": 32, "heads": 2, "interpolation": "bicubic"}
    alone = plan(Request(("random:resnet18@0",), ("cifar10",), ("knn",), reading=reading))
    assert [source.options for source in alone.sources] == [{"input_size": 32, "interpolation": "bicubic"}]
    beside = plan(Request(("timm:a", "random:resnet18@0"), ("cifar10",), ("knn",), reading=reading))
    assert [(source.like, source.options) for source in beside.sources] == [("", reading), ("timm-a", {})]


def test_a_suite_says_it_too() -> None:
    block = {"tasks": ["cifar10"], "protocols": ["knn"]}
    one = {"name": "mine", "ref": VIT, "options": {"features": "mean", "precision": "bf16"}}
    suite = suites.parse({"name": "s", "description": "d", "checkpoints": [one], "cells": [block]}, "s.yaml")
    (source,) = plans.plan(suite).sources
    assert source.options == {"features": "mean", "precision": "bf16"}
    for wrong in ({"precision": "fp8"}, {"trust_pickle": True}, {"feature": "mean"}):
        with pytest.raises(UserError):
            suites.parse(
                {
                    "name": "s",
                    "description": "d",
                    "checkpoints": [one | {"options": wrong}],
                    "cells": [block],
                },
                "s",
            )


def test_an_unknown_precision(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="known: fp32, bf16"):
        load(VIT, precision="fp8")
