"""Semantic segmentation by retrieval: every map cell takes its label from the most similar labelled cells.

Balazevic et al. 2023 (Hummingbird, arXiv 2306.01667), as vpariza/open-hummingbird-eval computes it. Nothing is
trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..errors import UserError
from ..features import Preprocess
from ..features.maps import GB, rows_of
from . import dense
from .base import Array, Context, Count, Kind, Measured, Positive

if TYPE_CHECKING:
    import torch

    from .dense import Stored

QUERIES = 4096  # cells that are looked up at a time
BANK = 1 << 17  # cells of the memory that are compared at a time


class Params(dense.DenseParams):
    """Parameters of retrieval.

    Runtime overrides: ``search``, ``exact`` or ``faiss`` (an exact index too, where the package is installed), and
    ``memory_gb``, what the memory may take of the machine's.

    Attributes:
        neighbours: Cells that are retrieved.
        temperature: Of the softmax over their cosines.
        memory: Labelled cells that are kept, drawn image by image with rare classes preferred; None keeps all.
        ignored: Ignored pixels are ``left-out`` of a cell's label (and a cell of nothing else out of the memory), or
            count as the ``first-class``, as the authors' code has it on VOC.
    """

    RUNTIME: ClassVar[dict[str, type]] = {**dense.DenseParams.RUNTIME, "search": str, "memory_gb": int}

    neighbours: Count
    temperature: Positive
    memory: Count | None
    ignored: Literal["left-out", "first-class"]

    def smoke(self, limit: int) -> dict[str, Any]:
        """Small squares and few cells."""
        return {"extraction.image_size": 64, "memory": 1000, "train_views.copies": 1}


@dataclass(frozen=True)
class Memory:
    """Labelled cells.

    Attributes:
        keys: (P, D) float32, unit rows.
        labels: (P, C) float32, shares of the cell's pixels.
    """

    keys: torch.Tensor
    labels: torch.Tensor


def shares(mask: Array, grid: tuple[int, int], num_classes: int, ignored: int, first_class: bool) -> Array:
    """Share of each class among the pixels of every cell: (H, W) to (h * w, C); H and W are multiples of h and w.

    A cell that has only ignored pixels is all zeros.
    """
    height, width = mask.shape[0] // grid[0], mask.shape[1] // grid[1]
    cells = mask.reshape(grid[0], height, grid[1], width).transpose(0, 2, 1, 3).reshape(grid[0] * grid[1], -1)
    values = cells.astype(np.int64)
    if first_class:
        values[values == ignored] = 0
    kept = values != ignored
    place = np.arange(len(values))[:, None] * num_classes + values
    counts = np.bincount(place[kept], minlength=len(values) * num_classes).reshape(len(values), num_classes)
    total = counts.sum(1, keepdims=True)
    found: Array = (counts / np.maximum(total, 1)).astype(np.float32)
    return found


def rare_first(labels: Array, number: int, generator: np.random.Generator) -> Array:
    """Cells of an image to keep: those with the smallest product of a random number and how common their classes are.

    How common a class is, is the number of the image's cells that have it; a cell's classes are added up.

    Args:
        labels: (h * w, C) shares.
        number: How many to keep at most; cells without a label are never kept.
        generator: Of the random numbers.
    """
    has = labels > 0
    score = (has * has.sum(0)).sum(1) * generator.random(len(labels))
    usable = np.flatnonzero(has.any(1))
    return usable[np.argsort(score[usable], kind="stable")[:number]]


def remember(
    data: Stored, images: int, num_classes: int, params: Params, seed: int, memory_gb: float
) -> Memory:
    """The memory, from stored maps and masks.

    Raises:
        UserError: If it would take more of the machine's memory than allowed.
    """
    import torch

    assert data.masks is not None
    height, width, dim = data.maps.shape
    copies = len(data.maps) // images
    each = height * width if params.memory is None else max(1, params.memory // (images * copies))
    cells = min(each, height * width) * len(data.maps)
    need = cells * (dim + num_classes) * 4
    if need > memory_gb * GB:
        raise UserError(
            f"the memory of {cells:,} cells takes {need / GB:.1f} GB, allowed are {memory_gb:g}",
            remedy="set memory to fewer cells, or raise memory_gb",
            code=2,
        )
    ignored = int(np.iinfo(data.masks.dtype).max)
    generator = np.random.default_rng(seed)
    keys, labels = [], []
    for row in range(len(data.maps)):
        mask = rows_of(data.masks, [row])[0]
        told = shares(mask, (height, width), num_classes, ignored, params.ignored == "first-class")
        chosen = rare_first(told, each, generator) if each < height * width else np.flatnonzero(told.any(1))
        cell = data.maps.read([row])[0].flatten(1).T
        keys.append(torch.nn.functional.normalize(cell[torch.from_numpy(chosen)], dim=1))
        labels.append(torch.from_numpy(told[chosen]))
    return Memory(torch.cat(keys), torch.cat(labels))


def exact(memory: Memory, neighbours: int, device: torch.device) -> Callable[[torch.Tensor], Any]:
    """A search of unit queries (Q, D): cosines (Q, k) and places (Q, k) of the nearest, block by block."""
    import torch

    def search(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for low in range(0, len(memory.keys), BANK):
            block = memory.keys[low : low + BANK].to(device)
            value, place = (queries @ block.T).topk(min(neighbours, len(block)), dim=1)
            place = place + low
            if best is not None:
                value, place = torch.cat([best[0], value], 1), torch.cat([best[1], place], 1)
                value, chosen = value.topk(min(neighbours, value.shape[1]), dim=1)
                place = place.gather(1, chosen)
            best = value, place
        assert best is not None
        return best

    return search


def indexed(memory: Memory, neighbours: int) -> Callable[[torch.Tensor], Any]:
    """The same through faiss's flat index of inner products.

    Raises:
        UserError: If faiss is not installed.
    """
    import torch

    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "search=faiss needs faiss", remedy="pip install faiss-cpu, or search=exact", code=2
        ) from error
    index = faiss.IndexFlatIP(memory.keys.shape[1])
    index.add(memory.keys.numpy())

    def search(queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, place = index.search(queries.cpu().numpy(), min(neighbours, len(memory.keys)))
        return torch.from_numpy(value).to(queries.device), torch.from_numpy(place).to(queries.device)

    return search


def retriever(memory: Memory, params: Params, device: torch.device, search: str = "exact") -> dense.Scores:
    """From maps (B, D, h, w) to shares of classes (B, C, h, w): the nearest's, weighted by softmax(cosine / T)."""
    import torch

    if search not in ("exact", "faiss"):
        raise UserError(f"search={search}", remedy="it is exact or faiss", code=2)
    number = min(params.neighbours, len(memory.keys))
    nearest = exact(memory, number, device) if search == "exact" else indexed(memory, number)
    known = memory.labels.to(device)

    def scores(maps: torch.Tensor) -> torch.Tensor:
        count, dim, height, width = maps.shape
        cells = torch.nn.functional.normalize(maps.permute(0, 2, 3, 1).reshape(-1, dim), dim=1)
        found = torch.empty(len(cells), known.shape[1], device=device)
        for low in range(0, len(cells), QUERIES):
            cosines, places = nearest(cells[low : low + QUERIES])
            weight = (cosines / params.temperature).softmax(1)
            found[low : low + QUERIES] = torch.einsum("qk,qkc->qc", weight, known[places])
        return found.reshape(count, height, width, -1).permute(0, 3, 1, 2)

    return scores


