"""The report holds what the run left, escapes all of it, and works on runs that are not whole."""

import json
import math
import re

import numpy as np
import pytest
from report_pages import EVIL, Outline, opened, run

from vmae_jax.eval import charts, reconstruction, report
from vmae_jax.eval.charts import Series
from vmae_jax.eval.records import read
from vmae_jax.spec import ConfigError
from vmae_jax.types import Pictures


def test_the_summary(tmp_path):
    page = opened(run(tmp_path / "vit-b", events=[{"kind": "event", "step": 20, "event": "saved"}]))
    for words in (
        "vit-b",
        "not finished",
        "of 60, 50%",
        "1,920 videos",
        "0.03333",
        "lowest 0.03333 at step 30",
        "1,230 clips/s",
    ):
        assert words in page.text, words
    for words in ("0.25 s per step", "2% the data keep up", "8 x TPU v5e", "step 20"):
        assert words in page.text, words
    assert "vit-b · vmae report" in page.words


@pytest.mark.parametrize(
    ("steps", "event", "status"),
    [(60, None, "done"), (30, "preempted", "preempted"), (30, "not finite", "stopped"), (30, None, "not finished")],
)
def test_the_status(tmp_path, steps, event, status):
    events = [{"kind": "event", "step": steps, "event": event}] if event else []
    page = opened(run(tmp_path, steps=steps, events=events))
    assert page.words[page.words.index(status)] == status


def test_a_run_that_was_asked_to_stop_between_two_rows_reports_where_it_goes_on(tmp_path):
    page = opened(run(tmp_path, steps=30, events=[{"kind": "event", "step": 34, "event": "preempted"}]))
    assert page.words[page.words.index("Steps") + 1] == "34"


def test_wall_time_is_reported_by_kind_and_adds_up(tmp_path):
    spent = {"trained": 60.0, "compiled": 20.0, "saved": 10.0, "lost": 7.5, "down": 2.5}
    events = [{"kind": "event", "step": 9, "event": "time spent", "trained": 1.0}]
    events += [{"kind": "event", "step": 30, "event": "time spent", **spent}]
    words = " ".join(opened(run(tmp_path / "run", events=events)).words)
    assert "1.7 min since the first start" in words
    for text in ("60.0 s", "60.0%", "20.0%", "10.0%", "7.5%", "2.5%"):
        assert text in words
    assert "Wall time" not in " ".join(opened(run(tmp_path / "without")).words)


def test_curves(tmp_path):
    events = [{"kind": "eval", "step": s, "knn/top1": s / 100} for s in (10, 20, 30)]
    events += [
        {"kind": "event", "step": 12, "event": "resumed"},
        {"kind": "train", "step": 29, "loss": "NaN", "loss/pixels": "NaN"},
    ]
    page = opened(run(tmp_path, events=events, mfu=0.4, psnr=20.0, param_norm=80.0))
    titles = [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Norm of the parameters",
        "Speed",
        "Share of time waiting for data",
        "Model FLOPs utilisation",
    ]
    for title in [*titles, "psnr", "knn/top1", "1 not finite, the first at step 29", "resumed at step 12"]:
        assert title in page.text, title
    assert "Terms of the loss" not in page.text  # one term, the same as the loss
    data = [json.loads(attrs["data-chart"] or "") for _, attrs in page.tags if "data-chart" in attrs]
    assert len(data) == 9
    loss = dict(map(tuple, data[0]["series"][0]["points"]))
    assert loss[4] == 0.25
    assert loss[29] is None


