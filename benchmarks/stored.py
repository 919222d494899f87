"""A frozen detector on stored maps against the same one with its network in the loop, in one run.

    python benchmarks/stored.py --data-root DATA --task coco --protocol coco-frozen-store --arch resnet50 batch=4
    python benchmarks/stored.py --data-root DATA --task coco --protocol coco-vit-frozen-store --arch vit_small_patch16

Both train from the same seed on the same images; iterations of the two alternate, so that a busy machine slows both.
An iteration is all of it: decoding or reading, forward, backward, update. It prints the seconds of both (of wall time
on a GPU, of CPU time without one) and their ratio, the largest difference of their losses, what a map costs to make,
and bytes on the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--task", default="scenes-coco")
    parser.add_argument("--protocol", default="coco-frozen-store")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--images", type=int, default=32, help="training images, all of them stored")
    parser.add_argument("overrides", nargs="*", help="options and Detectron2 keys, such as batch=8")
    measure(parser.parse_args())


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Both ways through the same iterations: median seconds ``in_loop`` and ``from_store``, and their ``ratio``."""
    from detectron2.utils.events import EventStorage

    from eval import checkpoints, tasks
    from eval.detection.data import register
    from eval.detection.run_cell import _opened, _quiet, _resolve, _trainer

    given = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in args.overrides)}
    loaded = checkpoints.load(f"random:{args.arch}@0")
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    trainers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder)):
        for name, stored in (("in_loop", False), ("from_store", True)):
            task, protocol = tasks.resolve(args.task, args.protocol, {**given, "INPUT.STORED": stored})
            data = protocol.code.data(task.open(args.data_root).limited(args.images), protocol.settings, 0)
            cfg = _resolve(loaded, protocol, data, 0, Path(folder) / name)
            register(data, Path(folder))
            trainer, _ = _trainer(loaded, cfg, lambda *_: None, lambda *_: {})
            trainer.mappers = {}
            if maps := _opened(trainer, loaded, cfg, Path(folder) / "features"):
                rows, size = maps.lacking_rows(), sum(maps.lacking().values())
                began = clock()
                maps.fill(lambda *_: None)
                seconds = clock() - began
                trainer.mappers = maps.mappers()
                shapes = ", ".join(
                    f"{key} {'x'.join(map(str, s))}" for key, s in maps.rows["train"].shapes.items()
                )
                print(f"{rows} rows of {size / rows / 1e6:.2f} MB ({shapes}), {seconds / rows:.3f} s a row")
            trainer.resume_or_load()
            trainer.iter = trainer._trainer.iter = 0
            trainers[name] = trainer
        times: dict[str, list[float]] = {name: [] for name in trainers}
        losses: dict[str, list[float]] = {name: [] for name in trainers}
        for trainer in trainers.values():
            trainer.model.train()
        for step in range(args.iterations + 1):
            for name, trainer in trainers.items():
                torch.manual_seed(step)  # the same anchors and proposals are sampled
                with EventStorage(step) as trainer.storage:
                    start = clock()
                    trainer.run_step()
                    if torch.cuda.is_available():
                        torch.cuda.synchronize()
                    times[name].append(clock() - start)
                    losses[name].append(float(trainer.storage.latest()["total_loss"][0]))
                trainer.iter += 1
    median = {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first one warms up
    batch = trainers["in_loop"].cfg.SOLVER.IMS_PER_BATCH
    for name, value in median.items():
        print(f"{name}: {value:.3f} s an iteration of {batch} images, {batch / value:.2f} images/s")
    apart = max(abs(a - b) / a for a, b in zip(losses["in_loop"], losses["from_store"], strict=True))
    print(
        f"ratio {median['in_loop'] / median['from_store']:.2f}; losses differ by {apart:.1e} of their value at most"
    )
    return {**median, "ratio": median["in_loop"] / median["from_store"]}


if __name__ == "__main__":
    main()
