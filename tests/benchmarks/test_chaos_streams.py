"""The config of `benchmarks/chaos.py --streams`: every stream is read, and batches are the same on any host."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

from vmae_jax import registry
from vmae_jax.data.opened import open_loader
from vmae_jax.spec import build

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
BATCHES = 4


@pytest.fixture(scope="module")
def streams():
    """The module under the name that its config has for it."""
    sys.path.insert(0, str(BENCHMARKS))
    registry.admit("chaos_streams")
    yield importlib.import_module("chaos_streams")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def config(streams, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    streams.make_data(folder)
    made = streams.get_config()
    parts = made.data.source.parts
    parts.clips.source.source.path, parts.pictures.source.path = str(folder / "clips"), str(folder / "pictures")
    made.data.global_batch = 6
    return made


def batches(config, *, rows, start=0, workers=2):
    config.data.workers = workers
    with open_loader(build(config.data, "loader")).batches(rows=rows, seed=3, start=6 * start) as found:
        return [next(found) for _ in range(BATCHES - start)]


@pytest.fixture(scope="module")
def truth(config):
    return batches(config, rows=range(6))


def test_clips_have_every_stream_and_pictures_have_none(streams, truth):
    beside = [name for name in streams.streams() if f"{name}_valid" in truth[0]]
    assert beside == ["seconds", "frames", "audio", "text", "subtitles", "imu", "boxes", "state", "masks", "motion"]
    for name in beside[2:]:
        valid = np.concatenate([batch[f"{name}_valid"] for batch in truth])
        assert 0 < valid.sum() < len(valid), name
    assert all(batch["seconds_valid"].all() for batch in truth)
    for batch in truth:
        assert batch["valid"].all()
        picture = ~batch["imu_valid"]
        np.testing.assert_array_equal(picture, ~batch["masks_valid"])
        still = (batch["video"] == batch["video"][:, :1]).all(axis=(1, 2, 3, 4))
        np.testing.assert_array_equal(still, picture)


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "start", "workers"), [(2, 0, 1), (3, 1, 2), (6, 2, 1)])
def test_batches_are_the_same_on_any_number_of_hosts_and_from_any_start(config, truth, hosts, start, workers):
    """A host reads rows of its own, and the rows of all hosts are those of one."""
    count = 6 // hosts
    for host in range(hosts):
        rows = range(host * count, (host + 1) * count)
        for batch, whole in zip(batches(config, rows=rows, start=start, workers=workers), truth[start:], strict=True):
            assert batch.keys() == whole.keys()
            for name, array in whole.items():
                np.testing.assert_array_equal(batch[name], array[rows.start : rows.stop], err_msg=name)


def test_what_is_spoiled_is_listed_under_the_name_of_its_video(streams, tmp_path):
    for name in ("clips/a.mp4", "clips/a.txt", "clips/a_imu.csv", "clips/a_segments.csv", "pictures/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    whole, beside = streams.spoilable(tmp_path)
    assert [streams.key_of(file) for file in whole] == ["clips/a.mp4", "pictures/0.png"]
    assert [streams.key_of(file) for file in beside] == ["clips/a.mp4"] * 2
