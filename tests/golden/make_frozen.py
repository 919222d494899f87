"""Golden values of the frozen-feature protocols: the peers' own code on the features of ``frozen.npz``.

    git clone of linusericsson/ssl-transfer, hankook/AugSelf, facebookresearch/dino and facebookresearch/vissl, then
    python tests/golden/make_frozen.py --ssl-transfer DIR --augself DIR --dino DIR --vissl DIR

Functions are taken out of the peers' files by name and run as they stand; ``frozen.json`` keeps numbers and what was
patched. ``--only ericsson2021`` with an old scikit-learn adds that version's numbers. ``--features`` writes
``frozen.npz`` anew.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import re
import subprocess
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_curve

HERE = Path(__file__).parent
KS = (10, 20, 100, 200)


def write_features() -> None:
    """900 examples of 24 correlated features, 6 overlapping classes, 5 labels of which some are difficult."""
    generator = np.random.default_rng(2021)
    y = generator.integers(6, size=900)
    scale = np.arange(1, 25) ** -0.5
    centres = generator.normal(size=(6, 24)) * scale
    x = (centres[y] + 1.2 * generator.normal(size=(900, 24)) * scale).astype(np.float16)
    logits = x.astype(np.float64) @ generator.normal(size=(24, 5)) + generator.normal(size=(900, 5)) - 1.5
    labels = np.where(logits > 0, 1, np.where(logits > -0.4, -1, 0)).astype(np.int8)
    groups = [np.flatnonzero(y == label) for label in range(6)]
    episodes = np.stack(
        [
            [generator.choice(groups[c], 20, replace=False) for c in generator.choice(6, 5, replace=False)]
            for _ in range(40)
        ]
    )
    np.savez_compressed(
        HERE / "frozen.npz", x=x, y=y.astype(np.int8), labels=labels, episodes=episodes.astype(np.int16)
    )


def load() -> dict[str, Any]:
    """The features: ``x`` float32, ``y``, ``labels``, ``episodes`` (E, way, 5 + 15), and the slices of the parts."""
    with np.load(HERE / "frozen.npz") as data:
        found: dict[str, Any] = {name: data[name] for name in data}
    found["x"], found["y"] = found["x"].astype(np.float32), found["y"].astype(np.int64)
    return found | {"train": slice(0, 300), "val": slice(300, 450), "test": slice(450, 900)}


def take(root: Path, file: str, names: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Classes and functions of a peer's file, by name, run with the names ``given``."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    if len(tree.body) != len(names):
        raise SystemExit(f"{root / file} has not all of {', '.join(names)}")
    space = dict(given)
    exec(compile(tree, file, "exec"), space)
    return space


def write(file: Path, values: dict[str, Any]) -> None:
    """Golden values as JSON, a list of numbers a line."""
    text = json.dumps(values, indent=1)
    text = re.sub(r"\[\s([^][{}]+)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    file.write_text(text + "\n", encoding="utf-8")


def commit(root: Path) -> str:
    """The peer's commit."""
    return subprocess.check_output(["git", "-C", str(root), "rev-parse", "HEAD"], text=True).strip()


def ericsson2021(root: Path, data: dict[str, Any]) -> dict[str, Any]:
    """ssl-transfer's `LinearTester`, its model the identity and its loaders one batch each."""
    old = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7)
    patches = [
        "temperature scaling left out (it follows the test accuracy)",
        *([] if old else ["multi_class left out", "C doubled for mAP, where two classes were two rows"]),
    ]
    factor = 1.0

    class LogReg(LogisticRegression):  # type: ignore[misc]
        def set_params(self, **changes: Any) -> Any:
            return super().set_params(
                **(changes | {"C": factor * changes["C"]} if "C" in changes else changes)
            )

    given = {
        "nn": torch.nn, "torch": torch, "np": np, "tqdm": lambda item, desc: item,
        "LogReg": LogisticRegression if old else lambda multi_class, **rest: LogReg(**rest),
        "confusion_matrix": confusion_matrix, "precision_recall_curve": precision_recall_curve,
        "ignore_warnings": lambda category: lambda function: function,
        "ConvergenceWarning": Warning, "DummyDataset": lambda x, y: [0],
        "DataLoader": lambda *_, **__: None, "cross_validate_temp_scaling": lambda *_: (None, None),
        "print": lambda *_: None,
    }  # fmt: skip
    names = ["voc_ap", "voc_eval_cls", "LogisticRegression", "LinearTester"]
    space = take(root, "linear.py", names, given)
    found: dict[str, Any] = {"scikit-learn": sklearn.__version__, "patches": patches}
    for metric in ("accuracy", "mean per-class accuracy", "mAP"):
        factor = 1.0 if old or metric != "mAP" else 2.0
        truth = np.maximum(data["labels"], 0) if metric == "mAP" else data["y"]

        def loader(*parts: str, truth: Any = truth) -> list[Any]:
            return [(torch.from_numpy(data["x"][data[p]]), torch.from_numpy(truth[data[p]])) for p in parts]

        tester = space["LinearTester"](
            torch.nn.Identity(), loader("train"), loader("val"), loader("train", "val"), loader("test"),
            1, metric, "cpu", truth.shape[1] if truth.ndim == 2 else 6,
        )  # fmt: skip
        tester.validate()
        score, _, _, cost = tester.evaluate()
        found[metric] = {"C": cost, "test": float(score)}
    truth, scores = data["labels"][data["test"]] > 0, data["x"][data["test"], :5]
    found["map11"] = [float(space["voc_eval_cls"](truth[:, c], scores[:, c])) for c in range(5)]
    return found