def test_everything_is_escaped(tmp_path):
    path = run(
        tmp_path / "x",
        events=[{"kind": "event", "step": 1, "event": EVIL, EVIL: EVIL}],
        **{EVIL: 1.0, f"loss/{EVIL}": 2},
    )
    (path / "config.json").write_text(json.dumps({EVIL: [EVIL], "method": {"call": EVIL}}))
    (path / "quarantine.jsonl").write_text(json.dumps({"path": EVIL, "reason": EVIL}) + "\n")
    video = np.zeros((1, 2, 16, 16, 3), np.uint8)
    reconstruction.save(Pictures.of({EVIL: video}, borrowed=(EVIL,)), path / "media" / "a'\"<b>_3.png")
    page = opened(path)
    assert [attrs.get("src") for tag, attrs in page.tags if tag == "script"] == [None]
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 1
    assert (images[0]["src"] or "").startswith("data:image/png;base64,")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 6  # as text


def test_nothing_is_asked_of_a_network(tmp_path):
    page = opened(run(tmp_path))
    text = report.write(tmp_path).read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "@import" not in text
    assert "url(" not in text
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'; img-src data:")


def test_pictures_state_what_they_borrow(tmp_path):
    path = run(tmp_path)
    video = np.zeros((1, 2, 16, 16, 3), np.uint8)
    rows = {"original": video, "reconstructed, true": video, "reconstructed": video}
    for step in range(100, 1100, 100):
        reconstruction.save(Pictures.of(rows, borrowed=("reconstructed, true",)), path / "media" / f"r_{step:06d}.png")
    (path / "media" / "broken_5000.png").write_bytes(b"\x89PNG no")
    (path / "media" / "notes.txt").write_text("not a picture")
    page = opened(path)
    titles = [word for word in page.words if re.fullmatch(r"Step [\d,]+", word)]
    assert titles == ["Step 1,000", "Step 900", "Step 800", "Step 700", "Step 600", "Step 500", "Step 100"]
    assert "4 more in media/" in page.text
    assert "“reconstructed, true” uses the true mean and std of each hidden patch" in page.text
    assert "“reconstructed” uses nothing hidden" in page.text


def test_missing_empty_and_partial_runs(tmp_path):
    with pytest.raises(ConfigError, match="no such folder; --workdir"):
        report.write(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no metrics yet" in opened(empty).text
    (empty / "config.json").write_text("{")
    (empty / "metrics.jsonl").write_bytes(b'[1]\n\xff\n{"kind": "train", "step": 3, "loss": 0.5}\n{"kind": "tra')
    page = opened(empty)
    assert "config.json is not a config" in page.text
    assert "metrics.jsonl: 2 lines could not be read" in page.text
    assert "0.5" in page.text
    (empty / "metrics.jsonl").write_text(
        '{"kind": "train", "step": "x"}\n{"kind": "train"}\n'
        '{"kind": "train", "step": 1, "loss": {"a": 1}, "grad_norm": null}\n'
        '{"kind": "event", "step": 1, "event": null, "time": "later", "steps": "many", "devices": 8}\n'
    )
    assert "not finished" in opened(empty).text


def test_length_from_the_config(tmp_path):
    run(tmp_path, length=None)
    for config, steps in [
        ({"train": {"length": {"steps": 40}}}, 40),
        ({"train": {"length": {"examples": 100}}, "data": {"global_batch": 8}}, 13),
        ({"train": {"length": {"epochs": 3}}}, None),
        ({"train": "odd"}, None),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert read(tmp_path).length == steps


def test_parts_of_a_bucket_are_read_in_order(tmp_path):
    parts = tmp_path / "metrics.jsonl"
    parts.mkdir()
    for number in (1, 0):
        (parts / f"part-{number:05d}.jsonl").write_text(
            json.dumps({"kind": "train", "step": number, "loss": 1.0}) + "\n"
        )
    assert [row["step"] for row in read(tmp_path).train] == [0, 1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (0.12345678, "0.1235"), (1.5e-4, "1.5e-4"), (-2.5e-7, "-2.5e-7"),
     (12345.6, "12,346"), (math.nan, "not finite"), (3.0, "3"), (1e20, "100,000,000,000,000,000,000")],
)  # fmt: skip
def test_numbers(value, text):
    assert charts.compact(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.47), (1e-6, 1.5e-4), (-3, 900), (1e9, 1e9 + 5), (0, 1e-12)])
