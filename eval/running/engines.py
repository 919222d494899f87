"""Where jobs are done: in this process, or in several processes of this machine; `ray` has the one of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Final, Protocol, Self

from ..protocols.base import Progress, silent
from .job import Job, Live, Measuring, Pretraining, Result, Worker
from .opened import OpenData, key_of
from .plan import Plan

GRACE: Final = 60.0  # seconds that pretraining has to save its state when a run is interrupted
BASE: Final = 10**9  # bytes of a worker before it has data
WIDEST: Final = 2048  # numbers of the widest common backbone's features
GPUS: Final = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")  # CUDA, Jetson, ROCm, WSL
WORTH: Final = 4  # cells on frozen features that pay for a worker's start
# What jobs import, heaviest first; nothing of it may ask for a GPU, which a forked process could not use then.
PRELOADED: Final = (
    "torch",
    "scipy.stats",
    "mast.train",
    "eval.checkpoints.reading",
    "eval.protocols.solver",
    "eval.running.job",
)


class Engine(Protocol):
    """Does jobs; a context whose end, if it is an error, stops what is running."""

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""

    @property
    def ahead(self) -> int:
        """How many more it is given, so that the next one is at hand."""

    def warm(self) -> None:
        """Get ready, in the background: jobs will come."""

    def room(self, job: Job) -> bool:
        """Whether a job may begin beside those that run."""

    def submit(self, job: Job) -> Future[Result]:
        """Begin a job."""

    def where(self, future: Future[Result]) -> str:
        """In which place of several a job was done; empty if there is but one."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: Any, *_: object) -> None: ...


class Inline:
    """Jobs in this process, one after another.

    Args:
        worker: Does them.
        live: Shows how a cell gets on.
        progress: Show how pretraining gets on.
    """

    slots, ahead = 1, 0

    def __init__(self, worker: Worker, live: Live, progress: bool) -> None:
        self._worker, self._live, self._progress = worker, live, progress

    def warm(self) -> None:
        pass

    def room(self, job: Job) -> bool:
        return True

    def submit(self, job: Job) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_result(self._worker.do(job, self._live, self._progress))
        return future

    def where(self, future: Future[Result]) -> str:
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        pass


class Processes:
    """Jobs in several processes, which share the cores and, where there are any, the GPUs.

    Where the system can fork, one process imports what jobs need, and workers are forked from it. Data are opened
    and hashed here and handed to them, so that no worker lists folders or hashes images again.

    Args:
        jobs: Number of processes.
        opened: The open data of this process.
        memory: Bytes that jobs may take together, see `memory_of`; a job waits for others where it would take more.
    """

    ahead = 1  # a job more than there are processes, so that none waits for its next one

    def __init__(self, jobs: int, opened: OpenData, memory: int | None = None) -> None:
        self.slots = jobs
        self._opened = opened
        self._handed: dict[tuple[Any, ...], Path] = {}
        self._shelf: tempfile.TemporaryDirectory[str] | None = None
        self._memory = memory
        self._taken: dict[Future[Result], int] = {}
        self._context: Any = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def warm(self) -> None:
        if self._context is not None:
            return
        if "forkserver" not in multiprocessing.get_all_start_methods():
            self._context = multiprocessing.get_context("spawn")
            return
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(PRELOADED))
        with _importing_as_here():
            forkserver.ensure_running()

    def room(self, job: Job) -> bool:
        taken = [size for future, size in self._taken.items() if not future.done()]
        return self._memory is None or not taken or sum(taken) + memory_of(job) <= self._memory

    def submit(self, job: Job) -> Future[Result]:
        handed = None if isinstance(job, Pretraining) else self._hand(job)
        future = self._started().submit(_do, job, handed)
        self._taken = {other: size for other, size in self._taken.items() if not other.done()}
        self._taken[future] = memory_of(job)
        return future

    def _hand(self, job: Measuring) -> Path:
        """The file of a job's open data, written when the first job on them begins."""
        key = key_of(job.cell.task)
        if key not in self._handed:
            self._shelf = self._shelf or tempfile.TemporaryDirectory(prefix="mast-")
            path = Path(self._shelf.name) / str(len(self._handed))
            self._opened.hand(job.cell.task, path)
            self._handed[key] = path
        return self._handed[key]

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            import torch

            self.warm()
            places = self._context.Queue()
            for number in range(self.slots):
                places.put(number % torch.cuda.device_count() if torch.cuda.is_available() else None)
            self._pool = ProcessPoolExecutor(
                self.slots,
                mp_context=self._context,
                initializer=_start,
                initargs=(threads(self.slots), places, dict(os.environ)),
            )
        return self._pool

    def where(self, future: Future[Result]) -> str:
        return ""

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._pool is not None:
            self._end(self._pool, interrupted=kind is not None)
        if self._shelf is not None:
            self._shelf.cleanup()

    def _end(self, pool: ProcessPoolExecutor, *, interrupted: bool) -> None:
        if interrupted:
            children = multiprocessing.active_children()
            for child in children:  # one that pretrains saves its state; the others go on from what they have
                child.terminate()
            end = time.monotonic() + GRACE
            for child in children:
                child.join(max(0.0, end - time.monotonic()))
                child.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(jobs: int) -> int:
    """Threads of each of several jobs: its share of the cores, or ``OMP_NUM_THREADS`` where that is less."""
    share = max(1, cores() // jobs)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdecimal() and int(asked) > 0 else share


def memory_of(job: Job) -> int:
    """Bytes that a job is reckoned to take: a worker with its libraries, and three copies of wide features."""
    if isinstance(job, Pretraining) or job.cell.protocol.code.images:
        return BASE
    return BASE + 3 * 4 * WIDEST * job.examples


def free_memory() -> int | None:
    """Bytes of memory that nobody uses, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in found else None


def default_jobs(todo: Plan) -> int:
    """As many jobs as fit.

    One a GPU. Without one, a job a core where all cells are on frozen features: each keeps one core busy, and a
    worker's start is worth it from `WORTH` cells on; no more than memory holds. Pretraining, fine-tuning and
    detection use all cores by themselves: one job.
    """
    names = {cell.checkpoint for cell in todo.cells}
    pretrains = any(source.arm and source.name in names for source in todo.sources)
    heavy = pretrains or any(cell.protocol.code.images for cell in todo.cells)
    if (gpus := _gpus()) or heavy:
        return max(1, gpus)
    free = free_memory()
    fit = cores() if free is None else free // BASE
    return max(1, min(cores(), fit, len(todo.cells) // WORTH))


def _gpus() -> int:
    """Number of GPUs; where Linux knows none, torch, which takes seconds to import, is not asked."""
    if sys.platform == "linux" and not any(map(os.path.exists, GPUS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def unseen(title: str) -> AbstractContextManager[Progress]:
    """The progress of a cell in a worker: several bars at once would be a muddle."""
    return nullcontext(silent)


_worker = Worker()  # of a process that a `Processes` or a cluster started


def _start(share: int, places: Any, environment: dict[str, str]) -> None:
    """Begin a worker process: its share of cores, its GPU, and an end when the command that started it has ended."""
    import torch
    from threadpoolctl import threadpool_limits

    os.environ.clear()
    os.environ.update(environment)
    device = places.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    torch.set_num_threads(share)
    threadpool_limits(share)  # those of numpy and scipy too
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # a killed parent's lock is free: nothing may be written any more

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _importing_as_here() -> Iterator[None]:
    """Let a Python that is started now import from the same folders as this one, and from no other."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _do(job: Job, handed: Path | None) -> Result:
    return _worker.do(job, unseen, handed=handed)
