"""The order of training data, a pure function of the seed, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from ..errors import UserError

Key = tuple[int, int]  # position in the stream of examples, index of the image


class KeyedSampler(Sampler[Key]):
    """Detectron2's `TrainingSampler` with positions, batches formed here, and a start in the middle.

    Detectron2 groups images of like aspect ratio after decoding them, in buffers that a restart loses. Grouping
    needs widths and heights only, so it is done here: the keys come out in the order of finished batches, and
    the loader takes them ``batch`` at a time.

    Args:
        shapes: Width and height of every image.
        batch: Images per batch of this process.
        seed: The seed of the order.
        start: How many batches to pass over.
        group: Put images wider than high and others into separate batches, as Detectron2 does.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], *, batch: int, seed: int, start: int, group: bool
    ) -> None:
        self.shapes = shapes
        self.batch = batch
        self.seed = seed
        self.start = start
        self.group = group

    def batches(self) -> Iterator[list[Key]]:
        """Every batch from the first one on, without end."""
        order = TrainingSampler(len(self.shapes), seed=self.seed)
        rank, world = comm.get_rank(), comm.get_world_size()
        buckets: tuple[list[Key], list[Key]] = ([], [])
        for step, index in enumerate(order):
            width, height = self.shapes[index]
            bucket = buckets[0 if not self.group or width > height else 1]
            bucket.append((step * world + rank, index))
            if len(bucket) == self.batch:
                yield bucket[:]
                bucket.clear()

    def __iter__(self) -> Iterator[Key]:
        for keys in islice(self.batches(), self.start, None):
            yield from keys


class KeyedDataset(Dataset[Any]):
    """Maps ``(position, index)`` to a training example whose augmentation depends on seed and position alone.

    Args:
        dicts: Detectron2's dataset dicts.
        mapper: Detectron2's `DatasetMapper`, whose augmentations draw from numpy's global generator.
        seed: The run's seed.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], mapper: Callable[[Any], Any], seed: int) -> None:
        self.dicts = dicts
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, key: Key) -> Any:
        position, index = key
        numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 (Detectron2's)
        np.random.seed(keyed_seed(self.seed, position))  # noqa: NPY002
        random.seed(keyed_seed(self.seed, position))
        try:
            return self.mapper(self.dicts[index])
        except (OSError, SyntaxError) as error:
            path = self.dicts[index]["file_name"]
            raise UserError(f"{path} is not a readable image: {error}", remedy="restore the file") from error
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def keyed_seed(*parts: int) -> int:
    """A 32-bit seed from several numbers, each change of which gives an unrelated stream."""
    return int(np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1)[0])
