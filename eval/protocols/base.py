"""The seam between the runner and the kinds of protocols: what a kind offers, is given and must return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ..errors import UserError, unknown
from ..features.matrices import Features, stack
from ..numbers.intervals import Interval, NoInterval
from ..numbers.metrics import METRICS

if TYPE_CHECKING:
    import torch

    from ..checkpoints import Loaded
    from ..tasks import Task
    from . import Protocol

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
# YAML has lists where parameters have tuples; what is inside stays strict.
Listed = Field(strict=False, min_length=1)


# -- parameters ------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error and no value is turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Extraction(Strict):
    """The way from an image to the network's input; what is not given is the checkpoint's own.

    Attributes:
        image_size: Side of the input in pixels.
        resize: Short side before the centre crop: pixels, or a multiple of the crop when below 8.
        squash: Resize to a square, ignoring the aspect ratio; ``after`` the short side, and instead of the crop.
        interpolation: Of the resizing, and of random crops in training.
        normalization: ``imagenet`` for ImageNet's constants on every checkpoint that has constants at all.
        pooling: What is read off the backbone, see `eval.features.pooled`.
    """

    image_size: Count | None = None
    resize: int | float | None = None
    squash: bool | Literal["after"] = False
    interpolation: Literal["bilinear", "bicubic"] | None = None
    normalization: Literal["imagenet"] | None = None
    pooling: Literal["average", "res5-6x6", "last4+mean"] = "average"

    def options(self) -> dict[str, Any]:
        """What `features.extract` takes."""
        return self.model_dump(exclude_unset=True)

    def pixels(self) -> dict[str, Any]:
        """What `Preprocess.of` takes."""
        return self.model_dump(exclude_unset=True, exclude={"pooling"})


class Params(Strict):
    """Parameters that every kind has; a kind adds its own.

    Attributes:
        RUNTIME: Names and types of overrides that say where a cell runs and decide no number.
        extraction: The way from an image to the network's input.
    """

    RUNTIME: ClassVar[Mapping[str, type]] = {}

    extraction: Extraction = Extraction()

    @property
    def writes_maps(self) -> bool:
        """Whether a cell writes maps, where its kind may; told before any data is opened."""
        return True

    @property
    def reads_choice(self) -> bool:
        """Whether its numbers depend on what the checkpoint's feature is (``--features``).

        They do not where it reads tokens, maps or a part of its own.
        """
        return self.extraction.pooling == "average"

    def smoke(self, limit: int) -> dict[str, Any]:
        """Changes that make a run short, for a smoke test with at most ``limit`` examples of each split."""
        return {}

    def trial(self) -> tuple[dict[str, Any], float]:
        """Changes that shorten a fit whose length its data do not decide, and how often the whole is as long."""
        return {}, 1.0

    @classmethod
    def changed(cls, values: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The values of a protocol with some of them replaced; "a.b" reaches into a nested one.

        A single value stands for a list of one where the parameter is a list.

        Args:
            values: The protocol's values, as its file gives them.
            changes: New values by name.
            name: The protocol's, for errors.

        Raises:
            UserError: If there is no parameter of a name, or its value does not fit.
        """
        found = copy.deepcopy(dict(values))
        for key, value in changes.items():
            model: type[BaseModel] = cls
            target = found
            *above, last = key.split(".")
            for part in above:
                inner = model.model_fields[part].annotation if part in model.model_fields else None
                if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                    raise unknown(f"parameter of protocol {name}", key, cls.model_fields)
                model, target = inner, target.setdefault(part, {})
            if last not in model.model_fields:
                raise unknown(f"parameter of protocol {name}", key, model.model_fields)
            target[last] = _fitting(model.model_fields[last], value, key, name)
        return found

    @classmethod
    def read(cls, values: Mapping[str, Any], name: str) -> Self:
        """The typed parameters of a protocol.

        Raises:
            UserError: If a value is missing, unknown or of the wrong type.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                wrong = unknown("parameter", place, cls.model_fields)
                raise UserError(f"protocol {name}: {wrong.message}", remedy=wrong.remedy, code=2) from error
            what = f"params.{place}: " if place else ""
            told = first["msg"].removeprefix("Value error, ")
            raise UserError(
                f"protocol {name}: {what}{told}", remedy="see docs/protocols.md", code=2
            ) from error


def _fitting(field: FieldInfo, value: Any, key: str, name: str) -> Any:
    """A value that a parameter accepts: the one given, or a list of it."""
    config = None if _is_model(field.annotation) else ConfigDict(strict=True)
    annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
    told = ""
    for candidate in (value, [value]):
        try:
            adapter.validate_python(candidate)
        except ValidationError as error:
            told = told or error.errors()[0]["msg"]
        else:
            return candidate
    raise UserError(
        f"parameter {key} of protocol {name} cannot be {value!r}",
        remedy=f"{told[:1].lower()}{told[1:]}",
        code=2,
    )


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


# -- what a kind is given --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """Features with their labels. There is one for train and one for val; nobody makes one for test.

    Attributes:
        features: (N, D) float32; an array, or `Rows` that stay on disk.
        labels: (N,) int in [0, num_classes), or (N, num_classes) with 1, 0 and -1 (difficult).
        num_classes: Number of classes.
        names: (N,) the images' file names, for kinds whose result depends on the order of train and val together.
    """

    features: Features
    labels: Array
    num_classes: int
    names: Array | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ValueError(f"features {self.features.shape} do not fit labels {self.labels.shape}")
        if self.labels.ndim == 2 and self.labels.shape[1] != self.num_classes:
            raise ValueError(
                f"labels {self.labels.shape} are not a column for each of {self.num_classes} classes"
            )
        if self.labels.ndim == 1 and len(self.labels):
            low, high = int(self.labels.min()), int(self.labels.max())
            if low < 0 or high >= self.num_classes:
                raise ValueError(f"labels from {low} to {high} with {self.num_classes} classes")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether an example may have several classes."""
        return self.labels.ndim == 2

    def joined(self, other: Labelled) -> Labelled:
        """This and the other, one after the other."""
        return Labelled(
            stack([self.features, other.features]),
            np.concatenate([self.labels, other.labels]),
            self.num_classes,
            None if self.names is None or other.names is None else np.concatenate([self.names, other.names]),
        )

    def targets(self, *, difficult: float = 0.0) -> npt.NDArray[np.float64]:
        """(N, C) one-hot, or 0/1 a class; difficult ones become ``difficult``."""
        if self.multilabel:
            return np.where(self.labels < 0, difficult, self.labels).astype(np.float64)
        return np.eye(self.num_classes)[self.labels]


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Context:
    """Everything that a kind may use to measure a cell.

    Attributes:
        task: What is measured.
        protocol: How, overrides applied.
        metric: The metric that stands in tables.
        seed: Seed of whatever is random.
        data: The task's data, opened: an `ImageDataset`, or a `DetectionData` for detection.
        loaded: The checkpoint: backbone and passport.
        extract: From the name of a split and an `Extraction` to the split's features (N, D).
        work: A folder of this cell's own, for what an interrupted run goes on from.
        device: Where to compute.
        progress: Called with what is being done, how much of it is done, and of how much.
        store: The feature store, for kinds that keep more than features there.
    """

    task: Task
    protocol: Protocol
    metric: str
    seed: int
    data: Any
    loaded: Loaded
    extract: Callable[[str, Extraction], Features]
    work: Path
    device: torch.device
    progress: Progress = silent
    store: Path | None = None

    @property
    def params(self) -> Any:
        """The protocol's typed parameters, an instance of its kind's `Params`."""
        return self.protocol.settings

    def features(self, split: str) -> Features:
        """(N, D) features of a split, as the protocol's parameters ask for them."""
        return self.extract(split, self.params.extraction)

    def labelled(self, *splits: str, names: bool = False) -> Labelled:
        """Features and labels of splits, one after the other; with the images' file names where asked."""
        parts = [self.data.splits[split] for split in splits]
        labels = np.concatenate([part.labels for part in parts])
        files = np.array([path.name for part in parts for path in part.paths]) if names else None
        features = stack([self.features(split) for split in splits])
        return Labelled(features, labels, self.data.num_classes, files)


