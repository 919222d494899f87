"""VICReg against MAST-5 with sensitivity at ResNet-18, for a GPU that is lent for minutes at a time.

    python benchmarks/gpu_subspaces.py --data ARCHIVES --out OUT --seconds 580

ARCHIVES holds imagenette_96.tar and cifar10.tar (class folders below ``train`` and ``test``, below 64 MiB together),
and for transfer caltech101_20.tar and tinyimagenet_20.tar where they are at hand. They are extracted once, into
OUT/data. After ``--seconds`` pretraining is asked to stop and saves its state; the same command goes on from there,
so the work fits into calls of ten minutes. Cells that are measured stay measured. OUT/records, OUT/outcomes and
OUT/passports are what to bring back; ``benchmarks/sensitivity.py confirm OUT`` makes the table.

A run of 100 epochs of 9,469 images takes about two and a half minutes of an H100 (of 85 epochs, which took two).
``--arch``, ``--size``, ``--epochs`` and ``--batch`` make it small enough to be tried on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mast.files import atomic_write  # noqa: E402

SETS = ("imagenette_96", "cifar10", "caltech101_20", "tinyimagenet_20")
TRANSFER = SETS[2:]
FACTORS = ("hue", "rotation", "scale", "position", "blur")
MASKS = "masks={layout: own-closed, block: 0.04, start: 0.98, lr: 0}"
# That of the recipe cifar-r18, after solo-learn. With SGD at AugSelf's rate, 0.03, VICReg's loss diverged on an H100.
OPTIMIZER = "name: lars, base_lr: 0.3, weight_decay: 1.0e-4, eta: 0.02, final_lr: 0, rate_by: step"
ARMS = {
    "vicreg": [],
    "mast5": ["method=mast", "uncertainty=false", MASKS, "weights.prediction=5"],
    "no-sensitivity": ["method=mast", "uncertainty=false", MASKS],
}


def extract(archives: Path, data: Path) -> list[str]:
    """Unpack what is there and not unpacked; returns the names of the data sets."""
    found = []
    for name in SETS:
        archive, done = archives / f"{name}.tar", data / f".{name}.done"
        if archive.is_file():
            if not done.is_file():
                data.mkdir(parents=True, exist_ok=True)
                with tarfile.open(archive) as file:
                    file.extractall(data, filter="data")
                done.touch()
            found.append(name)
    return found


def suite(args: argparse.Namespace, present: list[str]) -> dict[str, object]:
    """The grid as a suite: seed after seed, so that pairs are whole whenever the time is over."""
    source = args.pretrain_on
    side = min(128, 4 * args.size // 3) if source != "cifar10" else args.size
    common = [
        f"arch={args.arch}",
        f"data={{folder: {source}/train, format: folders, store_size: {side}}}",
        f"views.size={args.size}",
        f"epochs={args.epochs}",
        f"batch_size={args.batch}",
        f"optimizer={{{OPTIMIZER}, warmup_epochs: {min(10, args.epochs // 10)}}}",
        *args.override,
    ]
    arms = [
        {"name": name, "recipe": "imagenette96-r18", "overrides": [*common, *ARMS[name]], "seeds": [seed]}
        for seed in args.seeds
        for name in args.arms
    ]
    cells: list[dict[str, object]] = []
    classes = [name for name in present if name in TRANSFER]
    if classes:
        cells.append({"tasks": classes, "protocols": ["linear", "knn", "fewshot"]})
        cells.append(
            {"tasks": [f"{name}-{factor}" for name in classes for factor in FACTORS], "protocols": ["ridge"]}
        )
    own = [name for name in present if name not in TRANSFER]
    cells.append({"tasks": own, "protocols": ["linear", "knn"]})
    return {
        "name": f"gpu-subspaces-{source}",
        "description": f"VICReg and MAST-5 with sensitivity, {args.arch}, {args.epochs} epochs on {source}.",
        "pretrain": arms,
        "cells": cells,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of archives")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seconds", type=float, default=580, help="stop, with the state saved, after this long"
    )
    parser.add_argument("--pretrain-on", default="imagenette_96", choices=("imagenette_96", "cifar10"))
    parser.add_argument("--arch", default="resnet18", help="resnet18-cifar for 32 px")
    parser.add_argument("--size", type=int, default=96, help="of the views, in pixels")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=1, help="networks that share the GPU at a time")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument(
        "--override", nargs="*", default=[], help="further key=value overrides of every recipe"
    )
    args = parser.parse_args()
    present = extract(args.data, args.out / "data")
    if args.pretrain_on not in present:
        parser.error(f"{args.data} holds no {args.pretrain_on}.tar")
    path = args.out / "suite.yaml"
    with atomic_write(path) as file:
        json.dump(suite(args, present), file, indent=1)  # JSON is YAML
    command = [sys.executable, "-m", "eval.cli", "run", str(path)]
    command += ["--data-root", str(args.out / "data"), "--out", str(args.out)]
    command += ["--jobs", str(args.jobs), "--quiet"] if args.jobs > 1 else []
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(args.seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # a run under way saves its state
        process.wait()
        print("time is over; the same command goes on from here", flush=True)
        return 0


if __name__ == "__main__":
    sys.exit(main())
