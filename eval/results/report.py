"""One self-contained HTML page from records: figures, tables, pretraining, detections, provenance.

The page loads nothing and runs no script. Equal records give equal bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mast.files import atomic_write, canonical_json, sha256_file

from ..errors import UserError
from . import figures, records, render, tables
from .records import Book, Record
from .tables import Table, row_key

if TYPE_CHECKING:
    from ..detection.pictures import Gallery

PICTURES: Final = 4  # test images shown for each detection cell
SHOWN_SCORE: Final = 0.3  # detections below it are not drawn
SIDE: Final = 240  # longest side in pixels of a picture in the page

STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2430; --soft: #5b6472; --line: #d5d9e0;
  --panel: #f6f7f9; --accent: #1d5fae; }
@media (prefers-color-scheme: dark) { :root { --page: #14171c; --ink: #e6e9ee; --soft: #9aa4b2;
  --line: #323945; --panel: #1b2027; --accent: #7db5f5; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
main, header, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 .6rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
main > section:first-child h2 { border-top: 0; margin-top: 1.2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0 1rem; max-width: 46rem; }
.lead, small, figcaption, footer { color: var(--soft); }
.lead { font-size: 1.05rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: .6rem 0; margin-top: 1rem;
  border-bottom: 1px solid var(--line); }
nav a { text-decoration: none; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20.5rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; padding: .8rem; background: var(--panel); border: 1px solid var(--line); border-radius: 10px; }
figcaption { font-size: .85rem; line-height: 1.45; margin-top: .4rem; }
svg.figure { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; width: fit-content; max-width: 100%; margin: 0 0 1.6rem;
  border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; min-width: 24rem; font-size: .92rem; font-variant-numeric: tabular-nums; }
h3 + p { margin: -.2rem 0 .4rem; }
th, td { padding: .45rem .7rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
th { font-weight: 600; }
thead th { border-top: 0; }
thead th { vertical-align: bottom; background: var(--panel); }
th small, td small { display: block; font-weight: 400; font-size: .8em; line-height: 1.3; }
.plain th, .plain td { text-align: left; vertical-align: top; }
.plain tbody th { white-space: normal; min-width: 8rem; max-width: 22rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); }
thead th:first-child { background: var(--panel); }
tbody tr:hover td, tbody tr:hover th { background: var(--panel); }
td.none { color: var(--soft); }
td.long { white-space: normal; min-width: 15rem; }
td code { display: block; min-width: 16rem; }
code { font: .82em ui-monospace, monospace; overflow-wrap: anywhere; }
details { margin: .4rem 0; } summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: .8rem;
  font: .8rem/1.45 ui-monospace, monospace; }
.notice { border-left: 4px solid #d6455d; padding: .2rem 0 .2rem .9rem; }
footer { padding-top: 2rem; padding-bottom: 3rem; font-size: .88rem; }
@media (max-width: 30rem) { main, header, footer { padding-left: .9rem; padding-right: .9rem; }
  th, td { padding: .4rem .6rem; } figure { padding: .5rem; } }
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document around a body; everything it needs is in it."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def standalone(table: Table) -> str:
    """A table as a page of its own."""
    return page(
        table.title, f"<main>\n<h1>{html.escape(table.title)}</h1>\n{render.fragment(table)}</main>\n"
    )


def published_files(places: Iterable[Path]) -> list[Path]:
    """The files of published numbers that lie beside records."""
    return [
        path for place in places if place.is_dir() for path in sorted((place / "published").glob("*.csv"))
    ]


def publish(out: Path, *, title: str, data_root: Path | None = None) -> list[Path]:
    """Write a run's table in every format, its figures and its report.

    Args:
        out: The run's folder.
        title: Heading of table and report.
        data_root: Where the images of detection tasks lie, to show some.

    Returns:
        What was written, the report first.
    """
    book = records.read([out])
    table = tables.build(book, tables.read_published(published_files([out])), title=title)
    written = [out / "report.html"]
    write(out, written[0], title=title, data_root=data_root)
    for form in ("md", "csv", "tex", "html"):
        written.append(out / "tables" / f"table.{form}")
        with atomic_write(written[-1]) as file:
            file.write(standalone(table) if form == "html" else render.render(table, form))
    for name, figure, _ in (
        *_scores(table),
        *_differences(table, book),
        *_pretraining(_passports(out, book)),
    ):
        for form in ("svg", "png"):
            written.append(out / "figures" / f"{name}.{form}")
            figures.save(figure, written[-1])
    return written


def write(place: Path, path: Path, *, title: str, data_root: Path | None = None) -> None:
    """Write the report of a folder of records.

    Args:
        place: The folder.
        path: The HTML file.
        title: Heading of the page.
        data_root: Where the images of detection tasks lie, to show some.
    """
    book = records.read([place])
    if not book.records:
        raise UserError(f"{place}: no records", remedy="name the --out folder of a run")
    table = tables.build(book, tables.read_published(published_files([place])), title=title)
    passports = _passports(place, book)
    scores, gains = list(_scores(table)), list(_differences(table, book))
    comparison = _figures(scores) + (f"{GAINS}{_figures(gains)}" if gains else "")
    parts = [
        ("comparison", "Comparison", comparison),
        ("tables", "Tables", render.fragment(table, heading=3)),
        ("pretraining", "Pretraining", _figures(_pretraining(passports))),
        ("detections", "Detections", _detections(book, data_root) if data_root else ""),
        ("provenance", "Provenance", _provenance(place, book, passports)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in parts)
    body = "".join(
        f'<section id="{name}">\n<h2>{heading}</h2>\n{content}</section>\n'
        for name, heading, content in parts
    )
    with atomic_write(path) as file:
        file.write(
            page(
                title,
                f'<header>\n<h1>{html.escape(title)}</h1>\n<p class="lead">{_lead(book)}</p>\n{_notices(book)}'
                f'<nav aria-label="Sections">{links}</nav>\n</header>\n<main>\n{body}</main>\n'
                "<footer>Made from records alone by <code>mast report</code>.</footer>\n",
            )
        )


# ------------------------------------------------------------------------------------------------------ figures

GAINS: Final = (
    "<h3>Difference to the first checkpoint</h3>\n<p><small>On the same test examples or episodes; right of the line "
    "is better. The intervals do not cover how much another pretraining seed would change.</small></p>\n"
)
Drawn = tuple[str, Any, str]  # name, figure, what it says


def _scores(table: Table) -> Iterator[Drawn]:
    """What was measured."""
    for number, section in enumerate(table.sections):
        if section.headline:
            text = f"{section.title}. {render.intervals(section)}"
            yield f"scores-{number}-{_slug(section.title)}", figures.comparison(section), text


def _differences(table: Table, book: Book) -> Iterator[Drawn]:
    """What checkpoints gain over the first trained one."""
    for number, section in enumerate(table.sections):
        trained = [
            row for row in section.rows if row not in section.controls and not row.startswith("published ")
        ]
        if len(trained) < 2:
            continue
        figure = figures.differences(section, book, trained[0])
        if figure is not None:
            text = f"{section.title}: difference to {section.rows[trained[0]]}, paired 95 % intervals."
            yield f"difference-{number}-{_slug(section.title)}", figure, text


def _pretraining(passports: Sequence[dict[str, Any]]) -> Iterator[Drawn]:
    """Curves from the histories that checkpoints carry."""
    curves = {
        passport["name"]: passport["extra"]["history"]
        for passport in passports
        if passport.get("extra", {}).get("history")
    }
    names = dict.fromkeys(name for history in curves.values() for line in history for name in line)
    for name in names:
        if name not in ("epoch", "lr") and not name.startswith(("mask_", "std_")):
            yield (
                f"history-{_slug(name)}",
                figures.histories(curves, name),
                f"Mean {name.replace('_', ' ')} of an epoch.",
            )
    for label, history in curves.items():
        if any(name.startswith("mask_") for name in history[-1]):
            text = f"{label}: the share of the embedding that stays open to each augmentation's invariance."
            yield f"masks-{_slug(label)}", figures.masks(history, label), text


def _detections(book: Book, data_root: Path) -> str:
    """By task: how checkpoints differ, the same test images for each of them, and where each fails."""
    from ..detection import Gallery

    tasks: dict[str, list[Record]] = {}
    for record in book.counting():
        if record.outcomes and record.outcomes.path.endswith(".json.gz"):
            tasks.setdefault(record.task.name, []).append(record)
    parts = []
    for task, done in tasks.items():
        gallery = Gallery(task, data_root, side=SIDE, score=SHOWN_SCORE)
        gains = _detection_gains(gallery, done, book)
        drawn = list(_pictures(gallery, done, book))
        parts.append(f"<h3>{html.escape(task)}</h3>\n{gains}{_figures(drawn)}")
    return "".join(parts)


def _detection_gains(gallery: Gallery, done: Sequence[Record], book: Book) -> str:
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
            difference, low, high = (100 * float(found[name]) for name in ("difference", "low", "high"))
            name = f"{record.protocol.name} v{record.protocol.version}, seed {record.seed}"
            rows.append(
                [
                    name,
                    f"{record.checkpoint.name} - {first.checkpoint.name}",
                    record.task.metric,
                    f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]",
                ]
            )
    title = (
        "Differences in points, 95 % paired bootstrap over test images; another pretraining seed is not in it"
    )
    return _listing(title, ["protocol", "checkpoints", "metric", "difference"], rows) if rows else ""


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
            yield name, figures.detections(shown, f"{title}{':' if kind else ''}{kind}"), text


def _figures(drawn: Iterable[Drawn]) -> str:
    items = [
        f"<figure>{figures.inline(figure, name, text)}<figcaption>{html.escape(text)}</figcaption></figure>"
        for name, figure, text in drawn
    ]
    return '<div class="grid">\n' + "\n".join(items) + "\n</div>\n" if items else ""


# --------------------------------------------------------------------------------------------------- provenance


def _passports(place: Path, book: Book) -> list[dict[str, Any]]:
    """The passports beside records, in the records' order."""
    found = (place / "passports").glob("*.json") if place.is_dir() else ()
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}
    names = (
        f"{record.checkpoint.name}-{(record.checkpoint.weights_sha256 or '')[:12]}" for record in book.records
    )
    return [read[name] for name in dict.fromkeys(names) if name in read]


