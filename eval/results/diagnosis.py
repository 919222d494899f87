"""What is wrong with detections, for ``mast diagnose``: types of error, classes, sizes, confusions, worst images."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from mast.files import atomic_write

from ..errors import UserError
from ..numbers import intervals, tests
from . import escape, history, pages
from .pages import Listing
from .records import Record, read

if TYPE_CHECKING:
    from ..detection import Gallery
    from ..detection.data import DetectionData
    from ..detection.evaluate import Evaluation, Prediction
    from ..detection.tide import Errors

SCORE: Final = 0.3  # detections below it are in no confusion and make no image a bad one
PRINTED: Final = 20  # classes on a terminal
SIDE: Final = 320  # longest side in pixels of a picture
NAMES: Final = {
    "classification": "on an object of another class",
    "localisation": "too far from an object of its class",
    "both": "too far, and of another class",
    "duplicate": "on an object that a better one has",
    "background": "on nothing",
    "missed": "object that no detection could be mended to",
    "false_positive": "all wrong detections together",
    "false_negative": "all objects not found together",
}
_SIZES: Final = ("", "_small", "_medium", "_large")


@dataclass(frozen=True)
class Source:
    """Detections of one detector on a test split.

    Attributes:
        name: What to call it.
        data: The data set.
        predictions: One entry for each test image.
        masks: Whether they hold masks.
    """

    name: str
    data: DetectionData
    predictions: list[Prediction]
    masks: bool


def of_file(file: Path, data: str, data_root: Path) -> Source:
    """Predictions in COCO's results format; see `eval.detection.score.score`."""
    from ..detection import score

    known, predictions, masks = score.load(file, data, data_root)
    return Source(file.name, known, predictions, masks)


def of_record(place: Path, run: str, data_root: Path) -> Source:
    """What a record keeps.

    Args:
        place: A folder of runs, or a record file.
        run: The first characters of a run id.
        data_root: Where the data sets lie.

    Raises:
        UserError: If the run keeps no detections, or ``data_root`` has other test images.
    """
    from .. import tasks
    from ..detection import Gallery

    book = read([place])
    record: Record = next(
        (r for r in reversed(history.find(book, run)) if r.status == "completed"), history.find(book, run)[-1]
    )
    if record.outcomes is None or not record.outcomes.of_detection:
        raise UserError(
            f"run {record.run_id[:12]}, {record.checkpoint.name} on {record.task.name}, keeps no detections",
            remedy="name a completed run of a detection task",
            code=2,
        )
    gallery = Gallery(tasks.get(record.task.name).open(data_root).drawn())
    outcome = book.outcomes(record)
    if not gallery.fits(outcome):
        raise UserError(
            f"run {record.run_id[:12]} was measured on other test images or classes than {data_root} has",
            remedy="give the --data-root of the run",
        )
    return of_outcome(
        f"{record.checkpoint.name}, {record.protocol.name}, seed {record.seed}", outcome, gallery
    )


def of_outcome(name: str, outcome: dict[str, Any], gallery: Gallery) -> Source:
    """What a record's outcomes file holds, which must fit the gallery's test split."""
    known = {str(entry["image_id"]): entry["image_id"] for entry in gallery.data.test.dicts}
    predictions = [{**entry, "image_id": known[str(entry["image_id"])]} for entry in outcome["images"]]
    return Source(name, gallery.data, predictions, gallery.masks)


