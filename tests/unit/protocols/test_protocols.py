"""k-NN, ridge, SVM, SGD: against independent implementations; and what holds for every protocol."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from eval import protocols, tasks
from eval.errors import UserError
from eval.features.matrices import Rows
from eval.numbers import intervals, metrics
from eval.protocols import Labelled, kinds
from eval.protocols.knn import votes
from eval.protocols.svm import low_shot_rows

from .test_linear import clusters, parts

SMALL: dict[str, dict[str, Any]] = {
    "linear": {"penalties": [-2, 3, 6]},
    "linear-ericsson2021": {"penalties": [-2, 3, 6]},
    "linear-dinov2": {"penalties": [-3, 2, 6], "max_iter": 200},
    "linear-augself2021": {"penalties": [-2, 3, 3], "max_iter": 100},
    "ridge": {"penalties": [-2, 3, 6]},
    "linear-sgd": {"epochs": 30},
    "knn": {},
    "knn-dino-k20": {},
}


def fit(name: str, train: Labelled, val: Labelled, **options: Any) -> protocols.Fitted:
    return protocols.fit(protocols.get(name).override(SMALL.get(name, {})), train, val, **options)


# -- every protocol --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_planted_features_give_100_percent(name: str) -> None:
    train, val, test = parts(60, 8, 3, spread=0.02)
    fitted = fit(name, train, val)
    assert metrics.top1(fitted.scores(np.asarray(test.features)), test.labels) == 1.0


@pytest.mark.parametrize("name", SMALL)
def test_permuted_labels_give_chance(name: str) -> None:
    x, _ = clusters(1200, 8, 4)
    y = np.random.default_rng(5).integers(4, size=1200)
    train, val, test = (Labelled(x[i::3], y[i::3], 4) for i in range(3))
    fitted = fit(name, train, val)
    hits = metrics.correct(fitted.scores(np.asarray(test.features)), test.labels)
    interval = intervals.wilson(int(hits.sum()), len(hits), 0.999)
    assert interval.low <= 0.25 <= interval.high


def test_no_protocol_can_be_given_test_data() -> None:
    """By signature: a protocol takes train and val, and its result takes features without labels."""
    fits = {kind: kinds.find(kind).fit for kind in kinds.names()}
    assert {kind for kind, fit in fits.items() if fit} == {"knn", "linear", "ridge", "sgd", "svm"}
    for fit in filter(None, fits.values()):
        arguments = list(inspect.signature(fit).parameters)
        assert arguments == ["train", "val", "params", "seed", "metric_name"]
    train, val, test = parts(30, 4, 2)
    with pytest.raises(TypeError):
        protocols.fit(protocols.get("knn"), train, val, test=test)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        protocols.fit(protocols.get("knn"), train, val, test)  # type: ignore[misc]


@pytest.mark.parametrize("name", SMALL)
def test_selection_does_not_move_with_the_test_set(name: str) -> None:
    """Scores of an example do not depend on which others are scored with it."""
    train, val, test = parts(60, 8, 3, spread=2.0)
    fitted = fit(name, train, val)
    x = np.asarray(test.features)
    np.testing.assert_allclose(fitted.scores(x)[5:7], fitted.scores(x[5:7]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_twice(name: str) -> None:
    train, val, test = parts(60, 8, 3, spread=2.0)
    x = np.asarray(test.features)
    first, second = (fit(name, train, val, seed=3) for _ in range(2))
    assert np.array_equal(first.scores(x), second.scores(x))
    assert first.selected == second.selected


@pytest.mark.parametrize("name", SMALL)
def test_empty_parts_are_refused(name: str) -> None:
    train, val, _ = parts(30, 4, 2)
    empty = Labelled(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 2)
    with pytest.raises(UserError, match="val split holds no examples"):
        fit(name, train, empty)
    with pytest.raises(UserError, match="train split holds no examples"):
        fit(name, empty, val)


def test_labelled_checks_itself() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Labelled(np.zeros((3, 2)), np.zeros(2, int), 2)
    with pytest.raises(ValueError, match="labels from 0 to 5"):
        Labelled(np.zeros((2, 2)), np.array([0, 5]), 2)


@pytest.mark.parametrize(
    ("name", "key", "good", "wrong"),
    [
        ("knn", "k", [[5], [5, 10]], ["foo", ["a"], [], None, True]),
        ("knn", "temperature", [0.5, 1], ["hot", [0.1], False]),
        ("knn", "refit", [True], ["maybe", 1]),
        ("finetune", "lr", [[[0, 0.1]]], [0.1, "fast"]),
        ("finetune", "epochs", [3], [2.5, "many"]),
        ("finetune", "weight_decay", [0, 0.1], ["none"]),
        ("semi-1pct", "subset", [0.02, None, "1percent.txt"], [[1]]),
        ("svm-low-shot-4", "shots", [8], ["few", 1.5]),
        ("fewshot", "head", ["ridge"], [3, "oracle"]),
        ("fewshot", "transform", ["l2"], ["zca"]),
        ("svm-vissl", "extraction", [{"squash": False, "resize": 256}], [{"squish": True}, 224]),
        ("linear-ericsson2021", "penalties", [[0, 1, 3]], [5, [0, 1], [0, 1, 0]]),
    ],
)
def test_a_parameter_takes_values_of_its_kind(
    name: str, key: str, good: list[object], wrong: list[object]
) -> None:
    protocol = protocols.get(name)
    for value in good:
        assert protocol.override({key: value}).params[key] == value
    for value in wrong:
        with pytest.raises(UserError, match=f"parameter {key} of protocol {name} cannot be") as caught:
            protocol.override({key: value})
        assert caught.value.code == 2


def test_one_value_stands_for_a_list_of_one() -> None:
    assert protocols.get("knn").override({"k": 5}).params["k"] == [5]


def test_every_protocol_fits_its_own_kind() -> None:
    for protocol in map(protocols.get, protocols.names()):
        assert protocol.override({}) == protocol
        if protocol.kind != "detection":  # whose overrides are Detectron2's keys
            assert protocol.override(protocol.params) == protocol


def test_every_task_names_protocols_that_exist_and_every_protocol_has_a_source() -> None:
    for name in tasks.names():
        for protocol in tasks.get(name).protocols:
            assert protocols.get(protocol).source
    with pytest.raises(UserError, match="did you mean"):
        protocols.get("linaer")
    with pytest.raises(UserError, match="did you mean"):
        tasks.get("scenes-shap")


def test_every_frozen_protocol_runs_as_it_stands_on_a_small_set() -> None:
    x, y = clusters(600, 6, 3, spread=1.0)
    labels = np.eye(3, dtype=np.float32)[y]
    for name in protocols.names():
        protocol = protocols.get(name)
        if protocol.code.fit is None:
            continue
        if name == "linear-augself2021":  # 45 fits of 5000 iterations
            continue
        target = labels if protocol.kind == "svm" else y
        train, val = Labelled(x[:300], target[:300], 3), Labelled(x[300:450], target[300:450], 3)
        if "epochs" in protocol.params:
            protocol = protocol.override({"epochs": 20})
        fitted = protocols.fit(protocol, train, val)
        assert metrics.top1(fitted.scores(x[450:]), y[450:]) > 0.45, name  # chance is 0.33


# -- k-NN ------------------------------------------------------------------------------------------------------


def test_votes_are_dinos() -> None:
    """eval_knn.py's `knn_classifier` written with numpy: top k by cosine, one-hot times exp(similarity / T)."""
    bank, queries, _ = parts(80, 5, 3, spread=2.0)
    x, q = (p / np.linalg.norm(p, axis=1, keepdims=True) for p in (bank.features[:], queries.features[:]))
    similarity = q @ x.T
    for k in (1, 7, 80):
        expected = np.zeros((len(q), 3))
        for i, row in enumerate(similarity):
            for j in np.argsort(-row)[:k]:
                expected[i, bank.labels[j]] += np.exp(float(row[j]) / 0.07)
        found = votes(bank, np.asarray(queries.features), [k], 0.07)[0]
        # float32 similarities, divided by 0.07 and exponentiated: relative error about 1e-6.
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_uniform_votes_are_scikit_learns() -> None:
    bank, queries, _ = parts(80, 5, 3, spread=2.0)
    theirs = KNeighborsClassifier(9, metric="cosine").fit(bank.features[:], bank.labels)
    found = votes(bank, np.asarray(queries.features), [9], 1e6)[0]
    shares = found / found.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.predict_proba(queries.features[:]), atol=1e-5)