def test_ticks_cover_and_are_few(low, high):
    levels = charts.ticks(low, high, 4)
    assert levels[0] <= low + 1e-9 * abs(high)
    assert levels[-1] >= high - 1e-9 * abs(high)
    assert 3 <= len(levels) <= 8
    assert np.allclose(np.diff(levels), levels[1] - levels[0], rtol=1e-6)


def test_long_curves_keep_their_peaks():
    points = [(step, math.sin(step / 700) + (9.0 if step == 4321 else 0.0)) for step in range(100_000)]
    points[777] = (777, math.nan)
    thin = charts.reduce_points(points)
    assert len(thin) <= 420
    assert thin[0] == points[0]
    assert thin[-1] == points[-1]
    assert points[4321] in thin
    assert [step for step, value in thin if math.isnan(value)] == [777]
    assert [step for step, _ in thin] == sorted({step for step, _ in thin})


def test_charts_of_odd_series():
    assert charts.chart("none", []) == ""
    assert charts.chart("none", [Series("a", []), Series("b", [(1, math.nan)])]) == ""
    for points in (
        [(5, 0.0)],
        [(5, 2.0), (9, 2.0)],
        [(1, -1.0), (2, math.inf), (3, -1e-30)],
        [(0, 1e300), (1, -1e300)],
    ):
        text = charts.chart("odd", [Series("a", points)])
        Outline(text)
        assert "nan" not in text.lower().replace("not finite", "")


def test_the_newest_evaluation_is_shown_with_its_pictures(tmp_path):
    from vmae_jax.eval import figures

    for step, folder in ((10, "00000010"), (20, "00000020")):
        run(tmp_path / "run")
        (tmp_path / "run" / "eval" / folder).mkdir(parents=True)
        content = figures.png(figures.confusion(np.eye(3, dtype=int) * step))
        (tmp_path / "run" / "eval" / folder / "test_confusion.png").write_bytes(content)
        (tmp_path / "run" / "eval" / folder / "test_<b>.csv").write_text("class\n")
    (tmp_path / "run" / "eval" / folder / "broken.png").write_bytes(b"no picture")
    outline = Outline(report.write(tmp_path / "run").read_text())
    assert "Mistakes and confidence" in outline.text
    assert "test confusion" in outline.text
    assert "Tables in eval/00000020/: test_<b>.csv" in outline.text
    [image] = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert image["alt"] == "test_confusion.png"


def test_single_values_are_a_table_and_changing_ones_charts(tmp_path):
    events = [{"kind": "eval", "step": 30, "knn/top1": 0.25, "knn/videos": 64.0, "held_out/loss": 0.5}]
    events += [{"kind": "eval", "step": 10, "held_out/loss": 0.75, "knn/videos": 64.0}]
    page = opened(run(tmp_path, events=events))
    drawn = [json.loads(attrs["data-chart"] or "") for _, attrs in page.tags if "data-chart" in attrs]
    names = [one["name"] for chart in drawn for one in chart["series"]]
    assert "held_out/loss" in names
    assert not {"knn/top1", "knn/videos"} & set(names)
    assert all(len(one["points"]) > 1 for chart in drawn for one in chart["series"])
    assert "knn/top1 0.25 30" in page.text
    assert "knn/videos 64 10 to 30" in page.text


def test_a_run_with_one_row_draws_no_chart(tmp_path):
    page = opened(run(tmp_path, steps=1))
    assert not [attrs for _, attrs in page.tags if "data-chart" in attrs]
    assert "grad_norm 1 1" in page.text


