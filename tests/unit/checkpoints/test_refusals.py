"""Files that must not load: each gives one clear error, and nothing in them runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_sources import Case, Narrow, build
from safetensors.torch import save_file

from eval.checkpoints import inspect, layouts, load
from eval.checkpoints.layouts import Layout
from eval.errors import UserError
from mast.checkpoint import weights_sha256


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build(Narrow).state_dict()


def refusal(path: Path, **options: Any) -> str:
    """The one line of the error that reading the file must give."""
    for read in (inspect, load):
        with pytest.raises(UserError) as caught:
            read(str(path), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert caught.value.remedy
    return message


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


class Command:
    """Pickles to a shell command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def test_missing_keys_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = {k: v for k, v in state.items() if not k.startswith("layer3.1.conv2")}
    message = refusal(saved(tmp_path / "a.pth", broken))
    assert "1 missing: layer3.1.conv2.weight" in message
    assert "resnet18-c8" in message


def test_a_whole_missing_block_is_not_taken_for_a_smaller_network(state: Any, tmp_path: Path) -> None:
    broken = {k: v for k, v in state.items() if not k.startswith("layer4.1.")}
    assert "missing: layer4.1.conv1.weight" in refusal(saved(tmp_path / "a.pth", broken))


def test_missing_running_statistics_are_an_error(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = {k: v for k, v in state.items() if "running" not in k}
    assert "missing: bn1.running_mean" in refusal(saved(tmp_path / "a.pth", broken))


def test_unexplained_keys_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "a.pth", {**state, "layer2.0.se.weight": torch.ones(3)}))
    assert "1 unexplained: layer2.0.se.weight" in message


def test_a_head_of_ones_own_is_left_out_by_the_option_that_the_error_names(
    state: Any, tmp_path: Path
) -> None:
    """A LightningModule with a backbone and heads of any name."""
    head = {"my_head.weight": torch.ones(4, 64), "my_head.bias": torch.ones(4)}
    stages = {"conv1": "0", "bn1": "1", **{f"layer{number}": str(number + 3) for number in range(1, 5)}}
    body = {
        f"backbone.{stages[start]}.{rest}": value
        for start, _, rest, value in ((*key.partition("."), value) for key, value in state.items())
        if start in stages
    }
    content = {"state_dict": body | head, "epoch": 3}
    path = saved(tmp_path / "epoch=3.ckpt", content)
    assert "if that is no part of the backbone: --prefix state_dict.backbone.)" in refusal(path)
    assert "say --prefix state_dict.backbone.)" in refusal(path, prefix="backbone.")
    dropped = inspect(str(path), prefix="state_dict.backbone.").dropped
    assert dropped["state_dict.my_head"] == "outside --prefix state_dict.backbone."


def test_unknown_tensors_beside_the_weights_are_an_error(state: Any, tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "a.pth", {"state_dict": state, "other_model": dict(state)}))
    assert "other_model.conv1.weight" in message


