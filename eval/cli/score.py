"""``mast score``: predictions of any detector against COCO or VOC ground truth."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from mast.errors import UserError

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "score",
        run,
        "score a detector's predictions, in COCO's results format, with intervals",
        "mast score predictions.json --data coco2017 --data-root data\n"
        "  mast score predictions.json --data voc:mine",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a JSON list of detections")
    parser.add_argument(
        "--data",
        required=True,
        help="a detection data set, voc:DIR, coco:DIR, coco:TEST.json,IMAGES or voc:DIR,TEST; its test split counts",
    )
    parser.add_argument("--data-root", type=Path, help="the folder that holds the data sets")
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..detection import score as room
    from ..detection.names import PLACES, is_place

    if arguments.data_root is None and not is_place(arguments.data):
        raise UserError(
            f"mast score --data {arguments.data} needs --data-root",
            remedy=f"give the folder of data sets, or the data's place: {'; '.join(PLACES.values())}",
            code=2,
        )
    found = room.score(arguments.file, arguments.data, arguments.data_root or Path())
    output.warned(found.data.warnings)
    if arguments.json:
        spans = {name: dataclasses.asdict(span) for name, span in found.intervals.items()}
        values = {"metrics": found.metrics, "intervals": spans, "counts": found.data.counts}
        return output.as_json(values | {"classes": list(found.data.classes), "warnings": found.data.warnings})
    print(room.render(found), end="")
    return 0
