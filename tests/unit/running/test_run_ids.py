"""Committed results keep their names: run ids from their own fields, parameters from today's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import protocols, tasks
from eval.results import records
from eval.running.plan import Cell
from eval.running.recording import protocol_entry
from mast.files import canonical_json

RECORDS = sorted((Path(__file__).parents[3] / "results" / "records").rglob("*.jsonl"))


@pytest.mark.parametrize("file", RECORDS, ids=lambda path: path.stem)
def test_every_committed_record_has_the_run_id_and_parameters_that_the_code_makes(file: Path) -> None:
    compared = 0
    for record in records.read([file]).records:
        manifest = record.data.manifest
        made = records.run_id(record.checkpoint, record.task, record.protocol, manifest, record.seed)
        assert made == record.run_id
        if protocols.get(record.protocol.name).version != record.protocol.version:
            continue
        # Nothing that a typed parameter's default adds may reach the parameters that a run id covers.
        task, how = tasks.resolve(record.task.name, record.protocol.name, record.protocol.overrides)
        cell = Cell(record.checkpoint.name, task, how, record.protocol.overrides, record.seed)
        assert canonical_json(protocol_entry(cell).params) == canonical_json(record.protocol.params)
        compared += 1
    assert compared


def test_there_are_records_to_compare() -> None:
    assert len(RECORDS) >= 7
