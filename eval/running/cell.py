"""One cell: a checkpoint on a task under a protocol with a seed, from its data to its numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from .. import datasets, features, protocols
from ..errors import UserError
from ..features.matrices import Features, blocks, stack
from ..numbers import intervals, metrics
from ..protocols import Protocol, finetune
from ..protocols.base import Labelled
from ..results.records import Metric
from ..tasks import Task

if TYPE_CHECKING:
    from ..checkpoints import Loaded

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
RESAMPLES = 1000
DETECTION = ("detection", "instance_segmentation")
HARDWARE = ("device", "workers")  # overrides of detection that say where it runs and decide no number


@dataclass(frozen=True)
class Cell:
    """A planned unit of work.

    Attributes:
        checkpoint: Its name in the plan.
        task: The task.
        protocol: The protocol, overrides applied (but for detection, which applies them itself).
        overrides: What was overridden.
        seed: Evaluation seed.
    """

    checkpoint: str
    task: Task
    protocol: Protocol
    overrides: dict[str, Any]
    seed: int

    def __str__(self) -> str:
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.checkpoint} · {self.task.name} · {self.protocol.name} v{self.protocol.version}{seed}"

    @property
    def metric(self) -> str:
        """The metric that stands in tables."""
        return self.protocol.metric_for(self.task.metric)

    @property
    def params(self) -> dict[str, Any]:
        """Everything that the protocol decides, for the run id."""
        protocol = self.protocol
        more: dict[str, Any] = {"extraction": protocol.extraction} if protocol.extraction else {}
        if protocol.kind == "fewshot":
            more["splits"] = list(protocol.splits)
        if protocol.kind == "detection":  # overrides are Detectron2's keys, and resolved there
            numbers = {key: value for key, value in self.overrides.items() if key not in HARDWARE}
            more |= {"overrides": numbers} if numbers else {}
        return protocol.params | more


@dataclass
class Measured:
    """What came out of a cell.

    Its outcomes are ``arrays``, or ``detections`` with ``classes``, ``config`` and ``images``; ``seconds`` counts
    work that an earlier, interrupted call did.
    """

    metrics: dict[str, Metric]
    counts: dict[str, int]
    selected: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    arrays: dict[str, Array] = field(default_factory=dict)
    detections: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def measure(
    cell: Cell, loaded: Loaded, *, data_root: Path, out: Path, work: Path, progress: Progress
) -> Measured:
    """Run one cell.

    Args:
        cell: What to run.
        loaded: The checkpoint.
        data_root: Where data sets lie.
        out: Holds the feature store.
        work: A folder of this cell's own, for what can be resumed.
        progress: Called with what is being done, how much of it is done, and of how much.
    """
    if cell.task.kind in DETECTION:
        loaded.backbone.to("cpu")
        return _detect(cell, loaded, data_root, work, progress)
    loaded.backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    dataset = datasets.load(cell.task.dataset, data_root, label=cell.task.label, derived=cell.task.derived)

    def of(split: str) -> Features:
        return features.extract(
            loaded.backbone,  # type: ignore[arg-type]
            loaded.passport,
            dataset.splits[split],
            store=out / "features",
            progress=lambda done, total: progress(f"features of {cell.task.dataset} {split}", done, total),
            **cell.protocol.extraction,
        )

    def labelled(*splits: str) -> Labelled:
        labels = np.concatenate([dataset.splits[split].labels for split in splits])
        return Labelled(stack([of(split) for split in splits]), labels, dataset.num_classes)

    kind = cell.protocol.kind
    if kind == "fewshot":
        values = protocols.episodes(cell.protocol, labelled(*cell.protocol.splits), seed=cell.seed)
        over = intervals.normal_legacy if cell.protocol.params["interval"] == "normal" else intervals.episodes
        counts = {split: len(dataset.splits[split]) for split in cell.protocol.splits}
        found = {cell.metric: _metric(float(values.mean()), over(values))}
        return Measured(found, counts | {"episodes": len(values)}, arrays={"episodes": values})

    test, labels = dataset.splits["test"], dataset.splits["test"].labels
    if kind == "finetune":
        tuned = finetune.run(
            loaded.backbone,
            loaded.passport,
            dataset.splits["train"],
            dataset.splits["val"],
            dataset.num_classes,
            cell.protocol.params,
            seed=cell.seed,
            work=work,
            extraction=cell.protocol.extraction,
            metric_name=cell.metric,
            progress=progress,
        )
        scores = tuned.scores(test)
        found = _classification(cell.metric, scores, labels, metrics.softmax(scores))
        counts = dataset.counts | tuned.counts
        return Measured(
            found, counts, tuned.selected, warnings=tuned.warnings, arrays=_outcomes(scores, labels)
        )

    train, val = labelled("train"), labelled("val")
    fitted = protocols.fit(cell.protocol, train, val, seed=cell.seed, metric=cell.metric)
    parts = list(blocks(of("test")))
    scores = np.concatenate([fitted.scores(part) for _, part in parts])
    probabilities = None
    if fitted.probabilities is not None:
        probabilities = np.concatenate([fitted.probabilities(part) for _, part in parts])
    return Measured(
        _classification(cell.metric, scores, labels, probabilities),
        dataset.counts,
        fitted.selected,
        fitted.certificate,
        fitted.warnings,
        _outcomes(scores, labels),
    )


def _classification(
    name: str, scores: Array, labels: Array, probabilities: Array | None
) -> dict[str, Metric]:
    """The task's metric first, then what else the scores tell."""
    names = [name]
    if labels.ndim == 1:
        names += ["top1", "mean_per_class", *(["top5"] if scores.shape[1] > 5 else [])]
    found = {}
    for each in dict.fromkeys(names):
        value = metrics.METRICS[each](scores, labels)
        if each in ("top1", "top5"):
            found[each] = _metric(value, intervals.wilson(round(value * len(labels)), len(labels)))
        else:
            found[each] = _metric(value, bootstrap(each, value, scores, labels))
    if probabilities is not None:
        found["ece"] = Metric(value=metrics.ece(probabilities, labels))
    return found


