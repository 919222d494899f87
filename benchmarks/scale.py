"""How long the large jobs take on how many machines, and what the engines cost.

    python benchmarks/scale.py simulate      # the tables of docs/scale.md, from the rates below
    python benchmarks/scale.py engines [--ray] [--cells 24]   # one job, two jobs, and Ray with one and two workers

``simulate`` runs the scheduler's rules (cells in the plan's order, cells on the same features wait for the first) as
a discrete-event simulation: 40 checkpoints x 15 tasks x 5 seeds. Rates are a core's or a GPU's; each says whether it
was measured or is assumed, and every one can be given: ``--set gpu_forward=4000``.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Images of train, val and test together, and classes, as the tasks' papers count them.
TASKS = {
    "imagenet": (1_331_167, 1000),
    "places205": (2_469_373, 205),
    "inat18": (461_939, 8142),
    "food101": (101_000, 101),
    "cifar10": (60_000, 10),
    "cifar100": (60_000, 100),
    "birdsnap": (49_829, 500),
    "sun397": (39_700, 397),
    "cars": (16_185, 196),
    "aircraft": (10_000, 100),
    "voc07": (9_963, 20),
    "dtd": (5_640, 47),
    "pets": (7_349, 37),
    "caltech101": (9_144, 102),
    "flowers": (8_189, 102),
}
CHECKPOINTS, SEEDS, DIM, IMAGENET = 40, 5, 2048, 1_281_167


@dataclass(frozen=True)
class Rates:
    """What the forecast takes; images, or gigaproducts (examples x dimensions x classes), a second.

    Attributes:
        decode: JPEGs of 500 x 375 px that a core decodes, resizes and crops. Measured, see docs/scale.md.
        cpu_forward: Images of 224 px through ResNet-50 on a core. Measured, see docs/scale.md.
        gpu_forward: The same on a GPU, float32 with TF32 convolutions. Measured on an H100, see benchmarks/results.
        gpu_pairs: Pairs of views through a pretraining step of ResNet-50 on a GPU, bf16. Measured there too.
        cpu_fit: Products of a linear probe's fit on a core. Measured, see docs/scale.md.
        gpu_fit: The same on a GPU. Measured there too.
        overhead: Seconds that a cell costs beside its work. Assumed.
        cores_per_gpu: Assumed.
        cores_per_node: Of a node without GPUs. Assumed.
        efficiency: Share of its speed that a GPU keeps when pretraining on several. Assumed.
        price_gpu_hour: Of a GPU, in units of money. Assumed.
    """

    decode: float = 290
    cpu_forward: float = 6.8
    gpu_forward: float = 5070
    gpu_pairs: float = 1600
    cpu_fit: float = 0.034
    gpu_fit: float = 2.9
    overhead: float = 0.3
    cores_per_gpu: float = 12
    cores_per_node: float = 32
    efficiency: float = 0.9
    price_gpu_hour: float = 2.0


@dataclass(frozen=True)
class Machine:
    """What the suite runs on: ``slots`` jobs at a time, each with so many images and products a second."""

    name: str
    slots: int
    extract: float
    fit: float
    bound: str


def machines(rates: Rates) -> Iterator[Machine]:
    """1, 8 and 32 GPUs with a job each, and four nodes without GPUs with a job of four cores each."""
    decode = rates.decode * rates.cores_per_gpu
    for count in (1, 8, 32):
        bound = "decoding" if decode < rates.gpu_forward else "the GPU"
        yield Machine(
            f"{count} GPU{'s' * (count > 1)}", count, min(decode, rates.gpu_forward), rates.gpu_fit, bound
        )
    cores = 4
    forward = 1 / (1 / rates.cpu_forward + 1 / rates.decode) * cores
    slots = int(4 * rates.cores_per_node / cores)
    yield Machine("4 CPU nodes", slots, forward, rates.cpu_fit * cores, "the forward")


def simulate(machine: Machine, rates: Rates) -> tuple[float, float, float]:
    """Run the suite's cells through the slots.

    Returns:
        Seconds until the last cell ends, the share of slots that work in that time, and the share of the work that is
        extraction.
    """
    queue = [(c, t) for c in range(CHECKPOINTS) for t in TASKS for _ in range(SEEDS)]
    extracted: set[tuple[int, str]] = set()
    extracting: set[tuple[int, str]] = set()
    running: list[tuple[float, int, tuple[int, str]]] = []
    now = busy = reading = 0.0
    number = 0
    while queue or running:
        position = 0
        while len(running) < machine.slots and position < len(queue):
            key = queue[position]
            if key in extracting:
                position += 1
                continue
            images, classes = TASKS[key[1]]
            seconds = rates.overhead + images * DIM * classes / 1e9 / machine.fit
            if key not in extracted:
                reading += images / machine.extract
                seconds += images / machine.extract
                extracting.add(key)
            del queue[position]
            busy += seconds
            number += 1
            heapq.heappush(running, (now + seconds, number, key))
        now, _, key = heapq.heappop(running)
        extracting.discard(key)
        extracted.add(key)
    return now, busy / (machine.slots * now), reading / busy


def tables(rates: Rates) -> str:
    """The two tables of docs/scale.md."""
    lines = [
        "| 40 checkpoints x 15 tasks x 5 seeds | time | slots busy | of it extraction | extraction is bound by |"
    ]
    lines.append("|---|---|---|---|---|")
    for machine in machines(rates):
        seconds, busy, reading = simulate(machine, rates)
        name = f"{machine.name}, {machine.slots} job{'s' * (machine.slots > 1)}"
        lines.append(f"| {name} | {duration(seconds)} | {busy:.0%} | {reading:.0%} | {machine.bound} |")
    lines += [
        "",
        "| ImageNet, ResNet-50 | 1 GPU | 8 GPUs | 32 GPUs | GPU hours on 8 | cost on 8 |",
        "|---|---|---|---|---|---|",
    ]
    for epochs in (100, 1000):
        times = []
        for count in (1, 8, 32):
            speed = min(rates.gpu_pairs, rates.decode * rates.cores_per_gpu)
            times.append(epochs * IMAGENET / (speed * count * (1 if count == 1 else rates.efficiency)))
        hours = 8 * times[1] / 3600
        row = " | ".join(duration(seconds) for seconds in times)
        lines.append(f"| {epochs} epochs | {row} | {hours:,.0f} | {hours * rates.price_gpu_hour:,.0f} |")
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Hours below three days, else days."""
    return f"{seconds / 3600:.1f} h" if seconds < 3 * 86400 else f"{seconds / 86400:.1f} days"


