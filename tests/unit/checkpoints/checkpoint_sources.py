"""Networks and files for the tests of layouts: each file is written the way the method's own code writes it."""

from __future__ import annotations

import argparse
import copy
import itertools
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

State = dict[str, Tensor]


class Narrow(ResNet):
    """Torchvision's ResNet, forward and blocks, with fewer channels so that a file stays small."""

    def __init__(self, depth: int = 18, channels: int = 8, stem: str = "imagenet", classes: int = 10) -> None:
        nn.Module.__init__(self)
        block, layers = {
            10: (BasicBlock, (1, 1, 1, 1)),
            18: (BasicBlock, (2, 2, 2, 2)),
            34: (BasicBlock, (3, 4, 6, 3)),
            50: (Bottleneck, (3, 4, 6, 3)),
        }[depth]
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = channels, 1, 1, 64
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, channels, layers[0])
        self.layer2 = self._make_layer(block, channels * 2, layers[1], stride=2)
        self.layer3 = self._make_layer(block, channels * 4, layers[2], stride=2)
        self.layer4 = self._make_layer(block, channels * 8, layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc: nn.Module = nn.Linear(channels * 8 * block.expansion, classes)
        if stem != "imagenet":
            padding = 2 if stem == "cifar2" else 1
            self.conv1 = nn.Conv2d(3, channels, 3, stride=1, padding=padding, bias=False)
            self.maxpool = nn.Identity()

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = {}
        for index, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = maps[f"res{index + 2}"] = layer(x)
        return maps


class PaddedNarrow(Narrow):
    """SwAV's and VICReg's form: a padding layer of 1, then a convolution with padding 2."""

    def __init__(self, depth: int = 18) -> None:
        super().__init__(depth)
        self.padding = nn.ConstantPad2d(1, 0.0)
        self.conv1.padding = (2, 2)
        self.fc = nn.Identity()

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return super().maps(self.padding(images))


class SameNarrow(Narrow):
    """TensorFlow's SAME padding for even inputs: everything that is odd goes to the right and the bottom."""

    def __init__(self, depth: int = 18) -> None:
        super().__init__(depth)
        self.conv1 = nn.Sequential(nn.ZeroPad2d((2, 3, 2, 3)), nn.Conv2d(3, 8, 7, stride=2, bias=False))
        self.maxpool = nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), -float("inf")), nn.MaxPool2d(3, stride=2))
        for layer in (self.layer2, self.layer3, self.layer4):
            for name in ("conv1", "conv2"):
                conv = getattr(layer[0], name)
                if conv.stride == (2, 2) and conv.kernel_size == (3, 3):
                    conv.padding = (0, 0)
                    setattr(layer[0], name, nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv))

    def torchvision_state(self) -> State:
        return {
            k.replace("conv1.1.weight", "conv1.weight").replace("conv2.1.weight", "conv2.weight"): v
            for k, v in self.state_dict().items()
        }


class CaffeNarrow(Narrow):
    """Stride in the first 1x1 convolution and statistics absorbed into the affine layers."""

    def __init__(self) -> None:
        super().__init__(50)
        for layer in (self.layer2, self.layer3, self.layer4):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)


class MiniViT(nn.Module):
    """A vision transformer written out, under the names that DINO, MoCo v3, MAE and timm share."""

    def __init__(
        self,
        dim: int = 128,
        depth: int = 2,
        heads: int = 2,
        patch: int = 8,
        grid: int = 4,
        *,
        scale: bool = False,
        registers: int = 0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads, self.grid, self.patch = heads, grid, patch
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.1)
        self.pos_embed = nn.Parameter(torch.randn(1, grid * grid + 1, dim) * 0.1)
        if registers:
            self.register_tokens = nn.Parameter(torch.randn(1, registers, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, stride=patch)})
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(dim, eps=eps),
                    "attn": nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)}),
                    "norm2": nn.LayerNorm(dim, eps=eps),
                    "mlp": nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)}),
                }
            )
            if scale:
                for name in ("ls1", "ls2"):
                    block[name] = nn.ParameterDict({"gamma": nn.Parameter(torch.rand(dim))})
            self.blocks.append(block)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def positions(self, height: int, width: int) -> Tensor:
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((height + 0.1) / self.grid, (width + 0.1) / self.grid)  # DINO's and DINOv2's way
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def features(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(*patches.shape[-2:])
        if hasattr(self, "register_tokens"):
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            y = self._attention(block["attn"], block["norm1"](x))
            x = x + (y * block["ls1"]["gamma"] if "ls1" in block else y)
            y = block["mlp"]["fc2"](F.gelu(block["mlp"]["fc1"](block["norm2"](x))))
            x = x + (y * block["ls2"]["gamma"] if "ls2" in block else y)
        return self.norm(x)[:, 0]

    def _attention(self, attn: Any, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = attn["qkv"](x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5).softmax(-1)
        return attn["proj"]((weights @ v).transpose(1, 2).reshape(b, t, d))


def trained(module: nn.Module, seed: int = 0) -> Any:
    """Move every vector of a network away from its initial value, as training does; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.01)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(7)
    return module.eval()


def build(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return trained(make(), seed)


def ddp(module: nn.Module) -> State:
    """State dict of a network inside DistributedDataParallel, which needs a process group of one."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        return nn.parallel.DistributedDataParallel(module).state_dict()
    finally:
        torch.distributed.destroy_process_group()


def optimizer_state(module: nn.Module) -> dict[str, Any]:
    """State of an SGD with momentum after one step."""
    parameters = [p for p in copy.deepcopy(module).parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def lightning(state: Mapping[str, Tensor], module: nn.Module, **parameters: Any) -> dict[str, Any]:
    """What Lightning's trainer dumps around a module's state dict, with its hyper-parameters."""
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "best_k_models": {}}},
        "optimizer_states": [optimizer_state(module)],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "kwargs",
        "hyper_parameters": parameters or {"batch_size_per_device": 8},
    }


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Parts(nn.Module):
    """A training module: named parts, named buffers, a forward so that DDP takes it."""

    def __init__(self, buffers: Mapping[str, Tensor] | None = None, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        for name, value in (buffers or {}).items():
            self.register_buffer(name, value)

    def forward(self) -> None:
        """Never called."""


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


@dataclass
class Case:
    """A written file and what must come out of it."""

    layout: str
    path: Path
    source: Any
    arch: str
    encoder: str = "online"
    size: int = 64
    options: dict[str, Any] | None = None

    @property
    def load_options(self) -> dict[str, Any]:
        return self.options or {}


def _save(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


TWO_HEADS = {"heads": 2}  # what the layout does not say of a network of this width
QUEUE = {"queue": torch.randn(16, 32), "queue_ptr": torch.zeros(1, dtype=torch.long)}


def moco(path: Path) -> Case:
    online, ema = build(lambda: Narrow(50, classes=16)), build(lambda: Narrow(50, classes=16), 1)
    for net in (online, ema):
        net.fc = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), net.fc)
    model = Parts(QUEUE, encoder_q=online, encoder_k=frozen(ema))
    state = {"epoch": 200, "arch": "resnet50", "state_dict": ddp(model), "optimizer": optimizer_state(model)}
    return Case("moco", _save(path, state), online, "resnet50-c8")


