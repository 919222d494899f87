"""Measured against published: each cell of a suite beside the number that was published for its very protocol.

*Reproduced* is a cell that ran the publication's protocol and came within the tolerance. The tolerance is the one
that stands with the published number; without one, the published number, which is rounded, has to lie in the interval
of our measurement. *Differs* is what was measured and is outside, or ran another protocol.
"""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from markupsafe import Markup

from mast.files import atomic_write, canonical_json
from mast.yaml import build

from ..errors import UserError
from . import escape, pages
from .published import Chosen, Published
from .records import Book, ProtocolEntry, Record, TaskEntry
from .tables import over_seeds, protocol_heading

Verdict = Literal["reproduced", "differs", "undecided", "no number", "failed", "not run"]
DASH: Final = "–"
FOLDER: Final = "reproduction"
EXACT: Final = 1e-9  # below what any table prints: a difference of so little is floating point's
UNCOMPARED: Final = ("no number", "not run")


@dataclass(frozen=True)
class Need:
    """Data or weights that cells need, and are not at hand.

    Attributes:
        what: Such as ``data imagenet`` or ``weights byol-resnet50``.
        why: What was looked for and not found.
        where: Where to get it, or that it is fetched when needed.
        terms: The licence, or what the publisher asks for.
        blocks: Whether cells cannot run without the user.
    """

    what: str
    why: str
    where: str
    terms: str = ""
    blocks: bool = True


@dataclass(frozen=True)
class Asked:
    """A cell of a suite, over its seeds.

    Attributes:
        checkpoint: Its name in the suite.
        published: ``METHOD BACKBONE``, under which published numbers are about it; empty if none are.
        task: As in records.
        protocol: As in records.
        seeds: All that belong to it.
        needs: What is not at hand.
        delta: What else makes it another protocol than the published one: other data, a smoke test.
    """

    checkpoint: str
    published: str
    task: TaskEntry
    protocol: ProtocolEntry
    seeds: tuple[int, ...]
    needs: tuple[Need, ...] = ()
    delta: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """What came of a cell, for one metric.

    Attributes:
        checkpoint, task, protocol, metric: Of the cell; the protocol with version and overrides.
        seeds: That were measured.
        verdict: What came of it.
        published: A fraction; None if nothing was published for this protocol.
        source: Where that stands.
        tolerance: Stated with it, a fraction; None if the measurement's own interval counts.
        measured, low, high: The mean over seeds and its interval, fractions.
        delta: How the protocol differs from the published one.
        notes: What the records warn of.
        why: Why there is no measurement.
        chosen: Hyper-parameters, measured and published.
    """

    checkpoint: str
    task: str
    protocol: str
    metric: str
    verdict: Verdict
    seeds: list[int] = field(default_factory=list)
    published: float | None = None
    source: str = ""
    tolerance: float | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    delta: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    why: str = ""
    chosen: str = ""

    @property
    def difference(self) -> float | None:
        """Measured minus published."""
        if self.measured is None or self.published is None:
            return None
        return self.measured - self.published


@dataclass(frozen=True)
class Reproduction:
    """A suite beside its publications.

    Attributes:
        title: The suite's.
        lines: One for each cell and published number; cells without one have a line too.
        needs: What was not at hand, with the number of cells that need it; weights after data.
        absent: What the publication says and is not at hand.
    """

    title: str
    lines: list[Line]
    needs: list[tuple[Need, int]]
    absent: list[str]

    @property
    def counts(self) -> dict[Verdict, int]:
        """Lines of each verdict."""
        found = Counter(line.verdict for line in self.lines)
        order: tuple[Verdict, ...] = (
            "reproduced",
            "differs",
            "undecided",
            "failed",
            "not run",
            "no number",
        )
        return {verdict: found[verdict] for verdict in order}

    @property
    def code(self) -> int:
        """The exit code: 1 if something differs or failed; else 3 if something has no verdict yet; else 0."""
        counts = self.counts
        if counts["differs"] or counts["failed"]:
            return 1
        return 3 if counts["not run"] or counts["undecided"] else 0


# --------------------------------------------------------------------------------------------------- comparing


