"""Tables for papers: what is chosen and renamed, and names that would break or run something."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.errors import UserError
from eval.results import escape, published, records, render, selection, tables
from eval.results.records import Record
from eval.results.tables import Table

Make = Callable[..., Record]
NASTY = r"=cmd|' /C calc'!A0 <script>alert(1)</script> [x](javascript:alert(1)) \input{x} ^~$%&#_{} αβΩ https://a.b"


@pytest.fixture
def table(tmp_path: Path, make_record: Make) -> Table:
    rng = np.random.default_rng(0)
    for name, weights, share in (("swav", "a", 0.5), ("vicreg", "b", 0.6), ("random", "c", 0.1)):
        for protocol in ("linear", "knn"):
            for task in ("cifar10", "pets"):
                hits = rng.random(200) < share
                value = float(hits.mean())
                record = make_record(
                    name=name,
                    weights=weights,
                    task=task,
                    protocol=protocol,
                    value=value,
                    interval=(value - 0.07, value + 0.07),
                    trained=name != "random",
                    outcomes=records.write_arrays(tmp_path, correct=hits),
                )
                records.append(tmp_path / "records" / "x.jsonl", record)
    path = tmp_path / "published" / "paper.csv"
    path.parent.mkdir()
    head = ",".join([*published.COLUMNS, "cite"])
    path.write_text(f"{head}\nbyol,r50,cifar,top1,61.2,BYOL Table 1,cifar10 linear v1 top1,grill2020byol\n")
    return tables.read([tmp_path])


def test_rows_columns_and_names_are_those_asked_for_in_their_order(table: Table) -> None:
    found = selection.select(
        table,
        rows=["vicreg", "sw*"],
        columns=["pets", "cifar10 top1"],
        sections=["linear v1"],
        names={"pets": "Pets"},
    )
    (section,) = found.sections
    assert [row.label for row in section.rows] == ["vicreg", "swav"]
    assert [column.label for column in section.columns] == ["Pets", "cifar10 top1"]
    assert found.sources == []
    whole = table.sections[[s.title for s in table.sections].index("linear v1")]
    for row in section.rows:
        for column in section.columns:
            (same,) = [
                cell for (r, c), cell in whole.cells.items() if r.label == row.label and c.task == column.task
            ]
            assert section.cells[row, column] is same


@pytest.mark.parametrize("wrong", [{"rows": ["swag"]}, {"columns": ["cifar11"]}, {"names": {"swag": "x"}}])
def test_a_name_that_is_not_there_is_told(table: Table, wrong: dict[str, list[str]]) -> None:
    with pytest.raises(UserError, match="did you mean"):
        selection.select(table, **wrong)  # type: ignore[arg-type]


def test_one_grid_for_several_protocols(table: Table) -> None:
    text = render.render(replace(table, one=True, spread="plus-minus"), "tex")
    assert text.count(r"\begin{tabular}") == 1
    assert r"\multicolumn{4}{c}{linear v1}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert {line.count(" & ") for line in rows if "multicolumn" not in line} == {9}
    (byol,) = [line for line in rows if line.startswith(r"byol r50~\cite{grill2020byol} & ")]
    assert " & 61.2 & " in byol
    assert r"{\scriptsize $\pm$ 7.0}" in text
    markdown = render.render(replace(table, one=True, spread="none"), "md")
    assert "| linear v1: cifar10 top1 |" in markdown
    assert not re.search(r"\d \[\d", "".join(re.findall(r"\| swav .*?\|", markdown)))


def test_csv_has_means_ranks_and_marks(table: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(render.render(table, "csv"))))
    (mean,) = [
        x for x in lines if (x["section"], x["checkpoint"], x["column"]) == ("linear v1", "vicreg", "mean")
    ]
    cells = [
        float(x["value"])
        for x in lines
        if (x["section"], x["checkpoint"]) == ("linear v1", "vicreg") and x["column"].endswith("top1")
    ]
    assert float(mean["value"]) == pytest.approx(np.mean(cells))
    (rank,) = [
        x for x in lines if (x["section"], x["checkpoint"], x["column"]) == ("linear v1", "swav", "rank")
    ]
    assert float(rank["low"]) <= float(rank["value"]) <= float(rank["high"])
    assert {x["mark"] for x in lines} >= {"best", ""}


@pytest.mark.parametrize("form", sorted(render.FORMS))
def test_names_do_nothing_but_name(tmp_path: Path, make_record: Make, form: str) -> None:
    records.append(tmp_path / "x.jsonl", make_record(name=NASTY, trained=False))
    records.append(tmp_path / "x.jsonl", make_record(name="\x1b[31mred\nline", weights="b", status="failed"))
    text = render.render(tables.read([tmp_path], title=NASTY), form)
    assert "\x1b" not in text
    assert form == "text" or "<script>" not in text or form in ("csv", "tex")
    if form == "csv":
        for line in csv.reader(io.StringIO(text)):
            assert not any(cell.startswith(("=", "+", "@", "-")) for cell in line)
    if form == "md":
        assert "[x](javascript" not in text
        assert "https://" not in text
    if form == "tex":
        text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert r"\input" not in text.replace(r"\textbackslash{}input", "")
        assert r"$\alpha$$\beta$$\Omega$" in text


def test_greek_and_signs_in_latex() -> None:
    assert escape.latex("λ=0.1 Σ ς Α") == r"$\lambda$=0.1 $\Sigma$ $\varsigma$ A"
    assert escape.latex("a\\b^c~d|e") == r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\textbar{}e"
    assert escape.markdown("caltech101_20 _x_ a|b") == r"caltech101_20 \_x\_ a\|b"
    assert escape.csv_text("=1+1") == "'=1+1"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("one", [True, False])
def test_latex_compiles_without_overfull_boxes_at_two_columns(
    table: Table, tmp_path: Path, make_record: Make, one: bool
) -> None:
    records.append(tmp_path / "records" / "y.jsonl", make_record(name=NASTY, weights="d"))
    body = render.render(replace(tables.read([tmp_path]), one=one), "tex")
    (tmp_path / "t.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx,textcomp}\n"
        f"\\begin{{document}}\n{body}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_a_grid_of_many_columns_is_several_tabulars(tmp_path: Path, make_record: Make) -> None:
    """TeX has no length for 300 columns side by side."""
    tasks = [f"task-{number:03d}" for number in range(95)]
    made = [make_record(name=name, weights=name, task=task) for name in "ab" for task in tasks]
    table = tables.build(records.Book(made))
    for shown in (table, replace(table, one=True)):
        text = render.render(shown, "tex")
        assert (
            text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
        )  # with mean and rank 97 columns
        heads = [line for line in text.splitlines() if "task-0" in line and line.endswith(r"\\")]
        assert "".join(heads).count("task-") == 95
        for line in text.splitlines():
            if line.startswith(("a ", "b ")):
                assert line.count("&") in (40, 17)
    assert r"\multicolumn{17}" in render.render(replace(table, one=True), "tex")


def test_letters_that_pdflatex_lacks_are_told(make_record: Make) -> None:
    text = render.render(tables.build(records.Book([make_record(name="Сеть")])), "tex")
    assert text.startswith("% pdfLaTeX may not know С е т ь: show other names")
    plain = render.render(tables.build(records.Book([make_record(name="e\u0301 α – ½")])), "tex")
    assert plain.startswith("% Results")
    assert "é" in plain  # composed, which pdfLaTeX knows
    assert r"\texttt{mast compare}" in plain
