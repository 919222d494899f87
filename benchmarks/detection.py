"""Our training loop against Detectron2's own plain trainer, on the same config, data and machine, in one run.

    python benchmarks/detection.py --data-root SCENES --task scenes-voc --protocol voc0712-c4-moco --iterations 200
    python benchmarks/detection.py --data-root SCENES --protocol voc-fpn-tiny --arch resnet18 --iterations 40

    python benchmarks/detection.py --data-root SCENES --task scenes-coco --protocol coco-vitdet-b \
        --arch vit_base_patch16 --iterations 8 --block 2 tiny=true batch=2

Theirs is `DefaultTrainer` with `build_resnet_backbone` (or its pyramid), Detectron2's own heads and data loader.
Under ViTDet's protocols it is Detectron2's own ViT and simple pyramid, and its loader does the same jitter.
Blocks of the two alternate, so that a busy machine slows both. It prints images a second (of wall time on a GPU, of
CPU time without one), the ratio ours / theirs, the largest memory on the GPU, and what certificates cost beside it.

An architecture that Detectron2 does not have (a narrow one, a small stem) has no peer; then ours is timed alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

warnings.simplefilter("ignore")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--task", default="scenes-voc")
    parser.add_argument("--protocol", default="voc0712-c4-moco")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="no further block after this long"
    )
    parser.add_argument("overrides", nargs="*", help="options and Detectron2 keys, such as batch=8")
    measure(parser.parse_args())


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Both trainers on the same iterations.

    Returns:
        For "ours" and "theirs", where there is such a one: ``images_per_second``, ``median`` seconds of an
        iteration and ``memory``, the largest on the GPU in bytes.
    """
    from detectron2.data import build_detection_train_loader
    from detectron2.engine import DefaultTrainer
    from detectron2.utils.events import EventStorage

    from eval import checkpoints, tasks
    from eval.detection import certify
    from eval.detection.data import register
    from eval.detection.run_cell import _quiet, _resolve, _trainer
    from eval.detection.train import build_mapper
    from mast.model import Arch

    loaded = checkpoints.load(f"random:{args.arch}@0")
    overrides = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in args.overrides)}
    arch: Any = getattr(loaded.backbone, "arch", None)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time

    class Plain(DefaultTrainer):
        """Detectron2's, without its writers."""

        def build_writers(self) -> list[Any]:
            return []

        @classmethod
        def build_train_loader(cls, cfg: Any) -> Any:
            return build_detection_train_loader(cfg, mapper=build_mapper(cfg))

    with tempfile.TemporaryDirectory() as folder, _quiet(Path(folder)):
        task, protocol = tasks.resolve(args.task, args.protocol, overrides)
        data = protocol.code.data(task.open(args.data_root), protocol.settings, 0)
        cfg = _resolve(loaded, protocol, data, 0, Path(folder))
        register(data, Path(folder))
        began = time.monotonic()
        trainers: dict[str, Any] = {}
        trainers["ours"], conversion = _trainer(loaded, cfg, lambda *_: None, lambda *_: {})
        print(len(conversion.mapped), "keys")
        built = time.monotonic()
        certify.certify_features(trainers["ours"].model, loaded.backbone, loaded.passport, cfg)
        certify.certify_training(trainers["ours"].model, cfg, protocol.params["freeze"])
        print(f"building {built - began:.1f} s, certificates {time.monotonic() - built:.1f} s", flush=True)
        if conversion.kind == "vit" and cfg.MODEL.VIT.FORM == "vitdet":
            theirs = cfg.clone()
            theirs.defrost()
            theirs.OUTPUT_DIR = str(Path(folder) / "theirs")
            with mock.patch(
                "detectron2.modeling.meta_arch.rcnn.build_backbone", partial(peer, loaded.backbone)
            ):
                trainers["theirs"] = Plain(theirs)
        elif conversion.kind in ("fpn", "c4") and arch == Arch(arch.depth) and arch.depth != 10:
            theirs = cfg.clone()
            theirs.defrost()
            fpn = bool(theirs.MODEL.FPN.IN_FEATURES)
            theirs.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone" if fpn else "build_resnet_backbone"
            theirs.MODEL.ROI_HEADS.NAME = "StandardROIHeads" if fpn else "Res5ROIHeads"
            theirs.OUTPUT_DIR = str(Path(folder) / "theirs")
            trainers["theirs"] = Plain(theirs)
            if not fpn and cfg.MODEL.ROI_HEADS.RES5_EXTRA_NORM:
                print("theirs has no norm after res5: the work differs by that one layer", flush=True)
        times: dict[str, list[float]] = {name: [] for name in trainers}
        memory = dict.fromkeys(trainers, 0)
        for trainer in trainers.values():
            trainer.iter = trainer._trainer.iter = 0
            trainer.max_iter = cfg.SOLVER.MAX_ITER
            with EventStorage() as trainer.storage:
                trainer.run_step()  # not timed: loaders start, kernels are chosen
        end = time.monotonic() + args.seconds
        for done in range(0, args.iterations, args.block):
            if done and time.monotonic() > end:
                break
            for name, trainer in trainers.items():
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                with EventStorage() as trainer.storage:
                    for _ in range(args.block):
                        start = clock()
                        trainer.run_step()
                        if torch.cuda.is_available():
                            torch.cuda.synchronize()
                        times[name].append(clock() - start)
                        trainer.iter += 1
                if torch.cuda.is_available():
                    memory[name] = max(memory[name], torch.cuda.max_memory_allocated())
        batch = cfg.SOLVER.IMS_PER_BATCH
        for name, taken in times.items():
            print(
                f"{name}: {len(taken)} iterations, {batch * len(taken) / sum(taken):.2f} images/s, median "
                f"{statistics.median(taken) * 1000:.1f} ms, peak {memory[name] / 2**30:.2f} GiB",
                flush=True,
            )
        if len(times) == 2:
            ratio = statistics.median(times["theirs"]) / statistics.median(times["ours"])
            print(f"ratio ours / theirs {ratio:.3f}")
    return {
        name: {
            "iterations": len(taken),
            "images_per_second": batch * len(taken) / sum(taken),
            "median": statistics.median(taken),
            "memory": memory[name],
        }
        for name, taken in times.items()
    }


def peer(backbone: Any, cfg: Any) -> Any:
    """Detectron2's own ViT under its own pyramid, with the settings of a config of ours."""
    from detectron2.modeling import SimpleFeaturePyramid, ViT
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    from eval.detection.vit import STRIDE, global_blocks, grid_of

    network = backbone.network
    depth = len(network.blocks)
    everywhere = global_blocks(depth, cfg.MODEL.VIT.GLOBAL_BLOCKS)
    net = ViT(
        img_size=cfg.INPUT.LSJ,
        embed_dim=network.embed_dim,
        depth=depth,
        num_heads=network.blocks[0].attn.num_heads,
        drop_path_rate=cfg.MODEL.NETWORK.DROP_PATH,
        norm_layer=partial(torch.nn.LayerNorm, eps=network.blocks[0].norm1.eps),
        use_rel_pos=cfg.MODEL.VIT.REL_POS,
        window_size=cfg.MODEL.VIT.WINDOW,
        window_block_indexes=[i for i in range(depth) if i not in everywhere],
        pretrain_img_size=grid_of(network) * STRIDE,
    )
    scales = (4.0, 2.0, 1.0, 0.5)
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return SimpleFeaturePyramid(net, "last_feat", channels, scales, LastLevelMaxPool(), "LN", cfg.INPUT.LSJ)


if __name__ == "__main__":
    main()
