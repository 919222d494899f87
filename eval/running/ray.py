"""The engine of a Ray cluster: jobs run wherever there is room, and run again where a node has died.

``--out`` and ``--data-root`` lie on a disk that all nodes see under the same path, and every node has this package.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ..errors import UserError
from .engines import memory_of, unseen
from .job import Job, Measuring, Pretraining, Result, Worker

RETRIES = 3  # times that a job is begun again when its node or its process has died; a bad cell never is
SHARE = 0.25  # of a GPU, for a cell on frozen features


class Cluster:
    """Jobs on a Ray cluster.

    Args:
        address: Of the cluster, or "local" for one on this machine alone; the cluster that this machine is part of
            when None.
    """

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(
                "--engine ray needs Ray", remedy='pip install "mast-transfer[ray]"', code=2
            ) from error
        self._ray: Any = ray
        self._address = address or "auto"
        self._where: dict[Future[Any], str] = {}
        # Ray's threads print what befalls its nodes, and what the command prints may be JSON.
        self._printed = contextlib.redirect_stdout(sys.stderr)

    def __enter__(self) -> Self:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {self._address}: {str(error).splitlines()[0]}",
                remedy="`ray start --head` starts one, --address local needs none",
            ) from error
        self._printed.__enter__()
        self._gpus = self._ray.cluster_resources().get("GPU", 0) > 0
        self._do = self._ray.remote(max_retries=RETRIES)(_do)
        return self

    @property
    def slots(self) -> int:
        """As many jobs as the nodes that are alive have cores; Ray queues those whose needs are greater."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def ahead(self) -> int:
        """One more than there are cores, so that no node waits for its next job."""
        return 1

    def warm(self) -> None:
        """The cluster's processes start by themselves."""

    def room(self, job: Job) -> bool:
        """Ray itself keeps a job waiting where its needs are not met."""
        return True

    def submit(self, job: Job) -> Future[Result]:
        """Begin a job wherever its needs are met."""
        answer = self._do.options(**needs(job, self._gpus), name=str(job)).remote(everywhere(job)).future()
        future: Future[Result] = Future()

        def done(told: Future[tuple[Result, str]]) -> None:
            error = told.exception()
            if error is not None:
                future.set_exception(error)
                return
            result, self._where[future] = told.result()
            future.set_result(result)

        answer.add_done_callback(done)
        return future

    def where(self, future: Future[Result]) -> str:
        """The node that did a job."""
        return self._where.pop(future, "")

    def __exit__(self, kind: Any, *_: object) -> None:
        self._ray.shutdown()  # with its driver gone the cluster ends the jobs that still run
        self._printed.__exit__(None, None, None)


def everywhere(job: Job) -> Job:
    """The job with paths that hold in whatever folder a worker runs."""
    folder = replace(job.folder, root=job.folder.root.absolute(), store=job.folder.features.absolute())
    folders = tuple(path.absolute() for path in job.included)
    job = replace(job, data_root=job.data_root.absolute(), folder=folder, included=folders)
    if isinstance(job, Measuring) and Path(job.ref).exists():
        return replace(job, ref=str(Path(job.ref).absolute()))
    return job


def needs(job: Job, gpus: bool) -> dict[str, float]:
    """What Ray sets aside for a job: cores, a GPU or a part of one, and bytes of memory from the data's size."""
    if isinstance(job, Pretraining):
        return {"num_cpus": 1, "num_gpus": 1 if gpus else 0}
    share = 1.0 if job.cell.protocol.code.images else SHARE
    return {"num_cpus": 1, "num_gpus": share if gpus else 0, "memory": memory_of(job)}


_worker = Worker()  # of a process that Ray started


def _do(job: Job) -> tuple[Result, str]:
    return _worker.do(job, unseen), f"{socket.gethostname()}:{_node()}"


def _node() -> str:
    """The first letters of this node's id."""
    import ray

    return str(ray.get_runtime_context().get_node_id())[:6]
