"""What the loop can be told: parts of a batch, precisions, memory formats, compilation, logs."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import mast.train
from mast.config import load_recipe
from mast.errors import UserError
from mast.learner import Learner
from mast.objective import (
    closedness,
    contrast,
    masked,
    prediction,
    pressure,
    relative,
    sensitivity,
    vicreg,
)
from mast.train import pretrain

EXACT = [
    "batch_size=48",
    "epochs=1",
    "precision=fp64",
    "optimizer={name: sgd, base_lr: 0.5, weight_decay: 0, warmup_epochs: 0}",
]


def _state(out):
    return torch.load(out / "state.pt", weights_only=True)


def test_accumulation_is_the_mean_of_its_parts_losses(tmp_path, data_root, small, monkeypatch):
    """Variance and covariance see one part at a time; the gradient is the mean of the parts' gradients."""
    recipe = small("accumulate=3", *EXACT)
    seen = []
    real = Learner.forward

    def records(self, first, second, plan):
        seen.append((first.clone(), second.clone(), plan))
        return real(self, first, second, plan)

    monkeypatch.setattr(Learner, "forward", records)
    pretrain(recipe, tmp_path, data_root=data_root, progress=False, device="cpu")
    monkeypatch.undo()
    assert [len(first) for first, _, _ in seen] == [16, 16, 16]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        learner = Learner(recipe, tuple(recipe.views.augmentations)).double().train()
    total = 0.0
    for first, second, _ in seen:
        z1, z2 = (learner.expander(learner.features(view)) for view in (first, second))
        total = total + vicreg(z1, z2, recipe.weights).total / 3
    total.backward()
    state = _state(tmp_path)
    assert state["history"][0]["loss"] == pytest.approx(float(total.detach()), rel=1e-6)
    moments = state["optimizer"]["state"]
    for index, parameter in enumerate(learner.networks().parameters()):
        torch.testing.assert_close(moments[index]["momentum_buffer"], parameter.grad, rtol=1e-8, atol=1e-10)


def test_parts_must_fit_the_batch():
    with pytest.raises(UserError, match="48 images do not part into 5"):
        load_recipe("demo", ["batch_size=48", "accumulate=5"])


SENSITIVE = [
    *["masks.layout=own-closed", "weights.sensitivity=5", "weights.decorrelation=1", "weights.prediction=5"],
    "uncertainty=false",
]


@pytest.mark.parametrize(
    ("is_mast", "more"), [(False, []), (True, []), (True, SENSITIVE)], ids=["vicreg", "mast", "sensitive"]
)
def test_bf16_follows_fp32(tmp_path, data_root, small, is_mast, more):
    """One step from the same weights: the loss to a percent, parameters and masks stay in single precision."""
    losses = []
    for precision in ("fp32", "bf16"):
        recipe = small("batch_size=48", "epochs=1", f"precision={precision}", *more, mast=is_mast)
        pretrain(recipe, tmp_path / precision, data_root=data_root, progress=False, device="cpu")
        state = _state(tmp_path / precision)
        losses.append(state["history"][0]["loss"])
        floats = [value for value in state["learner"].values() if value.is_floating_point()]
        assert {value.dtype for value in floats} == {torch.float32}
    assert losses[0] != losses[1], "bf16 was not used"
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_terms_of_weight_zero_leave_a_run_as_it_was(tmp_path, data_root, small):
    """A third view that no term looks at, and weights of zero: the same weights to the last bit."""
    zero = [f"weights.{name}=0" for name in ("sensitivity", "decorrelation", "prediction", "contrast")]
    for name, changes in {"a": [], "b": [*zero, "views.third_every=4"]}.items():
        pretrain(small(*changes, "epochs=1", mast=True), tmp_path / name, data_root=data_root, progress=False)
    states = [_state(tmp_path / name)["learner"] for name in "ab"]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


