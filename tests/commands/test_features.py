"""`vmae features`: equal to a loop over windows, batched across videos, resumable, settings never mixed."""

import functools
import json
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
from for_tpus import for_tpus

from vmae_jax.cli import main
from vmae_jax.commands import features, windowed
from vmae_jax.configs import common
from vmae_jax.data.decode import read_frames
from vmae_jax.data.video import Encoded
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.methods import classify
from vmae_jax.models.variants import vit
from vmae_jax.runtime import sharing
from vmae_jax.spec import ConfigError, build, call, to_json
from vmae_jax.train import optim, schedule, sharding
from vmae_jax.train.schedule import Clock
from vmae_jax.train.state import make_init

FRAMES, SIZE = 4, 16
SHAPE = {"frames": FRAMES, "resolution": SIZE, "dtype": "float32"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with a tiny classifier, and its parameters."""
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    config = common.sections(
        method=call("methods.classify.build", model=call("models.variants.vit", size="micro", **SHAPE), classes=3),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder", path="videos"),
            sampler=call("data.clips.dense", frames=FRAMES, stride=2),
            transforms=[call("data.transforms.resize", size=SIZE)],
        ),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": 1}},
    )
    workdir.config_json.write_text(to_json(config))
    method, spec = build(config.method), build(config.data).spec()
    tx, _ = optim.adamw(schedule.constant(1e-3)).build(
        sharding.abstract(lambda key, batch: method.init(key, batch)[0], spec), Clock(1, 1.0, 8)
    )
    batch = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in spec.items()}
    state = jax.jit(lambda key: sharding.unbox(make_init(method, tx)(key, batch)))(jax.random.key(0))
    saver = Checkpoints(workdir.checkpoints, keep_last=1, asynchronous=False)
    saver.save(0, state, {})
    saver.close()
    return str(workdir.path), jax.device_get(state.params)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """a.mp4 and sub/b.mp4, of 21 and 9 frames, and one that is broken."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for name, count in (("a", 21), ("sub/b", 9)):
        write_video(folder / f"{name}.mp4", count)
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder


def write_video(path, count, rate=25, seed=0):
    """A video of coloured squares that differ from frame to frame."""
    import av

    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(count):
            picture = np.kron(random.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def frames_of(path, count):
    return read_frames(Encoded(path=str(path)), range(count))


def test_as_the_detection_script_without_imagenet_statistics(trained, videos, tmp_path):
    path, params = trained
    options = features.Options(like="tad", batch=3)
    result = features.run(path, videos=[str(videos)], out=str(tmp_path), options=options)
    assert result["videos"] == 2
    assert result["broken"] == ["broken"]
    plain = classify.build(vit("micro", **SHAPE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), classes=3)
    for name, count in (("a", 21), ("sub/b", 9)):
        stored = np.load(tmp_path / f"{name}.npz")
        starts = list(range(0, count - FRAMES + 1, 4))
        assert stored["frames"].tolist() == [[start, start + FRAMES - 1] for start in starts]
        np.testing.assert_allclose(stored["seconds"], stored["frames"] / 25, atol=1e-3)
        resized = tf.image.resize(frames_of(videos / f"{name}.mp4", count), (SIZE, SIZE)).numpy()
        clips = np.stack([resized[start : start + FRAMES] for start in starts])
        np.testing.assert_allclose(stored["features"], plain.features(params, {"video": clips}), atol=2e-5)


@pytest.mark.slow
def test_mostly_broken_videos_end_with_1_after_the_rest_is_written(trained, videos, tmp_path, capsys, caplog):
    for number in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"bad{number}.mp4").write_bytes(b"nothing")
    shutil.copy(videos / "a.mp4", tmp_path / "in" / "a.mp4")
    command = ["features", f"--workdir={trained[0]}", f"--videos={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"]
    for _ in range(2):  # the same command finds nothing to do, and the same folder
        assert main(command) == 1
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert answer["status"] == "error"
        assert answer["error"].startswith(
            "3 of 4 videos could not be read (75%): bad0, bad1, bad2; the reasons are in "
        )
        assert f"all names in {tmp_path / 'out'}/complete.json. The limit is 5%" in answer["error"]
    assert (tmp_path / "out" / "a.npz").exists()
    assert main([*command, "--max-bad-fraction=0.9"]) == 0
    assert "3 of 4 videos could not be read (75%)" in caplog.messages[-1]
    with pytest.raises(ConfigError, match="--max-bad-fraction=2: expected 0 to 1"):
        features.Options(max_bad_fraction=2)


def test_as_pre_training_from_the_command_line_and_again(trained, videos, tmp_path, capsys):
    path, params = trained
    command = ["features", "--checkpoint", path, "--videos", str(videos / "a.mp4"), "--out", str(tmp_path)]
    command += ["--format=npy", "--layer=1", "--tokens", "--batch=2"]
    assert main(command) == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (outcome["window"], outcome["stride"], outcome["videos"]) == (
        8,
        8,
        1,
    )  # 4 frames, 2 apart, as the run's clips
    stored = np.load(tmp_path / "a.npy")
    assert stored.shape == (3, 8, 32)
    frames = frames_of(videos / "a.mp4", 21)
    resized = tf.image.resize(frames, (SIZE, SIZE), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    clips = np.stack([resized[start : start + 7 : 2] for start in (0, 8, 14)])  # the last one ends with the video
    method = classify.build(vit("micro", **SHAPE), classes=3)
    # The scaler of our transforms and TensorFlow's are within two grey levels of each other.
    np.testing.assert_allclose(stored, method.features(params, {"video": clips}, layer=1, pool=False), atol=2e-2)
    np.testing.assert_allclose(np.load(tmp_path / "a.seconds.npy") * 25, [[0, 6], [8, 14], [14, 20]], atol=1e-3)

    before = (tmp_path / "a.npy").stat().st_mtime_ns
    assert main(command) == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (outcome["videos"], outcome["already"]) == (0, 1)
    assert (tmp_path / "a.npy").stat().st_mtime_ns == before
    assert main([*command, "--stride=4"]) == 2
    assert "has features with stride 8, not 4: use another folder" in capsys.readouterr().out


def test_folders_of_pictures_and_array_records_hold_what_files_do(trained, videos, tmp_path):
    """The same frames, as pictures without loss, give the same features; a second run writes nothing."""
    from PIL import Image

    from vmae_jax.features.shards import read_shards

    path, _ = trained
    frames = tmp_path / "frames" / "deep" / "a"
    frames.mkdir(parents=True)
    for number, frame in enumerate(frames_of(videos / "a.mp4", 21)):
        Image.fromarray(frame).save(frames / f"frame_{number}.png")  # frame_10 comes after frame_9
    plain = features.Options(batch=4)
    features.run(path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "npz"), options=plain)
    packed = features.Options(batch=4, format="array_record", rate=50.0)
    given = [str(tmp_path / "frames"), str(videos)]
    outcome = features.run(path, videos=given, out=str(tmp_path / "records"), options=packed)
    assert (outcome["videos"], outcome["broken"]) == (3, ["broken"])
    found = dict(read_shards(str(tmp_path / "records")))
    assert set(found) == {"deep/a", "a", "sub/b"}
    wanted = np.load(tmp_path / "npz" / "a.npz")
    for name in ("deep/a", "a"):
        np.testing.assert_allclose(found[name]["features"], wanted["features"], atol=1e-5)
        np.testing.assert_array_equal(found[name]["frames"], wanted["frames"])
    np.testing.assert_allclose(found["deep/a"]["seconds"], wanted["frames"] / 50, atol=1e-6)
    again = features.run(path, videos=given[:1], out=str(tmp_path / "records"), options=packed)
    assert (again["videos"], again["already"]) == (0, 1)
    one = features.run(path, videos=[str(frames)], out=str(tmp_path / "one"), options=plain)
    assert (one["videos"], (tmp_path / "one" / "a.npz").exists()) == (1, True)


def test_shards_that_were_not_finished_are_made_again(tmp_path):
    from vmae_jax.features.shards import Shards, read_shards

    arrays = {"features": np.arange(6, dtype=np.float32).reshape(2, 3), "frames": np.zeros((2, 2), np.int64)}
    names = ["a", "c", "d", "e", "sub/b"]
    whole = Shards(str(tmp_path / "whole"), files=2)
    (tmp_path / "whole").mkdir()
    units = {name: whole.unit(name) for name in names}
    assert set(units.values()) == {0, 1}
    written = [whole.add(name, arrays) for name in sorted(names, key=units.__getitem__)]
    assert sum(map(len, written)) == 1, "a file is written once another one begins"
    whole.flush()

    torn = tmp_path / "torn"
    torn.mkdir()
    for name in reversed(names):  # one video at a time, and a program that is killed in between
        (torn / f"features-{1 - units[name]:05d}-of-00002.array_record.json").unlink(missing_ok=True)
        store = Shards(str(torn), files=2)
        assert not store.has(name)
        store.add(name, arrays)
        assert len(store.flush()) == 1
        assert Shards(str(torn), files=2).has(name)
    (torn / f"features-{units['a']:05d}-of-00002.array_record").write_bytes(b"half a file")
    (torn / f"features-{units['a']:05d}-of-00002.array_record.json").unlink()
    last = Shards(str(torn), files=2)
    for name in names:
        if not last.has(name):
            last.add(name, arrays)
    last.flush()
    for path in (tmp_path / "whole").iterdir():
        assert (torn / path.name).read_bytes() == path.read_bytes()
    found = dict(read_shards(str(torn)))
    assert sorted(found) == names
    np.testing.assert_array_equal(found["c"]["features"], arrays["features"])
    with pytest.raises(ConfigError, match="local folder"):
        Shards("gs://bucket/x", 2)


def test_mistakes_are_one_line(trained, videos, tmp_path, monkeypatch):
    path, _ = trained
    go = lambda name="out", what=videos, **options: features.run(  # noqa: E731
        path, videos=[str(what)], out=str(tmp_path / name), options=features.Options(**options)
    )
    with pytest.raises(ConfigError, match="a multiple of the model's 4 frames"):
        go(window=6)
    with pytest.raises(ConfigError, match=r"--layer=9.*has 2 blocks"):
        go("layer", layer=9)
    with pytest.raises(ConfigError, match="none of the 1 videos can be read"):
        go("broken", what=videos / "broken.mp4")
    with pytest.raises(ConfigError, match="--like=thumos: expected pretraining or tad"):
        go(like="thumos")
    for options, words in (
        ({"tail": "cut"}, "--tail=cut: expected end or drop"),
        ({"name": "hash"}, "--name=hash: expected stem or path"),
        ({"fps": 0.0}, "--fps=0.0: expected more than 0"),
        ({"fps": float("nan")}, "--fps=nan: expected more than 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            features.Options(**options)
    for shard in ("3/3", "1", "-1/3", "a/b"):
        with pytest.raises(ConfigError, match=f"--shard={shard}: expected i/n with i from 0 to n-1"):
            features.run(path, videos=[str(videos)], out=str(tmp_path), options=features.Options(), shard=shard)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"--format=hdf5 needs h5py: pip install 'vmae-jax\[hdf5\]'"):
        go(format="hdf5")


def test_a_failed_command_leaves_its_folder_free(trained, videos, tmp_path):
    """A layer that is not there, or no video, settles nothing about the folder."""
    path, _ = trained
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for what, options in ((videos, {"layer": 9}), (tmp_path / "empty", {"stride": 8})):
        with pytest.raises(ConfigError):
            features.run(path, videos=[str(what)], out=str(out), options=features.Options(**options))
    assert not out.exists()
    assert features.run(path, videos=[str(videos)], out=str(out), options=features.Options(layer=1))["videos"] == 2


@pytest.mark.slow
def test_asked_to_stop_it_keeps_what_it_has_and_goes_on(trained, videos, tmp_path, monkeypatch):
    """SIGTERM after the first video: its features are there, in a shard as well, and are not computed again."""
    path, _ = trained
    real = sharing.asked_to_stop
    for form in features.FORMATS:
        out, options = tmp_path / form, features.Options(format=form, batch=1)

        def once(preemption):
            signal.raise_signal(signal.SIGTERM)
            return real(preemption)

        monkeypatch.setattr(sharing, "asked_to_stop", once)
        first = features.run(path, videos=[str(videos)], out=str(out), options=options)
        assert (first["videos"], first["resume"], first["error"]) == (
            1, True, "stopped by SIGTERM; the same command continues",
        )  # fmt: skip
        assert not first["complete"]
        monkeypatch.setattr(sharing, "asked_to_stop", real)
        again = features.run(path, videos=[str(videos)], out=str(out), options=options)
        assert (again["already"], again["videos"], "resume" in again, again["complete"]) == (1, 1, False, True)


def a_checkpoint(path, sampler=None, **model):
    """A workdir with a classifier of its own, and its parameters."""
    workdir = Workdir(path)
    workdir.path.mkdir()
    size = {"size": "micro", **SHAPE, **model}
    config = common.sections(
        method=call("methods.classify.build", model=call("models.variants.vit", **size), classes=3),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder", path="videos"),
            sampler=sampler or call("data.clips.dense", frames=FRAMES),
            transforms=[call("data.transforms.resize", size=SIZE)],
            channels=model.get("channels", 3),
        ),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": 1}},
    )
    workdir.config_json.write_text(to_json(config))
    method, spec = build(config.method), build(config.data).spec()
    init = lambda key, batch: method.init(key, batch)[0]  # noqa: E731
    params, _ = sharding.create(init, jax.random.key(0), spec, sharding.make_mesh(devices=jax.devices()[:1]))
    saver = Checkpoints(workdir.checkpoints, asynchronous=False)
    saver.save(0, {"params": params}, {})
    saver.close()
    return str(workdir.path), params, method


def test_a_grey_model_gets_grey_videos_and_the_stride_that_is_the_samplers_default(videos, tmp_path):
    path, params, method = a_checkpoint(tmp_path / "run", channels=1)
    outcome = features.run(path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "out"), options=features.Options())
    assert outcome["window"] == FRAMES * 4
    frames = read_frames(Encoded(path=str(videos / "a.mp4")), range(21), channels=1)
    resized = tf.image.resize(frames, (SIZE, SIZE), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    wanted = method.features(params, {"video": np.stack([resized[0:13:4], resized[8:21:4]])})
    np.testing.assert_allclose(np.load(tmp_path / "out" / "a.npz")["features"], wanted, atol=2e-2)


def test_a_sampler_without_a_stride_wants_a_window(videos, tmp_path):
    path, *_ = a_checkpoint(tmp_path / "run", call("data.clips.uniform", frames=FRAMES))
    go = lambda **options: features.run(  # noqa: E731
        path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "out"), options=features.Options(**options)
    )
    with pytest.raises(ConfigError, match=r"data.clips.uniform has no stride: .*--window=4, --window=16"):
        go()
    assert not (tmp_path / "out").exists()
    assert go(window=8)["stride"] == 8


