"""Recipes: strict, typed, with the place and the near name in every error."""

import pytest

from mast.config import load_recipe, recipe_names
from mast.errors import UserError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_ships_is_valid(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.source
    assert recipe.views.build()


def test_overrides_reach_nested_keys_with_their_types():
    recipe = load_recipe(
        "demo", ["optimizer.base_lr=2e-3", "expander=[8, 4]", "views.augmentations.flip.p=0.1"]
    )
    assert recipe.optimizer.base_lr == 0.002
    assert recipe.expander == (8, 4)
    assert recipe.views.augmentations["flip"] == {"p": 0.1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.name=sgd", "did you mean.*optimizer"),
        ("optimizer.base_rl=1", "optimizer: unknown key 'base_rl' .*base_lr"),
        ("epochs=0", "epochs: .*greater than 0"),
        ("epochs=many", "epochs: .*found 'many'"),
        ("method=simclr", "vicreg.*mast"),
        ("views.augmentations.solarise={}", "unknown augmentation 'solarise'"),
        ("views.augmentations.flip.q=1", "augmentation 'flip'"),
        ("method=mast", "single_fraction"),
        ("views={size: 8, augmentations: {}, single_fraction: 0.6, all_but_fraction: 0.5}", "exceed 1"),
        ("masks={layout: own-closed, block: 0.3}", "5 blocks of 0.3"),
        ("epochs", "not of the form key=value"),
        ("name.x=1", "holds a value"),
    ],
)
def test_wrong_values_are_refused_in_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe("demo", [override])
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weights.sensitivity=5", "masks.lr=0"], "weights.sensitivity: no dimension is closed"),
        (["weights.prediction=5", "masks.level=features"], "weights.prediction: it acts on embeddings"),
        (
            ["weights.decorrelation=1", "masks={layout: own-closed, lr: 0}", "views.single_fraction=0"],
            "weights.decorrelation: it needs views.single_fraction or views.third_every",
        ),
        (
            ["weights.contrast=1", "masks.layout=own-closed", "views.third_every=4"],
            "weights.contrast: it needs views.third_every and views.all_but_fraction",
        ),
        (
            [
                *["weights.contrast=1", "masks.layout=own-closed", "views.third_every=4"],
                *["views.all_but_fraction=0.5", "weights.temperature=0"],
            ],
            "weights.temperature: 0 is not above 0",
        ),
        (["masks.predict=true"], "masks.predict: it needs weights.prediction"),
        (["masks.changes=features", "weights.sensitivity=1"], "masks.changes: features have no closed block"),
    ],
)
def test_sensitivity_that_could_do_nothing_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe("demo", ["method=mast", "views.single_fraction=0.25", *overrides])


def test_unknown_recipe_suggests_the_near_name():
    with pytest.raises(UserError, match="did you mean demo"):
        load_recipe("demmo")


def test_duplicate_keys_are_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match="'name' stands twice, on lines 1 and 2"):
        load_recipe(path)
