"""CDFSL-V: what student and teacher see, the two errors, the curriculum, and the moving teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.augment.colors import jitter
from vmae_jax.methods import cdfslv
from vmae_jax.methods.cdfslv import CrossDomain, curriculum
from vmae_jax.methods.classify import classifier
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.types import Context

CLASSES, CLIPS = 4, 4
LABELS = np.array([2, -1, 0, -1])  # of the source, the target, the source, the target
MODEL = vit("micro", frames=4, resolution=16, dtype="float32", unroll=0)
ONE = CrossDomain(classifier(MODEL, CLASSES, init_scale=1.0), None, 0.1, 0.05, 10.0, 0.05)
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False, progress=jnp.float32(0.5))


def pairs(**more):
    return batch_of(2 * CLIPS, label=np.repeat(LABELS, 2).astype(np.int32), **more)


def weights(seed):
    shapes = jax.eval_shape(lambda: meta.unbox(ONE.student.init(jax.random.key(0), pairs())[0]))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


STUDENT, TEACHER = weights(1), weights(2)


@jax.jit
def found(params, average, batch):
    """Terms and metrics, the gradient by both networks, and the logits of all clips by each of them."""
    context = dataclasses.replace(CONTEXT, average=average)

    def total(params, average):
        loss = ONE.loss(params, batch, dataclasses.replace(context, average=average))
        return sum(term.weight * term.total / jnp.maximum(term.count, 1) for term in loss.terms.values()), loss

    (_, loss), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, average)
    return loss, grads, [ONE.student.predict(one, batch) for one in (params, average)]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_both_errors_are_those_of_their_clips_and_views():
    loss, (_, by_teacher), (student, teacher) = found(STUDENT, TEACHER, pairs())
    student, teacher = (np.asarray(one, np.float64).reshape(CLIPS, 2, CLASSES) for one in (student, teacher))
    source, target = LABELS >= 0, LABELS < 0
    right = -np.log(softmax(student[source, 0])[np.arange(2), LABELS[source]])  # the weak view
    np.testing.assert_allclose(loss.terms["supervised"].total, right.sum(), rtol=1e-5)
    assert float(loss.terms["supervised"].count) == float(loss.terms["consistency"].count) == 2
    soft = softmax(teacher[target, 0] / 0.1)  # of the weak view; the student sees the strong one
    inconsistent = -(soft * np.log(softmax(student[target, 1]))).sum(-1)
    np.testing.assert_allclose(loss.terms["consistency"].total, inconsistent.sum(), rtol=1e-4)
    entropy = -(soft * np.log(np.maximum(soft, 1e-30))).sum()
    np.testing.assert_allclose(loss.metrics["teacher_entropy"].total, entropy, rtol=1e-3, atol=1e-5)
    assert inconsistent.sum() > entropy
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(by_teacher))
    agreed = (student[target, 1].argmax(-1) == teacher[target, 0].argmax(-1)).sum()
    assert float(loss.metrics["agreement"].total) == agreed
    assert float(loss.metrics["labelled"].total / loss.metrics["labelled"].count) == 0.5


def test_each_clip_reaches_its_own_error_alone():
    base = found(STUDENT, TEACHER, pairs())[0].terms
    for clip, view, reached in ((0, 0, "supervised"), (0, 1, None), (1, 0, "consistency"), (1, 1, "consistency")):
        batch = pairs()
        batch["video"] = batch["video"].copy()
        batch["video"][2 * clip + view] = 255 - batch["video"][2 * clip + view]
        terms = found(STUDENT, TEACHER, batch)[0].terms
        changed = [name for name in terms if abs(float(terms[name].total - base[name].total)) > 1e-4]
        assert changed == ([reached] if reached else []), (clip, view)
    left_out = found(STUDENT, TEACHER, pairs(valid=np.arange(2 * CLIPS) != 3))[0].terms  # a view of the second clip
    assert [float(left_out[name].count) for name in ("supervised", "consistency")] == [2, 1]


def test_a_batch_of_one_kind_has_one_error():
    for label in (0, -1):
        batch = pairs() | {"label": np.full(2 * CLIPS, label, np.int32)}
        loss, (grads, _), _ = found(STUDENT, TEACHER, batch)
        counts = [float(loss.terms[name].count) for name in ("supervised", "consistency")]
        assert counts == ([4, 0] if label == 0 else [0, 4])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_the_error_is_the_teachers_entropy_where_the_student_agrees():
    """Cross-entropy with the sharpened teacher is least for a student whose logits are the teacher's over 0.1."""
    sharp = {**TEACHER, "head": jax.tree.map(lambda leaf: leaf / 0.1, TEACHER["head"])}
    batch = pairs()
    batch["video"][1::2] = batch["video"][::2]
    loss = found(sharp, TEACHER, batch)[0]
    np.testing.assert_allclose(loss.terms["consistency"].total, loss.metrics["teacher_entropy"].total, rtol=1e-3)
    assert float(loss.metrics["agreement"].total) == 2


def test_the_curriculum():
    expected = {0.0: 0.0352, 0.05: 0.05, 1.0: 0.0966}
    for share, value in expected.items():
        assert float(curriculum(share, 0.05, 10.0, 0.05)) == pytest.approx(value, abs=1e-4)
    assert float(curriculum(0.3, 1.0, 0.0, 0.05)) == 1.0  # as the code has it
    assert float(ONE.weight(dataclasses.replace(CONTEXT, progress=jnp.float32(0.05)))) == pytest.approx(0.05)


def test_colours_change_in_training_alone_and_for_unlabelled_clips():
    one = dataclasses.replace(ONE, strong=jitter(probability=1.0, grey=0.0))
    batch = pairs()
    split = {name: jnp.asarray(one).reshape(CLIPS, 2, *one.shape[1:]) for name, one in batch.items()}
    views = [{name: one[:, view] for name, one in split.items()} for view in (0, 1)]
    known = jnp.asarray(LABELS >= 0)
    still, plain, changed = (
        np.asarray(of.seen(views[0]["video"], views[1], known, train=train))
        for of, train in ((one, False), (ONE, True), (one, True))
    )
    np.testing.assert_array_equal(still, plain)
    np.testing.assert_allclose(changed[::2], plain[::2], atol=1e-6)
    assert (np.abs(changed - plain)[1::2].max(axis=(1, 2)) > 0.1).all()


def test_labels_are_checked():
    method = cdfslv.build(MODEL, CLASSES)
    assert (method.views, method.group, method.averaged, method.supervision) == (2, 2, True, ("label",))
    method.check(pairs())
    with pytest.raises(ConfigError, match="there are 4 classes, 0 to 3"):
        method.check(pairs() | {"label": np.full(2 * CLIPS, 4)})
    with pytest.raises(ConfigError, match="has label -2"):
        method.check(pairs() | {"label": np.full(2 * CLIPS, -2)})
    with pytest.raises(ConfigError, match=r"set data\.labels=True"):
        method.check({name: one for name, one in pairs().items() if name != "label"})
    with pytest.raises(ConfigError, match="needs its teacher"):
        method.loss(STUDENT, pairs(), CONTEXT)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"target_weight": -1.0}, {"turn": 2.0}, {"slope": float("inf")}]
)
def test_mistakes(options):
    with pytest.raises(ValueError, match="finite numbers, above 0"):
        cdfslv.build(MODEL, CLASSES, **options)