@dataclass(frozen=True)
class Diagnosis:
    """The errors of one detector.

    Attributes:
        source: The detections.
        errors: Each of them judged.
    """

    source: Source
    errors: Errors

    @cached_property
    def values(self) -> dict[str, float]:
        """``ap`` and what each type of error costs, fractions; NaN where no class has an object."""
        every = np.ones((1, len(self.errors.images)))
        return {name: float(value[0]) for name, value in self.errors.values(every).items()}

    @cached_property
    def drawn(self) -> dict[str, npt.NDArray[np.float64]]:
        """The same on resampled test sets."""
        return self.errors.resampled()

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each type's part of what all types cost; NaN where nothing is wrong."""
        from ..detection import tide

        arrays = {name: np.array([value]) for name, value in self.values.items()}
        return {name: float(value[0]) for name, value in tide.shares(arrays).items()}

    @cached_property
    def evaluation(self) -> Evaluation:
        """The metrics of the data set's layout."""
        from ..detection import evaluate
        from ..detection.data import register

        with tempfile.TemporaryDirectory() as folder:
            register(self.source.data, Path(folder))
            return evaluate.evaluate(self.source.predictions, self.source.data, masks=self.errors.masks)

    def by_class(self) -> list[dict[str, Any]]:
        """For each class its objects and its average precision, of every size where sizes count (COCO)."""
        from ..detection.average_precision import Curve

        kind = "mask" if self.errors.masks else "box"
        truth = np.concatenate([image.truth for image in self.errors.images])
        if self.source.data.layout == "voc":
            tables = {name: self.evaluation.per_class.get(name, {}) for name in ("box_ap", "box_ap50")}
        else:
            curves = {f"{kind}_ap{size}": self.evaluation.curves.get(f"{kind}_ap{size}") for size in _SIZES}
            tables = {
                name: {
                    label: Curve([curve.classes[place]], curve.ious, curve.points).value()
                    for place, label in enumerate(self.errors.classes)
                }
                for name, curve in curves.items()
                if isinstance(curve, Curve)
            }
        return [
            {"class": label, "objects": int((truth == place).sum())}
            | {name: _defined(table.get(label, math.nan)) for name, table in tables.items()}
            for place, label in enumerate(self.errors.classes)
        ]

    def confusions(self) -> list[tuple[str, str, int]]:
        """Which class was taken for which other, and how often, the most frequent first."""
        table = self.errors.confusion(SCORE)[:-1, :-1]
        names = self.errors.classes
        found = [(names[i], names[j], int(table[i, j])) for i, j in np.argwhere(table) if i != j]
        return sorted(found, key=lambda each: -each[2])


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, fractions; None where they are not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def diagnose(source: Source, *, threshold: float, masks: bool) -> Diagnosis:
    """Judge the detections of a source.

    Raises:
        UserError: If masks are asked for and there are none, or for a threshold outside (0.1, 1).
    """
    from ..detection import tide

    if not tide.OFF < threshold < 1:
        raise UserError(
            f"an overlap of {threshold:g}", remedy=f"give one above {tide.OFF:g} and below 1", code=2
        )
    if masks and not source.masks:
        raise UserError(f"{source.name} holds no masks", remedy="leave out --masks", code=2)
    found = tide.find(source.predictions, source.data, threshold=threshold, masks=masks)
    return Diagnosis(source, found)


def check_pair(first: Source, second: Source) -> None:
    """Refuse two sources that were measured on different test images.

    Raises:
        UserError: If they differ in images or objects.
    """
    if first.data.manifest != second.data.manifest:
        raise UserError(
            f"{first.name} and {second.name} were measured on different data",
            remedy="compare on the same data",
        )


def gain(one: Diagnosis, name: str, other: Diagnosis | None = None) -> Estimate:
    """What a type of error costs, or how much more it costs ``one`` than ``other``; ``ap`` likewise.

    Intervals are over test images, see `numbers.intervals.cost`; those of a difference come from the same resampled
    test sets of both.
    """
    value, drawn, images = one.values[name], one.drawn[name], len(one.errors.images)
    if other is None:
        return estimate(value, drawn, images)
    return difference(value - other.values[name], drawn - other.drawn[name], images)


def share(one: Diagnosis, name: str, other: Diagnosis | None = None) -> Estimate:
    """A type's part of what all types cost, or the difference of two; intervals as of `gain`."""
    from ..detection import tide

    value, drawn, images = one.shares[name], tide.shares(one.drawn)[name], len(one.errors.images)
    if other is None:
        return estimate(value, drawn, images)
    return difference(value - other.shares[name], drawn - tide.shares(other.drawn)[name], images)


def estimate(value: float, drawn: npt.NDArray[np.float64], images: int) -> Estimate:
    """A number with the interval that its resamples give, or without one where they say too little."""
    if math.isnan(value):
        return Estimate(None)
    if np.isnan(drawn).any():  # not defined on some test sets: no honest interval
        return Estimate(value)
    span = intervals.cost(value, drawn, images)
    return Estimate(value, span.low, span.high) if isinstance(span, intervals.Interval) else Estimate(value)


