"""Protocols: how a task is run. A protocol is data (a YAML file here) and names the code of its kind."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..definitions import Catalog
from ..errors import UserError, unknown
from .base import Fitted, Labelled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FROZEN = ("linear", "knn", "svm", "ridge", "sgd")  # kinds with `fit`
FILES = ("subset",)  # hyper-parameters that may name a file
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

        A single value stands for a list of one where the hyper-parameter is a list.

        Raises:
            UserError: If a name is not among its hyper-parameters, or a value is of another kind than what the
                protocols of this kind have there.
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
            target[last] = self._fitting(name, value, target[last])
        return replace(self, params=params)

    def _fitting(self, name: str, value: Any, default: Any) -> Any:
        """A value for a hyper-parameter, held against what it is in all protocols of this kind."""
        siblings = (other for other in map(get, names()) if other.kind == self.kind)
        examples = [default, *(other.params[name] for other in siblings if name in other.params)]
        for example in examples:
            if _alike(value, example) or (name in FILES and isinstance(value, str)):
                return value
            if isinstance(example, list) and _alike([value], example):
                return [value]
        known = list(dict.fromkeys(map(str, examples)))
        raise UserError(
            f"parameter {name} of protocol {self.name} cannot be {value!r}",
            remedy=f"give a value such as {' or '.join(known[:3])}",
            code=2,
        )

    def metric_for(self, task_metric: str) -> str:
        """The metric to report: the task's, unless the protocol's definition replaces it."""
        return self.metric.get(task_metric, task_metric)


def _alike(value: Any, example: Any) -> bool:
    """Whether a value is of the example's kind: a whole number is a number too, and any number fits into a list."""
    if isinstance(example, list):
        if not isinstance(value, list) or not value:
            return value == example
        items = [float(item) if type(item) is int else item for item in example]
        return all(any(_alike(part, item) for item in items) for part in value)
    if type(example) is float:
        return type(value) in (int, float)
    return type(value) is type(example)


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
