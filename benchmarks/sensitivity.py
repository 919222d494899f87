"""Tables of classes against factors over pretraining seeds, from records.

    python benchmarks/sensitivity.py search results/records/sensitivity-search \\
        --check results/tables/sensitivity-search.md
    python benchmarks/sensitivity.py confirm results/records/sensitivity results/records/sensitivity-mast15 \\
        results/records/sensitivity-frozen --check results/comparisons/sensitivity.md
    python benchmarks/sensitivity.py certainty results/records/sensitivity results/records/sensitivity-certainty

Checkpoints are called METHOD-SEED. ``search`` is the table of all variants with the score by which one was chosen
(``eval/suites/sensitivity-search.yaml``); ``confirm`` has the headline means, paired over pretraining seeds, with
intervals of Student's t and p-values that Holm's procedure adjusts for the number of means of a pair; ``certainty``
has them for MAST-5 with certainty weights against MAST-5 without, on the seeds that both have.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from eval.cli.output import deliver
from eval.numbers.tests import holm, paired
from eval.results.records import Record, read

FACTORS = ("hue", "rotation", "scale", "position", "blur")
BASE = "vicreg"
LOSS = 0.5  # points of classes that a variant may lose
DETECTED = ("box_ap50", "mask_ap50")
Cell = tuple[str, str, str]  # task, protocol, metric
Values = dict[str, dict[int, dict[Cell, float]]]  # in percent; of a method and a seed


def values(records: Iterable[Record]) -> Values:
    """Headline metrics; of a detector boxes and masks."""
    found: Values = defaultdict(lambda: defaultdict(dict))
    for record in records:
        method, _, seed = record.checkpoint.name.rpartition("-")
        if method and seed.isdigit():
            detected = [metric for metric in DETECTED if metric in record.metrics]
            for metric in detected or [record.task.metric]:
                cell = record.task.name, record.protocol.name, metric
                found[method][int(seed)][cell] = 100 * record.metrics[metric].value
    return found


Wanted = Callable[[str, str, str], bool]  # of a task, a protocol and a metric


def is_class(task: str, protocol: str, _: str) -> bool:
    return not task.endswith(FACTORS) and protocol in ("linear", "ridge", "knn")


def is_factor(task: str, _: str, __: str) -> bool:
    return task.endswith(FACTORS)


def reads(factor: str) -> Wanted:
    return lambda task, _, __: task.endswith(factor)


def measures(metric: str) -> Wanted:
    return lambda _, __, measured: measured == metric


def mean(cells: Mapping[Cell, float], wanted: Wanted) -> float:
    """The mean of the cells that are wanted."""
    return statistics.mean(value for cell, value in cells.items() if wanted(*cell))


def whole(found: Values) -> Values:
    """Without the checkpoints that lack cells which VICReg's have: a mean over fewer tasks is another mean."""
    full = {key for cells in found[BASE].values() for key in cells}
    kept = {
        method: {seed: cells for seed, cells in seeds.items() if full <= cells.keys()}
        for method, seeds in found.items()
    }
    if not kept[BASE]:
        seeds = ", ".join(map(str, sorted(found[BASE])))
        raise SystemExit(
            f"error: no seed of {BASE} ({seeds}) has all {len(full)} cells of these records; "
            "give records of the same seeds"
        )
    return kept


def search(found: Values) -> str:
    """One line a variant, differences to VICReg of the same seeds."""
    singles = {name: reads(name) for name in FACTORS}
    base = found[BASE]
    dense = measures("miou")
    if any(dense(*cell) for cells in base.values() for cell in cells):
        singles["scenes"] = dense
    columns = [is_class, is_factor, *singles.values()]
    level = [f"{statistics.mean(mean(cells, wanted) for cells in base.values()):.1f}" for wanted in columns]
    rows = []
    for method, seeds in found.items():
        common = sorted(seeds.keys() & base.keys())
        if method == BASE or not common:
            continue
        gains = [[mean(seeds[s], wanted) - mean(base[s], wanted) for s in common] for wanted in columns]
        score = statistics.mean(gains[1]) + 2 * min(0.0, statistics.mean(gains[0]) + LOSS)
        texts = [_points(each) for each in gains]
        rows.append((-score, [method, str(len(common)), *texts[:2], f"{score:+.1f}", *texts[2:]]))
    lines = [
        "# Forms of the sensitivity terms, on validation images",
        "",
        "| variant | seeds | classes | factors | score | " + " | ".join(singles) + " |",
        "|:--|--:|--:|--:|--:|" + "--:|" * len(singles),
        _row([f"{BASE}, percent", str(len(base)), *level[:2], "", *level[2:]]),
        *(_row(cells) for _, cells in sorted(rows)),
        "",
        "Differences to VICReg of the same pretraining seeds, in points; behind +- the standard error over "
        "seeds. Classes: mean of ridge and k-NN on two data sets; factors: mean of five. "
        "Score: factors + 2 min(0, classes + 0.5)."
        + (
            " Scenes, which nothing was chosen by: mean IoU of shapes on the embedded scenes, by retrieval "
            "on frozen maps."
            if "scenes" in singles
            else ""
        ),
    ]
    return "\n".join(lines) + "\n"


