"""Contrast of whole clips: SimCLR of several views, MoCo with a queue and without, BYOL; their views and targets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of
from sounds import MODELS

from vmae_jax.augment.colors import jitter
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.inputs.readers import video
from vmae_jax.methods import joint
from vmae_jax.methods.parts.moco import moco
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.methods.parts.pull import pull
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.spec import ConfigError
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def identity(size, *names):
    """Heads of one layer that return their inputs."""
    return {name: {"layer_0": {"kernel": jnp.eye(size), "bias": jnp.zeros(size)}} for name in names}


def value(loss):
    (term,) = loss.terms.values()
    return float(term.total / term.count)


@pytest.mark.parametrize("views", [2, 3])
def test_simclr_is_numpys(views):
    x, valid = drawn(12, 5), np.arange(12) != 4
    cosines, group = unit(x) @ unit(x).T / 0.5, np.arange(12) // views
    wanted = []
    for row in range(12):
        wrong = np.exp(cosines[row, valid & (group != group[row])]).sum()
        partners = [other for other in range(12) if group[other] == group[row] and other != row]
        wanted += [
            np.log(wrong + np.exp(cosines[row, other])) - cosines[row, other]
            for other in partners
            if valid[row] and valid[other]
        ]
    part = nce("video", "video", temperature=0.5, views=views)
    found = part.compare({}, {"video": jnp.asarray(x), "": jnp.asarray(valid)}, None, CONTEXT)
    assert float(found.terms["nce"].count) == len(wanted)
    assert value(found) == pytest.approx(np.mean(wanted), rel=1e-5)


@pytest.mark.parametrize("views", [2, 3])
def test_moco_without_a_queue_is_numpys(views):
    """A query's candidates are the keys of one other view of every video."""
    online, target, valid = drawn(12, 5), drawn(12, 5, seed=1), np.arange(12) != 4
    part = moco("video", [5], [], temperature=0.2, views=views)
    rows = {"online": jnp.asarray(online), "target": jnp.asarray(target), "valid": jnp.asarray(valid)}
    heads = identity(5, "projector")
    found = part.compare(heads, rows, heads, CONTEXT)
    logits, errors, hits = unit(online) @ unit(target).T / 0.2, [], []
    for row in range(12):
        for shift in range(1, views):
            view = (row + shift) % views
            partner = row - row % views + view
            candidates = [other for other in range(12) if other % views == view and valid[other]]
            if valid[row] and valid[partner]:
                errors.append(np.log(np.exp(logits[row, candidates]).sum()) - logits[row, partner])
                hits.append(logits[row, candidates].max() == logits[row, partner])
    assert value(found) == pytest.approx(np.mean(errors), rel=1e-5)
    accuracy = found.metrics["accuracy"]
    assert float(accuracy.total / accuracy.count) == pytest.approx(np.mean(hits))


def test_moco_with_a_queue_compares_with_earlier_keys_and_replaces_the_oldest():
    part = moco("video", [5], [], temperature=0.2, queue=8)
    extra = part.begin(jax.random.key(0), {})
    np.testing.assert_allclose(np.linalg.norm(extra["keys"], axis=1), 1, rtol=1e-5)
    heads, online = identity(5, "projector"), drawn(6, 5)
    rows = {"online": jnp.asarray(online), "target": jnp.asarray(2 * online), "valid": jnp.arange(6) != 3}
    found = part.compare(heads, rows, heads, dataclasses.replace(CONTEXT, extra=extra))
    errors = []
    for row in (0, 1, 4, 5):
        logits = unit(online)[row] @ np.concatenate([unit(online)[[row ^ 1]], extra["keys"]]).T / 0.2
        errors.append(np.log(np.exp(logits).sum()) - logits[0])
    assert value(found) == pytest.approx(np.mean(errors), rel=1e-5)
    # Five keys a batch: the second fills the queue and goes on at its start.
    kept = [np.asarray(extra["keys"])]
    for _ in range(2):
        extra = part.advance(extra, found.carry)
        kept.append(np.asarray(extra["keys"]))
    real = unit(online)[[0, 1, 2, 4, 5]]
    np.testing.assert_allclose(kept[1], [*real, *kept[0][5:]], rtol=1e-5)
    np.testing.assert_allclose(kept[2], [*real[3:], *real[2:], *real[:3]], rtol=1e-5)
    assert int(extra["oldest"]) == 2
    with pytest.raises(ConfigError, match=r"queue=4 must be at least the 6 clips"):
        moco("video", [5], [], queue=4).compare(heads, rows, heads, CONTEXT)


