"""Detection protocols against the authors' own configs, as Detectron2 reads them, key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.config import get_cfg

from eval import protocols
from eval.checkpoints import Normalization
from eval.detection import config, networks, vit
from eval.detection.train import build_mapper
from mast.model import parse_arch

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "protocols.json").read_text(encoding="utf-8"))
CASES = {
    "voc0712-c4-moco": ("moco detection", "pascal_voc_R_50_C4_24k_moco", 20, False),
    "coco-c4-1x": ("moco detection", "coco_R_50_C4_2x_moco", 80, True),
    "coco-c4-2x": ("moco detection", "coco_R_50_C4_2x_moco", 80, True),
    "voc-fpn-ericsson2021": ("ssl-transfer detection", "finetune", 20, False),
    "frozen-through-res4": ("ssl-transfer detection", "frozen", 20, False),
}
# Of the checkpoint, the data or the machine, and not of the protocol.
NOT_THE_PROTOCOLS = (
    "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "SEED",
    "INPUT.MASK_FORMAT", "MODEL.RETINANET.NUM_CLASSES",
)  # fmt: skip
# Under names of this project: the same backbone with any stem and width, and MoCo's head with a norm after res5.
OURS: dict[str, dict[str | None, str]] = {
    "MODEL.RESNETS.NORM": {"naiveSyncBN": "SyncBN"},
    "MODEL.ROI_HEADS.NAME": {"Res5ROIHeadsExtraNorm": "MastRes5ROIHeads"},
    "MODEL.BACKBONE.NAME": {
        "build_resnet_fpn_backbone": "build_mast_fpn_backbone",
        None: "build_mast_backbone",
    },
}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A config by dotted keys, tuples as lists."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.loads(json.dumps(value))
    return found


def resnet_config(name: str, classes: int, *, masks: bool) -> dict[str, Any]:
    """A protocol's whole config for a ResNet-50."""
    return flat(
        config.resolve(
            dict(protocols.get(name).params), {}, arch=parse_arch("resnet50"), normalization=Normalization(),
            stride_in_1x1=False, num_classes=classes, masks=masks, bitmasks=False, seed=0,
        )
    )  # fmt: skip


def read_by_detectron2(path: str) -> dict[str, Any]:
    """One of Detectron2's own configs."""
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(path))
    return flat(cfg)


@pytest.mark.parametrize("name", CASES)
def test_every_key_is_that_of_the_authors_config(name: str) -> None:
    source, part, classes, masks = CASES[name]
    theirs = dict(GOLDEN[source]["value"][part]["set"])
    if (
        name == "coco-c4-1x"
    ):  # MoCo publishes a file for 2x alone: the schedule is that of Detectron2's own for 1x
        once = read_by_detectron2("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml")
        theirs |= {key: once[key] for key in ("SOLVER.MAX_ITER", "SOLVER.STEPS")}
    assert apart(resnet_config(name, classes, masks=masks), theirs) == {}
    assert len(theirs) > 15


