"""One detection cell: a checkpoint, a task, a protocol and a seed, trained and measured by Detectron2."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import launch
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_context, inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.multiprocessing.spawn import ProcessException

from .. import claims
from ..errors import UserError
from ..features.maps import MAPS_GB
from . import certify, config, hierarchy, networks, pixels, result, vit
from .convert import Conversion, load_backbone
from .data import DetectionData, register
from .evaluate import Collector, Prediction, coco_evaluator, evaluate
from .intervals import intervals
from .result import RESULT, DetectionResult
from .stored import Store, without_pixels
from .train import CHECKPOINT, Mapper, Trainer, quiet_logs

if TYPE_CHECKING:
    from ..checkpoints import Loaded
    from ..protocols import Protocol
    from ..tasks import Task

PATIENCE: Final = 20.0  # seconds that a forecast may take for its iterations

Progress = Callable[[str, int, int], None]
Score = Callable[[nn.Module, Mapper | None], dict[str, float]]


def run(
    loaded: Loaded,
    task: Task,
    protocol: Protocol,
    data: DetectionData,
    *,
    seed: int,
    work_dir: Path,
    store: Path | None = None,
    progress: Progress | None = None,
) -> DetectionResult:
    """Fine-tune a detector from a checkpoint and measure it.

    Started again in the same ``work_dir`` it goes on from its last checkpoint and ends with the weights that an
    uninterrupted run ends with, on the same machine; a finished run is returned at once.

    Args:
        loaded: A checkpoint with a ResNet; with a ViT or a network with stages for the protocols that say so.
        task: A task of kind ``detection`` or ``instance_segmentation``.
        protocol: A protocol of kind ``detection``, overrides applied.
        data: The task's data, with the training part that is to be used.
        seed: Of the heads' weights, the data's order and augmentation, and the sampling of proposals.
        work_dir: This run's own folder: ``config.yaml``, ``metrics.json``, ``predictions.json.gz``,
            ``checkpoint.pth``, ``train.jsonl``, ``log.txt``.
        store: The feature store, for protocols that read maps from it.
        progress: Called with what is being done, how much of it is done, and of how much.

    Raises:
        UserError: For data, checkpoints or settings that cannot give a result to trust, before training; if the
            loss stops being finite; if the folder holds or is used by another run.
    """
    report: Progress = progress or _silent
    _arch(loaded, protocol)
    work_dir = Path(work_dir)
    with claims.locked(work_dir), _quiet(work_dir):
        cfg = _resolve(loaded, protocol, data, seed, work_dir)
        identity = {
            "checkpoint": loaded.passport.weights_sha256,
            "task": [task.name, task.version],
            "protocol": [protocol.name, protocol.version, protocol.params],
            "seed": seed,
            "manifest": data.manifest,
            "config": _portable(cfg, hardware=False),
        }
        claims.claim(work_dir, identity, keeps=[CHECKPOINT, RESULT])
        finished = result.read(work_dir)
        if finished is not None:
            return finished
        register(data, work_dir)
        started = time.monotonic()

        def score(model: nn.Module, mapper: Mapper | None) -> dict[str, float]:
            return evaluate(predict(model, cfg, _silent, mapper), data, masks=data.masks).metrics

        processes = _processes(protocol)

        def elsewhere() -> None:
            _launch(processes, loaded, protocol, data, seed, work_dir, store)

        trainer, conversion = _trainer(loaded, cfg, report, score)
        maps = _opened(trainer, loaded, cfg, store)
        if maps is not None:
            maps.check(float(protocol.runtime.get("maps_gb", MAPS_GB)))
        certificate = _train(
            trainer,
            conversion,
            loaded,
            protocol.settings.freeze,
            report,
            maps,
            elsewhere if processes > 1 else None,
        )
        trained = time.monotonic()
        predictions = predict(trainer.model, cfg, report, trainer.mappers.get("test"))
        evaluation = evaluate(predictions, data, masks=data.masks)
        outcome = DetectionResult(
            metrics=evaluation.metrics,
            per_image=predictions,
            counts=data.counts,
            manifest=data.manifest,
            config=_portable(cfg),
            certificate={
                **certificate,
                "normalisation_layers": _norm_note(cfg, processes),
                "data_warnings": data.warnings,
                "evaluator": coco_evaluator() if data.layout == "coco" else "detectron2",
            },
            intervals=intervals(evaluation.curves),
            per_class=evaluation.per_class,
            classes=list(data.classes),
            losses=trainer.losses,
            seconds={
                "train": round(trained - started, 3),
                "test": round(time.monotonic() - trained, 3),
            },
        )
        outcome.write(work_dir)
        return outcome


def predict(
    model: nn.Module, cfg: CfgNode, report: Progress, mapper: Mapper | None = None
) -> list[Prediction]:
    """A detector's predictions on the registered test split, one entry for each image.

    Args:
        model: The detector.
        cfg: Its config.
        report: Called with ``("test", done, total)``.
        mapper: From an entry of the data set to what the detector takes; its picture when None.
    """
    loader = build_detection_test_loader(cfg, "test", mapper=mapper or pixels.Mapper(cfg, False))
    collector = Collector()
    inference_on_dataset(model, loader, collector, callbacks=_counter(report, len(loader)))
    return collector.predictions


def forecast(
    loaded: Loaded,
    task: Task,
    protocol: Protocol,
    data: DetectionData,
    *,
    store: Path | None = None,
    iterations: int = 3,
) -> dict[str, float]:
    """What a run would cost here, from a few timed iterations of it; nothing is kept.

    Args:
        loaded: As for `run`.
        task: As for `run`.
        protocol: As for `run`.
        data: As for `run`.
        store: As for `run`.
        iterations: How many are timed, after one that is not. Where these would take longer than `PATIENCE`, one
            image is timed, and an iteration counted as that many times as it has images.

    Returns:
        ``seconds_per_iteration``, ``iterations``, ``train_seconds``, ``seconds_per_test_image``, ``test_seconds``,
        ``map_seconds`` (of the maps that the store lacks, 0 where none are read), ``gpu_bytes`` (peak, 0 on the CPU).
    """
    with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder)):
        cfg = _resolve(loaded, protocol, data, 0, Path(folder))
        register(data, Path(folder))

        trainer, _ = _trainer(loaded, cfg, _silent, lambda *_: {})
        maps = _opened(trainer, loaded, cfg, store)
        batches = iter(trainer.data_loader)
        times, tested, mapped = [], [], []
        timed = iterations + 1

        def clocked(batch: list[dict[str, Any]], step: Callable[[Any], None]) -> float:
            """Seconds of a step; those that its maps take are told apart."""
            if maps is not None:
                began = time.monotonic()
                batch = without_pixels(trainer.model, batch)
                _wait()
                mapped.append((time.monotonic() - began) / len(batch))
            began = time.monotonic()
            step(batch)
            _wait()
            return time.monotonic() - began

        def train(batch: Any) -> None:
            loss = sum(trainer.model(batch).values())
            trainer.optimizer.zero_grad()
            loss.backward()
            trainer.optimizer.step()

        with EventStorage():
            batch = next(batches)
            alone = [clocked(batch[:1], train) * len(batch) for _ in range(2)]
            if alone[1] * timed > PATIENCE:
                times, timed = alone, 2
            while len(times) < timed:
                began = time.monotonic()
                batch = next(batches)
                read = 0.0 if maps else time.monotonic() - began  # the store's maps are not decoded again
                times.append(read + clocked(batch, train))
        sample = itertools.islice(
            build_detection_test_loader(cfg, "test", mapper=pixels.Mapper(cfg, False)), timed
        )
        with inference_context(trainer.model), torch.no_grad():
            tested = [clocked(image, trainer.model) for image in sample]
        rows = maps.lacking_rows() if maps else 0
    seconds, seconds_of_test = statistics.median(times[1:]), statistics.median(tested[1:])
    return {
        "seconds_per_iteration": seconds,
        "iterations": cfg.SOLVER.MAX_ITER,
        "train_seconds": seconds * cfg.SOLVER.MAX_ITER,
        "seconds_per_test_image": seconds_of_test,
        "test_seconds": seconds_of_test * data.counts["test_images"],
        "map_seconds": rows * statistics.median(mapped) if rows else 0.0,
        "gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }


def disk(loaded: Loaded, protocol: Protocol, data: DetectionData, store: Path | None) -> dict[str, int]:
    """Bytes of maps that a run will write, by their key in the store; nothing where none are read.

    Arguments are as for `run`.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder)):
        cfg = _resolve(loaded, protocol, data, 0, Path(folder))
        if not cfg.INPUT.STORED:
            return {}
        register(data, Path(folder))
        trainer, _ = _trainer(loaded, cfg, _silent, lambda *_: {})
        maps = _opened(trainer, loaded, cfg, store)
        return maps.lacking() if maps else {}


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processes(protocol: Protocol) -> int:
    return int(protocol.settings.overrides.get("processes", 1))


