"""``mast eval``: tasks on checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mast.errors import UserError

from . import cells, options

if TYPE_CHECKING:
    from ..results.records import Book


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "eval",
        run,
        "measure checkpoints on tasks; what is done is not run again",
        "mast eval --checkpoint mine=backbone.safetensors random:resnet18@0 --task cifar10 caltech101_20\n"
        "    --protocol linear knn --data-root data --out runs/mine\n"
        "  mast eval --checkpoint mine=backbone.safetensors random:resnet18@0 --task cifar10 --protocol linear knn\n"
        "    --shots 1 10 100 all --data-root data --out runs/curve",
    )
    parser.add_argument(
        "--checkpoint",
        **options.MANY,
        required=True,
        metavar="[NAME=]REF",
        help="files, names from `mast list checkpoints`, or random:ARCH[@SEED]; "
        "a random one takes the preprocessing of the first other one",
    )
    parser.add_argument(
        "--against",
        **options.MANY,
        default=[],
        metavar="REF",
        help="measure these too, and compare the others with them on the same test examples: "
        "mast5-prediction-imagenette96, ...",
    )
    parser.add_argument(
        "--task",
        **options.MANY,
        required=True,
        help="names from `mast list tasks`, files, or places: folder:DIR, csv:FILE, coco:DIR, voc:DIR, "
        "seg:DIR (pictures with masks), depth:DIR",
    )
    parser.add_argument(
        "--protocol", **options.MANY, help="names from `mast list protocols` (default: each task's default)"
    )
    parser.add_argument(
        "--seeds", **options.MANY, type=int, help="evaluation seeds (default: 0; with --shots 0 1 2 3 4)"
    )
    parser.add_argument(
        "--shots",
        **options.MANY,
        type=_size,
        default=[],
        metavar="SIZE",
        help="a curve over labels: numbers a class (1 10 100), shares (1%% 10%%) or all; each is drawn once a seed",
    )
    parser.add_argument(
        "--set", **options.MANY, default=[], metavar="KEY=VALUE", help="changes to the protocols' parameters"
    )
    options.reading(parser)
    options.precision(parser)
    options.running(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..datasets import Place
    from ..running import request
    from ..suites import DRAWS

    kinds = ("coco:", "voc:", "seg:", "depth:")
    placed = (task.startswith(kinds) or Place.read(task) for task in arguments.task)
    if arguments.data_root is None and all(placed):
        arguments.data_root = Path()
    if arguments.data_root is None:
        raise UserError("mast eval needs --data-root", remedy="give the folder of data sets", code=2)
    options.folder(arguments.data_root)
    asked = request.Request(
        checkpoints=tuple(arguments.checkpoint),
        tasks=tuple(arguments.task),
        protocols=tuple(arguments.protocol or ()),
        seeds=tuple(arguments.seeds or (DRAWS if arguments.shots else [0])),
        shots=tuple(arguments.shots),
        overrides=options.changes(arguments.set),
        against=tuple(arguments.against),
        reading=options.reading_of(arguments),
        limit=arguments.limit,
    )

    def differences(book: Book) -> None:
        """Print the difference of every checkpoint to those of ``--against``, on the same examples and episodes."""
        from ..results import compare

        if pairs := request.pairs(asked, {record.checkpoint.name for record in book.counting()}):
            print(compare.markdown(compare.build(book, pairs)))

    then = differences if arguments.against else None
    return cells.run(request.plan(asked), arguments, arguments.data_root, "Evaluation", then)


def _size(text: str) -> int | str:
    """A size of a curve: a number of labels, or a share or ``all`` as it stands."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