def test_wrong_width_in_one_layer(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = {**state, "layer2.0.conv1.weight": torch.ones(20, 8, 3, 3)}
    assert "layer2.0.conv1.weight (20, 8, 3, 3) instead of (16, 8, 3, 3)" in refusal(
        saved(tmp_path / "a.pth", broken)
    )


def test_wrong_architecture_by_hand(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", state)
    assert "missing: layer1.2.conv1.weight" in refusal(path, arch="resnet34-c8")
    assert "of another shape: conv1.weight" in refusal(path, arch="resnet18-c8-cifar")
    with pytest.raises(UserError, match="unknown architecture 'resnet19'"):
        inspect(str(path), arch="resnet19")


def test_only_the_momentum_encoder(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": {f"module.encoder_k.{k}": v for k, v in state.items()}})
    assert "no known layout fits" in refusal(path)
    assert "does not look like layout moco" in refusal(path, layout="moco")


def test_a_named_variant_takes_the_other_copy(written: Callable[[str], Case]) -> None:
    path = str(written("moco").path)
    online, ema = inspect(path), inspect(path, layout="moco:ema")
    assert (online.encoder, ema.encoder) == ("online", "ema")
    assert online.weights_sha256 != ema.weights_sha256
    with pytest.raises(UserError, match=r"unknown variant of layout moco 'emma' .*did you mean ema"):
        inspect(path, layout="moco:emma")


@pytest.mark.parametrize(
    ("name", "layout"),
    [("byol_deepmind", "byol-deepmind:ema"), ("dino", "dino:online"), ("pycontrast", "pycontrast:ema")],
)
def test_variants_at_another_path(written: Callable[[str], Case], name: str, layout: str) -> None:
    path = str(written(name).path)
    assert inspect(path, layout=layout).weights_sha256 != inspect(path).weights_sha256


def test_copies_that_differ_are_an_error(written: Callable[[str], Case], tmp_path: Path) -> None:
    content = torch.load(written("byol_lucidrains").path, weights_only=True)
    content["net.layer1.0.conv1.weight"] = content["net.layer1.0.conv1.weight"] + 1
    assert "net.layer1.0.conv1.weight (should be the same" in refusal(saved(tmp_path / "a.pth", content))


def test_two_layouts_with_different_weights_are_shown(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build(Narrow, 1).state_dict()
    keys = {f"a.{k}": v for k, v in state.items()} | {f"b.{k}": v for k, v in other.items()}
    path = saved(tmp_path / "a.pth", keys)
    shared: dict[str, Any] = {"title": "", "source": ""}
    one = Layout("one", **shared, prefix="a.", drop={r"b\.": "other", r"a\.fc": "head"})
    two = Layout("two", **shared, prefix="b.", drop={r"a\.": "other", r"b\.fc": "head"})
    monkeypatch.setattr(layouts, "table", lambda: {"one": one, "two": two})
    message = refusal(path)
    assert "two layouts fit and give different networks: one (resnet18-c8" in message
    assert "two (resnet18-c8" in message
    assert inspect(str(path), layout="two").layout == "two"


def test_a_3x3_stem_asks_which(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", build(lambda: Narrow(stem="cifar")).state_dict())
    assert "resnet18-c8-cifar2 (stride 1, padding 2)" in refusal(path)
    assert inspect(str(path), arch="resnet18-c8-cifar2").arch == "resnet18-c8-cifar2"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"model": {"module.encoder1.conv1.weight": 1, "module.encoder2.conv1.weight": 1}},
            "CMC (PyContrast)",
        ),
        (
            {"resnet": {"net.0.0.weight": 1, "net.1.blocks.0.net.2.main_conv.0.weight": 1}},
            "selective kernels",
        ),
        (
            {"conv1.weight": 1, "layer1.0.conv1.weight": 1, "layer3.0.conv1.weight": 1},
            "three-stage CIFAR ResNet",
        ),
        (
            {"downsample_layers.0.0.weight": 1, "stages.0.0.dwconv.weight": 1},
            "as layout convnext: stages of [1, 0, 0, 0]",
        ),
        (
            {
                "encoder": {
                    "module.backbone.patch_embed.proj.weight": 1,
                    "module.backbone.blocks.0.attn.qkv.weight": 1,
                }
            },
            "V-JEPA",
        ),
        ({"patch_embed.proj.weight": 1, "layers.0.blocks.0.norm1.weight": 1}, "no known layout fits"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_by_name(content: Any, expected: str, tmp_path: Path) -> None:
    def tensors(node: Any) -> Any:
        return {k: tensors(v) for k, v in node.items()} if isinstance(node, dict) else torch.ones(16, 3, 3, 3)

    assert expected in refusal(saved(tmp_path / "a.pth", tensors(content)))


def test_lab_input_and_wide_resnets(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert "(8, 1, 7, 7)" in refusal(
        saved(tmp_path / "a.pth", {**state, "conv1.weight": torch.ones(8, 1, 7, 7)})
    )
    wide = {**state, "layer1.0.conv1.weight": torch.ones(16, 8, 3, 3)}
    assert "Wide ResNet or a ResNeXt" in refusal(saved(tmp_path / "b.pth", wide))


def test_not_finite_and_negative_variance(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = {k: v.clone() for k, v in state.items()}
    broken["layer1.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    assert "not finite: layer1.0.conv1.weight" in refusal(saved(tmp_path / "a.pth", broken))
    broken = {**state, "bn1.running_var": torch.full((8,), -1.0)}
    assert "negative variances: bn1.running_var" in refusal(saved(tmp_path / "b.pth", broken))


def test_no_file_folder_link_empty(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    target = saved(tmp_path / "a.pth", state)
    (tmp_path / "link.pth").symlink_to(target)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.pth")
    assert f"a symbolic link (name its target, {target}" in refusal(tmp_path / "link.pth")
    assert "a symbolic link" in refusal(tmp_path / "dangling.pth")
    assert "an empty file" in refusal(tmp_path / "empty.pth")
    assert "a folder" in refusal(tmp_path)
    assert "not a regular file" in refusal(tmp_path / "pipe.pth")
    assert "neither a file nor a known checkpoint" in refusal(tmp_path / "none.pth")


def test_near_names_are_suggested() -> None:
    with pytest.raises(UserError, match="did you mean vicreg-resnet50") as caught:
        load("vicreg-resnet5")
    assert caught.value.code == 2
    with pytest.raises(UserError, match="did you mean moco"):
        layouts.get("mocco")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git-lfs pointer"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"\x89HDF\r\n" + bytes(40), "HDF5"),
        (b"plain text that is not a checkpoint", "neither a torch, TorchScript, safetensors nor pickle file"),
        (bytes(100), "neither a torch"),
        (struct.pack("<Q", 2**60) + b"{" + bytes(50), "neither a torch"),
        (struct.pack("<Q", 20) + b"{" + bytes(50), "damaged"),
    ],
)
def test_other_containers(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert expected in refusal(path)


def test_numpy_archive_and_module_and_list(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    assert "NumPy archive" in refusal(tmp_path / "a.npz")
    assert "holds a list, not a state dict" in refusal(saved(tmp_path / "b.pth", [torch.ones(3)]))
    message = refusal(saved(tmp_path / "c.pth", torch.nn.Linear(2, 2)))
    assert "torch.nn.modules.linear.Linear" in message
    assert "--trust-pickle" in message


# --- pickles that want to run something -------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_command_is_named_and_does_not_run(zipped: bool, state: Any, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    path = tmp_path / "a.pth"
    torch.save({"state_dict": state, "x": Command(flag)}, path, _use_new_zipfile_serialization=zipped)
    assert "it wants to run or build: posix.system" in refusal(path)
    assert not flag.exists()


def test_a_command_in_a_plain_pickle_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps({"model": {}, "x": Command(flag)}, protocol=protocol))
        assert "posix.system" in refusal(path)
    assert not flag.exists()


def test_a_command_in_a_torchscript_archive_does_not_run(tmp_path: Path) -> None:
    flag, path = tmp_path / "ran", tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"x": Command(flag)}, protocol=2))
        archive.writestr("a/constants.pkl", pickle.dumps(()))
    assert "posix.system" in refusal(path)
    assert not flag.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(S'touch {flag}'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'touch {flag}'\no.",  # OBJ
        b"cposix\nsystem\n(S'touch {flag}'\ntR.",  # REDUCE
        b'c__builtin__\neval\n(S\'open("{flag}","w")\'\ntR.',
        b"c__builtin__\ngetattr\n(c__builtin__\ndict\nS'get'\ntR.",
        b"\x82\x01.",  # an extension code
    ],
)
def test_hand_written_opcodes_do_not_run(opcodes: bytes, tmp_path: Path) -> None:
    flag, path = tmp_path / "ran", tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02" + opcodes.replace(b"{flag}", str(flag).encode()))
    refusal(path)
    assert not flag.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x96" + struct.pack("<Q", 2**40) + b"x.",  # BYTEARRAY8 of a tebibyte
        b"\x8e" + struct.pack("<Q", 2**40) + b"x.",  # BINBYTES8
        b"\x8d" + struct.pack("<Q", 2**62) + b"x.",  # BINUNICODE8
        b"Nr\xff\xff\xff\x7f0}.",  # LONG_BINPUT at a huge index
        b"}" + b")" + b"\x85" * 50_000 + b"Ns.",  # a tuple too deep to hash, as a key
        b"ctorch\nTensor\n(L99999999999L\ntR.",
        b"ctorch\nFloatStorage\n(L99999999999L\ntR.",
        b"cnumpy\nndarray\n(L99999999999L\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999L\ntC\x01btR.",
        b"c__builtin__\nbytearray\n(L99999999999L\ntR.",
    ],
)
def test_allocation_bombs_in_a_pickle(opcodes: bytes, state: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02" + opcodes)
    refusal(path)
    whole = saved(tmp_path / "b.pth", {"a": torch.ones(3)})
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, b"\x80\x02" + opcodes if name.endswith("data.pkl") else content)
    refusal(tmp_path / "c.pth")


def test_nested_lists_that_share_are_not_walked_forever(tmp_path: Path) -> None:
    value: Any = {"a": np.ones(2)}
    for _ in range(60):
        value = {"a": value, "b": value}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value))
    refusal(path)
    refusal(saved(tmp_path / "b.pth", {"state_dict": value}))


