"""Classifiers of video and sound: one modality is an encoder and a head; a missing one counts for nothing; mixup."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from sounds import FORM, MODELS, SAMPLES, heard

from vmae_jax.augment.modalities import mixup
from vmae_jax.inputs.readers import sound, video
from vmae_jax.methods import labels, mbt
from vmae_jax.methods.branches import branch, read
from vmae_jax.models.classifier import everything
from vmae_jax.models.fusion import bottleneck
from vmae_jax.types import Context, row_keys

BRANCHES = {"video": branch(MODELS["video"], video()), "audio": branch(MODELS["audio"], sound(FORM))}
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)


def made(names=("video", "audio"), mix=None, pool="modalities", fuse=True):
    heads = {"": labels.one(5, 0.1)}
    own = {name: BRANCHES[name] for name in names}
    return mbt.Mbt(own, heads, bottleneck(1) if fuse and len(own) > 1 else None, pool, 0.0, mix)


BOTH = made()
BATCH = heard(label=np.array([0, 3, 1, 4]))


def started():
    params = meta.unbox(jax.eval_shape(lambda: BOTH.init(jax.random.key(0), BATCH)[0]))
    rng = np.random.default_rng(3)
    values = lambda leaf: rng.normal(0, leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2, leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(values(leaf), jnp.float32), params)


PARAMS = started()


@jax.jit
def run(params, batch):
    """Outputs of both modalities and of the video alone, and the loss with its gradients."""
    term = lambda params: BOTH.loss(params, batch, CONTEXT).terms["cross_entropy"]  # noqa: E731
    loss = lambda params: term(params).total / jnp.maximum(term(params).count, 1)  # noqa: E731
    alone = {name: made((name,)).predict(params, batch) for name in BRANCHES}
    return BOTH.predict(params, batch), alone, jax.value_and_grad(loss)(params), term(params).count


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def test_one_modality_is_its_encoder_a_norm_and_a_linear_layer():
    _, alone, _, _ = run(PARAMS, BATCH)
    inputs = read(BRANCHES, BATCH, train=False)
    for name, model in MODELS.items():
        weights = {"params": {**PARAMS[name], "norm": PARAMS["norm"]}}
        cubes = inputs[name].cubes
        tokens = model.encoder.apply(weights, cubes, everything(*cubes.shape[:2]))
        wanted = np.asarray(tokens).mean(axis=1) @ PARAMS["head"]["kernel"] + PARAMS["head"]["bias"]
        np.testing.assert_allclose(alone[name], wanted, rtol=1e-4, atol=1e-5)


def test_losses_of_modalities_are_averaged_as_their_outputs_are():
    inputs = read(BRANCHES, BATCH, train=False)
    found = BOTH.logits(PARAMS, BOTH.encode(PARAMS, inputs), inputs)
    outputs, _, (loss, _), count = run(PARAMS, BATCH)
    np.testing.assert_allclose(outputs, (found.of["video"] + found.of["audio"]) / 2, rtol=1e-4, atol=1e-5)
    goal = 0.9 * np.eye(5)[BATCH["label"]] + 0.1 / 5
    errors = [-(goal * np.log(softmax(np.asarray(one)))).sum(axis=1).mean() for one in found.of.values()]
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(count) == 4


def test_a_clip_without_sound_is_judged_by_what_is_seen():
    deaf = {**BATCH, "audio_valid": np.array([True, False, True, True])}
    other = {**deaf, "audio": np.where(np.arange(4)[:, None] == 1, 77, deaf["audio"]).astype(np.int16)}
    outputs, alone, learned, _ = run(PARAMS, deaf)
    again = run(PARAMS, other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), again[2], learned)
    np.testing.assert_allclose(again[0], outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(alone["audio"][1], PARAMS["head"]["bias"], rtol=1e-6)  # nothing to judge by
    assert np.abs(outputs[1] - run(PARAMS, BATCH)[0][1]).max() > 1e-3
    silence = run(PARAMS, {**BATCH, "audio_valid": np.zeros(4, bool)})
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(silence[2][1]["audio"]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(silence[2][1]))


def test_order_of_modalities_is_irrelevant_and_pools_differ():
    swapped, whole = made(("audio", "video")), made(pool="tokens")
    outputs = run(PARAMS, BATCH)[0]
    one, other, side = jax.jit(
        lambda b: (swapped.predict(PARAMS, b), whole.predict(PARAMS, b), BOTH.features(PARAMS, b))
    )({name: BATCH[name] for name in BOTH.method().inputs})  # no seeds: what an exported program is given
    np.testing.assert_allclose(one, outputs, rtol=1e-4, atol=1e-5)
    tokens = [MODELS[name].grid.size for name in BRANCHES]
    means = np.average(np.asarray(side).reshape(4, 2, -1), axis=1, weights=tokens)
    np.testing.assert_allclose(other, means @ PARAMS["head"]["kernel"] + PARAMS["head"]["bias"], rtol=1e-4, atol=1e-5)
    assert np.abs(other - outputs).max() > 1e-3


@pytest.mark.parametrize("separate", [False, True])
def test_mixup_of_modalities_is_numpys_and_leaves_out_what_is_not_there(separate):
    rng = np.random.default_rng(0)
    cubes = {name: jnp.asarray(rng.normal(size=(8, 3, 2)), jnp.float32) for name in BRANCHES}
    there = {"video": jnp.ones(8, bool), "audio": jnp.arange(8) != 1}
    valid, target = jnp.arange(8) != 7, jnp.eye(8)
    keys = row_keys(rng.integers(0, 99, (8, 2)).astype(np.uint32))
    mixed, targets, blended = mixup(0.5, separate, 4)(cubes, there, target, keys, valid)
    shares = {name: np.asarray(targets[name])[np.arange(8), np.arange(8)] for name in cubes}
    turned = np.array([3, 2, 1, 0, 7, 6, 5, 4])
    for name, share in shares.items():
        wide = share[:, None, None]
        wanted = wide * np.asarray(cubes[name]) + (1 - wide) * np.asarray(cubes[name])[turned]
        np.testing.assert_allclose(mixed[name], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(targets[name], np.diag(share) + np.diag(1 - share)[turned].T, rtol=1e-5, atol=1e-6)
        assert len(set(np.round(share[[0, 3]], 5))) == 1  # a group has one share
        assert share[0] != share[5]
        np.testing.assert_array_equal(blended[name], share < 1)
    assert (shares["video"] == shares["audio"]).all() == (not separate)
    alone = [4, 7]  # the last clip is padding
    lacking = [1, 2]  # the second has no sound
    assert np.flatnonzero(shares["audio"] == 1).tolist() == [*lacking, *alone]
    assert np.flatnonzero(shares["video"] == 1).tolist() == (alone if separate else [*lacking, *alone])


def test_mixed_clips_have_mixed_losses():
    mixing = made(mix=mixup(0.5, separate=True))
    batch = {**BATCH, "audio_span": np.array([[0, SAMPLES], [0, 8 * FORM.hop]] * 2, np.int32)}
    keys = row_keys(batch["seed"])
    inputs = read(BRANCHES, batch, train=False)
    cubes = {name: one.cubes for name, one in inputs.items()}
    target = labels.one(5, 0.1).target(jnp.asarray(batch["label"]))
    _, targets, _ = mixing.mix(cubes, {n: one.there for n, one in inputs.items()}, target, keys, jnp.ones(4, bool))
    loss = jax.jit(lambda p: mixing.loss(p, batch, CONTEXT.replace(train=True)))(PARAMS | {"head": zeros()})
    share = {name: np.asarray(one) for name, one in targets.items()}
    assert not np.allclose(share["video"], share["audio"])
    term = loss.terms["cross_entropy"]
    bias = np.log(softmax(np.arange(5.0)))
    wanted = np.mean([-(one @ bias) for one in share.values()])  # the outputs are the bias, whatever the clip
    assert float(term.total / term.count) == pytest.approx(wanted, rel=1e-4)


def zeros():
    return {"kernel": jnp.zeros_like(PARAMS["head"]["kernel"]), "bias": jnp.arange(5.0)}


def test_labels_of_several_classes_are_smoothed_as_scenic_does():
    head = labels.many(4, 0.3, smooth_to=1 / 4)
    np.testing.assert_allclose(head.target(jnp.asarray([[1.0, 0, 0, 1]])), [[0.775, 0.075, 0.075, 0.775]], rtol=1e-6)
    np.testing.assert_allclose(labels.many(4, 0.3).target(jnp.asarray([[1.0, 0, 0, 0]])), [[0.85, 0.15, 0.15, 0.15]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mbt.build({}, 5), "at least one entry"),
        (lambda: mbt.build({"norm": BRANCHES["video"]}, 5), "'norm' names parameters"),
        (lambda: mbt.build(BRANCHES), "either classes="),
        (lambda: mbt.build(BRANCHES, heads={"a": labels.one(3)}, smoothing=0.1), "set smoothing in each head"),
        (lambda: mbt.build(BRANCHES, 5, pool="max"), "pool='max': one of"),
        (lambda: mbt.build(BRANCHES, 5, pool="prefix"), "set prefix=1"),
        (lambda: mbt.build(BRANCHES, 5, pool="tokens", mix=mixup(separate=True)), "set separate=False"),
        (lambda: mbt.build(BRANCHES, 5, fuse=bottleneck(3)), "start=3"),
        (lambda: mixup(alpha=0), "alpha must be above 0"),
        (lambda: mixup(group=3), "group must be even"),
        (lambda: labels.many(4, smooth_to=2), "smooth_to must be"),
        (lambda: mixup(0.5, group=3 - 1).size(3), "augment.modalities.mixup to an even divisor"),
    ],
)
def test_what_a_classifier_of_modalities_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
