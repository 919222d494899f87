"""Progress on the terminal: a live bar for people, a line now and then for logs."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(*args: Any, **kwargs: Any) -> Any:
    """A ``tqdm`` bar that writes at most one line in ten seconds where standard error is not a terminal."""
    live = sys.stderr.isatty()
    kwargs = {"dynamic_ncols": live, "mininterval": 0.2 if live else 10.0, **kwargs}
    return tqdm(*args, **kwargs)


def say(line: str, on: bool) -> None:
    """Write a line to standard error, where somebody is to read along."""
    if on:
        print(line, file=sys.stderr, flush=True)