def _resolve(loaded: Loaded, protocol: Protocol, data: DetectionData, seed: int, work_dir: Path) -> CfgNode:
    """The config of a run."""
    cfg = config.resolve(
        protocol.params,
        protocol.settings.overrides | protocol.runtime,
        arch=_arch(loaded, protocol),
        normalization=loaded.passport.normalization,
        stride_in_1x1=loaded.passport.stride_in_1x1,
        num_classes=len(data.classes),
        masks=data.masks,
        bitmasks=data.bitmasks,
        seed=seed,
    )
    return _localise(cfg, work_dir, _processes(protocol))


def _trainer(loaded: Loaded, cfg: CfgNode, report: Progress, score: Score) -> tuple[Trainer, Conversion]:
    """A trainer whose detector holds the checkpoint's weights, and what went where."""
    conversions: list[Conversion] = []

    def prepare(model: nn.Module) -> None:
        conversions.append(load_backbone(model, loaded.backbone.state_dict()))

    with networks.given(loaded.backbone):
        trainer = Trainer(cfg, prepare, report, score)
    return trainer, conversions[0]


def _opened(trainer: Trainer, loaded: Loaded, cfg: CfgNode, store: Path | None) -> Store | None:
    """The maps that a protocol reads from the feature store; None where its detector sees images.

    Raises:
        UserError: If there is no store.
    """
    if not cfg.INPUT.STORED:
        return None
    if store is None:
        raise UserError(
            "this protocol reads maps from a feature store, and there is none",
            remedy="run the cell with `mast eval`, or set INPUT.STORED=false",
            code=2,
        )
    return Store(trainer.detector, cfg, loaded.passport, store)


