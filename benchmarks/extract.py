"""Extraction against pure decoding and pure forward, on the same images in one run.

    python benchmarks/extract.py [--images 2000] [--arch resnet18-c32] [--size 64] [--workers 2]

Pure decoding reads, resizes and crops with the same threads; pure forward takes decoded images from memory. On a
machine whose cores both need, the bound is their sum, so both bounds are printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from eval import features
from eval.checkpoints import Normalization
from eval.datasets import Split
from eval.features import extraction
from mast.model import build_backbone


def measure(images: int, arch: str, size: int, workers: int) -> dict[str, float]:
    """Seconds of decoding, of the forward and of the extraction of the same images, once caches are warm."""
    backbone = build_backbone(arch, seed=0).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone.to(device)
    passport = SimpleNamespace(
        weights_sha256="0" * 64,
        normalization=Normalization(),
        input_size=size,
        interpolation="bicubic",
        network={},
        precision="float32",
    )
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = [root / f"{index:05}.jpg" for index in range(images)]
        small = generator.integers(0, 256, (images, 12, 16, 3), dtype=np.uint8)

        def make(index: int) -> None:
            image = Image.fromarray(small[index]).resize((128, 96), Image.Resampling.BICUBIC)
            image.save(paths[index], quality=90)

        with ThreadPoolExecutor() as pool:
            list(pool.map(make, range(images)))
        split = Split("train", tuple(paths), np.zeros(images, np.int64))
        prep = features.Preprocess.of(passport)
        _ = split.pool.digest
        for _ in range(2):  # the first round warms caches
            start = time.perf_counter()
            batches = list(extraction.batches(split.pool, prep, 0, 64, workers))
            decode = time.perf_counter() - start
            start = time.perf_counter()
            with torch.inference_mode():
                for batch in batches:
                    backbone.features(prep.normalise(torch.from_numpy(batch).to(device))).cpu()
            forward = time.perf_counter() - start
            store = Path(tempfile.mkdtemp(dir=root))
            start = time.perf_counter()
            features.extract(backbone, passport, split, store=store, workers=workers)
            both = time.perf_counter() - start
    return {"decode": decode, "forward": forward, "extract": both}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--arch", default="resnet18-c32")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    found = measure(args.images, args.arch, args.size, args.workers)
    decode, forward, both = found["decode"], found["forward"], found["extract"]
    print(f"decoding {decode:.2f} s, forward {forward:.2f} s, extraction {both:.2f} s")
    slower = max(decode, forward)
    print(f"extraction is {both / slower:.2f} of the slower and {both / (decode + forward):.2f} of the sum")


if __name__ == "__main__":
    main()
