"""What is installed, what works, and what to do about what does not: the verb ``mast doctor``.

Every check is really executed and guarded, so that one failure hides no other. Detectron2's run in a process of
their own (`eval.detection.selfcheck`), which may crash without taking the report along.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..detection import selfcheck
from ..errors import UserError
from . import install

DISTRIBUTION = "mast-transfer"
VERSIONS = (
    *(DISTRIBUTION, "torch", "torchvision", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas"),
    *("pillow", "matplotlib", "pydantic", "safetensors", "pycocotools", "fvcore", "iopath"),
    *("hydra-core", "omegaconf", "setuptools", "timm"),
)
TIMEOUT = 300.0  # seconds for Detectron2's checks together; they take about 10 on one core
LOW_DISK = 2 * 2**30  # bytes
LOW_SHARED_MEMORY = 2**30  # bytes; containers often have 64 MiB, too little for data loader workers

_SETUP = 'run `make setup`, or in the project\'s folder: pip install -e ".[detection]"'
_REMEDIES = (
    # (words in the failure, what to do)
    ("pkg_resources", 'pip install "setuptools<81"'),
    ("No module named 'detectron2'", "python -m eval.doctor.install"),
    ("No module named", _SETUP),
    (
        "torchvision::",
        "install the torchvision of this torch: pip install --force-reinstall torch torchvision",
    ),
    ("CUDA", "check the driver with `nvidia-smi`; CUDA_VISIBLE_DEVICES= runs on the CPU meanwhile"),
    (
        "No usable temporary directory",
        "point TMPDIR at a writable folder, or mount one (docker: --tmpfs /tmp)",
    ),
    ("No space left", "free some disk space, or point TMPDIR at a larger disk"),
    ("not 100", "python -m eval.doctor.install --check"),
)


def report(quick: bool = False) -> dict[str, Any]:
    """Look at the environment and try what the harness needs.

    Args:
        quick: Leave out what takes longer than some seconds: running Detectron2.

    Returns:
        ``ok`` (nothing needed is broken), ``quick``, ``versions`` (None for what is not installed), ``system``,
        ``devices``, ``threads``, ``memory`` and ``disk`` (bytes), ``detectron2`` (folder, version, origin, files;
        None if there is none) and ``checks``, a list of ``{name, status, detail, remedy, seconds}`` with status
        ``ok``, ``warning``, ``failed`` or ``skipped``.
    """
    checks = [
        _check("packages", _packages),
        _check("torch", _torch),
        _check("torchvision", _torchvision),
        _check("temporary folder", _temporary_folder),
        _check("shared memory", _shared_memory),
        _check("Detectron2 files", _detectron2_files),
    ]
    if checks[-1]["status"] == "failed" and install.locate() is None:
        checks += [_result(f"Detectron2 {name}", "skipped", "no Detectron2") for name in selfcheck.CHECKS]
    elif quick or not _temporary():
        why = "quick" if quick else "no temporary folder"
        checks += [_result(f"Detectron2 {name}", "skipped", why) for name in selfcheck.CHECKS]
    else:
        checks += _detectron2_checks()
    return {
        "ok": all(check["status"] != "failed" for check in checks),
        "quick": quick,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
        "system": {
            "platform": platform.platform(),
            "processor": processor(),
            "python": sys.executable,
            "environment": sys.prefix,
        },
        "devices": _devices(),
        "threads": _threads(),
        "memory": _memory(),
        "disk": _disk(),
        "detectron2": _detectron2(),
        "checks": checks,
    }


def render(report: dict[str, Any]) -> str:
    """The report as text for a terminal, problems and their remedies last."""
    lines = ["Versions"]
    lines += [f"  {name:<14} {version or 'not installed'}" for name, version in report["versions"].items()]
    lines += ["System"]
    system = report["system"]
    lines += [f"  {name:<14} {system[name]}" for name in ("platform", "python", "environment")]
    for device in report["devices"]:
        memory = f", {_gib(device['memory'])}" if "memory" in device else ""
        lines.append(f"  {device['device']:<14} {device['name']}{memory}")
    threads = report["threads"]
    lines.append(
        f"  {'cores':<14} {threads['usable']} usable of {threads['cores']}, torch uses {threads['torch']}"
    )
    memory = report["memory"]
    lines.append(f"  {'memory':<14} {_gib(memory['available'])} free of {_gib(memory['total'])}")
    for name, disk in report["disk"].items():
        lines.append(f"  {'disk':<14} {_gib(disk['free'])} free at {disk['path']} ({name})")
    found = report["detectron2"]
    lines += ["Detectron2"]
    for name, value in (found or {"folder": "not installed"}).items():
        lines.append(f"  {name:<14} {value}")
    lines += ["Checks"]
    marks = {"ok": "ok", "warning": "WARN", "failed": "FAIL", "skipped": "-"}
    for check in report["checks"]:
        seconds = f" ({check['seconds']:.1f} s)" if check["seconds"] >= 0.1 else ""
        lines.append(f"  {marks[check['status']]:<5}{check['name']}: {check['detail']}{seconds}")
        if check["remedy"]:
            lines.append(f"       to do: {check['remedy']}")
    failed = [check["name"] for check in report["checks"] if check["status"] == "failed"]
    warned = [check["name"] for check in report["checks"] if check["status"] == "warning"]
    lines.append(
        f"{len(failed)} failed: {', '.join(failed)}" if failed else "Everything that was tried works."
    )
    if warned:
        lines.append(f"{len(warned)} to look at: {', '.join(warned)}")
    return "\n".join(lines)


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"


def _result(name: str, status: str, detail: str, remedy: str = "", seconds: float = 0.0) -> dict[str, Any]:
    return {"name": name, "status": status, "detail": detail, "remedy": remedy, "seconds": round(seconds, 2)}


def _remedy(failure: str) -> str:
    """What to do about a failure, by the words in it."""
    for words, remedy in _REMEDIES:
        if words in failure:
            return remedy
    return "run `make setup` again in a fresh .venv (`make distclean setup`); if it stays, report it with this output"


class _Look(Exception):
    """A check's outcome that works but deserves a look: (detail, remedy)."""


