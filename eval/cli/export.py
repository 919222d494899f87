"""``mast export``: records for other programs, and cards for the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from mast.errors import UserError

from . import options, output

FORMS = ("csv", "parquet", "hub")


def add(verbs: options.Verbs) -> None:
    parser = verbs.add(
        "export",
        run,
        "export records: one flat row a record (csv, parquet), or model cards with results (hub)",
        "mast export csv runs/mini --out mini.csv\n"
        "  mast export parquet runs/mini runs/more --out all.parquet\n"
        "  mast export hub runs/mini --checkpoint mast5 --out cards",
    )
    parser.add_argument("form", choices=FORMS, help="csv, parquet (needs pyarrow), or hub")
    words = parser.add_argument(
        "places", nargs="*", type=Path, metavar="DIR", help="folders of runs, or record files"
    )
    parser.set_defaults(words=words)
    parser.add_argument("--out", type=Path, help="the file; for hub a folder, which gets a card a checkpoint")
    parser.add_argument(
        "--checkpoint", **options.MANY, default=[], metavar="NAME", help="for hub: these checkpoints alone"
    )


def run(arguments: argparse.Namespace) -> int:
    from mast.files import atomic_write

    from ..results import export, records, tables

    form, out = arguments.form, arguments.out
    if not arguments.places:
        raise UserError("mast export: no folder", remedy="name the --out folder of a run", code=2)
    if out is None and form != "csv":
        what = "file" if form == "parquet" else "folder"
        raise UserError(f"mast export {form} needs --out", remedy=f"name the {what} to write", code=2)
    if arguments.checkpoint and form != "hub":
        raise UserError("--checkpoint is for mast export hub", remedy="leave it out", code=2)
    if out is not None:
        output.check_writable(out / "card.md" if form == "hub" else out)
    if form == "parquet":
        export.arrow()
    if form == "hub":
        table = tables.read(arguments.places)
        output.problems(table.book.problems)
        cards = export.cards(table, arguments.checkpoint)
        for name, text in cards.items():
            with atomic_write(out / name) as file:
                file.write(text)
            print(out / name)
        return 0
    book = records.read(arguments.places)
    output.problems(book.problems)
    if not book.records:
        raise UserError(f"no records in {arguments.places[0]}", remedy="name the --out folder of a run")
    if form == "csv":
        return output.deliver(export.comma_separated(book), out, None)
    export.parquet(book, out)
    print(out)
    return 0
