"""Every layout: written as the method writes it, recognised by content, loaded, and computing the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checkpoint_sources import CASES, Case
from torch import Tensor

from eval.checkpoints import layouts, load


def _outputs(network: object, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        if hasattr(network, "maps"):
            return network.maps(images)
        if hasattr(network, "grid") or not hasattr(network, "feature_maps"):
            return {"features": network.features(images)}
        return network.feature_maps(images)


def difference(case: Case, backbone: torch.nn.Module, dtype: torch.dtype) -> float:
    """Largest difference over the largest value, over C2 to C5 or the feature."""
    images = torch.randn(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(3)).to(dtype)
    ours, theirs = _outputs(backbone.to(dtype), images), _outputs(case.source.to(dtype), images)
    assert ours.keys() == theirs.keys()
    return max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max()) for k in ours)


@pytest.mark.parametrize("name", CASES)
def test_a_file_as_the_method_writes_it_computes_what_the_source_computes(
    name: str, written: Callable[[str], Case]
) -> None:
    case = written(name)
    loaded = load(str(case.path), **case.load_options)
    passport = loaded.passport
    assert passport.layout == case.layout
    assert passport.arch == case.arch
    assert passport.encoder == case.encoder
    assert passport.trained
    assert passport.unexpected == []
    assert all(key.endswith("num_batches_tracked") for key in passport.missing)
    assert not loaded.backbone.training
    assert not any(parameter.requires_grad for parameter in loaded.backbone.parameters())
    assert difference(case, loaded.backbone, torch.float32) <= 1e-4
    assert difference(case, loaded.backbone, torch.float64) <= 1e-9


def test_every_layout_that_can_be_read_has_a_file_in_these_tests(written: Callable[[str], Case]) -> None:
    seen = {written(name).layout for name in CASES}
    assert seen == {name for name, layout in layouts.table().items() if not layout.refuse}
