"""Time and memory of a table and a report over many made-up records.

The lines are those of this repository's own records, one of each task under each protocol, copied to other names,
weights, seeds and values, so that they are as long as real ones. They have no outcomes.

    python -m benchmarks.tables --records 100000 --checkpoints 200
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from eval.results import records
from eval.results.records import Record
from mast.files import canonical_json

RECORDS = Path(__file__).parents[1] / "results" / "records"
VERBS = {
    "read": "from eval.results import records; records.read([place])",
    "table": "from eval.results import tables, render; render.render(tables.read([place]), 'md')",
    "report": "from eval.results import tables, report; report.write(tables.read([place]), place, place / 'r.html')",
}


def templates() -> list[dict[str, Any]]:
    """One record of each task under each protocol."""
    book = records.read([RECORDS])
    found: dict[tuple[str, str], Record] = {}
    for record in book.counting():
        found.setdefault((record.task.name, record.protocol.asked_for), record)
    return [record.to_json() for record in found.values()]


def make(folder: Path, number: int, checkpoints: int) -> int:
    """Write records; returns their bytes."""
    rng = np.random.default_rng(0)
    shapes = templates()
    path = folder / "records" / "made-up.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            checkpoint, cell = index % checkpoints, index // checkpoints
            value = shapes[cell % len(shapes)] | {"seed": cell // len(shapes), "outcomes": None}
            value["checkpoint"] = value["checkpoint"] | {
                "name": f"checkpoint-{checkpoint}",
                "weights_sha256": f"{checkpoint:064x}",
            }
            metrics = {}
            for name, metric in value["metrics"].items():
                moved = metric["value"] * float(rng.uniform(0.9, 1.0))
                metrics[name] = metric | {"value": moved}
            value["metrics"] = metrics
            about = [
                records.CheckpointEntry(**value["checkpoint"]),
                records.TaskEntry(**value["task"]),
                records.ProtocolEntry(**value["protocol"]),
            ]
            value["run_id"] = records.run_id(*about, value["data"]["manifest"], value["seed"])
            file.write(canonical_json(value) + "\n")
    return path.stat().st_size


def main() -> None:
    """Print seconds and peak memory of each step, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--checkpoints", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        size = make(place, arguments.records, arguments.checkpoints)
        print(f"{arguments.records} records of {arguments.checkpoints} checkpoints, {size / 2**20:.0f} MiB")
        for name, code in VERBS.items():
            start = f"import pathlib, resource, sys; place = pathlib.Path({str(place)!r}); "
            end = "; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            clock, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-c", start + code + end], capture_output=True, text=True, check=True
            )
            seconds, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
            memory = int(done.stdout) / 2**20
            print(f"{name:<8} {seconds:6.1f} s  {cpu:6.1f} s of CPU  {memory:5.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
