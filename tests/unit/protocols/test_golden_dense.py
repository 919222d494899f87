"""Numbers of the authors' own code in tests/golden/dense.json, which make_dense.py there made, beside ours."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval import protocols
from eval.features.maps import Maps, fill_entry
from eval.features.store import Entry
from eval.features.views import Views
from eval.numbers.segmentation import IGNORED
from eval.protocols import attentive, dense, depthlinear, segknn, seglinear
from eval.protocols.base import Context
from eval.protocols.dense import Stored

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "dense.json").read_text(encoding="utf-8"))
POINTS = 0.002  # of mIoU that ours may differ by


@pytest.fixture(scope="module")
def made() -> Any:
    """The module that made them, for its inputs."""
    spec = importlib.util.spec_from_file_location("make_dense", FOLDER / "make_dense.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Truth:
    """Masks without images."""

    def __init__(self, masks: Any) -> None:
        self.masks = np.where(masks == 255, IGNORED, masks).astype(np.int16)

    def __len__(self) -> int:
        return len(self.masks)

    def read(self, index: int) -> Any:
        return self.masks[index]


def kept(made: Any, store: Path, images: Any, views: Views, masks: Any = None) -> Stored:
    """The squares' features, and their masks, in a store."""
    plan = views.plan(np.array([[images.shape[3], images.shape[2]]] * len(images)))
    squares = torch.stack(
        [images[v.image, :, v.top : v.top + made.SIDE, v.left : v.left + made.SIDE] for v in plan]
    )
    squares = torch.stack([one.flip(2) if v.flip else one for one, v in zip(squares, plan, strict=True)])
    rows = (
        made.features(squares)
        .permute(0, 2, 3, 1)
        .to(torch.bfloat16)
        .view(torch.int16)
        .numpy()
        .view(np.uint16)
    )
    entry = Entry(store, {"of": "maps", "rows": len(rows)}, len(rows), "<u2")
    fields: list[tuple[Entry, Any]] = [(entry, rows)]
    labels = None
    if masks is not None:
        labels = Entry(store, {"of": "masks"}, len(rows), "|u1")
        fields.append((labels, masks.numpy().astype(np.uint8)))
    for place, values in fields:
        with place.lock():
            fill_entry(place, values.__getitem__, lambda batch, first: batch, 8, 0)
    return Stored(Maps(entry, plan, rows.shape[1:]), labels, views)


def scored(test: Stored, split: Truth, scores: Any, how: Any, classes: int) -> Any:
    rows = []
    for image, (truth, chosen) in enumerate(
        dense.predictions(test, split, scores, how, torch.device("cpu"))  # type: ignore[arg-type]
    ):
        matrix = dense.segmentation.confusion(truth, chosen, classes)
        rows += [[image, *place, matrix[tuple(place)]] for place in np.argwhere(matrix)]
    names = [str(index) for index in range(classes)]
    return dense.measured(np.array(rows), len(split), names, {})


def test_the_linear_head_is_dinov2s_in_mmseg(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, 52, 4)
    train = kept(made, tmp_path / "train", images, Views("squash", made.SIDE), masks)
    changes = {
        "iterations": made.ITERATIONS,
        "batch_size": made.BATCH,
        "warmup": made.WARMUP,
        "lr": made.RATE,
    }
    how = protocols.get("seg-linear").override(changes).settings

    def first(channels: int, classes: int, *_: Any) -> torch.nn.Sequential:
        found = torch.nn.Sequential(torch.nn.BatchNorm2d(channels), torch.nn.Conv2d(channels, classes, 1))
        with torch.no_grad():
            for own, value in zip(found[1].parameters(), made.head(), strict=True):
                own.copy_(value)
        return found

    def order(*_: Any) -> Iterator[Any]:
        return iter(map(np.array, made.batches()))

    monkeypatch.setattr(seglinear, "head", first)
    monkeypatch.setattr(seglinear, "order", order)
    nothing: dict[str, Any] = dict.fromkeys(("task", "protocol", "data", "loaded", "extract"))
    context = Context(**nothing, metric="miou", seed=0, work=tmp_path, device=torch.device("cpu"))
    model = seglinear.train(train, made.CLASSES, how, 0, context, made.ITERATIONS)
    test = kept(made, tmp_path / "test", tests, Views("slide", made.SIDE))
    found = scored(test, Truth(truth.numpy()), model, how, made.CLASSES)
    golden = GOLDEN["dinov2"]["value"]
    assert found.metrics["miou"].value == pytest.approx(golden["miou"], abs=POINTS)
    assert list(found.certificate["iou"].values()) == pytest.approx(golden["iou"], abs=3 * POINTS)
    wide, answers = made.pictures(6, made.WIDE, 8)
    both = kept(made, tmp_path / "both", wide, Views("slide", made.SIDE, mirrored=True))
    found = scored(both, Truth(answers.numpy()), model, how, made.CLASSES)
    assert list(found.certificate["iou"].values()) == pytest.approx(golden["mirrored iou"], abs=3 * POINTS)


