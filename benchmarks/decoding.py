"""JPEGs decoded on one core by Pillow and by others, whole or at a reduced scale, alone and with the resize.

    pip install simplejpeg torchcodec      # those that are there are compared; torchvision is
    python benchmarks/decoding.py FOLDER [--count 200] [--side 256]

Seconds are of the processor, the least of five rounds in turn. Scaled decoding gives the smallest of 1/1, 1/2, 1/4
and 1/8 whose short side is no less than ``--side``. What differs in the pixels is told beside.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mast.images import walk

Pixels = npt.NDArray[np.uint8]


def ways(side: int) -> dict[str, Callable[[bytes], Image.Image]]:
    """What is compared; each gives an RGB image."""
    import torch
    import torchvision.io

    def pillow(content: bytes) -> Image.Image:
        return Image.open(io.BytesIO(content)).convert("RGB")

    def pillow_scaled(content: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", scaled(*image.size, side))
        return image.convert("RGB")

    def of_tensor(decode: Callable[..., torch.Tensor], mode: Any) -> Callable[[bytes], Image.Image]:
        def decoded(content: bytes) -> Image.Image:
            pixels = decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=mode)
            return Image.fromarray(pixels.permute(1, 2, 0).numpy())

        return decoded

    found = {
        "Pillow": pillow,
        "Pillow, scaled": pillow_scaled,
        "torchvision.io": of_tensor(torchvision.io.decode_jpeg, torchvision.io.ImageReadMode.RGB),
    }
    if importlib.util.find_spec("torchcodec"):
        from torchcodec import decoders

        found["torchcodec"] = of_tensor(decoders.decode_jpeg, decoders.ImageReadMode.RGB)
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        def simple(content: bytes) -> Image.Image:
            return Image.fromarray(simplejpeg.decode_jpeg(content))

        def simple_scaled(content: bytes) -> Image.Image:
            height, width, *_ = simplejpeg.decode_jpeg_header(content)
            width, height = scaled(width, height, side)
            return Image.fromarray(simplejpeg.decode_jpeg(content, min_height=height, min_width=width))

        found |= {"simplejpeg": simple, "simplejpeg, scaled": simple_scaled}
    return found


def scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """The least size that a scaled decoding may have."""
    factor = max([scale for scale in (1, 2, 4, 8) if min(width, height) // scale >= side], default=1)
    return width // factor, height // factor


def resized(image: Image.Image, side: int) -> Image.Image:
    """``side`` pixels wide and high."""
    return image.resize((side, side), Image.Resampling.BILINEAR)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=256, help="pixels of the resized image")
    args = parser.parse_args()
    found = [path for path in walk(args.folder).images if path.suffix.lower() in (".jpg", ".jpeg")]
    contents = [path.read_bytes() for path in found[:: max(1, len(found) // args.count)][: args.count]]
    if not contents:
        parser.error(f"{args.folder}: no JPEGs")
    decoders = ways(args.side)
    tasks: dict[tuple[str, str], Callable[[bytes], Any]] = {}
    for name, decode in decoders.items():
        tasks[name, "decoded"] = lambda content, decode=decode: decode(content).load()
        tasks[name, "and resized"] = lambda content, decode=decode: resized(decode(content), args.side)
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(5):
        for key, work in tasks.items():
            began = time.process_time()
            for content in contents:
                work(content)
            best[key] = min(best[key], time.process_time() - began)
    reference = [
        np.asarray(resized(decoders["Pillow"](content), args.side), np.int16) for content in contents
    ]
    print(
        f"{len(contents)} JPEGs of {sum(map(len, contents)) / len(contents) / 1000:.0f} kB; images/s of a core"
    )
    print("| | decoded | and resized | equal | mean difference, of 255 |\n|---|---|---|---|---|")
    for name, decode in decoders.items():
        own = [np.asarray(resized(decode(content), args.side), np.int16) for content in contents]
        apart = [float(np.abs(a - b).mean()) for a, b in zip(own, reference, strict=True)]
        speeds = [len(contents) / best[name, stage] for stage in ("decoded", "and resized")]
        equal = sum(value == 0 for value in apart)
        print(f"| {name} | {speeds[0]:.0f} | {speeds[1]:.0f} | {equal} | {np.mean(apart):.2f} |")


if __name__ == "__main__":
    main()
