"""Two processes are one: the same gradients, weights and logs at the same global batch, in float64."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from mast.config import Recipe
from mast.distributed import GatheredBatchNorm, World, _attempt, gather, join, synchronized
from mast.errors import UserError
from mast.train import _train, pretrain

# Runs [recipe, folder, step at which it breaks off once or 0] one after another: starting Python is what takes time.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
import mast.train
from mast.config import parse_recipe

real = mast.train.learning_rate

def run(recipe, out, breaks):
    def rate(step, *rest):
        if step == breaks > 0:
            raise KeyboardInterrupt
        return real(step, *rest)
    mast.train.learning_rate = rate
    mast.train.pretrain(
        parse_recipe(recipe, "test"), Path(out), data_root=Path(sys.argv[2]), progress=False, device="cpu"
    )

torch.distributed.init_process_group("gloo")
for recipe, out, breaks in json.loads(sys.argv[1]):
    if breaks:
        try:
            run(recipe, out, breaks)
        except KeyboardInterrupt:
            pass
    run(recipe, out, 0)
torch.distributed.destroy_process_group()
"""
EXACT = ["precision=fp64", "optimizer={name: sgd, base_lr: 0.5, weight_decay: 1.0e-4, warmup_epochs: 0}"]
STEP = ["batch_size=48", "epochs=1", *EXACT]
CERTAIN = ["method=mast", "uncertainty=true"]
CASES = {
    "vicreg": [*STEP, "method=vicreg"],
    "mast": [*STEP, *CERTAIN, "views.single_fraction=0.5", "weights.overlap=1"],
    "features": [
        *[*STEP, *CERTAIN, "views.single_fraction=0.5"],
        *["masks.level=features", "accumulate=2"],
    ],
    "sensitive": [
        *[*STEP, *CERTAIN, "views.single_fraction=0.5", "masks.layout=own-closed", "masks.spread=1"],
        *["weights.sensitivity=5", "weights.decorrelation=1", "weights.prediction=5"],
    ],
    "third": [
        *[*STEP, *CERTAIN, "views.third_every=3", "masks.layout=own-closed", "masks.lr=0"],
        *["weights.sensitivity=5", "weights.decorrelation=1"],
    ],
    "contrast": [
        *[*STEP, *CERTAIN, "views.third_every=3", "views.all_but_fraction=0.8", "weights.contrast=2"],
        *["masks.layout=own-closed", "weights.prediction=5", "masks.predict=true"],
    ],
    "changes": [
        *[*STEP, *CERTAIN, "views.single_fraction=0.5", "masks={layout: own-closed, changes: features}"],
        *["weights.sensitivity=5", "weights.decorrelation=1"],
    ],
    "whole": ["save_minutes=0", "epochs=2", *CERTAIN, "views.single_fraction=0.5"],
    "broken": ["save_minutes=0", "epochs=2", *CERTAIN, "views.single_fraction=0.5"],
}
Job = tuple[Recipe, Path, int]


def _start(jobs: Sequence[Job], data_root: Path, size: int = 2) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argument = json.dumps(
        [(recipe.model_dump(mode="json"), str(out), breaks) for recipe, out, breaks in jobs]
    )
    processes = []
    for rank in range(size):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", PROGRAM, argument, str(data_root)]
        processes.append(subprocess.Popen(command, env=environment))
    return processes


def _state(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "state.pt", weights_only=True)
    return state


def _close(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    """Differences relative to the largest entry, as single entries may be zero but for rounding."""
    assert (a - b).abs().max() <= 1e-8 * b.abs().max().clamp(min=1e-12), what


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, data_root: Path, small: Callable[..., Recipe]) -> Path:
    """Folder of what two processes made of every case."""
    out = tmp_path_factory.mktemp("two")
    jobs = [(small(*changes), out / name, 4 * (name == "broken")) for name, changes in CASES.items()]
    for process in _start(jobs, data_root):
        assert process.wait(500) == 0
    return out


@pytest.mark.parametrize("case", ["vicreg", "mast", "features", "sensitive", "third", "contrast", "changes"])
def test_two_processes_have_the_gradients_of_one(two, tmp_path, data_root, small, case):
    """One step with momentum from zero: the buffers are the gradients (Adam's a tenth of them)."""
    pretrain(small(*CASES[case]), tmp_path, data_root=data_root, progress=False, device="cpu")
    ours, one = _state(two / case), _state(tmp_path)
    moments = [state["optimizer"]["state"] for state in (ours, one)]
    assert len(moments[1]) > 30
    for key, entry in moments[1].items():
        _close(moments[0][key]["momentum_buffer"], entry["momentum_buffer"], f"gradient {key}")
    for name, value in one["learner"].items():
        _close(ours["learner"][name].double(), value.double(), name)
    if "mask_optimizer" in one and one["mask_optimizer"]["param_groups"][0]["lr"]:
        masks = [state["mask_optimizer"]["state"][0]["exp_avg"] for state in (ours, one)]
        assert masks[1].abs().max() > 0
        _close(*masks, "gradient of the masks")


