"""Numbers of the peers' own code in tests/golden/protocols.json, which make_protocols.py there made, beside ours."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import datasets, protocols
from eval.datasets import ImageDataset, Split
from eval.numbers import metrics
from eval.protocols import Labelled, depthlinear, heads, splits, training
from eval.protocols.episodes import draw
from eval.protocols.heads import Heads
from eval.protocols.solver import solve
from eval.protocols.svm import low_shot_rows
from mast import config, optim

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = {
    name: entry["value"]
    for name, entry in json.loads((FOLDER / "protocols.json").read_text(encoding="utf-8")).items()
}


@pytest.fixture(scope="module")
def made() -> Any:
    """The module that made them, for its inputs."""
    spec = importlib.util.spec_from_file_location("make_protocols", FOLDER / "make_protocols.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_scores_are_visslis(made: Any) -> None:
    data = made.TOOLS.load()
    labels, scores = data["labels"][data["test"]].astype(float), data["x"][data["test"], :5].round(1)
    ours = [metrics.average_precision(scores[:, c], labels[:, c], ties="vissl") for c in range(5)]
    np.testing.assert_allclose(ours, GOLDEN["vissl ties"], rtol=0, atol=1e-12)
    together = [metrics.average_precision(scores[:, c], labels[:, c]) for c in range(5)]
    assert np.abs(np.array(together) - GOLDEN["vissl ties"]).max() > 1e-3  # what the mode is for


def test_svm_costs_are_visslis(made: Any) -> None:
    """liblinear draws at random within its tolerance of 1e-4, in their runs and in ours."""
    data, names = made.TOOLS.load(), made.names()
    parts = [
        Labelled(data["x"][p], data["labels"][p].astype(np.float32), 5, names[p])
        for p in (data["train"], data["val"])
    ]
    fitted = protocols.fit(protocols.get("svm-vissl").override({"costs": made.COSTS}), *parts)
    np.testing.assert_allclose(fitted.selected["value"], GOLDEN["vissl svm"]["ap"], rtol=0, atol=2e-3)
    assert fitted.selected["cost"] == GOLDEN["vissl svm"]["cost"]
    # Train, then val, as they were: other folds, other numbers.
    plain = [Labelled(part.features, part.labels, 5) for part in parts]
    other = protocols.fit(protocols.get("svm-vissl").override({"costs": made.COSTS}), *plain)
    assert np.abs(np.array(other.selected["value"]) - GOLDEN["vissl svm"]["ap"]).max() > 5e-3


def test_low_shot_samples_are_as_large_as_visslis(made: Any) -> None:
    labels = made.TOOLS.load()["labels"][:450]
    for column in range(5):
        chosen = labels[low_shot_rows(labels, column, 8, np.random.default_rng(0)), column]
        assert [int((chosen == symbol).sum()) for symbol in (1, 0, -1)] == GOLDEN["vissl low-shot"][column]


def test_head_is_visslis(made: Any) -> None:
    heads = Heads([0.05], 24, 6, protocols.get("linear-vissl").settings, seed=0, area=4)
    weight, bias = made.start_of_head()
    heads.weight.copy_(weight.T[None])
    heads.bias.copy_(bias[None])
    for _ in range(2):
        for x, y in made.batches():
            heads.step(x.flatten(1), y, 1.0)
    x = made.batches()[0][0].flatten(1)
    ours = heads.logits(heads.normalise(x, train=False))[0]
    torch.testing.assert_close(ours, torch.tensor(GOLDEN["vissl head"]), atol=2e-5, rtol=2e-5)


def test_grid_is_dinov2s(made: Any) -> None:
    """Which columns each head reads, the order of heads, rates, cosine and SGD, from the same weights."""
    params = protocols.get("linear-dinov2-grid").settings
    blocks = made.tokens()
    x = torch.cat([*(cls for _, cls in blocks), blocks[-1][0].mean(1)], 1)
    scale = params.batch_size / 256
    scores = []
    for part in params.parts:
        heads = Heads([rate * scale for rate in made.RATES], 40, 3, params, seed=0, part=part)
        weight, bias = made.start_of_grid(heads.weight.shape[1])
        heads.weight.copy_(weight.T.expand_as(heads.weight))
        heads.bias.copy_(bias.expand_as(heads.bias))
        for step in range(20):
            heads.step(x, made.LABELS, training.learning_share(params, 0, step, 20))
        scores += [heads.scores(x.numpy(), place) for place in range(2)]
    golden = GOLDEN["dinov2 grid"]["scores"]
    assert [name.partition("_lr")[0] for name in golden][::2] == [
        f"classifier_{blocks}_blocks_avgpool_{pool}" for blocks in (1, 4) for pool in (False, True)
    ]
    np.testing.assert_allclose(scores, list(golden.values()), rtol=2e-6, atol=2e-6)
    assert np.abs(np.diff(np.array(scores), axis=0)).max((1, 2)).min() > 0.01  # no two heads agree


def test_the_grids_values_are_those_of_dinov2s_script() -> None:
    told = GOLDEN["dinov2 grid"]["defaults"]
    for name in ("linear-dinov2-grid", "linear-sgd-dinov2"):
        params = protocols.get(name).settings
        assert [rate[-1] if isinstance(rate, tuple) else rate for rate in params.lr] == told["learning_rates"]
        assert (params.epochs, params.epoch_length) == (told["epochs"], told["epoch_length"])
        assert params.batch_size == 8 * told["batch_size"]  # eight GPUs
        assert (params.momentum, params.weight_decay, params.init_std) == (0.9, 0, 0.01)


def test_lightlys_optimiser() -> None:
    golden, params = GOLDEN["lightly sgd"], protocols.get("linear-lightly").settings
    ((_, head),) = params.lr
    ours = [[head * training.learning_share(params, 0, step, 12)] for step in range(12)]
    np.testing.assert_allclose(ours, golden["rates"], rtol=1e-12, atol=0)
    assert recipe(params) == {key: golden[key] for key in RECIPE}
    assert (params.epochs, params.drop_last) == (golden["epochs"], golden["drop_last"])


RECIPE = ("batch", "momentum", "weight_decay", "nesterov")


def recipe(params: Any) -> dict[str, Any]:
    values = params.batch_size, params.momentum, params.weight_decay, params.nesterov
    return dict(zip(RECIPE, values, strict=True))


@pytest.mark.parametrize(
    ("name", "source", "part"),
    [
        ("linear-moco", "moco sgd", "linear"),
        ("linear-barlowtwins", "barlowtwins sgd", "linear"),
        ("linear-vicreg", "vicreg sgd", "linear"),
        ("semi-vicreg-1pct", "vicreg sgd", "1%"),
        ("semi-vicreg-10pct", "vicreg sgd", "10%"),
        ("linear-vissl", "vissl sgd", "imagenet1k"),
        ("linear-places205-vissl", "vissl sgd", "places205"),
        ("linear-inat18-vissl", "vissl sgd", "inaturalist18"),
    ],
)
def test_rates_of_every_epoch_are_the_authors(name: str, source: str, part: str) -> None:
    golden, params = GOLDEN[source][part], protocols.get(name).settings
    (rate,) = params.lr
    groups = [rate] if isinstance(rate, float) else [rate[1], *([] if params.freeze else [rate[0]])]
    ours = [
        [peak * training.learning_share(params, epoch, 0, 1) for peak in groups]
        for epoch in range(params.epochs)
    ]
    np.testing.assert_allclose(ours, golden["rates"], rtol=1e-9, atol=0)
    assert recipe(params) == {key: golden[key] for key in RECIPE}
    if "start" in golden:
        assert (params.init, params.init_std) == ("normal", golden["start"]["std"])
        assert (golden["start"]["mean"], golden["start"]["bias"]) == (0, 0)


@pytest.mark.parametrize(
    ("name", "source", "part", "most"),
    [
        ("linear-sgd-moco", "moco sgd", "linear", 0),
        ("linear-sgd-vissl", "vissl sgd", "imagenet1k", 0),
        # One cosine over all steps: within an epoch it falls by up to pi / 200 of the peak, where theirs stays.
        ("linear-sgd-vicreg", "vicreg sgd", "linear", 0.0158),
    ],
)
def test_rates_on_stored_features_are_the_authors(name: str, source: str, part: str, most: float) -> None:
    """At the first batch of every epoch, and how far from theirs at the last."""
    golden, params = GOLDEN[source][part], protocols.get(name).settings
    (rate,), steps = params.lr, 50 * params.epochs

    def shares(batch: int) -> list[list[float]]:
        places = ((epoch, epoch * 50 + batch) for epoch in range(params.epochs))
        return [[rate * heads.schedule(params, step, steps, epoch)] for epoch, step in places]

    np.testing.assert_allclose(shares(0), golden["rates"], rtol=1e-9, atol=0)
    apart = np.abs(np.array(shares(49)) - golden["rates"]).max() / rate
    assert most * 0.95 - 1e-12 <= apart <= most + 1e-12
    assert recipe(params) == {key: golden[key] for key in RECIPE}
    if "start" in golden:
        assert (params.init, params.init_std) == ("normal", golden["start"]["std"])


def test_a_list_of_labelled_files_is_read_as_vicreg_reads_it(made: Any, tmp_path: Path) -> None:
    """The list is of train as it was before val was cut from it."""
    made.made_up_imagenet(tmp_path / "imagenet")
    (tmp_path / "imagenet_subsets").mkdir()
    (tmp_path / "imagenet_subsets" / "1percent.txt").write_text(made.LIST)
    data = datasets.load("imagenet", tmp_path)
    images = training.joined(data.splits["train"], data.splits["val"])
    assert (len(images), len(data.splits["val"])) == (24, 3)
    for name in ("semi-vicreg-1pct", "semi-vicreg-10pct"):
        percent = int(name.removeprefix("semi-vicreg-").removesuffix("pct"))
        assert protocols.get(name).settings.subset == made.SIMCLR % percent
    found = training.subset(images, made.SIMCLR % 1)
    ours = [[split.paths[row].parts[-2:], int(split.labels[row])] for split, row in found]
    assert [["/".join(path), label] for path, label in ours] == GOLDEN["vicreg lists"]["made up"]
    assert {split.name for split, _ in found} == {"train", "val"}


def test_the_recipe_of_stl10_is_augselfs_at_a_third_of_its_rate() -> None:
    golden, told = GOLDEN["augself pretraining"], config.load_recipe("stl10-r18-200ep")
    assert (told.batch_size, told.epochs, told.arch) == (golden["batch"], golden["epochs"], golden["model"])
    sgd = told.optimizer
    assert (sgd.name, sgd.momentum, sgd.weight_decay) == ("sgd", golden["momentum"], golden["weight_decay"])
    assert (sgd.rate_by, sgd.warmup_epochs, golden["nesterov"]) == ("epoch", 0, False)
    peak = sgd.base_lr * told.batch_size / 256
    ours = [
        optim.learning_rate(7 * epoch, 7 * told.epochs, 0, peak, sgd.final_lr) for epoch in range(told.epochs)
    ]
    np.testing.assert_allclose(3 * np.array(ours), golden["rates"], rtol=1e-9, atol=1e-12)
    first, second = golden["views"]
    assert first == second
    (_, crop), steps = golden["data"], {name: values for name, *values in first}
    ours_of = {key: dict(value) for key, value in told.views.augmentations.items()}
    assert crop == ["RandomResizedCrop", told.views.size, {"scale": list(ours_of["crop"]["scale"])}]
    color = ours_of["color"]
    amounts = [color[key] for key in ("brightness", "contrast", "saturation", "hue")]
    assert steps["ColorJitter"] == [*amounts, {"p": color["p"]}]
    assert steps["RandomGrayscale"] == [{"p": ours_of["gray"]["p"]}]
    assert steps["GaussianBlur"] == [ours_of["blur"]["kernel_size"], [0.1, 2.0], {}]
    assert golden["blur p"] == ours_of["blur"]["p"]
    assert steps["Normalize"] == [list(told.mean), list(told.std), {}]
    assert set(steps) - {"Normalize"} == {
        "RandomHorizontalFlip", "ColorJitter", "RandomGrayscale", "GaussianBlur"
    }  # fmt: skip


def test_votes_are_lightlys(made: Any) -> None:
    golden, params, data = GOLDEN["lightly knn"], protocols.get("knn-lightly"), made.TOOLS.load()
    assert (params.params["k"], params.params["temperature"]) == ([golden["knn_k"]], golden["knn_t"])
    parts = [Labelled(data["x"][data[name]], data["y"][data[name]], 6) for name in ("train", "val")]
    fitted = protocols.fit(params, *parts)
    found = fitted.scores(data["x"][data["test"]]).argmax(1)
    assert found.tolist() == golden["predicted"]


def test_the_sweep_is_dinov2s(made: Any) -> None:
    """Their classes with scikit-learn's estimator, which cuML's stands beside; and the certified optimum."""
    golden, data = GOLDEN["dinov2 sweep"], made.TOOLS.load()
    parts = [Labelled(data["x"][data[name]], data["y"][data[name]], 6) for name in ("train", "val")]
    fitted = protocols.fit(protocols.get("linear-dinov2"), *parts)
    assert fitted.selected["C"] == pytest.approx(golden["C"], rel=1e-6)
    assert fitted.selected["value"] == pytest.approx(golden["value"], abs=1e-6)
    assert fitted.probabilities is not None
    test = data["x"][data["test"]][:20]
    np.testing.assert_allclose(fitted.probabilities(test), golden["probabilities"], rtol=0, atol=1e-6)
    both = parts[0].joined(parts[1])
    best = solve(both.features, both.targets(), np.array([1 / golden["C"]]), tolerance=1e-9)
    assert best.gap[0] < 1e-9
    exact = metrics.softmax(test @ best.weights[0] + best.biases[0])
    np.testing.assert_allclose(exact, golden["probabilities"], rtol=0, atol=1e-5)


def test_depths_and_their_loss_are_dinov2s(made: Any) -> None:
    golden, (maps, tokens, weight, truth) = GOLDEN["dinov2 depth"], made.depth_inputs()
    params = protocols.get("depth-linear").override({"bins": 16}).settings
    layer = torch.nn.Conv2d(12, 16, 1)
    with torch.no_grad():
        layer.weight.copy_(weight[:, :, None, None])
        layer.bias.zero_()
        both = torch.cat([maps, tokens[:, :, None, None].expand_as(maps)], 1)  # as `last+cls` stores them
        depths = depthlinear.depths(layer, both, params)
        losses = [float(depthlinear.loss_of(depths, truth, warm)) for warm in (True, True, False)]
    torch.testing.assert_close(depths[0, 0, ::4], torch.tensor(golden["depths"]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-5)
    assert golden["gradient"] == 0  # and so it is left out


@pytest.mark.parametrize("how", ["ssl-transfer", "dinov2", "augself"])
def test_val_is_the_authors(made: Any, how: splits.Published) -> None:
    golden = GOLDEN[f"{how} split"]
    for name, expected in golden.items():
        count = made.COUNTS.get(name) or int(name)
        paths = tuple(Path(f"/d/{number}") for number in range(count))
        whole = Split("train", paths, np.zeros(count, dtype=np.int64))
        parts = {"train": whole.subset(np.arange(1, count)), "val": whole.subset(np.arange(1)), "test": whole}
        found = splits.cut(ImageDataset(name, ("a",), parts, {"val": "cut"}), how)
        assert made.short(found.splits["val"].rows) == expected, name
    assert len(golden) == {"augself": len(splits.AUGSELF), "dinov2": 1, "ssl-transfer": 2}[how]


def test_short_classes_are_augselfs() -> None:
    labels = np.repeat(np.arange(7), [30, 30, 30, 30, 12, 6, 5])
    chosen = draw(labels, way=5, shots=5, queries=16, num_episodes=600, seed=0, resample=True)
    shown = labels[chosen.support[..., 0]]
    golden = GOLDEN["augself sampler"]
    assert np.unique(shown).tolist() == golden["classes"]
    assert golden["shared by support and query"] == 0
    for label, expected in golden["queries that stand twice"].items():
        twice = [16 - len(set(query)) for query in chosen.query[shown == int(label)]]
        # Of 7 images 16 draws show 6.4 on average, with a standard deviation of 0.7 over some 140 of their draws.
        assert np.mean(twice) == pytest.approx(expected, abs=0.3)
