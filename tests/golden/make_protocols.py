"""Golden values of splits, samples, heads and metrics: the peers' own code, run on small inputs that are made here.

    MAST_PEERS=DIR python tests/golden/make_protocols.py [NAME ...]

DIR holds clones of facebookresearch/vissl, facebookresearch/dinov2, facebookresearch/moco (132aea9, the last commit
with files), facebookresearch/vicreg, facebookresearch/barlowtwins, facebookresearch/ConvNeXt,
facebookresearch/detectron2, linusericsson/ssl-transfer, hankook/AugSelf, google-research/simclr,
HobbitLong/PyContrast and lightly-ai/lightly under their repositories' names, in ``mmdet`` what
``pip install --no-deps --target DIR/mmdet mmdet==2.28.2`` gives, and in ``mmseg`` what `make_dense` asks for. Classes
and functions are taken out of the files by name and run as they stand, with stand-ins for files, logging and data
loaders. ``protocols.json`` keeps the numbers; with names only those are made anew.
"""

from __future__ import annotations

import argparse
import ast
import enum
import functools
import hashlib
import importlib.util
import json
import logging
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import threading
import typing
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).parent
GOLDEN = HERE / "protocols.json"


def module(name: str) -> Any:
    """A module beside this one: ``make_frozen`` has the features and takes code out of the peers' files."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


TOOLS = module("make_frozen")
COSTS = [0.01, 1.0, 10.0]
COUNTS = {"pets": 3680, "cifar10": 50000, "cifar100": 50000, "food101": 75750, "stl10": 5000, "mit67": 5360}


def short(rows: Any) -> str:
    """A hash of a set of rows."""
    return hashlib.sha256(np.sort(np.asarray(rows, dtype="<i8")).tobytes()).hexdigest()[:16]


def names() -> Any:
    """File names of the 450 examples of train and val, out of order, as two official lists are."""
    return np.array([f"{number:06}.jpg" for number in np.random.default_rng(7).permutation(450)])


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Twelve batches of 30 examples, features as 6 channels of 2 x 2 positions, classes 0 to 5."""
    data = TOOLS.load()
    order = np.random.default_rng(11).permutation(360).reshape(12, 30)
    return [
        (torch.from_numpy(data["x"][rows]).view(30, 6, 2, 2), torch.from_numpy(data["y"][rows]))
        for rows in order
    ]


class _Config(dict[str, Any]):
    """A mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def _defaults(root: Path) -> Any:
    """VISSL's defaults of a head, from its defaults.yaml."""
    import yaml

    found = yaml.safe_load((root / "vissl/config/defaults.yaml").read_text(encoding="utf-8"))["config"][
        "MODEL"
    ]["HEAD"]
    head = {key: float(found[key]) for key in ("BATCHNORM_EPS", "BATCHNORM_MOMENTUM", "PARAMS_MULTIPLIER")}
    return _Config(HEAD=_Config(head))


def vissl_ties(root: Path) -> list[float]:
    """`get_precision_recall` on scores of one decimal."""
    space = TOOLS.take(
        root, "vissl/utils/svm_utils/evaluate.py", ["calculate_ap", "get_precision_recall"], {"np": np}
    )
    data = TOOLS.load()
    labels, scores = data["labels"][data["test"]], data["x"][data["test"], :5].round(1)
    keep = (labels >= 0).astype(int)
    return [
        float(
            space["get_precision_recall"](labels[:, c][keep[:, c] == 1], scores[:, c][keep[:, c] == 1])[
                3
            ].item()
        )
        for c in range(5)
    ]


def vissl_svm(root: Path) -> dict[str, Any]:
    """`SVMTrainer` over the list sorted by name: average precision by class and cost, and the costs it takes."""
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import LinearSVC

    kept: dict[str, Any] = {}
    given = {
        "np": np, "logging": logging, "threading": threading, "cross_val_score": cross_val_score,
        "LinearSVC": lambda **options: LinearSVC(**options | {"verbose": 0}),
        "pickle": SimpleNamespace(dump=lambda model, file: None),
        "g_pathmgr": SimpleNamespace(
            mkdirs=lambda path: None, exists=lambda path: False, open=lambda *_: nullcontext()
        ),
        "save_file": lambda value, path: kept.__setitem__(path, value), "load_file": kept.get,
        "get_precision_recall": None,
    }  # fmt: skip
    trainer = TOOLS.take(root, "vissl/utils/svm_utils/svm_trainer.py", ["SVMTrainer"], given)["SVMTrainer"]
    config = _Config(
        normalize=True, costs=_Config(costs_list=list(COSTS), base=-1.0, power_range=[]), cls_list=[],
        force_retrain=False, penalty="l2", loss="squared_hinge", dual=True, max_iter=2000, cross_val_folds=3,
    )  # fmt: skip
    data, order = TOOLS.load(), np.argsort(names())
    np.random.seed(0)  # noqa: NPY002 - liblinear's own draws
    made = trainer(config, "res5", "")
    made.train(data["x"][:450][order].astype(np.float64), data["labels"][:450][order].astype(np.int32))
    table = made.train_ap_matrix.copy()
    return {"ap": table.tolist(), "cost": [float(cost) for cost in made.get_best_cost_value()]}