# -- what a kind returns ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or why it has none; a metric's value is a fraction."""

    value: float
    interval: Interval | NoInterval


@dataclass
class Measured:
    """What came out of a cell.

    Attributes:
        metrics: The task's metric and what else was measured.
        counts: Examples used, by split or part.
        selected: What was chosen, on which split, and the validation value of every candidate.
        certificate: How exactly the optimisation problem was solved; None where there is none.
        warnings: What a reader of the number should know.
        arrays: The outcome of every example or episode, for paired tests.
        detections: What takes their place in detection, as plain values.
        seconds: Time that an earlier, interrupted call took; 0 where none did.
    """

    metrics: dict[str, Estimate]
    counts: dict[str, int]
    selected: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    arrays: dict[str, Array] = field(default_factory=dict)
    detections: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """A protocol that has chosen its hyper-parameters and is ready for test features.

    Attributes:
        scores: From features (N, D) to scores (N, C), higher for the class that is thought right.
        selected: What was chosen, on which split, and the validation value of every candidate.
        certificate: How exactly the optimisation problem was solved; None where there is none.
        warnings: What a reader of the number should know: a choice at the grid's edge, ties, a clamped k.
        probabilities: From features to calibrated-or-not probabilities (N, C), for ECE; None if it has none.
    """

    scores: Callable[[Array], Array]
    selected: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    probabilities: Callable[[Array], Array] | None = None


# -- what a kind offers ----------------------------------------------------------------------------------------


def whole(data: Any, params: Any, seed: int) -> Any:
    """All of a task's data."""
    return data