def test_blocks_of_the_bank_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries, _ = parts(70, 5, 3, spread=2.0)
    from eval.protocols import knn

    whole = votes(bank, np.asarray(queries.features), [3, 20], 0.07)
    monkeypatch.setattr(knn, "BANK", 16)
    monkeypatch.setattr(knn, "CHUNK", 8)
    np.testing.assert_allclose(votes(bank, np.asarray(queries.features), [3, 20], 0.07), whole, rtol=1e-5)


def test_k_is_chosen_on_val_and_clamped() -> None:
    train, val, _ = parts(30, 5, 3, spread=1.5)
    fitted = fit("knn", train, val)
    assert fitted.selected["k"] in (10, 20, 30)
    assert any("clamped" in warning for warning in fitted.warnings)
    alone = fit("knn-dino-k20", train, val)
    assert (alone.selected["k"], alone.selected["split"]) == (20, None)
    with pytest.raises(UserError, match=r"cannot be \[0\].*greater than 0"):
        protocols.get("knn").override({"k": [0]})


# -- ridge -----------------------------------------------------------------------------------------------------


def test_ridge_is_scikit_learns() -> None:
    train, val, test = parts(60, 9, 3, spread=2.0)
    fitted = fit("ridge", train, val)
    both = train.joined(val)
    theirs = Ridge(alpha=fitted.selected["lambda"]).fit(
        np.asarray(both.features, dtype=np.float64), both.targets()
    )
    x = np.asarray(test.features)
    np.testing.assert_allclose(fitted.scores(x), theirs.predict(x.astype(np.float64)), atol=1e-8)


