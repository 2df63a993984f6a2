"""Benchmarks of label propagation, read from miniatures in their owners' layouts."""

import benchmark_files
import numpy as np
import pytest

from vmae_jax.data.sequences import VIP_CLASSES, davis, drawn, jhmdb, vip
from vmae_jax.data.synthetic.world import make_world, settings
from vmae_jax.spec import ConfigError


def test_davis(tmp_path):
    found = davis(str(benchmark_files.davis(tmp_path))).open()
    assert (found.task, list(found.keys), len(found)) == ("objects", ["bear", "swing"], 2)
    video = found.video(1)
    assert (video.key, video.length) == ("swing", 6)
    expected = benchmark_files.moving(6, (48, 80))
    for number in range(6):
        np.testing.assert_array_equal(video.labels(number), expected[number])  # void is background
        assert np.abs(video.picture(number).astype(int) - benchmark_files.picture_of(expected[number])).mean() < 3


def test_vip_is_in_the_order_of_the_numbers(tmp_path):
    found = vip(str(benchmark_files.vip(tmp_path))).open()
    assert (found.task, len(VIP_CLASSES), found.classes) == ("classes", 20, VIP_CLASSES)
    for video in found:
        expected = 13 * benchmark_files.moving(4, (64, 128))
        np.testing.assert_array_equal([video.labels(number) for number in range(4)], expected)


def test_jhmdb_takes_the_test_videos_and_counts_pixels_from_zero(tmp_path):
    found = jhmdb(str(benchmark_files.jhmdb(tmp_path))).open()
    assert (found.task, list(found.keys)) == ("joints", ["climb/a_climb_1", "wave/c_wave_1"])
    video = found.video(0)
    assert video.points.shape == (4, 15, 2)
    np.testing.assert_allclose(video.points[:, 0], [[5, 5], [9, 5], [13, 5], [17, 5]])
    np.testing.assert_allclose(video.points[0, -1], [40, 60])
    assert video.picture(3).shape == (64, 64, 3)


def test_drawn_clips_have_their_shapes():
    made = settings(test=2, frames=3, size=32)
    video = drawn(made).open().video(1)
    pictures = make_world(made, "test", 1)[1]
    np.testing.assert_array_equal([video.picture(number) for number in range(3)], pictures.video)
    np.testing.assert_array_equal([video.labels(number) for number in range(3)], pictures.numbers)


BROKEN = {
    "no folder": (davis, lambda root: None, "there is no folder"),
    "no list": (davis, lambda root: (root / "ImageSets/2017/val.txt").unlink(), "no ImageSets/2017/val.txt"),
    "no labels": (davis, lambda root: (root / "Annotations/480p/bear/00003.png").unlink(), "no labels of 00003.jpg"),
    "a name": (davis, lambda root: (root / "JPEGImages/480p/bear/x.jpg").touch(), "'x.jpg', whose name is no number"),
    "outside": (davis, lambda root: (root / "ImageSets/2017/val.txt").write_text("../x\n"), "leads out of the folder"),
    "no videos": (vip, lambda root: (root / "lists/val_videos.txt").write_text("\n"), "names no video"),
    "a part": (jhmdb, lambda root: (root / "splits/wave_test_split1.txt").write_text("a.avi 3\n"), "'a.avi 3'"),
    "no joints": (
        jhmdb,
        lambda root: (root / "joint_positions/wave/c_wave_1/joint_positions.mat").unlink(),
        "there is no joint_positions",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_in_the_folder_is_one_line(tmp_path, name):
    read, damage, message = BROKEN[name]
    root = tmp_path / "files"
    if name != "no folder":
        getattr(benchmark_files, read.__name__)(root)
        damage(root)
    with pytest.raises(ConfigError, match=message) as error:
        read(str(root)).open()
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    root = benchmark_files.davis(tmp_path)
    (root / "JPEGImages/480p/bear/00002.jpg").write_bytes(b"no picture")
    benchmark_files.save(root / "Annotations/480p/bear/00002.png", np.zeros((4, 4, 3), np.uint8))
    video = davis(str(root)).open().video(0)
    with pytest.raises(ConfigError, match=r"00002\.jpg: .*is no JPEG"):
        video.picture(2)
    with pytest.raises(ConfigError, match="one channel of 8 bits, not RGB"):
        video.labels(2)
    path = benchmark_files.jhmdb(tmp_path / "j") / "joint_positions/wave/c_wave_1/joint_positions.mat"
    path.write_bytes(b"MATLAB 5.0")
    with pytest.raises(ConfigError, match="cannot be read as a MAT file"):
        jhmdb(str(tmp_path / "j")).open().video(1)
