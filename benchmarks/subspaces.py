"""What subspaces tell of tasks, over pretraining seeds: each by itself, and the one that val chooses.

    python benchmarks/subspaces.py measure runs/sensitivity --arms mast5 no-sensitivity vicreg --data-root DATA \\
        --store STORE --out results/subspaces/readings.csv
    python benchmarks/subspaces.py relate runs/sensitivity --arms mast5 no-sensitivity --data-root DATA \\
        --images 3000 --out results/subspaces/closed.csv
    python benchmarks/subspaces.py table results/subspaces/readings.csv results/subspaces/closed.csv \\
        --check results/subspaces/README.md

``measure`` reads the tasks of the suite `sensitivity` by ridge regression off every subspace of its pretraining runs
(``OUT/pretrain/ARM-SEED``), as ``mast analyze RUN --task ...`` does for one; what is in ``--out`` is not measured
again.
``relate`` compares the closed parts with each other (``mast.analysis.closed_parts``). ``table`` is made from both.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

from eval import protocols
from eval.cli.output import deliver
from eval.numbers.intervals import t_interval
from eval.numbers.tests import paired
from mast.analysis import closed_parts, examples

FACTORS = ("hue", "rotation", "scale", "position", "blur")
SETS = ("caltech101_20", "tinyimagenet_20")
TASKS = (*SETS, *(f"{name}-{factor}" for name in SETS for factor in FACTORS))
COLUMNS = ("classes", *FACTORS)
BACKBONE, CHOICE = "features", "chosen on val"
OWN = {
    "hue": "color",
    "scale": "crop",
    "position": "crop",
    "blur": "blur",
}  # whose augmentation is nearest to a factor
ARMS = {
    "mast5": "MAST-5 with prediction",
    "no-sensitivity": "the same blocks without prediction",
    "vicreg": "VICReg",
}


@dataclass(frozen=True)
class Reading:
    """A line of the readings, fractions; ``nearby`` is the share of five nearest images with the same label."""

    arm: str
    seed: int
    task: str
    subspace: str
    dimensions: int
    val: float
    test: float
    nearby: float
    chosen: int


@dataclass(frozen=True)
class Relation:
    """A line of what ``relate`` found."""

    arm: str
    seed: int
    what: str
    first: str
    second: str
    value: float


Line = TypeVar("Line", Reading, Relation)


def runs(place: Path, arms: Sequence[str]) -> Iterable[tuple[str, int, Path]]:
    """Arm, seed and folder of the pretraining runs of a suite."""
    for arm in arms:
        for folder in sorted((place / "pretrain").glob(f"{arm}-[0-9]*")):
            yield arm, int(folder.name.rpartition("-")[2]), folder


def load(path: Path, line: type[Line]) -> list[Line]:
    """The lines of a CSV file, with the types that the class names."""
    kinds = {"str": str, "int": int, "float": float}
    types = [kinds[kind] for kind in line.__annotations__.values()]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [line(*(kind(value) for kind, value in zip(types, row, strict=True))) for row in rows]


def add(path: Path, line: type, lines: Sequence[object]) -> None:
    """Append lines, below a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(line.__annotations__)
        for each in lines:
            values = astuple(each)  # type: ignore[call-overload]
            writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in values])


def measure(args: argparse.Namespace) -> None:
    from eval.analysis import subspaces

    done = {(r.arm, r.seed, r.task) for r in load(args.out, Reading)} if args.out.exists() else set()
    for arm, seed, folder in runs(args.place, args.arms):
        left = [task for task in TASKS if (arm, seed, task) not in done]
        if not left:
            continue
        run, loaded = subspaces.open_run(folder)
        for name in left:
            task = subspaces.open_task(run, loaded, name, args.data_root, args.store)
            found = subspaces.read(task, protocols.get("ridge"))
            add(
                args.out,
                Reading,
                [
                    Reading(
                        arm, seed, name, r.subspace, r.dimensions, r.val, r.test, r.nearest, int(r.chosen)
                    )
                    for r in found
                ],
            )
        print(f"{folder.name}: {len(left)} tasks", flush=True)


