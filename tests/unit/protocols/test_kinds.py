"""The seam for kinds: what comes with the package, and one from outside, which touches no file of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import protocols, tasks
from eval.cli import entry as cli
from eval.errors import UserError
from eval.protocols import kinds
from eval.results import records

NEAREST_MEAN = '''"""Nearest class mean: a kind that this package does not have."""

from __future__ import annotations

import numpy as np

from eval.protocols import base, frozen
from eval.protocols.base import Fitted, Labelled, Positive


class Params(base.Params):
    """``scale`` multiplies the scores."""

    scale: Positive


def fit(train: Labelled, val: Labelled, params: Params, seed: int, *, metric_name: str = "top1") -> Fitted:
    x, y = np.asarray(train.features), train.labels
    means = np.stack([x[y == label].mean(0) for label in range(train.num_classes)])
    return Fitted(lambda features: -params.scale * ((features[:, None] - means) ** 2).sum(2), {"split": None})


KIND = frozen.kind(Params, fit, tasks=("classification",))
'''
BRIGHTNESS = '''"""A kind on images, not features: it answers with the mean brightness of the test images."""

from __future__ import annotations

import numpy as np

from eval.protocols import base
from eval.protocols.base import Context, Estimate, Kind, Measured


def measure(context: Context) -> Measured:
    test = context.data.splits["test"]
    pixels = [np.asarray(test.pool.read(int(row))).mean() / 255 for row in test.rows]
    context.progress("looking", len(pixels), len(pixels))
    return Measured({context.metric: Estimate(float(np.mean(pixels)))}, {"test": len(pixels)})


KIND = Kind(base.Params, ("classification", "multilabel"), measure)
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path with two kinds, protocols of them, a task and its images."""
    package = tmp_path / "lab"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nearest_mean.py").write_text(NEAREST_MEAN)
    (package / "brightness.py").write_text(BRIGHTNESS)
    (package / "empty.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    mean = "version: 1\nkind: lab.nearest_mean\nsource: a test\nparams: {scale: 2.0}\n"
    (tmp_path / "mean.yaml").write_text(mean)
    (tmp_path / "bright.yaml").write_text("version: 3\nkind: lab.brightness\nsource: a test\nparams: {}\n")
    (tmp_path / "shades.yaml").write_text("{version: 1, kind: classification, dataset: d, metric: top1}")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 8)):
        for shade in (50, 200):
            folder = tmp_path / "data" / "d" / split / str(shade)
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(generator.normal(shade, 10, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


def test_kinds_of_the_package() -> None:
    assert kinds.names() == (
        "depthlinear",
        "detection",
        "fewshot",
        "finetune",
        "knn",
        "linear",
        "ridge",
        "segknn",
        "seglinear",
        "sgd",
        "svm",
    )
    assert {protocols.get(name).kind for name in protocols.names()} == set(kinds.names())
    with pytest.raises(UserError, match=r"unknown kind of protocol 'kn' .did you mean knn"):
        kinds.find("kn")
    with pytest.raises(UserError, match=r"base offers no kind of protocol"):
        kinds.find("base")


def test_a_kind_from_outside_runs_end_to_end(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to records and table: no file of the package knows of it."""
    command = ["eval", "--checkpoint", "control=random:resnet10-c8-half@0", "--quiet"]
    command += ["--task", str(outside / "shades.yaml"), "--data-root", str(outside / "data")]
    command += ["--protocol", str(outside / "mean.yaml"), str(outside / "bright.yaml")]
    assert cli.main([*command, "--out", str(outside / "out")]) == 0
    assert "mean v1" in capsys.readouterr().out
    book = records.read([outside / "out"])
    mean, bright = book.records
    assert (mean.protocol.name, mean.protocol.params) == ("mean", {"scale": 2.0})
    assert mean.metrics["top1"].value == 1.0
    assert mean.metrics["top1"].interval == "wilson"
    assert mean.data.counts == {"train": 20, "val": 4, "test": 16}
    assert book.outcomes(mean)["correct"].all()
    assert (bright.protocol.version, bright.metrics["top1"].interval) == (3, None)
    assert bright.metrics["top1"].value == pytest.approx(125 / 255, abs=0.01)
    assert bright.data.manifest == mean.data.manifest


def test_a_kind_from_outside_is_checked(outside: Path) -> None:
    how = protocols.get(str(outside / "mean.yaml"))
    with pytest.raises(UserError, match="parameter scale of protocol mean cannot be -1"):
        how.override({"scale": -1})
    with pytest.raises(UserError, match="mean is for classification, and the task voc07-cls is multilabel"):
        tasks.resolve("voc07-cls", str(outside / "mean.yaml"), {})
    for kind, told in (("lab.gone", "cannot be imported"), ("lab.empty", "offers no kind of protocol")):
        (outside / "wrong.yaml").write_text(f"{{version: 1, kind: {kind}, source: a test, params: {{}}}}")
        with pytest.raises(UserError, match=told):
            protocols.get(str(outside / "wrong.yaml"))
    (outside / "wrong.yaml").write_text("{version: 1, kind: knn, source: x, params: {k: [5], tmp: 1}}")
    with pytest.raises(UserError, match=r"protocol wrong: params\.temperature: Field required"):
        protocols.get(str(outside / "wrong.yaml"))
