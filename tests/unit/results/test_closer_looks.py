"""Closer looks: they hold what the sources say, are there only where there is something, and work in a browser."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from eval import scenes, tasks
from eval.errors import UserError
from eval.results import records, report, tables, views
from eval.results.records import Record
from mast.checkpoint import save_state
from mast.config import load_recipe
from mast.files import canonical_json
from mast.learner import Learner
from tests.unit.results.browser import CHROMIUM, NASTY, TELL, browse

Make = Callable[..., Record]
SMALL = ("expander=[8, 8]", "arch=resnet10-c16-half")
FACTORS = ("hue", "scale", "blur")
HISTORY = [
    {"epoch": 1, "loss": 3.0, "knn": 0.2, "mask_crop": 0.9},
    {"epoch": 2, "loss": 2.0, "mask_crop": 0.8},
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def write_records(place: Path, made: list[Record]) -> None:
    path = place / "records" / "x.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(canonical_json(one.to_json()) + "\n" for one in made), encoding="utf-8")


def write_run(folder: Path) -> Learner:
    """A pretraining run's recipe and state, with masks of known values."""
    recipe = load_recipe(
        "demo", ["method=mast", "views.single_fraction=0.5", "expander=[8, 8]", "arch=resnet10-c16-half"]
    )
    parts = recipe.views.build(recipe.seed)
    learner = Learner(recipe, parts.names, parts.widths)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    save_state(folder / "state.pt", {"learner": learner.state_dict()})
    return learner


def write_passport(place: Path, record: Record) -> None:
    folder = place / "passports"
    folder.mkdir(exist_ok=True)
    name = f"{record.checkpoint.name}-{(record.checkpoint.weights_sha256 or '')[:12]}.json"
    content = {"name": record.checkpoint.name, "extra": {"history": HISTORY}}
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def looks(page: Path) -> dict[str, Any]:
    found = re.search(r'id="looks-data">([^<]*)<', page.read_text(encoding="utf-8"))
    if found is None:
        return {}
    value = json.loads(gzip.decompress(base64.b64decode(found[1])))
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest embedded data set."""
    pytest.importorskip("detectron2", reason="needs Detectron2")
    root = tmp_path_factory.mktemp("scenes")
    scenes.write(root, size="test")
    return root


@pytest.fixture
def place(tmp_path: Path, make_record: Make) -> Path:
    """Two checkpoints and a control on factor tasks, one of them with a training history; a MAST run beside them."""
    rng, made = np.random.default_rng(0), []
    for name, weights, share in (("net", "a", 0.8), (NASTY, "b", 0.5), ("random", "c", 0.3)):
        for factor in FACTORS:
            hits = rng.random(400) < share
            value = float(hits.mean())
            made.append(
                make_record(
                    name=name,
                    weights=weights,
                    trained=name != "random",
                    task=f"tinyimagenet_20-{factor}",
                    value=value,
                    interval=(value - 0.05, value + 0.05),
                    outcomes=records.write_arrays(tmp_path, correct=hits),
                )
            )
    write_records(tmp_path, made)
    write_passport(tmp_path, made[0])
    write_run(tmp_path / "pretrain" / "mast5")
    report.write(tables.read([tmp_path], title="Looks"), tmp_path, tmp_path / "report.html")
    return tmp_path


def test_each_look_holds_what_its_source_says(place: Path) -> None:
    found = looks(place / "report.html")
    assert sorted(found) == ["masks", "profile", "training"]
    assert found["training"] == {
        "net": {"epoch": [1, 2], "loss": [3.0, 2.0], "knn": [0.2, None], "mask_crop": [0.9, 0.8]}
    }
    (profile,) = found["profile"]
    assert [column[1:] for column in profile["columns"]] == [
        [factor, "tinyimagenet_20", chance]
        for factor, chance in sorted(zip(FACTORS, (25.0, 33.3, 25.0), strict=True))
    ]
    (run,) = found["masks"]
    assert run["name"] == "mast5"
    assert run["dimensions"] == 8
    assert len(run["open"]) == len(run["augmentations"]) == len(run["correlation"]) == len(run["kept"])


def test_closed_parts_correlate_as_numpy_says(tmp_path: Path) -> None:
    learner = write_run(tmp_path / "a")
    ((run,), problems) = views.masks(tmp_path)
    assert problems == []
    assert learner.masks is not None
    values = learner.masks.masks().detach().double().numpy()
    assert run["open"] == pytest.approx(values.mean(1), rel=1e-3)
    for i, row in enumerate(run["correlation"]):
        for j, value in enumerate(row):
            if values[i].std() > 0 < values[j].std():
                expected = np.corrcoef(1 - values[i], 1 - values[j])[0, 1]
                assert value == pytest.approx(expected, abs=1e-3)
            else:
                assert value is None


def test_a_damaged_run_is_told_and_other_folders_are_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path / "whole")
    write_run(tmp_path / "damaged")
    (tmp_path / "damaged" / "state.pt").write_bytes(b"nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.pt").write_bytes(b"nothing")
    found, problems = views.masks(tmp_path)
    assert [run["name"] for run in found] == ["whole"]
    (told,) = problems
    assert told.startswith("masks of damaged: ")


def test_where_there_is_nothing_to_look_at_there_is_no_look(tmp_path: Path, make_record: Make) -> None:
    write_records(tmp_path, [make_record(value=0.5)])
    report.write(tables.read([tmp_path], title="Plain"), tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert looks(tmp_path / "report.html") == {}
    assert "data-look=" not in text
    assert "Closer looks" not in text


@needs_chromium
def test_looks_open_by_keyboard_and_answer(place: Path) -> None:
    told = browse(
        place / "report.html",
        TELL
        + """
