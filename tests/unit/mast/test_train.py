"""A run is a pure function of its recipe: killed, stopped and resumed, it ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mast.train
from mast.checkpoint import read_published
from mast.errors import UserError
from mast.learner import Learner
from mast.rundir import hold
from mast.train import Interrupted, pretrain


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return read_published(path)[0]


def _assert_same(a: Path, b: Path) -> None:
    first, second = _weights(a), _weights(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("is_mast", [False, True])
def test_trains_and_publishes(tmp_path, data_root, small, is_mast):
    path = pretrain(small(mast=is_mast), tmp_path, data_root=data_root, progress=False)
    state, passport = read_published(path)
    assert "conv1.weight" in state
    assert not any(name.startswith("fc") for name in state)
    assert passport["arch"] == "resnet10-c16-half"
    assert passport["normalization"]["mean"] == [0.485, 0.456, 0.406]
    assert [line["epoch"] for line in passport["history"]] == [1, 2, 3]
    assert passport["history"][-1]["loss"] < passport["history"][0]["loss"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == passport["history"]


def test_a_rate_by_epochs_is_torchs_cosine(tmp_path, data_root, small):
    """AugSelf steps CosineAnnealingLR once an epoch; the log has the rate of each epoch's last step."""
    changes = ["optimizer.warmup_epochs=0", "optimizer.final_lr=0", "optimizer.rate_by=epoch"]
    path = pretrain(small(*changes), tmp_path, data_root=data_root, progress=False)
    found = [line["lr"] for line in read_published(path)[1]["history"]]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=found[0])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for rate in found:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "overrides",
    [
        ["masks.layout=own-closed", "masks.lr=0", "views.single_fraction=0", "views.all_but_fraction=0.5"],
        ["masks.layout=own-open", "weights.overlap=1", "weights.mass=0.5"],
        ["masks.level=features"],
    ],
)
def test_every_design_of_the_masks_trains(tmp_path, data_root, small, overrides):
    recipe = small("epochs=1", *overrides, mast=True)
    pretrain(recipe, tmp_path, data_root=data_root, progress=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)["learner"]
    start = Learner(recipe, ("crop", "flip", "color", "gray", "blur"))
    level = recipe.masks.level
    assert state["masks.logits"].shape == (5, 32 if level == "embedding" else start.backbone.feature_dim)
    assert ("variance.weight" in state) == (level == "embedding")
    before = torch.sigmoid(start.masks.logits).mean(1)
    after = torch.sigmoid(state["masks.logits"]).mean(1)
    assert (before - after).abs().max() < 0.05 if recipe.masks.lr == 0 else torch.isfinite(after).all()


def test_masks_that_do_not_learn_stay(tmp_path, data_root, small):
    fixed = ["masks.lr=0", "masks.spread=0", "masks.layout=own-closed", "masks.block=0.125"]
    pretrain(small(*fixed, mast=True), tmp_path, data_root=data_root, progress=False)
    masks = torch.load(tmp_path / "state.pt", weights_only=True)["learner"]["masks.logits"].sigmoid()
    closed = torch.zeros(5, 32, dtype=torch.bool)
    for k in range(5):
        closed[k, 4 * k : 4 * k + 4] = True
    torch.testing.assert_close(masks, torch.where(closed, 0.05, 0.9))


def test_masks_move_and_stay_masks(tmp_path, data_root, small):
    pretrain(small(mast=True), tmp_path, data_root=data_root, progress=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)["learner"]
    masks = torch.sigmoid(state["masks.logits"])
    assert masks.shape == (5, 32)
    assert 0 < masks.min() < masks.max() < 1
    assert (state["variance.weight"] != 0).any()


@pytest.mark.parametrize("is_mast", [False, True])
def test_stopped_at_any_step_and_resumed_ends_the_same(tmp_path, data_root, small, is_mast, monkeypatch):
    recipe = small("save_minutes=0", mast=is_mast)
    whole = pretrain(recipe, tmp_path / "whole", data_root=data_root, progress=False)
    real, calls = mast.train.learning_rate, []

    def stops(*args):
        calls.append(args)
        if len(calls) in (2, 4, 9):  # in the middle of an epoch, at its end, and once more
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(mast.train, "learning_rate", stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, tmp_path / "parts", data_root=data_root, progress=False)
    parts = pretrain(recipe, tmp_path / "parts", data_root=data_root, progress=False)
    assert len(calls) == 9 + 3  # nine steps, three of them asked for twice
    _assert_same(whole, parts)


