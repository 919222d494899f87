"""Detection protocols against the authors' own configs, as Detectron2 reads them, key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from eval import protocols
from eval.checkpoints import Normalization
from eval.detection import config
from mast.model import parse_arch

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "protocols.json").read_text(encoding="utf-8"))
CASES = {
    "voc0712-c4-moco": ("moco detection", "pascal_voc_R_50_C4_24k_moco", 20, False),
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


@pytest.mark.parametrize("name", CASES)
def test_every_key_is_that_of_the_authors_config(name: str) -> None:
    source, part, classes, masks = CASES[name]
    theirs = dict(GOLDEN[source]["value"][part]["set"])
    ours = flat(
        config.resolve(
            dict(protocols.get(name).params), {}, arch=parse_arch("resnet50"), normalization=Normalization(),
            stride_in_1x1=False, num_classes=classes, masks=masks, bitmasks=False, seed=0,
        )
    )  # fmt: skip
    defaults = flat(get_cfg())
    differ = {
        key: (ours[key], theirs.get(key, default))
        for key, default in defaults.items()
        if key not in NOT_THE_PROTOCOLS and ours[key] != theirs.get(key, default)
    }
    for key, (mine, their) in list(differ.items()):
        if OURS.get(key, {}).get(their if key in theirs else None) == mine:
            del differ[key]
    assert differ == {}
    assert len(theirs) > 15
