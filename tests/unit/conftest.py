"""Records made by hand, for tests of records, tables, figures and reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eval.results.records import (
    CheckpointEntry,
    DataEntry,
    Failure,
    Metric,
    ProtocolEntry,
    Record,
    TaskEntry,
    run_id,
)

MANIFEST = "d" * 64


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Build a record; only what a test is about has to be said."""

    def make(
        *,
        name: str = "vicreg",
        weights: str = "a",
        task: str = "cifar10",
        metric: str = "top1",
        value: float = 0.5,
        interval: tuple[float, float] | None = (0.45, 0.55),
        kind: str = "wilson",
        protocol: str = "linear",
        version: int = 1,
        overrides: dict[str, Any] | None = None,
        seed: int = 0,
        manifest: str = MANIFEST,
        status: str = "completed",
        trained: bool = True,
        beside: dict[str, float] | None = None,
        started: str = "2026-01-01T00:00:00+00:00",
        seconds: float = 2.0,
        **more: Any,
    ) -> Record:
        checkpoint = CheckpointEntry(
            name=name,
            sha256="c" * 64,
            weights_sha256=weights * 64,
            arch="resnet10-c32-half",
            layout="mast",
            trained=trained,
            normalization={
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
                "range": "0..1",
                "channels": "RGB",
            },
            method="vicreg",
        )
        about = TaskEntry(name=task, version=1, metric=metric)
        how = ProtocolEntry(
            name=protocol,
            version=version,
            overrides=overrides or {},
            params={"epochs": 1} | (overrides or {}),
        )
        low, high = interval or (None, None)
        ends = {} if interval is None else {"low": low, "high": high, "interval": kind, "level": 0.95}
        metrics = {metric: Metric(value=value, **ends)}
        metrics |= {key: Metric(value=number) for key, number in (beside or {}).items()}
        failed = status == "failed"
        return Record(
            run_id=run_id(checkpoint, about, how, manifest, seed),
            status=status,
            error=Failure(type="ValueError", message="it broke", traceback=[]) if failed else None,
            checkpoint=checkpoint,
            task=about,
            protocol=how,
            seed=seed,
            data=DataEntry(manifest=manifest, counts={"train": 80, "val": 20, "test": 100}),
            metrics={} if failed else metrics,
            environment={"versions": {"mast": "0.1.0"}},
            started=started,
            seconds=seconds,
            **more,
        )

    return make
