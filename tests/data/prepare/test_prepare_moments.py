"""Records of moments of long videos: the frames that are shown then, with their times, and nothing else."""

import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video

from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.prepare.examples import examples
from vmae_jax.data.prepare.record import options
from vmae_jax.data.video import BadVideo, Encoded


def cut(path, start, stop, *, short_side=None):
    """The file that `vmae data prepare --codec=keep` stores of a moment."""
    (record,) = examples(Encoded(path=path, moment=(start, stop, short_side)), options(), key="film")
    assert record["start_us"] == round(1e6 * start)
    assert "audio" not in record
    return record["video"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "film.mkv"
    path.write_bytes(write_video(numbered_frames(48), container="matroska", group=20))
    return str(path)


@pytest.mark.parametrize(
    ("start", "stop", "numbers"), [(0, 0.2, range(5)), (0.9, 1.2, range(23, 30)), (1.8, 99, range(45, 48))]
)
def test_a_cut_is_the_frames_of_those_seconds(film, start, stop, numbers):
    data = Encoded(data=cut(film, start, stop))
    info = probe(data)
    assert (info.num_frames, info.codec) == (len(numbers), "h264")
    assert info.rate == pytest.approx(25, rel=0.02)
    bright = read_frames(data, range(len(numbers)))[:, 8, 4, 0].astype(int)
    assert np.abs(bright - [4 + 5 * number % 250 for number in numbers]).max() < 8


def test_cuts_of_one_file_in_any_order_and_at_any_size(film):
    first = cut(film, 1.0, 1.2)
    assert cut(film, 0.0, 0.2) != first
    assert cut(film, 1.0, 1.2) == first  # the same bytes, whatever was cut before
    info = probe(Encoded(data=cut(film, 1.0, 1.2, short_side=16)))
    assert (info.height, info.width) == (16, 16)


def test_what_cannot_be_cut_is_reported(film, tmp_path):
    with pytest.raises(BadVideo, match=r"has no frame from second 5 to 6; it lasts 1\.9 s"):
        cut(film, 5, 6)
    with pytest.raises(BadVideo, match="does not exist"):
        cut(str(tmp_path / "none.mp4"), 0, 1)
    assert probe(Encoded(data=cut(film, 0, 0.2))).num_frames == 5  # the mistake before left nothing behind
