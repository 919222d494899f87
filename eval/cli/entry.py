"""The command ``mast``: one file for each verb beside this one. They read options and print; the rooms do the work.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted. A verb imports what is heavy only when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from mast import __version__
from mast.errors import Interrupted, UserError

from . import output
from .options import Handler, Parser, Verbs

VERBS = (
    "demo",
    "pretrain",
    "recipe",
    "inspect",
    "convert",
    "eval",
    "run",
    "reproduce",
    "slurm",
    "table",
    "delta",
    "compare",
    "report",
    "records",
    "export",
    "analyze",
    "measure",
    "list",
    "data",
    "score",
    "diagnose",
    "doctor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    for stream in (sys.stdout, sys.stderr):  # names of files need not be text that the terminal can show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = parse(arguments)
        handler: Handler = parsed.handler
        from ..definitions import included

        with included(getattr(parsed, "include", [])):
            return handler(parsed)
    except UserError as error:
        return output.failed(str(error), error.code)
    except (KeyboardInterrupt, Interrupted) as error:
        return output.failed(str(error) or "interrupted; run the same command again to continue", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the program that read our output has ended
        return 1
    except OSError as error:
        from mast.files import unwritable

        if full := unwritable(error, Path(error.filename or Path.cwd())):
            return output.failed(str(full), full.code)
        place = f"{error.filename}: " if error.filename else ""
        return output.failed(f"{place}{error.strerror or error}", 1)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line; where a verb takes a list of words, they may stand before, between and after options.

    Raises:
        UserError: For anything that the verb does not know.
    """
    parsed, rest = build_parser().parse_known_args(arguments)
    verb, words = parsed.verb, parsed.words
    for action in verb._actions:  # argparse takes `--out=--` for an option without its value
        if action.nargs is None and action.option_strings and getattr(parsed, action.dest, None) == []:
            verb.error(f"argument {'/'.join(action.option_strings)}: expected one argument")
    unknown_options = rest if words is None else [word for word in rest if word.startswith("-")]
    if unknown_options:
        verb.error(f"unrecognized arguments: {' '.join(unknown_options)}")
    if words is not None:  # argparse ends a list of words at the first option
        getattr(parsed, words.dest).extend(map(words.type or str, rest))
    return parsed


def build_parser() -> Parser:
    """The parser with every verb."""
    parser = Parser(
        prog="mast",
        description="Pretrain with Masked Augmentation Subspace Training, and measure how well backbones transfer.",
        epilog="Start with `mast demo`. `mast VERB --help` explains a verb and shows an example.",
    )
    parser.add_argument("--version", action="version", version=f"mast {__version__}")
    verbs = Verbs(parser)
    for name in VERBS:
        importlib.import_module(f".{name}", __package__).add(verbs)
    return parser
