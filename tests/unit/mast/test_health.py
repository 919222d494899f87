"""Figures on hand-made inputs, and every collapse provoked."""

import pytest
import torch

from mast.errors import UserError
from mast.health import effective_rank, figures, refuse_collapse
from mast.model import SubspaceMasks
from mast.train import pretrain


def test_effective_rank_counts_equal_directions():
    """Three orthogonal directions of equal length and no others have rank 3; equal rows have none."""
    x = torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(torch.nn.functional.pad(x, (0, 5))) == pytest.approx(3)
    assert effective_rank(torch.ones(6, 4)) == 0
    # Singular values 3 and 1: p = (3/4, 1/4), entropy 0.5623.
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(x) == pytest.approx(1.7548, abs=1e-4)


def test_wide_and_tall_matrices_have_the_same_rank():
    x = torch.randn(20, 7, dtype=torch.float64)
    wide = x @ torch.linalg.qr(torch.randn(50, 50, dtype=torch.float64)).Q[:7]
    assert effective_rank(wide) == pytest.approx(effective_rank(x))


def _masks(values: list[list[float]]) -> SubspaceMasks:
    masks = SubspaceMasks([chr(97 + k) for k in range(len(values))], len(values[0]))
    with torch.no_grad():
        masks.logits.copy_(torch.logit(torch.tensor(values)))
    return masks


def test_figures_of_hand_made_masks():
    z = torch.tensor([[1.0, 0.0, 2.0, 0.0], [-1.0, 0.0, -2.0, 0.0]])
    spread = z.std(0)  # sqrt(2), 0, 2 sqrt(2), 0
    found = figures(z, z, _masks([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.1, 0.9]]))
    assert found["mask_a"] == pytest.approx(0.5)
    assert found["std_a"] == pytest.approx(float(spread.mean()))
    assert found["std_b"] == pytest.approx(float(0.9 * spread[0] + 0.1 * spread[2]) / 2)
    assert found["masks_overlap"] == pytest.approx((0.5 + 0.1 + 0.1 + 0.5) / (0.9 + 0.5 + 0.5 + 0.9))
    assert found["masks_difference"] == pytest.approx(0.4 / 0.5)
    assert found["embedding_std"] == pytest.approx(float(spread.mean()))


HEALTHY = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
OPEN = [[0.9, 0.8, 0.9, 0.95], [0.8, 0.9, 0.95, 0.9]]


@pytest.mark.parametrize(
    ("embeddings", "values", "message"),
    [
        (0.01 * HEALTHY, OPEN, "standard deviation is 0.0094"),
        (HEALTHY[:, :1].expand(64, 4) + 0.001 * HEALTHY, OPEN, "effective rank is 1,"),
        (HEALTHY, [OPEN[0], [0.001, 0.002, 0.001, 0.02]], "mask of b has closed"),
        (HEALTHY, [OPEN[0], OPEN[0]], "all masks are equal"),
    ],
)
def test_collapse_is_an_error(embeddings, values, message):
    masks = _masks(values)
    with pytest.raises(UserError, match=f"collapse at epoch 3 of 9: .*{message}.*stop_on_collapse=false"):
        refuse_collapse(figures(HEALTHY, embeddings, masks), "epoch 3 of 9", masks)


@pytest.mark.parametrize("values", [OPEN, [[0.995] * 4, [0.995] * 4], [[0.999, 0.3, 0.999, 0.999]]])
def test_health_is_not(values):
    """Open masks are VICReg's loss, no collapse."""
    masks = _masks(values)
    refuse_collapse(figures(HEALTHY, HEALTHY, masks), "epoch 1", masks)
    refuse_collapse(figures(HEALTHY, HEALTHY, None), "epoch 1", None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["weights.variance=0", "weights.covariance=0", "epochs=60", "optimizer.base_lr=0.1"],
            "the embedding's",
        ),
        (["weights.open=0", "masks.lr=2", "masks.start=0.02", "weights.overlap=-50"], "has closed"),
        (["masks.spread=0", "masks.lr=1.0e-9"], "all masks are equal"),
    ],
)
def test_collapse_ends_a_run(tmp_path, data_root, small, overrides, message):
    recipe = small("optimizer.base_lr=0.02", *overrides, mast=True)
    with pytest.raises(UserError, match=f"collapse at epoch .*{message}"):
        pretrain(recipe, tmp_path, data_root=data_root, progress=False)
    assert not (tmp_path / "backbone.safetensors").exists()
    assert (tmp_path / "log.jsonl").is_file()


def test_collapse_may_be_watched(tmp_path, data_root, small):
    recipe = small("masks.spread=0", "masks.lr=1.0e-9", "stop_on_collapse=false", mast=True)
    assert pretrain(recipe, tmp_path, data_root=data_root, progress=False).is_file()
