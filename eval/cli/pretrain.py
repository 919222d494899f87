"""``mast pretrain``: pretrain a backbone from a recipe."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mast.errors import Interrupted

from . import options

if TYPE_CHECKING:
    from mast.config import Recipe


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "pretrain",
        run,
        "pretrain a backbone from a recipe",
        "mast pretrain imagenette96-mini method=mast views.single_fraction=0.25 --data-root data --out runs/mast5\n"
        "  torchrun --nproc-per-node 8 -m eval.cli pretrain imagenet-r50-mast5-100ep --out runs/mast5",
    )
    parser.add_argument("recipe", help="a name from `mast list recipes`, or a YAML file")
    words = parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the recipe; a dot reaches into a part"
    )
    parser.set_defaults(words=words)
    parser.add_argument(
        "--data-root", type=Path, default=Path(), help="the folder that holds the recipe's image folder"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    parser.add_argument(
        "--fresh", action="store_true", help="start anew, in place of continuing the run in --out"
    )
    parser.add_argument(
        "--workers", type=int, help="decoding workers (default: this process's share of the cores)"
    )
    options.log(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="time a few steps and print how long the run would take"
    )
    options.limit(parser)
    options.quiet(parser)


def run(arguments: argparse.Namespace) -> int:
    from mast.config import load_recipe
    from mast.distributed import restarted
    from mast.train import pretrain

    recipe = load_recipe(arguments.recipe, arguments.overrides, arguments.limit)
    if arguments.dry_run:
        return _forecast(recipe, arguments.data_root)
    try:
        written = pretrain(
            recipe,
            arguments.out,
            fresh=arguments.fresh and not restarted(),
            data_root=arguments.data_root,
            progress=not arguments.quiet,
            workers=arguments.workers,
            log=arguments.log,
        )
    except Interrupted as error:
        raise Interrupted("stopped; run the same command again to continue") from error
    if os.environ.get("RANK", "0") == "0":  # torchrun starts one process for each device
        print(written)
    return 0


def _forecast(recipe: Recipe, data_root: Path) -> int:
    from mast.data import count

    from ..running import forecast
    from ..running.costs import duration

    seconds = forecast.pretraining(recipe, data_root)
    images = count(recipe.data, data_root)
    print(
        f"{recipe.name}: {recipe.epochs} epochs of {images} images, about {duration(seconds)} on this machine."
    )
    return 0
