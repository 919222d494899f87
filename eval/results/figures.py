"""Figures, as matplotlib draws them: for files, and for pages as images that are part of the page.

Every figure is drawn at the width of a phone's column (3.6 inches), so that text stays readable where several
stand side by side as well as where one fills the screen.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from mast.files import atomic_write

from ..numbers.intervals import Interval
from . import evidence
from .parts import Column, Row, Section
from .render import percent

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from ..detection.pictures import Picture
    from .compare import Comparison
    from .evidence import Witness

WIDTH: Final = 3.6
LONGEST: Final = 44  # letters of a name in a legend
TICK: Final = 24  # letters of a task on a line of an axis
INK: Final = "#1f2430"
LINE: Final = "#d5d9e0"
DARK_INK, DARK_LINE = "#e6e9ee", "#454e5c"  # in a page that is read dark
# Legible on white, and apart from each other for colour-blind readers (markers differ as well).
PALETTE: Final = ("#2f7ed8", "#e0702d", "#1f9e77", "#b052c0", "#c9a227", "#d6455d")
CONTROL: Final = "#8a93a3"
DATELESS: Final[dict[str, dict[str, Any] | None]] = {
    "svg": {"Date": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None},
    "jpeg": None,
}
MARKERS: Final = ("o", "s", "D", "^", "v", "P")
CONTROLS: Final = ("X", "*", "p", "h", "<", ">")
LINES: Final = ("-", "--", ":")
STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a name is a name, also with dollar signs
    "path.simplify": False,
}


def looks(section: Section) -> dict[Row, tuple[str, str]]:
    """A colour and a marker for each row of a section; controls are grey."""
    trained = [row for row in section.rows if not row.control]
    found = {row: _look(number) for number, row in enumerate(trained)}
    controls = [row for row in section.rows if row.control]
    return found | {row: (CONTROL, CONTROLS[number % len(CONTROLS)]) for number, row in enumerate(controls)}


def _look(number: int) -> tuple[str, str]:
    """A colour and a marker; the first 36 differ in one of the two."""
    again = number // len(PALETTE)
    return PALETTE[number % len(PALETTE)], MARKERS[(number + again) % len(MARKERS)]


def comparison(section: Section) -> Figure:
    """Every task's headline metric with its interval, one line a task, one marker a checkpoint."""
    columns = section.headline
    with mpl.rc_context(STYLE):
        figure, axes = _figure(len(columns), [row.label for row in section.rows])
        style = looks(section)
        side = 0.24 if len(section.rows) <= 4 else 0.36  # of the room of a task, where markers lie
        spread = np.linspace(-side, side, len(section.rows)) if len(section.rows) > 1 else [0.0]
        for shift, row in zip(spread, section.rows, strict=True):
            cells = {
                position: section.cells[row, column]
                for position, column in enumerate(columns)
                if (row, column) in section.cells
            }
            points = {position + shift: (cell.value, *cell.span) for position, cell in cells.items()}
            _points(axes, points, style[row], row.label)
        _tasks(axes, columns)
        axes.set_xlabel(f"{metric}, percent" if (metric := _one_metric(columns)) else "percent")
        left, right = axes.get_xlim()
        axes.set_xlim(left=max(-0.03 * right, left))  # a marker at zero is whole, and nothing is below
        _title(figure, section)
        _legend(figure, axes)
        return figure


def curve(section: Section, columns: Sequence[Column]) -> Figure:
    """Accuracy against the number of labelled images, a line a checkpoint, named at its end.

    Bars are intervals over draws where there are several, else over test examples.

    Args:
        section: One of `Section.curves`.
        columns: The sizes of one task and metric, the fewest labels first.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        axes = figure.add_subplot()
        places = [max(1.0, section.labels(column)) for column in columns]
        style, ends = looks(section), list[tuple[float, float, Row]]()
        beside = (places[-1] / places[0]) ** 0.012  # bars of one size stand beside one another
        for number, row in enumerate(section.rows):
            found = [
                (x, section.cells[row, column])
                for x, column in zip(places, columns, strict=True)
                if (row, column) in section.cells
            ]
            if not found:
                continue
            colour, marker = style[row]
            values = [100 * cell.value for _, cell in found]
            spans = [(c.over_seeds.low, c.over_seeds.high) if c.over_seeds else c.span for _, c in found]
            low, high = 100 * np.clip(np.array(spans).T, 0, 1)
            xs = [x * beside ** (number - (len(section.rows) - 1) / 2) for x, _ in found]
            axes.vlines(xs, low, high, color=colour, alpha=0.5, capstyle="round")
            axes.plot(xs, values, marker=marker, markersize=4.5, color=colour)
            ends.append((values[-1], xs[-1], row))
        axes.set_xscale("log")
        names = [column.size for column in columns]
        axes.set_xticks(places, [f"{name}\n{x:,.0f}" for name, x in zip(names, places, strict=True)])
        axes.minorticks_off()
        axes.set_ylabel("percent")
        axes.set_xlabel("labels a class, or share; images in all")
        axes.set_title(f"{columns[0].task} {columns[0].metric}", size=8.5, weight="normal")
        axes.set_ylim(bottom=0)
        _named_ends(axes, ends, style)
        _title(figure, section)
        return figure


def _named_ends(
    axes: Axes, ends: Sequence[tuple[float, float, Row]], style: Mapping[Row, tuple[str, str]]
) -> None:
    """Names beside the last points, moved apart where they would touch."""
    step = 0.07 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    height = -np.inf
    for value, x, row in sorted(ends, key=lambda end: end[0]):
        height = max(value, height + step)
        axes.annotate(
            row.label if len(row.label) <= TICK else f"{row.label[: TICK - 1]}…",
            (x, value),
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=style[row][0],
            annotation_clip=False,
        )


def _points(
    axes: Axes, points: Mapping[float, tuple[float, float, float]], look: tuple[str, str], label: str
) -> None:
    """One row's values with their intervals, in percent, at heights of the axes."""
    if points:
        colour, marker = look
        values = 100 * np.array(list(points.values()))
        heights = list(points)
        axes.hlines(heights, values[:, 1], values[:, 2], color=colour, capstyle="round")
        axes.plot(values[:, 0], heights, marker, color=colour, markersize=5, label=label)


