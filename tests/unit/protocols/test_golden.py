"""Numbers of the peers' own code on the features of tests/golden/frozen.npz; make_frozen.py there made them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import protocols
from eval.numbers import metrics
from eval.protocols import Labelled
from eval.protocols.episodes import Episodes, accuracies
from eval.protocols.knn import votes

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "frozen.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("make_frozen", FOLDER / "make_frozen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.load()
    return found


def parts(data: dict[str, Any], *, several: bool = False) -> list[Labelled]:
    y = data["labels"].astype(np.float32) if several else data["y"]
    return [Labelled(data["x"][data[p]], y[data[p]], 5 if several else 6) for p in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("accuracy", "top1"),
        ("mean per-class accuracy", "mean_per_class"),
        ("mAP", "map11_ericsson2021"),
    ],
)
def test_ericsson2021(data: dict[str, Any], theirs: str, ours: str) -> None:
    """ssl-transfer's `LinearTester`, not patched, under a scikit-learn that stops as that of 2021 did (1.2.2)."""
    golden = GOLDEN["ericsson2021, scikit-learn 1.2.2"][theirs]
    train, val, test = parts(data, several=theirs == "mAP")
    fitted = protocols.fit(protocols.get("linear-ericsson2021"), train, val, metric=ours)
    # C goes through float32 there as here: equal but for the last digits of 1 / lambda.
    assert fitted.selected["C"] == pytest.approx(golden["C"], rel=1e-12)
    # An L-BFGS cut off after 100 iterations amplifies rounding: one example of 450 for accuracy (0.22), for the mean
    # per class one of the smallest class of about 60 (0.3), and half a point for mAP, whose ranks move more freely.
    tolerance = {"accuracy": 0.23, "mean per-class accuracy": 0.3, "mAP": 0.5}[theirs]
    found = 100 * metrics.METRICS[ours](fitted.scores(np.asarray(test.features)), test.labels)
    assert found == pytest.approx(golden["test"], abs=tolerance)


def test_scikit_learn_of_today_is_not_what_ericsson2021_ran() -> None:
    """Why the recipe has a solver of its own: the same code under the current scikit-learn chooses another C."""
    old, new = (GOLDEN[f"ericsson2021, scikit-learn {version}"]["accuracy"] for version in ("1.2.2", "1.9.1"))
    assert old["C"] > 1000 * new["C"]


def test_augself2021(data: dict[str, Any]) -> None:
    """AugSelf's `main`, not patched."""
    golden = GOLDEN["augself2021"]
    train, val, test = parts(data)
    fitted = protocols.fit(protocols.get("linear-augself2021"), train, val)
    # They print five digits of lambda.
    assert fitted.selected["lambda"] == pytest.approx(golden["lambda"], rel=1e-4)
    # They print four digits (5e-5), and their first weights come from another random state: one image of 150.
    values = [value for _, value in fitted.selected["grid"]]
    np.testing.assert_allclose(values, golden["val"], atol=1 / 150 + 1e-4)
    found = metrics.top1(fitted.scores(np.asarray(test.features)), test.labels)
    assert found == pytest.approx(golden["test"], abs=1 / 450 + 1e-4)


def test_dino(data: dict[str, Any]) -> None:
    """DINO's `knn_classifier`."""
    train, _, test = parts(data)
    ks = [10, 20, 100, 200]
    for k, table in zip(ks, votes(train, test.features, ks, 0.07), strict=True):
        top1, top5 = GOLDEN["dino"]["top1 and top5"][str(k)]
        # Similarities are float32 in both: equal unless two classes' votes agree in seven digits, and none do.
        assert 100 * metrics.top1(table, test.labels) == pytest.approx(top1, abs=1e-9)
        # With k = 10 of 6 classes some have no vote at all; their order is arbitrary there: one image of 450.
        assert 100 * metrics.top5(table, test.labels) == pytest.approx(top5, abs=0.23)


def test_vissl(data: dict[str, Any]) -> None:
    """VISSL's `get_precision_recall`, difficult examples weighted 0."""
    _, _, test = parts(data, several=True)
    scores = np.asarray(test.features)[:, :5]
    found = [float(metrics.average_precision(scores[:, c], test.labels[:, c])) for c in range(5)]
    # The same sums in another order; scores are float16 values, and equal ones share a threshold here while VISSL
    # takes them one by one: with 450 examples a pair of ties moves the area by less than 1e-3.
    np.testing.assert_allclose(found, GOLDEN["vissl"]["area"], atol=1e-3)


def test_map11(data: dict[str, Any]) -> None:
    """ssl-transfer's `voc_eval_cls`."""
    _, _, test = parts(data, several=True)
    scores = np.asarray(test.features)[:, :5]
    options: dict[str, Any] = {"points": 11, "difficult": "negative", "start": 1.0}
    found = [float(metrics.average_precision(scores[:, c], test.labels[:, c], **options)) for c in range(5)]
    # Eleven precisions, ratios of the same integers.
    np.testing.assert_allclose(found, GOLDEN["ericsson2021, scikit-learn 1.2.2"]["map11"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["prototype", "logistic"])
def test_fewshot(data: dict[str, Any], head: str) -> None:
    """ssl-transfer's `ProtoNet`, and AugSelf's liblinear (one against the rest), on the same 40 episodes."""
    rows = data["episodes"].astype(np.int64)
    params = protocols.get("fewshot").override({"head": head}).settings
    found = accuracies(data["x"], Episodes(rows[:, :, :5], rows[:, :, 5:]), params)
    # 75 queries an episode. Prototypes: float32 distances, equal but for exact ties. liblinear stops at its own
    # tolerance of 1e-4, ours at the minimum: at most one query in an episode.
    np.testing.assert_allclose(
        found, GOLDEN["fewshot"][head], atol=1e-6 if head == "prototype" else 1 / 75 + 1e-9
    )
