"""How long a 100 MB ResNet-50 takes to inspect, and how much memory: ``python benchmarks/inspection.py``.

The limits are 2 seconds and 1.5 times the file's size on top of what the process holds before. Each container is
measured in a process of its own after the imports, peak memory as the kernel counts it. Processor time is shown
beside wall time, because a busy machine stretches the latter.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

SECONDS, TIMES = 2.0, 1.5
KINDS = ("torch zip", "torch legacy", "safetensors", "MoCo (two encoders)", "torchscript")


def write(kind: str, folder: Path) -> Path:
    """Write a ResNet-50 with moved statistics in one container."""
    import torch
    import torchvision
    from safetensors.torch import save_file

    net = torchvision.models.resnet50()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(torch.rand(tensor.shape) * 0.2)
    state = net.state_dict()
    path = folder / kind.replace(" ", "-")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torchscript":
        torch.jit.trace(net.eval(), torch.zeros(1, 3, 64, 64)).save(path)
    elif kind.startswith("MoCo"):
        encoders = {f"module.encoder_{which}.{k}": v.clone() for which in "qk" for k, v in state.items()}
        torch.save({"state_dict": encoders}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "torch zip")
    return path


def measure(path: Path) -> dict[str, float]:
    """Inspect once, after a first small inspection has imported everything."""
    import torch

    from eval.checkpoints import inspect
    from mast.model import build_backbone

    torch.set_num_threads(1)
    small = path.with_name("small.pth")
    torch.save(build_backbone("resnet10-c8").state_dict(), small)
    inspect(str(small))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    passport = inspect(str(path))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert passport.arch == "resnet50"
    return {"seconds": wall, "cpu_seconds": cpu, "times_size": (after - before) * 1024 / path.stat().st_size}


def main() -> int:
    """Measure every container; exit code 1 if one is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            with context.Pool(1) as pool:
                path = pool.apply(write, (kind, Path(folder)))
            with context.Pool(1) as pool:
                results[kind] = {"megabytes": path.stat().st_size / 1e6, **pool.apply(measure, (path,))}
    over = [
        kind for kind, row in results.items()
        if min(row["seconds"], row["cpu_seconds"]) > SECONDS or row["times_size"] > TIMES
    ]  # fmt: skip
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        for kind, row in results.items():
            print(
                f"{kind:<20} {row['megabytes']:6.0f} MB  {row['seconds']:5.2f} s ({row['cpu_seconds']:.2f} s of "
                f"processor)  {row['times_size']:4.2f} x size"
            )
        print(f"limits {SECONDS} s, {TIMES} x size: {'over: ' + ', '.join(over) if over else 'kept'}")
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