const found = { closed: all('#looks svg').length };
for (const name of ['profile', 'training', 'masks']) {
  const part = document.querySelector(`[data-look=${name}]`);
  part.querySelector('summary').focus(); found.focus = document.activeElement.tagName;
  part.open = true; await wait(() => part.querySelector('svg'));
}
const texts = (id) => all(`#${id} text`).map((t) => t.textContent);
found.profile = texts('profile');
found.base = document.getElementById('profile-base').selectedOptions[0].textContent;
set('profile-base', '1'); found.paired = texts('profile'); found.bold = all('#profile text[font-weight]').length;
set('profile-base', '0'); found.itself = texts('profile').filter((t) => t.includes('p ')).length;
found.quantities = all('#training-name option').map((o) => o.textContent);
found.dots = all('#training circle').length;
set('training-name', '1'); found.knn = all('#training circle').length;
set('training-words', 'nobody'); found.nobody = document.getElementById('training').textContent;
found.masks = all('#masks rect').length; found.page = document.title;
return found;
""",
    )
    assert told["closed"] == 0
    assert told["focus"] == "SUMMARY"
    profile = told["profile"]
    assert isinstance(profile, list)
    assert set(FACTORS) <= set(profile)
    # Controls are in no test.
    assert sum(re.fullmatch(r"\+\d+\.\d", text) is not None for text in profile) == 3
    paired = told["paired"]
    assert isinstance(paired, list)
    assert sum(re.match(r"−\d+\.\d, p [<≈] ", text) is not None for text in paired) == 3
    assert told["bold"] == 3
    assert told["base"] == "random"
    assert told["itself"] == 0
    assert told["quantities"] == ["loss", "knn", "mask crop"]
    assert (told["dots"], told["knn"], told["nobody"]) == (2, 1, "No checkpoint fits.")
    assert told["masks"]
    assert told["page"] == "Looks"


# ------------------------------------------------------------------------------------------------------ detections


def detection_records(place: Path, make_record: Make, data_root: Path) -> list[Record]:
    """One detector that finds every object, and one that finds none of the first image and doubles the others."""
    from detectron2.structures import BoxMode

    data = tasks.get("scenes-voc").open(data_root).drawn()
    made = []
    for name, weights in (("good", "a"), (NASTY, "b")):
        images = []
        for number, entry in enumerate(data.test.dicts):
            boxes = [
                {
                    "category": one["category_id"],
                    "bbox": [
                        float(v)
                        for v in BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYWH_ABS)
                    ],
                    "score": 0.9,
                }
                for one in entry["annotations"]
                if not one.get("iscrowd", 0)
            ]
            if name != "good":
                boxes = [] if number == 0 else [*boxes, *({**box, "score": 0.5} for box in boxes)]
            images.append({"image_id": entry["image_id"], "detections": boxes})
        kept = records.write_json(place, {"classes": list(data.classes), "images": images})
        value = 1.0 if name == "good" else 0.9
        made.append(
            make_record(
                name=name,
                weights=weights,
                task="scenes-voc",
                metric="box_ap50",
                protocol="coco-frozen-fpn",
                value=value,
                interval=None,
                outcomes=kept,
            )
        )
    return made


@needs_chromium
def test_errors_of_detectors_are_paired_and_drawn(
    tmp_path: Path, make_record: Make, scenes_root: Path
) -> None:
    made = detection_records(tmp_path, make_record, scenes_root)
    write_records(tmp_path, made)
    page = tmp_path / "report.html"
    report.write(tables.read([tmp_path], title="Errors"), tmp_path, page, data_root=scenes_root)
    (group,) = looks(page)["errors"]
    assert [one["label"] for one in group["detectors"]] == [f"{NASTY}, seed 0", "good, seed 0"]
    bad, good = (dict(zip(group["types"], one["values"], strict=True)) for one in group["detectors"])
    assert good["ap"][0] == 100.0
    assert good["missed"][4] == good["duplicate"][4] == 0
    assert bad["missed"][4] > 0 < bad["duplicate"][4]
    pairs = dict(zip(group["types"], group["pairs"]["0 1"], strict=True))
    assert pairs["ap"][0] == pytest.approx(bad["ap"][0] - good["ap"][0], abs=0.02)
    assert pairs["ap"][1] <= pairs["ap"][0] <= pairs["ap"][2]
    assert 0 < len(group["images"]) <= views.PICTURES
    for image in group["images"]:
        content = base64.b64decode(image["jpeg"])
        assert Image.open(io.BytesIO(content)).size == (image["width"], image["height"])
        assert max(image["width"], image["height"]) <= views.SIDE
    told = browse(
        page,
        TELL
        + """
