"""Measures of checkpoints that need no labels, taken from the feature store: the verb ``mast measure``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mast.errors import Unwritable
from mast.images import walk

from .. import checkpoints, features, protocols, tasks
from ..checkpoints import Loaded, Passport
from ..datasets import ImageDataset, Pool, Split
from ..device import device
from ..errors import UserError, unknown
from ..features import Preprocess
from ..features.extraction import ahead, entry
from ..features.store import Entry
from ..numbers import labelfree
from ..protocols.base import Extraction
from ..results import measures
from ..results.measures import NAMES, PAIRED, Measure
from ..results.records import CheckpointEntry
from ..running import environment
from ..running.folder import RunFolder, claim
from ..running.local import live
from ..running.plan import Plan, Source
from ..running.recording import adapted, describe_checkpoint, now, plain

USUAL: Final = ("rankme", "effective-rank", "alpha-req", "cka")  # LiDAR forwards many views of each image
IMAGES: Final = 25_600  # as many as RankMe looks at (arXiv 2210.02885, Section 4)
UNLABELLED: Final = "images:"


@dataclass(frozen=True)
class Wanted:
    """What to measure, and on which images.

    Attributes:
        task: A task's name, file or place, or ``images:DIR`` for a folder of images without labels.
        split: Of its images.
        protocol: Whose way from image to feature is taken, for frozen features.
        names: Keys of `NAMES`.
        images: How many at most, drawn at random and the same for all checkpoints.
        seed: Of that draw, and of LiDAR's views.
        lidar_images: How many of them LiDAR looks at.
        views: Of each of these.
        limit: A smoke test: at most so many images of each split.
    """

    task: str
    split: str = "train"
    protocol: str = "linear"
    names: Sequence[str] = USUAL
    images: int = IMAGES
    seed: int = 0
    lidar_images: int = 1000
    views: int = 50
    limit: int | None = None

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened.

        Raises:
            UserError: For an unknown measure, a number that is too small, or a protocol without frozen features.
        """
        for name in self.names:
            if name not in NAMES:
                raise unknown("measure", name, NAMES)
        for what, number, least in (
            ("images", self.images, 2),
            ("views", self.views, 2),
            ("lidar-images", self.lidar_images, 2),
        ):
            if number < least:
                raise UserError(f"--{what} {number}", remedy=f"give {least} or more", code=2)
        if protocols.get(self.protocol).code.images:
            raise UserError(
                f"the protocol {self.protocol} does not work on frozen features",
                remedy="name one that does, such as linear or knn",
                code=2,
            )

    @property
    def extraction(self) -> Extraction:
        """The way from an image to a feature."""
        found: Extraction = protocols.get(self.protocol).settings.extraction
        return found


@dataclass
class Taken:
    """What a call did: lines that were added, lines that were there, and what went wrong with which checkpoint."""

    added: int = 0
    known: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def measure(
    plan: Plan,
    wanted: Wanted,
    *,
    data_root: Path,
    out: Path,
    store: Path | None = None,
    progress: bool = True,
) -> Taken:
    """Measure a plan's checkpoints and add a line for each measure that is not there yet to ``measures/``.

    Features that the store has are read, others are extracted and kept there. A checkpoint that cannot be measured
    stops no other.

    Args:
        plan: Its sources are the checkpoints; it needs no cells.
        wanted: What to measure.
        data_root: The folder of the data sets.
        out: The run's folder.
        store: The feature store, where it is not the folder's own.
        progress: Tell what is going on, on standard error.

    Raises:
        UserError: If the data or the split are not there, or a folder cannot be used.
    """
    wanted.check()
    data = _open(wanted, data_root)
    if wanted.split not in data.splits:
        raise unknown("split", wanted.split, data.splits)
    folder = RunFolder(out, "measure", store)
    with claim(out, data_root):
        work = _Work(plan, wanted, data, folder, progress)
        work.run()
    return work.taken


def _open(wanted: Wanted, data_root: Path) -> ImageDataset:
    if wanted.task.startswith(UNLABELLED):
        place = Path(wanted.task.removeprefix(UNLABELLED)).expanduser()
        if not place.is_dir():
            raise UserError(f"{place}: no such folder", remedy="images:DIR names a folder of images", code=2)
        paths = walk(place).images
        if not paths:
            raise UserError(f"{place}: no images below this folder", remedy="name a folder of images")
        split = Split(
            wanted.split, paths, np.zeros(len(paths), dtype=np.int64), Pool(place.name, paths, place)
        )
        data = ImageDataset(wanted.task, ("image",), {wanted.split: split})
    else:
        data = tasks.get(wanted.task).open(data_root)
        if not isinstance(data, ImageDataset):
            raise UserError(
                f"the task {wanted.task} has no plain images",
                remedy="take one of classes, folder:DIR, csv:FILE or images:DIR",
                code=2,
            )
    return data if wanted.limit is None else data.limited(wanted.limit)


