"""Golden values of splits, samples, heads and metrics: the peers' own code, run on small inputs that are made here.

    MAST_PEERS=DIR python tests/golden/make_protocols.py

DIR holds clones of facebookresearch/vissl, facebookresearch/dinov2, facebookresearch/moco (132aea9, the last commit
with files), facebookresearch/detectron2, linusericsson/ssl-transfer, hankook/AugSelf and lightly-ai/lightly under
their repositories' names. Classes and functions are taken out of the files by name and run as they stand, with
stand-ins for files, logging and data loaders. ``protocols.json`` keeps the numbers.
"""

from __future__ import annotations

import argparse
import ast
import enum
import hashlib
import importlib.util
import json
import logging
import os
import random
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

HERE = Path(__file__).parent
GOLDEN = HERE / "protocols.json"


def frozen() -> Any:
    """The module beside this one, which has the features and takes code out of the peers' files."""
    spec = importlib.util.spec_from_file_location("make_frozen", HERE / "make_frozen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS = frozen()
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


def lightly_schedule(root: Path) -> list[float]:
    """`cosine_warmup_schedule` without warm-up over 12 steps."""
    given: dict[str, Any] = {"np": np, "Optional": Any, "warnings": warnings}
    wanted = ["cosine_schedule", "cosine_warmup_schedule"]
    schedule = TOOLS.take(root, "lightly/utils/scheduler.py", wanted, given)["cosine_warmup_schedule"]
    options = {"start_value": 1.0, "end_value": 0.0, "warmup_steps": 0, "warmup_start_value": 0.0}
    return [schedule(step=step, max_steps=12, **options) for step in range(12)]


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


def ssl_transfer_detection(root: Path) -> dict[str, Any]:
    """ssl-transfer's configs of fourteen networks; their base is that of a clone of detectron2 beside it."""
    folder = root / "detectron2-configs"
    return {kind: _configs(sorted((folder / kind).glob("*.yaml"))) for kind in ("finetune", "frozen")}


MADE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "vissl ties": ("vissl", vissl_ties),
    "vissl svm": ("vissl", vissl_svm),
    "vissl low-shot": ("vissl", vissl_low_shot),
    "vissl head": ("vissl", vissl_head),
    "lightly schedule": ("lightly", lightly_schedule),
    "ssl-transfer split": ("ssl-transfer", ssl_transfer_split),
    "dinov2 grid": ("dinov2", dinov2_grid),
    "dinov2 split": ("dinov2", dinov2_split),
    "augself split": ("AugSelf", augself_split),
    "augself sampler": ("AugSelf", augself_sampler),
    "moco detection": ("moco", moco_detection),
    "ssl-transfer detection": ("ssl-transfer", ssl_transfer_detection),
}


def make(peers: Path) -> dict[str, Any]:
    """Every golden value, from a folder of clones."""
    return {
        name: {"repository": where, "commit": TOOLS.commit(peers / where), "value": run(peers / where)}
        for name, (where, run) in MADE.items()
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    text = json.dumps(make(Path(os.environ["MAST_PEERS"])), indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
