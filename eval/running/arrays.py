"""Protocols on arrays of features and labels: no images, no checkpoint, no record."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import datasets, protocols
from ..device import device
from ..errors import UserError
from ..protocols import Labelled, Measured, Protocol
from ..protocols.base import Context, Extraction
from ..protocols.heads import HeadParams
from ..tasks import KINDS, Task

if TYPE_CHECKING:
    from ..features.matrices import Features

VAL = 0.2  # share of train that becomes val where none is given, as for folders of images
Part = tuple[Any, Any]  # features and labels


@dataclass(frozen=True)
class Arrays:
    """Features and labels of the splits, in the place of a data set.

    Attributes:
        splits: ``train``, ``val`` and ``test``.
        num_classes: Number of classes.
        kind: The kind of task that the labels make: ``classification`` or ``multilabel``.
    """

    splits: dict[str, Labelled]
    num_classes: int
    kind: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {name: len(split) for name, split in self.splits.items()}


def arrays(parts: Sequence[Part]) -> Arrays:
    """Check and name the user's arrays.

    Args:
        parts: Features (N, D) and labels of train, val and test, or of train and test: val is then a fifth of train,
            drawn from every class with seed 0. Labels are (N,) names or numbers of classes, or (N, C) of 0 and 1.

    Raises:
        UserError: If shapes do not fit each other, or a value is not finite.
    """
    if len(parts) not in (2, 3):
        raise UserError(
            f"features has {len(parts)} parts", remedy="give (train, val, test) or (train, test)", code=2
        )
    names = ("train", "val", "test") if len(parts) == 3 else ("train", "test")
    given = {name: _checked(name, part) for name, part in zip(names, parts, strict=True)}
    features = {name: part[0] for name, part in given.items()}
    labels = {name: part[1] for name, part in given.items()}
    if len({(part.shape[1], labels[name].shape[1:]) for name, part in features.items()}) > 1:
        shapes = ", ".join(f"{name} {part.shape} and {labels[name].shape}" for name, part in features.items())
        raise UserError(f"features and labels of the splits differ in width: {shapes}", code=2)
    if labels["train"].ndim == 1:
        classes = np.unique(labels["train"])
        for name, values in labels.items():
            if len(other := np.setdiff1d(values, classes)):
                raise UserError(f"train has no example of the class {other[0].item()!r} of {name}", code=2)
        labels = {name: np.searchsorted(classes, values) for name, values in labels.items()}
        kind, num_classes = "classification", len(classes)
    else:
        kind, num_classes = "multilabel", labels["train"].shape[1]
    if "val" not in features:
        paths = tuple(Path(str(index)) for index in range(len(labels["train"])))
        rest, val = datasets.carve(datasets.Split("train", paths, labels["train"]), VAL)
        features["val"], labels["val"] = features["train"][val.rows], val.labels
        features["train"], labels["train"] = features["train"][rest.rows], rest.labels
    splits = {name: Labelled(features[name], labels[name], num_classes) for name in ("train", "val", "test")}
    return Arrays(splits, num_classes, kind)


def measure(data: Arrays, protocol: Protocol, *, metric: str = "", seed: int = 0) -> tuple[str, Measured]:
    """Run a protocol on arrays.

    Args:
        data: The arrays.
        protocol: One that needs features and labels only, overrides applied.
        metric: What to report: that of the task's kind which is named first when empty.
        seed: Seed of whatever is random.

    Returns:
        The name of the metric that is reported, and what was measured.

    Raises:
        UserError: If the protocol needs images, is for other labels, or the metric is not one of them.
    """
    if protocol.code.images or not protocol.serves("", data.kind):
        able = [
            other.name
            for other in map(protocols.get, protocols.names())
            if not other.code.images and other.serves("", data.kind) and not _reads_parts(other)
        ]
        reason = "needs images" if protocol.code.images else f"is not for {data.kind} labels"
        raise UserError(
            f"the protocol {protocol.name} {reason}", remedy=f"choose among {', '.join(able)}", code=2
        )
    if _reads_parts(protocol):
        raise UserError(
            f"the protocol {protocol.name} reads parts of a feature of its own",
            remedy="choose linear-sgd for arrays",
            code=2,
        )
    known = KINDS[data.kind].metrics
    if metric and metric not in known:
        raise UserError(
            f"the metric {metric} is not for {data.kind} labels", remedy=" or ".join(known), code=2
        )
    name = protocol.metric_for(metric or known[0])

    def extract(split: str, extraction: Extraction) -> Features:
        return data.splits[split].features

    with tempfile.TemporaryDirectory() as work:
        context = Context(
            task=Task("arrays", 1, data.kind, dataset="", metric=metric or known[0]),
            protocol=protocol,
            metric=name,
            seed=seed,
            data=data,
            loaded=cast(Any, None),  # a kind that needs no images does not read it
            extract=extract,
            work=Path(work),
            device=device(),
        )
        return name, protocol.code.measure(context)


def _reads_parts(protocol: Protocol) -> bool:
    """Whether a protocol takes its features apart, which arrays of unknown origin do not allow."""
    return isinstance(protocol.settings, HeadParams) and bool(protocol.settings.features)


def _checked(name: str, part: Part) -> Part:
    features, labels = np.asarray(part[0], dtype=np.float32), np.asarray(part[1])
    if features.ndim != 2 or len(features) != len(labels) or labels.ndim not in (1, 2) or not len(labels):
        raise UserError(
            f"{name}: features {features.shape} and labels {labels.shape}",
            remedy="give features (N, D) and labels (N,) or (N, C), N at least 1",
            code=2,
        )
    if not np.isfinite(features).all():
        raise UserError(f"{name}: row {int((~np.isfinite(features)).any(1).argmax())} is not finite")
    return features, labels