def vissl_low_shot(root: Path) -> list[list[int]]:
    """`generate_voc07_low_shot_samples`: how many examples of each label 1, 0 and -1 a class's sample takes."""
    kept: list[Any] = []
    given = {
        "np": np,
        "random": random,
        "logging": logging,
        "save_file": lambda value, path: kept.append(value),
    }
    wanted = ["sample_symbol", "generate_voc07_low_shot_samples"]
    space = TOOLS.take(root, "extra_scripts/create_low_shot_samples.py", wanted, given)
    random.seed(0)
    targets = TOOLS.load()["labels"][:450].astype(np.int32)
    space["generate_voc07_low_shot_samples"](targets, [8], [1], "", "res5")
    chosen = [targets[kept[0][:, c] != -1, c] for c in range(5)]
    return [[int((labels == symbol).sum()) for symbol in (1, 0, -1)] for labels in chosen]


def vissl_head(root: Path) -> list[list[float]]:
    """`LinearEvalMLP` trained for two epochs as its configuration says; scores of the first batch."""
    given = {
        "nn": torch.nn, "torch": torch, "AttrDict": dict, "List": list,
        "register_model_head": lambda name: lambda cls: cls,
    }  # fmt: skip
    mlp = TOOLS.take(root, "vissl/models/heads/mlp.py", ["MLP"], given)["MLP"]
    given |= {"MLP": mlp, "MLPResidual": None}
    head = TOOLS.take(root, "vissl/models/heads/linear_eval_mlp.py", ["LinearEvalMLP"], given)[
        "LinearEvalMLP"
    ](_defaults(root), 6, [24, 6])
    start = start_of_head()
    with torch.no_grad():
        head.clf.clf[0].weight.copy_(start[0])
        head.clf.clf[0].bias.copy_(start[1])
    groups = [
        {"params": head.channel_bn.parameters(), "weight_decay": 0.0},  # regularize_bn: False
        {"params": head.clf.parameters(), "weight_decay": 0.0005},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(2):
        for x, y in batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(x), y).backward()
            optimizer.step()
    head.eval()
    with torch.no_grad():
        return cast("list[list[float]]", head(batches()[0][0]).tolist())


def start_of_head() -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (6, 24) and bias (6,) that both heads start from."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, 24, generator=generator) * 0.1, torch.randn(6, generator=generator) * 0.1


def tokens() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Patch tokens (12, 9, 8) and class tokens (12, 8) of the last four blocks, the first block first."""
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(12, 9, 8, generator=generator), torch.randn(12, 8, generator=generator))
        for _ in range(4)
    ]


def start_of_grid(dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (3, D) and bias (3,) that every head of a width starts from."""
    generator = torch.Generator().manual_seed(dim)
    return torch.randn(3, dim, generator=generator) * 0.1, torch.randn(3, generator=generator) * 0.1


def dinov2_grid(root: Path) -> dict[str, Any]:
    """The values of DINOv2's script, and scores of its heads, in order, after 20 steps of its SGD on a batch."""
    given = {
        "nn": torch.nn, "torch": torch, "argparse": argparse, "Optional": Any, "List": list,
        "MetricType": enum.Enum("MetricType", "MEAN_ACCURACY"),
        "get_setup_args_parser": lambda **_: argparse.ArgumentParser(add_help=False),
        "distributed": SimpleNamespace(get_global_size=lambda: 8, is_enabled=lambda: False),
    }  # fmt: skip
    wanted = ["create_linear_input", "LinearClassifier", "AllClassifiers", "scale_lr"]
    wanted += ["setup_linear_classifiers", "get_args_parser"]
    space = TOOLS.take(root, "dinov2/eval/linear.py", wanted, given)
    moved, torch.nn.Module.cuda = torch.nn.Module.cuda, lambda self: self  # type: ignore[assignment, method-assign, return-value]
    try:
        heads, groups = space["setup_linear_classifiers"](tokens(), [1, 4], RATES, 128, 3)
    finally:
        torch.nn.Module.cuda = moved  # type: ignore[method-assign]
    for head in heads.classifiers_dict.values():
        weight, bias = start_of_grid(head.linear.weight.shape[1])
        with torch.no_grad():
            head.linear.weight.copy_(weight)
            head.linear.bias.copy_(bias)
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0)
    for _ in range(20):
        loss = sum(torch.nn.functional.cross_entropy(v, LABELS) for v in heads(tokens()).values())
        optimizer.zero_grad()
        cast("torch.Tensor", loss).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        scores = {name: found.tolist() for name, found in heads(tokens()).items()}
    said = vars(space["get_args_parser"]().parse_args([]))
    kept = ("learning_rates", "epochs", "epoch_length", "batch_size")
    return {"defaults": {key: said[key] for key in kept}, "scores": scores}


RATES = [0.001, 0.1]  # for a batch of 256
LABELS = torch.arange(12) % 3