def moco_v3(path: Path) -> Case:
    online, ema = build(Narrow), build(Narrow, 1)
    online.fc, ema.fc = mlp(64, 32, 16), mlp(64, 32, 16)
    model = Parts(base_encoder=online, momentum_encoder=frozen(ema), predictor=mlp(16, 32, 16))
    state = {"epoch": 100, "arch": "resnet50", "state_dict": ddp(model), "optimizer": {}, "scaler": {}}
    return Case("moco-v3", _save(path, state), online, "resnet18-c8")


def moco_v3_vit(path: Path) -> Case:
    online, ema = (build(lambda: MiniViT(384, depth=1, heads=12), seed) for seed in (0, 1))
    online.head, ema.head = mlp(384, 32, 16), mlp(384, 32, 16)
    model = Parts(base_encoder=online, momentum_encoder=frozen(ema), predictor=mlp(16, 32, 16))
    state = {"epoch": 300, "arch": "vit_small", "state_dict": ddp(model), "optimizer": {}, "scaler": {}}
    return Case("moco-v3", _save(path, state), online, "vit_small_patch8_d1", size=32)


def simclr_v1(path: Path) -> Case:
    net = build(Narrow)
    return Case(
        "simclr-v1",
        _save(path, {"state_dict": net.state_dict()}),
        net,
        "resnet18-c8",
        options={"layout": "simclr-v1"},
    )


def _simclr_v2_name(key: str) -> str:
    parts = key.split(".")
    if parts[0] in ("conv1", "bn1"):
        return ".".join(["net.0.0" if parts[0] == "conv1" else "net.0.1.0", *parts[1:]])
    stage, block, name = parts[0][-1], parts[1], parts[2]
    place = {
        "conv1": "net.0", "bn1": "net.1.0", "conv2": "net.2", "bn2": "net.3.0", "conv3": "net.4", "bn3": "net.5.0",
        "downsample": "projection.shortcut" if parts[3] == "0" else "projection.bn.0",
    }[name]  # fmt: skip
    return f"net.{stage}.blocks.{block}.{place}.{parts[-1]}"


def simclr_v2(path: Path) -> Case:
    net = build(lambda: Narrow(50))
    state = {_simclr_v2_name(k): v for k, v in net.state_dict().items() if not k.startswith("fc")}
    state |= {"fc.weight": net.fc.weight, "fc.bias": net.fc.bias}
    head = nn.ModuleDict({"layers": mlp(256, 256, 16)}).state_dict()
    return Case("simclr-v2", _save(path, {"resnet": state, "head": head}), net, "resnet50-c8")


def simsiam(path: Path) -> Case:
    net = build(Narrow)
    net.fc = mlp(64, 64, 64, 16)
    model = Parts(encoder=net, predictor=mlp(16, 8, 16))
    state = {"epoch": 100, "arch": "resnet50", "state_dict": ddp(model), "optimizer": optimizer_state(model)}
    return Case("simsiam", _save(path, state), net, "resnet18-c8")


class FlatMapping:
    """Stands for haiku's class of this name in the pickle."""

    def __init__(self, mapping: dict[str, Any]) -> None:
        self._structure, self._leaves, self._mapping = None, (), mapping


class _ByolExperimentState(NamedTuple):
    online_params: Any
    target_params: Any
    online_state: Any
    target_state: Any
    opt_state: Any


