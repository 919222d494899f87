"""Figures of hand-made masks."""

import math

import numpy as np
import pytest
import torch

from mast.analysis import (
    Examples,
    analyze_masks,
    by_strength,
    closed_parts,
    embed,
    examples,
    neighbours,
    parts,
    read_masks,
    read_run,
    readout,
    strength,
)
from mast.augment import Crop
from mast.errors import UserError
from mast.randaugment import MAST15
from mast.train import pretrain


def test_figures_of_hand_made_masks():
    masks = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    analysis = analyze_masks(["a", "b", "c", "d"], masks)
    np.testing.assert_allclose(analysis.mass, [0.5, 0.5, 0.25, 0.5])
    assert analysis.correlation[0, 1] == pytest.approx(-1.0)
    # a and c: covariance 1/8 over standard deviations 1/2 and sqrt(3)/4.
    assert analysis.correlation[0, 2] == pytest.approx((1 / 8) / (0.5 * np.sqrt(3) / 4))
    assert np.isnan(analysis.correlation[3, 0])
    assert analysis.overlap[0, 1] == 0
    assert analysis.overlap[0, 2] == 0.5
    assert analysis.overlap[0, 3] == pytest.approx(1 / 3)  # minima 0.5 + 0.5, maxima 1 + 1 + 0.5 + 0.5


def test_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"recipe\.json is missing"):
        read_masks(tmp_path)


def test_dimensions_of_hand_made_masks():
    masks = np.array([[0.9, 0.9, 0.1, 0.1, 0.1], [0.9, 0.1, 0.9, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9, 0.1]])
    found = analyze_masks(["a", "b", "c"], masks)
    assert found.shared == 1
    assert found.kept.tolist() == [2, 2, 4]
    assert found.only_closed.tolist() == [1, 1, 0]  # dimension 2 for a, 1 for b
    assert found.only_kept.tolist() == [0, 0, 1]  # dimension 3


@pytest.mark.parametrize(
    ("name", "params", "want"),
    [
        ("crop", [0.1, 0.2, 0.5, 0.5], 0.75),
        ("crop", [0.0, 0.0, 1.0, 1.0], 0.0),
        ("color", [1.4, 1.0, 0.8, 0.0, 0, 1, 2, 3], math.sqrt(2)),
        ("color", [1.0, 1.0, 1.0, 0.0, 3, 2, 1, 0], 0.0),
        ("blur", [1.5], 1.5),
        ("flip", [1.0], 1.0),
        ("shear", [0.3, 0.0], 0.3),
    ],
)
def test_strength(name, params, want):
    augmentation = Crop(8) if name == "crop" else MAST15[name]()
    assert strength(augmentation, np.array([params]))[0] == pytest.approx(want)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_root, small):
    out = tmp_path_factory.mktemp("analysis")
    pretrain(small(mast=True), out, data_root=data_root, progress=False)
    return read_run(out)


def test_examples_are_forwarded_whole(run, data_root):
    data = examples(run, data_root, 10)
    assert data.images.shape == (10, 3, 20, 20)
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert data.features.shape == (10, run.learner.backbone.feature_dim)
    assert data.embeddings.shape == (10, 32)
    image = torch.from_numpy(data.images[3:4]).float() / 255
    view = Crop(16).apply(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    with torch.no_grad():
        features = run.learner.features(view)
        variance = run.learner.variance(features).mean().item()
    np.testing.assert_allclose(data.features[3], features[0].numpy(), rtol=1e-4, atol=1e-5)
    assert data.uncertainty[3] == pytest.approx(variance, rel=1e-5)


def test_uncertainty_by_strength_parts_the_images(run, data_root):
    data = examples(run, data_root, 40)
    found = by_strength(run, data, bins=4)
    for name in run.names:
        bins = [item for item in found if item.augmentation == name]
        assert sum(item.count for item in bins) == 40
        assert [item.strength for item in bins] == sorted(item.strength for item in bins)
        assert len(bins) == {"crop": 4, "flip": 2, "gray": 2}.get(name, 5)
    unchanged = next(item for item in found if item.augmentation == "flip")
    assert unchanged.strength == 0
    assert unchanged.uncertainty == pytest.approx(data.uncertainty.mean(), rel=0.05)


def test_neighbours_depend_on_the_subspace():
    """Dimension 0 pairs 0 with 1 and 2 with 3, dimension 1 pairs 0 with 2 and 1 with 3."""
    z = np.array([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]], dtype=np.float32)
    data = Examples(np.zeros((4, 3, 2, 2), np.uint8), np.zeros(4, np.int64), ("x",), z, z, None)
    masks = analyze_masks(["a", "b"], np.array([[1.0, 0.0], [0.0, 1.0]]))
    names, queries, found, similarity = neighbours(data, masks, on_features=False, count=1)
    assert names == ["whole", "a", "b"]
    assert queries.tolist() == [0, 1, 2, 3]
    assert found[1, :, 0].tolist() == [1, 0, 3, 2]
    assert found[2, :, 0].tolist() == [2, 3, 0, 1]
    np.testing.assert_allclose(similarity[1:], 1.0)
    assert found[0, :, 0].tolist() == [1, 0, 3, 2]  # the longer side decides in the whole