def test_retrieval_is_open_hummingbirds(made: Any, tmp_path: Path) -> None:
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, made.SIDE, 4)
    views = Views("squash", made.SIDE)
    train = kept(made, tmp_path / "train", images, views, masks)
    how = (
        protocols.get("seg-knn-hummingbird")
        .override({"neighbours": 7, "memory": None, "mask_size": None})
        .settings
    )
    memory = segknn.remember(train, 12, made.CLASSES, how, 0, 1.0)
    scores = segknn.retriever(memory, how, torch.device("cpu"))
    found = scored(
        kept(made, tmp_path / "test", tests, views), Truth(truth.numpy()), scores, how, made.CLASSES
    )
    assert found.metrics["miou"].value == pytest.approx(
        GOLDEN["open-hummingbird-eval"]["value"]["miou"], abs=POINTS
    )


def test_a_limited_memory_draws_open_hummingbirds_cells(made: Any, tmp_path: Path) -> None:
    """Theirs drew with numpy's numbers of the same seed: the same cells, in the same order."""
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, made.SIDE, 4)
    views = Views("squash", made.SIDE)
    changes = {"neighbours": 7, "memory": made.MEMORY, "mask_size": None}  # of one square an image
    how = protocols.get("seg-knn-hummingbird").override(changes).settings
    memory = segknn.remember(
        kept(made, tmp_path / "train", images, views, masks), 12, made.CLASSES, how, 0, 1.0
    )
    golden = GOLDEN["open-hummingbird-eval"]["value"]
    assert len(memory.labels) == 72
    np.testing.assert_allclose(memory.labels, golden["labels of 72 cells"], rtol=0, atol=1e-6)
    scores = segknn.retriever(memory, how, torch.device("cpu"))
    test = kept(made, tmp_path / "test", tests, views)
    found = scored(test, Truth(truth.numpy()), scores, how, made.CLASSES)
    assert found.metrics["miou"].value == pytest.approx(golden["miou of 72 cells"], abs=POINTS)
    assert golden["miou of 72 cells"] != pytest.approx(golden["miou"], abs=5 * POINTS)


def test_values_of_open_hummingbird() -> None:
    golden = GOLDEN["hummingbird settings"]["value"]
    for name in ("seg-knn", "seg-knn-hummingbird"):
        params = protocols.get(name).settings
        told, views = golden["hbird_evaluation"], params.train_views
        assert params.neighbours == told["n_neighbours"]
        assert params.temperature == golden["_cross_attention"]["beta"]
        assert told["ignore_index"] == 255
        side = params.extraction.image_size
        (crop,) = golden["train"]["shared"]
        assert crop == ["RandomResizedCrop", {"size": [side, side], "scale": list(views.scales)}]
        assert golden["test"]["shared"] == [["Resize", {"size": [side, side]}]]
        assert (views.kind, views.mirrored, params.test_views.kind) == ("resized-crop", False, "squash")
        assert (params.mask_size, views.copies) == (side, {"seg-knn": 1, "seg-knn-hummingbird": 2}[name])
    *jitter, tensor, norm = golden["train"]["img"]
    assert [step[0] for step in jitter] == ["RandomApply"] * 4  # colours, which are left
    std = [0.229, 0.224, 0.255]  # of blue, where ImageNet's is 0.225: left
    assert (tensor, norm) == (["ToTensor", {}], ["Normalize", {"mean": [0.485, 0.456, 0.406], "std": std}])


