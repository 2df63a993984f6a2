"""The same numbers as the official implementation: targets, predictions, losses, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.types import Context
from vmae_jax.weights.layouts import videomae

CONTEXT = Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))


def loss_of(method, batch):
    def loss(params):
        term = method.loss(params, batch, CONTEXT).terms["pixels"]
        return term.total / term.count

    return loss


def test_targets(pretrain):
    one = pretrain.masked()
    masks = one.plan(pretrain.batch())
    target = one.objectives["pixels"].target(pretrain.batch(), masks.decode, pretrain.model.patch)
    np.testing.assert_allclose(target, pretrain.numbers["target"], rtol=0, atol=1e-5)


def test_predictions_and_loss(pretrain):
    for suffix, decoder in (("", True), ("_no_decoder_mask", False)):
        one, method = pretrain.masked(decoder=decoder), pretrain.method(decoder=decoder)
        params, batch = pretrain.params(method), pretrain.batch()
        masks = one.plan(batch)
        encoded = jax.jit(functools.partial(one.encode, train=True))(params, batch, masks)
        prediction = jax.jit(one.decode)(params, batch, encoded, masks)["pixels"]
        np.testing.assert_allclose(prediction, pretrain.numbers[f"pred{suffix}"], rtol=0, atol=1e-5)
        loss = jax.jit(loss_of(method, batch))(params)
        np.testing.assert_allclose(loss, pretrain.numbers[f"loss{suffix}"], rtol=0, atol=1e-5)


def test_gradients(pretrain):
    method = pretrain.method()
    grads = jax.jit(jax.grad(loss_of(method, pretrain.batch())))(pretrain.params(method))
    grads = videomae.to_official(jax.device_get(grads), pretrain.facts)
    golden = {k.removeprefix("grad/"): v for k, v in pretrain.numbers.items() if k.startswith("grad/")}
    assert set(grads) == set(golden)
    for name, expected in golden.items():
        error = np.abs(grads[name] - expected).max()
        assert error <= 2e-5 * np.abs(expected).max(), f"{name}: {error}"


def test_pretraining_weights_go_there_and_back(pretrain):
    assert_round_trip(pretrain, pretrain.method())


def test_classifier_weights_go_there_and_back(finetune):
    assert_round_trip(finetune, finetune.classifier())


def assert_round_trip(golden, method):
    back = videomae.to_official(golden.params(method), golden.facts)
    assert set(back) == set(golden.state)
    for name, expected in golden.state.items():
        np.testing.assert_array_equal(back[name], expected)


def test_classifier(finetune):
    method = finetune.classifier()
    params, batch = finetune.params(method), finetune.batch()
    np.testing.assert_allclose(jax.jit(method.features)(params, batch), finetune.numbers["features"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(jax.jit(method.predict)(params, batch), finetune.numbers["logits"], rtol=0, atol=1e-5)
