"""Maps of frozen backbones in the feature store: patch tokens or a ResNet's maps, in bfloat16, never all in memory.

Disk: a row of (h, w, C) takes 2 h w C bytes; what an extraction will take is told, and refused where there is no
room, before anything is written. Memory: extraction holds a batch and a shard of `SHARD` bytes, reading a batch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..checkpoints import Backbone, Passport, spatial
from ..datasets import Pool
from ..errors import UserError, unknown
from .extraction import ahead, computing_in
from .preprocess import Preprocess
from .store import Entry
from .views import View, Views

if TYPE_CHECKING:
    import torch

Layers = Literal["last", "last+cls", "last4", "res2", "res3", "res4", "res5"]
Told = Callable[[str, int, int], None]
SHARD = 64 << 20  # bytes between two points from which an interrupted extraction goes on
RESERVE = 1 << 30  # bytes that an extraction leaves free on the disk
GB = 10**9
MAPS_GB = 200  # what the maps of a split may take, unless ``maps_gb`` says otherwise


@dataclass(frozen=True)
class Maps:
    """Rows of maps on disk; it reads those that are asked for and keeps none.

    Attributes:
        entry: Where they lie.
        views: (M,) which square of which image each row is; empty for `of_crops`.
        shape: (h, w, C).
    """

    entry: Entry
    views: Sequence[View]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.entry.rows

    def read(self, rows: Sequence[int] | npt.NDArray[Any]) -> torch.Tensor:
        """Some rows: (B, C, h, w) float32."""
        import torch

        bits = rows_of(self.entry, rows)
        found = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()
        return found.permute(0, 3, 1, 2)


def rows_of(entry: Entry, rows: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of an entry, (B, ...) of its type, each read from the file: nothing is mapped into memory."""
    descriptor, shape = entry.stream
    found = np.empty((len(rows), *shape), dtype=entry.dtype)
    width = found[:1].nbytes
    for place, row in enumerate(rows):
        content = os.pread(descriptor, width, int(row) * width)
        if len(content) < width:
            raise UserError(
                f"{entry.data}: ends before row {row}", remedy=f"delete {entry.folder} and run again"
            )
        found[place] = np.frombuffer(content, dtype=entry.dtype).reshape(shape)
    return found


def dense(backbone: Backbone, images: torch.Tensor, layers: Layers) -> torch.Tensor:
    """What dense protocols read off a backbone: (B, 3, H, W), normalised, to (B, C, h, w).

    Args:
        backbone: The backbone.
        images: The images.
        layers: ``last``: patch tokens after the last normalisation, or a ResNet's ``res5``. ``last4``: the patch
            tokens of the last four blocks, or all four maps brought to the size of ``res3``, side by side. Or one map
            by name. ``last+cls``: ``last`` with the class token, or the map's mean, beside every cell.

    Raises:
        UserError: If the network has no such map.
    """
    import torch
    from torch.nn import functional as F

    if layers.startswith("res"):
        maps = backbone.feature_maps(images)
        if layers not in maps:
            raise unknown("map", layers, [*maps, "last", "last+cls", "last4"])
        return maps[layers]
    found = spatial(backbone, images, 4 if layers == "last4" else 1)
    last = found[-1]
    if layers == "last4":
        # Tokens have one size; of a pyramid, that of its second map is a compromise of detail and disk.
        size = found[1].map.shape[-2:]
        parts = [F.interpolate(part.map, size, mode="bilinear", align_corners=False) for part in found]
        return torch.cat(parts, dim=1)
    if layers == "last+cls":
        return _beside(last.map, last.map.mean((2, 3)) if last.cls is None else last.cls)
    return last.map


