"""Features of frozen backbones: every image is decoded and forwarded once and read from disk ever after.

A folder of the store holds the features of one pool of images under one backbone and one preprocessing:

    <store>/<key[:2]>/<key>/meta.json       what the key is made of
    <store>/<key[:2]>/<key>/shards.jsonl    a line a finished shard: rows and the SHA-256 of their bytes
    <store>/<key[:2]>/<key>/features.bin    (N, D) float32, little-endian

The key covers the weights, the preprocessing, the images' content, the layer and the precision. Extraction goes on
after the last finished shard; a lock keeps a second process waiting for the first.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image

from mast.files import atomic_write, canonical_json

from ..datasets import Pool, Split
from ..errors import UserError
from .matrices import COPY, Features, Rows, take

if TYPE_CHECKING:
    import torch

SHARD = 4096  # rows between two points from which an interrupted extraction goes on
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Progress = Callable[[int, int], None]


class Passport(Protocol):
    """The part of a checkpoint's passport that features depend on."""

    @property
    def weights_sha256(self) -> str: ...
    @property
    def normalization(self) -> dict[str, Any]: ...
    @property
    def input_size(self) -> int: ...
    @property
    def interpolation(self) -> str: ...


class Backbone(Protocol):
    """What extraction needs of a backbone."""

    def features(self, images: torch.Tensor) -> torch.Tensor: ...
    def feature_maps(self, images: torch.Tensor) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Preprocess:
    """From an image to what the backbone saw in training: resize, centre crop, scale, normalise.

    Attributes:
        resize: Length of the short side after resizing, in pixels.
        crop: Side of the central square, in pixels.
        interpolation: "bicubic" or "bilinear", PIL's, with its antialiasing.
        squash: Resize to a square of side ``resize`` instead, ignoring the aspect ratio.
        mean: Per channel, in the units of ``scale``.
        std: Per channel.
        scale: "0..1" or "0..255".
        channels: "RGB" or "BGR".
    """

    resize: int
    crop: int
    interpolation: str
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: str
    channels: str

    @classmethod
    def of(
        cls,
        passport: Passport,
        *,
        image_size: int | None = None,
        resize: float | None = None,
        squash: bool = False,
    ) -> Preprocess:
        """The checkpoint's own preprocessing at a size.

        Args:
            passport: The checkpoint's.
            image_size: Side of the crop; the checkpoint's input size when None.
            resize: Short side before the crop: pixels, or a multiple of the crop when below 8 (256/224);
                the crop's side when None, as Kornblith et al. do.
            squash: Resize to a square before the crop.

        Raises:
            UserError: If the passport or the sizes make no sense.
        """
        norm = passport.normalization
        crop = image_size or passport.input_size
        short = crop if resize is None else round(resize * crop if resize < 8 else resize)
        scale, channels = norm.get("range", "0..1"), norm.get("channels", "RGB")
        if passport.interpolation not in RESAMPLING or scale not in ("0..1", "0..255"):
            raise UserError(
                f"preprocessing '{passport.interpolation}' on {scale} is not known",
                remedy="interpolation is bicubic or bilinear, the range 0..1 or 0..255",
            )
        if channels not in ("RGB", "BGR"):
            raise UserError(f"channel order '{channels}' is not known", remedy="it is RGB or BGR")
        if not 1 <= crop <= short:
            raise UserError(
                f"a crop of {crop} px out of {short} px", remedy="resize to at least the crop", code=2
            )
        mean, std = tuple(map(float, norm["mean"])), tuple(map(float, norm["std"]))
        return cls(short, crop, passport.interpolation, squash, mean, std, scale, channels)

    def image(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop with PIL exactly as torchvision's Resize and CenterCrop do on PIL images.

        Returns:
            (crop, crop, 3) uint8, RGB.
        """
        width, height = image.size
        short = min(width, height)
        if self.squash:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / short))
        else:
            size = (int(self.resize * width / short), self.resize)
        if size != image.size:
            image = image.resize(size, RESAMPLING[self.interpolation])
        left, top = round((size[0] - self.crop) / 2.0), round((size[1] - self.crop) / 2.0)
        if size != (self.crop, self.crop):
            image = image.crop((left, top, left + self.crop, top + self.crop))
        return np.asarray(image, dtype=np.uint8)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) float32, on the images' device."""
        import torch

        pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        if self.scale == "0..1":
            pixels = pixels / 255
        if self.channels == "BGR":
            pixels = pixels.flip(1)
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (pixels - mean) / std


def _batches(pool: Pool, preprocess: Preprocess, start: int, batch_size: int, workers: int) -> Iterator[Any]:
    """Decoded batches (B, H, W, 3) uint8 from row ``start`` on, decoded ahead by ``workers`` threads.

    PIL releases the interpreter's lock while it decodes and resizes, so threads do it in parallel.
    """

    def one(index: int) -> npt.NDArray[np.uint8]:
        return preprocess.image(pool.read(index))

    chunks = [range(i, min(i + batch_size, len(pool))) for i in range(start, len(pool), batch_size)]
    if workers == 0:
        for chunk in chunks:
            yield np.stack([one(index) for index in chunk])
        return
    with ThreadPoolExecutor(workers) as executor:
        ahead = max(2, -(-2 * workers // batch_size))  # batches decoded while the backbone works
        waiting: list[list[Future[npt.NDArray[np.uint8]]]] = []
        try:
            for chunk in chunks:
                waiting.append([executor.submit(one, index) for index in chunk])
                if len(waiting) > ahead:
                    yield np.stack([future.result() for future in waiting.pop(0)])
            while waiting:
                yield np.stack([future.result() for future in waiting.pop(0)])
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _device_of(backbone: Any) -> Any:
    import torch

    parameters = getattr(backbone, "parameters", None)
    first = next(iter(parameters()), None) if parameters else None
    return first.device if first is not None else torch.device("cpu")


@dataclass(frozen=True)
class _Shard:
    start: int
    stop: int
    sha256: str


class _Entry:
    """One folder of the store."""

    def __init__(self, store: Path, identity: dict[str, Any], rows: int) -> None:
        self.identity = identity
        self.rows = rows
        self.key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:40]
        self.folder = store / self.key[:2] / self.key
        self.data = self.folder / "features.bin"
        self.shards_file = self.folder / "shards.jsonl"
        self.meta = self.folder / "meta.json"

    def lock(self) -> FileLock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be created: {error.strerror}", remedy="choose another folder"
            ) from error
        return FileLock(self.folder / "lock")

    def dim(self) -> int | None:
        if not self.meta.is_file():
            return None
        try:
            return int(json.loads(self.meta.read_text(encoding="utf-8"))["dim"])
        except (ValueError, KeyError):
            return None  # an unreadable header is as good as none: the entry is extracted anew

    def finished(self, dim: int) -> int:
        """Rows whose shards are on disk and unchanged, counted from the first."""
        if not (self.shards_file.is_file() and self.data.is_file()):
            return 0
        done = 0
        size = self.data.stat().st_size
        with self.data.open("rb") as data:
            for line in self.shards_file.read_text(encoding="utf-8").splitlines():
                try:
                    shard = _Shard(**json.loads(line))
                except (ValueError, TypeError):
                    break  # a line that an interruption cut short
                if shard.start != done or shard.stop * dim * 4 > size:
                    break
                data.seek(shard.start * dim * 4)
                if (
                    hashlib.sha256(data.read((shard.stop - shard.start) * dim * 4)).hexdigest()
                    != shard.sha256
                ):
                    break
                done = shard.stop
        return done

    def read(self, dim: int) -> npt.NDArray[np.float32]:
        return np.memmap(self.data, dtype="<f4", mode="r", shape=(self.rows, dim))


_verified: dict[
    str, tuple[int, int]
] = {}  # entry folder -> size and time of the file when it was last verified


def extract_pool(
    backbone: Backbone,
    passport: Passport,
    pool: Pool,
    preprocess: Preprocess,
    *,
    store: str | Path,
    layers: Sequence[str] = ("features",),
    batch_size: int = 64,
    workers: int = 2,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Features of every image of a pool, one pass for all layers asked for.

    Args:
        backbone: In eval mode, on the device to use.
        passport: Its passport.
        pool: The images.
        preprocess: How images become input.
        store: Root folder of the store.
        layers: "features", or a key of the backbone's feature maps, which is averaged over space.
        batch_size: Images in a forward.
        workers: Threads that decode; 0 decodes in between.
        dtype: "float32", or "bfloat16" for a forward under autocast; stored as float32 either way.
        progress: Called with rows done and rows in all.

    Returns:
        For each layer (N, D) float32, memory-mapped and read-only, rows in the pool's order.

    Raises:
        UserError: If an image cannot be decoded, the store cannot be written, or features are not finite.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"features in '{dtype}'", remedy="choose float32 or bfloat16", code=2)
    if not len(pool):
        raise UserError(f"{pool.name}: holds no images", remedy="add images")
    entries = {}
    for layer in layers:
        identity = {
            "format": 1,
            "weights": passport.weights_sha256,
            "preprocess": asdict(preprocess),
            "images": pool.digest,
            "layer": layer,
            "dtype": dtype,
        }
        entries[layer] = _Entry(Path(store), identity, len(pool))
    results: dict[str, npt.NDArray[np.float32]] = {}
    missing: dict[str, _Entry] = {}
    locks = [entry.lock() for _, entry in sorted(entries.items(), key=lambda item: item[1].key)]
    try:
        for lock in locks:
            lock.acquire()
        for layer, entry in entries.items():
            os.utime(entry.folder / "lock")  # when it was last used, for `budget.evict`
            dim = entry.dim()
            if dim is None:
                missing[layer] = entry
                continue
            status = entry.data.stat() if entry.data.is_file() else None
            stamp = (status.st_size, status.st_mtime_ns) if status else (0, 0)
            if _verified.get(str(entry.folder)) == stamp or entry.finished(dim) == len(pool):
                _verified[str(entry.folder)] = stamp
                results[layer] = entry.read(dim)
            else:
                missing[layer] = entry
        if missing:
            _extract(backbone, pool, preprocess, missing, batch_size, workers, dtype, progress)
            for layer, entry in missing.items():
                results[layer] = entry.read(entry.dim() or 0)
    finally:
        for lock in locks:
            lock.release()
    return {layer: results[layer] for layer in layers}


def _extract(
    backbone: Backbone,
    pool: Pool,
    preprocess: Preprocess,
    entries: dict[str, _Entry],
    batch_size: int,
    workers: int,
    dtype: str,
    progress: Progress | None,
) -> None:
    import torch

    device = _device_of(backbone)
    dims = {layer: entry.dim() for layer, entry in entries.items()}
    starts = {layer: 0 if dim is None else entries[layer].finished(dim) for layer, dim in dims.items()}
    start = min(starts.values())
    context: Any = torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    pending: dict[str, list[npt.NDArray[np.float32]]] = {layer: [] for layer in entries}
    position, written = start, start
    for entry in entries.values():
        # Whatever follows the last good shard is written again.
        lines = entry.shards_file.read_text(encoding="utf-8").splitlines() if start else []
        kept = [line for line in lines if _stop(line) <= start]
        with atomic_write(entry.shards_file) as file:
            file.writelines(line + "\n" for line in kept)
        if start == 0:
            entry.data.write_bytes(b"")
    for batch in _batches(pool, preprocess, start, batch_size, workers):
        with torch.inference_mode(), context:
            images = preprocess.normalise(torch.from_numpy(batch).to(device, non_blocking=True))
            outputs: dict[str, torch.Tensor] = {}
            if "features" in entries:
                outputs["features"] = backbone.features(images)
            if set(entries) - {"features"}:
                maps = backbone.feature_maps(images)
                for layer in set(entries) - {"features"}:
                    if layer not in maps:
                        raise UserError(
                            f"the backbone has no layer '{layer}'", remedy=f"it has {', '.join(maps)}", code=2
                        )
                    outputs[layer] = maps[layer].float().mean((2, 3))
        for layer, output in outputs.items():
            rows = output.float().cpu().numpy()
            if not np.isfinite(rows).all():
                bad = position + int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
                raise UserError(
                    f"{pool.paths[bad]}: its {layer} are not finite",
                    remedy="the checkpoint is damaged, or use dtype float32",
                )
            pending[layer].append(rows)
        position += len(batch)
        if progress:
            progress(position, len(pool))
        if position - written >= SHARD or position == len(pool):
            for layer, entry in entries.items():
                rows = np.ascontiguousarray(np.concatenate(pending[layer]), dtype="<f4")
                if entry.dim() is None:
                    with atomic_write(entry.meta) as file:
                        file.write(
                            canonical_json({**entry.identity, "dim": rows.shape[1], "rows": len(pool)})
                        )
                with entry.data.open("r+b") as file:
                    file.seek(written * rows.shape[1] * 4)
                    file.write(rows.data)
                    file.truncate()
                    file.flush()
                    os.fsync(file.fileno())
                shard = _Shard(written, position, hashlib.sha256(rows.data).hexdigest())
                with entry.shards_file.open("a", encoding="utf-8") as file:
                    file.write(canonical_json(asdict(shard)) + "\n")
                pending[layer] = []
            written = position


def _stop(line: str) -> int:
    try:
        return int(json.loads(line)["stop"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62


def extract(
    backbone: Backbone,
    passport: Passport,
    split: Split,
    *,
    store: str | Path,
    batch_size: int = 64,
    image_size: int | None = None,
    resize: float | None = None,
    squash: bool = False,
    layer: str = "features",
    workers: int = 2,
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Features:
    """Features of a split; images that another split, task or run has extracted are not decoded again.

    Args:
        backbone: In eval mode, on the device to use.
        passport: Its passport: weights' hash, normalisation, input size, interpolation.
        split: The images.
        store: Root folder of the feature store.
        batch_size: Images in a forward.
        image_size: Side of the input in pixels; the checkpoint's own when None.
        resize: Short side before the centre crop: pixels, or a multiple of the crop when below 8.
        squash: Resize to a square, ignoring the aspect ratio.
        layer: "features", or a feature map's name, averaged over space.
        workers: Threads that decode.
        dtype: "float32" or "bfloat16": the precision of the forward.
        progress: Called with rows done and rows in all.

    Returns:
        (N, D) float32 in the split's order: memory-mapped where the split is a whole pool, a copy where it is a
        part of one, and `Rows` on disk where either is large.

    Raises:
        UserError: If an image cannot be decoded or the store cannot be written.
    """
    preprocess = Preprocess.of(passport, image_size=image_size, resize=resize, squash=squash)
    found = extract_pool(
        backbone,
        passport,
        split.pool,
        preprocess,
        store=store,
        layers=(layer,),
        batch_size=batch_size,
        workers=workers,
        dtype=dtype,
        progress=progress,
    )[layer]
    if len(split) == len(split.pool) and np.array_equal(split.rows, np.arange(len(split))):
        return found if found.nbytes <= COPY else Rows([(found, None)])
    return take(found, split.rows)