def compare(
    title: str,
    asked: Sequence[Asked],
    book: Book,
    quoted: Iterable[Published] = (),
    chosen: Iterable[Chosen] = (),
    absent: Iterable[str] = (),
    *,
    pending: str = "not asked for",
) -> Reproduction:
    """Hold what was measured against what was published.

    Args:
        title: The suite's.
        asked: Its cells.
        book: The records of the run.
        quoted: Published numbers; those without ``same_as`` are about no protocol of this project.
        chosen: Published hyper-parameters, told beside the numbers.
        absent: What the publication says and is not at hand.
        pending: Why a cell that could run has not.
    """
    numbers, choices = list(quoted), list(chosen)
    done = sorted(book.counting(), key=lambda record: record.started)
    failed = book.failures()
    lines = [line for cell in asked for line in _lines(cell, done, failed, numbers, choices, pending)]
    counted = Counter(need for cell in asked for need in cell.needs)
    needs = sorted(counted.items(), key=lambda item: item[0].what.startswith("weights"))
    told = list(absent)
    if left := len(numbers) - sum(line.published is not None for line in lines):
        told.append(
            f"{left} of {len(numbers)} published numbers have no cell here: they are about other checkpoints, or "
            "were made by protocols that are none of this project's."
        )
    return Reproduction(title, lines, needs, told)


def _lines(
    cell: Asked,
    done: Sequence[Record],
    failed: Sequence[Record],
    numbers: Sequence[Published],
    choices: Sequence[Chosen],
    pending: str,
) -> list[Line]:
    about: dict[str, Any] = {
        "checkpoint": cell.checkpoint,
        "task": cell.task.name,
        "protocol": str(protocol_heading(cell.protocol)),
    }
    here = [
        item
        for item in numbers
        if item.same_as is not None
        and f"{item.method} {item.backbone}" == cell.published
        and (item.same_as.task, item.same_as.protocol) == (cell.task.name, cell.protocol.name)
    ]
    found = _records(cell, done)
    if len(found) < len(cell.seeds):
        verdict, why = _lack(cell, found, failed, pending)
        about |= {"verdict": verdict, "why": why, "seeds": sorted(found)}
        return [
            Line(metric=item.same_as.metric, **_published(item), **about) for item in here if item.same_as
        ] or [Line(metric=cell.task.metric, **about)]
    records = [found[seed] for seed in sorted(found)]
    about |= {
        "seeds": sorted(found),
        "notes": list(dict.fromkeys(warning for record in records for warning in record.warnings)),
        "chosen": _chosen(cell, records[0], choices),
    }
    if not here:
        return [
            Line(
                metric=cell.task.metric, verdict="no number", **_measured(records, cell.task.metric), **about
            )
        ]
    return [_judged(cell, records, item, about) for item in here]


def _records(cell: Asked, done: Sequence[Record]) -> dict[int, Record]:
    """The latest record of each seed."""
    identity = cell.protocol.identity
    return {
        record.seed: record
        for record in done
        if record.checkpoint.name == cell.checkpoint
        and record.task.identity == cell.task.identity
        and record.protocol.identity == identity
        and record.seed in cell.seeds
    }


def _lack(
    cell: Asked, found: dict[int, Record], failed: Sequence[Record], pending: str
) -> tuple[Verdict, str]:
    """Why a cell has no number."""
    some = f"{len(found)} of {len(cell.seeds)} seeds measured; " if found else ""
    if blocking := [need.what for need in cell.needs if need.blocks]:
        return "not run", f"{some}missing: {', '.join(blocking)}"
    for record in failed:
        names = record.checkpoint.name, record.task.name, record.protocol.identity
        if names == (cell.checkpoint, cell.task.name, cell.protocol.identity) and record.error is not None:
            return "failed", f"{some}{record.error.message}"
    return "not run", some + pending


def _published(item: Published) -> dict[str, Any]:
    return {"published": item.value, "source": item.source, "tolerance": item.tolerance}


def _measured(records: Sequence[Record], metric: str) -> dict[str, Any]:
    """Mean and interval; of intervals over examples and over seeds the wider ends."""
    if any(metric not in record.metrics for record in records):
        return {}
    cell = over_seeds(records, metric)
    spans = [(cell.low, cell.high)]
    if cell.over_seeds is not None:
        spans.append((cell.over_seeds.low, cell.over_seeds.high))
    lows = [low for low, _ in spans if low is not None]
    highs = [high for _, high in spans if high is not None]
    return {"measured": cell.value, "low": min(lows, default=None), "high": max(highs, default=None)}


def _judged(cell: Asked, records: Sequence[Record], item: Published, about: dict[str, Any]) -> Line:
    assert item.same_as is not None
    measured = _measured(records, item.same_as.metric)
    line = Line(metric=item.same_as.metric, verdict="undecided", **_published(item), **measured, **about)
    delta = _delta(cell, records, item)
    if line.measured is None:
        verdict: Verdict = "failed"
        why = f"{item.same_as.metric} was not measured"
    else:
        verdict, why = ("differs" if delta else _within(line, item.rounding)), ""
    return Line(**asdict(line) | {"verdict": verdict, "delta": delta, "why": why})