def test_killed_and_resumed_ends_the_same(tmp_path, data_root, small):
    """SIGKILL at an arbitrary moment of a run that saves after every step."""
    recipe = small("save_minutes=0", "epochs=12", mast=True)
    program = (
        "import sys, json; from pathlib import Path; from mast.config import parse_recipe;"
        "from mast.train import pretrain;"
        "pretrain(parse_recipe(json.loads(sys.argv[1]), 'test'), Path(sys.argv[2]),"
        " data_root=Path(sys.argv[3]), progress=False)"
    )
    argument = json.dumps(recipe.model_dump(mode="json"))
    command = [sys.executable, "-c", program, argument, str(tmp_path / "killed"), str(data_root)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "state.pt").exists():
        assert time.monotonic() < deadline, "the run saved nothing"
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"]
    assert 0 < step < 36
    killed = pretrain(recipe, tmp_path / "killed", data_root=data_root, progress=False)
    whole = pretrain(recipe, tmp_path / "whole", data_root=data_root, progress=False)
    _assert_same(killed, whole)


def test_a_signal_saves_and_stops(tmp_path, data_root, small, monkeypatch):
    recipe = small()
    real = mast.train.learning_rate

    def signals(step, *args):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(step, *args)

    monkeypatch.setattr(mast.train, "learning_rate", signals)
    with pytest.raises(Interrupted, match="step 5 of 9"):
        pretrain(recipe, tmp_path, data_root=data_root, progress=False)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_not_run_again(tmp_path, data_root, small):
    first = pretrain(small(), tmp_path, data_root=data_root, progress=False)
    written = first.stat().st_mtime_ns
    assert pretrain(small(), tmp_path, data_root=data_root, progress=False).stat().st_mtime_ns == written


def test_keys_that_vicreg_does_not_read_make_no_other_recipe(tmp_path, data_root, small):
    first = pretrain(small(), tmp_path, data_root=data_root, progress=False)
    written = first.stat().st_mtime_ns
    again = small("uncertainty=true", "masks.start=0.9")
    assert pretrain(again, tmp_path, data_root=data_root, progress=False).stat().st_mtime_ns == written
    with pytest.raises(UserError, match='another recipe: method is "vicreg", asked is "mast"'):
        pretrain(
            small("method=mast", "views.single_fraction=0.5"), tmp_path, data_root=data_root, progress=False
        )


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, data_root, small):
    pretrain(small(), tmp_path, data_root=data_root, progress=False)
    with pytest.raises(UserError, match="another recipe"):
        pretrain(small("seed=1"), tmp_path, data_root=data_root, progress=False)


def test_a_folder_that_cannot_be_written_is_told_before_images_are_read(tmp_path, small):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is no folder that can be written to"):
        pretrain(small(), tmp_path / "file" / "out", data_root=tmp_path, progress=False)


