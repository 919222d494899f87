"""The ten further operations against torchvision's functional ones, at explicit parameters."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from mast.draws import uniform
from mast.randaugment import (
    Autocontrast,
    Equalize,
    Invert,
    Perspective,
    Posterize,
    Rotate,
    Sharpness,
    Shear,
    Solarize,
    Translate,
)

B, H, W = 20, 30, 36
BILINEAR = F.InterpolationMode.BILINEAR


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 + 0.7 * torch.rand(B, 3, H, W, generator=generator)


def _params(augmentation) -> torch.Tensor:
    u = uniform(0, 0, np.arange(B), augmentation.name, augmentation.num_uniforms)
    return torch.from_numpy(augmentation.draw(u))


def _shear_degrees(tangents) -> list[float]:
    return [math.degrees(math.atan(value)) for value in tangents.tolist()]


def _perspective(image, row):
    start = [[0, 0], [W - 1, 0], [W - 1, H - 1], [0, H - 1]]
    signs = [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    shift = (row.view(4, 2) * torch.tensor([W, H])).floor().long().tolist()
    end = [[s[0] + g[0] * d[0], s[1] + g[1] * d[1]] for s, g, d in zip(start, signs, shift, strict=True)]
    return F.perspective(image, start, end, interpolation=BILINEAR)


REFERENCES = {
    Solarize: lambda image, row: F.solarize(image, 1 - row[0].item()),
    Posterize: lambda image, row: F.posterize(image, int(row[0])),
    Equalize: lambda image, row: F.equalize((image * 255).round().to(torch.uint8)).float() / 255,
    Autocontrast: lambda image, row: F.autocontrast(image),
    Sharpness: lambda image, row: F.adjust_sharpness(image, 1 + row[0].item()),
    Invert: lambda image, row: F.invert(image),
    Rotate: lambda image, row: F.rotate(image, row[0].item(), interpolation=BILINEAR),
    Shear: lambda image, row: F.affine(
        image,
        angle=0.0,
        translate=[0, 0],
        scale=1.0,
        shear=_shear_degrees(row),
        interpolation=BILINEAR,
    ),
    Translate: lambda image, row: F.affine(
        image,
        angle=0.0,
        translate=[round(row[0].item() * W), round(row[1].item() * H)],
        scale=1.0,
        shear=[0.0, 0.0],
        interpolation=BILINEAR,
    ),
    Perspective: _perspective,
}


@pytest.mark.parametrize("kind", list(REFERENCES), ids=lambda kind: kind.__name__)
def test_equals_torchvision(images, kind):
    augmentation = kind(p=0.7)
    params = _params(augmentation)
    result = augmentation.apply(images, params)
    changed = (params != augmentation.neutral).any(1)
    assert 0 < changed.sum() < B
    for image, row, on, got in zip(images, params, changed, result, strict=True):
        want = REFERENCES[kind](image, row) if on else image
        # Positions are computed in single precision: 1e-5 of a side of 36, times the steepest slope of the image.
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", list(REFERENCES), ids=lambda kind: kind.__name__)
def test_probability_and_range(kind):
    augmentation = kind(p=0.3)
    u = uniform(0, 0, np.arange(20_000), augmentation.name, augmentation.num_uniforms)
    params = augmentation.draw(u)
    changed = (params != augmentation.neutral).any(1)
    # Four standard errors of a share of 0.3 in 20,000 are 0.013.
    assert abs(changed.mean() - 0.3) < 0.013
    ranges = {Solarize: (0.5, 0.5), Posterize: (4, 7), Sharpness: (-0.9, 0.9), Rotate: (-30, 30)}
    ranges |= {Shear: (-0.3, 0.3), Translate: (-150 / 331, 150 / 331), Perspective: (0, 0.25)}
    low, high = ranges.get(kind, (1, 1))
    assert params[changed].min() == pytest.approx(low, abs=0.02)
    assert params[changed].max() == pytest.approx(high, abs=0.1)