def _lead(book: Book) -> str:
    done = book.counting()
    kinds: dict[str, set[Any]] = {
        "checkpoint": {row_key(record) for record in done},
        "task": {record.task.name for record in done},
        "protocol": {(record.protocol.name, record.protocol.version) for record in done},
        "cell": {record.run_id for record in done},
    }
    parts = [f"{len(found)} {kind}{'' if len(found) == 1 else 's'}" for kind, found in kinds.items()]
    days = sorted({record.started[:10] for record in done})
    when = f", measured {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    return ", ".join(parts) + when + "."


def _notices(book: Book) -> str:
    failures = len(book.failures())
    lines = (
        [f"{failures} cell{'s' if failures > 1 else ''} failed; see under the tables."] if failures else []
    )
    lines += book.problems
    return "".join(f'<p class="notice">{html.escape(line)}</p>\n' for line in lines)


def _provenance(place: Path, book: Book, passports: Sequence[dict[str, Any]]) -> str:
    done = book.counting()
    latest = {row_key(record): record for record in done}.values()
    out = [
        _listing(
            "Checkpoints",
            ["checkpoint", "architecture", "method", "pretraining", "input", "weights SHA-256"],
            [
                [
                    record.checkpoint.name,
                    record.checkpoint.arch,
                    record.checkpoint.method
                    or ("none (random control)" if not record.checkpoint.trained else "not told"),
                    _said(record.checkpoint.pretraining),
                    _said(record.checkpoint.preprocessing),
                    record.checkpoint.weights_sha256,
                ]
                for record in latest
            ],
        ),
        _listing(
            "Data",
            ["tasks", "examples", "manifest SHA-256"],
            [[", ".join(names), counts, manifest] for (manifest, counts), names in _data(done).items()],
        ),
        _listing(
            "Protocols",
            ["protocol", "seeds", "overrides", "parameters"],
            [
                [
                    f"{name} v{version}",
                    ", ".join(map(str, sorted(seeds))),
                    _said(json.loads(overrides)),
                    params,
                ]
                for (name, version, overrides, params), seeds in _protocols(done).items()
            ],
        ),
        _listing("Computed with", ["", ""], sorted(_environments(done))),
        _listing(
            "Record files",
            ["file", "lines", "SHA-256"],
            [
                [path.name, str(len(path.read_bytes().splitlines())), sha256_file(path)]
                for path in records.record_files(place)
            ],
        ),
    ]
    for passport in passports:
        shown = {**passport, "extra": {k: v for k, v in passport.get("extra", {}).items() if k != "history"}}
        text = html.escape(json.dumps(shown, indent=1, ensure_ascii=False))
        out.append(
            f"<details><summary>Passport of {html.escape(passport['name'])}</summary><pre>{text}</pre></details>"
        )
    return "\n".join(out) + "\n"