def apart(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys of the protocol that differ, with both values; what theirs does not set is Detectron2's default."""
    differ = {
        key: (ours[key], theirs.get(key, default))
        for key, default in flat(get_cfg()).items()
        if key not in NOT_THE_PROTOCOLS and ours[key] != theirs.get(key, default)
    }
    return {
        key: (mine, their)
        for key, (mine, their) in differ.items()
        if OURS.get(key, {}).get(their if key in theirs else None) != mine
    }


@pytest.mark.parametrize("times", ["1x", "2x"])
def test_coco_fpn_is_pycontrasts_but_for_the_heads(times: str) -> None:
    """Shown this config, MoCo's authors say that theirs has Detectron2's standard heads (MoCo's issue 34)."""
    theirs = GOLDEN["pycontrast detection"]["value"][times]["set"]
    found = apart(resnet_config(f"coco-fpn-{times}", 80, masks=True), theirs)
    heads = {
        "MODEL.ROI_BOX_HEAD.NUM_CONV": (0, 4), "MODEL.ROI_BOX_HEAD.NUM_FC": (2, 1),
        "MODEL.ROI_BOX_HEAD.NORM": ("", "SyncBN"), "MODEL.ROI_MASK_HEAD.NORM": ("", "SyncBN"),
    }  # fmt: skip
    assert found == heads
    standard = read_by_detectron2("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    assert {key: standard[key] for key in heads} == {key: ours for key, (ours, _) in heads.items()}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("coco-fpn-1x", set()),
        ("coco-fpn-2x", {"SOLVER.MAX_ITER", "SOLVER.STEPS"}),
        ("coco-fpn-1x-vicreg", {"SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS"}),
    ],
)
def test_coco_fpn_is_detectron2s_but_for_what_the_papers_say(name: str, own: set[str]) -> None:
    """MoCo's section 4.2: SyncBN everywhere, all layers trained, PreciseBN; twice the schedule for 2x."""
    params = dict(protocols.get(name).params)
    theirs = read_by_detectron2(params["base"])
    ours = resnet_config(name, 80, masks=True)
    differ = {key for key in theirs if ours[key] != theirs[key]} - set(NOT_THE_PROTOCOLS)
    said = {"MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.BACKBONE.FREEZE_AT", "TEST.PRECISE_BN.ENABLED"}
    checkpoints = {"MODEL.RESNETS.STRIDE_IN_1X1", "INPUT.FORMAT", "MODEL.BACKBONE.NAME"}
    assert differ == said | checkpoints | own
    if name == "coco-fpn-2x":
        assert all((2 * np.array(theirs[key]) == ours[key]).all() for key in own)


def test_vicregs_voc_is_mocos_but_for_what_its_appendix_says() -> None:
    moco, vicreg = (resnet_config(f"voc0712-c4-{name}", 20, masks=False) for name in ("moco", "vicreg"))
    own = {"SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_FACTOR", "MODEL.RPN.LOSS_WEIGHT"}
    assert {key for key in moco if moco[key] != vicreg[key]} == own
    assert {key: vicreg[key] for key in own} == {
        "SOLVER.BASE_LR": 0.1, "SOLVER.WARMUP_ITERS": 1000, "SOLVER.WARMUP_FACTOR": 0.333,
        "MODEL.RPN.LOSS_WEIGHT": 0.2,
    }  # fmt: skip
    coco = resnet_config("coco-fpn-1x-vicreg", 80, masks=True)
    assert [coco[f"SOLVER.{key}"] for key in ("BASE_LR", "WARMUP_ITERS", "MAX_ITER")] == [0.04, 50, 90000]


EPOCH = 7330  # iterations of 16 of the 117,266 images of COCO's train2017 that have an object


def network_config(name: str, network: networks.Network) -> Any:
    return config.resolve(
        dict(protocols.get(name).params), {"device": "cuda"}, arch=network, normalization=Normalization(),
        stride_in_1x1=False, num_classes=80, masks=True, bitmasks=False, seed=0,
    )  # fmt: skip


def holds(steps: Any, expected: list[dict[str, Any]]) -> None:
    """Detectron2's augmentations are those of a lazy config, in order and in every argument."""
    assert len(steps) == len(expected)
    for step, told in zip(steps, expected, strict=True):
        assert type(step).__name__ == told["_target_"].rpartition(".")[2]
        for key in told.keys() - {"_target_"}:
            value = getattr(step, key)
            assert (list(value) if isinstance(value, tuple) else value) == told[key], key


