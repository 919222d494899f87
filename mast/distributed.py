"""One process or many: every batch is split between them, and what the loss sees is gathered again.

With W processes the loss is that of the whole batch, computed by each of them from the gathered embeddings. The
gradient of `gather` gives every process its own rows W times, so that the mean over processes that
``DistributedDataParallel`` takes is the gradient of a single process with the whole batch.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from .errors import UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)  # for joining, and for processes that wait for one another afterwards


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has started this process anew, after one of its processes had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@dataclass(frozen=True)
class World:
    """The processes that work on a run.

    Attributes:
        device: Where this one computes.
        rank: Its number; 0 writes logs and checkpoints.
        size: How many there are.
        local_size: How many on this machine.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1

    def share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part of the indices of a batch, in order."""
        return np.split(indices, self.size)[self.rank]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all decide alike."""
        if self.size == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def from_first(self, value: T) -> T:
        """The value of process 0."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]


@contextmanager
def join(device: str | None = None) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, by its environment variables; without it be the only one.

    A process group that exists is used and left as it is.

    Args:
        device: ``cuda`` (one GPU a process, NCCL) where there is one, else ``cpu`` (Gloo).
    """
    kind = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(kind)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if kind.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}",
                remedy="lower torchrun's --nproc-per-node",
                code=2,
            )
        kind = torch.device("cuda", local)
        torch.cuda.set_device(kind)
    ours = not dist.is_initialized()
    if ours:
        try:
            store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
            store.set_timeout(TIMEOUT)
            dist.init_process_group(
                "nccl" if kind.type == "cuda" else "gloo",
                store=PrefixStore(_attempt(store, rank, size), store),
                rank=rank,
                world_size=size,
                timeout=TIMEOUT,
            )
        except (dist.DistStoreError, dist.DistNetworkError) as error:
            raise UserError(
                f"{size} processes did not come together within {TIMEOUT.total_seconds():g} s",
                remedy="start all of them with one MASTER_ADDR and MASTER_PORT; on one machine use "
                "`torchrun --standalone`",
            ) from error
    try:
        yield World(kind, dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    finally:
        if ours:
            dist.destroy_process_group()


def _attempt(store: Store, rank: int, size: int) -> str:
    """A name that all living processes agree on and no earlier one has seen.

    torchrun keeps one store over its restarts, so that a process could read the address of one that is dead. Every
    process says that it is here with a word of its own; process 0 tells who is here, and the others confirm that they
    were meant.

    Raises:
        dist.DistStoreError: If they do not come together within `TIMEOUT`.
    """
    mine, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()

    def read(key: str, number: int) -> str:
        key = f"mast/{key}/{number}"
        return store.get(key).decode() if store.check([key]) else ""

    if rank:
        store.set(f"mast/here/{rank}", mine)
    while time.monotonic() < end:
        if rank:
            name, _, answered = read("plan", rank).partition(" ")
            if answered == mine:
                store.set(f"mast/seen/{rank}", name + mine)
                return name
        else:
            here = {number: read("here", number) for number in range(1, size)}
            for number, word in here.items():
                store.set(f"mast/plan/{number}", f"{mine} {word}")
            if all(word and read("seen", number) == mine + word for number, word in here.items()):
                return mine
        time.sleep(0.02)
    raise dist.DistStoreError(f"{size} processes, not all of them here")


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = [torch.empty_like(x) for _ in range(_processes())]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].chunk(_processes())[dist.get_rank()] * _processes()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, ``(B, D) -> (W B, D)``, with gradient; ``x`` itself where there is one process."""
    if _processes() == 1:
        return x
    rows: Tensor = _Gather.apply(x) if x.dtype != torch.bool else _Gather.apply(x.to(torch.uint8)).bool()
    return rows


class GatheredBatchNorm(_BatchNorm):
    """BatchNorm over the batch of all processes. Torch's own ``SyncBatchNorm`` does this on GPUs only."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(B, C, ...)`` with the statistics of all processes, and keep them for evaluation."""
        if not self.training:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        count = x.numel() // x.shape[1] * _processes()
        mean = _Sum.apply(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result: Tensor = (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)
        return result


def synchronized(module: nn.Module, world: World) -> nn.Module:
    """Let every BatchNorm see the batch of all processes. Names and values stay."""
    if world.size == 1:
        return module
    if world.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            gathered = GatheredBatchNorm(child.num_features, child.eps, child.momentum)
            gathered.load_state_dict(child.state_dict())
            module.add_module(name, gathered)
        else:
            synchronized(child, world)
    return module
