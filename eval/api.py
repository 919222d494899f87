"""The Python API, for notebooks and other programs; ``docs/python.md`` shows each function at work."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt
from PIL import Image

from mast.files import canonical_json
from mast.images import walk

from . import checkpoints, features
from .checkpoints import Backbone, Passport
from .datasets import Pool, decode
from .device import device as best_device
from .errors import UserError
from .results import records

if TYPE_CHECKING:
    import pandas as pd

    from .checkpoints.reading import Said

Place = str | os.PathLike[str]
Images = Place | Sequence[Place | Image.Image] | npt.NDArray[np.uint8]


def load_backbone(ref: str, *, device: str | None = None, **said: Unpack[Said]) -> tuple[Backbone, Passport]:
    """Load a checkpoint; every tensor of the backbone is filled from the file, or this fails.

    Args:
        ref: A file, a name from ``mast list checkpoints``, ``hf://owner/name``, ``timm:name``, or
            ``random:ARCH[@SEED]`` for random weights.
        device: Where to put the backbone; the GPU if there is one, when None.
        **said: What you know about the file, which overrules it: ``layout``, ``arch``, ``key``, ``prefix``,
            ``heads``, ``input_size``, ``normalization``, ``interpolation``, ``features``; ``precision="bf16"`` for
            features in bfloat16; ``trust_pickle=True`` lets the file run its own code.

    Returns:
        The backbone, in evaluation mode and without gradients, and its passport. ``backbone.features(images)``
        gives (B, D), ``backbone.feature_maps(images)`` a dict of ``res2`` to ``res5``; both take normalised images
        (B, 3, H, W). ``backbone.passport`` is the passport too, so that `extract` finds it.

    Raises:
        UserError: If the file cannot be found or read, or leaves a tensor of the backbone unfilled.
    """
    loaded = checkpoints.load(ref, **said)
    backbone = loaded.backbone.to(device or str(best_device()))
    object.__setattr__(backbone, "passport", loaded.passport)  # beside torch's own attributes
    return backbone, loaded.passport


def extract(
    backbone: str | Backbone,
    images: Images,
    *,
    passport: Passport | None = None,
    image_size: int | None = None,
    resize: float | None = None,
    squash: bool = False,
    batch_size: int = 64,
    workers: int = 2,
    dtype: str | None = None,
    store: Place | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Features of images, prepared as the checkpoint's passport says.

    Args:
        backbone: What `load_backbone` gave, or a reference that it takes.
        images: A folder (every image below it, sorted by path), one image file, a list of files or PIL images, or
            an array (N, H, W, 3) uint8 in RGB.
        passport: Needed for a network that `load_backbone` did not give.
        image_size: Side of the input in pixels; the passport's when None.
        resize: Short side before the centre crop: pixels, or a multiple of ``image_size`` when below 8; the crop's
            own side when None.
        squash: Resize to a square, which changes the aspect ratio.
        batch_size: Images in one forward pass.
        workers: Threads that decode.
        dtype: What the network computes in: "float32", or "bfloat16" where the device is quick at it; what
            ``load_backbone(ref, precision=...)`` said when None.
        store: A folder that keeps the features; images in it are not forwarded again.
        progress: Called with the number of images done and in all.

    Returns:
        (N, D) float32, a row for each image.

    Raises:
        UserError: If there are no images, one cannot be decoded, or the passport is missing.
    """
    if isinstance(backbone, str):
        backbone, passport = load_backbone(backbone)
    passport = passport or getattr(backbone, "passport", None)
    if passport is None:
        raise UserError(
            "this network has no passport, so nobody knows how to prepare images for it",
            remedy="load it with load_backbone, or give passport=",
            code=2,
        )
    passport.refuse_guesses()
    preprocess = features.Preprocess.of(passport, image_size=image_size, resize=resize, squash=squash)
    with tempfile.TemporaryDirectory() as scratch:
        found = features.extract_pool(
            backbone,
            passport,
            _pool(images),
            preprocess,
            store=Path(store or scratch),
            batch_size=batch_size,
            workers=workers,
            dtype=dtype,
            progress=progress,
        )
        return np.array(found)


