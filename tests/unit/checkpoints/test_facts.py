"""Facts that tensors do not determine: honoured where somebody states them, refused where nobody does."""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_sources import (
    CaffeNarrow,
    Case,
    MiniViT,
    Narrow,
    Parts,
    build,
    huggingface_name,
    lightning,
    mlp,
)
from test_layouts import difference

from eval.checkpoints import Normalization, inspect, layouts, load
from eval.checkpoints.facts import Fact, merge, usable
from eval.checkpoints.settings import beside
from eval.errors import UserError

TANH = torch.nn.GELU(approximate="tanh").forward


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def settings(folder: Path, name: str = "config.json", **values: Any) -> None:
    (folder / name).write_text(json.dumps(values))


# --- what layouts leave open -----------------------------------------------------------------------------------


def test_every_layout_says_what_its_keys_leave_open() -> None:
    """Every fact of every family has a value with a source, or is asked for; nothing is left unsaid."""
    asked: dict[str, set[str]] = {}
    for name, layout in layouts.table().items():
        if layout.refuse:
            continue
        assert layout.network, name
        for family in layout.network:
            facts = layouts.undetermined(layout, family)
            assert set(facts) == set(layouts.families()[family]["open"])
            assert all(fact.source.startswith(f"layout {name}") for fact in facts.values())
            asked.setdefault(name, set()).update(k for k, fact in facts.items() if fact.value is None)
        known = {fact for family in layout.network for fact in layouts.families()[family]["open"]}
        assert set(layout.options) <= known | {"head_dim"}, name  # nothing is stated that nobody reads
    assert asked["vit"] == {"heads"}
    assert asked["dinov2"] == set()
    assert asked["torchvision"] == {"stem"}
    assert asked["augself"] == set()


def test_the_first_source_that_says_anything_wins() -> None:
    user, config, layout = Fact(1, "--heads"), Fact(2, "config.json"), Fact(3, "layout x")
    assert merge({"heads": user}, {"heads": config}, {"heads": layout})["heads"] == user
    assert merge({}, {"heads": config}, {"heads": layout})["heads"] == config
    assert merge({}, {}, {"heads": layout})["heads"] == layout


