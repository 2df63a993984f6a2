"""`vmae features`: equal to a loop over windows, batched across videos, resumable, settings never mixed."""

import functools
import json
import signal

import jax
import numpy as np
import pytest
import tensorflow as tf
from for_tpus import for_tpus

from configs import common
from vmae_jax.cli import main
from vmae_jax.commands import features
from vmae_jax.data.decode import Encoded, read_frames
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.methods import classify
from vmae_jax.models.variants import vit
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
    import av

    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    (folder / "sub").mkdir()
    for name, count in (("a", 21), ("sub/b", 9)):
        with av.open(str(folder / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for _ in range(count):
                picture = np.kron(random.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode())
    (folder / "broken.mp4").write_bytes(b"nothing")
    return folder


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


def test_as_pre_training_from_the_command_line_and_again(trained, videos, tmp_path, capsys):
    path, params = trained
    command = ["features", "--checkpoint", path, "--videos", str(videos / "a.mp4"), "--out", str(tmp_path)]
    command += ["--format=npy", "--layer=1", "--tokens", "--batch=2"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["window"], told["stride"], told["videos"]) == (8, 8, 1)  # 4 frames, 2 apart, as the run's clips
    stored = np.load(tmp_path / "a.npy")
    assert stored.shape == (2, 8, 32)
    frames = frames_of(videos / "a.mp4", 21)
    resized = tf.image.resize(frames, (SIZE, SIZE), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    clips = np.stack([resized[start : start + 8 : 2] for start in (0, 8)])
    method = classify.build(vit("micro", **SHAPE), classes=3)
    # The scaler of our transforms and TensorFlow's are within two grey levels of each other.
    np.testing.assert_allclose(stored, method.features(params, {"video": clips}, layer=1, pool=False), atol=2e-2)
    assert np.load(tmp_path / "a.seconds.npy").shape == (2, 2)

    before = (tmp_path / "a.npy").stat().st_mtime_ns
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["videos"], told["already"]) == (0, 1)
    assert (tmp_path / "a.npy").stat().st_mtime_ns == before
    assert main([*command, "--stride=4"]) == 2
    assert "has features with stride 8, not 4: use another folder" in capsys.readouterr().out


def test_folders_of_pictures_and_array_records_hold_what_files_do(trained, videos, tmp_path):
    """The same frames, as pictures without loss, give the same features; a second run writes nothing."""
    from PIL import Image

    from vmae_jax.data.shards import read_shards

    path, _ = trained
    frames = tmp_path / "frames" / "deep" / "a"
    frames.mkdir(parents=True)
    for number, frame in enumerate(frames_of(videos / "a.mp4", 21)):
        Image.fromarray(frame).save(frames / f"frame_{number}.png")  # frame_10 comes after frame_9
    plain = features.Options(batch=4)
    features.run(path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "npz"), options=plain)
    packed = features.Options(batch=4, format="array_record", rate=50.0)
    given = [str(tmp_path / "frames"), str(videos)]
    told = features.run(path, videos=given, out=str(tmp_path / "records"), options=packed)
    assert (told["videos"], told["broken"]) == (3, ["broken"])
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
    from vmae_jax.data.shards import Shards, read_shards

    arrays = {"features": np.arange(6, dtype=np.float32).reshape(2, 3), "frames": np.zeros((2, 2), np.int64)}
    store = Shards(str(tmp_path), count=2)
    assert store.add("a", arrays) == []
    assert len(store.add("sub/b", arrays)) == 1
    store.add("c", arrays)  # the program is killed here
    (tmp_path / "features-00001.array_record").write_bytes(b"half a shard")
    again = Shards(str(tmp_path), count=2)
    assert again.done == {"a", "sub/b"}
    again.add("c", arrays)
    assert len(again.flush()) == 1
    assert [name for name, _ in read_shards(str(tmp_path))] == ["a", "sub/b", "c"]
    np.testing.assert_array_equal(dict(read_shards(str(tmp_path)))["c"]["features"], arrays["features"])
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
    with pytest.raises(ConfigError, match="--like=thumos: it is pretraining or tad"):
        go(like="thumos")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="one process, and this job has 2: start one for each share"):
        go("several")


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


def test_asked_to_stop_it_keeps_what_it_has_and_goes_on(trained, videos, tmp_path, monkeypatch):
    """SIGTERM after the first video: its features are there, in a shard as well, and are not computed again."""
    path, _ = trained
    real = features.Preemption.requested
    for form in features.FORMATS:
        out, options = tmp_path / form, features.Options(format=form, batch=1)

        def once(self, step):
            signal.raise_signal(signal.SIGTERM)
            return real(self, step)

        monkeypatch.setattr(features.Preemption, "requested", once)
        first = features.run(path, videos=[str(videos)], out=str(out), options=options)
        assert (first["videos"], first["resume"], first["error"]) == (
            1, True, "stopped by SIGTERM; the same command goes on",
        )  # fmt: skip
        monkeypatch.setattr(features.Preemption, "requested", real)
        again = features.run(path, videos=[str(videos)], out=str(out), options=options)
        assert (again["already"], again["videos"], "resume" in again) == (1, 1, False)


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
    told = features.run(path, videos=[str(videos / "a.mp4")], out=str(tmp_path / "out"), options=features.Options())
    assert told["window"] == FRAMES * 4
    frames = read_frames(Encoded(path=str(videos / "a.mp4")), range(21), channels=1)
    resized = tf.image.resize(frames, (SIZE, SIZE), antialias=True).numpy().round().clip(0, 255).astype(np.uint8)
    wanted = method.features(params, {"video": resized[None, 0:16:4]})
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
    monkeypatch.setattr(features, "on_mesh", functools.partial(for_tpus, plain=True))
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        run()
    monkeypatch.setattr(features, "on_mesh", for_tpus)
    assert run()["videos"] == 1
