"""Build the image from a clean clone and use it as a careful cluster would: `make container-test`.

Needs root and Buildah, and no daemon. The image runs as its own user, with a read-only root, /data read-only,
and only /out and /tmp writable; the suite is killed in the middle and started again. Prints what it found as
JSON; any other exit code than 0 means that a check failed.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "localhost/mast-check"
USER = 1000  # as the Dockerfile makes it
SUITE = """
name: pipeline
description: pretrain on a folder of images and transfer
pretrain:
  - {name: mine, recipe: demo, overrides: [epochs=1, batch_size=32, "expander=[32,32]", arch=resnet10-c8-half,
     method=mast, views.single_fraction=0.5]}
checkpoints:
  - {name: random, ref: "random:resnet10-c8-half@0", like: mine}
cells:
  - {tasks: [scenes-colour, scenes-shape], protocols: [knn, linear], seeds: [0, 1, 2]}
"""
# What a container engine does with --read-only --user --volume --tmpfs, by hand: mounts of a namespace of its own.
SANDBOX = """
set -e
mount --bind "$1" "$1"
mount -t tmpfs -o mode=1777 tmpfs "$1/tmp"
mount --bind "$2" "$1/data"
mount -o remount,bind,ro "$1/data"
mount --bind "$3" "$1/out"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -o remount,bind,ro "$1"
shift 3
exec env --ignore-environment "$@"
"""


class Failed(Exception):
    """A check that the image does not pass."""


def main() -> int:
    """Build, check, print; 1 if a check fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="python:3.11-slim", help="the image to build upon")
    parser.add_argument(
        "--torch", default="", help="requirements in place of the pinned torch and torchvision"
    )
    parser.add_argument(
        "--pip-conf",
        type=Path,
        help="pip's settings, for the build alone; its values are looked for in every file",
    )
    parser.add_argument(
        "--volume", default="", help="FOLDER:PLACE to mount while building, for a local index"
    )
    parser.add_argument("--limit-gb", type=float, help="the largest size allowed, in GB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = check(arguments, Path(scratch))
        except Failed as failure:
            print(f"container: {failure}", file=sys.stderr)
            return 1
    print(json.dumps(found, indent=1))
    return 0


def check(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything in turn.

    Raises:
        Failed: At the first check that fails.
    """
    clone = scratch / "clone"
    _run("git", "clone", "--quiet", str(ROOT), str(clone))
    revision = _run("git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=12").strip()
    options = ["--format", "docker", "--tag", NAME, "--build-arg", f"REVISION={revision}"]
    options += ["--build-arg", f"BASE={arguments.base}", "--build-arg", f"TORCH={arguments.torch}"]
    if arguments.pip_conf:
        options += ["--secret", f"id=pip,src={arguments.pip_conf}"]
    if arguments.volume:
        options += ["--volume", f"{arguments.volume}:ro"]
    start = time.monotonic()
    log = _buildah("build", *options, str(clone), errors=subprocess.STDOUT)
    found: dict[str, Any] = {"revision": revision, "build_seconds": round(time.monotonic() - start)}

    (image,) = json.loads(_buildah("images", "--json", NAME))
    described = json.loads(_buildah("inspect", "--type", "image", NAME))
    found["size"] = image["size"]
    size, unit = image["size"].split()
    gigabytes = float(size) * {"MB": 1e-3, "GB": 1.0}[unit]
    if arguments.limit_gb and gigabytes > arguments.limit_gb:
        raise Failed(f"the image has {image['size']}, more than {arguments.limit_gb} GB")
    config = described["Docker"]["config"]
    _expect(config.get("Volumes") or {}, {}, "volumes")
    _expect(config["User"], "mast", "user")
    _expect(config["Labels"]["org.opencontainers.image.revision"], revision, "label of the revision")
    _expect(config["Healthcheck"]["Test"], ["CMD", "mast", "doctor", "--quick"], "health check")

    container = _buildah("from", NAME).strip()
    try:
        root = Path(_buildah("mount", container).strip())
        _nothing_left(root, json.dumps(described), log, arguments)
        found |= _use(root, config, scratch, revision)
    finally:
        _buildah("rm", container)
    return found


def _use(root: Path, config: dict[str, Any], scratch: Path, revision: str) -> dict[str, Any]:
    """Doctor, a pipeline that is killed and started again, and what must not be possible."""
    data, out = scratch / "data", scratch / "out"
    for folder in (data, out):
        folder.mkdir()
        os.chown(folder, USER, USER)
    scratch.chmod(0o755)

    def mast(*words: str, entry: list[str] | None = None) -> list[str]:
        command = [*(entry or config["Entrypoint"]), *words]
        inside = f"cd {config['WorkingDir']} && exec {shlex.join(command)}"
        chroot = ["chroot", f"--userspec={USER}:{USER}", str(root), "/bin/sh", "-c", inside]
        places = [str(root), str(data), str(out)]
        return ["unshare", "--mount", "sh", "-c", SANDBOX, "sh", *places, *config["Env"], *chroot]

    start = time.monotonic()
    health = json.loads(_run(*mast("doctor", "--quick", "--json")))
    found: dict[str, Any] = {"health_seconds": round(time.monotonic() - start, 1)}
    doctor = json.loads(_run(*mast("doctor", "--json")))
    _expect([doctor["ok"], health["ok"]], [True, True], "mast doctor")
    found["versions"] = {name: doctor["versions"][name] for name in ("python", "torch", "torchvision")}
    for tool in ("pytest", "ruff", "mypy", "pip"):
        probe = mast("-c", f"import {tool}", entry=["python"])
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            raise Failed(f"{tool} is in the image")
    for place in ("/opt/mast/x", "/data/x", "/x"):
        if subprocess.run(mast(place, entry=["touch"]), capture_output=True, check=False).returncode == 0:
            raise Failed(f"{place} can be written")

    # The embedded data are written by the image itself, then mounted read-only like anybody's.
    write = "from eval import scenes; scenes.write('/out/scenes', size='test')"
    _run(*mast("-c", write, entry=["python"]))
    for path in (out / "scenes").iterdir():
        path.rename(data / path.name)
    (out / "scenes").rmdir()
    (data / "suite.yaml").write_text(SUITE, encoding="utf-8")
    command = mast(
        "run", "/data/suite.yaml", "--data-root", "/data", "--out", "/out/run", "--quiet", "--json"
    )
    records = out / "run" / "records" / "pipeline.jsonl"
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        while not (records.is_file() and records.read_bytes().count(b"\n") >= 2):
            if first.poll() is not None:
                assert first.stderr
                raise Failed(f"the pipeline ended before it was killed: {first.stderr.read()}")
            time.sleep(0.2)
        first.send_signal(signal.SIGKILL)
    before = records.read_bytes()
    summary = json.loads(_run(*command))
    found["pipeline_seconds"] = round(time.monotonic() - start, 1)
    lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    finished = {line["run_id"] for line in lines if line["status"] == "completed"}
    _expect([len(lines), len(finished), summary["failed"]], [24, 24, 0], "records, different ones, failures")
    _expect(summary["skipped"], before.count(b"\n"), "cells that the second start skips")
    _expect({line["environment"]["git"] for line in lines}, {revision}, "revision in the records")
    found["cells"] = {"before the kill": summary["skipped"], "after it": summary["done"]}
    return found


def _nothing_left(root: Path, described: str, log: str, arguments: argparse.Namespace) -> None:
    """No value of pip's settings in any file, in the image's description, or in what the build said."""
    if not arguments.pip_conf:
        return
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(arguments.pip_conf)
    words = {
        word
        for section in settings.sections()
        for key, value in settings[section].items()
        if not key.startswith("disable")
        for word in value.split()
    }
    if not words:
        raise Failed(f"{arguments.pip_conf} sets nothing that could be looked for")
    wanted = [word.encode() for word in sorted(words)]
    for text, place in ((described, "the image's description"), (log, "the build's log")):
        if any(word in text.encode() for word in wanted):
            raise Failed(f"a pip setting stands in {place}")
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_file() or path.is_symlink():
                continue
            content = path.read_bytes()
            if any(word in content for word in wanted):
                raise Failed(f"a pip setting stands in {path.relative_to(root)}")


def _expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Failed(f"{what}: {found!r} instead of {expected!r}")


def _buildah(*arguments: str, errors: int | None = None) -> str:
    return _run("buildah", *arguments, errors=errors)


def _run(*command: str, errors: int | None = None) -> str:
    environment = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs", **os.environ}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"exit code {done.returncode} of {shlex.join(command)}: {done.stdout[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