def augself2021(root: Path, data: dict[str, Any]) -> dict[str, Any]:
    """AugSelf's `main`, its backbone the identity."""
    said: list[str] = []
    parts = {part: part for part in ("train", "val", "test")}
    given = {
        "F": torch.nn.functional, "torch": torch, "nn": torch.nn, "optim": torch.optim, "partial": partial,
        "deepcopy": copy.deepcopy, "cudnn": SimpleNamespace(),
        "Logger": lambda _: SimpleNamespace(log_msg=said.append),
        "load_datasets": lambda **_: parts | {"num_classes": 6},
        "load_backbone": lambda _: torch.nn.Identity(),
        "idist": SimpleNamespace(
            device=lambda: "cpu", auto_dataloader=lambda part, **_: part, auto_model=lambda item, **_: item
        ),
        "collect_features": lambda _, part, *__, **___: (
            torch.from_numpy(data["x"][data[part]]), torch.from_numpy(data["y"][data[part]]),
        ),
    }  # fmt: skip
    space = take(root, "transfer_linear_eval.py", ["build_step", "compute_accuracy", "main"], given)
    space["torch"] = SimpleNamespace(
        **{name: getattr(torch, name) for name in ("logspace", "cat", "no_grad")},
        load=lambda *_, **__: {"backbone": {}},
    )
    args = SimpleNamespace(
        dataset="", datadir="", pretrain_data="", batch_size=1, num_workers=0, ckpt="", metric="top1",
        num_backbone_features=24,
    )  # fmt: skip
    torch.manual_seed(0)
    space["main"](0, args)
    numbers = [line.replace("=", " ").replace(",", " ").split() for line in said]
    return {
        "torch": torch.__version__,
        "patches": [],
        "val": [float(line[3]) for line in numbers if line[0] == "w"],
        "lambda": next(float(line[2]) for line in numbers if line[0] == "BEST:"),
        "test": float(numbers[-1][-1]),
    }


def dino(root: Path, data: dict[str, Any]) -> dict[str, Any]:
    """DINO's `knn_classifier` on unit features, top-1 and top-5 in per cent."""
    space = take(root, "eval_knn.py", ["knn_classifier"], {"torch": torch})
    x = torch.nn.functional.normalize(torch.from_numpy(data["x"]), dim=1)
    y = torch.from_numpy(data["y"])
    train, test = data["train"], data["test"]
    return {
        str(k): list(space["knn_classifier"](x[train], y[train], x[test], y[test], k, 0.07, 6)) for k in KS
    }


def vissl(root: Path, data: dict[str, Any]) -> list[float]:
    """VISSL's `get_precision_recall`: the area of five classes, scored by the first five features."""
    names = ["calculate_ap", "get_precision_recall"]
    space = take(root, "vissl/utils/svm_utils/evaluate.py", names, {"np": np})
    labels, scores = data["labels"][data["test"]], data["x"][data["test"], :5]
    return [
        float(
            space["get_precision_recall"](labels[:, c], scores[:, c], (labels[:, c] >= 0).astype(int))[
                3
            ].item()
        )
        for c in range(5)
    ]


def fewshot(ssl_transfer: Path, data: dict[str, Any]) -> dict[str, list[float]]:
    """ssl-transfer's `ProtoNet` on the pinned episodes, and AugSelf's one line: liblinear, here one-vs-rest."""
    from sklearn.multiclass import OneVsRestClassifier

    given = {"nn": torch.nn, "torch": torch, "F": torch.nn.functional, "Variable": lambda item, **_: item}
    net = take(ssl_transfer, "few_shot.py", ["euclidean_dist", "ProtoNet"], given)["ProtoNet"](
        torch.nn.Identity()
    )
    found: dict[str, list[float]] = {"prototype": [], "logistic": []}
    for rows in data["episodes"].astype(int):
        x = torch.from_numpy(data["x"][rows])  # (way, 20, D)
        found["prototype"].append(
            float(net.loss({"xs": x[:, :5].contiguous(), "xq": x[:, 5:].contiguous()})[1])
        )
        truth = np.arange(5)
        model = OneVsRestClassifier(LogisticRegression(solver="liblinear"))
        model.fit(x[:, :5].reshape(25, -1).numpy(), truth.repeat(5))
        predicted = model.predict(x[:, 5:].reshape(75, -1).numpy())
        found["logistic"].append(float((predicted == truth.repeat(15)).mean()))
    return found


def main() -> None:
    """Write frozen.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("ssl-transfer", "augself", "dino", "vissl"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR")
    parser.add_argument("--features", action="store_true")
    parser.add_argument("--only", choices=["ericsson2021"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.features:
        write_features()
    data, path = load(), HERE / "frozen.json"
    golden = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    key = f"ericsson2021, scikit-learn {sklearn.__version__}"
    golden[key] = {"commit": commit(args.ssl_transfer)} | ericsson2021(args.ssl_transfer, data)
    if not args.only:
        golden["augself2021"] = {"commit": commit(args.augself)} | augself2021(args.augself, data)
        golden["dino"] = {"commit": commit(args.dino), "top1 and top5": dino(args.dino, data)}
        golden["vissl"] = {"commit": commit(args.vissl), "area": vissl(args.vissl, data)}
        golden["fewshot"] = fewshot(args.ssl_transfer, data)
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