# --- heads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 12, 24])
def test_heads_are_asked_for_and_honoured(heads: int, tmp_path: Path) -> None:
    net = build(lambda: MiniViT(384, depth=1, heads=heads))
    ref = saved(tmp_path / "a.pth", net.state_dict())
    with pytest.raises(UserError, match="how many heads") as caught:
        load(ref)
    assert "--heads N" in caught.value.remedy
    loaded = load(ref, heads=heads)
    assert loaded.passport.provenance["heads"] == "--heads"
    case = Case("vit", Path(ref), net, "vit_small_patch8_d1", size=32)
    assert difference(case, loaded.backbone, torch.float64) <= 1e-9
    settings(tmp_path, num_attention_heads=heads, hidden_size=384)
    from_config = load(ref)
    assert from_config.passport.provenance["heads"] == "config.json"
    assert difference(case, from_config.backbone, torch.float64) <= 1e-9
    assert load(ref, heads=2).passport.network.get("heads") == (None if 384 // 64 == 2 else 2)


@pytest.mark.parametrize(("method", "size", "dim", "heads"),
                         [("mocov3", "tiny", 192, 12), ("mocov3", "small", 384, 12), ("dino", "small", 384, 6),
                          ("mocov3", "base", 768, 12), ("mae", "tiny", 192, 12),
                          ("mae", "small", 384, 12)])  # fmt: skip
def test_solo_learns_transformers(method: str, size: str, dim: int, heads: int, tmp_path: Path) -> None:
    net = build(lambda: MiniViT(dim, depth=1, heads=heads))
    model = Parts(backbone=net, classifier=torch.nn.Linear(dim, 10), projector=mlp(dim, 16))
    told = {"method": method, "backbone": {"name": f"vit_{size}"}, "data": {"dataset": "imagenet100"}}
    ref = saved(tmp_path / "a.ckpt", lightning(model.state_dict(), model, **told))
    loaded = load(ref)
    assert loaded.passport.layout == "solo-learn"
    assert loaded.passport.provenance["heads"] == "hyper_parameters"
    case = Case("", Path(ref), net, "", size=32)
    assert difference(case, loaded.backbone, torch.float64) <= 1e-9
    bare = saved(tmp_path / "b.ckpt", lightning(model.state_dict(), model))
    with pytest.raises(UserError, match="how many heads"):
        load(bare)
    (tmp_path / "args.json").write_text(json.dumps(told))
    assert inspect(bare).provenance["heads"] == "args.json"


def test_a_width_that_its_method_never_had_is_asked_for(tmp_path: Path) -> None:
    """MAE's base, large and huge have 12, 16 and 16 heads: 80 channels each in the last."""
    net = build(lambda: MiniViT(1280, depth=1, heads=16))
    ref = saved(tmp_path / "a.pth", {"model": net.state_dict()})
    loaded = load(ref, layout="mae-backbone")
    assert loaded.passport.arch == "vit_huge_patch8_d1"
    assert difference(Case("", Path(ref), net, "", size=32), loaded.backbone, torch.float64) <= 1e-9
    other = saved(tmp_path / "b.pth", {"model": build(lambda: MiniViT(384, depth=1, heads=6)).state_dict()})
    with pytest.raises(UserError, match="how many heads"):
        load(other)
    with pytest.raises(UserError, match="7 heads do not divide 384 channels"):
        load(other, heads=7)


# --- activation, epsilon, strides, anti-aliasing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("gelu_new", TANH),
        ("gelu_pytorch_tanh", TANH),
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
        ("relu", torch.relu),
        ("silu", torch.nn.functional.silu),
    ],
)
def test_activations(
    name: str, function: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build(lambda: MiniViT(128, heads=2))
    ref = saved(tmp_path / "a.pth", net.state_dict())
    settings(tmp_path, num_attention_heads=2, hidden_size=128, hidden_act=name, layer_norm_eps=1e-3)
    loaded = load(ref)
    assert loaded.passport.network.get("eps") == 1e-3
    for module in net.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3
    monkeypatch.setattr("checkpoint_sources.F", types.SimpleNamespace(gelu=function))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        theirs, ours = net.double().features(images), loaded.backbone.to(torch.float64)
        monkeypatch.undo()
        assert float((ours.features(images) - theirs).abs().max() / theirs.abs().max()) <= 1e-9


@pytest.mark.parametrize("name", ["mish", "gelu_fast", "laplace"])
def test_unknown_activations_are_refused(name: str, tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    settings(tmp_path, model_type="resnet", hidden_act=name)
    with pytest.raises(UserError, match=f"config.json: activation '{name}'"):
        load(ref)


@pytest.mark.parametrize("architecture", ["resnetaa50", "resnetaa50.a1h_in1k", "resnetblur18", "resnetblur50",
                                          "seresnet50", "resnet50_gn", "resnet50_clip"])  # fmt: skip
def test_timms_look_alikes_are_no_plain_resnets(architecture: str, tmp_path: Path) -> None:
    net = build(lambda: Narrow(50))
    ref = saved(tmp_path / "a.pth", net.state_dict())
    settings(tmp_path, architecture=architecture, pretrained_cfg={})
    with pytest.raises(
        UserError, match=f"timm and {architecture.partition('.')[0]}: |timm's {architecture} is pooled"
    ):
        load(ref)
    (tmp_path / "config.json").unlink()
    trained = {"state_dict": net.state_dict(), "args": argparse.Namespace(model=architecture)}
    with pytest.raises(
        UserError, match=f"timm and {architecture.partition('.')[0]}: |timm's {architecture} is pooled"
    ):
        load(saved(tmp_path / "b.pth", trained))


def test_timms_plain_resnet_is_taken(tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(lambda: Narrow(50)).state_dict())
    facts = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 176, 176],
             "interpolation": "bicubic"}  # fmt: skip
    settings(tmp_path, architecture="resnet50", pretrained_cfg=facts)
    passport = inspect(ref)
    assert passport.normalization == Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (passport.input_size, passport.interpolation) == (176, "bicubic")
    assert {passport.provenance[k] for k in ("normalization", "input_size", "interpolation")} == {
        "config.json"
    }
    settings(tmp_path, architecture="resnet50", model_args={"aa_layer": "blurpool"})
    with pytest.raises(UserError, match="timm does not build resnet50 with its model_args"):
        inspect(ref)


