"""``mast diagnose``: why a detector misses average precision."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mast.errors import UserError

from . import options, output

if TYPE_CHECKING:
    from ..results.diagnosis import Source


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "diagnose",
        run,
        "say why a detector misses average precision: types of error, classes, sizes, confusions, worst images",
        "mast diagnose predictions.json --data coco2017 --data-root data --out errors.html\n"
        "  mast diagnose predictions.json --against others.json --data coco2017 --data-root data\n"
        "  mast diagnose runs/det --run 4cadf70a --against 9be1c3d2 --data-root data --masks",
    )
    parser.add_argument(
        "source", type=Path, metavar="FILE|DIR", help="a JSON list of detections, or the folder of a run"
    )
    parser.add_argument("--run", metavar="ID", help="of a folder: the first characters of a run id")
    parser.add_argument(
        "--against", metavar="FILE|ID", help="compare with another file, or another run of the folder"
    )
    parser.add_argument(
        "--data", help="of a file: a detection data set, voc:FOLDER or coco:FOLDER; its test split counts"
    )
    parser.add_argument("--data-root", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument("--masks", action="store_true", help="judge masks instead of boxes")
    parser.add_argument(
        "--overlap", type=float, default=0.5, metavar="IOU", help="from which on an object is found (0.5)"
    )
    parser.add_argument("--out", type=Path, help="also write a page with the worst images")
    parser.add_argument("--images", type=options.count, default=12, metavar="N", help="of the page (12)")
    options.include(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:

    from ..results import diagnosis

    options.folder(arguments.data_root)
    if arguments.out:
        output.check_writable(arguments.out)
    sources = _sources(arguments)
    if len(sources) > 1:
        diagnosis.check_pair(*sources)
    output.warned(sources[0].data.warnings)
    one, *others = [
        diagnosis.diagnose(source, threshold=arguments.overlap, masks=arguments.masks) for source in sources
    ]
    other = others[0] if others else None
    if arguments.out:
        diagnosis.write(one, other, arguments.out, arguments.images)
    if arguments.json:
        return output.as_json(diagnosis.as_dict(one, other))
    print(diagnosis.markdown(one, other), end="")
    if arguments.out:
        print(f"\n{arguments.out}")
    return 0


def _sources(arguments: argparse.Namespace) -> list[Source]:
    from ..results import diagnosis

    against = [arguments.against] if arguments.against else []
    if arguments.run:
        if arguments.data:
            raise UserError("--data with --run", remedy="a run names its own data; leave out --data", code=2)
        runs = [arguments.run, *against]
        return [diagnosis.of_record(arguments.source, run, arguments.data_root) for run in runs]
    if arguments.source.is_dir():
        raise UserError(
            f"{arguments.source} is a folder",
            remedy="say which run with --run ID; `mast records list` prints run ids",
            code=2,
        )
    if not arguments.data:
        raise UserError("mast diagnose: no --data", remedy="name the data set of the detections", code=2)
    files = [arguments.source, *map(Path, against)]
    return [diagnosis.of_file(file, arguments.data, arguments.data_root) for file in files]
