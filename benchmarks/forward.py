"""Extraction's own forward against timm's bare network, on the same cores, taken in turns.

    OMP_NUM_THREADS=2 python benchmarks/forward.py [--arch vit_small_patch16_224] [--images 64] [--rounds 7] [--bf16]

The checkpoint is the bare network saved and loaded again, so both sides compute the same numbers, and the largest
difference is printed. Ours is what extraction calls for a batch of uint8 pixels: normalisation, forward, pooling,
float32 to the CPU; timm's side gets normalised pixels. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import _hub

from eval.checkpoints import load
from eval.features import Preprocess
from eval.features.extraction import pooled


def measure(arch: str, images: int, rounds: int, bf16: bool) -> dict[str, Any]:
    """Median seconds a batch on both sides, their ratio, and the largest difference of the features."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = timm.create_model(arch, num_classes=0).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        _hub.save_for_hf(network, folder, safe_serialization=True)
        loaded = load(str(Path(folder) / "model.safetensors"))
    network.to(device)
    backbone = loaded.backbone.to(device)
    prep = Preprocess.of(loaded.passport)
    side = loaded.passport.input_size
    raw = torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8)
    ready = prep.normalise(raw.to(device))

    def context() -> Any:
        return torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()

    def ours() -> torch.Tensor:
        with torch.inference_mode(), context():
            return pooled(backbone, prep.normalise(raw.to(device))).float().cpu()

    def bare() -> torch.Tensor:
        with torch.inference_mode(), context():
            found: torch.Tensor = network(ready)
            return found.float().cpu()

    difference = float((ours() - bare()).abs().max() / bare().abs().max())
    times: dict[str, list[float]] = {"ours": [], "timm": []}
    for turn in range(rounds):
        for name, run in (("ours", ours), ("timm", bare))[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        "arch": arch,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "precision": "bfloat16" if bf16 else "float32",
        "images per second, ours": round(images / median["ours"], 2),
        "images per second, timm": round(images / median["timm"], 2),
        "ratio of times": round(median["ours"] / median["timm"], 4),
        "lowest and highest ratio of a turn": [
            round(end(a / b for a, b in zip(*times.values(), strict=True)), 4) for end in (min, max)
        ],
        "largest difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    print(json.dumps(measure(args.arch, args.images, args.rounds, args.bf16), indent=1))


if __name__ == "__main__":
    main()
