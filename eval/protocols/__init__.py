"""Protocols: how a task is run. A protocol is data (a YAML file here) and names the code of its kind."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalog import Catalog
from ..errors import UserError, unknown
from .base import Fitted, Labelled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FROZEN = ("linear", "knn", "svm", "ridge", "sgd")  # kinds with `fit`
__all__ = ["FROZEN", "Fitted", "Labelled", "Protocol", "episodes", "fit", "get", "names"]


@dataclass(frozen=True)
class Protocol:
    """How a task is run.

    Attributes:
        name: Its name, the file's.
        version: Raised whenever numbers change; numbers of different versions never share a column.
        kind: The code that runs it: linear, knn, svm, ridge, sgd, fewshot, finetune, detection.
        source: Where its hyper-parameters come from.
        params: The hyper-parameters.
        splits: What a few-shot pool is drawn from; of no meaning elsewhere.
        extraction: What it asks of feature extraction (``image_size``, ``resize``, ``squash``).
        metric: Replaces the task's metric where the protocol's definition does.
        description: One line.
    """

    name: str
    version: int
    kind: str
    source: str
    params: dict[str, Any]
    splits: tuple[str, ...] = ("test",)
    extraction: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", tuple(self.splits))

    def override(self, changes: Mapping[str, Any]) -> Protocol:
        """The protocol with other hyper-parameters; "a.b" reaches into a nested one.

        Raises:
            UserError: If a name is not among its hyper-parameters.
        """
        params = copy.deepcopy(self.params)
        for name, value in changes.items():
            target = params
            *above, last = name.split(".")
            for part in above:
                if not isinstance(target.get(part), dict):
                    raise unknown(f"parameter of protocol {self.name}", name, self.params)
                target = target[part]
            if last not in target:
                raise unknown(f"parameter of protocol {self.name}", name, target)
            target[last] = value
        return replace(self, params=params)

    def metric_for(self, task_metric: str) -> str:
        """The metric to report: the task's, unless the protocol's definition replaces it."""
        return self.metric.get(task_metric, task_metric)


_catalog = Catalog("protocol", Path(__file__).parent, Protocol)
names = _catalog.names
get = _catalog.get


def fit(protocol: Protocol, train: Labelled, val: Labelled, *, seed: int = 0, metric: str = "top1") -> Fitted:
    """Run a protocol on frozen features up to the point where it wants test features.

    It is given no test data: the caller hands test features to the result's ``scores`` and keeps the labels.

    Args:
        protocol: One of the kinds in `FROZEN`.
        train: Features and labels of train.
        val: Features and labels of val, for selection.
        seed: Seed of whatever is random in it.
        metric: What selection maximises.

    Raises:
        UserError: If the kind does not work on frozen features, or a part is empty.
    """
    if protocol.kind not in FROZEN:
        raise UserError(
            f"protocol '{protocol.name}' of kind '{protocol.kind}' is not fitted on frozen features",
            remedy=f"kinds that are: {', '.join(FROZEN)}",
            code=2,
        )
    module = importlib.import_module(f".{protocol.kind}", __name__)
    fitted: Fitted = module.fit(train, val, protocol.params, seed, metric_name=metric)
    return fitted


def episodes(protocol: Protocol, pool: Labelled, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Accuracy in every episode of a few-shot protocol, (E,)."""
    if protocol.kind != "fewshot":
        raise UserError(
            f"protocol '{protocol.name}' has no episodes", remedy="choose a fewshot protocol", code=2
        )
    from .fewshot import episodes as run

    return run(pool, protocol.params, seed)
