"""Facts that training libraries write in or beside a file under words of their own, each with its right value."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models import _hub

from eval.checkpoints import Normalization, inspect, layouts, load, vit
from eval.checkpoints.openmmlab import of_meta
from eval.checkpoints.settings import beside
from eval.errors import UserError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
BYTES = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def random(network: torch.nn.Module) -> torch.nn.Module:
    """A network whose statistics and scales are no initial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn(module.num_features, generator=generator)
            module.weight.data = 0.5 + 0.1 * torch.rand(module.num_features, generator=generator)
    return network.eval()


def saved(path: Path, content: Any) -> str:
    torch.save(content, path)
    return str(path)


def difference(ref: str, network: Any, **said: Any) -> float:
    """Largest difference of the features to timm's own, over their largest value."""
    backbone = load(ref, **said).backbone
    with torch.no_grad():
        ours, own = (
            backbone.features(IMAGES),
            network.forward_head(network.forward_features(IMAGES), pre_logits=True),
        )
    return float((ours - own).abs().max() / own.abs().max())


# --- networks that share every key and shape ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur18"])
@pytest.mark.parametrize(
    "content",
    [
        lambda name, state: {"epoch": 3, "arch": name, "state_dict": state},
        lambda name, state: {"epoch": 3, "state_dict": state, "args": argparse.Namespace(model=name)},
        lambda name, state: {"state_dict": state, "hyper_parameters": {"model_name": name, "lr": 0.1}},
        lambda name, state: {"state_dict": state, "hyper_parameters": {"backbone": name}},
    ],
    ids=["arch", "args", "model_name", "backbone"],
)
def test_a_name_of_timms_anywhere_in_the_file_is_that_network(
    content: Any, name: str, tmp_path: Path
) -> None:
    network = random(timm.create_model(name))
    ref = saved(tmp_path / "a.pth", content(name, network.state_dict()))
    assert difference(ref, network) < 1e-6
    assert load(ref, arch=name.replace("aa", "").replace("blur", "")).passport.layout.startswith(
        "torchvision"
    )


def test_a_network_below_another_name_says_how_it_is_read(tmp_path: Path) -> None:
    network = random(timm.create_model("resnetblur18"))
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    ref = saved(
        tmp_path / "a.ckpt", {"state_dict": state, "hyper_parameters": {"model_name": "resnetblur18"}}
    )
    with pytest.raises(UserError) as error:
        load(ref)
    assert "--prefix backbone." in error.value.remedy
    assert difference(ref, network, key="state_dict", prefix="backbone.") < 1e-6


@pytest.mark.parametrize(
    ("start", "config"),
    [
        ("timm_model.", {"architecture": "resnetaa50", "model_type": "timm_wrapper", "global_pool": "avg",
                         "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 64, 64]}}),
        ("_backbone.", {"backbone": "resnetaa50", "model_type": "timm_backbone", "use_timm_backbone": True}),
    ],
)  # fmt: skip
def test_transformers_two_classes_around_timms_networks(start: str, config: Any, tmp_path: Path) -> None:
    network = random(timm.create_model("resnetaa50"))
    save_file(
        {start + key: value for key, value in network.state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert difference(str(tmp_path / "model.safetensors"), network) < 1e-6


# --- OpenMMLab's configurations -------------------------------------------------------------------------------


def of(text: str, key: str = "cfg") -> dict[str, Any]:
    return {name: fact.value for name, fact in of_meta({key: text}).items()}


@pytest.mark.parametrize(
    ("backbone", "heads"),
    [
        ("type='MoCoV3ViT', arch='mocov3-small'", 12),
        ("type='VisionTransformer', arch='deit-small'", 6),
        ("type='mmpretrain.VisionTransformer', arch='small'", 8),
        ("type='MAEViT', arch='h'", 16),
        ("type='VisionTransformer', arch=dict(embed_dims=384, num_layers=12, num_heads=24)", 24),
    ],
)
def test_heads_of_openmmlabs_transformers(backbone: str, heads: int) -> None:
    assert of(f"model = dict(type='MoCoV3', backbone=dict({backbone}, patch_size=16))") == {"heads": heads}


def test_openmmlabs_activation_and_epsilon() -> None:
    text = (
        "model = dict(backbone=dict(type='VisionTransformer', arch='base', norm_cfg=dict(type='LN', eps=1e-05), "
        "layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU'))))"
    )
    assert of(text) == {"heads": 12, "activation": "quick_gelu", "eps": 1e-5}


def test_openmmlabs_places_that_form_no_square_are_refused() -> None:
    text = "model = dict(backbone=dict(type='VisionTransformer', arch='base', img_size={}))"
    assert of(text.format("(224, 224)")) == of(text.format("224")) == {"heads": 12}
    assert "img_size [112, 448]" in of(text.format("(112, 448)"))["grid"].problem


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_openmmlabs_resnets_in_caffes_style_stride_in_the_1x1(key: str, tmp_path: Path) -> None:
    text = (
        "model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=50, style='{}'), "
        "data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False))\n"
        "test_pipeline = [dict(type='ResizeEdge', scale=182, interpolation='bicubic'), dict(type='CenterCrop', "
        "crop_size=160)]\nwork_dir = osp.join('a', 'b')\n"
    )
    state = random(torchvision.models.resnet50()).state_dict()
    keys = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")} | {
        "head.fc.bias": torch.zeros(3)
    }
    found = {}
    for style in ("caffe", "pytorch"):
        found[style] = load(
            saved(tmp_path / f"{style}.pth", {"meta": {key: text.format(style)}, "state_dict": keys})
        )
    passport = found["caffe"].passport
    assert passport.stride_in_1x1
    assert not found["pytorch"].passport.stride_in_1x1
    wanted = Normalization((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "0..255", "BGR")
    assert (passport.normalization, passport.input_size, passport.interpolation) == (wanted, 160, "bicubic")
    assert passport.provenance["stride_in_1x1"] == f"meta.{key}"
    one, other = (loaded.backbone.features(IMAGES) for loaded in found.values())
    assert float((one - other).abs().max() / one.abs().max()) > 0.01


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])", Normalization()),
        (f"img_norm_cfg = dict(mean={BYTES[0]}, std={BYTES[1]}, to_rgb=True)", Normalization(*BYTES, "0..255")),
        (f"data_preprocessor = dict(mean={BYTES[0]}, std={BYTES[1]}, bgr_to_rgb=True)",
         Normalization(*BYTES, "0..255")),
        (f"data_preprocessor = dict(mean={BYTES[0]}, std={BYTES[1]})", Normalization(*BYTES, "0..255", "BGR")),
    ],
)  # fmt: skip
def test_openmmlabs_pixels(line: str, wanted: Normalization) -> None:
    assert of(f"{line}\nmodel = dict(type='SimCLR')") == {"normalization": wanted}


