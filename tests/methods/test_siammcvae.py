"""SiamMCVAE: its divergence, what each path reads, and what the latent variable and the intact frame change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.eval.restoration import psnr
from vmae_jax.masking.random import random
from vmae_jax.methods import siammcvae
from vmae_jax.methods.siamese import without_reference
from vmae_jax.methods.siammcvae import Variational
from vmae_jax.models import positions
from vmae_jax.models.variants import vit
from vmae_jax.models.variational import Gaussian, divergence
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

pytestmark = pytest.mark.slow

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
TRAIN = CONTEXT.replace(train=True)
TOKEN = {"prefix": 1, "decoder_prefix": "kept", "project_bias": True, "positions": positions.sincos_2d()}
MODEL = vit(
    "micro", frames=1, tubelet=1, resolution=32, decoder_depth=1, dtype="float32", initial="mae", unroll=0, **TOKEN
)
OBJECTIVES = {"pixels": objective(pixels(normalize=False))}
MASK = random(0.75, "visible")
ONE = Variational(MODEL, MASK, None, OBJECTIVES, latent=4)


def pairs(count=3, **more):
    video = np.random.default_rng(1).integers(0, 256, (2 * count, 1, 32, 32, 3)).astype(np.uint8)
    return batch_of(2 * count, video=video, **more)


def started(one=ONE):
    """Parameters, with some noise, so that nothing is zero by its initial value."""
    params = jax.eval_shape(lambda: meta.unbox(one.init(jax.random.key(0), pairs())[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[0] ** -0.5 if leaf.ndim == 2 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


@jax.jit
def forward(params, batch):
    return ONE.forward(params, batch, CONTEXT)


@jax.jit
def trained(params, batch, progress=1.0):
    """The loss in training, and the pass and the distributions that it is of."""
    context = TRAIN.replace(progress=progress)
    return ONE.loss(params, batch, context), ONE.restored(params, batch, context, infer=True)


def hidden_pixels(masks):
    """True at the pixels of hidden patches, [b 1 32 32 1]."""
    hidden = np.ones((len(masks.visible), 16), bool)
    np.put_along_axis(hidden, np.asarray(masks.visible), False, axis=1)
    return hidden.reshape(-1, 4, 4).repeat(8, 1).repeat(8, 2)[:, None, :, :, None]


def gaussian(seed, shape=(2, 3, 5)):
    rng = np.random.default_rng(seed)
    return Gaussian(jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape)))


def test_the_divergence_is_zero_of_equals_and_that_of_many_draws():
    q, p = gaussian(0), gaussian(1)
    np.testing.assert_array_equal(divergence(q, q), np.zeros((2, 3)))
    found = np.asarray(divergence(q, p))
    assert found.min() > 0
    draws = q.mean + np.exp(q.log_variance / 2) * np.random.default_rng(2).normal(size=(20_000, *q.mean.shape))

    def density(x, of):  # of each token, without the constant that both have
        return -0.5 * (of.log_variance + (x - of.mean) ** 2 * np.exp(-of.log_variance)).sum(-1)

    ratio = density(draws, q) - density(draws, p)
    error = ratio.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(ratio.mean(axis=0) - found) < 4 * error).all()
    assert (np.abs(ratio.mean(axis=0) - np.asarray(divergence(p, q))) > 4 * error).any()  # it is not symmetric


@pytest.mark.parametrize("fusion", ["concat", "attention"])
def test_hidden_pixels_are_read_in_training_alone(fusion):
    one = dataclasses.replace(ONE, fusion=fusion)
    params, batch = started(one), pairs()

    @jax.jit
    def found(video):
        given = {**batch, "video": video}
        done, (_, inferred) = one.forward(params, given, CONTEXT), one.restored(params, given, TRAIN, infer=True)
        return done.masks, done.predictions["pixels"], inferred.posterior.mean

    masks, prediction, posterior = found(batch["video"])
    hidden = hidden_pixels(masks)
    for view, changed, same in ((1, hidden, True), (1, ~hidden, False), (0, hidden | True, False)):
        video = batch["video"].copy()
        video[view::2] = np.where(changed, 255 - video[view::2], video[view::2])
        _, other, inferred = found(video)
        assert np.array_equal(other, prediction) == same
        assert not np.array_equal(inferred, posterior)


def test_tokens_meet_those_of_their_place_in_the_first_view():
    """Fusion by place: with no attention after it, a patch of the first view changes the prediction of one place."""
    params, batch = started(), pairs()
    blocks = params["decoder"]["blocks"]
    for name in ("attention", "mlp"):
        last = "proj" if name == "attention" else "fc2"
        blocks[name][last] = jax.tree.map(jnp.zeros_like, blocks[name][last])
    for name in ("attention", "mlp"):  # nor in the encoder, whose tokens would mix
        last = "proj" if name == "attention" else "fc2"
        params["encoder"]["blocks"][name][last] = jax.tree.map(jnp.zeros_like, params["encoder"]["blocks"][name][last])
    done = forward(params, batch)
    place = int(done.masks.decode[0, 5])
    video = batch["video"].copy()
    y, x = 8 * (place // 4), 8 * (place % 4)
    video[0, :, y : y + 8, x : x + 8] = 255 - video[0, :, y : y + 8, x : x + 8]
    found = forward(params, {**batch, "video": video}).predictions["pixels"]
    moved = np.abs(found - done.predictions["pixels"]).max(axis=-1) > 1e-6
    assert np.argwhere(moved).tolist() == [[0, 5]]


@pytest.mark.slow
def test_one_encoder_has_the_gradients_of_both_views():
    batch = pairs()

    @dataclasses.dataclass(frozen=True)
    class Half(Variational):
        first: bool = True

        def encode(self, params, batch, masks, *, train):
            tokens = super().encode(params, batch, masks, train=train)
            whole = masks.visible.shape[1] == self.model.grid.size
            return tokens if whole == self.first else jax.lax.stop_gradient(tokens)

    def gradient(one):
        params = started(one)
        assert set(params) == {"encoder", "decoder"}
        loss = lambda p: one.terms(one.forward(p, batch, CONTEXT))["pixels"].total  # noqa: E731
        return jax.jit(jax.grad(loss))(params)["encoder"]

    of = {"latent": 4}
    halves = [Half(MODEL, MASK, None, OBJECTIVES, **of), Half(MODEL, MASK, None, OBJECTIVES, **of, first=False)]
    for a, b, c in zip(*(jax.tree.leaves(gradient(one)) for one in (ONE, *halves)), strict=True):
        assert min(np.abs(b).max(), np.abs(c).max()) > 0
        np.testing.assert_allclose(a, b + c, rtol=0, atol=1e-5 * np.abs(a).max())


def test_without_divergence_weight_and_latent_it_is_a_deterministic_autoencoder():
    """No weight on the divergence and no effect of the latent variable: values and gradients of the plain network."""
    one = dataclasses.replace(ONE, weight=0.0)
    params, batch = started(one), pairs()
    params["decoder"]["latent_embed"] = jax.tree.map(jnp.zeros_like, params["decoder"]["latent_embed"])

    def whole(p):
        loss = one.loss(p, batch, TRAIN)
        return sum(term.weight * term.total for term in loss.terms.values())

    plain = lambda p: one.terms(one.forward(p, batch, CONTEXT))["pixels"].total  # noqa: E731
    (a, grad_a), (b, grad_b) = (jax.jit(jax.value_and_grad(loss))(params) for loss in (whole, plain))
    assert float(a) == pytest.approx(float(b), rel=1e-6)
    grad_a["decoder"].pop("latent_embed"), grad_b["decoder"].pop("latent_embed")
    for x, y in zip(jax.tree.leaves(grad_a), jax.tree.leaves(grad_b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * max(np.abs(y).max(), 1e-3))


def test_a_posterior_equal_to_the_prior_costs_nothing_and_predicts_as_it():
    """The posterior's weights on the full view are zero and the rest are the prior's, with the least deviation."""
    params, batch = started(), pairs()
    decoder = params["decoder"]
    prior = decoder["prior_head"]
    narrow = {"kernel": prior["kernel"].at[:, 4:].set(0), "bias": prior["bias"].at[4:].set(-50.0)}
    whole = jnp.concatenate([narrow["kernel"], jnp.zeros_like(narrow["kernel"])])
    decoder |= {"prior_head": narrow, "posterior_head": {"kernel": whole, "bias": narrow["bias"]}}
    loss, (drawn, _) = trained(params, batch)
    assert float(loss.metrics["kl"].total) == pytest.approx(0, abs=1e-4)
    assert float(loss.terms["divergence"].total / loss.terms["divergence"].count) == pytest.approx(0.1)
    mean = forward(params, batch)
    difference = np.abs(drawn.predictions["pixels"] - mean.predictions["pixels"]).max()
    assert 0 < difference < 0.05  # a deviation of exp(-5)


def test_the_weight_of_the_divergence_grows_and_small_divergences_have_no_gradient():
    params, batch = started(), pairs()
    weights = [float(trained(params, batch, progress)[0].terms["divergence"].weight) for progress in (0, 0.05, 0.1, 1)]
    assert weights == pytest.approx([0, 5e-4, 1e-3, 1e-3])

    @jax.jit
    def gradient(free):
        one = dataclasses.replace(ONE, free_nats=free)
        grads = jax.grad(lambda p: one.loss(p, batch, TRAIN).terms["divergence"].total)(params)
        return jnp.max(jnp.array([jnp.abs(leaf).max() for leaf in jax.tree.leaves(grads)]))

    assert gradient(0.1) > 0
    assert gradient(1e4) == 0


def test_samples_differ_where_pixels_are_hidden_alone():
    params, batch = started(), pairs()
    drawn = lambda mask: jax.jit(lambda batch: ONE.reconstruct(params, batch, CONTEXT, mask=mask))(batch)  # noqa: E731
    pictures = drawn(None)
    assert list(pictures.rows) == ["original", "reference", "masked", "reconstructed", "sampled"]
    hidden = hidden_pixels(forward(params, batch).masks)
    original, reconstructed, sampled = (pictures.rows[n] for n in ("original", "reconstructed", "sampled"))
    np.testing.assert_array_equal(original, batch["video"][1::2])
    changed = np.asarray(sampled != reconstructed)
    assert changed[np.broadcast_to(hidden, changed.shape)].mean() > 0.3
    for rows in (reconstructed, sampled):
        assert np.where(hidden, 0, np.asarray(rows != original)).max() == 0
    other = drawn(random(0.5, "visible"))
    assert np.mean(other.rows["masked"] == other.rows["original"]) > 0.45


def test_rows_that_fill_up_do_not_count():
    params, batch = started(), pairs()
    batch["video"][2:4] = batch["video"][:2]
    batch["seed"][2:4] = batch["seed"][:2]
    some, _ = trained(params, {**batch, "valid": np.array([True, True, False, False, True, True])})
    others, _ = trained(params, {**batch, "valid": np.array([False, False, True, True, True, True])})
    for name, term in others.terms.items():
        assert float(some.terms[name].total) == pytest.approx(float(term.total), rel=1e-5)
        assert float(some.terms[name].count) == float(term.count) == 2 * {"pixels": 12, "divergence": 16}[name]
    assert float(some.terms["pixels"].total) < float(trained(params, batch)[0].terms["pixels"].total)


def test_a_fixed_prior_is_the_standard_normal_distribution():
    one = dataclasses.replace(ONE, prior="normal")
    params = started(one)
    assert "prior_head" not in params["decoder"]
    _, found = jax.jit(lambda p: one.restored(p, pairs(), CONTEXT, infer=True))(params)
    q = found.posterior
    expected = 0.5 * (jnp.exp(q.log_variance) + q.mean**2 - 1 - q.log_variance).sum(-1)
    np.testing.assert_allclose(divergence(q, found.prior), expected, rtol=1e-5)


@pytest.mark.slow
def test_a_trained_network_restores_what_the_other_frame_shows():
    """Both frames are equal and made of two patterns in random places, so only the first has what is hidden."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (2, 8, 8, 3))
    which = rng.integers(0, 2, (96, 4, 4))
    pictures = patterns[which].transpose(0, 1, 3, 2, 4, 5).reshape(96, 1, 32, 32, 3).astype(np.uint8)
    video = np.repeat(pictures, 2, axis=0)
    whole = batch_of(len(video), video=video)
    one = dataclasses.replace(ONE, latent=8)
    params, tx = meta.unbox(jax.jit(one.init)(jax.random.key(0), whole)[0]), optax.adam(3e-3)

    @jax.jit
    def step(params, state, batch):
        def total(p):
            return sum(term.weight * term.total / term.count for term in one.loss(p, batch, TRAIN).terms.values())

        updates, state = tx.update(jax.grad(total)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(150):
        chosen = rng.integers(0, 96, 16)
        rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).ravel()
        batch = {name: value[rows] for name, value in whole.items()}
        batch["seed"] = rng.integers(0, 2**32, (32, 2), dtype=np.uint32)
        params, state = step(params, state, batch)

    @jax.jit
    def quality(batch):
        rows = one.reconstruct(params, batch, CONTEXT).rows
        return psnr(rows["original"], rows["reconstructed"]).mean()

    assert float(quality(whole)) > float(quality(without_reference(whole))) + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": {}}, "objectives is empty"),
        ({"latent": 0}, "latent=0"),
        ({"weight": -1.0}, "weight=-1"),
        ({"free_nats": -0.1}, r"free_nats=-0\.1"),
        ({"warmup": 1.5}, r"warmup=1\.5"),
        ({"prior": "flat"}, "prior='flat': expected one of learned, normal"),
        ({"fusion": "sum"}, "fusion='sum': expected one of concat, attention"),
        ({"model": vit("micro", frames=1, tubelet=1, resolution=32, prefix=1)}, 'decoder_prefix="kept"'),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        siammcvae.build(**{"model": MODEL, "encoder_mask": MASK, "objectives": OBJECTIVES, **options})
