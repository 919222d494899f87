"""Our Detectron2 files in Detectron2 itself, and Detectron2's own conversion tool's files in ours."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from eval.checkpoints import load
from eval.checkpoints.conversion import convert

pytest.importorskip("detectron2", reason="install it with `python -m eval.doctor.install`")

DEPTHS = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}


def network(depth: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DEPTHS[depth](num_classes=2)
        with torch.no_grad():
            for tensor in net.state_dict().values():
                if tensor.ndim == 1:
                    tensor.add_(torch.rand(tensor.shape) * 0.2 + 0.01)
    return net.eval()


def detectron2_resnet(depth: int) -> Any:
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()


@pytest.mark.parametrize(("depth", "ending"), [(18, ".pkl"), (50, ".pth")])
def test_detectron2_loads_our_export_and_computes_the_same(depth: int, ending: str, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    source = network(depth)
    torch.save(source.state_dict(), tmp_path / "source.pth")
    convert(str(tmp_path / "source.pth"), tmp_path / f"d2{ending}", to="detectron2")
    model = detectron2_resnet(depth)
    left = DetectionCheckpointer(model).load(str(tmp_path / f"d2{ending}"))
    assert left["matching_heuristics"] is True
    backbone = load(str(tmp_path / "source.pth")).backbone
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        images = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.no_grad():
            theirs, ours = model.to(dtype)(images), backbone.to(dtype).feature_maps(images)
        for name in ("res2", "res3", "res4", "res5"):
            assert float((theirs[name] - ours[name]).abs().max() / ours[name].abs().max()) <= limit


def test_a_file_in_the_form_of_detectron2s_own_tool_is_read(tmp_path: Path) -> None:
    """The tool renames torchvision's keys and pickles numpy arrays; what its loader takes is ours to read."""
    from detectron2.checkpoint import DetectionCheckpointer

    source = network(18)
    model = detectron2_resnet(18)
    renamed = {}
    for key, tensor in source.state_dict().items():
        name = key if "layer" in key else f"stem.{key}"
        for stage in (1, 2, 3, 4):
            name = name.replace(f"layer{stage}", f"res{stage + 1}")
        for index in (1, 2, 3):
            name = name.replace(f"bn{index}", f"conv{index}.norm")
        renamed[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = (
            tensor.numpy()
        )
    path = tmp_path / "r50.pkl"
    path.write_bytes(
        pickle.dumps({"model": renamed, "__author__": "torchvision", "matching_heuristics": True})
    )
    DetectionCheckpointer(model).load(str(path))
    loaded = load(str(path))
    assert loaded.passport.layout == "detectron2"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs, ours = model(images)["res5"], loaded.backbone.feature_maps(images)["res5"]
    assert float((theirs - ours).abs().max() / ours.abs().max()) <= 1e-4
