"""What pretraining, extraction of features and fitting on them will cost, from a little of each, run and timed."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from mast.config import Recipe
from mast.data import count, load
from mast.files import canonical_json
from mast.train import pretrain

from .. import checkpoints, features
from ..device import device
from ..errors import UserError
from ..features.extraction import entry, extract_pool
from ..features.preprocess import Preprocess

if TYPE_CHECKING:
    from ..checkpoints import Loaded
    from ..datasets import ImageDataset, Pool, Split
    from ..protocols.base import Context, Extraction, Params

BATCH = 64  # images of a step that is tried on a CPU; on a GPU it is the recipe's own batch
IMAGES = 64  # whose extraction is timed
EXAMPLES = 256  # of train that the first trial of a fit has, or four a class
ENOUGH = 0.5  # seconds of a fit from which more examples are not tried


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


def fitting(context: Context) -> float | None:
    """Seconds of a cell on frozen features, from made-up ones of the right width and the task's own labels.

    The whole of the cell's work is run on parts of the data, each twice the part before, until it takes half a second
    or the part is all. The rest is taken to grow as the last step did: from not at all, as for episodes, of which
    there are as many however many images there are, to the square, as for neighbours.

    Args:
        context: The cell's; its features are not read.

    Returns:
        The seconds; None where even all of the data are too few for the protocol.
    """
    data = context.data
    params: Params = context.params
    changes, times_as_long = params.trial()
    if changes:
        context = replace(context, protocol=context.protocol.override(changes))
    with tempfile.TemporaryDirectory() as scratch:
        some = data.splits["test"].limited(2)
        width = features.extract(
            context.loaded.backbone,
            context.loaded.passport,
            some,
            store=scratch,
            **context.params.extraction.options(),
        ).shape[1]
    share = min(1.0, max(EXAMPLES, 4 * data.num_classes) / max(1, len(data.splits["train"])))
    times: list[tuple[float, float]] = []
    _of_part(context, share, width)  # the first one warms up
    while True:
        seconds = _of_part(context, share, width)
        if seconds is not None:
            times.append((share, seconds))
        if share == 1.0 or (len(times) > 1 and times[-1][1] >= ENOUGH):
            break
        share = min(1.0, 2 * share)
    if len(times) < 2 or share == 1.0:
        return times[-1][1] * times_as_long if times else None
    (before, less), (last, more) = times[-2:]
    growth = min(2.0, max(0.0, math.log(more / less) / math.log(last / before)))
    return float(more / last**growth) * times_as_long


def _of_part(context: Context, share: float, width: int) -> float | None:
    """Seconds of the cell on a share of its data; None where that is too little for its protocol."""
    data: ImageDataset = context.data
    splits = {
        name: split.subset(np.linspace(0, len(split) - 1, max(1, round(share * len(split)))).round())
        for name, split in data.splits.items()
    }
    made = {name: _made_up(split, data.num_classes, width) for name, split in splits.items()}
    with tempfile.TemporaryDirectory() as scratch:
        trial = replace(
            context,
            data=replace(data, splits=splits),
            extract=lambda split, extraction: made[split],
            work=Path(scratch),
        )
        clock = time.monotonic()
        try:
            context.protocol.code.measure(trial)
        except UserError:  # such as fewer images of a class than there are shots
            return None
        return time.monotonic() - clock


def _made_up(split: Split, classes: int, width: int) -> npt.NDArray[np.float32]:
    """Features (N, D) whose classes can be told apart in part, and whose spectrum falls as that of real ones does."""
    generator = np.random.default_rng(0)
    means = generator.standard_normal((classes, width))
    labels = split.labels
    centres = means[labels] if labels.ndim == 1 else np.maximum(labels, 0) @ means
    noise = np.random.default_rng([1, len(split)]).standard_normal((len(split), width))
    falling = np.arange(1, width + 1) ** -0.5
    return ((centres + 2 * noise) * falling).astype(np.float32)
