"""ImageNet-sized features, made up, through SGD, k-NN and ridge under a limit on memory.

    python benchmarks/stream.py --rows 1281167 --dim 2048 --limit 8 [--protocols ridge knn sgd]

The features lie in a file (10.5 GB at full size); the process may not allocate more than ``--limit`` GiB, and its
peak resident memory is printed. On Linux, with a memory cgroup of that size around it the kernel holds the limit too.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from eval import protocols
from eval.features.matrices import Rows
from eval.numbers import metrics
from eval.protocols import Labelled

CHANGES: dict[str, tuple[str, dict[str, object]]] = {
    "ridge": ("ridge", {"penalties": [-1, 5, 7]}),
    "knn": ("knn-dino-k20", {}),
    "sgd": ("linear-sgd", {"epochs": 1, "lr": [0.1]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--limit", type=float, default=8.0, help="GiB")
    parser.add_argument("--protocols", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--folder", help="where the file of features is written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "features.bin"
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((args.classes, args.dim), dtype=np.float32)
        labels = generator.integers(args.classes, size=args.rows)
        with path.open("wb") as file:
            for start in range(0, args.rows, 16384):
                part = labels[start : start + 16384]
                noise = generator.standard_normal((len(part), args.dim), dtype=np.float32)
                file.write((centres[part] + 4 * noise).tobytes())
        print(f"{path.stat().st_size / 2**30:.2f} GiB of features", flush=True)
        limit = int(args.limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        x = np.memmap(path, dtype="<f4", mode="r", shape=(args.rows, args.dim))
        order = np.random.default_rng(1).permutation(args.rows)
        test, val, rest = (
            order[: args.queries],
            order[args.queries : 2 * args.queries],
            order[2 * args.queries :],
        )
        train = Labelled(Rows([(x, np.sort(rest))]), labels[np.sort(rest)], args.classes)
        held_out = Labelled(x[val], labels[val], args.classes)
        for name in args.protocols:
            start = time.perf_counter()
            protocol, changes = CHANGES[name]
            fitted = protocols.fit(protocols.get(protocol).override(changes), train, held_out)
            top1 = metrics.top1(fitted.scores(x[test]), labels[test])
            print(f"{name}: top1 {top1:.3f} in {time.perf_counter() - start:.0f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    verdict = "within" if peak <= args.limit else "BEYOND"
    print(f"peak resident memory {peak:.2f} GiB, pages of the file included: {verdict} {args.limit:g} GiB")


if __name__ == "__main__":
    main()