def _check(name: str, function: Callable[[], str]) -> dict[str, Any]:
    """Run one check; whatever it raises becomes its result."""
    start = time.monotonic()
    try:
        status, detail, remedy = "ok", function(), ""
    except _Look as look:
        status, (detail, remedy) = "warning", look.args
    except UserError as error:
        status, detail, remedy = "failed", error.message, error.remedy
    except Exception as error:  # a broken library may raise anything
        status, detail = "failed", f"{type(error).__name__}: {error}"
        remedy = _remedy(detail)
    return _result(name, status, detail, remedy, time.monotonic() - start)


def _packages() -> str:
    """Compare what the distribution declares with what is installed."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        raise _Look(f"{DISTRIBUTION} itself is not installed, versions are unchecked", _SETUP) from None
    wrong = []
    needed = 0
    for text in declared:
        requirement = Requirement(text)
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": e}) for e in ("", "detection")
        ):
            continue
        needed += 1
        installed = version(requirement.name)
        if installed is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed}, {requirement.specifier} needed")
    if wrong:
        raise UserError("; ".join(wrong), remedy=_SETUP)
    return f"{needed} needed, all there"


def _torch() -> str:
    """A matrix product and its gradient on every device."""
    import torch

    done = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in ("cpu", *(f"cuda:{index}" for index in range(count))):
        x = torch.arange(6.0, device=name).reshape(2, 3).requires_grad_()
        (gradient,) = torch.autograd.grad((x @ x.T).sum(), x)
        if gradient.sum().item() != 60.0:  # each of the two rows: twice the column sums 3, 5, 7
            raise RuntimeError(f"a gradient is wrong on {name}: {gradient.tolist()}")
        done.append(name)
    if not count and shutil.which("nvidia-smi") and torch.version.cuda:
        reason = str(caught[0].message).splitlines()[0] if caught else "torch sees none of them"
        raise _Look(f"works on cpu only, although there is an NVIDIA driver: {reason}", _remedy("CUDA"))
    return f"works on {', '.join(done)}"


def _torchvision() -> str:
    """Non-maximum suppression, a compiled operator that a torchvision of another torch does not have."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    if kept != [0, 2]:
        raise RuntimeError(f"torchvision::nms keeps {kept} instead of [0, 2]")
    return "its compiled operators work"


