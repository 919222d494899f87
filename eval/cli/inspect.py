"""``mast inspect``: the passport of a checkpoint."""

from __future__ import annotations

import argparse

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "inspect", run, "say what a checkpoint file holds", "mast inspect moco_v2_800ep.pth.tar --json"
    )
    options.checkpoint(parser)
    options.include(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoints

    passport = checkpoints.inspect(arguments.checkpoint, **options.reading_of(arguments)).to_json()
    if arguments.json:
        return output.as_json(passport)
    output.fields(passport, width=16)
    return 0