def _train(
    trainer: Trainer,
    conversion: Conversion,
    loaded: Loaded,
    freeze: str,
    report: Progress,
    maps: Store | None,
    elsewhere: Callable[[], None] | None,
) -> dict[str, Any]:
    """Certify and train, or only what is left of that; returns the certificate.

    ``elsewhere`` trains in several processes, to the last checkpoint, which is then read here.
    """
    model, cfg = trainer.model, trainer.cfg
    certificate: dict[str, Any] = {
        "backbone": certify.described(model, cfg),
        "backbone_keys": len(conversion.mapped),
        "new_keys": len(conversion.new),
        "dropped_keys": conversion.dropped,
        "feature_difference": certify.certify_features(model, loaded.backbone, loaded.passport, cfg),
        "feature_limit": certify.LIMITS,
    }
    if maps is not None:
        maps.fill(report)
        trainer.mappers = maps.mappers()
        certificate["stored"] = certify.certify_stored(model, cfg, trainer.mappers["train"])
    certificate["training"] = certify.certify_training(model, cfg, freeze, trainer.mappers.get("train"))
    if elsewhere is not None:
        elsewhere()
    _finish(trainer)
    losses = trainer.losses
    part = max(1, len(losses) // 10)
    certificate["loss"] = {
        "first_tenth": sum(losses[:part]) / part,
        "last_tenth": sum(losses[-part:]) / part,
        "iterations": len(losses),
    }
    certificate["frozen_unchanged"] = certify.certify_rest(
        model, loaded.backbone.state_dict(), conversion, freeze
    )
    return certificate


def _finish(trainer: Trainer) -> None:
    """Train what is left to train."""
    trainer.resume_or_load()
    if trainer.start_iter < trainer.max_iter:
        try:
            trainer.train()
        except FloatingPointError as error:
            raise UserError(
                f"training diverged: {str(error).splitlines()[0]}",
                remedy="lower SOLVER.BASE_LR, or turn on SOLVER.CLIP_GRADIENTS.ENABLED",
            ) from error


def _launch(processes: int, *arguments: Any) -> None:
    """Train in several processes of this machine, one for each GPU, by Detectron2's launcher."""
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UserError(
            f"processes={processes}, and there are {torch.cuda.device_count()} GPUs",
            remedy="one process uses one GPU",
            code=2,
        )
    try:
        launch(_worker, processes, dist_url="auto", args=arguments)
    except ProcessException as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"training in {processes} processes failed: {reason}", remedy="see log.txt"
        ) from error


