"""Protocols become the configs that they say, and what does not exist is refused."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_config

from eval import protocols, tasks
from eval.detection import config
from eval.detection.data import catalog
from eval.errors import UserError

NAMES = [name for name in protocols.names() if protocols.get(name).kind == "detection"]


def full(name: str, **options: Any) -> Any:
    return make_config(name, "resnet50", tiny=False, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_resolves(name: str) -> None:
    protocol = protocols.get(name)
    cfg = make_config(name, "resnet50", masks="coco" in name)
    assert config.FREEZE_AT[protocol.params["freeze"]] == cfg.MODEL.BACKBONE.FREEZE_AT
    assert cfg.SOLVER.MAX_ITER == 120  # tiny
    assert cfg.MODEL.WEIGHTS == ""
    assert protocol.source
    assert protocol.params["trials"] >= 1
    assert config.differences(protocol.params)


def test_moco_voc_is_what_its_source_says() -> None:
    cfg = full("voc0712-c4-moco")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.BASE_LR) == (24000, (18000, 22000), 0.02)
    assert (solver.IMS_PER_BATCH, solver.WARMUP_ITERS, solver.GAMMA) == (16, 100, 0.1)
    assert tuple(range(480, 801, 32)) == cfg.INPUT.MIN_SIZE_TRAIN
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT) == (800, "RGB")
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.ROI_HEADS.RES5_EXTRA_NORM) == (0, True)
    assert cfg.TEST.PRECISE_BN.ENABLED
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert pytest.approx([123.675, 116.28, 103.53]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([58.395, 57.12, 57.375]) == cfg.MODEL.PIXEL_STD
    assert cfg.MODEL.RESNETS.NORM == "BN"  # SyncBN on one process, said plainly
    assert protocols.get("voc0712-c4-moco").params["trials"] == 5


def test_vicreg_voc_differs_where_its_source_differs() -> None:
    moco, vicreg = (config.flatten(full(f"voc0712-c4-{name}")) for name in ("moco", "vicreg"))
    assert {key: value for key, value in vicreg.items() if moco[key] != value} == {
        "SOLVER.BASE_LR": 0.1,
        "SOLVER.WARMUP_ITERS": 1000,
        "SOLVER.WARMUP_FACTOR": 0.333,
        "MODEL.RPN.LOSS_WEIGHT": 0.2,
    }


def test_coco_schedules() -> None:
    for kind in ("fpn", "c4"):
        one, two = full(f"coco-{kind}-1x", masks=True), full(f"coco-{kind}-2x", masks=True)
        assert (one.SOLVER.MAX_ITER, one.SOLVER.STEPS) == (90000, (60000, 80000))
        assert (two.SOLVER.MAX_ITER, two.SOLVER.STEPS) == (180000, (120000, 160000))
        assert one.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
        assert one.MODEL.MASK_ON
    assert full("coco-fpn-1x").MODEL.FPN.NORM == "BN"
    assert full("coco-fpn-1x").MODEL.ROI_BOX_HEAD.NORM == ""


def test_ericsson_and_its_frozen_forms() -> None:
    cfg = full("voc-fpn-ericsson2021")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS) == (144000, (96000, 128000))
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (2, 0.0025)
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == ("FrozenBN", 0)
    assert full("frozen-through-res4").MODEL.BACKBONE.FREEZE_AT == 4
    assert full("frozen-all").MODEL.BACKBONE.FREEZE_AT == 5


def test_one_rule_scales_batch_rate_and_schedule() -> None:
    cfg = full("voc0712-c4-moco", batch=4)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS) == (4, 96000, (72000, 88000))
    assert (pytest.approx(0.005), 400) == (solver.BASE_LR, solver.WARMUP_ITERS)
    cfg = full("voc0712-c4-moco", iterations=240)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.BASE_LR) == (240, (180, 220), 1, 0.02)
    assert [full("voc0712-c4-moco", iterations=n).SOLVER.STEPS for n in (1, 2, 3)] == [(), (), (2,)]


def test_overrides_come_last() -> None:
    cfg = full("voc0712-c4-moco", iterations=240, SOLVER__STEPS=[10], INPUT__MIN_SIZE_TEST=64)
    assert (cfg.SOLVER.STEPS, cfg.INPUT.MIN_SIZE_TEST) == ((10,), 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"itertions": 3}, "unknown detection option 'itertions' .did you mean iterations"),
        ({"iterations": "3"}, "iterations='3' is not int"),
        ({"iterations": 0}, "iterations=0 is not positive"),
        ({"batch": 0}, "batch=0 is not positive"),
        ({"SOLVER__BASELR": 1.0}, r"unknown Detectron2 key 'SOLVER.BASELR' .did you mean .*SOLVER.BASE_LR"),
        ({"SOLVER__BASE_LR": "fast"}, "SOLVER.BASE_LR='fast' does not fit"),
        ({"SOLVER__AMP__ENABLED": True, "device": "cpu"}, "needs a GPU"),
    ],
)
def test_what_does_not_exist_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        full("voc-fpn-ericsson2021", **options)


def test_tasks_name_data_sets_and_protocols_that_exist() -> None:
    for name in tasks.names():
        task = tasks.get(name)
        if task.kind in ("detection", "instance_segmentation"):
            entry = catalog()["datasets"][task.dataset]
            assert task.kind == "detection" or entry["layout"] == "coco"
            assert set(task.protocols) <= set(NAMES)
            assert task.metric in ("box_ap", "box_ap50", "mask_ap")
