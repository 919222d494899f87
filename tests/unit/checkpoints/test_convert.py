"""Conversions carry a certificate, and nothing is written without one."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from checkpoint_sources import (
    CaffeNarrow,
    Case,
    MiniViT,
    Narrow,
    build,
    detectron2_name,
    huggingface_name,
    trained,
)
from full_disk import room

from eval.checkpoints import Normalization, inspect, key_names, load
from eval.checkpoints.conversion import FORMATS, LIMITS, convert
from eval.errors import UserError
from mast.errors import Unwritable


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 of the usual width, so that torchvision and timm can run it."""
    path = tmp_path_factory.mktemp("convert") / "resnet18.pth"
    torch.save(build(torchvision.models.resnet18).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("to", "ending", "peer"),
    [
        ("torchvision", ".pth", "torchvision"),
        ("torchvision", ".safetensors", "torchvision"),
        ("detectron2", ".pth", "Detectron2"),
        ("detectron2", ".pkl", "Detectron2"),
        ("timm", ".pth", "timm"),
        ("huggingface", ".safetensors", ""),
        ("safetensors", ".safetensors", "re-read"),
    ],
)
def test_the_copy_computes_the_same_and_loads_again(
    to: str, ending: str, peer: str, standard: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"copy{ending}"
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The given NumPy array is not writable")
        certificate = convert(str(standard), output, to=to)
    torch.set_warn_always(False)
    assert certificate == json.loads((tmp_path / f"copy{ending}.certificate.json").read_text())
    assert certificate["peer"].startswith(peer)
    for precision, limit in LIMITS.items():
        differences = certificate["differences"][precision]
        assert set(differences) == {"res2", "res3", "res4", "res5"}
        assert max(differences.values()) <= limit
    again = inspect(str(output))
    assert again.weights_sha256 == inspect(str(standard)).weights_sha256
    assert certificate["target"]["sha256"] == again.sha256
    assert sorted(p.name for p in tmp_path.iterdir() if "config" not in p.name) == [
        f"copy{ending}",
        f"copy{ending}.certificate.json",
    ]


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "huggingface"])
def test_a_bottleneck_network_and_a_narrow_one(
    to: str, written: Callable[[str], Case], tmp_path: Path
) -> None:
    ending = FORMATS[to][0][0]
    source = written("mmselfsup").path
    certificate = convert(str(source), tmp_path / f"copy{ending}", to=to)
    assert certificate["source"]["arch"] == "resnet50-c8"
    again = load(str(tmp_path / f"copy{ending}")).passport
    assert again.weights_sha256 == certificate["source"]["weights_sha256"]


def test_stride_in_the_1x1_is_kept_or_refused(written: Callable[[str], Case], tmp_path: Path) -> None:
    source = str(written("detectron2_msra").path)
    certificate = convert(source, tmp_path / "copy.pkl", to="detectron2")
    assert certificate["normalization"]["channels"] == "BGR"
    convert(source, tmp_path / "model.safetensors", to="huggingface")
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["downsample_in_bottleneck"] is True
    again = inspect(str(tmp_path / "model.safetensors"))  # config.json beside it is read
    assert again.provenance["stride_in_1x1"] == "config.json"
    assert again.stride_in_1x1
    with pytest.raises(UserError, match="bottlenecks stride in the first 1x1"):
        convert(source, tmp_path / "no.pth", to="torchvision")
    assert not (tmp_path / "no.pth").exists()


def test_what_cannot_be_expressed_is_refused(written: Callable[[str], Case], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="padded as TensorFlow does"):
        convert(str(written("byol_deepmind").path), tmp_path / "a.pth", to="torchvision")
    with pytest.raises(UserError, match=r"its stem \(cifar2\) is not the 7x7 one"):
        convert(str(written("solo_learn").path), tmp_path / "a.pth", to="detectron2")
    with pytest.raises(UserError, match="unknown format 'onnx'") as caught:
        convert(str(written("moco").path), tmp_path / "a.pth", to="onnx")
    assert caught.value.code == 2
    with pytest.raises(UserError, match=r"detectron2 files end in \.pth or \.pkl"):
        convert(str(written("moco").path), tmp_path / "a.bin", to="detectron2")
    assert list(tmp_path.iterdir()) == []