def _worker(
    loaded: Loaded,
    protocol: Protocol,
    data: DetectionData,
    seed: int,
    work_dir: Path,
    store: Path | None,
) -> None:
    """What each process does: the same as `_train` without certificates, on its share of every batch."""
    with _quiet(work_dir, f"log-{comm.get_rank()}.txt"):
        cfg = _resolve(loaded, protocol, data, seed, work_dir)
        register(data, work_dir)
        with contextlib.ExitStack() as stack:
            if cfg.MODEL.DEVICE == "cpu":  # Detectron2 names a GPU to DistributedDataParallel
                plain = partial(create_ddp_model, device_ids=None)
                stack.enter_context(mock.patch("detectron2.engine.defaults.create_ddp_model", plain))
            trainer, _ = _trainer(loaded, cfg, _silent, lambda *_: {})
        if (maps := _opened(trainer, loaded, cfg, store)) is not None:
            trainer.mappers = maps.mappers()
        _finish(trainer)
        comm.synchronize()


def _arch(loaded: Loaded, protocol: Protocol) -> Any:
    """The architecture in the terms of the protocol's detector."""
    loaded.passport.refuse_guesses()
    wanted = {part.get("MODEL.BACKBONE.NAME") for part in protocol.settings.set}
    for name, room in ((networks.VIT, vit), (networks.HIERARCHY, hierarchy)):
        if name in wanted:
            if importlib.util.find_spec("shapely") is None:
                raise UserError(
                    f"{protocol.name} crops polygons, which needs shapely",
                    remedy="pip install 'mast-transfer[detection]'",
                    code=2,
                )
            if room is vit:
                return vit.describe(loaded.backbone)
            return hierarchy.describe(loaded.backbone, frozen=protocol.params["freeze"] == "all")
    arch = getattr(loaded.backbone, "arch", None)
    if not hasattr(arch, "stage_channels"):
        raise UserError(
            f"{loaded.passport.name} ({loaded.passport.arch}) has no feature maps that {protocol.name} can use",
            remedy="it takes ResNets; coco-vitdet and coco-vit-frozen-pyramid take ViTs, coco-convnext-fpn takes "
            "ConvNeXt and Swin, coco-frozen-fpn every network with maps",
            code=2,
        )
    return arch


def _localise(cfg: CfgNode, work_dir: Path, processes: int = 1) -> CfgNode:
    """What depends on where the run happens: plain BatchNorm on one process, and the folder."""
    cfg = cfg.clone()
    cfg.defrost()
    nodes = (cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD)
    for node in nodes:
        if node.NORM == "SyncBN" and processes == 1:  # without a process group it is BatchNorm; say so
            node.NORM = "BN"
        elif node.NORM == "SyncBN" and cfg.MODEL.DEVICE == "cpu":
            raise UserError(
                "SyncBN does not work in several processes on the CPU",
                remedy="set MODEL.RESNETS.NORM=BN (and FPN, ROI_BOX_HEAD, ROI_MASK_HEAD where they ask for it)",
                code=2,
            )
    if processes < 1 or cfg.SOLVER.IMS_PER_BATCH % processes:
        raise UserError(
            f"a batch of {cfg.SOLVER.IMS_PER_BATCH} cannot be shared by {processes} processes",
            remedy="give a batch that they divide",
            code=2,
        )
    cfg.OUTPUT_DIR = str(work_dir)
    cfg.freeze()
    return cfg


def _portable(cfg: CfgNode, *, hardware: bool = True) -> str:
    """The whole config as YAML, without the folder of this machine and, where asked, without its device."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = "."
    if not hardware:
        cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = "any", 0
    return str(cfg.dump())


def _norm_note(cfg: CfgNode, processes: int) -> str:
    if networks.is_network(cfg):
        return "none looks beyond one image" + (f", {processes} processes" if processes > 1 else "")
    norm = cfg.MODEL.RESNETS.NORM
    if norm == "BN" and processes == 1:
        return f"BN over the {cfg.SOLVER.IMS_PER_BATCH} images of the one process (what SyncBN is there)"
    return f"{norm}, {processes} processes"


@contextlib.contextmanager
def _quiet(work_dir: Path, name: str = "log.txt") -> Iterator[None]:
    """Detectron2's log into ``log.txt``, its and torch's deprecations nowhere."""
    handler = quiet_logs(work_dir / name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
            # Detectron2's number of loaders decides what each of them draws, so it is kept.
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            yield
    finally:
        handler.close()


def _counter(report: Progress, total: int) -> dict[str, Callable[[], None]]:
    done = iter(range(1, total + 1))
    return {"after_inference": lambda: report("test", next(done), total)}
