"""Files that the current libraries write, with their own settings beside them: the same features, or a refusal.

Opt-in: ``pytest -m peers`` with timm and lightly, ``make test-transformers``; what is not installed is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eval.checkpoints import Normalization, load
from eval.errors import UserError


def perturbed(network: Any) -> Any:
    """Every vector away from its initial value, so that nothing looks untrained; matrices large enough to matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator))
            elif "qkv" in name or "query" in name or "key" in name:
                tensor.mul_(4)  # sharp attention, which tells wrong heads apart
    return network.eval()


def agree(ours: Any, theirs: Callable[[Any], Any], size: int) -> float:
    """Largest difference over the largest value, in float64."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected, found = theirs(images), ours.to(torch.float64).features(images)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"depth": 3}),
        ("vit_small_patch16_224", {"depth": 3}),
        ("vit_small_patch16_224", {"depth": 3, "num_heads": 12}),
        ("vit_base_patch16_224", {"depth": 2}),
        ("vit_base_patch16_clip_quickgelu_224", {"depth": 2, "pre_norm": False}),
        ("vit_huge_patch14_224", {"depth": 1}),
        ("resnet18", {}),
        ("resnet50", {}),
        ("resnetaa50", {}),
        ("resnetblur50", {}),
        ("resnet50", {"avg_down": True}),
        ("resnet50", {"output_stride": 16}),
    ],
)
@pytest.mark.peers
def test_timms_files(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    import timm
    from timm.models import _hub as hub

    torch.manual_seed(0)
    network = perturbed(timm.create_model(name, num_classes=0, **arguments))
    hub.save_for_hf(network, tmp_path, model_args=arguments or None, safe_serialization=True)
    loaded = load(str(tmp_path / "model.safetensors"))
    config = network.pretrained_cfg
    assert loaded.passport.normalization == Normalization(tuple(config["mean"]), tuple(config["std"]))
    assert loaded.passport.input_size == config["input_size"][-1]
    for size in (224, 224 + 2 * 112):
        if not name.startswith("vit_") or size == 224:
            assert agree(loaded.backbone, network.double(), size) <= 1e-9


@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "relu"])
@pytest.mark.transformers
def test_transformers_vits(heads: int, activation: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=128, num_hidden_layers=2, num_attention_heads=heads, image_size=32,
                                    intermediate_size=256, patch_size=8, hidden_act=activation)  # fmt: skip
    model = perturbed(transformers.ViTModel(config)).double()
    model.float().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=32).save_pretrained(
        tmp_path
    )
    if not (tmp_path / "preprocessor_config.json").is_file():
        pytest.fail("transformers writes its image processor under another name now")
    loaded = load(str(tmp_path / "model.safetensors"))
    assert loaded.passport.normalization == Normalization((0.5,) * 3, (0.5,) * 3)
    assert loaded.passport.input_size == 32
    assert agree(loaded.backbone, lambda x: model.double()(x).last_hidden_state[:, 0], 32) <= 1e-9


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.transformers
def test_transformers_resnets(bottleneck: bool, first: bool, activation: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[3, 4, 6, 3],
                                       downsample_in_bottleneck=bottleneck, downsample_in_first_stage=first,
                                       hidden_act=activation, layer_type="bottleneck")  # fmt: skip
    config.hidden_sizes = [256, 512, 1024, 2048]
    model = perturbed(transformers.ResNetModel(config))
    model.save_pretrained(tmp_path)
    if first or activation != "relu":
        with pytest.raises(UserError, match=r"downsample_in_first_stage|ReLU"):
            load(str(tmp_path / "model.safetensors"))
        return
    loaded = load(str(tmp_path / "model.safetensors"))
    assert agree(loaded.backbone, lambda x: model.double()(x).pooler_output.flatten(1), 64) <= 1e-9


SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
         "image_size": 32, "patch_size": 8}  # fmt: skip
STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 2, 1, 1]}
SWIN = {
    "embed_dim": 16,
    "depths": [2, 2, 2, 1],
    "num_heads": [1, 1, 2, 2],
    "image_size": 224,
    "patch_size": 4,
}


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("kind", "changes", "sizes", "feature"),
    [
        ("DINOv3ViT", SMALL | {"num_register_tokens": 4}, (32, 64), "pooler"),
        ("DINOv3ViT", SMALL | {"use_gated_mlp": True, "hidden_act": "silu"}, (32, 64), "pooler"),
        ("DINOv3ConvNext", STAGES, (64, 96), "pooler"),
        ("IJepa", SMALL, (32, 64), "mean"),
        ("SiglipVision", SMALL, (32, 64), "pooler"),
        ("Dinov2", SMALL | {"use_swiglu_ffn": True}, (32, 64), "pooler"),
        ("Dinov2", SMALL | {"num_attention_heads": 4}, (32, 64), "pooler"),
        ("Dinov2WithRegisters", SMALL | {"use_swiglu_ffn": True}, (32, 64), "pooler"),
        ("ConvNext", STAGES, (64, 96), "pooler"),
        ("ConvNextV2", STAGES, (64, 96), "pooler"),
        ("Swin", SWIN, (224, 448), "pooler"),
        ("ViTMSN", SMALL, (32, 64), "cls"),
    ],
)
def test_transformers_families(
    kind: str, changes: dict[str, Any], sizes: tuple[int, int], feature: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = perturbed(
        getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**changes))
    )
    model.save_pretrained(tmp_path)
    backbone = load(str(tmp_path / "model.safetensors")).backbone
    resizes = {"IJepa", "SiglipVision", "Swin", "ViTMSN"}  # the others do so unasked
    told = {"interpolate_pos_encoding": True} if kind in resizes else {}
    # Hugging Face resizes positions and turns them in float32, whatever the network's precision.
    for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-7)):
        model.to(dtype)
        for size in sizes:
            x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
            with torch.no_grad():
                out, found = model(x, **told), backbone.to(dtype).features(x)
            states = out.last_hidden_state
            expected = {
                "pooler": getattr(out, "pooler_output", None),
                "mean": states.mean(1),
                "cls": states[:, 0],
            }
            theirs = expected[feature]
            assert float((found - theirs).abs().max() / theirs.abs().max()) <= limit


BEIT = SMALL | {"layer_scale_init_value": 0.1, "use_relative_position_bias": True}


@pytest.mark.transformers
@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({}, "mean"),
        ({"num_attention_heads": 4, "layer_norm_eps": 1e-3}, "mean"),
        ({"use_relative_position_bias": False, "use_shared_relative_position_bias": True}, "mean"),
        ({"use_absolute_position_embeddings": True, "use_mask_token": True}, "mean"),
        ({"use_relative_position_bias": False, "use_absolute_position_embeddings": True}, "mean"),
        ({"use_mean_pooling": False}, "cls"),
        ({"layer_scale_init_value": 0.0, "image_size": 48}, "mean"),
    ],
)
def test_transformers_beit(kind: str, changes: dict[str, Any], feature: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**BEIT, **changes})
    pooler = changes.get("use_mean_pooling", True)
    model = perturbed(getattr(transformers, f"{kind}Model")(config, add_pooling_layer=pooler))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "relative_position_bias_table" in name:
                tensor.normal_(std=2)
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path / "model.safetensors"), input_size=config.image_size)
    assert (loaded.passport.layout, loaded.backbone.pooling) == ("huggingface-beit", feature)  # type: ignore[attr-defined]
    for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        model.to(dtype)
        x = torch.randn(2, 3, *[config.image_size] * 2, generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.no_grad():
            out, found = model(x), loaded.backbone.to(dtype).features(x)
        theirs = out.pooler_output if pooler else out.last_hidden_state[:, 0]
        assert float((found - theirs).abs().max() / theirs.abs().max()) <= limit
    with pytest.raises(UserError, match=f"say --input-size {config.image_size}"):
        loaded.backbone.features(torch.zeros(1, 3, 64, 64, dtype=torch.float64))


@pytest.mark.transformers
def test_transformers_data2vec_without_a_last_norm(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = perturbed(transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**BEIT)))
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path / "model.safetensors"))
    assert agree(loaded.backbone, lambda x: model.double()(x).last_hidden_state[:, 1:].mean(1), 32) <= 1e-9


@pytest.mark.transformers
def test_transformers_beit_for_pretraining(tmp_path: Path) -> None:
    """Its last norm lies outside the network, and its positions are shared by all blocks."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = {
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
        "use_mask_token": True,
    }
    model = perturbed(
        transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**BEIT | shared, vocab_size=11))
    ).double()
    model.float().save_pretrained(tmp_path)
    loaded = load(str(tmp_path / "model.safetensors"))
    assert loaded.passport.dropped.keys() >= {"lm_head."}
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        tokens = model.double().layernorm(model.beit(x).last_hidden_state)
        found = loaded.backbone.to(torch.float64).features(x)
    assert float((found - tokens[:, 1:].mean(1)).abs().max()) <= 1e-9


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("Beit", BEIT | {"hidden_act": "relu"}, "activation relu"),
        ("Beit", SMALL | {"layer_scale_init_value": 0.1}, "without any positions"),
        ("Siglip2Vision", {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_patches": 16,
                           "intermediate_size": 256, "patch_size": 8}, "NaFlex.*siglip2-base-patch16-256"),
    ],
)  # fmt: skip
def test_transformers_other_networks_are_refused_by_name(
    kind: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**changes)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match=told):
        load(str(tmp_path / "model.safetensors"))


