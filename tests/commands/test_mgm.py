"""MGM trained on real files: the vectors reach the mask, runs resume, and codecs without vectors are refused."""

import json

import jax
import numpy as np
import pytest

from tests.data.numbered_videos import write_video
from vmae_jax.commands import train
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.opened import open_loader
from vmae_jax.io.paths import Workdir
from vmae_jax.masking.core import plan
from vmae_jax.masking.motion_guided import motion_guided
from vmae_jax.spec import ConfigError
from vmae_jax.types import Grid


def moving(count=16, size=64, seed=0, left=True):
    """A square of noise that moves to the right from the left, or to the left from the right."""
    random = np.random.default_rng(seed)
    frames = np.repeat(random.integers(90, 110, (1, size, size, 1)).repeat(3, -1), count, 0).astype(np.uint8)
    patch = random.integers(0, 256, (4, 4, 1)).repeat(4, 0).repeat(4, 1).repeat(3, -1)
    for number, frame in enumerate(frames):
        place = 2 + 3 * number if left else size - 18 - 3 * number
        frame[24:40, place : place + 16] = patch
    return frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(4):
        (root / f"{number}.mp4").write_bytes(
            write_video(moving(seed=number, left=number % 2 == 0), codec="mpeg4", group=100)
        )
    return root


def config(folder, steps=4, **more):
    made = load_config(
        "configs/mgm.py:smoke",
        [("data.source.path", str(folder)), ("train.length.steps", str(steps)), ("data.global_batch", "8"),
         ("checkpoint.every", "{'steps': 2}"), *more.items()],
    )  # fmt: skip
    made.data.sampler.stride = 1
    return made


def test_the_vectors_of_a_file_guide_the_mask(videos):
    """Through decoding, cropping and batching: the mask follows the square in its direction, whichever it is."""
    made = experiment(config(videos))
    spec = made.loader.spec()
    assert spec["motion"].shape[1:] == (8, 4, 4, 2)
    assert made.method.supervision == ("motion",)
    stream = open_loader(made.loader).batches(rows=range(8), seed=0)
    batch = next(stream)
    stream.close()
    assert np.asarray(batch["motion_valid"]).all()
    keys = jax.random.split(jax.random.key(0), 8)
    found = plan(keys, batch, Grid(4, 4, 4), motion_guided(0.25))
    for row in range(8):
        hidden = np.ones(64, bool)
        hidden[np.asarray(found.visible[row])] = False
        across = [np.argwhere(slot.reshape(4, 4))[:, 1].mean() for slot in hidden.reshape(4, 16)]
        right = np.asarray(batch["motion"])[row][..., 0].sum()
        assert abs(right) > 1
        assert np.sign(across[-1] - across[0]) in (0, np.sign(right))
    assert len({float(np.sign(field[..., 0].sum())) for field in np.asarray(batch["motion"])}) == 2


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(videos, tmp_path):
    rows = []
    for name, lengths in (("whole", (4,)), ("parts", (2, 4))):
        for steps in lengths:
            train.run(config(videos, steps), Workdir(tmp_path / name), progress=False)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([row["loss"] for row in map(json.loads, lines) if row["kind"] == "train"])
    assert len(rows[0]) == 4
    assert rows[0][2:] == rows[1][2:]


def test_codecs_without_vectors_are_refused_before_the_first_step(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in range(2):
        data = write_video(moving(seed=number), codec="libvpx-vp9", container="webm")
        (tmp_path / "videos" / f"{number}.webm").write_bytes(data)
    with pytest.raises(ConfigError, match="none of the 8 clips of the first batch has motion vectors") as error:
        train.run(config(tmp_path / "videos"), Workdir(tmp_path / "run"), progress=False)
    assert "\n" not in str(error.value)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert not [row for row in rows if row["kind"] == "train"]


def test_a_loader_without_the_stream_is_refused(videos):
    made = config(videos)
    made.data.streams = {}
    with pytest.raises(ConfigError, match=r"config\.method reads 'motion', which config\.data does not provide"):
        experiment(made, trains=True)
