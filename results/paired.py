"""Differences between methods over pretraining seeds, from records: `python results/paired.py FOLDER A-B ...`.

A checkpoint is named METHOD-SEED. The unit is the pretraining seed: values of two methods are paired by seed, and the
interval is Student's over the differences. Prints a Markdown table in points.

    python results/paired.py results/records/detection-evidence mast5-vicreg vicreg-random mast5-random
"""

from __future__ import annotations

import sys
from pathlib import Path

from eval import records, stats

METRICS = {"scenes-voc": ("box_ap50", "box_ap"), "scenes-coco": ("box_ap50", "mask_ap50", "mask_ap")}


def table(folder: Path, pairs: list[str]) -> str:
    """The table; a task and protocol for which a method lacks a seed is left out."""
    values: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for record in records.read([folder]).counting():
        method, seed = record.checkpoint.name.rsplit("-", 1)
        for metric in METRICS.get(record.task.name, ()):
            key = (record.task.name, record.protocol.name, metric)
            values.setdefault(key, {}).setdefault(method, {})[seed] = record.metrics[metric].value
    heads = ["task", "protocol", "metric", *dict.fromkeys(name for pair in pairs for name in pair.split("-"))]
    methods = heads[3:]
    lines = [f"| {' | '.join([*heads, *pairs])} |", f"|---|---|---|{'--:|' * (len(methods) + len(pairs))}"]
    for key, found in sorted(values.items(), reverse=True):
        if not all(
            found.get(method) and found[method].keys() == found[methods[0]].keys() for method in methods
        ):
            continue
        seeds = sorted(found[methods[0]])
        means = [f"{100 * sum(found[m].values()) / len(seeds):.1f}" for m in methods]
        gains = []
        for pair in pairs:
            first, second = pair.split("-")
            result = stats.paired([found[first][s] for s in seeds], [found[second][s] for s in seeds])
            low, high = 100 * result.interval.low, 100 * result.interval.high
            gains.append(f"{100 * result.difference:+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(f"| {' | '.join([*key, *means, *gains])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1]), sys.argv[2:]))