def _haiku(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    params: dict[str, Any] = defaultdict(dict)
    running: dict[str, Any] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        parts = module.split(".")
        if key.startswith("fc.") or leaf == "num_batches_tracked":
            continue
        if parts[0] in ("conv1", "bn1"):
            name = "res_net50/~/initial_" + ("conv" if parts[0] == "conv1" else "batchnorm")
        else:
            where = f"res_net50/~/block_group_{int(parts[0][-1]) - 1}/~/block_{parts[1]}/~/"
            if parts[2] == "downsample":
                name = where + ("shortcut_conv" if parts[3] == "0" else "shortcut_batchnorm")
            else:
                kind = "conv" if parts[2].startswith("conv") else "batchnorm"
                name = f"{where}{kind}_{int(parts[2][-1]) - 1}"
        array = tensor.numpy()
        if array.ndim == 4:
            params[name]["w"] = np.ascontiguousarray(array.transpose(2, 3, 1, 0))
        elif leaf in ("weight", "bias"):
            params[name]["scale" if leaf == "weight" else "offset"] = array.reshape(1, 1, 1, -1)
        else:
            ema = {"hidden": array.reshape(1, 1, 1, -1) * 0.5, "average": array.reshape(1, 1, 1, -1)}
            running[f"{name}/~/{leaf.removeprefix('running_')}_ema"] = {**ema, "counter": np.int32(5)}
    params["projector/linear"] = {"w": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}
    params["predictor/batch_norm"] = {"scale": np.ones(4, np.float32)}
    params["classifier"] = {"w": np.ones((4, 2), np.float32)}
    return dict(params), running


def byol_deepmind(path: Path) -> Case:
    net, target = build(lambda: SameNarrow(50)), build(lambda: SameNarrow(50), 1)
    fakes = {"byol": types.ModuleType("byol"), "byol.byol_experiment": types.ModuleType("e")}
    fakes |= {"haiku": types.ModuleType("haiku"), "haiku._src": types.ModuleType("s")}
    fakes["haiku._src.data_structures"] = types.ModuleType("d")
    fakes["byol.byol_experiment"]._ByolExperimentState = _ByolExperimentState  # type: ignore[attr-defined]
    fakes["haiku._src.data_structures"].FlatMapping = FlatMapping  # type: ignore[attr-defined]
    modules = (_ByolExperimentState.__module__, FlatMapping.__module__)
    _ByolExperimentState.__module__, FlatMapping.__module__ = (
        "byol.byol_experiment",
        "haiku._src.data_structures",
    )
    sys.modules.update(fakes)
    try:
        params, state = _haiku(net.torchvision_state())
        target_params, target_state = _haiku(target.torchvision_state())
        experiment = _ByolExperimentState(
            FlatMapping(params), FlatMapping(target_params), FlatMapping(state), FlatMapping(target_state), {}
        )
        content = {"experiment_state": experiment, "step": 10, "rng": np.zeros(2, np.uint32)}
        path.write_bytes(pickle.dumps(content, protocol=2))
    finally:
        _ByolExperimentState.__module__, FlatMapping.__module__ = modules
        for name in fakes:
            del sys.modules[name]
    return Case("byol-deepmind", path, net, "resnet50-c8")


def byol_lucidrains(path: Path) -> Case:
    net, target = build(Narrow), build(Narrow, 1)
    online = Parts(net=net, projector=mlp(10, 32, 16))
    model = Parts(
        net=net,
        online_encoder=online,
        target_encoder=frozen(Parts(net=target, projector=mlp(10, 32, 16))),
        online_predictor=mlp(16, 32, 16),
    )
    return Case("byol-lucidrains", _save(path, model.state_dict()), net, "resnet18-c8")


def swav(path: Path) -> Case:
    net = build(lambda: PaddedNarrow(50))
    net.projection_head, net.prototypes = mlp(256, 64, 16), nn.Linear(16, 30, bias=False)
    state = {k: v for k, v in ddp(net).items() if "fc" not in k}
    return Case("swav", _save(path, state), net, "resnet50-c8")


def swav_training(path: Path) -> Case:
    net = build(PaddedNarrow)
    net.projection_head, net.prototypes = mlp(64, 64, 16), nn.Linear(16, 30, bias=False)
    state = {
        "epoch": 5,
        "state_dict": ddp(net),
        "optimizer": optimizer_state(net),
        "amp": {"loss_scaler0": {}},
    }
    return Case("swav", _save(path, state), net, "resnet18-c8")


class DinoHead(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, 16))
        self.last_layer = nn.utils.weight_norm(nn.Linear(16, 64, bias=False))


def _dino(path: Path, make: Callable[[], Any], dim: int, arch: str, size: int) -> Case:
    student, teacher = build(make, 1), build(make)
    if hasattr(teacher, "fc"):
        student.fc, teacher.fc = nn.Identity(), nn.Identity()
    wrapped = [Parts(backbone=net, head=DinoHead(dim)) for net in (student, teacher)]
    args = argparse.Namespace(arch="vit_small", lr=5e-4, output_dir=PosixPath("out"), seed=np.int64(0))
    state = {
        "student": ddp(wrapped[0]),
        "teacher": wrapped[1].state_dict(),
        "optimizer": {},
        "epoch": 10,
        "args": args,
        "dino_loss": {"center": torch.zeros(1, 64)},
        "fp16_scaler": {"scale": 65536.0},
    }
    return Case("dino", _save(path, state), teacher, arch, encoder="ema", size=size)


def dino(path: Path) -> Case:
    return _dino(path, Narrow, 64, "resnet18-c8", 64)


def dino_vit(path: Path) -> Case:
    return _dino(path, lambda: MiniViT(128), 128, "vit_w128_patch8_d2", 48)


def dino_hub(path: Path) -> Case:
    net = build(lambda: MiniViT(384, depth=1, heads=6, patch=16, grid=2))
    options = {"layout": "dino-hub"}
    return Case(
        "dino-hub",
        _save(path, net.state_dict()),
        net,
        "vit_small_patch16_d1",
        "ema",
        size=48,
        options=options,
    )


def esvit(path: Path) -> Case:
    teacher = build(Narrow)
    teacher.fc, teacher.head, teacher.head_dense = nn.Identity(), DinoHead(64), DinoHead(64)
    args = argparse.Namespace(cfg="resnet50.yaml", opts=[])
    state = {
        "student": ddp(teacher),
        "teacher": teacher.state_dict(),
        "optimizer": {},
        "epoch": 3,
        "args": args,
    }
    state["dino_loss"] = {"center": torch.zeros(1, 64), "center_grid": torch.zeros(1, 64)}
    return Case("esvit", _save(path, state), teacher, "resnet18-c8", encoder="ema")


