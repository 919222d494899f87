"""A real Ray cluster of three nodes in processes of their own: nodes and drivers die, and the records do not care."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eval.results import records
from eval.results.records import Record

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
# 60 cells; the data of six have a broken image, which a worker meets.
SUITE = """
name: grid
description: for tests
pretrain:
  - {name: arm, recipe: demo, overrides: [epochs=1, batch_size=16, "expander=[16,16]", arch=resnet10-c8-half,
     data.folder=shades/train, views.size=16, data.store_size=16]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: arm}
cells:
  - {tasks: [shades.yaml], protocols: [knn, ridge, linear], seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8]}
  - {tasks: [broken.yaml], protocols: [knn], seeds: [0, 1, 2]}
"""
CELLS, LOST = 60, 6


@pytest.fixture(scope="module")
def place(shades: Callable[[int, int, Sequence[int]], Path]) -> Path:
    root = shades(40, 20, (40, 120, 200))
    (root / "grid.yaml").write_text(SUITE)
    return root


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        path for path in paths if path
    )  # nodes hand it to their workers
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


def start(place: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eval.cli", "run", str(place / "grid.yaml"), "--json", *more]
    command += ["--data-root", str(place / "data"), "--out", str(out)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    python_path = os.pathsep.join(path for path in paths if path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    return subprocess.Popen(
        command, env=environment, cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, told = process.communicate(timeout=500)
    assert process.returncode == 1, told  # the broken image
    summary: dict[str, Any] = json.loads(printed)
    return summary


def written(out: Path) -> list[Record]:
    return records.read([out / "records" / "grid.jsonl"]).records


def numbers(out: Path) -> list[dict[str, Any]]:
    whole = [record.to_json() for record in written(out) if record.status == "completed"]
    for record in whole:
        for key in ("started", "seconds", "environment"):
            del record[key]
    return whole


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def local(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("local") / "out"
    summary = finished(start(place, out))
    assert (summary["done"], summary["failed"]) == (CELLS - LOST, LOST)
    return numbers(out)


def test_a_node_dies_in_the_middle(
    place: Path, tmp_path: Path, cluster: Any, local: list[dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    process = start(place, out, "--engine", "ray", "--address", cluster.address)
    file = out / "records" / "grid.jsonl"
    until(lambda: file.is_file() and file.read_bytes().count(b"\n") >= 3, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    summary = finished(process)
    assert (summary["done"], summary["failed"]) == (CELLS - LOST, LOST)
    assert numbers(out) == local


def test_the_driver_is_killed_and_started_again(
    place: Path, tmp_path: Path, cluster: Any, local: list[dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    process = start(place, out, "--engine", "ray", "--address", cluster.address)
    file = out / "records" / "grid.jsonl"
    until(lambda: file.is_file() and file.read_bytes().count(b"\n") >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(written(out))
    summary = finished(start(place, out, "--engine", "ray", "--address", cluster.address))
    assert summary["skipped"] == before < CELLS - LOST
    assert numbers(out) == local
