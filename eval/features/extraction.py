"""Features of a split: what the store lacks is decoded and forwarded, once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from filelock import Timeout

from ..checkpoints import Backbone, Passport
from ..checkpoints.pooling import check
from ..datasets import Pool, Split
from ..errors import UserError
from .matrices import COPY, Features, Rows, take
from .preprocess import Preprocess
from .store import SHARD, Entry

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]


def extract(
    backbone: Backbone,
    passport: Passport,
    split: Split,
    *,
    store: str | Path,
    together: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 64,
    image_size: int | None = None,
    resize: float | None = None,
    squash: bool | str = False,
    interpolation: str | None = None,
    normalization: str | None = None,
    pooling: str = "average",
    workers: int = 2,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Features:
    """Features of a split; images that another split, task or run has extracted are not decoded again.

    Args:
        backbone: In eval mode, on the device to use.
        passport: Its passport: weights' hash, normalisation, input size, interpolation.
        split: The images.
        store: Root folder of the feature store.
        together: Further features to store from the same forward, see `Loaded.together`.
        batch_size: Images in a forward.
        image_size: Side of the input in pixels; the checkpoint's own when None.
        resize: Short side before the centre crop: pixels, or a multiple of the crop when below 8.
        squash: As of `Preprocess.of`.
        interpolation: The checkpoint's own when None.
        normalization: The checkpoint's own when None, see `Preprocess.of`.
        pooling: As of `pooled`.
        workers: Threads that decode; 0 decodes in between.
        dtype: "float32", or "bfloat16" for a forward under autocast; stored as float32 either way. The passport's
            precision when None.
        progress: Called with rows done and rows in all.

    Returns:
        (N, D) float32 in the split's order: memory-mapped where the split is a whole pool, a copy where it is a
        part of one, and `Rows` on disk where either is large.

    Raises:
        UserError: If an image cannot be decoded, the store cannot be written, or features are not finite.
    """
    found = extract_pool(
        backbone,
        passport,
        split.pool,
        Preprocess.of(
            passport,
            image_size=image_size,
            resize=resize,
            squash=squash,
            interpolation=interpolation,
            normalization=normalization,
        ),
        store=store,
        together=together,
        pooling=pooling,
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        progress=progress,
    )
    if len(split) == len(split.pool) and np.array_equal(split.rows, np.arange(len(split))):
        return found if found.nbytes <= COPY else Rows([(found, None)])
    return take(found, split.rows)


def extract_pool(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    *,
    store: str | Path,
    together: Mapping[str, Mapping[str, Any]] | None = None,
    pooling: str = "average",
    batch_size: int = 64,
    workers: int = 2,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """Features of every image of a pool; arguments and errors are those of `extract`.

    Returns:
        (N, D) float32, memory-mapped and read-only, rows in the pool's order.
    """
    dtype = dtype or passport.precision
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"features in '{dtype}'", remedy="choose float32 or bfloat16", code=2)
    if not len(pool):
        raise UserError(f"{pool.name}: holds no images", remedy="add images")
    place = entry(passport, pool, preprocess, store, pooling, dtype)
    with place.lock():
        os.utime(place.folder / "lock")  # when it was last used, for `budget.evict`
        if not place.whole():
            others = {
                choice: entry(
                    replace(passport, network=dict(network)), pool, preprocess, store, pooling, dtype
                )
                for choice, network in (together or {}).items()
                if pooling == "average"
            }
            with ExitStack() as locks:
                for choice in list(others):
                    try:  # what another process works on is left to it
                        locks.enter_context(others[choice].lock().acquire(timeout=0))
                    except Timeout:
                        del others[choice]
                others = {choice: other for choice, other in others.items() if not other.whole()}
                _fill(
                    place, others, backbone, pool, preprocess, pooling, batch_size, workers, dtype, progress
                )
        return place.read()


def entry(
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    store: str | Path,
    pooling: str = "average",
    dtype: str | None = None,
) -> Entry:
    """Where a pool's features lie in the store, whether they are there already or not."""
    identity: dict[str, Any] = {
        "format": 1,
        "weights": passport.weights_sha256,
        "preprocess": preprocess.identity(),
        "images": pool.digest,
        "layer": "features" if pooling == "average" else pooling,
        "dtype": dtype or passport.precision,
    }
    if passport.network:  # the same tensors compute something else
        identity["network"] = passport.network
    return Entry(Path(store), identity, len(pool))


