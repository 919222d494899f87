"""Build the documentation as a web site: every Markdown page of the repository, with links that are checked.

``make site`` calls it. The pages link to each other by their places in the repository, so they are copied to the
same places below one folder, with the pictures they show. mkdocs builds that folder in its strict mode: a link that
leads nowhere is an error. A link to a file that is no page becomes its name. Equations become MathML, which browsers
draw without any script.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/*.md", "mast/*.md", "pretrained/**/*.md", "results/**/*.md")
MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def stage(folder: Path) -> list[str]:
    """Copy pages, and the files that they show, into ``folder``; gives the names of the pages."""
    pages = sorted({path.relative_to(ROOT).as_posix() for glob in PAGES for path in ROOT.glob(glob)})
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for shown in re.findall(r"!\[[^\]]*\]\((?!\w+:)([^)\s]+)\)", text):
            source = (ROOT / page).parent / shown
            target = folder / os.path.relpath(source.resolve(), ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        text = MATH.sub(_draw, text)
        target.write_text(LINK.sub(lambda link, page=page: _link(link, page, pages), text), encoding="utf-8")
    return pages


def _draw(equation: re.Match[str]) -> str:
    """MathML, which scrolls by itself where a screen is narrow."""
    drawn = convert(equation[1], display="block")
    return f'<div style="overflow: auto hidden; padding: 0.3em 0">{drawn}</div>'


def _link(link: re.Match[str], page: str, pages: list[str]) -> str:
    """A link to a page stays; one to another file of the repository becomes its name, if the file is there."""
    place = link[2].partition("#")[0]
    target = os.path.relpath(((ROOT / page).parent / place).resolve(), ROOT)
    if target in pages or not (ROOT / target).exists():  # the latter is for mkdocs to refuse
        return link[0]
    return link[1] if link[1].startswith("`") else f"{link[1]} (`{target}`)"


def main(out: Path) -> int:
    """Build the site into ``out``."""
    work = out.parent / "site-pages"
    shutil.rmtree(work, ignore_errors=True)
    stage(work / "pages")
    shutil.copy(ROOT / "docs" / "mkdocs.yml", work / "mkdocs.yml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(work / "mkdocs.yml")]
    return subprocess.run([*command, "--site-dir", str(out.absolute())], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site")))