def differences(section: Section, witness: Witness, reference: Row) -> Figure | None:
    """What every trained checkpoint gains over one of them, on the same examples or images.

    Args:
        section: Whose tasks to show.
        witness: Reads the outcomes that the paired intervals are computed from.
        reference: The checkpoint that is compared to.

    Returns:
        None if no two checkpoints pair on any task.
    """
    others = [row for row in section.rows if row != reference and not row.control and not row.published]
    found: dict[tuple[Row, Column], tuple[float, float, float]] = {}
    for column in section.headline:
        theirs = section.cells.get((reference, column))
        for row in others:
            ours = section.cells.get((row, column))
            result = evidence.gain(ours, theirs, column.metric, witness) if ours and theirs else None
            if result is not None and isinstance(result.interval, Interval):
                found[row, column] = (result.difference, result.interval.low, result.interval.high)
    columns = [column for column in section.headline if any(where == column for _, where in found)]
    if not found:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = _figure(len(columns), [row.label for row in others])
        style = looks(section)
        spread = np.linspace(-0.2, 0.2, len(others)) if len(others) > 1 else [0.0]
        axes.axvline(0, color=INK, linewidth=0.9)
        for shift, row in zip(spread, others, strict=True):
            points = {
                position + shift: found[row, column]
                for position, column in enumerate(columns)
                if (row, column) in found
            }
            _points(axes, points, style[row], row.label)
        _tasks(axes, columns)
        metric = _one_metric(columns)
        axes.set_xlabel(f"{metric + ', ' if metric else ''}points, paired 95 %")
        _title(figure, section)
        _legend(figure, axes)
        return figure


def paired_differences(comparison: Comparison) -> Figure:
    """Differences of pairs of methods with their intervals: a panel a protocol, a line a task or mean of tasks."""
    protocols = list(dict.fromkeys(line.protocol for line in comparison.lines))
    lines = {
        heading: [line for line in comparison.lines if line.protocol == heading] for heading in protocols
    }
    heights = [0.35 + 0.26 * len(lines[heading]) for heading in protocols]
    # What is overridden stands small below the name.
    notes = {heading: textwrap.wrap(heading.overrides, 62) for heading in protocols}
    with mpl.rc_context(STYLE):
        above = 0.13 * sum(map(len, notes.values()))
        figure = Figure(figsize=(1.4 * WIDTH, 0.7 + sum(heights) + above), layout="constrained")
        panels = figure.subplots(len(protocols), 1, squeeze=False, height_ratios=heights)[:, 0]
        shifts = np.linspace(-0.22, 0.22, len(comparison.pairs)) if len(comparison.pairs) > 1 else [0.0]
        for axes, heading in zip(panels, protocols, strict=True):
            axes.axvline(0, color=INK, linewidth=0.9)
            for number, (shift, pair) in enumerate(zip(shifts, comparison.pairs, strict=True)):
                colour, marker = _look(number)
                for position, line in enumerate(lines[heading]):
                    if (result := line.results.get(pair)) is None:
                        continue
                    if isinstance(result.interval, Interval):
                        ends = [100 * result.interval.low, 100 * result.interval.high]
                        axes.plot(ends, [position + shift] * 2, color=colour, solid_capstyle="round")
                    axes.plot(100 * result.difference, position + shift, marker, color=colour, markersize=5)
            labels = [
                f"{line.task}, {line.tasks} tasks" if line.tasks > 1 else f"{line.task} {line.metric}"
                for line in lines[heading]
            ]
            axes.set_yticks(range(len(labels)), labels)
            for tick, line in zip(axes.get_yticklabels(), lines[heading], strict=True):
                tick.set_weight("bold" if line.tasks > 1 else "normal")
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.set_title(heading.name, pad=6 + 9 * len(notes[heading]))
            axes.text(
                0, 1.03, "\n".join(notes[heading]), transform=axes.transAxes, size=7, va="bottom", color=INK
            )
        panels[-1].set_xlabel("difference in points, 95 %")
        names = [_named(" − ".join(pair)) for pair in comparison.pairs]
        handles = [
            Line2D(
                [],
                [],
                color=_look(n)[0],
                marker=_look(n)[1],
                label=label,
            )
            for n, label in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=_across(names, 1.4 * WIDTH))
        return figure


