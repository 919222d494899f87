"""Where jobs are done: in this process, or in several processes of this machine; `ray` has the one of a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, Self

from ..protocols.base import Progress, silent
from .job import Job, Live, Result, Worker

GRACE = 60.0  # seconds that pretraining has to save its state when a run is interrupted


class Engine(Protocol):
    """Does jobs; a context whose end, if it is an error, stops what is running."""

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""

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

    slots = 1

    def __init__(self, worker: Worker, live: Live, progress: bool) -> None:
        self._worker, self._live, self._progress = worker, live, progress

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

    Args:
        jobs: Number of processes.
    """

    def __init__(self, jobs: int) -> None:
        self.slots = jobs

    def __enter__(self) -> Self:
        import torch

        context = multiprocessing.get_context("spawn")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, min(torch.get_num_threads(), cores // self.slots))
        places = context.Queue()
        for number in range(self.slots):
            places.put(number % torch.cuda.device_count() if torch.cuda.is_available() else None)
        self._pool = ProcessPoolExecutor(
            self.slots, mp_context=context, initializer=_start, initargs=(os.getpid(), threads, places)
        )
        return self

    def submit(self, job: Job) -> Future[Result]:
        return self._pool.submit(_do, job)

    def where(self, future: Future[Result]) -> str:
        return ""

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            children = multiprocessing.active_children()
            for child in children:  # one that pretrains saves its state; the others go on from what they have
                child.terminate()
            end = time.monotonic() + GRACE
            for child in children:
                child.join(max(0.0, end - time.monotonic()))
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def default_jobs() -> int:
    """One job a GPU. On a CPU one job, which uses all cores as well as it can."""
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


def unseen(title: str) -> AbstractContextManager[Progress]:
    """The progress of a cell in a worker: several bars at once would be a muddle."""
    return nullcontext(silent)


_worker = Worker()  # of a process that a `Processes` or a cluster started


def _start(parent: int, threads: int, places: Any) -> None:
    """Begin a worker process: its share of cores, its GPU, and an end when the parent has ended."""
    import torch

    device = places.get()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # a killed parent's lock is free: nothing may be written any more

    threading.Thread(target=watch, daemon=True).start()


def _do(job: Job) -> Result:
    return _worker.do(job, unseen)
