"""What verbs share of a command line: the parser, and the options that several of them have."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mast.errors import UserError, unknown

Handler = Callable[[argparse.Namespace], int]
MANY: dict[str, Any] = {"nargs": "+", "action": "extend"}  # `--task a b` and `--task a --task b`
SCALING: dict[str, Any] = {"only": [], "part": None, "jobs": None, "store": None, "store_gb": None}
SCALING |= {"engine": "local", "address": None, "log": []}


class Parser(argparse.ArgumentParser):
    """Errors on one line, with the near name where a name was misspelt."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            what = wrong[1].lower() if wrong[1].isupper() else f"value of {wrong[1]}"
            raise unknown(what, wrong[2], [name.strip(" '") for name in wrong[3].split(",")])
        raise UserError(message, remedy=f"see `{self.prog} --help`", code=2)


class Verbs:
    """The verbs of a parser; each verb's own file adds itself here."""

    def __init__(self, parser: Parser) -> None:
        self._verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(self, name: str, handler: Handler, summary: str, example: str) -> Parser:
        """Add a verb.

        Args:
            name: The verb.
            handler: What runs it, and returns the exit code.
            summary: One line for ``mast --help``.
            example: One or more lines that a user can copy.
        """
        added = self._verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(handler=handler, verb=added, words=None)
        return added


def json(parser: Parser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def quiet(parser: Parser) -> None:
    """``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def reading(parser: Parser) -> None:
    """How a checkpoint file is read; `reading_of` gives what the user wrote."""
    parser.add_argument(
        "--layout", help="read the file in this layout (a name from `mast list layouts`, or a YAML file)"
    )
    parser.add_argument("--arch", help="build this architecture, where the file fits several")
    parser.add_argument(
        "--key", metavar="PATH", help="the dict of the file that holds the weights: net, model.encoder"
    )
    parser.add_argument("--prefix", help="what the backbone's keys start with: encoder.")
    parser.add_argument("--heads", type=int, metavar="N", help="heads of attention of a vision transformer")
    parser.add_argument("--input-size", type=int, metavar="PIXELS", help="side of the images to evaluate at")
    parser.add_argument(
        "--normalization",
        nargs="+",
        metavar="MEAN STD",
        help="how pixels in 0..1 are normalised: 0.49,0.48,0.45 0.25,0.24,0.26 (or imagenet, or none)",
    )
    parser.add_argument(
        "--features",
        metavar="NAME",
        help="what the feature is: cls, mean, cls+mean, last4, last4+mean, map or avg; `mast eval` takes several: "
        "cls,mean",
    )
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear"), help="how images are resized")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="allow the file to run its own code; only for files you trust",
    )


_READING = (
    "layout",
    "arch",
    "key",
    "prefix",
    "heads",
    "input_size",
    "normalization",
    "interpolation",
    "features",
    "precision",
    "trust_pickle",
)


def reading_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `reading`, and `precision` where a verb has it, as `eval.checkpoints.load` takes them."""
    return {
        name: value for name in _READING if (value := getattr(arguments, name, None)) not in (None, False)
    }


def precision(parser: Parser) -> None:
    """``--precision``."""
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="compute frozen features, tokens and maps in this (default: fp32); bf16 stands in records and tables",
    )


def checkpoint(parser: Parser) -> None:
    """One checkpoint, and how it is read."""
    parser.add_argument(
        "checkpoint", help="a file, a name from `mast list checkpoints`, or random:ARCH[@SEED]"
    )
    reading(parser)


def include(parser: Parser) -> None:
    """``--include``; `entry.main` passes it on."""
    parser.add_argument(
        "--include",
        **MANY,
        type=Path,
        default=[],
        metavar="DIR",
        help="use your own definitions by name: a folder with tasks/, protocols/, suites/ or layouts/",
    )


def limit(parser: Parser) -> None:
    """``--limit``."""
    parser.add_argument(
        "--limit",
        type=_at_least_two,
        metavar="N",
        help="smoke test: at most N examples of each split and a short training; the numbers mean nothing",
    )


def _at_least_two(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 2:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of 2 or more")
    return int(text)


def running(parser: Parser, *, out: str = "") -> None:
    """Where a run reads and writes, and what it prints; ``out`` says where it writes if the user does not."""
    parser.add_argument("--data-root", type=Path, help="the folder that holds the data sets")
    parser.add_argument(
        "--out",
        type=Path,
        required=not out,
        help="the folder of the run; a run that is there continues" + (f" (default: {out})" if out else ""),
    )
    include(parser)
    limit(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run and how long it would take"
    )
    scaling(parser)
    log(parser)
    json(parser)
    quiet(parser)


def log(parser: Parser) -> None:
    """``--log``."""
    parser.add_argument(
        "--log",
        **MANY,
        default=[],
        choices=("tensorboard", "mlflow", "wandb"),
        help="send curves or results to these programs too",
    )


def scaling(parser: Parser) -> None:
    """Which part of a run this is, and who does it; `SCALING` has what stands for nothing said."""
    parser.add_argument(
        "--only", **MANY, default=[], metavar="CHECKPOINT", help="run the cells of these checkpoints"
    )
    parser.add_argument(
        "--part",
        type=part,
        metavar="I/N",
        help="run the I-th of N parts of the checkpoints, each with its own --out",
    )
    parser.add_argument(
        "--jobs",
        type=count,
        help="cells at a time, each in a process (default: one a GPU; on a CPU, where all cells are on frozen "
        "features, as many as fit)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="keep features here, for several runs (default: in --out)",
    )
    parser.add_argument(
        "--store-gb", type=gigabytes, metavar="GB", help="delete the longest unused features beyond this size"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster"
    )
    parser.add_argument("--address", help="of the Ray cluster (default: the one this machine is part of)")


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"'{text}' is no number of jobs", remedy="give a whole number from 1 on", code=2)
    return int(text)


def gigabytes(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise UserError(f"'{text}' is no size in GB", remedy="give a number above 0, such as 500", code=2)
    return value


def part(text: str) -> tuple[int, int]:
    """``I/N``: which part of how many."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"'{text}' is no part", remedy="write it as 1/4, 2/4, 3/4 or 4/4", code=2)
    return int(match[1]), int(match[2])


def places(parser: Parser) -> None:
    """The records to read, and where the text made of them goes."""
    words = parser.add_argument(
        "places", nargs="+", type=Path, metavar="DIR", help="folders of runs, or record files"
    )
    parser.set_defaults(words=words)
    parser.add_argument("--out", type=Path, help="write to this file instead of the screen")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="compare with this file; exit with 1 and print the differences",
    )


def folder(data_root: Path) -> None:
    """Refuse a ``--data-root`` that is not there.

    Raises:
        UserError: If it is no folder.
    """
    if not data_root.is_dir():
        raise UserError(
            f"{data_root}: no such folder", remedy="give the folder of data sets as --data-root", code=2
        )


def changes(given: list[str]) -> dict[str, Any]:
    """What ``--set`` changes: ``KEY=VALUE`` in its parts, values read as YAML.

    Raises:
        UserError: For text of another form.
    """
    from mast import yaml

    found = {}
    for change in given:
        key, sign, value = change.partition("=")
        if not sign:
            raise UserError(f"--set {change}: not of the form key=value", code=2)
        found[key] = yaml.parse(value, f"--set {change}")
    return found
