"""What a MAST run learned, written down as CSV files and figures, for ``mast analyze``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mast import analysis
from mast.files import atomic_write

from .. import protocols
from ..errors import UserError, unknown
from ..numbers import intervals
from ..protocols.base import Labelled
from ..results import figures, tables
from . import figures as drawn
from . import subspaces

Array = npt.NDArray[Any]


class _Folder:
    """Writes CSV files and figures into a folder and remembers them."""

    def __init__(self, out: Path) -> None:
        self.out, self.files = out, list[Path]()

    def csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Numbers are written with six digits after the point."""
        self.files.append(self.out / f"{name}.csv")
        with atomic_write(self.files[-1]) as file:
            written = csv.writer(file, lineterminator="\n")
            written.writerow(header)
            written.writerows([f"{v:.6f}" if isinstance(v, float) else v for v in row] for row in rows)

    def figure(self, name: str, figure: Any) -> None:
        """As SVG and PNG."""
        for form in ("svg", "png"):
            self.files.append(self.out / f"{name}.{form}")
            figures.save(figure, self.files[-1])


def write(run: Path, out: Path, *, data_root: Path | None = None, images: int = 2000) -> dict[str, Any]:
    """Analyse a MAST pretraining run.

    Args:
        run: The run's folder, or a file in it.
        out: Folder for the results. From the masks alone: ``masks.csv``, ``dimensions.csv`` (kept, shared, unique),
            ``correlation.csv``, ``overlap.csv``. From the run's images, where ``data_root`` is given:
            ``strength.csv`` (predicted uncertainty by augmentation and strength), ``difficulty.csv`` (error of a
            linear probe by decile of uncertainty), ``difficulty-correlation.csv`` (rank correlation of the two, with
            intervals), ``neighbours.csv`` (in every subspace), and, where masks close something, ``alignment.csv``
            and ``response.csv`` (what closed parts share and what moves them); and their figures.
        data_root: Where the recipe's images lie.
        images: How many to look at.

    Returns:
        ``names``, ``mass`` (mean of each mask), ``correlation``, ``overlap`` (lists) and ``files``.
    """
    found = analysis.read_masks(run)
    names, folder = list(found.names), _Folder(out)
    dims = [f"dim{index}" for index in range(found.masks.shape[1])]
    rows = zip(names, found.mass, found.masks, strict=True)
    folder.csv(
        "masks", ["augmentation", "mean", *dims], ([name, float(m), *map(float, r)] for name, m, r in rows)
    )
    counts = zip(names, found.kept, found.only_closed, found.only_kept, strict=True)
    folder.csv(
        "dimensions",
        ["augmentation", "dimensions", "kept", "closed for it alone", "kept for it alone", "kept for all"],
        ([name, len(dims), *map(int, rest), found.shared] for name, *rest in counts),
    )
    for title, matrix in (("correlation", found.correlation), ("overlap", found.overlap)):
        pairs = zip(names, matrix, strict=True)
        folder.csv(title, ["", *names], ([name, *map(float, row)] for name, row in pairs))
        folder.figure(title, figures.heatmap(matrix, names, f"{title} of masks"))
    folder.figure("masks", drawn.masks(found.masks, names))
    if data_root is not None:
        opened = analysis.read_run(run)
        data = analysis.examples(opened, data_root, images)
        if data.uncertainty is not None:
            _strength(folder, opened, data)
            _difficulty(folder, data)
        _neighbours(folder, opened, data, found)
        if opened.recipe.masks.level == "embedding":
            _closed(folder, opened, data)
    return {
        "names": names,
        "mass": found.mass.tolist(),
        "correlation": found.correlation.tolist(),
        "overlap": found.overlap.tolist(),
        "files": [str(path) for path in folder.files],
    }


def _strength(folder: _Folder, run: analysis.Run, data: analysis.Examples) -> None:
    found = analysis.by_strength(run, data)
    folder.csv(
        "strength",
        ["augmentation", "strength", "images", "uncertainty", "standard error"],
        ([b.augmentation, b.strength, b.count, b.uncertainty, b.standard_error] for b in found),
    )
    folder.figure("strength", drawn.strength(found))