def ibot(path: Path) -> Case:
    net = build(MiniViT)
    net.masked_embed = nn.Parameter(torch.zeros(1, 128))
    model = Parts(backbone=net, head=DinoHead(128))
    return Case(
        "ibot", _save(path, {"state_dict": model.state_dict()}), net, "vit_w128_patch8_d2", "ema", size=32
    )


def dinov2(path: Path) -> Case:
    net = build(lambda: MiniViT(scale=True, patch=14))
    net.mask_token = nn.Parameter(torch.zeros(1, 128))
    return Case("dinov2", _save(path, net.state_dict()), net, "vit_w128_patch14_d2", "ema", size=84)


def dinov2_registers(path: Path) -> Case:
    net = build(lambda: MiniViT(scale=True, patch=14, registers=4))
    net.mask_token = nn.Parameter(torch.zeros(1, 128))
    return Case("dinov2", _save(path, net.state_dict()), net, "vit_w128_patch14_reg4_d2", "ema", size=56)


def dinov2_training(path: Path) -> Case:
    net = build(lambda: MiniViT(scale=True, patch=14))
    net.mask_token = nn.Parameter(torch.zeros(1, 128))
    state = {k.replace("blocks.", "blocks.0."): v for k, v in net.state_dict().items()}  # one block chunk
    state = {f"backbone.{k}": v for k, v in state.items()}
    for head in ("dino_head", "ibot_head"):
        state |= {f"{head}.{k}": v for k, v in DinoHead(128).state_dict().items()}
    return Case(
        "dinov2-training", _save(path, {"teacher": state}), net, "vit_w128_patch14_d2", "ema", size=56
    )


def mae(path: Path) -> Case:
    net = build(MiniViT)
    extra = {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 17, 64)}
    extra |= {f"decoder_embed.{k}": v for k, v in nn.Linear(128, 64).state_dict().items()}
    extra |= {f"decoder_norm.{k}": v for k, v in nn.LayerNorm(64).state_dict().items()}
    extra |= {f"decoder_blocks.0.norm1.{k}": v for k, v in nn.LayerNorm(64).state_dict().items()}
    state = {
        "model": OrderedDict(net.state_dict() | extra),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": []},
        "epoch": 799,
        "scaler": {"scale": 1.0},
        "args": argparse.Namespace(model="mae_vit_base_patch16"),
    }
    return Case("mae", _save(path, state), net, "vit_w128_patch8_d2", size=32, options=TWO_HEADS)


def mae_backbone(path: Path) -> Case:
    net = build(MiniViT)
    file = _save(path, {"model": net.state_dict()})
    return Case("mae-backbone", file, net, "vit_w128_patch8_d2", size=32, options=TWO_HEADS)


def barlow_twins(path: Path) -> Case:
    net = build(Narrow)
    net.fc = nn.Identity()
    model = Parts(backbone=net, projector=mlp(64, 32, 32), bn=nn.BatchNorm1d(32, affine=False))
    state = {"epoch": 1000, "model": ddp(model), "optimizer": optimizer_state(model)}
    return Case("barlow-twins", _save(path, state), net, "resnet18-c8")


def vicreg(path: Path) -> Case:
    net = build(PaddedNarrow)
    model = Parts(backbone=net, projector=mlp(64, 32, 32))
    state = {"epoch": 1000, "model": ddp(model), "optimizer": optimizer_state(model)}
    return Case("barlow-twins", _save(path, state), net, "resnet18-c8")


def vicregl(path: Path) -> Case:
    net = build(PaddedNarrow)
    heads = {"maps_projector": mlp(64, 32), "projector": mlp(64, 32, 32), "classifier": nn.Linear(64, 10)}
    state = {"epoch": 300, "model": ddp(Parts(backbone=net, **heads)), "optimizer": {}}
    return Case("barlow-twins", _save(path, state), net, "resnet18-c8")


def vicreg_hub(path: Path) -> Case:
    net = build(PaddedNarrow)
    return Case("torchvision", _save(path, net.state_dict()), net, "resnet18-c8")


def vissl(path: Path) -> Case:
    net = build(lambda: Narrow(50))
    trunk = {f"_feature_blocks.{k}": v for k, v in net.state_dict().items() if not k.startswith("fc")}
    state = {
        "phase_idx": 99,
        "iteration": 1000,
        "loss": {"memory.embeddings": torch.zeros(3, 3)},
        "iteration_num": 1000,
        "train_phase_idx": 99,
        "classy_state_dict": {
            "train_phase_idx": 99,
            "base_model": {
                "model": {"trunk": trunk, "heads": {"0.clf.weight": torch.ones(3, 3)}},
                "meta": {},
            },
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
            "hooks": {},
            "loss": {"info_average.center": torch.zeros(3)},
        },
        "type": "consolidated",
    }
    return Case("vissl", _save(path, state), net, "resnet50-c8")


def vissl_converted(path: Path) -> Case:
    net = build(Narrow)
    trunk = {f"_feature_blocks.{k}": v for k, v in net.state_dict().items()}
    return Case("vissl", _save(path, {"model_state_dict": trunk}), net, "resnet18-c8")


def vissl_fsdp(path: Path) -> Case:
    net = build(Narrow)
    trunk = {
        f"_fsdp_wrapped_module._fpw_module._feature_blocks.{k}": v
        for k, v in net.state_dict().items()
        if not k.startswith("fc")
    }
    state = {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}}
    return Case("vissl", _save(path, state), net, "resnet18-c8")


def classy_vision(path: Path) -> Case:
    net = build(lambda: Narrow(50))
    trunk = {}
    for key, value in net.state_dict().items():
        parts = key.split(".")
        if parts[0] == "fc":
            continue
        if parts[0] in ("conv1", "bn1"):
            name = f"initial_block._module.{0 if parts[0] == 'conv1' else 1}.{parts[-1]}"
        else:
            stage = int(parts[0][-1]) - 1
            place = {
                "conv1": "convolutional_block.0", "bn1": "convolutional_block.1",
                "conv2": "convolutional_block.3", "bn2": "convolutional_block.4",
                "conv3": "convolutional_block.6", "bn3": "bn",
                "downsample": f"downsample.{parts[3]}",
            }[parts[2]]  # fmt: skip
            name = f"blocks.{stage}.block{stage}-{parts[1]}.{place}.{parts[-1]}"
        trunk[name] = value
    state = {
        "classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}, "train_phase_idx": 1}
    }
    return Case("classy-vision", _save(path, state), net, "resnet50-c8")


