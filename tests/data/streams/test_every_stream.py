"""All streams at once: on any host, from any start, in a mixture, from the service, and what they cost."""

import collections
import dataclasses

import every_stream
import numpy as np
import pytest
from numbered_videos import numbered_frames

from vmae_jax import spec
from vmae_jax.data import service
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.opened import open_loader
from vmae_jax.data.service import start_dispatcher, start_worker
from vmae_jax.spec import build, call

NAMES = [name for name in every_stream.streams() if name not in ("seconds", "frames")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("every")
    every_stream.write_every(root)
    return root


def make(folder, **options):
    return open_loader(build(every_stream.config(folder, **options), "loader"))


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


@pytest.fixture(scope="module")
def truth(folder):
    return take(make(folder).batches(rows=range(4), seed=2), 4)


def words(batch, name):
    rows = zip(batch[name], batch[f"{name}_mask"], strict=True)
    return [bytes(int(token) - 3 for token in row[mask] if token > 2).decode() for row, mask in rows]


def test_each_row_has_what_is_beside_its_own_video(folder, truth):
    declared = make(folder).loader.spec()
    captions = set()
    for batch in truth:
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
            name: (one.shape, one.dtype) for name, one in declared.items()
        }
        for name in NAMES:
            assert batch[f"{name}_valid"].all(), name
        index = batch["index"]
        assert words(batch, "spoken") == [f"spoken {number}" for number in index]
        captions |= set(words(batch, "text"))
        moments = batch["seconds"][:, :1] + (np.arange(6) + 0.5) / 6 * 0.32  # four frames, 80 ms apart
        np.testing.assert_allclose(batch["imu"][..., 0], index[:, None] + moments, atol=1e-4)
        assert (batch["boxes_id"][:, :, 0] == index[:, None]).all()
        assert (batch["embeddings"][:, :3] == index[:, None, None]).all()
        assert (batch["flow"] == 100 + index[:, None, None, None, None]).all()
        loudness = batch["audio"].astype(float).std(1) * (index + 1)
        np.testing.assert_allclose(loudness, 12000 / np.sqrt(2), rtol=0.15)
    every = {f"{word} {number}" for word in ("video", "number") for number in range(4)}
    assert captions <= every
    assert len(captions) > 4, "drawn for each clip"


def assert_rows(batch, whole, rows):
    for name, array in whole.items():
        np.testing.assert_array_equal(batch[name], array[rows], err_msg=name)


@pytest.mark.parametrize(("rows", "start"), [([3], 0), ([2, 0], 1), ([1, 2, 3], 2)])
def test_any_host_and_any_start_give_the_same_bits(folder, truth, rows, start):
    got = take(make(folder, workers=1).batches(rows=rows, seed=2, start=2 * start), 2)
    for batch, whole in zip(got, truth[start:], strict=False):
        assert_rows(batch, whole, rows)


def test_a_part_without_streams_gives_rows_that_are_not_valid(folder, tmp_path):
    (tmp_path / "plain.mp4").write_bytes(encode_h264(numbered_frames(30, size=48), quality=4))
    parts = {
        "full": call("data.mixture.part", source=every_stream.source(folder)),
        "plain": call("data.mixture.part", source=call("data.sources.folder", path=str(tmp_path))),
    }
    mixed = make(folder, source=call("data.mixture", parts=parts), global_batch=5, repeat=1)
    with mixed.once(rows=range(5)) as batches:
        batch = next(batches)
    assert batch["valid"].all()
    for name in NAMES:
        expected = [True] * 5 if name == "motion" else [True] * 4 + [False]
        assert batch[f"{name}_valid"].tolist() == expected, name
        assert name == "motion" or not batch[name][4].any()


def test_the_service_gives_the_same_clips(folder, monkeypatch):
    monkeypatch.setenv(service.SECRET, "a secret of these tests, 32 characters")
    section = every_stream.config(folder)
    alone = take(open_loader(build(section, "loader")).batches(rows=range(4), seed=3), 2)  # an epoch of four videos
    dispatcher = start_dispatcher()
    worker = start_worker(f"localhost:{dispatcher.port}", processes=1)
    try:
        served = every_stream.config(folder, service=f"localhost:{dispatcher.port}")
        loader = dataclasses.replace(build(served, "loader"), recipe=spec.to_json(section))
        got = take(open_loader(loader).batches(rows=range(4), seed=3), 2)
    finally:
        worker.stop()
        dispatcher.stop()
    seen = collections.Counter(tuple(seed) for batch in got for seed in batch["seed"].tolist())
    rows = {tuple(seed): (batch, row) for batch in alone for row, seed in enumerate(batch["seed"].tolist())}
    assert seen == collections.Counter(rows.keys())
    for batch in got:
        for row, seed in enumerate(batch["seed"].tolist()):
            whole, place = rows[tuple(seed)]
            assert set(batch) == set(whole)
            for name in whole:
                np.testing.assert_array_equal(batch[name][row], whole[name][place], err_msg=name)


def test_the_budget_counts_the_bytes_of_every_stream(folder):
    opened = make(folder)
    sizes = {name: spec.bytes for name, spec in opened.loader.clip_specs().items()}
    assert sizes["video"] == 4 * 32 * 32 * 3
    assert sizes["audio"] == 4000 * 2
    assert sizes["flow"] == 4 * 32 * 32
    memory = opened.memory(range(4))
    assert memory.batches == 5 * 4 * sum(sizes.values())
