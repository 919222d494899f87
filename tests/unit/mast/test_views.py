"""Views: what differs, what is shared, and that draws depend on nothing but their keys."""

import numpy as np
import torch

from mast.augment import MAST5, Crop
from mast.draws import permutation, uniform
from mast.views import Views

NAMES = list(MAST5)


def _views(**kwargs) -> Views:
    return Views([Crop(16) if name == "crop" else MAST5[name]() for name in NAMES], **kwargs)


def test_uniforms_are_uniform_and_independent():
    u = uniform(3, 5, np.arange(50_000), "test", 4)
    assert 0 <= u.min() < u.max() < 1
    # Four standard errors of a mean of 50,000 uniforms are 0.0052; of a correlation 0.018.
    assert np.abs(u.mean(0) - 0.5).max() < 0.0052
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.018
    for other in (
        uniform(4, 5, np.arange(50_000), "test", 4),
        uniform(3, 6, np.arange(50_000), "test", 4),
        uniform(3, 5, np.arange(50_000), "test2", 4),
        uniform(3, 5, np.arange(1, 50_001), "test", 4),
    ):
        assert abs(np.corrcoef(u[:, 0], other[:, 0])[0, 1]) < 0.018


def test_a_draw_does_not_depend_on_the_batch():
    views = _views(single_fraction=0.5, seed=7)
    whole = views.draw(np.arange(100), epoch=2)
    order = np.random.default_rng(0).permutation(100)
    part = views.draw(order[:30], epoch=2)
    for name in NAMES:
        np.testing.assert_array_equal(part.params[name], whole.params[name][:, order[:30]])
    np.testing.assert_array_equal(part.differs, whole.differs[order[:30]])


def test_single_pairs_differ_in_exactly_one_augmentation():
    plan = _views(single_fraction=0.5, seed=1).draw(np.arange(20_000), epoch=0)
    counts = plan.differs[plan.single].sum(1)
    # Eight draws of a pair fail to differ with probability 0.5^8 (flip) to 0.68^8 = 0.046 (gray).
    assert set(np.unique(counts)) <= {0, 1}
    assert (counts == 1).mean() > 0.98
    assert abs(plan.single.mean() - 0.5) < 0.015
    shares = plan.differs[plan.single].mean(0)
    assert np.abs(shares - 1 / len(NAMES)).max() < 0.03


def test_all_but_one_pairs_share_exactly_one():
    views = _views(single_fraction=0.2, all_but_fraction=0.5, seed=1)
    plan = views.draw(np.arange(20_000), epoch=0)
    plain = _views(single_fraction=0.2, seed=1).draw(np.arange(20_000), epoch=0)
    np.testing.assert_array_equal(plan.single, plain.single)
    np.testing.assert_array_equal(plan.differs[plan.single], plain.differs[plain.single])
    # A crop and a colour turn always differ when drawn twice (colour but for 0.2 ^ 2), so sharing shows there.
    for name, chance in (("crop", 1.0), ("color", 0.96)):
        rest = ~plan.single
        differs = plan.differs[rest, NAMES.index(name)].mean()
        # 5 / 8 of these pairs share one of five; four standard errors in 16,000 are 0.011.
        assert abs(differs - chance * (1 - 5 / 8 / 5)) < 0.011


def test_no_single_pairs_gives_independent_views():
    plan = _views(single_fraction=0.0).draw(np.arange(20_000), epoch=0)
    assert not plan.single.any()
    flips = plan.params["flip"][..., 0]
    assert abs(np.corrcoef(flips)[0, 1]) < 0.03


def test_isolated_colour_is_shown_in_colour():
    plan = _views(single_fraction=1.0).draw(np.arange(5_000), epoch=0)
    isolated = plan.differs[:, NAMES.index("color")]
    assert isolated.any()
    assert (plan.params["gray"][:, isolated] == 0).all()


def test_the_third_view_differs_from_the_first_in_one_augmentation_and_leaves_the_pair_as_it_was():
    views = _views(third_every=4, seed=1)
    plan, plain = views.draw(np.arange(20_000), 0), _views(seed=1).draw(np.arange(20_000), 0)
    np.testing.assert_array_equal(plan.differs, plain.differs)
    for name in NAMES:
        np.testing.assert_array_equal(plan.params[name][:2], plain.params[name])
    differs = np.stack([(plan.params[n][0] != plan.params[n][2]).any(1) for n in NAMES], 1)
    assert differs.sum(1).max() == 1
    # Drawn up to eight times: a first view that is not gray (0.8) stays alone with probability 0.8 ^ 8 = 0.17.
    chance = 0.2 * np.where(np.array(NAMES) == "gray", 1 - 0.8**9, 1.0)
    # Four standard errors of a share of 0.2 in 20,000 are 0.0113.
    assert np.abs(differs.mean(0) - chance).max() < 0.0113
    gray = plan.params["gray"][0, :, 0] > 0
    color = NAMES.index("color")
    assert differs[gray, color].any()
    assert not plan.isolated[gray, color].any()
    hidden = gray[:, None] & (np.arange(len(NAMES)) == color)
    np.testing.assert_array_equal(plan.isolated, differs & ~hidden)


