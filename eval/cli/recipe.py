"""``mast recipe show``: a recipe with its base and all defaults, as a run would use it."""

from __future__ import annotations

import argparse

from . import options, output


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "recipe",
        run,
        "show a recipe with its base and all defaults",
        "mast recipe show imagenette96-mini epochs=50 > mine.yaml",
    )
    parser.add_argument("action", choices=("show",))
    parser.add_argument("name", help="a name from `mast list recipes`, or a YAML file")
    words = parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.set_defaults(words=words)
    options.json(parser)


def run(arguments: argparse.Namespace) -> int:
    import yaml

    from mast.config import load_recipe

    values = load_recipe(arguments.name, arguments.overrides).model_dump(mode="json")
    if arguments.json:
        return output.as_json(values)
    print(yaml.safe_dump(values, sort_keys=False, width=110, default_flow_style=None), end="")
    return 0
