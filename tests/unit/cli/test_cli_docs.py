"""docs/cli.md has every verb and option, no others, and what the pages show is accepted."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from eval import protocols, suites
from eval.cli import entry as cli
from eval.running.plan import plan
from mast import yaml

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
(VERBS,) = (part for part in cli.build_parser()._actions if isinstance(part, argparse._SubParsersAction))
SHARED = TEXT.split("Options of several verbs: ")[1].split("\n\n")[0]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]
SHOWN = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("mast ") and "..." not in line
]
EXAMPLES = [
    (verb, line.strip())
    for verb, parser in VERBS.choices.items()
    for line in re.split(r"\n|;", parser.epilog.partition("\n")[2].replace("\n    ", " "))
    if line.strip().startswith("mast ")
]


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", text))


@pytest.mark.parametrize("verb", VERBS.choices)
def test_every_option_stands_in_the_table_and_no_other(verb: str) -> None:
    rows = "\n".join(line for line in TEXT.splitlines() if re.match(rf"\| `mast {verb}[ `]", line))
    assert rows
    known = {name for part in VERBS.choices[verb]._actions for name in part.option_strings} - {"-h", "--help"}
    assert known <= options(rows) | options(SHARED)
    assert options(rows) <= known


def test_only_shared_options_stand_with_the_shared_ones() -> None:
    for option in options(SHARED):
        assert sum(option in parser.format_help() for parser in VERBS.choices.values()) > 1


def test_the_targets_of_a_conversion_are_the_real_ones() -> None:
    from eval.checkpoints.conversion import FORMATS

    (shown,) = re.findall(r"mast convert CHECKPOINT OUT \[--half\] --to (\S+)`", TEXT)
    assert set(shown.split("\\|")) == set(FORMATS)


@pytest.mark.parametrize(("where", "line"), [*SHOWN, *EXAMPLES])
def test_commands_that_are_shown_are_read(where: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    assert cli.parse(words).handler, where


def test_there_are_commands_to_read() -> None:
    assert len(SHOWN) > 15
    assert len(EXAMPLES) >= len(VERBS.choices)


def test_the_suite_that_is_shown_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(name: .*?)```", TEXT, flags=re.DOTALL)
    suite = suites.parse(yaml.parse(block, "docs/cli.md"), "docs/cli.md")
    assert [arm.name for arm in suite.pretrain] == ["vicreg", "mast5-0", "mast5-1"]
    assert len(plan(suite).cells) == 6 * 1 * 2


def test_the_protocols_that_are_recommended_exist_and_the_page_lists_its_sections() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    table = text.split("| question | protocol |")[1].split("\n\n")[0]
    named = {name for name in re.findall(r"`([^`]+)`", table) if not name.startswith("mast ")}
    assert len(named) > 15
    assert named <= set(protocols.names())
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    anchors = [re.sub(r"[^a-z0-9 -]", "", section.lower()).replace(" ", "-") for section in sections]
    assert re.findall(r"\(#([a-z-]+)\)", text.split("On this page: ")[1].split("\n\n")[0]) == anchors
