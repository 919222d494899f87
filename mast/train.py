"""The training loop, from top to bottom.

A run is a pure function of its recipe and its images: batches, views and weights are drawn from (seed, epoch,
sample), so a run that was killed and resumed ends with the same weights, bit for bit, on the same machine, and
several processes (`torchrun`) see what one would see.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .augment import Crop
from .checkpoint import load_state, save_state, write_published
from .config import Recipe
from .console import bar, say
from .data import Job, load, on_device
from .distributed import World, join, synchronized
from .draws import permutation
from .errors import Interrupted, UserError
from .health import figures, refuse_collapse
from .learner import Learner, Outcome
from .optim import build_optimizer, learning_rate
from .probe import Probe
from .rundir import PUBLISHED as PUBLISHED
from .rundir import STATE, History, Log, check, claim, hold, passport
from .rundir import git_stamp as git_stamp
from .sinks import check as check_sinks
from .views import ViewPlan


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    data_root: Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    device: str | None = None,
    workers: int | None = None,
    log: Sequence[str] = (),
) -> Path:
    """Run a recipe to its end, from wherever it stands; under ``torchrun`` in all its processes together.

    Args:
        recipe: What to do.
        out: Folder for ``state.pt`` (to resume), ``log.jsonl`` (one line an epoch), ``recipe.json`` and
            ``backbone.safetensors`` (the result). Process 0 alone reads and writes it.
        data_root: Where ``recipe.data.folder`` lies.
        fresh: Start anew, in place of going on with the run that is there.
        progress: Show progress bars.
        device: ``cuda`` where there is one, else ``cpu``.
        workers: Decoding workers of this process; by default its share of the machine's cores.
        log: Other programs to log to as well, see `mast.sinks`: tensorboard, mlflow, wandb.

    Returns:
        The path of the published backbone.

    Raises:
        UserError: If ``out`` holds another recipe's run or another process is at work there, the images are missing,
            the batch does not part evenly between the processes, the loss is not finite, or embedding or masks
            collapse.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1, once the state is saved.
    """
    check_sinks(log)
    with join(device) as world, hold(out) if world.rank == 0 else nullcontext():
        finished = False
        if world.rank == 0 and not fresh:
            finished = check(recipe, out)
        if not world.from_first(finished):
            shown = progress and world.rank == 0
            _train(recipe, out, world, data_root or Path(), shown, workers, log, fresh)
        elif world.rank == 0:
            say(f"{out} holds this run, finished; --fresh starts anew", progress)
    return out / PUBLISHED


def _train(
    recipe: Recipe,
    out: Path,
    world: World,
    data_root: Path,
    progress: bool,
    workers: int | None,
    sinks: Sequence[str],
    fresh: bool = False,
) -> None:
    # -- images and views -----------------------------------------------------------------------------------
    if recipe.batch_size % (recipe.accumulate * world.size):
        raise UserError(
            f"a batch of {recipe.batch_size} in {recipe.accumulate} parts does not divide by {world.size} processes",
            remedy="change batch_size or accumulate",
            code=2,
        )
    views = recipe.views.build(recipe.seed)
    first_operation = views.augmentations[0] if views.augmentations else None
    source = load(
        recipe.data,
        data_root,
        first_operation if isinstance(first_operation, Crop) else None,
        workers=workers if workers is not None else max(1, (os.cpu_count() or 1) // world.local_size),
        pin=world.device.type == "cuda",
        progress=progress,
    )
    steps_per_epoch = len(source.labels) // recipe.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"{len(source.labels)} images do not fill a batch of {recipe.batch_size}",
            remedy="lower batch_size",
        )
    steps = recipe.epochs * steps_per_epoch
    if left := len(source.labels) % recipe.batch_size:
        say(
            f"{len(source.labels)} images in batches of {recipe.batch_size}: every epoch leaves out {left}",
            progress,
        )
    if recipe.probe and len(source.classes) < 2:
        say("the images have no labels: the k-NN probe is off", progress)

    def jobs(step: int) -> Iterator[Job]:
        """Indices and plans of this process from a step to the end, ``accumulate`` for each step."""
        for epoch in range(step // steps_per_epoch, recipe.epochs):
            order = permutation(recipe.seed, epoch, len(source.labels))[: steps_per_epoch * recipe.batch_size]
            parts = order.reshape(steps_per_epoch, recipe.accumulate, -1)
            for batch in parts[step - epoch * steps_per_epoch :]:
                for part in batch:
                    indices = world.share(part)
                    yield indices, views.draw(indices, epoch)
            step = (epoch + 1) * steps_per_epoch

    def rendered(wanted: Iterator[Job]) -> Iterator[tuple[NDArray[np.int64], ViewPlan, tuple[Tensor, ...]]]:
        """Jobs with their views."""
        coarse = recipe.precision == "bf16" and world.device.type == "cuda"
        for (indices, plan), images in source.feed(wanted):
            with _tensor_cores(coarse):
                found = views.render(on_device(images, world.device, dtype), plan)
            yield indices, plan, found

    # -- networks and optimizers ----------------------------------------------------------------------------
    dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        learner = Learner(recipe, views.names, views.widths)
    synchronized(learner, world)
    learner.to(world.device, dtype).to(memory_format=learner.memory_format).train()
    if recipe.compile:
        learner.backbone.compile()
    config = recipe.optimizer
    settings = config.model_dump(include={"name", "weight_decay", "momentum", "eta"})
    optimizer = build_optimizer(learner.networks(), **settings)
    optimizers = {"optimizer": optimizer}
    if learner.masks is not None:
        optimizers["mask_optimizer"] = torch.optim.Adam(learner.masks.parameters(), lr=recipe.masks.lr)
    peak = config.base_lr * recipe.batch_size / 256
    warmup = round(config.warmup_epochs * steps_per_epoch)

    # -- state ----------------------------------------------------------------------------------------------
    step, history, sums, probe = 0, History(), dict[str, float](), Probe(len(source.classes))
    saved = world.rank == 0 and not fresh and (out / STATE).is_file()
    state = world.from_first(load_state(out / STATE) if saved else None)
    if state is not None:
        learner.load_state_dict(state["learner"])
        for name, each in optimizers.items():
            each.load_state_dict(state[name])
        step, history, sums = state["step"], state["history"], state["sums"]
        probe.load_state_dict(state["probe"], world.device)
        say(f"{out} holds this run: going on from step {step} of {steps}", progress)
    if world.rank == 0:
        claim(recipe, out, fresh=fresh)
    log = Log(out, history, recipe, sinks if world.rank == 0 else ())

    def save() -> None:
        """Everything that the rest of the run depends on, and nothing else."""
        if world.rank == 0:
            state = {name: each.state_dict() for name, each in optimizers.items()}
            state |= {"learner": learner.state_dict(), "probe": probe.state_dict()}
            save_state(out / STATE, {**state, "step": step, "history": history, "sums": sums})

    # -- the loop -------------------------------------------------------------------------------------------
    model: nn.Module = learner
    if world.size > 1:
        ids = [world.device] if world.device.type == "cuda" else None
        model = DistributedDataParallel(learner, device_ids=ids)
    autocast = torch.autocast(world.device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    batches = rendered(jobs(step))
    saved_at = time.monotonic()
    title = f"{recipe.name} ({recipe.method})"
    size = recipe.batch_size
    shown = bar(
        total=steps * size, initial=step * size, desc=title, unit="img", unit_scale=True, disable=not progress
    )
    with closing(log), _stop_signals() as received, shown:
        following = next(batches, None)
        while step < steps:
            at = step if config.rate_by == "step" else step - step % steps_per_epoch
            rate = learning_rate(at, steps, warmup, peak, config.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            for each in optimizers.values():
                each.zero_grad(set_to_none=True)

            losses = []
            for part in range(recipe.accumulate):
                assert following is not None  # a job for every part of every step
                indices, plan, (first, second, *third) = following
                last = part + 1 == recipe.accumulate
                waits = (
                    model.no_sync()
                    if isinstance(model, DistributedDataParallel) and not last
                    else nullcontext()
                )
                with waits:
                    with autocast:
                        outcome: Outcome = model(first, second, plan, *third)
                    torch.autograd.backward(outcome.loss.total / recipe.accumulate)
                losses.append(outcome.loss)
                if recipe.probe:
                    probe.add(outcome.features, source.labels[indices])
                if last:
                    for each in optimizers.values():
                        each.step()
                following = next(batches, None)  # a GPU is still busy with what it was given
            values = dict[str, float]()
            for loss in losses:
                for name, value in loss.numbers().items():
                    values[name] = values.get(name, 0.0) + value / recipe.accumulate
            if not all(math.isfinite(value) for value in values.values()):
                raise UserError(
                    f"the loss is not finite at step {step + 1}: {values}",
                    remedy=f"lower optimizer.base_lr; the last good state is {out / STATE}",
                )

            step += 1
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            epoch = -(-step // steps_per_epoch)
            shown.set_description(f"{title} epoch {epoch} of {recipe.epochs}", refresh=False)
            shown.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            shown.update(size)
            if step % steps_per_epoch == 0:
                found = figures(outcome.features, outcome.embeddings, learner.masks)
                means = {name: value / steps_per_epoch for name, value in sums.items()}
                if world.rank == 0:
                    log.add({"epoch": epoch, "lr": rate} | means | found | probe.finish())
                sums = {}
                if recipe.stop_on_collapse:
                    learned = learner.masks if recipe.masks.lr else None
                    refuse_collapse(found, f"epoch {epoch} of {recipe.epochs}", learned)
            stopped = world.any(bool(received))
            if stopped or time.monotonic() - saved_at > 60 * recipe.save_minutes:
                save()
                saved_at = time.monotonic()
            if stopped:
                raise Interrupted(f"stopped at step {step} of {steps}; run the same command to go on")

    save()
    if world.rank == 0:
        weights = learner.backbone.float().state_dict()
        write_published(out / PUBLISHED, weights, passport(recipe, source, history))


@contextmanager
def _tensor_cores(wanted: bool) -> Iterator[None]:
    """Let a GPU multiply float32 in TF32, whose error is less than that of bf16, to which views are rounded next."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when the run is asked to stop; handlers can be set in the main thread only."""
    received: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    try:
        before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in wanted}
    except ValueError:
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
