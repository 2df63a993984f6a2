"""LV-MAE: counts of hidden vectors for every length, semantic masks, and padding that nothing reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.methods import lvmae
from vmae_jax.methods.lvmae import LongVideo, select_padded, similarities
from vmae_jax.models.sequence import transformer
from vmae_jax.spec import ConfigError
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
TRAIN = CONTEXT.replace(train=True)
MODEL = transformer(width=16, depth=2, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2, dtype="float32")
ONE = LongVideo(MODEL, 0.4, None, 2, 0.5)
N, WIDTH = 10, 16


def sequences(lengths=(10, 7, 3, 1), width=WIDTH, seed=0):
    """Rows of these lengths, with zeros behind them."""
    mask = np.arange(N) < np.array(lengths)[:, None]
    vectors = np.random.default_rng(seed).normal(size=(len(lengths), N, width)).astype(np.float32)
    return batch_of(len(lengths), embeddings=np.where(mask[..., None], vectors, 0), embeddings_mask=mask)


def started(one=ONE, width=WIDTH):
    params = jax.eval_shape(lambda: meta.unbox(one.init(jax.random.key(0), sequences(width=width))[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


@jax.jit
def run(params, batch):
    """The loss in evaluation, what it is of, and features."""
    tokens = ONE.features(params, batch, pool=False)
    return (
        ONE.loss(params, batch, CONTEXT),
        ONE.forward(params, batch, train=False),
        tokens,
        ONE.features(params, batch),
    )


def chosen(index, valid):
    return [np.asarray(row)[np.asarray(there)].tolist() for row, there in zip(index, valid, strict=True)]


@pytest.mark.parametrize("ratio", [0.4, 0.5, 0.75])
def test_of_every_length_the_official_number_is_hidden(ratio):
    lengths = np.arange(65)
    scores = np.random.default_rng(0).normal(size=(65, 64)).astype(np.float32)
    plan = jax.jit(lambda s, n: select_padded(s, n, ratio))(scores, lengths)
    visible, hidden = chosen(plan.visible, plan.valid), chosen(plan.decode, plan.decode_valid)
    assert plan.visible.shape[1] + plan.decode.shape[1] == 64
    for length, seen, rest in zip(lengths.tolist(), visible, hidden, strict=True):
        assert len(rest) == length - int(length * (1 - ratio))
        assert sorted(seen + rest) == list(range(length))
        assert (seen, rest) == (sorted(seen), sorted(rest))
        if seen and rest:
            assert scores[length, seen].min() >= scores[length, rest].max()
    np.testing.assert_array_equal(plan.weight, plan.decode_valid)


def test_similarities_are_those_of_neighbours():
    vectors = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    found = np.asarray(similarities(jnp.asarray(vectors)))
    np.testing.assert_array_equal(found[:, 0], 0)
    for row in range(2):
        for place in range(1, 5):
            a, b = vectors[row, place - 1], vectors[row, place]
            assert found[row, place] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def semantic(keep, batch, ratio=0.5):
    one = LongVideo(MODEL, ratio, keep, 0, 0.0)
    plan = one.plan(batch, *one.vectors(batch))
    return chosen(plan.visible, plan.valid), chosen(plan.decode, plan.decode_valid)


def test_semantic_masks_are_complementary_and_ties_are_decided_by_the_place():
    batch = sequences((10, 8, 6, 4))
    (low, hidden_low), (high, hidden_high) = semantic("low", batch), semantic("high", batch)
    assert (low, high) == (hidden_high, hidden_low)  # half of different similarities
    scores = np.asarray(similarities(jnp.asarray(batch["embeddings"])))
    for row, seen in enumerate(low):
        assert scores[row, seen].max() <= scores[row, hidden_low[row]].min()
    constant = {**batch, "embeddings": np.broadcast_to(batch["embeddings"][:, :1], (4, N, WIDTH))}
    assert semantic("low", constant)[0] == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2], [0, 1]]  # 0 is less than 1
    assert semantic("high", constant)[0] == [[1, 2, 3, 4, 5], [1, 2, 3, 4], [1, 2, 3], [1, 2]]


def test_random_masks_follow_the_seed():
    batch = sequences((10, 10, 10))
    batch["seed"][1] = batch["seed"][0]
    plan = ONE.plan(batch, *ONE.vectors(batch))
    first, same, other = np.asarray(plan.visible).tolist()
    assert first == same != other


def test_padding_is_read_by_nothing():
    params, batch = started(), sequences()
    loss, (masks, predictions, _), tokens, pooled = run(params, batch)
    mask = batch["embeddings_mask"]
    changed = {**batch, "embeddings": np.where(mask[..., None], batch["embeddings"], 1e3)}
    other, (_, others, _), other_tokens, other_pooled = run(params, changed)
    for a, b in ((loss, other), (tokens, other_tokens), (pooled, other_pooled)):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    real = np.asarray(masks.decode_valid)
    np.testing.assert_array_equal(np.asarray(predictions)[real], np.asarray(others)[real])
    np.testing.assert_array_equal(np.asarray(tokens)[~mask], 0)
    np.testing.assert_allclose(pooled, np.asarray(tokens).sum(1) / mask.sum(1, keepdims=True), rtol=1e-5)


def test_a_longer_window_changes_nothing():
    """The same sequences with twice as much padding have the same tokens, and with the same mask the same loss."""
    one = LongVideo(MODEL, 0.4, "low", 0, 0.5)
    params, batch = started(), sequences()
    wide = {name: batch[name].repeat(1, 0) for name in batch}
    wide["embeddings"] = np.pad(batch["embeddings"], ((0, 0), (0, N), (0, 0)))
    wide["embeddings_mask"] = np.pad(batch["embeddings_mask"], ((0, 0), (0, N)))
    found = [jax.jit(lambda b: (one.loss(params, b, CONTEXT), one.features(params, b)))(b) for b in (batch, wide)]
    (loss, pooled), (other, others) = found
    np.testing.assert_allclose(pooled, others, rtol=0, atol=1e-5)
    for name, term in loss.terms.items():
        assert float(term.count) == float(other.terms[name].count)
        assert float(term.total) == pytest.approx(float(other.terms[name].total), rel=1e-4)


def test_the_loss_is_over_hidden_vectors_of_length_one():
    params, batch = started(), sequences()
    batch["valid"][1] = False
    loss, (masks, predictions, targets), _, _ = run(params, batch)
    real = np.asarray(masks.decode_valid) & batch["valid"][:, None]
    found, wanted = np.asarray(predictions)[real], np.asarray(targets)[real]
    assert len(found) == 4 + 2 + 1  # of 10, 3 and 1; the row of 7 does not count
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, rtol=1e-5)
    assert float(loss.terms["embeddings"].total) == pytest.approx(np.square(found - wanted).mean(1).sum(), rel=1e-4)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1)
    assert float(loss.terms["cosine"].total) == pytest.approx((1 - cosine).sum(), rel=1e-4)
    assert float(loss.terms["embeddings"].count) == float(loss.metrics["similarity"].count) == 7
    scaled = {**batch, "embeddings": 7 * batch["embeddings"]}  # only directions count
    assert float(run(params, scaled)[0].terms["embeddings"].total) == pytest.approx(
        float(loss.terms["embeddings"].total), rel=1e-4
    )


def test_a_hidden_vector_reaches_only_its_target():
    params, batch = started(), sequences((10, 10, 10, 10))
    _, (masks, predictions, targets), _, _ = run(params, batch)
    place = int(masks.decode[0, 1])
    other = {**batch, "embeddings": batch["embeddings"].copy()}
    other["embeddings"][0, place] *= np.linspace(-1, 1, WIDTH)
    _, (_, found, changed), _, _ = run(params, other)
    np.testing.assert_array_equal(found, predictions)
    assert np.argwhere(np.asarray(changed != targets).any(-1)).tolist() == [[0, 1]]


def test_sequences_are_cut_to_lengths_drawn_from_each_seed_in_training_alone():
    params, many = started(), sequences((10,) * 64)
    many["seed"] = np.random.default_rng(5).integers(0, 2**32, (64, 2)).astype(np.uint32)
    compiled = jax.jit(lambda train: ONE.forward(params, many, train=train)[0].decode_valid, static_argnums=0)
    hidden = lambda train: np.asarray(compiled(train)).sum(1)  # noqa: E731
    assert set(hidden(False).tolist()) == {4}
    assert set(hidden(True).tolist()) == {length - int(length * 0.6) for length in range(2, 11)}
    np.testing.assert_array_equal(hidden(True), hidden(True))
    uncut = dataclasses.replace(ONE, shortest=0)
    assert set(np.asarray(uncut.forward(params, many, train=True)[0].decode_valid).sum(1).tolist()) == {4}
    lvmae.build(MODEL, shortest=0)


def test_vectors_of_another_size_are_projected():
    assert "embed" not in started()["encoder"]
    params = started(width=7)
    assert params["encoder"]["embed"]["kernel"].shape == (7, 16)
    assert params["decoder"]["head_embeddings"]["kernel"].shape == (8, 7)
    assert jax.eval_shape(lambda p: ONE.features(p, sequences(width=7), layer=1), params).shape == (4, 16)


def test_a_first_batch_without_embeddings_is_refused():
    method = lvmae.build(MODEL)
    assert method.inputs == ("embeddings", "embeddings_mask")
    method.check_first(sequences((0, 0, 1)))
    with pytest.raises(ConfigError, match="none of the 3 videos of the first batch has embeddings"):
        method.check_first(sequences((0, 0, 0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lvmae.build(MODEL, ratio=1.0), "mask ratio"),
        (lambda: lvmae.build(MODEL, semantic_keep="most"), "semantic_keep='most': expected one of low, high"),
        (lambda: lvmae.build(MODEL, shortest=-1), "shortest=-1, cosine"),
        (lambda: lvmae.build(MODEL, cosine=-0.5), r"cosine=-0\.5"),
        (lambda: lvmae.build(MODEL, ratio=0.95).init(jax.random.key(0), sequences()), "of 10 embeddings 0 would be"),
        (lambda: transformer(width=10, heads=4), "a width of 10 does not divide into 4 heads"),
        (lambda: transformer(remat="some"), "unknown remat 'some'"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
