"""Write a checkpoint with a method's own public code: ``python peer_checkpoints.py METHOD CLONES OUT``.

CLONES is a folder of clones, each under its repository's name. METHOD's own classes build the network, it is wrapped
and saved with the statements of its own training script (named at each function), and OUT gets the file and what the
network computes on fixed images, in float32 and in float64. The test beside this file reads both.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
from torch import Tensor, nn

SIZE = 64
OTHER = 96
RESIZED = 1e-7
"""In float64 for code that resizes positions in float32."""
Network = Callable[[Tensor], Tensor]
Written = tuple[Any, Network]


@dataclass(frozen=True)
class Method:
    """A writer, whose result is saved, and what `eval.checkpoints` has to find.

    Args:
        repository: The clone's folder.
        layout: Name of the layout.
        arch: Name of the architecture.
        writer: Gives what the training script saves, and the network.
        sizes: Sides of images; its own code takes no other where there is one.
        exact: How near the features have to be in float64; more where its own code goes through float32.
        said: What the user has to say.
        refused: Words of the refusal, for what is not measured.
    """

    repository: str
    layout: str
    arch: str
    writer: Callable[[], Written]
    sizes: tuple[int, ...] = (SIZE, OTHER)
    exact: float = 1e-9
    said: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


METHODS: dict[str, Method] = {}


def method(
    name: str, repository: str, layout: str, arch: str = "resnet18", **more: Any
) -> Callable[[Callable[[], Written]], Callable[[], Written]]:
    """Register a writer; ``more`` are further fields of `Method`."""

    def keep(writer: Callable[[], Written]) -> Callable[[], Written]:
        METHODS[name] = Method(repository, layout, arch, writer, **more)
        return writer

    return keep


def images(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5)).to(dtype)


def distributed(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def trained(model: nn.Module) -> nn.Module:
    """Weights and statistics as after some training, so that nothing cancels."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.ndim:
                tensor *= 1 + 0.1 * torch.rand(tensor.shape, generator=generator)
                tensor += 0.05 * torch.rand(tensor.shape, generator=generator) if tensor.ndim == 1 else 0
    return model


def optimizer(model: nn.Module) -> dict[str, Any]:
    """State of SGD after a step."""
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-9, momentum=0.9)
    for group in sgd.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    return sgd.state_dict()


def without_head(encoder: nn.Module, *heads: str) -> Network:
    for head in heads:
        setattr(encoder, head, nn.Identity())
    return encoder


def tokens(encoder: Any) -> Network:
    """Class token after the last norm."""
    return lambda x: encoder.get_intermediate_layers(x, 1)[-1][:, 0]


# -- the methods ------------------------------------------------------------------------------------------------


