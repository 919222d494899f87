"""The training loop, from top to bottom.

A run is a pure function of its recipe and its images: batches, views and weights are drawn from (seed, epoch,
sample), so a run that was killed and resumed ends with the same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import __version__
from .checkpoint import load_state, save_state, write_published
from .config import Recipe, parse_recipe
from .console import bar
from .data import ImageBank, load_bank
from .draws import permutation
from .errors import Interrupted, UserError
from .files import atomic_write
from .model import Expander, SubspaceMasks, VarianceHead, build_backbone
from .objective import Loss, masked, pressure, subspace_masks, vicreg
from .optim import build_optimizer, learning_rate
from .views import ViewPlan, Views

STATE, PUBLISHED, LOG, RECIPE = "state.pt", "backbone.safetensors", "log.jsonl", "recipe.json"


class Learner(nn.Module):
    """Backbone, expander and, for MAST, masks and variance head, with the loss of one batch."""

    def __init__(self, recipe: Recipe, names: tuple[str, ...]) -> None:
        super().__init__()
        self.recipe = recipe
        self.backbone = build_backbone(recipe.arch)
        self.expander = Expander(self.backbone.feature_dim, recipe.expander)
        self.masks: SubspaceMasks | None = None
        self.variance: VarianceHead | None = None
        if recipe.method == "mast":
            start = recipe.masks.model_dump(exclude={"lr", "level"})
            on_features = recipe.masks.level == "features"
            dim = self.backbone.feature_dim if on_features else recipe.expander[-1]
            self.masks = SubspaceMasks(names, dim, **start)
            if recipe.uncertainty and not on_features:
                self.variance = VarianceHead(self.backbone.feature_dim, recipe.expander[-1])
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)

    def features(self, view: Tensor) -> Tensor:
        """Features ``(B, D)`` of a view in [0, 1]."""
        images = ((view - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.backbone.features(images)

    def forward(self, first: Tensor, second: Tensor, plan: ViewPlan) -> tuple[Loss, Tensor]:
        """The loss of one batch, and the features of its first view."""
        h1, h2 = self.features(first), self.features(second)
        weights = self.recipe.weights
        if self.masks is None:
            return vicreg(self.expander(h1).float(), self.expander(h2).float(), weights), h1
        differs = torch.from_numpy(plan.differs).to(h1.device)
        single = torch.from_numpy(plan.single).to(h1.device)
        log_masks = self.masks.log_masks()
        held = pressure(log_masks, weights)
        if self.recipe.masks.level == "features":
            keep = subspace_masks(differs, single, log_masks)
            z1, z2 = self.expander(h1 * keep).float(), self.expander(h2 * keep).float()
            return vicreg(z1, z2, weights).plus(held), h1
        z1, z2 = self.expander(h1).float(), self.expander(h2).float()
        variances = None
        if self.variance is not None:
            variances = self.variance(h1.detach().float()), self.variance(h2.detach().float())
        return masked(z1, z2, differs, single, log_masks, weights, variances).plus(held), h1


def pretrain(
    recipe: Recipe,
    out: Path,
    *,
    data_root: Path | None = None,
    resume: bool = True,
    progress: bool = True,
    device: str | None = None,
) -> Path:
    """Run a recipe to its end, from wherever it stands.

    Args:
        recipe: What to do.
        out: Folder for ``state.pt`` (to resume), ``log.jsonl`` (one line an epoch), ``recipe.json`` and
            ``backbone.safetensors`` (the result).
        data_root: Where ``recipe.data.folder`` lies.
        resume: Go on from a saved state; without it an existing run is an error.
        progress: Show progress bars.
        device: ``cuda`` where there is one, else ``cpu``.

    Returns:
        The path of the published backbone.

    Raises:
        UserError: If ``out`` holds another recipe's run, the images are missing, or the loss is not finite.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1, once the state is saved.
    """
    published = out / PUBLISHED
    _claim(recipe, out, resume)
    if published.is_file():
        return published

    # -- images and views -----------------------------------------------------------------------------------
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bank = load_bank((data_root or Path()) / recipe.data.folder, recipe.data.store_size, progress=progress)
    steps_per_epoch = len(bank.labels) // recipe.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"{len(bank.labels)} images do not fill a batch of {recipe.batch_size}", remedy="lower batch_size"
        )
    steps = recipe.epochs * steps_per_epoch
    views = Views(
        recipe.views.build(),
        single_fraction=recipe.views.single_fraction,
        all_but_fraction=recipe.views.all_but_fraction,
        seed=recipe.seed,
    )

    # -- networks and optimizers ----------------------------------------------------------------------------
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        learner = Learner(recipe, views.names).to(memory_format=torch.channels_last).to(place)
    config = recipe.optimizer
    networks = nn.ModuleList(module for name, module in learner.named_children() if name != "masks")
    optimizer = build_optimizer(
        networks, config.name, weight_decay=config.weight_decay, momentum=config.momentum
    )
    mask_optimizer = None
    if learner.masks is not None:
        mask_optimizer = torch.optim.Adam(learner.masks.parameters(), lr=recipe.masks.lr)
    peak = config.base_lr * recipe.batch_size / 256
    warmup = round(config.warmup_epochs * steps_per_epoch)

    # -- state ----------------------------------------------------------------------------------------------
    step, history, sums = 0, list[dict[str, float]](), dict[str, float]()
    if (out / STATE).is_file():
        state = load_state(out / STATE)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        if mask_optimizer is not None:
            mask_optimizer.load_state_dict(state["mask_optimizer"])
        step, history, sums = state["step"], state["history"], state["sums"]

    def save() -> None:
        save_state(
            out / STATE,
            {
                "learner": learner.state_dict(),
                "optimizer": optimizer.state_dict(),
                "mask_optimizer": mask_optimizer.state_dict() if mask_optimizer is not None else None,
                "step": step,
                "history": history,
                "sums": sums,
            },
        )

    # -- the loop -------------------------------------------------------------------------------------------
    learner.train()
    saved_at = time.monotonic()
    title = f"pretrain {recipe.name} ({recipe.method})"
    shown = bar(total=steps, initial=step, desc=title, unit="step", disable=not progress)
    with _stop_signals() as stopped, shown:
        while step < steps:
            epoch, position = divmod(step, steps_per_epoch)
            order = permutation(recipe.seed, epoch, len(bank.labels))
            indices = order[position * recipe.batch_size :][: recipe.batch_size]
            rate = learning_rate(step, steps, warmup, peak, config.final_lr)
            for group in optimizer.param_groups:
                group["lr"] = rate

            plan = views.draw(indices, epoch)
            first, second = views.render(bank.batch(indices, place), plan)
            with torch.autocast(place.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss, features = learner(first, second, plan)
            optimizer.zero_grad(set_to_none=True)
            if mask_optimizer is not None:
                mask_optimizer.zero_grad(set_to_none=True)
            loss.total.backward()
            optimizer.step()
            if mask_optimizer is not None:
                mask_optimizer.step()

            step += 1
            values = {name: float(part.detach()) for name, part in loss.parts.items()}
            values |= {
                "loss": float(loss.total.detach()),
                "feature_std": float(features.detach().std(0).mean()),
            }
            if not all(math.isfinite(value) for value in values.values()):
                raise UserError(
                    f"the loss is not finite at step {step}: {values}",
                    remedy=f"lower optimizer.base_lr; the last good state is {out / STATE}",
                )
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            shown.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
            shown.update()

            if step % steps_per_epoch == 0:
                line = {"epoch": epoch + 1, "lr": rate} | {k: v / steps_per_epoch for k, v in sums.items()}
                history.append(line | _mask_figures(learner.masks))
                sums = {}
                with atomic_write(out / LOG) as file:
                    file.writelines(json.dumps(entry) + "\n" for entry in history)
            if stopped or time.monotonic() - saved_at > 60 * recipe.save_minutes:
                save()
                saved_at = time.monotonic()
            if stopped:
                raise Interrupted(f"stopped at step {step} of {steps}; run the same command to go on")

    save()
    write_published(published, learner.backbone.state_dict(), _passport(recipe, bank, history))
    return published


def _claim(recipe: Recipe, out: Path, resume: bool) -> None:
    """Make ``out`` this recipe's folder, or say whose it is."""
    # Keys stay in the recipe's order, since the order of the augmentations counts.
    text = json.dumps(recipe.model_dump(mode="json"))
    mine = out / RECIPE
    if mine.is_file():
        before = parse_recipe(json.loads(mine.read_text(encoding="utf-8")), str(mine))
        if json.dumps(before.model_dump(mode="json")) != text:
            raise UserError(
                f"{out} holds a run of another recipe",
                remedy="give another --out, or delete the folder",
                code=2,
            )
        if not resume:
            raise UserError(
                f"{out} holds a run of this recipe", remedy="add --resume to go on with it", code=2
            )
        return
    try:
        with atomic_write(mine) as file:
            file.write(text)
    except OSError as error:
        raise UserError(
            f"cannot write to {out} ({error.strerror})", remedy="give a writable --out"
        ) from error


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


def _mask_figures(masks: SubspaceMasks | None) -> dict[str, float]:
    """The mean of every mask and the mean correlation between masks."""
    if masks is None:
        return {}
    values = masks.masks().detach().cpu().double().numpy()
    figures = {f"mask_{name}": float(row.mean()) for name, row in zip(masks.names, values, strict=True)}
    if len(values) > 1:
        upper = np.corrcoef(values)[np.triu_indices(len(values), 1)]
        figures["mask_correlation"] = float(upper.mean())
    return figures


def _passport(recipe: Recipe, bank: ImageBank, history: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "arch": recipe.arch,
        "method": recipe.method,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "data": {"folder": recipe.data.folder, "images": len(bank.labels), "classes": len(bank.classes)},
        "normalization": {"mean": list(recipe.mean), "std": list(recipe.std)},
        "input_size": recipe.views.size,
        "interpolation": "bicubic",
        "history": history,
        "git": git_stamp(),
        "versions": {"mast": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def git_stamp() -> str:
    """The commit of the checkout this file lies in; outside of one ``MAST_REVISION``, which containers set, or ""."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("MAST_REVISION", "")
