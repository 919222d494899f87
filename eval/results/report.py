"""One self-contained HTML page from records: figures, tables, pretraining, detections, provenance.

The page loads nothing. A script in it sorts, filters and compares the tables; without scripts they stand as they are.
Equal records give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from mast.files import atomic_write, canonical_json, sha256_file

from ..errors import UserError
from ..numbers.intervals import Interval
from . import controls, explorer, figures, measures, pages, passports, render, reproduction, views
from .pages import Listing
from .parts import Column, Row, Section
from .records import Book, Record
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..detection.pictures import Gallery

PICTURES: Final = 4  # test images shown for each detection cell
SHOWN_SCORE: Final = 0.3  # detections below it are not drawn
SIDE: Final = 240  # longest side in pixels of a picture in the page
DRAWN: Final = 12  # checkpoints in one figure; more cannot be told apart
TASKS: Final = 40  # tasks in one figure
MANY: Final = 20  # figures of one kind in a page; nobody looks at more, and they are large


@dataclass
class Drawn:
    """A figure under its name, and what it says. It is drawn once for every format.

    Attributes:
        photo: Whether a page shows it as JPEG: photographs and the outlines of letters on them are large as SVG.
    """

    name: str
    figure: Figure
    text: str
    photo: bool = False
    _done: dict[str, bytes] = field(default_factory=dict)

    def content(self, form: str) -> bytes:
        """The content of a file, as `figures.drawn` gives it."""
        if form not in self._done:
            self._done[form] = figures.drawn(self.figure, self.name, form)
        return self._done[form]

    @property
    def source(self) -> str:
        """The ``src`` of an ``<img>`` that holds it."""
        if self.photo:
            return figures.data_uri(self.content("jpeg"), "jpeg")
        return figures.data_uri(figures.in_page(self.content("svg")))


@dataclass(frozen=True)
class Part:
    """A section of the page; ``html`` is its content."""

    name: str
    heading: str
    html: Markup


def standalone(table: Table) -> str:
    """A table as a page of its own."""
    return pages.page(
        table.title, pages.render("standalone.html", title=table.title, table=render.fragment(table))
    )


def publish(table: Table, out: Path, *, data_root: Path | None = None) -> list[Path]:
    """Write a run's table in every format, its figures and its report.

    Args:
        table: Of the run's records.
        out: The run's folder.
        data_root: Where the images of detection tasks lie, to show some.

    Returns:
        What was written, the report first.
    """
    drawn = _Figures.of(table, out)
    written = [out / "report.html"]
    with atomic_write(written[0]) as file:
        file.write(_page(table, out, drawn, data_root))
    for form in ("md", "csv", "tex", "html"):
        written.append(out / "tables" / f"table.{form}")
        with atomic_write(written[-1]) as file:
            file.write(standalone(table) if form == "html" else render.render(table, form))
    if taken := measures.read([out]):
        written.append(out / "tables" / "measures.csv")
        with atomic_write(written[-1]) as file:
            file.write(measures.comma_separated(measures.sheets(taken, table.sections)))
    for item in drawn.all():
        for form in ("svg", "png"):
            written.append(out / "figures" / f"{item.name}.{form}")
            with atomic_write(written[-1], "wb") as file:
                file.write(item.content(form))
    return written


def page(table: Table, place: Path, *, data_root: Path | None = None) -> str:
    """The report of a folder of records, as HTML.

    Args:
        table: Of the folder's records; its title is the page's.
        place: The folder.
        data_root: Where the images of detection tasks lie, to show some.
    """
    if not table.book.records:
        raise UserError(f"{place}: no records", remedy="name the --out folder of a run")
    return _page(table, place, _Figures.of(table, place, most=MANY), data_root)


def write(table: Table, place: Path, path: Path, *, data_root: Path | None = None) -> None:
    """Write `page` to a file."""
    text = page(table, place, data_root=data_root)
    with atomic_write(path) as file:
        file.write(text)


def drawings(table: Table, place: Path) -> dict[str, Drawn]:
    """Every figure of a folder of records by its name, as `publish` writes them."""
    return {item.name: item for item in _Figures.of(table, place).all()}


def _page(table: Table, place: Path, drawn: _Figures, data_root: Path | None) -> str:
    book = table.book
    done = book.counting()
    gains = pages.render("gains.html") + _grid(drawn.gains[:MANY]) if drawn.gains else Markup()
    sections = sum(bool(section.headline) for section in table.sections)
    left_out = (
        Markup("<p><small>Drawn are the first {} of {} protocols; the tables have all.</small></p>").format(
            MANY, sections
        )
        if sections > MANY
        else Markup()
    )
    beside = reproduction.read(place)
    masks, problems = views.masks(place)
    parts = [
        Part("reproduction", "Reproduction", reproduction.section(beside) if beside else Markup()),
        Part("comparison", "Comparison", _grid(drawn.scores[:MANY]) + left_out + gains),
        Part("labels", "Label efficiency", _grid(drawn.curves[:MANY])),
        Part("tables", "Tables", _explorer(table, drawn.passports, masks, data_root)),
        Part("controls", "Above random controls?", _controls(table)),
        Part("labelfree", "Without labels", _labelfree(table, place)),
        Part("pretraining", "Pretraining", _grid(drawn.pretraining)),
        Part("detections", "Detections", _detections(book, data_root) if data_root else Markup()),
        Part("provenance", "Provenance", _provenance(place, book, done, drawn.passports)),
    ]
    body = pages.render(
        "report.html",
        title=table.title,
        lead=_lead(done),
        notices=[*_notices(book), *drawn.problems, *problems],
        parts=[part for part in parts if part.html],
    )
    return pages.page(table.title, body)


# ------------------------------------------------------------------------------------------------------ figures


@dataclass(frozen=True)
class _Figures:
    """The figures of a table and of the passports beside its records, each drawn once."""

    passports: Sequence[dict[str, Any]]
    problems: Sequence[str]
    scores: Sequence[Drawn]
    gains: Sequence[Drawn]
    curves: Sequence[Drawn]
    pretraining: Sequence[Drawn]

    @classmethod
    def of(cls, table: Table, place: Path, *, most: int | None = None) -> _Figures:
        found, problems = passports.read([place, *table.book.roots], table.book.records)
        kinds = _scores(table), _gains(table), _curves(table)
        scores, gains, curves = (list(islice(kind, most)) for kind in kinds)
        return cls(found, problems, scores, gains, curves, list(_pretraining(found)))

    def all(self) -> list[Drawn]:
        return [*self.scores, *self.gains, *self.curves, *self.pretraining]


def _scores(table: Table) -> Iterator[Drawn]:
    """What was measured."""
    for number, section in enumerate(table.sections):
        if section.headline:
            part, note = _few(section)
            text = f"{section.title}. {render.intervals(section)}{note}"
            yield Drawn(f"scores-{number}-{_slug(section.title)}", figures.comparison(part), text)


def _curves(table: Table) -> Iterator[Drawn]:
    """Label-efficiency curves: one for each protocol, task and metric that was measured with several sizes."""
    for number, section in enumerate(table.sections):
        for (task, metric), columns in section.curves.items():
            if len(columns) < 2:
                continue
            part, note = _few_best(section, columns)
            text = (
                f"{section.heading.name} on {task} by labels. Each size is drawn once a seed, a smaller "
                "draw lies inside a larger one, and all checkpoints get the same images. Bars: 95 % over draws; over "
                f"test examples where there is one draw.{note}"
            )
            yield Drawn(
                f"labels-{number}-{_slug(f'{section.heading.name}-{task}-{metric}')}",
                figures.curve(part, columns),
                text,
            )


def _few_best(section: Section, columns: Sequence[Column]) -> tuple[Section, str]:
    """A section with the rows that are best with most labels, as many as a figure can show."""
    if len(section.rows) <= DRAWN:
        return section, ""
    last = columns[-1]

    def end(row: Row) -> float:
        cell = section.cells.get((row, last))
        return -1.0 if cell is None else cell.value

    best = sorted(section.rows, key=lambda row: -end(row))[:DRAWN]
    rows = [row for row in section.rows if row in best]
    note = f" Shown are {DRAWN} of {len(section.rows)} checkpoints, those highest with most labels."
    return Section(section.heading, rows, section.columns, section.cells), note


def _gains(table: Table) -> Iterator[Drawn]:
    """What checkpoints gain over the first trained one."""
    for number, section in enumerate(table.sections):
        first = next((row for row in section.rows if not row.control and not row.published), None)
        if first is None:
            continue
        part, note = _few(section, first)
        figure = figures.differences(part, table.standings.witness, first)
        if figure is not None:
            text = f"{section.title}: difference to {first.label}, paired 95 % intervals.{note}"
            yield Drawn(f"difference-{number}-{_slug(section.title)}", figure, text)


def _few(section: Section, *always: Row) -> tuple[Section, str]:
    """A section with the first tasks and the rows of the highest means, as many as a figure can show, and a note."""
    told = ""
    if (tasks := len(section.headline)) > TASKS:
        section = Section(section.heading, section.rows, section.headline[:TASKS], section.cells)
        told = f" Shown are the first {TASKS} of {tasks} tasks; the tables have all."
    if len(section.rows) <= DRAWN:
        return section, told

    def mean(row: Row) -> float:
        values = [section.cells[row, c].value for c in section.headline if (row, c) in section.cells]
        return sum(values) / len(values) if len(values) == len(section.headline) else -1.0

    best = sorted(section.rows, key=lambda row: (row not in always, -mean(row)))[:DRAWN]
    rows = [row for row in section.rows if row in best]
    told += f" Shown are {DRAWN} of {len(section.rows)} checkpoints, those with the highest means."
    return Section(section.heading, rows, section.columns, section.cells), told


def _pretraining(passports: Sequence[dict[str, Any]]) -> Iterator[Drawn]:
    """Curves from the histories that checkpoints carry."""
    curves = {
        passport["name"]: passport["extra"]["history"]
        for passport in passports
        if passport.get("extra", {}).get("history")
    }
    note = f" Shown are the first {DRAWN} of {len(curves)} checkpoints." if len(curves) > DRAWN else ""
    curves = dict(list(curves.items())[:DRAWN])
    names = dict.fromkeys(name for history in curves.values() for line in history for name in line)
    drawn = [name for name in names if name not in ("epoch", "lr") and not name.startswith(("mask_", "std_"))]
    for name, slug in _slugs(drawn).items():
        text = f"Mean {name.replace('_', ' ')} of an epoch.{note}"
        yield Drawn(f"history-{slug}", figures.histories(curves, name), text)
    for label, slug in _slugs(curves).items():
        if any(name.startswith("mask_") for name in curves[label][-1]):
            text = f"{label}: the share of the embedding that stays open to each augmentation's invariance."
            yield Drawn(f"masks-{slug}", figures.masks(curves[label], label), text)


def _detections(book: Book, data_root: Path) -> Markup:
    """By task: how checkpoints differ, the same test images for each of them, and where each fails."""
    tasks: dict[str, list[Record]] = {}
    for record in book.counting():
        if record.outcomes and record.outcomes.path.endswith(".json.gz"):
            tasks.setdefault(record.task.name, []).append(record)
    parts = []
    for task, done in tasks.items():
        gallery = views.gallery(task, data_root, side=SIDE, score=SHOWN_SCORE)
        if isinstance(gallery, str):
            parts.append(pages.render("detections.html", task=task, note=f"not shown: {gallery}"))
            continue
        here = [record for record in done if gallery.fits(book.outcomes(record))]
        others = sorted({record.checkpoint.name for record in done if record not in here})
        note = (
            f"not shown, measured on other test images than {data_root} has: {', '.join(others)}"
            if others
            else ""
        )
        gains = _detection_gains(gallery, here, book)
        if len(here) > MANY // 2:
            note = f"{note}; " if note else ""
            note += f"drawn are the first {MANY // 2} of {len(here)} cells"
        drawn = _grid(list(_pictures(gallery, here[: MANY // 2], book)))
        parts.append(pages.render("detections.html", task=task, note=note, gains=gains, figures=drawn))
    return Markup().join(parts)


def _detection_gains(gallery: Gallery, done: Sequence[Record], book: Book) -> Markup:
    """A table of differences to the first trained checkpoint under each protocol and seed."""
    rows = []
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in done:
        key = (record.protocol.name, canonical_json(record.protocol.overrides), record.seed)
        groups.setdefault(key, []).append(record)
    for records_ in groups.values():
        first = next((record for record in records_ if record.checkpoint.trained), None)
        for record in records_ if first else []:
            if first is None or record is first:
                continue
            found = gallery.compare(book.outcomes(first), book.outcomes(record), record.task.metric)
            span = found.interval
            ends = (
                f"[{100 * span.low:+.1f}, {100 * span.high:+.1f}]"
                if isinstance(span, Interval)
                else f"(no interval: {span.reason})"
            )
            name = f"{record.protocol.name} v{record.protocol.version}, seed {record.seed}"
            rows.append(
                [
                    name,
                    f"{record.checkpoint.name} - {first.checkpoint.name}",
                    record.task.metric,
                    f"{100 * found.difference:+.1f} {ends}",
                ]
            )
    title = (
        "Differences in points, 95 % paired bootstrap over test images; another pretraining seed is not in it"
    )
    heads = ["protocol", "checkpoints", "metric", "difference"]
    return pages.render("listing.html", listing=Listing(title, heads, rows)) if rows else Markup()


def _pictures(gallery: Gallery, done: Sequence[Record], book: Book) -> Iterator[Drawn]:
    """The same test images for every checkpoint, and the ones on which it fails most."""
    for record in done:
        outcome = book.outcomes(record)
        title = f"{record.checkpoint.name} on {record.task.name}, {record.protocol.name}"
        legend = (
            f"what was found with a score of at least {SHOWN_SCORE:g}, or else the best, as many as there are "
            "objects (solid), and what is there (dashed)"
        )
        for kind, shown in (
            ("", gallery.spread(outcome, PICTURES)),
            (" failures", gallery.failures(outcome, PICTURES)),
        ):
            name = f"detections-{_slug(record.run_id)}{_slug(kind)}"
            where = "the test images with most misses and false alarms" if kind else "test images"
            text = f"{title} v{record.protocol.version}, {where}: {legend}."
            figure = figures.detections(shown, f"{title}{':' if kind else ''}{kind}")
            yield Drawn(name, figure, text, photo=True)


def _explorer(
    table: Table, found: Sequence[dict[str, Any]], masks: Sequence[dict[str, Any]], data_root: Path | None
) -> Markup:
    """The tables, with a script that sorts, filters and compares them; without scripts they stand as they are."""
    looks = {
        "training": views.training(found),
        "masks": masks,
        "profile": views.profile(table),
        "errors": views.errors(table.book, data_root) if data_root else [],
    }
    looks = {name: look for name, look in looks.items() if look}
    script = Markup((pages.TEMPLATES / "explorer.js").read_text(encoding="utf-8"))
    tables = render.fragment(table, heading=3)
    curves = any(section.curves for section in table.sections)
    return pages.render(
        "explorer.html",
        tables=tables,
        data=explorer.packed(table),
        script=script,
        curves=curves,
        looks=looks,
        looked=explorer.compressed(looks) if looks else "",
    )


def _controls(table: Table) -> Markup:
    """Where checkpoints are surely above random weights, and where they are not."""
    listings = [
        pages.render("listing.html", listing=Listing(section.title, controls.HEADS, rows))
        for section, rows in controls.sections(table)
    ]
    if not listings:
        return Markup()
    return Markup("<p><small>{}</small></p>").format(controls.NOTE) + Markup().join(listings)


def _labelfree(table: Table, place: Path) -> Markup:
    """Measures without labels, with the accuracies of the same checkpoints, and how their orders agree."""
    parts = []
    for sheet in measures.sheets(measures.read([place]), table.sections):
        reasons = "".join(f"; none: {why}" for why in sheet.reasons())
        listings = [(f"{sheet.title}: measures, and accuracies in percent{reasons}", *measures.grid(sheet))]
        if sheet.pairs:
            listings.append((f"{sheet.title}: how alike features are", *measures.pair_grid(sheet)))
        if sheet.agreements:
            cells = [agreement.cells() for agreement in sheet.agreements]
            title = f"{sheet.title}: rank correlation over trained checkpoints, which are no random sample"
            listings.append((title, list(measures.AGREEMENT), cells))
        parts += [pages.render("listing.html", listing=Listing(*listing)) for listing in listings]
    return Markup().join(parts)


def _grid(drawn: Sequence[Drawn]) -> Markup:
    return pages.render("figures.html", figures=drawn) if drawn else Markup()


# --------------------------------------------------------------------------------------------------- provenance


def _lead(done: Sequence[Record]) -> str:
    kinds: dict[str, set[Any]] = {
        "checkpoint": {(record.checkpoint.name, record.checkpoint.identity) for record in done},
        "task": {record.task.name for record in done},
        "protocol": {(record.protocol.name, record.protocol.version) for record in done},
        "cell": {record.run_id for record in done},
    }
    parts = [f"{len(found)} {kind}{'' if len(found) == 1 else 's'}" for kind, found in kinds.items()]
    days = sorted({record.started[:10] for record in done})
    when = f", measured {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    return ", ".join(parts) + when + "."


def _notices(book: Book) -> list[str]:
    failures = len(book.failures())
    told = [f"{failures} cell{'s' if failures > 1 else ''} failed; see under the tables."] if failures else []
    return told + book.problems


def _provenance(
    place: Path, book: Book, done: Sequence[Record], passports: Sequence[dict[str, Any]]
) -> Markup:
    latest = {(r.checkpoint.name, r.checkpoint.identity): r.checkpoint for r in done}.values()
    listings = [
        Listing(
            "Checkpoints",
            ["checkpoint", "architecture", "method", "pretraining", "input", "weights SHA-256"],
            [
                [
                    entry.name,
                    entry.arch or "",
                    entry.method or ("none (random control)" if not entry.trained else "not told"),
                    _said(entry.pretraining),
                    _said(entry.preprocessing),
                    entry.weights_sha256 or "",
                ]
                for entry in latest
            ],
        ),
        Listing("Data", ["tasks", "examples", "manifest SHA-256"], _data(done)),
        Listing("Protocols", ["protocol", "seeds", "overrides", "parameters"], _protocols(done)),
        Listing("Computed with", [], sorted(_environments(done))),
        Listing(
            "Record files",
            ["file", "lines", "SHA-256"],
            [[path.name, str(lines), sha256_file(path)] for path, lines in book.files.items()],
        ),
    ]
    shown = {
        passport["name"]: json.dumps(
            {**passport, "extra": {k: v for k, v in passport.get("extra", {}).items() if k != "history"}},
            indent=1,
            ensure_ascii=False,
        )
        for passport in passports
    }
    return pages.render("provenance.html", listings=listings, passports=shown)


def _data(done: Iterable[Record]) -> list[list[str]]:
    """Tasks by the images they share."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    entries = {(id(record.data), record.task.name, record.task.version): record for record in done}
    for record in entries.values():
        counts = _said({key: number for key, number in record.data.counts.items() if key != "episodes"})
        names = found.setdefault((record.data.manifest or "", counts), {})
        names[f"{record.task.name} v{record.task.version}"] = None
    return [[", ".join(names), counts, manifest] for (manifest, counts), names in found.items()]


