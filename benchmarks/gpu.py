"""Every claim that needs a GPU, in one command: what was measured as JSON and Markdown, within about ten minutes.

    python benchmarks/gpu.py --out results-gpu                    # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --tiny --out try        # that it works, anywhere; says nothing of speed

It needs torch 2.11 or newer, this project's folder (installed or not), and no network and no data: images are made
up. What an ordinary CUDA image lacks stands in gpu-wheels.txt (``make gpu-wheels`` fetches it). Every line runs in a
process of its own with a limit of time, so that one that fails hides no other; the exit code is 1 if one failed to
run or missed its goal. ``--only loop-resnet50 nccl`` runs some lines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]


@dataclass(frozen=True)
class Line:
    """Something to measure.

    Attributes:
        measure: Gives numbers by name; told whether tiny sizes will do.
        goals: For some of the numbers the least (">=") or the largest ("<=") that is wanted.
        seconds: The longest that it may take.
    """

    measure: Callable[[bool], dict[str, Any]]
    goals: tuple[tuple[str, str, float], ...] = ()
    seconds: int = 180


detector_seconds = 120.0  # no further iterations of a detector after this long; --detectors sets it


class Skipped(Exception):
    """This machine cannot measure the line; the message says why."""


# -- the lines -------------------------------------------------------------------------------------------------


def environment(tiny: bool) -> dict[str, Any]:
    """What everything below was measured with."""
    import torch

    from mast.rundir import git_stamp

    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__, "git": git_stamp()}
    found["cores"] = os.cpu_count()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found


def _recipes(tiny: bool, arch: str, precision: str) -> dict[str, Any]:
    import train

    options = argparse.Namespace(
        recipe="demo" if tiny else "imagenet-r50-mast5-100ep",
        arch="resnet10-c8-half" if tiny else arch,
        batch=8 if tiny else 256,
        width=16 if tiny else None,
        size=16 if tiny else None,
        store=None if tiny else 256,
        precision=precision,
    )
    return train.recipes(options)


def _images(count: int, side: int, folder: Path) -> Any:
    import torch
    import train

    from mast.data import decode_all
    from mast.sources import list_images

    train.made_up_images(folder / "images", count, side)
    return torch.from_numpy(decode_all(list_images(folder / "images"), side, progress=False).images)


def _sides(recipe: Any) -> int:
    return int(recipe.data.store_size or recipe.views.size)


def precision(tiny: bool) -> dict[str, Any]:
    """The mean loss of every epoch in bf16 against fp32, same seed and images."""
    from mast.train import pretrain

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("fp32", "bf16"):
            recipe = _recipes(tiny, "resnet18", name)["mast5"]
            changes = {"epochs": 2 if tiny else 5, "batch_size": 8 if tiny else 128}
            if not found:
                _images(4 * changes["batch_size"], _sides(recipe), folder)
            pretrain(recipe.model_copy(update=changes), folder / name, data_root=folder, progress=False)
            lines = (folder / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
            found[name] = [json.loads(line)["loss"] for line in lines]
    pairs = list(zip(found["fp32"], found["bf16"], strict=True))
    return {**found, "largest_difference": max(abs(a - b) / abs(a) for a, b in pairs)}


def loop(arch: str, *, files: bool = False) -> Callable[[bool], dict[str, Any]]:
    """The training loop's images a second over those of bare forward and backward; memory and utilisation.

    Args:
        arch: The backbone.
        files: Decode pictures of ImageNet's usual size in every epoch, with a worker a core but one; in place of
            views that are cut from decoded images in memory.
    """

    def measure(tiny: bool) -> dict[str, Any]:
        import torch
        import train

        recipe = _recipes(tiny, arch, "fp32" if tiny else "bf16")["mast5"]
        per_epoch = 4 if tiny else 16
        count = per_epoch * recipe.batch_size
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            images = _images(count, _sides(recipe), folder)
            bare = train.steps(recipe, images, bare=True)
            if files:
                train.made_up_images(folder / "images", count, (64, 48) if tiny else (500, 375))
                data = recipe.data.model_copy(update={"store_size": None})
                recipe = recipe.model_copy(update={"data": data})
            whole = train.Loop(
                recipe, folder, folder / "runs", workers=0 if tiny else (os.cpu_count() or 2) - 1
            )
            contestants = {"bare": lambda: sum(next(bare) for _ in range(per_epoch)), "loop": whole.epoch}
            with Utilisation(lambda: whole.timed) as used:
                found = train.turns(contestants, 1)
        seconds = {name: statistics.median(taken) for name, taken in found.items()}
        result = {
            "images_per_second": count / seconds["loop"],
            "over_bare": seconds["bare"] / seconds["loop"],
            "utilisation_percent": used.median(),
        }
        if torch.cuda.is_available():
            result["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return result

    return measure


def steps(tiny: bool) -> dict[str, Any]:
    """MAST's step over VICReg's."""
    import train

    known = _recipes(tiny, "resnet50", "fp32" if tiny else "bf16")
    arms = {name: known[name] for name in ("vicreg", "mast5", "vicreg15", "mast15")}
    with tempfile.TemporaryDirectory() as temporary:
        base = arms["vicreg"]
        images = _images(2 * base.batch_size, _sides(base), Path(temporary))
        contestants = {
            name: train.steps(recipe, images, bare=False).__next__ for name, recipe in arms.items()
        }
        found = train.turns(contestants, 3 if tiny else 15)
    seconds = {name: statistics.median(taken) for name, taken in found.items()}
    return {
        "seconds": seconds,
        "mast5": seconds["mast5"] / seconds["vicreg"],
        "mast15": seconds["mast15"] / seconds["vicreg15"],
    }


def compiled(tiny: bool) -> dict[str, Any]:
    """Steps a second with a compiled backbone over those without; what compiling takes."""
    import torch
    import train

    recipe = _recipes(tiny, "resnet50", "fp32" if tiny else "bf16")["mast5"]
    with tempfile.TemporaryDirectory() as temporary:
        images = _images(2 * recipe.batch_size, _sides(recipe), Path(temporary))
        eager, fast = (
            train.steps(recipe.model_copy(update={"compile": on}), images, bare=False) for on in (False, True)
        )
        began = time.perf_counter()
        next(fast)
        first = time.perf_counter() - began
        found = train.turns({"eager": eager.__next__, "compiled": fast.__next__}, 2 if tiny else 15)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {
        "first_step_seconds": first,
        "over_eager": statistics.median(found["eager"]) / statistics.median(found["compiled"]),
    }


def augmentations(tiny: bool) -> dict[str, Any]:
    """Views a second on the device, beside kornia's (where it is installed) and torchvision's image by image."""
    import augment
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch, side, size, kernel = (8, 32, 16, 5) if tiny else (256, 256, 224, 23)
    contestants = augment.contestants(batch, side, size, kernel, device=device)
    rates = {}
    for name, contestant in contestants.items():
        seconds = []
        for epoch in range(3 if tiny else 6):
            began = time.perf_counter()
            contestant(epoch)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        rates[name] = batch / statistics.median(seconds[1:])
    return {
        "views_per_second": rates,
        **{f"over_{k}": rates["ours"] / v for k, v in rates.items() if k != "ours"},
    }


def two_processes(tiny: bool) -> dict[str, Any]:
    """Two processes against one on the same run: the loss of the last epoch, and images a second."""
    import torch

    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and gpus < 2:
        raise Skipped(f"{gpus} GPU, two are needed")
    recipe = _recipes(tiny, "resnet18", "fp32")["mast5"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _images(4 * recipe.batch_size, _sides(recipe), folder)
        text = json.dumps(recipe.model_copy(update={"epochs": 2}).model_dump(mode="json", exclude_none=True))
        (folder / "recipe.json").write_text(text, encoding="utf-8")
        code = (
            "import json, sys; from pathlib import Path;"
            "from mast.config import Recipe; from mast.train import pretrain;"
            "folder, out = Path(sys.argv[1]), Path(sys.argv[2]);"
            "recipe = Recipe.model_validate(json.loads((folder / 'recipe.json').read_text()));"
            "pretrain(recipe, out, data_root=folder, progress=False, workers=0)"
        )
        (folder / "one.py").write_text(code, encoding="utf-8")
        found: dict[str, Any] = {}
        for count in (1, 2):
            out = folder / f"{count}"
            run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            began = time.perf_counter()
            subprocess.run([*run, str(folder / "one.py"), str(folder), str(out)], check=True, env=_env())
            found[f"seconds_{count}"] = time.perf_counter() - began
            lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
            found[f"loss_{count}"] = json.loads(lines[-1])["loss"]
    found["loss_difference"] = abs(found["loss_2"] / found["loss_1"] - 1)
    return found


def extraction(tiny: bool) -> dict[str, Any]:
    """Extraction's seconds over the slower of decoding and forward."""
    import extract

    sizes = (64, "resnet10-c8", 32, 1) if tiny else (4096, "resnet50", 224, (os.cpu_count() or 2))
    found = extract.measure(*sizes)
    return {**found, "over_slower": found["extract"] / max(found["decode"], found["forward"])}


