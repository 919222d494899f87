"""Detectors learn four scenes by heart, from our own checkpoints and from files of others: nothing is cut off."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.models._hub import save_for_hf

pytest.importorskip("detectron2", reason="needs Detectron2: python -m eval.doctor.install")

from eval import checkpoints, detection, protocols, scenes, tasks
from mast.checkpoint import read_published
from mast.config import load_recipe
from mast.train import PUBLISHED, pretrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ARCH = "resnet18-c16-half"
RECIPE = ["method=mast", "views.single_fraction=0.25", f"arch={ARCH}", "batch_size=60", "epochs=4"]
TINY = {"tiny": True, "device": "cpu", "SOLVER.IMS_PER_BATCH": 4, "SOLVER.CHECKPOINT_PERIOD": 100}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write(folder, size="test")
    return folder


@pytest.fixture(scope="module")
def four(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_scenes(root, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def files(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A MAST checkpoint, and the same trained network in the file that MoCo would have written."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain(load_recipe("demo", RECIPE), data_root=root, out=folder, progress=False)
    state, _ = read_published(folder / PUBLISHED)
    moco = {f"module.encoder_q.{key}": value for key, value in state.items()}
    moco |= {f"module.encoder_k.{key}": torch.zeros_like(value) for key, value in state.items()}
    moco |= {"module.encoder_q.fc.0.weight": torch.randn(8, 8), "module.queue": torch.randn(8, 64)}
    torch.save({"epoch": 4, "arch": "resnet18", "state_dict": moco, "optimizer": {}}, folder / "moco.pth.tar")
    return {"mast": folder / PUBLISHED, "moco": folder / "moco.pth.tar"}


def four_scenes(source: Path, root: Path) -> Path:
    """A COCO and a VOC folder whose training and test split are the same four scenes, objects over 5 % each.

    A corner of the test copies is painted over, for no test image may be a training image.
    """
    chosen = []
    for split in ("train2017", "val2017"):
        content = json.loads((source / f"coco/annotations/instances_{split}.json").read_text())
        for image in content["images"]:
            objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
            share = min(0 if a["iscrowd"] else a["area"] / image["width"] / image["height"] for a in objects)
            if share > 0.05:
                chosen.append((source / "coco" / split / image["file_name"], image, objects))
    assert len(chosen) >= 4
    names = {c["id"]: c["name"] for c in content["categories"]}
    for folder in ("VOC2007/Annotations", "VOC2007/JPEGImages", "VOC2007/ImageSets/Main", "coco/annotations"):
        (root / folder).mkdir(parents=True)
    for split, voc, paint in (("train2017", "trainval", None), ("val2017", "test", (255, 0, 0))):
        (root / "coco" / split).mkdir()
        images, annotations, listed = [], [], []
        for number, (path, image, objects) in enumerate(chosen[:4], start=1):
            picture = Image.open(path).convert("RGB")
            if paint:
                picture.paste(paint, (0, 0, 4, 4))
            stem = f"{voc}_{number}"
            picture.save(root / f"coco/{split}/{number}.jpg", quality=95)
            picture.save(root / f"VOC2007/JPEGImages/{stem}.jpg", quality=95)
            listed.append(stem)
            images.append({**image, "id": number, "file_name": f"{number}.jpg"})
            text = ""
            for a in objects:
                annotations.append({**a, "id": len(annotations) + 1, "image_id": number})
                x, y, w, h = a["bbox"]
                text += (
                    f"<object><name>{names[a['category_id']]}</name><pose>x</pose><truncated>0</truncated>"
                    f"<difficult>0</difficult><bndbox><xmin>{int(x) + 1}</xmin><ymin>{int(y) + 1}</ymin>"
                    f"<xmax>{int(x + w)}</xmax><ymax>{int(y + h)}</ymax></bndbox></object>"
                )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            (root / f"VOC2007/Annotations/{stem}.xml").write_text(f"<annotation>{size}{text}</annotation>")
        (root / f"VOC2007/ImageSets/Main/{voc}.txt").write_text("\n".join(listed) + "\n")
        whole = {"categories": content["categories"], "images": images, "annotations": annotations}
        (root / f"coco/annotations/instances_{split}.json").write_text(json.dumps(whole))
    (root / "SCENES.json").write_bytes((source / "SCENES.json").read_bytes())
    return root


def load(file: Path | str) -> checkpoints.Loaded:
    """MoCo's file does not say which of three 3x3 stems it has; ours does."""
    return checkpoints.load(str(file), arch=ARCH if "moco" in str(file) else None)


def run(four: Path, work: Path, file: Path | str, task: str, protocol: str, **overrides: Any) -> Any:
    what, how = tasks.resolve(task, protocol, {**TINY, **overrides})
    return detection.run(load(file), what, how, what.open(four), seed=0, work_dir=work, store=work / "store")


