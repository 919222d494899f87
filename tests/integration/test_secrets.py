"""No password, token or package index of the user's reaches a file that a run writes, or what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORD = "geh31m"  # in every secret
SECRETS = {
    "PIP_INDEX_URL": f"https://me:{WORD}@index-{WORD}.example/simple",
    "PIP_EXTRA_INDEX_URL": f"https://other-{WORD}.example/simple",
    "UV_INDEX_URL": f"https://uv-{WORD}.example/simple",
    "HTTPS_PROXY": f"http://me:{WORD}@127.0.0.1:9",
    "HF_TOKEN": f"hf_{WORD}",
    "WANDB_API_KEY": WORD,
    "MLFLOW_TRACKING_PASSWORD": WORD,
    "AWS_ACCESS_KEY_ID": f"AKIA{WORD}",
    "AWS_SECRET_ACCESS_KEY": WORD,
    "AWS_SESSION_TOKEN": WORD,
}
SUITE = """
name: pipeline
description: for tests
pretrain:
  - {name: arm, recipe: demo, overrides: [epochs=1, batch_size=16, "expander=[16,16]", arch=resnet10-c8-half,
     "data.folder='file://PLACE/data/shades/train'", views.size=16, data.store_size=16]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: arm}
cells:
  - {tasks: [shades.yaml, broken.yaml], protocols: [knn, linear], seeds: [0]}
"""


@pytest.fixture(scope="module")
def place(shades: Callable[[int, int, Sequence[int]], Path]) -> Path:
    """Two data sets, one with a broken image, their tasks and a suite."""
    root = shades(20, 8, (40, 200))
    (root / "suite.yaml").write_text(SUITE.replace("PLACE", str(root)))
    return root


def call(place: Path, *words: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run ``mast`` with every secret at hand; what it printed."""
    environment = {**os.environ, **SECRETS, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "eval.cli", *words]
    done = subprocess.run(
        command, env=environment, cwd=place, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in codes, done.stderr
    return done.stdout + done.stderr


def test_a_pipeline_keeps_no_secret(place: Path) -> None:
    out = place / "out"
    run = ["run", "suite.yaml", "--data-root", "data", "--out", "out"]
    said = [call(place, *run, codes=(1,))]  # the broken image fails and is recorded
    assert '"failed"' in (out / "records" / "pipeline.jsonl").read_text()
    said += [
        call(place, "pretrain", "demo", "epochs=1", "batch_size=16", "expander=[16,16]", "arch=resnet10-c8-half",
             f"data.folder=file://{place}/data/shades/train", "views.size=16", "data.store_size=16",
             "--out", "out/alone", "--log", "tensorboard"),
        call(place, "table", "out", "--format", "html", "--out", "out/table.html"),
        call(place, "report", "out", "--out", "out/report.html", "--data-root", "data"),
        call(place, "export", "csv", "out", "--out", "out/all.csv"),
        call(place, "export", "hub", "out", "--out", "out/hub"),
        call(place, "inspect", "out/alone/backbone.safetensors", "--json"),
        call(place, "data", "shard", f"folders:file://{place}/data/shades/train", "--out", "out/shards"),
        call(place, "slurm", "suite.yaml", "--nodes", "1", "--data-root", "data", "--out", "out/slurm"),
        call(place, "doctor", "--quick", "--json", codes=(0, 1)),
    ]  # fmt: skip
    written = [path for path in place.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in written}
    assert {".jsonl", ".json", ".safetensors", ".html", ".csv", ".pt", ".md"} <= kinds
    assert any(path.name.startswith("events.out.tfevents") for path in written)
    for path in written:
        assert WORD.encode() not in path.read_bytes(), path
    assert WORD not in "".join(said)


HOST = f"https://me:{WORD}@host.example/x"


@pytest.mark.parametrize(
    "line",
    [
        f"eval --checkpoint {HOST}.pth --task shades.yaml --data-root data",
        f"eval --checkpoint s3://b/x.pth?X-Amz-Signature={WORD} --task shades.yaml --data-root data",
        f"eval --checkpoint random:resnet10-c8-half@0 --task shades.yaml --data-root {HOST}",
        f"pretrain demo data.folder=s3://me:{WORD}@bucket/images",
        f"pretrain demo data.folder=https://host.example/images?sig={WORD}",
        f"pretrain demo --data-root {HOST}",
        f"data shard images:{HOST}",
        f"data shard images:s3://{WORD}@bucket/images",
    ],
)
def test_an_address_with_a_secret_ends_in_a_line_without_it(place: Path, tmp_path: Path, line: str) -> None:
    said = call(place, *line.split(), "--out", str(tmp_path / "out"), codes=(1, 2))
    assert said.count("mast: error:") == 1
    assert "Traceback" not in said
    assert WORD not in said
    assert not any(WORD.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
