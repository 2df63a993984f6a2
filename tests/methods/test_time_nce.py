"""TeG: which moments of two clips are partners, what does not count, and the loss of clips that stand still."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.methods.parts.time_nce import time_nce
from vmae_jax.spec import ConfigError
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))
LONG, SHORT = np.arange(4.0), np.array([0.4, 1.3, 1.9, 2.6])
PART = time_nce("video", [6], temperature=0.5)
HEAD = {"projector": {"layer_0": {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}}}


def compared(long, short, *, times=(LONG, SHORT), valid=None):
    """The loss of n videos, whose moments are given as [n t d]."""
    n, t, d = np.shape(long)
    rows = {
        "moments": jnp.asarray(np.stack([long, short], 1).reshape(2 * n, t, d), jnp.float32),
        "seconds": jnp.asarray(np.tile(np.stack(times), (n, 1)), jnp.float32),
        "valid": jnp.ones(2 * n, bool) if valid is None else jnp.asarray(valid),
    }
    found = PART.compare(HEAD, rows, None, CONTEXT)
    term, accuracy = found.terms["time_nce"], found.metrics["accuracy"]
    return float(term.total / jnp.maximum(term.count, 1)), float(term.count), float(accuracy.total)


def drawn(seed):
    x = np.random.default_rng(seed).normal(size=(3, 4, 6))
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_loss_is_numpys():
    """By hand: partners are the nearest moments; those less than one second away are neither right nor wrong."""
    long, short = drawn(0), drawn(1)
    errors = []
    for video, i in np.ndindex(2, 4):  # the third video has a row that only pads the batch
        place = int(np.abs(SHORT[i] - LONG).argmin())
        right = short[video, i] @ long[video, place] / 0.5
        wrong = [
            short[video, i] @ long[other, j] / 0.5
            for other, j in np.ndindex(2, 4)
            if other != video or (j != place and abs(SHORT[i] - LONG[j]) >= 1)
        ]
        errors.append(np.log(np.exp([right, *wrong]).sum()) - right)
    value, count, _ = compared(long, short, valid=np.arange(6) != 5)
    with_long = compared(long, short, valid=np.arange(6) < 4)
    assert (count, with_long[1]) == (8, 8)
    assert value == pytest.approx(with_long[0], rel=1e-6)
    assert value == pytest.approx(np.mean(errors), rel=1e-5)


def test_clips_that_stand_still_have_the_logarithm_of_the_candidates():
    still = np.ones((3, 4, 6))
    own = [1 + sum(abs(SHORT[i] - LONG) >= 1) for i in range(4)]
    assert compared(still, still)[0] == pytest.approx(np.mean(np.log(np.array(own) + 8)), rel=1e-5)


def test_a_reversed_long_clip_has_a_larger_loss():
    places = np.eye(6)[:4][None] + 0.1 * drawn(2)
    nearest = places[:, np.abs(SHORT[:, None] - LONG).argmin(axis=1)]
    forward, _, hits = compared(places, nearest)
    backward, _, wrong = compared(places[:, ::-1], nearest)
    assert forward < backward - 1
    assert hits > wrong


def test_moments_that_the_long_clip_does_not_show_do_not_count():
    """No partner is further away than half of a step of the long clip."""
    assert compared(drawn(0), drawn(1), times=(LONG, LONG + 0.5))[1] == 12
    assert compared(drawn(0), drawn(1), times=(LONG, LONG + 0.6))[1] == 9
    assert compared(drawn(0), drawn(1), times=(LONG, LONG + 9))[:2] == (0, 0)


def test_moments_of_the_same_instant_are_no_candidates():
    """Of a video of one frame, whose clips repeat it; of a short one, whose clips end with its last frame."""
    still, others = np.ones((3, 4, 6)), 8
    assert compared(still, still, times=(np.zeros(4), np.zeros(4)))[0] == pytest.approx(np.log(1 + others), rel=1e-5)
    repeated = np.array([0.0, 1.0, 1.0, 1.0])
    own = np.array([1 + 3, 1 + 1, 1 + 1, 1 + 1])
    wanted = np.mean(np.log(own + others))
    assert compared(still, still, times=(repeated, repeated))[0] == pytest.approx(wanted, rel=1e-5)


def test_the_second_clip_of_the_config_is_within_the_first():
    config: Any = load_config("configs/contrast.py:teg,B", [("data.source.path", "videos")])
    sampler, parts = config.data.sampler, config.method.parts
    (long, short), (least, most) = sampler.strides, sampler.gap
    assert least == 0
    assert most + 15 * short == 15 * long
    assert parts.clips.weight + parts.moments.weight == 1
    for name, strides in {"teg": [4, 1], "ascnet": [1, 2]}.items():
        tiny: Any = load_config(f"configs/contrast.py:{name},B,smoke", [])
        assert list(tiny.data.sampler.strides) == strides
    with pytest.raises(ConfigError, match="views=3: teg has two different clips"):
        load_config("configs/contrast.py:teg,B,views=3", [])
    with pytest.raises(ValueError, match="temperature=0"):
        time_nce("video", temperature=0)
