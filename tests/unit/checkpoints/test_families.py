"""Every family of networks: told by content, each key accounted for, the same features, maps and tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from family_sources import FAMILIES, Family, convnext, perturbed, plain
from safetensors.torch import load_file, save_file
from timm.models import _hub
from torch import Tensor

from eval.checkpoints import layouts, load, spatial
from eval.errors import UserError

DOCS = Path(__file__).resolve().parents[3] / "docs" / "checkpoints.md"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Write the named file on first use."""
    folder = tmp_path_factory.mktemp("families")
    done: dict[str, Family] = {}

    def write(name: str) -> Family:
        if name not in done:
            torch.manual_seed(0)
            done[name] = FAMILIES[name](folder / f"{name}.pth")
        return done[name]

    return write


def images(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        2, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64
    ).to(dtype)


def off(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_sources_own(name: str, family: Callable[[str], Family]) -> None:
    written = family(name)
    loaded = load(str(written.path), **written.options)
    passport, backbone = loaded.passport, loaded.backbone
    assert passport.layout == written.layout
    assert passport.trained
    assert passport.unexpected == passport.missing == []
    assert passport.network.get("pooling", "avg" if written.pooling == "avg" else "cls") == written.pooling
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for dtype, limit in {torch.float64: 1e-9, torch.float32: 1e-4}.items():
        for size in sorted(set(written.sizes)):
            x = images(size, dtype)
            with torch.no_grad():
                written.network.to(dtype)
                theirs = written.feature(written.sized(size, size), x)
                assert off(backbone.to(dtype).features(x), theirs) <= limit
    if written.sizes[0] == written.sizes[1]:  # positions for images of one size alone
        with pytest.raises(UserError, match=f"images of {size + 32}x{size + 32} pixels"):
            backbone.features(images(size + 32, dtype))
    assert passport.feature_dim == theirs.shape[1]


def contents(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """A file's content, and the dict in it that holds the weights."""
    if path.suffix == ".safetensors":
        state = load_file(path)
        return state, state
    content = torch.load(path, weights_only=False)
    for place in ("teacher", "target_encoder", "state_dict_ema", "model"):
        if place in content:
            return content, content[place]
    return content, content


@pytest.mark.parametrize("name", FAMILIES)
def test_a_key_taken_away_is_missed(name: str, family: Callable[[str], Family], tmp_path: Path) -> None:
    written, tried = family(name), 0
    for part in ("mlp", "proj.weight", "conv", "norm"):
        content, state = contents(written.path)
        inner = [k for k in state if part in k and not k.startswith(("head", "proj", "pred", "decoder", "local_cls"))
                 and "head." not in k and "projector" not in k and "encoder_k" not in k]  # fmt: skip
        if not inner:
            continue
        del state[inner[len(inner) // 2]]
        path = tmp_path / written.path.name
        if path.suffix == ".safetensors":
            save_file(content, path)
            (tmp_path / "config.json").write_text(written.path.with_name("config.json").read_text())
        else:
            torch.save(content, path)
            if (beside := written.path.with_name("config.json")).is_file():
                (tmp_path / "config.json").write_text(beside.read_text())
        with pytest.raises(UserError):
            load(str(path), **written.options)
        tried += 1
    assert tried > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_and_tokens(name: str, family: Callable[[str], Family]) -> None:
    written = family(name)
    backbone = load(str(written.path), **written.options).backbone.to(torch.float64)
    x = images(written.sizes[1])
    written.network.double()
    network = written.sized(*x.shape[-2:])
    with torch.no_grad():
        found = spatial(backbone, x, last=2 if name != "webssl_mae" else 1)
        if hasattr(network, "blocks") and hasattr(network, "num_prefix_tokens"):
            tokens = network.forward_features(x)[:, network.num_prefix_tokens :]
            assert off(found[-1].map.flatten(2).transpose(1, 2), tokens) <= 1e-8
            assert (found[-1].cls is None) == (network.cls_token is None)
        else:
            maps = network.forward_intermediates(x, indices=2, intermediates_only=True)
            assert all(off(ours.map, theirs) <= 1e-9 for ours, theirs in zip(found, maps, strict=True))
            assert list(backbone.feature_maps(x)) == ["res2", "res3", "res4", "res5"]
    assert all(layer.map.shape[-1] == x.shape[-1] // layer.stride for layer in found)


# --- what a feature is ---------------------------------------------------------------------------------------


def test_features_by_name(tmp_path: Path) -> None:
    network = plain(init_values=1.0, depth=4, reg_tokens=0).double()
    torch.save(network.state_dict() | {"mask_token": torch.zeros(1, 128)}, tmp_path / "a.pth")
    x = images(32)
    layers = network.forward_intermediates(x, indices=4, norm=True, return_prefix_tokens=True, output_fmt="NLC",
                                           intermediates_only=True)  # fmt: skip
    patches, prefix = layers[-1]
    expected = {
        "cls": prefix[:, 0],
        "mean": patches.mean(1),
        "cls+mean": torch.cat([prefix[:, 0], patches.mean(1)], 1),
        "last4": torch.cat([cls[:, 0] for _, cls in layers], 1),
        "last4+mean": torch.cat([*(cls[:, 0] for _, cls in layers), patches.mean(1)], 1),
    }
    for choice, theirs in expected.items():
        loaded = load(str(tmp_path / "a.pth"), features=choice)
        assert off(loaded.backbone.to(torch.float64).features(x), theirs) <= 1e-9
        assert loaded.passport.feature_dim == theirs.shape[1]
        assert loaded.passport.provenance["pooling"] == "--features"
        assert loaded.passport.network.get("pooling") == (None if choice == "cls" else choice)
    together = loaded.backbone.pooled(x, list(expected))
    assert all(off(together[choice], theirs) <= 1e-9 for choice, theirs in expected.items())
    assert (
        load(str(tmp_path / "a.pth")).passport.network
        == load(str(tmp_path / "a.pth"), features="cls").passport.network
    )


def test_registers_are_no_patches(tmp_path: Path) -> None:
    backbone = load("random:vit_w64_patch16_reg4_d4@0", features="mean").backbone
    x = images(64, torch.float32)
    assert torch.equal(backbone.features(x), backbone.tokens(x)[:, 5:].mean(1))


@pytest.mark.parametrize(
    ("ref", "choice", "told"),
    [
        ("random:resnet18-c8", "mean", "resnet18-c8 has no feature 'mean' .*it has avg"),
        ("random:vit_w64_patch16_d2", "map", "has no feature 'map' .*it has cls, mean, cls.mean"),
        ("random:vit_w64_patch16_d2", "last4", "has no feature 'last4'"),
        ("random:vit_w64_patch16_d2", "gem", "--features gem"),
        ("random:convnext_atto", "cls", "convnext_atto has no feature 'cls'"),
    ],
)
def test_features_that_a_network_has_not(ref: str, choice: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load(ref, features=choice)


def test_a_random_control_with_another_feature_says_so() -> None:
    assert load("random:vit_w64_patch16_d2").passport.network == {}
    assert load("random:vit_w64_patch16_d2", features="mean").passport.network == {"pooling": "mean"}


# --- settings that change the function -----------------------------------------------------------------------


GATED = ("dinov2_giant", "franca")  # whose gate is SiLU in their code, whatever a config calls the activation


def stated(name: str, written: Family) -> dict[str, dict[str, Any]]:
    """Settings beside a family's file under which its authors' or timm's network computes something else."""
    beside = written.path.with_name("config.json")
    config = json.loads(beside.read_text()) if beside.is_file() else {}
    if "architecture" in config:
        relu = any(isinstance(module, torch.nn.ReLU) for module in written.network.modules())
        changes: dict[str, Any] = {"act_layer": "silu" if relu else "relu"}
        if hasattr(written.network, "blocks") and hasattr(written.network, "num_prefix_tokens"):
            changes["num_heads"] = 1
        given = config.get("model_args") or {}
        return {key: config | {"model_args": {**given, key: value}} for key, value in changes.items()}
    changes = {"layer_norm_eps": 0.1, "hidden_act": "relu"}
    if name in GATED:
        del changes["hidden_act"]
    if hasattr(written.network, "num_prefix_tokens"):
        changes["num_attention_heads"] = 1
    if name == "huggingface_dinov3":
        changes["rope_theta"] = 7.0
    inner = {"hidden_size": getattr(written.network, "embed_dim", 0)} | config.get("vision_config", config)
    whole = {
        key: {"vision_config": inner | {key: value}} if "vision_config" in config else inner | {key: value}
        for key, value in changes.items()
    }
    return {key: config | value for key, value in whole.items()}


@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name != "timm_averaged"]
)  # settings lie in the file
def test_settings_that_change_the_function_are_honoured_or_refused(
    name: str, family: Callable[[str], Family], tmp_path: Path
) -> None:
    written = family(name)
    x = images(written.sizes[0], torch.float32)
    usual = load(str(written.path), **written.options)
    assert stated(name, written)
    for key, config in stated(name, written).items():
        place = tmp_path / key
        place.mkdir()
        shutil.copy(written.path, place)
        (place / "config.json").write_text(json.dumps(config))
        try:
            loaded = load(str(place / written.path.name), **written.options)
        except UserError:
            continue
        assert loaded.passport.network != usual.passport.network, key
        assert off(loaded.backbone.features(x), usual.backbone.features(x)) > 1e-3, key


def test_rotary_frequencies_of_another_base_are_refused(
    family: Callable[[str], Family], tmp_path: Path
) -> None:
    written = family("huggingface_dinov3")
    save_file(load_file(written.path), tmp_path / "model.safetensors")
    config = json.loads(written.path.with_name("config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_theta": 10.0}))
    with pytest.raises(UserError, match=r"config\.json: rope_theta 10"):
        load(str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match="activation relu"):
        load(str(tmp_path / "model.safetensors"))


def test_biases_of_keys_that_no_mask_covers_are_refused(
    family: Callable[[str], Family], tmp_path: Path
) -> None:
    state = torch.load(family("dinov3").path)
    state["blocks.0.attn.qkv.bias_mask"].fill_(1)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match="bias for keys"):
        load(str(tmp_path / "a.pth"))


def test_timms_arguments_are_honoured(tmp_path: Path) -> None:
    """The same keys and shapes, and another network: the arguments in config.json decide."""
    network = perturbed(convnext(dims=(8, 16, 32, 64), depths=(1, 1, 1, 1), act_layer="relu"))
    torch.save(network.state_dict(), tmp_path / "model.pth")
    arguments = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
    x, found = images(64, torch.float32), {}
    for act in ("gelu", "relu"):
        config = {"architecture": "convnext_atto_ols", "model_args": arguments | {"act_layer": act, "conv_mlp": False,
                                                                                 "stem_type": "patch"}}  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        loaded = load(str(tmp_path / "model.pth"))
        found[act] = loaded.backbone.features(x)
        assert loaded.passport.network["model_args"]["act_layer"] == act
    assert off(found["relu"], network(x).detach()) <= 1e-5
    assert off(found["gelu"], network(x).detach()) > 1e-3


def test_a_network_named_by_the_user(tmp_path: Path) -> None:
    network = perturbed(timm.create_model("regnety_002", num_classes=0))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="no known layout"):
        load(str(tmp_path / "a.pth"))
    loaded = load(str(tmp_path / "a.pth"), arch="regnety_002")
    assert loaded.passport.provenance["timm"] == "--arch"
    assert (
        off(loaded.backbone.features(images(64, torch.float32)), network(images(64, torch.float32)).detach())
        <= 1e-5
    )
    with pytest.raises(UserError, match="no known layout"):
        load(str(tmp_path / "a.pth"), arch="regnety_nothing")


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "mean of the class and the distillation token"),
        ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "global_pool avgmax"),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}, "mean of all tokens"),
    ],
)
def test_features_of_timms_that_have_no_name_are_asked_for(
    name: str, arguments: dict[str, Any], told: str, tmp_path: Path
) -> None:
    network = perturbed(timm.create_model(name, num_classes=0, depth=2, **arguments))
    _hub.save_for_hf(network, tmp_path, model_args={"depth": 2, **arguments}, safe_serialization=True)
    file = str(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=told):
        load(file)
    x = images(224, torch.float32)
    found = load(file, features="cls").backbone.features(x)
    assert off(found, network.fc_norm(network.forward_features(x)[:, 0]).detach()) <= 1e-5