def _difficulty(folder: _Folder, data: analysis.Examples) -> None:
    """Error by decile of uncertainty: each half of the images is judged by a probe fitted on the other."""
    assert data.uncertainty is not None
    if len(data.classes) < 2 or len(data.labels) < 100:
        return
    wrong = np.empty(len(data.labels), dtype=bool)
    lead = np.empty(len(data.labels))
    # Images are in the order of their classes: every second one, so that both halves have all of them.
    half = np.arange(len(data.labels)) % 2
    for part in (0, 1):
        there = np.flatnonzero(half != part)
        train, val = (
            Labelled(data.features[rows], data.labels[rows], len(data.classes))
            for rows in (there[np.arange(len(there)) % 5 > 0], there[::5])
        )
        fitted = protocols.fit(protocols.get("ridge"), train, val)
        scores = fitted.scores(data.features[half == part])
        truth = data.labels[half == part]
        wrong[half == part] = scores.argmax(1) != truth
        own = scores[np.arange(len(truth)), truth]
        scores[np.arange(len(truth)), truth] = -np.inf
        lead[half == part] = scores.max(1) - own
    correlations = []
    for name, values in (("error", wrong), ("lead of the best other class", lead)):
        rho, low, high = rank_correlation(data.uncertainty, values)
        correlations.append((name, rho, low, high, len(values)))
    header = ["difficulty", "rank correlation", "low", "high", "images"]
    folder.csv("difficulty-correlation", header, correlations)
    rows = []
    for decile, group in enumerate(np.array_split(np.argsort(data.uncertainty, kind="stable"), 10), start=1):
        interval = intervals.wilson(int(wrong[group].sum()), len(group))
        mean = float(data.uncertainty[group].mean())
        rows.append((decile, mean, len(group), float(wrong[group].mean()), interval.low, interval.high))
    folder.csv("difficulty", ["decile", "uncertainty", "images", "error", "low", "high"], rows)
    folder.figure("difficulty", drawn.difficulty(rows))


def rank_correlation(a: Array, b: Array, *, resamples: int = 1000) -> tuple[float, float, float]:
    """Spearman's rank correlation of two series ``(N,)``, with ends of the 95 % interval over resampled pairs."""
    from scipy.stats import rankdata

    def correlation(rows: Array) -> float:
        return float(np.corrcoef(rankdata(a[rows]), rankdata(b[rows]))[0, 1])

    rng = np.random.default_rng(0)
    drawn_again = [correlation(rng.integers(0, len(a), len(a))) for _ in range(resamples)]
    low, high = np.quantile(drawn_again, [0.025, 0.975])
    return correlation(np.arange(len(a))), float(low), float(high)


def _closed(folder: _Folder, run: analysis.Run, data: analysis.Examples) -> None:
    found = analysis.closed_parts(run, data)
    if found is None:
        return
    for name, columns, matrix in (
        ("alignment", found.augmentations, found.alignment),
        ("response", found.subspaces, found.response),
    ):
        lines = zip(found.augmentations, matrix, strict=True)
        folder.csv(name, ["", *columns], ([row, *map(float, values)] for row, values in lines))
    folder.figure(
        "alignment", figures.heatmap(found.alignment, found.augmentations, "alignment of closed parts")
    )


def downstream(
    run: Path,
    out: Path,
    data_root: Path,
    names: Sequence[str],
    protocol: str = "ridge",
    *,
    limit: int | None = None,
) -> dict[str, Any]:
    """Read tasks off every subspace of a run, and off the one that suits each task.

    Args:
        run: The folder of a pretraining run (VICReg's has the backbone and the whole embedding only).
        out: Folder for ``subspaces.csv``; for every task ``nearest-TASK``, three test images and what is nearest to
            them in every subspace; and the features.
        data_root: Where data sets lie.
        names: Tasks of single labels.
        protocol: How; one that works on frozen features.
        limit: Use at most so many images of each split, for a smoke test.

    Returns:
        ``tasks`` (for each the ``chosen`` subspace, its ``test`` value and that of the ``backbone``), and ``files``.
    """
    opened, loaded = subspaces.open_run(run)
    how, folder, rows = protocols.get(protocol), _Folder(out), list[tuple[Any, ...]]()
    told: dict[str, dict[str, Any]] = {}
    for name in names:
        task = subspaces.open_task(opened, loaded, name, data_root, out / "features", limit=limit)
        found = subspaces.read(task, how)
        rows += [
            (
                name,
                protocol,
                each.subspace,
                each.dimensions,
                each.val,
                each.test,
                each.nearest,
                int(each.chosen),
            )
            for each in found
        ]
        best = next(each for each in found if each.chosen)
        plain = next(each for each in found if each.subspace == subspaces.FEATURES)
        told[name] = {"chosen": best.subspace, "test": best.test, "backbone": plain.test}
        _nearest(folder, task)
    header = ["task", "protocol", "subspace", "dimensions", "val", "test", "same label nearby", "chosen"]
    folder.csv("subspaces", header, rows)
    return {"tasks": told, "files": [str(path) for path in folder.files]}


