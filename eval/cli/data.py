"""``mast data verify`` and ``mast data download``, which verifies what it fetched."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mast.errors import UserError

from . import options, output

PLACES = "folder:DIR, csv:FILE, coco:DIR, coco:TRAIN.json,TEST.json,IMAGES, voc:DIR, seg:DIR, depth:DIR"


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "data",
        run,
        "download a data set, or check one: counts, hashes, images that cannot be read, images in two splits",
        "mast data verify cifar10 --data-root data",
    )
    parser.add_argument("action", choices=("verify", "download"))
    parser.add_argument(
        "name",
        help="a data set's name, its folder under the data root, or its place: images:DIR (to pretrain on), "
        f"{PLACES}",
    )
    parser.add_argument("--data-root", type=Path, help="the folder that holds the data sets")
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..datasets import Place
    from ..doctor.data import verify

    kinds = ("images:", "coco:", "voc:", "seg:", "depth:")
    placed = arguments.name.startswith(kinds) or Place.read(arguments.name) is not None
    if arguments.data_root is None and not placed:
        raise UserError(
            f"mast data {arguments.action} {arguments.name} needs --data-root",
            remedy=f"give the folder of data sets, or name the place: images:DIR, {PLACES}",
            code=2,
        )
    arguments.data_root = arguments.data_root or Path()
    if arguments.action == "download":
        from ..datasets import download

        arguments.data_root.mkdir(parents=True, exist_ok=True)
        download(arguments.name, arguments.data_root)
    found = verify(arguments.name, arguments.data_root)
    problems = found["problems"]
    if arguments.json:
        output.as_json(found)
    else:
        if found.get("against") == []:
            found["against"] = "nothing: no official numbers are known, and the folder has no SHA256SUMS"
        told = ("problems", "warnings")
        output.fields({key: value for key, value in found.items() if key not in told}, width=10)
        output.warned(found.get("warnings", ()), sys.stdout)
        for problem in problems:
            output.failed(problem, 1)
    return 1 if problems else 0
