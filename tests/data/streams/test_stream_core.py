"""A stream reaches the batch beside the pictures of its clip: the same on every host, from any start."""

import dataclasses

import numpy as np
import pytest

from vmae_jax.data import clips, sources, transforms
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.rand_augment import rand_augment
from vmae_jax.data.streams import times
from vmae_jax.data.streams.core import ArraySpec, Stream
from vmae_jax.data.video import BadVideo
from vmae_jax.spec import ConfigError

SIZE = 16


@dataclasses.dataclass(frozen=True)
class Probe(Stream):
    """The box of the crop, a mask, and the clip's seed; videos of odd length of name have none."""

    geometric = True
    fails: bool = False

    def fields(self, shape):
        return {
            "": ArraySpec((4,), np.float64),
            "_mask": ArraySpec((3,), np.bool_),
            "_seed": ArraySpec((2,), np.uint32),
        }

    def read(self, recording, clips, out):
        if self.fails:
            raise BadVideo("is torn", "unsupported")
        for row, clip in enumerate(clips):
            out[""][row] = clip.view[:4]
            out["_mask"][row, clip.seed[0] % 3] = True
            out["_seed"][row] = clip.seed
        return [recording.encoded.key.startswith("even")] * len(clips)


def make(folder, **options):
    defaults = {
        "source": sources.folder(str(folder), labels="folders"),
        "sampler": clips.dense(4, 2),
        "transforms": [transforms.multi_scale_crop(SIZE), transforms.flip()],
        "streams": {"probe": Probe(), "seconds": times.seconds(), "frames": times.frames()},
        "global_batch": 4,
        "repeat": 2,
        "workers": 2,
        "labels": True,
    }
    return loader(**(defaults | options))


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


@pytest.fixture(scope="module")
def truth(video_folder):
    return take(open_loader(make(video_folder)).batches(rows=range(8), seed=5), 5)


def test_a_batch_holds_what_the_streams_declare(video_folder, truth):
    declared = make(video_folder).spec()
    assert {"probe", "probe_mask", "probe_seed", "probe_valid", "seconds_valid", "frames_valid"} < set(declared)
    for batch in truth:
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
            name: (spec.shape, spec.dtype) for name, spec in declared.items()
        }
        np.testing.assert_array_equal(batch["probe_seed"], batch["seed"])
        np.testing.assert_array_equal(batch["probe_valid"], batch["label"] == 0)
        assert batch["seconds_valid"].all()
        assert (batch["probe_mask"].sum(1) == 1).all()


def test_frame_numbers_and_seconds_are_of_the_frames_that_are_shown(truth):
    for batch in truth:
        np.testing.assert_allclose(batch["seconds"], batch["frames"] / 25, atol=1e-6)  # 25 frames a second
        assert (np.diff(batch["frames"], axis=1) == 2).all()
        sides = batch["video"][:, :, 8, [1, -2]].astype(int).mean(-1)  # one of them counts the frames
        counted = 4 + 5 * batch["frames"][..., None]
        assert (np.abs(sides - counted).max(1).min(-1) < 6).all()


def test_pictures_are_the_same_with_and_without_streams(video_folder, truth):
    plain = take(open_loader(make(video_folder, streams={})).batches(rows=range(8), seed=5), 5)
    for with_streams, without in zip(truth, plain, strict=True):
        for name, array in without.items():
            np.testing.assert_array_equal(with_streams[name], array)


def test_any_start_and_any_rows_give_the_same_streams(video_folder, truth):
    opened = open_loader(make(video_folder, workers=1))
    for rows, step in (([5], 0), ([3, 0, 6], 2), (range(4, 8), 1)):
        got = take(opened.batches(rows=list(rows), seed=5, start=4 * step), 2)
        for batch, whole in zip(got, truth[step:], strict=False):
            for name, array in whole.items():
                np.testing.assert_array_equal(batch[name], array[list(rows)], err_msg=name)


def test_rows_that_fill_up_a_batch_have_no_stream(video_folder):
    last = list(open_loader(make(video_folder, repeat=1)).once(rows=range(4)))[-1]
    assert last["valid"].tolist() == last["seconds_valid"].tolist() == [True, True, False, False]
    assert not last["seconds"][2:].any()


def test_a_stream_that_cannot_be_read_makes_its_video_a_broken_one(video_folder):
    opened = open_loader(make(video_folder, streams={"probe": Probe(fails=True)}, repeat=1, max_bad_fraction=1.0))
    feed = opened.once(rows=range(4))
    batch = next(feed)
    assert not batch["valid"].any()
    assert {(fault.kind, fault.reason) for fault in feed.faults()} == {("unsupported", "probe: is torn")}
    feed.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": {"video": Probe()}}, "already has 'video'"),
        ({"streams": {"label": Probe()}}, "already has 'label'"),
        ({"streams": {"a": Probe(), "a_mask": Probe()}}, "already has 'a_mask'"),
        ({"streams": {"a b": Probe()}}, "under an identifier"),
        ({"streams": {"a": transforms.flip()}}, "a call of kind stream"),
        ({"transforms": [rand_augment(), transforms.resize(SIZE)]}, "follows the crop"),
    ],
)
def test_streams_that_do_not_fit_are_refused(video_folder, options, message):
    with pytest.raises(ConfigError, match=message):
        make(video_folder, **options)


def test_streams_also_travel_where_the_graph_crops(video_folder):
    chain = [lambda features, seed: features, transforms.random_resized_crop(SIZE)]
    [batch] = take(open_loader(make(video_folder, transforms=chain, streams={"at": times.frames()})).batches(
        rows=range(8), seed=5), 1)  # fmt: skip
    assert batch["video"].shape == (8, 4, SIZE, SIZE, 3)
    assert (np.diff(batch["at"], axis=1) == 2).all()


def test_memory_counts_every_stream(video_folder):
    rows = range(8)
    small = open_loader(make(video_folder, streams={})).memory(rows)
    large = open_loader(make(video_folder)).memory(rows)
    each = 4 * 8 + 3 + 8 + 1 + (4 * 4 + 1) * 2  # of a row: the probe's arrays, and seconds and frames
    assert large.batches - small.batches == 5 * 8 * each