def _delta(cell: Asked, records: Sequence[Record], item: Published) -> list[str]:
    """How the protocol that ran differs from the one that the number was published with."""
    assert item.same_as is not None
    found = []
    if cell.protocol.version != item.same_as.version:
        found.append(f"version {cell.protocol.version}, published with {item.same_as.version}")
    found += [f"{key}={canonical_json(value)}" for key, value in sorted(cell.protocol.overrides.items())]
    if item.data:
        manifests = {(record.data.manifest or "")[: len(item.data)] for record in records}
        found += [f"data {one}, published with {item.data}" for one in sorted(manifests - {item.data})]
        return found
    return [*found, *cell.delta]


def _within(line: Line, rounding: float) -> Verdict:
    """Whether a measurement agrees with a published number."""
    assert line.measured is not None
    assert line.published is not None
    if line.tolerance is not None:
        near = abs(line.measured - line.published) <= line.tolerance + EXACT
    elif line.low is None or line.high is None:
        return "undecided"
    else:
        near = line.low - rounding - EXACT <= line.published <= line.high + rounding + EXACT
    return "reproduced" if near else "differs"


def _chosen(cell: Asked, record: Record, choices: Sequence[Chosen]) -> str:
    """Hyper-parameters that a publication chose, beside ours."""
    told = []
    for item in choices:
        where = item.task, item.protocol, item.version
        if where != (cell.task.name, cell.protocol.name, cell.protocol.version):
            continue
        value = record.selected.get(item.parameter)
        if f"{item.method} {item.backbone}" == cell.published and isinstance(value, float | int):
            told.append(f"{item.parameter} {value:.4g}, published {item.value:.4g}")
    return "; ".join(told)


# ----------------------------------------------------------------------------------------------------- writing


def write(found: Reproduction, out: Path) -> list[Path]:
    """Write it as Markdown, CSV and JSON into a folder of its own in the run's."""
    written = []
    for form, text in (("md", markdown(found)), ("csv", comma_separated(found)), ("json", as_json(found))):
        written.append(out / FOLDER / f"reproduction.{form}")
        with atomic_write(written[-1]) as file:
            file.write(text)
    return written


