"""Forecasts of a dry run: exact where the clock is made up, and never counting twice."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import features, scenes, tasks
from eval.checkpoints import load
from eval.cli import entry as cli
from eval.protocols.base import Context, Extraction
from eval.running import forecast
from eval.running.cell import context as cell_context
from eval.running.plan import make_cell
from mast.config import load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    scenes.write(root, size="test")
    return root


class Clock:
    """Time that only the work below moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(forecast, "time", made)
    return made


def test_pretraining_is_images_times_epochs_and_decoding(
    data: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run takes 7 s and 0.01 s an image; decoding takes 0.002 s an image: the 7 s are no part of the forecast."""
    asked: list[tuple[int, int]] = []

    def pretrain(recipe: Any, out: Path, **options: Any) -> None:
        asked.append((recipe.epochs, recipe.batch_size))
        batches = recipe.data.limit // recipe.batch_size
        clock.now += 7 + 0.01 * recipe.epochs * batches * recipe.batch_size

    def opened(images: Any, *args: Any, **options: Any) -> None:
        clock.now += 0.002 * images.limit

    monkeypatch.setattr(forecast, "pretrain", pretrain)
    monkeypatch.setattr(forecast, "load", opened)
    recipe = load_recipe("demo", ["epochs=30", "batch_size=50"])
    assert forecast.pretraining(recipe, data) == pytest.approx(
        30 * 100 * 0.01 + 120 * 0.002
    )  # 2 batches of 120 images
    assert asked == [(1, 50), (1, 50), (3, 50)]


def test_a_real_trial_leaves_nothing_and_tells_seconds(data: Path, tmp_path: Path) -> None:
    tiny = ["epochs=2", "batch_size=16", "expander=[16,16]", "arch=resnet10-c8-half"]
    before = sorted(data.rglob("*"))
    assert 0 <= forecast.pretraining(load_recipe("demo", tiny), data) < 300
    assert sorted(data.rglob("*")) == before


def test_stored_features_cost_nothing_and_no_pool_counts_twice(
    data: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extract_pool(backbone: Any, passport: Any, pool: Any, *args: Any, **options: Any) -> None:
        clock.now += 0.5 * len(pool)

    monkeypatch.setattr(forecast, "extract_pool", extract_pool)
    shape, colour = (tasks.get(name).open(data) for name in ("scenes-shape", "scenes-colour"))
    ref, store = "random:resnet10-c8-half", tmp_path / "features"

    def seconds(told: forecast.Features, opened: Any) -> float:
        return told.seconds("a", ref, {}, opened, Extraction())

    told = forecast.Features(store)
    assert seconds(told, shape) == pytest.approx(0.5 * 220)  # 120 + 40 + 60 images
    assert seconds(told, colour) == 0  # the same images under other labels
    assert told.seconds("a", ref, {}, shape, Extraction(image_size=48)) == pytest.approx(0.5 * 220)
    loaded = load(ref)
    features.extract(loaded.backbone, loaded.passport, shape.splits["test"], store=store)
    assert seconds(forecast.Features(store), shape) == pytest.approx(0.5 * 160)


def test_a_dry_run_tells_pretraining_and_features(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        "{name: tiny, description: x, pretrain: [{name: a, recipe: demo, seeds: [0, 1], overrides: [epochs=1, "
        "batch_size=16, 'expander=[16,16]', arch=resnet10-c8-half]}], cells: [{tasks: [scenes-shape, scenes-colour],"
        " protocols: [knn]}]}"
    )
    command = ["run", str(suite), "--data-root", str(data), "--out", str(tmp_path / "out"), "--dry-run"]
    assert cli.main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["work"], row["checkpoint"]) for row in rows] == [
        *(("pretraining", "a-0"), ("cell", "a-0"), ("cell", "a-0")),
        *(("pretraining", "a-1"), ("cell", "a-1"), ("cell", "a-1")),
    ]
    assert rows[0]["seconds"] == rows[3]["seconds"]  # seeds share a trial
    assert [row["features"] is not None and row["features"] > 0 for row in rows] == [False, True, False] * 2
    assert not (tmp_path / "out").exists()
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "Pretraining of 2 checkpoints: about " in said
    assert "Features: about " in said
    assert re.search(
        r"4 cells, 4 to run: [\d.]+ s\.\n", said
    )  # of checkpoints that are still to be pretrained


def context(data: Path, protocol: str, work: Path) -> Context:
    cell = make_cell("a", "scenes-shape", protocol, {}, 0)
    opened = tasks.get("scenes-shape").open(data)
    return cell_context(cell, load("random:resnet10-c8-half"), opened, store=work, work=work)


@pytest.mark.parametrize("growth", [0.0, 0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("examples", [120, 30, 4])
def test_a_fit_is_extrapolated_by_its_own_growth(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growth: float, examples: int
) -> None:
    """All data take 40 s; a quarter of them 40 / 4 ** growth. The first run, which is longer, does not count."""
    shares: list[float] = []

    def of_part(context: Context, share: float, width: int) -> float:
        shares.append(share)
        return (40.0 if len(shares) > 1 else 400.0) * share**growth

    monkeypatch.setattr(forecast, "_of_part", of_part)
    monkeypatch.setattr(forecast, "EXAMPLES", examples)
    found = forecast.fitting(context(data, "knn", tmp_path))
    assert found == pytest.approx(40.0)
    assert shares[:2] == [shares[0]] * 2
    assert all(b == min(1.0, 2 * a) for a, b in itertools.pairwise(shares[1:]))


@pytest.mark.parametrize("lacking", [0, 1, 2, 9])
def test_parts_that_are_too_small_are_passed_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    calls = iter([None] * (lacking + 1) + [0.3, 0.6, 1.2, 2.4])
    monkeypatch.setattr(forecast, "_of_part", lambda *given: next(calls) if lacking < 9 else None)
    monkeypatch.setattr(forecast, "EXAMPLES", 2)  # of 120, and so four a class
    found = forecast.fitting(context(data, "knn", tmp_path))
    assert (found is None) == (lacking == 9)


@pytest.mark.parametrize("protocol", ["knn", "ridge", "linear"])
def test_a_fit_is_the_protocols_own_on_features_that_are_made_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    there = context(data, protocol, tmp_path)
    given: list[dict[str, int]] = []
    measure = there.protocol.code.measure

    def counted(trial: Context) -> Any:
        width = load("random:resnet10-c8-half").backbone.feature_dim
        for name, split in trial.data.splits.items():
            made = trial.features(name)
            assert made.shape == (len(split), width)
            assert not (np.asarray(made) == 0).all()
        assert (trial.work, trial.seed) != (there.work, 1)
        given.append(trial.data.counts)
        return measure(trial)

    there.protocol.__dict__["code"] = replace(there.protocol.code, measure=counted)
    assert 0 < (forecast.fitting(there) or 0) < 60
    assert given[-1] == there.data.counts  # so few images that all are tried
    assert list(tmp_path.iterdir()) == []


def test_a_training_of_a_length_of_its_own_is_tried_for_a_few_batches(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell("a", "scenes-shape", "linear-sgd-dinov2", {}, 0)
    opened = tasks.get("scenes-shape").open(data)
    loaded = load("random:vit_w64_patch16_d4", input_size=32)
    there = cell_context(cell, loaded, opened, store=tmp_path, work=tmp_path)
    tried: list[tuple[int, int, int]] = []

    def of_part(context: Context, share: float, width: int) -> float:
        tried.append((context.params.epochs, context.params.epoch_length, width))
        return 2.0

    monkeypatch.setattr(forecast, "_of_part", of_part)
    assert forecast.fitting(there) == 2.0 * 12_500 / 4
    assert set(tried) == {(1, 4, 5 * 64)}
    monkeypatch.undo()
    assert 0 < (forecast.fitting(there) or 0) < 12_500


def test_pretrain_can_be_forecast_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "pretrain",
        "demo",
        "epochs=3",
        "batch_size=16",
        "arch=resnet10-c8-half",
        "--data-root",
        str(data),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "demo: 3 epochs of 120 images, about " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