def pycontrast(path: Path) -> Case:
    net, ema = build(lambda: Narrow(50)), build(lambda: Narrow(50), 1)
    net.fc, ema.fc = nn.Identity(), nn.Identity()
    model = Parts(encoder=net, head=mlp(256, 16), head_jig=Parts(fc1=nn.Linear(256, 16)))
    state = {
        "model": ddp(model),
        "contrast": {"memory": torch.randn(8, 16)},
        "optimizer": optimizer_state(model),
        "epoch": 200,
        "model_ema": Parts(encoder=ema, head=mlp(256, 16)).state_dict(),
        "amp": {"loss_scaler0": {"loss_scale": 1.0}},
    }
    return Case("pycontrast", _save(path, state), net, "resnet50-c8")


def pixpro(path: Path) -> Case:
    net, ema = build(Narrow), build(Narrow, 1)
    net.fc, ema.fc = nn.Identity(), nn.Identity()
    heads = {
        "projector": mlp(64, 32, 16),
        "projector_k": frozen(mlp(64, 32, 16)),
        "value_transform": mlp(16, 16),
    }
    model = Parts(encoder=net, encoder_k=frozen(ema), **heads)
    state = {
        "opt": argparse.Namespace(data_dir="data", lr=1.0),
        "model": ddp(model),
        "optimizer": {},
        "scheduler": {"last_epoch": 3},
        "epoch": 100,
        "amp": {},
    }
    return Case("pycontrast", _save(path, state), net, "resnet18-c8")


def soco(path: Path) -> Case:
    net, ema = build(Narrow), build(Narrow, 1)
    net.fc, ema.fc = nn.Identity(), nn.Identity()
    heads = {
        "neck": nn.Conv2d(64, 16, 1),
        "head": mlp(16, 16),
        "projector": mlp(16, 16),
        "predictor": mlp(16, 16),
    }
    state = {
        "opt": argparse.Namespace(dataset="ImageNet"),
        "model": ddp(Parts(encoder=net, encoder_k=frozen(ema), **heads)),
        "model_ema": Parts(encoder=ema, neck=nn.Conv2d(64, 16, 1)).state_dict(),
        "optimizer": {},
        "scheduler": {},
        "epoch": 100,
        "sampler": {"epoch": 1},
    }
    return Case("pycontrast", _save(path, state), net, "resnet18-c8")


def resim(path: Path) -> Case:
    net, ema = build(Narrow), build(Narrow, 1)
    for one in (net, ema):
        one.fpn_lateral2 = nn.Conv2d(8, 4, 1)
    model = Parts(QUEUE, encoder_q=net, encoder_k=frozen(ema))
    state = {"epoch": 400, "arch": "resnet50", "state_dict": ddp(model), "optimizer": {}}
    return Case("moco", _save(path, state), net, "resnet18-c8")


def obow(path: Path) -> Case:
    net = build(Narrow)
    state = {f"_feature_blocks.{k}": v for k, v in _obow_blocks(net).state_dict().items()}
    return Case("obow", _save(path, {"network": state}), net, "resnet18-c8")


def obow_full(path: Path) -> Case:
    net, teacher = build(Narrow), build(Narrow, 1)
    parts = {
        "feature_extractor": Parts(_feature_blocks=_obow_blocks(net)),
        "feature_extractor_teacher": Parts(_feature_blocks=_obow_blocks(teacher)),
        "bow_predictor": mlp(64, 16),
        "bow_extractor": mlp(64, 16),
    }
    return Case("obow-full", _save(path, {"network": ddp(Parts(**parts))}), net, "resnet18-c8")


def obow_converted(path: Path) -> Case:
    net = build(Narrow)
    return Case("torchvision-nested", _save(path, {"network": net.state_dict()}), net, "resnet18-c8")


def _obow_blocks(net: Narrow) -> nn.ModuleList:
    stem = nn.Sequential(
        OrderedDict({"Conv": net.conv1, "bn": net.bn1, "relu": net.relu, "maxpool": net.maxpool})
    )
    return nn.ModuleList([stem, net.layer1, net.layer2, net.layer3, net.layer4, nn.Flatten()])


def densecl(path: Path) -> Case:
    net, ema = build(Narrow), build(Narrow, 1)
    net.fc, ema.fc = nn.Identity(), nn.Identity()
    model = Parts(
        {**QUEUE, "queue2": torch.randn(16, 32), "queue2_ptr": torch.zeros(1)},
        encoder_q=nn.Sequential(net, mlp(64, 16)),
        encoder_k=nn.Sequential(ema, mlp(64, 16)),
        backbone=net,
        head=mlp(4, 4),
    )
    meta = {"mmcv_version": "1.0", "time": "now", "epoch": 200, "iter": 5}
    state = {"meta": meta, "state_dict": model.state_dict(), "optimizer": {}}
    return Case("densecl", _save(path, state), net, "resnet18-c8")


def densecl_extracted(path: Path) -> Case:
    net = build(Narrow)
    net.fc = nn.Identity()
    state = {"state_dict": dict(net.state_dict()), "author": "DenseCL"}
    return Case("torchvision-nested", _save(path, state), net, "resnet18-c8")


