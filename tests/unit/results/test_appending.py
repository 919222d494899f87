"""Many processes append to one file of records while one of them is killed again and again."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any

import pytest

from eval.results import records
from eval.results.records import Record

Make = Callable[..., Record]
PROCESSES = 8


class _Dying:
    """A file that writes some bytes of what it is given, and then its process is killed."""

    def __init__(self, file: IO[bytes], share: float) -> None:
        self._file, self._share = file, share

    def __enter__(self) -> _Dying:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: memoryview) -> int:
        self._file.write(content[: round(self._share * len(content))])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process went on")


def _append_missing(path: str, given: list[Record], dies: tuple[int, float] | None = None) -> None:
    """What a run does when it starts: look which of its cells have a record, and append the others.

    Args:
        path: The file.
        given: This process's records.
        dies: After how many of them it is killed, and what share of the next line is written by then.
    """
    place = Path(path)
    done = {record.run_id for record in records.read([place]).records} if place.is_file() else set()
    todo = [record for record in given if record.run_id not in done]
    for number, record in enumerate(todo):
        if dies and number == dies[0]:
            records.open = lambda *how, **more: _Dying(open(*how, **more), dies[1])  # noqa: SIM115
        records.append(place, record)


def _stress(path: Path, make_record: Make, count: int, kills: int) -> int:
    """Eight processes append ``count`` records; the first is killed again and again, then left alone.

    The first half of the kills fall inside the writing of a line; the others come from outside at any moment, as long
    as the process has not written all of its records.

    Returns:
        How many pieces of lines the killed process left.
    """
    every = [make_record(seed=seed, warnings=["w" * (40_000 * (seed % 7 == 0))]) for seed in range(count)]
    parts = [every[start::PROCESSES] for start in range(PROCESSES)]
    # No fork: it would copy the locks of this process's threads. The server imports records once for all of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.results.records"])

    def started(part: list[Record], dies: tuple[int, float] | None = None) -> BaseProcess:
        process = context.Process(target=_append_missing, args=(str(path), part, dies))
        process.start()
        return process

    others = [started(part) for part in parts[1:]]
    chance = random.Random(0)
    for number in range(kills):
        shares = (0.5, 0.9999, 0.01, 1.0, 0.0, chance.random())
        dies = (chance.randrange(3), shares[number % len(shares)]) if number < kills // 2 else None
        victim = started(parts[0], dies)
        victim.join(None if dies else chance.uniform(0.02, 0.1))
        if victim.exitcode is None:
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        if victim.exitcode == 0:
            break
        assert victim.exitcode == -signal.SIGKILL
    last = started(parts[0])
    for process in (*others, last):
        process.join()
    assert [process.exitcode for process in (*others, last)] == [0] * PROCESSES

    book = records.read([path])
    lines = Counter(record.run_id for record in book.records)
    assert set(lines) == {record.run_id for record in every}, "a record is lost"
    assert set(lines.values()) == {1}, "a record stands twice"
    by_id = {record.run_id: record for record in every}
    assert all(record == by_id[record.run_id] for record in book.records), "a record was altered"
    assert len(book.problems) <= kills  # what is no record is what a kill cut off
    return len(book.problems)


def test_nothing_is_lost_or_doubled_while_a_process_is_killed(tmp_path: Path, make_record: Make) -> None:
    assert _stress(tmp_path / "records" / "run.jsonl", make_record, 400, kills=12) >= 2


@pytest.mark.slow
def test_ten_thousand_records_while_a_process_is_killed(tmp_path: Path, make_record: Make) -> None:
    assert _stress(tmp_path / "records" / "run.jsonl", make_record, 10_000, kills=100) >= 20