# -- SVM -------------------------------------------------------------------------------------------------------


def test_svm_is_visslis() -> None:
    x, y = clusters(180, 6, 3, spread=1.5)
    labels = np.eye(3, dtype=np.float32)[y]
    labels[0, 1] = -1  # a difficult object trains as a negative
    train, val = Labelled(x[:90], labels[:90], 3), Labelled(x[90:], labels[90:], 3)
    fitted = protocols.fit(
        protocols.get("svm-vissl").override({"costs": [0.1, 1.0]}), train, val, metric="map_area"
    )
    unit = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1) + 1e-5)[:, None]
    for column in range(3):
        target = np.where(labels[:, column] > 0, 1, -1)
        model = LinearSVC(
            C=fitted.selected["cost"][column], class_weight={1: 2, -1: 1}, intercept_scaling=1.0,
            loss="squared_hinge", dual=True, max_iter=2000, random_state=0,
        ).fit(unit, target)  # fmt: skip
        np.testing.assert_allclose(fitted.scores(x)[:, column], model.decision_function(unit), atol=1e-6)
    table = np.array(fitted.selected["value"])
    assert [[0.1, 1.0][i] for i in table.argmax(1)] == fitted.selected["cost"]


def test_low_shot_samples_are_visslis() -> None:
    """`create_low_shot_samples.py`: k positives, and (C - 1) k of everything that is negative, none difficult."""
    generator = np.random.default_rng(0)
    labels = (generator.random((400, 4)) < 0.3).astype(np.float32)
    labels[generator.random((400, 4)) < 0.05] = -1
    rows = low_shot_rows(labels, 2, 5, np.random.default_rng(0))
    assert np.unique(labels[rows, 2], return_counts=True)[1].tolist() == [15, 5]
    assert len(np.unique(rows)) == 20
    other = low_shot_rows(labels, 2, 5, np.random.default_rng(1))
    assert rows.tolist() != other.tolist()
    # Every negative is as likely as any other, whatever else it shows.
    counts = np.zeros(400)
    for seed in range(2000):
        counts[low_shot_rows(labels, 2, 5, np.random.default_rng(seed))] += 1
    negative = labels[:, 2] == 0
    expected = 2000 * 15 / negative.sum()
    assert np.abs(counts[negative] - expected).max() < 5 * expected**0.5
    few = labels.copy()
    few[3:, 2] = 0
    few[:3, 2] = 1
    assert (few[low_shot_rows(few, 2, 5, np.random.default_rng(0)), 2] == 1).sum() == 3