def test_every_value_of_necos_linear_segmentation() -> None:
    golden, params = GOLDEN["neco"]["value"], protocols.get("seg-linear-448").settings
    train, side = params.train_views, params.extraction.image_size
    task = {"data.data_dir", "data.dataset_name", "train.ckpt_dir", "train.fast_dev_run", "train.head_type"}
    network = {"train.arch", "train.ckpt_path", "train.patch_size", "train.restart", "train.val_iters"}
    said = {key: value for key, value in golden["alike"].items() if key not in task | network}
    assert said == {
        "data.size_crops": side, "train.batch_size": params.batch_size, "train.lr": params.lr,
        "train.max_epochs": params.epochs, "train.drop_at": (params.drop or 0) * params.epochs,
    }  # fmt: skip
    assert golden["masks"] == [params.label_size, params.mask_size]
    assert golden["optimizer"] == [params.optimizer.upper(), seglinear.MOMENTUM, params.weight_decay]
    norm = ["Normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}]
    assert train.mirrored
    assert golden["views"] == {
        "train_transforms": [
            ["RandomResizedCrop", {"size": side, "scale": list(train.scales)}],
            ["RandomHorizontalFlip", {"p": 0.5}], ["ToTensor", {}], norm,
        ],
        "val_image_transforms": [["Resize", [side, side], {}], ["ToTensor", {}], norm],
        "val_target_transforms": [["Resize", [side, side], {"interpolation": "nearest"}], ["ToTensor", {}]],
    }  # fmt: skip
    assert (train.kind, params.test_views.kind) == ("resized-crop", "squash")
    assert params.length(1464) == 25 * 11  # VOC's train: eleven whole batches an epoch


def test_the_linear_head_is_necos(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDEN["neco"]["value"]
    images, masks = made.pictures(12, made.SIDE, 1)
    tests, truth = made.pictures(6, made.SIDE, 4)
    views = Views("squash", made.SIDE)
    train = kept(made, tmp_path / "train", images, views, made.neco_masks(masks))
    changes = {"batch_size": made.BATCH, "lr": 50 * golden["alike"]["train.lr"], "mask_size": None}
    how = protocols.get("seg-linear-448").override(changes).settings
    total = how.length(12)
    assert [seglinear.rate(how, step, total) for step in range(total)] == pytest.approx(golden["rates"])
    monkeypatch.setattr(seglinear, "order", lambda *_: iter(map(np.array, made.neco_batches())))
    nothing: dict[str, Any] = dict.fromkeys(("task", "protocol", "data", "loaded", "extract"))
    context = Context(**nothing, metric="miou", seed=0, work=tmp_path, device=torch.device("cpu"))
    model = seglinear.train(train, made.CLASSES, how, 0, context, total)
    test = kept(made, tmp_path / "test", tests, views)
    found = scored(test, Truth(made.neco_masks(truth).numpy()), model, how, made.CLASSES)
    assert found.metrics["miou"].value == pytest.approx(golden["miou"], abs=POINTS)
    assert list(found.certificate["iou"].values()) == pytest.approx(golden["iou"], abs=3 * POINTS)
    assert golden["miou"] > 0.2  # it did learn


OURS = (
    "data.train.type",
    "data.test.type",
    "model.backbone",
    "in_channels",
    "decode_head.channels",
    "num_classes",
)
"""Beginnings and ends of keys that are the task's or the network's."""
NORMALISE = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}


def said(name: str) -> dict[str, Any]:
    """What a config of DINOv2 says, without the task and the network."""
    where = (
        GOLDEN["dinov2 depth"]["value"]
        if name == "depth-linear"
        else GOLDEN["dinov2 segmentation"]["value"][name]
    )
    return {
        key: value
        for key, value in where["keys"].items()
        if not key.startswith(OURS) and not key.endswith(OURS)
    }


def below(prefix: str, told: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in told.items()}


def adamw(params: Any) -> dict[str, Any]:
    betas = [0.9, 0.999]
    return {"type": "AdamW", "lr": params.lr, "weight_decay": params.weight_decay, "betas": betas}


@pytest.mark.parametrize("name", ["seg-linear", "seg-linear-multiscale"])
def test_every_key_of_dinov2s_segmentation_configs(name: str) -> None:
    params = protocols.get(name).settings
    train, test, side = params.train_views, params.test_views, params.extraction.image_size
    long = {"seg-linear": 2048, "seg-linear-multiscale": 99999999}[name]
    assert (train.longest or 99999999, test.longest or 99999999) == (long, long)
    assert (train.kind, test.kind, side % 8) == ("random", "slide", 0)
    flip_test = "data.test.pipeline.MultiScaleFlipAug"
    expected = {
        "data.samples_per_gpu": params.batch_size // 8, "gpu_ids": 8, "runner.type": "IterBasedRunner",
        "runner.max_iters": params.iterations, "model.type": "EncoderDecoder", "model.pretrained": None,
        **below("data.train.pipeline", {
            "LoadAnnotations": None, "Resize.img_scale": [long, side], "Resize.ratio_range": list(train.scales),
            "RandomCrop.crop_size": [side, side], "RandomFlip.prob": 0.5, "Pad.size": [side, side],
            "Pad.pad_val": 0, "Pad.seg_pad_val": 255, **below("Normalize", NORMALISE),
        }),
        **below(flip_test, {
            "img_scale": [long, side], "flip": test.mirrored, "transforms.Resize.keep_ratio": True,
            "transforms.RandomFlip": None, **below("transforms.Normalize", NORMALISE),
        }),
        **({f"{flip_test}.img_ratios": list(test.scales)} if len(test.scales) > 1 else {}),
        **below("optimizer", adamw(params)),
        **below("optimizer_config", {
            "type": "DistOptimizerHook", "update_interval": 1, "grad_clip": None, "coalesce": True,
            "bucket_size_mb": -1, "use_fp16": False,
        }),
        **below("lr_config", {
            "policy": "poly", "warmup": "linear", "warmup_iters": params.warmup,
            "warmup_ratio": params.warmup_ratio, "power": params.power, "min_lr": 0.0, "by_epoch": False,
        }),
        **below("evaluation", {"interval": said(name)["evaluation.interval"], "metric": "mIoU", "pre_eval": True}),
        **below("model.decode_head", {
            "type": "BNHead", "in_index": [3] if params.layers == "last" else [0, 1, 2, 3],
            "input_transform": "resize_concat", "dropout_ratio": 0, "norm_cfg.type": "SyncBN",
            "norm_cfg.requires_grad": True, "align_corners": False, "loss_decode.type": "CrossEntropyLoss",
            "loss_decode.use_sigmoid": False, "loss_decode.loss_weight": 1.0,
        }),
        "model.test_cfg.mode": "slide", "model.test_cfg.crop_size": [side, side],
        "model.test_cfg.stride": [Views("slide", side, stride=test.stride).step] * 2,
    }  # fmt: skip
    left = {
        "data.train.img_dir": "JPEGImages", "data.train.ann_dir": ["SegmentationClass", "SegmentationClassAug"],
        "data.train.split": ["ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/aug.txt"],
        "data.test.img_dir": "JPEGImages", "data.test.ann_dir": "SegmentationClass",
        "data.test.split": "ImageSets/Segmentation/val.txt",
        "data.train.pipeline.RandomCrop.cat_max_ratio": 0.75, "data.train.pipeline.PhotoMetricDistortion": None,
    }  # fmt: skip
    assert expected | left == said(name)
    assert len(expected) + len(left) == len(said(name))


@pytest.mark.parametrize("name", ["seg-linear", "seg-linear-multiscale"])
def test_rates_and_sizes_are_those_of_mmcv(made: Any, name: str) -> None:
    golden, params = GOLDEN["dinov2 segmentation"]["value"][name], protocols.get(name).settings
    ours = [seglinear.rate(params, step, params.iterations) for step in range(0, params.iterations, 1000)]
    np.testing.assert_allclose(ours, golden["rates"]["lr"], rtol=1e-9, atol=0)
    assert set(golden["rates"]["beta"]) == {0.9}  # as torch's AdamW has it
    told = params.test_views.model_dump() | {"mirrored": False}
    plan = Views(side=params.extraction.image_size, **told).plan(np.array(made.SIZES))
    for image, sizes in enumerate(golden["sizes"]):
        found = list(dict.fromkeys(view.size for view in plan if view.image == image))
        assert [list(size) for size in found] == sizes


def test_every_key_of_dinov2s_depth_config() -> None:
    params = protocols.get("depth-linear").settings
    assert (params.train_views.kind, params.test_views.kind, params.layers) == ("random", "slide", "last+cls")
    side = params.extraction.image_size
    crop = {"garg_crop": False, "eigen_crop": True, "min_depth": params.least, "max_depth": params.most}
    test = "data.test.pipeline.MultiScaleFlipAug"
    expected = {
        "data.samples_per_gpu": params.batch_size // 8, "runner.type": "IterBasedRunner",
        "runner.max_iters": params.iterations, "model.type": "DepthEncoderDecoder", "model.train_cfg": None,
        **below("data.train", {"depth_scale": 1000, "split": "nyu_train.txt", **crop}),
        **below("data.test", {"depth_scale": 1000, "split": "nyu_test.txt", **crop}),
        **below("data.train.pipeline", {
            "DepthLoadAnnotations": None, "NYUCrop.depth": True, "RandomFlip.prob": 0.5,
            **below("Normalize", NORMALISE),
        }),
        **below(test, {
            "img_scale": [side, 640], "flip": params.test_views.mirrored, "flip_direction": "horizontal",
            "transforms.RandomFlip.direction": "horizontal", **below("transforms.Normalize", NORMALISE),
        }),
        **below("optimizer", adamw(params)),
        **below("optimizer.paramwise_cfg.custom_keys", {  # of no parameter of the head
            "pos_embed.decay_mult": 0.0, "cls_token.decay_mult": 0.0, "norm.decay_mult": 0.0,
            "backbone.lr_mult": 0.1,
        }),
        **below("optimizer_config.grad_clip", {"max_norm": params.clip, "norm_type": 2}),
        **below("lr_config", {
            "policy": "CosineAnnealing", "warmup": "linear", "warmup_iters": params.warmup,
            "warmup_ratio": params.warmup_ratio, "min_lr_ratio": 1e-08, "by_epoch": False,
        }),
        "momentum_config.policy": "OneCycle",
        **below("model.decode_head", {
            "type": "BNHead", "norm_cfg": None, "min_depth": params.least, "max_depth": params.most,
            "classify": True, "n_bins": params.bins, "bins_strategy": "UD", "norm_strategy": "linear",
            "upsample": params.upsample, "in_index": [0], "input_transform": "resize_concat",
            "align_corners": False,
        }),
        **below("model.decode_head.loss_decode.SigLoss", {
            "valid_mask": True, "loss_weight": 1.0, "warm_up": True, "loss_name": "loss_depth",
        }),
    }  # fmt: skip
    left = {
        "data.train.pipeline.RandomRotate.prob": 0.5, "data.train.pipeline.RandomRotate.degree": 2.5,
        "data.train.pipeline.RandomCrop.crop_size": [416, 544], "data.train.pipeline.ColorAug.prob": 0.5,
        "data.train.pipeline.ColorAug.gamma_range": [0.9, 1.1],
        "data.train.pipeline.ColorAug.brightness_range": [0.75, 1.25],
        "data.train.pipeline.ColorAug.color_range": [0.9, 1.1], "model.test_cfg.mode": "whole",
        **below("model.decode_head.loss_decode.GradientLoss", {
            "valid_mask": True, "loss_weight": 0.5, "loss_name": "loss_grad",
        }),
        **below("evaluation", {
            "by_epoch": False, "interval": 800, "pre_eval": True, "rule": "less", "save_best": "abs_rel",
            "greater_keys": ["a1", "a2", "a3"], "less_keys": ["abs_rel", "rmse"],
        }),
    }  # fmt: skip
    assert expected | left == said("depth-linear")
    assert len(expected) + len(left) == len(said("depth-linear"))


def test_rates_and_betas_of_depth_are_those_of_mmcv() -> None:
    golden, params = GOLDEN["dinov2 depth"]["value"]["rates"], protocols.get("depth-linear").settings
    steps = range(0, params.iterations, 800)
    # Theirs ends at 1e-8 of the rate, ours at none.
    np.testing.assert_allclose(
        [depthlinear.rate(params, step) for step in steps], golden["lr"], rtol=0, atol=1e-10
    )
    ours = [depthlinear.first_beta(params, step) for step in steps]
    np.testing.assert_allclose(ours, golden["beta"], rtol=0, atol=1e-9)
    assert min(ours) < 0.86
    assert ours[0] == max(ours) == 0.95


def test_pairs_and_schedule_of_the_attentive_probe_are_vjepas() -> None:
    golden = GOLDEN["vjepa2 training"]["value"]
    for name in ("attentive", "attentive-4blocks"):
        params = protocols.get(name).settings
        assert (params.batch_size, params.epochs) == (golden["batch"], golden["epochs"])
        pairs = [(lr, decay) for lr in params.lr for decay in params.weight_decay]
        ours = [
            [[attentive.rate(params, lr, step, 10), decay] for step in range(1, 201, 20)]
            for lr, decay in pairs
        ]
        theirs = golden["pairs"]
        assert theirs[0][-1][1] < 2e-4 < theirs[0][0][1]  # the pair that is left out: its decay falls to 0
        assert len(theirs[1:]) == len(ours) == 20
        np.testing.assert_allclose(sorted(ours), sorted(theirs[1:]), rtol=1e-9, atol=1e-15)


def test_first_weights_of_the_attentive_probe_are_vjepas() -> None:
    """Means and spreads of every parameter, within five standard errors of each."""
    how = protocols.get("attentive-4blocks").settings
    ours = dict(attentive.build(256, 100, how, 0).named_parameters())
    theirs = GOLDEN["vjepa2 training"]["value"]["weights"]
    assert set(ours) == set(theirs)
    for name, (mean, std) in theirs.items():
        value = ours[name].detach().double()
        assert float(value.mean()) == pytest.approx(mean, abs=5 * std * (2 / value.numel()) ** 0.5 + 1e-12), (
            name
        )
        spread = float(value.std(unbiased=False))
        assert spread == pytest.approx(std, abs=5 * std * (1 / value.numel()) ** 0.5 + 1e-12), name
    ends = [theirs[f"blocks.{place}.mlp.fc2.weight"][1] for place in range(3)]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > 1.5 * ends[2]  # each block begins smaller


class Batch:
    """Tokens of which every batch is all."""

    dim = 64

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, index: Any) -> torch.Tensor:
        return self.tokens[torch.from_numpy(index)]


