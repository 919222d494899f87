"""Figures of ``mast analyze``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mast.analysis import StrengthBin

from ..results.figures import PALETTE, STYLE, WIDTH

Array = npt.NDArray[Any]
BARE = STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}


def slug(text: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def masks(values: Array, names: Sequence[str]) -> Figure:
    """Every mask over the dimensions, which are put in order: those that all keep first, then by who closes them.

    Args:
        values: ``(K, D)`` in [0, 1].
        names: K names.
    """
    keeps = values > 0.5
    order = np.lexsort((-values.mean(0), *keeps[::-1], -keeps.sum(0)))
    with mpl.rc_context(BARE):
        figure = Figure(figsize=(WIDTH, 0.7 + 0.22 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(
            values[:, order], aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest"
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("dimension, in order of what is shared")
        axes.set_title("masks")
        figure.colorbar(shown, ax=axes)
        return figure


def strength(bins: Sequence[StrengthBin]) -> Figure:
    """Predicted uncertainty against the strength of each augmentation, with standard errors."""
    names = list(dict.fromkeys(item.augmentation for item in bins))
    down = -(-len(names) // 3)
    with mpl.rc_context(STYLE | {"axes.titlesize": 8.5}):
        figure = Figure(figsize=(2 * WIDTH, 0.5 + 1.4 * down), layout="constrained")
        grid = figure.subplots(down, 3, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, names, strict=False):
            part = [item for item in bins if item.augmentation == name]
            x, y = [item.strength for item in part], [item.uncertainty for item in part]
            axes.errorbar(
                x, y, [item.standard_error for item in part], color=PALETTE[0], marker="o", markersize=3
            )
            axes.set_title(name)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        figure.supxlabel("strength", size=8.5)
        figure.supylabel("predicted variance", size=8.5)
        return figure


def difficulty(rows: Sequence[tuple[int, float, int, float, float, float]]) -> Figure:
    """Error of a linear probe by decile of predicted uncertainty, with Wilson's intervals."""
    decile, _, _, error, low, high = (np.array(column) for column in zip(*rows, strict=True))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        axes = figure.add_subplot()
        ends = [100 * (error - low), 100 * (high - error)]
        axes.errorbar(decile, 100 * error, ends, color=PALETTE[0], marker="o", markersize=4)
        axes.set_xlabel("decile of predicted variance")
        axes.set_ylabel("error of a linear probe, percent")
        axes.set_xticks(decile)
        return figure


def neighbours(pictures: Array, names: Sequence[str], same: Array | None = None) -> Figure:
    """One image and its nearest neighbours in every subspace.

    Args:
        pictures: ``(K, 1 + count, 3, S, S)`` bytes, the image itself first.
        names: The K subspaces.
        same: ``(K, count)`` which neighbours have the image's label: they get a frame.
    """
    rows, columns = pictures.shape[:2]
    with mpl.rc_context(BARE | {"image.interpolation": "none"}):
        figure = Figure(figsize=(WIDTH, WIDTH * rows / (columns + 1)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for row, name in enumerate(names):
            for column in range(columns):
                axes = grid[row, column]
                axes.imshow(pictures[row, column].transpose(1, 2, 0))
                axes.set_xticks([])
                axes.set_yticks([])
                if same is not None and column and same[row, column - 1]:
                    axes.spines[:].set(visible=True, color=PALETTE[0], linewidth=2.5)
            grid[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
        return figure


def differences(values: Array, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Differences in points as a heat map with their numbers; blank where one is missing.

    Args:
        values: ``(R, C)``.
        rows: R labels.
        columns: C labels.
        title: What they are differences to.
    """
    reach = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    with mpl.rc_context(BARE):
        size = (2.0 + 0.5 * len(columns), 2.4 + 0.35 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(values, cmap="RdBu", vmin=-max(reach, 1e-9), vmax=max(reach, 1e-9), aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(float(value)) > 0.6 * reach
                axes.text(
                    column, row, f"{value:+.1f}", ha="center", va="center", color="white" if dark else "black"
                )
        axes.set_title(title)
        return figure