# -- the engines, measured ---------------------------------------------------------------------------------------


def engines(cells: int, ray: bool) -> None:
    """Seconds of a grid of frozen cells by one job, by two, and on a Ray cluster with one and two workers."""
    from eval import scenes

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scenes.write(folder / "data", size="demo")
        suite = folder / "grid.yaml"
        checkpoints = "".join(f'  - {{name: c{i}, ref: "random:resnet10-c8-half@{i}"}}\n' for i in range(4))
        seeds = list(range(max(1, cells // 8)))
        suite.write_text(
            "name: grid\ndescription: timing\ncheckpoints:\n"
            f"{checkpoints}cells:\n"
            f"  - {{tasks: [scenes-colour, scenes-shape], protocols: [linear], seeds: {seeds},\n"
            "     overrides: {extraction.image_size: 64}}\n"
        )
        count = 4 * 2 * len(seeds)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
        whole = {key: value for key, value in environment.items() if key != "OMP_NUM_THREADS"}
        ways = {
            "one job, one thread": (["--jobs", "1"], environment),
            "one job, all cores": (["--jobs", "1"], whole),
            "two jobs": (["--jobs", "2"], whole),
        }
        if ray:
            from ray.cluster_utils import Cluster

            os.environ["PYTHONPATH"] = _python_path()
            for nodes in (1, 2):
                cluster = Cluster(
                    initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
                )
                for _ in range(nodes - 1):
                    cluster.add_node(num_cpus=1)
                cluster.wait_for_nodes()
                _timed(
                    f"Ray, {nodes} workers",
                    ["--engine", "ray", "--address", cluster.address],
                    suite,
                    folder,
                    environment,
                    count,
                )
                cluster.shutdown()
        for name, (words, given) in ways.items():
            _timed(name, words, suite, folder, given, count)


def _timed(
    name: str, words: list[str], suite: Path, folder: Path, environment: dict[str, str], count: int
) -> None:
    out = folder / name.replace(" ", "-").replace(",", "")
    command = [sys.executable, "-m", "eval.cli", "run", str(suite), "--json", "--quiet", *words]
    command += ["--data-root", str(folder / "data"), "--out", str(out)]
    began = time.monotonic()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    lines = (out / "records" / "grid.jsonl").read_text(encoding="utf-8").splitlines()
    work = sum(json.loads(line)["seconds"] for line in lines)
    began = time.monotonic()
    subprocess.run(
        command, check=True, env=environment, stdout=subprocess.DEVNULL
    )  # all done: start, table, report
    idle = time.monotonic() - began
    print(
        f"{name}: {seconds:.1f} s for {count} cells, of which {idle:.1f} s start, table and report; "
        f"cells themselves took {work:.1f} s in all",
        flush=True,
    )


def _python_path() -> str:
    return os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH", "")) if path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("simulate", "engines"))
    parser.add_argument("--set", nargs="+", default=[], metavar="RATE=VALUE", help="other rates")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--ray", action="store_true", help="time Ray as well")
    args = parser.parse_args()
    if args.what == "engines":
        engines(args.cells, args.ray)
        return
    given = dict(item.split("=", 1) for item in args.set)
    if wrong := set(given) - {item.name for item in fields(Rates)}:
        parser.error(f"no such rate: {', '.join(sorted(wrong))}")
    print(tables(replace(Rates(), **{key: float(value) for key, value in given.items()})), end="")


if __name__ == "__main__":
    main()