def test_a_random_control_gives_the_feature_that_timms_network_gives() -> None:
    loaded = load("random:beitv2_base_patch16_224@0")
    assert loaded.passport.network == {"pooling": "mean"}
    x = images(224, torch.float32)[:1]
    network: Any = loaded.backbone.network
    assert torch.equal(loaded.backbone.features(x), network(x))


def test_windows_that_images_do_not_fill_are_refused(family: Callable[[str], Family]) -> None:
    backbone = load(str(family("swin_authors").path)).backbone
    with pytest.raises(UserError, match="multiple of 32"):
        backbone.features(images(80, torch.float32))


# --- docs ----------------------------------------------------------------------------------------------------


def table() -> str:
    """The table of layouts in docs/checkpoints.md, from the layouts."""
    lines = ["| layout | files of | networks | feature | source |", "|---|---|---|---|---|"]
    for layout in layouts.table().values():
        usual = {layouts.families()[family]["open"]["pooling"] for family in layout.network}
        feature = layout.options.get("pooling") or " or ".join(sorted(usual, reverse=True))
        what = f"refused: {layout.refuse}" if layout.refuse else ", ".join(layout.network)
        row = (
            f"`{layout.name}`",
            layout.title,
            what,
            "–" if layout.refuse else f"`{feature}`",
            layout.source,
        )
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '&#124;') for cell in row)} |")
    return "\n".join(lines)


def test_the_table_of_layouts_in_the_docs_is_current() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = text.split("test_families.py -->\n")[1].split("\n<!-- end of families")[0]
    assert shown == table()


if __name__ == "__main__":
    start, _, rest = DOCS.read_text(encoding="utf-8").partition("test_families.py -->\n")
    end = rest[rest.index("<!-- end of families") :]
    DOCS.write_text(f"{start}test_families.py -->\n{table()}\n{end}", encoding="utf-8")