_SPECTRAL: Final[dict[str, Callable[[labelfree.Moments], float]]] = {
    "rankme": labelfree.rankme,
    "effective-rank": labelfree.effective_rank,
    "alpha-req": lambda of: labelfree.alpha_req(of).alpha,
}


class _Work:
    """One call: the draw of images, the checkpoints one after the other, then their pairs."""

    def __init__(
        self, plan: Plan, wanted: Wanted, data: ImageDataset, folder: RunFolder, progress: bool
    ) -> None:
        self.plan, self.wanted, self.data, self.folder, self.progress = plan, wanted, data, folder, progress
        self.split = data.splits[wanted.split]
        order = np.random.default_rng(wanted.seed).permutation(len(self.split))
        self.rows = np.sort(order[: wanted.images])
        self.lidar_rows = np.sort(order[: min(wanted.lidar_images, wanted.images)])
        self.alone = self.split.alone(self.rows) if len(self.rows) < len(self.split) else self.split
        self.path = folder.root / measures.FOLDER / "measures.jsonl"
        self.known = {line.key for line in measures.read([folder.root])}
        self.taken = Taken()
        self.passports: dict[str, Passport] = {}

    def run(self) -> None:
        ready: list[tuple[CheckpointEntry, Passport]] = []
        for source in self.plan.sources:
            try:
                loaded = self._load(source)
                who = describe_checkpoint(loaded.passport)
                self._one(who, loaded)
                ready.append((who, loaded.passport))
            except Unwritable:
                raise
            except UserError as error:
                self.taken.failed[source.name] = str(error)
                self._say(f"{source.name}: {error}")
        if PAIRED in self.wanted.names:
            for number, (who, passport) in enumerate(ready):
                for other, theirs in ready[number + 1 :]:
                    self._pair(who, passport, other, theirs)

    def _load(self, source: Source) -> Loaded:
        loaded = checkpoints.load(source.ref, **source.options)
        loaded.passport.refuse_guesses()
        passport = adapted(source, loaded.passport, self.passports)
        self.passports[source.name] = passport
        self.folder.keep_passport(passport)
        return replace(loaded, passport=passport)

    def _one(self, who: CheckpointEntry, loaded: Loaded) -> None:
        """Every measure of one checkpoint that is not there yet."""
        drafts = [self._draft(name, who) for name in self.wanted.names if name != PAIRED]
        todo = [draft for draft in drafts if not self._there(draft)]
        spectral = [draft for draft in todo if draft.name != "lidar"]
        if spectral or PAIRED in self.wanted.names:
            self._extract(loaded)
        if spectral:
            found = self._features(loaded.passport)
            moments = labelfree.moments(found)
            for draft in spectral:
                self._add(draft, partial(_SPECTRAL[draft.name], moments), [found.shape[1]])
        for draft in todo:
            if draft.name == "lidar":
                dims: list[int] = []
                self._add(draft, partial(self._lidar, loaded, dims), dims)

    def _lidar(self, loaded: Loaded, dims: list[int]) -> float:
        return labelfree.lidar(self._views(loaded, dims))

    def _pair(
        self, who: CheckpointEntry, passport: Passport, other: CheckpointEntry, theirs: Passport
    ) -> None:
        draft = self._draft(PAIRED, who, other)
        if self._draft(PAIRED, other, who).key in self.known or self._there(draft):
            return
        one, two = self._features(passport), self._features(theirs)
        self._add(draft, partial(labelfree.cka, one, two), [one.shape[1], two.shape[1]])

    # -- lines ------------------------------------------------------------------------------------------------

    def _draft(self, name: str, who: CheckpointEntry, other: CheckpointEntry | None = None) -> Measure:
        """A line without its value."""
        wanted = self.wanted
        params: dict[str, Any] = {"extraction": plain(wanted.extraction.options()), "seed": wanted.seed}
        if name in ("rankme", "lidar"):
            params["epsilon"] = labelfree.EPSILON
        if name == "alpha-req":
            params["ranks"] = [labelfree.FIRST, labelfree.LAST]
        if name == "lidar":
            params |= {"views": wanted.views, "delta": labelfree.DELTA, "augmentations": AUGMENTATIONS}
        return Measure(
            name=name,  # type: ignore[arg-type]
            why="not measured yet",
            checkpoint=who,
            other=other,
            task=wanted.task,
            split=wanted.split,
            manifest=self.data.manifest,
            images=len(self.lidar_rows if name == "lidar" else self.rows),
            dim=[],
            params=params,
            environment=environment.describe(),
            started=now(),
        )

    def _there(self, draft: Measure) -> bool:
        if draft.key in self.known:
            self.taken.known += 1
            return True
        return False

    def _add(self, draft: Measure, value: Callable[[], float], dim: list[int]) -> None:
        try:
            line = msgspec.structs.replace(draft, value=float(value()), why=None, dim=dim)
        except labelfree.Undefined as error:
            line = msgspec.structs.replace(draft, why=str(error), dim=dim)
        measures.append(self.path, line)
        self.known.add(line.key)
        self.taken.added += 1
        pair = f" and {line.other.name}" if line.other else ""
        told = measures.shown(line) if line.why is None else f"none: {line.why}"
        self._say(f"{line.checkpoint.name}{pair}: {line.heading} {told}")

    # -- features ---------------------------------------------------------------------------------------------

    def _places(self, passport: Passport) -> list[tuple[Split, npt.NDArray[np.int64], Entry]]:
        """Where the features of the drawn images may lie, the best place first: split, rows in its pool, entry.

        With those of the whole split, which other protocols read too; or of these images alone, where the split has
        many more that nobody has extracted.
        """
        pixels = Preprocess.of(passport, **self.wanted.extraction.pixels())
        choices = [(self.split, self.split.rows[self.rows])]
        if len(self.rows) < len(self.split):
            choices.append((self.alone, np.arange(len(self.rows))))
        pooling = self.wanted.extraction.pooling
        return [
            (split, rows, entry(passport, split.pool, pixels, self.folder.features, pooling))
            for split, rows in choices
        ]

    def _extract(self, loaded: Loaded) -> None:
        """Have the features in the store; where they are, nothing is computed."""
        places = self._places(loaded.passport)
        if any(place.whole() for *_, place in places):
            return
        split, *_ = places[-1]
        loaded.backbone.to(device())
        with live(loaded.passport.name, self.progress) as update:
            features.extract(
                loaded.backbone,
                loaded.passport,
                split,
                store=self.folder.features,
                together=loaded.together,
                progress=partial(update, "features"),
                **self.wanted.extraction.options(),
            )

    def _features(self, passport: Passport) -> npt.NDArray[np.float32]:
        """(N, D) of the drawn images, from the store."""
        rows, place = next((rows, place) for _, rows, place in self._places(passport) if place.whole())
        return np.asarray(place.read()[rows])

    def _views(self, loaded: Loaded, dims: list[int]) -> Iterator[npt.NDArray[np.float32]]:
        """(Q, D) for each of LiDAR's images: its augmented views, forwarded; nothing of it is stored.

        Args:
            loaded: The checkpoint.
            dims: D is put in here.
        """
        import torch

        from mast.augment import Crop
        from mast.config import ViewsConfig

        extraction = self.wanted.extraction
        preprocess = Preprocess.of(loaded.passport, **extraction.pixels())
        side = preprocess.crop
        # A kernel of a tenth of the side, as SimCLR's and VICReg's at their sizes.
        how = {**AUGMENTATIONS, "blur": {**AUGMENTATIONS["blur"], "kernel_size": max(3, side // 10 | 1)}}
        recipe = ViewsConfig(size=side, augmentations=how).build(self.wanted.seed)
        crop, *others = recipe.augmentations
        assert isinstance(crop, Crop)
        rows, count = self.split.rows[self.lidar_rows], self.wanted.views
        # A plan holds two views of each image; as many plans as it takes.
        plans = [recipe.draw(rows, epoch) for epoch in range(-(-count // 2))]
        drawn = {
            a.name: np.concatenate([plan.params[a.name] for plan in plans])[:count]
            for a in recipe.augmentations
        }

        def cut(index: int) -> npt.NDArray[np.uint8]:
            image = self.split.pool.read(int(rows[index]))
            return np.stack([crop.cut(image, params) for params in drawn["crop"][:, index]])

        where, norm = device(), preprocess.normalization
        loaded.backbone.to(where)
        done = 0
        with live(loaded.passport.name, self.progress) as update:
            for batch in ahead(cut, range(len(rows)), 1, 2):
                images = torch.from_numpy(batch[0]).to(where).float() / 255
                for augmentation in others:
                    params = augmentation.fit(drawn[augmentation.name][:, done], side, side)
                    images = augmentation.apply(images, torch.from_numpy(params).to(where))
                with torch.inference_mode():
                    found = features.pooled(loaded.backbone, norm.apply(images), extraction.pooling)
                rows_out = found.float().cpu().numpy()
                if not dims:
                    dims.append(rows_out.shape[1])
                done += 1
                update("views", done, len(rows))
                yield rows_out

    def _say(self, line: str) -> None:
        if self.progress:
            print(line, file=sys.stderr, flush=True)


# VICReg's views but for solarisation, one distribution for all (arXiv 2105.04906, Appendix C.1).
AUGMENTATIONS: Final[dict[str, dict[str, Any]]] = {
    "crop": {"scale": [0.08, 1.0]},
    "flip": {},
    "color": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "p": 0.8},
    "gray": {"p": 0.2},
    "blur": {"p": 0.5},
}