def evaluate(
    ref: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] = (),
    protocols: str | Sequence[str] = (),
    *,
    data_root: Place | None = None,
    out: Place | None = None,
    features: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]] | None = None,
    metric: str = "",
    seeds: Sequence[int] = (0,),
    overrides: Mapping[str, Any] | None = None,
    layout: str | None = None,
    arch: str | None = None,
    trust_pickle: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure checkpoints on tasks, as ``mast eval`` does, or protocols on arrays of your own.

    Args:
        ref: A checkpoint as `load_backbone` takes it, or several, each ``REF`` or ``NAME=REF``. Random weights take
            the preprocessing of the first other one. None with ``features``.
        tasks: Names of tasks, or their files. None with ``features``.
        protocols: Names of protocols, or their files; each task's default when empty, ``linear`` with ``features``.
        data_root: The folder that holds the data sets.
        out: The run's folder, which keeps records and features: what is done there is not run again. Without it
            nothing is kept.
        features: Instead of checkpoints and tasks: (features (N, D), labels) of train, val and test, or of train and
            test; val is then a fifth of train. Labels are (N,) classes, or (N, C) of 0 and 1.
        metric: With ``features``, the metric to report: top1 for classes and map11 for several labels, when empty.
        seeds: Evaluation seeds.
        overrides: Changes to the protocols' parameters.
        layout, arch, trust_pickle: As for `load_backbone`.
        progress: Show progress on standard error.

    Returns:
        One row for each metric of each cell, with the columns of `read_records`.

    Raises:
        UserError: For an unknown name, missing data, or a cell that failed; the other cells' results are in ``out``.
    """
    from .results import frames

    names = _texts(protocols)
    if features is not None:
        if ref is not None or _texts(tasks) or data_root is not None:
            raise UserError(
                "features came with a checkpoint, tasks or data_root", remedy="give one or the other", code=2
            )
        return frames.of_measurements(
            _on_arrays(features, names or ("linear",), metric, seeds, overrides or {})
        )
    if ref is None or not _texts(tasks) or data_root is None:
        raise UserError("evaluate needs ref, tasks and data_root, or features", code=2)
    from .running import request

    plan = request.plan(
        request.Request(
            checkpoints=_texts(ref),
            tasks=_texts(tasks),
            protocols=names,
            seeds=tuple(seeds),
            overrides=overrides or {},
            reading={"layout": layout, "arch": arch, "trust_pickle": trust_pickle},
        )
    )
    from .running.local import Runner

    with tempfile.TemporaryDirectory() as scratch:
        runner = Runner(plan, data_root=Path(data_root), out=Path(out or scratch), progress=progress)
        summary = runner.run()
        if summary.failed:
            raise UserError(
                f"{summary.failed} of {len(plan.cells)} cells failed: {next(iter(summary.errors))}"
            )
        asked, order = (
            {source.name for source in plan.sources},
            {key: at for at, key in enumerate(runner.ran)},
        )
        book = records.read([runner.folder.records])
        found = [r for r in book.counting() if r.run_id in order and r.checkpoint.name in asked]
    return frames.of_records(sorted(found, key=lambda record: order[record.run_id]))


def compare(
    place: Place | Iterable[Place],
    *pairs: tuple[str, str],
    metrics: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compare checkpoints on the same test examples, or methods over pretraining seeds.

    Args:
        place: A run's folder or a record file, or several.
        *pairs: Two names each, the first against the second: checkpoints, or methods whose checkpoints are called
            ``NAME-SEED``.
        metrics: What to compare; each task's own metric when empty.
        groups: Names for sets of tasks; the mean over each set is compared too.

    Returns:
        One row for each task and pair: ``task``, ``tasks`` (how many it is the mean of), ``protocol``, ``metric``,
        ``first``, ``second``, their means, ``difference``, its 95 % interval ``low`` to ``high``, ``p`` and ``over``
        (what the pairs are over). Values are fractions.

    Raises:
        UserError: If a name is in no record, or no task has both sides of a pair.
    """
    from .results import compare as comparing
    from .results import frames

    found = comparing.build(records.read(_places(place)), pairs, metrics=metrics, groups=groups)
    if not found.lines:
        raise UserError("no task has both sides of a pair", remedy="read_records shows what was measured")
    return frames.of_comparison(found)


def read_records(place: Place | Iterable[Place]) -> pd.DataFrame:
    """The results of runs.

    Args:
        place: A run's folder or a record file, or several.

    Returns:
        One row for each metric of each completed record; of the records of one run id the latest counts. The columns
        are those of `eval.results.frames.COLUMNS`; ``headline`` marks the metric that stands in tables. Values are
        fractions.

    Raises:
        UserError: If there is no such place, or a line is no valid record.
    """
    from .results import frames

    return frames.of_records(records.read(_places(place)).counting())


def _places(place: Place | Iterable[Place]) -> list[Path]:
    return [Path(place)] if isinstance(place, str | os.PathLike) else [Path(each) for each in place]


def _texts(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _on_arrays(
    parts: Sequence[tuple[Any, Any]],
    names: Sequence[str],
    metric: str,
    seeds: Sequence[int],
    overrides: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """A row for each metric of each protocol and seed."""
    from . import protocols
    from .numbers.intervals import Interval
    from .running import arrays

    data = arrays.arrays(parts)
    chosen = [protocols.get(name).override(overrides) for name in names]
    for protocol in chosen:
        for seed in seeds:
            headline, measured = arrays.measure(data, protocol, metric=metric, seed=seed)
            for name, estimate in measured.metrics.items():
                span = estimate.interval
                yield {
                    "checkpoint": "arrays",
                    "task": "arrays",
                    "protocol": protocol.name,
                    "protocol_version": protocol.version,
                    "overrides": canonical_json(dict(overrides)),
                    "seed": seed,
                    "metric": name,
                    "headline": name == headline,
                    "value": estimate.value,
                    "low": span.low if isinstance(span, Interval) else None,
                    "high": span.high if isinstance(span, Interval) else None,
                    "interval": span.kind,
                }


def _pool(images: Images) -> Pool:
    """Images as extraction takes them."""
    if isinstance(images, str | os.PathLike):
        place = Path(images)
        if place.is_dir():
            found = walk(place).images
            if not found:
                raise UserError(f"{place}: no images below this folder", remedy="name a folder of images")
            return Pool(place.name, found, place)
        return Pool(place.name, (place,), place.parent)
    if isinstance(images, np.ndarray):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(
                f"images are {images.dtype} of shape {images.shape}",
                remedy="give an array (N, H, W, 3) of uint8, RGB",
                code=2,
            )
        images = [Image.fromarray(image) for image in images]
    items = [image if isinstance(image, Image.Image) else Path(image) for image in images]
    paths = tuple(item for item in items if isinstance(item, Path))
    if paths and len(paths) == len(items):
        return Pool("images", paths, Path(os.path.commonpath([path.absolute().parent for path in paths])))
    return _pictures([decode(item) if isinstance(item, Path) else item.convert("RGB") for item in items])


def _pictures(pictures: list[Image.Image]) -> Pool:
    """Images in memory, known by their pixels."""
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(repr(picture.size).encode() + picture.tobytes())
    names = tuple(Path(f"image {index}") for index in range(len(pictures)))
    return Pool("images", names, Path(), lambda index: pictures[index], digest.hexdigest())
