"""What the differences that are left between named protocols and their authors' code move, on small real images.

    OMP_NUM_THREADS=1 python benchmarks/differences.py --data-root DATA [--only NAME ...] [--sets SET ...]

DATA holds caltech101_20 and tinyimagenet_20 as class folders. Two small backbones of ``pretrained/weights``
are read once a data set; each difference is then a pair of trainings on the same features, with the same seed, that
differ in nothing else. Printed are the mean of the paired differences in points of top-1 accuracy (of mean average
precision for SVMs) over all pairs, and the smallest and the largest of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval import extract, load_backbone, protocols
from eval.datasets import load
from eval.numbers.metrics import average_precision, top1
from eval.protocols import Labelled
from eval.protocols.heads import Heads, _epoch, schedule, train_heads

WEIGHTS = Path(__file__).parents[1] / "pretrained" / "weights"
BACKBONES = ("vicreg-imagenette96", "mast5-imagenette96")
SETS = ("caltech101_20", "tinyimagenet_20")
SEEDS = range(5)
SHOTS = (1, 4)


class Data:
    """Features of the parts of a data set."""

    def __init__(self, root: Path, name: str, backbone: str) -> None:
        data = load(name, root)
        network, _ = load_backbone(str(WEIGHTS / f"{backbone}.safetensors"))
        self.classes = data.num_classes
        self.parts = {
            part: Labelled(extract(network, list(split.paths)), split.labels, data.num_classes)
            for part, split in data.splits.items()
        }

    def both(self) -> Labelled:
        """Train and val."""
        return self.parts["train"].joined(self.parts["val"])

    def accuracy(self, scores: Any) -> float:
        """Top-1 on test, in per cent."""
        return 100 * float(top1(scores, self.parts["test"].labels))


def epochs(data: Data, name: str, seed: int, share: Callable[[Any, int, int, int], float]) -> list[float]:
    """Accuracy on test after every epoch of a protocol that trains heads on train and val."""
    params = protocols.get(name).settings
    part = data.both()
    (rate,) = params.lr
    heads = Heads([rate * params.batch_size / 256], part.features.shape[1], data.classes, params, seed)
    generator = np.random.default_rng(seed)
    each, found, step = -(-len(part) // params.batch_size), [], 0
    for epoch in range(params.epochs):
        for features, labels in _epoch(part, params.batch_size, generator):
            x = torch.from_numpy(np.array(features, dtype=np.float32))
            heads.step(
                x, torch.from_numpy(np.array(labels)), share(params, step, params.epochs * each, epoch)
            )
            step += 1
        found.append(data.accuracy(heads.scores(data.parts["test"].features, 0)))
    return found


def best_epoch(name: str) -> Callable[[Data, int], list[float]]:
    """The best epoch on the split that is reported, less the last one."""

    def pair(data: Data, seed: int) -> list[float]:
        found = epochs(data, name, seed, schedule)
        return [max(found) - found[-1]]

    return pair


def cosine_by_epoch(data: Data, seed: int) -> list[float]:
    """One cosine over all steps, less one that falls where an epoch begins."""

    def by_epoch(params: Any, step: int, steps: int, epoch: int) -> float:
        return schedule(params, epoch, params.epochs, epoch)

    name = "linear-sgd-vicreg"
    return [epochs(data, name, seed, schedule)[-1] - epochs(data, name, seed, by_epoch)[-1]]


def refit(data: Data, seed: int) -> list[float]:
    """A grid of rates trained again on train and val, less the chosen one as it was trained on train."""
    return [_fitted(data, seed, True) - _fitted(data, seed, False)]


def rate_on_test(data: Data, seed: int) -> list[float]:
    """The best of a grid of rates on the split that is reported, less the one that val chooses."""
    params = protocols.get("linear-sgd").settings
    train, val, test = (data.parts[name] for name in ("train", "val", "test"))
    (heads,) = train_heads(train, params.lr, params, seed)
    on_val = [top1(heads.scores(val.features, place), val.labels) for place in range(len(params.lr))]
    on_test = [data.accuracy(heads.scores(test.features, place)) for place in range(len(params.lr))]
    return [max(on_test) - on_test[int(np.argmax(on_val))]]


def _fitted(data: Data, seed: int, again: bool) -> float:
    protocol = protocols.get("linear-sgd").override({"refit": again})
    found = protocols.fit(protocol, data.parts["train"], data.parts["val"], seed=seed)
    return data.accuracy(found.scores(data.parts["test"].features))


def cost_on_test(data: Data, seed: int) -> list[float]:
    """Low-shot SVMs whose cost is the best on test, less those whose cost is chosen on what the samples leave."""
    test = data.parts["test"]
    truth = np.eye(data.classes)[test.labels]

    def precision(protocol: Any) -> float:
        scores = protocols.fit(protocol, data.parts["train"], data.parts["val"], seed=seed).scores(
            test.features
        )
        values = [average_precision(scores[:, c], truth[:, c], ties="vissl") for c in range(data.classes)]
        return 100 * float(np.mean(values))

    found = []
    for shots in SHOTS:
        protocol = protocols.get(f"svm-low-shot-{shots}")
        single = [precision(protocol.override({"costs": [cost]})) for cost in protocol.settings.costs]
        found.append(max(single) - precision(protocol))
    return found


MEASURED: dict[str, Callable[[Data, int], list[float]]] = {
    "best epoch on the reporting set, linear-sgd-vicreg": best_epoch("linear-sgd-vicreg"),
    "best epoch on the reporting set, linear-sgd-moco": best_epoch("linear-sgd-moco"),
    "one cosine over all steps, linear-sgd-vicreg": cosine_by_epoch,
    "trained again on train and val, linear-sgd": refit,
    "rate that is best on test, linear-sgd": rate_on_test,
    "cost that is best on test, svm-low-shot-1 and -4": cost_on_test,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    args = parser.parse_args()
    print(
        "| data set | difference | mean | smallest | largest | pairs |\n|---|---|---|---|---|---|", flush=True
    )
    for dataset in args.sets:
        both = [Data(args.data_root, dataset, backbone) for backbone in BACKBONES]
        for name in args.only:
            found = [value for data, seed in product(both, SEEDS) for value in MEASURED[name](data, seed)]
            told = " | ".join(f"{value:+.2f}" for value in (np.mean(found), min(found), max(found)))
            print(f"| {dataset} | {name} | {told} | {len(found)} |", flush=True)


if __name__ == "__main__":
    main()