def test_openmmlabs_dilated_resnet_is_refused(tmp_path: Path) -> None:
    text = (
        "model = dict(backbone=dict(type='ResNet', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)))"
    )
    state = random(torchvision.models.resnet18()).state_dict()
    keys = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")} | {
        "head.fc.bias": torch.zeros(3)
    }
    with pytest.raises(UserError, match=r"meta.cfg: dilations \[1, 1, 2, 4\]"):
        load(saved(tmp_path / "a.pth", {"meta": {"cfg": text}, "state_dict": keys}))


@pytest.mark.parametrize("text", ["model: {a: 1}\n  b", "model = " + "(" * 5000, "", "x" * (1 << 21), "model = 3",
                                  "model = dict(backbone=[1, 2])", "\0",
                                  "model = {**a, 'backbone': f()}"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_a_configuration_that_says_nothing_is_no_error(text: str) -> None:
    assert of(text) == {}
    assert of_meta([text]) == of_meta(None) == of_meta({"cfg": 3}) == {}


# --- preprocessing beside the weights -------------------------------------------------------------------------


def read(folder: Path, name: str, **values: Any) -> dict[str, Any]:
    (folder / name).write_text(json.dumps(values))
    return {key: fact.value for key, fact in beside({name: folder / name}).items()}


def test_channels_in_the_other_order(tmp_path: Path) -> None:
    found = read(
        tmp_path, "preprocessor_config.json", do_flip_channel_order=True, size={"shortest_edge": 288}
    )
    assert found == {"normalization": Normalization((0, 0, 0), (1, 1, 1), "0..1", "BGR"), "input_size": 288}


def test_the_part_about_images_of_a_processors_file(tmp_path: Path) -> None:
    part = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "size": {"height": 96, "width": 96},
    }
    wanted = {
        "normalization": Normalization((0.5,) * 3, (0.5,) * 3),
        "input_size": 96,
        "interpolation": "bicubic",
    }
    assert read(tmp_path, "processor_config.json", image_processor=part, processor_class="X") == wanted
    assert read(tmp_path, "preprocessor_config.json", image_processor=part) == wanted


def test_open_clips_file(tmp_path: Path) -> None:
    given = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    found = read(
        tmp_path, "open_clip_config.json", preprocess_cfg=given, model_cfg={"vision_cfg": {"image_size": 256}}
    )
    wanted = Normalization((0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    assert found == {"normalization": wanted, "input_size": 256, "interpolation": "bicubic"}


def test_arguments_of_timms_training_script(tmp_path: Path) -> None:
    told = argparse.Namespace(
        model="resnet18",
        model_kwargs={},
        img_size=96,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        interpolation="bicubic",
    )
    state = random(timm.create_model("resnet18")).state_dict()
    passport = inspect(saved(tmp_path / "a.pth", {"state_dict": state, "args": told}))
    assert passport.normalization == Normalization((0.5,) * 3, (0.25,) * 3)
    assert (passport.input_size, passport.interpolation) == (96, "bicubic")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, "rescale_factor"),
        ({"include_top": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "include_top"),
        ({"do_grayscale": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "do_grayscale"),
        ({"size": {"longest_edge": 224}}, "longest_edge 224"),
        ({"size": {"max_height": 224, "max_width": 224}}, "max_height 224"),
    ],
)
def test_what_changes_pixels_and_is_not_built_is_refused(values: Any, told: str, tmp_path: Path) -> None:
    ref = saved(tmp_path / "a.pth", random(torchvision.models.resnet18()).state_dict())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=told):
        inspect(ref)
    inspect(ref, normalization=("imagenet",), input_size=64)


# --- refusals that say what the file is -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.complex64])
def test_quantised_weights_are_no_weights(kind: torch.dtype, tmp_path: Path) -> None:
    state = random(torchvision.models.resnet18()).state_dict()
    state["conv1.weight"] = (10 * state["conv1.weight"]).to(kind)
    with pytest.raises(UserError, match=r"conv1.weight holds \w+ values"):
        inspect(saved(tmp_path / "a.pth", state))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model-00001-of-00002.safetensors", "one part of a model"),
        ("model.safetensors.index.json", "one part of a model"),
        ("config.json", "a JSON file"),
    ],
)
def test_parts_and_lists_are_told(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"metadata": {}, "weight_map": {}}')
    with pytest.raises(UserError, match=told):
        inspect(str(tmp_path / name))