def test_the_same_call_goes_on_and_fresh_begins_anew(tmp_path, data_root, small, monkeypatch, capsys):
    recipe = small("epochs=2", "save_minutes=0")
    real = mast.train.learning_rate
    steps = []

    def stops(step, *rest):
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return real(step, *rest)

    monkeypatch.setattr(mast.train, "learning_rate", stops)
    for fresh, first in ((False, 0), (False, 1), (True, 0)):
        steps.clear()
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, tmp_path, data_root=data_root, fresh=fresh)
        assert steps[0] == first
        assert ("going on from step 1 of" in capsys.readouterr().err) == (first == 1)
    monkeypatch.undo()
    path = pretrain(recipe, tmp_path, data_root=data_root)
    weights = path.read_bytes()
    assert "leaves out" not in capsys.readouterr().err  # three batches of 16 are all images
    pretrain(small("batch_size=20"), tmp_path / "other", data_root=data_root)
    assert "48 images in batches of 20: every epoch leaves out 8" in capsys.readouterr().err
    pretrain(recipe, tmp_path, data_root=data_root)
    assert "holds this run, finished; --fresh starts anew" in capsys.readouterr().err
    pretrain(
        small("epochs=2", "save_minutes=0", "seed=5"),
        tmp_path,
        data_root=data_root,
        progress=False,
        fresh=True,
    )
    assert path.read_bytes() != weights


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=1", "another recipe: seed is 0, asked is 1"),
        ("optimizer.base_lr=0.5", r"optimizer\.base_lr is .*, asked is 0\.5"),
        ("views.augmentations.flip.p=0.1", r"views\.augmentations\.flip"),
        ("epochs=9", "epochs is .*, asked is 9 .the rate falls until the last epoch"),
    ],
)
def test_what_makes_it_another_recipe_is_named(tmp_path, data_root, small, change, told):
    pretrain(small(), tmp_path, data_root=data_root, progress=False)
    with pytest.raises(UserError, match=told):
        pretrain(small(change), tmp_path, data_root=data_root, progress=False)


def test_a_run_is_made_longer_where_its_rate_allows(tmp_path, data_root, small):
    constant = "optimizer.final_lr=1"
    for folder, lengths in (("steps", (1, 3)), ("once", (3,))):
        for epochs in lengths:
            recipe = small(constant, f"epochs={epochs}")
            path = pretrain(recipe, tmp_path / folder, data_root=data_root, progress=False)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("steps", "once")]
    assert states[0]["step"] == states[1]["step"]
    for name, value in states[1]["learner"].items():
        assert torch.equal(value, states[0]["learner"][name]), name
    with pytest.raises(UserError, match="epochs is 3, asked is 2"):
        pretrain(small(constant, "epochs=2"), path.parent, data_root=data_root, progress=False)


def test_a_second_process_in_the_folder_is_told_so(tmp_path, data_root, small):
    with hold(tmp_path / "out"), pytest.raises(UserError, match="another `mast pretrain` is at work"):
        pretrain(small(), tmp_path / "out", data_root=data_root, progress=False)
    pretrain(small(), tmp_path / "out", data_root=data_root, progress=False)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "3", '{"name": 3}'])
def test_a_damaged_recipe_in_the_folder_is_one_line(tmp_path, data_root, small, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(UserError, match=r"recipe\.json: ") as caught:
        pretrain(small(), tmp_path, data_root=data_root, progress=False)
    assert "\n" not in str(caught.value)


def test_a_corrupt_image_is_named(tmp_path, data_root, small):
    root = tmp_path / "data"
    (root / "images" / "a").mkdir(parents=True)
    source = next((data_root / "images" / "a").glob("*.jpg")).read_bytes()
    for index in range(20):
        (root / "images" / "a" / f"{index}.jpg").write_bytes(source)
    bad = root / "images" / "a" / "7.jpg"
    bad.write_bytes(source[:200])
    with pytest.raises(UserError, match=r"7\.jpg"):
        pretrain(small(), tmp_path / "out", data_root=root, progress=False)


def test_too_few_images_missing_folder_damaged_state(tmp_path, data_root, small):
    with pytest.raises(UserError, match="do not fill a batch"):
        pretrain(small("batch_size=64"), tmp_path / "a", data_root=data_root, progress=False)
    with pytest.raises(UserError, match="no folder of images"):
        pretrain(small("data.folder=nowhere"), tmp_path / "b", data_root=data_root, progress=False)
    assert list(tmp_path.iterdir()) == []  # so that the corrected call is a first one
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "state.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"state\.pt"):
        pretrain(small(), tmp_path / "c", data_root=data_root, progress=False)


def test_a_diverging_run_stops_with_the_step(tmp_path, data_root, small):
    recipe = small("optimizer={name: sgd, base_lr: 1e12, weight_decay: 0, warmup_epochs: 0}")
    with pytest.raises(UserError, match="not finite at step"):
        pretrain(recipe, tmp_path, data_root=data_root, progress=False)
