"""Distillation: the divergence by its definition, and a teacher that training never touches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import batch_of

from vmae_jax.methods import classify, distill, labels
from vmae_jax.models.pooling import attentive
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.train import optim, schedule, sharding
from vmae_jax.train.schedule import Clock
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step
from vmae_jax.types import Context

STUDENT = functools.partial(vit, "micro", frames=4, resolution=32, dtype="float32")


def clips(b=4, labelled=True):
    """The fourth clip only fills the batch up."""
    batch = batch_of(b, size=32, valid=np.arange(b) != 3)
    return batch if labelled else {name: part for name, part in batch.items() if name != "label"}


def method(**options):
    # The teacher is wider and cuts the clips into other cubes, as ViT-g does.
    return distill.build(STUDENT(), STUDENT(width=48, patch=16), classes=5, init_scale=1.0, **options)


def begin(one, batch):
    params = jax.jit(lambda k: sharding.unbox(one.init(k, batch)[0]))(jax.random.key(0))
    return params, jax.jit(lambda k: sharding.unbox(one.frozen(k, batch)))(jax.random.key(1))


@pytest.mark.slow
def test_the_divergence_is_that_of_the_two_classifiers():
    one, batch = method(temperature=2.0, feature_weight=0.5), clips(labelled=False)
    params, frozen = begin(one, batch)
    assert params["match"]["kernel"].shape == (32, 48)
    frozen["teacher"]["head"]["kernel"] *= 1000  # a teacher with opinions
    context = Context(key=jax.random.key(0), step=jnp.int32(0), frozen=frozen, train=False)
    loss = jax.jit(one.loss)(params, batch, context)
    teacher = classify.build(STUDENT(width=48, patch=16), classes=5)
    p = jax.nn.softmax(jax.jit(teacher.predict)(frozen["teacher"], batch) / 2)
    log_q = jax.nn.log_softmax(jax.jit(one.predict)(params, batch) / 2)
    same = np.asarray(p.argmax(1) == log_q.argmax(1))[:3].sum()
    assert float(loss.metrics["agreement"].total) == same
    expected = 4 * (p * (jnp.log(p) - log_q)).sum(1)[:3].sum()  # the fourth row is not valid
    np.testing.assert_allclose(loss.terms["kl"].total, expected, rtol=1e-4)
    assert float(loss.terms["kl"].count) == 3
    assert set(loss.terms) == {"kl", "features"}
    theirs = jax.jit(teacher.features)(frozen["teacher"], batch)
    mine = jax.jit(one.features)(params, batch) @ params["match"]["kernel"] + params["match"]["bias"]
    np.testing.assert_allclose(loss.terms["features"].total, jnp.square(mine - theirs).mean(1)[:3].sum(), rtol=1e-4)


def test_training_changes_the_student_and_not_one_bit_of_the_teacher():
    one, batch = method(label_weight=0.5), clips()
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    spec = jax.eval_shape(lambda: batch)
    abstract = sharding.abstract(lambda key, b: one.init(key, b)[0], spec)
    tx, _ = optim.adamw(schedule.constant(1e-2)).build(abstract, Clock(10, 1.0, 4))
    state, placement = sharding.create(make_init(one, tx, frozen=one.frozen), jax.random.key(0), spec, mesh)
    before = jax.device_get((state.params, state.frozen))
    step = compile_step(make_step(one, tx), placement, mesh, spec)
    losses = []
    for _ in range(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    after = jax.device_get((state.params, state.frozen))
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before[0]), jax.tree.leaves(after[0]), strict=True)]
    assert min(moved) > 0
    assert losses[-1] < losses[0]
    assert {"loss/kl", "loss/cross_entropy"} <= set(metrics)
    assert not any("teacher" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state))


def test_every_kind_of_head_learns_from_the_teachers_behind_pools_and_needs_no_label():
    heads = {"verb": labels.one(3, label="verb"), "tags": labels.many(2, weight=0.5), "score": labels.numbers(1)}
    options = {"heads": heads, "pool": attentive(2), "teacher_pool": attentive(2), "temperature": 2.0, "weight": 3.0}
    one = distill.build(STUDENT(), STUDENT(width=48), init_scale=1.0, **options)
    assert one.check is None
    assert one.heads == heads
    batch = clips(labelled=False)
    params, frozen = begin(one, batch)
    assert "pooled" in params
    assert "pooled" in frozen["teacher"]
    teacher = classify.build(STUDENT(width=48), heads=heads, pool=attentive(2))
    theirs, mine = jax.jit(teacher.predict)(frozen["teacher"], batch), jax.jit(one.predict)(params, batch)
    context = Context(key=jax.random.key(0), step=jnp.int32(0), frozen=frozen, train=False)
    loss = jax.jit(one.loss)(params, batch, context)
    parts = {"verb_kl": ("verb", 0, 3), "tags_kl": ("tags", 3, 5), "score_teacher_square": ("score", 5, 6)}
    assert set(loss.terms) == set(parts)
    assert set(loss.metrics) == {"verb_agreement"}
    for name, (head, start, end) in parts.items():
        each = heads[head].divergence(mine[:, start:end], theirs[:, start:end], 2.0)[:3]
        np.testing.assert_allclose(loss.terms[name].total, each.sum(), rtol=1e-3, atol=1e-8)
        assert float(loss.terms[name].weight) == 3.0 * heads[head].weight


def test_rows_that_do_not_count_are_not_learned_from():
    """Such as one whose label is no class."""
    one, batch = method(feature_weight=0.5, label_weight=0.5), clips()
    batch["video"][3], batch["label"][3] = 0, 99
    params, frozen = begin(one, batch)

    def total(p, b):
        context = Context(key=jax.random.key(0), step=jnp.int32(0), frozen=frozen)
        return sum(term.total for term in one.loss(p, b, context).terms.values())

    grad = jax.jit(jax.grad(total))
    context = Context(key=jax.random.key(0), step=jnp.int32(0), frozen=frozen)
    agreement = one.loss(params, batch, context).metrics["agreement"]
    assert 0 <= float(agreement.total) <= float(agreement.count) == 3
    grads, expected = grad(params, batch), grad(params, {name: part[:3] for name, part in batch.items()})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-5), grads, expected)


def test_mistakes():
    one, batch = method(), clips()
    with pytest.raises(ConfigError, match="needs its teacher"):
        one.loss({}, batch, Context(key=jax.random.key(0), step=jnp.int32(0)))
    with pytest.raises(ValueError, match="same clips"):
        distill.build(STUDENT(), vit("micro", frames=8, resolution=32), classes=5)
    with pytest.raises(ValueError, match="temperature"):
        method(temperature=0.0)
    with pytest.raises(ValueError, match="smoothing changes labels, which are not used"):
        method(smoothing=0.1, label_weight=0.0)
    with pytest.raises(ValueError, match="either classes"):
        method(heads={"a": labels.one(3)})