def test_the_two_files_hold_one_network(files: dict[str, Path]) -> None:
    ours, theirs = (load(path).passport for path in files.values())
    assert (ours.layout, theirs.layout) == ("mast", "moco")
    assert ours.weights_sha256 == theirs.weights_sha256


@pytest.mark.parametrize("layout", ["mast", "moco"])
@pytest.mark.parametrize(
    ("task", "protocol", "metrics"),
    [
        ("scenes-coco", "coco-fpn-1x", ("box_ap50", "mask_ap50")),
        ("scenes-voc", "voc0712-c4-moco", ("box_ap50",)),
    ],
)
def test_four_scenes_can_be_learnt_by_heart(
    four: Path,
    files: dict[str, Path],
    tmp_path: Path,
    task: str,
    protocol: str,
    metrics: tuple[str],
    layout: str,
) -> None:
    """AP50 over 80 within ten minutes, so that a loss that does not reach the boxes or masks cannot hide."""
    began = time.monotonic()
    result = run(four, tmp_path, files[layout], task, protocol, iterations=500)
    assert time.monotonic() - began < 600
    for metric in metrics:
        assert result.metrics[metric] > 0.8, result.metrics
    loss = result.certificate["loss"]
    assert loss["last_tenth"] < loss["first_tenth"] / 2


def of_timm(folder: Path, name: str, **arguments: Any) -> Path:
    """A small network in the folder that timm writes for the Hugging Face hub, its layer scale as after training."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **arguments)
    for key, parameter in network.named_parameters():
        if key.rpartition(".")[2].startswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
    return folder / "model.safetensors"


NETWORKS: dict[str, dict[str, Any]] = {
    "vit_small_patch14_reg4_dinov2": {"depth": 4, "embed_dim": 64, "num_heads": 2, "img_size": 112},
    "vit_small_patch16_dinov3": {"depth": 4, "embed_dim": 64, "num_heads": 2},
    "efficientnet_lite0": {},
    "convnext_atto": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
    "swin_tiny_patch4_window7_224": {
        "depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4), "window_size": 4, "img_size": 128,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("vit_small_patch14_reg4_dinov2", "coco-vitdet"),
        ("vit_small_patch14_reg4_dinov2", "coco-vit-frozen-pyramid"),
        ("vit_small_patch16_dinov3", "coco-vitdet"),
        ("convnext_atto", "coco-convnext-fpn"),
        ("convnext_atto", "coco-frozen-fpn"),
        ("efficientnet_lite0", "coco-frozen-fpn"),
        ("swin_tiny_patch4_window7_224", "coco-swin-fpn"),
    ],
)
def test_networks_of_timm_learn_four_scenes_by_heart(
    four: Path, tmp_path: Path, name: str, protocol: str
) -> None:
    file = of_timm(tmp_path / "network", name, **NETWORKS[name])
    result = run(four, tmp_path / "run", file, "scenes-coco", protocol, iterations=400)
    for metric in ("box_ap50", "mask_ap50"):
        assert result.metrics[metric] > 0.8, result.metrics
    frozen = "frozen" in protocol
    assert result.certificate["backbone"]["frozen"] is frozen
    assert (result.certificate["frozen_unchanged"] > 0) is frozen


OTHERS = [
    name
    for name in protocols.names()
    if protocols.get(name).kind == "detection" and name not in ("coco-fpn-1x", "voc0712-c4-moco")
]


@pytest.mark.parametrize("protocol", OTHERS)
def test_every_other_protocol_learns(
    four: Path, files: dict[str, Path], tmp_path: Path, protocol: str
) -> None:
    """The loss halves, and AP50 is higher at the end than early on."""
    task = "scenes-coco" if protocol in tasks.get("scenes-coco").protocols else "scenes-voc"
    file: Path | str = files["mast"]
    if "vit" in protocol:
        file = "random:vit_w64_patch16_d4@0"
    elif "convnext" in protocol or "swin" in protocol:
        file = of_timm(tmp_path / "network", "convnext_atto", **NETWORKS["convnext_atto"])
    length = 500 if "vit" in protocol else 200  # a ViT that nobody has trained, under the widest jitter
    result = run(four, tmp_path, file, task, protocol, iterations=length, **{"TEST.EVAL_PERIOD": 20})
    loss = result.certificate["loss"]
    assert loss["last_tenth"] < loss["first_tenth"] / 2, loss
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    curve = [line["test/box_ap50"] for line in lines if "test/box_ap50" in line]
    assert result.metrics["box_ap50"] > max(curve[0], 0.01), curve