def test_adapters_are_told(tmp_path: Path) -> None:
    key = "base_model.model.encoder.layer.0.attention.attention.query.lora_"
    save_file(
        {f"{key}A.weight": torch.zeros(8, 16), f"{key}B.weight": torch.zeros(16, 8)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(UserError, match="merge them"):
        inspect(str(tmp_path / "a.safetensors"))


def test_mmpretrains_small_is_known_by_its_depth() -> None:
    """768 channels are twelve heads in its `base` and eight in its `small`, which has eight blocks."""
    options = layouts.get("mmpretrain-vit").options
    assert [vit.heads_of(options, 768, depth) for depth in (12, 8)] == [12, 8]


# --- what shapes do not tell of a vision transformer ----------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"img_size": (64, 96)},  # 24 places and the class token: 25, as 5 x 5 places would have
        {"img_size": (32, 128)},  # 16 places, and no 4 x 4
        {"fc_norm": True},
        {"embed_norm_layer": "layernorm"},
        {"norm_layer": "rmsnorm"},
        {"proj_bias": False},
    ],
)
def test_a_vision_transformer_that_its_shapes_do_not_tell_is_timms(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    own = {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": 64, "dynamic_img_size": True, **arguments}
    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch16_224", num_classes=0, **own).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    _hub.save_for_hf(network, tmp_path, model_args=own, safe_serialization=True)
    ref = str(tmp_path / "model.safetensors")
    assert load(ref).passport.layout == "timm"
    assert difference(ref, network) <= 1e-5


def test_positions_of_a_grid_that_is_no_square_are_refused(tmp_path: Path) -> None:
    """Hugging Face's ViT on images of 16 x 64 px has 2 x 8 places, which look like 4 x 4."""
    state = {
        "embeddings.cls_token": torch.zeros(1, 1, 64),
        "embeddings.position_embeddings": torch.randn(1, 17, 64),
        "embeddings.patch_embeddings.projection.weight": torch.randn(64, 3, 8, 8),
        "embeddings.patch_embeddings.projection.bias": torch.randn(64),
        "layernorm.weight": torch.rand(64),
        "layernorm.bias": torch.rand(64),
    }
    shapes = {
        "attention.attention.query": (64, 64), "attention.attention.key": (64, 64),
        "attention.attention.value": (64, 64), "attention.output.dense": (64, 64),
        "intermediate.dense": (256, 64), "output.dense": (64, 256), "layernorm_before": (64,),
        "layernorm_after": (64,),
    }  # fmt: skip
    for name, shape in shapes.items():
        state[f"encoder.layer.0.{name}.weight"] = torch.randn(shape)
        state[f"encoder.layer.0.{name}.bias"] = torch.randn(shape[0])
    save_file(state, tmp_path / "model.safetensors")
    config = {"model_type": "vit", "hidden_size": 64, "num_attention_heads": 2, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(str(tmp_path / "model.safetensors")).passport.arch == "vit_w64_patch8_d1"
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": [16, 64]}))
    with pytest.raises(UserError, match=r"image_size \[16, 64\] .positions are read as those of a square"):
        load(str(tmp_path / "model.safetensors"), input_size=32)