def test_byol_predicts_every_other_view():
    online, target, valid = drawn(9, 4), drawn(9, 4, seed=1), np.arange(9) != 7
    heads = identity(4, "projector", "predictor")
    rows = {"online": jnp.asarray(online), "target": jnp.asarray(target), "valid": jnp.asarray(valid)}
    found = pull("video", [4], views=3).compare(heads, rows, heads, CONTEXT)
    cosines = unit(online) @ unit(target).T
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j and i // 3 == j // 3 and valid[i] and valid[j]]
    assert value(found) == pytest.approx(np.mean([2 - 2 * cosines[pair] for pair in pairs]), rel=1e-5)


def test_the_last_batch_norm_of_a_head():
    x = jnp.asarray(drawn(8, 5))
    head = Projector([6, 4], normed=True)
    params = head.init(jax.random.key(0), x, jnp.ones(8, bool))["params"]
    valid = jnp.arange(8) < 6
    found = np.asarray(head.apply({"params": params}, x, valid))[:6]
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-3)
    assert params["layer_1"].keys() == {"kernel"}


def method(**parts):
    """Clips without a mask, of changing colours."""
    read = video(jitter(probability=1.0, blur=0.5))
    return joint.build({"video": joint.modality(MODELS["video"], None, read)}, parts)


def clips(b):
    return batch_of(b)


def begun(one, batch):
    params, extra = jax.jit(lambda key: meta.unbox(one.init(key, batch)))(jax.random.key(0))
    return params, dataclasses.replace(CONTEXT, extra=extra, average=params)


@pytest.mark.parametrize(
    ("part", "candidates", "away"),
    [
        (nce("video", "video", temperature=1.0, widths=[32, 16]), 32 - 1, 0.2),
        (moco("video", [32, 16], [32, 16], temperature=1.0), 16, 0.2),
        (moco("video", [32, 16], [], temperature=1.0, queue=256), 257, 1.0),  # random keys: partners alone are similar
    ],
    ids=["simclr", "moco_v3", "moco"],
)
def test_the_contrast_is_near_chance_at_first(part, candidates, away):
    one, batch = method(part=part), clips(32)
    params, context = begun(one, batch)
    loss = jax.jit(lambda p: one.total_loss(p, batch, context))(params)
    assert value(loss) == pytest.approx(np.log(candidates), abs=away)


def test_targets_see_the_augmented_clips_and_evaluation_the_plain_ones():
    one, batch = method(pull=pull("video", [8, 4])), clips(4)
    params, context = begun(one, batch)

    def pooled(context):
        return one.loss(params, batch, context).rows["pull"]

    trained, measured = jax.jit(pooled)(context), jax.jit(pooled)(dataclasses.replace(context, train=False))
    np.testing.assert_allclose(trained["online"], trained["target"], atol=1e-6)
    np.testing.assert_allclose(measured["online"], measured["target"], atol=1e-6)
    assert np.abs(np.asarray(trained["online"] - measured["online"])).max() > 1e-3
    features = jax.jit(one.features)(params, batch)
    np.testing.assert_allclose(features, measured["online"], atol=1e-5)


def test_what_methods_of_views_need():
    one = method(byol=pull("video", [8, 4], views=4))
    assert (one.views, one.group, one.averaged, one.inputs, one.supervision) == (4, 4, True, ("video",), ())
    assert one.reconstruct is None
    queued = method(moco=moco("video", [8, 4], [], queue=16))
    _, context = begun(queued, clips(4))
    assert {name: leaf.shape for name, leaf in context.extra["moco"].items()} == {"keys": (16, 4), "oldest": ()}
    assert (queued.group, queued.global_loss is None) == (2, False)


def test_the_cost_of_a_step_with_a_queue_is_counted():
    """The backward pass of an encoder of two clips has twice its products; that of the average has none."""
    made = [load_config(f"configs/contrast.py:{name},S,smoke", []) for name in ("simclr", "moco")]
    simclr, queued = (experiment(config, trains=True).model_flops() for config in made)
    assert queued / simclr == pytest.approx(4 / 3, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: method(reconstruct=reconstruct()), "needs a mask and objectives"),
        (lambda: method(moco=moco("touch")), "no modality 'touch'"),
        (lambda: moco("video", [8], [16]), "its last width must be that of the keys, 8"),
        (lambda: moco("video", temperature=0), "temperature=0"),
        (lambda: pull("video", views=1), "views=1"),
        (lambda: nce("video", "video", views=1), "views=1"),
        (lambda: nce("video", "audio", views=4), "views=4: at least 2, of one modality"),
        (lambda: moco("video", queue=-1), "queue=-1"),
        (lambda: method(a=pull("video", [4]), b=nce("video", "video", views=3)), r"views are .'a': 2, 'b': 3.: give"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