def test_the_network_lowers_for_tpus_with_the_fused_kernel(videos, tmp_path, monkeypatch):
    path, *_ = a_checkpoint(tmp_path / "run", attention="splash")
    run = lambda: features.run(  # noqa: E731
        path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "out"), options=features.Options()
    )
    monkeypatch.setattr(windowed, "on_mesh", functools.partial(for_tpus, plain=True))
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        run()
    monkeypatch.setattr(windowed, "on_mesh", for_tpus)
    assert run()["videos"] == 1


def test_files_that_share_a_stem_are_distinguished_by_their_paths(trained, tmp_path, capsys):
    path, _ = trained
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("mm_test.mp4", "mm_test.avi")):
        write_video(tmp_path / "in" / name, 9, seed=seed)
    command = ["features", f"--checkpoint={path}", "--videos", str(tmp_path / "in"), f"--out={tmp_path}/out"]
    assert main(command) == 2
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    both = "mm_test.avi and mm_test.mp4 would both be written to mm_test.npz"
    assert answer == f"--videos: {both}; rename one or pass --name=path"
    assert main([*command, "--name=path"]) == 0
    one, other = (np.load(tmp_path / "out" / f"mm_test.{suffix}.npz")["features"] for suffix in ("mp4", "avi"))
    assert np.abs(one - other).max() > 1e-3
    write_video(tmp_path / "in" / "mm_test.seconds.mp4", 9)  # the name of the other one's times
    (tmp_path / "in" / "mm_test.avi").unlink()
    assert main([*command[:-1], f"--out={tmp_path}/npy", "--format=npy"]) == 2
    assert "would both be written to mm_test.seconds.npy" in capsys.readouterr().out