def linear_grid(tiny: bool) -> dict[str, Any]:
    """The certified grid of 45 penalties on the device against scikit-learn's cold fits of some of them."""
    import numpy as np
    import torch
    from made_up import features
    from sklearn.linear_model import LogisticRegression

    from eval.protocols.solver import gap, solve

    count, dim, classes = (300, 16, 4) if tiny else (20_000, 2048, 100)
    x, y = features(count, dim, classes)
    target, grid = np.eye(classes)[y], np.logspace(-6, 5, 45)
    began = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = solve(x, target, grid, tolerance=1e-3, device=device)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    certified = np.flatnonzero(ours.gap <= 1e-3)
    some = certified[:: max(1, len(certified) // 5)][-5 if tiny else -2 :]
    began, reached = time.perf_counter(), []
    for index in some:
        model = LogisticRegression(C=1 / grid[index], max_iter=10_000, tol=1e-5).fit(x.astype(np.float64), y)
        reached.append(float(gap(x, target, model.coef_.T, model.intercept_, grid[index], "softmax")))
    theirs = time.perf_counter() - began
    return {
        "seconds": seconds,
        "certified": len(certified),
        "scikit_learn_seconds_a_penalty": theirs / len(some),
        "scikit_learn_gaps": reached,
        "times_faster_a_penalty": (theirs / len(some)) / (seconds / len(grid)),
    }


def detector(protocol: str, form: str, iterations: int) -> Callable[[bool], dict[str, Any]]:
    """Our training loop against Detectron2's plain one, at the protocol's own size, no longer than asked."""

    def measure(tiny: bool) -> dict[str, Any]:
        import detection
        from made_up import boxes

        with tempfile.TemporaryDirectory() as temporary:
            options = argparse.Namespace(
                data_root=Path(temporary),
                task=boxes(Path(temporary) / form, form),
                protocol=f"{form}-fpn-tiny" if tiny else protocol,
                arch="resnet18" if tiny else "resnet50",
                iterations=2 if tiny else iterations,
                block=1 if tiny else 5,
                seconds=detector_seconds,
                overrides=["batch=2"] if tiny else [],
            )
            found = detection.measure(options)
        ratio = found["ours"]["images_per_second"] / found["theirs"]["images_per_second"]
        return {**found, "over_plain": ratio}

    return measure


LINES = {
    "environment": Line(environment, seconds=120),
    "precision": Line(precision),
    "steps": Line(steps, (("mast5", "<=", 1.05), ("mast15", "<=", 1.15))),
    "loop-resnet18": Line(loop("resnet18"), (("over_bare", ">=", 0.95),)),
    "loop-resnet50": Line(loop("resnet50"), (("over_bare", ">=", 0.95),)),
    "loop-resnet50-files": Line(loop("resnet50", files=True)),
    "compile": Line(compiled, seconds=300),
    "augmentations": Line(augmentations),
    "two-processes": Line(two_processes),
    "extraction": Line(extraction),
    "linear-grid": Line(linear_grid),
    "voc0712-c4-moco": Line(
        detector("voc0712-c4-moco", "voc", 200), (("over_plain", ">=", 0.98),), seconds=400
    ),
    "coco-fpn-1x": Line(detector("coco-fpn-1x", "coco", 200), (("over_plain", ">=", 0.98),), seconds=400),
}


# -- running them ----------------------------------------------------------------------------------------------


class Utilisation:
    """The GPU's utilisation as the driver tells it, five times a second while ``counts`` says so."""

    def __init__(self, counts: Callable[[], bool]) -> None:
        self._counts = counts

    def __enter__(self) -> Utilisation:
        import threading

        self.values: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        import shutil

        if not shutil.which("nvidia-smi"):
            return
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not self._end.wait(0.2):
            before = self._counts()
            told = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
            if before and self._counts() and told.isdigit():
                self.values.append(int(told))

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def median(self) -> float | None:
        """Per cent; None where no driver told."""
        return statistics.median(self.values) if self.values else None


def _env() -> dict[str, str]:
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def in_a_process(
    name: str, *, tiny: bool, device: str, logs: Path | None = None, detectors: float = detector_seconds
) -> dict[str, Any]:
    """Measure a line in a process of its own; what one that fails said goes to ``logs``/NAME.log.

    Returns:
        ``line``, ``state`` ("measured", "skipped" or "failed"), ``numbers``, ``goals``, ``seconds`` and ``why``.
    """
    line, began = LINES[name], time.monotonic()
    goals = [{"number": number, "sign": sign, "bound": bound} for number, sign, bound in line.goals]
    found: dict[str, Any] = {"line": name, "state": "failed", "numbers": {}, "goals": goals, "why": ""}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(HERE / "gpu.py"),
        "--line",
        name,
        "--detectors",
        str(detectors),
        *(["--tiny"] if tiny else []),
    ]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        try:
            done = subprocess.run(
                [*command, "--answer", str(answer)],
                env=_env() | hidden,
                capture_output=True,
                text=True,
                timeout=line.seconds,
                check=False,
            )
            if answer.is_file():
                found |= json.loads(answer.read_text(encoding="utf-8"))
            else:
                last = done.stderr.strip().splitlines()[-1:] or ["nothing was printed"]
                found["why"] = f"exit code {done.returncode}: {last[0]}"
                if logs is not None:
                    (logs / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        except subprocess.TimeoutExpired:
            found["why"] = f"not done after {line.seconds} s"
    for goal in goals:
        value = found["numbers"].get(goal["number"])
        if value is not None and not tiny:  # tiny sizes measure nothing but overhead
            goal["met"] = value >= goal["bound"] if goal["sign"] == ">=" else value <= goal["bound"]
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


def answer(name: str, *, tiny: bool) -> dict[str, Any]:
    """What the process of a line hands back."""
    try:
        return {"state": "measured", "numbers": LINES[name].measure(tiny)}
    except Skipped as reason:
        return {"state": "skipped", "why": str(reason)}


def markdown(lines: list[dict[str, Any]], *, tiny: bool, device: str) -> str:
    """The lines as a page."""
    sizes = ", at tiny sizes that say nothing of speed" if tiny else ""
    rows = [
        f"# Measured on {device}{sizes}",
        "",
        "| line | number | value | goal | met |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        if line["state"] != "measured":
            rows.append(f"| {line['line']} | {line['state']} | {line['why']} | | |")
            continue
        goals = {goal["number"]: goal for goal in line["goals"]}
        for name, value in line["numbers"].items():
            goal = goals.get(name)
            wanted = f"{goal['sign']} {goal['bound']:g}" if goal else ""
            met = {None: "", True: "yes", False: "**no**"}[goal.get("met") if goal else None]
            rows.append(f"| {line['line']} | {name} | {_short(value)} | {wanted} | {met} |")
    return "\n".join(rows) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Measure, write ``gpu.json`` and ``gpu.md``, print the page."""
    global detector_seconds
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--only", nargs="+", choices=LINES, default=list(LINES), help="some of the lines")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for gpu.json and gpu.md")
    parser.add_argument(
        "--detectors",
        type=float,
        default=detector_seconds,
        metavar="SECONDS",
        help="no further iterations of a detector after this long (default: %(default)g)",
    )
    parser.add_argument("--line", choices=LINES, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.line:
        detector_seconds = args.detectors
        args.answer.write_text(json.dumps(answer(args.line, tiny=args.tiny)), encoding="utf-8")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for name in args.only:
        lines.append(
            in_a_process(name, tiny=args.tiny, device=args.device, logs=args.out, detectors=args.detectors)
        )
        last = lines[-1]
        print(f"{name}: {last['state']} in {last['seconds']} s {last['why']}", file=sys.stderr, flush=True)
        whole = {"device": args.device, "tiny": args.tiny, "lines": lines}
        (args.out / "gpu.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        page = markdown(lines, tiny=args.tiny, device=args.device)
        (args.out / "gpu.md").write_text(page, encoding="utf-8")
    print(page, end="")
    missed = any(goal.get("met") is False for line in lines for goal in line["goals"])
    return 1 if missed or any(line["state"] == "failed" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
