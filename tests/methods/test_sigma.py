"""SIGMA: balanced assignments, the loss by hand, and which term trains what."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.methods import sigma
from vmae_jax.methods.sigma import Clustering, standardized
from vmae_jax.methods.sinkhorn import balance
from vmae_jax.models.positions import sincos_2d
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import Objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.trajectory import trajectory
from vmae_jax.types import Carried

OPTIONS = {"frames": 4, "resolution": 16, "patch": 4, "decoder_depth": 1, "dtype": "float32"}
MODEL = vit("micro", **OPTIONS)
IMAGE = vit("micro", **{**OPTIONS, "frames": 1, "tubelet": 1}, prefix=1, positions=sincos_2d())
SETTINGS = {"prototypes": 12, "epsilon": 0.05, "iterations": 10, "temperature": 0.1, "hard": True}
ONE = Clustering(
    model=MODEL,
    encoder_mask=tube(0.75),
    decoder_mask=running_cell(0.5),
    objectives={"target": Objective(pixels())},
    widths=(16, 8),
    teacher=None,
    **SETTINGS,
)
BATCH = batch_of(4, valid=np.array([True, False, True, True]))
CONTEXT = Carried().context(jax.random.key(0))


def rows_of(b=4, k=50, d=8, seed=0):
    """Directions of predictions and targets, some of them without weight."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(2, b, k, d)).astype(np.float32)
    found /= np.linalg.norm(found, axis=-1, keepdims=True)
    return {"predicted": found[0], "target": found[1], "weight": (random.random((b, k)) < 0.7).astype(np.float32)}


def prototypes_of(c=12, d=8):
    return {"prototypes": np.random.default_rng(5).normal(size=(c, d)).astype(np.float32)}


def transported(scores, epsilon, iterations=10):
    """The published loop over a matrix of tokens and prototypes, in float64."""
    q = np.exp(np.asarray(scores, np.float64) / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * len(q)
        q /= q.sum(axis=0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def scores_of(rows, of="target"):
    prototypes = prototypes_of()["prototypes"]
    prototypes = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    return rows[of] @ prototypes.T


@pytest.mark.parametrize("epsilon", [0.03, 0.05])
def test_assignments_are_those_of_the_published_loop(epsilon):
    rows = rows_of()
    scores, counted = scores_of(rows), rows["weight"] > 0
    found = np.asarray(jax.nn.softmax(balance(scores, rows["weight"], epsilon)))
    wanted = transported(scores[counted], epsilon)
    np.testing.assert_allclose(found[counted], wanted, atol=2e-4)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.03, 0.05])
def test_ten_iterations_balance_the_prototypes(epsilon):
    rows = rows_of(4, 500, 64)
    prototypes = np.random.default_rng(5).normal(size=(12, 64))
    scores = rows["target"] @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T
    found = np.asarray(jax.nn.softmax(balance(scores, np.ones((4, 500)), epsilon)))
    np.testing.assert_allclose(found.mean(axis=(0, 1)), 1 / 12, atol=1e-3)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


def test_hard_and_soft_limits_and_the_order_of_tokens():
    scores, weight = scores_of(rows_of()), np.ones((4, 50), np.float32)
    soft = np.asarray(jax.nn.softmax(balance(scores, weight, 50.0)))
    np.testing.assert_allclose(soft, 1 / 12, atol=3e-3)
    hard = np.asarray(jax.nn.softmax(balance(scores, weight, 0.002, 500)))
    assert np.median(hard.max(axis=-1)) > 0.99
    np.testing.assert_allclose(hard.mean(axis=(0, 1)), 1 / 12, atol=0.01)
    mixed = np.random.default_rng(1).permutation(200)
    turned = balance(scores.reshape(200, 12)[mixed].reshape(4, 50, 12), weight, 0.05)
    straight = balance(scores, weight, 0.05).reshape(200, 12)[mixed].reshape(4, 50, 12)
    np.testing.assert_allclose(turned, straight, atol=1e-4)


@pytest.mark.parametrize("hard", [True, False])
def test_the_loss_by_hand_of_clusters(hard):
    rows, one = rows_of(), dataclasses.replace(ONE, hard=hard)
    loss = one.compare(prototypes_of(), rows, CONTEXT)
    counted = rows["weight"] > 0
    scores = {name: scores_of(rows, name)[counted] for name in ("target", "predicted")}
    assigned = {name: transported(one, 0.05) for name, one in scores.items()}
    if hard:
        assigned = {name: np.eye(12)[one.argmax(axis=1)] for name, one in assigned.items()}
    logs = {name: one / 0.1 - np.log(np.exp(one / 0.1).sum(axis=1, keepdims=True)) for name, one in scores.items()}
    for term, own, other in (("target", "target", "predicted"), ("prediction", "predicted", "target")):
        wanted = -(assigned[other] * logs[own]).sum(axis=1).mean()
        np.testing.assert_allclose(loss.terms[term].total / loss.terms[term].count, wanted, rtol=1e-4)
    same = (assigned["target"].argmax(axis=1) == assigned["predicted"].argmax(axis=1)).mean()
    np.testing.assert_allclose(loss.metrics["agreement"].total / loss.metrics["agreement"].count, same, rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["used"].total, len(set(assigned["predicted"].argmax(axis=1))) / 12)
    share = np.exp(logs["target"])
    entropy = -(share * logs["target"]).sum(axis=1).mean() / np.log(12)
    np.testing.assert_allclose(loss.metrics["entropy"].total / loss.metrics["entropy"].count, entropy, rtol=1e-4)
    np.testing.assert_allclose(
        loss.metrics["target_std"].total, rows["target"][counted].std(axis=0).mean() * 8**0.5, rtol=1e-4
    )