def difference(value: float, drawn: npt.NDArray[np.float64], images: int) -> Estimate:
    """As `estimate`, of two detectors on the same resamples."""
    if math.isnan(value):
        return Estimate(None)
    if np.isnan(drawn).any():
        return Estimate(value)
    return Estimate(value, *tests.resampled([value], drawn, images, kind="bootstrap-paired").ends)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def as_dict(one: Diagnosis, other: Diagnosis | None = None) -> dict[str, Any]:
    """All of it, as plain values; ``difference`` is the first minus the second."""
    from ..detection import tide

    found: dict[str, Any] = {
        "threshold": one.errors.threshold,
        "kind": "mask" if one.errors.masks else "box",
        "detectors": [_plain(each) for each in (one, other) if each is not None],
    }
    if other is not None:
        found["difference"] = {
            name: vars(gain(one, name, other))
            | ({"share": vars(share(one, name, other))} if name in tide.TYPES else {})
            for name in one.values
        }
    return found


def _plain(one: Diagnosis) -> dict[str, Any]:
    from ..detection import tide

    counts = one.errors.counts
    return {
        "name": one.source.name,
        "data": one.source.data.name,
        "metrics": one.evaluation.metrics,
        "ap": vars(gain(one, "ap")),
        "errors": {
            name: vars(gain(one, name))
            | ({"count": counts[name], "share": vars(share(one, name))} if name in tide.TYPES else {})
            for name in (*tide.TYPES, *tide.SUMS)
        },
        "by_class": one.by_class(),
        "confusion": {
            "score": SCORE,
            "classes": list(one.errors.classes),
            "counts": one.errors.confusion(SCORE).tolist(),
        },
        "worst": [
            {"image": one.source.data.test.dicts[place]["file_name"], "errors": number}
            for place, number in one.errors.worst(SCORE)[:50]
        ],
    }


def listings(one: Diagnosis, other: Diagnosis | None = None, *, classes: int | None = None) -> list[Listing]:
    """The tables that are printed and that stand on the page, with so many classes; None for all."""
    found = [_types(one)]
    if other is not None:
        found += [_types(other), _differences(one, other)]
    for each in (one, other):
        if each is not None:
            found += [_classes(each, classes), _confusions(each)]
    return [listing for listing in found if listing.rows]


def _types(one: Diagnosis) -> Listing:
    from ..detection import tide

    counts = one.errors.counts
    rows = []
    for name in (*tide.TYPES, *tide.SUMS):
        part = _percent(share(one, name)) if name in tide.TYPES else ""
        count = str(counts[name]) if name in tide.TYPES else ""
        rows.append([name.replace("_", " "), count, _percent(gain(one, name)), part, NAMES[name]])
    shape = "masks" if one.errors.masks else "boxes"
    title = (
        f"{one.source.name} on {one.source.data.name}: average precision "
        f"{_percent(gain(one, 'ap'))} at an overlap of {one.errors.threshold:g} of {shape}"
    )
    return Listing(title, ["error", "count", "costs", "share of all", "what it is"], rows)


def _differences(one: Diagnosis, other: Diagnosis) -> Listing:
    from ..detection import tide

    rows = []
    for name in ("ap", *tide.TYPES, *tide.SUMS):
        part = _percent(share(one, name, other), sign="+") if name in tide.TYPES else ""
        label = "average precision" if name == "ap" else name.replace("_", " ")
        rows.append([label, _percent(gain(one, name, other), sign="+"), part])
    title = f"{one.source.name} minus {other.source.name}, paired over test images"
    return Listing(title, ["error", "costs more by", "share"], rows)


def _classes(one: Diagnosis, most: int | None) -> Listing:
    found = one.by_class()
    names = [name for name in found[0] if name not in ("class", "objects")] if found else []
    shown = sorted(found, key=lambda row: -row["objects"])[:most]
    rows = [
        [row["class"], str(row["objects"])]
        + ["–" if row[name] is None else f"{100 * row[name]:.1f}" for name in names]
        for row in shown
    ]
    note = f", the {len(rows)} of {len(found)} classes with most objects" if len(rows) < len(found) else ""
    title = f"{one.source.name}: average precision by class and size{note}"
    return Listing(title, ["class", "objects", *names], rows)


def _confusions(one: Diagnosis) -> Listing:
    rows = [[truth, said, str(number)] for truth, said, number in one.confusions()[:12]]
    title = f"{one.source.name}: classes taken for others, of detections with a score of {SCORE:g} and more"
    return Listing(title, ["is", "was taken for", "times"], rows)


