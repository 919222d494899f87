"""``mast analyze``: a MAST run, or a suite against one of its checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import UserError
from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "analyze",
        run,
        "analyze a MAST run (masks, uncertainty, neighbours), or a suite against one of its checkpoints",
        "mast analyze runs/mast5 --data-root data --out runs/mast5/analysis\n"
        "  mast analyze runs/mast5 --data-root data --task cifar10 cifar10-hue --out runs/mast5/analysis\n"
        "  mast analyze runs/leave-one-out --against all --out runs/leave-one-out/analysis",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="RUN",
        help="the folder of a pretraining run, or a file in it; or the folder of a suite",
    )
    parser.add_argument("--data-root", type=Path, help="also look at the run's own images, in this folder")
    parser.add_argument("--images", type=int, default=2000, help="how many of them (default: 2000)")
    parser.add_argument(
        "--against", metavar="NAME", help="compare a suite's checkpoints with this one, task by task"
    )
    parser.add_argument(
        "--task",
        **options.MANY,
        default=[],
        metavar="TASK",
        help="read these tasks off every subspace, and off the one that val chooses",
    )
    parser.add_argument(
        "--protocol", default="ridge", help="by this protocol on frozen features (default: ridge)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for CSV files and figures")
    options.limit(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..analysis.write import compare, downstream, write

    output.check_writable(arguments.out / "masks.csv")
    if arguments.limit is not None and arguments.data_root is None:
        raise UserError(
            "--limit is for images, and nothing here reads any without --data-root",
            remedy="leave it out: masks and records are read in seconds",
            code=2,
        )
    if arguments.against:
        found = compare(arguments.out, arguments.checkpoint, arguments.against)
    elif arguments.task:
        if arguments.data_root is None:
            raise UserError("--task needs the images", remedy="name their folder by --data-root", code=2)
        found = downstream(
            arguments.checkpoint,
            arguments.out,
            arguments.data_root,
            arguments.task,
            arguments.protocol,
            limit=arguments.limit,
        )
    else:
        images = min(arguments.images, arguments.limit or arguments.images)
        found = write(arguments.checkpoint, arguments.out, data_root=arguments.data_root, images=images)
    if arguments.json:
        return output.as_json(found)
    for path in found["files"]:
        print(path)
    if left_out := found.get("left_out"):
        print(f"left out, {arguments.against} has no number there: {', '.join(left_out)}", file=sys.stderr)
    return 0
