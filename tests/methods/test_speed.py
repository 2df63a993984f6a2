"""ASCNet: partners in appearance and in speed, their losses, the warm-up, what no gradient reaches."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.data.video import VideoInfo
from vmae_jax.methods.parts.speed import alike, speed
from vmae_jax.spec import build
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))
PART = speed("video", [4], [4], weight=2.0, warmup=0.1)
EYE = {"layer_0": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
HEADS = {task: {"projector": EYE, "predictor": EYE} for task in ("appearance", "speed")}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows(seed=0, valid=None):
    online, target = np.random.default_rng(seed).normal(size=(2, 10, 4)).astype(np.float32)
    return {
        "online": jnp.asarray(online),
        "target": jnp.asarray(target),
        "valid": jnp.ones(10, bool) if valid is None else jnp.asarray(valid),
    }


def test_partners_in_speed_are_of_other_videos_and_look_most_alike():
    x, valid = unit(np.random.default_rng(1).normal(size=(12, 5))), np.arange(12) != 6
    found = np.asarray(alike(jnp.asarray(x, jnp.float32), jnp.asarray(valid), 2))
    for row in range(12):
        candidates = [other for other in range(12) if other % 2 == row % 2 and other // 2 != row // 2 and valid[other]]
        assert found[row] == max(candidates, key=lambda other: x[row] @ x[other]), row
    alone = np.asarray(alike(jnp.asarray(x, jnp.float32), jnp.arange(12) < 2, 2))
    np.testing.assert_array_equal(alone[:2], -1)


def test_the_losses_are_numpys():
    given = rows(valid=np.arange(10) != 3)
    found = PART.compare(HEADS, given, HEADS, CONTEXT)
    online, target = unit(np.asarray(given["online"])), unit(np.asarray(given["target"]))
    real = [row for row in range(10) if row != 3]
    wanted = [2 - 2 * online[row] @ target[row ^ 1] for row in real if row != 2]
    partner = np.asarray(alike(jnp.asarray(target), given["valid"], 2))
    faster = [2 - 2 * online[row] @ target[partner[row]] for row in real]
    for name, errors, weight in (("appearance", wanted, 1), ("speed", faster, 2)):
        term = found.terms[name]
        assert (float(term.count), float(term.weight)) == (len(errors), weight), name
        assert float(term.total / term.count) == pytest.approx(np.mean(errors), rel=1e-5), name
    spread = found.metrics["speed_spread"]
    assert float(spread.total / spread.count) == pytest.approx(target[real].var(axis=0).sum(), rel=1e-4)


def test_one_video_alone_has_no_partner_in_speed():
    found = PART.compare(HEADS, rows(valid=np.arange(10) < 2), HEADS, CONTEXT)
    assert (float(found.terms["appearance"].count), float(found.terms["speed"].count)) == (2, 0)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.05, 1.0), (0.5, 2.0), (None, 2.0)])
def test_the_weight_of_speed_rises_in_the_warm_up(progress, weight):
    context = dataclasses.replace(CONTEXT, progress=None if progress is None else jnp.float32(progress))
    assert float(PART.compare(HEADS, rows(), HEADS, context).terms["speed"].weight) == pytest.approx(weight)


def test_no_gradient_reaches_what_is_predicted():
    def total(given, average):
        loss = PART.compare(HEADS, given | {"valid": jnp.ones(10, bool)}, average, CONTEXT)
        return sum(term.total for term in loss.terms.values())

    floats = {name: leaf for name, leaf in rows().items() if name != "valid"}
    given, average = jax.grad(total, argnums=(0, 1))(floats, HEADS)
    assert np.any(given["online"])
    assert not np.any(given["target"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(average))


def test_the_clips_of_the_config_are_of_two_speeds():
    config: Any = load_config("configs/contrast.py:ascnet,B", [("data.source.path", "videos")])
    sampler = build(config.data.sampler, "sampler")
    info = VideoInfo(300, 25.0, np.arange(300) / 25, 32, 32)
    for word in range(20):
        slow, fast = sampler(info, np.array([word, 1], np.uint32))
        np.testing.assert_array_equal(slow, slow[0] + np.arange(16))
        np.testing.assert_array_equal(fast, fast[0] + 2 * np.arange(16))
        assert 0 <= fast[0] - slow[0] <= 64
    for wrong in ({"predictor": [5]}, {"warmup": 2}, {"views": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            speed("video", [4], **{"predictor": [4], **wrong})