def measure(context: Context) -> Measured:
    """Remember the training images' cells and retrieve the test images' labels."""
    params: Params = context.params
    runtime = context.protocol.runtime
    test = dense.stored(context, "test", params.test_views)
    side = _label_side(params, test.views.side, test.maps.shape)
    data = dense.stored(context, "train", params.train_views, side)
    images = len(context.data.splits["train"])
    memory = remember(
        data, images, context.data.num_classes, params, context.seed, float(runtime.get("memory_gb", 8))
    )
    scores = retriever(memory, params, context.device, str(runtime.get("search", "exact")))
    found = dense.evaluate(context, test, scores)
    warnings = found.warnings
    if len(memory.keys) < params.neighbours:
        warnings += (
            f"neighbours {params.neighbours} are clamped to the {len(memory.keys)} cells of the memory",
        )
    return replace(
        found, counts=found.counts | {"memory": len(memory.keys)}, selected={"split": None}, warnings=warnings
    )


def _label_side(params: Params, square: int, shape: tuple[int, int, int]) -> int:
    """Side of the masks of training squares: so many pixels for each cell of a map (h, w, C)."""
    return max(1, (params.label_size or square) // shape[0]) * shape[0]


def disk(context: Context) -> dict[str, int]:
    """Bytes of maps and masks that a cell will write."""
    square = Preprocess.of(context.loaded.passport, **context.params.extraction.pixels()).crop
    return dense.disk(context, lambda shape: _label_side(context.params, square, shape))


KIND = Kind(Params, ("segmentation",), measure, disk=disk, family="seg", precision=True)