def _percent(found: Estimate, sign: str = "") -> str:
    if found.value is None:
        return "–"
    text = f"{100 * found.value:{sign}.1f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


LEGEND: Final = (
    "In percent of average precision, with 95 % intervals over test images if these are 100 or more: what it would "
    "gain if all errors of a type were mended, one type at a time, so that the parts do not add up to what is "
    "missing. Types: Bolya et al. 2020, TIDE."
)


def markdown(one: Diagnosis, other: Diagnosis | None = None) -> str:
    """The tables, and the images with the most errors."""
    lines = []
    for listing in listings(one, other, classes=PRINTED):
        lines += [f"**{escape.markdown(listing.title)}**", ""]
        heads = [escape.markdown(head) for head in listing.heads]
        lines += [f"| {' | '.join(heads)} |", f"|:--{'|--:' * (len(heads) - 1)}|"]
        lines += [f"| {' | '.join(map(escape.markdown, row))} |" for row in listing.rows]
        lines.append("")
    worst = one.errors.worst(SCORE)[:5]
    if worst:
        files = [Path(one.source.data.test.dicts[place]["file_name"]).name for place, _ in worst]
        told = [f"{escape.markdown(file)} ({number})" for file, (_, number) in zip(files, worst, strict=True)]
        lines += [f"Most errors: {', '.join(told)}.", ""]
    return "\n".join([*lines, LEGEND, ""])


def write(one: Diagnosis, other: Diagnosis | None, path: Path, images: int) -> None:
    """Write one self-contained page: the tables, and the worst images with their errors drawn in.

    Args:
        one: The detector.
        other: A second one, which is shown on the same images.
        path: The HTML file.
        images: How many images are shown.
    """
    from ..detection import Gallery
    from . import figures

    title = f"Errors of {one.source.name} on {one.source.data.name}"
    tables = Markup().join(pages.render("listing.html", listing=each) for each in listings(one, other))
    places = [place for place, _ in one.errors.worst(SCORE)[:images]]
    gallery = Gallery(one.source.data, side=SIDE, score=SCORE)
    both = [each for each in (one, other) if each is not None]
    todo = [(each, place) for place in places for each in both]
    shown: list[dict[str, str]] = []
    for start in range(0, len(todo), 2):  # two pictures side by side
        pair = todo[start : start + 2]
        pictures = [gallery.pictures([place], _labelled(each, place))[0] for each, place in pair]
        told = [
            f"{Path(one.source.data.test.dicts[place]['file_name']).name}, {each.source.name}: {_told(each, place)}"
            for each, place in pair
        ]
        # As points: glyphs of many labels are a large SVG.
        content = figures.drawn(figures.detections(pictures, ""), f"worst-{start}", "png")
        shown.append({"source": figures.data_uri(content, "png"), "text": "; ".join(told)})
    body = pages.render(
        "diagnosis.html", title=title, legend=LEGEND, tables=tables, figures=shown, score=SCORE
    )
    with atomic_write(path) as file_:
        file_.write(pages.page(title, body))


def _labelled(one: Diagnosis, place: int) -> dict[str, Any]:
    """One image's detections, each with its type of error beside its class."""
    image, entry = one.errors.images[place], one.source.data.test.dicts[place]
    given: list[dict[str, Any]] = []
    for each in one.source.predictions:
        if each["image_id"] == entry["image_id"]:
            given = each["detections"]
    detections = []
    for number, kind in zip(image.order, image.kind, strict=True):
        name = one.errors.classes[given[number]["category"]]
        label = name if kind == "hit" else f"{name}, {kind}"
        detections.append({**given[number], "label": label})
    return {
        "classes": list(one.errors.classes),
        "images": [{"image_id": entry["image_id"], "detections": detections}],
    }


def _told(one: Diagnosis, place: int) -> str:
    """The errors of an image in words."""
    image = one.errors.images[place]
    kinds = image.kind[(image.score >= SCORE) & ~image.ignored]
    counts = {str(name): int((kinds == name).sum()) for name in np.unique(kinds) if name != "hit"}
    counts |= {"missed": int(image.missed.sum())} if image.missed.any() else {}
    return ", ".join(f"{number} {name}" for name, number in counts.items()) or "no error"
