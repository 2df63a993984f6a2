"""Controllable augmentations: where cells are, how they overlap, what is found, which clip is first, hidden colours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sounds import MODELS

from vmae_jax.commands.config import load_config
from vmae_jax.inputs.readers import video
from vmae_jax.methods import joint
from vmae_jax.methods.parts.forget import forget, reversed_gradient
from vmae_jax.methods.parts.order import order
from vmae_jax.methods.parts.overlap_nce import overlap_nce, overlaps, volumes
from vmae_jax.spec import ConfigError
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))
CELLS = (2, 2, 3)
WHOLE, HEAD = [0.0, 0.0, 1.0, 1.0], {"layer_0": {"kernel": jnp.eye(5), "bias": jnp.zeros(5)}}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def frames(begin, step=1.0, count=4):
    begins = begin + step * np.arange(count)
    return np.stack([begins, begins + step], axis=1)


def cells(place, times):
    return volumes(jnp.asarray([place], jnp.float32), jnp.asarray(times[None], jnp.float32), CELLS)


def overlap(first, second):
    return np.asarray(overlaps(cells(*first), cells(*second)))[0]


def test_cells_are_where_they_are_shown():
    found = np.asarray(cells([0.2, 0.5, 0.8, 1.0], frames(3.0))).reshape(*CELLS, 3, 2)
    assert_allclose(found[1, 0, 2], [[5, 7], [0.5, 0.75], [0.6, 0.8]], atol=1e-6)
    mirrored = np.asarray(cells([0.8, 0.5, 0.2, 1.0], frames(3.0))).reshape(*CELLS, 3, 2)
    assert_allclose(mirrored, found[:, :, ::-1], atol=1e-6)


def test_the_same_clip_overlaps_with_itself():
    assert_allclose(overlap((WHOLE, frames(0.0)), (WHOLE, frames(0.0))), np.eye(12), atol=1e-5)


def test_a_mirrored_clip_mirrors_what_overlaps():
    place, times = [0.1, 0.2, 0.7, 0.9], frames(0.5)
    plain = overlap((place, times), (WHOLE, frames(0.0)))
    mirrored = overlap(([0.7, 0.2, 0.1, 0.9], times), (WHOLE, frames(0.0)))
    assert (plain > 0).sum() > 12
    assert_allclose(mirrored.reshape(*CELLS, 12), plain.reshape(*CELLS, 12)[:, :, ::-1], atol=1e-6)


def test_the_overlap_is_a_share_of_the_volume_that_either_covers():
    """A cell of a quarter of the width, half of the time and all of the height, within another."""
    one = jnp.asarray([[[[0, 1], [0, 1], [0.25, 0.5]]]])
    other = jnp.asarray([[[[0, 2], [0, 1], [0, 1]], [[0.5, 1.5], [0, 1], [0.25, 0.5]], [[3, 4], [0, 1], [0, 1]]]])
    assert_allclose(overlaps(one, other)[0, 0], [0.25 / 2, 0.125 / 0.375, 0], atol=1e-6)
    assert not np.asarray(overlaps(one * 0, one * 0)).any()  # cells of a repeated frame have no volume


def compared(places, x, valid=None):
    """The loss of clips of three videos, as rows of their whole and one part."""
    part = overlap_nce("video", [5], CELLS, temperature=0.5, views=2)
    rows = {"cells": jnp.asarray(x), "volumes": jnp.concatenate([cells(*one) for one in places])}
    rows["valid"] = jnp.ones(6, bool) if valid is None else jnp.asarray(valid)
    (term,) = part.compare({"projector": HEAD}, rows, None, CONTEXT).terms.values()
    return float(term.total / jnp.maximum(term.count, 1)), float(term.count)


def test_the_loss_is_numpys():
    whole, part = (WHOLE, frames(0.0, 2.0)), ([0.6, 0.1, 0.2, 0.5], frames(1.0))
    away = (WHOLE, frames(20.0))
    x, valid = drawn(6, 12, 5), np.arange(6) != 4  # the third video's whole clip is no candidate
    value, count = compared([whole, part, whole, away, whole, part], x, valid)
    assert count == 12  # of the first video alone: the second one's part shares nothing with its whole
    wanted = overlap(part, whole)
    wanted = wanted / wanted.sum(axis=1, keepdims=True)
    logits = unit(x[1]) @ unit(x[[0, 2]].reshape(24, 5)).T / 0.5
    errors = np.log(np.exp(logits).sum(axis=1)) - (wanted * logits[:, :12]).sum(axis=1)
    assert value == pytest.approx(errors.mean(), rel=1e-5)


def test_clips_that_share_nothing_have_no_loss():
    apart = [(WHOLE, frames(0.0)), (WHOLE, frames(9.0))] * 3
    assert compared(apart, drawn(6, 12, 5)) == (0, 0)


def test_the_order_is_that_of_the_middles():
    part = order("video", [])
    head = {"head": {"layer_0": {"kernel": jnp.asarray([[0.0], [-1.0], [2.0]]), "bias": jnp.zeros(1)}}}
    features = drawn(12, 1)
    middle = np.array([5, 1, 2, 5, 4, 3, 5, 3, 3, 5, 1, 2], np.float32)  # later, earlier, the same time, not there
    rows = {"features": features, "middle": middle, "valid": np.arange(12) != 11}
    found = part.compare(head, jax.tree.map(jnp.asarray, rows), None, CONTEXT)
    logits = features.reshape(4, 3) @ [0.0, -1.0, 2.0]
    term, accuracy = found.terms["order"], found.metrics["accuracy"]
    assert float(term.count) == 2
    assert float(term.total) == pytest.approx(np.log1p(np.exp(-logits[0])) + np.log1p(np.exp(logits[1])), rel=1e-5)
    assert float(accuracy.total) == (logits[0] > 0) + (logits[1] < 0)


def test_the_encoder_works_against_the_estimator():
    """Colours that the features hold are read by the estimator, and the features' gradient has the other sign."""
    x = jnp.asarray(drawn(3, 2))
    assert_allclose(jax.grad(lambda x: (reversed_gradient(x) * 3).sum())(x), np.full((3, 2), -3.0))
    part, cues = forget("video", [], weight=0.5), drawn(8, 5, seed=1)
    rows = {"features": jnp.asarray(drawn(8, 5)), "cues": jnp.asarray(cues), "valid": jnp.arange(8) != 7}

    def loss(head, features):
        (term,) = part.compare({"estimator": head}, rows | {"features": features}, None, CONTEXT).terms.values()
        return term.total / term.count

    value, (head, features) = jax.value_and_grad(loss, (0, 1))(HEAD, rows["features"])
    wanted = (cues[:7] - cues[:7].mean(axis=0)) / np.sqrt(cues[:7].var(axis=0) + 1e-3)
    error = rows["features"][:7] - wanted
    assert float(value) == pytest.approx(np.square(error).mean(), rel=1e-5)
    slope = 2 * np.asarray(error) / error.size
    assert_allclose(head["layer_0"]["bias"], slope.sum(axis=0), atol=1e-6)  # descends
    assert_allclose(features[:7], -slope, atol=1e-6)  # ascends
    assert not np.asarray(features[7]).any()


def test_what_does_not_suit():
    seen = {"video": joint.modality(MODELS["video"], None, video())}
    with pytest.raises(ValueError, match=r"cells=\[4, 2, 2\] must divide the 2x2x2 tokens"):
        joint.build(seen, {"cells": overlap_nce("video", cells=(4, 2, 2))})
    method = joint.build(seen, {"cells": overlap_nce("video", [8], (1, 2, 2)), "order": order("video")})
    assert (method.views, method.supervision) == (3, ("place", "place_times"))
    wrong: list[dict[str, Any]] = [{"cells": [1, 1, 1]}, {"views": 1}, {"temperature": 0}, {"widths": []}]
    for given in wrong:
        with pytest.raises(ValueError, match=next(iter(given))):
            overlap_nce("video", **given)
    with pytest.raises(ConfigError, match="views=3: controlled has two clips"):
        load_config("configs/contrast.py:controlled,B,views=3", [])
    with pytest.raises(ConfigError, match="views=3: const_cl compares two clips"):
        load_config("configs/contrast.py:const_cl,B,views=3", [])
