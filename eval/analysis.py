"""Mask analysis written down: CSV files and figures, for ``mast analyze``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from mast.analysis import read_masks
from mast.files import atomic_write

from . import figures


def write(run: Path, out: Path) -> dict[str, Any]:
    """Analyse the masks of a pretraining run.

    Args:
        run: The run's folder, or a file in it.
        out: Folder for ``masks.csv`` (mean of every mask), ``correlation.csv``, ``overlap.csv`` and their figures.

    Returns:
        ``names``, ``mass`` (mean of each mask), ``correlation``, ``overlap`` (lists) and ``files``.
    """
    found = read_masks(run)
    names = list(found.names)
    files = [out / "masks.csv"]
    with atomic_write(files[0]) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["augmentation", "mean", *(f"dim{index}" for index in range(found.masks.shape[1]))])
        for name, mass, mask in zip(names, found.mass, found.masks, strict=True):
            rows.writerow([name, f"{mass:.6f}", *(f"{value:.6f}" for value in mask)])
    for title, matrix in (("correlation", found.correlation), ("overlap", found.overlap)):
        files.append(out / f"{title}.csv")
        with atomic_write(files[-1]) as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["", *names])
            rows.writerows(
                [name, *(f"{value:.6f}" for value in row)] for name, row in zip(names, matrix, strict=True)
            )
        figure = figures.heatmap(matrix, names, f"{title} of masks")
        for form in ("svg", "png"):
            files.append(out / f"{title}.{form}")
            figures.save(figure, files[-1])
    return {
        "names": names,
        "mass": found.mass.tolist(),
        "correlation": found.correlation.tolist(),
        "overlap": found.overlap.tolist(),
        "files": [str(path) for path in files],
    }