def _nearest(folder: _Folder, task: subspaces.Opened) -> None:
    """Three test images, evenly spaced, each with its nearest ones in every subspace."""
    split, spaces = task.data.splits["test"], task.spaces["test"]
    count = min(subspaces.GALLERY, len(split))
    queries = np.linspace(0, count - 1, 5).astype(int)[1:4]
    found = {name: subspaces.neighbours(space, split.labels, queries) for name, space in spaces.items()}
    for number, query in enumerate(queries):
        lines = [[int(rows[query]), *map(int, near[number])] for rows, near, _ in found.values()]
        pictures = np.array(
            [[_small(split.pool.read(int(split.rows[row]))) for row in line] for line in lines]
        )
        same = np.array([hits[number] for _, _, hits in found.values()])
        figure = drawn.neighbours(pictures, list(found), same)
        folder.figure(f"nearest-{drawn.slug(task.task.name)}-{number + 1}", figure)


def _small(image: Any) -> Array:
    """``(3, 64, 64)`` bytes of an image."""
    pixels: Array = np.asarray(image.resize((64, 64))).transpose(2, 0, 1)
    return pixels


def _neighbours(
    folder: _Folder, run: analysis.Run, data: analysis.Examples, masks: analysis.MaskAnalysis
) -> None:
    on_features = run.recipe.masks.level == "features"
    names, queries, found, similarity = analysis.neighbours(data, masks, on_features=on_features)
    rows = [
        (name, int(query), rank + 1, int(found[s, q, rank]), float(similarity[s, q, rank]), int(same))
        for s, name in enumerate(names)
        for q, query in enumerate(queries)
        for rank, same in enumerate(data.labels[found[s, q]] == data.labels[query])
    ]
    folder.csv("neighbours", ["subspace", "image", "rank", "neighbour", "similarity", "same class"], rows)
    shown = np.linspace(0, len(queries) - 1, min(3, len(queries))).astype(int)
    for number, q in enumerate(shown):
        pictures = data.images[np.concatenate([np.full((len(names), 1), queries[q]), found[:, q]], axis=1)]
        folder.figure(f"neighbours-{number + 1}", drawn.neighbours(pictures, names))


def compare(out: Path, place: Path, reference: str) -> dict[str, Any]:
    """What every other checkpoint of a suite gains or loses against one of them, by task: a heat map and its CSV.

    For ``leave-one-out`` with the reference ``all``: which augmentation helps which task.

    Args:
        out: Folder for ``differences.csv`` and the heat map of every protocol.
        place: The suite's folder.
        reference: The checkpoint that is compared to.

    Returns:
        ``reference``, ``files``, and ``left_out``: protocols under which the reference was not measured.

    Raises:
        UserError: If there are no records, or the reference is not among them.
    """
    table = tables.read([place])
    known = {row.label for section in table.sections for row in section.rows if not row.published}
    if known and reference not in known:
        raise unknown("checkpoint", reference, known)
    folder = _Folder(out)
    rows, left_out = list[tuple[Any, ...]](), list[str]()
    for section in table.sections:
        base = next((row for row in section.rows if row.label == reference), None)
        if base is None:
            if not all(row.published for row in section.rows):
                left_out.append(section.title)
            continue
        others = [row for row in section.rows if row != base and not row.control]
        grid = np.full((len(others), len(section.headline)), np.nan)
        for (i, row), (j, column) in product(enumerate(others), enumerate(section.headline)):
            cell, theirs = section.cells.get((row, column)), section.cells.get((base, column))
            if cell is not None and theirs is not None:
                grid[i, j] = 100 * (cell.value - theirs.value)
                what = (section.title, row.label, column.label)
                rows.append((*what, cell.value, theirs.value, float(grid[i, j])))
        if others:
            labels, columns = [row.label for row in others], [column.label for column in section.headline]
            name = f"differences-{drawn.slug(section.title)}"
            folder.figure(name, drawn.differences(grid, labels, columns, f"points against {reference}"))
    if not known:
        raise UserError(f"no records in {place}", remedy="name the --out folder of a run")
    if not rows:
        raise UserError(f"{place}: no other checkpoint was measured beside {reference}")
    header = ["protocol", "checkpoint", "task", "value", f"value of {reference}", "difference in points"]
    folder.csv("differences", header, rows)
    return {"reference": reference, "left_out": left_out, "files": [str(path) for path in folder.files]}