def test_prototypes_learn_from_the_targets_term_alone():
    rows = rows_of()

    def term(params, rows, name):
        loss = ONE.compare(params, rows, CONTEXT).terms[name]
        return loss.total / loss.count

    for name, moved, still in (("target", "target", "predicted"), ("prediction", "predicted", "target")):
        by_params, by_rows = jax.grad(term, argnums=(0, 1))(prototypes_of(), rows, name)
        assert (np.abs(by_params["prototypes"]).max() > 0) == (name == "target")
        assert np.abs(by_rows[moved]).max() > 0
        assert np.abs(by_rows[still]).max() == 0  # the assignment has no gradient


def test_unrelated_networks_begin_at_twice_the_logarithm_of_the_prototypes():
    one = dataclasses.replace(ONE, widths=(256,), prototypes=64)
    terms = one.compare(prototypes_of(64, 256), rows_of(8, 100, 256), CONTEXT).terms.values()
    assert sum(float(term.total / term.count) for term in terms) == pytest.approx(2 * np.log(64), rel=0.1)


@functools.cache
def parameters():
    return jax.jit(lambda: meta.unbox(ONE.init(jax.random.key(0), BATCH)[0]))()


def test_the_whole_method():
    """Rows are unit vectors; padding and tokens that the encoder saw have no weight; all towers are trained."""

    @jax.jit
    def run(params):
        def total(params):
            rows = ONE.loss(params, BATCH, CONTEXT).rows
            loss = ONE.compare(params, rows, CONTEXT)
            return sum(term.total / term.count for term in loss.terms.values()), rows

        return jax.value_and_grad(total, has_aux=True)(params)

    params = parameters()
    assert {name: params["projection"][name]["kernel"].shape for name in params["projection"]} == {
        "layer_0": (96, 16),
        "layer_1": (16, 8),
    }
    (_, rows), grads = run(params)
    for name in ("predicted", "target"):
        np.testing.assert_allclose(np.linalg.norm(rows[name], axis=-1), 1, rtol=1e-4)
    assert rows["weight"].shape == (4, 16)
    assert (np.asarray(rows["weight"]).sum(axis=1) > 0).tolist() == BATCH["valid"].tolist()
    for tower in ("encoder", "decoder", "projection", "prototypes"):
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads[tower])) > 0, tower


def test_a_teacher_takes_the_place_of_embeddings():
    one = dataclasses.replace(ONE, teacher=IMAGE, objectives={})
    params = jax.eval_shape(lambda: one.init(jax.random.key(0), BATCH)[0])
    assert set(params) == {"encoder", "decoder", "prototypes"}
    frozen = jax.jit(lambda: meta.unbox(one.frozen(jax.random.key(1), BATCH)))()
    places = jnp.broadcast_to(jnp.arange(32), (4, 32))
    context = Carried(frozen=frozen).context(jax.random.key(0))
    found = np.asarray(jax.jit(lambda: one.embedded({}, BATCH, places, context))())
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=1, ddof=1), 1, atol=1e-3)
    with pytest.raises(ConfigError, match="needs its teacher"):
        one.embedded({}, BATCH, places, CONTEXT)


def test_channels_are_standardised_over_the_tokens_of_a_clip():
    tokens = np.random.default_rng(0).normal(3, 2, (2, 5, 3)).astype(np.float32)
    wanted = (tokens - tokens.mean(1, keepdims=True)) / (tokens.std(1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(standardized(jnp.asarray(tokens)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": IMAGE, "widths": [8]}, "a teacher takes its place"),
        ({"teacher": vit("micro", **{**OPTIONS, "frames": 8})}, "the same clips as the same tokens"),
        ({"prototypes": 1}, "prototypes=1"),
        ({"target": trajectory()}, "not known at every token"),
        ({"epsilon": 0.0}, r"epsilon=0\.0"),
        ({"widths": []}, "at least one width"),
    ],
)
def test_mistakes_in_clusters(options, words):
    with pytest.raises(ValueError, match=words):
        sigma.build(MODEL, tube(0.75), **options)
