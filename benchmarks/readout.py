"""What was done to an image, read off the subspaces of a MAST run: explained variance of held-out images, in percent.

    python benchmarks/readout.py RUN [RUN ...] --data-root DATA --images 4000

RUN is a folder that ``mast pretrain`` or a suite wrote (``OUT/pretrain/NAME``). Every augmentation is applied alone
to whole images of the run's own data; ridge regression reads its parameters off the embedding's dimensions that are
closed for each augmentation, off those closed for none, off all of them, and off the backbone's features.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from mast.analysis import examples, read_run, readout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    args = parser.parse_args()
    for folder in args.runs:
        run = read_run(folder)
        found = readout(run, examples(run, args.data_root, args.images))
        sizes = [f"{name} ({size})" for name, size in zip(found.subspaces, found.dimensions, strict=True)]
        print(f"{folder.name}: explained variance, percent\n")
        print("| read | off " + " | ".join(sizes) + " |\n|:--|" + "--:|" * len(sizes))
        for name, row in zip(found.augmentations, found.explained, strict=True):
            cells = ["" if math.isnan(value) else f"{100 * value:.0f}" for value in row]
            print(f"| {name} | " + " | ".join(cells) + " |")
        print()


if __name__ == "__main__":
    main()
