"""A folder of small videos for the tests of the data system."""

import pathlib

import pytest
from numbered_videos import numbered_frames

from vmae_jax.data.encode import encode_h264


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory) -> pathlib.Path:
    """Ten videos of 24 frames in two class folders; the right half's colour is the video's number."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(10):
        folder = root / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(exist_ok=True)
        frames = numbered_frames(24, colour=20 * number + 20)
        (folder / f"video_{number}.mp4").write_bytes(encode_h264(frames, quality=4))
    return root
