"""Progress on the terminal: a live bar for people, a line now and then for logs."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

# The time left comes first: a terminal cuts what is too long at the right.
FORMAT = "{percentage:3.0f}% {remaining} left  {desc}{n_fmt}/{total_fmt} {rate_fmt}{postfix}"


def bar(*args: Any, **kwargs: Any) -> Any:
    """A line of ``tqdm``'s; at most one in ten seconds where standard error is not a terminal."""
    live = sys.stderr.isatty()
    shown = {"dynamic_ncols": live, "mininterval": 0.2 if live else 10.0, "bar_format": FORMAT, **kwargs}
    if "desc" in kwargs:
        shown["desc"] += ": "  # tqdm adds it to later titles alone
    return tqdm(*args, **shown)


def say(line: str, on: bool) -> None:
    """Write a line to standard error, where somebody is to read along."""
    if on:
        print(line, file=sys.stderr, flush=True)