def test_hugging_faces_strides(tmp_path: Path) -> None:
    net = build(CaffeNarrow)
    state = {huggingface_name(k): v for k, v in net.state_dict().items() if not k.startswith("fc")}
    ref = saved(tmp_path / "a.pth", state)
    settings(tmp_path, downsample_in_bottleneck=True, downsample_in_first_stage=False, hidden_act="relu")
    loaded = load(ref)
    assert loaded.passport.stride_in_1x1
    assert difference(Case("", Path(ref), net, ""), loaded.backbone, torch.float64) <= 1e-9
    settings(tmp_path, downsample_in_first_stage=True)
    with pytest.raises(UserError, match="downsample_in_first_stage"):
        load(ref)


@pytest.mark.parametrize("told", [{}, {"lr": 0.1}, {"method": "simclr"}])
def test_a_small_first_convolution_is_solo_learns_only_if_it_says_so(told: Any, tmp_path: Path) -> None:
    """stable-pretraining's low_resolution nets have the same keys and padding 1."""
    net = build(lambda: Narrow(stem="cifar"))
    net.fc = torch.nn.Identity()
    model = Parts(backbone=net, projector=mlp(64, 16))
    ref = saved(tmp_path / "a.ckpt", lightning(model.state_dict(), model, **told))
    with pytest.raises(UserError, match=r"stride 1, padding 1.*say which with --arch"):
        load(ref)
    loaded = load(ref, arch="resnet18-c8-cifar")
    assert difference(Case("", Path(ref), net, "", size=32), loaded.backbone, torch.float64) <= 1e-9


# --- preprocessing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "mean", "side"),
    [("cifar10", 0.4914, 32), ("cifar100", 0.4914, 32), ("stl10", 0.4914, 96), ("imagenet100", 0.485, 224)],
)
def test_solo_learns_data(dataset: str, mean: float, side: int, tmp_path: Path) -> None:
    net = build(lambda: Narrow(stem="cifar2" if "cifar" in dataset else "imagenet"))
    net.fc = torch.nn.Identity()
    model = Parts(backbone=net, classifier=torch.nn.Linear(64, 10))
    told = {"method": "byol", "backbone": {"name": "resnet18"}, "data": {"dataset": dataset}}
    passport = inspect(saved(tmp_path / "a.ckpt", lightning(model.state_dict(), model, **told)))
    assert (passport.normalization.mean[0], passport.input_size) == (mean, side)
    assert passport.provenance["normalization"] == "hyper_parameters"
    passport.refuse_guesses()
    other = inspect(str(tmp_path / "a.ckpt"), input_size=64, normalization=["0.5", "0.25"])
    assert (other.input_size, other.normalization) == (64, Normalization((0.5,) * 3, (0.25,) * 3))
    assert other.provenance["input_size"] == "--input-size"


