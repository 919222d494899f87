"""Every batched operation against torchvision's functional one, at explicit parameters."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from mast.augment import MAST5, Blur, Color, Crop, Flip, Grayscale
from mast.draws import uniform

B = 24
STEPS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(B, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def _draw(augmentation, count: int = B, height: int = 40, width: int = 48) -> torch.Tensor:
    u = uniform(0, 0, np.arange(count), augmentation.name, augmentation.num_uniforms)
    return torch.from_numpy(augmentation.fit(augmentation.draw(u), height, width))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 64])
def test_crop(images, interpolation, size):
    crop = Crop(size, interpolation=interpolation)
    params = _draw(crop)
    result = crop.apply(images, params)
    for image, (top, left, height, width), got in zip(images, params.numpy(), result, strict=True):
        t, b = round(top * 40), round((top + height) * 40)
        lo, hi = round(left * 48), round((left + width) * 48)
        mode = F.InterpolationMode(interpolation)
        want = F.resized_crop(image, t, lo, b - t, hi - lo, [size, size], interpolation=mode, antialias=True)
        torch.testing.assert_close(got, want.clamp(0, 1), atol=2e-6, rtol=0)


def test_crop_equals_pillow_to_one_grey_level():
    """Pillow rounds to bytes after each of its two passes, so two levels of 255 are its own error."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    want = np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    got = Crop(16).apply(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))[0].permute(1, 2, 0) * 255
    assert np.abs(got.numpy() - want).max() <= 2


def test_crop_parameters_follow_torchvisions_distribution():
    crop = Crop(32, scale=(0.08, 1.0))
    top, left, height, width = _draw(crop, 20_000, 32, 32).numpy().T
    area, ratio = height * width, width / height
    assert (top >= 0).all()
    assert (top + height <= 1 + 1e-12).all()
    assert (left + width <= 1 + 1e-12).all()
    assert area.min() >= 0.08 - 1e-9
    assert ratio.min() >= 3 / 4 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    # torchvision on a large square, 20,000 draws: rejection keeps the mean area a little below 0.54.
    torch.manual_seed(0)
    from torchvision.transforms import RandomResizedCrop

    square = torch.empty(1, 1, 1).expand(3, 4000, 4000)
    theirs = [RandomResizedCrop.get_params(square, [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(5000)]
    their_area = np.array([h * w for h, w in theirs]) / 4000**2
    # The standard error of a difference of these means is about 0.004.
    assert abs(area.mean() - their_area.mean()) < 0.016


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (640, 200), (96, 96)])
def test_aspect_ratios_are_those_of_pixels_as_in_torchvision(width, height):
    crop = Crop(32)
    _, _, h, w = _draw(crop, 20_000, height, width).numpy().T
    ratio, area = w * width / (h * height), w * h
    assert ratio.min() >= 3 / 4 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    torch.manual_seed(0)
    from torchvision.transforms import RandomResizedCrop

    picture = torch.empty(1, 1, 1).expand(3, 8 * height, 8 * width)  # larger, so that rounding plays no part
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)], float
    )
    their_ratio, their_area = theirs[:, 3] / theirs[:, 2], theirs[:, 2] * theirs[:, 3] / (64 * height * width)
    # Standard errors of these differences: about 0.003 and 0.004.
    assert abs(ratio.mean() - their_ratio.mean()) < 0.012
    assert abs(area.mean() - their_area.mean()) < 0.016


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0), (1.0, 1.0)])
def test_boxes_of_squares_are_those_of_fractions_bit_for_bit(scale):
    """The published weights were trained on squares with boxes drawn in fractions of the image."""
    crop = Crop(32, scale=scale)
    u = uniform(0, 3, np.arange(5000), "crop", crop.num_uniforms)
    area = scale[0] + (scale[1] - scale[0]) * u[:, :10]
    low, high = np.log(3 / 4), np.log(4 / 3)
    ratio = np.exp(low + (high - low) * u[:, 10:20])
    width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (width <= 1) & (height <= 1)
    first, rows = fits.argmax(1), np.arange(len(u))
    found = fits[rows, first]
    width, height = (np.where(found, side[rows, first], 1.0) for side in (width, height))
    want = np.stack([u[:, 20] * (1 - height), u[:, 21] * (1 - width), height, width], 1)
    got = crop.fit(crop.draw(u), 96, 96)
    np.testing.assert_array_equal(got, want)
    assert found.all() == (scale[0] < 1)


@pytest.mark.parametrize(("width", "height"), [(1000, 100), (100, 1000)])
def test_where_no_box_fits_the_largest_central_one_is_taken(width, height):
    crop = Crop(32, scale=(1.0, 1.0))
    top, left, h, w = _draw(crop, 50, height, width).numpy().T
    assert np.allclose(w * width / (h * height), 4 / 3 if width > height else 3 / 4)
    assert np.allclose(np.maximum(w, h), 1)
    assert np.allclose(top, (1 - h) / 2)
    assert np.allclose(left, (1 - w) / 2)


def test_flip(images):
    params = _draw(Flip())
    result = Flip().apply(images, params)
    for image, flipped, got in zip(images, params[:, 0], result, strict=True):
        assert torch.equal(got, F.horizontal_flip(image) if flipped else image)
    assert 0 < params.mean() < 1


def test_color_in_the_drawn_order(images):
    color = Color(0.4, 0.4, 0.2, 0.1)
    params = _draw(color)
    result = color.apply(images, params)
    for image, row, got in zip(images, params, result, strict=True):
        want = image
        for step in row[4:].int().tolist():
            want = STEPS[step](want, row[step].item())
        torch.testing.assert_close(got, want, atol=5e-6, rtol=0)
    assert len({tuple(row[4:].tolist()) for row in params}) > 10


def test_images_that_are_not_jittered_have_equal_parameters():
    params = _draw(Color(p=0.5), 1000)
    alone = params[(params[:, :4] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1)]
    assert 400 < len(alone) < 600
    assert len(alone.unique(dim=0)) == 1


@pytest.mark.parametrize("factor", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_of_grey_and_pure_colours(factor):
    colours = torch.tensor([[0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    image = colours.T[:, None, :].float()
    color = Color()
    params = torch.tensor([[1.0, 1.0, 1.0, factor, 0, 1, 2, 3]])
    torch.testing.assert_close(
        color.apply(image[None], params)[0], F.adjust_hue(image, factor), atol=1e-6, rtol=0
    )


def test_grayscale(images):
    params = _draw(Grayscale())
    result = Grayscale().apply(images, params)
    for image, grey, got in zip(images, params[:, 0], result, strict=True):
        want = F.rgb_to_grayscale(image, num_output_channels=3) if grey else image
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel_size", [5, 9])
def test_blur(images, kernel_size):
    blur = Blur(kernel_size)
    params = _draw(blur)
    result = blur.apply(images, params)
    for image, sigma, got in zip(images, params[:, 0].tolist(), result, strict=True):
        want = F.gaussian_blur(image, [kernel_size] * 2, [sigma, sigma]) if sigma else image
        torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", list(MAST5))
def test_same_parameters_give_the_same_pixels_whatever_the_batch(images, name):
    augmentation = Crop(32) if name == "crop" else MAST5[name]()
    params = _draw(augmentation)
    before = images.clone()
    whole = augmentation.apply(images, params)
    parts = torch.cat([augmentation.apply(images[i : i + 5], params[i : i + 5]) for i in range(0, B, 5)])
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)
    assert torch.equal(images, before), "the input was changed"
    assert whole.min() >= 0
    assert whole.max() <= 1
