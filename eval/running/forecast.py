"""What pretraining and feature extraction will cost, from a few steps that are run and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mast.config import Recipe
from mast.data import count, load
from mast.files import canonical_json
from mast.train import pretrain

from .. import checkpoints
from ..device import device
from ..features.extraction import entry, extract_pool
from ..features.preprocess import Preprocess

if TYPE_CHECKING:
    from ..checkpoints import Loaded
    from ..datasets import Pool
    from ..protocols.base import Context, Extraction

BATCH = 64  # images of a step that is tried on a CPU; on a GPU it is the recipe's own batch
IMAGES = 64  # whose extraction is timed


def pretraining(recipe: Recipe, data_root: Path) -> float:
    """Seconds of a whole pretraining run.

    Two runs of two and of six small steps tell the time of a step; decoding a few images that of decoding all.

    Raises:
        UserError: If the images are missing or damaged.
    """
    number = count(recipe.data, data_root)
    batch = recipe.batch_size if torch.cuda.is_available() else min(BATCH, recipe.batch_size)
    some = recipe.data.model_copy(update={"limit": min(number, 2 * batch)})
    short = recipe.model_copy(
        update={"data": some, "batch_size": min(number, batch), "accumulate": 1, "stop_on_collapse": False}
    )
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for epochs in (1, 1, 3):  # the first one warms up
            trial = short.model_copy(
                update={
                    "epochs": epochs,
                    "optimizer": short.optimizer.model_copy(update={"warmup_epochs": 0}),
                }
            )
            clock = time.monotonic()
            pretrain(trial, Path(scratch) / str(len(seconds)), data_root=data_root, progress=False)
            seconds.append(time.monotonic() - clock)
    images = 2 * max(1, min(number, 2 * batch) // short.batch_size) * short.batch_size  # of two epochs
    an_image = max(0.0, seconds[2] - seconds[1]) / images
    whole = recipe.epochs * (number // recipe.batch_size) * recipe.batch_size
    return an_image * whole + _decoding(recipe, data_root, number)


def _decoding(recipe: Recipe, data_root: Path, number: int) -> float:
    """Seconds to decode all images beforehand, where the recipe does."""
    if recipe.data.store_size is None:
        return 0.0
    few = min(number, BATCH)
    clock = time.monotonic()
    load(
        recipe.data.model_copy(update={"limit": few}),
        data_root,
        None,
        workers=torch.get_num_threads(),
        progress=False,
    )
    return (time.monotonic() - clock) / few * number


class Features:
    """Forecasts the extraction of features; what is stored already costs nothing, and no pool is counted twice.

    Args:
        store: The feature store.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._loaded: dict[str, Loaded] = {}
        self._counted: set[tuple[Any, ...]] = set()
        self._rates: dict[tuple[Any, ...], float] = {}

    def seconds(
        self,
        name: str,
        ref: str,
        options: dict[str, Any],
        data: Any,
        extraction: Extraction,
        size: int | None = None,
    ) -> float:
        """Seconds that a checkpoint's features of a data set will still take.

        Args:
            name: The checkpoint's in the plan.
            ref: What `eval.checkpoints.load` takes.
            options: Of the loader.
            data: An opened data set of images.
            extraction: How the protocol wants its input.
            size: The input size, where the reference does not tell it.
        """
        loaded = self.loaded(name, ref, options, size)
        preprocess, pooling = Preprocess.of(loaded.passport, **extraction.pixels()), extraction.pooling
        how = canonical_json([preprocess.identity(), pooling])
        total = 0.0
        for split in data.splits.values():
            key = (name, split.pool.digest, how)
            if (
                key in self._counted
                or entry(loaded.passport, split.pool, preprocess, self.store, pooling).whole()
            ):
                continue
            self._counted.add(key)
            kind = (loaded.passport.arch, how, split.pool.name)
            if kind not in self._rates:
                self._rates[kind] = self._an_image(loaded, split.limited(IMAGES).pool, preprocess, pooling)
            total += self._rates[kind] * len(split.pool)
        return total

    def loaded(self, name: str, ref: str, options: dict[str, Any], size: int | None = None) -> Loaded:
        """A checkpoint, read once; arguments are those of `seconds`."""
        if name not in self._loaded:
            loaded = checkpoints.load(ref, **options)
            if size is not None:
                loaded = replace(loaded, passport=replace(loaded.passport, input_size=size))
            loaded.backbone.to(device())
            self._loaded[name] = loaded
        return self._loaded[name]

    def bytes(self, name: str, disk: Callable[[Context], dict[str, int]], context: Context) -> int:
        """Bytes of maps that a cell is the first to write.

        Args:
            name: The checkpoint's in the plan.
            disk: What the cell's kind offers.
            context: The cell's.
        """
        found = {(name, key): size for key, size in disk(context).items()}
        new = sum(size for key, size in found.items() if key not in self._counted)
        self._counted |= found.keys()
        return new

    def _an_image(self, loaded: Loaded, pool: Pool, preprocess: Preprocess, pooling: str) -> float:
        seconds = 0.0
        for _ in range(2):  # the first pass warms up
            with tempfile.TemporaryDirectory() as scratch:
                clock = time.monotonic()
                extract_pool(
                    loaded.backbone, loaded.passport, pool, preprocess, store=scratch, pooling=pooling
                )
                seconds = time.monotonic() - clock
        return seconds / len(pool)
