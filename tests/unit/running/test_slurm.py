"""Job scripts, run by stand-ins of Slurm's commands that do what the real ones do to a script."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.cli import entry as cli
from eval.errors import UserError
from eval.running.slurm import Job, script

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {
    "sbatch": 'echo "$@" >> "$CALLS"; echo "Submitted batch job 7"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; if [ "$1" = show ]; then echo localhost; fi',
    # Leaves its own options out and starts the command as its step; a SIGTERM to srun itself kills the step.
    "srun": """while [[ "$1" == -* ]]; do if [ "$1" = -w ] || [ "$1" = -x ]; then shift; fi; shift; done
"$@" & step=$!
echo $step > "$CALLS.step"
trap 'kill -KILL $step; exit 143' TERM
wait $step""",
    "scancel": 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$CALLS.step")"',
}
RECIPE = """
name: small
description: for tests
source: none
method: vicreg
arch: resnet10-c8-half
data: {folder: images, store_size: 20}
views: {size: 16, augmentations: {crop: {scale: [0.2, 1.0]}, flip: {}}}
expander: [16, 16]
optimizer: {name: sgd, base_lr: 0.05, weight_decay: 1.0e-4, warmup_epochs: 0}
batch_size: 16
epochs: 400
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the stand-ins write their calls to."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    return tmp_path / "calls"


def test_a_suite_and_a_recipe_are_told_apart(tmp_path: Path) -> None:
    common: dict[str, Any] = {"data_root": tmp_path, "out": tmp_path / "out"}
    suite = script(Job("ericsson2021", nodes=4, gpus=8, partition="long", **common))
    assert "#SBATCH --nodes=4\n" in suite
    assert "#SBATCH --gpus-per-node=8\n" in suite
    assert "#SBATCH --partition=long\n" in suite
    assert "run ericsson2021 --engine ray" in suite
    assert "--array" not in suite
    recipe = script(Job("cifar-r18", overrides=("epochs=1",), seeds=(0, 3), **common))
    assert "#SBATCH --array=0,3\n" in recipe
    assert "pretrain cifar-r18 epochs=1" in recipe
    assert '"seed=$SLURM_ARRAY_TASK_ID"' in recipe
    with pytest.raises(UserError, match="is a suite, which has its own seeds"):
        script(Job("ericsson2021", seeds=(0,), **common))
    with pytest.raises(UserError, match="did you mean cifar-r18"):
        script(Job("cifar-r8", **common))


@pytest.mark.parametrize("work", ["ericsson2021", "cifar-r18"])
def test_the_shell_reads_the_script(tmp_path: Path, work: str) -> None:
    text = script(
        Job(work, data_root=tmp_path / "with space", out=tmp_path / "out", setup="module load cuda")
    )
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_it_is_submitted(slurm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["slurm", "cifar-r18", "epochs=2", "--data-root", str(tmp_path), "--out", str(out), "--submit"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "Submitted batch job 7\n"
    assert slurm.read_text() == f"{out / 'slurm' / 'job.sh'}\n"
    assert (out / "slurm" / "job.sh").read_text().startswith("#!/bin/bash\n#SBATCH")


def test_no_sbatch_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["slurm", "cifar-r18", "--data-root", str(tmp_path), "--out", str(tmp_path / "out"), "--submit"]
    assert cli.main(words) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


def test_the_warning_saves_requeues_and_ends_with_0(slurm: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(32):
        place = tmp_path / "data" / "images" / "ab"[index % 2] / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place)
    recipe, out = tmp_path / "small.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    job = tmp_path / "job.sh"
    job.write_text(script(Job(str(recipe), data_root=tmp_path / "data", out=out)))
    running = subprocess.Popen(["bash", str(job)])
    end = time.monotonic() + 120
    while not (out / "log.jsonl").is_file() and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    running.send_signal(signal.SIGUSR1)  # as Slurm with --signal=B:USR1@120
    assert running.wait(60) == 0
    assert slurm.read_text().splitlines()[-2:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]
    epochs = (out / "log.jsonl").read_text().count("\n")
    assert (out / "state.pt").is_file()
    assert 1 <= epochs < 400
    assert subprocess.run(["bash", str(job)], check=False, timeout=200).returncode == 0
    assert (out / "log.jsonl").read_text().count("\n") == 400
    assert (out / "backbone.safetensors").is_file()