def lightly(path: Path) -> Case:
    net, teacher = build(Narrow), build(Narrow, 1)
    net.fc, teacher.fc = nn.Identity(), nn.Identity()
    heads = {
        "projection_head": mlp(64, 16),
        "prediction_head": mlp(16, 16),
        "online_classifier": nn.Linear(64, 10),
    }
    model = Parts(backbone=net, teacher_backbone=teacher, teacher_projection_head=mlp(64, 16), **heads)
    return Case("lightly", _save(path, lightning(model.state_dict(), model)), net, "resnet18-c8")


def lightly_dino(path: Path) -> Case:
    student, teacher = build(Narrow, 1), build(Narrow)
    student.fc, teacher.fc = nn.Identity(), nn.Identity()
    model = Parts(
        backbone=teacher,
        projection_head=mlp(64, 16),
        student_backbone=student,
        student_projection_head=mlp(64, 16),
        criterion=Parts({"center": torch.zeros(1, 16)}),
        online_classifier=nn.Linear(64, 10),
    )
    case = _save(path, lightning(model.state_dict(), model))
    return Case("lightly-dino", case, teacher, "resnet18-c8", encoder="ema")


def lightly_mae(path: Path) -> Case:
    net = build(MiniViT)
    wrapped = Parts(vit=net)
    wrapped.mask_token = nn.Parameter(torch.zeros(1, 1, 128))
    model = Parts(
        backbone=wrapped, decoder_embed=nn.Linear(128, 64), decoder=mlp(64, 64), online_classifier=mlp(4, 4)
    )
    file = _save(path, lightning(model.state_dict(), model))
    return Case("lightly-mae", file, net, "vit_w128_patch8_d2", size=32, options=TWO_HEADS)


def solo_learn(path: Path) -> Case:
    net, momentum = build(lambda: Narrow(stem="cifar2")), build(lambda: Narrow(stem="cifar2"), 1)
    net.fc, momentum.fc = nn.Identity(), nn.Identity()
    heads = {"projector": mlp(64, 16), "momentum_projector": mlp(64, 16), "predictor": mlp(16, 16)}
    model = Parts({"queue": torch.zeros(2, 4)}, backbone=net, momentum_backbone=momentum,
                  classifier=nn.Linear(64, 10), **heads)  # fmt: skip
    settings = {
        "method": "byol",
        "backbone": {"name": "resnet18", "kwargs": {}},
        "data": {"dataset": "cifar10", "num_classes": 10},
        "augmentations": [{"crop_size": 32, "num_crops": 2}],
    }
    file = _save(path, lightning(model.state_dict(), model, **settings))
    return Case("solo-learn", file, net, "resnet18-c8-cifar2", size=32)


def solo_learn_old(path: Path) -> Case:
    net = build(lambda: Narrow(stem="cifar2"))
    net.fc = nn.Identity()
    model = Parts(encoder=net, classifier=nn.Linear(64, 10), projector=mlp(64, 16))
    settings = {"method": "simclr", "encoder": "resnet18", "dataset": "cifar100", "crop_size": [32]}
    case = _save(path, lightning(model.state_dict(), model, **settings))
    return Case("solo-learn-old", case, net, "resnet18-c8-cifar2", size=32)


def stable_pretraining(path: Path) -> Case:
    student, teacher = build(Narrow, 1), build(Narrow)
    student.fc, teacher.fc = nn.Identity(), nn.Identity()
    rates = {f"{name}ema_coefficient": torch.tensor(0.99) for name in ("base_", "final_", "")}
    model = Parts(
        backbone=Parts(rates, student=student, teacher=teacher),
        projector=Parts(rates, student=mlp(64, 16), teacher=mlp(64, 16)),
        predictor=mlp(16, 16),
    )
    file = _save(path, lightning(model.state_dict(), model, **{"system.working_dir": "/"}))
    return Case("stable-pretraining", file, teacher, "resnet18-c8", encoder="ema")


def pl_bolts(path: Path) -> Case:
    net = build(lambda: Narrow(stem="cifar"))
    model = Parts(encoder=net, projection=Parts(model=mlp(64, 16)))
    return Case(
        "pl-bolts", _save(path, lightning(model.state_dict(), model)), net, "resnet18-c8-cifar", size=32
    )


def pl_bolts_swav(path: Path) -> Case:
    net = build(PaddedNarrow)
    net.projection_head, net.prototypes = mlp(64, 16), nn.Linear(16, 30, bias=False)
    model = Parts(model=net)
    return Case("pl-bolts-swav", _save(path, lightning(model.state_dict(), model)), net, "resnet18-c8")


def mmselfsup(path: Path) -> Case:
    net, target = build(lambda: Narrow(50)), build(lambda: Narrow(50), 1)
    net.fc, target.fc = nn.Identity(), nn.Identity()
    model = Parts(
        backbone=net, neck=mlp(256, 16), head=mlp(16, 16), target_net=nn.Sequential(target, mlp(256, 16))
    )
    meta = {"epoch": 200, "cfg": "model = dict()", "seed": 0}
    state = {
        "meta": meta,
        "state_dict": model.state_dict(),
        "message_hub": {},
        "optimizer": {},
        "param_schedulers": [],
    }
    return Case("mmselfsup", _save(path, state), net, "resnet50-c8")


def mmpretrain_vit(path: Path) -> Case:
    net = build(MiniViT)
    state = {}
    for key, value in net.state_dict().items():
        key = key.replace("patch_embed.proj", "patch_embed.projection").replace("blocks.", "layers.")
        key = (
            key.replace(".norm", ".ln")
            .replace("mlp.fc1", "ffn.layers.0.0")
            .replace("mlp.fc2", "ffn.layers.1")
        )
        state["backbone." + (key.replace("norm.", "ln1.") if key.startswith("norm.") else key)] = value
    state["neck.mask_token"] = torch.zeros(1, 1, 64)
    case = _save(path, {"meta": {}, "state_dict": state})
    return Case("mmpretrain-vit", case, net, "vit_w128_patch8_d2", size=32, options=TWO_HEADS)