def test_how_it_was_started(tmp_path):
    path = run(tmp_path)
    first = {"id": "a", "step": 0, "time": 1.7e9, "command": "vmae train --first", "commit": "0123abc"}
    second = first | {"step": 20, "command": f"vmae train {EVIL}", "versions": {"jax": "0.10.2", EVIL: "1"}}
    (path / "environment.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    page = opened(path)
    for words in ("How it was started", f"vmae train {EVIL}", "0123abc", "jax 0.10.2", "1 earlier starts"):
        assert " ".join(words.split()) in page.text, words
    assert "vmae train --first" in page.text


def test_broken_videos_are_linked_from_the_top_and_the_list_is_named(tmp_path):
    path = run(tmp_path)
    (path / "quarantine.jsonl").write_text(json.dumps({"path": "videos/cut off.mp4", "reason": "moov"}) + "\n")
    page = opened(path)
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["#broken"]
    assert [tag for tag, attrs in page.tags if attrs.get("id") == "broken"] == ["section"]
    assert f"The list as a file: {path}/quarantine.jsonl" in page.text
    assert page.text.index("cut off.mp4") < page.text.index("Events")


def test_broken_videos_are_listed_where_no_step_was_done(tmp_path):
    (tmp_path / "quarantine.jsonl").write_text(json.dumps({"path": "a.mp4", "reason": "moov"}) + "\n")
    page = opened(tmp_path)
    assert "no metrics yet" in page.text
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["#broken"]


def test_warnings_stand_at_the_top_once(tmp_path):
    warning = {"kind": "event", "step": 0, "event": "warning", "message": f"too few {EVIL}"}
    page = opened(run(tmp_path, events=[warning, warning]))
    assert page.text.count("too few") == 1
    assert page.text.index("too few") < page.text.index("Training")


def test_pictures_are_named_after_their_videos(tmp_path):
    path = run(tmp_path)
    rows = {"original": np.zeros((2, 2, 16, 16, 3), np.uint8)}
    reconstruction.save(Pictures.of(rows), path / "media" / "r_30.png", videos=["run/a.mp4", f"jump/{EVIL}.mp4"])
    assert f"From the top: run/a.mp4, jump/{' '.join(EVIL.split())}.mp4" in opened(path).text


def measured(steps, **more):
    """Evaluations by `eval.spectrum` under the name "own", and by a probe."""
    found = []
    for step in steps:
        row = {"own/rankme_centred": 20.0 - step / 10, "own/normalized_std": 0.5, "own/clips": 64.0, "probe/top1": 0.5}
        row |= {"own/dimensions": 128.0, "own/averaged": 1.0, "own/std": 0.4, "own/dead": 0.0, "probe/step": step}
        found.append({"kind": "eval", "step": step, **row, **more})
    return found


def test_features_have_a_section_of_their_own(tmp_path):
    page = opened(run(tmp_path / "run", events=measured((0, 10, 20))))
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"].count("features") == 1
    for words in (
        "own: 64 clips, 128 dimensions, of the moving average of the parameters;",
        "a centred effective rank is at most 63.",
        "No collapse was found.",
        "rankme_centred 18",
        "1 if features point in all directions, 0 if they are constant.",
        "probe/top1",
    ):
        assert words in page.text, words
    assert page.words.count("Effective rank") == 2, "a chart, and a row of the table"
    for words in ("own/rankme_centred", "own/clips"):
        assert words not in page.text, "not in the section Evaluation as well"
    without = opened(run(tmp_path / "without", events=[{"kind": "eval", "step": 1, "knn/top1": 0.5}]))
    assert "Whether features collapse" not in without.text


@pytest.mark.parametrize("action", ["report", "stop"])
def test_a_collapse_is_in_the_report(tmp_path, action):
    event = {"kind": "event", "event": "collapse", "evaluator": "own", "action": action}
    events = [*measured((10, 20, 30)), {**event, "step": 20, "reason": "first"}, {**event, "step": 30, "reason": EVIL}]
    page = opened(run(tmp_path / "run", events=events))
    assert "Collapsed at the evaluations after steps 20, 30. The last:" in page.text
    assert EVIL in page.text
    assert ("script", {}) in page.tags
    assert [tag for tag, _ in page.tags].count("script") == 1
    status = "stopped" if action == "stop" else "not finished"
    assert page.words[page.words.index(status)] == status
    assert ("The features collapsed (" in page.text) == (action == "stop")
