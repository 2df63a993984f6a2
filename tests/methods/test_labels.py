"""Heads: the losses against their definitions, several heads at once, labels that are none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.augment.erasing import random_erasing
from vmae_jax.augment.mixing import mixup_cutmix
from vmae_jax.methods import classify, labels
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.train.gradients import gradients
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))
QUIET = CONTEXT.replace(train=False)


@functools.cache
def model():
    return vit("micro", frames=4, resolution=16, dtype="float32")


def begin(method, batch):
    return meta.unbox(jax.jit(method.init)(jax.random.key(0), batch)[0])


def test_many_classes_at_once():
    several = (np.arange(20).reshape(4, 5) % 3 == 0).astype(np.float32)
    head = labels.many(5)
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    expected = -(several * np.log(p) + (1 - several) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(head.error(logits, head.target(jnp.asarray(several))), expected, rtol=1e-4)
    one = head.target(jnp.array([2]))
    np.testing.assert_array_equal(one, [[0, 0, 1, 0, 0]])


def test_numbers():
    head = labels.numbers(2)
    target = head.target(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(head.error(jnp.zeros((2, 2)), target), [2.5, 12.5])
    assert labels.numbers().target(jnp.array([3, 4])).shape == (2, 1)


def test_two_heads_are_two_losses_side_by_side():
    heads = {"verb": labels.one(3, label="verb"), "noun": labels.one(4, smoothing=0.1, label="noun", weight=0.5)}
    both = classify.build(model(), heads=heads, init_scale=1.0)
    batch = batch_of(verb=np.array([0, 1, 2, 0]), noun=np.array([3, 2, 1, 0]))
    params = begin(both, batch)
    logits = jax.jit(both.predict)(params, batch)
    assert logits.shape == (4, 7)
    loss = jax.jit(both.loss)(params, batch, QUIET)
    hard = -jax.nn.log_softmax(logits[:, :3])[jnp.arange(4), batch["verb"]]
    soft = optax_smooth(logits[:, 3:], batch["noun"], 0.1)
    np.testing.assert_allclose(loss.terms["verb_cross_entropy"].total, hard.sum(), rtol=1e-5)
    np.testing.assert_allclose(loss.terms["noun_cross_entropy"].total, soft.sum(), rtol=1e-5)
    assert float(loss.terms["noun_cross_entropy"].weight) == 0.5
    assert set(loss.metrics) == {"verb_top1", "noun_top1"}


def optax_smooth(logits, label, smoothing):
    import optax

    hot = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, hot)


def test_augmentation_is_only_for_training():
    mixed = classify.build(model(), classes=5, mix=mixup_cutmix(), erase=random_erasing(1.0), init_scale=1.0)
    plain = classify.build(model(), classes=5, init_scale=1.0)
    batch = batch_of()
    params = begin(plain, batch)
    total = lambda method, context: float(jax.jit(method.loss)(params, batch, context).terms["cross_entropy"].total)  # noqa: E731
    assert total(mixed, QUIET) == total(plain, QUIET)
    assert total(mixed, CONTEXT) != total(plain, CONTEXT)
    erased = classify.build(model(), classes=5, erase=random_erasing(1.0), init_scale=1.0)
    assert total(erased, CONTEXT) not in (total(plain, CONTEXT), total(mixed, CONTEXT))


def test_heads_of_the_same_labels_read_them_once():
    heads = {name: labels.one(3, label=label) for name, label in (("a", "verb"), ("b", "noun"), ("c", "verb"))}
    assert labels.streams(heads) == ("verb", "noun")


@pytest.mark.slow
def test_mixing_within_groups_is_the_same_in_micro_batches():
    method = classify.build(model(), classes=5, mix=mixup_cutmix(group=2), init_scale=1.0)
    batch = batch_of(8)
    params = begin(method, batch)
    whole, parts = (gradients(method, params, batch, CONTEXT, accumulate) for accumulate in (1, 2))
    np.testing.assert_allclose(whole.loss, parts.loss, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(whole.grads), jax.tree.leaves(parts.grads), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(one).max()))


def test_divergences_are_zero_at_the_teacher_and_by_their_definitions():
    random = np.random.default_rng(0)
    mine, theirs = (jnp.asarray(random.normal(size=(3, 4)) * 2, jnp.float32) for _ in range(2))
    names = [head(4).distilled for head in (labels.one, labels.many, labels.numbers)]
    assert names == ["kl", "kl", "teacher_square"]
    for head in (labels.one(4), labels.many(4), labels.numbers(4)):
        assert float(jnp.abs(head.divergence(theirs, theirs, 3.0)).max()) < 1e-6
    p, q = (jax.nn.softmax(x / 2) for x in (theirs, mine))
    np.testing.assert_allclose(labels.one(4).divergence(mine, theirs, 2.0), 4 * (p * jnp.log(p / q)).sum(1), rtol=1e-4)
    p, q = (jax.nn.sigmoid(x / 2) for x in (theirs, mine))
    each = p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
    np.testing.assert_allclose(labels.many(4).divergence(mine, theirs, 2.0), 4 * each.mean(1), rtol=1e-4)
    np.testing.assert_allclose(labels.numbers(4).divergence(mine, theirs, 2.0), ((mine - theirs) ** 2).mean(1))


@pytest.mark.parametrize("kind", ["one", "many", "numbers"])
def test_rows_that_do_not_count_leave_loss_and_gradients_as_they_are_without_them(kind):
    """Whatever stands in them: a class that is none, NaN."""
    several = np.where(np.arange(4)[:, None] < 2, 0.5, np.nan).astype(np.float32) * np.ones(5, np.float32)
    result = np.array([1, 2, -1, 9], np.int32) if kind == "one" else several
    method = classify.build(model(), heads={"a": getattr(labels, kind)(5)}, init_scale=1.0)
    batch = batch_of(label=result, valid=np.array([True, True, False, False]))
    params = begin(method, batch)

    def mean(p, b):
        [term] = method.loss(p, b, CONTEXT).terms.values()
        return term.total / term.count

    step = jax.jit(jax.value_and_grad(mean))
    (loss, grads), (alone, expected) = step(params, batch), step(params, {k: v[:2] for k, v in batch.items()})
    np.testing.assert_allclose(loss, alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), grads, expected)


def test_rows_that_do_not_count_are_mixed_into_no_other():
    method = classify.build(model(), classes=5, mix=mixup_cutmix(cutmix=0.0), init_scale=1.0)
    batch = batch_of(valid=np.array([True, True, True, False]))
    garbage = {**batch, "label": np.array([0, 1, 2, 77], np.int32), "video": batch["video"].copy()}
    garbage["video"][3] = 255
    params = begin(method, batch)
    step = jax.jit(jax.grad(lambda p, b: method.loss(p, b, CONTEXT).terms["cross_entropy"].total))
    both = step(params, batch), step(params, garbage)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(both[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *both)


def test_the_normalisation_of_a_video_is_that_of_its_cubes():
    """Augmentations that change nothing leave the loss as it was: one normalisation, one order of cubes."""
    nothing = classify.build(
        model(), classes=5, mix=mixup_cutmix(probability=0.0), erase=random_erasing(0.0), init_scale=1.0
    )
    plain = classify.build(model(), classes=5, init_scale=1.0)
    batch = batch_of()
    params = begin(plain, batch)
    a, b = (jax.jit(method.loss)(params, batch, CONTEXT).terms["cross_entropy"].total for method in (nothing, plain))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_soft_labels_and_numbers_are_no_classes_to_be_checked():
    soft = batch_of(label=np.full((4, 5), 0.2, np.float32))
    classify.build(model(), classes=5).check(soft)
    score = batch_of(label=np.array([-1.5, 7.0, 100.0, 0.0], np.float32))
    classify.build(model(), heads={"a": labels.numbers(1)}).check(score)


def test_smoothed_labels_are_those_of_the_examples():
    """Rows that do not count are 0 whatever their label is."""
    method = classify.build(model(), heads={"a": labels.one(5, smoothing=0.1)})
    batch = batch_of(label=np.array([0, 1, 2, 9]), valid=np.array([True, True, True, False]))
    _, target = method.loss.__self__.examples(batch, train=False)
    np.testing.assert_allclose(target[:3], np.eye(5)[:3] * 0.9 + 0.02, rtol=1e-6)
    assert not np.asarray(target[3]).any()


def test_labels_that_are_no_class_are_reported_on_the_host_and_never_count_silently():
    method = classify.build(model(), classes=5)
    method.check(batch_of())
    with pytest.raises(ConfigError, match="video 3 of the data has label 7, but there are 5 classes"):
        method.check(batch_of(label=np.array([0, 1, 2, 7])))
    method.check(batch_of(label=np.array([0, 1, 2, 7]), valid=np.array([True, True, True, False])))
    with pytest.raises(ConfigError, match=r"no 'label'.*data\.labels=True"):
        method.check({key: value for key, value in batch_of().items() if key != "label"})
    assert np.isnan(np.asarray(labels.one(5).target(jnp.array([1, 5])))).tolist() == [[False] * 5, [True] * 5]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: classify.build(model()), "either classes"),
        (lambda: classify.build(model(), classes=3, heads={"a": labels.one(3)}), "either classes"),
        (
            lambda: classify.build(model(), heads={"a": labels.one(3)}, smoothing=0.1),
            "with heads=, set smoothing in each head",
        ),
        (lambda: labels.many(0), "at least 1"),
        (lambda: labels.one(3, weight=0.0), "weight"),
        (lambda: labels.many(3).target(jnp.zeros((2, 4))), "4 numbers an example, the head 3"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError, match=words):
        make()