def mast_training(path: Path) -> Case:
    net = build(Narrow)
    net.fc = nn.Identity()
    learner = Parts(
        backbone=net, expander=mlp(64, 16), masks=Parts({"logits": torch.zeros(5, 16)}), variance=mlp(64, 16)
    )
    state = {
        "learner": learner.state_dict(),
        "optimizer": optimizer_state(learner),
        "mask_optimizer": {},
        "step": 3,
    }
    return Case("mast-training", _save(path, {**state, "history": [], "sums": {}}), net, "resnet18-c8")


def augself(path: Path) -> Case:
    net = build(lambda: Narrow(stem="cifar"))
    net.fc = nn.Identity()
    state = {
        "backbone": net.state_dict(),
        "projector": mlp(64, 16).state_dict(),
        "ss_crop": mlp(64, 4).state_dict(),
    }
    state |= {"optimizer": {}, "epoch": 3}
    return Case("augself", _save(path, state), net, "resnet18-c8-cifar", size=32)


def augself_imagenet100(path: Path) -> Case:
    net = build(lambda: Narrow(50))
    net.fc = nn.Identity()
    state = {"backbone": net.state_dict(), "projector": mlp(64, 16).state_dict(), "epoch": 3}
    return Case("augself-imagenet100", _save(path, state), net, "resnet50-c8")


def _children(net: Narrow) -> nn.Sequential:
    """As lightly's examples and many scripts take the classifier off."""
    return nn.Sequential(*list(net.children())[:-1])


def lightly_sequential(path: Path) -> Case:
    net, ema = build(Narrow), build(Narrow, 1)
    model = Parts(
        backbone=_children(net),
        projection_head=mlp(64, 16),
        backbone_momentum=frozen(_children(ema)),
        projection_head_momentum=frozen(mlp(64, 16)),
    )
    return Case("lightly-sequential", _save(path, model.state_dict()), net, "resnet18-c8")


def sequential(path: Path) -> Case:
    net = build(Narrow)
    return Case("sequential", _save(path, _children(net).state_dict()), net, "resnet18-c8")


def averaged(path: Path) -> Case:
    net = build(Narrow)
    model = torch.optim.swa_utils.AveragedModel(net)
    return Case("torchvision", _save(path, model.state_dict()), net, "resnet18-c8")


def simclr_sthalles(path: Path) -> Case:
    net = build(Narrow)
    net.fc = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    state = {
        "epoch": 100,
        "arch": "resnet18",
        "state_dict": Parts(backbone=net).state_dict(),
        "optimizer": {},
    }
    return Case("simclr-sthalles", _save(path, state), net, "resnet18-c8")


def simclr_spijkervet(path: Path) -> Case:
    net = build(Narrow)
    net.fc = nn.Identity()
    projector = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 16, bias=False))
    return Case("simclr-spijkervet", _save(path, Parts(encoder=net, projector=projector).state_dict()), net,
                "resnet18-c8")  # fmt: skip


def torchvision_old(path: Path) -> Case:
    net = build(Narrow)
    state = OrderedDict((k, v) for k, v in net.state_dict().items() if "num_batches" not in k)
    return Case("torchvision", _save(path, state, _use_new_zipfile_serialization=False), net, "resnet18-c8")


def torchscript(path: Path) -> Case:
    net = build(Narrow)
    torch.jit.trace(net, torch.zeros(1, 3, 64, 64)).save(path)
    return Case("torchvision", path, net, "resnet18-c8")


def compiled(path: Path) -> Case:
    net = build(Narrow)
    state = {f"_orig_mod.module.{k}": v for k, v in net.state_dict().items()}
    return Case(
        "torchvision-nested", _save(path, {"state_dict": state, "best_acc1": 1.0}), net, "resnet18-c8"
    )


def timm_training(path: Path) -> Case:
    net, ema = build(Narrow, 1), build(Narrow)
    state = {
        "epoch": 1,
        "arch": "resnet18",
        "state_dict": net.state_dict(),
        "optimizer": {},
        "version": 2,
        "args": argparse.Namespace(model="resnet18"),
        "amp_scaler": {},
        "state_dict_ema": ema.state_dict(),
        "metric": 70.1,
    }
    return Case("timm-ema", _save(path, state), ema, "resnet18-c8", encoder="ema")


def timm_safetensors(path: Path) -> Case:
    from safetensors.torch import save_file

    net = build(lambda: MiniViT(patch=16, grid=2))
    state = net.state_dict() | {"head.weight": torch.zeros(4, 128), "head.bias": torch.zeros(4)}
    save_file(state, path, metadata={"format": "pt"})
    return Case("vit", path, net, "vit_w128_patch16_d2", size=32, options=TWO_HEADS)


def huggingface_name(key: str) -> str:
    """transformers' name of a torchvision key, spelled out once more."""
    parts = key.split(".")
    kinds = {"conv": "convolution", "bn": "normalization"}
    if parts[0] in ("conv1", "bn1"):
        return f"embedder.embedder.{kinds[parts[0][:-1]]}.{parts[-1]}"
    where = f"encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{where}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[-1]}"
    return f"{where}.layer.{int(parts[2][-1]) - 1}.{kinds[parts[2][:-1]]}.{parts[-1]}"


def huggingface_resnet(path: Path) -> Case:
    from safetensors.torch import save_file

    net = build(lambda: Narrow(50))
    state = {
        "resnet." + huggingface_name(k): v for k, v in net.state_dict().items() if not k.startswith("fc")
    }
    state |= {"classifier.1.weight": net.fc.weight.detach(), "classifier.1.bias": net.fc.bias.detach()}
    save_file(state, path, metadata={"format": "pt"})
    return Case("huggingface-resnet", path, net, "resnet50-c8")


