"""Slurm job scripts: a suite on a Ray cluster within the allocation, or a recipe by torchrun.

Both go on from what lies in the run's folder. Slurm warns two minutes before the limit of time (or when a job is
preempted); the script then asks the work to save its state, puts the job back into the queue and ends with 0.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mast.config import load_recipe, recipe_names
from mast.files import atomic_write

from .. import suites
from ..errors import UserError, unknown

WARNING = 120  # seconds before the limit


@dataclass(frozen=True)
class Job:
    """What a script asks for; fields as the options of ``mast slurm``."""

    work: str
    data_root: Path
    out: Path
    overrides: tuple[str, ...] = ()
    nodes: int = 1
    gpus: int = 0
    cpus: int = 8
    time: str = "24:00:00"
    partition: str = ""
    seeds: tuple[int, ...] = ()
    setup: str = ""


def script(job: Job) -> str:
    """The text of a job script.

    Raises:
        UserError: If the work is neither a suite nor a recipe, or is given what it cannot take.
    """
    pretrains = _is_recipe(job.work)
    if not pretrains and (job.overrides or job.seeds):
        raise UserError(
            f"{job.work} is a suite, which has its own seeds and changes",
            remedy="--seeds and key=value are for recipes; write them into the suite",
            code=2,
        )
    name = Path(job.work).stem
    log = job.out.absolute() / "slurm" / ("%x-%A_%a.log" if job.seeds else "%x-%j.log")
    asks = {
        "job-name": f"mast-{name}",
        "nodes": str(job.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(job.cpus),
        "gpus-per-node": str(job.gpus) if job.gpus else "",
        "time": job.time,
        "partition": job.partition,
        "array": ",".join(map(str, job.seeds)),
        "signal": f"B:USR1@{WARNING}",
        "output": str(log),
    }
    lines = ["#!/bin/bash", "#SBATCH --requeue", "#SBATCH --open-mode=append"]
    lines += [f"#SBATCH --{key}={value}" for key, value in asks.items() if value]
    lines.append(f"# The folder of the log has to be there: mkdir -p {shlex.quote(str(log.parent))}")
    lines += ["set -euo pipefail", job.setup] if job.setup else ["set -euo pipefail"]
    lines += ['head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)', ""]
    lines += _torchrun(job) if pretrains else _ray(job)
    return "\n".join([*lines, _END]) + "\n"


_END = """
# The work is in the background, since bash runs a trap only while it waits.
stop() {
    ask || true
    wait "$work" || true
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    exit 0
}
trap stop USR1
wait "$work"
"""


def _torchrun(job: Job) -> list[str]:
    """Every node starts torchrun; a lost process is begun again from the last state."""
    out = shlex.quote(str(job.out.absolute()))
    words = [job.work if job.work in recipe_names() else str(Path(job.work).absolute()), *job.overrides]
    command = [
        sys.executable,
        "-m",
        "eval.cli",
        "pretrain",
        *words,
        "--data-root",
        str(job.data_root.absolute()),
    ]
    seed = ' "seed=$SLURM_ARRAY_TASK_ID"' if job.seeds else ""
    place = f'{out}/seed-"$SLURM_ARRAY_TASK_ID"' if job.seeds else out
    start = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={job.nodes}"]
    start += [f"--nproc-per-node={job.gpus or 1}", "--max-restarts=3", "--rdzv-backend=c10d"]
    meet = '--rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:29500"'
    return [
        "# A SIGTERM to srun would kill what it started; torchrun, asked itself, hands it on to its processes.",
        'ask() { scancel --signal=TERM "$SLURM_JOB_ID"; }',
        f"srun --kill-on-bad-exit=1 {shlex.join(start)} {meet} \\",
        f"    {shlex.join(['-m', *command[2:]])}{seed} --out {place} --quiet &",
        "work=$!",
    ]


def _ray(job: Job) -> list[str]:
    """One node starts the cluster's head, the others join; the suite runs on the first."""
    ray = shlex.join([str(Path(sys.executable).with_name("ray"))])
    word = job.work if job.work in suites.names() else str(Path(job.work).absolute())
    command = [sys.executable, "-m", "eval.cli", "run", word, "--engine", "ray"]
    command += ["--data-root", str(job.data_root.absolute()), "--out", str(job.out.absolute()), "--quiet"]
    sizes = f"--num-cpus={job.cpus} --num-gpus={job.gpus}"
    return [
        'ask() { kill -TERM "$work"; }',
        f'srun --nodes=1 --ntasks=1 --overlap -w "$head" {ray} start --head --port=6379 {sizes} --block &',
        "(( SLURM_JOB_NUM_NODES > 1 )) && srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) "
        '--ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap -x "$head" \\',
        f'    bash -c "until {ray} start --address=$head:6379 {sizes} --block; do sleep 5; done" &',
        f'srun --nodes=1 --ntasks=1 --overlap -w "$head" bash -c "until {ray} status; do sleep 5; done" >/dev/null',
        f'{shlex.join(command)} --address "$head:6379" &',
        "work=$!",
    ]


def _is_recipe(work: str) -> bool:
    """Whether a name or a file is a recipe; if not, it is a suite.

    Raises:
        UserError: If it is neither.
    """
    if work in recipe_names():
        return True
    if work in suites.names():
        return False
    if not Path(work).is_file():
        raise unknown("suite or recipe", work, [*suites.names(), *recipe_names()])
    try:
        load_recipe(work)
    except UserError as not_a_recipe:
        try:
            suites.load(work)
        except UserError as error:
            raise UserError(
                f"{work} is neither a recipe ({not_a_recipe}) nor a suite ({error})", code=2
            ) from error
        return False
    return True


def submit(text: str, out: Path) -> str:
    """Keep a script beside the run and hand it to ``sbatch``.

    Returns:
        What sbatch answered.

    Raises:
        UserError: If there is no sbatch, or it refuses.
    """
    if not shutil.which("sbatch"):
        raise UserError(
            "there is no sbatch here", remedy="run it on a login node, or without --submit", code=2
        )
    path = out / "slurm" / "job.sh"
    with atomic_write(path) as file:
        file.write(text)
    done = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"sbatch refused {path}: {' '.join(done.stderr.split())}")
    return done.stdout