def _points(differences: list[float]) -> str:
    text = f"{statistics.mean(differences):+.1f}"
    if len(differences) > 1:
        text += f" +- {statistics.stdev(differences) / len(differences) ** 0.5:.1f}"
    return text


MEANS: dict[str, Wanted] = {
    "classes, linear and k-NN": is_class,
    "factors": is_factor,
    "few-shot": lambda _, protocol, __: protocol == "fewshot",
    "AP50 of boxes": measures("box_ap50"),
    "AP50 of masks": measures("mask_ap50"),
}
PAIRS = (
    ("mast5", "vicreg"),
    ("mast5", "no-sensitivity"),
    ("mast5", "no-masks"),
    ("no-sensitivity", "vicreg"),
    ("no-masks", "vicreg"),
    ("mast15", "vicreg15"),
    ("mast15", "mast5"),
    ("vicreg15", "vicreg"),
)


def confirm(
    found: Values,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    title: str = "Sensitivity: headline means over pretraining seeds",
) -> str:
    """Headline means of every pair, then every factor."""
    names = [name for name in found if name in {part for pair in pairs for part in pair}]
    cells_there = {cell for seeds in found.values() for cells in seeds.values() for cell in cells}
    there = {name: wanted for name, wanted in MEANS.items() if any(wanted(*cell) for cell in cells_there)}
    lines = [f"# {title}", ""]
    counts = ", ".join(f"{name} {len(found[name])}" for name in names)
    singles = {name: reads(name) for name in FACTORS}
    for part, means in (("Headline means", there), ("Single factors, two data sets each", singles)):
        lines += [f"## {part}", "", "| | " + " | ".join(means) + " |", "|:--|" + "--:|" * len(means)]
        for name in names:
            percent = [statistics.mean(mean(c, w) for c in found[name].values()) for w in means.values()]
            lines.append(_row([f"{name}, percent", *(f"{value:.1f}" for value in percent)]))
        for first, second in pairs:
            common = sorted(found.get(first, {}).keys() & found.get(second, {}).keys())
            if len(common) < 2:
                continue
            results = [
                paired(
                    *([mean(found[method][seed], wanted) for seed in common] for method in (first, second))
                )
                for wanted in means.values()
            ]
            adjusted = holm([result.p_value for result in results])
            cells = []
            for result, p in zip(results, adjusted, strict=True):
                low, high = result.interval.low, result.interval.high
                text = f"{result.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
                cells.append(
                    (f"**{text}**" if low > 0 or high < 0 else text)
                    + f", p {p:.3f}".replace("p 0.000", "p < 0.001")
                )
            lines.append(_row([f"{first} - {second}, {len(common)} seeds", *cells]))
        lines.append("")
    lines.append(
        f"Checkpoints: {counts}. Differences in points with 95 % Student intervals, paired over pretraining "
        "seeds; p by a paired t test, adjusted by Holm over the columns of its line. Bold: the interval, not "
        "adjusted, excludes zero."
    )
    return "\n".join(lines) + "\n"


def certainty(found: Values) -> str:
    """As `confirm`, of certainty weights alone."""
    pairs = (("mast5-certainty", "mast5"),)
    return confirm(found, pairs, "Certainty weights: headline means over pretraining seeds")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("search", "confirm", "certainty"))
    parser.add_argument("place", type=Path, nargs="+", help="folders of runs, or record files")
    parser.add_argument("--out", type=Path, help="write to this file instead")
    parser.add_argument("--check", type=Path, help="compare with this file; exit 1 with a diff")
    args = parser.parse_args()
    found = whole(values(read(args.place).counting()))
    text = {"search": search, "confirm": confirm, "certainty": certainty}[args.table](found)
    return deliver(text, args.out, args.check)


if __name__ == "__main__":
    sys.exit(main())