@pytest.mark.parametrize("size", ["b", "l"])
def test_every_key_that_vitdets_config_sets(size: str) -> None:
    theirs = dict(GOLDEN["vitdet"]["value"][size])
    depth, width, heads = theirs["model.backbone.net.depth"], theirs["model.backbone.net.embed_dim"], 64
    assert width == heads * theirs["model.backbone.net.num_heads"]
    network = networks.Network("tokens", f"vit_{size}", (width,), (depth,), 16, 1)
    cfg = network_config(f"coco-vitdet-{size}", network)
    everywhere = vit.global_blocks(depth, cfg.MODEL.VIT.GLOBAL_BLOCKS)
    mapper = build_mapper(cfg)
    holds(mapper.augmentations.augs, theirs.pop("dataloader.train.mapper.augmentations"))
    box, mask, side = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD, cfg.INPUT.LSJ
    (test,) = theirs.pop("dataloader.test.mapper.augmentations")
    assert [test["short_edge_length"], test["max_size"]] == [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST]
    ours = {
        "dataloader.train.mapper.image_format": cfg.INPUT.FORMAT,
        "dataloader.test.mapper.image_format": cfg.INPUT.FORMAT,
        "dataloader.train.mapper.recompute_boxes": mapper.recompute_boxes,
        "dataloader.train.total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "lr_multiplier.scheduler.milestones": list(cfg.SOLVER.STEPS),
        "lr_multiplier.scheduler.num_updates": cfg.SOLVER.MAX_ITER,
        "lr_multiplier.warmup_length": cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER,
        "model.backbone.net.drop_path_rate": cfg.MODEL.NETWORK.DROP_PATH,
        "model.backbone.net.window_size": cfg.MODEL.VIT.WINDOW,
        "model.backbone.net.window_block_indexes": [i for i in range(depth) if i not in everywhere],
        "model.backbone.net.use_rel_pos": cfg.MODEL.VIT.REL_POS,
        "model.backbone.net.img_size": side,
        "model.backbone.square_pad": side,
        "model.backbone.norm": cfg.MODEL.FPN.NORM,
        "model.proposal_generator.head.conv_dims": list(cfg.MODEL.RPN.CONV_DIMS),
        "model.roi_heads.box_head.conv_dims": [box.CONV_DIM] * box.NUM_CONV,
        "model.roi_heads.box_head.fc_dims": [box.FC_DIM] * box.NUM_FC,
        "model.roi_heads.box_head.conv_norm": box.NORM,
        "model.roi_heads.mask_head.conv_norm": mask.NORM,
        "model.input_format": cfg.INPUT.FORMAT,
        "model.pixel_mean": pytest.approx(cfg.MODEL.PIXEL_MEAN),
        "model.pixel_std": pytest.approx(cfg.MODEL.PIXEL_STD),
        "optimizer._target_": f"torch.optim.adamw.{cfg.SOLVER.OPTIMIZER}",
        "optimizer.lr": cfg.SOLVER.BASE_LR,
        "optimizer.params.base_lr": cfg.SOLVER.BASE_LR,
        "optimizer.params.lr_factor_func.lr_decay_rate": cfg.SOLVER.LAYER_DECAY,
        "optimizer.params.lr_factor_func.num_layers": networks.layers((depth,)) - 1,
        "optimizer.weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "train.max_iter": cfg.SOLVER.MAX_ITER,
        "train.amp.enabled": cfg.SOLVER.AMP.ENABLED,
    }
    assert {key: theirs[key] for key in ours} == ours
    # What build_mast_vit_backbone and torch's AdamW have as they stand, and what is no part of the protocol.
    fixed = {
        "model.backbone._target_": "detectron2.modeling.backbone.vit.SimpleFeaturePyramid",
        "model.backbone.in_feature": "last_feat",
        "model.backbone.scale_factors": [4.0, 2.0, 1.0, 0.5],
        "model.backbone.net.patch_size": 16,
        "model.backbone.net.out_feature": "last_feat",
        "model.backbone.net.residual_block_indexes": [],
        "optimizer.betas": [0.9, 0.999],
        "optimizer.params.overrides.pos_embed.weight_decay": 0.0,
        "train.ddp.fp16_compression": True,
    }
    assert {key: theirs[key] for key in fixed} == fixed
    rest = theirs.keys() - ours.keys() - fixed.keys() - {"train.init_checkpoint"}
    assert all(
        key.startswith(("model.backbone.net.", "optimizer.params.lr_factor_func.partial")) for key in rest
    )


