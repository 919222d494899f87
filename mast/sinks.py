"""Curves and results in other programs too: TensorBoard, MLflow, Weights & Biases.

Our own files are the truth; a sink is a copy for people who watch it. So a library that is missing is an error before
any work, but a sink that fails later is told of once, gets nothing more, and changes nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from .errors import UserError, unknown
from .files import atomic_write

BOARD: Final = "tensorboard"  # folder of TensorBoard's files
RUNS: Final = ".logged.json"  # which of MLflow's and W&B's runs go on here
PROJECT: Final = (
    "mast"  # MLflow's experiment and W&B's project, where their environment variables name no other
)


class Sink(Protocol):
    """A place that numbers go to."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name, of one step (an epoch, or the seed of a cell)."""

    def close(self) -> None:
        """Write what is still held back, and end."""


class Place:
    """What a sink is opened with.

    Attributes:
        folder: Of the run.
        run: Its name.
        facts: What somebody who looks at it wants to know, as plain values.
        part: Tells several runs of one folder apart; empty for the only one.
        first: The first step that will be written; what is there from it on is from a run that was interrupted.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        facts: Mapping[str, Any] | None = None,
        *,
        part: str = "",
        first: int = 0,
    ) -> None:
        self.folder, self.run, self.part, self.first = folder, run, part, first
        self.facts = dict(_flat(facts or {}))

    def known(self, sink: str) -> str | None:
        """The id that a sink's run here was given before."""
        path = self.folder / RUNS
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        found = held.get(f"{sink} {self.part}".strip())
        return str(found) if found else None

    def keep(self, sink: str, identity: str) -> None:
        """Write down the id of a sink's run, so that it goes on when this run does."""
        path = self.folder / RUNS
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        with atomic_write(path) as file:
            json.dump(held | {f"{sink} {self.part}".strip(): identity}, file, indent=1, sort_keys=True)


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted keys."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{above}{key}.")
        else:
            found.append((f"{above}{key}", value))
    return found


class _TensorBoard:
    def __init__(self, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = place.folder / BOARD / place.part
        self._writer = SummaryWriter(str(folder), purge_step=place.first or None)
        facts = "\n".join(f"    {key}: {value}" for key, value in place.facts.items())
        self._writer.add_text("about", facts, place.first)

    def add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """Through MLflow's client, which keeps no state in this process: a run of the user's own is not touched."""

    def __init__(self, place: Place) -> None:
        from mlflow import MlflowClient

        own = f"sqlite:///{(place.folder / 'mlflow.db').absolute()}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or own)
        known = place.known("mlflow")
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._run = known
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number, run_name=place.run).info.run_id
        place.keep("mlflow", self._run)
        for key, value in place.facts.items():
            self._client.log_param(self._run, _allowed(key), str(value)[:500])

    def add(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        found = [Metric(_allowed(name), value, now, step) for name, value in values.items()]
        for start in range(0, len(found), 1000):  # the most that a call may have
            self._client.log_batch(self._run, metrics=found[start : start + 1000])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _allowed(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w.\- :/]", "_", name, flags=re.ASCII).strip("/. ")[:250] or "_"


class _Wandb:
    def __init__(self, place: Place) -> None:
        import wandb

        known = place.known("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.run,
            dir=str(place.folder),
            config=place.facts,
            id=known,
            resume="allow" if known else None,
            reinit="create_new",  # beside a run of the user's own
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("*", step_metric="step")
        place.keep("wandb", self._run.id)

    def add(self, values: Mapping[str, float], step: int) -> None:
        # The step is a value: W&B's own counter only grows, and a cell's seed does not.
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


_SINKS: Final[dict[str, tuple[str, Callable[[Place], Sink]]]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "mlflow": ("mlflow", _MLflow),
    "wandb": ("wandb", _Wandb),
}
NAMES: Final = tuple(_SINKS)


def check(names: Sequence[str]) -> None:
    """Find out whether sinks can be opened at all, before any work.

    Raises:
        UserError: For an unknown name, or a library that is not installed.
    """
    for name in names:
        if name not in _SINKS:
            raise unknown("log", name, NAMES)
        try:
            importlib.import_module(_SINKS[name][0])
        except ImportError as error:
            raise UserError(
                f"{name} is not installed", remedy=f"pip install 'mast-transfer[{name}]'", code=2
            ) from error


class Sinks:
    """Several sinks as one. Whatever goes wrong in one of them is said once, and the others go on.

    Args:
        names: Of `NAMES`; `check` has been called for them.
        place: What they are opened with.
    """

    def __init__(self, names: Sequence[str], place: Place) -> None:
        self._place, self._open = place, dict[str, Sink]()
        for name in dict.fromkeys(names):
            self._guard(name, lambda name=name: self._open.update({name: _SINKS[name][1](place)}))  # type: ignore[misc]

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name, of one step."""
        for name, sink in list(self._open.items()):
            self._guard(name, lambda sink=sink: sink.add(values, step))  # type: ignore[misc]

    def close(self) -> None:
        """End all of them."""
        for name, sink in list(self._open.items()):
            self._guard(name, sink.close)
        self._open.clear()

    def _guard(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (
            Exception
        ) as error:  # of a library, and of any kind: a run must not end because of a copy of its numbers
            self._open.pop(name, None)
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            print(
                f"warning: {name} failed and gets nothing more of {self._place.run}; the run goes on: {told}",
                file=sys.stderr,
                flush=True,
            )
