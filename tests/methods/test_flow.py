"""The flow as a guide: which frames are compared, what the loss reads of it, and that nothing of it is trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import batch_of

from vmae_jax.masking.flow_guided import BASE, EARLIER, LATER, flow_guided
from vmae_jax.methods import masked
from vmae_jax.methods.flow import onward, outward_pairs, raft
from vmae_jax.models.raft import Raft, correlations
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.trajectory import NEXT, trajectory
from vmae_jax.train.sharding import unbox
from vmae_jax.types import Context


@functools.cache
def weights():
    """Random ones, whose flow is of a pixel or so."""
    params = unbox(raft(1).init(jax.random.key(0), {}))
    return jax.tree.map(lambda leaf: 0.5 * leaf, params)


def test_pairs_lead_outward_from_the_base():
    earlier, later = outward_pairs(6, 3, fix_backward=True)
    assert earlier == [(2, 3), (1, 2), (0, 1)]
    assert later == [(4, 3), (5, 4)]
    assert outward_pairs(6, 3, fix_backward=False) == ([(3, 2), (2, 1), (1, 0)], later)
    assert outward_pairs(3, 0, fix_backward=True) == ([], [(1, 0), (2, 1)])


@functools.cache
def network():
    """The network by itself, for two pairs."""
    return jax.jit(lambda params, frames: Raft(1).flow(params, frames, [(0, 1), (1, 2)]))


def test_the_flow_onward_is_that_of_each_frame_to_the_next(monkeypatch):
    def flow(self, params, frames, pairs):
        assert self.iterations == 2
        return jnp.stack([jnp.full((len(frames), 4, 4, 2), 10 * one + other) for one, other in pairs], axis=1)

    monkeypatch.setattr(Raft, "flow", flow)
    guide = onward(2)
    found = guide.annotate({}, batch_of(size=16))
    assert tuple(found) == guide.gives == trajectory().inputs
    np.testing.assert_array_equal(found[NEXT][0, :, 0, 0, 0], [1, 12, 23])
    with pytest.raises(ValueError, match="iterations=0"):
        onward(0)


def test_the_guide_adds_the_flow_of_these_pairs(monkeypatch):
    """The frames are between -1 and 1, the pairs in order, and both sides have their part of the result."""
    asked = []

    def flow(self, params, frames, pairs):
        asked.append((self.iterations, float(frames.min()), float(frames.max()), pairs))
        return jnp.stack([jnp.full((len(frames), 4, 4, 2), first) for first, _ in pairs], axis=1)

    monkeypatch.setattr(Raft, "flow", flow)
    batch = batch_of(size=16)
    batch["video"][0, 0, 0, 0], batch["video"][0, 0, 0, 1] = 0, 255
    for fix, wanted in ((True, [1, 0]), (False, [2, 1])):
        guide = raft(3, fix_backward=fix)
        found = guide.annotate({}, batch)
        assert asked[-1][:3] == (3, -1.0, 1.0)
        assert set(found) == set(guide.gives)
        np.testing.assert_array_equal(found[EARLIER][0, :, 0, 0, 0], wanted)
        np.testing.assert_array_equal(found[LATER][0, :, 0, 0, 0], [3])
    assert raft(base="first").annotate({}, batch)[EARLIER].shape == (4, 0, 4, 4, 2)


@pytest.mark.parametrize("fix", [True, False])
def test_each_clip_has_a_base_of_its_own(monkeypatch, fix):
    def flow(self, params, frames, pairs):
        assert pairs.shape == (8, 3, 2)
        named = (10 * pairs[..., 0] + pairs[..., 1]).astype(jnp.float32)
        return jnp.broadcast_to(named[..., None, None, None], (8, 3, 4, 4, 2))

    monkeypatch.setattr(Raft, "flow", flow)
    guide = raft(base="random", fix_backward=fix)
    batch = batch_of(8, size=16)
    found = {name: np.asarray(value) for name, value in guide.annotate({}, batch).items()}
    assert set(found) == set(guide.gives)
    bases = found[BASE].tolist()
    assert len(set(bases)) > 1
    assert set(bases) <= set(range(4))
    for row, base in enumerate(bases):
        sides = [[10 * one + other for one, other in side] for side in outward_pairs(4, base, fix_backward=fix)]
        for name, side in zip((EARLIER, LATER), sides, strict=True):
            np.testing.assert_array_equal(found[name][row, :, 0, 0, 0], side + [0] * (3 - len(side)))
    other = guide.annotate({}, {**batch, "seed": batch["seed"][::-1]})
    np.testing.assert_array_equal(other[BASE], bases[::-1])


@pytest.mark.slow
def test_pairs_of_each_clip_are_those_of_all():
    frames = jax.random.uniform(jax.random.key(1), (2, 3, 32, 40, 3), minval=-1.0)
    pairs = jnp.asarray([[(0, 1), (1, 2)], [(2, 1), (0, 1)]])
    found = jax.jit(lambda params, frames: Raft(1).flow(params, frames, pairs))(weights(), frames)
    np.testing.assert_allclose(found[0], network()(weights(), frames)[0], atol=1e-5)
    np.testing.assert_allclose(found[1, 1], network()(weights(), frames)[1, 0], atol=1e-5)


def test_each_pair_is_a_pair_by_itself():
    """Frame by frame and pair by pair, whatever else is in the clip."""
    frames = jax.random.uniform(jax.random.key(1), (2, 3, 32, 40, 3), minval=-1.0)
    both = network()(weights(), frames)
    assert both.shape == (2, 2, 32, 40, 2)
    other = network()(weights(), frames.at[:, 2].set(0.0))
    np.testing.assert_allclose(other[:, 0], both[:, 0], atol=1e-5)
    assert np.abs(other[:, 1] - both[:, 1]).max() > 1e-3
    turned = network()(weights(), frames[::-1])
    np.testing.assert_allclose(turned[::-1], both, atol=1e-4)


def test_small_frames_have_few_levels():
    maps = jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    levels = correlations(maps, maps)
    assert [level.shape for level in levels] == [(1, 6, 2, 3), (1, 6, 1, 1), (1, 6, 0, 0), (1, 6, 0, 0)]
    np.testing.assert_allclose(levels[0][0, 4, 1, 1], jnp.square(maps[0, 1, 1]).sum() / np.sqrt(8), rtol=1e-5)


def method(**options):
    model = vit("micro", frames=4, resolution=32, decoder_depth=1, dtype="float32")
    return masked.Masked(model, flow_guided(0.75), None, {"pixels": objective(pixels())}, {"flow": raft(1, **options)})


def test_the_loss_needs_no_stream_and_no_gradient_reaches_the_guide():
    one, batch = method(), batch_of(2, size=32)
    assert one.method().supervision == ()
    frozen = {"flow": weights()}
    found = jax.eval_shape(one.annotated, frozen, batch)
    assert (found[EARLIER].shape, found[LATER].shape) == ((2, 2, 32, 32, 2), (2, 1, 32, 32, 2))

    def read(frozen):
        return sum(jnp.square(one.annotated(frozen, batch)[name]).sum() for name in (EARLIER, LATER))

    gradient = jax.jit(jax.grad(read))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient(frozen)))
    params = jax.eval_shape(lambda: unbox(one.init(jax.random.key(0), batch)[0]))
    context = Context(jax.random.key(0), jnp.int32(0), None, frozen)
    assert jax.eval_shape(one.loss, params, batch, context).terms["pixels"].total.shape == ()


def test_mistakes():
    with pytest.raises(ValueError, match="iterations=0: at least 1"):
        raft(0)
    with pytest.raises(ValueError, match="base must be one of 'first', 'middle', 'random', got 'last'"):
        raft(base="last")
    for shape, text in (((1, 2, 20, 16, 3), "20x16x3"), ((1, 2, 16, 16, 1), "16x16x1")):
        with pytest.raises(ValueError, match=f"multiples of 8 pixels, the clips have {text}"):
            raft().annotate({}, {"video": np.zeros(shape, np.uint8)})
    with pytest.raises(ValueError, match="multiples of 8 pixels, got 20x16"):
        Raft().flow({}, jnp.zeros((1, 2, 20, 16, 3)), [(0, 1)])
