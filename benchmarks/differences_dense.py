"""What differences that are left between dense protocols and their authors' code move, on COCO photographs.

    OMP_NUM_THREADS=1 python benchmarks/differences_dense.py --data-root DATA --out DIR [--only NAME ...]

DATA holds ``coco``. Its objects become masks of five classes (background, people, animals, vehicles, other things),
two pixels along every border ignored, as VOC's masks are. Every difference is a pair of runs of our own protocols on
the same images with the same seed that differ in one option; printed are the means of the paired differences in
points of mIoU over seeds, the smallest and the largest. The first line is of masks alone: how many pixels of a mask
of 100 px differ between PIL's nearest pixel and torch's, which is the upper left one (NeCo makes masks smaller so).
"""

from __future__ import annotations

import argparse
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from eval import evaluate

WEIGHTS = Path(__file__).parents[1] / "pretrained" / "weights"
BACKBONES = ("vicreg-imagenette96",)
CLASSES = ("background", "person", "animal", "vehicle", "other")
SEEDS = (0, 1, 2)
HEAD = {"train_views.kind": "random", "train_views.scales": [0.5, 2.0], "iterations": 160, "label_size": 32}
KNN = {"extraction.image_size": 256, "mask_size": 256}
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    # 160 batches of 16 are 32 crops of each of 80 images: every crop a new one, against eight that come again.
    "8 stored crops, less a new crop each time": (
        ("seg-linear-tiny", HEAD | {"train_views.copies": 8}),
        ("seg-linear-tiny", HEAD | {"train_views.copies": 32}),
    ),
    "ignored pixels left out of labels, less counted as background": (
        ("seg-knn", KNN),
        ("seg-knn-hummingbird", KNN | {"train_views.copies": 1}),
    ),
}


def masks(root: Path, out: Path) -> None:
    """A data set for ``seg:DIR`` of COCO's objects, small ones upon large ones."""
    from pycocotools.coco import COCO

    for part, name in (("train", "train2017"), ("test", "val2017")):
        coco = COCO(str(root / "coco" / "annotations" / f"instances_{name}.json"))
        kinds = {one["id"]: one["supercategory"] for one in coco.dataset["categories"]}
        for folder in ("images", "masks"):
            (out / folder / part).mkdir(parents=True)
        for image in coco.dataset["images"]:
            mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
            objects = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], iscrowd=False))
            for one in sorted(objects, key=lambda one: -one["area"]):
                kind = kinds[one["category_id"]]
                number = CLASSES.index(kind) if kind in CLASSES else CLASSES.index("other")
                mask[coco.annToMask(one) == 1] = number
            border = np.zeros(mask.shape, dtype=bool)
            for axis in (0, 1):
                edge = np.diff(mask.astype(int), axis=axis) != 0
                for shift in (0, 1):  # a pixel on either side
                    place = [slice(None), slice(None)]
                    place[axis] = slice(shift, shift + edge.shape[axis])
                    border[tuple(place)] |= edge
            mask[border] = 255
            Image.fromarray(mask).save(out / "masks" / part / f"{Path(image['file_name']).stem}.png")
            shutil.copy(root / "coco" / "images" / name / image["file_name"], out / "images" / part)
    (out / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


def other_pixels(folder: Path) -> float:
    """Share of labelled pixels of masks of 100 px, in per cent, that differ between PIL's and torch's nearest."""
    differ = total = 0
    for file in sorted(folder.glob("*.png")):
        square = Image.open(file).resize((448, 448), Image.Resampling.NEAREST)
        ours = np.asarray(square.resize((100, 100), Image.Resampling.NEAREST))
        mask = torch.from_numpy(np.asarray(square).copy())[None, None].float()
        theirs = torch.nn.functional.interpolate(mask, (100, 100), mode="nearest")[0, 0].numpy()
        labelled = (ours != 255) & (theirs != 255)
        differ += int(((ours != theirs) & labelled).sum())
        total += int(labelled.sum())
    return 100 * differ / total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="keeps masks, maps and records: what is done stays"
    )
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    args = parser.parse_args()
    data = args.out / "coco5"
    if not (data / "classes.txt").is_file():
        shutil.rmtree(data, ignore_errors=True)
        masks(args.data_root, data)
    print(f"{other_pixels(data / 'masks' / 'test'):.2f}% of pixels differ\n", flush=True)

    def miou(backbone: str, protocol: str, changes: dict[str, Any], seed: int) -> float:
        found = evaluate(
            str(WEIGHTS / f"{backbone}.safetensors"), f"seg:{data}", protocol, data_root=args.data_root,
            out=args.out / "runs", seeds=(seed,), overrides=changes,
        )  # fmt: skip
        return 100 * float(found.loc[found["metric"] == "miou", "value"].iloc[0])

    print(
        "| difference | mean | smallest | largest | second | pairs |\n|---|---|---|---|---|---|", flush=True
    )
    for name in args.only:
        values = np.array(
            [
                [miou(backbone, *side, seed) for side in PAIRS[name]]
                for backbone, seed in product(BACKBONES, SEEDS)
            ]
        )
        apart = values[:, 0] - values[:, 1]
        told = [f"{value:+.2f}" for value in (apart.mean(), apart.min(), apart.max())]
        print(f"| {name} | {' | '.join(told)} | {values[:, 1].mean():.2f} | {len(apart)} |", flush=True)


if __name__ == "__main__":
    main()