def _data(done: Iterable[Record]) -> dict[tuple[str | None, str], dict[str, None]]:
    """Tasks by the images they share."""
    found: dict[tuple[str | None, str], dict[str, None]] = {}
    for record in done:
        counts = _said({key: number for key, number in record.data.counts.items() if key != "episodes"})
        names = found.setdefault((record.data.manifest, counts), {})
        names[f"{record.task.name} v{record.task.version}"] = None
    return found


def _protocols(done: Iterable[Record]) -> dict[tuple[str, int, str, str], set[int]]:
    found: dict[tuple[str, int, str, str], set[int]] = {}
    for record in done:
        how = record.protocol
        key = (how.name, how.version, json.dumps(how.overrides), json.dumps(how.params, ensure_ascii=False))
        found.setdefault(key, set()).add(record.seed)
    return found


def _environments(done: Iterable[Record]) -> set[tuple[str, str]]:
    """What differs is listed as often as it differs."""
    found = set()
    for record in done:
        for key, value in record.environment.items():
            found.add((key, _said(value) if isinstance(value, dict) else str(value)))
    return found


def _said(values: dict[str, Any]) -> str:
    """A small dict for people."""
    flat = (
        f"{key} {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}"
        for key, value in values.items()
    )
    return "; ".join(flat).replace("_", " ") or "–"


def _listing(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    top = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{html.escape(str(row[0]))}</th>'
        + "".join(_told(str(value)) for value in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return (
        f'<h3>{title}</h3><div class="scroll" role="region" tabindex="0" aria-label="{title}">'
        f'<table class="plain" aria-label="{title}">{head}<tbody>{body}</tbody></table></div>'
    )


def _told(value: str) -> str:
    text = html.escape(value)
    if value.startswith("{") or (len(value) == 64 and value.isalnum()):
        text = f"<code>{text}</code>"
    return f'<td class="long">{text}</td>' if len(value) > 24 else f"<td>{text}</td>"


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text.lower()).strip("-")
