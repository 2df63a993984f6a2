"""`vmae ttt`: a table of each video, the comparison, what is kept and refused, and one line for every mistake."""

import collections
import dataclasses
import functools
import json
import shutil
import types

import numpy as np
import pytest
from small_runs import save_run, write_video

from vmae_jax.cli import main
from vmae_jax.commands import ttt
from vmae_jax.configs import common
from vmae_jax.data.decode import read_frames
from vmae_jax.data.video import Encoded
from vmae_jax.eval.streams import comparison, moments
from vmae_jax.methods import labels
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError, call
from vmae_jax.train.online import Settings

FRAMES, SIZE, CLASSES = 2, 16, 3
FAST = ["--window=2", "--batch=2", "--learning-rate=0.01", "--encoder-share=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with a tiny network of clips of two frames, two apart."""
    model = call("models.variants.vit", size="micro", frames=FRAMES, resolution=SIZE, depth=1, decoder_depth=1,
                 dtype="float32")  # fmt: skip
    pixels = call("targets.core.objective", target=call("targets.pixels", normalize=False))
    config = common.sections(
        method=call(
            "methods.ttt.build", model=model, classes=CLASSES, mask=call("masking.random", ratio=0.75),
            objectives={"pixels": pixels}, init_scale=100.0,
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder", path="videos", labels="folders"),
            sampler=call("data.clips.dense", frames=FRAMES, stride=2),
            transforms=[call("data.transforms.resize", size=SIZE)],
            labels=True,
        ),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": 1}},
    )  # fmt: skip
    return str(save_run(tmp_path_factory.mktemp("run") / "run", config)[0].path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """a.mp4 and b.mp4 of 12 frames, one that is broken, and a list of them."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate("ab"):
        write_video(folder / f"{name}.mp4", number)
    (folder / "broken.mp4").write_bytes(b"nothing")
    (folder / "list.csv").write_text("a.mp4 2\nb.mp4 0\nbroken.mp4 1\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Commands with the same settings share their compiled programs, and the network is read once."""
    make, made = ttt.adapter, {}

    def shared(method, params, carried, spec, options):
        key = tuple(getattr(options, field.name) for field in dataclasses.fields(Settings))
        if key not in made:
            made[key] = make(method, params, carried, spec, options)
        found = made[key]
        return dataclasses.replace(found, params=found.base, memory=collections.deque(maxlen=options.window))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ttt, "adapter", shared)
        patch.setattr(ttt, "restore", functools.cache(ttt.restore))
        yield


@pytest.fixture
def command(run, videos, tmp_path, capsys):
    """(arguments) -> (exit code, the last line of the output)."""

    def call(*more, what=None, out="out"):
        given = what or [str(videos / name) for name in ("a.mp4", "b.mp4")]
        code = main(["ttt", f"--checkpoint={run}", "--videos", *given, f"--out={tmp_path / out}", *FAST, *more])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture(scope="module")
def rows(run, videos, tmp_path_factory):
    """The tables of a list with labels."""
    out = tmp_path_factory.mktemp("rows")
    options = ttt.Options(window=2, batch=2, learning_rate=0.01, encoder_share=1.0, max_bad_fraction=0.5)
    result = ttt.run(run, videos=[str(videos / "list.csv")], out=str(out), options=options)
    assert (result["videos"], result["broken"], result["moments"]) == (2, ["broken"], 20)
    return {name: moments((out / f"{name}.csv").read_text()) for name in "ab"}, json.loads(
        (out / "comparison.json").read_text()
    )


def test_a_table_has_each_clip_that_ends_with_a_frame(run, videos, rows):
    tables, whole = rows
    for name, label in (("a", 2), ("b", 0)):
        found = tables[name]
        assert [row.frame for row in found] == list(range(2, 12))  # of clips 0, 2; 1, 3; …; 9, 11
        np.testing.assert_allclose([row.seconds for row in found], np.arange(2, 12) / 25, atol=1e-3)
        assert {row.label for row in found} == {label}
        assert whole["videos"][name] == comparison(found)
        assert not any(row.refused for row in found)
    assert any(row.without_probability != row.adapted_probability for row in tables["a"])
    assert list(whole["broken"]) == ["broken"]
    assert whole["all"] == comparison(tables["a"] + tables["b"])
    trained = ttt.restore(run)
    frames = read_frames(Encoded(path=str(videos / "a.mp4")), range(12))
    batch = {"video": _scaled(frames)[[9, 11]][None], "seed": np.zeros((1, 2), np.uint32)}
    outputs = np.asarray(trained.made.method.predict(trained.params, batch))[0]
    chances = np.exp(outputs - outputs.max()) / np.exp(outputs - outputs.max()).sum()
    assert tables["a"][-1].without == outputs.argmax()
    assert tables["a"][-1].without_probability == pytest.approx(chances.max(), abs=1e-2)


def _scaled(frames):
    from PIL import Image

    return np.stack(
        [np.asarray(Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for one in frames]
    )


def test_the_comparison_by_hand(rows):
    tables, _ = rows
    for found in tables.values():
        share = comparison(found)
        assert share["top1"]["adapted"] == np.mean([row.adapted == row.label for row in found])
        assert share["top1"]["without"] == np.mean([row.without == row.label for row in found])
        assert share["agreement"] == np.mean([row.without == row.adapted for row in found])
        assert share["loss"] == pytest.approx(np.mean([row.loss for row in found]))
        assert share["probability"]["adapted"] == pytest.approx(np.mean([row.adapted_probability for row in found]))
    assert "top1" not in comparison([found[0]._replace(label=None)])


def test_a_second_video_is_predicted_as_if_it_were_alone_and_tables_are_kept(command, tmp_path, rows):
    code, result = command()
    assert (code, result["already"], result["moments"]) == (0, 0, 20)
    both = {name: (tmp_path / "out" / f"{name}.csv").read_bytes() for name in "ab"}
    assert [row[3:] for row in moments(both["b"].decode())] == [row[3:] for row in rows[0]["b"]]  # there are no labels
    (tmp_path / "out" / "a.csv").unlink()
    before = (tmp_path / "out" / "b.csv").stat().st_mtime_ns
    code, result = command()
    assert (code, result["already"]) == (0, 1)
    assert (tmp_path / "out" / "a.csv").read_bytes() == both["a"]
    assert (tmp_path / "out" / "b.csv").stat().st_mtime_ns == before
    code, result = command("--steps=2")
    assert code == 2
    assert "has predictions with steps 1, not 2: use another folder" in result["error"]
    (tmp_path / "out" / "a.csv").write_text("nothing\n")
    code, result = command()
    assert code == 2
    assert "a.csv is not a table of vmae ttt" in result["error"]


def test_when_weights_return(command, tmp_path, rows):
    """Never: the second video begins with what the first one taught. Before each frame: only the window matters."""
    assert command("--reset=never", out="never")[0] == 0
    never = moments((tmp_path / "never" / "b.csv").read_text())
    assert never[0].adapted_probability != rows[0]["b"][0].adapted_probability
    assert never[0].without_probability == rows[0]["b"][0].without_probability
    (tmp_path / "never" / "b.csv").unlink()
    assert command("--reset=never", out="never")[1]["already"] == 0  # a.csv is made again, for b.csv depends on it
    assert moments((tmp_path / "never" / "b.csv").read_text()) == never
    assert command("--reset=frame", out="frame")[0] == 0
    each = moments((tmp_path / "frame" / "b.csv").read_text())
    assert each[0] == rows[0]["b"][0]._replace(label=None)
    assert each[-1].adapted_probability != rows[0]["b"][-1].adapted_probability


def test_a_video_that_breaks_off_leaves_nothing(command, monkeypatch, tmp_path, rows):
    """Neither a table nor what was learned from it: the next video is predicted as if it were the first."""
    whole = ttt.chunks

    def torn(*given, **more):
        for chunk in whole(*given, **more):
            if chunk.video == 0:
                yield chunk._replace(clips=chunk.clips[:4], frames=chunk.frames[:4], seconds=chunk.seconds[:4])
                chunk = chunk._replace(clips=None, reason="is cut off")
            yield chunk

    monkeypatch.setattr(ttt, "chunks", torn)
    code, result = command("--reset=never", "--max-bad-fraction=0.5", out="torn")
    assert (code, result["broken"]) == (0, ["a"])
    assert not (tmp_path / "torn" / "a.csv").exists()
    assert moments((tmp_path / "torn" / "b.csv").read_text()) == [row._replace(label=None) for row in rows[0]["b"]]


def test_a_signal_stops_between_frames_and_the_same_command_continues(command, monkeypatch, tmp_path):
    calls = iter(range(100))
    monkeypatch.setattr(Preemption, "caught", property(lambda self: "SIGTERM" if next(calls) >= 12 else ""))
    code, result = command()
    assert (code, result["error"]) == (75, "stopped by SIGTERM; the same command continues")
    assert (tmp_path / "out" / "a.csv").exists()
    assert not (tmp_path / "out" / "b.csv").exists()
    monkeypatch.undo()
    code, result = command()
    assert (code, result["already"], result["moments"]) == (0, 1, 20)


def test_mistakes_are_one_line(command, run, videos, tmp_path, capsys):
    for more, words in (
        (["--reset=always"], "--reset=always: expected video or frame or never"),
        (["--window=0"], "--window=0: expected at least 1"),
        (["--accumulate=3"], "--batch=2 does not divide into --accumulate=3 parts"),
        (["--learning-rate=-1"], "--learning-rate=-1.0: expected at least 0"),
        (["--clip-norm=0"], "--clip-norm=0.0: expected more than 0"),
        (["--fps=0"], "--fps=0.0: expected more than 0"),
        (["--max-bad-fraction=2"], "--max-bad-fraction=2.0: expected 0 to 1"),
    ):
        code, result = command(*more)
        assert (code, words in result["error"]) == (2, True), result
    code, result = command(what=[str(videos / "broken.mp4")], out="broken")
    assert code == 2
    assert "none of the 1 videos can be read; the first: broken" in result["error"]
    for number in range(2):
        shutil.copy(videos / "broken.mp4", tmp_path / f"bad{number}.mp4")
    given = [str(videos / "a.mp4"), *(str(tmp_path / f"bad{number}.mp4") for number in range(2))]
    code, result = command(what=given, out="some")
    assert code == 1
    assert "2 of 3 videos could not be read: bad0, bad1. The limit is 5%" in result["error"]
    assert (tmp_path / "some" / "a.csv").exists()
    assert main(["ttt", f"--checkpoint={tmp_path / 'none'}", "--videos", "x.mp4", f"--out={tmp_path / 'o'}"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_other_methods_are_refused(run):
    """Without a loss for it, with one that reads other streams, and with other outputs than a class."""
    method = ttt.restore(run).made.method
    reads = method.adaptation._replace(inputs=("video", "motion"))
    for other, words in (
        (method._replace(adaptation=None), r"without a loss for test-time training: train configs/ttt\.py"),
        (method._replace(adaptation=reads), "the loss of run reads 'video', 'motion'"),
        (method._replace(heads={"": labels.numbers()}), "run has other heads"),
    ):
        with pytest.raises(ConfigError, match=words):
            ttt._check(types.SimpleNamespace(made=types.SimpleNamespace(method=other)), "run")