def read(out: Path) -> Reproduction | None:
    """What `write` wrote into a run's folder; None where there is nothing.

    Raises:
        UserError: If the file is not what `write` writes.
    """
    path = out / FOLDER / "reproduction.json"
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        fields = {key: value[key] for key in ("title", "lines", "absent")}
        fields["needs"] = [
            ({key: item for key, item in need.items() if key != "cells"}, need["cells"])
            for need in value["needs"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not what `mast reproduce` writes", remedy="run it again") from error
    return build(Reproduction, fields, where=str(path))


def as_json(found: Reproduction) -> str:
    """Everything, for machines."""
    value = {
        "title": found.title,
        "counts": found.counts,
        "exit_code": found.code,
        "lines": [asdict(line) for line in found.lines],
        "needs": [{**asdict(need), "cells": cells} for need, cells in found.needs],
        "absent": found.absent,
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def comma_separated(found: Reproduction) -> str:
    """A line for each cell and published number, values in percent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = "checkpoint task protocol metric verdict published tolerance measured low high difference seeds"
    writer.writerow([*heads.split(), "delta", "notes", "why", "chosen", "source"])
    for line in found.lines:
        numbers = [line.published, line.tolerance, line.measured, line.low, line.high, line.difference]
        values = ["" if number is None else f"{100 * number:.4f}" for number in numbers]
        texts = ["; ".join(line.delta), "; ".join(line.notes), line.why, line.chosen, line.source]
        writer.writerow(
            [
                *map(escape.csv_text, (line.checkpoint, line.task, line.protocol, line.metric)),
                line.verdict,
                *values,
                " ".join(map(str, line.seeds)),
                *map(escape.csv_text, texts),
            ]
        )
    return stream.getvalue()


HEADS: Final = ("checkpoint", "task", "protocol", "metric", "published", "measured", "difference", "verdict")


def _rows(found: Reproduction) -> list[list[str]]:
    """The lines with a published number, as text."""
    return [
        [
            line.checkpoint,
            line.task,
            line.protocol,
            line.metric,
            f"{100 * line.published:.2f}" + (f" ± {100 * line.tolerance:.2f}" if line.tolerance else ""),
            _value(line),
            DASH if line.difference is None else f"{round(100 * line.difference, 2) + 0.0:+.2f}",
            line.verdict,
        ]
        for line in found.lines
        if line.published is not None
    ]


def _value(line: Line) -> str:
    if line.measured is None:
        return DASH
    ends = "" if line.low is None or line.high is None else f" [{100 * line.low:.2f}, {100 * line.high:.2f}]"
    return f"{100 * line.measured:.2f}{ends}"


def _reasons(found: Reproduction) -> list[str]:
    """A sentence for each line that differs or has no number, those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for line in found.lines:
        if line.published is None and line.verdict not in ("failed", "no number"):
            continue
        where = f"{line.checkpoint}, {line.task}, {line.protocol}, {line.metric}"
        if line.verdict in ("failed", "not run", "undecided"):
            reasons.setdefault(
                f"{line.verdict}: {line.why or 'neither a tolerance nor an interval'}", []
            ).append(where)
        if line.verdict == "differs":
            out = "another protocol" if line.delta else "outside the tolerance"
            reasons.setdefault(f"differs: {'; '.join(line.delta) or out}", []).append(where)
        for note in line.notes if line.published is not None else []:
            reasons.setdefault(f"note: {note}", []).append(where)
        if line.chosen:
            reasons.setdefault(f"chosen: {line.chosen}", []).append(where)
    return [
        f"{reason} [{cells[0]}{f', and {len(cells) - 1} more' if len(cells) > 1 else ''}]"
        for reason, cells in reasons.items()
    ]


NEEDS: Final = ("not at hand", "cells", "where to get it", "terms")


def _needs(found: Reproduction) -> list[list[str]]:
    return [
        [need.what, str(cells), need.where or need.why, need.terms or DASH] for need, cells in found.needs
    ]


def summary(found: Reproduction) -> str:
    """How many of what, in one line."""
    words = {
        "reproduced": "reproduced",
        "differs": "differ",
        "undecided": "undecided",
        "failed": "failed",
        "not run": "not run",
        "no number": "measured without a published number",
    }
    told = [f"{count} {words[verdict]}" for verdict, count in found.counts.items() if count]
    return f"{', '.join(told) or 'nothing asked'}."


RULE: Final = (
    "Reproduced: the publication's protocol ran, and the difference is within the tolerance stated with the number "
    "(±), else the published number, as it is rounded, lies in our 95 % interval. Values in percent."
)


def text(found: Reproduction, columns: int = 100) -> str:
    """For a terminal.

    Args:
        found: What to show.
        columns: Its width; what is wider goes on below.
    """

    def filled(each: str, indent: str = "") -> str:
        return textwrap.fill(
            escape.line(each),
            columns,
            initial_indent=indent,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )

    parts = [found.title]
    if rows := _rows(found):
        parts.append(_aligned([list(HEADS), *(list(map(escape.line, row)) for row in rows)]))
        parts.append(filled(RULE))
    lacking = ("not run: missing: ", "note: ")  # what is missing has its list, notes are in the files
    reasons = [filled(each, "  ") for each in _reasons(found) if not each.startswith(lacking)]
    parts += ["\n".join(["Why:", *reasons])] if reasons else []
    needs = [
        filled(
            f"{what} ({cells} {'cell' if cells == '1' else 'cells'}): {where}"
            + (f"; {terms}" if terms != DASH else ""),
            "  ",
        )
        for what, cells, where, terms in _needs(found)
    ]
    parts += ["\n".join(["Not at hand:", *needs])] if needs else []
    absent = [filled(each, "  ") for each in found.absent]
    parts += ["\n".join(["Absent from the published numbers:", *absent])] if absent else []
    return "\n\n".join([*parts, summary(found)]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(found: Reproduction) -> str:
    """For people, whole."""
    parts = [f"# {escape.markdown(found.title)}", f"{summary(found)} {RULE}"]
    if rows := _rows(found):
        parts.append(_grid([list(HEADS), *rows]))
        parts.append(
            "\n".join(
                f"- {escape.markdown(line.checkpoint)}, {escape.markdown(line.task)}, {line.metric}: "
                f"{escape.markdown(line.source)}"
                for line in found.lines
                if line.published is not None
            )
        )
    if reasons := _reasons(found):
        parts.append("\n".join(["## Why", "", *(f"- {escape.markdown(reason)}" for reason in reasons)]))
    if found.needs:
        parts.append("## Not at hand\n\n" + _grid([list(NEEDS), *_needs(found)]))
    if found.absent:
        parts.append("\n".join(["## Absent", "", *(f"- {escape.markdown(each)}" for each in found.absent)]))
    return "\n\n".join(parts) + "\n"


def _grid(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(escape.markdown, row))} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def section(found: Reproduction) -> Markup:
    """A section of the report."""
    return pages.render(
        "reproduction.html",
        lead=f"{summary(found)} {RULE}",
        heads=HEADS,
        lines=[(row, line) for row, line in zip(_rows(found), _compared(found), strict=True)],
        reasons=_reasons(found),
        need_heads=NEEDS,
        needs=_needs(found),
        absent=found.absent,
    )


def _compared(found: Reproduction) -> list[Line]:
    return [line for line in found.lines if line.published is not None]
