"""Tasks read off the subspaces of a MAST run's embedding, and off the one that suits each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mast import analysis

from .. import checkpoints, features, protocols, tasks
from ..datasets import ImageDataset
from ..device import device
from ..errors import UserError
from ..numbers.metrics import METRICS
from ..protocols.base import Labelled

Array = npt.NDArray[np.float32]
FEATURES = "features"  # the plain backbone
NEAREST = 5  # neighbours that are looked at
GALLERY = 5000  # images that neighbours are sought among, at most


@dataclass(frozen=True)
class Reading:
    """What one subspace tells of a task.

    Attributes:
        task: The task.
        subspace: ``features``, or a part of the embedding (`mast.analysis.parts`).
        dimensions: Its size.
        val: The task's metric on val, by which the protocol chose its own parameters.
        test: The metric on test.
        nearest: Share of the `NEAREST` nearest test images, by cosine, that have the query's label.
        chosen: Whether it has the best ``val`` of all; among equals the one that stands first.
    """

    task: str
    subspace: str
    dimensions: int
    val: float
    test: float
    nearest: float
    chosen: bool = False


@dataclass(frozen=True)
class Opened:
    """A task's data with every subspace of every split, ``{split: {subspace: (N, D)}}``."""

    task: tasks.Task
    data: ImageDataset
    spaces: Mapping[str, Mapping[str, Array]]


def open_run(folder: Path) -> tuple[analysis.Run, checkpoints.Loaded]:
    """A pretraining run, VICReg's too, and its published backbone."""
    run = analysis.read_run(folder, masked=False)
    place = folder if folder.is_dir() else folder.parent
    return run, checkpoints.load(str(place / "backbone.safetensors"))


def open_task(
    run: analysis.Run,
    loaded: checkpoints.Loaded,
    name: str,
    data_root: Path,
    store: Path,
    *,
    limit: int | None = None,
) -> Opened:
    """Extract a task's features, or read them from the store, and part their embeddings.

    Args:
        run: The pretraining run.
        loaded: Its backbone.
        name: The task.
        data_root: Where data sets lie.
        store: The feature store.
        limit: Use at most so many images of each split, for a smoke test.

    Raises:
        UserError: If the task is not one of single labels, or its images are missing.
    """
    task = tasks.get(name)
    if task.kind != "classification":
        raise UserError(
            f"the task {name} is {task.kind}; subspaces are read for classification",
            remedy="`mast list tasks` shows which tasks are",
            code=2,
        )
    data = task.open(data_root)
    data = data if limit is None else data.limited(limit)
    loaded.backbone.to(device())
    found = analysis.parts(run)
    spaces: dict[str, dict[str, Array]] = {}
    for part, split in data.splits.items():
        plain = np.asarray(
            features.extract(loaded.backbone, loaded.passport, split, store=store, together=loaded.together)
        )
        embedded = analysis.embed(run, plain)
        spaces[part] = {FEATURES: plain} | {key: embedded[:, mask] for key, mask in found.items()}
    return Opened(task, data, spaces)


def read(opened: Opened, protocol: protocols.Protocol, *, seed: int = 0) -> list[Reading]:
    """Fit a protocol on every subspace, and say which of them val would choose.

    Test labels meet scores once all choices are made, as in every cell of a run.

    Args:
        opened: The task and its subspaces.
        protocol: One on frozen features that selects on val.
        seed: The protocol's.

    Raises:
        UserError: If the protocol does not select by one value on val.
    """
    task, data = opened.task, opened.data
    task.check(protocol)
    labels = {part: split.labels for part, split in data.splits.items()}
    found = []
    for name, train in opened.spaces["train"].items():
        pair = (
            Labelled(space, labels[part], len(data.classes))
            for part, space in (("train", train), ("val", opened.spaces["val"][name]))
        )
        fitted = protocols.fit(protocol, *pair, seed=seed, metric=task.metric)
        if "value" not in fitted.selected:
            raise UserError(
                f"the protocol {protocol.name} tells no value on val to choose a subspace by",
                remedy="choose ridge, knn or linear",
                code=2,
            )
        test = opened.spaces["test"][name]
        value = METRICS[task.metric](fitted.scores(test), labels["test"])
        _, _, same = neighbours(test, labels["test"])
        val = float(fitted.selected["value"])
        found.append(Reading(task.name, name, train.shape[1], val, float(value), float(same.mean())))
    best = max(range(len(found)), key=lambda index: found[index].val)
    return [replace(each, chosen=index == best) for index, each in enumerate(found)]


def neighbours(
    space: Array, labels: npt.NDArray[np.int64], queries: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Nearest images by the cosine of centred vectors.

    Args:
        space: ``(N, D)``; of more than `GALLERY` images so many, evenly spaced, are looked at.
        labels: ``(N,)``.
        queries: Rows to look from, as places in what is looked at; all when None.

    Returns:
        The rows that were looked at ``(G,)``, the rows of the `NEAREST` neighbours ``(Q, NEAREST)``, nearest first,
        and whether they have the query's label.
    """
    rows = np.unique(np.linspace(0, len(space) - 1, min(GALLERY, len(space))).astype(np.int64))
    z = space[rows].astype(np.float64)
    z -= z.mean(axis=0)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    chosen = np.arange(len(rows)) if queries is None else queries
    similarity = z[chosen] @ z.T
    similarity[np.arange(len(chosen)), chosen] = -np.inf
    near = rows[np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]]
    return rows, near, labels[near] == labels[rows[chosen]][:, None]