def test_the_third_view_isolates_what_the_pair_shares():
    views = _views(third_every=1, all_but_fraction=1.0, seed=1)
    plan = views.draw(np.arange(400), 0)
    plain = _views(all_but_fraction=1.0, seed=1).draw(np.arange(400), 0)
    assert (plan.differs == plain.differs).all()
    # Flips, gray and blur often coincide by chance; an augmentation that the third view isolates never differs.
    assert not (plan.isolated & plan.differs).any()
    assert (plan.isolated.sum(1) <= 1).all()
    assert plan.isolated.any(1).mean() > 0.9  # some colour is hidden by grey


def test_every_fourth_image_has_a_third_view():
    views = _views(third_every=4, seed=3)
    plan = views.draw(np.arange(22), epoch=0)
    images = torch.rand(22, 3, 20, 20)
    first, second, third = views.render(images, plan)
    plain = _views(seed=3)
    for ours, theirs in zip((first, second), plain.render(images, plain.draw(np.arange(22), 0)), strict=True):
        assert torch.equal(ours, theirs)
    assert third.shape == (6, 3, 16, 16)
    same = (third == first[::4]).flatten(1).all(1).numpy()
    assert not same.all()
    moved = plan.isolated[::4][:, [NAMES.index("crop"), NAMES.index("flip")]].any(1)
    assert moved.any()
    assert not same[moved].any()
    crop = views.augmentations[0]
    cut = torch.stack(
        [crop.apply(images, torch.from_numpy(crop.fit(p, 20, 20))) for p in plan.params["crop"]], 1
    )
    for ours, theirs in zip(views.render(cut, plan), (first, second, third), strict=True):
        assert torch.equal(ours, theirs)


def test_isolated_without_a_third_view_are_the_single_pairs():
    plan = _views(single_fraction=0.5, seed=1).draw(np.arange(2_000), epoch=0)
    np.testing.assert_array_equal(plan.isolated, plan.differs & plan.single[:, None])


def test_change_is_zero_where_nothing_differs_and_of_unit_size():
    views = _views(seed=2)
    change = views.draw(np.arange(20_000), epoch=3).change
    assert change.shape == (20_000, sum(views.widths)) == (20_000, 4 + 1 + 4 + 1 + 1)
    # Scales are estimated from 4,096 draws: heavy-tailed ones (gray) to three standard errors of 3 %.
    assert np.abs(change.std(0) - 1).max() < 0.06
    single = _views(single_fraction=1.0, seed=2).draw(np.arange(2_000), epoch=0)
    ends = np.cumsum(views.widths)
    for k, (start, end) in enumerate(zip(ends - views.widths, ends, strict=True)):
        alike = ~single.differs[:, k]
        if NAMES[k] == "crop":  # a flip moves the place that is seen
            alike &= ~single.differs[:, NAMES.index("flip")]
        assert (single.change[alike, start:end] == 0).all()
        assert (single.change[single.differs[:, k], start:end] != 0).any(1).all()


def test_a_crop_is_described_where_it_is_seen():
    """The same crop to the right of the centre, flipped in the second view, lies to its left there."""
    views = _views()
    # Areas of a quarter, ratios of one, halfway down and as far to the right as it goes.
    crop = np.array([[[0.25] * 10 + [1.0] * 10 + [0.5, 1.0]]] * 2)
    flip = np.array([[[0.0]], [[1.0]]])
    rest = {name: views.draw(np.arange(1), 0).params[name][[0, 0]] for name in ("color", "gray", "blur")}
    found = [views._describe({"crop": crop, "flip": flip, **rest}, view)[0, :4] for view in (0, 1)]
    np.testing.assert_allclose(found[0], [0.25, 0, np.log(0.5), np.log(0.5)])
    np.testing.assert_allclose(found[1], [-0.25, 0, np.log(0.5), np.log(0.5)])


def test_shared_parameters_give_shared_pixels():
    views = _views(single_fraction=1.0, seed=3)
    plan = views.draw(np.arange(200), epoch=0)
    images = torch.rand(200, 3, 20, 20)
    first, second = views.render(images, plan)
    same = (first == second).flatten(1).all(1).numpy()
    assert first.shape == (200, 3, 16, 16)
    assert same[~plan.differs.any(1)].all()
    # A flip or a crop always shows; blur with a small sigma may not.
    for name in ("crop", "flip"):
        assert not same[plan.differs[:, NAMES.index(name)]].any()


def test_permutation_is_one():
    order = permutation(0, 3, 1000)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, permutation(0, 4, 1000))
