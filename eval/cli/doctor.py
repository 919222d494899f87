"""``mast doctor``: what is installed and what works."""

from __future__ import annotations

import argparse

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "doctor", run, "say what is installed, what works, and how to mend what does not", "mast doctor"
    )
    parser.add_argument("--quick", action="store_true", help="do not run Detectron2")
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..doctor import machine

    found = machine.report(quick=arguments.quick)
    if arguments.json:
        output.as_json(found)
    else:
        print(machine.render(found))
    return 0 if found["ok"] else 1
