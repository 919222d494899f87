"""Who is ahead: paired tests of all pairs, and what they leave open."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eval.numbers import depth, intervals, metrics, pairs, tests
from eval.results import compare, published, records, render, tables
from eval.results.records import Record
from eval.results.tables import Table

Make = Callable[..., Record]
RNG = np.random.default_rng(0)
HITS = RNG.random((4, 300)) < np.array([[0.4], [0.45], [0.6], [0.62]])


def write(place: Path, make_record: Make, arrays: dict[str, dict[str, object]], **more: object) -> Table:
    """A record with outcomes for each name; ``value`` may be among its arrays."""
    for number, (name, kept) in enumerate(arrays.items()):
        about = {"value": float(np.mean(kept["correct"]))} if "correct" in kept else {}
        about |= {key: kept.pop(key) for key in ("value", "seed", "trained") if key in kept}
        record = make_record(
            name=name.split("@")[0],
            weights=f"{number if '@' not in name else ord(name[0]) - 97:x}",
            outcomes=records.write_arrays(place, **kept),
            **(about | more),
        )
        records.append(place / "records" / "x.jsonl", record)
    return tables.read([place])


def test_all_pairs_at_once_are_the_tests_of_each_pair() -> None:
    values = RNG.random((4, 200))
    several, drawn, points = RNG.random((3, 4, 200)), RNG.random((3, 4, 500)), RNG.random((3, 4))
    for found, one in (
        (pairs.proportions(HITS), lambda i, j: tests.paired(HITS[i], HITS[j])),
        (pairs.means(values), lambda i, j: tests.means(values[i] - values[j])),
        (
            pairs.means(several, points),
            lambda i, j: tests.crossed(several[:, i] - several[:, j], points[:, i] - points[:, j]),
        ),
        (
            pairs.resampled(points[:1], drawn[:1]),
            lambda i, j: tests.resampled(points[:1, i] - points[:1, j], drawn[0, i] - drawn[0, j], kind="b"),
        ),
        (
            pairs.resampled(points, drawn),
            lambda i, j: tests.resampled(points[:, i] - points[:, j], drawn[:, i] - drawn[:, j], kind="b"),
        ),
    ):
        for i in range(4):
            for j in range(4):
                if i != j:
                    result = one(i, j)
                    assert found.differences[i, j] == pytest.approx(result.difference)
                    assert found.p_values[i, j] == pytest.approx(result.p_value)
                    assert found.detectable[i, j] == pytest.approx(result.detectable, rel=0.15)


def test_a_column_has_holms_correction_and_ranks_that_hold_at_once(tmp_path: Path, make_record: Make) -> None:
    table = write(tmp_path, make_record, {name: {"correct": HITS[i]} for i, name in enumerate("abcd")})
    (section,) = table.sections
    found = table.standings.of(section, section.columns[0])
    raw = {(i, j): tests.paired(HITS[i], HITS[j]) for i in range(4) for j in range(4) if i < j}
    for (i, j), p_value in zip(raw, tests.holm([r.p_value or 0 for r in raw.values()]), strict=True):
        assert found.adjusted[i, j] == found.adjusted[j, i] == pytest.approx(p_value)
    behind: dict[str, set[str]] = {name: set() for name in "abcd"}  # those that a corrected test puts ahead
    for (i, j), result in raw.items():
        if found.adjusted[i, j] < 0.05:
            worse, better = ("abcd"[i], "abcd"[j]) if result.difference < 0 else ("abcd"[j], "abcd"[i])
            behind[worse].add(better)
    assert {row.label for row in found.leaders} == {name for name in "abcd" if "d" not in behind[name]}
    assert {row.label: ends for row, ends in found.ranks.items()} == {
        name: (1 + len(ahead), 4 - sum(name in others for others in behind.values()))
        for name, ahead in behind.items()
    }
    text = render.render(table, "md")
    assert f"| d | **{100 * HITS[3].mean():.1f}**" in text
    assert f"| c | {100 * HITS[2].mean():.1f}≈" in text
    assert f"| a | {100 * HITS[0].mean():.1f} " in text
    assert "Paired over 300 test examples" in text
    assert f"| *detectable* | {100 * (found.detectable or 0):.1f} |" in text


def test_controls_and_published_numbers_have_no_rank_and_move_no_mark(
    tmp_path: Path, make_record: Make
) -> None:
    arrays = {"a": {"correct": HITS[0]}, "d": {"correct": HITS[3]}}
    before = render.render(write(tmp_path / "1", make_record, dict(arrays)), "md")
    control = {"random": {"correct": np.ones(300, dtype=bool), "trained": False}}
    write(tmp_path / "2", make_record, {**{n: dict(v) for n, v in arrays.items()}, **control})
    path = tmp_path / "p.csv"
    path.write_text(",".join(published.COLUMNS) + "\nx,y,z,top1,99,paper,cifar10 linear v1 top1\n")
    table = tables.read([tmp_path / "2"], more=[path])
    after = render.render(table, "md")
    for line in before.splitlines():
        assert line in after.splitlines()
    assert "| random (random control) | 100.0 " in after
    assert "| x y | 99.0[^1] |" in after
    assert [
        line.split(",")[8]
        for line in render.render(table, "csv").splitlines()
        if ",99" in line or ",0.99," in line
    ] == ["", ""]


def test_a_mean_over_classes_pairs_within_classes(tmp_path: Path, make_record: Make) -> None:
    labels = np.repeat([0, 1, 2], [150, 100, 50]).astype(np.int32)
    values = [np.mean([HITS[i][labels == c].mean() for c in range(3)]) for i in (0, 3)]
    table = write(
        tmp_path,
        make_record,
        {
            n: {"correct": HITS[i], "labels": labels, "value": float(v)}
            for n, i, v in zip("ad", (0, 3), values, strict=True)
        },
        metric="mean_per_class",
    )
    (line,) = compare.build(table.book, [("d", "a")]).lines
    result = line.results["d", "a"]
    delta = HITS[3].astype(float) - HITS[0]
    error = np.sqrt(sum(delta[labels == c].var(ddof=1) / (labels == c).sum() for c in range(3))) / 3
    assert result.difference == pytest.approx(values[1] - values[0])
    low, high = result.ends
    assert high is not None
    assert low is not None
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.02)


def test_average_precision_pairs_on_the_same_resamples(tmp_path: Path, make_record: Make) -> None:
    labels = (RNG.random((80, 3)) < 0.4).astype(np.int8)
    scores = [(labels + noise * RNG.normal(size=labels.shape)).astype(np.float32) for noise in (0.5, 3.0)]
    values = [metrics.METRICS["map_area"](s.astype(np.float64), labels) for s in scores]
    table = write(
        tmp_path,
        make_record,
        {
            n: {"scores": s, "labels": labels, "value": v}
            for n, s, v in zip("ab", scores, values, strict=True)
        },
        metric="map_area",
    )
    (line,) = compare.build(table.book, [("a", "b")]).lines
    counts = intervals.resample_counts(80, 1000, 0)
    drawn = [metrics.resampled("map_area", s.astype(np.float64), labels, counts) for s in scores]
    size, lacking = intervals.few((labels > 0).sum(0))
    expected = tests.resampled(
        [values[0] - values[1]], drawn[0] - drawn[1], size, lacking, kind="bootstrap-paired"
    )
    assert line.results["a", "b"] == expected
    assert expected.differs


def test_few_shot_differences_are_over_images_and_old_ones_are_named(
    tmp_path: Path, make_record: Make
) -> None:
    added = 0.02 * RNG.normal(size=(2, 1, 60)) + 0.002 * RNG.normal(size=(2, 2, 60))
    episodes = RNG.random((2, 400))
    arrays = {
        n: {"episodes": e, "contributions": c.astype(np.float32), "value": float(e.mean())}
        for n, e, c in zip("ab", episodes, added, strict=True)
    }
    table = write(tmp_path / "new", make_record, arrays, protocol="fewshot")
    found = compare.build(table.book, [("a", "b")])
    (line,) = found.lines
    kept = added.astype(np.float32).astype(np.float64)
    delta = episodes[0] - episodes[1]
    expected = tests.pooled(float(delta.mean()), kept[0] - kept[1], delta)
    assert line.results["a", "b"].ends == pytest.approx(expected.ends)
    low, high = line.results["a", "b"].ends
    assert low is not None
    assert high is not None
    # Much wider than over episodes alone: 60 images differ by .028 each.
    assert (high - low) / 2 == pytest.approx(2.0 * np.sqrt(60 * 2 * 0.02**2 + delta.var() / 400), rel=0.2)

    old = {
        n: {"episodes": e, "value": 0.5 + 0.1 * i}
        for i, (n, e) in enumerate(zip("ab", episodes, strict=True))
    }
    table = write(tmp_path / "old", make_record, old, protocol="fewshot")
    found = compare.build(table.book, [("a", "b")])
    assert found.lines == []
    assert "a - b, the records keep episodes of one pool alone" in compare.left_out(found)[0]


def test_all_shared_seeds_are_paired_and_both_sources_of_variation_count(
    tmp_path: Path, make_record: Make
) -> None:
    arrays = {}
    for seed in range(3):
        for number, name in enumerate("ab"):
            hits = RNG.random(200) < 0.5 + 0.1 * number
            arrays[f"{name}@{seed}"] = {"correct": hits, "seed": seed}
    kept = {name: dict(value) for name, value in arrays.items()}
    table = write(tmp_path, make_record, arrays)
    (line,) = compare.build(table.book, [("b", "a")]).lines
    deltas = np.array(
        [kept[f"b@{s}"]["correct"].astype(float) - kept[f"a@{s}"]["correct"] for s in range(3)]  # type: ignore[attr-defined]
    )
    expected = tests.crossed(deltas, deltas.mean(1))
    assert line.results["b", "a"].ends == pytest.approx(expected.ends)
    assert line.results["b", "a"].p_value == pytest.approx(expected.p_value)
    (section,) = table.sections
    found = table.standings.of(section, section.columns[0])
    assert found.adjusted[0, 1] == pytest.approx(line.results["b", "a"].p_value)


def test_missing_outcomes_leave_rows_unpaired_and_altered_ones_are_an_error(
    tmp_path: Path, make_record: Make
) -> None:
    table = write(tmp_path, make_record, {n: {"correct": HITS[i]} for i, n in enumerate("ab")})
    for path in (tmp_path / "outcomes").iterdir():
        path.unlink()
    assert "Not paired: cifar10 top1 (the outcomes files are not there)." in render.render(table, "md")


METRICS = ("top1", "mean_per_class", "map_area", "ece", "delta1", "fewshot")


def outcomes(
    metric: str, hits: np.ndarray, drawn: np.random.Generator, classes: np.ndarray
) -> dict[str, object]:
    """What a record keeps where these examples were right, and its value."""
    right, labels = hits.astype(float), classes
    if metric == "top1":
        return {"correct": hits, "value": right.mean()}
    if metric == "mean_per_class":
        value = np.mean([right[labels == label].mean() for label in np.unique(labels)])
        return {"correct": hits, "labels": labels.astype(np.int32), "value": value}
    if metric == "map_area":
        marks = np.stack([labels == 0, labels == 1], 1).astype(np.int8)
        scores = np.where(hits[:, None], marks, 1 - marks) + drawn.choice([0.0, 0.4]) * drawn.normal(
            size=marks.shape
        )
        scores = scores.astype(np.float32)
        return {
            "scores": scores,
            "labels": marks,
            "value": metrics.METRICS["map_area"](scores.astype(float), marks),
        }
    if metric == "ece":
        sure = drawn.random(len(hits)).astype(np.float32)
        return {
            "correct": hits,
            "confidence": sure,
            "value": float(metrics.calibration_error(sure.astype(float), hits)),
        }
    if metric == "delta1":
        kept = np.zeros((len(hits), len(depth.NAMES)), dtype=np.float32)
        kept[:, depth.NAMES.index("delta1")] = np.where(hits, 0.75, 0.25)
        return {"depth": kept, "value": kept[:, depth.NAMES.index("delta1")].mean()}
    episodes = right[: len(hits) // 2 * 2].reshape(-1, 2).mean(1)
    added = ((right - right.mean()) / len(right) * np.ones((2, 1))).astype(np.float32)
    return {"episodes": episodes, "contributions": added, "value": episodes.mean()}


@pytest.mark.parametrize("metric", METRICS)
def test_the_bold_the_p_value_and_the_interval_decide_alike(
    tmp_path: Path, make_record: Make, metric: str
) -> None:
    """Two checkpoints, few or many examples, one to three seeds of which some have the same outcomes, and ties."""
    found = [0, 0]
    for trial in range(34):
        drawn = np.random.default_rng([trial, METRICS.index(metric)])
        number = int(drawn.choice([100, 160] if metric == "ece" else [4, 6, 9, 14, 20, 40, 120]))
        seeds, alike = int(drawn.integers(1, 4)), drawn.random(2) < 0.4
        hard, classes = drawn.random(number), drawn.permutation(np.arange(number) % 3)
        rate = drawn.uniform(0.3, 1.0, 2) if trial % 4 else drawn.uniform(0.3, 1.0, 1).repeat(2)
        base = [(hard < one) ^ (drawn.random(number) < 0.1) for one in rate]
        made: dict[str, dict[str, object]] = {}
        for side, name in enumerate("ab"):
            first = outcomes(metric, base[0 if trial % 7 == 0 else side], drawn, classes)
            for seed in range(seeds):
                again = base[side] ^ (drawn.random(number) < 0.1)
                kept = first if seed == 0 or alike[side] else outcomes(metric, again, drawn, classes)
                made[f"{name}@{seed}"] = {**kept, "value": float(kept["value"]), "seed": seed}  # type: ignore[arg-type]
        of = "top1" if metric == "fewshot" else metric
        table = write(tmp_path / str(trial), make_record, made, metric=of)
        (section,) = table.sections
        standing = table.standings.of(section, section.columns[0])
        comparison = compare.build(table.book, [("a", "b")])
        if not comparison.lines:
            assert np.isnan(standing.adjusted).all()
            continue
        result = comparison.lines[0].results["a", "b"]
        told, (line,) = standing.adjusted[0, 1], csv.DictReader(io.StringIO(compare.as_csv(comparison)))
        found[result.differs] += 1
        if result.p_value is None:
            assert np.isnan(told)
            assert not line["p"] + line["low"] + line["high"]
        else:
            assert told == pytest.approx(result.p_value, rel=1e-6, abs=1e-9)
            assert float(line["p"]) == pytest.approx(told, abs=1e-6)
            assert result.differs == (told < 0.05)
        means = [float(line[f"mean_{side}"]) for side in ("first", "second")]
        assert means == pytest.approx(standing.values.tolist(), abs=1e-6)
        assert float(line["difference"]) == pytest.approx(means[0] - means[1], abs=2e-6)
        best = "ab"[int(np.argmax(standing.values))]
        marked = {row.label for row in standing.leaders}
        assert marked == ({best} if result.differs else set())
        rows = [line for line in render.render(table, "md").splitlines() if line.startswith(("| a", "| b"))]
        assert ("**" in "".join(rows), "≈" in "".join(rows)) == (result.differs, False)
        assert ("| **" in compare.markdown(comparison)) == result.differs
        span = (float(line["low"] or -1), float(line["high"] or 1))
        assert (span[0] > 0 or span[1] < 0) == result.differs
    assert min(found) > 1  # of both kinds
