"""ConST-CL: boxes, regions in place, what the prediction sees, and partners and candidates of the contrast."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from sounds import MODELS

from vmae_jax.augment.regions import random_boxes
from vmae_jax.inputs.readers import video
from vmae_jax.methods import joint
from vmae_jax.methods.parts.core import Seen
from vmae_jax.methods.parts.region_nce import region_nce
from vmae_jax.models.regions import pooled_boxes, spread_slots
from vmae_jax.types import Context, Grid, MaskPlan, row_keys

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))
PART = region_nce("video", random_boxes(), temperature=0.5)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def compared(instances, predicted, there=None):
    there = np.ones(instances.shape[:2], bool) if there is None else there
    rows = {"instances": instances, "predicted": predicted, "there": there}
    found = PART.compare({}, jax.tree.map(jnp.asarray, rows), None, CONTEXT)
    term, accuracy = found.terms["region_nce"], found.metrics["accuracy"]
    count = float(term.count)
    return float(term.total) / max(count, 1), count, float(accuracy.total) / max(count, 1)


def test_the_loss_is_numpys():
    """Regions of the same clip are no candidates but for the partner; those that are not there are neither."""
    instances, predicted = drawn(6, 4, 5), drawn(6, 4, 5, seed=1)
    there = np.random.default_rng(2).random((6, 4)) < 0.7
    there[5] = False  # a row that only pads the batch
    own, asked, errors = unit(instances), unit(predicted), []
    for row, i in np.argwhere(there):
        other = row ^ 1
        known = np.flatnonzero(there[other])
        if len(known):
            partner = known[np.argmax(own[other, known] @ own[row, i])]
            right = asked[row, i] @ own[other, partner] / 0.5
            wrong = [
                asked[row, i] @ own[clip, j] / 0.5
                for clip, j in np.argwhere(there)
                if clip % 2 == other % 2 and clip != other
            ]
            errors.append(np.log(np.exp([right, *wrong]).sum()) - right)
    value, count, _ = compared(instances, predicted, there)
    assert there[4].any()
    assert count == len(errors) < there.sum()
    assert value == pytest.approx(np.mean(errors), rel=1e-5)


def test_identical_views_are_found_by_themselves():
    x = np.repeat(drawn(3, 4, 32), 2, axis=0)
    value, count, accuracy = compared(x, x)
    assert (count, accuracy) == (24, 1)
    shuffled = x.copy()
    shuffled[1::2] = x[1::2, ::-1]  # in another order, they are found as well
    assert compared(shuffled, shuffled)[0] == pytest.approx(value, rel=1e-5)
    still = np.ones_like(x)
    assert compared(still, still)[0] == pytest.approx(np.log(1 + 2 * 4), rel=1e-5)


def test_boxes_follow_the_seeds():
    keys = row_keys(jnp.arange(400, dtype=jnp.uint32).reshape(200, 2))
    boxes = np.asarray(random_boxes(count=8)(keys))
    low, high = boxes[..., :2], boxes[..., 2:]
    assert boxes.shape == (200, 8, 4)
    assert (low >= 0).all()
    assert (high <= 1).all()
    whole = (high < 1).all(axis=-1)
    wide, tall = np.moveaxis((high - low)[whole], -1, 0)
    assert wide.min() >= 0.1 - 1e-6
    assert wide.max() <= 0.5
    assert (tall / wide).min() >= 0.5 - 1e-5
    assert (tall / wide).max() <= 2 + 1e-5
    assert low.mean() == pytest.approx(0.5, abs=0.02)
    assert (boxes[0] != boxes[1]).all(where=boxes[0] < 1)
    np.testing.assert_array_equal(boxes[5:7], random_boxes(count=8)(keys[5:7]))
    some_wrong: list[dict[str, Any]] = [{"count": 0}, {"width": [0.5, 0.1]}, {"width": [0.5, 1.5]}, {"aspect": [1]}]
    for wrong in some_wrong:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            random_boxes(**wrong)


def test_regions_are_read_in_place():
    """On a slope, the mean of a box is the value at its centre; beyond the outermost centres values are held."""
    y, x = np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(8) + 0.5) / 8, indexing="ij")
    slope = jnp.asarray(np.stack([y, x], -1)[None], jnp.float32)
    boxes = np.array([[[0.2, 0.3, 0.7, 0.8], [0.1, 0.15, 0.9, 0.6], [0.0, 0.0, 0.0, 0.0]]], np.float32)
    found = np.asarray(pooled_boxes(slope, jnp.asarray(boxes)))[0]
    centres = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    np.testing.assert_allclose(found[:2], centres[:2, ::-1], atol=1e-6)
    np.testing.assert_allclose(found[2], [0.1, 1 / 16], atol=1e-6)
    flipped = boxes[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    mirrored = pooled_boxes(slope[:, :, ::-1], jnp.asarray(flipped, jnp.float32))
    np.testing.assert_allclose(np.asarray(mirrored)[0], found, atol=1e-6)


def test_slots_of_the_context():
    assert spread_slots(8, 5) == [2, 3, 4, 5, 6]
    assert spread_slots(9, 3) == [1, 4, 7]
    assert spread_slots(2, 1) == [1]
    for count in (4, 9, -1):
        with pytest.raises(ValueError, match=f"context={count}"):
            spread_slots(8, count)


def test_the_prediction_sees_the_slots_of_the_other_clip():
    """Three of five slots of the other clip, all of their tokens, and of its own clip the box alone."""
    grid, part = Grid(5, 2, 3), region_nce("video", boxes="boxes", context=3, width=4, heads=1, depth=1)
    boxes = np.zeros((4, 10, 1, 4), np.float32)
    boxes[:, 5] = [0.0, 0.0, 1 / 3, 0.5]  # the first token; other frames' boxes are not read
    batch = {"boxes": boxes, "boxes_mask": np.ones((4, 10, 1), bool), "valid": np.ones(4, bool)}
    plan = MaskPlan(jnp.zeros((4, grid.size), int), jnp.zeros((4, 0), int), jnp.zeros((4, 0)))
    params = part._decoder(6, jnp.float32).init(
        jax.random.key(0), jnp.zeros((1, 1, 6)), jnp.zeros((1, 3, grid.h, grid.w, 6))
    )
    params = {"decoder": meta.unbox(params["params"])}

    @jax.jit
    def gradient(tokens):
        rows = lambda x: part.rows(params, {"video": Seen(batch, plan, x, x, grid)}, dict)  # noqa: E731
        return jax.grad(lambda x: rows(x)["predicted"][2, 0, 0])(tokens)

    seen = np.asarray(gradient(jnp.asarray(drawn(4, grid.size, 6)))).any(axis=-1).reshape(4, *grid_shape(grid))
    wanted = np.zeros_like(seen)
    wanted[3, 1:4] = True
    wanted[2, 2, :2, :2] = True  # samples at its sides are between two tokens
    np.testing.assert_array_equal(seen, wanted)
    assert seen[3].sum() == 3 * grid.h * grid.w


def grid_shape(grid):
    return grid.t, grid.h, grid.w


def test_a_weight_of_zero_has_no_gradient():
    """What is left is CVRL."""
    part = region_nce("video", random_boxes(), weight=0.0)
    rows = {"instances": drawn(4, 2, 3), "predicted": drawn(4, 2, 3, seed=1)}

    def loss(given):
        (term,) = part.compare({}, given | {"there": jnp.ones((4, 2), bool)}, None, CONTEXT).terms.values()
        return term.weight * term.total / term.count

    for gradient in jax.grad(loss)(rows).values():
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give either regions"),
        ({"regions": random_boxes(), "boxes": "boxes"}, "give either regions"),
        ({"boxes": "boxes", "context": 4}, "context is odd"),
        ({"boxes": "boxes", "temperature": 0}, "temperature=0"),
    ],
)
def test_wrong_numbers(wrong: Any, message):
    with pytest.raises(ValueError, match=message):
        region_nce("video", **wrong)


def test_what_does_not_suit():
    seen = {"video": joint.modality(MODELS["video"], None, video())}
    with pytest.raises(ValueError, match="context=5: an odd number of the 2 slots"):
        joint.build(seen, {"regions": PART})
    with pytest.raises(ValueError, match="no modality 'sound'"):
        joint.build(seen, {"regions": region_nce("sound", boxes="boxes")})
    method = joint.build(seen, {"regions": region_nce("video", boxes="boxes", context=1)})
    assert (method.views, method.group) == (2, 2)
    assert method.supervision == ("boxes", "boxes_mask")