@pytest.mark.peers
def test_lightlys_example_code(tmp_path: Path) -> None:
    heads = pytest.importorskip("lightly.models.modules")
    import torchvision

    resnet = perturbed(torchvision.models.resnet18())

    class MoCo(nn.Module):  # the shape of lightly's examples: Sequential of children, momentum copies, heads
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(*list(resnet.children())[:-1])
            self.projection_head = heads.MoCoProjectionHead(512, 512, 128)
            self.backbone_momentum = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
            self.projection_head_momentum = heads.MoCoProjectionHead(512, 512, 128)

    torch.save(MoCo().state_dict(), tmp_path / "moco.pth")
    loaded = load(str(tmp_path / "moco.pth"))
    assert loaded.passport.layout == "lightly-sequential"
    resnet.fc = nn.Identity()
    assert agree(loaded.backbone, resnet.double(), 64) <= 1e-9


@pytest.mark.peers
@pytest.mark.parametrize("dataset", ["cifar10", "imagenet100"])
@pytest.mark.parametrize(
    ("method", "backbone", "extra"),
    [
        ("simclr", "resnet18", {}),
        ("mocov3", "resnet18", {}),
        ("simclr", "vit_tiny", {}),
        ("mocov3", "vit_tiny", {}),
        ("mocov3", "vit_small", {}),
        ("mae", "vit_tiny", {}),
        ("mae", "vit_small", {}),
        ("mae", "vit_base", {}),
        ("simclr", "vit_tiny", {"global_pool": "avg"}),
    ],
)
def test_solo_learns_files(
    method: str, backbone: str, extra: dict[str, Any], dataset: str, tmp_path: Path
) -> None:
    """Its own class with its own settings, saved as its checkpointer does: weights, and args.json beside them."""
    methods = pytest.importorskip("solo.methods")
    omegaconf = pytest.importorskip("omegaconf")
    size = 32 if dataset == "cifar10" else 224
    patch = {"img_size": size, "patch_size": size // 4} if backbone.startswith("vit") else {}
    settings = omegaconf.OmegaConf.create(
        {
            "name": "test", "method": method, "max_epochs": 5, "momentum": {"base_tau": 0.99, "final_tau": 1.0},
            "backbone": {"name": backbone, "kwargs": {**patch, **extra}},
            "data": {"dataset": dataset, "num_classes": 10, "num_large_crops": 2, "num_small_crops": 0},
            "optimizer": {"name": "sgd", "batch_size": 2, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 0.0},
            "scheduler": {"name": "warmup_cosine"},
            "method_kwargs": {
                "proj_output_dim": 16, "proj_hidden_dim": 32, "pred_hidden_dim": 16, "temperature": 0.2,
                "mask_ratio": 0.75, "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 4,
            },
        }
    )  # fmt: skip
    module = perturbed(methods.METHODS[method](settings))
    torch.save({"state_dict": module.state_dict()}, tmp_path / "last.ckpt")
    kept = omegaconf.OmegaConf.to_container(settings)
    (tmp_path / "args.json").write_text(json.dumps(kept))
    if extra:  # timm's norm after pooling, which no layout of ours has
        with pytest.raises(UserError, match="fc_norm"):
            load(str(tmp_path / "last.ckpt"))
        return
    loaded = load(str(tmp_path / "last.ckpt"))
    assert (loaded.passport.layout, loaded.passport.input_size) == ("solo-learn", size)
    assert agree(loaded.backbone, module.backbone.double(), size) <= 1e-9


@pytest.mark.peers
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize(
    ("method", "network", "taken"),
    [
        ("SimCLR", "resnet18", "backbone"),
        ("VICReg", "resnet18", "backbone"),
        ("SimCLR", "vit_tiny_patch16_224", "backbone"),
        ("LeJEPA", "vit_tiny_patch16_224", "backbone"),
        ("MAE", "vit_tiny_patch16_224", "encoder.vit"),
        ("BYOL", "resnet18", "backbone.teacher"),
        ("MoCov3", "vit_tiny_patch16_224", "backbone.teacher"),
        ("DINO", "vit_tiny_patch16_224", "backbone.teacher"),
    ],
)
def test_stable_pretrainings_files(method: str, network: str, taken: str, low: bool, tmp_path: Path) -> None:
    """Its own methods, saved by its own trainer: what its files leave open is asked for; the same features then."""
    spt = pytest.importorskip("stable_pretraining")
    lightning = pytest.importorskip("lightning")
    if low and (network != "resnet18" or method == "BYOL"):
        pytest.skip("for ResNets without a teacher")
    torch.manual_seed(0)
    module = perturbed(getattr(spt.methods, method)(network, **({"low_resolution": True} if low else {})))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    ref, said = str(tmp_path / "last.ckpt"), dict[str, Any](normalization=["imagenet"], input_size=224)
    said |= {"arch": "resnet18-cifar"} if low else {"heads": 3} if network.startswith("vit") else {}
    if method in ("MAE", "LeJEPA"):  # whose other parts no layout knows
        with pytest.raises(UserError, match=f"--prefix (state_dict\\.)?{taken}\\."):
            load(ref)
        said["prefix"] = f"state_dict.{taken}."
    elif len(said) > 2:
        with pytest.raises(UserError, match=r"--heads N|--arch"):
            load(ref, normalization=["imagenet"])
    assert load(ref, **said).passport.provenance["normalization"] == "--normalization"
    theirs = module.get_submodule(taken).double()
    if method == "MAE":  # its encoder masks patches; the network inside is timm's
        theirs = lambda images: module.get_submodule(taken).double().forward_features(images)[:, 0]  # noqa: E731
    assert agree(load(ref, **said).backbone, theirs, 224) <= 1e-9