def test_training_of_the_attentive_probe_is_vjepas(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDEN["vjepa2 training"]["value"]
    how = protocols.get("attentive").override({"head_dim": 16}).settings
    build = attentive.build

    def filled(*given: Any) -> torch.nn.Module:
        probe = build(*given)
        made.fill(probe)
        return probe

    monkeypatch.setattr(attentive, "build", filled)
    pairs = [(lr, decay) for lr, decay in golden["trained"]]
    probes = attentive.train(
        Batch(made.tokens()),
        np.array([0, 2]),
        3,
        pairs,
        how,
        0,
        torch.device("cpu"),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        found = [probe(made.tokens()).tolist() for probe in probes]
    np.testing.assert_allclose(found, golden["logits"], rtol=0, atol=2e-4)
    start = np.array(GOLDEN["vjepa2"]["value"]["1"])
    assert (np.abs(np.array(golden["logits"]) - start).max((1, 2)) > 0.5).all()  # they did learn


@pytest.mark.parametrize("depth", [1, 3])
def test_the_attentive_probe_is_vjepas(made: Any, depth: int) -> None:
    how = protocols.get("attentive").override({"blocks": depth - 1, "head_dim": 16}).settings
    probe = attentive.build(64, 3, how, 0).eval()
    made.fill(probe)
    with torch.no_grad():
        found = probe(made.tokens())
    np.testing.assert_allclose(found, GOLDEN["vjepa2"]["value"][str(depth)], rtol=0, atol=1e-4)


def test_queries_pool_as_efficient_probing_does(made: Any) -> None:
    probe = attentive.build(64, 3, protocols.get("attentive-ep").override({"queries": 8}).settings, 0)
    made.fill(probe)
    with torch.no_grad():
        found = probe.pooled(made.tokens())  # type: ignore[operator]
    np.testing.assert_allclose(found, GOLDEN["efficient-probing"]["value"]["8"], rtol=0, atol=1e-5)
