"""Made up for benchmarks: features that look like a network's, and pictures with boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def features(
    num_examples: int, dim: int, classes: int, *, signal: float = 1.0, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(N, D) features with a power-law spectrum after a ReLU, classes that overlap, and (N,) labels."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(dim, dim)) / np.sqrt(dim)
    spectrum = np.arange(1, dim + 1) ** -0.7
    means = np.random.default_rng(2).normal(size=(classes, dim)) * spectrum * signal
    labels = generator.integers(classes, size=num_examples)
    latent = generator.normal(size=(num_examples, dim)) * spectrum + means[labels]
    return np.maximum(3 * (latent @ mixing) + 0.3, 0).astype(np.float32), labels


def boxes(folder: Path, form: str, *, count: int = 64, size: tuple[int, int] = (500, 375)) -> str:
    """Smooth pictures with boxes of twenty classes, as Pascal VOC's (``voc``) or COCO's (``coco``) files have them.

    Returns:
        The place, as a task: ``voc:DIR`` or ``coco:DIR``.
    """
    rng = np.random.default_rng(0)
    splits = {"trainval": range(count), "test": range(count, count + 4)}
    for split, numbers in splits.items():
        found = {number: _objects(rng, size) for number in numbers}
        pictures = folder / (
            "JPEGImages" if form == "voc" else {"trainval": "train2017", "test": "val2017"}[split]
        )
        pictures.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            picture.save(pictures / f"{number:012d}.jpg")
        (_write_voc if form == "voc" else _write_coco)(folder, split, found, size)
    return f"{form}:{folder}"


Objects = list[tuple[int, int, int, int, int]]  # class, left, top, width, height


def _objects(rng: np.random.Generator, size: tuple[int, int]) -> Objects:
    found: Objects = []
    for _ in range(int(rng.integers(3, 9))):
        width, height = (int(rng.integers(30, side // 2)) for side in size)
        left, top = int(rng.integers(1, size[0] - width)), int(rng.integers(1, size[1] - height))
        found.append((int(rng.integers(20)), left, top, width, height))
    return found


def _write_voc(folder: Path, split: str, found: dict[int, Objects], size: tuple[int, int]) -> None:
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{number:012d}" for number in found]
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for name, objects in zip(names, found.values(), strict=True):
        shapes = "".join(
            f"<object><name>class{label:02d}</name><difficult>0</difficult><bndbox><xmin>{left}</xmin>"
            f"<ymin>{top}</ymin><xmax>{left + width}</xmax><ymax>{top + height}</ymax></bndbox></object>"
            for label, left, top, width, height in objects
        )
        head = (
            f"<filename>{name}.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        )
        text = f"<annotation>{head}{shapes}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def _write_coco(folder: Path, split: str, found: dict[int, Objects], size: tuple[int, int]) -> None:
    images = [
        {"id": number + 1, "file_name": f"{number:012d}.jpg", "width": size[0], "height": size[1]}
        for number in found
    ]
    annotations = [
        {
            "image_id": number + 1,
            "category_id": label + 1,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, objects in found.items()
        for label, *box in objects
    ]
    for index, annotation in enumerate(annotations, start=1):
        annotation["id"] = index
    categories = [{"id": label + 1, "name": f"class{label:02d}"} for label in range(20)]
    path = folder / "annotations" / f"instances_{'train' if split == 'trainval' else 'val'}2017.json"
    path.parent.mkdir(exist_ok=True)
    whole = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(whole), encoding="utf-8")
