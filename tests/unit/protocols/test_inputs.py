"""From an image to the network's input as each named protocol's authors have it: their torchvision transforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as t
from torchvision.transforms import InterpolationMode

from eval import protocols
from eval.checkpoints import Normalization
from eval.datasets import Split
from eval.errors import UserError
from eval.features import Preprocess, extract, pooled

BICUBIC, BILINEAR = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR


def resized(size: int, mode: InterpolationMode) -> t.Compose:
    return t.Compose([t.Resize(size, interpolation=mode), t.CenterCrop(224)])


THEIRS: dict[str, Callable[[Image.Image], Image.Image]] = {
    # Resize(224, BICUBIC), CenterCrop(224): ssl-transfer linear.py, AugSelf datasets.py, DINOv2 log_regression.py
    "linear-ericsson2021": resized(224, BICUBIC),
    "linear-ericsson2021-own": resized(224, BICUBIC),
    "linear-augself2021": resized(224, BICUBIC),
    "fewshot-augself2021-5shot": resized(224, BICUBIC),
    "linear-dinov2": resized(224, BICUBIC),
    # eval_knn.py: Resize(256, interpolation=3), CenterCrop(224)
    "knn-dino-k20": resized(256, BICUBIC),
    # lightly's benchmarks and the probes of VICReg, Barlow Twins, MoCo and VISSL: Resize(256), CenterCrop(224)
    "knn-lightly": resized(256, BILINEAR),
    # data/transforms.py, make_classification_eval_transform
    "linear-dinov2-grid": resized(256, BICUBIC),
    "linear-sgd-dinov2": resized(256, BICUBIC),
    "linear-vicreg": resized(256, BILINEAR),
    "linear-moco": resized(256, BILINEAR),
    "linear-barlowtwins": resized(256, BILINEAR),
    "linear-places205-vissl": resized(256, BILINEAR),
    "linear-inat18-vissl": resized(256, BILINEAR),
    "linear-lightly": resized(256, BILINEAR),
    "linear-vissl": resized(256, BILINEAR),
    "semi-vicreg-1pct": resized(256, BILINEAR),
    # few_shot_dataset.py: Scale([int(224 * 1.15)] * 2), CenterCrop(224)
    "fewshot-ericsson2021-5shot": t.Compose([t.Resize([257, 257]), t.CenterCrop(224)]),
    # eval_resnet_8gpu_transfer_voc07_svm.yaml: Resize 256, Resize [224, 224]
    "svm-vissl": t.Compose([t.Resize(256), t.Resize([224, 224])]),
    "svm-low-shot-4": t.Compose([t.Resize(256), t.Resize([224, 224])]),
}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", THEIRS)
def test_images_become_input_as_the_authors_have_it(name: str, interpolation: str) -> None:
    """To the last bit, whatever the checkpoint was pretrained with."""
    passport: Any = SimpleNamespace(
        normalization=Normalization(), input_size=224, interpolation=interpolation
    )
    prepare = Preprocess.of(passport, **protocols.get(name).settings.extraction.pixels())
    generator = np.random.default_rng(0)
    for size in ((500, 375), (40, 61), (257, 256)):
        image = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        np.testing.assert_array_equal(prepare.image(image), np.asarray(THEIRS[name](image)))


def test_other_protocols_take_the_checkpoints_interpolation() -> None:
    for name in ("linear", "knn", "ridge", "fewshot", "finetune", "linear-sgd"):
        assert protocols.get(name).settings.extraction.interpolation is None


def test_ssl_transfers_constants_are_imagenets_but_for_simclr() -> None:
    """`--no-norm` is SimCLR's; every other model gets ImageNet's mean and standard deviation."""
    own = Normalization((0.4, 0.4, 0.4), (0.3, 0.3, 0.3))
    simclr = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for given, name, expected in (
        (own, "linear-ericsson2021", Normalization()),
        (own, "linear-ericsson2021-own", own),
        (simclr, "linear-ericsson2021", simclr),
        (simclr, "fewshot-ericsson2021-5shot", simclr),
    ):
        passport: Any = SimpleNamespace(normalization=given, input_size=224, interpolation="bilinear")
        prepare = Preprocess.of(passport, **protocols.get(name).settings.extraction.pixels())
        assert prepare.normalization == expected


class Maps(nn.Module):
    """A backbone whose last feature map is a convolution of the input."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 5, 32, stride=32)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.feature_maps(images)["res5"].mean((2, 3))

    def feature_maps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res5": self.last(images)}


def test_visslis_features_are_res5_in_windows(tmp_path: Path) -> None:
    """`["res5", ["AvgPool2d", [[6, 6], 1, 0]]]`, flattened: 4 numbers a channel at 224 px."""
    torch.manual_seed(0)
    backbone: Any = Maps().eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = nn.AvgPool2d((6, 6), 1, 0)(backbone.last(images)).flatten(1)
        assert torch.equal(pooled(backbone, images, "res5-6x6"), expected)
        assert torch.equal(pooled(backbone, images), backbone.features(images))
        with pytest.raises(UserError, match="of 96 px is 3 x 3, a window 6 x 6"):
            pooled(backbone, images[..., :96, :96], "res5-6x6")
        with pytest.raises(UserError, match="pooling 'max' is not known"):
            pooled(backbone, images, "max")
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(tmp_path / "a.png")
    split = Split("one", (tmp_path / "a.png",), np.zeros(1, dtype=np.int64))
    passport: Any = SimpleNamespace(
        normalization=Normalization(),
        input_size=224,
        interpolation="bilinear",
        weights_sha256="a" * 64,
        network={},
        precision="float32",
    )
    both = [
        extract(backbone, passport, split, store=tmp_path / "store", pooling=pooling)
        for pooling in ("average", "res5-6x6")
    ]
    assert [found.shape for found in both] == [(1, 5), (1, 20)]  # kept apart in the store