def test_two_processes_resume_bit_for_bit(two):
    whole, broken = _state(two / "whole"), _state(two / "broken")
    assert whole["step"] == broken["step"] == 6
    for name, value in whole["learner"].items():
        assert torch.equal(broken["learner"][name], value), name
    assert (two / "whole" / "log.jsonl").read_text() == (two / "broken" / "log.jsonl").read_text()
    assert len((two / "whole" / "log.jsonl").read_text().splitlines()) == 2


def test_processes_do_not_meet_those_of_an_earlier_attempt() -> None:
    """torchrun's store outlives a restart; who is late still meets the living, not the addresses of the dead."""
    store, names = torch.distributed.HashStore(), []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            late = {rank: pool.submit(_attempt, store, rank, 3) for rank in (1, 2)}
            time.sleep(0.2)
            found = {pool.submit(_attempt, store, 0, 3).result(), *(each.result() for each in late.values())}
        names += found
        assert len(found) == 1
        store.set("mast/here/1", "somebody who died before the others came")
    assert len(set(names)) == 3


@pytest.mark.slow
def test_two_processes_end_where_they_would_when_killed(two, tmp_path, data_root, small):
    job = (small(*CASES["whole"]), tmp_path / "killed", 0)
    processes = _start([job], data_root)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.pt").exists():
        assert time.monotonic() < deadline, "the run saved nothing"
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < _state(tmp_path / "killed")["step"] < 6
    for process in _start([job], data_root):
        assert process.wait(120) == 0
    killed, whole = _state(tmp_path / "killed"), _state(two / "whole")
    for name, value in whole["learner"].items():
        assert torch.equal(killed["learner"][name], value), name


def test_a_batch_that_does_not_part_evenly_is_refused(tmp_path, data_root, small):
    world = World(torch.device("cpu"), rank=1, size=2)
    with pytest.raises(UserError, match="batch of 15 in 1 parts does not divide by 2"):
        _train(small("batch_size=15"), tmp_path, world, data_root, False, 1, False, False)


def test_alone_nothing_is_gathered(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    x = torch.randn(4, 3, requires_grad=True)
    assert gather(x) is x
    with join("cpu") as world:
        assert world == World(torch.device("cpu"))
        assert world.from_first("value") == "value"
        assert world.any(True)
        assert not world.any(False)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    assert synchronized(network, world) is network
    assert type(network[1]) is torch.nn.BatchNorm2d


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 5)])
def test_gathered_batch_norm_is_batch_norm(shape, monkeypatch):
    """In one process: output, gradients and running statistics are torch's."""
    monkeypatch.setattr("mast.distributed.dist.all_reduce", lambda tensor: None)
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    theirs, ours = kind(4).double(), GatheredBatchNorm(4).double()
    torch.nn.init.uniform_(theirs.weight)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(shape, dtype=torch.float64)
    results = []
    for norm in (theirs, ours):
        y = norm(x)
        results.append([y, *torch.autograd.grad((y * direction).sum(), [x, norm.weight, norm.bias])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_processes_that_do_not_come_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "2"}
    for key, value in world.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("mast.distributed.TIMEOUT", timedelta(seconds=3))
    with pytest.raises(UserError, match="2 processes did not come together within 3 s"), join("cpu"):
        pass


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_state(
    tmp_path: Path, data_root: Path, small: Callable[..., Recipe]
) -> None:
    """A rank is killed in the middle; without any flag the run ends as one that nothing has disturbed."""
    changes = ["batch_size=48", "epochs=60", "save_minutes=0", *EXACT]
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        json.dumps(small(*changes).model_dump(mode="json", exclude_none=True)), encoding="utf-8"
    )

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["--max-restarts=2", "-m", "eval.cli", "pretrain", str(recipe), "--quiet"]
        command += ["--data-root", str(data_root), "--out", str(out), "--workers", "0"]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    calm = start(tmp_path / "calm")
    assert calm.wait(300) == 0
    disturbed = start(tmp_path / "out")
    log, end = tmp_path / "out" / "log.jsonl", time.monotonic() + 120
    while not log.is_file() and time.monotonic() < end:
        time.sleep(0.01)
    ranks = Path(f"/proc/{disturbed.pid}/task/{disturbed.pid}/children").read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    assert disturbed.poll() is None
    assert disturbed.wait(300) == 0
    assert log.read_text().count("\n") == 60
    assert [json.loads(line)["loss"] for line in log.read_text().splitlines()] == [
        json.loads(line)["loss"] for line in (tmp_path / "calm" / "log.jsonl").read_text().splitlines()
    ]
    states = [_state(tmp_path / name) for name in ("calm", "out")]
    assert states[0]["step"] == states[1]["step"]
    for name, value in states[0]["learner"].items():
        assert torch.equal(value, states[1]["learner"][name]), name
