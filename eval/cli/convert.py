"""``mast convert``: a checkpoint in another library's format, with its certificate."""

from __future__ import annotations

import argparse
from pathlib import Path

from mast.errors import UserError

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "convert",
        run,
        "convert a checkpoint, and prove on fixed images (hence no --limit) that the copy computes the same",
        "mast convert backbone.safetensors --to detectron2 backbone-d2.pth",
    )
    options.checkpoint(parser)
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument(
        "--to", required=True, help="torchvision, detectron2, timm, huggingface or safetensors"
    )
    parser.add_argument("--half", action="store_true", help="round the weights to half precision")
    options.include(parser)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.conversion import convert

    if arguments.output.exists():
        raise UserError(f"{arguments.output} exists", remedy="name another file, or remove it", code=2)
    certificate = convert(
        arguments.checkpoint,
        arguments.output,
        to=arguments.to,
        half=arguments.half,
        **options.reading_of(arguments),
    )
    if arguments.json:
        return output.as_json(certificate)
    print(arguments.output)
    if config := certificate.get("config"):
        print(f"config.json: {config}")
    print(f"compared with {certificate['peer']}; largest difference divided by largest value:")
    for precision, differences in certificate["differences"].items():
        print(f"  {precision}  " + "  ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    return 0
