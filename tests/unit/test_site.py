"""The documentation: every link of every page leads to a page and a heading, on the disk and in the site."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("site_builder", ROOT / "docs" / "site.py")
assert SPEC is not None
assert SPEC.loader is not None
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    site.stage(folder)
    return folder


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    heads = re.findall(r"^#+ +(.+?) *$", prose, flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", head).strip().lower() for head in heads)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head)) for head in plain}


def test_every_link_leads_somewhere(staged: Path) -> None:
    wrong, number = [], 0
    for page in staged.rglob("*.md"):
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", prose):
            place, _, anchor = target.partition("#")
            found = (page.parent / place) if place else page
            number += 1
            if not found.exists() or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
                wrong.append(f"{page.relative_to(staged)}: {target}")
    assert wrong == []
    assert number > 40


def test_a_link_to_a_file_that_is_no_page_becomes_its_name(staged: Path) -> None:
    text = (staged / "docs" / "python.md").read_text(encoding="utf-8")
    assert "](../examples/evaluate.ipynb)" not in text
    assert "examples/evaluate.ipynb" in text


def test_equations_are_drawn_by_browsers_without_a_script(staged: Path) -> None:
    page = (staged / "docs" / "method.md").read_text(encoding="utf-8")
    assert "```math" not in page
    assert (
        page.count("<math ") == (ROOT / "docs" / "method.md").read_text(encoding="utf-8").count("```math") > 3
    )
    assert "\\" not in "".join(
        re.findall(r"<math .*?</math>", page)
    )  # a command that is not known stays as it is


def test_the_contents_name_every_page_of_docs(staged: Path) -> None:
    settings = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(settings)["docs_dir"] == "pages"
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in settings