def test_solo_learns_settings_as_omegaconf(tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    net = build(lambda: Narrow(stem="cifar2"))
    net.fc = torch.nn.Identity()
    model = Parts(backbone=net, classifier=torch.nn.Linear(64, 10))
    content = lightning(model.state_dict(), model)
    content["hyper_parameters"] = omegaconf.OmegaConf.create(
        {"method": "byol", "backbone": {"name": "resnet18"}, "data": {"dataset": "cifar10"}}
    )
    passport = inspect(saved(tmp_path / "a.ckpt", content))
    assert (passport.arch, passport.input_size) == ("resnet18-c8-cifar2", 32)


def test_hugging_faces_image_processor(tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    settings(tmp_path, "preprocessor_config.json", size={"height": 384, "width": 384}, resample=3, **half)
    passport = inspect(ref)
    assert passport.normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    assert (passport.input_size, passport.interpolation) == (384, "bicubic")
    assert passport.provenance["normalization"] == "preprocessor_config.json"
    settings(tmp_path, "preprocessor_config.json", size={"shortest_edge": 256}, crop_size=224,
             do_center_crop=True, resample=2, do_normalize=False)  # fmt: skip
    passport = inspect(ref)
    assert (passport.input_size, passport.interpolation) == (224, "bilinear")
    assert passport.normalization == Normalization((0.0,) * 3, (1.0,) * 3)
    for odd, message in [
        ({"resample": 1}, "--interpolation"),
        ({"size": {"height": 224, "width": 112}}, "--input-size"),
        ({"rescale_factor": 1 / 127.5, **half}, "--normalization"),
    ]:
        settings(tmp_path, "preprocessor_config.json", **odd)
        with pytest.raises(UserError, match=message):
            inspect(ref)
    settings(tmp_path, "preprocessor_config.json", resample=1)
    assert inspect(ref, interpolation="bicubic").interpolation == "bicubic"  # the user overrules it


@pytest.mark.parametrize("side", [96, 224])
@pytest.mark.parametrize("resized", [True, False])
def test_a_crop_counts_whether_or_not_images_are_resized(side: int, resized: bool, tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    for crop in (side, [side, side], {"height": side, "width": side}):
        settings(tmp_path, "preprocessor_config.json", size={"shortest_edge": 256}, crop_size=crop,
                 do_center_crop=True, do_resize=resized)  # fmt: skip
        assert inspect(ref).input_size == side


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("mean", [0.45, 0.5, 1.0, 103.5, 127.5])
def test_a_mean_of_the_other_range_of_pixels_is_refused(rescaled: bool, mean: float, tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    settings(
        tmp_path, "preprocessor_config.json", image_mean=[mean] * 3, image_std=[mean] * 3, do_rescale=rescaled
    )
    if rescaled == (mean <= 1):
        assert inspect(ref).normalization.range == ("0..1" if rescaled else "0..255")
    else:
        with pytest.raises(
            UserError, match=r"preprocessor_config\.json: the mean .*--normalization MEAN STD"
        ):
            inspect(ref)
        assert inspect(ref, normalization=["imagenet"]).normalization == Normalization()


# --- settings of another checkpoint ------------------------------------------------------------------------------

VIT = {
    "model_type": "vit",
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 8,
}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
SOLO = {"method": "dino", "data": {"dataset": "imagenet100"}}


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "patch_size"])
@pytest.mark.parametrize("factor", [0.5, 2, 3])
def test_a_config_of_other_shapes_is_not_believed(key: str, factor: float, tmp_path: Path) -> None:
    """Its heads would be taken for those of this file: a wrong number without a word."""
    ref = saved(tmp_path / "a.pth", build(lambda: MiniViT(128, heads=2, depth=2)).state_dict())
    settings(tmp_path, **VIT)
    assert inspect(ref).provenance["heads"] == "config.json"
    settings(tmp_path, **{**VIT, key: int(VIT[key] * factor)})  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"a\.pth: as layout vit: config\.json says .*another network"):
        inspect(ref)


@pytest.mark.parametrize(
    ("net", "name", "told", "message"),
    [
        (Narrow, "config.json", VIT, "2 transformer blocks"),
        (Narrow, "config.json", {"model_type": "resnet", "depths": [3, 4, 6, 3], "downsample_in_bottleneck": True},
         r"stages of \[3, 4, 6, 3\] blocks"),
        (Narrow, "config.json", {"architecture": "resnet50", "pretrained_cfg": HALF},
         "a ResNet-50"),
        (Narrow, "config.json", {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": HALF},
         "12 transformer blocks"),
        (MiniViT, "config.json", {"architecture": "vit_tiny_patch16_224"}, "12 transformer blocks"),
        (MiniViT, "config.json", {"architecture": "resnet18", "pretrained_cfg": HALF},
         "a ResNet-18"),
        (MiniViT, "args.json", {**SOLO, "backbone": {"name": "vit_tiny"}}, "192 channels a token"),
        (MiniViT, "args.json", {**SOLO, "backbone": {"name": "resnet18"}}, "a ResNet-18"),
        (Narrow, "args.json", {**SOLO, "backbone": {"name": "vit_base"}}, "768 channels a token"),
        (Narrow, "args.json", {**SOLO, "backbone": {"name": "resnet50"}}, "a ResNet-50"),
    ],
)  # fmt: skip
def test_settings_of_another_network(
    net: Callable[[], torch.nn.Module], name: str, told: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ref = saved(
        tmp_path / "a.pth", build(lambda: MiniViT(128, heads=2) if net is MiniViT else net()).state_dict()
    )
    settings(tmp_path, name, **told)
    with pytest.raises(UserError, match=f"{name} says {message}") as caught:
        inspect(ref)
    assert "a folder of its own" in caught.value.remedy


def test_settings_in_the_file_of_another_network(tmp_path: Path) -> None:
    state = build(lambda: MiniViT(128, heads=2)).state_dict()
    ref = saved(
        tmp_path / "a.pth", {"model": state, "args": argparse.Namespace(model="vit_base_patch16_224")}
    )
    with pytest.raises(UserError, match=r"args says 12 transformer blocks.*save the weights alone"):
        inspect(ref)
    ref = saved(
        tmp_path / "b.pth",
        {"model": state, "hyper_parameters": {**SOLO, "backbone": "vit_tiny", "dataset": 1}},
    )
    with pytest.raises(UserError, match="192 channels a token"):
        inspect(ref)


def test_an_error_in_settings_names_the_file(tmp_path: Path) -> None:
    told = {**SOLO, "backbone": "resnet18", "data": {"dataset": "own"}, "mean": "x", "std": [1, 1, 1]}
    ref = saved(tmp_path / "a.pth", {"model": build(Narrow).state_dict(), "hyper_parameters": told})
    with pytest.raises(UserError, match=r"a\.pth: hyper_parameters: the mean"):
        inspect(ref)
    settings(tmp_path, num_attention_heads=7, hidden_size=128)
    with pytest.raises(UserError, match=r"b\.pth: .*7 heads do not divide 128 channels"):
        inspect(saved(tmp_path / "b.pth", build(lambda: MiniViT(128, heads=2)).state_dict()))


def test_settings_as_editors_write_them(tmp_path: Path) -> None:
    """With a mark at the start; a key that stands twice has no one reading."""
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    half = '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]'
    (tmp_path / "preprocessor_config.json").write_text("\ufeff" + half + "}")
    assert inspect(ref).normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    (tmp_path / "preprocessor_config.json").write_text(half + ', "image_mean": [0, 0, 0]}')
    with pytest.raises(UserError, match="the key 'image_mean' stands twice"):
        inspect(ref)


def test_augselfs_networks(written: Callable[[str], Case]) -> None:
    small, large = (inspect(str(written(name).path)) for name in ("augself", "augself_imagenet100"))
    assert small.normalization == Normalization((0.43, 0.42, 0.39), (0.27, 0.26, 0.27))
    assert (small.input_size, large.input_size) == (96, 224)
    assert large.normalization == Normalization()


def test_a_guess_is_told_and_nothing_is_measured_with_it(tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    passport = inspect(ref)
    assert passport.normalization_assumed
    assert any("224 px is assumed" in warning for warning in passport.warnings)
    with pytest.raises(UserError, match="does not say how images were normalised"):
        passport.refuse_guesses()
    for said in (
        {"normalization": ["imagenet"]},
        {"layout": "torchvision"},
        {"normalization": ["0.1", "0.2"]},
    ):
        inspect(ref, **said).refuse_guesses()


@pytest.mark.parametrize(
    "said",
    [{"normalization": ["imagnet"]}, {"normalization": ["0.1"]}, {"normalization": ["0.1", "0"]},
     {"input_size": 0}, {"input_size": -3}, {"heads": 0}, {"interpolation": "nearest"}],
)  # fmt: skip
def test_wrong_words_of_the_user(said: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(saved(tmp_path / "a.pth", build(Narrow).state_dict()), **said)
    assert caught.value.code == 2


ODD = [
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    "224",
    "x" * 10_000,
    [],
    [1],
    {},
    {"a": 1},
    [None] * 3,
    ["a"] * 3,
    [[1]] * 3,
]
KEYS = (
    "num_attention_heads", "layer_norm_eps", "hidden_act", "downsample_in_bottleneck", "downsample_in_first_stage",
    "architecture", "model_args", "pretrained_cfg", "image_mean", "image_std", "size", "crop_size", "resample",
    "do_normalize", "do_resize", "do_rescale", "rescale_factor", "method", "backbone", "data", "augmentations",
)  # fmt: skip


def _refusal(files: dict[str, Path]) -> str:
    try:
        usable(beside(files), "a.pth")
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "args.json"])
def test_settings_of_odd_shapes_never_end_in_a_traceback(name: str, tmp_path: Path) -> None:
    """Every key with every odd value: taken or refused, in one line that names the file."""
    ref = saved(tmp_path / "a.pth", build(Narrow).state_dict())
    usual = {"hidden_size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "method": "byol",
             "backbone": "resnet18", "dataset": "cifar10", "do_center_crop": True}  # fmt: skip
    messages = []
    for key in KEYS:
        for value in ODD:
            settings(tmp_path, name, **{**usual, key: value})
            found = _refusal({name: tmp_path / name})
            messages += [found] if found else []
    assert [message for message in messages if name not in message or len(message) > 400] == []
    assert len(messages) > 20 or name == "args.json"  # somebody else's, unless all of it is solo-learn's
    for content in ("", "[]", "3", "null", "{", "\ud83d".encode("utf-16", "surrogatepass"), "[" * 100_000):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            inspect(ref)


# --- ways in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["encoder.", "net.", "module.backbone.", "a.b.c."])
@pytest.mark.parametrize("key", ["", "net", "deep.er"])
def test_a_prefix_and_a_key_of_ones_own(key: str, prefix: str, tmp_path: Path) -> None:
    net = build(Narrow)
    state: Any = {f"{prefix}{k}": v for k, v in net.state_dict().items()} | {"other.weight": torch.ones(2)}
    for part in reversed(key.split(".") if key else []):
        state = {part: state, "more": {"w": torch.ones(1)}}
    ref = saved(tmp_path / "a.pth", state)
    if "backbone" not in prefix:  # which is a layout's already
        with pytest.raises(UserError) as caught:
            load(ref)
        suggested = f"{key}.{prefix}" if key else prefix
        assert caught.value.remedy == f"--prefix {suggested}"
        assert (
            inspect(ref, prefix=suggested).mapped == load(ref, prefix=prefix, key=key or None).passport.mapped
        )
    loaded = load(ref, prefix=prefix, key=key or None)
    assert loaded.passport.layout == "torchvision"
    assert "outside --prefix" in loaded.passport.dropped["other"]
    assert difference(Case("", Path(ref), net, ""), loaded.backbone, torch.float64) <= 1e-9
    with pytest.raises(UserError, match="no key starts with --prefix nothing"):
        load(ref, prefix="nothing.", key=key or None)
    with pytest.raises(UserError, match="--key nowhere names no dict"):
        load(ref, key="nowhere")


def test_a_layout_as_a_file(tmp_path: Path) -> None:
    net = build(Narrow)
    ref = saved(tmp_path / "a.pth", {"weights": {f"body.{k}": v for k, v in net.state_dict().items()}})
    own = tmp_path / "my.yaml"
    own.write_text(
        "at: [weights]\nprefix: body.\ndrop: {'body\\.fc': classifier}\nmarks: ['body\\.conv1']\n"
        "normalization: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}\ninput_size: 64\n"
    )
    passport = inspect(ref, layout=str(own))
    assert (passport.layout, passport.input_size, passport.normalization.std[0]) == ("my", 64, 0.25)
    passport.refuse_guesses()
    own.write_text("prefx: body.\n")
    with pytest.raises(UserError, match=r"my\.yaml.*prefx"):
        inspect(ref, layout=str(own))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ["cls_token", "blocks.0.gamma_1", "rel_pos_bias.relative_position_bias_table"],
            "BEiT.*--arch beit_base_patch16_224",
        ),
        (["visual.conv1.weight", "visual.class_embedding", "text_projection"], "CLIP"),
        (["embeddings.class_embedding", "embeddings.patch_embedding.weight"], "CLIP.*timm's names"),
        (["encoder.embeddings.patch_embeddings.proj.weight", "encoder.layer.0.attention.key.weight"],
         "V-JEPA 2: a network of videos"),
        (["radio_model.model.patch_generator.embedder.weight"], "RADIO.*radio-v3-base-16 of the registry"),
    ],
)  # fmt: skip
def test_known_others_are_refused_by_name(keys: list[str], message: str, tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", {key: torch.ones(2, 2) for key in keys})
    with pytest.raises(UserError, match=message):
        load(ref)


def test_a_trusted_pickle_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine_of_nobody")
    module.Buffer = type("Buffer", (), {"__module__": "mmengine_of_nobody"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmengine_of_nobody", module)
    ref = saved(tmp_path / "a.pth", {"state_dict": build(Narrow).state_dict(), "history": module.Buffer()})
    monkeypatch.delitem(sys.modules, "mmengine_of_nobody")
    with pytest.raises(UserError, match="--trust-pickle"):
        load(ref)
    with pytest.raises(UserError, match="needs the package mmengine_of_nobody, which is not installed"):
        load(ref, trust_pickle=True)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "options: {epsilon: 1.0e-5}",
            "unknown key 'epsilon'",
        ),  # would be read past, and the network another
        ("options: {head: 12}", "unknown key 'head'"),
        ("options: {heads: '12'}", "options: heads"),
        ("options: {heads: -1}", "options: heads"),
        ("options: {heads: {'384': 0}}", "options: heads"),
        ("options: {heads: {small: 6}}", "options: heads"),
        ("options: {head_dim: 0}", "options: head_dim"),
        ("options: {eps: 0}", "options: eps"),
        ("options: {eps: tiny}", "options: eps"),
        ("options: {activation: swiglu}", "options: activation"),
        ("options: {pooling: token}", "options: pooling"),
        ("options: {positions: {offset: x}}", "options: positions.offset"),
        (
            "options: {stride_in_1x1: 'False'}",
            "options: stride_in_1x1",
        ),  # true for who asks whether it is empty
        ("options: [heads]", "options"),
        ("marks: ['(']", "no regular expression"),
        ("absent: ['[']", "no regular expression"),
        ("drop: {'*': head}", "no regular expression"),
        ("archs: '('", "no regular expression"),
        (r"rename: [['a', '\9']]", "no regular expression"),
        ("rename: no-such", "unknown list of renames 'no-such'"),
        ("normalization: 3", "the normalisation is no mapping"),
    ],
)
def test_what_a_layouts_file_says_is_read_or_refused(tmp_path: Path, entry: str, told: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"{{title: Mine, source: here, {entry}}}")
    with pytest.raises(UserError, match=rf"mine\.yaml.*{re.escape(told)}"):
        layouts.get(str(tmp_path / "mine.yaml"))