def test_windows_at_a_rate_are_equally_long_for_every_video(trained, tmp_path, capsys):
    path, _ = trained
    (tmp_path / "in").mkdir()
    for rate in (6, 120):
        write_video(tmp_path / "in" / f"{rate}.mp4", rate, rate=rate)  # a second
    command = ["features", f"--checkpoint={path}", "--videos", str(tmp_path / "in"), f"--out={tmp_path}/out"]
    assert main([*command, "--fps=8"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (answer["fps"], answer["window"], answer["stride"]) == (8.0, FRAMES, FRAMES)
    slow, fast = (np.load(tmp_path / "out" / f"{rate}.npz") for rate in (6, 120))
    np.testing.assert_allclose(slow["seconds"], [[0, 3 / 8], [4 / 8, 7 / 8]])
    np.testing.assert_allclose(fast["seconds"], slow["seconds"])
    np.testing.assert_array_equal(fast["frames"], [[0, 45], [60, 105]])
    np.testing.assert_array_equal(slow["frames"], [[0, 2], [3, 5]])


def test_hdf5_holds_what_npz_does(trained, videos, tmp_path):
    h5py = pytest.importorskip("h5py")
    path, _ = trained
    for form in ("npz", "hdf5"):
        features.run(path, videos=[str(videos)], out=str(tmp_path / form), options=features.Options(format=form))
    for name in ("a", "sub/b"):
        wanted = np.load(tmp_path / "npz" / f"{name}.npz")
        with h5py.File(tmp_path / "hdf5" / f"{name}.h5") as file:
            assert set(file) == set(wanted.files) == {"features", "frames", "seconds", "uncovered"}
            for key in file:
                np.testing.assert_array_equal(file[key][()], wanted[key])


def test_frames_past_the_last_window_are_covered_or_counted_and_named(trained, videos, tmp_path, caplog):
    path, _ = trained
    given = [str(videos / "a.mp4")]
    features.run(path, videos=given, out=str(tmp_path / "end"), options=features.Options())
    whole = np.load(tmp_path / "end" / "a.npz")
    assert whole["frames"].tolist() == [[0, 6], [8, 14], [14, 20]]
    assert whole["uncovered"] == 0
    assert not caplog.records
    answer = features.run(path, videos=given, out=str(tmp_path / "drop"), options=features.Options(tail="drop"))
    assert answer["uncovered"] == {"videos": 1, "frames": 5}
    cut = np.load(tmp_path / "drop" / "a.npz")
    assert (cut["frames"].tolist(), int(cut["uncovered"])) == ([[0, 6], [8, 14]], 5)
    np.testing.assert_allclose(cut["features"], whole["features"][:2], atol=1e-5)
    assert "5 frames of 1 videos (a) are after the last window: --tail=end covers them" in caplog.text
    settings = [json.loads((tmp_path / name / "features.json").read_text())["tail"] for name in ("end", "drop")]
    assert settings == ["end", "drop"]


def outputs(folder):
    """What was written for videos, by name: bytes of records' files, arrays of others."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: dict(np.load(path)) if name.endswith(".npz") else path.read_bytes() for name, path in found.items()}


def assert_same_outputs(one, other):
    one, other = outputs(one), outputs(other)
    assert set(one) == set(other)
    for name, content in one.items():
        if isinstance(content, dict):
            for key, array in content.items():
                np.testing.assert_allclose(other[name][key], array, atol=1e-5)
        elif not name.endswith(".array_record"):
            assert other[name] == content, name


@pytest.mark.parametrize("form", ["npz", "array_record"])
def test_any_number_of_shards_writes_the_same_files(trained, videos, tmp_path, monkeypatch, form):
    from vmae_jax.features.shards import read_shards

    path, _ = trained
    monkeypatch.setattr(features, "SHARD", 2)
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(5):
        write_video(folder / f"{seed}.mp4", 9, seed=seed)
    (folder / "broken.mp4").write_bytes(b"nothing")
    go = lambda out, shard=None: features.run(  # noqa: E731
        path, videos=[str(folder)], out=str(tmp_path / out), options=features.Options(format=form), shard=shard
    )
    alone = go("alone")
    assert (alone["videos"], alone["broken"], alone["complete"], "shard" in alone) == (5, ["broken"], True, False)
    answer = [go("shared", f"{part}/3") for part in (2, 0, 1)]
    assert sum(one["videos"] for one in answer) == 5
    assert sorted(name for one in answer for name in one["broken"]) == ["broken"]
    assert [one["complete"] for one in answer] == [False, False, True]
    assert max(one["videos"] for one in answer) < 5
    assert answer[0]["missing"] == 6 - answer[0]["videos"] - len(answer[0]["broken"])
    assert_same_outputs(tmp_path / "alone", tmp_path / "shared")
    assert json.loads((tmp_path / "shared" / "complete.json").read_text()) == {"videos": 6, "broken": ["broken"]}
    if form == "array_record":
        assert {name for name, _ in read_shards(str(tmp_path / "shared"))} == set("01234")

    write_video(folder / "broken.mp4", 9)  # readable now: the whole is not complete until it is computed
    again = go("shared")
    assert (again["videos"], again["already"], again["complete"]) == (1, 5, True)
    assert json.loads((tmp_path / "shared" / "complete.json").read_text()) == {"videos": 6, "broken": []}
    assert not list((tmp_path / "shared").glob("*.broken"))
