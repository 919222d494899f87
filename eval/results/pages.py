"""HTML from the templates beside this file: every value is escaped, and a name that is missing is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES: Final = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Listing:
    """A table of the provenance, every value as text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> Markup:
    """A template with its values: strings are escaped, what another template gave is not."""
    return Markup(_environment().get_template(template).render(values))


def page(title: str, body: Markup) -> Markup:
    """A whole HTML document; everything it needs is in it."""
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return render("page.html", title=title, style=style, body=body)
