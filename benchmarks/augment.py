"""The five augmentations as batched tensor operations, beside the libraries that have them.

    python benchmarks/augment.py [--batch 256] [--size 32] [--kernel 5] [--rounds 9] [--kornia FOLDER]

One view of a batch of made-up images on one thread, parameters drawn anew each time; the contestants take turns.
``torchvision`` applies transforms.v2.functional image by image with this project's parameters: the same pixels, and
the largest difference is printed. FOLDER holds kornia, which draws its own parameters; its crop does not antialias
and its jitter has one order a batch: other pixels (``pip install --no-deps --target FOLDER kornia kornia_rs``).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from mast.augment import Blur, Color, Crop, Flip, Grayscale
from mast.draws import uniform

SCALE, JITTER, SIGMA = (0.2, 1.0), (0.4, 0.4, 0.4, 0.1), (0.1, 2.0)
STEPS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def drawn(operations: list, count: int, epoch: int) -> list[Tensor]:
    """Parameters of every operation for a batch of squares."""
    rows = np.arange(count)
    return [
        torch.from_numpy(each.fit(each.draw(uniform(0, epoch, rows, each.name, each.num_uniforms)), 1, 1))
        for each in operations
    ]


def one_by_one(images: Tensor, params: list[Tensor], size: int, kernel: int) -> Tensor:
    """The same operations on each image alone, by torchvision."""
    done = []
    side = images.shape[2]
    for image, crop, flip, color, gray, blur in zip(images, *params, strict=True):
        top, left = round(float(crop[0]) * side), round(float(crop[1]) * side)
        height = max(1, round(float(crop[0] + crop[2]) * side) - top)
        width = max(1, round(float(crop[1] + crop[3]) * side) - left)
        cubic = F.InterpolationMode.BICUBIC
        image = F.resized_crop(
            image, top, left, height, width, [size, size], interpolation=cubic, antialias=True
        )
        image = image.clamp(0, 1)
        if flip:
            image = F.horizontal_flip(image)
        if (color[:4] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any():
            for step in color[4:].int().tolist():
                image = STEPS[step](image, float(color[step]))
        if gray:
            image = F.rgb_to_grayscale(image, num_output_channels=3)
        if blur > 0:
            image = F.gaussian_blur(image, [kernel, kernel], [float(blur)] * 2)
        done.append(image)
    return torch.stack(done)


def contestants(
    batch: int, side: int, size: int, kernel: int, *, device: torch.device | None = None
) -> dict[str, Callable[[int], Tensor]]:
    """What makes a view of a batch: ours, torchvision's, and kornia's where it is installed."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    operations = [Crop(size, SCALE), Flip(), Color(*JITTER), Grayscale(), Blur(kernel, SIGMA)]

    def ours(epoch: int) -> Tensor:
        view = images
        for each, params in zip(operations, drawn(operations, batch, epoch), strict=True):
            view = each.apply(view, params)
        return view

    def torchvision(epoch: int) -> Tensor:
        return one_by_one(images, drawn(operations, batch, epoch), size, kernel)

    found: dict[str, Callable[[int], Tensor]] = {"ours": ours, "torchvision": torchvision}
    if importlib.util.find_spec("kornia"):
        import kornia.augmentation as K

        pipeline = K.AugmentationSequential(
            K.RandomResizedCrop((size, size), scale=SCALE, resample="bicubic", cropping_mode="resample"),
            K.RandomHorizontalFlip(p=0.5),
            K.ColorJitter(*JITTER, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((kernel, kernel), SIGMA, p=0.5),
        )
        found["kornia"] = lambda epoch: pipeline(images)
    return found


def measure(found: dict[str, Callable[[int], Tensor]], batch: int, rounds: int) -> None:
    """Print the CPU time of each, and how far the pixels of ours are from torchvision's."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    worst = 0.0
    for epoch in range(rounds + 1):
        made = {}
        for name, contestant in found.items():
            began = time.process_time()
            made[name] = contestant(epoch)
            if epoch:
                seconds[name].append(time.process_time() - began)
        worst = max(worst, float((made["ours"] - made["torchvision"]).abs().max()))
    print(f"largest difference of pixels to torchvision: {worst:.1e} of 1")
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(taken, seconds["ours"], strict=True))
        print(
            f"{name}: {1e3 * statistics.median(taken):.1f} ms of CPU a view of {batch} images, "
            f"{statistics.median(ratios):.2f} times ours ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--stored", type=int, default=64, help="side of the images")
    parser.add_argument("--size", type=int, default=32, help="side of the views")
    parser.add_argument("--kernel", type=int, default=5, help="of the blur")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kornia", type=Path, help="folder that holds kornia")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.kornia:
        sys.path.append(str(args.kornia))
    measure(contestants(args.batch, args.stored, args.size, args.kernel), args.batch, args.rounds)


if __name__ == "__main__":
    main()
