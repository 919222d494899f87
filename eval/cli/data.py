"""``mast data verify``, ``mast data download``, which verifies what it fetched, and ``mast data shard``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mast.errors import UserError

from . import options, output

PLACES = "folder:DIR, csv:FILE, coco:DIR, coco:TRAIN.json,TEST.json,IMAGES, voc:DIR, seg:DIR, depth:DIR"
TO_PRETRAIN = "images:PLACE, folders:PLACE (of classes), shards:PLACE"


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "data",
        run,
        "download a data set, check one (counts, hashes, images that cannot be read, images in two splits), or write "
        "images as tar shards",
        "mast data verify cifar10 --data-root data\n"
        "  mast data shard folders:/datasets/imagenet/train --out /datasets/imagenet-shards",
    )
    parser.add_argument("action", choices=("verify", "download", "shard"))
    parser.add_argument(
        "name",
        help="a data set's name, its folder under the data root, or its place: "
        f"{PLACES}; to pretrain on {TO_PRETRAIN}, where PLACE may be an address such as s3://bucket/images",
    )
    parser.add_argument("--data-root", type=Path, help="the folder that holds the data sets")
    parser.add_argument("--out", type=Path, help="the folder of the shards; a call that was stopped goes on")
    parser.add_argument(
        "--per-shard", type=options.count, default=1000, metavar="N", help="images of a shard (default: 1000)"
    )
    options.json(parser)
    options.quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..datasets import Place
    from ..doctor.data import verify

    if arguments.action == "shard":
        return _shard(arguments)
    if arguments.out is not None:
        raise UserError(
            f"mast data {arguments.action} takes no --out", remedy="`mast data shard` does", code=2
        )
    kinds = ("images:", "folders:", "shards:", "coco:", "voc:", "seg:", "depth:")
    placed = arguments.name.startswith(kinds) or Place.read(arguments.name) is not None
    if arguments.data_root is None and not placed:
        raise UserError(
            f"mast data {arguments.action} {arguments.name} needs --data-root",
            remedy=f"give the folder of data sets, or name the place: {TO_PRETRAIN}, {PLACES}",
            code=2,
        )
    arguments.data_root = arguments.data_root or Path()
    if arguments.action == "download":
        from ..datasets import download

        arguments.data_root.mkdir(parents=True, exist_ok=True)
        download(arguments.name, arguments.data_root)
    found = verify(arguments.name, arguments.data_root, progress=not arguments.quiet)
    problems = found["problems"]
    if arguments.json:
        output.as_json(found)
    else:
        if found.get("against") == []:
            found["against"] = "nothing: no official numbers are known, and no list of hashes lies there"
        told = ("problems", "warnings")
        output.fields({key: value for key, value in found.items() if key not in told}, width=10)
        output.warned(found.get("warnings", ()), sys.stdout)
        for problem in problems:
            output.failed(problem, 1)
    return 1 if problems else 0


def _shard(arguments: argparse.Namespace) -> int:
    from ..doctor import encoded

    if arguments.out is None:
        raise UserError("mast data shard needs --out", remedy="give the folder of the shards", code=2)
    if arguments.data_root is not None:
        raise UserError("mast data shard takes no --data-root", remedy="write the whole place", code=2)
    written = encoded.shard(
        arguments.name, arguments.out, per_shard=arguments.per_shard, progress=not arguments.quiet
    )
    if arguments.json:
        return output.as_json(written)
    output.fields(written, width=10)
    return 0
