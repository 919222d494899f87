"""``mast measure``: what checkpoints' features tell without labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from mast.errors import UserError

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "measure",
        run,
        "measure checkpoints without labels: RankMe, effective rank, alpha-ReQ, LiDAR, linear CKA",
        "mast measure --checkpoint mast5-imagenette96 vicreg-imagenette96 random:resnet10-c32-half@0 --task cifar10\n"
        "    --data-root data --out runs/mine\n"
        "  mast measure --checkpoint mine=backbone.safetensors --task images:photos --measures rankme lidar\n"
        "    --out runs/mine",
    )
    parser.add_argument(
        "--checkpoint",
        **options.MANY,
        required=True,
        metavar="[NAME=]REF",
        help="files, names from `mast list checkpoints`, or random:ARCH[@SEED]",
    )
    parser.add_argument(
        "--task",
        required=True,
        help="whose images: a name from `mast list tasks`, folder:DIR, csv:FILE, or images:DIR without labels",
    )
    parser.add_argument("--split", default="train", help="of its images (default: train)")
    parser.add_argument(
        "--measures",
        **options.MANY,
        metavar="NAME",
        help="rankme, effective-rank, alpha-req, cka, lidar (default: all but lidar, which forwards many views)",
    )
    parser.add_argument(
        "--protocol",
        default="linear",
        help="read the features that this protocol reads (default: linear)",
    )
    parser.add_argument(
        "--images",
        type=options.count,
        default=25_600,
        metavar="N",
        help="at most, drawn at random (default: 25600, as RankMe's authors)",
    )
    parser.add_argument(
        "--lidar-images", type=options.count, default=1000, metavar="N", help="for LiDAR (default: 1000)"
    )
    parser.add_argument(
        "--views", type=options.count, default=50, metavar="N", help="of each of LiDAR's images (default: 50)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of images and views (default: 0)")
    parser.add_argument("--data-root", type=Path, help="the folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="the folder of a run, or a new one")
    parser.add_argument("--store", type=Path, metavar="DIR", help="the feature store (default: in --out)")
    options.reading(parser)
    options.include(parser)
    options.limit(parser)
    options.json(parser)
    options.quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    import msgspec

    from mast.files import atomic_write

    from ..analysis import labelfree
    from ..results import measures, tables
    from ..running import request

    data_root = arguments.data_root
    if data_root is None:
        if not arguments.task.startswith((labelfree.UNLABELLED, "folder:", "csv:")):
            raise UserError("mast measure needs --data-root", remedy="give the folder of data sets", code=2)
        data_root = Path()
    options.folder(data_root)
    wanted = labelfree.Wanted(
        task=arguments.task,
        split=arguments.split,
        protocol=arguments.protocol,
        names=tuple(dict.fromkeys(arguments.measures or labelfree.USUAL)),
        images=arguments.images,
        seed=arguments.seed,
        lidar_images=arguments.lidar_images,
        views=arguments.views,
        limit=arguments.limit,
    )
    wanted.check()
    reading = options.reading_of(arguments)
    plan = request.plan(request.Request(checkpoints=tuple(arguments.checkpoint), tasks=(), reading=reading))
    taken = labelfree.measure(
        plan,
        wanted,
        data_root=data_root,
        out=arguments.out,
        store=arguments.store,
        progress=not arguments.quiet,
    )
    found = measures.read([arguments.out])
    sections = tables.read([arguments.out]).sections
    sheets = measures.sheets(found, sections)
    path = arguments.out / "tables" / "measures.csv"
    with atomic_write(path) as file:
        file.write(measures.comma_separated(sheets))
    if arguments.json:
        output.as_json(
            {
                "added": taken.added,
                "known": taken.known,
                "failed": taken.failed,
                "measures": [msgspec.to_builtins(line) for line in found],
                "agreements": [
                    dict(zip(measures.AGREEMENT, agreement.cells(), strict=True))
                    for sheet in sheets
                    for agreement in sheet.agreements
                ],
                "files": [str(path)],
            }
        )
    else:
        print(measures.text(sheets))
        print(f"{taken.added} measures taken, {taken.known} there before.")
        print(path)
    for name, message in taken.failed.items():
        output.failed(f"{name}: {message}", 1)
    return 1 if taken.failed else 0
