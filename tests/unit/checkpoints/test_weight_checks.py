"""Do weights look trained? And do the passport's other fields say what they should?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_sources import Case, MiniViT, Narrow, build
from torch import nn

from eval.checkpoints import inspect, load
from eval.checkpoints.file_formats import read
from eval.checkpoints.weight_checks import check


def test_a_fresh_network_is_not_trained(tmp_path: Path) -> None:
    torch.save(Narrow().state_dict(), tmp_path / "a.pth")
    passport = inspect(str(tmp_path / "a.pth"))
    assert not passport.trained
    assert any("look like random weights" in warning for warning in passport.warnings)
    assert any("untouched statistics" in warning for warning in passport.warnings)


def test_statistics_alone_do_not_make_a_network_trained() -> None:
    net = Narrow().train()
    net(torch.randn(4, 3, 64, 64))  # moves running statistics, not one weight
    trained, _ = check(net.state_dict())
    assert not trained


def test_one_step_is_training() -> None:
    net = Narrow().train()
    net(torch.randn(4, 3, 64, 64)).square().mean().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    trained, warnings = check({k: v for k, v in net.state_dict().items() if not k.startswith("fc")})
    assert trained
    assert warnings == []


def test_a_fresh_transformer_is_not_trained() -> None:
    assert not check(MiniViT().state_dict())[0]
    assert check(build(MiniViT).state_dict())[0]


def test_exploded_and_dead_statistics_warn() -> None:
    state = build(Narrow).state_dict()
    state["bn1.running_var"] = torch.full((8,), 1e9)
    state["layer1.0.bn1.running_var"] = torch.zeros(8)
    state["conv1.weight"] = torch.full((8, 3, 7, 7), 1e6)
    trained, warnings = check(state)
    assert trained
    assert any("statistics look exploded: bn1.running_var" in w for w in warnings)
    assert any("saw nothing vary: layer1.0.bn1.running_var" in w for w in warnings)
    assert any("weights look exploded: conv1.weight" in w for w in warnings)


def test_partly_untouched_statistics_warn() -> None:
    state = build(Narrow).state_dict()
    state |= {"bn1.running_mean": torch.zeros(8), "bn1.running_var": torch.ones(8)}
    assert any(w.startswith("1 of 20 BatchNorm layers have untouched") for w in check(state)[1])


def test_every_key_of_the_file_is_accounted_for(written: Callable[[str], Case]) -> None:
    case = written("moco")
    passport = load(str(case.path)).passport
    state = read(case.path).tree["state_dict"]
    rules = [rule for rule in passport.dropped if rule not in ("optimizer", "epoch")]
    dropped = [
        k for k in state if k.removeprefix("module.").startswith(("encoder_k.", "queue", "encoder_q.fc"))
    ]
    assert passport.mapped + len(dropped) == len(state)
    assert set(rules) == {"encoder_q.(fc|fpn)", "encoder_k.", "queue"}
    assert passport.dropped["optimizer"] == "training state"
    assert "the authors evaluate the query encoder" in passport.dropped["encoder_k."]


def test_the_passport_is_json(written: Callable[[str], Case]) -> None:
    passport = inspect(str(written("detectron2_msra").path))
    value = json.loads(json.dumps(passport.to_json()))
    assert value["normalization"] == {
        "mean": [103.53, 116.28, 123.675],
        "std": [1, 1, 1],
        "range": "0..255",
        "channels": "BGR",
    }
    assert value["stride_in_1x1"] is True
    assert value["feature_dim"] == 256


def test_old_files_without_counters(written: Callable[[str], Case]) -> None:
    passport = inspect(str(written("torchvision_old").path))
    assert len(passport.missing) == 20
    assert all(key.endswith("num_batches_tracked") for key in passport.missing)
    assert passport.mapped == 100


def test_weights_hash_ignores_container_names_and_precision_of_counters(
    written: Callable[[str], Case],
) -> None:
    assert (
        inspect(str(written("obow").path)).weights_sha256
        == inspect(str(written("densecl_extracted").path)).weights_sha256
        == inspect(str(written("torchvision_old").path)).weights_sha256
    )


def test_what_the_file_cannot_say_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(build(Narrow).state_dict(), path)
    assert any(
        "does not say how images were normalised" in warning for warning in inspect(str(path)).warnings
    )


def test_half_precision_files_give_a_float32_backbone(tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in build(Narrow).state_dict().items()}, tmp_path / "a.pth")
    backbone = load(str(tmp_path / "a.pth")).backbone
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert {b.dtype for b in backbone.buffers()} == {torch.float32, torch.int64}


def test_the_backbone_does_not_depend_on_the_file_after_loading(tmp_path: Path) -> None:
    torch.save(build(Narrow).state_dict(), tmp_path / "a.pth")
    backbone = load(str(tmp_path / "a.pth")).backbone
    before = backbone.features(torch.ones(1, 3, 32, 32))
    (tmp_path / "a.pth").write_bytes(b"")
    assert torch.equal(backbone.features(torch.ones(1, 3, 32, 32)), before)


def test_lightning_settings_classes_need_no_trust(tmp_path: Path) -> None:
    """Settings objects in a Lightning file are noted and never built, with or without their library."""
    omegaconf = pytest.importorskip("omegaconf")
    net = build(Narrow)
    net.fc = nn.Identity()
    state = {f"backbone.{k}": v for k, v in net.state_dict().items()} | {
        "classifier.weight": torch.ones(2, 2)
    }
    settings = omegaconf.OmegaConf.create({"method": "barlow", "optimizer": {"lr": 0.3}})
    content = {
        "state_dict": state,
        "hyper_parameters": settings,
        "pytorch-lightning_version": "2.0",
        "epoch": 3,
    }
    torch.save(content, tmp_path / "a.ckpt")
    passport = load(str(tmp_path / "a.ckpt")).passport
    assert passport.layout == "solo-learn"
    assert not passport.trusted_pickle