def relate(args: argparse.Namespace) -> None:
    from eval.analysis import subspaces

    done = {(r.arm, r.seed) for r in load(args.out, Relation)} if args.out.exists() else set()
    for arm, seed, folder in runs(args.place, args.arms):
        if (arm, seed) in done:
            continue
        run, _ = subspaces.open_run(folder)
        found = closed_parts(run, examples(run, args.data_root, args.images))
        if found is None:
            continue
        lines = []
        for what, names, matrix in (
            ("alignment", found.augmentations, found.alignment),
            ("response", found.subspaces, found.response),
        ):
            for first, row in zip(found.augmentations, matrix, strict=True):
                lines += [
                    Relation(arm, seed, what, first, second, float(value))
                    for second, value in zip(names, row, strict=True)
                ]
        add(args.out, Relation, lines)
        print(folder.name, flush=True)


def column(task: str) -> str:
    """``classes`` or the factor of a task."""
    return next((factor for factor in FACTORS if task.endswith(f"-{factor}")), "classes")


def whole(readings: Sequence[Reading]) -> list[Reading]:
    """Without the runs that lack tasks: a mean over fewer is another mean."""
    there: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in readings:
        there[each.arm, each.seed].add(each.task)
    return [each for each in readings if there[each.arm, each.seed] == set(TASKS)]


Means = dict[str, dict[str, dict[int, dict[str, float]]]]  # arm -> subspace -> seed -> column -> percent


def means(readings: Sequence[Reading], value: Callable[[Reading], float]) -> Means:
    """Means over data sets, of every subspace and of the chosen one."""
    values: dict[tuple[str, str, int, str], list[float]] = defaultdict(list)
    for each in readings:
        for name in (each.subspace, CHOICE) if each.chosen else (each.subspace,):
            values[each.arm, name, each.seed, column(each.task)].append(100 * value(each))
    found: Means = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for (arm, name, seed, where), parts in values.items():
        found[arm][name][seed][where] = statistics.mean(parts)
    for spaces in found.values():
        for seeds in spaces.values():
            for cells in seeds.values():
                cells["factors"] = statistics.mean(cells[factor] for factor in FACTORS)
    return found


def table(readings: Sequence[Reading], relations: Sequence[Relation]) -> str:
    """All tables in Markdown."""
    tested, nearby = means(readings, lambda r: r.test), means(readings, lambda r: r.nearby)
    columns = ("classes", "factors", *FACTORS)
    head = ["| | " + " | ".join(columns) + " |", "|:--|" + "--:|" * len(columns)]
    lines = ["# Tasks read off subspaces", ""]

    def level(name: str, seeds: dict[int, dict[str, float]]) -> str:
        values = [statistics.mean(cells[where] for cells in seeds.values()) for where in columns]
        return row([name, *(f"{value:.1f}" for value in values)])

    def gain(name: str, first: dict[int, dict[str, float]], second: dict[int, dict[str, float]]) -> str:
        common = sorted(first.keys() & second.keys())
        cells = []
        for where in columns:
            if where not in first[common[0]]:
                cells.append("")
                continue
            got = paired([first[s][where] for s in common], [second[s][where] for s in common])
            low, high = got.interval.low, got.interval.high
            text = f"{got.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
            cells.append(f"**{text}**" if low > 0 or high < 0 else text)
        return row([f"{name}, {len(common)} seeds", *cells])

    for arm in [arm for arm in ARMS if arm in tested]:
        lines += [f"## {ARMS[arm]}: ridge regression, percent", "", *head]
        spaces = [name for name in tested[arm] if name != CHOICE]
        lines += [level(name, tested[arm][name]) for name in (*spaces, CHOICE)]
        lines += [gain(f"{CHOICE} - backbone", tested[arm][CHOICE], tested[arm][BACKBONE])]
        if arm != "vicreg":
            lines += [gain("own block - backbone", own(tested[arm]), tested[arm][BACKBONE])]
        lines.append("")
    if {"mast5", "vicreg"} <= tested.keys():
        mast, vicreg = tested["mast5"], tested["vicreg"]
        lines += ["## MAST-5 with prediction against VICReg: ridge regression", "", *head]
        lines += [
            gain("backbone - backbone", mast[BACKBONE], vicreg[BACKBONE]),
            gain(f"{CHOICE} - backbone", mast[CHOICE], vicreg[BACKBONE]),
            gain("each as chosen on val", mast[CHOICE], vicreg[CHOICE]),
            "",
        ]
    lines += ["## Which subspace val chooses, of all seeds and both data sets", ""]
    lines += ["| | " + " | ".join(COLUMNS) + " |", "|:--|" + ":--|" * len(COLUMNS)]
    for arm in [arm for arm in ARMS if arm in tested]:
        cells = []
        for where in COLUMNS:
            counts = Counter(
                r.subspace for r in readings if r.arm == arm and r.chosen and column(r.task) == where
            )
            cells.append(", ".join(f"{name} {count}" for name, count in counts.most_common()))
        lines.append(row([ARMS[arm], *cells]))
    lines.append("")
    for arm in [arm for arm in ARMS if arm in nearby]:
        lines += [f"## {ARMS[arm]}: nearest images with the same label, percent of five", "", *head]
        lines += [level(name, seeds) for name, seeds in nearby[arm].items() if name != CHOICE]
        if arm != "vicreg":
            lines += [gain("own block - backbone", own(nearby[arm]), nearby[arm][BACKBONE])]
        lines.append("")
    titles = {
        "alignment": "how far closed parts arrange images alike, 0 to 1",
        "response": "how far an augmentation alone moves what is closed for another, 1 for another image",
    }
    for arm in [arm for arm in ARMS if any(r.arm == arm for r in relations)]:
        for what, title in titles.items():
            lines += matrix(f"{ARMS[arm]}: {title}", [r for r in relations if (r.arm, r.what) == (arm, what)])
    seeds = {arm: len({r.seed for r in readings if r.arm == arm}) for arm in ARMS}
    told = ", ".join(f"{ARMS[arm]} {count}" for arm, count in seeds.items() if count)
    lines.append(
        f"Pretraining seeds: {told}. Means of two data sets, then of seeds; differences in points with 95 % Student "
        "intervals, paired over seeds, not adjusted; bold: it excludes zero. Closed parts: means of seeds and half "
        "the width of their 95 % Student intervals. Own block: that of colour for hue, of crop for scale and "
        "position, of blur for blur."
    )
    return "\n".join(lines) + "\n"