def test_what_was_done_is_found_where_it_was_put(run, data_root, monkeypatch):
    """Blocks of four dimensions carry their own augmentation's parameters, everything else is noise."""
    names = run.names
    rng = np.random.default_rng(0)
    rows, count = 400, len(names)
    mask = np.full((count, 32), 0.9)
    for k in range(count):
        mask[k, 4 * k : 4 * k + 4] = 0.1
    with torch.no_grad():
        before = run.learner.masks.logits.clone()
        run.learner.masks.logits.copy_(torch.logit(torch.tensor(mask)))

    def alone(_run, _data, augmentation):
        params = augmentation.draw(rng.random((rows, augmentation.num_uniforms)))
        told = augmentation.describe(params)
        embeddings = rng.standard_normal((rows, 32))
        k = names.index(augmentation.name)
        embeddings[:, 4 * k : 4 * k + 4] = told @ rng.standard_normal((told.shape[1], 4))
        return params, embeddings[:, :7], embeddings, None

    monkeypatch.setattr("mast.analysis._alone", alone)
    found = readout(run, examples(run, data_root, 4))
    with torch.no_grad():
        run.learner.masks.logits.copy_(before)
    assert found.subspaces == (*names, "shared", "embedding", "features")
    assert found.dimensions.tolist() == [4] * count + [32 - 4 * count, 32, run.learner.backbone.feature_dim]
    own = np.diag(found.explained)
    assert (own > 0.95).all()  # the penalty costs a little, most where a crop's numbers are nearly in line
    others = found.explained[:, : count + 1][~np.eye(count, count + 1, dtype=bool)]
    assert np.abs(others).max() < 0.2  # noise fitted to 200 rows by at most 12 inputs
    assert (found.explained[:, count + 1] > 0.9).all()


def test_nothing_is_read_off_no_dimensions(run, data_root):
    """The small run's masks start open and stay so: no dimension is closed."""
    found = readout(run, examples(run, data_root, 40))
    assert found.dimensions[:-3].tolist() == [0] * len(run.names)
    assert np.isnan(found.explained[:, :-3]).all()
    assert (found.explained[:, -3:] <= 1).all()


def test_features_that_are_masked_have_no_subspaces(tmp_path, data_root, small):
    pretrain(
        small("masks.level=features", "epochs=1", mast=True), tmp_path, data_root=data_root, progress=False
    )
    masked = read_run(tmp_path)
    with pytest.raises(UserError, match="its embedding has no subspaces"):
        readout(masked, examples(masked, data_root, 4))


@pytest.fixture
def blocks(run):
    """The run with four dimensions closed for each augmentation, and its names."""
    mask = np.full((len(run.names), 32), 0.9)
    for k in range(len(run.names)):
        mask[k, 4 * k : 4 * k + 4] = 0.1
    with torch.no_grad():
        before = run.learner.masks.logits.clone()
        run.learner.masks.logits.copy_(torch.logit(torch.tensor(mask)))
        yield run
        run.learner.masks.logits.copy_(before)


def test_parts_are_what_masks_close(blocks, data_root):
    found = parts(blocks)
    assert list(found) == [*blocks.names, "shared", "embedding"]
    for k, name in enumerate(blocks.names):
        assert np.flatnonzero(found[name]).tolist() == list(range(4 * k, 4 * k + 4))
    assert np.flatnonzero(found["shared"]).tolist() == list(range(20, 32))
    assert found["embedding"].all()
    data = examples(blocks, data_root, 12)
    np.testing.assert_allclose(embed(blocks, data.features), data.embeddings, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        blocks.learner.masks.logits.fill_(3.0)
    assert list(parts(blocks)) == ["embedding"]
    assert closed_parts(blocks, data) is None


def test_parts_of_a_run_without_masks_are_the_embedding(tmp_path, data_root, small):
    pretrain(small("epochs=1"), tmp_path, data_root=data_root, progress=False)
    with pytest.raises(UserError, match="which has no masks"):
        read_run(tmp_path)
    assert list(parts(read_run(tmp_path, masked=False))) == ["embedding"]


def test_closed_parts_of_hand_made_embeddings(blocks, data_root, monkeypatch):
    """Colour's part is flip's turned and stretched; each augmentation swaps images within its own part alone."""
    rng = np.random.default_rng(0)
    rows, names = 2000, blocks.names
    z = rng.standard_normal((rows, 32)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    z[:, 8:12] = 3 * z[:, 4:8] @ turn.astype(np.float32)
    data = Examples(np.zeros((rows, 3, 2, 2), np.uint8), np.zeros(rows, np.int64), ("x",), z[:, :7], z, None)

    def alone(_run, _data, augmentation):
        changed, k = z.copy(), names.index(augmentation.name)
        changed[:, 4 * k : 4 * k + 4] = np.roll(changed[:, 4 * k : 4 * k + 4], 1, axis=0)
        return np.zeros((rows, 1)), z[:, :7] + 1, changed, None

    monkeypatch.setattr("mast.analysis._alone", alone)
    found = closed_parts(blocks, data)
    assert found.augmentations == names
    assert found.subspaces == (*names, "shared", "embedding", "features")
    flip, color = names.index("flip"), names.index("color")
    assert found.alignment[flip, color] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(np.diag(found.alignment), 1)
    rest = found.alignment[~np.eye(len(names), dtype=bool)]
    assert np.sort(rest)[-3] < 0.01  # all but the pair, which stands twice
    np.testing.assert_allclose(np.diag(found.response), 1, atol=0.1)
    assert (found.response[:, : len(names)][~np.eye(len(names), dtype=bool)] == 0).all()
    assert (found.response[:, len(names)] == 0).all()
    # Every feature moved by one: 7 over twice the summed variance of 7 standard normal ones.
    np.testing.assert_allclose(found.response[:, -1], 7 / (2 * z[:, :7].var(axis=0, ddof=1).sum()), rtol=1e-5)