def _beside(map: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """A vector (B, D) beside every cell of a map (B, C, h, w): (B, C + D, h, w)."""
    import torch

    return torch.cat([map, vector[:, :, None, None].expand(-1, -1, *map.shape[2:])], dim=1)


def extract(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    sizes: npt.NDArray[Any],
    views: Views,
    preprocess: Preprocess,
    layers: Layers,
    *,
    store: Path,
    most_gb: float,
    batch_size: int = 32,
    workers: int = 2,
    progress: Told = lambda what, done, total: None,
) -> Maps:
    """Maps of views of a pool's images; what the store has is not computed again.

    Args:
        backbone: In eval mode, on the device to use.
        passport: Its passport.
        pool: The images.
        sizes: (N, 2) their widths and heights.
        views: Which squares.
        preprocess: Interpolation and normalisation; its sizes are not used.
        layers: As of `dense`.
        store: Root folder of the feature store.
        most_gb: What the maps may take on the disk at most, in units of 10**9 bytes.
        batch_size: Views in a forward.
        workers: Threads that decode; 0 decodes in between.
        progress: Called with what is extracted and how large it is, rows done and rows in all.

    Raises:
        UserError: If the maps are larger than allowed or than the disk, an image cannot be decoded, or a map is not
            finite.
    """
    plan = views.plan(sizes)
    told = _of_views(views, preprocess)
    norm = preprocess.normalization
    mean = norm.pixel_mean if norm.channels == "RGB" else norm.pixel_mean[::-1]
    fill = tuple(round(value) for value in mean)

    def square(row: int) -> npt.NDArray[np.uint8]:
        view = plan[row]
        return view.pixels(pool.read(view.image), views.side, preprocess.interpolation, fill)

    entry, shape = _stored(
        backbone, passport, pool, preprocess, layers, told=told,
        images=[view.image for view in plan], side=views.side, square=square,
        store=store, most_gb=most_gb, batch_size=batch_size, workers=workers, progress=progress,
    )  # fmt: skip
    return Maps(entry, plan, shape)


def of_crops(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    layers: Layers,
    *,
    store: Path,
    most_gb: float,
    batch_size: int = 32,
    workers: int = 2,
    progress: Told = lambda what, done, total: None,
) -> Maps:
    """Maps of a pool's images as classification sees them: a row an image, resized and cropped by the preprocessing.

    Arguments and errors are those of `extract`.
    """
    entry, shape = _stored(
        backbone, passport, pool, preprocess, layers,
        told=_of_crops(preprocess),
        images=range(len(pool)), side=preprocess.crop, square=lambda row: preprocess.image(pool.read(row)),
        store=store, most_gb=most_gb, batch_size=batch_size, workers=workers, progress=progress,
    )  # fmt: skip
    return Maps(entry, (), shape)


def _of_views(views: Views, preprocess: Preprocess) -> dict[str, Any]:
    """What of an entry's identity says which pixels are seen: squares of images."""
    pixels = {k: v for k, v in preprocess.identity().items() if k not in ("resize", "crop", "squash")}
    return {"preprocess": pixels, "views": views.identity()}


def _of_crops(preprocess: Preprocess) -> dict[str, Any]:
    """The same of images as classification sees them."""
    return {"preprocess": preprocess.identity(), "views": None}


def planned(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    layers: Layers,
    *,
    store: Path,
    views: Views | None = None,
    sizes: npt.NDArray[Any] | None = None,
) -> tuple[dict[str, int], tuple[int, int, int]]:
    """What `extract`, or without views `of_crops`, would write, without doing it.

    Arguments are those of `extract`.

    Returns:
        Bytes by the key of what is not stored, and the shape of a row (h, w, C).
    """
    if views is None or sizes is None:
        told, rows, side = _of_crops(preprocess), len(pool), preprocess.crop
    else:
        told, rows, side = _of_views(views, preprocess), len(views.plan(sizes)), views.side
    entry = _entry(passport, pool, layers, told, rows, store)
    shape = _shape(backbone, passport, preprocess, layers, side)
    return {} if entry.whole() else {entry.key: rows * int(np.prod(shape)) * 2}, shape


def _entry(
    passport: Passport, pool: Pool, layers: Layers, told: dict[str, Any], rows: int, store: Path
) -> Entry:
    """Where maps lie."""
    identity: dict[str, Any] = {
        "format": 1,
        "weights": passport.weights_sha256,
        "images": pool.digest,
        "layer": f"maps {layers}",
        "dtype": "bfloat16",
        **told,
    }
    network = {
        name: value for name, value in passport.network.items() if name != "pooling"
    }  # maps are not pooled
    if network:
        identity["network"] = network
    if passport.precision != "float32":
        identity["precision"] = passport.precision
    return Entry(store, identity, rows, "<u2")


def _rows(
    backbone: Backbone,
    passport: Passport,
    preprocess: Preprocess,
    layers: Layers,
    batch: npt.NDArray[Any],
) -> torch.Tensor:
    """Maps (B, h, w, C) float32 of pixels (B, H, W, 3) uint8."""
    import torch

    device = next(iter(backbone.parameters())).device
    with torch.inference_mode(), computing_in(passport.precision, device):
        found = dense(backbone, preprocess.normalise(torch.from_numpy(batch).to(device)), layers)
        return found.permute(0, 2, 3, 1).float().cpu()


def _shape(
    backbone: Backbone, passport: Passport, preprocess: Preprocess, layers: Layers, side: int
) -> tuple[int, int, int]:
    """(h, w, C) of the map of a square."""
    height, width, channels = _rows(
        backbone, passport, preprocess, layers, np.zeros((1, side, side, 3), dtype=np.uint8)
    ).shape[1:]
    return height, width, channels


def _stored(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    layers: Layers,
    *,
    told: dict[str, Any],
    images: Sequence[int],
    side: int,
    square: Callable[[int], npt.NDArray[np.uint8]],
    store: Path,
    most_gb: float,
    batch_size: int,
    workers: int,
    progress: Told,
) -> tuple[Entry, tuple[int, int, int]]:
    """The entry of maps, filled, with the shape of a row.

    Args:
        told: What of the identity says which pixels are seen.
        images: (M,) the image of each row.
        side: Of what the backbone sees.
        square: From a row to its pixels (side, side, 3).
    """
    import torch

    rows = len(images)
    entry = _entry(passport, pool, layers, told, rows, store)

    def batched(batch: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
        found = _rows(backbone, passport, preprocess, layers, batch)
        if not bool(torch.isfinite(found).all()):
            raise UserError(
                f"{pool.paths[images[first]]}: its maps, or one of the next, are not finite",
                remedy="the checkpoint is damaged",
            )
        return found.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)

    with entry.lock():
        os.utime(entry.folder / "lock")  # when it was last used, for `budget.evict`
        if not entry.whole():
            shape = _shape(backbone, passport, preprocess, layers, side)
            need = budget(rows, shape, store, most_gb, f"maps of {pool.name}")
            what = f"maps of {pool.name}, {need / GB:.2f} GB"
            fill_entry(entry, square, batched, batch_size, workers, lambda done: progress(what, done, rows))
        found = entry.shape()
        assert found is not None
        assert entry.stream  # open before the lock goes: whoever deletes the file now does not disturb
        return entry, (found[0], found[1], found[2])


def budget(
    rows: int,
    shape: tuple[int, ...],
    store: Path,
    most_gb: float,
    what: str,
    smaller: str = "a smaller image_size or fewer copies",
) -> int:
    """Bytes that maps will take on the disk; ``smaller`` says how they could be fewer.

    Raises:
        UserError: If that is more than allowed, or more than the disk has free.
    """
    need = rows * int(np.prod(shape)) * 2
    size = f"{what}: {rows:,} rows of {' x '.join(map(str, shape))} in bfloat16 take {need / GB:.2f} GB"
    if need > most_gb * GB:
        raise UserError(
            f"{size}, allowed are {most_gb:g}",
            remedy=f"raise maps_gb, or use {smaller}",
            code=2,
        )
    folder = next(path for path in (store, *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if need > free - RESERVE:
        raise UserError(
            f"{size}, the disk has {max(0, free - RESERVE) / GB:.2f} GB to give",
            remedy=f"make room, use another store, or {smaller}",
        )
    return need


def fill_entry(
    entry: Entry,
    one: Callable[[int], npt.NDArray[Any]],
    batched: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]],
    batch_size: int,
    workers: int,
    done: Callable[[int], None] = lambda rows: None,
) -> None:
    """Make what an entry lacks and keep it shard by shard.

    Args:
        entry: Locked by the caller.
        one: From a row to what is decoded for it.
        batched: From a batch of these and its first row to rows of the entry.
        batch_size: Rows in a batch.
        workers: Threads that decode.
        done: Called with the rows that are made.
    """
    pending: list[npt.NDArray[Any]] = []
    written = position = entry.begin()
    for batch in ahead(one, range(position, entry.rows), batch_size, workers):
        pending.append(batched(batch, position))
        position += len(batch)
        done(position)
        if sum(part.nbytes for part in pending) >= SHARD or position == entry.rows:
            entry.append(written, np.concatenate(pending))
            pending, written = [], position


def label_entry(
    views: Views, rows: int, identity: dict[str, Any], num_classes: int, side: int, *, store: Path
) -> Entry:
    """Where masks lie, whether they are there already or not; arguments are those of `labels`."""
    told = {"format": 1, "layer": "masks", "masks": identity, "views": views.identity(), "side": side}
    return Entry(store, told, rows, "|u1" if num_classes < 255 else "<u2")


def labels(
    views: Views,
    plan: Sequence[View],
    read: Callable[[int], npt.NDArray[Any]],
    identity: dict[str, Any],
    num_classes: int,
    side: int,
    *,
    store: Path,
    workers: int = 2,
) -> Entry:
    """The views' masks in the store, shared by all checkpoints: rows of (side, side), the largest value is ignored.

    Args:
        views: Which squares.
        plan: The squares.
        read: Mask of an image, (H, W), a class or a negative number where ignored.
        identity: What stands for the masks' content.
        num_classes: C; classes from 255 on take two bytes a pixel.
        side: Of the stored masks; the views' own or smaller, by nearest neighbours.
        store: Root folder of the feature store.
        workers: Threads that decode.
    """
    from PIL import Image

    entry = label_entry(views, len(plan), identity, num_classes, side, store=store)
    dtype = entry.dtype
    ignored = np.iinfo(dtype).max

    def one(row: int) -> npt.NDArray[Any]:
        view = plan[row]
        mask = read(view.image).astype(np.int32)
        mask[mask < 0] = ignored
        square = view.labels(mask, views.side, int(ignored))
        if side != views.side:
            smaller = Image.fromarray(square).resize((side, side), Image.Resampling.NEAREST)
            square = np.asarray(smaller)
        return square.astype(dtype)

    with entry.lock():
        os.utime(entry.folder / "lock")
        if not entry.whole():
            fill_entry(entry, one, lambda batch, first: batch, 64, workers)
        assert entry.stream
    return entry
