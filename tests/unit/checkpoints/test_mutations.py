"""Damaged files: whatever happens to the bytes, the answer is one clear error or the same weights."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_sources import Narrow, build, detectron2_name, optimizer_state

from eval.checkpoints import Passport, inspect
from eval.errors import UserError
from mast.checkpoint import write_published


class Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def originals(folder: Path) -> dict[str, Path]:
    """One small file of each container, two of them wanting to run a command. Names end in their sha256's start."""
    net = build(lambda: Narrow(10, channels=4))
    state = net.state_dict()
    content = {"state_dict": state, "optimizer": optimizer_state(net), "n": np.float64(3.0)}
    numpy = {detectron2_name(k): v.numpy() for k, v in state.items()}
    flag = Command(folder / "ran")
    torch.save(content, folder / "zip.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({**content, "x": flag}, folder / "evil.pth")
    torch.jit.trace(net, torch.zeros(1, 3, 32, 32)).save(folder / "script.pt")
    (folder / "numpy.pkl").write_bytes(
        pickle.dumps({"model": numpy, "matching_heuristics": True}, protocol=2)
    )
    (folder / "evil.pkl").write_bytes(pickle.dumps({"model": numpy, "x": flag}, protocol=4))
    facts = {"arch": "resnet10-c4", "normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    backbone = {k: v for k, v in state.items() if not k.startswith("fc")}
    write_published(
        folder / "mast.safetensors", backbone, {**facts, "input_size": 32, "interpolation": "bilinear"}
    )
    named = {}
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        while not any(letter in "abcdef" for letter in digest[:8]):  # pragma: no cover - one in forty
            digest = digest[1:]
        named[path.name] = path.rename(folder / f"{path.stem}-{digest[:8]}{path.suffix}")
    return named


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 0x2E, 0x80, 0xFF, rng.randrange(256)))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 2, 16, 1000))]


def _insert(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = rng.randbytes(rng.choice((1, 2, 16, 1000)))


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start, size = rng.randrange(len(data)), rng.choice((2, 4, 8, 100))
    data[start : start + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))


def _swap(data: bytearray, rng: random.Random) -> None:
    size = min(64, len(data) // 3)
    a, b = sorted(rng.sample(range(len(data) - size), 2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _header(data: bytearray, rng: random.Random) -> None:
    """Damage where the structure is: the first kilobytes, or the last, where a zip has its directory."""
    span = min(3000, len(data))
    start = rng.choice((0, len(data) - span))
    for _ in range(rng.choice((1, 3))):
        data[start + rng.randrange(span)] = rng.randrange(256)


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip, _set, _cut, _delete, _insert, _overwrite, _swap, _header, _header, _header,
)  # fmt: skip


def _read(path: Path) -> tuple[Passport | None, str]:
    try:
        return inspect(str(path)), ""
    except UserError as error:
        return None, str(error)


def survive(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Read ``count`` damaged files; how each ended, by container."""
    folder.mkdir(exist_ok=True)
    files = originals(folder)
    contents = {name: path.read_bytes() for name, path in files.items()}
    whole = {name: inspect(str(path)).weights_sha256 for name, path in files.items() if "evil" not in name}
    rng = random.Random(seed)
    outcomes = {"refused": 0, "same": 0, "warned": 0}
    for index in range(count):
        name = rng.choice(sorted(files))
        data = bytearray(contents[name])
        rng.choice(MUTATIONS)(data, rng)
        files[name].write_bytes(data)
        case = f"seed {seed}, case {index}, {name}"
        passport, message = _read(files[name])
        if passport is None:
            assert "\n" not in message, case
            assert str(files[name]) in message, case
            assert len(message) < 2000, case
            outcomes["refused"] += 1
        # A file that wants to run something must never load, unless the wish itself was destroyed.
        elif passport.weights_sha256 == whole.get(name, next(iter(whole.values()))):
            outcomes["same"] += 1
        else:
            assert any("damaged, or renamed" in warning for warning in passport.warnings), case
            assert not name.startswith(("zip", "evil.pth", "script", "mast")), case  # these have checksums
            outcomes["warned"] += 1
        assert not (folder / "ran").exists(), case
    return outcomes


def test_500_damaged_files(tmp_path: Path) -> None:
    outcomes = survive(tmp_path, 500, seed=0)
    assert sum(outcomes.values()) == 500
    assert outcomes["refused"] > 300


@pytest.mark.slow
def test_10000_damaged_files_in_bounded_memory(tmp_path: Path) -> None:
    survive(tmp_path / "warm", 50, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = survive(tmp_path / "run", 10_000, seed=2)
    print(outcomes)
    assert sum(outcomes.values()) == 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB
