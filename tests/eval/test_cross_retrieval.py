"""Retrieval between modalities: places, ties, which videos count, and what is compared with what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.eval import cross_retrieval as retrieval
from vmae_jax.methods.common import Common
from vmae_jax.types import Carried, Method
from vmae_jax.vectors import unit


def method_of(project=None, **more):
    """A method whose features are in the batch."""

    def features(params, batch):
        del params
        return batch["video"], batch["audio"], batch["heard"]

    def alike(params, one, other, valid):
        del params, valid
        return unit(one), unit(other)

    space = Common(("video", "audio"), features, project or alike)
    nothing = lambda *_, **__: None  # noqa: E731
    return Method(init=nothing, loss=nothing, features=nothing, common={"nce": space, **more})


def batches(video, audio, heard=None, *, index=None, size=4):
    """Batches of these rows; the last one is filled up with rows that do not count."""
    count = len(video)
    heard = np.ones(count, bool) if heard is None else heard
    index = np.arange(count) if index is None else index
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        valid, rows = rows < count, np.minimum(rows, count - 1)
        yield {
            "video": jnp.asarray(video[rows]),
            "audio": jnp.asarray(audio[rows]),
            "heard": jnp.asarray(heard[rows] & valid),
            "index": np.where(valid, index[rows], -1),
            "valid": valid,
        }


def measured(video, audio, heard=None, method=None, **options):
    return retrieval.cross_retrieval(ranks=(1, 5))(method or method_of(), {}, batches(video, audio, heard, **options))


def test_places_are_those_of_a_sorted_list():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 40, 5))
    close = one @ other.T
    truth = [1 + np.argsort(-row).tolist().index(number) for number, row in enumerate(close)]
    np.testing.assert_array_equal(retrieval.places(one, other), truth)


def test_equal_vectors_have_the_place_of_chance(monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 3)
    np.testing.assert_array_equal(retrieval.places(np.ones((7, 2)), np.ones((7, 2))), np.full(7, 4.0))


def test_both_directions():
    """All sounds are nearest to the first video; each video is nearest to its own sound."""
    video = np.array([[1, 0.0], [0, 1], [-1, 0]], np.float32)
    audio = np.array([[1, 0.1], [1, 0.2], [1, -0.3]], np.float32)
    found = measured(video, audio)
    assert (found["video_to_audio_r1"], found["audio_to_video_r1"]) == (1.0, pytest.approx(1 / 3))
    assert (found["video_to_audio_median"], found["audio_to_video_median"]) == (1.0, 2.0)
    assert (found["video_to_audio_r5"], found["pairs"], found["left_out"]) == (1.0, 3.0, 0.0)


def test_videos_without_a_sound_are_left_out_and_clips_are_averaged():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(6, 4)).astype(np.float32)
    index, heard = np.array([0, 0, 1, 1, 2, 3]), np.array([True, True, True, False, False, True])
    found = []

    def project(params, one, other, valid):
        del params
        found.append((one, other, valid))
        return unit(one), unit(other)

    result = measured(
        rows,
        -rows,
        heard,
        method_of(
            lambda *a: jax.pure_callback(lambda *b: project(*b), (jax.ShapeDtypeStruct((3, 4), jnp.float32),) * 2, *a)
        ),
        index=index,
    )
    [(one, other, valid)] = found
    np.testing.assert_allclose(one, [rows[:2].mean(0), rows[2], rows[5]], rtol=1e-6)
    np.testing.assert_allclose(other, -one, rtol=1e-6)
    assert valid.all()
    assert (result["pairs"], result["left_out"]) == (3.0, 1.0)
    with pytest.raises(ValueError, match="1 of 4 videos have video and audio: two are needed"):
        measured(rows, -rows, index == 1, index=index)


def test_what_cannot_be_compared_is_refused():
    check = lambda method, **options: retrieval.cross_retrieval(**options).check(method, {}, {}, Carried())  # noqa: E731
    with pytest.raises(ValueError, match="compares no two modalities"):
        check(method_of()._replace(common=None))
    several = method_of(text=method_of().common["nce"])
    with pytest.raises(ValueError, match="several spaces: set space to one of nce, text"):
        check(several)
    with pytest.raises(ValueError, match="no space 'x', only nce"):
        check(method_of(), space="x")
    check(several, space="text")
    with pytest.raises(ValueError, match="ranks must be at least 1"):
        retrieval.cross_retrieval(ranks=())
