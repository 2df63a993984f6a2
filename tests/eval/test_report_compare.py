"""Several runs on one page: curves together, last figures, and only the settings that differ."""

import json

import pytest
from report_pages import EVIL, Outline, run

from vmae_jax.eval import compare, report
from vmae_jax.eval.records import read
from vmae_jax.spec import ConfigError


def two(tmp_path, **more):
    """Two runs of 30 and 20 steps."""
    first = run(tmp_path / "tube", events=[{"kind": "eval", "step": s, "probe/top1": s / 60} for s in (15, 30)], **more)
    second = run(tmp_path / "frame", steps=20, events=[{"kind": "eval", "step": 20, "probe/top1": 0.75}])
    return [first, second]


def compared(workdirs, out) -> Outline:
    return Outline(report.write(workdirs, out).read_text())


def charts(page):
    found = [json.loads(attrs["data-chart"] or "") for _, attrs in page.tags if "data-chart" in attrs]
    return [{one["name"]: one["points"] for one in chart["series"]} for chart in found]


def test_curves_of_all_runs_share_a_chart_with_a_legend(tmp_path):
    page = compared(two(tmp_path), tmp_path / "compare.html")
    drawn = charts(page)
    assert all(list(series) == ["tube", "frame"] for series in drawn)
    loss = drawn[0]
    assert [len(points) for points in loss.values()] == [30, 20]
    assert loss["tube"][3] == [4, 0.25]
    legends = [attrs for tag, attrs in page.tags if attrs.get("class") == "legend"]
    assert len(legends) == len(drawn)


def test_a_run_keeps_its_colour_where_another_has_no_curve(tmp_path):
    first, second = two(tmp_path)
    text = (second / "metrics.jsonl").read_text().replace('"step": 19,', '"step": 19, "psnr": 20.0,')
    (second / "metrics.jsonl").write_text(text.replace('"step": 20,', '"step": 20, "psnr": 21.0,'))
    text = report.write([first, second], tmp_path / "c.html").read_text()
    chart = text[text.index("<h3>psnr</h3>") :]
    assert 'class="c1"' in chart[: chart.index("</figure>")]


def test_last_figures(tmp_path):
    page = compared(two(tmp_path), tmp_path / "compare.html")
    for row in ("Last step 30 20", "probe/top1 0.5 0.75", "Loss 0.03333 0.05", "Speed 1,234 clips/s 1,234 clips/s"):
        assert row in page.text, row


def test_only_settings_that_differ(tmp_path):
    runs = two(tmp_path)
    for path, ratio in zip(runs, (0.9, 0.75), strict=True):
        config = {"seed": 0, "method": {"mask": {"ratio": ratio}}, "data": {"transforms": [{"size": 224}]}}
        (path / "config.json").write_text(json.dumps(config | ({"only": None} if ratio == 0.9 else {})))
    page = compared(runs, tmp_path / "compare.html")
    assert "method.mask.ratio 0.9 0.75" in page.text
    assert "only null –" in page.text
    assert "seed" not in page.text
    assert "transforms" not in page.text
    (runs[1] / "config.json").write_bytes((runs[0] / "config.json").read_bytes())
    assert "The configs are the same." in compared(runs, tmp_path / "compare.html").text
    (runs[1] / "config.json").unlink()
    assert "No readable config: frame." in compared(runs, tmp_path / "compare.html").text


def test_how_they_were_started(tmp_path):
    runs = two(tmp_path)
    for path, commit in zip(runs, ("0123abc", "4567def"), strict=True):
        (path / "environment.jsonl").write_text(json.dumps({"command": "vmae train", "commit": commit}) + "\n")
    page = compared(runs, tmp_path / "compare.html")
    assert "Commit 0123abc 4567def" in page.text


def test_everything_is_escaped(tmp_path):
    runs = two(tmp_path, **{EVIL: 1.0})
    evil = run(tmp_path / "<img src=x>", events=[{"kind": "event", "step": 0, "event": "warning", "message": EVIL}])
    (evil / "config.json").write_text(json.dumps({EVIL: EVIL}))
    (runs[0] / "config.json").write_text(json.dumps({EVIL: 1}))
    (evil / "environment.jsonl").write_text(json.dumps({"command": EVIL, "versions": {EVIL: EVIL}}) + "\n")
    page = compared([*runs, evil], tmp_path / "compare.html")
    assert len([tag for tag, _ in page.tags if tag == "script"]) == 1
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 5


def test_runs_of_one_name_are_distinguished_and_many_have_curves_of_their_own(tmp_path):
    paths = [run(tmp_path / f"seed{number}" / "run", steps=3) for number in range(14)]
    assert compare.labels([read(path) for path in paths])[:2] == ["seed0/run", "seed1/run"]
    page = compared(paths, tmp_path / "compare.html")
    assert len(charts(page)[0]) == 14
    assert {"c0", "c0 dashed"} <= {attrs.get("class") for tag, attrs in page.tags if tag == "path"}


def test_a_run_without_anything_can_be_compared(tmp_path):
    (tmp_path / "empty").mkdir()
    page = compared([two(tmp_path)[0], tmp_path / "empty"], tmp_path / "compare.html")
    assert "no metrics yet" in page.text


def test_what_cannot_be_written(tmp_path):
    runs = two(tmp_path)
    with pytest.raises(ConfigError, match="2 runs needs --out"):
        report.write(runs)
    with pytest.raises(ConfigError, match="given twice"):
        report.write([runs[0], f"{runs[0]}/"], tmp_path / "a.html")
    with pytest.raises(ConfigError, match="is a folder"):
        report.write(runs, tmp_path)
    assert report.write(runs[0], tmp_path / "one.html").read_text().count("vmae report") == 1
