"""Shared by the detection tests: embedded scenes on disk, small configs, backbones with lived-in weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="needs Detectron2: python -m eval.doctor.install")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from eval.detection import config, hierarchy, networks, vit
    from eval.detection import run_cell as cell

from detectron2.modeling import build_model

from eval import protocols, scenes
from eval.checkpoints import Normalization
from eval.detection.data import DetectionData, prepare, register
from eval.detection.train import quiet_logs
from mast.model import Backbone, build_backbone, parse_arch


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest embedded data set."""
    root = tmp_path_factory.mktemp("scenes")
    scenes.write(root, size="test")
    return root


@pytest.fixture(autouse=True, scope="session")
def _log_file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    handler = quiet_logs(tmp_path_factory.mktemp("log") / "log.txt")
    yield
    handler.close()


def registered(name: str, root: Path, work: Path, *, masks: bool = False) -> DetectionData:
    """A data set that Detectron2 knows as ``train`` and ``test``."""
    data = prepare(name, root, masks=masks)
    register(data, work)
    return data


def lived_in(arch: str, seed: int = 0) -> Backbone:
    """A backbone whose BatchNorm has seen something: with fresh statistics half of a conversion goes untested."""
    backbone = build_backbone(arch, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return backbone.eval()


def make_config(
    protocol: str, arch: str | Any, *, classes: int = 3, masks: bool = False, **overrides: Any
) -> Any:
    """A resolved config for one process; ``tiny`` unless the protocol is.

    ``arch`` may be a backbone of the loader's.
    """
    options = {key.replace("__", "."): value for key, value in overrides.items()}
    params = dict(protocols.get(protocol).params)
    if overrides.get("freeze"):
        params["freeze"] = options.pop("freeze")
    norm = options.pop("normalization", Normalization())
    cfg = config.resolve(
        params,
        {"tiny": True, **options},
        arch=parse_arch(arch) if isinstance(arch, str) else describe(arch, protocol),
        normalization=norm,
        stride_in_1x1=bool(options.pop("stride_in_1x1", False)),
        num_classes=classes,
        masks=masks,
        bitmasks=True,
        seed=0,
    )
    return cell._localise(cfg, Path("unused"))


def make_detector(protocol: str, arch: str | Any, **options: Any) -> tuple[Any, Any]:
    """A detector and its config."""
    torch.manual_seed(0)
    cfg = make_config(protocol, arch, **options)
    with networks.given(arch):
        return build_model(cfg), cfg


def describe(backbone: Any, protocol: str) -> networks.Network:
    """What a config says of a backbone of the loader's."""
    if "vit" in protocol:
        return vit.describe(backbone)
    return hierarchy.describe(backbone, frozen=protocols.get(protocol).params["freeze"] == "all")
