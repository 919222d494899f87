"""Golden values of dense protocols: the authors' own code on features that are made here.

    MAST_PEERS=DIR python tests/golden/make_dense.py [NAME ...]

DIR holds clones of facebookresearch/dinov2, facebookresearch/vjepa2, vpariza/open-hummingbird-eval, vpariza/NeCo,
Jiawei-Yang/Denoising-ViT and billpsomas/efficient-probing under their repositories' names, and in
``mmseg`` what ``pip install --no-deps --target DIR/mmseg mmsegmentation==0.30.0 mmcv==1.7.2 addict yapf`` gives:
mmseg's `EncoderDecoder` trains and tests DINOv2's `BNHead` there. DINOv2's configs lie beside its weights; the files
that are read here are copies which keep the authors' folders, in zhangletian2/ORFC and w1394945493/GaussTR at the
commits of `COPIES`. Stand-ins take the place of OpenCV and of compiled operators, which none of it calls, and of
faiss's index on a GPU. ``dense.json`` keeps the numbers; with names only those entries are made anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import logging
import math
import os
import random
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).parent
GOLDEN = HERE / "dense.json"
CLASSES, SIDE, PATCH, DIM = 5, 32, 8, 12
WIDE = 60  # pixels
ITERATIONS, BATCH, WARMUP, RATE = 300, 4, 50, 0.01
MEMORY = 72  # cells, of 12 images with 16 each


def frozen() -> Any:
    """The module beside this one, which takes code out of the peers' files."""
    spec = importlib.util.spec_from_file_location("make_frozen", HERE / "make_frozen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(number: int, width: int, seed: int) -> tuple[Any, Any]:
    """Images (N, 3, 32, width) whose colours tell the class but for noise, and masks (N, 32, width), 255 ignored."""
    generator = np.random.default_rng(seed)
    colours = np.random.default_rng(0).normal(size=(CLASSES, 3))
    coarse = generator.integers(0, CLASSES, (number, 4, -(-width // 8)))
    masks = np.kron(coarse, np.ones((1, 8, 8)))[:, :, :width].astype(np.int64)
    masks = np.roll(masks, 3, axis=2)
    images = colours[masks].transpose(0, 3, 1, 2) + 0.8 * generator.normal(size=(number, 3, SIDE, width))
    masks[:, 5:7] = 255
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(masks)


def features(images: torch.Tensor) -> torch.Tensor:
    """A frozen backbone: (B, 3, H, W) to (B, 12, H / 8, W / 8), rounded to bfloat16 as the store rounds."""
    weight = torch.randn(DIM, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)) / 14
    return F.conv2d(images, weight, stride=PATCH).relu().to(torch.bfloat16).float()


def head() -> tuple[torch.Tensor, torch.Tensor]:
    """The first weights and biases of the head."""
    return torch.randn(CLASSES, DIM, 1, 1, generator=torch.Generator().manual_seed(2)) * 0.01, torch.zeros(
        CLASSES
    )


def batches() -> list[list[int]]:
    """The rows of every batch."""
    drawn = random.Random(3)
    return [drawn.sample(range(12), BATCH) for _ in range(ITERATIONS)]


def tokens() -> torch.Tensor:
    """(2, 9, 64) patch tokens."""
    return torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(6))


def fill(module: torch.nn.Module, name: Callable[[str], str] = lambda name: name) -> None:
    """Give parameters values that their names decide; ``name`` turns a module's names into ours."""
    with torch.no_grad():
        for own, value in module.named_parameters():
            seed = int.from_bytes(hashlib.sha256(name(own).encode()).digest()[:4], "big")
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)


def short(name: str) -> str:
    """V-JEPA's names of parameters as ours."""
    return name.removeprefix("pooler.").removeprefix("cross_attention_block.")


def attentive_classifier(root: Path) -> Any:
    """V-JEPA 2's `AttentiveClassifier`."""
    given = {"torch": torch, "nn": torch.nn, "F": F, "math": math, "RoPEAttention": type(None)}
    blocks = TOOLS.take(
        root,
        "src/models/utils/modules.py",
        ["MLP", "Attention", "Block", "CrossAttention", "CrossAttentionBlock"],
        given,
    )
    given |= {name: blocks[name] for name in ("Block", "CrossAttention", "CrossAttentionBlock")}
    names = ["_no_grad_trunc_normal_", "trunc_normal_"]
    given["trunc_normal_"] = TOOLS.take(root, "src/utils/tensors.py", names, given)["trunc_normal_"]
    code = TOOLS.take(
        root, "src/models/attentive_pooler.py", ["AttentivePooler", "AttentiveClassifier"], given
    )
    return code["AttentiveClassifier"]


def vjepa2(peers: Path) -> dict[str, Any]:
    """`AttentiveClassifier` of one and of three blocks on the same tokens."""
    classifier, found = attentive_classifier(peers / "vjepa2"), {}
    for depth in (1, 3):
        model = classifier(embed_dim=64, num_heads=4, depth=depth, num_classes=3).eval()
        fill(model, short)
        with torch.no_grad():
            found[str(depth)] = model(tokens()).tolist()
    return found


def efficient_probing(peers: Path) -> dict[str, Any]:
    """`EfficientProbing` with 8 queries on the same tokens."""
    given = {"torch": torch, "nn": torch.nn, "F": F, **vars(__import__("typing"))}
    root = peers / "efficient-probing"
    model = TOOLS.take(root, "poolings/ep.py", ["EfficientProbing"], given)["EfficientProbing"](
        64, num_queries=8
    )
    fill(model)
    with torch.no_grad():
        return {"8": model(tokens()).tolist()}


class Stand(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def openmmlab(peers: Path) -> None:
    """Let mmcv and mmseg be imported without OpenCV and compiled operators."""
    sys.path.insert(0, str(peers / "mmseg"))
    for name in ("cv2", "mmcv.ops", "mmcv._ext"):
        sys.modules.setdefault(name, Stand(name))


def dinov2(peers: Path) -> dict[str, Any]:
    """`BNHead` in mmseg's `EncoderDecoder`, its `PolyLrUpdaterHook`, slide inference and test of mirrored images."""
    openmmlab(peers)
    import mmseg
    from mmcv.runner.hooks.lr_updater import PolyLrUpdaterHook
    from mmseg.core.evaluation.metrics import eval_metrics
    from mmseg.models.builder import BACKBONES, HEADS
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.ops import resize

    given = {
        "torch": torch,
        "nn": torch.nn,
        "HEADS": HEADS,
        "BaseDecodeHead": BaseDecodeHead,
        "resize": resize,
    }
    given["nn"] = SimpleNamespace(**vars(torch.nn))
    given["nn"].SyncBatchNorm = torch.nn.BatchNorm2d  # one process
    TOOLS.take(
        peers / "dinov2", "dinov2/eval/segmentation/models/decode_heads/linear_head.py", ["BNHead"], given
    )

    class Given(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [features(images)]

    if "Given" not in BACKBONES:
        BACKBONES.register_module(Given)
    model = EncoderDecoder(
        backbone={"type": "Given"},
        decode_head={
            "type": "BNHead", "in_channels": [DIM], "in_index": [0], "input_transform": "resize_concat",
            "channels": DIM, "dropout_ratio": 0, "num_classes": CLASSES, "align_corners": False,
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        },
        test_cfg=SimpleNamespace(mode="slide", crop_size=(SIDE, SIDE), stride=(21, 21)),
    )  # fmt: skip
    with torch.no_grad():
        for own, value in zip(model.decode_head.conv_seg.parameters(), head(), strict=True):
            own.copy_(value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4, betas=(0.9, 0.999))
    hook = PolyLrUpdaterHook(
        power=1.0, min_lr=0.0, by_epoch=False, warmup="linear", warmup_iters=WARMUP, warmup_ratio=1e-6
    )
    runner = SimpleNamespace(optimizer=optimizer, max_iters=ITERATIONS, iter=0)
    hook.before_run(runner)
    images, masks = pictures(12, SIDE, 1)
    model.train()
    for step, rows in enumerate(batches()):
        runner.iter = step
        hook.before_train_iter(runner)
        losses = model.forward_train(images[rows], [{}] * BATCH, masks[rows][:, None])
        optimizer.zero_grad()
        losses["decode.loss_ce"].backward()
        optimizer.step()
    model.eval()
    tests, truth = pictures(6, 52, 4)
    meta = {"ori_shape": (SIDE, 52, 3), "img_shape": (SIDE, 52, 3), "flip": False}
    found = [model.simple_test(image[None], [meta])[0] for image in tests]
    told = eval_metrics(found, list(truth.numpy()), CLASSES, 255, ["mIoU"])
    wide, answers = pictures(6, WIDE, 8)  # three squares, which lie otherwise in the mirrored image
    turned = meta | {"ori_shape": (SIDE, WIDE, 3), "img_shape": (SIDE, WIDE, 3)}
    metas = [[turned], [turned | {"flip": True, "flip_direction": "horizontal"}]]
    both = [model.aug_test([image[None], image[None].flip(3)], metas)[0] for image in wide]
    mirrored = eval_metrics(both, list(answers.numpy()), CLASSES, 255, ["mIoU"])["IoU"].tolist()
    iou = told["IoU"]
    return {
        "mmseg": mmseg.__version__,
        "iou": iou.tolist(),
        "miou": float(iou.mean()),
        "mirrored iou": mirrored,
    }


def hummingbird(peers: Path) -> dict[str, Any]:
    """`HbirdEvaluation` and its own mIoU with an unlimited memory, and with one of 72 cells that it draws.

    It draws with numpy's numbers, so that ours can draw the same cells.
    """
    root = peers / "open-hummingbird-eval"
    generator = np.random.default_rng(0)
    drawn = {"rand": lambda number: torch.from_numpy(generator.random(number).astype(np.float32))}
    space = {
        "torch": SimpleNamespace(**vars(torch) | drawn), "F": F, "np": np, "os": os, "time": time,
        "logger": logging.getLogger("hbird"), "tqdm": lambda item, **_: item,
        "PredsmIoU": TOOLS.take(
            root, "hbird/utils/eval_metrics.py", ["PredsmIoU"], {
                "torch": torch, "np": np, "_SCIPY_AVAILABLE": True,
                "linear_sum_assignment": __import__("scipy.optimize").optimize.linear_sum_assignment,
                **vars(__import__("typing")),
            },
        )["PredsmIoU"],
    }  # fmt: skip

    class Exact:
        """What `NearestNeighborSearchFaiss` answers, without a GPU."""

        def __init__(self, memory: torch.Tensor, n_neighbors: int, **_: Any) -> None:
            self.memory, self.number = memory, n_neighbors

        def find_nearest_neighbors(self, queries: torch.Tensor) -> Any:
            found = (queries @ self.memory.T).topk(self.number, dim=1)
            return found.indices.numpy(), found.values.numpy()

    module = types.ModuleType("hbird.nn.search_faiss")
    module.NearestNeighborSearchFaiss = Exact  # type: ignore[attr-defined]
    for name in ("hbird", "hbird.nn"):
        sys.modules.setdefault(name, Stand(name))
    sys.modules["hbird.nn.search_faiss"] = module
    code = TOOLS.take(root, "hbird/hbird_eval.py", ["HbirdEvaluation"], space)
    images, masks = pictures(12, SIDE, 1)
    tests, truth = pictures(6, SIDE, 4)

    class Extractor(torch.nn.Module):
        eval_spatial_resolution, d_model = SIDE // PATCH, DIM

        def forward_features(self, given: torch.Tensor) -> tuple[torch.Tensor, None]:
            return features(given).flatten(2).transpose(1, 2), None

    def loader(images: torch.Tensor, masks: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(images, (masks[:, None].double() + 1e-6) / 255)]  # theirs are times 255, rounded down

    evaluation: Any = code["HbirdEvaluation"]

    def told(**memory: int) -> Any:
        return evaluation(
            Extractor(), loader(images, masks), num_classes=CLASSES, n_neighbours=7, device="cpu",
            nn_method="faiss", **memory,
        )  # fmt: skip

    limited = told(memory_size=MEMORY, dataset_size=len(images))
    return {
        "miou": float(told().evaluate(loader(tests, truth), SIDE // PATCH)),
        "miou of 72 cells": float(limited.evaluate(loader(tests, truth), SIDE // PATCH)),
        "labels of 72 cells": limited.label_memory.tolist(),
    }


SILENT = [
    "auto_resume", "checkpoint_config", "crop_size", "cudnn_benchmark", "custom_imports", "data_root", "dataset_type",
    "dist_params", "eval_pipeline", "find_unused_parameters", "fp16", "img_norm_cfg", "load_from", "log_config",
    "log_level", "norm_cfg", "resume_from", "test_pipeline", "train_pipeline", "work_dir", "workflow",
]  # fmt: skip
"""Keys of a config that its `data` and `model` repeat, or that change no number."""
FORMAT = ("LoadImageFromFile", "DefaultFormatBundle", "ImageToTensor", "Collect")
"""Steps of a pipeline that change no pixel."""


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A config by dotted keys; the steps of a pipeline by their types."""
    if isinstance(node, list | tuple) and node and all(isinstance(item, dict) for item in node):
        node = {
            item["type"]: {key: value for key, value in item.items() if key != "type"}
            for item in node
            if item["type"] not in FORMAT
        }
    if isinstance(node, range):
        node = len(node)
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): list(node) if isinstance(node, tuple) else node}
    if not node:
        return {prefix.removesuffix("."): None}
    return {
        name: value for key, item in node.items() for name, value in flat(item, f"{prefix}{key}.").items()
    }


def rates(config: Any, every: int) -> dict[str, list[float]]:
    """The learning rate and the first beta of AdamW in every so many iterations, by mmcv's own hooks."""
    from mmcv.runner.hooks import lr_updater, momentum_updater

    told = dict(config.optimizer)
    options = {key: told[key] for key in ("lr", "betas", "weight_decay")}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], **options)
    hooks = [hook(lr_updater, "LrUpdaterHook", config.lr_config)]
    if "momentum_config" in config:
        hooks.append(hook(momentum_updater, "MomentumUpdaterHook", config.momentum_config))
    runner = SimpleNamespace(optimizer=optimizer, max_iters=config.runner.max_iters, iter=0)
    found: dict[str, list[float]] = {"lr": [], "beta": []}
    for one in hooks:
        one.before_run(runner)
    for step in range(config.runner.max_iters):
        runner.iter = step
        for one in hooks:
            one.before_train_iter(runner)
        if step % every == 0:
            found["lr"].append(optimizer.param_groups[0]["lr"])
            found["beta"].append(optimizer.param_groups[0]["betas"][0])
    return found


def hook(module: Any, ending: str, told: Any) -> Any:
    """What `register_lr_hook` and `register_momentum_hook` make of a policy's name and its values."""
    policy = told["policy"]
    made = getattr(module, policy[0].upper() + policy[1:] + ending)
    return made(**{key: value for key, value in told.items() if key != "policy"})


SIZES = [(500, 375), (333, 500), (640, 480), (1024, 97), (281, 500)]  # of images, width and height


def sizes(config: Any) -> list[list[list[int]]]:
    """What mmcv's `rescale_size` makes of images at the scales that `MultiScaleFlipAug` has in a config's test."""
    from mmcv.image.geometric import rescale_size

    told = next(step for step in config.data.test.pipeline if step["type"] == "MultiScaleFlipAug")
    long, short = told["img_scale"]
    scales = [(int(long * ratio), int(short * ratio)) for ratio in told.get("img_ratios") or [1.0]]
    return [[list(rescale_size(size, scale)) for scale in scales] for size in SIZES]


def config_of(peers: Path, path: str) -> Any:
    """A config, read by mmcv itself."""
    openmmlab(peers)
    from mmcv import Config

    return Config.fromfile(str(peers / path), import_custom_modules=False)


def keys(config: Any) -> dict[str, Any]:
    """What a config says about numbers, by dotted keys."""
    kept = {key: value for key, value in config._cfg_dict.to_dict().items() if key not in SILENT}
    kept["data"] = {
        key: value for key, value in kept["data"].items() if key not in ("val", "workers_per_gpu")
    }
    for part in ("train", "test"):
        kept["data"][part].pop("data_root")
    return cast("dict[str, Any]", json.loads(json.dumps(flat(kept))))


def segmentation_configs(peers: Path) -> dict[str, Any]:
    """DINOv2's two configs of VOC: their keys, rates and sizes of test images."""
    found = {}
    for name, path in SEGMENTATION.items():
        config = config_of(peers, path)
        found[name] = {"keys": keys(config), "rates": rates(config, 1000), "sizes": sizes(config)}
    return found


def depth_config(peers: Path) -> dict[str, Any]:
    """A copy of DINOv2's config of NYU: its keys and rates."""
    config = config_of(peers, "Denoising-ViT/evaluation/configs/vitb_nyu_linear_config.py")
    return {"keys": keys(config), "rates": rates(config, 800)}


def vjepa2_training(peers: Path) -> dict[str, Any]:
    """The pairs of V-JEPA 2's config, its `init_opt` over 20 epochs of 10 iterations, and first weights.

    Also logits of `AttentiveClassifier` after 20 iterations of its AdamW on one batch, for two of the pairs.
    """
    import yaml

    root = peers / "vjepa2"
    told = yaml.safe_load((root / "configs/eval/vitl/in1k.yaml").read_text(encoding="utf-8"))
    told, processes = told["experiment"]["optimization"], told["nodes"] * told["tasks_per_node"]
    file = root / "evals/image_classification_frozen/eval.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    main = next(node for node in tree.body if getattr(node, "name", "") == "main")
    tree.body = [node for node in main.body if ast.unparse(node).startswith("opt_kwargs = ")]  # type: ignore[attr-defined]
    space: dict[str, Any] = {"args_opt": told}
    exec(compile(tree, str(file), "exec"), space)
    given = {"torch": torch, "math": math, "logger": logging.getLogger("vjepa")}
    code = TOOLS.take(
        root, str(file.relative_to(root)), ["init_opt", "WarmupCosineLRSchedule", "CosineWDSchedule"], given
    )

    def schedules(models: list[torch.nn.Module], pairs: list[Any], each: int) -> Any:
        made = code["init_opt"](models, each, pairs, told["num_epochs"])
        return made[0], [one for group in (made[2], made[3]) for one in group]

    pairs = space["opt_kwargs"]
    optimizers, steps = schedules([torch.nn.Linear(1, 1) for _ in pairs], pairs, 10)
    found: list[list[list[float]]] = [[] for _ in pairs]
    for _ in range(10 * told["num_epochs"]):
        for one in steps:
            one.step()
        for rows, optimizer in zip(found, optimizers, strict=True):
            group = optimizer.param_groups[0]
            rows.append([group["lr"], group["weight_decay"]])
            optimizer.step()
    kept = [rows[::20] for rows in found]
    classifier = attentive_classifier(root)
    torch.manual_seed(0)
    start = classifier(embed_dim=256, num_heads=4, depth=4, num_classes=100)
    weights = {short(name): spread(value) for name, value in start.named_parameters()}
    chosen = [pairs[1], pairs[-1]]
    models = [classifier(embed_dim=64, num_heads=4, depth=1, num_classes=3) for _ in chosen]
    for model in models:
        fill(model, short)
    optimizers, steps = schedules(models, chosen, 1)
    for _ in range(told["num_epochs"]):
        for one in steps:
            one.step()
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(tokens()), torch.tensor([0, 2])).backward()
            optimizer.step()
    with torch.no_grad():
        after = [model(tokens()).tolist() for model in models]
    return {
        "batch": told["batch_size"] * processes, "epochs": told["num_epochs"], "pairs": kept, "weights": weights,
        "trained": [[pair["ref_lr"], pair["ref_wd"]] for pair in chosen], "logits": after,
    }  # fmt: skip


def spread(value: torch.Tensor) -> list[float]:
    """Mean and standard deviation of a parameter."""
    value = value.detach().double()
    return [float(value.mean()), float(value.std(unbiased=False))]


def neco_masks(masks: torch.Tensor) -> torch.Tensor:
    """Masks (N, 32, 32) at 16 px, by the pixels that NeCo's code takes."""
    return F.interpolate(masks[:, None].double(), size=(16, 16), mode="nearest")[:, 0].long()


def neco_batches() -> list[list[int]]:
    """The rows of every batch of 25 epochs, three an epoch."""
    drawn = random.Random(7)
    return [drawn.sample(range(12), BATCH) for _ in range(75)]


def neco(peers: Path) -> dict[str, Any]:
    """NeCo's configs of VOC, how it cuts images, and `LinearFinetune` with masks of 16 px at 50 times its rate."""
    import yaml

    root = peers / "NeCo" / "experiments"
    files = sorted((root / "linear_segmentation" / "configs" / "pascal").glob("*.yml"))
    told = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    alike = {
        f"{part}.{key}": value
        for part in ("data", "train")
        for key, value in told[0][part].items()
        if all(one[part].get(key) == value for one in told)
    }
    file = root / "linear_segmentation" / "linear_finetune.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    main = next(node for node in tree.body if getattr(node, "name", "") == "linear_finetune")
    starts = ("train_transforms = ", "val_image_transforms = ", "val_target_transforms = ")
    tree.body = [node for node in main.body if ast.unparse(node).startswith(starts)]  # type: ignore[attr-defined]

    def noted(name: str) -> Callable[..., Any]:
        return lambda *values, **options: [name, *values, options]

    steps = ("RandomResizedCrop", "RandomHorizontalFlip", "Resize", "ToTensor", "Normalize")
    space: dict[str, Any] = {name: noted(name) for name in steps} | {"Compose": list, "input_size": 448}
    space["T"] = SimpleNamespace(**space)
    space["InterpolationMode"] = SimpleNamespace(NEAREST="nearest")
    exec(compile(tree, str(file), "exec"), space)
    views = {name.partition(" ")[0]: space[name.partition(" ")[0]] for name in starts}

    class Module(torch.nn.Module):
        save_hyperparameters = log = lambda *_, **__: None

    class Metric(torch.nn.Module):
        def __init__(self, **_: Any) -> None:
            super().__init__()

        def add_state(self, name: str, value: list[Any]) -> None:
            setattr(self, name, value)

    class Vit(torch.nn.Module):
        embed_dim = DIM

        def forward_backbone(self, images: torch.Tensor) -> torch.Tensor:
            found = features(images).flatten(2).transpose(1, 2)
            return torch.cat([torch.zeros(len(found), 1, DIM), found], 1)

    given: dict[str, Any] = {"torch": torch, "np": np, "Metric": Metric, "print": lambda *_: None}
    given |= vars(__import__("typing"))
    given["PredsmIoU"] = TOOLS.take(root, "utils.py", ["PredsmIoU"], given)["PredsmIoU"]
    given |= {"pl": SimpleNamespace(LightningModule=Module), "nn": torch.nn, "vit_small": lambda **_: Vit()}
    given["StepLR"] = torch.optim.lr_scheduler.StepLR
    model: Any = TOOLS.take(root, "linear_segmentation/linear_finetune.py", ["LinearFinetune"], given)[
        "LinearFinetune"
    ](
        patch_size=PATCH, num_classes=CLASSES, lr=50 * alike["train.lr"], input_size=SIDE, val_iters=None,
        spatial_res=SIDE // PATCH, drop_at=alike["train.drop_at"], arch="vit-small",
    )  # fmt: skip
    masks_at = [model.train_mask_size, model.val_mask_size]
    model.train_mask_size = model.val_mask_size = 16
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(DIM, CLASSES, 1)
    model.finetune_head.load_state_dict(layer.state_dict())
    (optimizer,), (scheduler,) = model.configure_optimizers()
    images, masks = pictures(12, SIDE, 1)
    rates = []
    for step, rows in enumerate(neco_batches()):
        loss = model.training_step((images[rows], masks[rows][:, None].float() / 255), step)
        optimizer.zero_grad()
        loss.backward()
        model.on_after_backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
        if step % 3 == 2:
            scheduler.step()
    tests, truth = pictures(6, SIDE, 4)
    model.eval()
    model.validation_step((tests, truth[:, None].float() / 255), 0)
    miou, right, wrong, missed, *_ = model.miou_metric.compute(True, many_to_one=False, linear_probe=True)
    iou = [float(t / (t + f + n)) for t, f, n in zip(right, wrong, missed, strict=True)]
    group = optimizer.param_groups[0]
    found = {
        "alike": alike, "masks": masks_at, "views": views, "rates": rates, "miou": float(miou), "iou": iou,
        "optimizer": [type(optimizer).__name__, group["momentum"], group["weight_decay"]],
    }  # fmt: skip
    return cast("dict[str, Any]", json.loads(json.dumps(found)))


def hummingbird_settings(peers: Path) -> dict[str, Any]:
    """The defaults of `hbird_evaluation` and of its attention, and how it cuts images of 512 px."""
    root = peers / "open-hummingbird-eval" / "hbird"
    tree = ast.parse((root / "hbird_eval.py").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("hbird_evaluation", "_cross_attention"):
            names = [one.arg for one in node.args.args][-len(node.args.defaults) :]
            told = {
                name: value.value
                for name, value in zip(names, node.args.defaults, strict=True)
                if isinstance(value, ast.Constant)
            }
            found[node.name] = told

    def noted(name: str) -> Callable[..., Any]:
        return lambda *values, **options: [name, *values, options]

    class Steps(list[Any]):
        transforms = property(list)

    steps = ("RandomApply", "ColorJitter", "ToTensor", "Normalize", "Resize")
    tree = ast.parse((root / "utils" / "transforms.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    space: dict[str, Any] = {"trn": SimpleNamespace(Compose=Steps, **{name: noted(name) for name in steps})}
    space |= {name: noted(name) for name in ("RandomResizedCrop", "Resize")} | {"Compose": list}
    space |= vars(__import__("typing"))
    exec(compile(tree, "transforms.py", "exec"), space)
    found["train"] = space["get_hbird_train_transforms"](512)
    found["test"] = space["get_hbird_val_transforms"](512)
    return cast("dict[str, Any]", json.loads(json.dumps(found)))


TOOLS = frozen()
SEGMENTATION = {
    "seg-linear": "ORFC/utils/dinov2_vitl14_voc2012_linear_config.py",
    "seg-linear-multiscale": "GaussTR/configs/dinov2/dinov2_vits14/dinov2_vits14_voc2012_ms_config.py",
}
COPIES = {
    "ORFC": "0606e4bfac96b78df2ad694fe032dbffa4ad70dc",
    "GaussTR": "3442366f151c6fe43f7c5cfaf213ab2ee79ee72b",
    "dinov2": "b8931f7bf91576930313be2c6d6af376033b35f0",
    "vjepa2": "c2963a47433ecca0ad4f06ec28bcfa8cb5b5cefb",
}
"""Commits of files that lie here without git."""
MADE: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "dinov2": (("dinov2", "mmseg"), dinov2),
    "dinov2 segmentation": (("ORFC", "GaussTR", "mmseg"), segmentation_configs),
    "dinov2 depth": (("Denoising-ViT", "mmseg"), depth_config),
    "open-hummingbird-eval": (("open-hummingbird-eval",), hummingbird),
    "hummingbird settings": (("open-hummingbird-eval",), hummingbird_settings),
    "vjepa2": (("vjepa2",), vjepa2),
    "vjepa2 training": (("vjepa2",), vjepa2_training),
    "efficient-probing": (("efficient-probing",), efficient_probing),
    "neco": (("NeCo",), neco),
}


def make(peers: Path, names: Sequence[str]) -> dict[str, Any]:
    """Golden values by name, from a folder of clones."""

    def commit(folder: str) -> str:
        git = (peers / folder / ".git").exists()
        return cast("str", TOOLS.commit(peers / folder)) if git else COPIES[folder]

    return {
        name: {
            "commit": {folder: commit(folder) for folder in folders if folder != "mmseg"},
            "value": run(peers),
        }
        for name, (folders, run) in MADE.items()
        if name in names
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = make(Path(os.environ["MAST_PEERS"]), sys.argv[1:] or list(MADE))
    TOOLS.write(GOLDEN, {name: found.get(name) or kept[name] for name in MADE})