@pytest.mark.parametrize("third", [0, 4])
def test_the_loss_of_a_batch_is_the_sum_of_its_terms(small, third):
    """The learner hands every term the pairs that belong to it, and the readout sees closed dimensions only."""
    recipe = small(*SENSITIVE, f"views.third_every={third}", "precision=fp64", mast=True)
    views = recipe.views.build(recipe.seed)
    torch.manual_seed(0)
    learner = Learner(recipe, views.names, views.widths).double().train()
    plan = views.draw(np.arange(16), 0)
    first, second, *rest = views.render(torch.rand(16, 3, 20, 20, dtype=torch.float64), plan)
    outcome = learner(first, second, plan, *rest)
    z = [learner.expander(learner.features(view)) for view in (first, second, *rest)]
    log_masks, weights = learner.masks.log_masks(), recipe.weights
    isolated, differs, single = (torch.from_numpy(x) for x in (plan.isolated, plan.differs, plan.single))
    difference = z[0][::4] - z[2] if third else z[0] - z[1]
    closed = closedness(log_masks)
    owner = [k for k, width in enumerate(views.widths) for _ in range(width)]
    readout = learner.readout.weight * closed[owner].detach()
    want = (
        masked(z[0], z[1], differs, single, log_masks, weights).total
        + pressure(log_masks, weights).total
        + sensitivity(difference, isolated[::4] if third else isolated, closed, weights).total
        + prediction(z[0] - z[1], torch.from_numpy(plan.change), readout, weights).total
    )
    torch.testing.assert_close(outcome.loss.total, want, rtol=1e-12, atol=0)
    outcome.loss.total.backward()
    assert (learner.readout.weight.grad[closed[owner] == 0] == 0).all()
    assert (learner.readout.weight.grad[closed[owner] > 0] != 0).all()
    assert set(outcome.loss.parts) >= {"sensitivity", "decorrelation", "prediction"}


def _first_loss(recipe):
    """A learner in double precision, the plan of 16 images, their features and embeddings, and the loss."""
    views = recipe.views.build(recipe.seed)
    torch.manual_seed(0)
    learner = Learner(recipe, views.names, views.widths).double().train()
    plan = views.draw(np.arange(16), 0)
    rendered = views.render(torch.rand(16, 3, 20, 20, dtype=torch.float64), plan)
    outcome = learner(*rendered[:2], plan, *rendered[2:])
    h = [learner.features(view) for view in rendered]
    return learner, plan, h, [learner.expander(each) for each in h], outcome.loss


def test_contrast_is_given_the_pairs_that_share_what_the_third_view_isolates(small):
    more = [
        "weights.contrast=2",
        "views.third_every=2",
        "views.all_but_fraction=0.8",
        "views.single_fraction=0",
    ]
    recipe = small(
        *["masks.layout=own-closed", "masks.lr=0", "uncertainty=false", "precision=fp64"], *more, mast=True
    )
    learner, plan, _, z, loss = _first_loss(recipe)
    shared = torch.from_numpy(plan.isolated & ~plan.differs)[::2]
    assert 3 <= int(shared.sum()) < int(plan.isolated[::2].sum())
    closed = closedness(learner.masks.log_masks())
    want = contrast(*z, torch.arange(0, 16, 2), shared, closed, recipe.weights)
    torch.testing.assert_close(loss.parts["contrast"], want.parts["contrast"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("third", "looks"), [(0, "closed"), (2, "closed"), (0, "all")])
def test_the_hinge_may_act_on_features(small, third, looks):
    more = ["masks.changes=features", f"masks.sensitive={looks}", f"views.third_every={third}"]
    recipe = small(*SENSITIVE, *more, "precision=fp64", mast=True)
    _, plan, h, _, loss = _first_loss(recipe)
    rows = torch.arange(0, 16, 2) if third else torch.from_numpy(plan.isolated.any(1)).nonzero()[:, 0]
    difference = relative(h[0][rows] - (h[2] if third else h[1][rows]), h[0], h[1])
    count, dim = len(recipe.views.augmentations), difference.shape[1]
    blocks = torch.ones(count, dim, dtype=torch.float64)
    if looks == "closed":
        size = int(recipe.masks.block * dim)
        assert size > 0
        blocks.zero_()
        for k in range(count):
            blocks[k, k * size : (k + 1) * size] = 1 - 2 * recipe.masks.closed
    want = sensitivity(difference, torch.from_numpy(plan.isolated)[rows], blocks, recipe.weights)
    for name, value in want.parts.items():
        assert float(value.detach()) > 0
        torch.testing.assert_close(loss.parts[name], value, rtol=1e-6, atol=0)


def test_masks_learn_from_prediction_where_they_are_asked_to(small):
    """Without single pairs nothing else reaches them; detached, which is the default, prediction does not."""
    more = ["views.single_fraction=0", "weights.open=0", "precision=fp64"]
    for changes, learns in (["masks.predict=true"], True), (["masks.lr=0"], False):
        learner, plan, _, z, loss = _first_loss(
            small("masks.start=0.6", "uncertainty=false", "weights.prediction=5", *more, *changes, mast=True)
            if learns
            else small(
                *SENSITIVE[:1], "uncertainty=false", "weights.prediction=5", *more, *changes, mast=True
            )
        )
        loss.total.backward()
        gradient = learner.masks.logits.grad
        assert (gradient is not None and bool((gradient != 0).all())) == learns
        if learns:
            owner = [k for k, width in enumerate(learner.widths) for _ in range(width)]
            readout = learner.readout.weight * (1 - learner.masks.masks())[owner]
            want = prediction(z[0] - z[1], torch.from_numpy(plan.change), readout, learner.recipe.weights)
            torch.testing.assert_close(loss.parts["prediction"], want.parts["prediction"], rtol=1e-12, atol=0)


def test_prediction_without_widths_is_refused(small):
    recipe = small(*SENSITIVE, mast=True)
    with pytest.raises(ValueError, match="the widths of 5 augmentations, not 0"):
        Learner(recipe, tuple(recipe.views.augmentations))


def test_memory_format_is_that_of_the_recipe_and_changes_nothing(tmp_path, data_root, small):
    states = []
    for flag in ("true", "false"):
        recipe = small(f"channels_last={flag}", *EXACT)
        learner = Learner(recipe, tuple(recipe.views.augmentations))
        form = torch.channels_last if flag == "true" else torch.contiguous_format
        images = torch.rand(2, 3, 16, 16)
        seen = []
        learner.backbone.conv1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        learner.features(images)
        assert seen[0].is_contiguous(memory_format=form)
        pretrain(recipe, tmp_path / flag, data_root=data_root, progress=False, device="cpu")
        states.append(_state(tmp_path / flag)["learner"])
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-9, atol=1e-11)


