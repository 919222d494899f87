"""Golden values of dense protocols: the authors' own code on features that are made here.

    MAST_PEERS=DIR python tests/golden/make_dense.py

DIR holds clones of facebookresearch/dinov2 and vpariza/open-hummingbird-eval under their repositories' names, and in
``mmseg`` what ``pip install --no-deps --target DIR/mmseg mmsegmentation==0.30.0 mmcv==1.7.2 addict yapf`` gives:
mmseg's `EncoderDecoder` trains and tests DINOv2's `BNHead` there. Stand-ins take the place of OpenCV and of compiled
operators, which none of it calls, and of faiss's index on a GPU. ``dense.json`` keeps the numbers.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import sys
import time
import types
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

HERE = Path(__file__).parent
GOLDEN = HERE / "dense.json"
CLASSES, SIDE, PATCH, DIM = 5, 32, 8, 12
ITERATIONS, BATCH, WARMUP, RATE = 300, 4, 50, 0.01


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


class Stand(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def dinov2(peers: Path) -> dict[str, Any]:
    """`BNHead` in mmseg's `EncoderDecoder`, its `PolyLrUpdaterHook` and its slide inference."""
    sys.path.insert(0, str(peers / "mmseg"))
    for name in ("cv2", "mmcv.ops", "mmcv._ext"):
        sys.modules.setdefault(name, Stand(name))
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
    return {"mmseg": mmseg.__version__, "iou": told["IoU"].tolist(), "miou": float(told["IoU"].mean())}


def hummingbird(peers: Path) -> dict[str, Any]:
    """`HbirdEvaluation` with an unlimited memory and its own mIoU."""
    root = peers / "open-hummingbird-eval"
    space = {
        "torch": torch, "F": F, "np": np, "os": os, "tqdm": lambda item, **_: item,
        "logger": logging.getLogger("hbird"), "time": time,
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
    own = evaluation(
        Extractor(),
        loader(images, masks),
        num_classes=CLASSES,
        n_neighbours=7,
        device="cpu",
        nn_method="faiss",
    )
    return {"miou": float(own.evaluate(loader(tests, truth), SIDE // PATCH))}


TOOLS = frozen()
MADE = {"dinov2": dinov2, "open-hummingbird-eval": hummingbird}


def make(peers: Path) -> dict[str, Any]:
    """Every golden value, from a folder of clones."""
    return {name: {"commit": TOOLS.commit(peers / name), "value": run(peers)} for name, run in MADE.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    GOLDEN.write_text(json.dumps(make(Path(os.environ["MAST_PEERS"])), indent=1) + "\n", encoding="utf-8")
