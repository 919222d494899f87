"""A smoke test: few examples of each split, other records than a real run's, and a warning in each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval import scenes, tasks
from eval.cli import entry as cli
from eval.datasets.base import Pool, Split
from eval.results import records
from mast.config import load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    scenes.write(root, size="test")
    return root


def test_classes_take_turns_and_the_pool_holds_nothing_else() -> None:
    labels = np.repeat([0, 1, 2, 3], [10, 3, 2, 10])
    paths = tuple(Path(f"/d/{index}.jpg") for index in range(25))
    split = Split("train", paths, labels).limited(8)
    assert split.labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]  # two classes of four each, one has three only
    assert split.pool.paths == split.paths == (*paths[:5], *paths[10:13])
    assert Split("train", paths, labels).limited(25).paths == paths


def test_images_of_an_archive_are_read_at_their_new_places() -> None:
    pool = Pool("a", tuple(Path(f"a#{i}") for i in range(6)), Path(), lambda index: index * 11, "f" * 64)  # type: ignore[arg-type, return-value]
    split = Split("train", pool.paths[2:], np.array([5, 6, 5, 6]), pool, np.arange(2, 6))
    some = split.limited(2)
    assert [some.pool.read(index) for index in range(2)] == [22, 33]
    assert some.pool.digest != pool.digest


def test_the_manifest_differs_and_says_the_limit(data: Path) -> None:
    whole = tasks.get("scenes-colour").open(data)
    some = whole.limited(10)
    assert some.counts == {"train": 10, "val": 10, "test": 10}
    assert some.notes["limit"] == "10 images of each split"
    assert some.manifest != whole.manifest


@pytest.mark.parametrize("name", ["scenes-voc-colour", "scenes-coco-colour"])
def test_detection_keeps_few_images_of_each_split(data: Path, name: str) -> None:
    some = tasks.get(name).open(data).limited(3)
    assert (some.counts["train_images"], some.counts["test_images"]) == (3, 3)
    if name == "scenes-coco-colour":
        assert some.test.completed is not None
        kept = {entry["image_id"] for entry in some.test.dicts}
        assert {image["id"] for image in some.test.completed["images"]} == kept
        assert {each["image_id"] for each in some.test.completed["annotations"]} <= kept


def test_a_recipe_becomes_short() -> None:
    recipe = load_recipe("imagenet-r50-mast5-100ep", ["epochs=300"], 12)
    assert (recipe.epochs, recipe.data.limit, recipe.batch_size, recipe.accumulate) == (1, 12, 12, 1)
    assert load_recipe("demo", [], 5000).batch_size == load_recipe("demo").batch_size


def test_a_smoke_test_is_never_taken_for_a_result(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "eval",
        "--checkpoint",
        "random:resnet10-c8-half",
        "--task",
        "scenes-colour",
        "--protocol",
        "knn",
    ]
    command += ["fewshot", "--data-root", str(data), "--out", str(tmp_path), "--quiet", "--json"]
    assert cli.main([*command, "--limit", "12"]) == 0
    assert cli.main([*command, "--limit", "12"]) == 0
    first, second = (json.loads(text + "}") for text in capsys.readouterr().out.split("}\n")[:2])
    assert (first["done"], second["skipped"]) == (2, 2)
    assert cli.main([*command, "--protocol", "knn"]) == 1  # few-shot needs more images than the data set has
    book = records.read([tmp_path])
    found = [record for record in book.counting() if record.protocol.name == "knn"]
    # Both may start in one second, and then their order says nothing.
    short, whole = sorted(found, key=lambda record: record.data.counts["train"])
    assert "a smoke test: at most 12 examples of each split were used" in short.warnings
    assert short.data.counts == {"train": 12, "val": 12, "test": 12}
    assert whole.data.counts == {"train": 120, "val": 40, "test": 60}
    assert short.run_id != whole.run_id
    assert not any("smoke" in warning for warning in whole.warnings)


@pytest.mark.parametrize("text", ["1", "0", "-3", "2.5", "many", "", "9" * 30])
def test_a_limit_that_is_no_number_of_examples(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", f"--limit={text}"]) == 2
    assert f"'{text}' is no whole number of 2 or more" in capsys.readouterr().err