def test_a_vit_to_timm(written: Callable[[str], Case], tmp_path: Path) -> None:
    certificate = convert(str(written("mmpretrain_vit").path), tmp_path / "a.safetensors", to="timm", heads=2)
    assert set(certificate["differences"]["float64"]) == {"features"}
    again = inspect(str(tmp_path / "a.safetensors"), heads=2)
    assert again.weights_sha256 == certificate["source"]["weights_sha256"]
    with pytest.raises(UserError, match="is no ResNet"):
        convert(str(written("mmpretrain_vit").path), tmp_path / "b.pth", to="detectron2", heads=2)


def test_our_published_file_keeps_the_passport(written: Callable[[str], Case], tmp_path: Path) -> None:
    convert(str(written("swav").path), tmp_path / "a.safetensors", to="safetensors")
    passport = inspect(str(tmp_path / "a.safetensors"))
    assert passport.layout == "mast"
    assert passport.normalization.std == (0.228, 0.224, 0.225)
    assert passport.extra["converted_from"] == "swav"


def test_a_wrong_copy_is_not_kept(
    written: Callable[[str], Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swap two layers' names on the way out: the shapes fit, the numbers do not."""
    right = key_names.torchvision_to_detectron2

    def wrong(key: str) -> str:
        swapped = {"layer4.1.conv1": "layer4.2.conv1", "layer4.2.conv1": "layer4.1.conv1"}
        return right(swapped.get(key[:14], key[:14]) + key[14:])

    monkeypatch.setattr(key_names, "torchvision_to_detectron2", wrong)
    with pytest.raises(UserError, match=r"not written: res5 differs by .* in float64, the limit is 1e-09"):
        convert(str(written("mmselfsup").path), tmp_path / "a.pth", to="detectron2")
    assert list(tmp_path.iterdir()) == []


def test_names_are_inverse_and_the_libraries_own() -> None:
    keys = [key for key in Narrow(50).state_dict() if not key.startswith("fc")]
    for key in keys:
        assert key_names.torchvision_to_detectron2(key) == detectron2_name(key)
        assert key_names.detectron2_to_torchvision(detectron2_name(key)) == key
        assert key_names.torchvision_to_huggingface(key) == huggingface_name(key)


def test_detectron2_pickle_holds_plain_arrays(standard: Path, tmp_path: Path) -> None:
    convert(str(standard), tmp_path / "a.pkl", to="detectron2")
    content: Any = pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert content["matching_heuristics"] is True
    assert type(content["model"]["stem.conv1.weight"]).__name__ == "ndarray"
    assert not any("num_batches" in key for key in content["model"])


@pytest.mark.parametrize("bottleneck_stride", [False, True])
def test_transformers_runs_our_hugging_face_files(bottleneck_stride: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    net = build(CaffeNarrow if bottleneck_stride else (lambda: Narrow(50)))
    state = {huggingface_name(k): v for k, v in net.state_dict().items() if not k.startswith("fc")}
    source = tmp_path / "source.pth"
    torch.save(state, source)
    layout = "huggingface-resnet-caffe" if bottleneck_stride else "huggingface-resnet"
    certificate = convert(
        str(source), tmp_path / "hub" / "model.safetensors", to="huggingface", layout=layout
    )
    assert certificate["peer"].startswith("transformers ")
    model = transformers.ResNetModel.from_pretrained(tmp_path / "hub").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = model(images).last_hidden_state
        assert torch.allclose(theirs, net.maps(images)["res5"], atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_dinov2_files_are_read(registers: int, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, patch_size=14, image_size=56,
        **({"num_register_tokens": registers} if registers else {}),
    )  # fmt: skip
    model = trained(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path / "model.safetensors"))  # four heads are told by config.json alone
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        theirs = model(images).last_hidden_state[:, 0]
        ours = loaded.backbone.features(images)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-4


def test_transformers_vit_files_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        patch_size=8,
        image_size=32,
    )
    model = trained(transformers.ViTModel(config))
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path / "model.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model(images).last_hidden_state[:, 0]
        ours = loaded.backbone.features(images)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= 1e-4


def test_timm_runs_our_vit(tmp_path: Path) -> None:
    import timm

    network = trained(timm.create_model("vit_small_patch16_224", num_classes=0, depth=2))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="how many heads"):
        load(str(tmp_path / "a.pth"))
    loaded = load(str(tmp_path / "a.pth"), arch="vit_small_patch16_d2")
    assert loaded.passport.provenance["heads"] == "--arch"
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(loaded.backbone.features(images), network(images), atol=1e-5)
    with pytest.raises(UserError, match="no feature maps"):
        loaded.backbone.feature_maps(images)
    with pytest.raises(UserError, match="use a multiple of 16"):
        loaded.backbone.features(torch.randn(1, 3, 60, 60))
    assert MiniViT(384, 1, 6).heads == 6


def test_half_precision_halves_the_file_and_is_certified_within_its_rounding(
    standard: Path, tmp_path: Path
) -> None:
    certificates = [
        convert(str(standard), tmp_path / f"{half}.safetensors", to="safetensors", half=half)
        for half in (False, True)
    ]
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.52 * sizes[0]
    differences = [max(found["differences"]["float32"].values()) for found in certificates]
    assert differences[0] <= 1e-4 < 2e-4 < differences[1] <= 1e-2
    assert next(load(str(tmp_path / "True.safetensors")).backbone.parameters()).dtype == torch.float32


# --- a full disk, and what lies beside a copy -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "ending"),
    [("torchvision", ".pth"), ("torchvision", ".safetensors"), ("detectron2", ".pkl"), ("detectron2", ".pth"),
     ("huggingface", ".safetensors"), ("safetensors", ".safetensors")],
)  # fmt: skip
def test_a_full_disk_is_one_line_and_leaves_nothing(
    to: str, ending: str, standard: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with room(100_000), pytest.raises(Unwritable, match="out: cannot be written to"):
        convert(str(standard), out / f"copy{ending}", to=to)
    assert list(out.iterdir()) == []
    convert(str(standard), out / f"copy{ending}", to=to)


def test_timm_is_told_what_it_can_be_told(standard: Path, tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "normalization": Normalization((127.5,) * 3, (51.0,) * 3, "0..255"),
        "input_size": 96,
    }
    found = convert(str(standard), tmp_path / "copy.safetensors", to="timm", interpolation="bicubic", **said)
    assert found["config"] == "written"
    again = inspect(str(tmp_path / "copy.safetensors"))
    assert again.normalization == Normalization((0.5,) * 3, (0.2,) * 3)
    assert (again.arch, again.input_size, again.interpolation) == ("resnet18", 96, "bicubic")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["architecture"], config["num_features"]) == ("resnet18", 512)
    found = convert(str(standard), tmp_path / "second.pth", to="timm", input_size=64)
    assert found["config"] == "not written: there is one already"
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_timm_is_not_told_of_channels_that_it_cannot_turn(standard: Path, tmp_path: Path) -> None:
    turned = Normalization((0.5,) * 3, (0.2,) * 3, "0..1", "BGR")
    convert(str(standard), tmp_path / "copy.pth", to="timm", normalization=turned)
    assert "mean" not in json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert inspect(str(tmp_path / "copy.pth")).provenance["normalization"] == "assumed"


def test_a_config_of_somebody_elses_is_not_overwritten(standard: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="json exists, and the copy needs its own"):
        convert(str(standard), tmp_path / "copy.safetensors", to="huggingface")
    assert (tmp_path / "config.json").read_text() == "{}"