def _protocols(done: Iterable[Record]) -> list[list[str]]:
    found: dict[tuple[str, str], set[int]] = {}
    entries = {}
    for record in done:
        key = record.protocol.identity, record.protocol.asked_for
        entries[key] = record.protocol
        found.setdefault(key, set()).add(record.seed)
    return [
        [
            f"{how.name} v{how.version}",
            ", ".join(map(str, sorted(found[key]))),
            _said(how.overrides),
            json.dumps(how.params, ensure_ascii=False),
        ]
        for key, how in entries.items()
    ]


def _environments(done: Iterable[Record]) -> set[tuple[str, str]]:
    """What differs is listed as often as it differs."""
    distinct = {id(record.environment): record.environment for record in done}  # equal ones are one object
    return {
        (key, _said(value) if isinstance(value, dict) else str(value))
        for environment in distinct.values()
        for key, value in environment.items()
    }


def _said(values: dict[str, Any]) -> str:
    """A small dict for people."""
    flat = (
        f"{key} {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}"
        for key, value in values.items()
    )
    return "; ".join(flat).replace("_", " ") or "–"


def _slug(text: str) -> str:
    """A text as part of a file's name, whose 255 bytes it leaves room in."""
    slug = "".join(sign if sign.isalnum() else "-" for sign in text.lower())
    return slug.encode()[:120].decode(errors="ignore").strip("-")


def _slugs(texts: Iterable[str]) -> dict[str, str]:
    """Of each text a part of a file's name that no other has: ``a.b`` and ``A-B`` would share one."""
    found: dict[str, str] = {}
    for text in texts:
        slug, number = _slug(text), 1
        while slug in found.values():
            number += 1
            slug = f"{_slug(text)}-{number}"
        found[text] = slug
    return found