def test_a_stretched_tensor(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"conv1.weight": torch.ones(1).expand(10**9)})
    assert "in a storage of 1 elements" in refusal(path)


def test_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/version", "3\n")
        with archive.open("a/data/0", "w", force_zip64=True) as record:
            for _ in range(300):
                record.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    assert "claim to unpack to 314,572," in refusal(path)


def test_overlapping_records_and_twice_the_same_name(state: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", state)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
    assert "two records of one name" in refusal(path)


def test_trusting_a_pickle_is_recorded(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    path = saved(tmp_path / "a.pth", {"state_dict": state, "args": Command(flag)})
    passport = inspect(str(path), trust_pickle=True)
    assert flag.exists()
    assert passport.trusted_pickle
    assert passport.unsafe_globals == ["posix.system"]
    safe = saved(tmp_path / "b.pth", {"state_dict": state})
    assert not inspect(str(safe), trust_pickle=True).trusted_pickle


def test_torch_reads_with_weights_only(state: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.load

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(options["weights_only"])
        return original(*args, **options)

    monkeypatch.setattr(torch, "load", spy)
    inspect(str(saved(tmp_path / "a.pth", state)))
    assert seen == [True]


# --- truncation and flipped bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "pickle", "torchscript"])
def test_truncated_anywhere(kind: str, written: Callable[[str], Case], state: Any, tmp_path: Path) -> None:
    path = tmp_path / "whole"
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "zip":
        torch.save(state, path)
    else:
        names = {"legacy": "torchvision_old", "pickle": "detectron2", "torchscript": "torchscript"}
        path = written(names[kind]).path
    content = path.read_bytes()
    inspect(str(path))
    for cut in (1, 7, 100, 5_000, len(content) // 3, len(content) // 2, len(content) - 500, len(content) - 1):
        short = tmp_path / f"short-{cut}"
        short.write_bytes(content[:cut])
        refusal(short)


def test_every_flipped_weight_is_found_where_the_container_has_checksums(state: Any, tmp_path: Path) -> None:
    content = saved(tmp_path / "a.pth", state).read_bytes()
    start = content.index(state["layer4.1.conv2.weight"].numpy().tobytes())
    for offset in (0, 1_001, 40_002, 80_003):
        flipped = bytearray(content)
        flipped[start + offset] ^= 1
        (tmp_path / "b.pth").write_bytes(flipped)
        assert "Bad CRC-32" in refusal(tmp_path / "b.pth")


def test_a_flipped_weight_in_our_own_format_is_found(tmp_path: Path) -> None:
    from mast.checkpoint import write_published

    net = build(Narrow)
    path = tmp_path / "a.safetensors"
    weights = {k: v for k, v in net.state_dict().items() if not k.startswith("fc")}
    facts = {"arch": "resnet18-c8", "normalization": {"mean": [0.5] * 3, "std": [0.2] * 3}}
    write_published(
        path, weights, {**facts, "input_size": 32, "interpolation": "bicubic", "method": "VICReg"}
    )
    passport = inspect(str(path))
    assert (passport.layout, passport.input_size, passport.interpolation) == ("mast", 32, "bicubic")
    assert passport.normalization.mean == (0.5,) * 3
    assert passport.extra == {"method": "VICReg"}
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "the weights are not those that were written" in refusal(path)


ODD = (
    None,
    True,
    0,
    -1,
    0.4,
    1.5,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x",
    "3.0",
    [],
    [1],
    {},
    {"a": 1},
)


def test_an_edited_header_of_our_own_format_is_read_or_refused(tmp_path: Path) -> None:
    """Every key with every odd value: no size of 0 pixels, no interpolation called 3.0, no number that is none."""
    path = tmp_path / "a.safetensors"
    weights = {k: v for k, v in build(Narrow).state_dict().items() if not k.startswith("fc")}
    normalization = {"mean": [0.5] * 3, "std": [0.2] * 3}
    facts = {"arch": "resnet18-c8", "normalization": normalization, "input_size": 32, "interpolation": "bicubic",
             "format": "mast-backbone", "version": 1, "weights_sha256": weights_sha256(weights)}  # fmt: skip
    texts = [json.dumps({**facts, key: value}) for key in facts for value in ODD if value != facts[key]]
    texts += [json.dumps({**facts, "history": [{"loss": value}]}) for value in (float("nan"), float("-inf"))]
    texts += [
        "",
        "[]",
        "3",
        "null",
        "NaN",
        "{",
        json.dumps(facts)[:-1] + ', "input_size": 64}',
        "[" * 100_000,
    ]
    for text in texts:
        save_file(weights, path, metadata={"mast": text})
        assert "\n" not in refusal(path), text
    save_file(weights, path, metadata={"mast": json.dumps(facts)})
    assert inspect(str(path)).input_size == 32


def test_a_name_that_carries_a_hash_is_compared(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "resnet18-deadbeef.pth", state)
    passport = inspect(str(path))
    assert any("ends in deadbeef" in warning for warning in passport.warnings)
    right = path.rename(tmp_path / f"resnet18-{passport.sha256[:8]}.pth")
    assert not any("ends in" in warning for warning in inspect(str(right)).warnings)
