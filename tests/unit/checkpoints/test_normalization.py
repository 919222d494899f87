"""The arithmetic of a normalisation, by hand and in Detectron2's terms."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from eval.checkpoints import Normalization
from eval.errors import UserError

CAFFE = Normalization((100.0, 110.0, 120.0), (1.0, 1.0, 1.0), range="0..255", channels="BGR")


def test_images_by_hand() -> None:
    images = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    out = Normalization((0.1, 0.2, 0.3), (0.5, 0.5, 0.5)).apply(images)
    assert out.flatten().tolist() == pytest.approx([0.2, 0.4, 0.6])
    out = CAFFE.apply(images)  # blue, 0.6 * 255 = 153, comes first
    assert out.flatten().tolist() == pytest.approx([153.0 - 100, 102.0 - 110, 51.0 - 120], abs=1e-4)


@pytest.mark.parametrize("constants", [Normalization(), CAFFE])
def test_bytes_images_and_detectron2_agree(constants: Normalization) -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    exact = constants.apply_to_bytes(pixels, torch.float64)
    assert torch.allclose(constants.apply(pixels.double() / 255), exact, rtol=0, atol=1e-12)
    assert constants.apply_to_bytes(pixels).dtype == torch.float32
    # Detectron2 is handed bytes in INPUT.FORMAT's order and subtracts and divides.
    given = (pixels.flip(1) if constants.channels == "BGR" else pixels).double()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (constants.pixel_mean, constants.pixel_std)
    )
    assert torch.allclose((given - mean) / std, exact, rtol=0, atol=1e-9)


def test_json_and_back() -> None:
    text = json.dumps(Normalization(std=(0.228, 0.224, 0.225)).to_json())
    assert text == (
        '{"mean": [0.485, 0.456, 0.406], "std": [0.228, 0.224, 0.225], "range": "0..1", "channels": "RGB"}'
    )
    for constants in (Normalization(), CAFFE):
        assert Normalization.from_json(json.loads(json.dumps(constants.to_json()))) == constants
    assert Normalization.from_json({"mean": [0, 0, 0], "std": [1, 1, 1]}) == Normalization(
        (0, 0, 0), (1, 1, 1)
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"mean": None, "std": [1, 1, 1]}, "the mean .* is None"),
        ({"mean": [0, 0], "std": [1, 1, 1]}, "three numbers"),
        ({"mean": [0, 0, float("nan")], "std": [1, 1, 1]}, "three numbers"),
        ({"mean": [0, 0, "0"], "std": [1, 1, 1]}, "three numbers"),
        ({"mean": [0, 0, 0], "std": [1, 1, 0]}, "three positive numbers"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "range": "0..2"}, "it is 0..1 or 0..255"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "channels": ["RGB"]}, "it is RGB or BGR"),
        ({"mean": [0, 0, 0]}, "give mean and std"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1}, "give mean and std"),
        (["mean", "std"], "give mean and std"),
    ],
)
def test_what_no_image_can_be_normalised_with_is_refused(facts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Normalization.from_json(facts)
