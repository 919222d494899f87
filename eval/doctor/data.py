"""The data set doctor: counts, hashes, decodability, and images that stand in two splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mast.files import sha256_file
from mast.images import ENDINGS, is_image, walk

from .. import datasets, scenes
from ..datasets import ImageDataset, Pool, Split, depth, segmentation
from ..datasets.checks import by_pool, unread
from ..datasets.segmentation import SegmentationDataset
from ..datasets.values import text_lines
from ..detection.names import Named, is_place, place, table
from ..errors import UserError
from . import encoded
from .encoded import SHOWN

SUMS = "SHA256SUMS"
UNLABELLED = "images:"


def verify(name: str, data_root: Path, *, workers: int = 4, progress: bool = False) -> dict[str, Any]:
    """Look a data set over, whole.

    Args:
        name: A name from ``mast list data``, a folder under the data root, ``folder:DIR``, ``csv:FILE``,
            ``images:DIR`` (to pretrain on, without labels), ``folders:PLACE`` and ``shards:PLACE`` (to pretrain on,
            a folder or an address), ``coco:``, ``voc:``, ``seg:`` or ``depth:`` and a place;
            ``nyu``, a data set of `datasets.segmentation.OFFICIAL`, or one of ``eval/detection/datasets.yaml``.
        data_root: Where it lies.
        workers: Decoding threads.
        progress: Show a progress bar, for images to pretrain on.

    Returns:
        ``name``, ``ok``, ``problems`` (one sentence each), ``warnings`` (what a run says too), ``against`` (what it
        was held against, beside itself), ``classes`` (their number), ``counts`` (of each split), ``manifest``.
    """
    if encoded.is_encoded(name):
        return encoded.verify(name, workers=workers, progress=progress)
    detection = table().datasets
    if is_place(name):
        return _detection(name, data_root, place(name))
    if name in detection and name not in datasets.known():
        return _detection(name, data_root, detection[name])
    if name in segmentation.OFFICIAL or segmentation.is_place(name):
        return _dense(name, lambda: segmentation.load(name, data_root), workers)
    if name == depth.NYU or name.startswith(depth.PLACE):
        return _dense(name, lambda: depth.load(name, data_root), workers)
    if name.startswith(UNLABELLED):
        dataset = _unlabelled(name, Path(name.removeprefix(UNLABELLED)).expanduser())
    else:
        dataset = datasets.load(name, data_root)
    against, problems = list[str](), list[str]()
    for what, found in (
        ("official counts", datasets.official_counts(name, data_root, dataset)),
        (SUMS, _listed(dataset, workers)),
        ("the hashes it was written with", _changed(data_root, name)),
    ):
        if found is not None:
            against.append(what)
            problems += found
    problems += _without_images(dataset) + _undecodable(dataset, workers) + list(dataset.findings.overlaps)
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"and {len(problems) - SHOWN} more"]
    return {
        "name": name,
        "ok": not problems,
        "problems": problems,
        "warnings": list(dataset.warnings),
        "against": against,
        "classes": dataset.num_classes,
        "counts": dataset.counts,
        "manifest": dataset.manifest,
    }


def _unlabelled(name: str, folder: Path) -> ImageDataset:
    """The images that a recipe with ``data.format: images`` would read, as a data set of one split and no labels."""
    tree = walk(folder)
    if not tree.images:
        found = f"; its files end in {', '.join(tree.others)}" if tree.others else ""
        raise UserError(
            f"no images below {folder}{found}", remedy=f"they end in {', '.join(sorted(ENDINGS))}"
        )
    pool = Pool(f"{name}/images", tree.images, folder)
    split = Split("images", pool.paths, np.zeros(len(pool), dtype=np.int64), pool)
    remarks = tuple(unread(folder, tree.others, 0))
    return ImageDataset(name, (), {"images": split}, remarks=remarks)


def _detection(name: str, data_root: Path, entry: Named) -> dict[str, Any]:
    """Detection data is checked before every training in just this way; an error names file and remedy."""
    from ..detection import prepare

    try:
        # A public COCO set has masks and is asked for them; a task at a place asks for boxes.
        data = prepare(
            name, data_root, masks=entry.layout == "coco" and not is_place(name), train=False
        ).drawn()
    except UserError as error:
        return {"name": name, "ok": False, "problems": [str(error)]}
    problems = [
        f"{name} {part.removesuffix('_images')}: {data.counts[part]:,} images, officially {count:,}"
        for part, count in (entry.counts or {}).items()
        if data.counts[part] != count
    ]
    return {
        "name": name,
        "ok": not problems,
        "problems": problems,
        "warnings": data.warnings,
        "against": ["official counts"] if entry.counts else [],
        "classes": len(data.classes),
        "counts": data.counts,
        "manifest": data.manifest,
    }


def _dense(name: str, load: Callable[[], SegmentationDataset], workers: int) -> dict[str, Any]:
    """Pictures with masks or depths, decoded whole; an error of the lists ends it, as nothing more is read."""
    try:
        data = load()
    except UserError as error:
        return {"name": name, "ok": False, "problems": [str(error)]}
    official = segmentation.OFFICIAL[name].counts if name in segmentation.OFFICIAL else {}
    problems = [
        f"{name} {part}: {data.counts[part]:,} images, officially {count:,}"
        for part, count in official.items()
        if data.counts[part] != count
    ]

    def problem(job: tuple[Any, int]) -> str | None:
        split, index = job
        try:
            split.pool.read(index)
            if len(split) > segmentation.DECODE_ALL:  # fewer were decoded when they were opened
                split.read(index)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as executor:
        jobs = [(split, index) for split in data.splits.values() for index in range(len(split))]
        problems += [text for text in executor.map(problem, jobs) if text is not None]
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"and {len(problems) - SHOWN} more"]
    return {
        "name": name,
        "ok": not problems,
        "problems": problems,
        "warnings": list(data.warnings),
        "against": ["official counts"] if official else [],
        "classes": data.num_classes,
        "counts": data.counts,
        "manifest": data.manifest,
    }


def _listed(dataset: ImageDataset, workers: int) -> list[str] | None:
    """What a folder's list of hashes, as ``sha256sum`` writes it, says of the folder; None where there is no list.

    Images and label files that are missing or changed, and images that the list lacks, are told by folder; other
    files of the list, such as a description, are no data.
    """
    pools = by_pool(dataset)
    root = next(iter(pools)).root
    if not (root / SUMS).is_file():
        return None
    sums: dict[str, str] = {}
    for number, line in enumerate(text_lines(root / SUMS, remedy="restore the file"), start=1):
        if not (match := re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)):
            raise UserError(f"{root / SUMS}:{number}: not a line of sha256sum", remedy="restore the file")
        if is_image(Path(match[2]).name) or match[2].endswith(".csv"):
            sums[match[2]] = match[1]

    def state(path: str) -> str:
        file = root / path
        return "missing" if not file.is_file() else "" if sha256_file(file) == sums[path] else "changed"

    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    with ThreadPoolExecutor(workers) as executor:
        for path, what in zip(sums, executor.map(state, sums), strict=True):
            wrong[what, str(Path(path).parent)].append(Path(path).name)
    for path in (pool.relative(index) for pool in pools for index in range(len(pool))):
        if path not in sums:
            wrong["not in the list", str(Path(path).parent)].append(Path(path).name)
    return [
        f"{root / folder}: {what}, by {SUMS}: {', '.join(names[:3])}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for (what, folder), names in wrong.items()
        if what
    ]


def _without_images(dataset: ImageDataset) -> list[str]:
    """Classes that a split does not show."""
    return [
        f"{dataset.name} {name}: no image of the class '{dataset.classes[label]}'"
        for name, split in dataset.splits.items()
        if split.labels.ndim == 1
        for label in np.setdiff1d(np.arange(dataset.num_classes), split.labels)
    ]


def _changed(data_root: Path, name: str) -> list[str] | None:
    """Embedded data carries the hash of every file; None for other data."""
    if name not in scenes.FOLDERS or not (data_root / scenes.STAMP).is_file():
        return None
    return [f"{data_root / path}: changed since it was written" for path in scenes.verify(data_root)]


def _undecodable(dataset: ImageDataset, workers: int) -> list[str]:
    pools = by_pool(dataset)

    def problem(job: tuple[Any, int]) -> str | None:
        pool, index = job
        try:
            pool.read(index)
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(workers) as executor:
        found = executor.map(problem, [(pool, index) for pool in pools for index in range(len(pool))])
        return [text for text in found if text is not None]