def test_low_shot_svms_are_fitted_on_the_sample_and_chosen_on_the_rest() -> None:
    x, y = clusters(240, 6, 3, spread=1.5)
    labels = np.eye(3, dtype=np.float32)[y]
    train, val = Labelled(x[:150], labels[:150], 3), Labelled(x[150:], labels[150:], 3)
    protocol = protocols.get("svm-low-shot-4").override({"costs": [0.001, 1.0]})
    fitted = protocols.fit(protocol, train, val, seed=3)
    unit = x.astype(np.float64) / (np.linalg.norm(x.astype(np.float64), axis=1) + 1e-5)[:, None]
    generator = np.random.default_rng(3)
    rows = [low_shot_rows(labels, column, 4, generator) for column in range(3)]
    values, scores = [], []
    for cost in (0.001, 1.0):
        models = [
            LinearSVC(
                C=cost,
                class_weight={1: 2, -1: 1},
                loss="squared_hinge",
                dual=True,
                max_iter=2000,
                random_state=3,
            ).fit(unit[rows[c]], 2 * labels[rows[c], c].astype(int) - 1)
            for c in range(3)
        ]
        rest = [np.setdiff1d(np.arange(240), rows[c]) for c in range(3)]
        points = [
            metrics.average_precision(models[c].decision_function(unit[rest[c]]), labels[rest[c], c])
            for c in range(3)
        ]
        values.append(np.mean(points))
        scores.append(np.stack([model.decision_function(unit) for model in models], 1))
    assert fitted.selected["value"] == pytest.approx(values)
    assert fitted.selected["cost"] == [0.001, 1.0][int(np.argmax(values))]
    np.testing.assert_allclose(fitted.scores(x), scores[int(np.argmax(values))], atol=1e-6)


def test_svm_folds_go_over_the_sorted_list() -> None:
    """VISSL's list of train and val is sorted by name; folds are cut from it in that order."""
    x, y = clusters(180, 6, 3, spread=2.5)
    labels = np.eye(3, dtype=np.float32)[y]
    names = np.array([f"{number:06}.jpg" for number in np.random.default_rng(1).permutation(180)])
    order = np.argsort(names)
    protocol = protocols.get("svm-vissl").override({"costs": [0.1, 1.0]})
    parts = [slice(0, 90), slice(90, 180)]
    ours = protocols.fit(protocol, *(Labelled(x[p], labels[p], 3, names[p]) for p in parts))
    theirs = protocols.fit(protocol, *(Labelled(x[order][p], labels[order][p], 3) for p in parts))
    assert ours.selected["value"] == theirs.selected["value"]
    unsorted = protocols.fit(protocol, *(Labelled(x[p], labels[p], 3) for p in parts))
    assert ours.selected["value"] != unsorted.selected["value"]


def test_svm_leaves_out_classes_too_small_for_its_folds() -> None:
    labels = np.zeros((30, 2), np.float32)
    labels[:2, 0] = labels[::2, 1] = 1
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    train, val = Labelled(x[:20], labels[:20], 2), Labelled(x[20:], labels[20:], 2)
    fitted = protocols.fit(protocols.get("svm-vissl").override({"costs": [1.0]}), train, val)
    assert fitted.selected["cost"] == [None, 1.0]
    assert (fitted.scores(x)[:, 0] == 0).all()
    assert any("classes [0]" in warning for warning in fitted.warnings)
    few = Labelled(x[:20], np.zeros((20, 2), np.float32), 2)
    with pytest.raises(UserError, match="no class has 3 positives"):
        protocols.fit(protocols.get("svm-vissl"), few, few)


# -- SGD -------------------------------------------------------------------------------------------------------