@dataclass(frozen=True)
class Kind:
    """What the module of a kind offers, under the name ``KIND``.

    Attributes:
        params: Its parameters.
        tasks: The kinds of tasks that it serves, keys of `eval.tasks.KINDS`.
        measure: Runs a cell.
        fit: Where it works on frozen features: from train and val to `Fitted`; it is never given test labels.
        data: From a task's data, parameters and the seed to the part that a cell uses; all of it for most kinds.
        forecast: Seconds that a cell would take, by trying a little of it; None where only records tell.
        disk: Bytes of maps that a cell will write, by their key in the feature store; None for kinds that write none.
        family: The name under which `mast delta` finds it.
        images: Whether it needs images and the backbone; False where features and labels are enough.
        precision: Whether what it reads off the backbone is computed in the precision that ``--precision`` names, as
            all features are; False where it computes with the backbone itself, in float32.
    """

    params: type[Params]
    tasks: tuple[str, ...]
    measure: Callable[[Context], Measured]
    fit: Callable[..., Fitted] | None = None
    data: Callable[[Any, Any, int], Any] = whole
    forecast: Callable[[Context], float] | None = None
    disk: Callable[[Context], dict[str, int]] | None = None
    family: str = ""
    images: bool = True
    precision: bool = False


# -- tools of the kinds ----------------------------------------------------------------------------------------


def metric(name: str) -> Callable[[Array, Array], float]:
    """A metric by name, for selection on val."""
    if name not in METRICS:
        raise UserError(f"unknown metric '{name}'", remedy=f"known: {', '.join(METRICS)}", code=2)
    return METRICS[name]


def transform(kind: str, train: Features) -> Callable[[Features], npt.NDArray[np.float32]]:
    """A map of features, fitted on training features only. The result is in memory.

    Args:
        kind: "none"; "l2", unit rows; or "standard", zero mean and unit variance a column.
        train: (N, D) what "standard" is fitted on.
    """
    if kind == "none":
        return lambda x: np.asarray(x, dtype=np.float32)
    if kind == "l2":

        def unit(x: Features) -> npt.NDArray[np.float32]:
            whole = np.asarray(x, dtype=np.float32)
            norm: Array = np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
            return np.asarray(whole / norm, dtype=np.float32)

        return unit
    whole = np.asarray(train)
    mean: Array = whole.mean(0, dtype=np.float64)
    std = whole.std(0, dtype=np.float64)
    std = np.where(std > 1e-12, std, 1.0)
    return lambda x: np.asarray((np.asarray(x) - mean) / std, dtype=np.float32)


def select(
    values: Array, candidates: Array, *, name: str, prefer: str = "first", edges: bool = True
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """The candidate with the best validation value.

    Args:
        values: (L,) one validation value a candidate, higher is better.
        candidates: (L,) ascending.
        name: What is selected.
        prefer: Among equals the "first" or the "last".
        edges: Whether the ends of the grid deserve a warning.

    Returns:
        Its index, what to record, and warnings for a choice at the grid's edge and for ties.
    """
    best = np.flatnonzero(values == np.nanmax(values))
    index = int(best[0] if prefer == "first" else best[-1])
    warnings = []
    if edges and len(candidates) > 1 and index in (0, len(candidates) - 1):
        warnings.append(f"{name} {candidates[index]:.6g} lies at the edge of the grid")
    if len(best) > 1:
        warnings.append(f"{len(best)} values of {name} tie on val; the {prefer} is taken")
    record = {
        name: float(candidates[index]),
        "split": "val",
        "value": float(values[index]),
        "ties": len(best) - 1,
        "edge": bool(edges and len(candidates) > 1 and index in (0, len(candidates) - 1)),
        "grid": [[float(c), float(v)] for c, v in zip(candidates, values, strict=True)],
    }
    return index, record, tuple(warnings)


def select_pair(
    values: Array, features: Sequence[str], rates: Sequence[float]
) -> tuple[tuple[int, int], dict[str, Any], tuple[str, ...]]:
    """The feature and the learning rate with the best validation value, the first among equals.

    Args:
        values: (F, L) validation values, higher is better.
        features: F names.
        rates: L rates, ascending.

    Returns:
        Places of both, what to record, and warnings for a rate at the grid's edge and for ties.
    """
    flat, record, warnings = select(values.ravel(), np.arange(values.size, dtype=float), name="", edges=False)
    feature, rate = divmod(flat, len(rates))
    edge = len(rates) > 1 and rate in (0, len(rates) - 1)
    told = (
        [f"{record['ties'] + 1} pairs of feature and lr tie on val; the first is taken"] if warnings else []
    )
    if edge:
        told.insert(0, f"lr {rates[rate]:.6g} lies at the edge of the grid")
    grid = [
        [name, float(lr), float(value)]
        for name, row in zip(features, values, strict=True)
        for lr, value in zip(rates, row, strict=True)
    ]
    del record[""]
    record |= {"features": features[feature], "lr": float(rates[rate]), "edge": edge, "grid": grid}
    return (feature, rate), record, tuple(told)


def require(labelled: Labelled, name: str) -> None:
    """Refuse an empty part.

    Raises:
        UserError: If it holds no examples.
    """
    if not len(labelled):
        raise UserError(f"the {name} split holds no examples", remedy=f"add images to {name}")
