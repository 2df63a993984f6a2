"""moving_shapes: real H.264, the same bytes every time, and no sign of the class but motion."""

import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.synthetic import moving_shapes
from vmae_jax.data.synthetic.shapes import MOTIONS, Scene, draw, moved
from vmae_jax.data.video import Encoded
from vmae_jax.spec import ConfigError

SCENE = Scene(size=32, frames=12, shapes=2, clutter=1, speed=0.8, contrast=0.2)


def clip(motion, word, scene=SCENE):
    return draw(scene, motion, np.random.Generator(np.random.Philox(key=word)))


def test_a_clip_is_real_video_and_repeats_to_the_byte():
    settings = moving_shapes.settings(size=32, frames=10, rate=12.0)
    video = moving_shapes.make_clip(settings, "train", 13)
    assert video == moving_shapes.make_clip(settings, "train", 13)
    info = probe(Encoded(data=video))
    assert (info.num_frames, info.height, info.width, info.codec) == (10, 32, 32, "h264")
    assert info.rate == pytest.approx(12.0)
    example = moving_shapes.Clips(settings, "train", range(20)).fetch(13)
    assert (example.data, example.labels, example.key) == (video, {"label": 13 % len(MOTIONS)}, "train-0000013")
    others = [
        moving_shapes.make_clip(settings, "test", 13),
        moving_shapes.make_clip(settings, "train", 14),
        moving_shapes.make_clip(moving_shapes.settings(size=32, frames=10, seed=1), "train", 13),
    ]
    assert len({video, *others}) == 4


def test_encoding_keeps_the_picture():
    frames = clip("rotate_left", 3)
    from vmae_jax.data.encode import encode_h264

    error = read_frames(Encoded(data=encode_h264(frames)), range(12)).astype(int) - frames
    assert np.abs(error).mean() < 6


def test_first_frames_do_not_depend_on_the_motion():
    for word in range(5):
        firsts = [clip(motion, word)[0] for motion in MOTIONS]
        assert all(np.array_equal(first, firsts[0]) for first in firsts)
        assert len({clip(motion, word).tobytes() for motion in MOTIONS}) == len(MOTIONS)