def _temporary() -> str | None:
    """The folder for temporary files; None where none can be written to."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


def _temporary_folder() -> str:
    folder = tempfile.gettempdir()
    with tempfile.TemporaryFile() as file:
        file.write(b"mast")
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK:
        raise _Look(f"{folder} has {_gib(free)} free", _remedy("No space left"))
    return f"{folder} is writable, {_gib(free)} free"


def _shared_memory() -> str:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return "not used on this system"
    total = shutil.disk_usage(folder).total
    if total < LOW_SHARED_MEMORY:
        raise _Look(
            f"{folder} has {total // 2**20} MiB; data loader workers may die with a bus error",
            "start the container with --shm-size=2g or --ipc=host, or use no workers",
        )
    return f"{folder} has {_gib(total)}"


def _detectron2_files() -> str:
    found = install.locate()
    if found is None:
        raise UserError(
            "no Detectron2: detection and segmentation will fail, all else works",
            remedy="python -m eval.doctor.install",
        )
    install.check()
    return install.verify(found.package).summary()


def _detectron2() -> dict[str, str] | None:
    found = install.locate()
    if found is None:
        return None
    return {
        "folder": str(found.package),
        "version": found.version or "not recorded",
        "origin": found.origin,
        "files": install.verify(found.package).summary(),
    }


def _detectron2_checks() -> list[dict[str, Any]]:
    """Run Detectron2's checks; after a crash go on with those that remain, after a failed import with none."""
    results: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + TIMEOUT
    while remaining := [name for name in selfcheck.CHECKS if name not in results]:
        answers, reason = _selfcheck(remaining, max(1.0, end - time.monotonic()))
        for name, answer in answers.items():
            failure = answer.get("error", "" if "detail" in answer else reason)
            status, remedy = ("failed", _remedy(failure)) if failure else ("ok", "")
            detail = failure or answer["detail"]
            results[name] = _result(f"Detectron2 {name}", status, detail, remedy, answer.get("seconds", 0.0))
        if not answers:
            results[remaining[0]] = _result(f"Detectron2 {remaining[0]}", "failed", reason, _remedy(reason))
        if results["import"]["status"] == "failed":
            others = [name for name in selfcheck.CHECKS if name != "import"]
            results |= {
                name: _result(f"Detectron2 {name}", "skipped", "it does not import") for name in others
            }
    return [results[name] for name in selfcheck.CHECKS]


def _selfcheck(names: list[str], timeout: float) -> tuple[dict[str, dict[str, Any]], str]:
    """Start `eval.detection.selfcheck`.

    Returns:
        Its last line of each check that began, and why the process ended, should one of them have no outcome.
    """
    environment = dict(os.environ)
    paths = (str(Path(__file__).resolve().parents[2]), environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, "-P", "-W", "ignore", "-m", selfcheck.__name__, *names]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as messages:
        try:
            status = subprocess.run(
                command, stdout=out, stderr=messages, env=environment, timeout=timeout, check=False
            ).returncode
            reason = f"the process ended with status {status}"
        except subprocess.TimeoutExpired:
            reason = f"not done after {timeout:.0f} s"
        out.seek(0)
        messages.seek(0)
        answers = {answer["name"]: answer for answer in map(json.loads, out)}
        last = messages.read().strip().splitlines()[-1:]
    return answers, ": ".join([reason, *last])


def version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed, as this one where its folder is on the path."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _devices() -> list[dict[str, Any]]:
    """The devices that torch can use; none if torch does not import, which its own check tells."""
    try:
        import torch
    except Exception:
        return []
    devices: list[dict[str, Any]] = [{"device": "cpu", "name": processor()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": f"{properties.name}, {capability}, CUDA {torch.version.cuda}",
                "memory": properties.total_memory,
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU (not used by Detectron2's operators)"})
    return devices


def _threads() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch

        used: int | None = torch.get_num_threads()
    except Exception:
        used = None
    return {
        "cores": os.cpu_count(),
        "usable": usable,
        "torch": used,
        "OMP_NUM_THREADS": os.getenv("OMP_NUM_THREADS"),
    }


def _memory() -> dict[str, int | None]:
    """Bytes in all and free now; a container's limit counts where there is one."""
    meminfo = Path("/proc/meminfo")
    total: int | None = None
    available: int | None = None
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        total, available = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text(encoding="utf-8").strip()).isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
        total = min(int(text), total or int(text))
        available = min(int(text) - used, int(text) if available is None else available)
    return {"total": total, "available": available}


def _disk() -> dict[str, dict[str, Any]]:
    folders = {"working folder": os.getcwd(), "temporary folder": _temporary()}
    usage = {name: (folder, shutil.disk_usage(folder)) for name, folder in folders.items() if folder}
    return {
        name: {"path": folder, "free": disk.free, "total": disk.total}
        for name, (folder, disk) in usage.items()
    }
