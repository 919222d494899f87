"""Every recipe that ships says what it costs and where it is from, and takes two steps on made-up images."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from mast.config import RECIPES, load_recipe, parse_recipe, recipe_names
from mast.errors import UserError
from mast.train import pretrain


@pytest.mark.parametrize("name", recipe_names())
def test_headers_give_command_and_cost(name):
    header = "".join(
        line for line in (RECIPES / f"{name}.yaml").read_text().splitlines(True) if line.startswith("#")
    )
    assert re.search(rf"(mast|eval\.cli)[\s\\#]+pretrain {name} ", header)
    assert re.search(r"Cost: .*(estimated|measured)", header)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory, data_root):
    """Eight of the made-up images."""
    root = tmp_path_factory.mktemp("few")
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for index in range(4):
            shutil.copy(data_root / "images" / name / f"{index}.jpg", root / "images" / name)
    return root


@pytest.mark.parametrize("name", [name for name in recipe_names() if "1000ep" not in name])
def test_every_recipe_takes_two_steps(tmp_path, few_images, name):
    """Its views, network and optimizer; few images, a narrow expander, and single precision for the CPU's sake."""
    own = load_recipe(name)
    stored = "" if own.data.store_size is None and own.data.format == "folders" else ", store_size: 32"
    changes = [f"data={{folder: images{stored}}}", "batch_size=4", "epochs=1", "expander=[32, 16]"]
    changes += ["precision=fp32", "stop_on_collapse=false", f"views.size={min(own.views.size, 48)}"]
    recipe = load_recipe(name, changes)
    path = pretrain(recipe, tmp_path, data_root=few_images, progress=False, workers=0)
    assert path.is_file()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 2
    assert state["history"][0]["loss"] > 0


def test_long_runs_are_the_short_ones_with_vicregs_numbers():
    for arm in ("vicreg", "mast5", "mast15"):
        short = load_recipe(f"imagenet-r50-{arm}-100ep").model_dump()
        long = load_recipe(f"imagenet-r50-{arm}-1000ep").model_dump()
        assert (short["epochs"], short["batch_size"], short["optimizer"]["base_lr"]) == (100, 512, 0.3)
        assert (long["epochs"], long["batch_size"], long["optimizer"]["base_lr"]) == (1000, 2048, 0.2)
        different = {key for key in short if short[key] != long[key]}
        assert different == {"name", "description", "source", "epochs", "batch_size", "optimizer"}


def test_the_arms_have_the_operations_they_are_named_for():
    five = ["crop", "flip", "color", "gray", "blur"]
    vicreg = load_recipe("imagenet-r50-vicreg-100ep").views
    assert list(vicreg.augmentations) == [*five, "solarize"]
    first, second = vicreg.build().augmentations, vicreg.build().second
    assert (first[4].p, second[4].p, first[5].p, second[5].p) == (1.0, 0.1, 0.0, 0.2)
    assert list(load_recipe("imagenet-r50-mast5-100ep").views.augmentations) == five
    mast15 = load_recipe("imagenet-r50-mast15-100ep").views
    assert list(mast15.augmentations)[:5] == five
    assert len(mast15.augmentations) == 15
    assert not mast15.second


def test_a_recipe_builds_on_another(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "base: demo\nname: own\nviews: {augmentations: {blur: null, gray: {p: 0.3}}}\n"
    )
    own = load_recipe(tmp_path / "own.yaml")
    assert own.views.augmentations["gray"] == {"p": 0.3}
    assert list(own.views.augmentations) == ["crop", "flip", "color", "gray"]
    assert own.epochs == load_recipe("demo").epochs
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"base: {loop}\nname: loop\n")
    with pytest.raises(UserError, match="built on this recipe"):
        load_recipe(loop)
    loop.write_text("base: dmo\nname: loop\n")
    with pytest.raises(UserError, match="did you mean demo"):
        load_recipe(loop)


def test_the_page_of_recipes_has_every_key_with_its_default():
    text = (Path(__file__).resolve().parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.0-9]+)` \| (.*?) \|", text, flags=re.MULTILINE))
    least = parse_recipe(
        {
            "name": "x",
            "method": "vicreg",
            "arch": "x",
            "data": {"folder": "x"},
            "views": {"size": 1, "augmentations": {"crop": {}}},
            "expander": [1],
            "optimizer": {"name": "sgd", "base_lr": 1, "weight_decay": 0},
            "batch_size": 2,
            "epochs": 1,
        },
        "least",
    )

    def flat(values, above=""):
        for key, value in values.items():
            yield above + key, value
            if isinstance(value, dict) and above + key != "views.augmentations":
                yield from flat(value, f"{above}{key}.")

    defaults = dict(flat(least.model_dump(mode="json")))
    required = {"name", "method", "arch", "data.folder", "views.size", "views.augmentations", "expander"}
    required |= {"batch_size", "epochs", "optimizer.name", "optimizer.base_lr", "optimizer.weight_decay"}
    assert set(rows) == set(defaults)
    for key, shown in rows.items():
        if key in required or (isinstance(defaults[key], dict) and defaults[key]):
            assert shown == ("required" if key in required else "")
        else:
            assert json.loads(shown.strip("`")) == defaults[key], key