def looks(video):
    """What can be known about a clip without looking at motion: colours, and where things are, at any frame."""
    frames = video[[0, len(video) // 2, -1]].astype(np.float64)
    small = frames.reshape(3, 4, 8, 4, 8, 3).mean(axis=(2, 4)).reshape(-1)
    histogram = [np.histogram(frames[..., c], bins=8, range=(0, 256))[0] / frames[..., c].size * 255 for c in range(3)]
    return np.concatenate([small, frames.mean((1, 2)).ravel(), frames.std((1, 2)).ravel(), *histogram])


@pytest.mark.slow
def test_no_appearance_shows_the_class():
    """Neither a linear classifier nor neighbours beat chance on appearance, on 2,000 clips."""
    count = 2000
    labels = np.arange(count) % len(MOTIONS)
    x = np.stack([looks(clip(MOTIONS[label], 1000 + k)) for k, label in enumerate(labels)])
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    half = count // 2
    onehot = np.eye(len(MOTIONS))[labels]
    weights = np.linalg.solve(x[:half].T @ x[:half] + 100 * np.eye(x.shape[1]), x[:half].T @ onehot[:half])
    linear = ((x[half:] @ weights).argmax(1) == labels[half:]).mean()
    squares = (x * x).sum(1)
    distance = squares[half:, None] + squares[None, :half] - 2 * x[half:] @ x[:half].T
    nearest = (labels[:half][distance.argmin(1)] == labels[half:]).mean()
    chance, spread = 1 / len(MOTIONS), np.sqrt(0.1 * 0.9 / half)
    assert linear < chance + 4 * spread
    assert nearest < chance + 4 * spread


def test_statistics_of_single_frames_are_the_same_for_every_class():
    """Means over many clips, for the first, middle and last frame, agree between classes."""
    table = np.array([[looks(clip(motion, 7000 + 40 * m + k)) for k in range(40)] for m, motion in enumerate(MOTIONS)])
    means, spread = table.mean(1), table.std((0, 1)) / np.sqrt(40) + 1e-9
    z = (means - table.mean((0, 1))) / spread
    assert np.abs(z).max() < 5.5  # some 2,000 comparisons
    assert (z**2).mean() < 1.3


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_moves_in_every_frame(motion):
    videos = np.stack([clip(motion, word) for word in range(6)]).astype(int)
    assert np.abs(np.diff(videos, axis=1)).mean(axis=(0, 2, 3, 4)).min() > 0.1


def test_opposite_motions_are_each_other_backwards():
    """Translating right is translating left in reverse: flipped in time, shapes retrace their way."""
    state = np.array([0.3, 0.6, 1.0, 0.4])
    for kind in ("translate_right translate_left", "rotate_right rotate_left", "zoom_in zoom_out"):
        there, back = kind.split()
        forward = moved(state, there, 0.02, 0.0, 10)
        backward = moved(forward[-1], back, 0.02, 0.0, 10)
        np.testing.assert_allclose(backward[::-1], forward, atol=1e-12)


def test_translation_has_the_direction_and_speed_it_states():
    scene = Scene(size=32, frames=2, shapes=1, clutter=0, speed=2.0, contrast=0.0)
    for motion, axis, sign in (("translate_right", 0, 1), ("translate_left", 0, -1), ("translate_down", 1, 1)):
        path = moved(np.array([0.5, 0.5, 0.0, 0.5]), motion, scene.speed / scene.size, 0.0, 2)
        assert path[1, axis] - path[0, axis] == pytest.approx(sign * 2.0 / 32)


@pytest.mark.parametrize(
    "options", [{"size": 15}, {"size": 33}, {"frames": 0}, {"contrast": 1.5}, {"speed": 0.0}, {"test": -1}]
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"must|may not|between"):
        moving_shapes.settings(**options)


def test_other_settings_have_other_folders():
    names = {moving_shapes.settings(**options).name for options in ({}, {"seed": 1}, {"speed": 0.2}, {"train": 9})}
    assert len(names) == 4


def test_a_split_without_clips():
    settings = moving_shapes.settings(train=4, validation=0, test=2)
    for split in ("validation", "nope"):
        with pytest.raises(ConfigError, match=f"no split '{split}' with these settings; it has train, test"):
            moving_shapes.moving_shapes(settings, split)


def script(folder, count):
    return textwrap.dedent(f"""
        import logging
        from vmae_jax.data.synthetic import moving_shapes
        logging.getLogger("vmae_jax").setLevel(logging.INFO)
        logging.getLogger("vmae_jax").propagate = False
        logging.getLogger("vmae_jax").addHandler(logging.StreamHandler())
        settings = moving_shapes.settings(train={count}, validation=0, test=0, size=16, frames=4)
        source = moving_shapes.moving_shapes(settings, directory={str(folder)!r}).open()
        print(len(source), source.fetch(7).key, source.fingerprint)
    """)


@pytest.mark.slow
def test_a_kill_half_way_leaves_nothing_that_looks_finished_and_is_resumed(tmp_path):
    maker = subprocess.Popen([sys.executable, "-c", script(tmp_path, 800)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("moving_shapes/*/.preparing/train/shard-*.json")):
        assert time.monotonic() < end
        time.sleep(0.02)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    (folder,) = tmp_path.glob("moving_shapes/*")
    finished = list(folder.glob("moving_shapes-train.array_record-*-of-00016"))
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert 1 <= len(finished) < 16
    assert not (folder / "dataset_info.json").exists()
    code = script(tmp_path, 800)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("800 moving_shapes/train-")
    assert done.stderr.count("\n") == 1  # one line: it is being prepared
    assert {path: path.stat().st_mtime_ns for path in finished} == times  # what was finished is not made again
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert [path.name for path in folder.glob(".preparing*")] == []


@pytest.mark.slow
def test_of_several_processes_one_prepares_and_the_others_wait(tmp_path):
    code = script(tmp_path, 400)
    makers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {maker.communicate(timeout=300)[0] for maker in makers}
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert len(found) == 1
    assert found.pop().startswith("400 ")
