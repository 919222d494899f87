"""``mast delta``: how much of a gap is protocol."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "delta",
        run,
        "show how much the protocol changes a number: all versions of one on the same data",
        "mast delta backbone.safetensors --task caltech101_20 --data-root data --out runs/mine",
    )
    options.checkpoint(parser)
    parser.add_argument("--task", required=True, help="a name from `mast list tasks`, or a file")
    parser.add_argument("--kind", default="linear", choices=("linear", "knn"), help="default: linear")
    parser.add_argument(
        "--protocol", **options.MANY, help="only these; differences are taken to the first of them"
    )
    parser.add_argument("--data-root", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="the folder of a run, for its feature store")
    options.include(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoints, protocols, tasks
    from ..running import delta

    task = tasks.get(arguments.task)
    chosen = delta.versions(task, arguments.kind)
    if arguments.protocol:
        chosen = [protocols.get(name) for name in arguments.protocol]
    rows = delta.measure(
        checkpoints.load(arguments.checkpoint, **options.reading_of(arguments)),
        task,
        chosen,
        data_root=arguments.data_root,
        store=arguments.out / "features",
        progress=lambda name: print(name, file=sys.stderr, flush=True),
    )
    if arguments.json:
        return output.as_json([asdict(row) for row in rows])
    print(delta.render(rows), end="")
    return 0