@method("moco-v1", "moco", "moco")
def moco_v1() -> Written:  # main_moco.py
    from moco.builder import MoCo

    model = distributed(trained(MoCo(torchvision.models.resnet18, 128, 256)))
    state = {"epoch": 1, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state, without_head(model.module.encoder_q, "fc")


@method("moco-v2", "moco", "moco")
def moco_v2() -> Written:  # main_moco.py
    from moco.builder import MoCo

    model = distributed(trained(MoCo(torchvision.models.resnet18, 128, 256, mlp=True)))
    state = {"epoch": 1, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state, without_head(model.module.encoder_q, "fc")


@method("moco-v3-resnet", "moco-v3", "moco-v3", "resnet50")
def moco_v3_resnet() -> Written:  # main_moco.py
    from moco.builder import MoCo_ResNet

    resnet = partial(torchvision.models.resnet50, zero_init_residual=True)
    model = distributed(trained(MoCo_ResNet(resnet, 64, 128, 1.0)))
    state = {"epoch": 1, "arch": "resnet50", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state | {"scaler": {}}, without_head(model.module.base_encoder, "fc")


@method("pcl", "PCL", "moco")
def pcl() -> Written:  # main_pcl.py
    from pcl.builder import MoCo

    model = distributed(trained(MoCo(torchvision.models.resnet18, 128, 256, mlp=True)))
    state = {"epoch": 1, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state, without_head(model.module.encoder_q, "fc")


@method("simsiam", "simsiam", "simsiam")
def simsiam() -> Written:  # main_simsiam.py
    from simsiam.builder import SimSiam

    model = distributed(trained(SimSiam(torchvision.models.resnet18, 64, 32)))
    state = {"epoch": 1, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state, without_head(model.module.encoder, "fc")


@method("swav", "swav", "swav", "resnet50")
def swav() -> Written:  # main_swav.py
    from src.resnet50 import resnet50

    model = resnet50(normalize=True, hidden_mlp=64, output_dim=32, nmb_prototypes=30)
    model = distributed(trained(model))
    network = model.module
    state = {"epoch": 1, "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state, lambda x: torch.flatten(network.forward_backbone(x), 1)


@method("vicreg", "vicreg", "barlow-twins", "resnet50")
def vicreg() -> Written:  # main_vicreg.py
    from main_vicreg import VICReg

    model = VICReg(argparse.Namespace(arch="resnet50", mlp="64-64-64", batch_size=2))
    model = distributed(trained(model))
    return {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer(model)}, model.module.backbone


@method("vicreg-backbone", "vicreg", "torchvision", "resnet50")
def vicreg_backbone() -> Written:  # main_vicreg.py, the file "resnet50.pth"
    from main_vicreg import VICReg

    backbone = trained(VICReg(argparse.Namespace(arch="resnet50", mlp="64-64-64", batch_size=2)).backbone)
    return backbone.state_dict(), backbone


@method("vicregl", "VICRegL", "barlow-twins", "resnet50")
def vicregl() -> Written:  # main_vicregl.py
    from main_vicregl import VICRegL

    arguments = argparse.Namespace(
        arch="resnet50", mlp="64-64-64", maps_mlp="32-32-32", alpha=0.75, num_classes=10, batch_size=2
    )
    model = distributed(trained(VICRegL(arguments)))
    state = {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer(model)}
    return state, lambda x: model.module.backbone(x)[1]


@method("barlow-twins", "barlowtwins", "barlow-twins", "resnet50")
def barlow_twins() -> Written:  # main.py
    from main import BarlowTwins

    model = BarlowTwins(argparse.Namespace(projector="64-64", batch_size=2, lambd=0.0051))
    model = distributed(trained(model))
    return {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer(model)}, model.module.backbone


def _dino_arguments(arch: str) -> argparse.Namespace:
    return argparse.Namespace(
        arch=arch,
        patch_size=16,
        out_dim=64,
        output_dir=Path("out"),
        lr=5e-4,
        use_fp16=True,
        local_crops_scale=(0.05, 0.4),
    )


@method("dino-vit", "dino", "dino", "vit_small_patch16")
def dino_vit() -> Written:  # main_dino.py
    import utils
    import vision_transformer as vits

    pair = [
        utils.MultiCropWrapper(trained(vits.vit_small(patch_size=16)), vits.DINOHead(384, 64))
        for _ in range(2)
    ]
    student, teacher = distributed(pair[0]), pair[1]
    return _self_distilled(student, teacher, _dino_arguments("vit_small")), teacher.backbone


@method("dino-resnet", "dino", "dino", "resnet50")
def dino_resnet() -> Written:  # main_dino.py
    import utils
    import vision_transformer as vits

    pair = [
        utils.MultiCropWrapper(trained(torchvision.models.resnet50()), vits.DINOHead(2048, 64))
        for _ in range(2)
    ]
    student, teacher = distributed(pair[0]), distributed(pair[1])
    return _self_distilled(student, teacher, _dino_arguments("resnet50")), teacher.module.backbone


def _self_distilled(student: nn.Module, teacher: nn.Module, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "student": student.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": optimizer(student),
        "epoch": 1,
        "args": arguments,
        "dino_loss": {"center": torch.zeros(1, 64)},
    }


@method("ibot", "ibot", "dino", "vit_small_patch16")
def ibot() -> Written:  # main_ibot.py
    import models
    import utils
    from models.head import iBOTHead

    student = models.vit_small(patch_size=16, return_all_tokens=True, masked_im_modeling=True)
    teacher = models.vit_small(patch_size=16, return_all_tokens=True)
    student, teacher = (
        utils.MultiCropWrapper(trained(one), iBOTHead(384, 64, patch_out_dim=64, shared_head=True))
        for one in (student, teacher)
    )
    state = _self_distilled(distributed(student), teacher, _dino_arguments("vit_small"))
    state["ibot_loss"] = state.pop("dino_loss")
    return state, lambda x: teacher.backbone(x)[:, 0]


@method("mae", "mae", "mae", "vit_small_patch16", sizes=(SIZE,), said={"heads": 6})
def mae() -> Written:  # util/misc.py save_model, with models_vit.py's network as main_linprobe.py loads it
    import models_mae
    import models_vit

    shape = {"img_size": SIZE, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    shape |= {"norm_layer": partial(nn.LayerNorm, eps=1e-6)}
    decoder = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 4}
    model = trained(models_mae.MaskedAutoencoderViT(**shape, **decoder))
    state = {"model": model.state_dict(), "optimizer": optimizer(model), "epoch": 1, "scaler": {}}
    state["args"] = argparse.Namespace(model="mae_vit_base_patch16", output_dir="out")
    network = models_vit.VisionTransformer(**shape, num_classes=0)
    missing = network.load_state_dict(model.state_dict(), strict=False).missing_keys
    assert not missing, missing
    return state, lambda x: network.forward_features(x)


@method("pycontrast-moco", "PyContrast/pycontrast", "pycontrast", "resnet50")
def pycontrast() -> Written:  # learning/contrast_trainer.py
    from networks.build_backbone import build_model

    options = argparse.Namespace(
        modal="RGB", jigsaw=False, arch="resnet50", head="mlp", feat_dim=64, mem="moco"
    )
    model, ema = build_model(options)
    model = distributed(trained(model))
    state = {
        "model": model.state_dict(),
        "contrast": {"memory": torch.zeros(8, 64), "index": torch.zeros(1)},
        "optimizer": optimizer(model),
        "epoch": 1,
        "model_ema": trained(ema).state_dict(),
    }
    return state, lambda x: model.module(x, mode=2)


@method("obow", "obow", "obow", "resnet18")
def obow() -> Written:  # obow/builder_obow.py save_feature_extractor
    from obow.feature_extractor import ResNet

    network = trained(ResNet("resnet18"))
    return {"epoch": 1, "network": network.state_dict(), "meters": None}, lambda x: torch.flatten(
        network(x), 1
    )


@method("pixpro", "PixPro", "pycontrast", "resnet50")
def pixpro() -> Written:  # main_pretrain.py save_checkpoint
    from contrast import resnet
    from contrast.models import PixPro

    arguments = argparse.Namespace(
        feature_dim=64, head_type="early_return", pixpro_p=2.0, pixpro_momentum=0.99, pixpro_pos_ratio=0.7,
        pixpro_clamp_value=0.0, pixpro_transform_layer=1, pixpro_ins_loss_weight=0.0, num_instances=64, batch_size=2,
        epochs=1, start_epoch=1,
    )  # fmt: skip
    model = nn.DataParallel(trained(PixPro(resnet.resnet50, arguments)))  # SyncBN refuses DDP on the CPU
    state = {
        "opt": arguments,
        "model": model.state_dict(),
        "optimizer": optimizer(model),
        "scheduler": {},
        "epoch": 1,
    }
    return state, lambda x: model.module.encoder(x).mean((2, 3))


@method("augself-cifar", "AugSelf", "augself", "resnet18-cifar")
def augself() -> Written:  # utils.py Logger.save
    import models

    backbone = trained(models.load_backbone(argparse.Namespace(model="cifar_resnet18")))
    projector = models.load_mlp(512, 64, 64)
    sgd = optimizer(nn.ModuleList([backbone, projector]))
    state = {"backbone": backbone.state_dict(), "projector": projector.state_dict(), "optimizers": [sgd]}
    return state, backbone


@method("byol-pytorch", "byol-pytorch", "byol-lucidrains", "resnet18")
def byol_pytorch() -> Written:  # the README's example, with the learner saved whole
    package("byol_pytorch", Path(sys.path[0]) / "byol_pytorch")  # without its trainer
    from byol_pytorch.byol_pytorch import BYOL

    learner = BYOL(torchvision.models.resnet18(), image_size=SIZE, hidden_layer="avgpool", use_momentum=True)
    trained(learner)
    return learner.state_dict(), without_head(learner.online_encoder.net, "fc")


def _lightly(
    name: str, part: str, *arguments: Any
) -> Written:  # benchmarks/imagenet/resnet50, Lightning's trainer
    import pytorch_lightning

    module = importlib.import_module(name)
    model = trained(getattr(module, part)(*arguments))
    state = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": pytorch_lightning.__version__,
        "state_dict": model.state_dict(),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [optimizer(model)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": dict(model.hparams),
    }
    return state, model.backbone


@method("lightly-vicreg", "lightly/benchmarks/imagenet/resnet50", "lightly", "resnet50")
def lightly_vicreg() -> Written:
    return _lightly("vicreg", "VICReg", 2, 10)


@method("lightly-mocov2", "lightly/benchmarks/imagenet/resnet50", "lightly", "resnet50")
def lightly_mocov2() -> Written:
    return _lightly("mocov2", "MoCoV2", 2, 10)


@method("lightly-byol", "lightly/benchmarks/imagenet/resnet50", "lightly", "resnet50")
def lightly_byol() -> Written:
    return _lightly("byol", "BYOL", 2, 10)


@method("lightly-dino", "lightly/benchmarks/imagenet/resnet50", "lightly-dino", "resnet50")
def lightly_dino() -> Written:
    return _lightly("dino", "DINO", 2, 10)


@method("solo-learn-cifar", "solo-learn", "solo-learn", "resnet18-cifar2", said={"arch": "resnet18-cifar2"})
def solo_learn() -> Written:  # solo/methods/simclr.py through Lightning's trainer
    import omegaconf
    from solo.methods import SimCLR

    settings = {
        "method": "simclr",
        "backbone": {"name": "resnet18"},
        "method_kwargs": {"proj_hidden_dim": 64, "proj_output_dim": 32, "temperature": 0.2},
        "data": {"dataset": "cifar10", "num_classes": 10, "num_large_crops": 2, "num_small_crops": 0},
        "max_epochs": 1,
        "optimizer": {"name": "sgd", "batch_size": 2, "lr": 0.1, "weight_decay": 0.0, "classifier_lr": 0.1},
        "scheduler": {"name": "none"},
        "knn_eval": {"enabled": False},
        "performance": {"disable_channel_last": True},
    }
    model = trained(SimCLR(omegaconf.OmegaConf.create(settings)))
    state = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer(model)],
        "lr_schedulers": [],
    }
    return state, model.backbone


# -- families of newer networks ---------------------------------------------------------------------------------


def kept(model: nn.Module, *constants: str) -> Any:
    """`trained`, but for buffers that are constants of the architecture."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith(constants)}
    model.load_state_dict(trained(model).state_dict() | before)
    return model.eval()


def package(name: str, folder: Path) -> None:
    """A package of a clone without what its ``__init__`` imports."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def _dinov3(**changes: Any) -> Any:
    from dinov3.models.vision_transformer import DinoVisionTransformer

    settings: dict[str, Any] = {
        "img_size": 64, "patch_size": 16, "embed_dim": 128, "depth": 2, "num_heads": 2, "layerscale_init": 1.0e-5,
        "n_storage_tokens": 4, "norm_layer": "layernormbf16", "pos_embed_rope_dtype": "fp32", "mask_k_bias": True,
        "pos_embed_rope_normalize_coords": "separate", "pos_embed_rope_rescale_coords": 2,
    }  # fmt: skip
    model = DinoVisionTransformer(**settings | changes)
    model.init_weights()
    return kept(model, "periods", "bias_mask")


@method("dinov3", "dinov3", "dinov3", "vit_w128_patch16_reg4_d2_rope")
def dinov3() -> Written:  # dinov3/hub/backbones.py
    model = _dinov3()
    return model.state_dict(), model


@method("dinov3-swiglu", "dinov3", "dinov3-untied", "vit_w128_patch16_reg4_d2_rope")
def dinov3_swiglu() -> Written:  # dinov3/hub/backbones.py
    model = _dinov3(ffn_layer="swiglu64", qkv_bias=False, untie_global_and_local_cls_norm=True)
    return model.state_dict(), model


@method("dinov3-convnext", "dinov3", "convnext", "convnext_8x1_16x2_32x1_64x1")
def dinov3_convnext() -> Written:  # dinov3/hub/backbones.py
    from dinov3.models.convnext import ConvNeXt

    model = ConvNeXt(depths=[1, 2, 1, 1], dims=[8, 16, 32, 64])
    model.init_weights()
    return trained(model).state_dict(), model


@method("dinov2-swiglu", "dinov2", "dinov2", "vit_w128_patch16_reg4_d2", exact=RESIZED)
def dinov2_swiglu() -> Written:  # dinov2/hub/backbones.py
    os.environ["XFORMERS_DISABLED"] = "1"
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = DinoVisionTransformer(img_size=64, patch_size=16, embed_dim=128, depth=2, num_heads=2, init_values=1.0,
                                  ffn_layer="swiglufused", block_chunks=0, num_register_tokens=4,
                                  interpolate_antialias=True, interpolate_offset=0.0)  # fmt: skip
    return trained(model).state_dict(), model


@method(
    "dinov2-linear", "dinov2", "dinov2", "vit_w128_patch16_d4", exact=RESIZED, said={"features": "last4+mean"}
)
def dinov2_linear() -> (
    Written
):  # dinov2/eval/linear.py: what its heads read of four blocks, with average pooling
    os.environ["XFORMERS_DISABLED"] = "1"
    from dinov2.models.vision_transformer import DinoVisionTransformer

    model = DinoVisionTransformer(img_size=64, patch_size=16, embed_dim=128, depth=4, num_heads=2, init_values=1.0,
                                  block_chunks=0)  # fmt: skip
    tree = ast.parse(Path(sys.path[0], "dinov2/eval/linear.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "create_linear_input"]
    space: dict[str, Any] = {"torch": torch}
    exec(compile(tree, "linear.py", "exec"), space)
    read = space["create_linear_input"]

    def network(x: Tensor) -> Tensor:  # its last line turns double into float
        blocks = model.get_intermediate_layers(x, 4, return_class_token=True)
        found: Tensor = read(blocks, 4, True)
        return found

    return trained(model).state_dict(), network


@method("franca", "Franca", "dinov2-training", "vit_w128_patch16_d2", exact=RESIZED)
def franca() -> Written:  # franca/train/train.py, franca/hub/backbones.py
    os.environ["XFORMERS_DISABLED"] = "1"
    from franca.models.vision_transformer import DinoVisionTransformer

    model = DinoVisionTransformer(img_size=64, patch_size=16, embed_dim=128, depth=2, num_heads=2, init_values=1.0,
                                  ffn_layer="swiglufused", block_chunks=2)  # fmt: skip
    state = {f"module.backbone.{name}": tensor for name, tensor in trained(model).state_dict().items()}
    return {"teacher": state}, model


@method("ijepa", "ijepa", "ijepa", "vit_tiny_patch16_d2", sizes=(SIZE,))
def ijepa() -> Written:  # src/train.py
    import src.models.vision_transformer as vit

    norm = partial(nn.LayerNorm, eps=1e-6)
    model = vit.VisionTransformer(img_size=[64], patch_size=16, embed_dim=192, depth=2, num_heads=3, qkv_bias=True,
                                  norm_layer=norm)  # fmt: skip
    target = distributed(trained(model))
    encoder = {name: tensor + 1 for name, tensor in target.state_dict().items()}
    state = {"encoder": encoder, "predictor": {}, "target_encoder": target.state_dict(), "opt": {}, "scaler": None,
             "epoch": 1, "loss": 0.1, "batch_size": 8, "world_size": 1, "lr": 0.1}  # fmt: skip
    return state, lambda x: model(x).mean(1)


@method("convnextv2", "ConvNeXt-V2", "convnext", "convnextv2_8x1_16x2_32x1_64x1")
def convnextv2() -> Written:  # main_finetune.py
    stand_in("MinkowskiEngine")
    package("models", Path(sys.path[0]) / "models")
    from models.convnextv2 import ConvNeXtV2

    model = trained(ConvNeXtV2(depths=[1, 2, 1, 1], dims=[8, 16, 32, 64]))
    return {"model": model.state_dict()}, lambda x: model.forward_features(x)


@method("esvit-swin", "esvit", "esvit-swin", "swin_16x2_32x2_64x2_128x2_window2", sizes=(64, 128))
def esvit_swin() -> Written:  # main_esvit.py
    package("models", Path(sys.path[0]) / "models")
    from models.swin_transformer import SwinTransformer

    model = SwinTransformer(img_size=64, patch_size=4, in_chans=3, num_classes=0, embed_dim=16, depths=[2, 2, 2, 2],
                            num_heads=[1, 2, 2, 2], window_size=2, norm_layer=partial(nn.LayerNorm, eps=1e-6),
                            use_dense_prediction=False)  # fmt: skip
    model = kept(model, "relative_position_index", "attn_mask")
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {
        "module.head.mlp.0.weight": torch.ones(2, 2),
        "module.head_dense.mlp.0.weight": torch.ones(2, 2),
    }
    student = {name: tensor + 1 for name, tensor in state.items()}
    return {"student": student, "teacher": state, "epoch": 1}, lambda x: model.forward_features(x)


@method("moco-v3-vit", "moco-v3", "moco-v3", "vit_small_patch16", sizes=(224,))
def moco_v3_vit() -> Written:  # main_moco.py
    import vits
    from moco.builder import MoCo_ViT

    model = distributed(trained(MoCo_ViT(vits.vit_small, 64, 128, 1.0)))
    state = {"epoch": 1, "arch": "vit_small", "state_dict": model.state_dict(), "optimizer": optimizer(model)}
    return state | {"scaler": {}}, without_head(model.module.base_encoder, "head")


@method("data2vec", "data2vec_vision/beit", "timm", "beit_base_patch16_224", sizes=(224,),
        said={"arch": "beit_base_patch16_224", "features": "mean"})  # fmt: skip
def data2vec() -> Written:  # run_class_finetuning.py, utils.py save_model
    from modeling_finetune import beit_base_patch16_224

    model = beit_base_patch16_224(
        use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1, num_classes=10
    )
    trained(model)
    return {"model": model.state_dict(), "epoch": 1}, lambda x: model.forward_features(x)


@method("data2vec-pretraining", "data2vec_vision/beit", "", refused="relative positions")
def data2vec_pretraining() -> Written:  # run_cyclical.py, utils.py save_model
    from modeling_cyclical import VisionTransformerForCyclicalTraining

    model = VisionTransformerForCyclicalTraining(
        img_size=SIZE, embed_dim=128, depth=2, num_heads=2, qkv_bias=True, norm_layer=nn.LayerNorm, init_values=0.1,
        use_abs_pos_emb=False, use_shared_rel_pos_bias=True,
    )  # fmt: skip
    return {"model": trained(model).state_dict(), "model_ema": model.state_dict()}, model


@method(
    "webssl-mae", "webssl", "webssl-mae", "vit_large_patch16_d2", sizes=(224,), said={"layout": "webssl-mae"}
)
def webssl_mae() -> Written:  # demo_webmae.py
    import mae.mae as source

    build = source._create_vision_transformer
    source._create_vision_transformer = lambda name, **shape: build(name, **shape | {"depth": 2})
    model = trained(source.webssl_mae300m_full2b_224())
    return model.state_dict(), lambda x: model.forward_features(x)[:, 0]


@method("lejepa", "lejepa", "vit", "vit_small_patch8", sizes=(128,),
        said={"arch": "vit_small_patch8_224", "prefix": "backbone."})  # fmt: skip
def lejepa() -> Written:  # MINIMAL.md's encoder, saved whole
    import timm
    from torchvision.ops import MLP

    text = (Path(sys.path[0]) / "MINIMAL.md").read_text()
    start = text.index("class ViTEncoder(")
    names: dict[str, Any] = {"nn": nn, "timm": timm, "MLP": MLP}
    exec(text[start : text.index("class HFDataset(")], names)
    model = trained(names["ViTEncoder"]())
    return model.state_dict(), lambda x: model.backbone.forward_features(x)[:, 0]


@method("moby-swin", "Transformer-SSL", "moby", "swin_16x2_32x2_64x2_128x2_window2", sizes=(SIZE,))
def moby_swin() -> Written:  # moby_main.py, utils.py save_checkpoint
    package("models", Path(sys.path[0]) / "models")
    from models.moby import MoBY
    from models.swin_transformer import SwinTransformer

    encoder, momentum = (
        SwinTransformer(img_size=64, patch_size=4, num_classes=0, embed_dim=16, depths=[2, 2, 2, 2],
                        num_heads=[1, 2, 2, 2], window_size=2, norm_befor_mlp="ln")
        for _ in range(2)
    )  # fmt: skip
    part = types.SimpleNamespace
    settings = part(MODEL=part(SWIN=part(NORM_BEFORE_MLP="ln")), DATA=part(TRAINING_IMAGES=8, BATCH_SIZE=2),
                    TRAIN=part(START_EPOCH=0, EPOCHS=1))  # fmt: skip
    model = MoBY(cfg=settings, encoder=encoder, encoder_k=momentum, contrast_num_negative=8)
    kept(model, "relative_position_index", "attn_mask")
    encoder = model.encoder
    return {"model": model.state_dict(), "epoch": 1}, lambda x: encoder.forward_features(x)


@method("vjepa2", "vjepa2", "", refused="network of videos")
def vjepa2() -> Written:  # app/vjepa/train.py
    from src.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=(64, 64), num_frames=4, embed_dim=128, depth=2, num_heads=2, use_rope=True
    )
    state = {f"module.backbone.{name}": tensor for name, tensor in trained(model).state_dict().items()}
    return {"encoder": state, "target_encoder": dict(state), "predictor": {}, "epoch": 1}, model


@method("radio", "RADIO", "", refused="positions that depend on the input's size")
def radio() -> Written:  # radio/radio_model.py create_model_from_args
    import timm

    package("radio", Path(sys.path[0]) / "radio")
    stand_in("radio.extra_models", "radio.dual_hybrid_vit", "radio.radio1d")
    from radio.enable_cpe_support import _enable_cpe_for_timm_vit, _forward_cpe

    model = timm.create_model(
        "vit_base_patch16_224", num_classes=0, depth=2, embed_dim=128, num_heads=2, img_size=64
    )
    _enable_cpe_for_timm_vit(model, _forward_cpe, 256, num_cls_tokens=3, register_multiple=8, num_registers=0)
    state = {f"base_model.{name}": tensor for name, tensor in trained(model).state_dict().items()}
    return {"state_dict": state, "args": argparse.Namespace(model="vit_base_patch16_224")}, model


# -- what older code expects ------------------------------------------------------------------------------------


def patch() -> None:
    """What their code imports and later libraries no longer have; nothing of it touches weights or names."""
    six = types.ModuleType("torch._six")
    six.inf, six.string_classes = float("inf"), (str, bytes)  # type: ignore[attr-defined]
    vars(numpy)["float"] = float
    sys.modules["torch._six"] = six
    stand_in(
        "apex",
        "apex.parallel",
        "apex.parallel.LARC",
        "diffdist",
        "faiss",
        "tensorboardX",
        "tensorboard_logger",
        "wandb",
    )
    try:
        from timm import layers
        from timm.models import vision_transformer
    except ImportError:  # the methods that need it say so themselves
        return
    sys.modules["timm.models.layers.helpers"] = layers  # where it was

    class Block(vision_transformer.Block):
        """With the argument qk_scale, which later versions dropped."""

        def __init__(self, *positional: Any, qk_scale: None = None, **named: Any) -> None:
            super().__init__(*positional, **named)

    vision_transformer.Block = Block  # type: ignore[misc]
    vision_transformer.VisionTransformer.num_tokens = 1  # the class token


def stand_in(*names: str) -> None:
    """Make imports work that a network does not need."""
    for name in names:
        sys.modules.setdefault(name, _Anything(name))


class _Anything(types.ModuleType):
    """A module that has every name."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *positional, **named: None})


def main() -> None:
    chosen, clones, out = METHODS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    patch()
    sys.path.insert(0, str(clones / chosen.repository))
    sys.argv = sys.argv[:1]
    torch.manual_seed(0)
    state, network = chosen.writer()
    torch.save(state, out / "checkpoint.pth")
    if chosen.refused:
        return
    features = {}
    for dtype in (torch.float32, torch.float64):
        for part in _modules(network):
            part.eval().to(dtype)
        with torch.no_grad():
            features |= {(size, dtype): network(images(size, dtype)) for size in chosen.sizes}
    torch.save(features, out / "features.pt")


def _modules(network: Network) -> list[nn.Module]:
    if isinstance(network, nn.Module):
        return [network]
    cells = getattr(network, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if isinstance(cell.cell_contents, nn.Module)]


if __name__ == "__main__":
    main()
