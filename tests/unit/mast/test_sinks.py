"""Numbers in other programs: read back with these programs' own libraries; what fails there changes nothing."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mast import sinks
from mast.errors import UserError
from mast.sinks import Place, Sinks
from mast.train import pretrain

FACTS = {"method": "mast", "views": {"size": 32, "augmentations": ["crop", "flip"]}}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, account or project of this machine's user is asked."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "WANDB_PROJECT",
        "WANDB_RUN_ID",
        "WANDB_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def _write(folder: Path, name: str, **more: Any) -> None:
    """A run that is interrupted after two epochs and goes on for a third."""
    for first, epochs in ((1, (1, 2)), (3, (3,))):
        opened = Sinks([name], Place(folder, "my run", FACTS, first=first, **more))
        for epoch in epochs:
            opened.add({"epoch": epoch, "loss": 1 / epoch, "mask crop (%)": 0.5}, epoch)
        opened.close()
        if name == "wandb":
            time.sleep(1.1)  # offline folders are named by the second


def test_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _write(tmp_path, "tensorboard", part="net-1")
    found = event.EventAccumulator(str(tmp_path / "tensorboard" / "net-1"))
    found.Reload()
    assert [scalar.step for scalar in found.Scalars("loss")] == [1, 2, 3]
    assert [scalar.value for scalar in found.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])
    assert set(found.Tags()["scalars"]) == {"epoch", "loss", "mask crop (%)"}
    text = found.Tensors("about/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "views.size: 32" in text
    assert "warning" not in capsys.readouterr().err


def test_mlflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    pytest.importorskip("sqlalchemy", reason="of mlflow only its skinny form is installed")
    _write(tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mast")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "method": "mast",
        "views.size": "32",
        "views.augmentations": "['crop', 'flip']",
    }
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [
        (1, 1),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert "mask crop ___" in run.data.metrics
    assert mlflow.active_run() is None
    assert "warning" not in capsys.readouterr().err


def _blocks(content: bytes) -> Iterator[bytes]:
    """What a file of W&B's offline mode holds: LevelDB's log format after a header of seven bytes."""
    assert content[:4] == b":W&B"
    place, held = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # the rest of a block that holds no header
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        held += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield held
            held = b""


def test_wandb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    from wandb.proto import wandb_internal_pb2

    _write(tmp_path, "wandb")
    lines, runs, config = [], set(), {}
    files = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    for block in (block for path in files for block in _blocks(path.read_bytes())):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(block)
        if record.WhichOneof("record_type") == "history":
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            lines.append((items["step"], items["loss"], items["mask crop (%)"]))
        if record.WhichOneof("record_type") == "run":
            runs.add((record.run.run_id, record.run.display_name, record.run.project))
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert sorted(lines) == [(1, 1, 0.5), (2, 0.5, 0.5), (3, 1 / 3, 0.5)]
    ((_, name, project),) = runs  # one run, which went on
    assert (name, project) == ("my run", "mast")
    assert (config["method"], config["views.size"]) == ("mast", 32)
    assert "warning" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ failures


class _Broken:
    """A sink that works for a while."""

    calls = 0

    def __init__(self, place: Place) -> None:
        self.left = 1

    def add(self, values: Any, step: int) -> None:
        type(self).calls += 1
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("the server\nis gone")

    def close(self) -> None:
        raise RuntimeError("cannot close either")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> type[_Broken]:
    monkeypatch.setitem(sinks._SINKS, "wandb", ("json", _Broken))
    monkeypatch.setattr(_Broken, "calls", 0)
    return _Broken


def test_a_sink_that_fails_is_told_of_once_and_gets_nothing_more(
    tmp_path: Path, broken: type[_Broken], capsys: pytest.CaptureFixture[str]
) -> None:
    class Kept:
        def __init__(self, place: Place) -> None:
            self.steps: list[int] = []
            kept.append(self)

        def add(self, values: Any, step: int) -> None:
            self.steps.append(step)

        def close(self) -> None:
            self.steps.append(-1)

    kept: list[Kept] = []
    sinks._SINKS["kept"] = ("json", Kept)
    try:
        opened = Sinks(["wandb", "kept"], Place(tmp_path, "my run"))
        for step in range(1, 5):
            opened.add({"loss": 1.0}, step)
        opened.close()
    finally:
        del sinks._SINKS["kept"]
    assert broken.calls == 2
    assert kept[0].steps == [1, 2, 3, 4, -1]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "warning: wandb failed and gets nothing more of my run; the run goes on: ConnectionError: the server is gone"
    ]


def test_one_that_cannot_be_opened_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(place: Place) -> Any:
        raise PermissionError("no login")

    monkeypatch.setitem(sinks._SINKS, "wandb", ("json", refused))
    opened = Sinks(["wandb"], Place(tmp_path, "my run"))
    opened.add({"loss": 1.0}, 1)
    opened.close()
    assert capsys.readouterr().err.count("\n") == 1


def test_pretraining_ends_the_same_with_and_without_a_failing_sink(
    tmp_path: Path, data_root: Path, small: Any, broken: type[_Broken], capsys: pytest.CaptureFixture[str]
) -> None:
    plain = pretrain(small(), tmp_path / "plain", data_root=data_root, progress=False)
    logged = pretrain(small(), tmp_path / "logged", data_root=data_root, progress=False, log=["wandb"])
    assert logged.read_bytes() == plain.read_bytes()
    assert (tmp_path / "logged" / "log.jsonl").read_bytes() == (tmp_path / "plain" / "log.jsonl").read_bytes()
    assert capsys.readouterr().err.count("warning: wandb") == 1
    assert broken.calls == 2


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_library_is_one_error_before_any_work(
    tmp_path: Path, data_root: Path, small: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, sinks._SINKS[name][0], None)
    with pytest.raises(UserError, match=rf"{name} is not installed .*mast-transfer\[{name}\]"):
        pretrain(small(), tmp_path / "out", data_root=data_root, progress=False, log=[name])
    assert not (tmp_path / "out").exists()


def test_an_unknown_name_is_told_with_the_near_one() -> None:
    with pytest.raises(UserError, match="tensorboard"):
        sinks.check(["tensorbord"])