def own(spaces: dict[str, dict[int, dict[str, float]]]) -> dict[int, dict[str, float]]:
    """Of every factor, what the block of the augmentation nearest to it tells."""
    return {
        seed: {factor: spaces[block][seed][factor] for factor, block in OWN.items()}
        for seed in spaces[BACKBONE]
    }


def matrix(title: str, relations: Sequence[Relation]) -> list[str]:
    """A table of means over seeds."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in relations:
        values[each.first, each.second].append(each.value)
    rows, columns = (list(dict.fromkeys(key[side] for key in values)) for side in (0, 1))
    lines = [f"## {title}", "", "| | " + " | ".join(columns) + " |", "|:--|" + "--:|" * len(columns)]
    for first in rows:
        cells = []
        for second in columns:
            found = values[first, second]
            text = f"{statistics.mean(found):.2f}"
            if len(found) > 1:
                interval = t_interval(found)
                text += f" ± {(interval.high - interval.low) / 2:.2f}"
            cells.append(text)
        lines.append(row([first, *cells]))
    return [*lines, ""]


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for name, function in (("measure", measure), ("relate", relate)):
        verb = verbs.add_parser(name)
        verb.set_defaults(function=function)
        verb.add_argument("place", type=Path, help="the suite's --out folder")
        verb.add_argument("--arms", nargs="+", required=True)
        verb.add_argument("--data-root", type=Path, required=True)
        verb.add_argument("--out", type=Path, required=True, help="CSV file to add to")
        if name == "measure":
            verb.add_argument("--store", type=Path, required=True, help="folder that keeps features")
        else:
            verb.add_argument("--images", type=int, default=3000)
    verb = verbs.add_parser("table")
    verb.set_defaults(function=None)
    verb.add_argument("readings", type=Path)
    verb.add_argument("relations", type=Path)
    verb.add_argument("--out", type=Path, help="write to this file instead")
    verb.add_argument("--check", type=Path, help="compare with this file; exit 1 with a diff")
    args = parser.parse_args()
    if args.function is not None:
        args.function(args)
        return 0
    text = table(whole(load(args.readings, Reading)), load(args.relations, Relation))
    return deliver(text, args.out, args.check)


if __name__ == "__main__":
    sys.exit(main())