def test_sgd_heads_are_torchs_sgd() -> None:
    import torch

    from eval.protocols.heads import Heads

    params = protocols.get("linear-sgd-vissl").override({"batchnorm": False, "affine": False}).settings
    heads = Heads([0.1, 0.5], 4, 3, params, seed=0)
    start = heads.weight[1].clone()
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(start.T)
        layer.bias.copy_(heads.bias[1])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x, y = torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
        heads.step(x, y, 1.0)
    torch.testing.assert_close(heads.weight[1], layer.weight.T.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(heads.bias[1], layer.bias.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("area", [1, 4])
def test_vissls_head_is_trained_as_vissl_trains_it(area: int) -> None:
    """BatchNorm2d over a channel's positions, with its defaults and not decayed, then nn.Linear; Nesterov."""
    import torch

    from eval.protocols.heads import Heads

    dim = 4 * area
    heads = Heads([0.1, 0.5], dim, 3, protocols.get("linear-sgd-vissl").settings, seed=0, area=area)
    bound = dim**-0.5
    assert 0 < heads.bias.abs().max() <= bound
    assert 0.5 * bound < heads.weight.abs().max() <= bound
    norm, layer = torch.nn.BatchNorm2d(4), torch.nn.Linear(dim, 3)
    with torch.no_grad():
        layer.weight.copy_(heads.weight[1].T)
        layer.bias.copy_(heads.bias[1])
    groups = [
        {"params": norm.parameters(), "weight_decay": 0.0},
        {"params": layer.parameters(), "weight_decay": 5e-4},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.5, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        x, y = 3 * torch.randn(16, dim, generator=generator) + 1, torch.randint(3, (16,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(norm(x.view(16, 4, -1, 1)).flatten(1)), y).backward()
        optimizer.step()
        heads.step(x, y, 1.0)
    norm.eval()
    expected = layer(norm(x.view(16, 4, -1, 1)).flatten(1)).detach()
    np.testing.assert_allclose(heads.scores(x.numpy(), 1), expected.numpy(), atol=2e-5)
    torch.testing.assert_close(
        heads.logits(heads.normalise(x, train=False))[1], expected, atol=2e-5, rtol=1e-5
    )


def test_batch_norm_is_torchs() -> None:
    import torch

    from eval.protocols.heads import Heads

    heads = Heads([0.1], 4, 3, protocols.get("linear-sgd-vissl").settings, seed=0)
    norm = torch.nn.BatchNorm1d(4, affine=False)
    for seed in range(3):
        x = 3 * torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)) + 1
        torch.testing.assert_close(heads.normalise(x, train=True), norm(x), atol=1e-5, rtol=1e-5)
    norm.eval()
    torch.testing.assert_close(heads.normalise(x, train=False), norm(x), atol=1e-5, rtol=1e-5)


def test_sgd_says_that_it_diverged() -> None:
    train, _, _ = parts(60, 5, 3)
    big = Labelled(np.asarray(train.features) * 1e20, train.labels, 3)
    with pytest.raises(UserError, match="diverged"):
        protocols.fit(protocols.get("linear-sgd-moco").override({"epochs": 5, "lr": [1e30]}), big, big)


# -- streaming -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ridge", "knn-dino-k20", "linear-sgd"])
def test_features_on_disk_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.features import matrices as arrays

    train, val, test = parts(60, 8, 3, spread=2.0)
    x = np.asarray(test.features)
    expected = fit(name, train, val).scores(x)
    monkeypatch.setattr(arrays, "COPY", 0)
    monkeypatch.setattr(arrays, "BLOCK", 1000)
    rows = Labelled(Rows([(train.features, np.arange(len(train)))]), train.labels, 3)
    assert isinstance(rows.joined(val).features, Rows)
    np.testing.assert_allclose(fit(name, rows, val).scores(x), expected, rtol=1e-4, atol=1e-5)


def test_rows() -> None:
    a, b = np.arange(12.0).reshape(6, 2), np.arange(100.0, 108.0).reshape(4, 2)
    rows = Rows([(a, np.array([4, 1])), (b, None)])
    assert rows.shape == (6, 2)
    expected = np.concatenate([a[[4, 1]], b])
    np.testing.assert_array_equal(np.asarray(rows), expected)
    np.testing.assert_array_equal(rows[np.array([5, 0, 2])], expected[[5, 0, 2]])
    np.testing.assert_array_equal(rows[1:4], expected[1:4])


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("temperature", [1e-3, 1e-4, 1e-6])
def test_knn_at_temperatures_beyond_a_floats_exponent(temperature: float, multilabel: bool) -> None:
    """The order of classes, and of queries, is that of exact arithmetic; a float's exp would give inf or NaN."""
    generator = np.random.default_rng(0)
    x, q = (generator.normal(size=(n, 4)).astype(np.float32) for n in (40, 15))
    labels = generator.integers(0, 2, (40, 3)) if multilabel else generator.integers(0, 3, 40)
    bank = Labelled(x, labels, 3)
    table = votes(bank, q, [7], temperature)[0]
    assert np.isfinite(table).all()
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (x, q)]
    cosine = (unit[1] @ unit[0].T).astype(np.float64)
    targets = labels if multilabel else np.eye(3, dtype=int)[labels]
    for row, values in zip(table, cosine, strict=True):
        near = np.argsort(-values)[:7]
        for c in range(3):
            voters = values[near][targets[near, c] == 1] / temperature
            if len(voters) == 0:
                assert row[c] == pytest.approx(-1 / temperature - 1)
            else:
                exact = voters.max() + math.log(np.exp(voters - voters.max()).sum())
                assert row[c] == pytest.approx(exact, rel=1e-5)
