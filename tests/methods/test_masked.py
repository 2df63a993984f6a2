"""Masked autoencoding: what the loss depends on, and what it must not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.masking.core import Masker
from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.methods import masked
from vmae_jax.methods.guides import Guide
from vmae_jax.models.variants import vit
from vmae_jax.patches import patchify, unpatchify
from vmae_jax.targets.core import l1, objective, smooth_l1
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.trajectory import NEXT, trajectory
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))


def batch_of(b=2, seed=0):
    random = np.random.default_rng(seed)
    return {
        "video": jnp.asarray(random.integers(0, 256, (b, 4, 32, 32, 3), np.uint8)),
        "seed": jnp.asarray(random.integers(0, 2**32, (b, 2), np.uint32)),
        "index": jnp.arange(b, dtype=jnp.int32),
        "valid": jnp.ones(b, bool),
    }


def make(decoder=True, normalize=True, **options):
    model = vit("micro", frames=4, resolution=32, decoder_depth=1, dtype="float32", **options)
    return masked.Masked(
        model,
        tube(0.75),
        running_cell(0.5) if decoder else None,
        {"pixels": objective(pixels(normalize))},
    )


@pytest.fixture(scope="module")
def params():
    one = make()
    return meta.unbox(jax.jit(lambda: one.init(jax.random.key(0), batch_of())[0])())


def loss(one, params, batch):
    term = jax.jit(one.loss)(params, batch, CONTEXT).terms["pixels"]
    return term.total / term.count


def changed(batch, one, tokens):
    """The batch with the pixels of these tokens, a row each, inverted."""
    n, grid, patch = one.model.grid.size, one.model.grid, one.model.patch
    mark = jnp.zeros((len(tokens), n, patch.t * patch.h * patch.w * 3), jnp.uint8)
    mark = jax.vmap(lambda m, i: m.at[i].set(255))(mark, jnp.asarray(tokens))
    return {**batch, "video": batch["video"] ^ unpatchify(mark, grid, patch)}


def regions(one, batch):
    plan = one.plan(batch)
    n = one.model.grid.size
    rows = []
    for visible, decode in zip(np.asarray(plan.visible), np.asarray(plan.decode), strict=True):
        hidden = np.setdiff1d(np.arange(n), visible)
        rows.append((visible, np.setdiff1d(hidden, decode), np.intersect1d(hidden, decode)))
    return [np.stack(part) for part in zip(*rows, strict=True)]


def test_hidden_and_undecoded_pixels_change_nothing(params):
    one, batch = make(), batch_of()
    _, unused, _ = regions(one, batch)
    grad = jax.jit(jax.value_and_grad(lambda p, b: loss(one, p, b)))
    before, after = grad(params, batch), grad(params, changed(batch, one, unused))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)


def test_visible_pixels_change_predictions_but_no_target_that_counts(params):
    one, batch = make(), batch_of()
    visible, _, supervised = regions(one, batch)
    other = changed(batch, one, visible)
    plan = one.plan(batch)
    for way in (batch, other):
        np.testing.assert_array_equal(one.plan(way).visible, plan.visible)
    target = one.objectives["pixels"].target
    a, b = (np.asarray(target(x, plan.decode, one.model.patch)) for x in (batch, other))
    counted = np.asarray(plan.weight) > 0
    np.testing.assert_array_equal(a[counted], b[counted])
    assert loss(one, params, batch) != loss(one, params, other)
    third = changed(batch, one, supervised)
    assert loss(one, params, batch) != loss(one, params, third)


def test_no_decoder_mask_is_videomae_v1(params):
    one = make(decoder=False)
    plan = one.plan(batch_of())
    assert plan.decode.shape[1] + plan.visible.shape[1] == one.model.grid.size
    np.testing.assert_array_equal(plan.weight, 1)
    assert np.isfinite(loss(one, params, batch_of()))


def test_padding_rows_count_for_nothing(params):
    one, batch = make(), batch_of(4)
    half = {**batch, "valid": jnp.asarray([True, True, False, False])}
    whole = loss(one, params, {k: v[:2] for k, v in batch.items()})
    np.testing.assert_allclose(loss(one, params, half), whole, rtol=1e-6)


def test_predicting_zero_costs_one(params):
    """The scale that loss curves are read by: normalised targets have a mean square of nearly 1."""
    one, batch = make(), batch_of()
    plan = one.plan(batch)
    target = one.objectives["pixels"].target(batch, plan.decode, one.model.patch)
    assert float(jnp.square(target).mean()) == pytest.approx(1.0, abs=0.02)


def test_normalised_targets_have_mean_zero_and_deviation_one_per_channel():
    batch = batch_of()
    one = make()
    index = jnp.broadcast_to(jnp.arange(32), (2, 32))
    target = one.objectives["pixels"].target(batch, index, one.model.patch)
    mean, deviation = pixels().statistics(target, 3)
    np.testing.assert_allclose(mean, 0, atol=1e-5)
    np.testing.assert_allclose(deviation, 1, atol=1e-3)
    raw = pixels(normalize=False)(batch, index, one.model.patch)
    assert float(raw.min()) >= 0
    assert float(raw.max()) <= 1


def test_a_flat_cube_gives_a_zero_target_not_nan():
    batch = {**batch_of(), "video": jnp.full((2, 4, 32, 32, 3), 7, jnp.uint8)}
    target = pixels()(batch, jnp.zeros((2, 1), jnp.int32), make().model.patch)
    np.testing.assert_allclose(target, 0, atol=0.1)
    assert np.isfinite(target).all()


def test_penalties():
    a, b = jnp.asarray([0.0, 2.0]), jnp.asarray([0.5, 0.0])
    np.testing.assert_allclose(l1()(a, b), [0.5, 2.0])
    np.testing.assert_allclose(smooth_l1(1.0)(a, b), [0.125, 1.5])


def test_two_objectives_have_a_head_and_a_term_each():
    one = masked.Masked(
        vit("micro", frames=4, resolution=32, decoder_depth=1, dtype="float32"),
        tube(0.75),
        None,
        {"pixels": objective(pixels()), "raw": objective(pixels(normalize=False), weight=0.5)},
    )
    params = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch_of())[0])
    assert {"head_pixels", "head_raw"} <= set(params["decoder"])
    terms = one.loss(params, batch_of(), CONTEXT).terms
    assert {name: float(term.weight) for name, term in terms.items()} == {"pixels": 1.0, "raw": 0.5}


def test_features(params):
    method = masked.build(make().model, tube(0.75), {"pixels": objective(pixels())})
    tokens = method.features(params, batch_of(), pool=False)
    assert tokens.shape == (2, 32, 32)
    np.testing.assert_allclose(method.features(params, batch_of()), tokens.mean(1), rtol=1e-5, atol=1e-6)
    first = method.features(params, batch_of(), layer=1, pool=False)
    assert first.shape == (2, 32, 32)
    assert not np.allclose(first, tokens)


def test_reconstruction_shows_truth_where_seen_and_borrows_only_where_it_states(params):
    one, batch = make(), batch_of()
    pictures = jax.jit(one.reconstruct)(params, batch, CONTEXT)  # compiled, as everywhere: the order must survive
    names = list(pictures.rows)
    assert names[:2] == ["original", "masked"]
    assert pictures.borrowed == (names[2],)
    assert "true" in names[2]
    assert "visible" in names[3]
    np.testing.assert_array_equal(pictures.rows["original"], batch["video"])
    visible, *_ = regions(one, batch)
    keep = np.asarray(changed({**batch, "video": jnp.zeros_like(batch["video"])}, one, visible)["video"]) > 0
    for row in pictures.rows.values():
        np.testing.assert_array_equal(np.asarray(row)[keep], np.asarray(batch["video"])[keep])


def test_the_honest_row_uses_nothing_of_the_hidden_truth(params):
    """Changing hidden pixels changes the borrowing row, and not the other."""
    one, batch = make(), batch_of()
    _, unused, supervised = regions(one, batch)
    before = one.reconstruct(params, batch, CONTEXT)
    other = changed(batch, one, np.concatenate([unused, supervised], axis=1))
    after = one.reconstruct(params, other, CONTEXT)
    borrowing, honest = list(before.rows)[2:]
    np.testing.assert_array_equal(before.rows[honest], after.rows[honest])
    assert (np.asarray(before.rows[borrowing]) != np.asarray(after.rows[borrowing])).any()


def test_mistakes():
    model = vit("micro", frames=4, resolution=24)
    with pytest.raises(ValueError, match="even number of tokens"):
        masked.build(model, tube(0.5), {"pixels": objective(pixels())}, running_cell(0.5))
    with pytest.raises(ValueError, match="objectives is empty"):
        masked.build(model, tube(0.5), {})
    one = make()
    with pytest.raises(ValueError, match="the model takes clips of 4x32x32x3"):
        one.init(jax.random.key(0), {**batch_of(), "video": jnp.zeros((2, 4, 16, 16, 3), jnp.uint8)})


def brightness(weight=1.0):
    """A guide: a frozen network that gives every token its mean brightness, times a parameter."""

    def annotate(params, batch):
        tokens = patchify(jnp.asarray(batch["video"], jnp.float32), vit("micro").patch).mean(-1)
        return {"brightness": params["weight"] * tokens}

    return Guide(init=lambda key, batch: {"weight": jnp.float32(weight)}, annotate=annotate)


def guided():
    """Only the darkest tokens are seen, and the guide's annotation is a target as well."""
    dark = Masker(keep=lambda grid: 8, score=lambda keys, batch, grid: -batch["brightness"])

    def target(batch, decode, patch):
        return jnp.take_along_axis(batch["brightness"], decode, axis=1)[..., None]

    model = vit("micro", frames=4, resolution=32, decoder_depth=1, dtype="float32")
    objectives = {"pixels": objective(pixels()), "brightness": objective(target)}
    return masked.Masked(model, dark, None, objectives, {"light": brightness()})


