"""Odd command lines and damaged files: one line and an exit code, never a traceback.

`make test` tries a few hundred; `pytest -m slow tests/integration/test_cli_fuzz.py` tries 2,000 of other seeds.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.cli import entry as cli

ROOT = Path(__file__).resolve().parents[2]
ODD = (
    *(
        "",
        "-",
        "--",
        " ",
        "\n",
        "/",
        ".",
        "..",
        "~",
        "'",
        '"',
        "$(x)",
        "%s",
        "{}",
        "[",
        "]",
        "=",
        "a=b",
        "\\",
        "é" * 300,
    ),
    *(
        "x" * 300,
        "\udcff",
        "a\tb",
        "-1",
        "0",
        "1",
        "1e9",
        "9" * 30,
        "nan",
        "inf",
        "null",
        "true",
        "[1,2",
        "{a: b",
        "*a",
    ),
    *(
        "&a",
        "!!python/object:os.system",
        "2024-02-30",
        "0x10",
        "random:",
        "random:resnet10-c8-half@-1",
        "hf://",
        "hf://a",
    ),
    *(
        "random:resnet18@1e3",
        "random:resnet0",
        "random:resnet10-c99999999",
        "random:resnet10-c0",
        "timm:",
        "http://x",
    ),
    *(
        "/dev/null",
        "/etc/passwd",
        "eval",
        "README.md",
        "cifar10",
        "knn",
        "linear",
        "mast5-imagenette96",
        "mini",
        "demo",
    ),
)
VERBS = {  # "@" is a word, "!" ends a flag, "2" an option of two values
    "demo": ["--limit"],
    "pretrain": ["@", "--out", "--data-root", "--workers", "--limit", "--dry-run!"],
    "inspect": ["@", "--layout", "--arch", "--include", "--json!"],
    "convert": ["@", "@", "--to", "--layout"],
    "eval": [
        "--checkpoint",
        "--task",
        "--protocol",
        "--seeds",
        "--set",
        "--data-root",
        "--out",
        "--against",
        "--dry-run!",
    ],
    "run": ["@", "--data-root", "--out", "--include", "--limit", "--dry-run!"],
    "table": ["@", "--format", "--published", "--title", "--out", "--check"],
    "delta": ["@", "--task", "--kind", "--protocol", "--data-root", "--out"],
    "compare": ["@", "--pair2", "--metric", "--group", "--format", "--out", "--figure", "--check"],
    "report": ["@", "--out", "--title", "--data-root"],
    "analyze": ["@", "--out", "--images", "--against", "--data-root", "--task", "--protocol"],
    "list": ["@", "@", "--include"],
    "data": ["@", "@", "--data-root"],
}
USUAL = {
    "--out": ["out"],
    "--data-root": ["."],
    "--task": ["cifar10", "scenes-colour"],
    "--protocol": ["knn", "linear"],
    "--checkpoint": ["random:resnet10-c8-half"],
}
WHOLE_DISK = ("/", "..", "~")  # folders of records are read to their depths: not these
PIECES = (
    *(
        b"",
        b"\x00",
        b"\xff\xfe",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"- ",
        b"&a [*a]",
        b"*a",
        b"? ",
        b"!!binary x",
        b"|",
        b">",
    ),
    *(
        b"9" * 400,
        b"1e999",
        b".nan",
        b"2024-02-30",
        b"\t",
        b"'",
        b'"',
        b"null",
        b"~",
        b"{a: {a: {a: 1}}}",
        b"\xc3",
        b"---\n",
    ),
    *(
        b'"iscrowd": "0"',
        b"-1",
        b"[" * 3000,
        b"{a: " * 3000,
        b"<script>",
        b"=cmd()",
        b"\\input{x}",
        b"a$%$",
        b"\n\n",
    ),
)


def command_line(rng: random.Random) -> list[str]:
    """A verb with odd words."""
    verb = rng.choice(list(VERBS))
    words = [verb]
    for option in VERBS[verb]:
        odd = [
            word
            for word in ODD
            if word not in WHOLE_DISK or verb not in ("report", "analyze", "table", "compare")
        ]
        if option == "--limit" and verb == "demo":
            words += [option, rng.choice([word for word in odd if not word.isdigit()])]
        elif rng.random() < 0.2:
            continue
        elif option == "@":
            words.append(rng.choice(odd))
        elif option.endswith("!"):
            words.append(option[:-1])
        elif option.endswith("2"):
            words += [option[:-1], rng.choice(odd), rng.choice(odd)]
        else:
            value = rng.choice(USUAL[option] if option in USUAL and rng.random() < 0.7 else odd)
            words += [option, value] if rng.random() < 0.5 else [f"{option}={value}"]
    if verb == "data" and rng.random() < 0.9:
        words[1:2] = ["verify"]
    return words


def damaged(rng: random.Random, content: bytes) -> bytes:
    """A file with some of its bytes replaced, removed or added."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        stop = min(len(content), start + rng.choice((0, 0, 1, 3, 20, 200)))
        content = content[:start] + rng.choice(PIECES) + content[stop:]
    return content