def test_compiling_is_asked_of_the_backbone(tmp_path, data_root, small, monkeypatch):
    compiled = []
    monkeypatch.setattr(
        "mast.model.Backbone.compile", lambda self, *args, **kwargs: compiled.append(self), raising=False
    )
    pretrain(small("compile=true", "epochs=1"), tmp_path / "a", data_root=data_root, progress=False)
    pretrain(small("epochs=1"), tmp_path / "b", data_root=data_root, progress=False)
    assert len(compiled) == 1


@pytest.mark.slow
def test_a_compiled_run_ends_close_to_the_plain_one(tmp_path, data_root, small):
    states = []
    for flag in ("true", "false"):
        pretrain(
            small(f"compile={flag}", *EXACT),
            tmp_path / flag,
            data_root=data_root,
            progress=False,
            device="cpu",
        )
        states.append(_state(tmp_path / flag)["learner"])
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-7, atol=1e-9)


def test_every_line_of_the_log_has_what_a_reader_needs(tmp_path, data_root, small):
    pretrain(small(mast=True), tmp_path, data_root=data_root, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = ["crop", "flip", "color", "gray", "blur"]
    wanted = {"epoch", "lr", "loss", "invariance", "variance", "covariance", "open", "uncertainty"}
    wanted |= {f"mask_{name}" for name in names} | {f"std_{name}" for name in names}
    wanted |= {"mask_correlation", "masks_overlap", "masks_difference", "knn"}
    wanted |= {"feature_std", "feature_rank", "embedding_std", "embedding_rank"}
    assert len(lines) == 3
    for line in lines:
        assert line.keys() == wanted
    assert 0 <= lines[-1]["knn"] <= 1


def test_tensorboard_has_the_same_numbers_and_is_optional(tmp_path, data_root, small, monkeypatch):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pretrain(small(), tmp_path / "a", data_root=data_root, progress=False, log=["tensorboard"])
    found = event.EventAccumulator(str(tmp_path / "a" / "tensorboard"))
    found.Reload()
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert set(found.Tags()["scalars"]) == set(lines[0])
    for line, scalar in zip(lines, found.Scalars("loss"), strict=True):
        assert scalar.step == line["epoch"]
        assert scalar.value == pytest.approx(line["loss"], rel=1e-6)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="tensorboard is not installed"):
        pretrain(small(), tmp_path / "b", data_root=data_root, progress=False, log=["tensorboard"])
    assert not (tmp_path / "b").exists()


def test_asymmetric_views_reach_the_right_view(small):
    views = small("views.augmentations.blur.p=1", "views.second.blur.p=0", mast=True).views.build(seed=3)
    import numpy as np

    plan = views.draw(np.arange(2000), epoch=0)
    both = ~plan.single
    sigma = plan.params["blur"][..., 0]
    assert (sigma[0] > 0).all()
    assert (sigma[1][both] == 0).all()
    with pytest.raises(UserError, match="'solarize'"):
        small("views.second.solarize.p=0")


def test_the_bar_counts_images(tmp_path, data_root, small, monkeypatch):
    asked = {}
    real = mast.train.bar

    def bar(*args, **kwargs):
        asked.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(mast.train, "bar", bar)
    pretrain(small(), tmp_path, data_root=data_root, progress=False)
    assert asked["unit"] == "img"
    assert asked["total"] == 3 * 48