def huggingface_resnet_caffe(path: Path) -> Case:
    net = build(CaffeNarrow)
    state = {huggingface_name(k): v for k, v in net.state_dict().items() if not k.startswith("fc")}
    name = "huggingface-resnet-caffe"
    return Case(name, _save(path, state), net, "resnet50-c8", options={"layout": name})


def _huggingface_vit(net: MiniViT, *, scaled: bool, new: bool = False) -> State:
    state = {}
    for key, value in net.state_dict().items():
        if ".qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                inner = f"attention.{name[0]}_proj" if new else f"attention.attention.{name}"
                renamed = key.replace("attn.qkv", inner).replace(
                    "blocks.", "layer." if new else "encoder.layer."
                )
                state[renamed] = part.clone()
            continue
        key = key.replace("blocks.", "layer." if new else "encoder.layer.")
        key = key.replace("attn.proj", "attention.o_proj" if new else "attention.output.dense")
        key = key.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        for old, name in (("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")):
            key = key.replace(old, name)
        if not scaled:
            key = key.replace("norm1", "layernorm_before").replace("norm2", "layernorm_after")
            key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        names = {
            "cls_token": "cls_token",
            "pos_embed": "position_embeddings",
            "register_tokens": "register_tokens",
        }
        if key in names:
            key = f"embeddings.{names[key]}"
        state[key.replace("norm.", "layernorm.") if key.startswith("norm.") else key] = value
    return state


def huggingface_dinov2(path: Path) -> Case:
    from safetensors.torch import save_file

    net = build(lambda: MiniViT(scale=True, patch=14))
    state = _huggingface_vit(net, scaled=True) | {"embeddings.mask_token": torch.zeros(1, 128)}
    save_file(state, path, metadata={"format": "pt"})
    return Case("huggingface-dinov2", path, net, "vit_w128_patch14_d2", "ema", size=56)


def huggingface_dinov2_new(path: Path) -> Case:
    net = build(lambda: MiniViT(scale=True, patch=14, registers=4))
    state = {f"dinov2_with_registers.{k}": v for k, v in _huggingface_vit(net, scaled=True, new=True).items()}
    return Case(
        "huggingface-dinov2-registers", _save(path, state), net, "vit_w128_patch14_reg4_d2", "ema", size=56
    )


def huggingface_vit(path: Path) -> Case:
    net = build(lambda: MiniViT(eps=1e-12))
    state = _huggingface_vit(net, scaled=False)
    state |= {"pooler.dense.weight": torch.zeros(4, 4), "pooler.dense.bias": torch.zeros(4)}
    return Case("huggingface-vit", _save(path, state), net, "vit_w128_patch8_d2", size=32, options=TWO_HEADS)


def detectron2_name(key: str) -> str:
    """Detectron2's name of a torchvision key as its conversion tool writes it, one replacement after another."""
    if "layer" not in key:
        key = "stem." + key
    for stage in (1, 2, 3, 4):
        key = key.replace(f"layer{stage}", f"res{stage + 1}")
    for index in (1, 2, 3):
        key = key.replace(f"bn{index}", f"conv{index}.norm")
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def detectron2(path: Path) -> Case:
    net = build(lambda: Narrow(50))
    model = {detectron2_name(k): v.numpy() for k, v in net.state_dict().items()}
    content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    return Case("detectron2", path, net, "resnet50-c8")


def detectron2_msra(path: Path) -> Case:
    net = build(CaffeNarrow)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_mean"):
                tensor.zero_()
            elif name.endswith("running_var"):
                tensor.fill_(1 - 1e-5)
    blobs = {"fc1000_w": np.zeros((4, 4), np.float32), "fc1000_b": np.zeros(4, np.float32)}
    for key, tensor in net.state_dict().items():
        parts = key.split(".")
        leaf = {"weight": "s", "bias": "b"}.get(parts[-1])
        if leaf is None or parts[0] == "fc":
            continue
        if parts[0] in ("conv1", "bn1"):
            name = "conv1_w" if parts[0] == "conv1" else f"res_conv1_bn_{leaf}"
        else:
            branch = "1" if parts[2] == "downsample" else "2" + "abc"[int(parts[2][-1]) - 1]
            where = f"res{int(parts[0][-1]) + 1}_{parts[1]}_branch{branch}"
            conv = parts[2].startswith("conv") or parts[2:4] == ["downsample", "0"]
            name = f"{where}_w" if conv else f"{where}_bn_{leaf}"
        blobs[name] = tensor.numpy()
    path.write_bytes(pickle.dumps(blobs, protocol=2))
    return Case("detectron2-msra", path, net, "resnet50-c8")


CASES: dict[str, Callable[[Path], Case]] = {
    make.__name__: make
    for make in (
        moco, moco_v3, moco_v3_vit, simclr_v1, simclr_v2, simsiam, byol_deepmind, byol_lucidrains, swav,
        swav_training, dino, dino_vit, dino_hub, esvit, ibot, dinov2, dinov2_registers, dinov2_training, mae,
        mae_backbone, barlow_twins, vicreg, vicregl, vicreg_hub, vissl, vissl_converted, vissl_fsdp, classy_vision,
        pycontrast, pixpro, soco, resim, obow, obow_full, obow_converted, densecl, densecl_extracted, lightly,
        lightly_dino, lightly_mae, solo_learn, solo_learn_old, stable_pretraining, pl_bolts,
        pl_bolts_swav, mmselfsup, mmpretrain_vit, augself,
        augself_imagenet100, lightly_sequential, sequential, averaged, simclr_sthalles,
        simclr_spijkervet, mast_training, torchvision_old, torchscript, compiled, timm_training, timm_safetensors,
        huggingface_resnet,
        huggingface_resnet_caffe, huggingface_dinov2, huggingface_dinov2_new, huggingface_vit, detectron2,
        detectron2_msra,
    )
}  # fmt: skip
