"""How measures without labels agree with accuracies, over checkpoints of several methods and pretraining seeds.

    python benchmarks/labelfree.py results/records/sensitivity results/records/sensitivity-search \\
        --check results/comparisons/labelfree.md

Checkpoints are called METHOD-SEED; their measures are the lines of ``mast measure``, in ``measures/*.jsonl`` of the
folder that ``--measures`` names (``results``). For each measure and accuracy there are two rank correlations
(Spearman, with Bonett and Wright's interval): over all trained checkpoints, and within methods, where each value is
first taken less the mean of its method over seeds. The first tells whether a measure finds the better method, the
second whether it finds the better seed of one method.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.cli.output import deliver
from eval.numbers.intervals import Interval
from eval.numbers.labelfree import Undefined, rank_correlation
from eval.results import measures, tables
from eval.results.measures import Sheet
from eval.results.parts import Section

FACTORS = ("hue", "rotation", "scale", "position", "blur")


def accuracies(sheet: Sheet, sections: Sequence[Section]) -> dict[str, dict[str, float]]:
    """By name of accuracy and of checkpoint: each protocol on the sheet's task, and the mean over its factors."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    factors: dict[str, list[float]] = defaultdict(list)
    for section in sections:
        for (row, column), cell in section.cells.items():
            if column.headline and column.task == sheet.task:
                found[f"{section.heading.name} {column.metric}"][row.name] = cell.value
            if column.headline and column.task in {f"{sheet.task}-{factor}" for factor in FACTORS}:
                factors[row.name].append(cell.value)
    whole = {
        name: statistics.fmean(values) for name, values in factors.items() if len(values) == len(FACTORS)
    }
    return dict(found) | ({f"factors, mean of {len(FACTORS)}": whole} if whole else {})


def within(values: Mapping[str, float]) -> dict[str, float]:
    """Each value less the mean of its method, for methods of at least two seeds."""
    methods: dict[str, list[str]] = defaultdict(list)
    for name in values:
        methods[name.rpartition("-")[0]].append(name)
    return {
        name: values[name] - statistics.fmean(values[other] for other in names)
        for names in methods.values()
        if len(names) > 1
        for name in names
    }


def correlation(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """Over the checkpoints that both have."""
    names = sorted(first.keys() & second.keys())
    try:
        found = rank_correlation([first[name] for name in names], [second[name] for name in names])
    except Undefined as error:
        return f"none: {error}"
    if not isinstance(found.interval, Interval):
        return f"{found.rho:+.2f} (no interval: {found.interval.reason})"
    low, high = found.interval.low, found.interval.high
    text = f"{found.rho:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def table(places: Sequence[Path], taken_in: Path) -> str:
    """The correlations of each task whose images were measured."""
    sections = tables.read(places).sections
    parts = []
    for sheet in measures.sheets(measures.read([taken_in]), sections):
        trained = [line for line in sheet.lines if line.entry.trained is not False]
        values = {
            heading: {
                line.entry.name: taken.value
                for line in trained
                if (taken := line.measures.get(heading)) is not None and taken.value is not None
            }
            for heading in sheet.measures
        }
        known = accuracies(sheet, sections)
        counts = sorted({len(one) for one in values.values()})
        parts += [f"### {sheet.title}: {' or '.join(map(str, counts))} checkpoints", ""]
        parts += [f"| measure | over | {' | '.join(known)} |", "|:--|:--|" + "--:|" * len(known)]
        for heading, taken in values.items():
            plain = [correlation(taken, accuracy) for accuracy in known.values()]
            inner = [correlation(within(taken), within(accuracy)) for accuracy in known.values()]
            parts.append(f"| {heading} | all | {' | '.join(plain)} |")
            parts.append(f"| | within methods | {' | '.join(inner)} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("place", type=Path, nargs="+", help="folders of records")
    parser.add_argument(
        "--measures", type=Path, default=Path("results"), help="the folder of measures/*.jsonl"
    )
    parser.add_argument("--out", type=Path, help="write to this file instead")
    parser.add_argument("--check", type=Path, help="compare with this file; exit 1 with a diff")
    args = parser.parse_args()
    note = (
        "Spearman's rank correlation over trained checkpoints with 95 % intervals (Bonett and Wright 2000); within "
        "methods: of values less their method's mean over pretraining seeds, whose intervals count no degree of "
        "freedom for those means. Bold: the interval excludes zero; none is corrected for their number."
    )
    return deliver(f"{table(args.place, args.measures)}\n{note}\n", args.out, args.check)


if __name__ == "__main__":
    sys.exit(main())