def test_a_guide_annotates_before_masks_and_targets_and_is_not_trained():
    one, batch = guided(), batch_of()
    frozen = one.frozen(jax.random.key(1), batch)
    params = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch)[0])  # which needs no annotation, only its shapes
    assert params["decoder"]["head_brightness"]["kernel"].shape[-1] == 1
    context = CONTEXT.replace(frozen=frozen)
    done = one.forward(params, batch, context)
    tokens = np.asarray(patchify(np.asarray(batch["video"], np.float32), one.model.patch)).mean(-1)
    np.testing.assert_array_equal(done.masks.visible, np.sort(np.argsort(tokens, axis=1)[:, :8], axis=1))

    def total(frozen):
        terms = one.loss(params, batch, CONTEXT.replace(frozen=frozen)).terms
        return sum(term.total for term in terms.values())

    gradient = jax.grad(total)(frozen)
    assert float(gradient["light"]["weight"]) == 0.0


def test_a_token_whose_target_is_not_known_has_no_error_and_counts_for_the_mean():
    """MME: trajectories that leave the picture, by the flow of a guide."""
    flow = np.zeros((2, 3, 32, 32, 2), np.float32)
    flow[0] = 100.0  # all points of the first clip leave at once
    guide = Guide(init=lambda key, batch: {}, annotate=lambda params, batch: {NEXT: jnp.asarray(flow)}, gives=(NEXT,))
    one = masked.Masked(make().model, tube(0.75), None, {"motion": objective(trajectory(1))}, {"flow": guide})
    batch = batch_of()
    weights = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch)[0])
    context = dataclasses.replace(CONTEXT, frozen={"flow": {}}, train=False)

    def total(params):
        done = one.forward(params, batch, context)
        return one.terms(done)["motion"].total, (one.terms(done)["motion"].count, done.predictions["motion"])

    (value, (count, predicted)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(weights)
    assert float(count) == 2 * 24
    np.testing.assert_allclose(value, jnp.square(predicted[1]).mean(axis=-1).sum(), rtol=1e-5)  # the target is 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert one.method().supervision == ()


def test_guides_are_frozen_networks_of_the_method():
    one = guided()
    method = masked.build(one.model, one.encoder_mask, one.objectives, guides=one.guides)
    frozen = method.frozen(jax.random.key(0), batch_of())
    assert frozen == {"light": {"weight": 1.0}}
    context = CONTEXT.replace(frozen=frozen, train=False)
    params = meta.unbox(jax.jit(method.init)(jax.random.key(0), batch_of())[0])
    assert list(method.reconstruct(params, batch_of(), context).rows)[:2] == ["original", "masked"]
    assert masked.build(one.model, tube(0.5), {"pixels": objective(pixels())}).frozen is None


def test_a_reconstruction_of_some_frames_shows_these(params):
    one = make(decoder=False)
    one = dataclasses.replace(one, objectives={"pixels": objective(pixels(joint=True, frames=2))})
    own = meta.unbox(jax.jit(one.init)(jax.random.key(0), batch_of())[0])
    pictures = one.reconstruct(own, batch_of(), CONTEXT)
    np.testing.assert_array_equal(pictures.rows["original"], batch_of()["video"][:, [0, 3]])
    assert {video.shape for video in pictures.rows.values()} == {(2, 2, 32, 32, 3)}