const part = document.querySelector('[data-look=errors]'); part.open = true;
await wait(() => part.querySelector('svg'));
const found = { rows: all('#errors-types tbody tr').length, images: all('#errors-images image').length };
set('errors-one', '1'); set('errors-other', '1');
found.swapped = [...all('#errors-types tbody tr')[0].cells].map((c) => c.textContent);
set('errors-one', '0'); set('errors-other', '2');
found.heads = all('#errors-types th[scope=col]').map((t) => t.textContent);
found.ap = [...all('#errors-types tbody tr')[0].cells].map((c) => c.textContent);
found.paired = all('#errors-images image').length; found.tags = all('#errors-images .tag').length;
found.caption = all('#errors-images figcaption')[0].textContent;
found.bad = all('img[onerror], img[src="x"]').length; found.page = document.title;
return found;
""",
    )
    assert told["rows"] == len(group["types"])
    assert told["images"] == len(group["images"])
    assert told["paired"] == 2 * len(group["images"])
    assert told["heads"] == ["error", "count", "costs", "share", "costs good, seed 0", "difference"]
    assert str(told["ap"][-1]).startswith("−")  # type: ignore[index]
    assert str(told["swapped"][-1]).startswith("+")  # type: ignore[index]
    assert told["tags"]
    assert "duplicate" in str(told["caption"])
    assert (told["bad"], told["page"]) == (0, "Errors")


def test_detections_of_other_images_are_left_out(
    tmp_path: Path, make_record: Make, scenes_root: Path
) -> None:
    (record, _) = detection_records(tmp_path, make_record, scenes_root)
    other = records.write_json(tmp_path, {"classes": ["cat"], "images": []})
    write_records(tmp_path, [msgspec.structs.replace(record, outcomes=other)])
    assert views.errors(records.read([tmp_path]), scenes_root) == []


def test_errors_need_the_outcomes_files(tmp_path: Path, make_record: Make, scenes_root: Path) -> None:
    (record, _) = detection_records(tmp_path, make_record, scenes_root)
    write_records(tmp_path, [record])
    for path in (tmp_path / "outcomes").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="missing"):
        views.errors(records.read([tmp_path]), scenes_root)


def test_a_figure_in_a_dark_page_has_the_page_s_colours(place: Path) -> None:
    text = (place / "report.html").read_text(encoding="utf-8")
    figures = [
        base64.b64decode(found).decode() for found in re.findall(r'data:image/svg\+xml;base64,([^"]+)', text)
    ]
    assert figures
    for figure in figures:
        assert "prefers-color-scheme: dark" in figure
        assert "fill: #ffffff" not in figure
        assert figure.count("#1f2430") == 1  # where the colour is given its name
        assert "var(--ink)" in figure


def test_pictures_of_a_place_are_found_and_what_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(("train", "test")):
        Image.new("RGB", (64, 48), (90 * number, 50, 50)).save(tmp_path / "pictures" / f"{name}.png")
        content = {
            "images": [{"id": 1, "file_name": f"{name}.png", "width": 64, "height": 48}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "iscrowd": 0, "area": 400}
            ],
            "categories": [{"id": 1, "name": "box"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    task = f"coco:{tmp_path}/train.json,{tmp_path}/test.json,{tmp_path}/pictures"
    assert not isinstance(views.gallery(task, tmp_path, side=64, score=0.3), str)
    (tmp_path / "test.json").unlink()
    told = views.gallery(task, tmp_path, side=64, score=0.3)
    assert isinstance(told, str)
    assert "test.json is missing" in told
    own = views.gallery("my-task", tmp_path, side=64, score=0.3)
    assert own == "this task is a file of your own; give its folder as --include"
    with pytest.raises(UserError):
        views.gallery("voc07", tmp_path, side=64, score=0.3)