def computing_in(precision: str, device: torch.device) -> Any:
    """A context for a forward: torch's autocast for "bfloat16", nothing for "float32"."""
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def pooled(backbone: Backbone, images: torch.Tensor, pooling: str = "average") -> torch.Tensor:
    """What is read off a backbone: (B, D).

    Args:
        backbone: The backbone.
        images: (B, 3, H, W), normalised.
        pooling: "average" for the backbone's own features; "last4+mean" for that feature of a transformer, whatever
            its own is; "res5-6x6" for the last feature map averaged over 6 x 6 windows at stride 1 and flattened,
            channel by channel (VISSL: 8192 numbers of a ResNet-50 at 224 px).

    Raises:
        UserError: If the pooling is unknown, the network has none of that name, or the feature map is smaller than a
            window.
    """
    import torch

    if pooling == "average":
        return backbone.features(images)
    if pooling == "last4+mean":
        arch: Any = getattr(backbone, "arch", "it")
        check(pooling, getattr(backbone, "choices", ("avg",)), getattr(arch, "name", arch))
        of_transformer: Any = backbone
        parts: torch.Tensor = of_transformer.pooled(images, [pooling])[pooling]
        return parts
    if pooling != "res5-6x6":
        raise UserError(
            f"pooling '{pooling}' is not known", remedy="it is average, last4+mean or res5-6x6", code=2
        )
    found = backbone.feature_maps(images)["res5"]
    if min(found.shape[2:]) < 6:
        raise UserError(
            f"the last feature map of {images.shape[-1]} px is {found.shape[2]} x {found.shape[3]}, a window 6 x 6",
            remedy="use 192 px or more, or a protocol on average-pooled features",
            code=2,
        )
    result: torch.Tensor = torch.nn.functional.avg_pool2d(found, 6, stride=1).flatten(1)
    return result


def _fill(
    entry: Entry,
    others: dict[str, Entry],
    backbone: Backbone,
    pool: Pool,
    preprocess: Preprocess,
    pooling: str,
    batch_size: int,
    workers: int,
    dtype: str,
    progress: Progress | None,
) -> None:
    """Forward what an entry lacks, and keep it shard by shard; with it other features that lack as much."""
    import torch

    device = next(iter(backbone.parameters())).device
    context = computing_in(dtype, device)
    written = position = entry.begin()
    others = {choice: other for choice, other in others.items() if other.begin() == position}
    entries = {"": entry, **others}
    pending: dict[str, list[npt.NDArray[np.float32]]] = {choice: [] for choice in entries}
    for batch in batches(pool, preprocess, position, batch_size, workers):
        with torch.inference_mode(), context:
            images = preprocess.normalise(torch.from_numpy(batch).to(device, non_blocking=True))
            found = _forward(backbone, images, pooling, list(others))
        for choice, tensor in found.items():
            rows = tensor.float().cpu().numpy()
            if not np.isfinite(rows).all():
                bad = position + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
                raise UserError(
                    f"{pool.paths[bad]}: its features are not finite",
                    remedy="the checkpoint is damaged, or use dtype float32",
                )
            pending[choice].append(rows)
        position += len(batch)
        if progress:
            progress(position, len(pool))
        if position - written >= SHARD or position == len(pool):
            for choice, place in entries.items():
                place.append(written, np.concatenate(pending[choice]))
                pending[choice] = []
            written = position


def _forward(backbone: Any, images: torch.Tensor, pooling: str, others: list[str]) -> dict[str, torch.Tensor]:
    """The backbone's own feature under "", and others by name, from one forward."""
    if not others:
        return {"": pooled(backbone, images, pooling)}
    found: dict[str, torch.Tensor] = backbone.pooled(images, [backbone.pooling, *others])
    found[""] = found.pop(backbone.pooling)
    return found


def batches(pool: Pool, preprocess: Preprocess, start: int, batch_size: int, workers: int) -> Iterator[Any]:
    """Decoded batches (B, H, W, 3) uint8 from row ``start`` on, decoded ahead by ``workers`` threads."""
    return ahead(
        lambda index: preprocess.image(pool.read(index)), range(start, len(pool)), batch_size, workers
    )


def ahead(
    one: Callable[[int], npt.NDArray[Any]], rows: range, batch_size: int, workers: int
) -> Iterator[npt.NDArray[Any]]:
    """Batches (B, ...) of what a function gives for each row, made ahead by ``workers`` threads.

    PIL releases the interpreter's lock while it decodes and resizes, so threads do it in parallel.
    """
    chunks = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    if workers == 0:
        for chunk in chunks:
            yield np.stack([one(index) for index in chunk])
        return
    with ThreadPoolExecutor(workers) as executor:
        most = max(2, -(-2 * workers // batch_size))  # batches decoded while the backbone works
        waiting: list[list[Future[npt.NDArray[Any]]]] = []
        try:
            for chunk in chunks:
                waiting.append([executor.submit(one, index) for index in chunk])
                if len(waiting) > most:
                    yield np.stack([future.result() for future in waiting.pop(0)])
            while waiting:
                yield np.stack([future.result() for future in waiting.pop(0)])
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