def lightly_knn(root: Path) -> dict[str, Any]:
    """The defaults of the benchmark's own parser, and `knn_predict` with them on 450 examples against 450."""
    tree = ast.parse((root / "benchmarks/imagenet/resnet50/main.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if ast.unparse(node).startswith("parser.add_argument('--knn")]
    parser = argparse.ArgumentParser()
    exec(compile(tree, "main.py", "exec"), {"parser": parser})
    told = vars(parser.parse_args([]))
    given: dict[str, Any] = {"torch": torch, "Tensor": torch.Tensor}
    predict = TOOLS.take(root, "lightly/utils/benchmarking/knn.py", ["knn_predict"], given)["knn_predict"]
    data = TOOLS.load()
    x = torch.nn.functional.normalize(torch.from_numpy(data["x"]), dim=1)
    found = predict(x[450:], x[:450].T, torch.from_numpy(data["y"][:450]), num_classes=6, **told)
    return told | {"predicted": found[:, 0].tolist()}


def _recipe(optimizer: torch.optim.SGD, batch: int, rates: list[list[float]]) -> dict[str, Any]:
    """An optimiser in the words of a protocol; ``rates`` of each group, heads first, in every epoch or step."""
    group = optimizer.param_groups[0]
    told = {key: group[key] for key in ("momentum", "weight_decay", "nesterov")}
    return {"batch": batch, **told, "rates": rates}


def _sgd(root: Path, file: str, told: list[str]) -> dict[str, Any]:
    """A script's own parser on the arguments ``told``, and its own lines that make an optimiser and its schedule."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    named = {getattr(node, "name", ""): node for node in tree.body}
    worker = cast("ast.FunctionDef", named["main_worker"])
    tree.body = [
        node
        for node in tree.body
        if ast.unparse(node).startswith("parser")
        or getattr(node, "name", "") in ("get_arguments", "adjust_learning_rate")
    ]
    head, other = torch.nn.Linear(2048, 1000), torch.nn.Linear(1, 1)
    space: dict[str, Any] = {
        "argparse": argparse, "Path": Path, "torch": torch, "nn": torch.nn, "optim": torch.optim,
        "model_names": ["resnet50"], "embedding": 2048, "model": SimpleNamespace(fc=head), "head": head,
        "classifier_parameters": list(head.parameters()), "parameters": list(head.parameters()),
        "backbone": other, "model_parameters": list(other.parameters()),
    }  # fmt: skip
    exec(compile(tree, file, "exec"), space)
    parser = space["get_arguments"]() if "get_arguments" in space else space["parser"]
    args = space["args"] = parser.parse_args(told)
    starts = ("head", "model.fc.", "param_groups = ", "optimizer = ", "scheduler = ")
    tree.body = [
        node
        for node in worker.body
        if ast.unparse(node).startswith(starts) or "param_groups.append(" in ast.unparse(node)
    ]
    exec(compile(tree, file, "exec"), space)
    rates = []
    for epoch in range(args.epochs):
        if "adjust_learning_rate" in space:
            space["adjust_learning_rate"](space["optimizer"], epoch, args)
        rates.append([group["lr"] for group in space["optimizer"].param_groups])
        space["optimizer"].step()
        if "scheduler" in space:
            space["scheduler"].step()
    weight, bias = space["optimizer"].param_groups[0]["params"]
    start = {"mean": float(weight.mean()), "std": float(weight.std()), "bias": float(bias.abs().max())}
    return _recipe(space["optimizer"], args.batch_size, rates) | {
        "start": {key: round(value, 4) for key, value in start.items()}
    }


def _commands(root: Path, script: str) -> list[list[str]]:
    """The arguments of every command of a README that starts a script."""
    text = (root / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"\[[^\]\n]*\]", "DIR", text)
    started = re.compile(rf"(\w+=\S+ )*python {script} ")  # variables may stand before
    lines = (shlex.split(line) for line in text.splitlines() if started.match(line))
    return [words[words.index(script) + 1 :] for words in lines]


def moco_sgd(root: Path) -> dict[str, Any]:
    """The README's linear evaluation."""
    return {"linear": _sgd(root, "main_lincls.py", _commands(root, "main_lincls.py")[0])}


def barlowtwins_sgd(root: Path) -> dict[str, Any]:
    """The README's linear evaluation."""
    return {"linear": _sgd(root, "evaluate.py", _commands(root, "evaluate.py")[0])}


def vicreg_sgd(root: Path) -> dict[str, Any]:
    """The README's three evaluations; two of them name the head's rate as an older script did."""
    commands = _commands(root, "evaluate.py")
    told = [["--lr-head" if word == "--lr-classifier" else word for word in words] for words in commands]
    return {
        name: _sgd(root, "evaluate.py", words)
        for name, words in zip(("linear", "1%", "10%"), told, strict=True)
    }


def made_up_imagenet(folder: Path) -> None:
    """Class folders in train and val, their images empty: 3 classes of 8 training images, 1 of validation."""
    for label in ("n01440764", "n02102040", "n03394916"):
        for part, count in (("train", 8), ("val", 1)):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                name = f"{label}_{number}.JPEG" if part == "train" else f"ILSVRC2012_val_{label}.JPEG"
                (folder / part / label / name).touch()


LIST = "n03394916_5.JPEG\nn01440764_7.JPEG\nn01440764_2.JPEG\nn02102040_3.JPEG\nn03394916_2.JPEG\n"


def vicreg_lists(root: Path) -> dict[str, Any]:
    """What `evaluate.py` trains on with 1% and 10%: of `LIST`, and of SimCLR's own lists in a clone beside it.

    Of SimCLR's: where they are fetched, how many images and classes they name, and a hash of classes and files.
    """
    from torchvision import datasets

    tree = ast.parse((root / "evaluate.py").read_text(encoding="utf-8"))
    functions = {getattr(node, "name", ""): node for node in tree.body}
    wanted = "if args.train_percent in {1, 10}"
    tree.body = [
        node
        for name in ("main", "main_worker")
        for node in cast("ast.FunctionDef", functions[name]).body
        if ast.unparse(node).startswith(wanted)
    ]
    assert len(tree.body) == 2
    code = compile(tree, "evaluate.py", "exec")

    def samples(train: Any, percent: int, read: Callable[[str], bytes]) -> list[tuple[Path, int]]:
        def opened(url: str) -> Any:
            return SimpleNamespace(readlines=lambda: read(url).splitlines(keepends=True))

        space = {
            "args": SimpleNamespace(train_percent=percent), "train_dataset": train, "traindir": Path(train.root),
            "urllib": SimpleNamespace(request=SimpleNamespace(urlopen=opened)),
        }  # fmt: skip
        exec(code, space)
        return cast("list[tuple[Path, int]]", train.samples)

    with tempfile.TemporaryDirectory() as folder:
        made_up_imagenet(Path(folder))
        train = datasets.ImageFolder(f"{folder}/train")
        made = samples(train, 1, lambda url: LIST.encode())
        found: dict[str, Any] = {
            "made up": [[str(path.relative_to(train.root)), label] for path, label in made]
        }
    for percent in (1, 10):
        urls: list[str] = []

        def fetched(url: str, urls: list[str] = urls) -> bytes:
            urls.append(url)
            return (root.parent / "simclr" / url.rpartition("/master/")[2]).read_bytes()

        names = sorted(
            {line.split("_")[0] for line in fetched(f"/master/{SIMCLR % percent}").decode().split()}
        )
        urls.clear()
        classes = {name: number for number, name in enumerate(names)}
        listed = samples(SimpleNamespace(root="/train", class_to_idx=classes), percent, fetched)
        found[str(percent)] = {"url": urls[0]} | of_list([(str(path), label) for path, label in listed])
    return found


SIMCLR = "imagenet_subsets/%dpercent.txt"


def of_list(listed: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Of paths that end with class and file, and labels: how many of both, and a hash of all, sorted."""
    lines = sorted(f"{'/'.join(path.split('/')[-2:])} {label}" for path, label in listed)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {"images": len(set(lines)), "classes": len({label for _, label in listed}), "hash": digest}


def augself_pretraining(root: Path) -> dict[str, Any]:
    """`pretrain.py` told as its README tells it for STL-10: optimiser, rates of every epoch, views."""
    import inspect

    tree = ast.parse((root / "pretrain.py").read_text(encoding="utf-8"))
    functions = {getattr(node, "name", ""): cast("Any", node) for node in tree.body}
    started = cast("Any", tree.body[-1])  # if __name__ == '__main__'
    tree.body = [node for node in started.body if ast.unparse(node).startswith(("parser", "args.lr = "))]
    told = next(words for words in _commands(root, "pretrain.py") if "stl10" in words)
    parser = argparse.ArgumentParser()
    space: dict[str, Any] = {"ArgumentParser": lambda: parser}
    with mock.patch.object(sys, "argv", ["pretrain.py", *told]):
        tree.body.insert(-1, ast.parse("args = parser.parse_args()").body[0])
        exec(compile(tree, "pretrain.py", "exec"), space)
    args = space["args"]
    args.num_backbone_features = 4
    linear: Callable[..., Any] = lambda *_, **__: torch.nn.Linear(4, 4)  # noqa: E731 - stands for every network
    given = {
        "partial": functools.partial, "optim": torch.optim, "SSObjective": lambda **_: None,
        "idist": SimpleNamespace(device=lambda: "cpu", auto_model=lambda model, **_: model, auto_optim=lambda o: o),
        "load_backbone": linear, "load_mlp": linear, "load_ss_predictor": lambda *_: {},
        "trainers": SimpleNamespace(simsiam=lambda **_: None),
    }  # fmt: skip
    models = TOOLS.take(root, "pretrain.py", ["simsiam"], given)["simsiam"](args, None, None)
    update = next(node for node in functions["main"].body if getattr(node, "name", "") == "update_lr")
    assert [ast.unparse(mark) for mark in update.decorator_list] == ["trainer.on(Events.EPOCH_COMPLETED)"]
    update.decorator_list = []
    tree.body = [update]
    space = {"models": models}
    exec(compile(tree, "pretrain.py", "exec"), space)
    optimizer, rates = models["optimizers"][0], []
    for _ in range(args.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        space["update_lr"](None)

    def noted(name: str) -> Callable[..., Any]:
        return lambda *values, **options: [name, *values, options]

    plain = SimpleNamespace(AugmentationBase2D=object)
    blur = TOOLS.take(root, "transforms.py", ["GaussianBlur"], {"K": plain})["GaussianBlur"]
    names = ("RandomHorizontalFlip", "RandomGrayscale", "Normalize")
    seen = {
        "torch": SimpleNamespace(tensor=list), "nn": SimpleNamespace(Sequential=lambda *steps: list(steps)),
        "K": SimpleNamespace(**{name: noted(name) for name in names}),
        "T": mock.MagicMock(),
        **{name: noted(name) for name in ("RandomResizedCrop", "ColorJitter", "GaussianBlur")},
        "MultiView": lambda crop: crop, "STL10": lambda folder, split, transform: [split, transform],
    }  # fmt: skip
    made = TOOLS.take(root, "datasets.py", ["load_pretrain_datasets"], seen)["load_pretrain_datasets"](
        args.dataset
    )
    group = optimizer.param_groups[0]
    found = {
        "batch": args.batch_size, "epochs": args.max_epochs, "model": args.model, "rates": rates,
        **{key: group[key] for key in ("momentum", "weight_decay", "nesterov")},
        "data": made["train"], "views": [made["t1"], made["t2"]],
        "blur p": inspect.signature(blur).parameters["p"].default,
    }  # fmt: skip
    return cast("dict[str, Any]", json.loads(json.dumps(found)))


def vissl_sgd(root: Path) -> dict[str, Any]:
    """The optimiser and schedule of three configurations, with fvcore's schedule that theirs is."""
    import yaml
    from fvcore.common.param_scheduler import MultiStepParamScheduler

    folder, found = root / "configs/config/benchmark/linear_image_classification", {}
    for name in ("imagenet1k/{}in1k", "places205/{}places205", "inaturalist18/{}inaturalist18"):
        path = folder / f"{name.format('eval_resnet_8gpu_transfer_')}_linear.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        told, schedule = config["OPTIMIZER"], config["OPTIMIZER"]["param_schedulers"]["lr"]
        scaling, epochs = schedule["auto_lr_scaling"], told["num_epochs"]
        processes = config["DISTRIBUTED"]["NUM_NODES"] * config["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
        batch = config["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"] * processes
        factor = scaling["base_value"] / schedule["values"][0] * batch / scaling["base_lr_batch_size"]
        rate = MultiStepParamScheduler(schedule["values"], epochs, milestones=schedule["milestones"])
        options = {key: told[key] for key in ("momentum", "weight_decay", "nesterov")}
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0, **options)
        rates = [[factor * rate(epoch / epochs)] for epoch in range(epochs)]
        found[name.partition("/")[0]] = _recipe(optimizer, batch, rates)
    return found


def lightly_sgd(root: Path) -> dict[str, Any]:
    """`linear_eval` up to where it would train: its classifier's optimiser over 12 steps, its epochs and batches."""
    seen: dict[str, Any] = {}

    class Module(torch.nn.Module):
        save_hyperparameters = __repr__ = lambda *_, **__: None  # type: ignore[assignment]

    class Trainer:
        def __init__(self, **options: Any) -> None:
            seen.update(epochs=options["max_epochs"])
            self.world_size, self.estimated_stepping_batches = options["devices"], 12

        def fit(self, model: Any, train_dataloaders: Any, val_dataloaders: Any) -> None:
            model.trainer = self
            (optimizer,), (schedule,) = model.configure_optimizers()
            rates = []
            for _ in range(12):
                rates.append([group["lr"] for group in optimizer.param_groups])
                optimizer.step()
                schedule["scheduler"].step()
            seen.update(_recipe(optimizer, train_dataloaders["batch_size"], rates))
            seen.update(drop_last=train_dataloaders["drop_last"], interval=schedule["interval"])

    given: dict[str, Any] = {"np": np, "torch": torch, "warnings": warnings, **vars(typing), **vars(torch.nn)}
    names = ["cosine_schedule", "cosine_warmup_schedule", "CosineWarmupScheduler"]
    given |= TOOLS.take(root, "lightly/utils/scheduler.py", names, given)
    given |= {"ABC": object, "abstractmethod": lambda f: f, "LightningModule": Module, "Tensor": torch.Tensor}
    given |= {"SGD": torch.optim.SGD, "Optimizer": torch.optim.Optimizer}
    names = ["BaseClassifier", "LinearClassifier"]
    given |= TOOLS.take(root, "lightly/utils/benchmarking/linear_classifier.py", names, given)
    stand = mock.MagicMock()
    given |= dict.fromkeys(("T", "IMAGENET_NORMALIZE", "LightlyDataset", "TensorBoardLogger"), stand)
    given |= dict.fromkeys(("LearningRateMonitor", "DeviceStatsMonitor", "print_rank_zero"), stand)
    metrics = SimpleNamespace(val_metrics={"val_top1": [0.0], "val_top5": [0.0]})
    given |= {
        "Trainer": Trainer,
        "DataLoader": lambda _, **options: options,
        "MetricCallback": lambda: metrics,
    }
    run = TOOLS.take(root, "benchmarks/imagenet/resnet50/linear_eval.py", ["linear_eval"], given)[
        "linear_eval"
    ]
    network = torch.nn.Identity()
    network.online_classifier = SimpleNamespace(feature_dim=2)  # type: ignore[assignment]
    run(
        network, Path(), Path(), Path(), batch_size_per_device=256, num_workers=0, accelerator="cpu", devices=1,
        precision="32", strategy="auto", num_classes=3,
    )  # fmt: skip
    return seen


def dinov2_sweep(root: Path) -> dict[str, Any]:
    """`sweep_C_values` with scikit-learn's estimator in place of cuML's; the refit's probabilities of 20 examples."""
    from sklearn.linear_model import LogisticRegression

    def estimator(**options: Any) -> Any:
        assert options.pop("output_type") == "numpy"
        assert options.pop("linesearch_max_iter") == 50  # of cuML's own solver
        assert options.pop("penalty") == "l2"
        return LogisticRegression(**options)

    class Tracker:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.values: list[float] = []

        def increment(self) -> None:
            pass

        def best_metric(self, return_step: bool) -> tuple[dict[str, float], dict[str, int]]:
            best = torch.tensor(self.values).max(0)  # as torchmetrics' own
            return {"top-1": float(best.values)}, {"top-1": int(best.indices)}

    def evaluated(logreg_model: Any, logreg_metric: Tracker, test_data_loader: Any, **_: Any) -> float:
        found = logreg_model(*test_data_loader)
        logreg_metric.values.append(float((found["preds"].argmax(1) == found["target"]).double().mean()))
        return logreg_metric.values[-1]

    file = "dinov2/eval/log_regression.py"
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if ast.unparse(node).startswith(("C_POWER", "_CPU", "DEFAULT_MAX"))
    ]
    given: dict[str, Any] = {
        "torch": torch, "nn": torch.nn, "logger": logging.getLogger("dinov2"), "LogisticRegression": estimator,
        "build_metric": lambda *_, **__: None, "MetricTracker": Tracker, "MetricType": mock.MagicMock(),
        "get_global_rank": lambda: 0, "get_global_size": lambda: 1, "evaluate_model": evaluated,
    }  # fmt: skip
    exec(compile(tree, file, "exec"), given)
    code = TOOLS.take(root, file, ["LogRegModule", "train_for_C", "sweep_C_values"], given)
    data = TOOLS.load()
    parts = {
        name: (torch.from_numpy(data["x"][data[name]]), torch.from_numpy(data["y"][data[name]]))
        for name in ("train", "val", "test")
    }
    gather = mock.patch("torch.distributed.all_gather_object", lambda out, item: out.__setitem__(0, item))
    with gather, mock.patch("torch.cuda.current_device", return_value=0):
        best, cost = code["sweep_C_values"](
            train_features=parts["train"][0], train_labels=parts["train"][1], test_data_loader=parts["val"],
            metric_type="top-1", num_classes=6,
        )  # fmt: skip
    both = [torch.cat([a, b]) for a, b in zip(parts["train"], parts["val"], strict=True)]
    refit = code["train_for_C"](C=cost, max_iter=1000, train_features=both[0], train_labels=both[1])
    told = refit(parts["test"][0][:20], parts["test"][1][:20])["preds"]
    return {"value": best["top-1"], "C": cost, "probabilities": told.tolist()}


def ssl_transfer_split(root: Path) -> dict[str, str]:
    """`get_train_valid_loader`: the rows of val, of sets of two sizes."""
    found = {}
    for count in (3680, 8144):
        given = {
            "np": np, "PIL": SimpleNamespace(Image=SimpleNamespace(BICUBIC=3)), "print": lambda *_: None,
            "transforms": SimpleNamespace(
                Normalize=lambda **_: None, Compose=list, Resize=lambda *_, **__: None,
                CenterCrop=lambda _: None, ToTensor=lambda: None,
            ),
            **dict.fromkeys(("Aircraft", "DTD", "Flowers", "VOC2007")),
            "get_dataset": lambda *_, count=count: range(count),
            "SubsetRandomSampler": lambda rows: rows,
            "DataLoader": lambda dataset, **options: options.get("sampler"),
        }  # fmt: skip
        load = TOOLS.take(root, "linear.py", ["get_train_valid_loader"], given)["get_train_valid_loader"]
        train, val, _ = load("set", "", {"mean": 0, "std": 1}, 1, 224, 0)
        assert len(train) + len(val) == count
        found[str(count)] = short(val)
    return found


def dinov2_split(root: Path) -> dict[str, str]:
    """`eval_log_regression`, stopped where it would sweep: the rows of its 10%."""
    seen: dict[str, Any] = {}

    def sweep(**options: Any) -> Any:
        seen.update(options)
        raise StopIteration

    given = {
        "torch": torch, "time": SimpleNamespace(time=lambda: 0.0), "gc": SimpleNamespace(collect=lambda: None),
        "logger": logging.getLogger("dinov2"), "TensorDataset": lambda *parts: parts, "_CPU_DEVICE": "cpu",
        "DEFAULT_MAX_ITER": 1, "sweep_C_values": sweep,
        "extract_features": lambda model, count, *_, **__: (torch.arange(count)[:, None], torch.arange(count) % 3),
    }  # fmt: skip
    run = TOOLS.take(root, "dinov2/eval/log_regression.py", ["eval_log_regression"], given)[
        "eval_log_regression"
    ]
    loader, torch.utils.data.DataLoader = torch.utils.data.DataLoader, lambda data, **_: data  # type: ignore[assignment, misc]
    cleared, torch.cuda.empty_cache = torch.cuda.empty_cache, lambda: None
    try:
        run(
            model=None, train_dataset=3680, val_dataset=5, finetune_dataset=None, metric_type=None,
            batch_size=1, num_workers=0,
        )  # fmt: skip
    except StopIteration:
        pass
    finally:
        torch.utils.data.DataLoader, torch.cuda.empty_cache = loader, cleared  # type: ignore[misc]
    return {"3680": short(seen["test_data_loader"][0][:, 0])}


def depth_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps (2, 6, 3, 4), class tokens (2, 6), weights (16, 12), and depths (2, 48, 64), some unknown."""
    generator = torch.Generator().manual_seed(5)
    maps, tokens = torch.randn(2, 6, 3, 4, generator=generator), torch.randn(2, 6, generator=generator)
    weight, truth = torch.randn(16, 12, generator=generator), 9 * torch.rand(2, 48, 64, generator=generator)
    truth[0, :9] = 0
    return maps, tokens, weight, truth


def dinov2_depth(root: Path) -> dict[str, Any]:
    """`BNHead`'s depths, `SigLoss` in and after its warm-up, and `GradientLoss`, on what `depth_inputs` has."""
    registry = SimpleNamespace(register_module=lambda: lambda cls: cls)
    plain = lambda *_, **__: lambda f: f  # noqa: E731 - stands for mixed precision's decorators
    given: dict[str, Any] = {
        "torch": torch, "nn": torch.nn, "F": torch.nn.functional, "ABCMeta": type, "abstractmethod": lambda f: f,
        "BaseModule": torch.nn.Module, "auto_fp16": plain, "force_fp32": plain, "LOSSES": registry, "HEADS": registry,
    }  # fmt: skip
    folder = "dinov2/eval/depth/models"
    given |= TOOLS.take(root, "dinov2/eval/depth/ops/wrappers.py", ["resize"], given)
    losses = TOOLS.take(root, f"{folder}/losses/sigloss.py", ["SigLoss"], given)
    losses |= TOOLS.take(root, f"{folder}/losses/gradientloss.py", ["GradientLoss"], given)
    given["build_loss"] = lambda told: losses[told.pop("type")](**told)
    given |= TOOLS.take(root, f"{folder}/decode_heads/decode_head.py", ["DepthBaseDecodeHead"], given)
    head = TOOLS.take(root, f"{folder}/decode_heads/linear_head.py", ["BNHead"], given)["BNHead"](
        in_channels=[6], in_index=[0], upsample=4, channels=12, n_bins=16, classify=True, min_depth=0.001,
        max_depth=10, loss_decode=[
            {"type": "SigLoss", "warm_up": True, "warm_iter": 2, "loss_name": "loss_depth"},
            {"type": "GradientLoss", "loss_weight": 0.5, "loss_name": "loss_grad"},
        ],
    )  # fmt: skip
    maps, tokens, weight, truth = depth_inputs()
    with torch.no_grad():
        head.conv_depth.weight.copy_(weight[:, :, None, None])
        head.conv_depth.bias.zero_()
        depths = head([(maps, tokens)])
        told = [head.losses(depths, truth[:, None]) for _ in range(3)]
    return {
        "depths": depths[0, 0, ::4].tolist(),
        "losses": [float(one["loss_depth"]) for one in told],
        "gradient": float(told[0]["loss_grad"]),
    }


def augself_split(root: Path) -> dict[str, str]:
    """`load_datasets`: the rows of val of every set that it cuts by a seed."""
    given = {
        "torch": torch, "os": SimpleNamespace(path=SimpleNamespace(join=lambda *parts: "/".join(parts))),
        "T": SimpleNamespace(
            Compose=list, Resize=lambda *_, **__: None, CenterCrop=lambda _: None, ToTensor=lambda: None,
            Normalize=lambda *_: None,
        ),
        "Image": SimpleNamespace(BICUBIC=3), "random_split": torch.utils.data.random_split,
    }  # fmt: skip
    found = {}
    for name, count in COUNTS.items():
        made: Callable[..., Any] = lambda *_, count=count, **__: range(count)  # noqa: E731 - stands for six classes
        given |= dict.fromkeys(("Food101", "CIFAR10", "CIFAR100", "Pets", "STL10", "ImageFolder"), made)
        space = TOOLS.take(root, "datasets.py", ["load_datasets"], given)
        parts = space["load_datasets"](name, "", "stl10")
        assert len(parts["train"]) + len(parts["val"]) == count
        found[name] = short(parts["val"].indices)
    return found


def augself_sampler(root: Path) -> dict[str, Any]:
    """`FewShotBatchSampler` on classes of 30, 30, 30, 30, 12, 6 and 5 images, 5-way 5-shot with 16 queries."""
    source = (root / "transfer_few_shot.py").read_text(encoding="utf-8")
    assert "random.sample(label_set" in source  # of a set, which Python 3.11 refuses: it gets a sorted list
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if getattr(node, "name", None) == "FewShotBatchSampler"]
    drawn = random.Random(0)
    given = {
        "torch": torch, "np": np, "defaultdict": defaultdict,
        "random": SimpleNamespace(
            sample=lambda pool, count: drawn.sample(sorted(pool), count), shuffle=drawn.shuffle
        ),
    }  # fmt: skip
    exec(compile(tree, "transfer_few_shot.py", "exec"), given)
    labels = np.repeat(np.arange(7), [30, 30, 30, 30, 12, 6, 5])
    np.random.seed(0)  # noqa: NPY002 - what their code draws from
    dataset = SimpleNamespace(samples=[("", int(label)) for label in labels])
    sampler = cast("Any", given["FewShotBatchSampler"])(dataset, 5, 5, 16, 200)
    episodes = np.array(list(sampler)).reshape(200, 5, 21)
    support, query = episodes[..., :5], episodes[..., 5:]
    shown = labels[support[..., 0]]
    twice = np.array([[16 - len(set(row)) for row in episode] for episode in query])
    pairs = zip(support.reshape(-1, 5), query.reshape(-1, 16), strict=True)
    return {
        "classes": np.unique(shown).tolist(),
        "queries that stand twice": {str(label): float(twice[shown == label].mean()) for label in range(6)},
        "shared by support and query": sum(len(set(s) & set(q)) for s, q in pairs),
    }


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A config of Detectron2 by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inner = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


def _configs(paths: list[Path]) -> dict[str, Any]:
    """What configs, read by Detectron2 itself, set alike that is not its default; and what they do not set alike."""
    from detectron2.config import get_cfg

    read = []
    for path in paths:
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        read.append(_flat(cfg))
    defaults = _flat(get_cfg())
    unlike = sorted(key for key in defaults if any(one[key] != read[0][key] for one in read))
    alike = {key: value for key, value in read[0].items() if key not in unlike and value != defaults[key]}
    listed = json.loads(json.dumps(alike))  # tuples as lists
    return {"set": dict(sorted(listed.items())), "unlike": unlike}


def moco_detection(root: Path) -> dict[str, Any]:
    """MoCo's two configs of detection."""
    folder = root / "detection" / "configs"
    names = ("pascal_voc_R_50_C4_24k_moco", "coco_R_50_C4_2x_moco")
    return {name: _configs([folder / f"{name}.yaml"]) for name in names}


def pycontrast_detection(root: Path) -> dict[str, Any]:
    """PyContrast's configs of COCO with an FPN, about which MoCo's authors were asked in MoCo's issue 34."""
    folder = root / "pycontrast" / "detection" / "configs"
    return {times: _configs([folder / f"R_50_FPN_{times}_infomin.yaml"]) for times in ("1x", "2x")}


def ssl_transfer_detection(root: Path) -> dict[str, Any]:
    """ssl-transfer's configs of fourteen networks; their base is that of a clone of detectron2 beside it."""
    folder = root / "detectron2-configs"
    return {kind: _configs(sorted((folder / kind).glob("*.yaml"))) for kind in ("finetune", "frozen")}


def _plain(value: Any) -> Any:
    """A lazy config as JSON: what is called by its name."""
    if isinstance(value, functools.partial):
        return {"partial": _plain(value.func), **{key: _plain(item) for key, item in value.keywords.items()}}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value


def _beyond(config: Any, base: Any) -> dict[str, Any]:
    """What a config sets that its base does not, by dotted keys."""
    ours, theirs = _flat(_plain(config)), _flat(_plain(base))
    return {key: value for key, value in sorted(ours.items()) if key not in theirs or theirs[key] != value}


def vitdet(root: Path) -> dict[str, Any]:
    """What ViTDet's lazy configs set beyond Detectron2's lazy Mask R-CNN."""
    from detectron2.config import LazyConfig

    def read(path: str) -> dict[str, Any]:
        config = LazyConfig.load(str(root / path))
        return {key: config[key] for key in ("model", "train", "dataloader", "lr_multiplier", "optimizer")}

    base = read("configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    folder = "projects/ViTDet/configs/COCO/mask_rcnn_vitdet_"
    return {size: _beyond(read(f"{folder}{size}_100ep.py"), base) for size in ("b", "l")}


def _mmdet(peers: Path, path: str, own: Path | None = None) -> dict[str, Any]:
    """What a config sets beyond mmdetection's Mask R-CNN, both read by mmcv; ``own`` configs beside mmdetection's."""
    stand = module("make_dense").Stand
    sys.path.insert(0, str(peers / "mmseg"))
    for name in ("cv2", "mmcv.ops", "mmcv._ext"):
        sys.modules.setdefault(name, stand(name))
    from mmcv import Config

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(peers / "mmdet/mmdet/.mim/configs", folder, dirs_exist_ok=True)
        if own is not None:
            shutil.copytree(own, folder, dirs_exist_ok=True)
        read = [
            dict(Config.fromfile(f"{folder}/{name}.py"))
            for name in (path, "mask_rcnn/mask_rcnn_r50_fpn_1x_coco")
        ]
    return cast("dict[str, Any]", json.loads(json.dumps(_beyond(*read))))


def swin_detection(root: Path) -> dict[str, Any]:
    """mmdetection's config of Swin-T with three times the schedule."""
    return _mmdet(root.parent, "swin/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco")


def convnext_detection(root: Path) -> dict[str, Any]:
    """ConvNeXt's config of its smallest network, and the layer of the learning rate's decay of its parameters."""
    name = "convnext/mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco_in1k"
    found = _mmdet(root.parent, name, root / "object_detection/configs")
    file = "object_detection/mmcv_custom/layer_decay_optimizer_constructor.py"
    layer = TOOLS.take(root, file, ["get_num_layer_layer_wise"], {})["get_num_layer_layer_wise"]
    count = found["optimizer.paramwise_cfg.num_layers"]
    keys = [f"downsample_layers.{stage}.0.weight" for stage in range(4)]
    keys += [
        f"stages.{stage}.{block}.gamma"
        for stage, blocks in enumerate((3, 3, 9, 3))
        for block in range(blocks)
    ]
    return {
        "config": found,
        "layers": {key: layer(f"backbone.{key}", count) for key in [*keys, "norm0.weight"]},
    }


MADE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "vissl ties": ("vissl", vissl_ties),
    "vissl svm": ("vissl", vissl_svm),
    "vissl low-shot": ("vissl", vissl_low_shot),
    "vissl head": ("vissl", vissl_head),
    "vissl sgd": ("vissl", vissl_sgd),
    "lightly knn": ("lightly", lightly_knn),
    "lightly sgd": ("lightly", lightly_sgd),
    "moco sgd": ("moco", moco_sgd),
    "barlowtwins sgd": ("barlowtwins", barlowtwins_sgd),
    "vicreg sgd": ("vicreg", vicreg_sgd),
    "vicreg lists": ("vicreg", vicreg_lists),
    "ssl-transfer split": ("ssl-transfer", ssl_transfer_split),
    "dinov2 grid": ("dinov2", dinov2_grid),
    "dinov2 split": ("dinov2", dinov2_split),
    "dinov2 sweep": ("dinov2", dinov2_sweep),
    "dinov2 depth": ("dinov2", dinov2_depth),
    "augself split": ("AugSelf", augself_split),
    "augself sampler": ("AugSelf", augself_sampler),
    "augself pretraining": ("AugSelf", augself_pretraining),
    "moco detection": ("moco", moco_detection),
    "pycontrast detection": ("PyContrast", pycontrast_detection),
    "ssl-transfer detection": ("ssl-transfer", ssl_transfer_detection),
    "vitdet": ("detectron2", vitdet),
    "convnext detection": ("ConvNeXt", convnext_detection),
    "swin detection": ("mmdet", swin_detection),
}


def make(peers: Path, names: Sequence[str]) -> dict[str, Any]:
    """Golden values by name, from a folder of clones."""
    return {
        name: {"repository": where, "commit": version(peers / where), "value": run(peers / where)}
        for name, (where, run) in MADE.items()
        if name in names
    }


def version(root: Path) -> str:
    """The commit of a clone, or the name and version of what pip installed."""
    installed = sorted(root.glob(f"{root.name}-*.dist-info"))
    return installed[0].name.removesuffix(".dist-info") if installed else cast("str", TOOLS.commit(root))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = make(Path(os.environ["MAST_PEERS"]), sys.argv[1:] or list(MADE))
    TOOLS.write(GOLDEN, {name: found.get(name) or kept[name] for name in MADE})
