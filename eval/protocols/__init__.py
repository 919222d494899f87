"""Protocols: how a task is run. A protocol is data (a YAML file here) and names the code of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..definitions import Catalog
from ..errors import UserError
from . import kinds
from .base import Estimate, Fitted, Kind, Labelled, Measured
from .frozen import fit

__all__ = ["Estimate", "Fitted", "Labelled", "Measured", "Protocol", "fit", "get", "names"]


@dataclass(frozen=True)
class Protocol:
    """How a task is run.

    Attributes:
        name: Its name, the file's.
        version: Raised whenever numbers change; numbers of different versions never share a column.
        kind: The code that runs it: a module of this package (linear, knn, ...), or the full name of one elsewhere.
        source: Where its hyper-parameters come from.
        params: The hyper-parameters as the file gives them, which records keep; `settings` has them typed.
        tasks: What it is for, where that is less than its kind serves: kinds of tasks, or names of tasks.
        metric: Replaces the task's metric where the protocol's definition does.
        description: One line.
        unverified: What of it could not be held against its source; empty where all could.
        runtime: Overrides that say where a cell runs and decide no number.
    """

    name: str
    version: int
    kind: str
    source: str
    params: dict[str, Any]
    tasks: tuple[str, ...] = ()
    metric: dict[str, str] = field(default_factory=dict)
    description: str = ""
    unverified: str = ""
    runtime: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        _ = self.settings  # a wrong parameter is told when the file is read

    def __getstate__(self) -> dict[str, Any]:
        """Without what is looked up by name: functions do not travel to another process."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @cached_property
    def code(self) -> Kind:
        """What its kind offers."""
        return kinds.find(self.kind)

    @cached_property
    def settings(self) -> Any:
        """The hyper-parameters, an instance of the kind's `Params`."""
        return self.code.params.read(self.params, self.name)

    def serves(self, task: str, kind: str) -> bool:
        """Whether it is for a task, given by its name and kind."""
        return kind in self.code.tasks and (not self.tasks or kind in self.tasks or task in self.tasks)

    def override(self, changes: Mapping[str, Any]) -> Protocol:
        """The protocol with other hyper-parameters; "a.b" reaches into a nested one.

        A single value stands for a list of one where the hyper-parameter is a list.

        Raises:
            UserError: If a name is not among its hyper-parameters, or a value does not fit.
        """
        where = self.code.params.RUNTIME
        numbers = {key: value for key, value in changes.items() if key not in where}
        runtime = {key: value for key, value in changes.items() if key in where}
        for key, value in runtime.items():
            if type(value) is not where[key]:
                raise UserError(
                    f"parameter {key} of protocol {self.name} cannot be {value!r}",
                    remedy=f"give {key} a value of type {where[key].__name__}",
                    code=2,
                )
        params = self.code.params.changed(self.params, numbers, self.name)
        return replace(self, params=params, runtime=self.runtime | runtime)

    def metric_for(self, task_metric: str) -> str:
        """The metric to report: the task's, unless the protocol's definition replaces it."""
        return self.metric.get(task_metric, task_metric)


_catalog = Catalog("protocol", Path(__file__).parent, Protocol)
names = _catalog.names
get = _catalog.get
