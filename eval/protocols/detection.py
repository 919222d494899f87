"""Detection and instance segmentation: what a protocol says, handed over to `eval.detection`, which does the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ..detection.options import options_of, training_images
from ..errors import UserError
from ..numbers.intervals import NoInterval
from . import base
from .base import Context, Count, Estimate, Kind, Measured

if TYPE_CHECKING:
    from ..detection.data import DetectionData

Freeze = Literal["nothing", "stem", "res2", "res3", "res4", "all"]


class Params(base.Params):
    """Parameters of a detector's training.

    Attributes:
        base: A config of Detectron2's model zoo.
        freeze: What of the backbone does not train, each with all before it.
        trials: Seeds that the source averages.
        reports: Metrics that the source publishes.
        set: The protocol: Detectron2's keys, applied part by part.
        tiny: What ``tiny=true`` sets on top of it.
        overrides: What was changed: Detectron2's keys and options of `eval.detection.options`.
    """

    RUNTIME: ClassVar[Mapping[str, type]] = {"device": str, "workers": int, "maps_gb": int}

    base: str
    freeze: Freeze
    trials: Count
    reports: Annotated[tuple[str, ...], Field(strict=False)]
    set: Annotated[tuple[dict[str, Any], ...], Field(strict=False)]
    tiny: Annotated[tuple[dict[str, Any], ...], Field(strict=False)]
    overrides: dict[str, Any] = Field(default_factory=dict)

    @property
    def writes_maps(self) -> bool:
        """Whether the detector reads its network's maps from the store."""
        found = False
        for part in (*self.set, *(self.tiny if self.overrides.get("tiny") else ()), self.overrides):
            found = part.get("INPUT.STORED", found)
        return found

    @property
    def reads_choice(self) -> bool:
        """It reads maps."""
        return False

    def smoke(self, limit: int) -> dict[str, Any]:
        """As many iterations as images, and small heads and sizes."""
        return {"tiny": True, "iterations": limit}

    @classmethod
    def changed(cls, values: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The values with changes kept apart, as overrides: Detectron2 resolves them, in their order."""
        options_of(changes)
        found = values.get("overrides", {}) | dict(changes)
        return {**values, "overrides": found} if found else dict(values)


def data(opened: DetectionData, params: Params, seed: int) -> DetectionData:
    """The part that a cell trains on: all, or what the data set or an override asks for, drawn with the seed."""
    chosen = params.overrides
    share = training_images(chosen.get("shots"), len(opened.train.dicts))
    shots = None if share is not None else chosen.get("shots")
    return opened.drawn(images=share or chosen.get("train_images"), shots=shots, seed=seed)


def measure(context: Context) -> Measured:
    """Train a detector and test it."""
    from .. import detection

    context.loaded.backbone.to("cpu")
    result = detection.run(
        context.loaded,
        context.task,
        context.protocol,
        context.data,
        seed=context.seed,
        work_dir=context.work,
        store=context.store,
        progress=context.progress,
    )
    if context.metric not in result.metrics:
        raise UserError(
            f"{context.metric} is not defined, the test split has {', '.join(result.metrics) or 'no metric'}",
            remedy="choose a task whose test split has objects of that kind",
        )
    return Measured(
        {
            name: Estimate(
                value, result.intervals.get(name, NoInterval("the run is older than its interval"))
            )
            for name, value in result.metrics.items()
        },
        result.counts,
        certificate=result.certificate,
        detections={"classes": result.classes, "config": result.config, "images": result.per_image},
        seconds=sum(result.seconds.values()),
    )


def forecast(context: Context) -> float:
    """Seconds by a few timed iterations."""
    from .. import detection

    told = detection.forecast(
        context.loaded, context.task, context.protocol, context.data, store=context.store
    )
    return told["train_seconds"] + told["test_seconds"] + told["map_seconds"]


def disk(context: Context) -> dict[str, int]:
    """Bytes of maps that a cell will write."""
    from .. import detection

    return detection.disk(context.loaded, context.protocol, context.data, context.store)


KIND = Kind(Params, ("detection", "instance_segmentation"), measure, data=data, forecast=forecast, disk=disk)
