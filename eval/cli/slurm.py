"""``mast slurm``: a job script for a suite (on Ray) or a recipe (by torchrun)."""

from __future__ import annotations

import argparse
from pathlib import Path

from mast.errors import UserError

from . import options


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "slurm",
        run,
        "write a Slurm job script for a suite or a recipe",
        "mast slurm ericsson2021 --nodes 4 --gpus 8 --data-root /datasets --out /shared/runs/ericsson > job.sh\n"
        "  mast slurm imagenet-r50-mast5-100ep --nodes 2 --gpus 8 --seeds 0 1 2 --data-root /datasets\n"
        "    --out /shared/runs/mast5 --submit",
    )
    parser.add_argument(
        "work", metavar="SUITE|RECIPE", help="names from `mast list suites` or recipes, or a YAML file"
    )
    words = parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to a recipe; a dot reaches into a part"
    )
    parser.set_defaults(words=words)
    parser.add_argument("--data-root", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder of the run, on a disk that all nodes see"
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes (default: 1)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs a node (default: 0)")
    parser.add_argument("--cpus", type=int, default=8, help="cores a node (default: 8)")
    parser.add_argument("--time", default="24:00:00", help="limit of the job's time (default: 24:00:00)")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument(
        "--seeds", **options.MANY, type=int, help="of a recipe: one job of an array for each seed"
    )
    parser.add_argument(
        "--setup", default="", help="a shell line that each node runs first, such as: module load cuda"
    )
    parser.add_argument(
        "--submit", action="store_true", help="hand the script to sbatch and print its answer"
    )


def run(arguments: argparse.Namespace) -> int:
    from ..running import slurm

    job = slurm.Job(
        work=arguments.work,
        overrides=tuple(arguments.overrides),
        data_root=arguments.data_root,
        out=arguments.out,
        nodes=arguments.nodes,
        gpus=arguments.gpus,
        cpus=arguments.cpus,
        time=arguments.time,
        partition=arguments.partition or "",
        seeds=tuple(arguments.seeds or ()),
        setup=arguments.setup,
    )
    if arguments.nodes < 1 or arguments.gpus < 0 or arguments.cpus < 1:
        raise UserError("--nodes and --cpus start at 1, --gpus at 0", code=2)
    text = slurm.script(job)
    print(slurm.submit(text, arguments.out) if arguments.submit else text, end="")
    return 0