SOURCES: dict[str, tuple[str, list[str]]] = {  # the file that is damaged, and the command that reads it
    "task.yaml": (
        "eval/tasks/cifar10.yaml",
        ["eval", "--checkpoint=random:resnet10-c8-half", "--task=task.yaml"],
    ),
    "protocol.yaml": (
        "eval/protocols/ridge.yaml",
        ["eval", "--checkpoint=random:resnet10-c8-half", "--task=cifar10", "--protocol=protocol.yaml"],
    ),
    "suite.yaml": ("eval/suites/mini.yaml", ["run", "suite.yaml"]),
    "recipe.yaml": ("mast/recipes/demo.yaml", ["pretrain", "recipe.yaml"]),
    "own/layouts/mine.yaml": ("tests/integration/layout.yaml", ["list", "layouts", "--include=own"]),
    "published.csv": (
        "results/published/vicreg-table1.csv",
        ["table", "records", "--published=published.csv"],
    ),
    "records/a.jsonl": ("results/records/mini/mini.jsonl", ["table", "records"]),
    "records/b.jsonl": (
        "results/records/mini/mini.jsonl",
        ["compare", "records", "--pair", "mast5", "vicreg"],
    ),
    "net.pth": ("pretrained/weights/vicreg-imagenette96.safetensors", ["inspect", "net.pth"]),
}


def damaged_file(rng: random.Random) -> list[str]:
    """Write one damaged file and give the command that reads it."""
    name = rng.choice(list(SOURCES))
    source, words = SOURCES[name]
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if name == "own/layouts/mine.yaml":
        content = b"{title: Mine, source: here, at: [state_dict], prefix: backbone., marks: ['head']}"
    else:
        content = (ROOT / source).read_bytes()
    if name.startswith("records/"):
        content = b"".join(content.splitlines(keepends=True)[:3])
    if name == "net.pth":
        content = content[:4000]
    Path(name).write_bytes(damaged(rng, content))
    more = {
        "eval": ["--data-root=.", "--out=out", "--dry-run"],
        "run": ["--data-root=.", "--out=out", "--dry-run"],
    }
    return [*words, *more.get(words[0], ["--out=out", "--dry-run"] if words[0] == "pretrain" else [])]


def holds(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with how a command line ends; empty where nothing is."""
    try:
        code = cli.main(words)
    except SystemExit as error:  # --help
        code = int(error.code or 0)
    except Exception as error:
        return f"{words}: {type(error).__name__}: {error}"
    errors = capsys.readouterr().err.splitlines()
    if code not in (0, 1, 2) or (code and not any(line.startswith("mast: error: ") for line in errors)):
        return f"{words}: exit code {code}, {errors[-3:]}"
    return ""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


CASES: dict[str, Callable[[random.Random], list[str]]] = {"words": command_line, "files": damaged_file}


@pytest.mark.parametrize("kind", CASES)
def test_a_few_hundred(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(kind, range(150), capsys)
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_two_thousand(kind: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind, range(1000, 2000), capsys) == []


def run(kind: str, seeds: range, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What ended badly, of the cases of these seeds; each in an empty folder."""
    found = []
    for seed in seeds:
        for left in Path().iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if wrong := holds(CASES[kind](random.Random(seed)), capsys):
            found.append(f"{kind} {seed}: {wrong}")
    return found


def test_every_source_is_read_when_it_is_whole(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the damage, and not the command, is what fails."""
    for name, (source, _) in SOURCES.items():
        if (ROOT / source).is_file():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, name)
    assert cli.main(["table", "records", "--published=published.csv", "--format=csv"]) == 0
    assert cli.main(["compare", "records", "--pair", "mast5", "vicreg"]) in (0, 1)
    assert cli.main(["inspect", "net.pth", "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["run", "suite.yaml", "--data-root=.", "--out=out", "--dry-run", "--json"]) == 0
    assert {row["state"][:12] for row in json.loads(capsys.readouterr().out)} == {"data missing"}
