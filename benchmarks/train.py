"""What MAST costs beyond VICReg, what the loop costs beyond the networks, and lightly's VICReg example beside it.

    python benchmarks/train.py [--recipe cifar-r18] [--arch resnet18] [--batch 256] [--rounds 6] [--lightly FOLDER]

Architecture, size, batch, expander and optimizer are the recipe's unless given; the images are made up, decoded
beforehand as squares of the recipe's size (or of 64 px).

All numbers are ratios from one run in which the contestants take turns, so that a busy machine disturbs them alike;
``--clock cpu`` counts this process's CPU seconds, which other processes disturb less (for one thread, no workers).
FOLDER holds lightly (``pip install --target FOLDER lightly``); its ``examples/pytorch/vicreg.py`` runs on the same
images with the same batch, network, expander, image size, threads and workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from mast.config import Recipe, load_recipe
from mast.data import decode_all, on_device
from mast.learner import Learner
from mast.optim import build_optimizer
from mast.randaugment import MAST15
from mast.rundir import Log
from mast.sources import list_images
from mast.train import pretrain

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
clock: Callable[[], float] = time.perf_counter


def recipes(args: argparse.Namespace) -> dict[str, Recipe]:
    """VICReg, MAST-5 and MAST-15, each with a VICReg twin of the same views, and MAST-5 with sensitivity terms."""
    wanted = {
        "arch": args.arch,
        "batch_size": args.batch,
        "expander": args.width and [args.width, args.width],
        "views.size": args.size,
        "precision": args.precision,
        "save_minutes": 1000,
    }
    common = [f"{key}={value}" for key, value in wanted.items() if value]
    common += [
        "method=vicreg",
        "uncertainty=false",
        "views.single_fraction=0",
        "masks={}",
        "weights.prediction=0",
    ]
    side = args.store or load_recipe(args.recipe, common).data.store_size or 64
    common.append(f"data={{folder: images, format: folders, store_size: {side}}}")
    ten = [f"views.augmentations.{name}={{}}" for name in list(MAST15)[5:]]
    masks = ["method=mast", "uncertainty=true", "views.single_fraction=0.25"]
    blocks = [
        "method=mast",
        "uncertainty=false",
        "masks={layout: own-closed, block: 0.04, start: 0.98, lr: 0}",
    ]
    hinge = [*blocks, "views.single_fraction=0.25", "weights.sensitivity=5"]
    arms = {
        "vicreg": [],
        "mast5": masks,
        "vicreg15": ten,
        "mast15": [*ten, *masks],
        "prediction": [*blocks, "weights.prediction=5"],
        "certain": [*blocks, "weights.prediction=5", "uncertainty=true"],
        "learned": [
            *["method=mast", "uncertainty=false", "weights.prediction=5", "masks.predict=true"],
            "weights.mass=0.9",
        ],
        "features": [*hinge, "masks.changes=features"],
        "contrast": [*blocks, "views.all_but_fraction=0.5", "views.third_every=4", "weights.contrast=1"],
        "hinge": hinge,
        "all": [*hinge, "weights.decorrelation=1", "weights.prediction=5"],
        "third4": [*blocks, "views.third_every=4", "weights.sensitivity=5"],
        "third8": [*blocks, "views.third_every=8", "weights.sensitivity=5"],
        "third1": [*blocks, "views.third_every=1", "weights.sensitivity=5"],
    }
    return {
        name: load_recipe(args.recipe, [*common, *changes, f"name={name}"]) for name, changes in arms.items()
    }


def steps(recipe: Recipe, images: torch.Tensor, *, bare: bool) -> Iterator[float]:
    """Seconds of a training step; ``bare`` is forward and backward alone, on views ready in memory."""
    views = recipe.views.build()
    learner = (
        Learner(recipe, views.names, views.widths).to(DEVICE).to(memory_format=torch.channels_last).train()
    )
    if recipe.compile:
        learner.backbone.compile()
    settings = recipe.optimizer.model_dump(include={"name", "weight_decay", "momentum", "eta"})
    optimizers = [build_optimizer(learner.networks(), **settings)]
    if learner.masks is not None:
        optimizers.append(torch.optim.Adam(learner.masks.parameters(), lr=recipe.masks.lr))
    autocast = torch.autocast(DEVICE.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    ready = None
    for step in range(10**9):
        indices = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size) % len(images)
        if ready is None and bare:
            plan = views.draw(indices, 0)
            ready = (*views.render(on_device(images[indices], DEVICE, torch.float32), plan), plan)
        start = clock()
        if ready is None:
            plan = views.draw(indices, step)
            first, second, *third = views.render(on_device(images[indices], DEVICE, torch.float32), plan)
        else:
            first, second, plan = ready
            third = []
        with autocast:
            outcome = learner(first, second, plan, *third)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        outcome.loss.total.backward()
        for optimizer in optimizers if not bare else ():
            optimizer.step()
        outcome.loss.numbers()
        yield clock() - start


def turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant, one after another in each round, the first round thrown away."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        order = list(contestants) if number % 2 else list(reversed(contestants))
        for name in order:
            seconds = contestants[name]()
            if number:
                found[name].append(seconds)
    return found


def show(title: str, found: dict[str, list[float]], name: str, base: str, bound: str) -> None:
    """The ratio of medians, and the range of the ratios within rounds."""
    ratios = sorted(a / b for a, b in zip(found[name], found[base], strict=True))
    middle = statistics.median(ratios)
    print(f"{title}: {middle:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f}; wanted {bound})", flush=True)


class LightlyExample:
    """The body of lightly's example, with this run's images, batch, network, size and threads."""

    def __init__(self, recipe: Recipe, folder: Path, workers: int) -> None:
        import torchvision
        from lightly.loss.vicreg_loss import VICRegLoss
        from lightly.models.modules.heads import VICRegProjectionHead
        from lightly.transforms.vicreg_transform import VICRegTransform

        from mast.model import build_backbone

        transform = VICRegTransform(input_size=recipe.views.size)
        dataset = torchvision.datasets.ImageFolder(str(folder), transform=transform)
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size=recipe.batch_size, shuffle=True, drop_last=True, num_workers=workers
        )
        self.backbone = build_backbone(recipe.arch).to(DEVICE).train()
        hidden, *_, last = recipe.expander
        depth = len(recipe.expander)
        self.head = VICRegProjectionHead(self.backbone.feature_dim, hidden, last, depth).to(DEVICE)
        self.criterion = VICRegLoss()
        parameters = [*self.backbone.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.06)

    def epoch(self) -> float:
        """Seconds of an epoch."""
        start = clock()
        for batch in self.loader:
            x0, x1 = batch[0]
            z0 = self.head(self.backbone(x0.to(DEVICE)).flatten(start_dim=1))
            z1 = self.head(self.backbone(x1.to(DEVICE)).flatten(start_dim=1))
            loss = self.criterion(z0, z1)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start


class Loop:
    """`mast.train.pretrain`, new runs of two epochs; the second one counts, from log line to log line."""

    def __init__(self, recipe: Recipe, data_root: Path, out: Path, workers: int) -> None:
        self.recipe = recipe.model_copy(update={"epochs": 2})
        self.data_root, self.out, self.workers, self.runs = data_root, out, workers, 0
        self.timed = False  # whether the epoch that counts is under way
        self.shares: list[float] = []  # of an epoch's time, what forward and backward take in it; on a CPU

    def epoch(self) -> float:
        """Seconds of an epoch."""
        self.runs += 1
        ends: list[float] = []
        spent = [0.0]
        whole = self

        class Timed(Log):
            def add(self, line: dict[str, float]) -> None:
                super().add(line)
                ends.append(clock())
                spent.append(0.0)
                whole.timed = len(ends) == 1

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> Any:
                start = clock()
                result = call(*arguments)
                spent[-1] += clock() - start
                return result

            return wrapped

        out = self.out / str(self.runs)
        with (
            mock.patch("mast.train.Log", Timed),
            mock.patch("mast.learner.Learner.forward", counted(Learner.forward)),
            mock.patch("torch.autograd.backward", counted(torch.autograd.backward)),
        ):
            pretrain(self.recipe, out, data_root=self.data_root, progress=False, workers=self.workers)
        seconds = ends[1] - ends[0]
        self.shares.append(spent[1] / seconds)
        return seconds


def made_up_images(folder: Path, count: int, side: int | tuple[int, int]) -> None:
    """Smooth pictures of ``side`` px, or of (width, height), in two class folders."""
    size = (side, side) if isinstance(side, int) else side
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)

    def make(index: int) -> None:
        pixels = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / "ab"[index % 2] / f"{index}.jpg")

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="demo", help="what all is taken from that is not given here")
    parser.add_argument("--arch")
    parser.add_argument("--size", type=int, help="of the views")
    parser.add_argument("--store", type=int, help="side of the decoded squares that views are cut from")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--width", type=int, help="of both layers of an expander of two")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="of both loaders; 0 decodes in the loop")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--parts", nargs="+", default=["steps", "loop"], choices=("steps", "loop"))
    parser.add_argument("--lightly", type=Path, help="folder that holds lightly")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.clock == "cpu":
        global clock
        clock = time.process_time
    load = f"load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    arms = recipes(args)
    base = arms["vicreg"]
    batch = base.batch_size
    print(
        f"{args.recipe}: {base.arch} at {base.views.size} px, batch {batch}, expander {base.expander}, "
        f"{base.optimizer.name}, {DEVICE}, {args.threads} threads, {args.clock} clock, torch {torch.__version__}, "
        f"{load}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        side = base.data.store_size or base.views.size
        made_up_images(folder / "images", args.images, side)
        images = torch.from_numpy(decode_all(list_images(folder / "images"), side, progress=False).images)

        rounds = max(2, args.rounds // 2)
        if "steps" in args.parts:
            whole = {name: steps(recipe, images, bare=False) for name, recipe in arms.items()}
            found = turns({name: whole[name].__next__ for name in whole}, args.rounds)
            show("with prediction (11) / VICReg step", found, "prediction", "vicreg", "<= 1.08")
            show("with (11) and certainty (4, 5) / VICReg step", found, "certain", "vicreg", "<= 1.08")
            show("with (11) that teaches masks / VICReg step", found, "learned", "vicreg", "<= 1.08")
            show("with the hinge (9) / VICReg step", found, "hinge", "vicreg", "<= 1.08")
            show("with (9) on features / VICReg step", found, "features", "vicreg", "<= 1.08")
            show(
                "with contrast (12), third view of a quarter / VICReg step",
                found,
                "contrast",
                "vicreg",
                "<= 1.5",
            )
            show("with (9), (10) and (11) / VICReg step", found, "all", "vicreg", "<= 1.08")
            for every, share in ((8, "an eighth"), (4, "a quarter"), (1, "each")):
                title = f"third view of {share} of the images, (9) / VICReg step"
                show(title, found, f"third{every}", "vicreg", "<= 1.5")
            show("MAST-5 step / VICReg step, same views", found, "mast5", "vicreg", "<= 1.05")
            show("MAST-15 step / VICReg step, same views", found, "mast15", "vicreg15", "<= 1.15")
            show("MAST-15 step / VICReg step of five", found, "mast15", "vicreg", "<= 1.15")

        if "loop" in args.parts:
            bare = steps(arms["mast5"], images, bare=True)
            per_epoch = args.images // batch
            loop = Loop(arms["mast5"], folder, folder / "runs", args.workers)
            contestants = {"bare": lambda: sum(next(bare) for _ in range(per_epoch)), "loop": loop.epoch}
            found = turns(contestants, rounds)
            show("loop's images/s / bare forward and backward's", found, "bare", "loop", ">= 0.95")
            if DEVICE.type == "cpu":
                shares = sorted(loop.shares)
                print(
                    f"forward's and backward's share of the loop's time: {statistics.median(shares):.3f} "
                    f"(epochs {shares[0]:.3f} to {shares[-1]:.3f})"
                )
            print(f"loop: {per_epoch * batch / statistics.median(found['loop']):.0f} images/s", flush=True)

        if args.lightly:
            sys.path.append(str(args.lightly))
            example = LightlyExample(base, folder / "images", args.workers)
            vicreg = Loop(arms["vicreg"], folder, folder / "vicreg", args.workers)
            found = turns({"lightly": example.epoch, "ours": vicreg.epoch}, rounds)
            show("our VICReg's images/s / lightly's example's", found, "lightly", "ours", ">= 1")


if __name__ == "__main__":
    main()
