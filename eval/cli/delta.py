"""``mast delta``: how much of a gap is protocol."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mast.errors import UserError

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
    parser.add_argument(
        "--kind",
        default="linear",
        choices=("linear", "knn", "attentive", "seg", "depth"),
        help="default: linear",
    )
    parser.add_argument(
        "--protocol", **options.MANY, help="only these; differences are taken to the first of them"
    )
    parser.add_argument(
        "--set", **options.MANY, default=[], metavar="KEY=VALUE", help="changes to all protocols' parameters"
    )
    parser.add_argument(
        "--vary",
        metavar="KEY=VALUE,VALUE",
        help="each protocol with each of these values, to see what it alone moves: mask_size=null,100",
    )
    parser.add_argument("--data-root", type=Path, required=True, help="the folder that holds the data sets")
    parser.add_argument("--out", type=Path, required=True, help="the folder of a run, for its feature store")
    options.include(parser)
    options.limit(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from .. import checkpoints, protocols, tasks
    from ..running import delta

    task = tasks.get(arguments.task)
    chosen = delta.versions(task, arguments.kind)
    if arguments.protocol:
        chosen = [protocols.get(name) for name in arguments.protocol]
    if arguments.limit is not None:
        chosen = [protocol.override(protocol.settings.smoke(arguments.limit)) for protocol in chosen]
    chosen = [protocol.override(options.changes(arguments.set)) for protocol in chosen]
    titles = [f"{protocol.name} v{protocol.version}" for protocol in chosen]
    if arguments.vary:
        key, values = _values(arguments.vary)
        titles = [f"{title} ({key}={_shown(value)})" for title in titles for value in values]
        chosen = [protocol.override({key: value}) for protocol in chosen for value in values]
    rows = delta.measure(
        checkpoints.load(arguments.checkpoint, **options.reading_of(arguments)),
        task,
        chosen,
        data_root=arguments.data_root,
        store=arguments.out / "features",
        limit=arguments.limit,
        titles=titles,
        progress=lambda name: print(name, file=sys.stderr, flush=True),
    )
    if arguments.json:
        return output.as_json([asdict(row) for row in rows])
    print(delta.render(rows), end="")
    return 0


def _values(given: str) -> tuple[str, list[Any]]:
    """``KEY=VALUE,VALUE`` in its parts, values read as YAML."""
    from mast import yaml

    key, sign, text = given.partition("=")
    if not sign or not text:
        raise UserError(f"--vary {given}: not of the form key=value,value", code=2)
    return key, list(yaml.parse(f"[{text}]", f"--vary {given}"))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
