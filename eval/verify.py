"""The data set doctor: counts, hashes, decodability, and images that stand in two splits."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from . import datasets, scenes
from .datasets import ImageDataset
from .errors import UserError

SHOWN = 20  # problems told one by one


def verify(name: str, data_root: Path, *, workers: int = 4) -> dict[str, Any]:
    """Look a data set over, whole.

    Args:
        name: A name from ``mast list data``, a folder under the data root, or a detection data set of
            ``eval/detection/datasets.yaml``.
        data_root: Where it lies.
        workers: Decoding threads.

    Returns:
        ``name``, ``ok``, ``problems`` (one sentence each), ``classes`` (their number), ``counts`` (of each split),
        ``manifest`` (SHA-256).
    """
    detection = yaml.safe_load(
        (Path(__file__).parent / "detection" / "datasets.yaml").read_text(encoding="utf-8")
    )["datasets"]
    if name in detection and name not in datasets.known():
        return _detection(name, data_root, detection[name]["layout"])
    dataset = datasets.load(name, data_root)
    problems = datasets.official_counts(name, data_root, dataset) + _changed(data_root, name)
    problems += _undecodable(dataset, workers) + _overlaps(dataset)
    if len(problems) > SHOWN:
        problems = [*problems[:SHOWN], f"and {len(problems) - SHOWN} more"]
    return {
        "name": name,
        "ok": not problems,
        "problems": problems,
        "classes": dataset.num_classes,
        "counts": dataset.counts,
        "manifest": dataset.manifest,
    }


def _detection(name: str, data_root: Path, layout: str) -> dict[str, Any]:
    """Detection data is checked before every training in just this way; an error names file and remedy."""
    from .detection import prepare

    with tempfile.TemporaryDirectory() as folder:
        try:
            data = prepare(name, data_root, masks=layout == "coco", work_dir=Path(folder))
        except UserError as error:
            return {"name": name, "ok": False, "problems": [str(error)]}
    return {
        "name": name,
        "ok": True,
        "problems": [],
        "warnings": data.warnings,
        "classes": len(data.classes),
        "counts": data.counts,
        "manifest": data.manifest,
    }


def _changed(data_root: Path, name: str) -> list[str]:
    """Embedded data carries the hash of every file."""
    if name not in scenes.FOLDERS or not (data_root / scenes.STAMP).is_file():
        return []
    return [f"{data_root / path}: changed since it was written" for path in scenes.verify(data_root)]


def _undecodable(dataset: ImageDataset, workers: int) -> list[str]:
    pools = {id(split.pool): split.pool for split in dataset.splits.values()}.values()

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


def _overlaps(dataset: ImageDataset) -> list[str]:
    """Images whose content stands in more than one split: what is tested on was trained on."""
    where: dict[str, dict[str, str]] = defaultdict(dict)
    for name, split in dataset.splits.items():
        for row, path in zip(split.rows, split.paths, strict=True):
            identity = split.pool.identities[int(row)]
            if not identity.startswith("size:"):  # pools too large to hash are not compared
                where[identity].setdefault(name, str(path))
    return [
        f"the same image in {' and '.join(f'{split} ({path})' for split, path in places.items())}"
        for places in where.values()
        if len(places) > 1
    ]