@pytest.mark.parametrize(
    ("name", "source", "depths"),
    [
        ("coco-convnext-fpn", "convnext detection", (3, 3, 9, 3)),
        ("coco-swin-fpn", "swin detection", (2, 2, 6, 2)),
    ],
)
def test_every_key_that_the_config_of_a_network_with_stages_sets(
    name: str, source: str, depths: tuple[int, ...]
) -> None:
    value = GOLDEN[source]["value"]
    theirs = dict(value.get("config", value))
    assert tuple(theirs["model.backbone.depths"]) == depths
    cfg = network_config(name, networks.Network("maps", name, (96, 192, 384, 768), depths))
    pipeline = theirs.pop("data.train.pipeline")
    assert theirs.pop("train_pipeline") == pipeline
    kinds = [step["type"] for step in pipeline]
    assert kinds[2:6] == ["RandomFlip", "AutoAugment", "Normalize", "Pad"]
    whole, (before, crop, after) = pipeline[3]["policies"]
    flip, cut, resize = build_mapper(cfg).augmentations.augs
    assert (flip.prob, cut.prob) == (pipeline[2]["flip_ratio"], 1 / len(pipeline[3]["policies"]))
    first, cropping = cut.aug.augs
    for ours, told in ((first, before), (resize, after), (resize, whole[0])):
        assert [[short, ours.max_size] for short in ours.short_edge_length] == told["img_scale"]
        assert not ours.is_range
        assert told["multiscale_mode"] == "value"
    assert cropping.crop_type == crop["crop_type"]
    assert list(cropping.crop_size) == crop["crop_size"]
    assert pipeline[4]["mean"] == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert pipeline[4]["std"] == pytest.approx(cfg.MODEL.PIXEL_STD)
    vectors = theirs.pop("optimizer.constructor", None) == "LearningRateDecayOptimizerConstructor"
    assert ("vectors" if vectors else "norms") == cfg.SOLVER.NO_DECAY
    ours = {
        "model.backbone.drop_path_rate": cfg.MODEL.NETWORK.DROP_PATH,
        "model.neck.in_channels": list(cfg.MODEL.NETWORK.CHANNELS),
        "optimizer.type": cfg.SOLVER.OPTIMIZER,
        "optimizer.lr": cfg.SOLVER.BASE_LR,
        "optimizer.weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "lr_config.step": [step / EPOCH for step in cfg.SOLVER.STEPS],
        "runner.max_epochs": cfg.SOLVER.MAX_ITER / EPOCH,
    }
    if vectors:
        ours |= {
            "optimizer.paramwise_cfg.decay_rate": cfg.SOLVER.LAYER_DECAY,
            "optimizer.paramwise_cfg.decay_type": "layer_wise",
            "optimizer.paramwise_cfg.num_layers": networks.layers(depths) - 1,
            "optimizer_config.use_fp16": cfg.SOLVER.AMP.ENABLED,
        }
    else:
        custom = "optimizer.paramwise_cfg.custom_keys."
        still = ("absolute_pos_embed", "relative_position_bias_table", "norm")
        ours |= {f"{custom}{key}.decay_mult": 0.0 for key in still}
        ours |= {"lr_config.warmup_iters": cfg.SOLVER.WARMUP_ITERS}
        assert (cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.AMP.ENABLED) == (1.0, False)
    assert {key: theirs[key] for key in ours} == ours
    # mmdetection's own Mask R-CNN has 0.001 and 500, and accumulates nothing.
    assert cfg.SOLVER.WARMUP_FACTOR == 0.001
    assert theirs.get("lr_config.warmup_iters", 500) == cfg.SOLVER.WARMUP_ITERS
    assert theirs.get("optimizer_config.update_interval", 1) == 1
    assert theirs["optimizer.betas"] == [0.9, 0.999]
    of_the_run = ("log_config", "optimizer_config", "runner.type", "fp16", "pretrained", "model.pretrained")
    rest = theirs.keys() - ours.keys() - {"optimizer.betas"}
    assert all(key.startswith(("model.backbone.", *of_the_run)) for key in rest)


def test_layers_of_the_rates_are_convnexts() -> None:
    for name, layer in GOLDEN["convnext detection"]["value"]["layers"].items():
        # timm puts what ConvNeXt calls downsample_layers into the stage that follows; norm0 to norm3 are new.
        stage = name.split(".")
        if stage[0] == "norm0":
            ours = "backbone.bottom_up.norms.0.weight"
        elif stage[0] == "downsample_layers":
            ours = "stem.0.weight" if stage[1] == "0" else f"stages.{stage[1]}.downsample.0.weight"
            ours = f"backbone.bottom_up.inner.network.{ours}"
        else:
            ours = f"backbone.bottom_up.inner.network.stages.{stage[1]}.blocks.{stage[2]}.gamma"
        assert networks.layer_of(ours, (3, 3, 9, 3)) == layer, name