def bootstrap(name: str, value: float, scores: Array, labels: Array) -> intervals.Interval:
    """Bootstrap over test examples, always with the same resamples: of percentiles, for AP of its standard error."""
    step = max(1, 4_000_000 // len(labels))  # resamples held at a time
    drawn = [
        metrics.resampled(
            name, scores, labels, intervals.resample_counts(len(labels), min(step, RESAMPLES - at), at)
        )
        for at in range(0, RESAMPLES, step)
    ]
    values = np.concatenate(drawn)
    return intervals.percentile(values) if labels.ndim == 1 else intervals.around(value, values)


def _outcomes(scores: Array, labels: Array) -> dict[str, Array]:
    if labels.ndim == 1:
        return {"correct": metrics.correct(scores, labels), "predicted": scores.argmax(1).astype(np.int32)}
    return {"scores": scores.astype(np.float32), "labels": labels.astype(np.int8)}


def _metric(value: float, interval: intervals.Interval | None) -> Metric:
    if interval is None:
        return Metric(value=value)
    return Metric(
        value=value, low=interval.low, high=interval.high, interval=interval.kind, level=interval.level
    )


def manifest(cell: Cell, data_root: Path) -> tuple[str, dict[str, int]]:
    """The hash that stands for a cell's data in its run id, and the number of examples in each split."""
    if cell.task.kind in DETECTION:
        from ..detection import prepare

        with tempfile.TemporaryDirectory() as folder:
            data = prepare(
                cell.task.dataset,
                data_root,
                masks=cell.task.kind == "instance_segmentation",
                work_dir=Path(folder),
                train_images=cell.overrides.get("train_images"),
                shots=cell.overrides.get("shots"),
                seed=cell.seed,
            )
        return data.manifest, data.counts
    dataset = datasets.load(cell.task.dataset, data_root, label=cell.task.label, derived=cell.task.derived)
    return dataset.manifest, dataset.counts


def _detect(cell: Cell, loaded: Loaded, data_root: Path, work: Path, progress: Progress) -> Measured:
    from .. import detection

    result = detection.run(
        loaded,
        cell.task,
        cell.protocol,
        seed=cell.seed,
        data_root=data_root,
        work_dir=work,
        overrides=cell.overrides,
        progress=progress,
    )
    if cell.metric not in result.metrics:
        raise UserError(
            f"{cell}: {cell.metric} is not defined, it has {', '.join(result.metrics) or 'no metric'}",
            remedy="choose a task whose test split has objects of that kind",
        )
    found = {}
    for name, value in result.metrics.items():
        interval = result.intervals.get(name)
        found[name] = _metric(value, None if interval is None else intervals.Interval(**interval))
    detections = {"classes": result.classes, "config": result.config, "images": result.per_image}
    return Measured(
        found,
        result.counts,
        certificate=result.certificate,
        detections=detections,
        seconds=sum(result.seconds.values()),
    )