def histories(curves: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> Figure:
    """One quantity over pretraining epochs, a line for each checkpoint that has it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        axes = figure.add_subplot()
        for number, label in enumerate(curves):
            points = [(line["epoch"], line[name]) for line in curves[label] if name in line]
            if points:
                colour, line = PALETTE[number % len(PALETTE)], LINES[number // len(PALETTE) % len(LINES)]
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, label=label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(name.replace("_", " "), x=0.0, ha="left", size=9.5, weight="bold")
        _legend(figure, axes)
        return figure


def masks(history: Sequence[Mapping[str, float]], label: str) -> Figure:
    """How open each augmentation's mask is over pretraining epochs."""
    names = [name for name in history[-1] if name.startswith("mask_") and name != "mask_correlation"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        axes = figure.add_subplot()
        widths = np.linspace(3.2, 1.2, len(names))  # lines that lie upon each other are all seen
        for number, name in enumerate(names):
            axes.plot(
                [line["epoch"] for line in history],
                [line[name] for line in history],
                color=PALETTE[number % len(PALETTE)],
                linestyle=LINES[number // len(PALETTE) % len(LINES)],
                linewidth=widths[number],
                label=name.removeprefix("mask_"),
            )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(f"{label}: mean of each mask", x=0.0, ha="left", size=9.5, weight="bold")
        _legend(figure, axes)
        return figure


def heatmap(values: np.ndarray[Any, Any], names: Sequence[str], title: str) -> Figure:
    """A symmetric matrix in [-1, 1], such as the correlation of masks, with its numbers.

    Args:
        values: ``(K, K)``.
        names: K names.
        title: What it is.
    """
    with mpl.rc_context(STYLE | {"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for (row, column), value in np.ndenumerate(values):
            dark = abs(float(value)) > 0.6
            number = f"{value:.2f}".replace("0.", ".")
            size = min(8.0, 60 / len(names))
            axes.text(
                column, row, number, ha="center", va="center", size=size, color="white" if dark else "black"
            )
        axes.set_title(title)
        return figure


def detections(pictures: Sequence[Picture], title: str) -> Figure:
    """Images with what was found in them (solid, with class and score) and what is there (dashed).

    Args:
        pictures: What `eval.detection.pictures.Gallery` gives.
        title: Which checkpoint on which task.
    """
    colours: dict[str, str] = {}
    for picture in pictures:
        for item in picture.found:
            colours.setdefault(item.label, PALETTE[len(colours) % len(PALETTE)])
    with mpl.rc_context(STYLE | {"axes.grid": False, "image.interpolation": "none"}):
        down = -(-len(pictures) // 2)
        figure = Figure(figsize=(WIDTH, 0.3 + down * WIDTH / 2), layout="constrained")
        for number, picture in enumerate(pictures):
            axes = figure.add_subplot(down, 2, number + 1)
            axes.imshow(picture.image)
            axes.set_axis_off()
            for box in picture.truth:
                axes.add_patch(_rectangle(box, edgecolor="white", linestyle=(0, (3, 2)), linewidth=1.0))
            for item in picture.found:
                colour = colours[item.label]
                if item.mask is not None:
                    shade = np.zeros((*item.mask.shape, 4))
                    shade[item.mask] = (*to_rgb(colour), 0.45)
                    axes.imshow(shade)
                axes.add_patch(_rectangle(item.box, edgecolor=colour, linewidth=1.4))
                text = f"{item.label} {percent(item.score)}"
                label = axes.text(
                    item.box[0], item.box[1], text, color="white", size=6.5, va="bottom", clip_on=True
                )
                label.set_path_effects([withStroke(linewidth=2, foreground="black")])
        if title:
            figure.suptitle(_named(title), x=0.0, ha="left", size=9.5, weight="bold")
        return figure


def _rectangle(box: Sequence[float], **style: Any) -> Rectangle:
    left, top, right, bottom = box
    return Rectangle((left, top), right - left, bottom - top, fill=False, **style)


def drawn(figure: Figure, name: str, form: str) -> bytes:
    """A figure as the content of a file, on white and without a date.

    Args:
        figure: The figure.
        name: Makes the ids in an SVG the same twice.
        form: ``svg``, ``png``, ``pdf`` or ``jpeg``.
    """
    metadata = DATELESS[form]
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}), _boxes():
        figure.savefig(
            file, format=form, dpi=200 if form == "jpeg" else 160, facecolor="white", metadata=metadata
        )
    content = file.getvalue()
    return _numbered(content) if form == "svg" else content


@contextlib.contextmanager
def _boxes() -> Iterator[None]:
    """A letter that the font lacks is a box, and no warning for each figure, which nobody could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        yield


def _numbered(svg: bytes) -> bytes:
    """Clip paths numbered in their order.

    Matplotlib names them by a hash of the panel's place, whose last bits the layout's solver does not give the same
    in every process.
    """
    known: dict[bytes, bytes] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return known.setdefault(found[0], b"clip%d" % len(known))

    return re.sub(rb'(?<=url\(#)p[0-9a-f]{10}(?=\))|(?<=id=")p[0-9a-f]{10}(?=")', number, svg)


def in_page(content: bytes) -> bytes:
    """An SVG of `drawn` for a page that may be dark: text and lines take the page's colours, the ground goes.

    A browser tells an image in a page whether the reader wants it dark; what stands in the figure keeps its colour.
    """
    text = content.decode("utf-8").replace("fill: #ffffff", "fill: none", 1)  # the first path is the ground
    for name, colour in (("ink", INK), ("line", LINE)):
        text = text.replace(colour, f"var(--{name})")
    head, tag, rest = text.partition(" <defs>")
    style = (
        f"<style>:root {{ --ink: {INK}; --line: {LINE} }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ --ink: {DARK_INK}; --line: {DARK_LINE} }} }}</style>\n"
    )
    return f"{head}{style}{tag}{rest}".encode()


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole, in the format of the path's ending."""
    with atomic_write(path, "wb") as file:
        file.write(drawn(figure, path.stem, path.suffix.removeprefix(".")))


def data_uri(content: bytes, form: str = "svg") -> str:
    """A picture as the ``src`` of an ``<img>``: a page holds it, and no name in it can clash with another."""
    kind = {"svg": "svg+xml"}.get(form, form)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(tasks: int, labels: Sequence[str]) -> tuple[Figure, Axes]:
    height = 0.85 + tasks * max(0.3, 0.13 * len(labels)) + 0.2 * -(-len(labels) // _across(labels))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _title(figure: Figure, section: Section) -> None:
    """The protocol without its overrides, which would not fit."""
    figure.suptitle(section.heading.name, x=0.0, ha="left", size=9.5, weight="bold")


def _tasks(axes: Axes, columns: Sequence[Column]) -> None:
    metric = _one_metric(columns)
    labels = [column.task if metric and not column.note else column.label for column in columns]
    axes.set_yticks(range(len(columns)), list(map(_tick, labels)))
    axes.set_ylim(len(columns) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _tick(label: str) -> str:
    """A task beside its line: in two lines where it is long, without its middle where it is longer than that."""
    if len(label) <= TICK:
        return label
    head, _, metric = label.partition(" ")
    half = TICK // 2
    parts = [head if len(head) <= TICK else f"{head[: half - 1]}…{head[-half:]}", metric]
    return "\n".join(part if len(part) <= TICK else f"{part[: TICK - 1]}…" for part in parts if part)


def _one_metric(columns: Sequence[Column]) -> str:
    """The metric of all columns, which the axis says once; nothing where they differ."""
    metrics = {column.metric for column in columns}
    return metrics.pop() if len(metrics) == 1 else ""


def _across(labels: Sequence[str], width: float = WIDTH) -> int:
    """How many columns a legend may have: at most three, fewer where names are long."""
    handle, gap = 2.8 * STYLE["font.size"], 2.0 * STYLE["font.size"]  # marker with its pad; between columns
    widths = [_wide(_named(label)) for label in labels]
    for number in range(min(3, len(labels)), 1, -1):
        columns = np.array_split(widths, number)  # as matplotlib fills them
        if sum(float(column.max()) + handle for column in columns) + gap * (number - 1) <= 72 * width:
            return number
    return 1


@cache
def _wide(text: str) -> float:
    """The width of a text in points."""
    font = FontProperties(family=STYLE["font.family"], size=STYLE["font.size"])
    with _boxes():
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


def _named(label: str) -> str:
    """A name for a legend, its end cut off where it is wider than a figure."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            list(map(_named, labels)),
            loc="outside lower left",
            ncols=_across(labels),
            handletextpad=0.4,
            columnspacing=1.2,
        )
