"""The rooms and their doors: who may import whom, held by reading the sources."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "mast").rglob("*.py"), *(ROOT / "eval").rglob("*.py")])
HEAVY = {"torch", "detectron2", "pandas", "matplotlib"}
# From the top of the house down: a room imports from rooms that stand after it, never from one before.
ROOMS = (
    "cli",
    "api",
    "analysis",
    "running",
    "doctor",
    "results",
    "suites",
    "tasks",
    "protocols",
    "detection",
    "features",
    "scenes",
    "datasets",
    "checkpoints",
    "numbers",
    "definitions",
    "claims",
    "device",
    "errors",
    "mast",
)


def module_name(file: Path) -> str:
    """``eval.tasks`` for eval/tasks/__init__.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, package: str) -> Iterator[str]:
    """The absolute names of all that a source imports when it runs, inside functions too.

    ``from . import stats`` in package ``eval`` gives ``eval`` and ``eval.numbers.stats``. What stands below
    ``if TYPE_CHECKING:`` is left out: it is for the type checker, and no program ever runs it.
    """
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """As `ast.walk`, without what only the type checker reads."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def imported_by(file: Path) -> set[str]:
    name = module_name(file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    return set(imports(file.read_text(encoding="utf-8"), package))


IMPORTS = {module_name(file): imported_by(file) for file in SOURCES}


def within(name: str, *rooms: str) -> bool:
    """Whether a module is one of the rooms or lies inside one."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def importers(*rooms: str) -> set[str]:
    """The modules that import a room, or anything in it."""
    return {module for module, names in IMPORTS.items() if any(within(name, *rooms) for name in names)}


def room(module: str) -> str:
    """``tasks`` for ``eval.tasks.x``, ``mast`` for ``mast.x``; ``eval`` itself belongs to the ``api``."""
    parts = module.split(".")
    return "mast" if parts[0] == "mast" else "api" if len(parts) == 1 else parts[1]


def module_of(name: str) -> str | None:
    """The module that a dotted name lies in, None for other people's."""
    while name and name not in IMPORTS:
        name = name.rpartition(".")[0]
    return name or None


def edges() -> set[tuple[str, str]]:
    """Which module of ours imports which."""
    found = set()
    for module, names in IMPORTS.items():
        for name in names:
            target = module_of(name)
            if target not in (None, module, "mast", "eval"):
                found.add((module, str(target)))
    return found


def between_rooms() -> Counter[tuple[str, str]]:
    """For two rooms, how many modules of the first import something of the second."""
    pairs = {(module, room(target)) for module, target in edges() if room(module) != room(target)}
    return Counter((room(module), below) for module, below in pairs)


def counts() -> dict[str, int]:
    """The size of the house: ``python tests/unit/test_architecture.py`` prints it."""
    between = between_rooms()
    up = {pair: number for pair, number in between.items() if ROOMS.index(pair[0]) > ROOMS.index(pair[1])}
    sources = [file for file in SOURCES if within(module_name(file), "eval")]
    return {
        "Python lines in eval/": sum(len(file.read_text(encoding="utf-8").splitlines()) for file in sources),
        "rooms of eval/": sum((ROOT / "eval" / name).is_dir() for name in ROOMS),
        "imports between rooms": sum(between.values()),
        "pairs of rooms": len(between),
        "imports upwards": sum(up.values()),
    }


def test_every_room_has_its_place_and_its_line_on_the_map() -> None:
    there = {room(module) for module in IMPORTS}
    assert there == set(ROOMS)
    (table,) = re.findall(
        r"## Where things are\n\n(.*?)\n\n", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL
    )
    named = re.findall(r"`(eval/\w+(?:/|\.py)|mast/)`", table)
    places = [f"eval/{name}/" if (ROOT / "eval" / name).is_dir() else f"eval/{name}.py" for name in ROOMS]
    assert sorted(named) == sorted([*places[:-1], "mast/"])


def test_no_import_runs_upwards() -> None:
    between = between_rooms()
    assert len(between) > 30
    assert counts()["imports between rooms"] == sum(between.values())
    up = {f"{a} -> {b}" for a, b in between if ROOMS.index(a) > ROOMS.index(b)}
    assert up == set()


def test_no_circle_of_modules() -> None:
    """Packages are left out: what they hand on from their own modules is no circle of the work."""
    packages = {module_name(file) for file in SOURCES if file.name == "__init__.py"}
    graph: dict[str, set[str]] = {}
    for module, target in edges():
        if not {module, target} & packages:
            graph.setdefault(module, set()).add(target)
    assert len(graph) > 50
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the circle


def test_imports_are_read_as_python_reads_them() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    from . import g\n    from ..h.i import j\n"
    source += "if TYPE_CHECKING:\n    import k\n"
    names = {"a.b", "c", "c.d", "eval.tasks", "eval.tasks.g", "eval.h.i", "eval.h.i.j"}
    assert set(imports(source, "eval.tasks")) == names
    assert len(SOURCES) > 20
    assert "torch" in IMPORTS["mast.model"]


def test_the_core_knows_nothing_of_the_harness() -> None:
    assert {module for module in importers("eval") if within(module, "mast")} == set()


@pytest.mark.parametrize("room", ["eval.numbers", "eval.results.records"])
def test_the_pure_rooms_import_nothing_of_ours(room: str) -> None:
    allowed = ("eval.errors", "mast.errors", "mast.files", room)
    modules = [module for module in IMPORTS if within(module, room)]
    assert modules
    ours = {name for module in modules for name in IMPORTS[module] if within(name, "mast", "eval")}
    assert {name for name in ours if name not in ("mast", "eval") and not within(name, *allowed)} == set()


def test_nothing_imports_the_command_line() -> None:
    assert {module for module in importers("eval.cli") if not within(module, "eval.cli")} == set()


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("detectron2", ["eval.detection"]), ("pandas", ["eval.results.frames"])],
)
def test_heavyweights_stay_in_their_rooms(library: str, rooms: list[str]) -> None:
    assert {module for module in importers(library) if not within(module, *rooms)} == set()


def test_the_harness_is_never_imported_by_its_bare_name() -> None:
    """`import eval` would hide the builtin."""
    bare = {
        file.name
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import)
        and any(name.name == "eval" and not name.asname for name in node.names)
    }
    assert bare == set()


@pytest.mark.parametrize(
    "module", ["mast", "eval.cli", "eval.doctor", "eval.detection", "eval.doctor.install"]
)
def test_importing_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


def test_the_installer_needs_the_standard_library_alone() -> None:
    """It runs before anything is installed: -S leaves site-packages out."""
    command = [sys.executable, "-S", "-m", "eval.doctor.install", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "--check" in done.stdout


def test_no_file_leaves_work_to_be_done() -> None:
    marks = ("TO" + "DO", "FIX" + "ME")
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    left = {
        str(file.relative_to(ROOT))
        for file in files
        if any(m in file.read_text(encoding="utf-8") for m in marks)
    }
    assert left == set()


if __name__ == "__main__":
    for name, number in counts().items():
        print(f"{number:>7,}  {name}")
    for (above, below), number in sorted(between_rooms().items(), key=lambda item: ROOMS.index(item[0][0])):
        print(f"{number:>7}  {above} -> {below}")
